"""The other processes, as far as this one asks them: one line to each door.

A line that breaks is forgotten, and the next call goes by a new one (``_lines.py`` says why).
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias, final
from weakref import WeakValueDictionary

import trio

from .._errors import ClusterError
from . import _doors, _lines, _ray
from ._doors import DoorLost
from ._lines import Askers, Line, leave_unheard
from ._wire_errors import loads_error

if TYPE_CHECKING:
    from .._supervision.names import Global
    from ._far import FarSession
    from ._life import Life
    from ._lines import Answer
    from ._wire import Said

Place: TypeAlias = "str | Global"
"""Where something is asked: a door, or a name that may have to be found first."""


@final
class Peers:
    """The lines to others, for a life of this process."""

    def __init__(self, life: Life) -> None:
        self.run = life.run
        self.start_soon = life.start_soon
        self.dumps = _ray.dumps
        self._life = life
        self._numbers = itertools.count(1)
        self._lines: dict[str, Line] = {}
        self._coming_up: set[_ray.Reply] = set()
        self._finding: WeakValueDictionary[str, trio.Lock] = WeakValueDictionary()
        self._askers: defaultdict[Place, Askers] = defaultdict(Askers)

    def next_number(self) -> int:
        """A number that nothing else has that this process asks for."""
        return next(self._numbers)

    async def send(
        self,
        door: str,
        kind: str,
        number: int,
        session: FarSession | None = None,
        *args: Any,
    ) -> tuple[Line, Answer]:
        """Ask at a door; gives by which line, and what is answered. Waits for all with lower numbers
        that are still to be asked there; and as :meth:`reach`, whose errors it raises.
        """
        try:
            while True:
                self.enter(door, number)
                await self.first(door, number)
                line = await self.reach(door)
                if self._askers[door].is_first(number):  # still: some may have come back meanwhile
                    return line, line.ask(kind, number, session, *args)
        finally:
            self.leave(door, number)

    def enter(self, place: Place, number: int) -> None:
        """Say that this is about to be asked; whoever says so leaves, too."""
        self._askers[place].enter(number)

    async def first(self, place: Place, number: int) -> None:
        """Wait for all with lower numbers that are about to be asked there."""
        await self._askers[place].first(number)

    def leave(self, place: Place, number: int) -> None:
        """It is not to be asked any more, or it was."""
        askers = self._askers.get(place)
        if askers is not None:
            askers.leave(number)
            if not askers:
                del self._askers[place]

    async def reach(self, door: str) -> Line:
        """The line to a door. Waits until its process is up, if Ray is starting it.

        Raises:
          DoorLost: it is gone for good.
          ClusterError: the connection has ended.
        """
        self._life.check()
        line = self._lines.get(door)
        if line is None:
            finding = self._finding.setdefault(door, trio.Lock())
            async with finding:
                line = self._lines.get(door) or await self._new_line(door)
        return line

    async def _new_line(self, door: str) -> Line:
        peer, life = await self._find(door)
        self._life.check()
        number = (self._life.number, self.next_number())
        broke = partial(self._line_broke, door)
        line = self._lines[door] = Line(peer, self._life.door, number, life, broke)
        return line

    async def _find(self, door: str) -> tuple[_ray.Peer, int | None]:
        """The actor, once its process is up, and in which life that is."""
        while True:
            try:
                peer = await trio.to_thread.run_sync(_ray.find_actor, door, self._life.namespace)
                return peer, await self.up(peer)
            except DoorLost as exc:
                if not exc.returns:
                    raise
            await trio.sleep(_doors.AGAIN_SECONDS)

    async def up(self, peer: _ray.Peer) -> Any:
        """Wait for a process that Ray is starting, or starting again, to be up; gives in which life it
        is. What is asked before may be lost with nobody knowing whether it was begun."""
        reply = peer.call("up")
        self._coming_up.add(reply)
        try:
            return await reply.wait()
        finally:
            self._coming_up.remove(reply)

    def _line_broke(self, door: str, lost: DoorLost) -> None:
        del self._lines[door]
        if lost.returns:  # perhaps it only could not be reached for a moment
            self.start_soon(self._renew, door)

    async def _renew(self, door: str) -> None:
        """Let a door know that nobody waits for what came by the line before."""
        with suppress(DoorLost, ClusterError):
            await self.do(door, "renew", None)

    def heard(self, door: str, life: int) -> None:
        """A process is in this life now."""
        if door in self._lines:
            self._lines[door].heard(life)

    def cut(self, door: str) -> None:
        """A door has been closed: nothing is there any more, though Ray may not have told yet."""
        if door in self._lines:
            self._lines[door].cut(DoorLost(said="its group has ended"))

    def cut_all(self) -> None:
        """The connection ends."""
        for reply in self._coming_up:
            reply.give(self._ended)
        for line in list(self._lines.values()):
            line.cut(DoorLost(said="the connection to the cluster has ended"))

    def _ended(self) -> Any:
        raise self._life.end_error()

    async def do(
        self, door: str, kind: str, session: FarSession | None, *args: Any, leaves: bool = True
    ) -> Said:
        """Have another process do something, and wait until it has.

        Args:
          leaves: whether it is called off there if the caller is cancelled. If it was done by then,
            the caller gets that: so what was cancelled was not done.

        Raises:
          DoorLost: nobody knows whether it was done.
          ClusterError: the connection has ended.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        number = self.next_number()
        line, answer = await self.send(door, kind, number, session, *args)
        try:
            return await answer.wait()
        except trio.Cancelled:
            if not leaves:
                raise
            leave_unheard(line, number)
            with (
                trio.move_on_after(_lines.PARTING_SECONDS, shield=True),
                suppress(DoorLost, ClusterError),
            ):
                said = await answer.wait()
                if said.error is None:
                    return said
            raise
        except Exception:
            raise
        except BaseException:  # such as KeyboardInterrupt, after which nobody waits for anything
            leave_unheard(line, number)
            raise

    async def ask(self, door: str, kind: str, *args: Any) -> Any:
        """Have another process do what is no session's; gives the value, or raises the error."""
        try:
            said = await self.do(door, kind, None, *args)
        except DoorLost as exc:
            raise ClusterError(f"an actor can't be reached: {exc.why}") from exc
        if said.error is not None:
            raise loads_error(said.error)
        return said.value

    async def until_lost(self, door: str) -> bool:
        """Wait until it can't be reached any more; gives whether its process may still live."""
        try:
            line = await self.reach(door)
            await line.peer.call("alive", self._life.door).wait()
        except DoorLost as exc:
            if exc.returns:
                await trio.sleep(_doors.AGAIN_SECONDS)
                return True
        except ClusterError:
            return False  # the connection ends
        with suppress(DoorLost, ClusterError):
            await (await self.reach(self._life.door)).peer.call("forget", door).wait()
        return False
