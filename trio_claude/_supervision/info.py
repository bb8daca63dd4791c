"""What a supervisor tells about its sessions and itself: frozen snapshots."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from collections.abc import Hashable

    from .._options import RestartType
    from .._session.handle import SessionHandle
    from .._session.target import Status


@attrs.frozen(kw_only=True)
class SessionInfo:
    """One session of a supervisor, as it was when this was asked for."""

    id: Hashable
    """Its id with its supervisor."""

    name: Hashable | None
    """Its name, or None."""

    status: Status
    """``"starting"``, ``"running"``, ``"restarting"`` or ``"stopped"``."""

    restart: RestartType
    """Its restart type."""

    incarnation: int
    """Which of its lives it is in: 1 is the first."""

    restarts: int
    """How often it was started again, by itself or on request."""

    started_at: float | None
    """When this incarnation was ready, on the clock of :func:`trio.current_time`, in seconds;
    None if it is not up."""

    last_error: Exception | None
    """What its last end, or its last start, failed of; None if that was normal."""

    waiting: int
    """How many callers wait in line for it."""

    handle: SessionHandle
    """For asking it."""


@attrs.frozen(kw_only=True)
class SupervisorStatistics:
    """A supervisor, as it was when this was asked for."""

    specs: int
    """Children that it knows, up or not; supervisors among them."""

    supervisors: int
    """Children that are supervisors themselves."""

    active: int
    """Children that run."""

    restarting: int
    """Children that are about to be started again."""

    restarts: int
    """Automatic restarts that succeeded since its own start."""

    recent_restarts: int
    """Entries in the window of ``max_seconds``."""

    gave_up: bool
    """Whether it has given up, because one restart too many was needed."""
