"""Asking a session by its name, from anywhere in the run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Unpack

from .._session.handle import SessionHandle
from .names import asked_session

if TYPE_CHECKING:
    from collections.abc import Hashable
    from contextlib import AbstractAsyncContextManager

    from .._messages import ResultMessage
    from .._options import Overrides
    from .._session.stream import ResponseStream


async def query(
    target: SessionHandle | Hashable, prompt: str, **overrides: Unpack[Overrides]
) -> ResultMessage:
    """Ask a session, and wait for the whole answer: :meth:`SessionHandle.query` by name.

    Args:
      target: the session's name, or its handle.
      prompt: what to ask; text that is not empty.
      overrides: options that hold for this turn only.

    Raises:
      SessionNotFound: no session has this name.
      TrioClaudeError: as :meth:`SessionHandle.query`.
    """
    return await _handle(target).query(prompt, **overrides)


def stream(
    target: SessionHandle | Hashable, prompt: str, **overrides: Unpack[Overrides]
) -> AbstractAsyncContextManager[ResponseStream]:
    """Ask a session, and receive its answer as it comes: :meth:`SessionHandle.stream` by name.

    Args:
      target: the session's name, or its handle.
      prompt: what to ask; text that is not empty.
      overrides: options that hold for this turn only.

    Raises:
      SessionNotFound: no session has this name.
      TrioClaudeError: as :meth:`SessionHandle.stream`.
    """
    return _handle(target).stream(prompt, **overrides)


def _handle(target: SessionHandle | Hashable) -> SessionHandle:
    return target if isinstance(target, SessionHandle) else asked_session(target)
