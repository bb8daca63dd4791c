"""Does the restart policy hold what we want of it? Two tests, on virtual time."""

from hypothesis import given, strategies as st

import trio_claude
from trio_claude import Backoff, SessionSpec, SupervisorSpec
from trio_claude.testing import Crash, run_schedule
from trio_claude.testing.strategies import crash_schedules

TEAM = SupervisorSpec(
    specs=[SessionSpec(name="reviewer"), SessionSpec(name="tester")],
    backoff=Backoff(1, 60, jitter=0, max_consecutive=6),
    max_restarts=5,
    max_seconds=10,
)


def test_an_outage_of_a_minute_is_survived() -> None:
    """The reviewer crashes every three seconds for a minute, and is there afterwards."""
    outage = [Crash(second, 0) for second in range(0, 60, 3)]
    outcome = run_schedule(TEAM, outage, seconds=120)
    assert outcome.error is None
    assert outcome.running == ("reviewer", "tester")


@given(crash_schedules(sessions=2, seconds=60, how=st.just("crash")))
def test_only_a_real_storm_ends_it(schedule: list[Crash]) -> None:
    """Whatever comes, it gives up only if there were more than five crashes."""
    outcome = run_schedule(TEAM, schedule, seconds=600)
    if outcome.error is not None:
        assert isinstance(outcome.error, trio_claude.RestartIntensityExceeded)
        assert len(schedule) > 5
