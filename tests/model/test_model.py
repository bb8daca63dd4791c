"""A supervisor against its model: random lives, and what the laws leave to tests of their own.

`HYPOTHESIS_PROFILE=long` runs many more of them, and longer ones: ``nox -s model``.
"""

from __future__ import annotations

import gc
import os
import weakref
from itertools import pairwise

import trio
import trio.testing
from hypothesis import HealthCheck, given, settings, strategies as st
from hypothesis.stateful import run_state_machine_as_test

import trio_claude
from trio_claude import RestartIntensity, open_supervisor
from trio_claude.testing import ScriptedBackend, crash

from ..support import nothing_left, spec
from .live import Live, entry
from .machine import SupervisorMachine
from .model import Entry, Flags, Spec

LONG = os.environ.get("HYPOTHESIS_PROFILE") == "long"


def test_the_supervisor_does_what_the_model_says() -> None:
    """Whatever befalls it, its events, its state and its callers' outcomes are the model's."""
    run_state_machine_as_test(
        SupervisorMachine,
        settings=settings(
            max_examples=5_000 if LONG else 200,
            stateful_step_count=40 if LONG else 25,
            # A life that is short is a life too; and how fast it is says nothing about it.
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        ),
    )


@given(
    st.integers(0, 4),
    st.integers(1, 6),
    st.lists(st.integers(0, 3), max_size=30),
)
def test_invariant_02(most: int, period: int, gaps: list[int]) -> None:
    """On whole seconds, the window decides as supervisor.erl does: its fold, word for word."""
    window = RestartIntensity(most, period)
    restarts: list[int] = []  # newest first
    now = 0
    for gap in gaps:
        now += gap
        kept = []
        for then in restarts:
            if then < now - period:
                break
            kept.append(then)
        restarts = [now, *kept]
        assert (len(restarts) <= most) == window.record(now)


async def test_invariant_13() -> None:
    """Of a temporary session that has ended nothing is kept, and it never comes back."""
    backend = ScriptedBackend()
    async with nothing_left(backend):
        async with open_supervisor([spec("a", backend)], strategy="one_for_all") as supervisor:
            temporary = spec("b", backend, restart="temporary")
            kept = weakref.ref(temporary)
            handle = await supervisor.start_session(temporary)
            await crash(handle)
            await trio.testing.wait_all_tasks_blocked()
            assert ["a"] == [info.name for info in supervisor.list_sessions()]
            assert trio_claude.whereis("b") is None

            del temporary, handle
            gc.collect()
            assert kept() is None


def _life() -> list[Entry]:
    """One life with much in it."""
    flags = Flags("S", "one_for_all", 6, backoff=(1.0, 3.0, 0.5, 20.0, None))
    live = Live(flags, (Spec("a"), Spec("b", "transient"), Spec("c", "temporary")), {"d": ["fail"]})
    try:
        live.ask(1, "crash", "S", "a", 0.5)
        live.ask(2, "answer", "S", "b", 0.25)
        live.start(3, "S", Spec("d"))
        live.start(4, "S", Spec("d"))
        for when in (0.25, 0.5, 5.0):
            live.jump(when)
        live.crash("S", ("a", "b", "d"))
        live.jump(10.0)
        live.cancel_outer()
        return [entry(event) for event in live.events]
    finally:
        live.close()


def test_invariant_36() -> None:
    """The same seed and the same commands give the same events, to the last bit of their times."""

    @settings(max_examples=2)
    @given(st.just(None))
    def twice(nothing: None) -> None:
        # Hypothesis seeds what Trio and the jitter are shuffled by, the same for each example.
        lives.append(_life())

    lives: list[list[Entry]] = []
    twice()
    twice()
    assert len(lives) >= 2
    assert len(lives[0]) > 20
    assert all(one == other for one, other in pairwise(lives))
