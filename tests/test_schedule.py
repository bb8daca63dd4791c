"""Trying a restart policy out by a schedule of crashes."""

from __future__ import annotations

import time

import attrs
import pytest
from hypothesis import given, strategies as st

import trio_claude
from trio_claude import (
    Backoff,
    ConfigurationError,
    RestartIntensityExceeded,
    SessionSpec,
    SupervisorEvent,
    SupervisorSpec,
    UsageError,
)
from trio_claude.testing import Crash, ScheduleOutcome, run_schedule
from trio_claude.testing.strategies import crash_schedules

TWO = SupervisorSpec(specs=[SessionSpec(name="a"), SessionSpec(name="b")], max_seconds=5)


def test_what_a_supervisor_makes_of_crashes() -> None:
    """Starts, who runs at the end, and how long it went on; no time passes, no service is there."""
    began = time.monotonic()
    outcome = run_schedule(TWO, [Crash(1, 0), Crash(2, 1), Crash(1000, 0)])

    assert time.monotonic() - began < 5
    assert isinstance(outcome, ScheduleOutcome)
    assert outcome.error is None
    assert (3, 2) == (outcome.starts("a"), outcome.starts("b"))
    assert ("a", "b") == outcome.running
    assert 1010 == outcome.seconds
    assert () == outcome.missed


def test_giving_up_is_an_outcome() -> None:
    """The error, when, and what came too late."""
    schedule = [Crash(second, 0) for second in (1, 2, 3, 4, 5)]
    outcome = run_schedule(attrs.evolve(TWO, name="team"), schedule)
    assert 4 == outcome.seconds
    assert () == outcome.running
    assert isinstance(outcome.error, RestartIntensityExceeded)
    assert "team" == outcome.error.name


def test_each_mishap() -> None:
    """Sessions are crashed, asked to finish, restarted and terminated; the gone are missed."""
    specs = [SessionSpec(restart="transient") for _ in range(4)]
    below = SupervisorSpec(specs=specs[1:])
    outcome = run_schedule(
        SupervisorSpec(specs=[specs[0], below]),
        [
            Crash(1, 0, "stop"),
            Crash(2, 0, "crash"),
            Crash(3, 1, "crash"),
            Crash(4, 2, "restart"),
            Crash(5, 3, "terminate"),
        ],
        seconds=6,
    )
    assert (("session", 1), ("session", 2)) == outcome.running
    assert [1, 2, 2, 1] == [outcome.starts(("session", number)) for number in range(4)]
    assert (Crash(2, 0, "crash"),) == outcome.missed
    assert 6 == outcome.seconds


def test_the_spec_s_own_on_event_is_called_too() -> None:
    """Events are recorded beside whatever the spec does with them."""
    seen: list[SupervisorEvent] = []
    outcome = run_schedule(SupervisorSpec(specs=TWO.specs, on_event=seen.append), [])
    assert tuple(seen) == outcome.events
    assert 10 == outcome.seconds


@given(schedule=crash_schedules(sessions=2, seconds=60, how=st.just("crash")))
def test_a_policy_of_one_s_own_in_ten_lines(schedule: list[Crash]) -> None:
    """Two sessions that wait for ten seconds each never need four restarts within five."""
    patient = SupervisorSpec(
        specs=TWO.specs, backoff=Backoff(10, 30, jitter=0), max_restarts=3, max_seconds=5
    )
    outcome = run_schedule(patient, schedule, seconds=200)
    assert outcome.error is None
    assert ("a", "b") == outcome.running


def test_bad_arguments() -> None:
    """They are refused by name, before anything runs."""
    with pytest.raises(ConfigurationError, match="must be a SupervisorSpec"):
        run_schedule([], [])  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="how must be one of crash, stop, restart"):
        Crash(1, 0, "explode")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="must hold Crash values"):
        run_schedule(TWO, [(1, 0)])  # type: ignore[list-item]
    for which in (2, -1):
        with pytest.raises(ConfigurationError, match="there are 2 sessions"):
            run_schedule(TWO, [Crash(1, which)])


async def test_inside_of_a_run() -> None:
    """It starts a run of its own, and says so."""
    with pytest.raises(UsageError, match="run of its own"):
        run_schedule(TWO, [])
    assert trio_claude.whereis("a") is None
