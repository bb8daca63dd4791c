"""What a turn makes of backends that behave oddly, and of ends that meet."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any, TypeAlias

import pytest
import trio
import trio.testing
from trio.testing import MockClock

import trio_claude
from trio_claude import (
    APIConnectionError,
    AssistantMessage,
    Backend,
    ConfigurationError,
    Connection,
    Conversation,
    Event,
    Interrupted,
    QueryError,
    QueryTimeout,
    ResultMessage,
    SessionCrashed,
    SessionOptions,
    SessionRestarted,
    StreamInterrupted,
    TextBlock,
    TextDelta,
    open_session,
    open_supervisor,
)
from trio_claude._session.question import Clear
from trio_claude._session.turn import Turn
from trio_claude.simulator import open_simulator
from trio_claude.testing import ScriptedBackend, crash

from .support import inbox_of, spec

_Block: TypeAlias = AbstractAsyncContextManager[trio.abc.ReceiveChannel[Event]]


class _Odd(Backend, Connection, Conversation):
    """A backend whose turns are one async context manager of the test's."""

    def __init__(self, turn: Callable[[], _Block]) -> None:
        self._turn = turn

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[Connection]:
        yield self

    @asynccontextmanager
    async def open(self, options: SessionOptions) -> AsyncIterator[Conversation]:
        yield self

    def turn(self, prompt: str, options: SessionOptions) -> _Block:
        return self._turn()


def _events(*events: Event) -> trio.MemoryReceiveChannel[Event]:
    """A channel that gives these, and ends."""
    send, receive = trio.open_memory_channel[Event](len(events))
    for event in events:
        send.send_nowait(event)
    send.close()
    return receive


async def test_the_events_end_without_a_result() -> None:
    """The end of the channel is no success, but StreamInterrupted with the part so far."""

    @asynccontextmanager
    async def turn() -> AsyncIterator[trio.abc.ReceiveChannel[Event]]:
        yield _events(TextDelta(0, "half"))

    async with open_session(backend=_Odd(turn)) as session:
        with pytest.raises(StreamInterrupted, match="without a result") as caught:
            await session.query("Hi")
    assert caught.value.partial == AssistantMessage((TextBlock("half"),))


async def test_a_block_that_swallows_what_is_raised_in_it() -> None:
    """A backend that hides its own failure is found out all the same."""

    @asynccontextmanager
    async def turn() -> AsyncIterator[trio.abc.ReceiveChannel[Event]]:
        with suppress(StreamInterrupted):
            yield _events(TextDelta(0, "half"))

    async with open_session(backend=_Odd(turn)) as session:
        with pytest.raises(StreamInterrupted, match="ended the turn without a result"):
            await session.query("Hi")


async def test_the_reader_sets_the_pace() -> None:
    """The backend is asked for one event more than was read, and for none beyond that."""
    asked = 0

    class Counting(trio.abc.ReceiveChannel[Event]):
        async def receive(self) -> Event:
            nonlocal asked
            asked += 1
            await trio.lowlevel.checkpoint()
            return TextDelta(0, str(asked))

        async def aclose(self) -> None:
            await trio.lowlevel.checkpoint()

    @asynccontextmanager
    async def turn() -> AsyncIterator[trio.abc.ReceiveChannel[Event]]:
        yield Counting()

    async with open_session(backend=_Odd(turn)) as session, session.stream("Hi") as events:
        for read in range(4):
            await trio.testing.wait_all_tasks_blocked()
            assert asked == read + 1
            assert TextDelta(0, str(read + 1)) == await events.receive()


async def test_a_block_that_fails_after_the_result() -> None:
    """The caller never sees a result whose turn the backend could not end."""

    @asynccontextmanager
    async def turn() -> AsyncIterator[trio.abc.ReceiveChannel[Event]]:
        yield _events(TextDelta(0, "whole"), ResultMessage("whole", session_id="7"))
        raise APIConnectionError("lost at the last moment")

    async with open_session(backend=_Odd(turn)) as session, session.stream("Hi") as events:
        assert isinstance(await events.receive(), TextDelta)
        for _ in range(2):
            with pytest.raises(APIConnectionError, match="last moment"):
                await events.receive()
        assert session.session_id is None


