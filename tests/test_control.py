"""The control's own ends: what it does when it fails itself."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from trio_claude import (
    Backoff,
    SessionStopped,
    SessionTerminated,
    SupervisorError,
    SupervisorEvent,
    SupervisorStopped,
    open_supervisor,
    query,
)
from trio_claude._supervision.control import Call
from trio_claude.testing import ScriptedBackend, ScriptedTurn

from .support import Record, nothing_left, spec


async def test_a_defect_of_the_control_leaves_nobody_behind() -> None:
    """An unexpected error in the deciding task stops all sessions and fails the supervisor."""
    backend, record = ScriptedBackend(), Record()

    async def defect() -> None:
        raise ZeroDivisionError

    async with nothing_left(backend):
        with pytest.raises(SupervisorError, match="itself failed") as caught:
            async with open_supervisor(
                [spec("a", backend), spec("b", backend)], on_event=record
            ) as supervisor:
                record.moves()
                supervisor._control.post(defect)
                await trio.sleep_forever()
        assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert ["Stopped b", "Stopped a"] == record.moves()


async def test_a_call_has_one_outcome() -> None:
    """What is said of a call after its outcome changes nothing."""

    async def act(call: Call) -> None:
        raise KeyError

    call = Call(act)
    await call.run()
    call.end(None)
    assert isinstance(call.error, KeyError)


async def test_a_backoff_that_makes_the_limit_meaningless_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """With it a single session could crash for ever; the log says so, and what to do."""
    for backoff, said in (
        (Backoff(10, 60), True),
        (Backoff(10, 60, max_consecutive=5), False),
        (Backoff(0.1, 0.1), False),
        (None, False),
    ):
        caplog.clear()
        async with open_supervisor(name="group", backoff=backoff):
            pass
        warnings = [record.getMessage() for record in caplog.records]
        assert said == any("max_consecutive" in message for message in warnings)


async def test_a_cancellation_after_a_defect_leaves_nobody_behind(
    autojump_clock: MockClock,
) -> None:
    """However long the sessions take to end then: they are stopped in order, and waited for."""

    async def stubborn(turn: ScriptedTurn) -> AsyncGenerator[str, None]:
        try:
            yield "Well, "
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(2)

    async def ask() -> None:
        with pytest.raises(SessionTerminated):
            await query("b", "Hi")

    async def defect() -> None:
        raise ZeroDivisionError

    backend, record = ScriptedBackend(stubborn), Record()
    async with nothing_left(backend), trio.open_nursery() as nursery:
        with trio.CancelScope() as around, pytest.raises(SupervisorError, match="itself failed"):
            async with open_supervisor(
                [spec("a", backend), spec("b", backend)], on_event=record
            ) as supervisor:
                record.moves()
                nursery.start_soon(ask)
                await trio.testing.wait_all_tasks_blocked()
                supervisor._control.post(defect)
                around.deadline = trio.current_time() + 1
                await trio.sleep_forever()
        assert 2 == trio.current_time()
    assert ["Stopped b", "Stopped a"] == record.moves()


async def test_the_first_failure_and_the_first_reason_are_told() -> None:
    """What fails while the supervisor ends already is not why it ended."""
    events: list[SupervisorEvent] = []

    def failing(event: SupervisorEvent) -> None:
        events.append(event)
        if isinstance(event, SessionStopped):
            raise OSError(event.session)

    with pytest.raises(SupervisorError) as caught:
        async with open_supervisor(
            [spec("a"), spec("b"), spec("c", restart="transient", significant=True)],
            auto_shutdown="any_significant",
            on_event=failing,
        ) as supervisor:
            await supervisor.get_session("c").stop()
            await trio.sleep_forever()
    assert "b" == str(caught.value.__cause__)
    assert isinstance(events[-1], SupervisorStopped)
    assert "auto_shutdown" == events[-1].reason


async def test_a_block_that_is_cancelled_while_it_is_left_was_cancelled(
    autojump_clock: MockClock,
) -> None:
    """The last event says that the sessions didn't have their grace."""
    backend, record = ScriptedBackend(lambda turn: [3.0, "done"]), Record()

    async def ask() -> None:
        with pytest.raises(SessionTerminated):
            await query("a", "Hi")

    async with trio.open_nursery() as nursery:
        with trio.move_on_after(1):
            async with open_supervisor([spec("a", backend)], on_event=record):
                nursery.start_soon(ask)
                await trio.testing.wait_all_tasks_blocked()
    assert isinstance(record.events[-1], SupervisorStopped)
    assert "cancelled" == record.events[-1].reason
