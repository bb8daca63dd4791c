"""What a session costs that is in another process, on Ray, beside what Ray itself costs.

All is taken in one Trio run, in turn, against one cluster on this machine: a session in a group's
actor, one that another driver process holds, one in this very run; and bare actors, which are
called as the bridge between Trio and Ray calls, with Ray's own callback and nothing else.

``python -m tests.benchmarks.cluster ADDRESS NAMESPACE`` is that other process. It prints a line when
its session is there, and lives until its input ends.
"""

from __future__ import annotations

import gc
import logging
import statistics
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import attrs
import ray
import trio

import trio_claude
from trio_claude import (
    AssistantMessage,
    Event,
    Global,
    ResultMessage,
    SessionHandle,
    SessionSpec,
    TextBlock,
    TextDelta,
    cluster,
)
from trio_claude._backends.base import Answer, Backend, Connection, Conversation

from .server import ROOT

if TYPE_CHECKING:
    from concurrent.futures import Future

    from trio_claude import SessionOptions

Figures = dict[str, float]

_WARM_UP = 50
_PROMPT = "Hi"
_WORD = "word "
_TOGETHER = 20
"""So many events a session is given at once, as if they had come in one read of a socket."""

_HELD = Global("in another process")
_SECONDS = 60.0

# ---- a backend that costs next to nothing -------------------------------------------------------


@attrs.frozen
class Instant(Backend):
    """Answers at once with so many words, for the caller to read itself."""

    words: int

    def connect(self) -> AbstractAsyncContextManager[Connection]:
        """Connect to nothing."""
        return _connected(_Instant(self.words))


@asynccontextmanager
async def _connected(connection: Connection) -> AsyncIterator[Connection]:
    yield connection


class _Instant(Connection, Conversation):
    def __init__(self, words: int) -> None:
        deltas: list[Event] = [TextDelta(0, _WORD)] * words
        self._pieces: list[list[Event]] = [
            *(deltas[start : start + _TOGETHER] for start in range(0, words, _TOGETHER)),
            *([[AssistantMessage((TextBlock(_WORD * words),))]] if words else ()),
            [ResultMessage(_WORD * words, session_id="instant")],
        ]

    @asynccontextmanager
    async def open(self, options: SessionOptions) -> AsyncIterator[Conversation]:
        yield self

    def turn(
        self, prompt: str, options: SessionOptions
    ) -> AbstractAsyncContextManager[trio.abc.ReceiveChannel[Event]]:
        return _Turn(self._pieces)


class _Turn(Answer, trio.abc.ReceiveChannel[Event]):
    """A turn's channel, which is its block, too."""

    def __init__(self, pieces: list[list[Event]]) -> None:
        self._pieces = iter(pieces)

    async def receive_some(self) -> list[Event]:
        await trio.lowlevel.checkpoint()
        return next(self._pieces)

    async def attend(self) -> None:
        await trio.sleep_forever()

    def partial(self) -> AssistantMessage | None:
        return None

    async def receive(self) -> Event:
        raise AssertionError("the session lends it to its caller")

    async def aclose(self) -> None:
        """Nothing is open."""


# ---- bare Ray -----------------------------------------------------------------------------------


class _Awaiting:
    """An actor that can have many calls in flight, as whoever serves many must."""

    async def ask(self, prompt: str) -> str:
        return prompt


class _OneByOne:
    """An actor that does one call after the other."""

    def ask(self, prompt: str) -> str:
        return prompt

    def words(self, count: int) -> Iterator[str]:
        """An object for each event."""
        for _ in range(count):
            yield _WORD

    def batches(self, count: int) -> Iterator[list[str]]:
        """An object for as many as come together."""
        for start in range(0, count, _TOGETHER):
            yield [_WORD] * min(_TOGETHER, count - start)


def _actor(cls: type, **options: Any) -> Any:
    """An actor of Ray's; like those of trio_claude, it doesn't report its calls."""
    return ray.remote(cls).options(num_cpus=0, enable_task_events=False, **options).remote()


async def _call(actor: Any) -> None:
    """Call an actor from Trio: Ray's thread wakes the run when the answer is there."""
    token = trio.lowlevel.current_trio_token()
    there = trio.Event()
    future: Future[str] = actor.ask.remote(_PROMPT).future()
    future.add_done_callback(lambda _: token.run_sync_soon(there.set))
    await there.wait()
    assert future.result() == _PROMPT


