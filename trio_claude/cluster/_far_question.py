"""One question to a session elsewhere.

It is asked, and then asked on: each answer brings what has come since. While deltas are read, the next
ones are asked for, so that they are under way meanwhile: one batch, and another process keeps one more
ready at most.

Nobody knows how far a turn got whose process died, so that its caller gets :class:`SessionCrashed`.
But one that was told that it waits in line was not begun, but for the moment that this news takes,
and is asked again if Ray starts that process again.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal, final

import trio

from .._errors import ClusterError, Interrupted, TrioClaudeError
from .._session.question import Question
from .._wire.deltas import Delta
from . import _lines
from ._doors import DoorLost
from ._lines import leave_unheard

if TYPE_CHECKING:
    from .._messages import Event
    from ._far import FarSession
    from ._lines import Answer, Line
    from ._peers import Peers
    from ._wire import Said


@final
class FarQuestion(Question):
    """A question to a session elsewhere."""

    def __init__(self, peers: Peers, args: tuple[Any, ...]) -> None:
        super().__init__()
        self._peers = peers
        self._args = args
        self._whole = bool(args[-1])
        self.number = peers.next_number()
        self._session: FarSession | None = None
        self._line: Line | None = None
        self._asked = (0, "")
        """Where the session was when it was asked."""
        self._state: Literal["unasked", "asked", "waiting", "taken"] = "unasked"
        """How far it is, for all that is known."""
        self._next: Answer | None = None
        """What was asked for and not yet taken in."""

    def enter(self, session: FarSession) -> None:
        """Say that it is about to be put to this session."""
        self._left()
        self._session = session
        session.questions.add(self)
        self._peers.enter(session.door, self.number)
        self.on_end = self._left

    async def put(self, session: FarSession) -> None:
        """Ask it, and wait until the session has taken it; until its end, if that is all it is for."""
        self.enter(session)
        try:
            await trio.lowlevel.checkpoint_if_cancelled()
            await self._ask(session)
        except trio.Cancelled:
            if not await self._withdraw():
                raise
        except Exception:
            self._left()
            raise
        except BaseException:  # such as KeyboardInterrupt, after which nobody waits for anything
            if self._line is not None:
                leave_unheard(self._line, self.number)
            self._left()
            raise

    async def _ask(self, session: FarSession) -> None:
        peers, door = self._peers, session.door
        while True:
            peers.enter(door, self.number)  # again, in its turn, if the line broke
            self._state = "unasked"
            try:
                if session.status == "stopped":  # perhaps with its process, and Ray hasn't told yet
                    await peers.up((await peers.reach(door)).peer)
                self._line, self._next = await peers.send(
                    door, "ask", self.number, session, *self._args
                )
                self._asked = session.here_now()
                self._state = "asked"
                while await self._is_awaited():
                    self._ask_on()
                return
            except DoorLost as lost:
                if self._may_be_begun(lost):
                    self._give_up(lost)
                if self.ended:  # perhaps with the connection
                    return
                if not lost.returns:
                    error = session.terminated(lost)
                    raise error from error.__cause__

    def _may_be_begun(self, lost: DoorLost) -> bool:
        return self._state == "taken" or (self._state == "asked" and lost.begun)

    async def _is_awaited(self) -> bool:
        """Hear how far it is; gives whether it is to be waited for further before it is read."""
        said = await self._take()
        if said.state == "end":
            self._end(said)
            return False
        self._state = "waiting" if said.state == "waiting" else "taken"
        return self._whole or self._state == "waiting"

    async def _withdraw(self) -> bool:
        """Leave it, as its caller is cancelled while it waits; gives whether it was answered.

        Waits for what the other side says to that, for the answer may be under way already, and then
        the conversation has the turn; so its caller is to have it, too. It is not waited for longer
        than some moments.
        """
        self._intent = "abandoned"
        try:
            with (
                trio.move_on_after(_lines.PARTING_SECONDS, shield=True),
                suppress(DoorLost, ClusterError),
            ):
                if self._line is not None:
                    left = self._line.ask("leave", self.number)
                    said = None if self._next is None else await self._take()
                    if said is None or said.state != "end":
                        said = await left.wait()
                    if said.error is None and said.events:
                        self._end(said)
                        return True
        finally:
            self.end(Interrupted("the question was withdrawn"))
        return False

    def _left(self) -> None:
        if self._session is not None:
            self._session.questions.discard(self)
            self._peers.leave(self._session.door, self.number)

    def _ask_on(self) -> None:
        assert self._line is not None
        self._next = self._line.ask("more", self.number)

    async def _take(self) -> Said:
        """What was asked for; if cancelled, it can be taken later."""
        assert self._next is not None
        assert self._session is not None
        said = await self._next.wait()
        self._next = None
        if said.standing is not None:
            self._session.heard(said.standing)
        return said

    def _give_up(self, lost: DoorLost) -> None:
        assert self._session is not None
        assert self._line is not None
        leave_unheard(self._line, self.number)  # should only the way there have been cut
        self.end(self._session.crashed(lost, self._asked))

    def _end(self, said: Said) -> None:
        """Take in the end; raises what kept the question from being taken."""
        assert self._session is not None
        try:
            self._session.take(said)
        except TrioClaudeError as exc:
            if not said.taken:
                raise
            self.end(exc)
        else:
            self.ready += said.events
            self.end(None)

    async def _read(self) -> list[Event]:
        if self.ended:
            return []
        assert self._session is not None
        try:
            if self._next is None:
                self._ask_on()
            try:
                said = await self._take()
            except trio.Cancelled:
                come = await self._take_back()
                if come is None:
                    raise
                said = come
        except DoorLost as exc:
            self._give_up(exc)
            return []
        if said.state == "end":
            self._end(said)
            return []
        if isinstance(said.events[-1], Delta):
            # Else the result may be next, and who has that has had the turn.
            with suppress(DoorLost):  # that is told behind these
                self._ask_on()
        return list(said.events)

    async def _take_back(self) -> Said | None:
        """Ask for no more, as the reader is cancelled; gives what had come by then, if anything.

        If that is the result, the conversation has the turn; so its reader is to have it, too.
        """
        assert self._line is not None
        with trio.move_on_after(_lines.PARTING_SECONDS, shield=True), suppress(DoorLost):
            self._line.ask("unask", self.number)
            said = await self._take()
            if said.events or said.state == "end":
                return said
        return None

    def abandon(self) -> None:
        if self.ended or self._intent is not None:
            return
        self._intent = "abandoned"
        assert self._line is not None  # it is read, so it was put
        self._peers.start_soon(self._leave, self._line)

    async def _leave(self, line: Line) -> None:
        try:
            with suppress(DoorLost):  # then the turn has ended as well
                await line.ask("leave", self.number).wait()
        finally:
            self.end(Interrupted("the turn was abandoned"))
