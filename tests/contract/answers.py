"""Answers: what a question gives, in a conversation, and in a line of callers."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
import trio

import trio_claude
from trio_claude import (
    AssistantMessage,
    Event,
    ResultMessage,
    SessionBusy,
    SessionHandle,
    SystemMessage,
    TextDelta,
    open_session,
)
from trio_claude.simulator import Reply, open_simulator

from .kit import MINE, MODEL, WHICH, Place, call, heard, last_prompt, opened, prompts, talk, texts

# ---- an answer -----------------------------------------------------------------------------------


async def test_a_query_gives_the_result(place: Place) -> None:
    """The text, the tokens that it took, why it ended, and the conversation's id."""
    async with opened(place, lambda body: "Hello there") as (_, session):
        result = await session.query("How are you?")

        assert ResultMessage is type(result)
        assert "Hello there" == str(result) == result.text == result.result
        assert ("success", False, "end_turn", 1) == (
            result.subtype,
            result.is_error,
            result.stop_reason,
            result.num_turns,
        )
        assert (3, 2) == (result.usage.input_tokens, result.usage.output_tokens)
        assert result.session_id is not None
        assert result.session_id == session.session_id


async def test_a_stream_gives_the_events_in_order(place: Place) -> None:
    """Init, deltas, the whole message, the result; then the end, each time; then it is closed."""
    async with opened(place, lambda body: "Hello there") as (_, session):
        async with session.stream("Hi") as events:
            seen = [event async for event in events]
            for _ in range(2):
                with pytest.raises(trio.EndOfChannel):
                    await events.receive()
        with pytest.raises(trio.ClosedResourceError):
            await events.receive()

        expected = [SystemMessage, TextDelta, TextDelta, AssistantMessage, ResultMessage]
        assert expected == [type(event) for event in seen]
        assert "Hello there" == texts(seen)
        assert isinstance(seen[-1], ResultMessage)
        assert session.session_id == seen[-1].session_id


_CONTENTS: dict[str, Any] = {
    "text": "Three words here",
    "unicode": "größer ≠ 日本語 👩🏽\u200d💻 \u202e\u0645\u0631\u062d\u2028 \x00 \x1b[0m e\u0301",
    "thinking": [
        {"type": "thinking", "thinking": "Let me see …"},
        {"type": "redacted_thinking", "data": "c2VjcmV0"},
        {"type": "text", "text": "I see"},
    ],
    "tools": [
        {"type": "text", "text": "I'll look"},
        {
            "type": "tool_use",
            "name": "look",
            "input": {"at": ["ä", 1, 2.5, None, {"deep": [True]}], "long": "x" * 100},
        },
        {"type": "tool_use", "name": "touch", "input": {}},
    ],
    "unknown": [
        {"type": "hologram", "data": {"x": [1, {"y": None}]}},
        {"type": "text", "text": "There", "citations": [{"type": "page", "page": 7}]},
    ],
    "counts": Reply("Well", usage={"cache_read_input_tokens": 70, "of_a_new_kind": {"n": 1}}),
    "many": " ".join(f"{number}" for number in range(1_000)),
}


@pytest.mark.parametrize("kind", _CONTENTS)
async def test_every_event_is_what_it_is_without_a_supervisor(place: Place, kind: str) -> None:
    """All kinds of content, equal to what a session gives that is opened here and asked the same."""

    def same(event: Event) -> Event:
        match event:
            case ResultMessage():
                return attrs.evolve(event, session_id=None, duration_ms=0, duration_api_ms=0)
            case SystemMessage(subtype, data):
                return SystemMessage(subtype, {**data, "session_id": None})
        return event

    async def ask(session: SessionHandle) -> list[Event]:
        async with session.stream("Hi") as events:
            seen = [same(event) async for event in events]
        await session.clear()  # what it knows is for the service to take back, or not
        return [*seen, same(await session.query("Hi"))]

    async with opened(place, lambda body: _CONTENTS[kind]) as (_, session):
        seen = await ask(session)
    async with open_simulator(lambda body: _CONTENTS[kind]) as simulator:
        async with open_session(
            base_url=simulator.base_url, api_key="sk-test", model=MODEL
        ) as session:
            expected = await ask(session)

    assert expected == seen
    assert list(map(type, expected)) == list(map(type, seen))


async def test_large_prompts_and_answers(place: Place) -> None:
    """A megabyte each way, in one piece, arrives as it was."""
    prompt, reply = "ä" * 2**19, "y" * 2**20
    async with opened(place, lambda body: reply) as (simulator, session):
        assert reply == (await session.query(prompt)).text
        async with session.stream("Again") as events:
            assert reply == texts([event async for event in events])

        assert prompt == prompts(simulator)[0]
        assert [prompt, reply, "Again"] == talk(simulator.requests[-1].body["messages"])


async def test_a_handle_may_be_asked_by_the_functions_too(place: Place) -> None:
    """`query` and `stream` take it in the place of a name."""
    async with opened(place, lambda body: "Hello") as (_, session):
        assert "Hello" == str(await trio_claude.query(session, "Hi", max_tokens=10))
        async with trio_claude.stream(session, "Hi") as events:
            assert "Hello" == texts([event async for event in events])


