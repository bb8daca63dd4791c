"""Killing a session as a fault would."""

import trio

from .._errors import ConfigurationError, UsageError
from .._session.handle import SessionHandle
from .._session.inbox import Inbox


async def crash(handle: SessionHandle, exc: Exception | None = None) -> None:
    """Kill the session's running incarnation, as if ``exc`` had been raised inside of it.

    Returns once that has ended; what its supervisor makes of it comes afterwards. The turn in
    flight raises :class:`~trio_claude.SessionCrashed`. From inside the session's own turn it does
    not wait, and the crash comes at once. If cancelled, the session crashes all the same.

    Args:
      handle: the session.
      exc: what it is to die of; default: a RuntimeError that says it was on purpose.

    Raises:
      ConfigurationError: ``handle`` is none, or ``exc`` is no Exception.
      SessionTerminated: the session is stopped.
      UsageError: it has ended and is not up again yet; or it is of another run.
    """
    if not isinstance(handle, SessionHandle):
        raise ConfigurationError(f"handle must be a SessionHandle, not {handle!r}")
    inbox = handle._target
    if not isinstance(inbox, Inbox):
        raise UsageError(f"{inbox} is on another node: crash it in a task of its own run")
    if exc is None:
        exc = RuntimeError(f"session {inbox.called!r} was crashed on purpose")
    elif not isinstance(exc, Exception):
        raise ConfigurationError(f"exc must be an Exception, not {exc!r}")
    inbox.check_call(waits=False)
    await trio.lowlevel.checkpoint_if_cancelled()
    if handle.status == "stopped":
        raise inbox.gone()
    incarnation = inbox.incarnation
    if incarnation is None or incarnation.ended:
        raise UsageError(f"session {inbox.called!r} has ended, and is not up again yet")
    incarnation.crash(exc)
    if inbox.is_inside():
        await trio.lowlevel.checkpoint()
    else:
        await incarnation.wait_ended()
