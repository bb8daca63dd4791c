"""One child's place in its supervisor: what it is, what becomes of it, its incarnations."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import partial
from typing import TYPE_CHECKING, ClassVar

import trio

from .._backends.claude_cli import CLIBackend
from .._backends.messages_api import MessagesBackend
from .._options import (
    LIBRARY_DEFAULTS,
    BackendLike,
    SessionOptions,
    SessionSpec,
    inherited,
    merge,
)
from .._session.handle import SessionHandle
from .._session.inbox import Inbox
from .._session.incarnation import Incarnation
from .._session.session import Session
from .names import register_session, unregister_session

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable, Sequence

    from .._backends.base import Backend
    from .._session.target import Status
    from .connections import Connections, Shared
    from .spec import SupervisorSpec


class Retry:
    """That a child is to be started again: now, or when its delay is over."""

    def __init__(self, group: Sequence[Child]) -> None:
        self.group = group
        """Who is started with it, in start order; it is among them."""
        self.delay = trio.CancelScope()
        """What a task that waits for the delay to pass is cancelled by."""


class Child(ABC):
    """One child's place: it stays while incarnations come and go."""

    kind: ClassVar[str]

    def __init__(self, spec: SessionSpec | SupervisorSpec, id: Hashable) -> None:  # noqa: A002
        self.spec = spec
        self.id = id
        self.number = 0
        """Which incarnation it is in, or was in last."""
        self.incarnation: Incarnation | None = None
        """The one that is up, or has ended without the supervisor having seen to it."""
        self.restarts = 0
        """How often it was started again, automatically or on request."""
        self.consecutive = 0
        """How many automatic restarts it has needed in a row, for the backoff."""
        self.last_error: Exception | None = None
        self.retry: Retry | None = None
        self.terminates_waiting = 0
        """How many calls to terminate it the control has yet to serve."""
        self.restarts_waiting = 0
        """How many calls to restart it the control has yet to serve."""
        self.stopping = False
        """Whether the control is stopping it: its end is then no news."""

    @property
    def called(self) -> Hashable:
        """How it is called in messages and events."""
        return self.id if self.spec.name is None else self.spec.name

    async def begin(self) -> Incarnation:
        """Take what it needs to live, and make the next incarnation.

        Raises:
          SessionExists: its name is taken.
          ConfigurationError: an option is not valid.
          SupervisorError: a registry raised.
        """
        # Before the name is taken, which may have to wait: so that a start can be called off then.
        incarnation = self.incarnation = Incarnation(self.number)
        try:
            await self._open()
        except BaseException:
            self.incarnation = None
            raise
        return incarnation

    def cancel_retry(self) -> Sequence[Child]:
        """Don't start it again by itself; gives those that waited for it."""
        retry, self.retry = self.retry, None
        if retry is None:
            return ()
        retry.delay.cancel(reason="restart called off")
        return [child for child in retry.group if child is not self]

    @property
    @abstractmethod
    def status(self) -> Status:
        """Where it stands, as users see it."""

    @abstractmethod
    def set_status(self, status: Status) -> None:
        """Say where it stands."""

    @property
    @abstractmethod
    def resumed(self) -> bool:
        """Whether this incarnation continues what the one before was at."""

    @abstractmethod
    def keep_conversation(self) -> None:
        """Let the next incarnation continue what this one did: it ends for no fault of its own."""

    @abstractmethod
    def forget_conversation(self) -> None:
        """Let the next incarnation continue nothing."""

    @abstractmethod
    async def _open(self) -> None: ...

    @abstractmethod
    async def main(self, incarnation: Incarnation) -> None:
        """What an incarnation does."""

    @abstractmethod
    async def close(self, cause: Exception | None) -> None:
        """Give back what :meth:`begin` took, and let nobody wait. May be called again.

        Args:
          cause: what it crashed of, if that is why.

        Raises:
          SupervisorError: a registry raised; all else was done.
        """

    async def forget(self, cause: Exception | None) -> None:
        """As :meth:`close`, for ever."""
        await self.close(cause)


class SessionChild(Child):
    """A session: its inbox and handle, its name, its share of a connection."""

    kind = "session"

    def __init__(
        self,
        spec: SessionSpec,
        id: Hashable,  # noqa: A002
        defaults: Sequence[SessionOptions],
        connections: Connections,
    ) -> None:
        super().__init__(spec, id)
        self._options_given = spec
        self._inherited: SessionOptions | None = None
        self._backend = _backend(spec)
        self._defaults = defaults
        self._connections = connections
        self._shared: Shared | None = None
        self._named = False
        self.inbox = Inbox(spec.name, id, LIBRARY_DEFAULTS)
        self._inherit()
        self.handle = SessionHandle(self.inbox)

    def _inherit(self) -> None:
        """Take what the application and the environment say now."""
        inherited_now = inherited()
        if inherited_now is not self._inherited:
            self._inherited = inherited_now
            self.inbox.options = merge(self._options_given, *self._defaults, inherited_now)

    @property
    def status(self) -> Status:
        return self.inbox.status

    def set_status(self, status: Status) -> None:
        self.inbox.status = status

    async def _open(self) -> None:
        self.inbox.open()
        if self.number > 1:
            self._inherit()
        if not self._named:
            await register_session(self.handle)
            self._named = True
        if self._shared is None or self._shared.failed:
            self._shared = self._connections.use(self._backend)

    @property
    def resumed(self) -> bool:
        return self.inbox.resumed

    def keep_conversation(self) -> None:
        self.inbox.keep_conversation()

    def forget_conversation(self) -> None:
        self.inbox.forget_conversation()

    async def begin(self) -> Incarnation:
        self.inbox.incarnation = await super().begin()
        return self.inbox.incarnation

    @trio.lowlevel.disable_ki_protection  # from here on it is the backend's code
    async def main(self, incarnation: Incarnation) -> None:
        assert self._shared is not None
        await Session(self.inbox, incarnation, await self._shared.connection()).run()

    async def close(self, cause: Exception | None) -> None:
        self.inbox.close(cause)
        if self._named:
            self._named = False
            await unregister_session(self.handle)

    async def forget(self, cause: Exception | None) -> None:
        shared, self._shared = self._shared, None
        if shared is not None:
            self._connections.leave(shared)
        await super().forget(cause)


class SupervisorChild(Child):
    """A supervisor below this one."""

    kind = "supervisor"

    def __init__(
        self,
        spec: SupervisorSpec,
        id: Hashable,  # noqa: A002
        main: Callable[[SupervisorSpec, Incarnation], Awaitable[None]],
    ) -> None:
        super().__init__(spec, id)
        self._status: Status = "starting"
        self._main = partial(main, spec)

    @property
    def status(self) -> Status:
        return self._status

    def set_status(self, status: Status) -> None:
        self._status = status

    @property
    def resumed(self) -> bool:
        return False

    def keep_conversation(self) -> None:
        """It has none of its own."""

    def forget_conversation(self) -> None:
        """It has none of its own."""

    async def _open(self) -> None:
        """Its name is taken by the supervisor that runs in it."""

    async def main(self, incarnation: Incarnation) -> None:
        await self._main(incarnation)

    async def close(self, cause: Exception | None) -> None:
        """Nobody waits for it, and its name is gone with the supervisor in it."""


_BY_NAME: dict[object, Backend] = {"messages": MessagesBackend(), "cli": CLIBackend()}


def _backend(spec: SessionSpec) -> BackendLike:
    if spec.backend is None:
        return _BY_NAME["messages"]
    return _BY_NAME[spec.backend] if isinstance(spec.backend, str) else spec.backend
