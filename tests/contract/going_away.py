"""Sessions that go away: stopped, crashed, restarted, or terminated."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
import trio.testing

import trio_claude
from trio_claude import (
    ProtocolError,
    ResultMessage,
    SessionCrashed,
    SessionRestarted,
    SessionTerminated,
    TextDelta,
)

from .kit import MINE, WHICH, Place, call, fails, heard, last_prompt, opened, prompts, read_to, spec
from .unruly import CRASH, Unruly

# ---- stop ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("restart", ["transient", "permanent"])
async def test_stop_lets_the_turn_finish(place: Place, restart: str) -> None:
    """A transient session then stays down, for those in line too; a permanent one comes back."""
    async with opened(place, restart=restart) as (simulator, session):
        await session.query(MINE)
        async with trio.open_nursery() as nursery:
            hold = simulator.hold_next()
            caller = await call(nursery, session, "work")
            await hold.started.wait()
            behind = await call(nursery, session, WHICH)
            nursery.start_soon(session.stop)
            await heard(session)
            hold.release()
            assert isinstance(await caller.outcome(), ResultMessage)
            outcome = await behind.outcome()

        if restart == "permanent":
            assert "don't know" in str(outcome)
            assert session.is_alive()
            return
        assert SessionTerminated is type(outcome)
        assert outcome.name == place.name
        assert ("stopped", False, None) == (session.status, session.is_alive(), session.session_id)
        await session.stop()
        with pytest.raises(SessionTerminated):
            await session.query("more")


async def test_a_stopped_session_that_is_started_again(place: Place) -> None:
    """Its handle is good again, and it is the same one."""
    async with opened(place, restart="transient") as (_, session):
        for _number in range(5):  # much has been told of it
            await session.query(MINE)
            await session.clear()
        await session.stop()
        with pytest.raises(SessionTerminated):
            await session.query(WHICH)
        await trio.testing.wait_all_tasks_blocked(cushion=0.1)  # its name is given back
        with pytest.raises(SessionTerminated):
            await session.query(WHICH)
        assert "stopped" == session.status
        await place.restart()
        assert "don't know" in str(await session.query(WHICH))
        assert ("running", True) == (session.status, session.is_alive())
        assert place.find() is session


async def test_a_cancelled_stop_still_stops(place: Place) -> None:
    """Who asked the session to finish needn't wait for it."""
    async with opened(place, restart="transient") as (simulator, session):
        async with trio.open_nursery() as nursery:
            hold = simulator.hold_next()
            caller = await call(nursery, session, "work")
            await hold.started.wait()
            async with trio.open_nursery() as stopping:
                stopping.start_soon(session.stop)
                await heard(session)
                stopping.cancel_scope.cancel()
            behind = await call(nursery, session, "never")
            hold.release()
            assert isinstance(await caller.outcome(), ResultMessage)
            assert isinstance(await behind.outcome(), SessionTerminated)


# ---- a session that goes away --------------------------------------------------------------------


async def test_a_crash_in_a_turn(place: Place) -> None:
    """Its caller learns why; the session comes back and knows nothing; those in line are served."""

    def answer(body: dict[str, Any]) -> str:
        return f"Oh{CRASH}" if "crash" in last_prompt(body) else "fine"

    async with opened(place, answer, backend=Unruly()) as (simulator, session):
        await session.query(MINE)
        async with trio.open_nursery() as nursery:
            hold = simulator.hold_next()
            async with session.stream("crash") as events:
                await read_to(TextDelta, events)
                behind = [await call(nursery, session, f"{number}") for number in range(3)]
                hold.release()
                assert [] == await fails(events, SessionCrashed)
                with pytest.raises(trio.BrokenResourceError) as caught:
                    await events.receive()
            assert ["fine"] * 3 == [str(await caller.outcome()) for caller in behind]

        error = caught.value
        assert isinstance(error, SessionCrashed)
        assert SessionCrashed is type(error)
        assert f"session {place.name!r} crashed in this turn" in str(error)
        assert place.name == error.name
        cause = error.__cause__
        assert (ProtocolError, "no such word") == (type(cause), str(cause))
        assert cause is not None
        assert (ValueError, "CRASH") == (type(cause.__cause__), str(cause.__cause__))
        assert [MINE, "crash", "0", "1", "2"] == prompts(simulator)
        assert [1, 3, 1, 3, 5] == [len(r.body["messages"]) for r in simulator.requests]
        assert session.is_alive()