# ---- a conversation ------------------------------------------------------------------------------


async def test_a_conversation_goes_on_until_it_is_cleared(place: Place) -> None:
    """Later turns know the earlier ones; clear() forgets them, and the conversation's id."""
    async with opened(place) as (_, session):
        assert session.session_id is None

        first = (await session.query(MINE)).session_id
        assert first is not None
        assert first == session.session_id
        assert "Python" in str(await session.query(WHICH))
        assert first == session.session_id

        await session.clear()

        assert session.session_id is None
        second = await session.query(WHICH)
        assert "don't know" in str(second)
        assert second.session_id not in (None, first)
        assert second.session_id == session.session_id


async def test_clear_waits_in_line(place: Place) -> None:
    """It forgets what was asked before it, and not what is asked after it."""
    async with opened(place) as (simulator, session), trio.open_nursery() as nursery:
        hold = simulator.hold_next()
        before = await call(nursery, session, MINE)
        await hold.started.wait()
        nursery.start_soon(session.clear)
        await heard(session)
        behind = await call(nursery, session, WHICH)
        hold.release()

        assert isinstance(await before.outcome(), ResultMessage)
        assert "don't know" in str(await behind.outcome())


async def test_a_clear_that_is_cancelled_in_line_forgets_nothing(place: Place) -> None:
    """The conversation goes on."""
    async with opened(place) as (simulator, session), trio.open_nursery() as nursery:
        hold = simulator.hold_next()
        before = await call(nursery, session, MINE)
        await hold.started.wait()
        async with trio.open_nursery() as clearing:
            clearing.start_soon(session.clear)
            await heard(session)
            clearing.cancel_scope.cancel()
        behind = await call(nursery, session, WHICH)
        hold.release()

        assert isinstance(await before.outcome(), ResultMessage)
        assert "Python" in str(await behind.outcome())


# ---- a line of callers ---------------------------------------------------------------------------


async def test_callers_are_served_in_their_order_one_at_a_time(place: Place) -> None:
    """Twenty of them, who came at once while another one was served; and twenty more, and more."""
    at_once: set[str] = set()

    async def answer(body: dict[str, Any]) -> str:
        prompt = last_prompt(body)
        at_once.add(prompt)
        assert {prompt} == at_once
        await trio.lowlevel.checkpoint()
        at_once.remove(prompt)
        return f"to {prompt}"

    came: list[str] = []

    async def ask(session: SessionHandle, prompt: str) -> None:
        came.append(prompt)
        assert f"to {prompt}" == str(await session.query(prompt))

    async with opened(place, answer) as (simulator, session):
        for _ in range(5):
            async with trio.open_nursery() as nursery:
                hold = simulator.hold_next()
                nursery.start_soon(ask, session, "before")
                await hold.started.wait()
                for number in range(20):
                    nursery.start_soon(ask, session, f"{number}")
                await heard(session)
                hold.release()

        assert 105 == len(came)
        assert came == prompts(simulator)


async def test_a_caller_that_is_cancelled_in_line_leaves_no_trace(place: Place) -> None:
    """Nothing is asked for it; those before and behind it are served."""
    async with opened(place) as (simulator, session), trio.open_nursery() as nursery:
        hold = simulator.hold_next()
        callers = [await call(nursery, session, "first")]
        await hold.started.wait()
        never = await call(nursery, session, "never")
        callers.append(await call(nursery, session, "last"))
        never.scope.cancel()
        assert await never.outcome() is None
        hold.release()

        for caller in callers:
            assert isinstance(await caller.outcome(), ResultMessage)
        assert ["first", "last"] == prompts(simulator)
        assert 3 == len(simulator.requests[-1].body["messages"])


async def test_max_queue_turns_the_next_caller_away_at_once(place: Place) -> None:
    """SessionBusy for one more than max_queue, for that caller only."""
    async with opened(place, max_queue=1) as (simulator, session):
        async with trio.open_nursery() as nursery:
            hold = simulator.hold_next()
            callers = [await call(nursery, session, "first")]
            await hold.started.wait()
            callers.append(await call(nursery, session, "second"))
            with pytest.raises(SessionBusy, match="max_queue=1 may wait for it") as caught:
                await session.query("one too many")
            assert SessionBusy is type(caught.value)
            with pytest.raises(SessionBusy):
                async with session.stream("one too many"):
                    raise AssertionError("never entered")
            hold.release()

            for caller in callers:
                assert isinstance(await caller.outcome(), ResultMessage)
        assert ["first", "second"] == prompts(simulator)


async def test_without_a_queue_one_caller_after_the_other_is_fine(place: Place) -> None:
    """max_queue=0 refuses to wait, not to ask again as soon as there was an answer."""
    async with opened(place, max_queue=0) as (simulator, session):
        for _ in range(3):
            await session.query("work")
            async with session.stream("work") as events:
                await events.receive()
        assert 6 == len(simulator.requests)
