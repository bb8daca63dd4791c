"""A channel that is lent: read in the caller's task, attended by the session's, ended by either."""

from __future__ import annotations

import random
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any

import pytest
import trio
import trio.testing
from trio.testing import MockClock

import trio_claude
from trio_claude import (
    AssistantMessage,
    Backend,
    Connection,
    Conversation,
    Event,
    Interrupted,
    MessagesBackend,
    QueryTimeout,
    ResponseStream,
    ResultMessage,
    SessionCrashed,
    SessionHandle,
    SessionOptions,
    SessionRestarted,
    SessionSpec,
    SessionTerminated,
    Supervisor,
    TextDelta,
    open_session,
    open_supervisor,
)
from trio_claude._backends.base import Answer
from trio_claude._backends.messages_api.network import READ_SIZE
from trio_claude.testing import ScriptedBackend, ScriptedTurn, crash

from . import faulty_server as faulty
from .faulty_server import LAST_CHUNK, Exchange, FaultyServer, Script, chunk, good, head, refuses

pytestmark = pytest.mark.usefixtures("no_proxies")


def spec(server: FaultyServer, **options: Any) -> SessionSpec:
    """A session that asks this server."""
    settings: dict[str, Any] = {
        "name": "a",
        "backend": MessagesBackend(),
        "base_url": server.base_url,
        "api_key": "sk-test",
        "model": "claude-test",
        "max_tokens": 10,
        "max_retries": 0,
        "timeout": 1000,
        **options,
    }
    return SessionSpec(**settings)


@asynccontextmanager
async def supervised(
    *scripts: Script, **options: Any
) -> AsyncIterator[tuple[FaultyServer, Supervisor, SessionHandle]]:
    """A supervised session with a server that plays these scripts; at the end nothing is left."""
    with trio.fail_after(5000):  # of a clock that is jumped, as a rule
        async with faulty.open_faulty_server(*scripts) as server:
            async with open_supervisor([spec(server, **options)]) as supervisor:
                yield server, supervisor, supervisor.get_session("a")
            await server.wait_all_closed()


def by_packets(*texts: str, **message: Any) -> Script:
    """Answers well, one event after the other."""

    async def play(exchange: Exchange) -> None:
        await exchange.send(head())
        for payload in faulty.payloads(*texts, **message):
            await exchange.send(chunk(faulty.sse(payload)))
            for _ in range(5):
                await trio.lowlevel.checkpoint()
        await exchange.send(LAST_CHUNK)
        exchange.keep = True

    return play


async def read_all(stream: ResponseStream, scopes: list[trio.CancelScope]) -> list[Event]:
    """All events; a receive that is cancelled is tried again."""
    events = []
    while True:
        with trio.CancelScope() as scope:
            scopes[:] = [scope]
            try:
                events.append(await stream.receive())
            except trio.EndOfChannel:
                return events


async def cancel_again_and_again(scopes: list[trio.CancelScope], chance: random.Random) -> None:
    """Cancel what the reader is in, after a few steps each time."""
    while True:
        for _ in range(chance.randint(1, 12)):
            await trio.lowlevel.checkpoint()
        for scope in scopes:
            scope.cancel()


def texts_of(events: list[Event]) -> list[str]:
    """The texts of the deltas."""
    return [event.text for event in events if isinstance(event, TextDelta)]


