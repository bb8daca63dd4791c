"""What the tests of a cluster share: connected runs, other processes, asyncio loops."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Hashable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any, TypeVar

import attrs
import trio

from trio_claude import Global, SessionSpec, open_supervisor
from trio_claude.cluster._connection import Connection
from trio_claude.cluster._driver import open_driver_connection
from trio_claude.cluster._names import Names
from trio_claude.cluster._table import News
from trio_claude.cluster._wire import Entry
from trio_claude.testing import ScriptedBackend

from .fake_ray import process

A, B = Global("a"), Global("b")
_T = TypeVar("_T")


# ---- runs on a cluster that is none --------------------------------------------------------------


@asynccontextmanager
async def connected(seconds: float = 10) -> AsyncIterator[Connection]:
    """This run, connected; nothing in it takes as long."""
    with trio.fail_after(seconds):
        async with open_driver_connection("local", "tests") as connection:
            yield connection


async def until(connection: Connection, condition: Callable[[], object]) -> None:
    """Wait for news after which it holds."""
    take_in = Names._take_in
    while not condition():
        heard = trio.Event()

        def hear(news: News, heard: trio.Event = heard) -> None:
            take_in(connection.names, news)
            heard.set()

        vars(connection.names)["_take_in"] = hear
        try:
            with trio.fail_after(5):
                await heard.wait()
        finally:
            del vars(connection.names)["_take_in"]


async def until_stands(connection: Connection, name: Hashable, status: str | None) -> None:
    """Wait for the news that it stands so; None: that it is gone."""

    def stands() -> bool:
        entry = connection.names.copy.entries.get(name)
        return entry is None if status is None else entry is not None and entry.status == status

    await until(connection, stands)


class Other:
    """Another process: a Trio run in a thread."""

    def __init__(self) -> None:
        self.name = "other"
        self.token: trio.lowlevel.TrioToken | None = None
        self.error: Exception | None = None
        self.ended = trio.Event()
        self._stop = trio.Event()

    async def do(self, function: Callable[..., Awaitable[_T]], *args: Any) -> _T:
        """Have it done there."""
        call = partial(trio.from_thread.run, function, *args, trio_token=self.token)
        return await trio.to_thread.run_sync(call)

    def stop(self) -> None:
        """Let it leave."""
        if self.token is not None:
            with contextlib.suppress(trio.RunFinishedError):
                self.token.run_sync_soon(self._stop.set)

    def run(self, specs: Sequence[SessionSpec], ready: Callable[[], None]) -> None:
        """What its thread does."""
        process.set(self.name)

        async def main() -> None:
            self.token = trio.lowlevel.current_trio_token()
            async with connected(), open_supervisor(specs, max_restarts=0):
                ready()
                await self._stop.wait()

        try:
            trio.run(main)
        except Exception as exc:
            self.error = exc


@asynccontextmanager
async def other_process(*specs: SessionSpec) -> AsyncIterator[Other]:
    """Another process, with these sessions."""
    other = Other()
    async with AsyncExitStack() as stack:
        nursery = await stack.enter_async_context(trio.open_nursery())
        stack.callback(other.stop)
        ready = trio.Event()
        here = trio.lowlevel.current_trio_token()

        async def run() -> None:
            await trio.to_thread.run_sync(other.run, specs, partial(here.run_sync_soon, ready.set))
            ready.set()
            other.ended.set()

        nursery.start_soon(run)
        with trio.fail_after(5):
            await ready.wait()
        yield other


def scripted(answer: Any = "yes") -> ScriptedBackend:
    """A backend that says this."""
    return ScriptedBackend(lambda turn: answer)


# ---- what runs in Ray's processes, in a loop of its own ------------------------------------------


def entry(door: str, life: int = 1, **changes: Any) -> Entry:
    """A session that runs in the process of this door."""
    whole = Entry(door, life, f"process of {door}", "id", "called", "running", "s1")
    return attrs.evolve(whole, **changes)


async def settled() -> None:
    """Let all tasks go as far as they can."""
    for _ in range(20):
        await asyncio.sleep(0)


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run it in an asyncio loop; nothing in it takes as long."""

    async def bounded() -> None:
        async with asyncio.timeout(5):
            await main()

    asyncio.run(bounded())
