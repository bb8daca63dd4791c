"""The task that decides: everything that changes in a supervisor is done by it, one after another.

It is what the process of OTP's ``supervisor.erl`` is, and works like it: a mailbox in the order of
arrival, with the exits of children, the calls of users, and its own reminders to try a start again
that has failed. Each message is an async function, and is done to its end before the next one. Two
things are not OTP's: reading never waits, for the state is there to be read by any task of the run;
and leaving is by cancellation.

To end, the control's loop is cancelled: by itself, when it gives up or shuts down; by the block,
when that is left; by the surroundings, when those are cancelled. It then stops the children in
reverse order: each with its grace, unless the surroundings were cancelled, then or meanwhile.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import TYPE_CHECKING

import trio

from .._errors import (
    ConfigurationError,
    RestartIntensityExceeded,
    SessionNotFound,
    SessionTerminated,
    SupervisorError,
)
from .._session.handle import SessionHandle
from .._validation import is_hashable
from .connections import Connections
from .events import (
    IntensityExceeded,
    SupervisorEvent,
    SupervisorStarted,
    SupervisorStopped,
    is_heard,
    logger,
)
from .names import there_are
from .roster import Roster

if TYPE_CHECKING:
    from .child import Child
    from .spec import SupervisorSpec


class Control:
    """One supervisor: its children, its mailbox, and how it ends."""

    def __init__(
        self,
        spec: SupervisorSpec,
        nursery: trio.Nursery,
        on_event: Callable[[SupervisorEvent], None],
    ) -> None:
        self.spec = spec
        self.roster = Roster(spec, nursery, self)
        self.connections = Connections(nursery, self._connection_broke_down)
        self.started = trio.Event()
        """Set when all children are up, or when it has ended without getting there."""
        self.accepting = True
        """Whether calls are taken."""
        self.ended = False
        self.gave_up = False
        self.body = trio.CancelScope()
        """The block's scope: cancelled when the supervisor ends before the block does."""
        self.start_error: Exception | None = None
        """What the first start of a child failed of."""
        self.failure: SupervisorError | None = None
        """What the block is to end with, and ..."""
        self.failure_cause: BaseException | None = None
        """... what that came from."""
        self.fatal: BaseException | None = None
        """What only the whole program can answer, such as KeyboardInterrupt in a child."""
        self._on_event = on_event
        self._loop = trio.CancelScope()
        self._reason = "left"
        self._send, self._mailbox = trio.open_memory_channel[Callable[[], Awaitable[None]]](
            float("inf")  # a child that reports its end must never have to wait
        )
        self._calls: set[Call] = set()
        self._warn_of_endless_restarts()

    def _warn_of_endless_restarts(self) -> None:
        spec, backoff = self.spec, self.spec.backoff
        if backoff is None or backoff.max_consecutive is not None:
            return
        if backoff.outlasts(self.roster.intensity):
            logger.warning(
                "supervisor %r: with this backoff one session can crash for ever: its restarts are "
                "too far apart to be %d within %g seconds; give the Backoff max_consecutive",
                spec.name,
                spec.max_restarts + 1,
                spec.max_seconds,
            )

    # ---- its life -------------------------------------------------------------------------------

    # A Ctrl-C must not hit the code that knows who is still there: it goes to the program's main
    # task. What users wrote is not protected by this: see SessionChild.main.
    @trio.lowlevel.enable_ki_protection
    async def run(self, children: Sequence[Child]) -> None:
        """Start the children, do what the mailbox says until told to end, stop the children.

        Raises nothing but Cancelled: failures are raised where the block ends.
        """
        try:
            with self._loop:
                await self._work(children)
            await self.roster.stop_all(graceful=True)
        except Exception as exc:  # a defect of ours; nobody may be left behind all the same
            self.fail(SupervisorError(f"the supervisor itself failed: {exc!r}"), exc)
            with trio.CancelScope(shield=True):
                await self.roster.stop_all(graceful=False)
        except BaseException:
            if self.accepting or self._reason == "left":
                self._reason = "cancelled"
            self._refuse_calls()
            with trio.CancelScope(shield=True):
                await self.roster.stop_all(graceful=False)
            raise
        finally:
            self._finish()

    async def _work(self, children: Sequence[Child]) -> None:
        self.start_error = await self.roster.start_first(children)
        if self.start_error is not None:
            self._end("start_failed")
            return
        self.emit(SupervisorStarted(supervisor=self.spec.name, time=trio.current_time()))
        self.started.set()
        async for message in self._mailbox:
            await message()
            del message  # it may be the last to know a temporary child

    def _refuse_calls(self) -> None:
        # At once, not when all is over: a session that has its grace may wait for such a call.
        self.accepting = False
        for call in self._calls:
            call.end(closed_error())

    def _finish(self) -> None:
        self.emit(
            SupervisorStopped(
                supervisor=self.spec.name, time=trio.current_time(), reason=self._reason
            )
        )
        self.ended = True
        self._send.close()
        self._mailbox.close()
        self.started.set()

    @property
    def has_failed(self) -> bool:
        """Whether the block is to end with an error of the supervisor's."""
        return any(error is not None for error in (self.fatal, self.start_error, self.failure))

    def leave(self) -> None:
        """Let it end, because the block was left."""
        self._end(self._reason)

    def _end(self, reason: str) -> None:
        if self.accepting:
            self._reason = reason
        self._refuse_calls()
        self.body.cancel(reason=f"the supervisor ended ({reason})")
        self._loop.cancel(reason=f"the supervisor ended ({reason})")

    # ---- what the children's ends may come to ---------------------------------------------------

    def post(self, message: Callable[[], Awaitable[None]]) -> None:
        """Have it done after all that is in the mailbox already; never blocks."""
        self._send.send_nowait(message)

    def hears(self, kind: type[SupervisorEvent]) -> bool:
        """Whether anybody would be told of an event of this kind."""
        return is_heard(kind, self._on_event)

    def emit(self, event: SupervisorEvent) -> None:
        """Report; if that fails, so has the supervisor."""
        try:
            self._on_event(event)
        except Exception as exc:
            self.fail(SupervisorError(f"on_event raised {exc!r} on {event!r}"), exc)
        except BaseException as exc:
            self.fail_fatally(exc)  # not raised here: the children still have to be stopped

    def shut_down(self) -> None:
        """End without an error, because of a significant child."""
        self._end("auto_shutdown")

    def fail(
        self, failure: SupervisorError, cause: BaseException | None, reason: str = "failed"
    ) -> None:
        """End, because the supervisor cannot go on. The first failure is the one."""
        if self.failure is None:
            self.failure, self.failure_cause = failure, cause
            self._end(reason)

    def fail_fatally(self, cause: BaseException) -> None:
        """End, because of what only the whole program can answer."""
        if self.fatal is None:
            self.fatal = cause
        self._end("failed")

    def give_up(self, child: Child, too_many: str) -> None:
        """End, because this child needs one restart too many (1.8)."""
        cause = child.last_error
        if cause is None:
            cause = SessionTerminated(f"{child.called!r} finished by itself", name=child.called)
        self.emit(
            IntensityExceeded(
                supervisor=self.spec.name,
                time=trio.current_time(),
                session=child.called,
                cause=child.last_error,
            )
        )
        self.gave_up = True
        failure = RestartIntensityExceeded(
            f"too many restarts: {child.called!r} needed {too_many}",
            name=self.spec.name,
            max_restarts=self.spec.max_restarts,
            max_seconds=self.spec.max_seconds,
        )
        self.fail(failure, cause, "intensity")

    def _connection_broke_down(self, cause: BaseException) -> None:
        if isinstance(cause, Exception):
            self.fail(SupervisorError(f"a backend's connection broke down: {cause!r}"), cause)
        else:
            self.fail_fatally(cause)

    # ---- calls ----------------------------------------------------------------------------------

    async def call(
        self, act: Callable[[Call], Awaitable[None]], abandon: Callable[[], None] | None = None
    ) -> None:
        """Have the control do something, and wait for what comes of it.

        Args:
          act: what to do. It is done even if the caller is cancelled meanwhile ...
          abandon: ... unless this is given: then the call is taken back, and this is called.
        """
        if not self.accepting:
            await trio.lowlevel.checkpoint()
            raise closed_error()
        call = Call(act)
        self._calls.add(call)
        self.post(call.run)
        try:
            await call.done.wait()
        except BaseException:
            if abandon is not None:
                call.abandoned = True
                abandon()
            raise
        finally:
            self._calls.discard(call)
        if call.error is not None:
            raise call.error

    def find(self, id: Hashable) -> Child:  # noqa: A002
        """The child with this id or, where there is none, with this name.

        Raises:
          SessionNotFound: there is neither.
        """
        if isinstance(id, SessionHandle):
            id = id.id  # noqa: A001 - what was meant
        if id is None or not is_hashable(id):
            raise ConfigurationError(f"an id or name must be hashable and not None, not {id!r}")
        children = self.roster.children
        child = children.get(id)
        if child is None:
            child = next((other for other in children.values() if other.spec.name == id), None)
        if child is None:
            known = there_are([child.called for child in children.values()])
            raise SessionNotFound(f"this supervisor has no session {id!r}; {known}")
        return child


class Call:
    """What somebody wants the control to do, and what came of it."""

    def __init__(self, act: Callable[[Call], Awaitable[None]]) -> None:
        self.done = trio.Event()
        self.error: Exception | None = None
        self.abandoned = False
        """Whether nobody waits for it any more, and it is not to be."""
        self._act = act

    async def run(self) -> None:
        """Do it."""
        if self.abandoned:
            return
        try:
            await self._act(self)
        except Exception as exc:
            self.end(exc)
        else:
            self.end(None)

    def end(self, error: Exception | None) -> None:
        """Give the outcome; only the first one counts."""
        if not self.done.is_set():
            self.error = error
            self.done.set()


def closed_error() -> trio.ClosedResourceError:
    """What calls of a supervisor get that has ended, or is about to."""
    return trio.ClosedResourceError("this supervisor has ended: its block was left")
