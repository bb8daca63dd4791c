"""What users do with a session: query, stream, clear, interrupt, stop."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from itertools import groupby
from typing import Any

import pytest
import trio
import trio.testing
from trio.testing import MockClock

import trio_claude
from trio_claude import (
    AssistantMessage,
    ConfigurationError,
    Interrupted,
    QueryError,
    QueryTimeout,
    ResponseStream,
    ResultMessage,
    SessionBusy,
    SessionCrashed,
    SessionHandle,
    SessionOptions,
    SessionRestarted,
    SessionTerminated,
    SystemMessage,
    TextDelta,
    UsageError,
    open_session,
    open_supervisor,
)
from trio_claude._session.inbox import Inbox
from trio_claude._session.question import Question
from trio_claude._session.target import Status, Target
from trio_claude.simulator import open_simulator
from trio_claude.testing import ScriptedBackend, ScriptedTurn, crash

from .support import hang, inbox_of, nothing_left, spec

MINE = "My favorite language is Python"
WHICH = "What's my favorite language?"


async def test_a_query_gives_the_result(autojump_clock: MockClock) -> None:
    """query() gives the ResultMessage, whose text is the answer."""
    async with open_session(name="a", backend=ScriptedBackend(["Hello there"])) as session:
        result = await session.query("Hi")

    assert isinstance(result, ResultMessage)
    assert "Hello there" == str(result) == result.text == result.result
    assert not result.is_error
    assert "end_turn" == result.stop_reason


async def test_a_stream_gives_the_events_in_order(autojump_clock: MockClock) -> None:
    """stream() gives init, deltas, the whole message, the result, and then ends."""
    async with (
        open_session(backend=ScriptedBackend(["Hello there"])) as session,
        session.stream("Hi") as events,
    ):
        seen = [event async for event in events]
        with pytest.raises(trio.EndOfChannel):
            await events.receive()

    assert [SystemMessage, TextDelta, TextDelta, AssistantMessage, ResultMessage] == [
        type(event) for event in seen
    ]


async def test_a_conversation_goes_on_until_it_is_cleared(autojump_clock: MockClock) -> None:
    """Later turns know the earlier ones; clear() forgets them, and the conversation's id."""
    async with open_session(backend=ScriptedBackend()) as session:
        assert session.session_id is None

        await session.query(MINE)
        first = session.session_id

        assert first is not None
        assert "Python" in str(await session.query(WHICH))
        assert first == session.session_id

        await session.clear()

        assert session.session_id is None
        assert "don't know" in str(await session.query(WHICH))
        assert session.session_id not in (None, first)


async def test_turns_come_one_at_a_time_in_order(autojump_clock: MockClock) -> None:
    """Callers are served in the order in which they asked, one at a time."""
    busy = 0
    order: list[str] = []

    async def answer(turn: ScriptedTurn) -> AsyncGenerator[str, None]:
        nonlocal busy
        busy += 1
        assert busy == 1
        await trio.sleep(1)
        yield turn.prompt
        order.append(turn.prompt)
        busy -= 1

    async with open_session(backend=ScriptedBackend(answer)) as session, trio.open_nursery() as n:
        for number in range(5):
            n.start_soon(session.query, f"{number}")
            await trio.testing.wait_all_tasks_blocked()

    assert ["0", "1", "2", "3", "4"] == order


async def test_a_cancelled_waiter_leaves_no_trace(autojump_clock: MockClock) -> None:
    """A caller that is cancelled in line is never asked for, and the others are."""
    backend = ScriptedBackend(lambda turn: [1.0, turn.prompt])
    async with open_supervisor([spec("a", backend)]) as supervisor:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio_claude.query, "a", "first")
            await trio.testing.wait_all_tasks_blocked()
            with trio.move_on_after(0.5):
                await trio_claude.query("a", "never")
            nursery.start_soon(trio_claude.query, "a", "last")
            await trio.testing.wait_all_tasks_blocked()
            (info,) = supervisor.list_sessions()
            assert 1 == info.waiting

    assert ["first", "last"] == [turn.prompt for turn in backend.turns]


@pytest.mark.parametrize("way", ["cancel", "leave", "raise", "close"])
async def test_a_turn_that_is_left_early_is_forgotten(way: str, autojump_clock: MockClock) -> None:
    """Cancelling query, or leaving stream, ends the turn; the conversation is as before."""
    backend = ScriptedBackend(
        lambda turn: ["I hear you", 10.0, "?"] if "Rust" in turn.prompt else _known(turn)
    )
    async with nothing_left(backend), open_session(backend=backend) as session:
        await session.query(MINE)
        prompt = "My favorite language is Rust"
        with trio.move_on_after(5) as scope:
            if way == "cancel":
                await session.query(prompt)
            try:
                async with session.stream(prompt) as events:
                    await events.receive()
                    if way == "raise":
                        raise KeyError(way)
                    if way == "close":
                        await events.aclose()
                        with pytest.raises(trio.ClosedResourceError):
                            await events.receive()
            except KeyError:
                pass
        assert (way == "cancel") == scope.cancelled_caught

        assert "Python" in str(await session.query(WHICH))
        assert 1 == len(backend.turns[-1].history)


