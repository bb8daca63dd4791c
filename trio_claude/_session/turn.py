"""One question in flight, and the stream of its answer.

A turn is where two tasks meet: the session's, which is in the backend's block, and the caller's,
which reads the stream. To hand each event from one to the other costs more than all else that is
done to it, so the backend's channel is lent to the caller, who reads it in its own task while the
session's attends to it (:class:`~trio_claude._backends.base.Answer`; for a channel of another kind
the session's task reads, and hands over: :class:`_Pump`).

How a turn ends is decided once, by the session's side, and the caller learns it by reading to the
end. What the caller finds while it reads (the result, or an error) it reports, and the session's task
leaves the backend's block with that; what ends the turn from outside makes the session's task
leave the block, and that ends the caller's reading. The order matters at exactly one place,
the end of a turn that succeeds:

1. the caller receives the :class:`ResultMessage` and reports it, in the same breath;
2. the caller doesn't return it yet: it waits for the verdict, and can't be cancelled any more;
3. the session leaves the backend's block, where the conversation takes the turn into its memory,
   and gives the verdict in the same breath.

So a turn is remembered if and only if its caller got the result. Whatever else ends a turn, such as
an interruption, comes before 3, and then it ends the turn for both; or after.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Literal, final

import trio

from .._backends.base import Answer
from .._errors import (
    ConfigurationError,
    Interrupted,
    QueryError,
    QueryTimeout,
    ResultError,
    StreamInterrupted,
    TrioClaudeError,
)
from .._messages import AssistantMessage, Event, ResultMessage, partial_message
from .._options import SessionOptions, merge
from .context import current_run, require_run

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from .._backends.base import Conversation


class Request:
    """Something that a caller asks of a session, with exactly one outcome."""

    def __init__(self) -> None:
        self.on_end: Callable[[], None] = _nobody_to_tell
        """Called when there is an outcome, in the same breath."""
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


class Turn(Request):
    """One question, and how it is answered."""

    def __init__(self, prompt: str, overrides: SessionOptions | None = None) -> None:
        super().__init__()
        self.prompt = prompt
        self._overrides = overrides
        self._scope = trio.CancelScope()
        self._intent: Literal["interrupted", "abandoned"] | None = None
        self._caller = self._reader = trio.lowlevel.current_task()
        # How the two sides meet: the answer and that it is there; the end of reading it, and why.
        self._answer: Answer | None = None
        self._begun = trio.Event()
        self._reading = trio.CancelScope()
        self._found: ResultMessage | Exception | None = None
        self._lock = trio.Lock()  # one task reads at a time
        self.ready: deque[Event] = deque()
        """Received, and not yet given to the user."""
        self.result: ResultMessage | None = None
        """What it ended with, once it is whole."""

    def options(self, session: SessionOptions) -> SessionOptions:
        """What holds for this turn, in a session with these options."""
        if self._overrides is None:
            return session
        return merge(self._overrides, session)

    # ---- the session's side ----

    def end(self, error: TrioClaudeError | None) -> None:
        """Give the outcome, and let the reader see it."""
        super().end(error)
        self._begun.set()

    async def serve(
        self,
        conversation: Conversation,
        session: SessionOptions,
        who: Hashable,
        lost: Callable[[BaseException], TrioClaudeError],
    ) -> None:
        """Answer it. Returns when it has its outcome and the session can go on.

        Args:
          session: the options that hold for the session.
          who: how the session is called in messages.
          lost: gives the outcome if the session does not survive the turn, from what it dies of.

        Raises:
          Exception: what the session crashes of.
        """
        options = self.options(session)
        error: QueryError | ConfigurationError | None = None
        try:
            # The deadline is the turn's, not the caller's: a caller's own scope ends the turn too.
            assert options.timeout is not None
            self._scope.deadline = trio.current_time() + options.timeout
            with self._scope:
                await self._open(conversation, options)
        except (QueryError, ConfigurationError) as exc:
            error = exc  # the caller's alone: this turn failed, or its options did
        except BaseException as exc:
            self.end(lost(exc))
            raise
        if self.result is not None:
            self.end(None)
            return
        error = self._failure(options, error)
        note = f"in a turn of session {who!r}"
        if note not in getattr(error, "__notes__", ()):  # one instance may be raised twice
            error.add_note(note)
        self.end(error)

    async def _open(self, conversation: Conversation, options: SessionOptions) -> None:
        result = None
        async with conversation.turn(self.prompt, options) as channel:
            self._answer = channel if isinstance(channel, Answer) else _Pump(channel)
            self._begun.set()
            with self._reading:
                await self._answer.attend()
            result = self._result()
        self.result = result  # None where a block swallows what is raised in it

    def _result(self) -> ResultMessage:
        """What the reading ended with, or raise it."""
        if isinstance(self._found, Exception):
            raise self._found
        if self._found is None:
            raise StreamInterrupted("the answer ended without a result")
        if self._found.is_error:
            raise ResultError(
                f"the agent reported {self._found.subtype!r}: {self._found.result}",
                result=self._found,
            )
        return self._found

    def _failure(
        self, options: SessionOptions, error: QueryError | ConfigurationError | None
    ) -> QueryError | ConfigurationError:
        """What the turn ended with: what was meant first, then what happened."""
        failure: QueryError
        if self._intent is not None:
            failure = Interrupted(f"the turn was {self._intent}")
        elif self._scope.cancel_called:
            failure = QueryTimeout(
                f"the turn took longer than its timeout of {options.timeout:g} seconds"
            )
        elif error is not None:
            return error
        else:
            failure = StreamInterrupted("the backend ended the turn without a result")
        failure.__cause__ = error
        return failure

    # ---- everybody's ----

    def is_read_here(self) -> bool:
        """Whether it goes on only if the calling task reads on."""
        if self.ended or self._intent is not None:
            return False
        here = trio.lowlevel.current_task()
        if self._reader is here:
            return True
        # Whoever read it last is no task any more, so it is back with the one who asked.
        return self._caller is here and getattr(self._reader.coro, "cr_frame", None) is None

    def interrupt(self) -> None:
        """End the turn: its caller gets Interrupted."""
        self._cancel("interrupted")

    # ---- the caller's side ----

    def abandon(self) -> None:
        """End the turn: its caller doesn't read any further."""
        self._cancel("abandoned")

    def _cancel(self, intent: Literal["interrupted", "abandoned"]) -> None:
        if not self.ended and self._intent is None:
            self._intent = intent
            self._scope.cancel(reason=f"turn {intent}")

    async def receive(self) -> Event:
        """The next event, for the stream; for when none is ready."""
        try:
            self._lock.acquire_nowait()  # `async with` lets all other tasks run first
        except trio.WouldBlock:
            await self._lock.acquire()
        try:
            if not self.ready:
                await self._receive_some()
            return self.ready.popleft()
        finally:
            self._lock.release()

    async def _receive_some(self) -> None:
        self._reader = trio.lowlevel.current_task()
        if not self._begun.is_set():
            await self._begun.wait()
        if not self.ended:
            self.ready += await self._read()
        if not self.ready:
            self.raise_error()
            raise trio.EndOfChannel

    async def _read(self) -> list[Event]:
        """The next events; none where reading is at an end, and the outcome is there."""
        assert self._answer is not None
        if not self._reading.cancel_called:  # else a reader came to the end, and was cancelled
            try:
                events = await self._answer.receive_some()
            except trio.EndOfChannel:
                pass
            except Exception as exc:
                self._found = exc
            else:
                last = events[-1] if events else None
                if isinstance(last, ResultMessage):
                    self._found = last
                elif events and self._intent != "abandoned":
                    return events
            self._reading.cancel(reason="the answer has been read")
        # A result's is shielded, for the two sides agree here on whether the turn was one; and
        # bounded by the other side, which has nothing left to do but to leave the backend's block.
        with trio.CancelScope(shield=isinstance(self._found, ResultMessage)):
            await self.wait_ended()
        return [] if self.result is None else [self.result]

    def raise_error(self) -> None:
        """Raise the outcome if it is an error, with what has come of the answer."""
        error = self._error
        if isinstance(error, QueryError) and error.partial is None and self._answer is not None:
            error.partial = self._answer.partial()
        super().raise_error()


