"""Asking a session by its name, from anywhere in the run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Unpack

from .._session.handle import SessionHandle, ask, read
from .names import asked_session

if TYPE_CHECKING:
    from collections.abc import Hashable
    from contextlib import AbstractAsyncContextManager

    from .._messages import ResultMessage
    from .._options import Overrides
    from .._session.stream import ResponseStream
    from .._session.target import Askable


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
    return await ask(_asked(target), prompt, overrides)


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
    asked = _asked(target)
    return read(asked, asked.new_question(prompt, overrides))


def _asked(target: SessionHandle | Hashable) -> Askable:
    return target._target if isinstance(target, SessionHandle) else asked_session(target)