def _known(turn: ScriptedTurn) -> str:
    return "It is Python" if any("Python" in asked for asked, _ in turn.history) else "Noted"


async def test_the_stream_waits_for_its_reader(autojump_clock: MockClock) -> None:
    """While nobody reads, the answer waits at its source."""
    given: list[int] = []

    async def count(turn: ScriptedTurn) -> AsyncGenerator[str, None]:
        for number in range(100):
            given.append(number)
            yield f"{number} "

    async with (
        open_session(backend=ScriptedBackend(count)) as session,
        session.stream("Count") as events,
    ):
        await events.receive()
        await trio.sleep(10)

        assert len(given) < 3


async def test_a_turn_longer_than_its_timeout_fails(autojump_clock: MockClock) -> None:
    """QueryTimeout at exactly `timeout` seconds, with what was there; the session lives on."""
    backend = ScriptedBackend(
        lambda turn: ["Well, ", 1000.0 if turn.prompt == "slow" else 0.0, "x"]
    )
    async with open_session(backend=backend, timeout=20, model="sonnet") as session:
        began = trio.current_time()
        with pytest.raises(QueryTimeout, match="20 seconds") as caught:
            await session.query("slow")

        assert 20 == trio.current_time() - began
        assert isinstance(caught.value, trio.TooSlowError)
        assert caught.value.partial is not None
        assert "Well, " == caught.value.partial.text
        assert "sonnet" == caught.value.partial.model
        assert "Well, x" == str(await session.query("fast"))
        with pytest.raises(QueryTimeout, match="2 seconds"):
            await session.query("slow", timeout=2)
        await session.query("slow", timeout=math.inf)


async def test_the_timeout_begins_with_the_turn_not_in_line(autojump_clock: MockClock) -> None:
    """Waiting in line does not count for the timeout."""
    backend = ScriptedBackend(lambda turn: [8.0, "done"])
    async with open_session(backend=backend, timeout=10) as session, trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(session.query, "work")


async def test_interrupt_ends_the_turn_and_not_the_session(autojump_clock: MockClock) -> None:
    """The caller gets Interrupted with the part so far; the next in line is served."""
    backend = ScriptedBackend(lambda turn: hang(turn) if turn.prompt == "hang" else "fine")
    async with open_session(backend=backend) as session, trio.open_nursery() as nursery:
        caught: list[QueryError] = []

        async def ask() -> None:
            with pytest.raises(Interrupted) as info:
                await session.query("hang")
            caught.append(info.value)

        nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(session.query, "next")
        await trio.testing.wait_all_tasks_blocked()
        await session.interrupt()
        await trio.testing.wait_all_tasks_blocked()

        assert ["hang", "next"] == [turn.prompt for turn in backend.turns]
        assert caught[0].partial is not None
        assert "Well, " == caught[0].partial.text


async def test_interrupt_without_a_turn_does_nothing(autojump_clock: MockClock) -> None:
    """An idle session doesn't mind."""
    async with open_session(backend=ScriptedBackend()) as session:
        with trio.testing.assert_checkpoints():
            await session.interrupt()

        assert session.is_alive()


async def test_a_cancelled_interrupt_still_ends_the_turn(autojump_clock: MockClock) -> None:
    """Who asked for the interruption needn't wait for it."""

    async def stubborn(turn: ScriptedTurn) -> AsyncGenerator[str, None]:
        yield "Well, "
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(5)

    async with (
        open_session(backend=ScriptedBackend(stubborn)) as session,
        trio.open_nursery() as nursery,
    ):

        async def ask() -> None:
            with pytest.raises(Interrupted):
                await session.query("hang")

        nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        with trio.move_on_after(1) as scope:
            await session.interrupt()

        assert scope.cancelled_caught


async def test_stop_lets_the_turn_finish(autojump_clock: MockClock) -> None:
    """stop() ends the session normally, after the turn in flight; a transient one stays down."""
    backend = ScriptedBackend(lambda turn: [3.0, "finished"])
    async with open_supervisor([spec("a", backend, restart="transient")]) as supervisor:
        session = supervisor.get_session("a")
        async with trio.open_nursery() as nursery:
            results: list[str] = []

            async def ask() -> None:
                results.append(str(await session.query("work")))

            async def wait() -> None:
                with pytest.raises(SessionTerminated):
                    await session.query("too late")

            nursery.start_soon(ask)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            await session.stop()

        assert ["finished"] == results
        assert ("stopped", False) == (session.status, session.is_alive())
        with pytest.raises(SessionTerminated, match="'a' is stopped"):
            await session.query("more")
        with pytest.raises(SessionTerminated):
            await session.clear()
        with trio.testing.assert_checkpoints():
            await session.stop()

        await supervisor.restart_session("a")

        assert "finished" == str(await session.query("again"))


