"""The tests of a small application, which asks a session by its name."""

import pytest
import trio
import trio.testing
from hypothesis import given, settings, strategies as st

import trio_claude
from trio_claude import SessionExited, SessionSpec, SupervisorEvent
from trio_claude.simulator import Simulator
from trio_claude.testing import Crash, ScriptedBackend, ScriptedTurn, check_backend, crash
from trio_claude.testing.strategies import crash_schedules

pytest_plugins = ["trio_claude.testing.fixtures"]  # for the fixture `simulator`


# ---- the application ----------------------------------------------------------------------------


async def sum_up(text: str) -> str:
    """What is tested here."""
    try:
        return str(await trio_claude.query("summarizer", f"Sum up: {text}"))
    except trio_claude.QueryError:
        return text[:20]


def team(backend: ScriptedBackend | None = None) -> list[SessionSpec]:
    """Its sessions; in production there is no backend."""
    return [SessionSpec(name="summarizer", backend=backend)]


# ---- what it asks, and what it makes of the answer ----------------------------------------------


async def test_summary() -> None:
    """Answers from a list; the backend knows what it was asked."""
    backend = ScriptedBackend(["It is short."])
    async with trio_claude.open_supervisor(team(backend)):
        assert await sum_up("a long text") == "It is short."
    assert [turn.prompt for turn in backend.turns] == ["Sum up: a long text"]
    assert (backend.connections, backend.conversations) == (0, 0)  # nothing is left open


async def test_answers_from_a_function() -> None:
    """A function sees the question, the turns before it, and all options."""

    def answer(turn: ScriptedTurn) -> str:
        return f"{turn.options.model}, {len(turn.history)} before: {turn.prompt}"

    async with trio_claude.open_session(backend=ScriptedBackend(answer), model="opus") as session:
        await session.query("One")
        assert str(await session.query("Two")) == "opus, 1 before: Two"


async def test_service_is_overloaded() -> None:
    """An exception in the list is raised: the turn fails, the session goes on."""
    backend = ScriptedBackend([trio_claude.OverloadedError("overloaded"), "It is short."])
    async with trio_claude.open_supervisor(team(backend)):
        assert await sum_up("a long text, much too long") == "a long text, much to"
        assert await sum_up("a long text") == "It is short."


# ---- time ---------------------------------------------------------------------------------------


async def test_slow_answer(autojump_clock: trio.testing.MockClock) -> None:
    """Numbers are pauses, in seconds. On the mock clock they take no time."""
    backend = ScriptedBackend([["It ", 1000.0, "is short."]])
    async with trio_claude.open_supervisor(team(backend)):
        with pytest.raises(trio_claude.QueryTimeout) as caught:
            await trio_claude.query("summarizer", "Sum up", timeout=60)
        assert trio.current_time() == 60
    assert caught.value.partial is not None
    assert caught.value.partial.text == "It "


# ---- crashes ------------------------------------------------------------------------------------


async def test_crash_in_mid_answer(autojump_clock: trio.testing.MockClock) -> None:
    """The turn in flight is lost; the session comes back under its name, after the delay."""
    backend = ScriptedBackend([["It ", 1000.0], "It is short."])
    delay = trio_claude.Backoff(initial=3, jitter=0)
    async with trio_claude.open_supervisor(team(backend), backoff=delay) as supervisor:
        async with trio_claude.stream("summarizer", "Sum up") as events:
            words = trio_claude.streams.text_deltas(events)
            assert await words.receive() == "It "
            await crash(supervisor.get_session("summarizer"))
            with pytest.raises(trio_claude.SessionCrashed):
                await words.receive()
        assert await sum_up("a long text") == "It is short."
        assert trio.current_time() == 3
    assert backend.turns[-1].history == ()


@settings(max_examples=20, deadline=None)
@given(schedule=crash_schedules(sessions=1, max_size=4, how=st.just("crash")))
def test_any_crashes(schedule: list[Crash]) -> None:
    """Whatever befalls the session, each question has one outcome, and nothing is left."""
    backend = ScriptedBackend(lambda turn: ["It ", 0.5, "is short."])

    async def main() -> None:
        async with trio_claude.open_supervisor(team(backend), max_restarts=99) as supervisor:
            session = supervisor.get_session("summarizer")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(befall, session)
                for _ in range(5):
                    try:
                        assert str(await session.query("Sum up")) == "It is short."
                    except trio_claude.SessionCrashed:
                        await trio.sleep(1)

    async def befall(session: trio_claude.SessionHandle) -> None:
        for mishap in schedule:
            await trio.sleep_until(mishap.time)
            if session.is_alive():
                await crash(session)

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    assert (backend.connections, backend.conversations) == (0, 0)


# ---- over HTTP ----------------------------------------------------------------------------------


async def test_over_http(simulator: Simulator) -> None:
    """The real backend against a real socket; faults on demand."""
    simulator.fail_next(529)
    async with trio_claude.open_supervisor(team()):
        assert await sum_up("a long text") != ""
    asked = [request for request in simulator.requests if request.path == "/v1/messages"]
    assert len(asked) == 2  # refused once, and sent again
    assert asked[0].body["messages"][-1]["role"] == "user"


async def test_my_own_backend(autojump_clock: trio.testing.MockClock) -> None:
    """A backend of your own keeps what sessions rely on if this passes."""
    await check_backend(ScriptedBackend())


async def test_events() -> None:
    """What a supervisor reports can be looked at."""
    events: list[SupervisorEvent] = []
    async with trio_claude.open_supervisor(
        team(ScriptedBackend()), on_event=events.append
    ) as supervisor:
        await crash(supervisor.get_session("summarizer"), ValueError("on purpose"))
        await sum_up("a long text")
    causes = [event.cause for event in events if isinstance(event, SessionExited)]
    assert [str(cause) for cause in causes] == ["on purpose"]
