"""One turn over the Messages API: requests, retries, watchdogs, and the events of the answer.

There is no task here. A turn goes in steps, each of which does one thing, and leaves behind what
tells the next one from: send a request, read a piece of its answer, or end the message, which is the
end of the turn or, if the service paused, leads to a further request. What goes wrong in a step is
answered in one place, by another request or by raising it.

Whoever receives reads the socket and decodes in place. That may be the task that is in the turn's
block, which then does all steps (`receive`); or another one, which only reads, for that can be
cancelled and goes on where it stood, while the first one does the other steps (`receive_some`
and `attend`). What is read at once, 32 KiB at most, is all that waits for a slow reader.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import trio

from ..._errors import APIError, StreamInterrupted
from ..._messages import AssistantMessage, Event, ResultMessage, Usage
from ..._wire.answers import AnswerDecoder, structured_output
from ..._wire.api_errors import cut_short, unreadable
from ..._wire.requests import (
    Raw,
    ask,
    carry_on,
    endpoint,
    max_retries,
    remember,
    request_body,
    request_headers,
)
from ..base import Answer
from .attempts import Attempts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..._options import SessionOptions
    from .backend import MessagesBackend
    from .http_client import HTTPClient, Response

# The service pauses an answer after some ten calls of its own tools; an answer that is paused more
# often than this is no answer any more.
_MAX_MESSAGES = 32

# For the task that receives to let go, once its scope is cancelled.
_LEAVE_SECONDS = 10.0

# So many events are given out before other tasks get their turn: a turn of theirs takes as long as
# some five events.
_TOGETHER = 64


@final
class StreamedAnswer(Answer, trio.abc.ReceiveChannel[Event]):
    """The events of one turn.

    Args:
      client: through which it is asked.
      backend: the settings.
      options: those of the turn.
      model: as the service knows it.
      user_agent: what is said of this program.
      session_id: the conversation's.
      history: the conversation so far.
      prompt: what the user says.
      started: when it was asked, on Trio's clock.
    """

    history: Sequence[Raw]
    """The conversation so far; with this turn in it, once its result has been received."""

    def __init__(
        self,
        *,
        client: HTTPClient,
        backend: MessagesBackend,
        options: SessionOptions,
        model: str,
        user_agent: str,
        session_id: str,
        history: Sequence[Raw],
        prompt: str,
        started: float,
    ) -> None:
        self.history = history
        self._client = client
        self._backend = backend
        self._options = options
        self._model = model
        self._session_id = session_id
        self._url = endpoint(options, "/v1/messages")
        self._headers = request_headers(options, user_agent)
        self._question = ask(history, prompt)

        # The turn so far: its whole messages.
        self._content: list[Raw] = []
        self._last: AssistantMessage | None = None
        self._usage = Usage()
        self._num_turns = 0
        self._started = started
        self._api_seconds = 0.0
        self._ended = False

        # The request at hand.
        self._begin_message()
        self._response: Response | None = None
        self._failure: APIError | None = None  # to be raised after what is ready
        self._ready: list[Event] = []

        # Who receives.
        self._lock = trio.Lock()
        self._scope = trio.CancelScope()
        self._closed = False
        self._lost = False
        self._wanted = trio.Event()  # a step that isn't reading
        self._done = trio.Event()  # that step

    def _begin_message(self) -> None:
        self._body = request_body(
            carry_on(self._question, self._content), self._model, self._options
        )
        self._attempts = Attempts(
            self._client,
            max_retries=max_retries(self._options),
            max_retry_after=self._backend.max_retry_after,
        )
        self._given = False  # whether anything of it has been given out

    # ---- as a channel ---------------------------------------------------------------------------

    async def ask(self) -> None:
        """Send the question. Returns when an answer has begun.

        Raises:
          APIError: none did.
        """
        while self._response is None:
            await self._step()

    async def receive(self) -> Event:
        """The next event.

        Cancelling it while it waits may lose the turn, for it also sends requests; what a reader may
        cancel is `receive_some`. An event that is already here is not lost.

        Raises:
          APIError: the turn failed.
          trio.EndOfChannel: the result has been received.
          trio.ClosedResourceError: the turn's block has been left, or this was closed.
          trio.BusyResourceError: another task is receiving.
        """
        self._check_open()
        # A batch is no larger than what the socket gave at once, and reading the socket lets
        # other tasks run; so here it is enough to let a cancellation through.
        await trio.lowlevel.checkpoint_if_cancelled()
        if not self._ready:
            await self._refill()
        return self._ready.pop(0)

    def _check_open(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError("this turn is over: its block has been left")

    async def _refill(self) -> None:
        if self._lost:
            raise StreamInterrupted(
                "this turn has failed already, or the receiving of one of its events was "
                "cancelled; what else it would have said is lost"
            )
        if self._ended:
            await trio.lowlevel.checkpoint()
            raise trio.EndOfChannel
        try:
            self._lock.acquire_nowait()
        except trio.WouldBlock:
            raise trio.BusyResourceError("another task is receiving this turn's events") from None
        try:
            with trio.CancelScope() as self._scope:
                while not self._ready:
                    await self._step()
        except BaseException:
            self._lost = True
            raise
        finally:
            self._lock.release()
        if self._scope.cancelled_caught:
            raise trio.ClosedResourceError("this turn was closed while it was being received")

    async def aclose(self) -> None:
        """End the turn: the connection is closed, and whoever receives gets ClosedResourceError.

        Safe to be called twice, and from another task. Waits, shielded, for no more than seconds.
        """
        await self.hang_up()
        await trio.lowlevel.checkpoint()

    async def hang_up(self) -> None:
        """As `aclose`, without a checkpoint if there is nothing left to do."""
        self._closed = True
        self._done.set()
        if self._lock.locked():
            self._scope.cancel()
            with trio.move_on_after(_LEAVE_SECONDS, shield=True):
                async with self._lock:
                    pass
        try:
            if self._ended and self._response is not None:
                await self._response.drain()
        finally:
            await self._end_request()

    # ---- as what is lent ------------------------------------------------------------------------

    async def receive_some(self) -> list[Event]:
        """The next events that have come together."""
        self._check_open()
        if self._ready:
            await trio.lowlevel.checkpoint()
        while not self._ready:
            if (response := self._readable()) is not None:
                try:
                    await self._read(response)
                except APIError as exc:
                    self._failure = exc
            elif self._is_whole():
                try:
                    self._end()
                except APIError as exc:
                    self._failure = exc
            else:
                self._done = trio.Event()
                self._wanted.set()
                await self._done.wait()
                self._check_open()
        events = self._ready[:_TOGETHER]
        del self._ready[:_TOGETHER]
        return events

    async def attend(self) -> None:
        """Do all steps but reading, when the one who reads is at an end with it."""
        while True:
            await self._wanted.wait()
            self._wanted = trio.Event()
            # Somebody who was cancelled while he waited may want it done twice.
            if self._readable() is None and not self._ended:
                await self._step()
            self._done.set()

    def partial(self) -> AssistantMessage | None:
        """What has come so far of the last message."""
        return self._decoder.message.partial() or self._last

    def _readable(self) -> Response | None:
        """The answer that is to be read now, if the next step is that."""
        if self._response is None or self._failure is not None or self._decoder.message.done:
            return None
        return self._response

    def _is_whole(self) -> bool:
        """Whether the answer is complete, and the next step is to say so."""
        if self._response is None or self._failure is not None:
            return False
        message = self._decoder.message
        return message.done and message.stop_reason != "pause_turn"

    # ---- the steps ------------------------------------------------------------------------------

    async def _step(self) -> None:
        try:
            if (response := self._readable()) is not None:
                await self._read(response)
            elif self._failure is not None:
                raise self._failure
            elif self._response is None:
                await self._begin_request()
            elif self._is_whole():
                self._end()
            else:
                await self._carry_on(self._response)
        except APIError as exc:
            failure = exc
        else:
            return
        await self._end_request()
        if self._given:
            self._attempts.give_up(failure)
        await self._attempts.wait_for_next(failure)

    async def _begin_request(self) -> None:
        response = await self._attempts.send("POST", self._url, self._headers, self._body)
        self._asked = trio.current_time()
        self._response = response
        self._decoder = AnswerDecoder(
            response.host,
            self._session_id if self._num_turns == 0 else None,
            self._backend.max_event_size,
        )
        self._patience = self._backend.progress_timeout

    async def _read(self, response: Response) -> None:
        """Read what has come, or wait for it. If cancelled, nothing is lost."""
        asked = trio.current_time()
        try:
            data = await response.receive_some(max(self._patience, 0.0))
        except trio.TooSlowError:
            raise cut_short(
                response.host,
                "nothing but pings came for as long as the progress_timeout of "
                f"{self._backend.progress_timeout:g} seconds allows",
            ) from None
        finally:
            # Counted here, so that a reader who takes its time doesn't use up the service's.
            self._patience -= trio.current_time() - asked
        decoder = self._decoder
        heard = decoder.message.heard
        if not data:
            kind = response.headers.get("content-type", "")
            if not heard and kind and "event-stream" not in kind:
                raise unreadable(
                    response.host, f"it is {kind}, not a stream of events; check base_url"
                )
            decoder.finish(self._ready)
        else:
            try:
                decoder.feed(data, self._ready)
            except APIError as exc:
                self._failure = exc
        if self._ready:
            self._given = True
        if decoder.message.heard > heard:
            self._patience = self._backend.progress_timeout

    async def _carry_on(self, response: Response) -> None:
        """Let the service go on with an answer that it paused."""
        await response.drain()
        await self._end_request()
        self._take_message()
        if self._num_turns == _MAX_MESSAGES:
            raise APIError(f"{response.host} paused its answer {_MAX_MESSAGES} times")
        self._begin_message()

    def _take_message(self) -> None:
        message = self._decoder.message
        self._num_turns += 1
        self._usage += message.usage
        self._content = self._content + message.content
        self._last = message.message

    def _end(self) -> None:
        """Give the result. The request is ended where the turn's block is left.

        Raises:
          APIError: it has not the form that was asked for.
        """
        decoder = self._decoder.message
        output = None
        if self._options.output_format is not None:
            assert self._response is not None
            output = structured_output(
                self._response.host, decoder.message.text, decoder.stop_reason
            )
        self._take_message()
        now = trio.current_time()
        self.history = remember(self.history, self._question, self._content, decoder.stop_reason)
        self._ended = True
        self._ready.append(
            ResultMessage(
                result=decoder.message.text,
                stop_reason=decoder.stop_reason,
                num_turns=self._num_turns,
                session_id=self._session_id,
                usage=self._usage,
                duration_ms=round(1000 * (now - self._started)),
                duration_api_ms=round(1000 * (self._api_seconds + now - self._asked)),
                structured_output=output,
            )
        )

    async def _end_request(self) -> None:
        response, self._response = self._response, None
        self._failure = None
        if response is not None:
            self._api_seconds += trio.current_time() - self._asked
            await response.aclose()
