"""A backend in memory, for tests: it answers what the test says, in the run's own time.

It keeps to what ``base`` asks of every backend, and passes the same checks as the others. With a
mock clock its pauses take no time at all.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from typing import TYPE_CHECKING, TypeAlias

import attrs
import trio

from .._errors import ConfigurationError
from .._messages import (
    AssistantMessage,
    Event,
    ResultMessage,
    SystemMessage,
    TextBlock,
    TextDelta,
    Usage,
)
from .._responder import answer as answer_from_conversation
from .base import Backend, Connection, Conversation

if TYPE_CHECKING:
    from .._options import SessionOptions

Step: TypeAlias = str | float | BaseException | Event
Answer: TypeAlias = str | BaseException | Iterable[Step]


@attrs.frozen
class ScriptedTurn:
    """One question that a :class:`ScriptedBackend` was asked."""

    prompt: str
    """What was asked."""

    history: tuple[tuple[str, str], ...]
    """The turns before it that the conversation remembers: what was asked, and answered."""

    options: SessionOptions
    """Everything that holds for it, merged."""


Responder: TypeAlias = Callable[
    [ScriptedTurn], Answer | Awaitable[Answer] | AsyncGenerator[Step, None]
]


class ScriptedBackend(Backend):
    """A backend that answers what it is told to, in memory.

    An answer is a text, which is streamed word by word; or an exception, which is raised; or a
    list of steps: texts, exceptions, seconds to pause, and :data:`~trio_claude.Event` values as they are. The
    whole message and the result come behind the steps by themselves, unless the steps have a
    :class:`~trio_claude.ResultMessage`.

    Args:
      answers: a list of answers, for one turn after the other, taken when the first piece is
        asked for; or a function of the
        :class:`ScriptedTurn` that gives one, which may be async, or an async generator of steps.
        Default: it answers from the conversation, like the simulator.
      on_open: called before each conversation begins; may raise, or be async and take its time.

    Raises:
      ConfigurationError: an argument is none of these.
    """

    def __init__(
        self,
        answers: Responder | Iterable[Answer] | None = None,
        *,
        on_open: Callable[[SessionOptions], Awaitable[None] | None] | None = None,
    ) -> None:
        if answers is None:
            self._respond: Responder = _from_conversation
        elif callable(answers):
            self._respond = answers
        elif not isinstance(answers, str) and hasattr(answers, "__iter__"):
            left = iter(answers)
            self._respond = lambda turn: _next_answer(left, turn)
        else:
            raise ConfigurationError(
                f"answers must be a function or a list of answers, not {answers!r}"
            )
        self._on_open = on_open
        self.turns: list[ScriptedTurn] = []
        """What was asked, oldest first."""
        self.connections = 0
        """How many connections are open."""
        self.conversations = 0
        """How many conversations are open."""
        self.conversations_begun = 0
        """How many there have been."""

    def __repr__(self) -> str:
        return f"<ScriptedBackend asked {len(self.turns)} times>"

    def connect(self) -> AbstractAsyncContextManager[Connection]:
        """Connect to nothing."""
        return self._connect()

    @asynccontextmanager
    async def _connect(self) -> AsyncIterator[Connection]:
        self.connections += 1
        try:
            yield _ScriptedConnection(self)
        finally:
            self.connections -= 1

    @asynccontextmanager
    async def _open(self, options: SessionOptions) -> AsyncIterator[Conversation]:
        if self._on_open is not None:
            opened = self._on_open(options)
            if opened is not None:
                await opened
        self.conversations += 1
        self.conversations_begun += 1
        try:
            yield _ScriptedConversation(self, f"scripted-{self.conversations_begun}")
        finally:
            self.conversations -= 1

    async def _steps(self, turn: ScriptedTurn) -> AsyncGenerator[Step, None]:
        self.turns.append(turn)
        given = self._respond(turn)
        if isinstance(given, AsyncGenerator):
            async with aclosing(given):
                async for step in given:
                    yield step
            return
        answer = await given if isinstance(given, Awaitable) else given
        for step in (answer,) if isinstance(answer, str | BaseException) else answer:
            yield step


class _ScriptedConnection(Connection):
    def __init__(self, backend: ScriptedBackend) -> None:
        self._backend = backend

    def open(self, options: SessionOptions) -> AbstractAsyncContextManager[Conversation]:
        return self._backend._open(options)


class _ScriptedConversation(Conversation):
    def __init__(self, backend: ScriptedBackend, session_id: str) -> None:
        self._backend = backend
        self._session_id = session_id
        self._history: list[tuple[str, str]] = []

    @asynccontextmanager
    async def turn(
        self, prompt: str, options: SessionOptions
    ) -> AsyncIterator[trio.abc.ReceiveChannel[Event]]:
        turn = ScriptedTurn(prompt, tuple(self._history), options)
        async with aclosing(self._events(turn)) as events:
            channel = _ScriptedChannel(events)
            yield channel
        if channel.result is not None:
            self._history.append((prompt, channel.result.result))

    async def _events(self, turn: ScriptedTurn) -> AsyncGenerator[Event, None]:
        began = trio.current_time()
        model = turn.options.model
        text = ""
        yield SystemMessage("init", {"session_id": self._session_id, "model": model})
        async with aclosing(self._backend._steps(turn)) as steps:
            async for step in steps:
                if isinstance(step, str):
                    for word in re.findall(r"\s*\S+\s*|\s+", step):
                        text += word
                        yield TextDelta(0, word)
                elif isinstance(step, float | int):
                    await trio.sleep(step)
                elif isinstance(step, BaseException):
                    raise step
                else:
                    yield step
                    if isinstance(step, ResultMessage):
                        return
        usage = Usage(input_tokens=len(turn.prompt.split()), output_tokens=len(text.split()))
        yield AssistantMessage((TextBlock(text),), model=model, stop_reason="end_turn", usage=usage)
        milliseconds = round((trio.current_time() - began) * 1000)
        yield ResultMessage(
            text,
            stop_reason="end_turn",
            session_id=self._session_id,
            usage=usage,
            duration_ms=milliseconds,
            duration_api_ms=milliseconds,
        )


class _ScriptedChannel(trio.abc.ReceiveChannel[Event]):
    def __init__(self, events: AsyncGenerator[Event, None]) -> None:
        self._events = events
        self.result: ResultMessage | None = None

    async def receive(self) -> Event:
        await trio.lowlevel.checkpoint()
        try:
            event = await anext(self._events)
        except StopAsyncIteration:
            raise trio.EndOfChannel from None
        if isinstance(event, ResultMessage):
            self.result = event
        return event

    async def aclose(self) -> None:
        await self._events.aclose()


def _from_conversation(turn: ScriptedTurn) -> Answer:
    messages = []
    for prompt, text in turn.history:
        messages.append({"role": "user", "content": prompt})
        messages.append({"role": "assistant", "content": text})
    messages.append({"role": "user", "content": turn.prompt})
    return answer_from_conversation(messages, turn.options.system_prompt)


def _next_answer(left: Iterable[Answer], turn: ScriptedTurn) -> Answer:
    for answer in left:
        return answer
    raise ConfigurationError(f"the script has no more answers, and was asked {turn.prompt!r}")