async def test_waiting_turns_survive_the_crash_and_the_turn_in_flight_does_not(
    autojump_clock: MockClock,
) -> None:
    """The one in flight gets SessionCrashed from the cause; those in line are answered later."""

    def answer(turn: ScriptedTurn) -> list[object] | str:
        return [1.0, OSError("pipe broke")] if turn.prompt == "crash" else "fine"

    async with (
        open_supervisor([spec("a", ScriptedBackend(answer))]) as supervisor,  # type: ignore[arg-type]
        trio.open_nursery() as nursery,
    ):

        async def ask() -> None:
            with pytest.raises(SessionCrashed, match="'a' crashed") as caught:
                await trio_claude.query("a", "crash")
            assert isinstance(caught.value.__cause__, OSError)
            assert isinstance(caught.value, trio.BrokenResourceError)
            assert "a" == caught.value.name

        nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        handle = supervisor.get_session("a")
        for _ in range(3):
            nursery.start_soon(handle.query, "wait")
        nursery.start_soon(handle.clear)
        await trio.testing.wait_all_tasks_blocked()
        assert 4 == supervisor.list_sessions()[0].waiting
    assert handle.status == "stopped"


async def test_restart_and_terminate_reach_the_turn_in_flight(autojump_clock: MockClock) -> None:
    """SessionRestarted and SessionTerminated, when the grace is over; in line, it goes on."""
    backend = ScriptedBackend(lambda turn: hang(turn) if turn.prompt == "hang" else "fine")
    async with open_supervisor([spec("a", backend, shutdown=2)]) as supervisor:
        session = supervisor.get_session("a")
        async with trio.open_nursery() as nursery:

            async def ask(error: type[Exception]) -> None:
                began = trio.current_time()
                with pytest.raises(error):
                    await session.query("hang")
                assert 2 == trio.current_time() - began

            nursery.start_soon(ask, SessionRestarted)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(session.query, "wait")
            await trio.testing.wait_all_tasks_blocked()
            await supervisor.restart_session("a")
        async with trio.open_nursery() as nursery:

            async def wait() -> None:
                with pytest.raises(SessionTerminated):
                    await session.query("wait")

            nursery.start_soon(ask, SessionTerminated)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            await supervisor.terminate_session("a")


async def test_max_queue_turns_the_next_caller_away_at_once(autojump_clock: MockClock) -> None:
    """SessionBusy for one more than max_queue, for that caller only."""
    backend = ScriptedBackend(lambda turn: [1.0, "done"])
    async with open_session(name="a", backend=backend, max_queue=1) as session:
        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(session.query, "work")
                await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(SessionBusy, match="max_queue=1"):
                await session.query("one too many")
            nursery.start_soon(lambda: session.query("a call may say otherwise", max_queue=9))
        assert 3 == len(backend.turns)


async def test_without_a_queue_one_caller_after_the_other_is_fine(
    autojump_clock: MockClock,
) -> None:
    """max_queue=0 refuses to wait, not to ask again as soon as there was an answer."""
    backend = ScriptedBackend(lambda turn: [1.0, "done"])
    async with open_session(backend=backend, max_queue=0) as session:
        for _ in range(3):
            await session.query("work")
            async with session.stream("work") as events:
                await events.receive()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(session.query, "work")
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(SessionBusy):
                await session.query("work")


@pytest.mark.parametrize("prompt", ["", "  \n", None, 7, ["text"]])
async def test_a_prompt_must_be_text(prompt: object, autojump_clock: MockClock) -> None:
    """An empty or non-text prompt is refused by the call, and the next turn works."""
    backend = ScriptedBackend()
    async with open_session(backend=backend) as session:
        with pytest.raises(ConfigurationError, match="prompt must be text"):
            await session.query(prompt)  # type: ignore[arg-type]
        with pytest.raises(ConfigurationError, match="prompt must be text"):
            session.stream(prompt)  # type: ignore[arg-type]

        await session.query("Hi")

    assert 1 == len(backend.turns)


async def test_an_option_of_a_call_is_checked_by_the_call(autojump_clock: MockClock) -> None:
    """Unknown or ill-typed overrides are refused by name; nothing is asked."""
    backend = ScriptedBackend()
    async with open_session(backend=backend) as session:
        with pytest.raises(ConfigurationError, match="did you mean 'model'"):
            await session.query("Hi", modle="opus")  # type: ignore[call-arg]
        with pytest.raises(ConfigurationError, match="max_tokens must be"):
            session.stream("Hi", max_tokens=0)

        await session.query("Hi", model="opus", max_tokens=7)

    (turn,) = backend.turns
    assert ("opus", 7) == (turn.options.model, turn.options.max_tokens)
    assert 300 == turn.options.timeout


async def test_a_session_cannot_ask_itself(autojump_clock: MockClock) -> None:
    """A call that would wait for its own turn is refused, and crashes nobody else."""
    errors: list[UsageError] = []

    async def answer(turn: ScriptedTurn) -> str:
        session = trio_claude.get_session("a")
        for call in (session.query("?"), session.clear()):
            try:
                await call
            except UsageError as exc:
                errors.append(exc)
        await session.interrupt()  # must not wait
        return "never said"

    async with open_supervisor([spec("a", ScriptedBackend(answer))]):
        with pytest.raises(Interrupted):
            await trio_claude.query("a", "Ask yourself")

    assert 2 == len(errors)
    assert "from inside its own turn" in str(errors[0])


