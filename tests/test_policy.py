"""Who is started again: the tables of OTP, its window against a copy of its code, the backoff."""

from __future__ import annotations

import math
from itertools import pairwise, takewhile

import pytest
from hypothesis import given, strategies as st

from trio_claude import Backoff, ConfigurationError, RestartIntensity
from trio_claude._options import RestartType
from trio_claude._supervision.policy import (
    AUTO_SHUTDOWNS,
    STRATEGIES,
    AutoShutdown,
    Strategy,
    is_restarted,
    restart_group,
    shuts_down,
)

# ---- who, and with whom ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("restart", "after_crash", "after_normal_end"),
    [
        ("permanent", True, True),
        ("transient", True, False),
        ("temporary", False, False),
    ],
)
def test_who_is_restarted(restart: RestartType, after_crash: bool, after_normal_end: bool) -> None:
    """OTP's table of restart types and ends."""
    assert is_restarted(restart, crashed=True) is after_crash
    assert is_restarted(restart, crashed=False) is after_normal_end


@pytest.mark.parametrize(
    ("strategy", "group"),
    [
        ("one_for_one", "b"),
        ("one_for_all", "abcd"),
        ("rest_for_one", "bcd"),
    ],
)
def test_who_is_restarted_along(strategy: Strategy, group: str) -> None:
    """The group of one that failed, in start order."""
    assert list(restart_group(strategy, list("abcd"), "b")) == list(group)


@given(
    children=st.lists(st.integers(), min_size=1, unique=True),
    strategy=st.sampled_from(STRATEGIES),
    data=st.data(),
)
def test_a_group_keeps_the_start_order(
    children: list[int], strategy: Strategy, data: st.DataObject
) -> None:
    """Whatever the strategy: the failed one is in it, nobody twice, in start order."""
    failed = data.draw(st.sampled_from(children))

    group = restart_group(strategy, children, failed)

    assert failed in group
    assert list(group) == [child for child in children if child in group]


@pytest.mark.parametrize(
    ("auto_shutdown", "others_active", "ends"),
    [
        ("never", False, False),
        ("never", True, False),
        ("any_significant", False, True),
        ("any_significant", True, True),
        ("all_significant", False, True),
        ("all_significant", True, False),
    ],
)
def test_when_a_supervisor_ends_by_itself(
    auto_shutdown: AutoShutdown, others_active: bool, ends: bool
) -> None:
    """OTP's table of automatic shutdown."""
    assert shuts_down(auto_shutdown, others_active) is ends


def test_the_choices_are_those_of_otp() -> None:
    """No strategy and no way of ending is there that OTP has not."""
    assert STRATEGIES == ("one_for_one", "one_for_all", "rest_for_one")
    assert AUTO_SHUTDOWNS == ("never", "any_significant", "all_significant")


# ---- how often ------------------------------------------------------------------------------


class AddRestart:
    """``add_restart`` and ``can_restart`` of supervisor.erl, line by line.

    OTP takes whole seconds, rounded down: ``erlang:monotonic_time(1)``.
    """

    def __init__(self, intensity: int, period: float, *, quantised: bool = True) -> None:
        self.intensity = intensity
        self.period = period
        self.quantised = quantised
        self.restarts: list[float] = []  # newest first

    def add_restart(self, time: float) -> bool:
        """Whether the restart is done."""
        now = math.floor(time) if self.quantised else time
        treshold = now - self.period
        keep = list(takewhile(lambda restart: restart >= treshold, self.restarts))
        self.restarts = [now, *keep]
        return len(self.restarts) <= self.intensity


_COUNTS = st.integers(0, 5)
_PERIODS = st.integers(1, 10)


def _rising(steps: list[float]) -> list[float]:
    """The times that come one after the other in these steps."""
    now, times = 0.0, []
    for step in steps:
        now += step
        times.append(now)
    return times


@given(
    intensity=_COUNTS,
    period=_PERIODS,
    steps=st.lists(st.integers(0, 12), max_size=40),
    quantised=st.booleans(),
)
def test_the_window_is_that_of_otp(
    intensity: int, period: int, steps: list[int], quantised: bool
) -> None:
    """On whole seconds every decision is OTP's, and so are the entries that are kept."""
    otp = AddRestart(intensity, period, quantised=quantised)
    ours = RestartIntensity(intensity, period)

    for now in _rising([float(step) for step in steps]):
        assert ours.record(now) == otp.add_restart(now)
        assert list(ours.recent) == otp.restarts[::-1]