@final
class _Pump(Answer):
    """A channel that only the session's task may read: the events are handed over.

    What goes wrong is raised in the session's task, and takes its way from there.
    """

    def __init__(self, channel: trio.abc.ReceiveChannel[Event]) -> None:
        self._channel = channel
        # Size 0: the reader's pace is the pace at which the backend is read.
        self._send, self._receive = trio.open_memory_channel[Event](0)
        self._seen: list[Event] = []  # since the last whole message

    async def attend(self) -> None:
        with self._send:
            async for event in self._channel:
                if isinstance(event, AssistantMessage):
                    self._seen.clear()
                self._seen.append(event)
                await self._send.send(event)
                if isinstance(event, ResultMessage):
                    await trio.sleep_forever()  # until the reader has reported it

    async def receive_some(self) -> list[Event]:
        return [await self._receive.receive()]

    def partial(self) -> AssistantMessage | None:
        return partial_message(self._seen)


class ResponseStream(trio.abc.ReceiveChannel[Event]):
    """The events of one turn, as they come; the last one is the :class:`ResultMessage`.

    Made by ``stream``. Reading sets the pace: while nobody reads, the answer waits at its source;
    but for the ``claude`` program's, which are kept here, for what it asks meanwhile is answered.
    After the result the stream ends; a turn that fails raises its error from ``receive``, each
    time that it is called. Cancelling ``receive`` loses no event.
    """

    def __init__(self, turn: Turn) -> None:
        self._turn = turn
        self._ready = turn.ready
        self._closed = False
        self._run = current_run()

    def __repr__(self) -> str:
        state = "ended" if self._turn.ended else "closed" if self._closed else "open"
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
            return await self._turn.receive()
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
        self._turn.abandon()
        await self._turn.wait_ended()


def _closed() -> trio.ClosedResourceError:
    return trio.ClosedResourceError("this stream is closed: its block was left")
