"""What a handle says of itself, what a call may say, and what is refused."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio

from trio_claude import (
    ConfigurationError,
    InternalServerError,
    Interrupted,
    ResponseStream,
    ResultMessage,
    SessionHandle,
    SessionTerminated,
    TextDelta,
    UsageError,
)

from .kit import MINE, MODEL, WHICH, Place, call, fails, notes, opened, prompts, read_to

# ---- what a handle says, and refuses -------------------------------------------------------------


async def test_a_handle_says_what_it_is(place: Place) -> None:
    """Name, id, state; before, in and after a turn; and it is the same object each time."""
    async with opened(place) as (simulator, session):
        expected = (place.name, place.name, "running", True, None)

        def said() -> tuple[object, ...]:
            return session.name, session.id, session.status, session.is_alive(), session.session_id

        assert expected == said()
        assert f"<SessionHandle {place.name!r} running>" == repr(session)
        assert session is place.find()
        assert isinstance(session, SessionHandle)
        hold = simulator.hold_next()
        async with session.stream("Hi") as events:
            assert isinstance(events, ResponseStream)
            await read_to(TextDelta, events)
            assert "<ResponseStream open>" == repr(events)
            assert expected == said()
            hold.release()
            seen = [event async for event in events]
        assert "<ResponseStream ended>" == repr(events)
        assert isinstance(seen[-1], ResultMessage)
        assert (*expected[:-1], seen[-1].session_id) == said()
        await place.terminate()
        with pytest.raises(SessionTerminated):
            await session.query("more")
    assert (place.name, place.name, "stopped", False, None) == said()


async def test_a_session_with_an_id_of_its_own(place: Place) -> None:
    """The handle has both, and errors call it by its name."""
    async with opened(place, id=7) as (simulator, session):
        assert (place.name, 7) == (session.name, session.id)
        simulator.fail_next(500)
        with pytest.raises(InternalServerError) as caught:
            await session.query("Hi")
        assert [f"in a turn of session {place.name!r}"] == notes(caught.value)


async def test_a_task_that_reads_a_session_cannot_ask_it_meanwhile(place: Place) -> None:
    """It would wait for itself: refused; another task may wait, and is served."""
    async with opened(place, restart="transient") as (simulator, session):
        hold = simulator.hold_next()
        async with trio.open_nursery() as nursery:
            async with session.stream("first") as events:
                await read_to(TextDelta, events)
                refused: list[Callable[[], Awaitable[object]]] = [
                    lambda: session.query("second"),
                    session.clear,
                ]
                for ask in refused:
                    with pytest.raises(UsageError, match="leave the stream first") as caught:
                        await ask()
                    assert UsageError is type(caught.value)
                with pytest.raises(UsageError, match="leave the stream first"):
                    session.stream("second")
                behind = await call(nursery, session, "another task")
                hold.release()
                assert [event async for event in events]
                await session.query("the stream has ended")
            assert isinstance(await behind.outcome(), ResultMessage)
        first, second = session.stream("1"), session.stream("2")
        async with first:
            with pytest.raises(UsageError, match="leave the stream first"):
                async with second:
                    raise AssertionError("never entered")
        assert ["first", "another task", "the stream has ended"] == prompts(simulator)[:3]


async def test_a_task_that_reads_a_session_may_stop_and_interrupt_it(place: Place) -> None:
    """stop() doesn't wait for the turn then, which waits for this task; interrupt() ends it."""
    async with opened(place, restart="transient") as (simulator, session):
        simulator.hold_next()
        async with session.stream("Hi") as events:
            await read_to(TextDelta, events)
            await session.interrupt()
            await fails(events, Interrupted)
        async with session.stream("Hi") as events:
            await events.receive()
            await session.stop()
            seen = [event async for event in events]
            assert isinstance(seen[-1], ResultMessage)
        with pytest.raises(SessionTerminated):
            await session.query("more")