async def test_a_session_may_stop_itself_and_ask_another(autojump_clock: MockClock) -> None:
    """stop() from inside doesn't wait; another session is asked like from anywhere."""

    async def answer(turn: ScriptedTurn) -> str:
        await trio_claude.get_session("a").stop()
        return "b says " + str(await trio_claude.query("b", "Hi"))

    async with open_supervisor(
        [spec("b", ScriptedBackend(["hello"])), spec("a", ScriptedBackend(answer))]
    ) as supervisor:
        assert "b says hello" == str(await trio_claude.query("a", "Ask b"))
        await trio.testing.wait_all_tasks_blocked()
        assert 2 == supervisor.list_sessions()[1].incarnation


async def test_a_result_that_is_an_error_is_raised(autojump_clock: MockClock) -> None:
    """ResultError has the agent's own report; the turn is not remembered."""
    failed = ResultMessage("out of turns", subtype="error_max_turns", is_error=True)
    backend = ScriptedBackend([["Hm", failed], "fine"])
    async with open_session(backend=backend) as session:
        with pytest.raises(trio_claude.ResultError, match="error_max_turns") as caught:
            await session.query("Hi")
        assert failed is caught.value.result
        await session.query("Hi")

    assert () == backend.turns[-1].history


async def test_a_query_error_leaves_the_session_alone(autojump_clock: MockClock) -> None:
    """A QueryError is the caller's, with the part so far; no restart, and the history is whole."""
    backend = ScriptedBackend(["one", ["half ", trio_claude.RateLimitError("slow down")], "three"])
    async with open_supervisor([spec("a", backend)]) as supervisor:
        await trio_claude.query("a", "1")
        with pytest.raises(trio_claude.RateLimitError) as caught:
            await trio_claude.query("a", "2")
        await trio_claude.query("a", "3")

        assert "half " == caught.value.partial.text  # type: ignore[union-attr]
        assert 0 == supervisor.statistics().restarts
    assert (("1", "one"),) == backend.turns[-1].history


async def test_clear_waits_in_line_and_is_withdrawn_when_cancelled(
    autojump_clock: MockClock,
) -> None:
    """A clear that is cancelled in line forgets nothing."""
    backend = ScriptedBackend(lambda turn: [1.0, _known(turn)])
    async with open_session(backend=backend) as session, trio.open_nursery() as nursery:
        await session.query(MINE)
        nursery.start_soon(session.query, "work")
        await trio.testing.wait_all_tasks_blocked()
        with trio.move_on_after(0.5) as scope:
            await session.clear()
        assert scope.cancelled_caught
        assert "Python" in str(await session.query(WHICH))


async def test_a_clear_that_cannot_begin_anew_crashes_the_session(
    autojump_clock: MockClock,
) -> None:
    """If no new conversation can be opened, the caller of clear gets SessionCrashed."""
    opened = 0

    def refuse_second(options: trio_claude.SessionOptions) -> None:
        nonlocal opened
        opened += 1
        if opened == 2:
            raise OSError("no more")

    backend = ScriptedBackend(on_open=refuse_second)
    async with open_supervisor([spec("a", backend)]) as supervisor:
        with pytest.raises(SessionCrashed) as caught:
            await supervisor.get_session("a").clear()
        assert isinstance(caught.value.__cause__, OSError)
        await trio_claude.query("a", "Hi")


async def test_a_clear_that_is_cut_off_says_so(autojump_clock: MockClock) -> None:
    """A session that is stopped while it opens a new conversation ends the clear."""
    opened = 0

    async def slow_second(options: trio_claude.SessionOptions) -> None:
        nonlocal opened
        opened += 1
        if opened == 2:
            await trio.sleep_forever()

    backend = ScriptedBackend(on_open=slow_second)
    async with open_supervisor([spec("a", backend, shutdown=1)]) as supervisor:
        async with trio.open_nursery() as nursery:

            async def clear() -> None:
                with pytest.raises(SessionRestarted):
                    await supervisor.get_session("a").clear()

            nursery.start_soon(clear)
            await trio.testing.wait_all_tasks_blocked()
            await supervisor.restart_session("a")


async def test_crash_while_idle_and_in_a_turn(autojump_clock: MockClock) -> None:
    """testing.crash() is like a fault: the turn in flight is lost to it, the session comes back."""
    backend = ScriptedBackend(lambda turn: hang(turn) if turn.prompt == "hang" else "fine")
    async with open_supervisor([spec("a", backend)]) as supervisor, trio.open_nursery() as nursery:
        session = supervisor.get_session("a")
        fault = ValueError("cosmic ray")

        async def ask() -> None:
            with pytest.raises(SessionCrashed) as caught:
                await session.query("hang")
            assert fault is caught.value.__cause__

        nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        await crash(session, fault)
        await trio.testing.wait_all_tasks_blocked()
        assert fault is supervisor.list_sessions()[0].last_error
        await crash(session)
        assert "fine" == str(await session.query("Hi"))