@given(
    intensity=_COUNTS,
    period=_PERIODS,
    steps=st.lists(st.floats(0, 12), max_size=40),
    began=st.floats(-1000, 1000),
)
def test_on_fractions_it_gives_up_no_earlier_than_otp(
    intensity: int, period: int, steps: list[float], began: float
) -> None:
    """OTP rounds down, which makes ages up to a second shorter; ours never counts more than it."""
    quantised = AddRestart(intensity, period)
    exact = AddRestart(intensity, period, quantised=False)
    ours = RestartIntensity(intensity, period)

    for step in _rising(steps):
        now = began + step
        done = ours.record(now)
        assert done == exact.add_restart(now)
        assert quantised.add_restart(now) <= done
        assert len(ours.recent) <= len(quantised.restarts)


@pytest.mark.parametrize(
    ("times", "last"),
    [
        ([0, 1, 2, 5], False),  # the first is exactly 5 seconds old, and still counts
        ([0, 1, 2, 5.001], True),
        ([0, 1, 2, 6], True),
        ([0, 0, 0], True),
        ([0, 0, 0, 0], False),
        ([-5, -4, -3, 0], False),  # a clock may begin anywhere
    ],
)
def test_the_edge_of_the_window(times: list[float], last: bool) -> None:
    """Three restarts within 5 seconds are done, the fourth is not; an age of 5 seconds counts."""
    window = RestartIntensity(3, 5.0)

    *before, decision = [window.record(time) for time in times]

    assert all(before)
    assert decision is last


def test_no_restart_at_all() -> None:
    """With 0 allowed the first one is too many, and is entered all the same."""
    window = RestartIntensity(0, 1.0)

    assert window.record(7.0) is False
    assert window.recent == (7.0,)
    assert window.record(9.0) is False
    assert window.recent == (9.0,)


def test_looking_at_the_window_changes_nothing() -> None:
    """``within`` counts at any time, and forgets nothing."""
    window = RestartIntensity(3, 5.0)
    window.record(1.0)
    window.record(2.0)

    assert window.within(6.0) == (1.0, 2.0)
    assert window.within(6.5) == (2.0,)
    assert window.within(8.0) == ()
    assert window.recent == (1.0, 2.0)


def test_the_defaults_are_those_of_otp() -> None:
    """Three within five seconds, as OTP counts."""
    window = RestartIntensity()

    assert (window.max_restarts, window.max_seconds) == (3, 5.0)


@pytest.mark.parametrize("count", [-1, 1.5, True, "3", math.inf])
def test_a_bad_count_is_refused(count: object) -> None:
    """OTP refuses them too; the message names the option."""
    with pytest.raises(ConfigurationError, match="max_restarts must be a whole number, 0 or more"):
        RestartIntensity(count, 5.0)  # type: ignore[arg-type]


@pytest.mark.parametrize("seconds", [0, -1, math.inf, math.nan, True, "5"])
def test_a_bad_period_is_refused(seconds: object) -> None:
    """OTP refuses 0 and infinity too; the message names the option."""
    with pytest.raises(ConfigurationError, match="max_seconds must be a finite number"):
        RestartIntensity(3, seconds)  # type: ignore[arg-type]


# ---- how soon -------------------------------------------------------------------------------

_BACKOFFS = st.builds(
    Backoff,
    initial=st.floats(0.001, 100),
    maximum=st.floats(0.001, 1000),
    factor=st.floats(1, 100),
    jitter=st.floats(0, 1),
)


@given(backoff=_BACKOFFS, consecutive=st.integers(1, 10_000), chance=st.floats(0, 1))
def test_a_delay_keeps_to_its_bounds(backoff: Backoff, consecutive: int, chance: float) -> None:
    """It is ``initial * factor ** (n - 1)``, at most ``maximum``, moved by the jitter at most."""
    exponent = min(consecutive - 1, 40)
    plain = min(backoff.maximum, backoff.initial * backoff.factor**exponent)

    delay = backoff.delay(consecutive, chance)

    if consecutive <= 40 or backoff.initial * backoff.factor**40 >= backoff.maximum:
        assert delay >= plain * (1 - backoff.jitter) * (1 - 1e-9)
        assert delay <= plain * (1 + backoff.jitter) * (1 + 1e-9)
    assert 0 <= delay <= backoff.maximum * (1 + backoff.jitter) * (1 + 1e-9)


@given(backoff=_BACKOFFS)
def test_delays_grow(backoff: Backoff) -> None:
    """Without chance, none is shorter than the one before it."""
    delays = [backoff.delay(consecutive) for consecutive in range(1, 200)]

    assert all(earlier <= later for earlier, later in pairwise(delays))