async def test_the_backend_s_own_partial_is_kept() -> None:
    """What a backend says of the part so far is not replaced by what was delivered."""
    mine = AssistantMessage((TextBlock("more than was delivered"),), id="msg_1")
    backend = ScriptedBackend([["a", StreamInterrupted("cut", partial=mine)]])
    async with open_session(backend=backend) as session:
        with pytest.raises(StreamInterrupted) as caught:
            await session.query("Hi")
    assert mine is caught.value.partial


async def test_without_any_text_there_is_no_partial() -> None:
    """partial is None when nothing was answered."""
    async with open_session(backend=ScriptedBackend([APIConnectionError("no")])) as session:
        with pytest.raises(QueryError) as caught:
            await session.query("Hi")
    assert caught.value.partial is None


@pytest.mark.parametrize("way", ["interrupt", "timeout"])
async def test_a_backend_that_turns_the_cancellation_into_an_error(
    way: str, autojump_clock: MockClock
) -> None:
    """What was meant counts: Interrupted or QueryTimeout, from what the backend made of it."""

    @asynccontextmanager
    async def turn() -> AsyncIterator[trio.abc.ReceiveChannel[Event]]:
        try:
            yield trio.open_memory_channel[Event](0)[1]
        except trio.Cancelled:
            raise APIConnectionError("the connection was closed") from None

    async with (
        open_session(backend=_Odd(turn), timeout=5) as session,
        trio.open_nursery() as nursery,
    ):

        async def ask() -> None:
            with pytest.raises(Interrupted if way == "interrupt" else QueryTimeout) as caught:
                await session.query("Hi")
            assert isinstance(caught.value.__cause__, APIConnectionError)

        nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        if way == "interrupt":
            await session.interrupt()
            await session.interrupt()  # a second one finds nothing to do


async def test_a_backend_that_turns_its_end_into_an_error(autojump_clock: MockClock) -> None:
    """A session that is restarted says so, whatever its backend raised when it was cut off."""

    @asynccontextmanager
    async def turn() -> AsyncIterator[trio.abc.ReceiveChannel[Event]]:
        try:
            yield trio.open_memory_channel[Event](0)[1]
        except trio.Cancelled:
            raise RuntimeError("cleanup failed") from None

    session_spec = trio_claude.SessionSpec(name="a", backend=_Odd(turn), shutdown=1)
    async with open_supervisor([session_spec]) as supervisor, trio.open_nursery() as nursery:

        async def ask() -> None:
            with pytest.raises(SessionRestarted):
                await trio_claude.query("a", "Hi")

        nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        await supervisor.restart_session("a")
        assert 0 == supervisor.statistics().recent_restarts


async def test_a_crash_after_a_clear_is_the_turn_s_alone() -> None:
    """The clear that was done stays done, when the conversation it began crashes later."""
    backend = ScriptedBackend([OSError("broken"), "fine"])
    async with open_supervisor([spec("a", backend)]) as supervisor:
        session = supervisor.get_session("a")
        await session.clear()
        with pytest.raises(SessionCrashed):
            await session.query("Hi")
        await session.query("Hi")


async def test_only_the_first_crash_counts() -> None:
    """A fault in what has ended already changes nothing."""
    async with open_supervisor([spec("a")]) as supervisor:
        incarnation = inbox_of(supervisor.get_session("a")).incarnation
        assert incarnation is not None
        first = ValueError("first")
        await crash(supervisor.get_session("a"), first)
        incarnation.crash(ValueError("second"))
        assert first is incarnation.fault
        await trio.testing.wait_all_tasks_blocked()
        assert 1 == supervisor.statistics().restarts