# ---- cancelling receive -------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
async def test_cancelling_receive_loses_nothing(seed: int, hurry: None) -> None:
    """At any moment of a turn: while it is read, retried, paused and carried on, and ended."""
    chance = random.Random(seed)
    scripts = [
        refuses(529),
        by_packets("One ", "two ", stop_reason="pause_turn", id="m1"),
        refuses(529),
        faulty.plays(head(), chunk(faulty.sse(faulty.payloads()[0]))),  # breaks off, unheard
        by_packets("three ", "four", id="m2"),
        good("Yes"),
    ]
    async with supervised(*scripts, max_retries=3) as (server, _, session):
        scopes: list[trio.CancelScope] = []
        async with session.stream("Hi") as stream, trio.open_nursery() as nursery:
            nursery.start_soon(cancel_again_and_again, scopes, chance)
            events = await read_all(stream, scopes)
            nursery.cancel_scope.cancel()
        assert texts_of(events) == ["One ", "two ", "three ", "four"]
        assert [event.id for event in events if isinstance(event, AssistantMessage)] == ["m1", "m2"]
        assert [type(event) for event in events].count(ResultMessage) == 1
        assert isinstance(events[-1], ResultMessage)
        assert (events[-1].result, events[-1].num_turns) == ("three four", 2)
        assert (await session.query("Again")).result == "Yes"
        assert [message["role"] for message in server.requests[-1].body["messages"]] == [
            "user", "assistant", "user"
        ]  # fmt: skip


@pytest.mark.parametrize("seed", range(5))
async def test_cancelling_receive_of_a_channel_that_is_handed_over(seed: int) -> None:
    """The same where the session's task reads."""
    words = [f"word{number} " for number in range(20)]
    backend = ScriptedBackend([list(words), "Yes"])
    async with open_session(backend=backend) as session:
        scopes: list[trio.CancelScope] = []
        async with session.stream("Hi") as stream, trio.open_nursery() as nursery:
            nursery.start_soon(cancel_again_and_again, scopes, random.Random(seed))
            events = await read_all(stream, scopes)
            nursery.cancel_scope.cancel()
        assert "".join(texts_of(events)) == "".join(words)
        assert [type(event) for event in events].count(ResultMessage) == 1
        await session.query("Again")
        assert backend.turns[-1].history == (("Hi", "".join(words)),)


@pytest.mark.parametrize("moment", range(30))
@pytest.mark.parametrize("way", ["cancel", "interrupt", "close"])
async def test_a_turn_is_remembered_if_its_caller_has_the_result(moment: int, way: str) -> None:
    """And only then, whenever the caller goes away around the end of the answer."""
    let_go = trio.Event()

    async def play(exchange: Exchange) -> None:
        *most, last = faulty.payloads("Hello")
        await exchange.send(head(), chunk(faulty.events(most)))
        await let_go.wait()
        await exchange.send(chunk(faulty.sse(last)), LAST_CHUNK)
        exchange.keep = True

    async with supervised(play, good("Yes")) as (server, _, session):
        got: list[Event] = []

        async def ask(scope: trio.CancelScope) -> None:
            with scope, suppress(Interrupted, trio.ClosedResourceError):
                async with session.stream("Hi") as stream:
                    streams.append(stream)
                    async for event in stream:
                        got.append(event)  # noqa: PERF401 - it may be cut short

        streams: list[ResponseStream] = []
        scope = trio.CancelScope()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, scope)
            await trio.testing.wait_all_tasks_blocked()
            let_go.set()
            for _ in range(moment):
                await trio.lowlevel.checkpoint()
            if way == "cancel":
                scope.cancel()
            elif way == "interrupt":
                await session.interrupt()
            else:
                await streams[0].aclose()
        assert texts_of(got) == ["Hello"]
        has_result = isinstance(got[-1], ResultMessage)
        assert (session.session_id is not None) == has_result
        await session.query("Again")
        assert len(server.requests[-1].body["messages"]) == (3 if has_result else 1)


# ---- ends that reach a reader -------------------------------------------------------------------


async def hangs(exchange: Exchange) -> None:
    """Says one word, and no other."""
    await exchange.send(head(), chunk(faulty.events(faulty.payloads("Well")[:3])))
    await exchange.wait_closed()


async def never_answers(exchange: Exchange) -> None:
    """Takes the request, and that's all."""
    await exchange.wait_closed()


