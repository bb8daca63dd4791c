"""Where others come to ask a process: its door. Plain asyncio, no Ray: it runs in Ray's own processes.

A Ray driver can't be called, so it has an actor that can: a :class:`Mailbox`, which keeps each call
until the process has taken it and answered. It belongs to the process: Ray kills it when that dies,
and that is how the death is noticed, by calls that never end otherwise (:meth:`Door.alive`).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

    from ._wire import Entry

AGAIN_SECONDS = 0.1
"""After a door could not be reached that is to return: before it is tried again."""


class Door:
    """What every process has that is connected: the names that it holds, and that it is alive."""

    def __init__(self) -> None:
        self._held: dict[Hashable, Entry] = {}
        self._watchers: dict[str, asyncio.Event] = {}

    async def alive(self, watcher: str) -> None:
        """Never returns, as long as the watcher lives: the call fails when this process is gone."""
        await self._watchers.setdefault(watcher, asyncio.Event()).wait()

    async def forget(self, watcher: str) -> None:
        """Nobody is there any more to hear how its :meth:`alive` ends."""
        event = self._watchers.pop(watcher, None)
        if event is not None:
            event.set()

    async def up(self) -> int | None:
        """Waits until the process takes calls; gives in which life it is, if Ray starts it again."""
        return None

    async def hold(self, name: Hashable, entry: Entry) -> None:
        """Remember that this process is about to get this name, unless something newer was said."""
        held = self._held.get(name)
        if held is None or (held.life, held.serial) <= (entry.life, entry.serial):
            self._held[name] = entry

    async def drop(self, name: Hashable, life: int, serial: int) -> None:
        """This process no longer has this name, unless something newer was said of it."""
        held = self._held.get(name)
        if held is not None and (held.life, held.serial) <= (life, serial):
            del self._held[name]

    async def held(self) -> dict[Hashable, Entry]:
        """The names that this process has."""
        return self._held


class Mailbox(Door):
    """The door of a process that can't be called itself."""

    def __init__(self) -> None:
        super().__init__()
        self._calls: list[tuple[int, bytes]] = []
        self._called = asyncio.Event()
        self._answers: dict[int, asyncio.Future[bytes]] = {}
        self._count = 0

    async def ask(self, call: bytes) -> bytes:
        """Have the process do something; returns what it answers.

        It is one argument, of bytes, because Ray takes these as they are; each of another kind costs
        some 30 µs.
        """
        self._count += 1
        number = self._count
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._answers[number] = answer
        self._calls.append((number, call))
        self._called.set()
        try:
            return await answer
        finally:
            del self._answers[number]

    async def next(self) -> list[tuple[int, bytes]]:
        """For the process: the calls that have come since; waits for at least one."""
        await self._called.wait()
        calls, self._calls = self._calls, []
        self._called.clear()
        return calls

    async def answer(self, answers: Sequence[tuple[int, bytes]]) -> None:
        """For the process: what it answers to which call."""
        for number, data in answers:
            answer = self._answers.get(number)
            if answer is not None and not answer.done():
                answer.set_result(data)


class DoorLost(Exception):
    """A door can't be reached any more."""

    def __init__(self, returns: bool = False, said: str = "", begun: bool = True) -> None:
        super().__init__(returns, said, begun)  # it may be pickled
        self.returns = returns
        """Whether it may be reached again, in this life of its process or the next."""
        self.begun = begun
        """Whether what was asked may have been begun."""
        self._said = said

    @property
    def why(self) -> str:
        """What is known of it, or what Ray says, in a line."""
        said = self._said or str(self.__cause__ or "").strip().partition("\n")[0]
        return said or "this process is cut off from Ray"

    def again(self) -> DoorLost:
        """The same, to be raised once more."""
        lost = DoorLost(self.returns, self._said, self.begun)
        lost.__cause__ = self.__cause__
        return lost


def soon(loop: asyncio.AbstractEventLoop, future: asyncio.Future[bytes]) -> Callable[[bytes], None]:
    """A function that gives the future its result, from any thread."""

    def answer(data: bytes) -> None:
        loop.call_soon_threadsafe(_give, future, data)

    return answer


def _give(future: asyncio.Future[bytes], data: bytes) -> None:
    if not future.done():
        future.set_result(data)
