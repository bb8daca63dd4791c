"""What sessions cost that are asked nothing: to start, to keep, to crash, to look for."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable

import trio

import trio_claude
from trio_claude import SessionReady, SessionSpec, SupervisorEvent
from trio_claude.testing import crash

from .memory import Memory

Figures = dict[str, float]


def _specs(first: int, count: int) -> list[SessionSpec]:
    return [SessionSpec(name=number, api_key="x") for number in range(first, first + count)]


def start(sessions: int) -> Figures:
    """Seconds of CPU to start a session; those to make its spec stand beside it."""

    async def main() -> Figures:
        async with trio_claude.open_supervisor(_specs(0, 1)) as supervisor:
            gc.collect()
            began = time.process_time()
            specs = _specs(1, sessions)
            made = time.process_time()
            for spec in specs:
                await supervisor.start_session(spec)
            ready = time.process_time()
            assert supervisor.count_sessions() == sessions + 1
            return {"cpu": (ready - made) / sessions, "spec_cpu": (made - began) / sessions}

    return trio.run(main)


def start_listed(sessions: int) -> Figures:
    """Seconds of CPU to start a session that is one of a supervisor's first."""
    specs = _specs(0, sessions)

    async def main() -> Figures:
        async with trio_claude.open_supervisor(_specs(sessions, 1)):
            pass  # what is done once is done
        gc.collect()
        began = time.process_time()
        async with trio_claude.open_supervisor(specs) as supervisor:
            cpu = time.process_time() - began
            assert supervisor.count_sessions() == sessions
            return {"cpu": cpu / sessions}

    return trio.run(main)


def keep(sessions: int) -> Figures:
    """Bytes for an idle session, with its name and its spec."""

    async def main() -> Figures:
        async with trio_claude.open_supervisor(_specs(0, 1)) as supervisor:
            memory = Memory()
            for number in range(1, sessions + 1):
                await supervisor.start_session(SessionSpec(name=number, api_key="x"))
            return {"bytes": memory.grown() / sessions}

    return trio.run(main)


def recover(crashes: int) -> Figures:
    """Seconds, of CPU and by the clock, from a crash to when the session is ready again.

    The supervisor's events go to a function, not to a log: what a line of a log costs is a matter
    of who writes it, and would be most of it.
    """
    ready = trio.Event()

    def note(event: SupervisorEvent) -> None:
        if isinstance(event, SessionReady):
            ready.set()

    async def main() -> Figures:
        nonlocal ready
        async with trio_claude.open_supervisor(
            _specs(0, 1), max_restarts=10 * crashes, on_event=note
        ) as supervisor:
            session = supervisor.get_session(0)
            gc.collect()
            began, began_cpu = time.perf_counter(), time.process_time()
            for _ in range(crashes):
                ready = trio.Event()
                await crash(session, RuntimeError("a fault"))
                await ready.wait()
            cpu, seconds = time.process_time() - began_cpu, time.perf_counter() - began
            assert supervisor.statistics().restarts == crashes
            return {"cpu": cpu / crashes, "seconds": seconds / crashes}

    return trio.run(main)


def look(sessions: int, calls: int) -> Figures:
    """Seconds for a call of each of the three, with so many sessions and with a tenth of them."""

    async def main() -> Figures:
        figures: Figures = {}
        async with trio_claude.open_supervisor() as supervisor:

            def find() -> object:
                return trio_claude.whereis(there // 2)

            functions: dict[str, tuple[Callable[[], object], int]] = {
                "list": (supervisor.list_sessions, max(1, calls // 1000)),
                "count": (supervisor.count_sessions, calls),
                "whereis": (find, calls),
            }
            there = 0
            for size, total in (("few", sessions // 10), ("many", sessions)):
                for spec in _specs(there, total - there):
                    await supervisor.start_session(spec)
                there = total
                for name, (function, times) in functions.items():
                    figures[f"{name}_{size}"] = _seconds(function, times)
        return figures

    return trio.run(main)


def _seconds(function: Callable[[], object], times: int) -> float:
    gc.collect()
    began = time.perf_counter()
    for _ in range(times):
        function()
    return (time.perf_counter() - began) / times
