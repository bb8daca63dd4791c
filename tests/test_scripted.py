"""The backend in memory: it says what the test wants it to, and remembers like a real one."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from trio_claude import (
    AssistantMessage,
    ConfigurationError,
    Event,
    QueryError,
    ResultMessage,
    SessionCrashed,
    SystemMessage,
    TextBlock,
    TextDelta,
    Usage,
    open_session,
)
from trio_claude._options import LIBRARY_DEFAULTS, SessionOptions
from trio_claude.testing import ScriptedBackend, ScriptedTurn

from .support import nothing_left


async def _answer(backend: ScriptedBackend, *prompts: str) -> list[str]:
    """The texts that one conversation answers."""
    async with open_session(backend=backend) as session:
        return [str(await session.query(prompt)) for prompt in prompts]


async def _events(backend: ScriptedBackend, prompt: str = "hello there") -> list[Event]:
    """The events of one turn."""
    async with open_session(backend=backend) as session, session.stream(prompt) as events:
        return [event async for event in events]


async def test_a_text_is_streamed_word_by_word(autojump_clock: MockClock) -> None:
    """With the events before and behind it that every backend gives, and its cost in words."""
    usage = Usage(input_tokens=2, output_tokens=3)

    assert await _events(ScriptedBackend([" one  two\nthree"])) == [
        SystemMessage("init", {"session_id": "scripted-1", "model": None}),
        TextDelta(0, " one  "),
        TextDelta(0, "two\n"),
        TextDelta(0, "three"),
        AssistantMessage(
            (TextBlock(" one  two\nthree"),), model=None, stop_reason="end_turn", usage=usage
        ),
        ResultMessage(
            " one  two\nthree",
            stop_reason="end_turn",
            session_id="scripted-1",
            usage=usage,
            duration_ms=0,
            duration_api_ms=0,
        ),
    ]


async def test_steps(autojump_clock: MockClock) -> None:
    """Texts, pauses and events, one after the other; the result says how long it took."""
    remark = SystemMessage("remark")
    backend = ScriptedBackend([["one ", 1.5, remark, 1, "two"]])

    events = await _events(backend)

    assert remark in events
    assert trio.current_time() == 2.5
    assert isinstance(events[-1], ResultMessage)
    assert (events[-1].result, events[-1].duration_ms) == ("one two", 2500)


async def test_a_result_of_the_scripts_own_ends_the_answer() -> None:
    """Nothing comes behind it, and the conversation remembers its text."""
    backend = ScriptedBackend([[ResultMessage("mine"), "never"], "next"])

    assert await _answer(backend, "first", "second") == ["mine", "next"]
    assert backend.turns[1].history == (("first", "mine"),)

    backend = ScriptedBackend([[ResultMessage("mine"), "never"]])
    async with (
        backend.connect() as connection,
        connection.open(LIBRARY_DEFAULTS) as conversation,
        conversation.turn("first", LIBRARY_DEFAULTS) as events,
    ):
        assert [event async for event in events][1:] == [ResultMessage("mine")]


async def test_an_error_for_an_answer() -> None:
    """A QueryError is the turn's, with what came before it; the session goes on."""
    error = QueryError("not now")
    backend = ScriptedBackend([error, ["Well, ", error], "fine"])
    async with open_session(backend=backend) as session:
        for partial in (None, "Well, "):
            with pytest.raises(QueryError, match="not now") as raised:
                await session.query("hello")
            assert raised.value is error
            said = raised.value.partial
            assert (None if said is None else said.text) == partial
            error.partial = None
        assert str(await session.query("hello")) == "fine"
    assert backend.turns[2].history == ()


async def test_a_fault_for_an_answer() -> None:
    """Anything else crashes the session."""
    fault = ValueError("a fault")
    async with open_session(backend=ScriptedBackend([fault])) as session:
        with pytest.raises(SessionCrashed) as raised:
            await session.query("hello")
    assert raised.value.__cause__ is fault


def _now(turn: ScriptedTurn) -> str:
    return turn.prompt.upper()


async def _soon(turn: ScriptedTurn) -> str:
    await trio.sleep(1)
    return turn.prompt.upper()


async def _in_steps(turn: ScriptedTurn) -> AsyncGenerator[str | float, None]:
    yield turn.prompt.upper()[:1]
    yield 1.0
    yield turn.prompt.upper()[1:]


@pytest.mark.parametrize("responder", [_now, _soon, _in_steps])
async def test_a_function_answers(responder: Any, autojump_clock: MockClock) -> None:
    """Plain, async, or an async generator of steps."""
    assert await _answer(ScriptedBackend(responder), "hello") == ["HELLO"]


