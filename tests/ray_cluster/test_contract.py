"""What every handle keeps to, for sessions in other processes: the tests of `tests/contract`.

All of them run in one Trio run, which lasts as long as this module's tests do and is in a thread: to
connect takes a second, and the tests are many.
"""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from itertools import count
from typing import Any

import pytest
import trio

import trio_claude
from tests.contract import handle as contract
from trio_claude import Global, SessionHandle, SessionNotFound, SessionSpec, cluster
from trio_claude.cluster._wire import BATCH_SIZE

from . import client
from .client import Here
from .support import Nodes, Process, open_process

FAULTS: dict[str, str] = {}
"""Tests that fail, and why."""

_numbers = count(1)


# ---- where the sessions are ---------------------------------------------------------------------


class Far:
    """A session in another process."""

    ahead = BATCH_SIZE

    def __init__(self, run: Run, name: Hashable) -> None:
        self.run = run
        self.name = name

    async def restart(self) -> None:
        """Have its supervisor restart it."""
        raise NotImplementedError

    async def terminate(self) -> None:
        """Have its supervisor terminate it."""
        raise NotImplementedError

    async def start(self, spec: SessionSpec) -> None:
        """Start it there."""
        raise NotImplementedError

    def find(self) -> SessionHandle:
        """Its handle, got by its name."""
        return trio_claude.get_session(self.name)

    @asynccontextmanager
    async def __call__(self, spec: SessionSpec) -> AsyncIterator[SessionHandle]:
        """Open it."""
        await self.start(spec)
        try:
            yield self.find()
        finally:
            with trio.move_on_after(10, shield=True), suppress(SessionNotFound):
                await self.terminate()


class InGroup(Far):
    """A session of a group, by its name in the cluster."""

    async def start(self, spec: SessionSpec) -> None:
        """Have the group start it."""
        await self.run.group.start_session(spec)

    async def restart(self) -> None:
        """Have the group restart it."""
        await self.run.group.restart_session(self.name)

    async def terminate(self) -> None:
        """Have the group terminate it."""
        await self.run.group.terminate_session(self.name)


class OfGroup(InGroup):
    """A session of a group that has no name but there."""

    def find(self) -> SessionHandle:
        """Its handle, got from the group."""
        return self.run.group.get_session(self.name)


class Elsewhere(Far):
    """A session that another process holds which is connected."""

    async def start(self, spec: SessionSpec) -> None:
        """Have the process start it, and wait until that has got about."""
        await self.run.process.do(client.start, spec)
        with trio.fail_after(10):
            while not self._is_known():  # noqa: ASYNC110 - nobody can wait for a name
                await trio.sleep(0.01)

    def _is_known(self) -> bool:
        session = trio_claude.whereis(self.name)
        return session is not None and session.is_alive()

    async def restart(self) -> None:
        """Have the process restart it."""
        await self.run.process.do(restart, self.name)

    async def terminate(self) -> None:
        """Have the process terminate it."""
        await self.run.process.do(terminate, self.name)


# What the other process does.


async def supervise(here: Here) -> None:
    """Open a supervisor that never gives up."""
    supervisor = trio_claude.open_supervisor(max_restarts=1_000)
    here.supervisor = await here.stack.enter_async_context(supervisor)


async def restart(here: Here, name: Hashable) -> None:
    """Restart a session."""
    await here.the_supervisor().restart_session(name)


async def terminate(here: Here, name: Hashable) -> None:
    """Terminate a session; nothing happens if there is none any more."""
    with suppress(SessionNotFound):
        await here.the_supervisor().terminate_session(name)


# ---- the run ------------------------------------------------------------------------------------


class Run:
    """A Trio run in another thread, that is connected to the cluster."""

    def __init__(self, group: cluster.Group, process: Process) -> None:
        self.group = group
        self.process = process
        self.over = trio.Event()
        self._token = trio.lowlevel.current_trio_token()

    def do(self, function: Callable[[], Awaitable[None]]) -> None:
        """Call this there."""
        trio.from_thread.run(function, trio_token=self._token)

    def end(self) -> None:
        """Let it end."""
        with suppress(trio.RunFinishedError):
            self._token.run_sync_soon(self.over.set)


@pytest.fixture(scope="module")
def run(nodes: Nodes) -> Iterator[Run]:
    """One run for all tests, with a group and another process."""
    begun: Future[Run] = Future()

    async def main() -> None:
        namespace = "contract"
        try:
            async with (
                open_process(nodes.env) as process,
                cluster.connect(nodes.address, namespace=namespace),
                cluster.open_group(max_restarts=1_000) as group,
            ):
                await process.do(client.connect, nodes.address, namespace)
                await process.do(supervise)
                run = Run(group, process)
                begun.set_result(run)
                await run.over.wait()
        except BaseException as exc:
            if not begun.done():
                begun.set_exception(exc)
            raise

    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(trio.run, main)
        run = begun.result()
        try:
            yield run
        finally:
            run.end()
            ended.result()


@pytest.fixture(params=["of a group", "in a group", "elsewhere"])
def place(run: Run, request: pytest.FixtureRequest) -> Far:
    """Where the session of a test is, and how its handle is got."""
    key = f"reviewer {next(_numbers)}"
    match request.param:
        case "of a group":
            return OfGroup(run, key)
        case "in a group":
            return InGroup(run, Global(key))
        case _:
            return Elsewhere(run, Global(key))


def _done_there(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """The same test, but in the run where the cluster is connected."""

    @functools.wraps(test)  # the marks too, and what pytest takes for its arguments
    def there(place: Far, **arguments: Any) -> None:
        place.run.do(functools.partial(test, place, **arguments))

    if test.__name__ in FAULTS:
        there = pytest.mark.xfail(
            strict=True,
            reason=FAULTS[test.__name__],
            raises=(
                *(AssertionError, ExceptionGroup, pytest.fail.Exception),
                *(SessionNotFound, trio.EndOfChannel),
            ),
        )(there)
    return there


globals().update(
    {name: _done_there(test) for name, test in vars(contract).items() if name.startswith("test_")}
)