@pytest.mark.parametrize("way", ["interrupt", "restart_session", "terminate_session", "crash"])
@pytest.mark.parametrize("moment", range(24))
async def test_an_end_at_any_moment_gives_one_outcome(way: str, moment: int) -> None:
    """However a turn is ended, and whenever: its caller has a result or one error, and the next
    turn knows the first if and only if that had a result."""
    backend = ScriptedBackend(lambda turn: "two words")
    async with (
        open_supervisor([spec("a", backend, shutdown=0)], max_restarts=5) as supervisor,
        trio.open_nursery() as nursery,
    ):
        session = supervisor.get_session("a")
        outcomes: list[object] = []

        async def ask() -> None:
            try:
                outcomes.append(await session.query("first"))
            except trio_claude.TrioClaudeError as exc:
                outcomes.append(exc)

        nursery.start_soon(ask)
        for _ in range(moment):
            await trio.lowlevel.checkpoint()
        try:
            if way == "interrupt":
                await session.interrupt()
            elif way == "crash":
                await crash(session)
            else:
                await getattr(supervisor, way)("a")
        except trio_claude.UsageError:
            pass
        await trio.testing.wait_all_tasks_blocked()

        (outcome,) = outcomes
        if way == "interrupt":
            await session.query("second")
            got = isinstance(outcome, ResultMessage)
            assert (("first", "two words"),) * got == backend.turns[-1].history


@pytest.mark.parametrize(
    "options",
    [{"extra_body": {"stream": False}}, {"extra_headers": {"content-length": "3"}}],
    ids=["body", "headers"],
)
async def test_options_that_cannot_be_sent_are_the_caller_s_fault(options: Any) -> None:
    """ConfigurationError for the call; the session and its conversation are untouched."""
    async with open_simulator() as simulator:
        a = trio_claude.SessionSpec(name="a", base_url=simulator.base_url, api_key="a dummy")
        async with open_supervisor([a]) as supervisor:
            await trio_claude.query("a", "My favorite language is Python")
            with pytest.raises(ConfigurationError):
                await trio_claude.query("a", "Hi", **options)
            again = await trio_claude.query("a", "What's my favorite language?")
            assert "Python" in str(again)
            assert 0 == supervisor.statistics().recent_restarts


async def test_a_caller_that_has_the_result_waits_for_the_backend_to_end_the_turn(
    autojump_clock: MockClock,
) -> None:
    """Cancelled between the result and the end of the backend's block: the turn is whole for both."""
    ended = 0

    @asynccontextmanager
    async def turn() -> AsyncIterator[trio.abc.ReceiveChannel[Event]]:
        nonlocal ended
        yield _events(ResultMessage("whole", session_id="7"))
        await trio.sleep(2)
        ended += 1

    async with open_session(backend=_Odd(turn)) as session:
        with trio.move_on_after(1) as scope:
            assert "whole" == str(await session.query("Hi"))
        assert scope.cancel_called
        assert (1, "7") == (ended, session.session_id)


async def test_a_turn_that_fails_at_once_is_not_kept() -> None:
    """Whether its caller or its session comes first: afterwards no turn is in flight."""

    @asynccontextmanager
    async def turn() -> AsyncIterator[trio.abc.ReceiveChannel[Event]]:
        raise APIConnectionError("no route")
        yield _events()

    async with open_session(backend=_Odd(turn)) as session:
        for _ in range(20):  # which one comes first depends on Trio's scheduler
            async with session.stream("Hi") as events:
                await trio.testing.wait_all_tasks_blocked()
                assert inbox_of(session).turn is None
                with pytest.raises(APIConnectionError):
                    await events.receive()


async def test_a_request_has_one_outcome() -> None:
    """The first one; and a cancellation does not hide one that is there."""
    clear, turn = Clear(), Turn("Hi")
    clear.end(None)
    clear.end(QueryError("too late"))
    with trio.CancelScope() as cancelled:
        cancelled.cancel()
        await clear.wait()
        await clear.wait_ended()
    assert not cancelled.cancelled_caught
    turn.interrupt()
    turn.abandon()
    assert "interrupted" == turn._intent


async def test_a_failed_turn_says_in_which_session() -> None:
    """With many sessions in a nursery, the error's note names the one, once."""
    fault = APIConnectionError("no answer")
    async with open_session(name="reviewer", backend=ScriptedBackend([fault, fault])) as session:
        for _ in range(2):
            with pytest.raises(APIConnectionError) as caught:
                await session.query("Hi")
            assert ["in a turn of session 'reviewer'"] == caught.value.__notes__
            assert caught.value.__context__ is None
