"""One turn on the ``claude`` program: its lines as they come, and the events that are given out.

The program's output is read whether or not anybody reads the turn, for what it asks in between must
be answered. So a turn's events are kept here, without a limit, until they are taken.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, final

import trio

from ..._messages import AssistantMessage, Event, ResultMessage
from ..._wire.stream_json import TurnDecoder
from ..base import Answer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..._wire.jsonlines import JSONLine
    from ..._wire.results import CostLedger

# So many events are given out before other tasks get their turn.
_TOGETHER = 64


@final
class CLIAnswer(Answer, trio.abc.ReceiveChannel[Event]):
    """The events of one turn.

    Args:
      prompt_id: the id of the prompt that it answers.
      costs: of the conversation.
    """

    given: ResultMessage | None
    """The result, once it has been received."""

    remembered: bool
    """Whether the turn belongs to the conversation."""

    def __init__(self, prompt_id: str, costs: CostLedger) -> None:
        self.prompt_id = prompt_id
        self.given = None
        self.remembered = False
        self._decoder = TurnDecoder(prompt_id, costs)
        self._ready: deque[Event] = deque()
        self._news = trio.Event()
        self._ended = trio.Event()
        self._lost = trio.Event()
        self._failure: Exception | None = None
        self._closed = False

    # ---- the program's side: nothing here waits ----

    @property
    def ended(self) -> bool:
        """Whether the program has told its result."""
        return self._decoder.result is not None

    @property
    def last_id(self) -> str | None:
        """The id of the last message, by which the program finds the turn's end."""
        return self._decoder.last_id

    @property
    def session_id(self) -> str | None:
        """The program's id of the conversation, once it has said so."""
        return self._decoder.session_id

    def take(self, lines: Sequence[JSONLine]) -> None:
        """Take the lines that came together."""
        events: list[Event] = []
        for line in lines:
            self._decoder.feed(line, events)
        if not self._closed:
            self._ready += events
        self._news.set()
        if self.ended:
            self._ended.set()

    def fail(self, failure: Exception) -> None:
        """There will be no result, because of ``failure``; it is raised wherever the turn is."""
        if self._failure is None and not self.ended:
            self._failure = failure
            self._news.set()
            self._lost.set()

    async def wait_ended(self) -> None:
        """Wait until the program has told its result."""
        await self._ended.wait()

    # ---- the reader's side ----

    async def receive(self) -> Event:
        """The next event. If cancelled, none is lost.

        Raises:
          QueryError: the turn failed.
          ProcessError, ProtocolError: the program died, or wrote what cannot be read.
          trio.EndOfChannel: the result has been received.
          trio.ClosedResourceError: the turn's block has been left, or this was closed.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        await self._wait_ready()
        return self._give(1)[0]

    async def receive_some(self) -> list[Event]:
        """The next events that have come together."""
        await trio.lowlevel.checkpoint()
        await self._wait_ready()
        # The result is the last one, and goes by itself.
        before_result = len(self._ready) - isinstance(self._ready[-1], ResultMessage)
        return self._give(min(before_result, _TOGETHER) or 1)

    def _give(self, count: int) -> list[Event]:
        events = [self._ready.popleft() for _ in range(count)]
        if isinstance(events[-1], ResultMessage):
            self.given = events[-1]
        return events

    async def _wait_ready(self) -> None:
        while True:
            if self._closed:
                raise trio.ClosedResourceError("this turn is over: its block has been left")
            if self._ready:
                return
            failure = self._decoder.failure or self._failure
            if failure is not None:
                raise failure
            if self.ended:
                raise trio.EndOfChannel
            self._news = trio.Event()
            await self._news.wait()

    async def attend(self) -> None:
        """Wait for what makes an end of the turn though nobody may read it."""
        await self._lost.wait()
        assert self._failure is not None
        raise self._failure

    def partial(self) -> AssistantMessage | None:
        """What has come so far of the last message."""
        return self._decoder.partial()

    async def aclose(self) -> None:
        """Give out nothing any more; whoever receives gets ClosedResourceError."""
        self.hang_up()
        await trio.lowlevel.checkpoint()

    def hang_up(self) -> None:
        """As `aclose`, without a checkpoint."""
        self._closed = True
        self._ready.clear()
        self._news.set()