async def test_it_answers_from_the_conversation_by_default() -> None:
    """Like the simulator: it knows what it was told, and its system prompt."""
    texts = await _answer(ScriptedBackend(), "My name is Ada.", "What is my name?")

    assert texts[1] == "Your name is Ada. You told me so in this conversation."
    async with open_session(backend=ScriptedBackend(), system_prompt="You are a poet.") as session:
        assert str(await session.query("hello")).startswith("As a poet, I have read")


async def test_what_was_asked_is_kept() -> None:
    """Each turn with its options, and the history that it was answered from."""
    backend = ScriptedBackend(["one", "two", "three"])
    async with open_session(backend=backend) as session:
        await session.query("first", model="opus")
        await session.query("second")
        await session.clear()
        await session.query("third")

    assert [turn.prompt for turn in backend.turns] == ["first", "second", "third"]
    assert [turn.history for turn in backend.turns] == [(), (("first", "one"),), ()]
    assert [turn.options.model for turn in backend.turns] == ["opus", None, None]
    assert backend.conversations_begun == 2


async def test_a_script_that_is_over() -> None:
    """One question more than answers is the test's mistake, and says so to who asked."""
    async with open_session(backend=ScriptedBackend(["only"])) as session:
        await session.query("first")
        with pytest.raises(ConfigurationError) as raised:
            await session.query("second")
        assert session.is_alive()
    assert str(raised.value) == "the script has no more answers, and was asked 'second'"


@pytest.mark.parametrize("answers", ["text", 3, object()])
def test_what_is_no_script_is_refused(answers: object) -> None:
    """One text would be taken for a list of letters."""
    with pytest.raises(ConfigurationError, match="answers must be a function or a list of answers"):
        ScriptedBackend(answers)  # type: ignore[arg-type]


async def test_opening_can_take_time_and_fail(autojump_clock: MockClock) -> None:
    """``on_open`` is called before each conversation, with its options."""
    opened: list[str | None] = []

    def at_once(options: SessionOptions) -> None:
        opened.append(options.model)

    async def slowly(options: SessionOptions) -> None:
        await trio.sleep(2)
        raise OSError("no")

    async with open_session(backend=ScriptedBackend(on_open=at_once), model="opus") as session:
        await session.clear()
    assert opened == ["opus", "opus"]
    backend = ScriptedBackend(on_open=slowly)
    async with nothing_left(backend):
        with pytest.raises(OSError, match="no"):
            async with open_session(backend=backend):
                raise AssertionError("it must not open")
    assert (trio.current_time(), backend.conversations_begun) == (2, 0)


async def test_what_is_open_is_counted() -> None:
    """Connections and conversations, now and ever."""
    backend = ScriptedBackend()
    async with nothing_left(backend):
        async with open_session(backend=backend), open_session(backend=backend):
            assert (backend.connections, backend.conversations) == (2, 2)
    assert backend.conversations_begun == 2


async def test_a_turn_that_is_left_early_is_not_remembered() -> None:
    """Neither by the conversation, nor does its script go on."""
    ended = []

    async def answer(turn: ScriptedTurn) -> AsyncGenerator[str, None]:
        try:
            yield "one "
            yield "two"
        finally:
            ended.append(turn.prompt)

    backend = ScriptedBackend(answer)
    async with backend.connect() as connection, connection.open(LIBRARY_DEFAULTS) as conversation:
        async with conversation.turn("left", LIBRARY_DEFAULTS) as events:
            await events.receive()
            assert await events.receive() == TextDelta(0, "one ")
        assert ended == ["left"]
        async with conversation.turn("closed", LIBRARY_DEFAULTS) as events:
            await events.receive()
            await events.receive()
            await events.aclose()
            assert ended == ["left", "closed"]
            with pytest.raises(trio.EndOfChannel):
                await events.receive()
        async with conversation.turn("read", LIBRARY_DEFAULTS) as events:
            assert isinstance([event async for event in events][-1], ResultMessage)
        async with conversation.turn("last", LIBRARY_DEFAULTS):
            pass
        async with conversation.turn("seen", LIBRARY_DEFAULTS) as events:
            await events.receive()
            await events.receive()
    assert backend.turns[-1].history == (("read", "one two"),)


async def test_a_turn_can_be_cancelled(autojump_clock: MockClock) -> None:
    """Its pause ends at once, and it is not remembered."""
    backend = ScriptedBackend([["one ", 100.0], "fine"])
    async with open_session(backend=backend) as session:
        with trio.move_on_after(1):
            await session.query("first")
        assert str(await session.query("second")) == "fine"
        assert trio.current_time() == 1
    assert backend.turns[1].history == ()