async def pauses_without_end(exchange: Exchange) -> None:
    """An answer that is paused, and whose body never ends."""
    body = faulty.events(faulty.payloads("Well", stop_reason="pause_turn"))
    await exchange.send(head(), chunk(body))
    await exchange.wait_closed()


PAUSED = good("Well", stop_reason="pause_turn")
PLACES: dict[str, list[Script]] = {
    "reading": [hangs],
    "waiting for the further answer": [PAUSED, never_answers],
    "pausing before a retry": [PAUSED, refuses(529, retry_after="100")],
    "ending the paused answer": [pauses_without_end],
}

End = Callable[[Supervisor, SessionHandle, ResponseStream, MockClock], Awaitable[object]]


async def _jump(clock: MockClock) -> None:
    clock.jump(20)


ENDS: dict[str, tuple[End, type[Exception]]] = {
    "interrupt": (lambda _, session, __, ___: session.interrupt(), Interrupted),
    "timeout": (lambda _, __, ___, clock: _jump(clock), QueryTimeout),
    "crash": (lambda _, session, __, ___: crash(session), SessionCrashed),
    "restart": (lambda supervisor, *_: supervisor.restart_session("a"), SessionRestarted),
    "terminate": (lambda supervisor, *_: supervisor.terminate_session("a"), SessionTerminated),
    "close": (lambda _, __, stream, ___: stream.aclose(), trio.ClosedResourceError),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("way", ENDS)
async def test_an_end_reaches_a_reader_that_waits(
    place: str, way: str, mock_clock: MockClock
) -> None:
    """Wherever the turn is, its reader gets the error that fits, each time, and the next turn works."""
    end, error = ENDS[way]
    async with supervised(*PLACES[place], good("Yes"), max_retries=1, shutdown=0) as (
        server,
        supervisor,
        session,
    ):
        async with trio.open_nursery() as nursery:
            streams: list[ResponseStream] = []
            seen: list[Event] = []

            async def read() -> None:
                async with session.stream("Hi", timeout=20) as stream:
                    streams.append(stream)
                    with pytest.raises(error):
                        async for event in stream:
                            seen.append(event)  # noqa: PERF401 - an error ends it
                    with pytest.raises(error):
                        await stream.receive()

            nursery.start_soon(read)
            await trio.testing.wait_all_tasks_blocked()
            await end(supervisor, session, streams[0], mock_clock)
        assert texts_of(seen) == ["Well"]
        if way == "terminate":
            session = await supervisor.start_session(spec(server))
        mock_clock.jump(100)
        assert (await session.query("Again")).result == "Yes"
        assert len(server.requests[-1].body["messages"]) == 1


@pytest.mark.parametrize("place", PLACES)
async def test_a_supervisor_that_is_cancelled(place: str) -> None:
    """A reader that is outside of the supervisor's block gets SessionTerminated."""
    async with faulty.open_faulty_server(*PLACES[place]) as server:
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:

                async def read() -> None:
                    async with trio_claude.stream("a", "Hi") as stream:
                        with pytest.raises(SessionTerminated):
                            async for _event in stream:
                                pass

                with trio.CancelScope() as scope:
                    async with open_supervisor([spec(server, max_retries=1, shutdown=0)]):
                        nursery.start_soon(read)
                        await trio.testing.wait_all_tasks_blocked()
                        scope.cancel()
                        await trio.sleep_forever()
            await server.wait_all_closed()


@pytest.mark.parametrize("way", ENDS)
async def test_an_end_reaches_a_reader_of_a_channel_that_is_handed_over(
    way: str, mock_clock: MockClock
) -> None:
    """The same where the session's task reads."""

    async def hang(turn: ScriptedTurn) -> AsyncIterator[str]:
        yield "Well"
        if turn.prompt == "Hi":
            await trio.sleep_forever()

    end, error = ENDS[way]
    child = SessionSpec(name="a", backend=ScriptedBackend(hang), shutdown=0)  # type: ignore[arg-type]
    async with open_supervisor([child]) as supervisor:
        session = supervisor.get_session("a")
        async with trio.open_nursery() as nursery:
            streams: list[ResponseStream] = []

            async def read() -> None:
                async with session.stream("Hi", timeout=20) as stream:
                    streams.append(stream)
                    with pytest.raises(error):
                        async for _event in stream:
                            pass

            nursery.start_soon(read)
            await trio.testing.wait_all_tasks_blocked()
            await end(supervisor, session, streams[0], mock_clock)
        if way == "terminate":
            session = await supervisor.start_session(child)
        assert (await session.query("Again")).result == "Well"


# ---- pace and order -----------------------------------------------------------------------------


@pytest.mark.parametrize("read_first", [0, 2])
async def test_a_reader_that_does_not_read(read_first: int) -> None:
    """The socket isn't read either: the server's sending blocks, and little waits in memory."""
    sent = 0
    total = 64 * 1024 * 1024
    piece = chunk(
        faulty.sse(
            {
                "type": "content_block_delta",
                "index": 0,
                "delta": {"type": "text_delta", "text": "x" * 900},
            }
        )
        * 64
    )

    async def play(exchange: Exchange) -> None:
        nonlocal sent
        exchange.stream.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 * 1024)
        await exchange.send(head(), chunk(faulty.events(faulty.payloads("Well")[:3])))
        while sent < total:
            await exchange.send(piece)
            sent += len(piece)

    async with supervised(play) as (_, _, session), session.stream("Hi") as stream:
        for _ in range(read_first):
            await stream.receive()
        before = -1
        while before != sent:  # until nothing moves any more
            before = sent
            await trio.testing.wait_all_tasks_blocked()
        assert sent < total // 4
        for _ in range(3):
            await stream.receive()
        await trio.testing.wait_all_tasks_blocked()
        assert sum(len(text) for text in texts_of(list(stream._ready))) <= READ_SIZE