async def test_handles_and_streams_say_what_they_are(autojump_clock: MockClock) -> None:
    """Their repr has the name and the state, and a handle its session's name and id."""
    async with open_supervisor([spec("a", id=7)]) as supervisor:
        session = supervisor.get_session("a")
        assert "<SessionHandle 'a' running>" == repr(session)
        assert ("a", 7) == (session.name, session.id)
        assert session is trio_claude.get_session("a") is supervisor.get_session(7)
        async with session.stream("Hi") as events:
            assert isinstance(events, ResponseStream)
            assert "<ResponseStream open>" == repr(events)
        assert "<ResponseStream ended>" == repr(events)
    assert "<SessionHandle 'a' stopped>" == repr(session)
    assert isinstance(session, SessionHandle)


@pytest.mark.parametrize("moment", range(40))
async def test_a_query_cancelled_at_any_moment_is_remembered_or_cancelled(
    moment: int, autojump_clock: MockClock
) -> None:
    """A turn is in the history if and only if its caller got the result."""
    backend = ScriptedBackend(["some words", "more"])
    async with nothing_left(backend), open_session(backend=backend) as session:
        got = False
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:

                async def count_down() -> None:
                    for _ in range(moment):
                        await trio.lowlevel.checkpoint()
                    scope.cancel()

                nursery.start_soon(count_down)
                await session.query("first")
                got = True
        await session.query("second")

        expected = (("first", "some words"),) if got else ()
        assert expected == backend.turns[-1].history


