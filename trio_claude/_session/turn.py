"""One question in flight, and the stream of its answer.

A turn is where two tasks meet: the session's, which reads the backend, and the caller's, which
reads the stream. How it ends is decided once, by the session's side, and the caller learns it by
reading to the end. The order matters at exactly one place, the end of a turn that succeeds:

1. the session hands over the :class:`ResultMessage`, still inside the backend's block;
2. the caller has it, but doesn't return it yet: it waits for the verdict;
3. the session leaves the backend's block, where the conversation takes the turn into its memory,
   and gives the verdict in the same breath.

So a turn is remembered if and only if its caller got the result: a caller that was cancelled
before 1 has it nowhere, and one that got there can't be cancelled any more before 3. Whatever else
ends a turn, such as an interruption, comes before 3, and then it ends the turn for both; or after.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Literal

import trio

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
        # Size 0: the reader's pace is the pace at which the backend is read.
        self._send, self._receive = trio.open_memory_channel[Event](0)
        self._scope = trio.CancelScope()
        self._intent: Literal["interrupted", "abandoned"] | None = None
        self._seen: list[Event] = []  # since the last whole message, for QueryError.partial
        self._caller = self._reader = trio.lowlevel.current_task()
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
        self._send.close()

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
                await self._answer(conversation, options)
        except (QueryError, ConfigurationError) as exc:
            error = exc  # the caller's alone: this turn failed, or its options did
        except BaseException as exc:
            self.end(lost(exc))
            raise
        if self.result is not None:
            self.end(None)
            return
        error = self._failure(options, error)
        if isinstance(error, QueryError) and error.partial is None:
            error.partial = partial_message(self._seen)
        note = f"in a turn of session {who!r}"
        if note not in getattr(error, "__notes__", ()):  # one instance may be raised twice
            error.add_note(note)
        self.end(error)

    async def _answer(self, conversation: Conversation, options: SessionOptions) -> None:
        result: ResultMessage | None = None
        async with conversation.turn(self.prompt, options) as events:
            async for event in events:
                if isinstance(event, AssistantMessage):
                    self._seen.clear()
                self._seen.append(event)
                if not isinstance(event, ResultMessage):
                    await self._send.send(event)
                    continue
                if event.is_error:
                    raise ResultError(
                        f"the agent reported {event.subtype!r}: {event.result}", result=event
                    )
                await self._send.send(event)
                result = event
                break
            else:
                raise StreamInterrupted("the answer ended without a result")
        self.result = result  # None also where a backend's block swallows what is raised in it

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
        """The next event, for the stream."""
        self._reader = trio.lowlevel.current_task()
        event = None
        with contextlib.suppress(trio.EndOfChannel):
            event = await self._receive.receive()
        if event is None:
            self.raise_error()  # out here, so that its traceback begins with what happened
            raise trio.EndOfChannel
        if isinstance(event, ResultMessage):
            # Shielded, for the two sides agree here on whether the turn was one; and bounded by
            # the other side, which has nothing left to do but to leave the backend's block.
            with trio.CancelScope(shield=True):
                await self.wait()
        return event


class ResponseStream(trio.abc.ReceiveChannel[Event]):
    """The events of one turn, as they come; the last one is the :class:`ResultMessage`.

    Made by ``stream``. Reading sets the pace: while nobody reads, the answer waits at its source.
    After the result the stream ends; a turn that fails raises its error from ``receive``, each
    time that it is called. Cancelling ``receive`` loses no event.
    """

    def __init__(self, turn: Turn) -> None:
        self._turn = turn
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

    async def aclose(self) -> None:
        """End the turn, if it has not ended, and wait until it is off the session.

        What the conversation remembers is then as before the turn. If cancelled, the turn still
        ends, soon afterwards.
        """
        require_run(self._run, "this stream")
        self._closed = True
        self._turn.abandon()
        await self._turn.wait_ended()


def _closed() -> trio.ClosedResourceError:
    return trio.ClosedResourceError("this stream is closed: its block was left")
