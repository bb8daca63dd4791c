"""The names that this process holds in a cluster: claimed, told of, given back.

There is a task for each name that is claimed, for what the registry was asked can't be taken back: who is
cancelled leaves it to that task to free the name.

Calls to the registry may overtake each other, and Ray repeats those that a registry that died has not
answered. So whatever is said of a name has a serial number, and what is older than what is known
changes nothing.
"""

from __future__ import annotations

import itertools
from functools import partial
from typing import TYPE_CHECKING, Any, final
from weakref import WeakKeyDictionary

import attrs
import trio

from .._errors import ClusterError, SessionExists
from .._session.context import lives
from .._session.inbox import Inbox
from .._supervision.names import Global
from . import _ray
from ._wire import Entry, Member, is_plain, refuse_unplain

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable, Mapping

    from .._session.handle import SessionHandle
    from ._life import Life
    from ._wire import Name, Standing

LEAVING_SECONDS = 10.0
"""Who frees a name, or leaves, waits for the registry no longer than this."""


@final
class _Mine:
    """A session of this run that the cluster knows."""

    def __init__(self, entry: Entry, inbox: Inbox, handle: SessionHandle) -> None:
        self.inbox = inbox
        self.handle = handle
        self.serial = entry.serial
        self.born = entry.born
        self.told = entry
        """What the registry was asked for it with."""

    @property
    def standing(self) -> Standing:
        return self.told.life, self.serial, self.inbox.status, self.inbox.session_id

    @property
    def entry(self) -> Entry:
        """What the registry is to have."""
        _, serial, status, session_id = self.standing
        return attrs.evolve(self.told, serial=serial, status=status, session_id=session_id)


@final
class _Claim:
    """A name that the registry is asked for."""

    def __init__(self, mine: _Mine) -> None:
        self.mine = mine
        self.is_wanted = True
        """Whether somebody waits for it: else it is freed once it is got."""
        self.decided = trio.Event()
        self.error: BaseException | None = None
        """Why it was not got."""


