"""Where supervisors begin and end: the block, its nursery, and which error leaves it.

The nursery is hidden. What leaves the block is, in this order: what no library may answer, such as
a KeyboardInterrupt; the supervisor's own failure, from what caused it; the body's own exception,
the very object; Cancelled, if the surroundings were cancelled. Never a group made by the nursery:
no task in it raises anything but Cancelled, so that no scope of ours is ever cancelled by an error.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Literal, Unpack

import attrs
import trio

from .._errors import RestartIntensityExceeded
from .._options import BackendLike, Overrides, SessionOptions, SessionSpec
from .._session.context import current_run
from .._session.inbox import Inbox
from .._validation import refuse_unknown
from .child import Child, SessionChild, SupervisorChild
from .control import Control
from .events import SupervisorEvent, log_event
from .names import register_supervisor, unregister_supervisor
from .spec import SupervisorSpec
from .supervisor import Supervisor

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Hashable, Iterable, Sequence

    from .._session.handle import SessionHandle
    from .._session.incarnation import Incarnation
    from .policy import AutoShutdown, Backoff, Strategy


def open_supervisor(
    specs: Iterable[SessionSpec | SupervisorSpec] = (),
    *,
    name: Hashable | None = None,
    strategy: Strategy = "one_for_one",
    max_restarts: int = 3,
    max_seconds: float = 5.0,
    auto_shutdown: AutoShutdown = "never",
    max_sessions: int | None = None,
    backoff: Backoff | None = None,
    defaults: SessionOptions | None = None,
    on_event: Callable[[SupervisorEvent], None] | None = None,
) -> AbstractAsyncContextManager[Supervisor]:
    """Run a supervisor for the length of a block.

    Entering starts the sessions in order and waits for each; if one fails, those before it are
    stopped in reverse order, and its exception is raised as it was, with a note that names it.
    Leaving stops all sessions, last started first, each with its ``shutdown`` seconds of grace. If
    the surroundings are cancelled, all are stopped in that order without grace, and nothing is
    started again.

    Args:
      specs: the first children, in start order.
      name: for :func:`get_supervisor`; unique among the supervisors of the run.
      strategy: who is restarted along with a session that crashed: ``"one_for_one"`` nobody,
        ``"one_for_all"`` all, ``"rest_for_one"`` those started after it.
      max_restarts: how many restarts are done ...
      max_seconds: ... within so many seconds.
      auto_shutdown: whether the supervisor ends when ``"any_significant"`` or
        ``"all_significant"`` sessions have ended by themselves; the block is then cancelled, and
        ends without an error.
      max_sessions: the most sessions that may run or be restarting.
      backoff: delays before restarts; OTP has none.
      defaults: options for all sessions below, where their specs say nothing.
      on_event: called with each :class:`SupervisorEvent`; must not block. Default: the log.

    Raises:
      ConfigurationError: an argument is not valid; raised by the call, before the block.
      SessionExists: the supervisor's name, or a session's, is taken.
      UsageError: entered outside of a Trio run.
      RestartIntensityExceeded: more restarts were needed than are allowed. The block is cancelled;
        ``__cause__`` is a group of the last crash and of the body's error, if there is one.
      SupervisorError: the supervisor itself failed, from the cause.
      Exception: the body's own, the very object, never inside a group.
    """
    spec = SupervisorSpec(
        specs=specs,
        name=name,
        strategy=strategy,
        max_restarts=max_restarts,
        max_seconds=max_seconds,
        auto_shutdown=auto_shutdown,
        max_sessions=max_sessions,
        backoff=backoff,
        defaults=defaults,
        on_event=on_event,
    )
    return open_from_spec(spec, (), log_event)


async def run_supervisor(
    specs: Iterable[SessionSpec | SupervisorSpec] = (),
    *,
    name: Hashable | None = None,
    strategy: Strategy = "one_for_one",
    max_restarts: int = 3,
    max_seconds: float = 5.0,
    auto_shutdown: AutoShutdown = "never",
    max_sessions: int | None = None,
    backoff: Backoff | None = None,
    defaults: SessionOptions | None = None,
    on_event: Callable[[SupervisorEvent], None] | None = None,
    task_status: trio.TaskStatus[Supervisor] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run a supervisor until it is cancelled, or ends by itself.

    For :meth:`trio.Nursery.start`, which then gives the :class:`Supervisor`, once all of its first
    sessions are ready. Returns when ``auto_shutdown`` has ended it. Arguments and errors are those
    of :func:`open_supervisor`.
    """
    async with open_supervisor(
        specs,
        name=name,
        strategy=strategy,
        max_restarts=max_restarts,
        max_seconds=max_seconds,
        auto_shutdown=auto_shutdown,
        max_sessions=max_sessions,
        backoff=backoff,
        defaults=defaults,
        on_event=on_event,
    ) as supervisor:
        task_status.started(supervisor)
        await trio.sleep_forever()


