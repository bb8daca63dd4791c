"""A session on another node, as its handle asks it; and one question to it.

A question is asked, and then asked on: each answer brings what has come since. While deltas are read,
the next ones are asked for, so that they are under way meanwhile: one batch, and another process keeps
one more ready at most.

Nobody knows how far a turn got whose process died, so that its caller gets :class:`SessionCrashed`.
But one that was told that it waits in line was not begun, but for the moment that this news takes,
and is asked again if Ray starts that process again.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol, final

import trio

from .._errors import (
    ClusterError,
    ConfigurationError,
    Interrupted,
    SessionCrashed,
    SessionTerminated,
    TrioClaudeError,
    UsageError,
)
from .._messages import InputJSONDelta, TextDelta, ThinkingDelta
from .._options import SessionOptions
from .._session.context import require_run
from .._session.handle import SessionHandle
from .._session.question import Question
from .._session.target import Askable, Target, checked_prompt
from .._supervision.names import Global, not_found
from ._actors import DoorLost
from ._lines import leave_unheard
from ._service import NotHere
from ._wire_errors import loads_error

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping

    from .._messages import Event
    from .._session.target import Status
    from ._lines import Answer, Line
    from ._wire import Entry, Name, Said, Standing


class Wire(Protocol):
    """What a session elsewhere needs of the connection."""

    run: trio.lowlevel.TrioToken

    def next_number(self) -> int: ...
    async def reach(self, door: str) -> Line: ...
    async def resolve(self, name: Global) -> FarSession | None: ...
    def forget(self, session: FarSession) -> None: ...
    def start_soon(self, function: Any, *args: Any) -> None: ...
    def dumps(self, value: object) -> bytes: ...


def _gone_error(where: str, lost: DoorLost) -> ClusterError:
    return ClusterError(f"{where} can't be reached any more: {lost.why}")


def _new_question(
    wire: Wire, prompt: object, overrides: Mapping[str, Any], *, whole: bool
) -> FarQuestion:
    prompt = str(checked_prompt(prompt))  # of a subclass, it may not be known there
    options = None
    if overrides:
        SessionOptions(**overrides)  # refuses what is not valid, here and now
        try:
            options = wire.dumps(dict(overrides))
        except Exception as exc:
            raise ConfigurationError(
                f"an option among {', '.join(overrides)} cannot be sent to another process: {exc}"
            ) from exc
    return FarQuestion(wire, (prompt, options, whole))


@final
class ByName(Askable):
    """A name that is looked up when it is asked: it may have changed hands, or be all new."""

    def __init__(self, wire: Wire, name: Global) -> None:
        self._wire = wire
        self._name = name

    def new_question(
        self, prompt: object, overrides: Mapping[str, Any], *, whole: bool = False
    ) -> FarQuestion:
        return _new_question(self._wire, prompt, overrides, whole=whole)

    async def put(self, question: Question) -> None:
        assert isinstance(question, FarQuestion)
        while True:
            session = await self._wire.resolve(self._name)
            if session is None:
                raise not_found(self._name)
            with suppress(NotHere):  # what this process had heard was old, and is forgotten now
                await question.put(session)
                return


@final
class FarSession(Target):
    """A session on another node, or in another process of this one."""

    def __init__(self, wire: Wire, key: Name, entry: Entry) -> None:
        self._wire = wire
        self.questions: set[FarQuestion] = set()
        """Those of this process that have not ended."""
        self.handle = SessionHandle(self)
        self.key = key
        self.door = entry.door
        self.born = entry.life, entry.born
        self.name: Hashable | None = entry.called
        self.id = entry.id
        self.where = entry.where
        self._standing = (entry.life, entry.serial, entry.status, entry.session_id)

    @property
    def status(self) -> Status:  # these two: as far as this process has heard
        return self._standing[2]

    @property
    def session_id(self) -> str | None:
        return self._standing[3]

    def _check_call(self, *, waits: bool) -> None:
        require_run(self._wire.run, self)
        if waits and self._is_read_here():
            raise UsageError(
                f"{self} was asked by a task that has a stream of it open: that "
                "turn waits for its reader, and this one for that turn; leave the stream first"
            )

    def _is_read_here(self) -> bool:
        return any(question.is_read_here() for question in self.questions)

    def is_one_of(self, entry: Entry) -> bool:
        """Whether the entry is of this session, and not of another one that has its name now. One
        that Ray has started again with its group is the same one."""
        life, born = self.born
        return self.door == entry.door and (entry.life != life or entry.born == born)

    def hear(self, entry: Entry) -> None:
        """Take in what the registry has of it."""
        self.born = entry.life, entry.born
        self.where = entry.where
        self.heard(entry.standing)

    def heard(self, standing: Standing) -> None:
        """Take in how it stands, unless something newer was heard already."""
        life, serial, *_ = self._standing
        if standing[0] != life or standing[1] >= serial:
            self._standing = standing

    def gone(self, status: Status = "stopped") -> None:
        """It is not there any more; what was said before that, and comes later, is old."""
        life, serial, known, _ = self._standing
        if status != known:
            self._standing = (life, serial + 1, status, None)

    def here_now(self) -> tuple[int, str]:
        """In which life of its process it is, and what that is called."""
        return self.born[0], self.where

    def crashed(self, lost: DoorLost, asked: tuple[int, str]) -> SessionCrashed:
        """What a turn gets whose process is gone; ``asked`` is where the session was then."""
        if asked == self.here_now():  # else Ray's new process was heard of before the old one's end
            self.gone("restarting" if lost.returns else "stopped")
        _, where = asked
        error = SessionCrashed(
            f"{self} crashed in this turn: {where}, in which it ran, is gone", name=self.called
        )
        error.__cause__ = _gone_error(where, lost)
        return error

    def ended(self) -> SessionTerminated:
        """What is raised where its process has it no longer."""
        return SessionTerminated(
            f"{self} is stopped: it was terminated, has finished, or its supervisor ended",
            name=self.called,
        )

    def terminated(self, lost: DoorLost) -> SessionTerminated:
        """What is raised where nothing was begun."""
        self.gone()
        error = SessionTerminated(
            f"{self} is stopped: {self.where}, in which it ran, is gone", name=self.called
        )
        error.__cause__ = _gone_error(self.where, lost)
        return error

    # ---- what a handle asks ---------------------------------------------------------------------

    def new_question(
        self, prompt: object, overrides: Mapping[str, Any], *, whole: bool = False
    ) -> FarQuestion:
        self._check_call(waits=True)
        return _new_question(self._wire, prompt, overrides, whole=whole)

    async def put(self, question: Question) -> None:
        assert isinstance(question, FarQuestion)
        self._check_call(waits=True)
        try:
            await question.put(self)
        except NotHere as exc:
            raise self.ended() from exc.__cause__

    async def clear(self) -> None:
        self._check_call(waits=True)
        try:
            await self._do("clear", leaves=True)
        except NotHere as exc:
            raise self.ended() from exc.__cause__
        except DoorLost as exc:
            error = self.crashed(exc, self.here_now())
            raise error from error.__cause__

    async def interrupt(self) -> None:
        self._check_call(waits=False)
        with suppress(DoorLost, NotHere):  # then there is no turn in flight any more
            await self._do("interrupt")

    async def stop(self) -> None:
        self._check_call(waits=False)
        with suppress(DoorLost, NotHere):  # then it has ended
            await self._do("stop", not self._is_read_here())

    async def control(self, what: str, request: Mapping[str, Any] | None) -> Mapping[str, Any]:
        self._check_call(waits=False)
        try:
            value: Mapping[str, Any] = await self._do("control", what, request, leaves=True)
        except NotHere as exc:
            raise self.ended() from exc.__cause__
        except DoorLost as exc:
            error = self.terminated(exc)
            raise error from error.__cause__
        return value

    async def _do(self, kind: str, *args: Any, leaves: bool = False) -> Any:
        """Have it done; ``leaves``: it is called off if the caller is cancelled."""
        await trio.lowlevel.checkpoint_if_cancelled()
        line, number = await self._wire.reach(self.door), self._wire.next_number()
        answer = line.ask(kind, number, self, *args)
        try:
            said = await answer.wait()
        except trio.Cancelled:
            if leaves:
                leave_unheard(line, number)
            raise
        return self.take(said)

    def take(self, said: Said) -> Any:
        """Take in what was said; gives its value, or raises its error."""
        if said.standing is not None:
            self.heard(said.standing)
        if said.error is not None:
            error = loads_error(said.error)
            if isinstance(error, NotHere):
                self.gone()
                self._wire.forget(self)
            if not isinstance(error, TrioClaudeError):
                raise ClusterError(f"{self} could not be asked: {error!r}") from error
            raise error
        return said.value


# How long a caller that is cancelled waits for the other side, at most.
_PARTING_SECONDS = 2.0


@final
class FarQuestion(Question):
    """A question to a session elsewhere."""

    def __init__(self, wire: Wire, args: tuple[Any, ...]) -> None:
        super().__init__()
        self._wire = wire
        self._args = args
        self._whole = bool(args[-1])
        self._number = wire.next_number()
        self._session: FarSession | None = None
        self._line: Line | None = None
        self._asked = (0, "")
        """Where the session was when it was asked."""
        self._next: Answer | None = None
        """What was asked for and not yet taken in."""

    async def put(self, session: FarSession) -> None:
        """Ask it, and wait until the session has taken it; until its end, if that is all it is for."""
        self._session = session
        session.questions.add(self)
        self.on_end = self._left
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
                leave_unheard(self._line, self._number)
            self._left()
            raise

    async def _ask(self, session: FarSession) -> None:
        while True:
            begun = False
            try:
                self._line = await self._wire.reach(session.door)
                if session.status == "stopped":  # perhaps with its process, and Ray hasn't told yet
                    await self._line.peer.call("opened").wait()
                self._asked = session.here_now()
                self._next = self._line.ask("ask", self._number, session, *self._args)
                begun = True  # for all that is known
                said = await self._take()
                while said.state == "waiting" or (said.state == "taken" and self._whole):
                    begun = said.state == "taken"
                    self._ask_on()
                    said = await self._take()
                if said.state == "end":
                    self._end(said)
                return
            except DoorLost as exc:
                lost = exc
            if begun:
                self._give_up(lost)
                return
            if not lost.returns:
                error = session.terminated(lost)
                raise error from error.__cause__

    async def _withdraw(self) -> bool:
        """Leave it, as its caller is cancelled while it waits; gives whether it was answered.

        Waits for what the other side says to that, for the answer may be under way already, and then
        the conversation has the turn; so its caller is to have it, too. It is not waited for longer
        than some moments.
        """
        self._intent = "abandoned"
        with trio.move_on_after(_PARTING_SECONDS, shield=True), suppress(DoorLost):
            if self._line is not None:
                left = self._line.ask("leave", self._number)
                said = None if self._next is None else await self._take()
                if said is None or said.state != "end":
                    said = await left.wait()
                if said.error is None and said.events:
                    self._end(said)
                    return True
        self.end(Interrupted("the question was withdrawn"))
        return False

    def _left(self) -> None:
        if self._session is not None:
            self._session.questions.discard(self)

    def _ask_on(self) -> None:
        assert self._line is not None
        self._next = self._line.ask("more", self._number)

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
        leave_unheard(self._line, self._number)  # should only the way there have been cut
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
        if isinstance(said.events[-1], TextDelta | ThinkingDelta | InputJSONDelta):
            self._ask_on()  # else the result may be next, and who has that has had the turn
        return list(said.events)

    async def _take_back(self) -> Said | None:
        """Ask for no more, as the reader is cancelled; gives what had come by then, if anything.

        If that is the result, the conversation has the turn; so its reader is to have it, too.
        """
        assert self._line is not None
        with trio.move_on_after(_PARTING_SECONDS, shield=True), suppress(DoorLost):
            self._line.ask("unask", self._number)
            said = await self._take()
            if said.events or said.state == "end":
                return said
        return None

    def abandon(self) -> None:
        if self.ended or self._intent is not None:
            return
        self._intent = "abandoned"
        assert self._line is not None  # it is read, so it was put
        self._wire.start_soon(self._leave, self._line)

    async def _leave(self, line: Line) -> None:
        try:
            with suppress(DoorLost):  # then the turn has ended as well
                await line.ask("leave", self._number).wait()
        finally:
            self.end(Interrupted("the turn was abandoned"))