async def test_a_handle_belongs_to_its_run(place: Place) -> None:
    """Another run is refused, and disturbs nothing."""

    def elsewhere(ask: Callable[[], Awaitable[object]]) -> None:
        with pytest.raises(UsageError, match="another Trio run"):
            trio.run(ask)

    async with opened(place) as (simulator, session):
        for ask in (lambda: session.query("Hi"), session.clear, session.interrupt, session.stop):
            await trio.to_thread.run_sync(elsewhere, ask)
        async with session.stream("Hi") as events:
            await trio.to_thread.run_sync(elsewhere, events.receive)
            await trio.to_thread.run_sync(elsewhere, events.aclose)
            assert isinstance([event async for event in events][-1], ResultMessage)
        assert ["Hi"] == prompts(simulator)


# ---- what a call may say -------------------------------------------------------------------------


async def test_an_option_of_a_call_holds_for_its_turn(place: Place) -> None:
    """The model and the length, for one question; then it is as before."""
    async with opened(place) as (simulator, session):
        await session.query("Hi", model="claude-opus-5-5", max_tokens=7)
        async with session.stream("Hi", system_prompt="You are a poet") as events:
            assert [event async for event in events]
        await session.query("Hi")

        one, two, three = (request.body for request in simulator.requests)
        assert ("claude-opus-5-5", 7) == (one["model"], one["max_tokens"])
        assert (MODEL, "You are a poet") == (two["model"], two["system"])
        assert (MODEL, None) == (three["model"], three.get("system"))
        assert 7 != three["max_tokens"]


@pytest.mark.parametrize(
    ("prompt", "options", "message"),
    [
        ("", {}, "prompt must be text that is not empty"),
        (" \n", {}, "prompt must be text that is not empty"),
        (7, {}, "prompt must be text that is not empty"),
        ("Hi", {"modle": "opus"}, "did you mean 'model'"),
        ("Hi", {"max_tokens": 0}, "max_tokens must be"),
        ("Hi", {"timeout": "soon"}, "timeout must be"),
    ],
)
async def test_what_is_wrong_is_refused_by_the_call(
    place: Place, prompt: Any, options: dict[str, Any], message: str
) -> None:
    """By name, before anything is asked; and the next turn works."""
    async with opened(place) as (simulator, session):
        with pytest.raises(ConfigurationError, match=message):
            await session.query(prompt, **options)
        with pytest.raises(ConfigurationError, match=message):
            session.stream(prompt, **options)

        await session.query("Hi")
        assert ["Hi"] == prompts(simulator)


async def test_what_only_the_backend_can_refuse(place: Place) -> None:
    """ConfigurationError of the turn, as its caller's alone: the session goes on."""
    async with opened(place) as (simulator, session):
        await session.query(MINE)
        with pytest.raises(ConfigurationError, match="extra_body must not set 'messages'") as info:
            await session.query("Hi", extra_body={"messages": []})
        assert [f"in a turn of session {place.name!r}"] == notes(info.value)
        async with session.stream("Hi", extra_body={"messages": []}) as events:
            assert [] == await fails(events, ConfigurationError)

        assert "Python" in str(await session.query(WHICH))
        assert [MINE, WHICH] == prompts(simulator)


async def test_methods_that_this_backend_does_not_have(place: Place) -> None:
    """UsageError says which backend has them; what is not valid is refused as such."""
    async with opened(place) as (_, session):
        calls: dict[str, Callable[[], Awaitable[object]]] = {
            "set_model": lambda: session.set_model("opus"),
            "set_permission_mode": lambda: session.set_permission_mode("plan"),
            "mcp_status": session.mcp_status,
            "server_info": session.server_info,
            "context_usage": session.context_usage,
            "rewind_files": lambda: session.rewind_files("id"),
        }
        for method, ask in calls.items():
            with pytest.raises(UsageError, match=f"has no {method}: .*'cli' have it$") as caught:
                await ask()
            assert UsageError is type(caught.value)
        with pytest.raises(ConfigurationError, match="model must be"):
            await session.set_model("")