async def test_a_cancelled_stop_still_stops(autojump_clock: MockClock) -> None:
    """Who asked the session to finish needn't wait for it."""
    backend = ScriptedBackend(lambda turn: [3.0, "done"])
    async with (
        nothing_left(backend),
        open_supervisor([spec("a", backend, restart="temporary")]) as supervisor,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(trio_claude.query, "a", "work")
        await trio.testing.wait_all_tasks_blocked()
        with trio.move_on_after(1) as scope:
            await supervisor.get_session("a").stop()
        assert scope.cancelled_caught
        await trio.sleep(5)
        assert () == supervisor.list_sessions()


async def test_a_cancelled_open_session_leaves_nothing(autojump_clock: MockClock) -> None:
    """While it starts, and while it is open."""

    async def slow(options: trio_claude.SessionOptions) -> None:
        await trio.sleep(2)

    backend = ScriptedBackend(on_open=slow)
    for seconds in (1, 3):
        async with nothing_left(backend):
            with trio.move_on_after(seconds) as scope:
                async with open_session(name="a", backend=backend):
                    await trio.sleep_forever()
            assert scope.cancelled_caught


async def test_of_three_at_once_two_are_too_many() -> None:
    """max_queue=0 lets one in, also when others come in the very same moment."""
    outcomes: list[str] = []

    async def ask(session: SessionHandle) -> None:
        try:
            outcomes.append(str(await session.query("Hi")))
        except SessionBusy:
            outcomes.append("busy")

    async with open_session(backend=ScriptedBackend(lambda turn: "hi"), max_queue=0) as session:
        for _ in range(3):
            outcomes.clear()
            async with trio.open_nursery() as nursery:
                for _ in range(3):
                    nursery.start_soon(ask, session)
            assert ["busy", "busy", "hi"] == sorted(outcomes)


async def test_after_a_crash_the_session_is_not_alive() -> None:
    """is_alive() knows at once what the supervisor learns a moment later."""
    async with open_supervisor([spec("a")]) as supervisor:
        session = supervisor.get_session("a")
        await crash(session)
        assert not session.is_alive()
        await trio.testing.wait_all_tasks_blocked()
        assert session.is_alive()


async def test_stop_while_the_session_is_still_connecting(autojump_clock: MockClock) -> None:
    """Who asks a session to finish before it is up is heard: it ends as soon as it is."""

    class Slow(ScriptedBackend):
        @asynccontextmanager
        async def connect(self) -> AsyncIterator[trio_claude.Connection]:
            await trio.sleep(2)
            async with super().connect() as connection:
                yield connection

    async with trio.open_nursery() as nursery:

        async def run() -> None:
            async with open_supervisor([spec("a", Slow(), restart="temporary")]) as supervisor:
                await trio.testing.wait_all_tasks_blocked()
                assert () == supervisor.list_sessions()

        nursery.start_soon(run)
        await trio.testing.wait_all_tasks_blocked()
        began = trio.current_time()
        await trio_claude.get_session("a").stop()
        assert 2 == trio.current_time() - began


async def test_interrupt_finds_the_turn_as_soon_as_the_stream_is_entered(
    autojump_clock: MockClock,
) -> None:
    """There is no moment in which a question has been taken and can't be interrupted."""
    async with open_session(backend=ScriptedBackend(lambda turn: [5.0, "late"])) as session:
        for _ in range(20):  # the moment depends on Trio's scheduler
            async with session.stream("Hi") as events:
                await session.interrupt()
                with pytest.raises(Interrupted):
                    while True:
                        await events.receive()


async def test_a_stream_that_another_task_closes(autojump_clock: MockClock) -> None:
    """Who receives then gets ClosedResourceError, like with any channel of Trio's."""
    async with (
        open_session(backend=ScriptedBackend(hang)) as session,
        session.stream("Hi") as events,
        trio.open_nursery() as nursery,
    ):

        async def read() -> None:
            with pytest.raises(trio.ClosedResourceError):
                while True:
                    await events.receive()

        nursery.start_soon(read)
        await trio.testing.wait_all_tasks_blocked()
        await events.aclose()


async def test_a_task_that_reads_a_session_cannot_ask_it_meanwhile(
    autojump_clock: MockClock,
) -> None:
    """Asking a session while holding its stream would wait for itself: refused, not 300 seconds."""
    backend = ScriptedBackend(lambda turn: [1.0, "fine"])
    async with open_supervisor([spec("a", backend, restart="transient")]) as supervisor:
        session = supervisor.get_session("a")
        async with session.stream("first") as events:
            for call in (session.query("second"), session.clear()):
                with pytest.raises(UsageError, match="leave the stream first"):
                    await call
            async with trio.open_nursery() as nursery:
                nursery.start_soon(session.query, "another task may wait")
                await trio.testing.wait_all_tasks_blocked()
                assert [event async for event in events]
        async with session.stream("third") as events:

            async def read() -> None:
                assert [event async for event in events]

            async with trio.open_nursery() as nursery:
                nursery.start_soon(read)  # it is somebody else who reads
                await trio.testing.wait_all_tasks_blocked()
                await session.query("fourth")
        async with session.stream("fifth") as events:
            await session.stop()  # asks only: the turn waits for this very task
            assert [event async for event in events]
        await trio.testing.wait_all_tasks_blocked()
        assert "stopped" == session.status


async def test_a_handle_in_the_moment_before_the_first_start() -> None:
    """stop() and interrupt() of what has never run have nothing to do."""
    session = SessionHandle(Inbox("a", "a", SessionOptions()))
    await session.stop()
    await session.interrupt()
    assert not session.is_alive()


async def test_why_a_session_is_gone() -> None:
    """After a crash that nobody restarts, later callers learn what it was."""
    fault = OSError("pipe broke")
    async with open_supervisor([spec("a", restart="temporary")]) as supervisor:
        session = supervisor.get_session("a")
        await crash(session, fault)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(SessionTerminated, match="ended with OSError") as caught:
            await session.query("Hi")
        assert fault is caught.value.__cause__


async def test_open_session_tells_of_a_crash_that_nobody_saw() -> None:
    """A crash between turns is raised where the block ends, unless the body has its own error."""
    fault = OSError("pipe broke")
    with pytest.raises(SessionCrashed, match="while nobody asked it") as caught:
        async with open_session(name="a", backend=ScriptedBackend()) as session:
            await crash(session, fault)
    assert (fault, "a") == (caught.value.__cause__, caught.value.name)
    with pytest.raises(KeyError):
        async with open_session(backend=ScriptedBackend()) as session:
            await crash(session, fault)
            raise KeyError
    async with open_session(backend=ScriptedBackend([fault])) as session:
        with pytest.raises(SessionCrashed):
            await session.query("Hi")
    with pytest.raises(ConfigurationError, match="'restart'"):
        open_session(restart="permanent")  # type: ignore[call-arg]


async def test_interrupt_is_not_misled_by_a_caller_that_was_withdrawn(
    autojump_clock: MockClock,
) -> None:
    """The turn in flight stays the one in flight when somebody behind it in line is cancelled."""
    backend = ScriptedBackend(lambda turn: [10.0, "done"])
    async with open_session(backend=backend) as session, trio.open_nursery() as nursery:

        async def ask() -> None:
            with pytest.raises(Interrupted):
                await session.query("Hi")

        nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        with trio.move_on_after(1) as cancelled:
            await session.query("Me too")
        assert cancelled.cancelled_caught
        with trio.fail_after(1):
            await session.interrupt()


async def test_interrupt_from_inside_the_turn_returns(autojump_clock: MockClock) -> None:
    """It doesn't wait for the turn, which waits for it; the turn ends at its next checkpoint."""
    seen: list[str] = []

    async def answer(turn: ScriptedTurn) -> str:
        await trio_claude.get_session("a").interrupt()
        seen.append("returned")
        await trio.lowlevel.checkpoint()
        raise AssertionError("cancelled by then")

    async with open_session(name="a", backend=ScriptedBackend(answer)) as session:
        with pytest.raises(Interrupted):
            await session.query("Hi")
    assert ["returned"] == seen


async def test_a_stopped_session_without_a_queue_is_gone_and_not_busy() -> None:
    """Nobody should come back later; and its conversation has no id any more."""
    async with open_session(backend=ScriptedBackend(), max_queue=0) as session:
        await session.query("Hi")
        assert session.session_id is not None
        await session.stop()
        await trio.testing.wait_all_tasks_blocked()
        assert session.session_id is None
        with pytest.raises(SessionTerminated):
            await session.query("Hi")


async def test_who_is_cancelled_in_line_makes_room(autojump_clock: MockClock) -> None:
    """max_queue counts who waits now."""
    backend = ScriptedBackend(lambda turn: [9.0, "done"])
    async with open_session(backend=backend, max_queue=1) as session:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(session.query, "work")
            await trio.testing.wait_all_tasks_blocked()
            for _ in range(3):
                with trio.move_on_after(1) as cancelled:
                    await session.query("work")
                assert cancelled.cancelled_caught


async def test_open_session_tells_of_a_crash_whose_caller_did_not_hear(
    autojump_clock: MockClock,
) -> None:
    """A stream that was left before its crash, and a caller that was cancelled, were not told."""

    async def answer(turn: ScriptedTurn) -> AsyncGenerator[str, None]:
        try:
            yield "Well, "
            await trio.sleep_forever()
        finally:
            raise OSError("cleanup failed")

    with pytest.raises(SessionCrashed, match="while nobody asked it"):
        async with open_session(backend=ScriptedBackend(answer)) as session:
            async with session.stream("Hi") as events:
                await events.receive()
                await events.receive()
    with pytest.raises(SessionCrashed, match="while nobody asked it"):
        async with open_session(backend=ScriptedBackend(answer)) as session:
            with trio.move_on_after(1):
                await session.query("Hi")
            await trio.testing.wait_all_tasks_blocked()


async def test_a_reader_that_has_gone_reads_no_more(autojump_clock: MockClock) -> None:
    """If a helper read a part and ended, the stream is its owner's again: asking is refused."""
    backend = ScriptedBackend(lambda turn: "three words here")
    async with open_session(backend=backend) as session, session.stream("Hi") as events:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(events.receive)
        with pytest.raises(UsageError, match="leave the stream first"):
            await session.query("more")


async def test_two_streams_made_before_one_is_entered(autojump_clock: MockClock) -> None:
    """What a call could not know yet is refused when the block is entered."""
    async with open_session(backend=ScriptedBackend()) as session:
        first, second = session.stream("1"), session.stream("2")
        async with first:
            with pytest.raises(UsageError, match="leave the stream first"):
                async with second:
                    raise AssertionError("never entered")


async def test_a_stream_belongs_to_its_run() -> None:
    """Another run is refused before it can touch it; the owner reads on."""

    def elsewhere(call: Callable[[], Awaitable[object]]) -> None:
        with pytest.raises(UsageError, match="belongs to another Trio run"):
            trio.run(call)

    async with (
        open_session(backend=ScriptedBackend(["hello"])) as session,
        session.stream("Hi") as events,
    ):
        await trio.to_thread.run_sync(elsewhere, events.receive)
        await trio.to_thread.run_sync(elsewhere, events.aclose)
        assert [event async for event in events]


def test_outside_of_trio() -> None:
    """Under another event loop, what opens something says where it works."""

    async def main() -> None:
        with pytest.raises(UsageError, match="inside a Trio run only"):
            async with open_supervisor():
                raise AssertionError("never entered")
        with pytest.raises(UsageError, match="inside a Trio run only"):
            async with open_session(backend=ScriptedBackend()):
                raise AssertionError("never entered")
        with pytest.raises(UsageError, match="inside a Trio run only"):
            await trio_claude.run_supervisor()
        with pytest.raises(UsageError, match="inside a Trio run only"):
            async with open_simulator():
                raise AssertionError("never entered")

    asyncio.run(main())


@pytest.mark.parametrize("call", ["clear", "interrupt", "stop", "restart", "terminate", "aclose"])
async def test_a_cancelled_call_leaves_nothing(call: str, autojump_clock: MockClock) -> None:
    """Whatever is cancelled while a stubborn turn ends, all is gone in the end."""

    async def stubborn(turn: ScriptedTurn) -> AsyncGenerator[str, None]:
        yield "Well, "
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(5)

    backend = ScriptedBackend(stubborn)
    async with nothing_left(backend), open_supervisor([spec("a", backend)]) as supervisor:
        session = supervisor.get_session("a")
        async with trio.open_nursery() as nursery:

            async def ask() -> None:
                with contextlib.suppress(trio_claude.TrioClaudeError, trio.ClosedResourceError):
                    async with session.stream("Hi") as events:
                        await events.receive()
                        await events.receive()
                        await trio.testing.wait_all_tasks_blocked()
                        if call == "aclose":
                            with trio.move_on_after(1) as scope:
                                await events.aclose()
                            assert scope.cancelled_caught
                        await events.receive()

            nursery.start_soon(ask)
            await trio.testing.wait_all_tasks_blocked()
            with trio.move_on_after(1) as scope:
                if call == "restart":
                    await supervisor.restart_session("a")
                elif call == "terminate":
                    await supervisor.terminate_session("a")
                elif call != "aclose":
                    await getattr(session, call)()
            assert scope.cancelled_caught == (call != "aclose")
            if call in ("clear", "stop"):  # which only wait for the turn
                await session.interrupt()


async def test_a_clear_that_cannot_begin_anew_is_a_crash_for_the_supervisor() -> None:
    """It knows the cause, and gives up because of it where no restart is allowed."""
    fails = False

    def on_open(options: SessionOptions) -> None:
        if fails:
            raise OSError("no route")

    with pytest.raises(trio_claude.RestartIntensityExceeded) as caught:
        async with open_supervisor(
            [spec("a", ScriptedBackend(on_open=on_open))], max_restarts=0
        ) as supervisor:
            fails = True
            with pytest.raises(SessionCrashed):
                await supervisor.get_session("a").clear()
            await trio.sleep_forever()
    assert isinstance(caught.value.__cause__, ExceptionGroup)
    assert isinstance(caught.value.__cause__.exceptions[0], OSError)


# ---- what a cluster needs ---------------------------------------------------------------------


async def test_who_listens_is_told_what_has_become_another() -> None:
    """The status and the conversation's id, in the breath in which they change."""
    async with open_supervisor([spec("a", restart="transient")]) as supervisor:
        session = supervisor.get_session("a")
        told: list[tuple[str, str | None]] = []

        async def news() -> list[tuple[str, str | None]]:
            await trio.testing.wait_all_tasks_blocked()
            said = [one for one, _ in groupby(told)]
            told.clear()
            return said

        inbox_of(session).on_change = lambda: told.append((session.status, session.session_id))
        await session.query("hello")
        first = session.session_id
        assert await news() == [("running", first)]
        await session.query("again")
        assert await news() == []
        await session.clear()
        assert await news() == [("running", None)]

        await session.query("hello")
        second = session.session_id
        assert await news() == [("running", second)]
        await crash(session)
        assert await news() == [("restarting", second), ("restarting", None), ("running", None)]
        await session.stop()
        assert await news() == [("stopped", None)]
        await supervisor.restart_session("a")
        assert await news() == [("starting", None), ("running", None)]

        inbox_of(session).on_change = None
        await session.query("hello")
        assert await news() == []


async def test_whether_a_question_would_be_taken_at_once(autojump_clock: MockClock) -> None:
    """A session is free when it waits for a question: not while it starts, or is in a turn."""
    backend = ScriptedBackend(lambda turn: [1.0, turn.prompt])
    async with open_supervisor([spec("a", backend)]) as supervisor:
        inbox = inbox_of(supervisor.get_session("a"))
        await trio.testing.wait_all_tasks_blocked()
        assert inbox.is_free()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio_claude.query, "a", "hello")
            await trio.testing.wait_all_tasks_blocked()
            assert not inbox.is_free()

        await trio.testing.wait_all_tasks_blocked()
        assert inbox.is_free()
    assert not inbox.is_free()


