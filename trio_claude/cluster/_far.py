"""A session on another node, as its handle asks it; and a name, as whoever asks by it does."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, final

from .._errors import (
    ClusterError,
    ConfigurationError,
    SessionCrashed,
    SessionTerminated,
    TrioClaudeError,
    UsageError,
)
from .._options import SessionOptions
from .._session.context import require_run
from .._session.handle import SessionHandle
from .._session.target import Askable, Target, checked_prompt
from .._supervision.names import Global, not_found
from ._doors import DoorLost
from ._far_question import FarQuestion
from ._jobs import NotHere
from ._wire_errors import loads_error

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable, Mapping

    from .._session.question import Question
    from .._session.target import Status
    from ._peers import Peers
    from ._wire import Entry, Name, Said, Standing


def _gone_error(where: str, lost: DoorLost) -> ClusterError:
    return ClusterError(f"{where} can't be reached any more: {lost.why}")


def _new_question(
    peers: Peers, prompt: object, overrides: Mapping[str, Any], *, whole: bool
) -> FarQuestion:
    prompt = str(checked_prompt(prompt))  # of a subclass, it may not be known there
    options = None
    if overrides:
        SessionOptions(**overrides)  # refuses what is not valid, here and now
        try:
            options = peers.dumps(dict(overrides))
        except Exception as exc:
            raise ConfigurationError(
                f"an option among {', '.join(overrides)} cannot be sent to another process: {exc}"
            ) from exc
    return FarQuestion(peers, (prompt, options, whole))


@final
class ByName(Askable):
    """A name that is looked up when it is asked: it may have changed hands, or be all new."""

    def __init__(
        self,
        peers: Peers,
        name: Global,
        resolve: Callable[[Global], Awaitable[FarSession | None]],
    ) -> None:
        self._peers = peers
        self._name = name
        self._resolve = resolve

    def new_question(
        self, prompt: object, overrides: Mapping[str, Any], *, whole: bool = False
    ) -> FarQuestion:
        return _new_question(self._peers, prompt, overrides, whole=whole)

    async def put(self, question: Question) -> None:
        assert isinstance(question, FarQuestion)
        while True:
            self._peers.enter(self._name, question.number)
            try:
                await self._peers.first(self._name, question.number)
                session = await self._resolve(self._name)
                if session is None:
                    raise not_found(self._name)
                question.enter(session)
            finally:
                self._peers.leave(self._name, question.number)
            with suppress(NotHere):  # what this process had heard was old, and is forgotten now
                await question.put(session)
                return


@final
class FarSession(Target):
    """A session on another node, or in another process of this one."""

    def __init__(
        self, peers: Peers, key: Name, entry: Entry, forget: Callable[[FarSession], None]
    ) -> None:
        self._peers = peers
        self._forget = forget
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
        require_run(self._peers.run, self)
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
            self._standing = (life, serial + (status == "stopped"), status, None)

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
        self._forget(self)
        error = SessionTerminated(
            f"{self} is stopped: {self.where}, in which it ran, is gone", name=self.called
        )
        error.__cause__ = _gone_error(self.where, lost)
        return error

    # ---- what a handle asks ----------------------------------------------------------------------

    def new_question(
        self, prompt: object, overrides: Mapping[str, Any], *, whole: bool = False
    ) -> FarQuestion:
        self._check_call(waits=True)
        return _new_question(self._peers, prompt, overrides, whole=whole)

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
            lost = self.crashed(exc, self.here_now()) if exc.returns else self.terminated(exc)
            raise lost from lost.__cause__
        return value

    async def _do(self, kind: str, *args: Any, leaves: bool = False) -> Any:
        while True:
            try:
                return self.take(await self._peers.do(self.door, kind, self, *args, leaves=leaves))
            except DoorLost as exc:
                if exc.begun:
                    raise

    def take(self, said: Said) -> Any:
        """Take in what was said; gives its value, or raises its error."""
        if said.standing is not None:
            self.heard(said.standing)
        if said.error is not None:
            error = loads_error(said.error)
            if isinstance(error, NotHere):
                self.gone()
                self._forget(self)
            if not isinstance(error, TrioClaudeError):
                raise ClusterError(f"{self} could not be asked: {error!r}") from error
            raise error
        return said.value
