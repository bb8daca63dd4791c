"""What a supervisor tells: frozen snapshots of its sessions and of itself."""

from __future__ import annotations

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import trio_claude
from trio_claude import SessionInfo, SessionTerminated, SupervisorSpec, SupervisorStatistics
from trio_claude.testing import ScriptedBackend, crash

from .support import hang, spec


async def test_a_session_in_numbers(autojump_clock: MockClock) -> None:
    """Every field of a session's snapshot, before a crash, after it, and with callers in line."""
    fault = ValueError("a fault")
    backend = ScriptedBackend(hang)
    async with trio_claude.open_supervisor([spec("a", backend, id=7)]) as supervisor:
        (before,) = supervisor.list_sessions()
        await trio.sleep(2)
        await crash(before.handle, fault)
        await wait_all_tasks_blocked()
        async with trio.open_nursery() as nursery:

            async def ask() -> None:
                with pytest.raises(SessionTerminated):
                    await before.handle.query("hello")

            for _ in range(3):
                nursery.start_soon(ask)
            await wait_all_tasks_blocked()
            (after,) = supervisor.list_sessions()
            await supervisor.terminate_session("a")

    assert attrs.asdict(before, recurse=False) == {
        "id": 7,
        "name": "a",
        "status": "running",
        "restart": "permanent",
        "incarnation": 1,
        "restarts": 0,
        "started_at": 0.0,
        "last_error": None,
        "waiting": 0,
        "handle": before.handle,
    }
    changed = {"incarnation": 2, "restarts": 1, "started_at": 2.0, "waiting": 2}
    assert after == attrs.evolve(before, last_error=fault, **changed)  # type: ignore[arg-type]


async def test_a_stopped_session_in_numbers() -> None:
    """One that has finished is known still, and is not up."""
    async with trio_claude.open_supervisor([spec("a", restart="transient")]) as supervisor:
        (before,) = supervisor.list_sessions()
        await before.handle.stop()
        (after,) = supervisor.list_sessions()

    assert after == attrs.evolve(before, status="stopped", started_at=None)


async def test_a_supervisor_in_numbers(autojump_clock: MockClock) -> None:
    """Every field of a supervisor's snapshot; supervisors below are counted, not listed."""
    below = SupervisorSpec(name="below", specs=[spec("c")])
    async with trio_claude.open_supervisor(
        [spec("a"), spec("b", restart="transient"), below], max_seconds=5.0
    ) as supervisor:
        assert supervisor.statistics() == SupervisorStatistics(
            specs=3,
            supervisors=1,
            active=3,
            restarting=0,
            restarts=0,
            recent_restarts=0,
            gave_up=False,
        )
        assert [info.name for info in supervisor.list_sessions()] == ["a", "b"]
        assert supervisor.count_sessions() == 2

        await supervisor.get_session("b").stop()
        await crash(supervisor.get_session("a"))
        await wait_all_tasks_blocked()
        assert supervisor.statistics() == SupervisorStatistics(
            specs=3,
            supervisors=1,
            active=2,
            restarting=0,
            restarts=1,
            recent_restarts=1,
            gave_up=False,
        )
        assert supervisor.count_sessions() == 1

        await trio.sleep(5.1)
        assert supervisor.statistics().recent_restarts == 0
        assert supervisor.statistics().restarts == 1


async def test_one_that_waits_for_its_restart_in_numbers(autojump_clock: MockClock) -> None:
    """During a delay a session is restarting, and not up."""
    async with trio_claude.open_supervisor(
        [spec("a")], backoff=trio_claude.Backoff(10.0, jitter=0.0)
    ) as supervisor:
        await crash(supervisor.get_session("a"))
        await wait_all_tasks_blocked()

        (info,) = supervisor.list_sessions()
        assert (info.status, info.started_at, info.restarts) == ("restarting", None, 0)
        statistics = supervisor.statistics()
        assert (statistics.specs, statistics.active, statistics.restarting) == (1, 0, 1)
        assert supervisor.count_sessions() == 0


@pytest.mark.parametrize("kind", [SessionInfo, SupervisorStatistics])
def test_snapshots_are_frozen(kind: type) -> None:
    """Values that nobody can change, made by keyword."""
    snapshot = kind(**{field.name: 1 for field in attrs.fields(kind)})

    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        setattr(snapshot, attrs.fields(kind)[0].name, 2)