async def test_stop_that_does_not_wait(autojump_clock: MockClock) -> None:
    """It says so to the session, and returns; the turn in flight is answered first."""
    backend = ScriptedBackend([["Well, ", 5.0, "fine"]])
    async with open_supervisor([spec("a", backend, restart="transient")]) as supervisor:
        session = supervisor.get_session("a")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(session.query, "hello")
            await trio.testing.wait_all_tasks_blocked()

            await inbox_of(session).stop(waits=False)
            assert trio.current_time() == 0
            assert session.is_alive()

            await session.stop()
            assert trio.current_time() == 5
        assert not session.is_alive()
        await inbox_of(session).stop(waits=False)  # nothing is left to be stopped


class _Elsewhere(Target):
    """A session that is on no node at all."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.id = name
        self.asked: list[object] = []

    @property
    def status(self) -> Status:
        """As if it were there."""
        return "running"

    @property
    def session_id(self) -> str | None:
        """As if it were there."""
        return "id"

    def new_question(
        self, prompt: object, overrides: Mapping[str, Any], *, whole: bool = False
    ) -> Question:
        """Only note it."""
        self.asked.append((prompt, dict(overrides), whole))
        raise UsageError("it is nowhere")

    async def put(self, question: Question) -> None:
        """Nobody can."""
        raise AssertionError("there is no question")

    async def clear(self) -> None:
        """Only note it."""
        self.asked.append("clear")

    async def interrupt(self) -> None:
        """Only note it."""
        self.asked.append("interrupt")

    async def stop(self) -> None:
        """Only note it."""
        self.asked.append("stop")

    async def control(self, what: str, request: Mapping[str, Any] | None) -> Mapping[str, Any]:
        """Only note it."""
        self.asked.append((what, request))
        return {}


async def test_a_handle_asks_its_target() -> None:
    """Whatever that is: a session of this run, or one on another node."""
    target = _Elsewhere("far")
    handle = SessionHandle(target)

    assert repr(handle) == "<SessionHandle 'far' running>"
    assert (handle.name, handle.id, handle.status, handle.session_id) == (
        "far",
        "far",
        "running",
        "id",
    )
    assert handle.is_alive()
    with pytest.raises(UsageError, match="it is nowhere"):
        await handle.query("whole", max_tokens=7)
    with pytest.raises(UsageError, match="it is nowhere"):
        handle.stream("in pieces")
    await handle.clear()
    await handle.interrupt()
    await handle.stop()
    assert await handle.server_info() == {}
    assert target.asked == [
        ("whole", {"max_tokens": 7}, True),
        ("in pieces", {}, False),
        *("clear", "interrupt", "stop"),
        ("server_info", None),
    ]


async def test_a_session_elsewhere_is_not_crashed_from_here() -> None:
    """`crash` says where that can be done."""
    with pytest.raises(UsageError, match="session 'far' is on another node: crash it in a task of"):
        await crash(SessionHandle(_Elsewhere("far")))
