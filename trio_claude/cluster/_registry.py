"""The registry of names: it decides who has one. Plain asyncio, no Ray: it runs in an actor of Ray's.

It is one actor, so of two that come at the same moment one is first. It may die at any time. So a
name is granted only after the door of its holder was told, and a new registry asks all doors what they
hold before it answers anything. (What an old registry told a door in its last millisecond can be missed
by that; the claimant then asks again, and gets or doesn't get the name from the new one.)
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from abc import ABC, abstractmethod
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import attrs

from . import _doors
from ._doors import DoorLost
from ._table import News, Table

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Hashable

    from ._wire import Entry

_T = TypeVar("_T")

# How long a new registry waits for what the doors hold.
_REBUILDING_SECONDS = 5.0
# After the last door is gone, and before the registry is.
_ENDING_SECONDS = 1.0


class _Deciding:
    """A name that is being given or freed, and those who wait for that; all of one door."""

    def __init__(self, entry: Entry) -> None:
        self.entry = entry
        self.lock = asyncio.Lock()
        self.waiting = 0


class Registry(ABC):
    """Who holds which name. Every method may be called twice with the same effect as once."""

    def __init__(self) -> None:
        self._table = Table(uuid.uuid4().hex)
        self._changed = asyncio.Event()
        self._told = self._table.version
        self._watches: dict[str, asyncio.Task[None]] = {}
        self._deciding: dict[Hashable, _Deciding] = {}
        self._rebuilt: asyncio.Task[None] | None = None

    # ---- what it needs of Ray --------------------------------------------------------------------

    @abstractmethod
    async def _list_doors(self) -> list[str]:
        """The doors that there are.

        Raises:
          DoorLost: Ray can't tell now.
        """

    @abstractmethod
    async def _call(self, door: str, method: str, *args: Any) -> Any:
        """Call a door.

        Raises:
          DoorLost: it is gone, or its process is.
        """

    @abstractmethod
    def _forget(self, door: str) -> None:
        """It is not called any more."""

    @abstractmethod
    async def _end(self) -> None:
        """There is no door any more."""

    # ---- what processes call ---------------------------------------------------------------------

    async def begin(self) -> None:
        """It was just started, or was there already."""
        await self._rebuild()

    async def join(self, door: str) -> News:
        """A process is there; gives all names."""
        await self._rebuild()
        self._watch(door)
        return self._table.since(None)

    async def leave(self, door: str, life: int) -> None:
        """A process is about to go, unless Ray has started it anew by now."""
        await self._rebuild()
        if any(entry.life > life for entry in self._table.held_by(door).values()):
            return
        watch = self._watches.pop(door, None)
        if watch is not None:
            watch.cancel()
        self._lose(door)

    async def claim(self, name: Hashable, entry: Entry) -> Entry | None:
        """Take a name; gives None, or who has it."""
        await self._rebuild()
        self._watch(entry.door)
        holder = self._table.find(name)
        deciding = self._deciding.get(name)
        if holder is None and deciding is not None:
            holder = deciding.entry  # nobody has it yet; who came first is about to
        if holder is not None and holder.door != entry.door:
            # A registry that has died may just have told that door otherwise.
            await self._drop(name, entry)
            return holder
        async with self._decide(name, entry):
            try:
                await _until_reached(self._call, entry.door, "hold", name, entry)
            except DoorLost:
                return entry  # nobody is there to hear it
            if entry.door in self._watches:  # else it has been lost meanwhile
                holder = self._table.claim(name, entry)
                self._tell()
        if holder is not None and holder.door != entry.door:  # its door has just answered, late
            await self._drop(name, entry)
            return holder
        return None

    async def release(self, door: str, name: Hashable, life: int, serial: int) -> None:
        """Free a name, unless its door says something newer of it; behind its claim, if that is not
        decided yet."""
        await self._rebuild()
        deciding = self._deciding.get(name)
        holder = self._table.find(name) if deciding is None else deciding.entry
        if holder is None or holder.door != door:
            return
        async with self._decide(name, holder):
            await self._drop(name, attrs.evolve(holder, life=life, serial=serial))
            if self._table.release(door, name, life, serial):
                self._tell()

    @asynccontextmanager
    async def _decide(self, name: Hashable, entry: Entry) -> AsyncIterator[None]:
        """One claim or release of a name after the other."""
        deciding = self._deciding.setdefault(name, _Deciding(entry))
        deciding.waiting += 1
        try:
            async with deciding.lock:
                yield
        finally:
            deciding.waiting -= 1
            if not deciding.waiting:
                del self._deciding[name]

    async def update(self, door: str, entries: dict[Hashable, Entry]) -> None:
        """How the sessions stand that have these names."""
        await self._rebuild()
        for name, entry in entries.items():
            self._table.update(door, name, entry)
        self._tell()

    async def settle(self, door: str, life: int) -> None:
        """A process has started all that it starts; what it held in an earlier life is free."""
        await self._rebuild()
        held = self._table.held_by(door)
        freed = self._table.settle(door, life)
        self._tell()
        for name in freed:
            await self._drop(name, held[name])

    async def find(self, name: Hashable) -> Entry | None:
        """Who has the name."""
        await self._rebuild()
        return self._table.find(name)

    async def changes(self, version: tuple[str, int]) -> News:
        """What has changed since; waits until there is something."""
        await self._rebuild()
        while self._table.version == version:
            await self._changed.wait()
        return self._table.since(version)

    # ---- its own ---------------------------------------------------------------------------------

    def _tell(self) -> None:
        """Wake who waits for news, if there are any."""
        if self._table.version == self._told:
            return
        self._told = self._table.version
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def _rebuild(self) -> None:
        """Ask all doors what they hold, once in a life; whoever comes meanwhile waits for it."""
        if self._rebuilt is None:
            self._rebuilt = asyncio.create_task(self._ask_all_doors())
        await asyncio.shield(self._rebuilt)

    async def _ask_all_doors(self) -> None:
        doors = await _until_reached(self._list_doors)
        asked = [asyncio.create_task(self._ask_door(door)) for door in doors]
        # One that Ray is restarting answers when it is up, which may be never: it is watched, but not
        # waited for. It claims what it has when it sees that the registry is another.
        if asked:
            await asyncio.wait(asked, timeout=_REBUILDING_SECONDS)
        self._end_if_alone()

    async def _ask_door(self, door: str) -> None:
        self._watch(door)
        with contextlib.suppress(DoorLost):  # then the watch sees to it
            for name, entry in (await self._call(door, "held")).items():
                self._table.claim(name, entry)
            self._tell()

    def _watch(self, door: str) -> None:
        if door not in self._watches:
            self._watches[door] = asyncio.create_task(self._wait_for_its_end(door))

    async def _wait_for_its_end(self, door: str) -> None:
        while True:
            try:
                await self._call(door, "alive", "registry")
            except DoorLost as exc:
                if not exc.returns:
                    break
            self._table.suspend(door)
            self._tell()
            await asyncio.sleep(_doors.AGAIN_SECONDS)
        del self._watches[door]
        self._lose(door)

    def _lose(self, door: str) -> None:
        self._forget(door)
        self._table.lose(door)
        self._tell()
        self._end_if_alone()

    def _end_if_alone(self) -> None:
        if not self._watches:
            self._ending = asyncio.create_task(self._end_soon())

    async def _end_soon(self) -> None:
        await asyncio.sleep(_ENDING_SECONDS)  # for the last one to hear that it has left
        if not self._watches:
            await self._end()

    async def _drop(self, name: Hashable, entry: Entry) -> None:
        """Tell a door that it has a name no longer, as far as this entry says."""
        with contextlib.suppress(DoorLost):
            await _until_reached(self._call, entry.door, "drop", name, entry.life, entry.serial)


async def _until_reached(call: Callable[..., Awaitable[_T]], *args: Any) -> _T:
    """Call until it is answered. Raises DoorLost where nobody is there any more."""
    while True:
        try:
            return await call(*args)
        except DoorLost as exc:
            if not exc.returns:
                raise
        await asyncio.sleep(_doors.AGAIN_SECONDS)
