"""What users read an answer from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from .._errors import Interrupted
from .._messages import Event
from .context import current_run, require_run

if TYPE_CHECKING:
    from .question import Question


class ResponseStream(trio.abc.ReceiveChannel[Event]):
    """The events of one turn, as they come; the last one is the :class:`ResultMessage`.

    Made by ``stream``. Reading sets the pace: while nobody reads, the answer waits at its source;
    but for the ``claude`` program's, which are kept here, for what it asks meanwhile is answered.
    After the result the stream ends; a turn that fails raises its error from ``receive``, each
    time that it is called. Cancelling ``receive`` loses no event.
    """

    def __init__(self, question: Question) -> None:
        self._question = question
        self._ready = question.ready
        self._closed = False
        self._run = current_run()

    def __repr__(self) -> str:
        state = "ended" if self._question.ended else "closed" if self._closed else "open"
        return f"<ResponseStream {state}>"

    async def receive(self) -> Event:
        """The next event; blocks until there is one.

        Raises:
          trio.EndOfChannel: the result was received before.
          trio.ClosedResourceError: the stream was closed, or its block was left.
          QueryError: the turn failed.
          SessionCrashed, SessionRestarted, SessionTerminated: the session went away in this turn.
          UsageError: called from another run.
        """
        if self._ready:
            await trio.lowlevel.checkpoint_if_cancelled()
            return self._ready.popleft()
        require_run(self._run, "this stream")
        if self._closed:
            await trio.lowlevel.checkpoint()
            raise _closed()
        try:
            return await self._question.receive()
        except Interrupted:
            if self._closed:  # by another task, meanwhile
                raise _closed() from None
            raise

    async def __anext__(self) -> Event:
        # What `async for` calls. To give an event that has come already costs 0.4 µs, which Trio's
        # own way, by `receive`, makes 0.6. Half of it is the check for cancellation: a body that
        # cancels its own scope, and awaits nothing, is to get no event more.
        if self._ready:
            await trio.lowlevel.checkpoint_if_cancelled()
            return self._ready.popleft()
        try:
            return await self.receive()
        except trio.EndOfChannel:
            raise StopAsyncIteration from None

    async def aclose(self) -> None:
        """End the turn, if it has not ended, and wait until it is off the session.

        What the conversation remembers is then as before the turn. If cancelled, the turn still
        ends, soon afterwards.
        """
        require_run(self._run, "this stream")
        self._closed = True
        self._ready.clear()
        self._question.abandon()
        await self._question.wait_ended()


def _closed() -> trio.ClosedResourceError:
    return trio.ClosedResourceError("this stream is closed: its block was left")
