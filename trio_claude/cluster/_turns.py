"""A question that another process has put: a job that is told bit by bit, as it is asked on."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import trio

from .._messages import ResultMessage
from .._session.stream import ResponseStream
from .._wire.deltas import Delta
from ._jobs import Job
from ._wire import BATCH_SIZE, Said, loads, size_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .._messages import Event
    from .._session.question import Question

# So many small events travel together, at most.
_BATCH = 256


@final
class Turn(Job):
    """A question, and the reading of its answer."""

    _question: Question | None = None
    """What was put into the session's line."""
    _waits = False
    """Whether it has said so, so that it can be asked again should this process die."""
    _had_delta = False
    """Whether a delta was the last event that was read."""

    def _may_be_done(self) -> bool:
        taken = self._question is not None and self._question.is_taken
        if taken and self._waits:
            self._asker.take(self._request.number)
        return taken

    def _wait_in_line(self) -> None:
        if not self._waits:
            self._waits = True
            self.say(Said("waiting"))

    async def _do(self) -> Said:
        prompt, overrides, whole = self._request.args
        inbox = await self._inbox()
        options = {} if overrides is None else loads(overrides)
        question = inbox.new_question(prompt, options, whole=whole)
        self._let_pass()  # as above
        if not inbox.is_free():
            self._wait_in_line()
        self._question = question
        await inbox.put(question)
        self._taken = True
        if self._waits:
            self._asker.take(self._request.number)
        stream = ResponseStream(question)
        try:
            if whole:
                if self._waits:
                    self.say(Said("taken"))
                return Said("end", events=[await _result(stream)])
            self.say(Said("taken"))
            while True:
                events = await self._fill(stream, question)
                if events and isinstance(events[-1], ResultMessage):
                    return Said("end", events=events)
                if events:
                    await self._asked.wait()
                if events or self._unasked:
                    self._unasked = False
                    self.say(Said("events", events=events))
        finally:
            with trio.CancelScope(shield=True):  # the backends see to it that this doesn't last
                await stream.aclose()

    async def _fill(self, stream: ResponseStream, question: Question) -> Sequence[Event]:
        """The next events: those that have come until they are asked for, or are a batch.

        Nothing is read behind what is no delta before it is asked for: the result may be next, and
        with that the conversation has the turn, which its reader may still leave. Gives none where
        the reading was interrupted: it is asked for just now, or not any more.
        """
        if not self._had_delta:
            await self._asked.wait()
        events: list[Event] = []
        size = 0
        while len(events) < _BATCH and size < BATCH_SIZE and not self._unasked:
            if not question.ready:
                if events and (self._asked.is_set() or not isinstance(events[-1], Delta)):
                    break
                try:
                    with trio.CancelScope() as self._reading:
                        question.ready.appendleft(await stream.receive())
                except Exception:
                    if not events:
                        raise
                    break  # it comes behind these: the stream raises it each time
                if self._reading.cancelled_caught:
                    break
            events.append(question.ready.popleft())
            size += size_of(events[-1])
        if events:
            self._had_delta = isinstance(events[-1], Delta)
        return events


async def _result(stream: ResponseStream) -> Event:
    async for event in stream:
        if isinstance(event, ResultMessage):
            return event
    raise AssertionError("a stream ends with a result or raises")
