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
from .question import Question

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from .._backends.base import Conversation


class Turn(Question):
    """One question, and how it is answered."""

    def __init__(self, prompt: str, overrides: SessionOptions | None = None) -> None:
        super().__init__()
        self.prompt = prompt
        self._overrides = overrides
        self._scope = trio.CancelScope()
        # How the two sides meet: the answer and that it is there; the end of reading it, and why.
        self._answer: Answer | None = None
        self._begun = trio.Event()
        self._reading = trio.CancelScope()
        self._found: ResultMessage | Exception | None = None
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

    async def _read(self) -> list[Event]:
        if not self._begun.is_set():
            await self._begun.wait()
        if self.ended:
            return []
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