@final
class Held:
    """What this process holds.

    Args:
      life: that of this run's connection.
      ask: calls the registry.
      whole: whether sessions without a :class:`Global` name are known, too: all of a group are.
    """

    def __init__(self, life: Life, ask: Callable[..., Awaitable[Any]], *, whole: bool) -> None:
        self._life = life
        self._ask = ask
        self._whole = whole
        self._where = _ray.where()
        self._serials = itertools.count(1)
        self._mine: dict[Hashable, _Mine] = {}
        self._born: WeakKeyDictionary[Inbox, int] = WeakKeyDictionary()
        self._claiming: dict[Hashable, _Claim] = {}
        self._freeing: dict[Hashable, trio.Event] = {}
        self._untold: set[Hashable] = set()
        self._to_tell = trio.Event()
        self._arrival = trio.Event()
        self._is_settled = not whole

    # ---- to have a name, and to have it no longer ------------------------------------------------

    @trio.lowlevel.enable_ki_protection
    async def register(self, handle: SessionHandle) -> None:
        """Take the session's name, if it is to be known: see :class:`names.Cluster`."""
        name = self._name_of(handle)
        if name is None or self._life.ended:
            return
        while name in self._freeing:
            await self._freeing[name].wait()
            self._life.check()
        if name in self._mine or name in self._claiming:
            raise SessionExists(f"the name {name!r} is taken, by another session of this run")
        inbox = _inbox_of(handle)
        claim = self._claiming[name] = _Claim(_Mine(self._entry(inbox), inbox, handle))
        self._life.start_soon(self._claim, name, claim)
        try:
            await claim.decided.wait()
        except BaseException:
            claim.is_wanted = False
            self._freeing[name] = trio.Event()  # who wants it next waits for that
            raise
        if claim.error is not None:
            raise claim.error

    async def _claim(self, name: Name, claim: _Claim) -> None:
        """Ask for a name, and give it back if nobody wants it any more."""
        try:
            holder = await self._ask("claim", name, claim.mine.entry)
            if holder is not None:
                claim.error = SessionExists(
                    f"the name {name!r} is taken in the cluster, by a session in {holder.where}"
                )
            elif claim.is_wanted:
                self._mine[name] = claim.mine
                claim.mine.inbox.on_change = partial(self._changed, name)
                self._tell_if_changed(name, claim.mine.told)
                self._arrive()
            else:
                await self._release(name, claim.mine.serial)
        except ClusterError as exc:
            claim.error = exc
            if not claim.is_wanted:
                self._life.fail(exc)
        except trio.Cancelled:
            claim.error = self._life.end_error()
            raise
        finally:
            del self._claiming[name]
            claim.decided.set()
            self._freed(name)

    async def unregister(self, handle: SessionHandle) -> None:
        """Free the session's name, if it has it."""
        name = self._name_of(handle)
        mine = self._mine.get(name)
        if mine is None or mine.handle is not handle:
            return
        del self._mine[name]
        mine.inbox.on_change = None
        if self._life.closing:
            return  # all of them are freed at once
        self._freeing[name] = trio.Event()
        try:
            with trio.move_on_after(LEAVING_SECONDS, shield=True):
                await self._release(name, next(self._serials))
        except ClusterError as exc:
            self._life.fail(exc)
        finally:
            self._freed(name)

    async def _release(self, name: Hashable, serial: int) -> None:
        """Free a name, as far as it was said to be ours up to then."""
        await self._ask("release", self._life.door, name, self._life.number, serial)

    def _freed(self, name: Hashable) -> None:
        freed = self._freeing.pop(name, None)
        if freed is not None:
            freed.set()

    async def claim_again(self, known: Mapping[Hashable, Entry]) -> None:
        """Have a new registry know our names, which it may not have been able to ask us for; and free
        those that it takes for ours.

        Args:
          known: what it knows.
        """
        ours = self._mine.keys() | self._claiming.keys() | self._freeing.keys()
        for name, entry in known.items():
            door, life = entry.door, entry.life
            if (door, life) == (self._life.door, self._life.number) and name not in ours:
                await self._release(name, entry.serial)  # the registry before had not said so
        for name in list(self._mine):
            mine = self._mine.get(name)
            if mine is None:
                continue
            mine.serial = next(self._serials)
            entry = mine.entry
            holder = await self._ask("claim", name, entry)
            if self._mine.get(name) is not mine:  # it was freed meanwhile, and perhaps before that
                await self._release(name, entry.serial)
                continue
            self._tell_if_changed(name, entry)
            if holder is not None and holder.door != self._life.door:
                raise ClusterError(
                    f"the name {name!r} was given to a session in {holder.where}, while the registry "
                    "of names could not reach this process"
                )

    def _name_of(self, handle: SessionHandle) -> Name | None:
        """Under which name the cluster is to know it, if at all."""
        name: Name
        if isinstance(handle.name, Global):
            name, key = handle.name, handle.name.key
        elif self._whole and not lives.get():  # of the group's own supervisor
            name, key = Member(self._life.door, handle.id), handle.id
        else:
            return None
        refuse_unplain(key, handle.name)
        return name

    # ---- what is told of them --------------------------------------------------------------------

    def misheard(self, name: Hashable, entry: Entry) -> None:
        """The registry has this entry; if it is not as it should be, tell it better: one that could not
        reach us for a moment takes us for restarting."""
        mine = self._mine.get(name)
        if mine is not None and entry.serial >= mine.serial and entry.status != mine.inbox.status:
            self._changed(name)

    def _tell_if_changed(self, name: Hashable, told: Entry) -> None:
        """What has changed while the registry was told this may have been nothing to it."""
        if self._mine[name].entry != told:
            self._changed(name)

    def _changed(self, name: Hashable) -> None:
        mine = self._mine.get(name)
        if mine is not None:
            mine.serial = next(self._serials)
            self._untold.add(name)
            self._to_tell.set()

    async def tell(self) -> None:
        """Tell how our sessions stand, each time that one has changed."""
        while True:
            await self._to_tell.wait()
            self._to_tell = trio.Event()
            names, self._untold = self._untold, set()
            entries = {name: self._mine[name].entry for name in names if name in self._mine}
            if entries:
                await self._ask("update", self._life.door, entries)

    async def settle(self) -> None:
        """All that this process starts by itself is started."""
        await self._ask("settle", self._life.door, self._life.number)
        self._is_settled = True
        self._arrive()

    # ---- what others ask for ---------------------------------------------------------------------

    def find(self, name: Hashable, born: tuple[int, int] | None = None) -> _Mine | None:
        """The session of ours with this name; if asked for, only the one that was born then."""
        mine = self._mine.get(name)
        if mine is None or born is None:
            return mine
        life, number = born  # of an earlier life of ours: the one that this life has in its place
        return mine if life != self._life.number or number == mine.born else None

    def arrival(self) -> trio.Event | None:
        """What is set when the next session of ours is there; None where all are there that this
        process starts by itself."""
        return None if self._is_settled else self._arrival

    def _arrive(self) -> None:
        arrived, self._arrival = self._arrival, trio.Event()
        arrived.set()

    def entries(self) -> list[tuple[Hashable, Entry]]:
        """Our sessions, by their names in the cluster."""
        return [(name, mine.entry) for name, mine in self._mine.items()]

    def entry_of(self, handle: SessionHandle) -> tuple[Hashable, Entry]:
        """One of our sessions, whether the cluster knows it now or not."""
        name = self._name_of(handle)
        mine = self._mine.get(name)
        return name, self._entry(_inbox_of(handle)) if mine is None else mine.entry

    def _entry(self, inbox: Inbox) -> Entry:
        return Entry(
            door=self._life.door,
            life=self._life.number,
            where=self._where,
            id=inbox.id if isinstance(inbox.id, Global) or is_plain(inbox.id) else repr(inbox.id),
            called=inbox.name,
            status=inbox.status,
            session_id=inbox.session_id,
            serial=next(self._serials),
            born=self._born.setdefault(inbox, next(self._serials)),
        )

    def end(self) -> None:
        """Nothing is ours any more in the eyes of others."""
        for mine in self._mine.values():
            mine.inbox.on_change = None
        self._mine.clear()
        for name in list(self._freeing):
            self._freed(name)


def _inbox_of(handle: SessionHandle) -> Inbox:
    assert isinstance(handle._target, Inbox)  # it is a session of this run
    return handle._target