async def test_a_crash_reaches_a_query(place: Place) -> None:
    """And the next one is answered by the session's next incarnation."""
    replies = [f"Oh{CRASH}", "fine"]
    async with opened(place, lambda body: replies.pop(0), backend=Unruly()) as (_, session):
        with pytest.raises(SessionCrashed) as caught:
            await session.query("Hi")
        assert isinstance(caught.value.__cause__, ProtocolError)
        assert "fine" == str(await session.query("Hi"))


async def test_a_session_that_is_restarted(place: Place) -> None:
    """SessionRestarted for the turn in flight; those in line are served by what knows nothing."""
    async with opened(place, shutdown=0) as (simulator, session):
        await session.query(MINE)
        async with trio.open_nursery() as nursery:
            hold = simulator.hold_next()
            caller = await call(nursery, session, "long")
            await hold.started.wait()
            behind = await call(nursery, session, WHICH)
            await place.restart()
            error = await caller.outcome()
            assert "don't know" in str(await behind.outcome())
        await hold.ended.wait()

        assert SessionRestarted is type(error)
        assert isinstance(error, trio.BrokenResourceError)
        assert place.name == error.name
        assert f"session {place.name!r} was restarted in this turn" == str(error)
        assert place.find() is session
        assert session.is_alive()


async def test_a_session_that_is_terminated(place: Place) -> None:
    """SessionTerminated for the turn in flight, for those in line, and for all who come."""
    async with opened(place, shutdown=0) as (simulator, session):
        async with trio.open_nursery() as nursery:
            hold = simulator.hold_next()
            callers = [await call(nursery, session, "long")]
            await hold.started.wait()
            callers += [await call(nursery, session, f"{number}") for number in range(3)]
            await place.terminate()
            errors = [await caller.outcome() for caller in callers]
        await hold.ended.wait()

        assert [SessionTerminated] * 4 == [type(error) for error in errors]
        said = {str(error) for error in errors[1:]}
        gone = "it was terminated, has finished, or its supervisor ended"
        assert {f"session {place.name!r} is stopped: {gone}"} == said
        assert f"session {place.name!r} was stopped in this turn" == str(errors[0])
        for error in errors:
            assert isinstance(error, SessionTerminated)
            assert isinstance(error, trio.BrokenResourceError)
            assert place.name == error.name
        assert ["long"] == prompts(simulator)


async def test_a_handle_after_the_end(place: Place) -> None:
    """All that asks it is SessionTerminated; there is nothing left to interrupt or to stop."""
    async with opened(place) as (simulator, session):
        await session.query("Hi")
        await place.terminate()
        calls: list[Callable[[], Awaitable[object]]] = [
            lambda: session.query("more"),
            lambda: trio_claude.query(session, "more"),
            session.clear,
            lambda: session.set_model("opus"),
        ]
        for ask in calls:
            with pytest.raises(SessionTerminated, match="stopped") as caught:
                await ask()
            assert SessionTerminated is type(caught.value)
            assert place.name == caught.value.name
        with pytest.raises(SessionTerminated):
            async with session.stream("more"):
                raise AssertionError("never entered")
        await session.interrupt()
        await session.stop()

        assert ("stopped", False, None) == (session.status, session.is_alive(), session.session_id)
        assert f"<SessionHandle {place.name!r} stopped>" == repr(session)
        assert ["Hi"] == prompts(simulator)


async def test_a_handle_is_of_its_session_not_of_the_next_of_that_name(place: Place) -> None:
    """Whoever had the name before stays stopped, and whoever has it now is up from the beginning."""
    async with opened(place) as (simulator, before):
        await before.query(MINE)
        await place.terminate()
        async with place(spec(place, simulator.base_url)) as session:
            assert session is place.find()
            assert "running" == session.status
            with pytest.raises(SessionTerminated):
                await before.query(WHICH)
            assert "stopped" == before.status
            assert "don't know" in str(await session.query(WHICH))
            assert "running" == session.status
