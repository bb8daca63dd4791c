"""What a supervisor reports, and where that goes by default: to the log."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

logger = logging.getLogger("trio_claude")


@attrs.frozen(kw_only=True)
class SupervisorEvent:
    """Something that a supervisor did or saw."""

    supervisor: Hashable | None
    """The supervisor's name."""

    time: float
    """When, on the clock of :func:`trio.current_time`, in seconds."""


@attrs.frozen(kw_only=True)
class SupervisorStarted(SupervisorEvent):
    """All of its children are ready; the block begins."""


@attrs.frozen(kw_only=True)
class SupervisorStopped(SupervisorEvent):
    """All of its children have been stopped."""

    reason: str
    """``"left"`` (the block was left), ``"cancelled"``, ``"intensity"`` (too many restarts),
    ``"auto_shutdown"``, ``"start_failed"`` or ``"failed"`` (the supervisor itself)."""


@attrs.frozen(kw_only=True)
class IntensityExceeded(SupervisorEvent):
    """More restarts than allowed are needed: the supervisor gives up."""

    session: Hashable
    """Who needed one too many."""

    cause: Exception | None
    """What it crashed of; None if it ended normally."""


@attrs.frozen(kw_only=True)
class SessionEvent(SupervisorEvent):
    """Something that happened to one session, or to a supervisor inside this one."""

    session: Hashable
    """Its name, or its id where it has no name."""

    incarnation: int
    """Which of its lives it was in: 1 is the first."""


@attrs.frozen(kw_only=True)
class SessionStarting(SessionEvent):
    """It is being started."""


@attrs.frozen(kw_only=True)
class SessionReady(SessionEvent):
    """It is up."""

    resumed: bool = False
    """Whether it continues the conversation that it had before it was restarted."""


@attrs.frozen(kw_only=True)
class SessionExited(SessionEvent):
    """It ended by itself: crashed, failed to start, or finished."""

    cause: Exception | None
    """What it crashed of; None if it finished normally."""

    uptime: float | None
    """Seconds that it was ready; None if it never was: its start failed."""


@attrs.frozen(kw_only=True)
class RestartScheduled(SessionEvent):
    """It will be started again."""

    delay: float
    """In so many seconds."""


@attrs.frozen(kw_only=True)
class SessionStopped(SessionEvent):
    """The supervisor stopped it: to terminate it, to restart it, or to end itself."""

    cause: Exception | None
    """What it raised while it was being stopped, if anything."""


def log_event(event: SupervisorEvent) -> None:
    """Write an event to the logger ``trio_claude``: trouble as a warning or error, the rest as
    info."""
    where = "" if event.supervisor is None else f"supervisor {event.supervisor!r}: "
    match event:
        case SessionExited(session=session, cause=None):
            logger.info("%ssession %r finished", where, session)
        case SessionExited(session=session, cause=cause, uptime=None):
            logger.warning("%ssession %r failed to start", where, session, exc_info=cause)
        case SessionExited(session=session, cause=cause):
            logger.warning("%ssession %r crashed", where, session, exc_info=cause)
        case SessionStopped(session=session, cause=Exception() as cause):
            logger.warning("%ssession %r failed while stopping", where, session, exc_info=cause)
        case IntensityExceeded(session=session):
            logger.error("%sgives up: too many restarts, last of session %r", where, session)
        case _:
            logger.info("%s%r", where, event)


def is_heard(kind: type[SupervisorEvent], on_event: Callable[[SupervisorEvent], None]) -> bool:
    """Whether an event of this kind reaches anybody. To make two events that nobody wants would
    be a twentieth of a session's start."""
    return on_event is not log_event or kind not in _NO_TROUBLE or logger.isEnabledFor(logging.INFO)


_NO_TROUBLE = (SessionStarting, SessionReady, RestartScheduled)