def test_delays_as_written_down() -> None:
    """The numbers that the documentation promises."""
    backoff = Backoff(0.5, 30.0)

    assert [backoff.delay(n) for n in range(1, 9)] == [0.5, 1, 2, 4, 8, 16, 30, 30]
    assert backoff.delay(1, 0.0) == pytest.approx(0.45)
    assert backoff.delay(1, 1.0) == pytest.approx(0.55)
    assert Backoff(3.0, factor=1.0).delay(1_000) == 3.0
    assert Backoff(0.0).delay(5) == 0.0


@pytest.mark.parametrize("factor", [2.0, 10.0, 1e6, 1e300, math.inf])
def test_a_delay_never_overflows(factor: float) -> None:
    """However large the factor, and however often in a row."""
    backoff = Backoff(0.5, 30.0, factor=factor, jitter=0.0)

    assert backoff.delay(1) == 0.5
    assert [backoff.delay(n) for n in (500, 10_000, 10**30)] == [30.0] * 3


@given(most=st.integers(1, 20), consecutive=st.integers(1, 40))
def test_when_a_backoff_is_exhausted(most: int, consecutive: int) -> None:
    """The one after ``max_consecutive`` is one too many."""
    assert Backoff(max_consecutive=most).exhausted(consecutive) is (consecutive > most)


def test_a_backoff_without_an_end() -> None:
    """By default nothing is too often."""
    assert not Backoff().exhausted(10**9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"initial": -1}, "initial must be a number of seconds, 0 or more, not -1"),
        ({"initial": math.nan}, "initial must be a number of seconds"),
        ({"maximum": "30"}, "maximum must be a number of seconds, 0 or more, not '30'"),
        ({"factor": 0.5}, "factor must be a number, 1 or more, not 0.5"),
        ({"jitter": 1.1}, "jitter must be from 0 to 1, not 1.1"),
        ({"jitter": -0.1}, "jitter must be from 0 to 1"),
        ({"reset_after": -1}, "reset_after must be a number of seconds"),
        ({"max_consecutive": 0}, "max_consecutive must be a whole number, 1 or more, or None"),
    ],
)
def test_a_bad_backoff_is_refused(options: dict[str, object], message: str) -> None:
    """By the name of the option, with what is valid."""
    with pytest.raises(ConfigurationError) as raised:
        Backoff(**options)  # type: ignore[arg-type]

    assert str(raised.value).startswith(message)


@pytest.mark.parametrize(
    ("backoff", "outlasts"),
    [
        (Backoff(0, 60), False),
        (Backoff(1.6, 60, factor=1, jitter=0), False),
        (Backoff(5 / 3, 60, factor=1, jitter=0), False),  # an age of exactly 5 still counts
        (Backoff(1.7, 60, factor=1, jitter=0), True),
        (Backoff(1.7, 60, factor=1, jitter=0.1), False),  # chance may bring them together
        (Backoff(1, 60, jitter=0), True),  # 1 + 2 + 4
        (Backoff(1, 1, jitter=0), False),
    ],
)
def test_a_backoff_can_outlast_the_window(backoff: Backoff, outlasts: bool) -> None:
    """Three restarts within five seconds are out of reach if the delays before them sum up to more."""
    assert outlasts == backoff.outlasts(RestartIntensity(3, 5))
    assert not backoff.outlasts(RestartIntensity(0, 5))


@given(backoff=_BACKOFFS, restarts=st.integers(0, 6), seconds=st.floats(0.1, 60))
def test_what_outlasting_means(backoff: Backoff, restarts: int, seconds: float) -> None:
    """A session that crashes whenever it is up trips the window, or never does."""
    window, now = RestartIntensity(restarts, seconds), 0.0
    allowed = []
    for consecutive in range(1, restarts + 2):
        allowed.append(window.record(now))
        now += backoff.delay(consecutive, 0.0)
    assert all(allowed) == backoff.outlasts(RestartIntensity(restarts, seconds))


def test_a_window_without_a_real_limit_takes_no_time() -> None:
    """A billion restarts are not added up one by one."""
    assert not Backoff(1e-9, 1e-9).outlasts(RestartIntensity(10**9, 5))


def test_nothing_grows_from_an_initial_delay_of_0() -> None:
    """However often in a row: no delay is no delay."""
    assert Backoff(0.0, 30.0, factor=10.0).delay(10_000) == 0.0