async def test_two_readers_share_the_events() -> None:
    """Two tasks that read one stream get each event once, each in order, and one the result."""
    words = [f"{number:02} " for number in range(40)]
    async with supervised(by_packets(*words), good("Yes")) as (_, _, session):
        async with session.stream("Hi") as stream, trio.open_nursery() as nursery:
            shares: list[list[Event]] = [[], []]

            async def read(share: list[Event]) -> None:
                async for event in stream:
                    share.append(event)
                    await trio.lowlevel.checkpoint()

            for share in shares:
                nursery.start_soon(read, share)
        one, other = map(texts_of, shares)
        assert one == sorted(one)
        assert other == sorted(other)
        assert sorted(one + other) == words
        assert one
        assert other
        results = [event for event in shares[0] + shares[1] if isinstance(event, ResultMessage)]
        assert len(results) == 1
        assert (await session.query("Again")).result == "Yes"


async def test_a_reader_that_waited_for_another_finds_what_that_one_received() -> None:
    """What came together is there for whoever reads next."""
    words = [f"{number:02} " for number in range(10)]
    go = trio.Event()

    async def play(exchange: Exchange) -> None:
        payloads = faulty.payloads(*words)
        await exchange.send(head(), chunk(faulty.events(payloads[:2])))
        await go.wait()
        await exchange.send(chunk(faulty.events(payloads[2:])), LAST_CHUNK)
        exchange.keep = True

    async with supervised(play) as (_, _, session):
        async with session.stream("Hi") as stream:
            received: list[Event] = []

            async def receive() -> None:
                received.append(await stream.receive())

            async with trio.open_nursery() as nursery:
                for _ in range(3):
                    nursery.start_soon(receive)
                await trio.testing.wait_all_tasks_blocked()
                go.set()
            received += [event async for event in stream]
        assert texts_of(received) == words