def open_session(
    *,
    name: Hashable | None = None,
    backend: BackendLike | Literal["messages", "cli"] | None = None,
    shutdown: float = 5.0,
    **options: Unpack[Overrides],
) -> AbstractAsyncContextManager[SessionHandle]:
    """Run one session without a supervisor for the length of a block.

    Nothing is started again: after a crash, the turn in flight has raised
    :class:`SessionCrashed`, and every later call raises :class:`SessionTerminated` from the cause.
    A crash that no caller was told of is raised where the block ends.

    Args:
      name: under which it is found from anywhere in the run.
      backend: what answers its turns; default ``"messages"``.
      shutdown: seconds that a turn in flight has to finish when the block is left.
      options: those of :class:`SessionOptions`.

    Raises:
      ConfigurationError: an option is unknown or invalid; raised by the call, before the block.
      Exception: whatever its start failed of, as it was raised.
      SessionCrashed: it crashed while no turn was in flight; raised at the block's end.
    """
    refuse_unknown(SessionOptions, options)
    return _open_session(
        SessionSpec(name=name, backend=backend, shutdown=shutdown, restart="temporary", **options)
    )


@asynccontextmanager
async def _open_session(spec: SessionSpec) -> AsyncIterator[SessionHandle]:
    async with open_supervisor() as supervisor:
        handle = await supervisor.start_session(spec)
        yield handle
        inbox = handle._target
        assert isinstance(inbox, Inbox)
        inbox.raise_untold_crash()


# Protected, so that a Ctrl-C comes where this waits, or in the block, and not between two lines.
@asynccontextmanager
@trio.lowlevel.enable_ki_protection
async def open_from_spec(
    spec: SupervisorSpec,
    defaults: Sequence[SessionOptions],
    on_event: Callable[[SupervisorEvent], None],
) -> AsyncIterator[Supervisor]:
    """The block of one supervisor; ``defaults`` and ``on_event`` are those of the one above."""
    current_run()  # refuses whoever is in none
    body_error: BaseException | None = None
    nursery_error: BaseException | None = None
    control: Control | None = None
    named = False
    if spec.defaults is not None:
        defaults = (spec.defaults, *defaults)
    if spec.on_event is not None:
        on_event = spec.on_event
    try:
        async with trio.open_nursery() as nursery:
            control = Control(spec, nursery, on_event)
            make_session = partial(_make_session, control, defaults)
            supervisor = Supervisor(control, make_session)
            try:
                children: list[Child] = [
                    make_session(child)
                    if isinstance(child, SessionSpec)
                    else SupervisorChild(child, _id(child), partial(_run_below, defaults, on_event))
                    for child in spec.specs
                ]
                if spec.name is not None:
                    register_supervisor(spec.name, supervisor)
                    named = True
                nursery.start_soon(control.run, children)
                await control.started.wait()
                if not control.has_failed:
                    with control.body:
                        yield supervisor
            except BaseException as exc:
                # Kept, not swallowed: it is raised again below, outside of the nursery.
                body_error = exc
            control.leave()
    except BaseException as exc:
        nursery_error = exc
    finally:
        if named:
            unregister_supervisor(spec.name)
    try:
        if control is None:  # a Ctrl-C before there was anything
            assert nursery_error is not None
            raise _fatal(nursery_error)
        _raise_outcome(control, body_error, nursery_error)
    finally:
        del body_error, nursery_error  # their tracebacks have this frame


def _raise_outcome(
    control: Control, body: BaseException | None, nursery: BaseException | None
) -> None:
    """Raise what the block ends with, if it is an error; see the top of this file."""
    own = None if body is None else _without_cancelled(body)
    foreign = None if nursery is None else _without_cancelled(nursery)
    if own is not None and not isinstance(own, Exception):
        assert body is not None
        raise body
    for fatal in (control.fatal, foreign):
        if fatal is not None and not isinstance(fatal, Exception):
            raise _fatal(fatal)
    if control.start_error is not None:
        raise control.start_error
    if control.failure is not None:
        causes = [cause for cause in (control.failure_cause, own) if isinstance(cause, Exception)]
        if len(causes) > 1 or isinstance(control.failure, RestartIntensityExceeded):
            raise control.failure from ExceptionGroup("what the supervisor failed of", causes)
        raise control.failure from control.failure_cause
    if body is not None:
        raise body
    if nursery is not None:
        raise _fatal(nursery)


def _without_cancelled(error: BaseException) -> BaseException | None:
    """The error without what Trio cancels by, or None if nothing else is in it."""
    if isinstance(error, trio.Cancelled):
        return None
    if isinstance(error, BaseExceptionGroup):
        return error.split(trio.Cancelled)[1]
    return error


def _fatal(error: BaseException) -> BaseException:
    """Of a group, the first in it that is no Exception: what a program can answer by its type."""
    while isinstance(error, BaseExceptionGroup):
        inside = error.exceptions
        error = next((exc for exc in inside if not isinstance(exc, Exception)), inside[0])
    return error


def _make_session(
    control: Control, defaults: Sequence[SessionOptions], spec: SessionSpec
) -> SessionChild:
    return SessionChild(spec, _id(spec), defaults, control.connections)


@attrs.frozen(eq=False)
class _Unnamed:
    """The id of a child that has neither an id nor a name: equal to itself only."""

    def __repr__(self) -> str:
        return f"unnamed-{id(self):x}"


def _id(spec: SessionSpec | SupervisorSpec) -> Hashable:
    if spec.id is not None:
        return spec.id
    return _Unnamed() if spec.name is None else spec.name


async def _run_below(
    defaults: Sequence[SessionOptions],
    on_event: Callable[[SupervisorEvent], None],
    spec: SupervisorSpec,
    incarnation: Incarnation,
) -> None:
    """What a supervisor does as a child of another: run until it is asked to finish."""
    asked = trio.Event()
    async with open_from_spec(spec, defaults, on_event):
        incarnation.on_finish(asked.set)
        incarnation.set_ready()
        await asked.wait()
