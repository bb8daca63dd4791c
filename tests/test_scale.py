"""Many sessions, many crashes, deep trees: on the real clock, so these are the suite's slow part."""

from __future__ import annotations

import gc
import logging
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
import trio.testing

import trio_claude
from trio_claude import (
    RestartIntensityExceeded,
    SessionExited,
    SupervisorEvent,
    SupervisorSpec,
    SupervisorStopped,
    open_supervisor,
)
from trio_claude.testing import ScriptedBackend, crash

from .support import nothing_left, spec

pytestmark = pytest.mark.slow

SESSIONS = 10_000
CRASHES = 50_000


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Fifty thousand crashes are not to be logged one by one."""
    logger = logging.getLogger("trio_claude")
    before = logger.level
    logger.setLevel(logging.ERROR)
    yield
    logger.setLevel(before)


def _memory() -> tuple[int, int | None]:
    """Objects that the garbage collector knows and, where Linux tells, pages in memory."""
    gc.collect()
    statm = Path("/proc/self/statm")
    return len(gc.get_objects()), int(statm.read_text().split()[1]) if statm.exists() else None


async def _cycle(crashes: int) -> None:
    """Start, list, crash at random, stop."""
    backend = ScriptedBackend()
    chance = random.Random(1)
    async with nothing_left(backend):
        async with open_supervisor(max_restarts=10 * CRASHES, max_seconds=3600) as supervisor:
            sessions = [
                await supervisor.start_session(spec(number, backend)) for number in range(SESSIONS)
            ]
            for number in range(crashes):
                session = chance.choice(sessions)
                if not session.is_alive():  # the supervisor is behind: let it catch up
                    await trio.testing.wait_all_tasks_blocked()
                await crash(session)
                if number % 1000 == 0:
                    assert SESSIONS == len(supervisor.list_sessions())
            await trio.testing.wait_all_tasks_blocked()

            assert SESSIONS == supervisor.count_sessions() == backend.conversations
            statistics = supervisor.statistics()
            assert statistics.restarts == statistics.recent_restarts
            assert crashes == statistics.restarts
            restarts = sum(info.restarts for info in supervisor.list_sessions())
            assert statistics.restarts == restarts
            assert all(session is trio_claude.get_session(session.name) for session in sessions)
            await trio_claude.query(SESSIONS // 2, "Are you there?")
        assert trio_claude.whereis(0) is None


async def test_ten_thousand_sessions_and_fifty_thousand_crashes() -> None:
    """Nothing is left behind, and the memory is as it was after a first, smaller round."""
    await _cycle(CRASHES // 10)
    objects, pages = _memory()
    await _cycle(CRASHES)
    objects_after, pages_after = _memory()
    assert objects_after < objects * 1.1
    if pages is not None:
        assert pages_after is not None
        assert pages_after < pages * 1.1


async def test_a_storm_leaves_the_others_answering(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One session crashes without end; the turns of ninety-nine others go on meanwhile."""
    stormy = ScriptedBackend([OSError("storm")] * 1_000_000)
    calm = ScriptedBackend(lambda turn: "a few words")
    slowest, storms, asked = 0.0, 0, 0
    async with open_supervisor(
        [spec("storm", stormy), *(spec(number, calm) for number in range(99))],
        max_restarts=10**9,
    ):
        async with trio.open_nursery() as nursery:

            async def rage() -> None:
                nonlocal storms
                while True:
                    with pytest.raises(trio_claude.SessionCrashed):
                        await trio_claude.query("storm", "Crash")
                    storms += 1

            async def ask(number: int) -> None:
                nonlocal slowest, asked
                for _ in range(20):
                    began = time.perf_counter()
                    await trio_claude.query(number, "Hi")
                    slowest = max(slowest, time.perf_counter() - began)
                    asked += 1

            nursery.start_soon(rage)
            async with trio.open_nursery() as askers:
                for number in range(99):
                    askers.start_soon(ask, number)
            nursery.cancel_scope.cancel()
    assert 99 * 20 == asked
    assert storms > 20
    with capsys.disabled():
        print(
            f"\n{storms} crashes beside {asked} turns, the slowest {slowest * 1000:.0f} ms", end=""
        )


async def test_five_levels_escalate_one_by_one() -> None:
    """A leaf that crashes again and again takes down one level after the other, bottom up."""
    gave_up: list[object] = []

    def on_event(event: SupervisorEvent) -> None:
        if isinstance(event, SupervisorStopped) and event.reason == "intensity":
            gave_up.append(event.supervisor)
        if isinstance(event, SessionExited) and event.session == "leaf":
            crashes.append(event.incarnation)

    crashes: list[int] = []
    backend = ScriptedBackend(lambda turn: OSError("broken"))
    tree = SupervisorSpec(name=5, specs=[spec("leaf", backend)], max_restarts=1)
    for level in (4, 3, 2):
        tree = SupervisorSpec(name=level, specs=[tree], max_restarts=1)
    async with nothing_left(backend):
        with pytest.raises(RestartIntensityExceeded) as caught:
            async with open_supervisor([tree], name=1, max_restarts=1, on_event=on_event):
                while True:
                    with pytest.raises(trio_claude.TrioClaudeError):
                        await trio_claude.query("leaf", "Crash")
                    await trio.testing.wait_all_tasks_blocked()
        assert 1 == caught.value.name

    # Each level stands one restart of what is below it: it gives up at the second in a row.
    assert 2**5 == len(crashes)
    order = {
        level: [place for place, name in enumerate(gave_up) if name == level]
        for level in range(1, 6)
    }
    assert [1, 2, 4, 8, 16] == [len(order[level]) for level in range(1, 6)]
    for level in range(1, 5):
        # It gave up right after the one below had done so for the second time.
        assert all(place - 1 in order[level + 1] for place in order[level])
