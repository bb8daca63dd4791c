"""Asking by name or by handle: both are the same."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

import trio_claude
from trio_claude import (
    ConfigurationError,
    Global,
    QueryTimeout,
    ResultMessage,
    SessionNotFound,
    TextDelta,
    UsageError,
    open_supervisor,
)
from trio_claude.testing import ScriptedBackend

from .support import hang, nothing_left, spec


@pytest.mark.parametrize("by_name", [True, False])
async def test_a_question(by_name: bool) -> None:
    """A name or a handle: the answer is that of the session, and its conversation goes on."""
    backend = ScriptedBackend()
    async with open_supervisor([spec(Global("a"), backend)]) as supervisor:
        target = Global("a") if by_name else supervisor.get_session(Global("a"))

        await trio_claude.query(target, "My name is Ada.")
        answer = await trio_claude.query(target, "What is my name?", model="opus")

        assert str(answer).startswith("Your name is Ada.")
        assert [turn.options.model for turn in backend.turns] == [None, "opus"]


@pytest.mark.parametrize("by_name", [True, False])
async def test_a_stream(by_name: bool) -> None:
    """The same for the events of an answer."""
    async with open_supervisor([spec("a", ScriptedBackend(["one two"]))]) as supervisor:
        target = "a" if by_name else supervisor.get_session("a")

        async with trio_claude.stream(target, "hello", max_tokens=5) as events:
            seen = [event async for event in events]

    assert [event.text for event in seen if isinstance(event, TextDelta)] == ["one ", "two"]
    assert isinstance(seen[-1], ResultMessage)


async def test_who_is_not_there_cannot_be_asked() -> None:
    """A stream is refused at the call, a question when it is awaited."""
    with pytest.raises(SessionNotFound, match="no session is named 'a'; there are none"):
        await trio_claude.query("a", "hello")
    with pytest.raises(SessionNotFound, match="no session is named 'a'; there are none"):
        trio_claude.stream("a", "hello")
    with pytest.raises(ConfigurationError, match="a name must be hashable and not None, not None"):
        await trio_claude.query(None, "hello")


async def test_options_of_a_call_are_checked() -> None:
    """By name, before anything is asked."""
    backend = ScriptedBackend()
    async with open_supervisor([spec("a", backend)]):
        with pytest.raises(
            ConfigurationError, match="temperature must be a number from 0 to 1, not 3"
        ):
            await trio_claude.query("a", "hello", temperature=3)
        with pytest.raises(ConfigurationError, match="has no option 'modle': did you mean 'model'"):
            trio_claude.stream("a", "hello", modle="opus")  # type: ignore[call-arg]
    assert backend.turns == []


async def test_options_of_a_call_hold(autojump_clock: MockClock) -> None:
    """A timeout of the call ends the turn, and the session goes on."""
    async with open_supervisor([spec("a", ScriptedBackend(hang))]):
        with pytest.raises(QueryTimeout, match="timeout of 3 seconds"):
            await trio_claude.query("a", "hello", timeout=3)
        assert trio.current_time() == 3
        assert trio_claude.get_session("a").is_alive()


async def test_a_cancelled_question_leaves_no_trace(autojump_clock: MockClock) -> None:
    """The caller's own scope ends the turn at its source; the next question is served."""
    backend = ScriptedBackend([["Well, ", 1000.0], "fine"])
    async with nothing_left(backend), open_supervisor([spec("a", backend)]):
        with trio.move_on_after(1) as scope:
            await trio_claude.query("a", "first")
        assert scope.cancelled_caught
        assert str(await trio_claude.query("a", "second")) == "fine"
        assert [turn.history for turn in backend.turns] == [(), ()]


def test_asking_works_inside_a_run_only() -> None:
    """Outside of Trio there are no names."""
    with pytest.raises(UsageError, match="names are known inside a Trio run only"):
        trio_claude.stream("a", "hello")