async def test_many_events_that_came_together() -> None:
    """They are given in order, and other tasks get their turn in between."""
    words = [f"{number:04} " for number in range(300)]
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with supervised(good(*words)) as (_, _, session):
        async with session.stream("Hi") as stream, trio.open_nursery() as nursery:
            await stream.receive()
            nursery.start_soon(count)
            texts = texts_of([event async for event in stream])
            nursery.cancel_scope.cancel()
    assert words == texts
    assert turns >= 300 // 64


# ---- what is lent by other backends -------------------------------------------------------------


class Lent(Answer, trio.abc.ReceiveChannel[Event]):
    """What a test lends."""

    def __init__(self, receive_some: Callable[[], Awaitable[list[Event]]]) -> None:
        self._receive_some = receive_some

    async def receive_some(self) -> list[Event]:
        """What the test says."""
        return await self._receive_some()

    async def attend(self) -> None:
        """Nothing to do."""
        await trio.sleep_forever()

    def partial(self) -> AssistantMessage | None:
        """Nothing."""
        return None

    async def receive(self) -> Event:
        """Not in use."""
        raise AssertionError

    async def aclose(self) -> None:
        """Nothing to do."""


class Lending(Backend, Connection, Conversation):
    """A backend that lends."""

    def __init__(self, receive_some: Callable[[], Awaitable[list[Event]]]) -> None:
        self._receive_some = receive_some

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[Connection]:
        """Nothing to do."""
        yield self

    @asynccontextmanager
    async def open(self, options: SessionOptions) -> AsyncIterator[Conversation]:
        """Nothing to do."""
        yield self

    def turn(
        self, prompt: str, options: SessionOptions
    ) -> AbstractAsyncContextManager[trio.abc.ReceiveChannel[Event]]:
        """Lend it."""
        return self._turn()

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[trio.abc.ReceiveChannel[Event]]:
        yield Lent(self._receive_some)


async def test_a_closed_stream_gives_nothing_more() -> None:
    """Also if it was closed at the moment when events came for a reader."""
    come = trio.Event()

    async def receive_some() -> list[Event]:
        await come.wait()
        return [TextDelta(0, "one"), TextDelta(0, "two")]

    async with open_session(backend=Lending(receive_some)) as session:
        async with session.stream("Hi") as stream, trio.open_nursery() as nursery:

            async def read() -> None:
                with suppress(trio.ClosedResourceError):
                    await stream.receive()

            nursery.start_soon(read)
            await trio.testing.wait_all_tasks_blocked()
            come.set()
            await stream.aclose()
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(trio.ClosedResourceError):
                await stream.receive()


async def test_a_fault_is_not_forgotten_by_a_reader_that_is_cancelled() -> None:
    """A reader that is cancelled as it finds a fault, and reads on, gets no event from behind it."""
    steps: list[Exception | list[Event]] = []

    async def receive_some() -> list[Event]:
        step = steps.pop(0)
        if isinstance(step, Exception):
            raise step
        return step

    for _ in range(20):  # who comes first afterwards is up to Trio's scheduler
        steps[:] = [RuntimeError("broken"), [TextDelta(0, "more")]]
        child = SessionSpec(name="a", backend=Lending(receive_some))
        async with open_supervisor([child]) as supervisor:
            async with supervisor.get_session("a").stream("Hi") as stream:
                await trio.testing.wait_all_tasks_blocked()
                with trio.CancelScope() as scope:
                    scope.cancel()
                    await stream.receive()
                with pytest.raises(SessionCrashed):
                    await stream.receive()


@pytest.mark.parametrize("ends", [True, False])
async def test_the_end_of_what_is_lent_is_no_success(ends: bool) -> None:
    """A channel that ends without a result, or gives nothing, fails the turn."""

    async def receive_some() -> list[Event]:
        await trio.lowlevel.checkpoint()
        if ends:
            raise trio.EndOfChannel
        return []

    async with open_session(backend=Lending(receive_some)) as session:
        with pytest.raises(trio_claude.StreamInterrupted):
            await session.query("Hi")
