"""The figures of the page "Planning past it": ``python -m tests.ray_cluster.figures``, in two minutes.

It starts a cluster of its own on this machine, which ends with it. Each figure is the median of
rounds, with the smallest and the largest. No test reads them.
"""

from __future__ import annotations

import os
import pickle
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

import ray
import trio

import trio_claude
from trio_claude import Global, SessionSpec, Supervisor, cluster
from trio_claude.cluster._wire import Entry
from trio_claude.testing import ScriptedBackend

ROUNDS = 5
NAMES = 3_000  # for what one of them takes
AT_ONCE = 50  # supervisors in one process: each starts one session after the other


def show(what: str, unit: str, samples: Sequence[float]) -> None:
    """Print a figure."""
    middle = statistics.median(samples)
    print(
        f"{what:<60} {middle:9.3g} {unit:<8} ({min(samples):.3g} to {max(samples):.3g})", flush=True
    )


def spec(key: object) -> SessionSpec:
    """A session with this name that costs next to nothing."""
    return SessionSpec(name=Global(key), backend=ScriptedBackend(["Hello"] * 1_000))


def memory(pid: int) -> float:
    """MB that a process takes: what is its own, and its share of what it has with others."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    raise AssertionError(pid)


def actors() -> dict[str, list[int]]:
    """The processes of the actors of this cluster, by their classes."""
    found: dict[str, list[int]] = {}
    ours = {int(p.name) for p in Path("/proc").iterdir() if p.name.isdigit()}
    for pid in ours:
        try:
            title = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].decode()
            environment = Path(f"/proc/{pid}/environ").read_bytes()
        except OSError:
            continue
        if title.startswith("ray::") and MARK.encode() in environment:
            found.setdefault(title.removeprefix("ray::").partition(".")[0], []).append(pid)
    return found


MARK = f"TRIO_CLAUDE_FIGURES={os.getpid()}"


@asynccontextmanager
async def open_supervisors() -> AsyncIterator[list[Supervisor]]:
    """As many as there are to be claims at once."""
    async with AsyncExitStack() as stack:
        quiet = partial(trio_claude.open_supervisor, on_event=lambda _: None)
        yield [await stack.enter_async_context(quiet()) for _ in range(AT_ONCE)]


async def claim(supervisors: Sequence[Supervisor], prefix: str, count: int) -> float:
    """Start so many sessions with names, as many at once as there are supervisors; names a second."""
    keys = iter([f"{prefix}-{number}" for number in range(count)])

    async def some(supervisor: Supervisor) -> None:
        for key in keys:
            await supervisor.start_session(spec(key))

    began = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for supervisor in supervisors:
            nursery.start_soon(some, supervisor)
    return count / (time.perf_counter() - began)


async def another_process(address: str, prefix: str, count: int) -> None:
    """What another process does: claims names, says how fast, and holds them until it is told."""
    async with cluster.connect(address), open_supervisors() as supervisors:
        print("ready", flush=True)
        await trio.to_thread.run_sync(sys.stdin.readline)
        if count:
            print(await claim(supervisors, prefix, count), flush=True)
            await trio.to_thread.run_sync(sys.stdin.readline)


class Process:
    """Another process of this cluster."""

    def __init__(self, address: str, prefix: str = "", count: int = 0) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.ray_cluster.figures", address, prefix, str(count)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.pid = self._process.pid

    async def line(self) -> str:
        """What it says next."""
        assert self._process.stdout is not None
        return str(await trio.to_thread.run_sync(self._process.stdout.readline)).strip()

    def go_on(self) -> None:
        """Let it do what it does next."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    async def end(self) -> None:
        """Let it end."""
        self.go_on()
        await trio.to_thread.run_sync(self._process.wait)


async def timed(action: Callable[[], Awaitable[object]]) -> float:
    """How many milliseconds it takes."""
    began = time.perf_counter()
    await action()
    return (time.perf_counter() - began) * 1_000


async def names(address: str, supervisors: Sequence[Supervisor]) -> None:
    """How long a name takes, and how many there can be a second."""
    supervisor = supervisors[0]
    plain, named = [], []
    for number in range(100):
        local = SessionSpec(name=("local", number), backend=ScriptedBackend([]))
        plain.append(await timed(partial(supervisor.start_session, local)))
        named.append(await timed(partial(supervisor.start_session, spec(number))))
    rounds = [statistics.median(named[at : at + 20]) for at in range(0, 100, 20)]
    show("to start a session with a Global name, one by one", "ms", rounds)
    rounds = [statistics.median(plain[at : at + 20]) for at in range(0, 100, 20)]
    show("to start a session with a name of this run", "ms", rounds)
    rates = [await claim(supervisors, f"one-{number}", 300) for number in range(ROUNDS)]
    show("names a second, claimed by 1 process", "", rates)
    totals = []
    for number in range(3):
        others = [Process(address, f"{number}-{other}", 300) for other in range(4)]
        for other in others:
            assert await other.line() == "ready"
        for other in others:
            other.go_on()
        totals.append(sum([float(await other.line()) for other in others]))
        for other in others:
            await other.end()
    show("names a second, claimed by 4 processes, together", "", totals)


async def sizes(address: str, supervisors: Sequence[Supervisor]) -> None:
    """What processes and names take."""
    others = [Process(address) for _ in range(3)]
    for other in others:
        assert await other.line() == "ready"
    found = actors()
    (registry,) = found["RayRegistry"]
    show("the actor of a connected process", "MB", [memory(pid) for pid in found["Mailbox"]])
    show("the registry, when it is empty", "MB", [memory(registry)])
    async with cluster.open_group([spec("in a group")], replicas=3, num_cpus=0):
        show("an actor of a group", "MB", [memory(pid) for pid in actors()["Host"]])
    before = [memory(pid) for pid in (registry, others[0].pid)]
    for step in range(ROUNDS):
        await claim(supervisors, f"held-{step}", NAMES // ROUNDS)
    last = f"held-{ROUNDS - 1}-{NAMES // ROUNDS - 1}"
    assert trio_claude.whereis(Global(last)) is not None
    await trio.sleep(2)  # until all have heard of all
    after = [memory(pid) for pid in (registry, others[0].pid)]
    each = [(late - early) * 1024 / NAMES for early, late in zip(before, after, strict=True)]
    show("a name, in the registry", "KiB", each[:1])
    show("a name, in another process's copy", "KiB", each[1:])
    entry = Entry("trio_claude door " + "0" * 32, 1, "process 1 on 10.0.0.1", 1, 1, "running", None)
    show("a change, on its way to one process", "bytes", [len(pickle.dumps(entry))])
    for other in others:
        await other.end()


async def turns() -> None:
    """What a turn of a session in a group takes."""
    async with cluster.open_group([spec("far")], num_cpus=0):
        asked = partial(trio_claude.query, Global("far"), "Hello")
        await asked()
        rounds = [
            statistics.median([await timed(asked) for _ in range(100)]) for _ in range(ROUNDS)
        ]
        show("a turn whose answer is there at once", "ms", rounds)


async def main() -> None:
    """Measure all of it."""
    async with cluster.connect("local"):
        address = ray.get_runtime_context().gcs_address
        await turns()
        async with open_supervisors() as supervisors:
            await sizes(address, supervisors)
        async with open_supervisors() as supervisors:
            await names(address, supervisors)


if __name__ == "__main__":
    if sys.argv[1:]:
        trio.run(another_process, sys.argv[1], sys.argv[2], int(sys.argv[3]))
    else:
        name, _, value = MARK.partition("=")
        os.environ[name] = value  # so that its processes are known from those of other clusters
        trio.run(main)
