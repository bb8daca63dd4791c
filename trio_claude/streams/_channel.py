"""The one channel that every helper gives: what it picks out of the events of a source."""

from collections import deque
from collections.abc import AsyncIterable, Callable, Iterable
from typing import Generic, TypeVar, final, get_args

import trio

from .._errors import ConfigurationError, ResultError, StreamInterrupted
from .._messages import AssistantMessage, Event, ResultMessage, partial_message

_T = TypeVar("_T")

EVENTS: tuple[type[Event], ...] = get_args(Event)


@final
class Picked(trio.abc.ReceiveChannel[_T], Generic[_T]):
    """What ``pick`` takes from each event of a source.

    A class, and no generator: Trio warns of a generator that somebody has not read to its end.
    """

    def __init__(
        self,
        source: AsyncIterable[Event],
        pick: Callable[[Event], Iterable[_T]],
        *,
        stop_at_result: bool = False,
    ) -> None:
        if not hasattr(source, "__aiter__"):
            hint = "; enter it first: async with ... as events" * hasattr(source, "__aenter__")
            raise ConfigurationError(f"events must be a stream of events, not {source!r}{hint}")
        self._source = source
        self._events = aiter(source)
        self._pick = pick
        self._stop_at_result = stop_at_result
        self._ready: deque[_T] = deque()
        self._seen: list[Event] = []  # since the last whole message, for StreamInterrupted.partial
        # What one of these has let end is whole, though its ResultMessage may be filtered out.
        self._whole = isinstance(source, Picked)
        self._ended = False
        self._closed = False

    def __repr__(self) -> str:
        return f"<stream over {self._source!r}>"

    async def receive(self) -> _T:
        """The next one; blocks until there is one."""
        if self._closed:
            await trio.lowlevel.checkpoint()
            raise trio.ClosedResourceError("this stream is closed")
        if self._ready or self._ended:
            await trio.lowlevel.checkpoint()
        while not self._ready:
            if self._ended:
                raise trio.EndOfChannel
            try:
                event = await anext(self._events)
            except StopAsyncIteration:
                self._end()
            else:
                # No checkpoint from here on: what was received is kept.
                self._take(event)
        return self._ready.popleft()

    def _take(self, event: Event) -> None:
        if not isinstance(event, EVENTS):
            raise ConfigurationError(f"events must be a stream of events, and gave {event!r}")
        if isinstance(event, AssistantMessage):
            self._seen.clear()
        self._seen.append(event)
        if isinstance(event, ResultMessage):
            if event.is_error:
                raise ResultError(
                    f"the agent reported {event.subtype!r}: {event.result}",
                    result=event,
                    partial=partial_message(self._seen),
                )
            self._whole = True
            self._ended = self._stop_at_result
        self._ready.extend(self._pick(event))

    def _end(self) -> None:
        if not self._whole:
            message = "the stream ended without a ResultMessage"
            if not self._seen:
                message += ", and without any event: was it read before? A stream is read once"
            raise StreamInterrupted(message, partial=partial_message(self._seen))
        self._ended = True

    async def aclose(self) -> None:
        """Close it and its source; if cancelled, both are closed all the same."""
        self._closed = True
        self._ready.clear()
        for source in (self._events, self._source):
            aclose = getattr(source, "aclose", None)
            if aclose is not None:
                await aclose()
                return
        await trio.lowlevel.checkpoint()
