"""From where a call comes: from which run, and from inside which sessions.

A session that waits for its own end, or for a supervisor that waits for it, would wait for ever.
So each incarnation marks the context of its task, and the calls that wait look for that mark.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING

import trio

from .._errors import UsageError

if TYPE_CHECKING:
    from .incarnation import Incarnation

# The incarnations whose code this is, outermost first: a supervisor's own, then its session's.
lives: ContextVar[tuple[Incarnation, ...]] = ContextVar("trio_claude lives", default=())


def current_run() -> trio.lowlevel.TrioToken:
    """The run that this is called in.

    Raises:
      UsageError: there is none.
    """
    try:
        return trio.lowlevel.current_trio_token()
    except RuntimeError as exc:  # Trio's own word for "not in a run"
        raise UsageError(
            "this works inside a Trio run only: call it from a task of trio.run(), "
            "from another thread through trio.from_thread.run()"
        ) from exc


def require_run(token: trio.lowlevel.TrioToken, whose: object) -> None:
    """Raise UsageError, with ``whose`` in its text, unless this is called in the run that
    ``token`` belongs to."""
    if current_run() is not token:
        raise UsageError(
            f"{whose} belongs to another Trio run: call it there, "
            "through trio.from_thread.run(..., trio_token=...)"
        )