def _read_words(actor: Any, count: int) -> None:
    """In a thread with ``ray.get``: that is twice as fast here as ``async for``."""
    stream = actor.words.options(num_returns="streaming").remote(count)
    assert sum(len(ray.get(ref)) for ref in stream) == count * len(_WORD)


def _read_batches(actor: Any, count: int) -> None:
    stream = actor.batches.options(num_returns="streaming").remote(count)
    assert sum(len(ray.get(ref)) for ref in stream) == count


# ---- ours ---------------------------------------------------------------------------------------


async def _query(session: SessionHandle) -> None:
    result = await session.query(_PROMPT)
    assert not result.result


async def _stream(session: SessionHandle, count: int) -> None:
    words = 0
    async with session.stream(_PROMPT) as events:
        async for event in events:
            if isinstance(event, TextDelta):
                words += 1
    assert words == count


# ---- the sample ---------------------------------------------------------------------------------


def across(turns: int, streams: int, events: int) -> Figures:
    """Seconds of a turn without events, and of an event of a stream, by the clock.

    The middle ones of so many turns and streams of each kind, taken one of each in turn.
    """
    namespace = f"benchmark {uuid.uuid4().hex}"

    async def main() -> Figures:
        quick, streaming = Instant(0), Instant(events)
        async with (
            cluster.connect(namespace=namespace),
            trio_claude.open_supervisor([SessionSpec(name="here", backend=quick)]) as here,
            cluster.open_group(
                [
                    SessionSpec(id="quick", backend=quick),
                    SessionSpec(id="streaming", backend=streaming),
                ]
            ) as group,
        ):
            with _another_process(ray.get_runtime_context().gcs_address, namespace):
                awaiting = _actor(_Awaiting, max_concurrency=1_000_000)
                one_by_one = _actor(_OneByOne)
                sessions = {
                    "group": group.get_session("quick"),
                    "process": await _found(_HELD),
                    "local": here.get_session("here"),
                }
                figures = await _in_turn(
                    turns,
                    {f"turn_{where}": (_query, one) for where, one in sessions.items()}
                    | {"turn_bare": (_call, awaiting), "turn_bare_one": (_call, one_by_one)},
                )
                in_thread = trio.to_thread.run_sync
                whole = await _in_turn(
                    streams,
                    {
                        "event": (_stream, group.get_session("streaming"), events),
                        "event_bare": (in_thread, _read_words, one_by_one, events),
                        "event_batches": (in_thread, _read_batches, one_by_one, events),
                    },
                    warm_up=2,
                )
                return figures | {name: seconds / events for name, seconds in whole.items()}

    with _ray():
        return trio.run(main)


async def _in_turn(
    times: int, ways: Mapping[str, tuple[Any, ...]], *, warm_up: int = _WARM_UP
) -> Figures:
    """Go each way so often, beginning with another one each time; its median of seconds."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    names = list(ways)
    for number in range(warm_up + times):
        if number == warm_up:
            gc.collect()
        first = number % len(names)
        for name in (*names[first:], *names[:first]):
            go: Callable[..., Awaitable[None]]
            go, *arguments = ways[name]
            began = time.perf_counter()
            await go(*arguments)
            taken[name].append(time.perf_counter() - began)
    return {name: statistics.median(seconds[warm_up:]) for name, seconds in taken.items()}


# ---- processes ----------------------------------------------------------------------------------


@contextmanager
def _ray() -> Iterator[None]:
    """A cluster on this machine, of this process alone."""
    ray.init(
        address="local",  # else it would join one that runs here
        num_cpus=4,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _another_process(address: str, namespace: str) -> Iterator[None]:
    """A driver process with a session."""
    command = [sys.executable, "-m", "tests.benchmarks.cluster", address, namespace]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            assert process.stdout.readline(), "the other process has failed"
            yield
        finally:
            process.stdin.close()
            process.wait(_SECONDS)


async def _found(name: Global) -> SessionHandle:
    """A session of another process, once this one has heard of it."""
    await trio_claude.query(name, _PROMPT)  # who asks by name needn't have heard
    session = trio_claude.whereis(name)
    assert session is not None
    return session


async def _hold(address: str, namespace: str) -> None:
    spec = SessionSpec(name=_HELD, backend=Instant(0))
    async with (
        cluster.connect(address, namespace=namespace),
        trio_claude.open_supervisor([spec]),
    ):
        print("there", flush=True)
        await trio.to_thread.run_sync(sys.stdin.read)


if __name__ == "__main__":
    trio.run(partial(_hold, *sys.argv[1:]))
