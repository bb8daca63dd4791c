"""What a caller asks of a session: something with exactly one outcome; a question is read besides.

This is the caller's side, and all of it that does not depend on where the session is. How a question
is answered by a session of this run says ``turn.py``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from typing import TYPE_CHECKING, Literal

import trio

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._errors import TrioClaudeError
    from .._messages import Event


class Request:
    """Something that a caller asks of a session, with exactly one outcome."""

    def __init__(self) -> None:
        self.on_end: Callable[[], None] = _nobody_to_tell
        """Called when there is an outcome, in the same breath."""
        self.is_taken = False
        """Whether an incarnation has taken it out of the line; who has put it may not know that yet."""
        self.told = False
        """Whether the one who asked was told that it failed."""
        self._ended = trio.Event()
        self._error: TrioClaudeError | None = None

    def end(self, error: TrioClaudeError | None) -> None:
        """Give the outcome; None is success. Only the first one counts."""
        if not self._ended.is_set():
            self._error = error
            self._ended.set()
            self.on_end()

    @property
    def ended(self) -> bool:
        """Whether there is an outcome."""
        return self._ended.is_set()

    async def wait(self) -> None:
        """Wait for the outcome, and raise it if it is an error."""
        # No checkpoint once there is an outcome: a cancellation would hide it.
        if not self._ended.is_set():
            await self._ended.wait()
        self.raise_error()

    async def wait_ended(self) -> None:
        """Wait until there is an outcome, whatever it is."""
        if not self._ended.is_set():
            await self._ended.wait()

    def raise_error(self) -> None:
        """Raise the outcome if it is an error."""
        if self._error is not None:
            self.told = True
            raise self._error


def _nobody_to_tell() -> None:
    """What a request that is in no line does when it ends."""


class Clear(Request):
    """The request to forget the conversation."""


class Question(Request, ABC):
    """One question, on the side of the one who asks it and reads the answer."""

    def __init__(self) -> None:
        super().__init__()
        self._intent: Literal["interrupted", "abandoned"] | None = None
        self._caller = self._reader = trio.lowlevel.current_task()
        self._lock = trio.Lock()  # one task reads at a time
        self.ready: deque[Event] = deque()
        """Received, and not yet given to the user."""

    def is_read_here(self) -> bool:
        """Whether it goes on only if the calling task reads on."""
        if self.ended or self._intent is not None:
            return False
        here = trio.lowlevel.current_task()
        if self._reader is here:
            return True
        # Whoever read it last is no task any more, so it is back with the one who asked.
        return self._caller is here and getattr(self._reader.coro, "cr_frame", None) is None

    async def receive(self) -> Event:
        """The next event, for the stream; for when none is ready."""
        try:
            self._lock.acquire_nowait()  # `async with` lets all other tasks run first
        except trio.WouldBlock:
            await self._lock.acquire()
        try:
            if not self.ready:
                self._reader = trio.lowlevel.current_task()
                self.ready += await self._read()
                if not self.ready:
                    self.raise_error()
                    raise trio.EndOfChannel
            return self.ready.popleft()
        finally:
            self._lock.release()

    @abstractmethod
    async def _read(self) -> list[Event]:
        """The next events; none where reading is at an end, and the outcome is there.

        If cancelled, none is lost.
        """

    @abstractmethod
    def abandon(self) -> None:
        """End it: its caller doesn't read any further."""
