"""Trio's streams under httpcore: over TCP and TLS, cut anywhere, cancelled at any moment."""

from __future__ import annotations

import random
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import httpcore
import pytest
import trio
import trio.testing
import trustme

from trio_claude import (
    APIConnectionError,
    MessagesBackend,
    ResultMessage,
    SessionHandle,
    StreamInterrupted,
    TextDelta,
    open_session,
)
from trio_claude._backends.messages_api.network import Network, NetworkStream, until_hungry

from . import faulty_server as faulty
from .faulty_server import LAST_CHUNK, Exchange, Script, chunk, good, head

BACKEND = MessagesBackend()
WAYS = ["tcp", "tls"]
CA = trustme.CA()
CERTIFICATE = CA.issue_cert("127.0.0.1")

Cut = Callable[[trio.SocketStream, bytes], Awaitable[None]]


@pytest.fixture(autouse=True)
def trusted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Trust the servers of these tests, and ask them directly."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    CA.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))


async def at_once(stream: trio.SocketStream, data: bytes) -> None:
    """Send it in one piece."""
    await stream.send_all(data)


class Wire(trio.abc.Stream):
    """A server's end of a connection, which cuts what it sends."""

    def __init__(self, stream: trio.SocketStream, cut: Cut) -> None:
        self._stream = stream
        self.cut = cut

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send it, cut."""
        await self.cut(self._stream, bytes(data))

    async def wait_send_all_might_not_block(self) -> None:
        """Wait for room."""
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """Receive some."""
        return await self._stream.receive_some(max_bytes)

    async def aclose(self) -> None:
        """Close it."""
        await self._stream.aclose()


class Server(faulty.FaultyServer):
    """The server that does what it is told, over TCP or TLS, with pieces cut as it is told."""

    way: str = "tcp"
    cut: Cut = staticmethod(at_once)

    async def serve(self, stream: trio.SocketStream) -> None:
        """Serve one connection."""
        self.connections += 1
        wire: trio.abc.Stream = Wire(stream, self._cut)
        if self.way == "tls":
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            CERTIFICATE.configure_cert(context)
            wire = trio.SSLStream(wire, context, server_side=True, https_compatible=True)
        async with wire:
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await self._exchanges(wire)  # type: ignore[arg-type]

    async def _cut(self, stream: trio.SocketStream, data: bytes) -> None:
        await self.cut(stream, data)


@asynccontextmanager
async def serving(way: str, *scripts: Script) -> AsyncIterator[Server]:
    """A server, for no longer than 20 seconds."""
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            server = Server("", list(scripts))
            server.way = way
            (listener,) = await nursery.start(
                partial(trio.serve_tcp, server.serve, 0, host="127.0.0.1")
            )
            scheme = {"tcp": "http", "tls": "https"}[way]
            server.base_url = f"{scheme}://127.0.0.1:{listener.socket.getsockname()[1]}"
            yield server
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def session_with(server: Server) -> AsyncIterator[SessionHandle]:
    """A session that asks this server."""
    async with open_session(
        backend=BACKEND,
        base_url=server.base_url,
        api_key="sk-test",
        model="claude-test",
        max_tokens=10,
        max_retries=0,
    ) as session:
        yield session


def texts(count: int) -> list[str]:
    """Words that are told apart, with characters of many bytes."""
    return [f"w{number}é\U0001f600 " for number in range(count)]


def chunked(data: bytes, sizes: Callable[[], int]) -> bytes:
    """A body, in chunks of these sizes."""
    parts = []
    while data:
        size = sizes()
        parts.append(chunk(data[:size]))
        data = data[size:]
    return b"".join(parts) + LAST_CHUNK


# ---- cut anywhere, cancelled at any moment ------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("piece", [1, 3, 64, 1000, 100_000])
@pytest.mark.parametrize("cancelled", ["never", "while it waits", "as it comes"])
async def test_an_answer_cut_anywhere(way: str, piece: int, cancelled: str) -> None:
    """However bytes, chunks and records are cut, and however often receiving is cancelled, the
    whole answer comes, in order."""
    chance = random.Random(piece)
    words = texts(3 if piece < 10 else 40)
    body = chunked(
        faulty.events(faulty.payloads(*words)), lambda: chance.choice([1, 2, 10, 100, 1000])
    )
    scope = trio.CancelScope()
    cancels = 0

    async def cut(stream: trio.SocketStream, data: bytes) -> None:
        nonlocal cancels
        while data:
            size = chance.randint((piece + 1) // 2, piece)
            await stream.send_all(data[:size])
            data = data[size:]
            if cancelled == "as it comes":
                for _ in range(chance.randint(0, 6)):
                    await trio.lowlevel.checkpoint()
            else:
                await trio.testing.wait_all_tasks_blocked()
            if cancelled != "never":
                scope.cancel()
                cancels += 1

    async def play(exchange: Exchange) -> None:
        await exchange.send(head())
        await trio.testing.wait_all_tasks_blocked()
        server.cut = cut
        # By parts, so that there are many records.
        for start in range(0, len(body), 500):
            await exchange.send(body[start : start + 500])
        server.cut = at_once
        exchange.keep = True

    async with serving(way, play) as server, session_with(server) as session:
        events = []
        async with session.stream("Hi") as stream:
            while True:
                with trio.CancelScope() as scope:
                    try:
                        events.append(await stream.receive())
                    except trio.EndOfChannel:
                        break
        assert [event.text for event in events if isinstance(event, TextDelta)] == words
        assert isinstance(events[-1], ResultMessage)
        assert events[-1].result == "".join(words)
        assert (cancels > 0) == (cancelled != "never")
        await session.query("Again")  # on the same connection
        assert server.connections == 1


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("break_off", ["close", "reset"])
async def test_a_connection_that_breaks(way: str, break_off: str) -> None:
    """What came before the break is given, then the error; the next turn has a new connection."""
    begun = faulty.events(faulty.payloads("Hel", "lo")[:4])

    async def play(exchange: Exchange) -> None:
        await exchange.send(head(), chunk(begun), b"ff")
        await trio.testing.wait_all_tasks_blocked()
        if break_off == "reset":
            stream = exchange.stream
            while not isinstance(stream, trio.SocketStream):
                stream = getattr(stream, "transport_stream", None) or stream._stream
            Exchange(exchange.request, stream).reset()

    async with serving(way, play, good("Yes")) as server, session_with(server) as session:
        seen = []
        async with session.stream("Hi") as stream:
            with pytest.raises(StreamInterrupted):
                async for event in stream:
                    seen.append(event)  # noqa: PERF401 - an error ends it
        assert [event.text for event in seen if isinstance(event, TextDelta)] == ["Hel", "lo"]
        assert (await session.query("Again")).result == "Yes"
        assert server.connections == 2


@pytest.mark.parametrize("way", WAYS)
async def test_closed_by_another_task(way: str) -> None:
    """A stream that another task closes wakes its reader, and the server sees the end at once."""
    closed = trio.Event()

    async def play(exchange: Exchange) -> None:
        await exchange.send(head(), chunk(faulty.events(faulty.payloads("Hel")[:3])))
        with suppress(trio.BrokenResourceError):
            assert not await exchange.stream.receive_some()
        closed.set()

    async with serving(way, play, good("Yes")) as server, session_with(server) as session:
        async with session.stream("Hi") as stream, trio.open_nursery() as nursery:
            assert not isinstance(await stream.receive(), TextDelta)
            assert await stream.receive() == TextDelta(0, "Hel")

            async def read() -> None:
                with pytest.raises(trio.ClosedResourceError):
                    await stream.receive()

            nursery.start_soon(read)
            await trio.testing.wait_all_tasks_blocked()
            await stream.aclose()
        await closed.wait()
        assert (await session.query("Again")).result == "Yes"


# ---- connecting ---------------------------------------------------------------------------------


async def test_a_certificate_that_is_not_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is our error, which says what to do; the connection is closed."""
    monkeypatch.delenv("SSL_CERT_FILE")
    async with serving("tls", good("No")) as server, session_with(server) as session:
        with pytest.raises(APIConnectionError, match=r"CERTIFICATE.*; set SSL_CERT_FILE"):
            await session.query("Hi")
        assert server.requests == []


async def test_a_certificate_of_another_host() -> None:
    """A certificate must be the host's."""
    async with serving("tls", good("No")) as server:
        server.base_url = server.base_url.replace("127.0.0.1", "localhost")
        async with session_with(server) as session:
            with pytest.raises(APIConnectionError, match="certificate is not valid for"):
                await session.query("Hi")


@asynccontextmanager
async def silent_listener() -> AsyncIterator[tuple[str, trio.MemoryReceiveChannel[str]]]:
    """A server that takes connections, and says when they begin and when they end."""
    send, receive = trio.open_memory_channel[str](9)

    async def serve(stream: trio.SocketStream) -> None:
        await send.send("begun")
        with suppress(trio.BrokenResourceError):
            while await stream.receive_some():
                pass
        await send.send("ended")

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            (listener,) = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
            yield f"127.0.0.1:{listener.socket.getsockname()[1]}", receive
            nursery.cancel_scope.cancel()


async def test_a_handshake_that_is_cancelled() -> None:
    """Its connection is closed at once, not when the garbage collector comes by."""
    async with silent_listener() as (address, said):
        server = Server(f"https://{address}", [])
        async with session_with(server) as session:
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(session.query, "Hi")
                    assert await said.receive() == "begun"
                    await trio.testing.wait_all_tasks_blocked()
                    scope.cancel()
            assert await said.receive() == "ended"


async def test_a_handshake_that_takes_too_long() -> None:
    """It is a ConnectTimeout, and the connection is closed."""
    async with silent_listener() as (address, said):
        host, _, port = address.partition(":")
        stream = await Network().connect_tcp(host, int(port))
        assert await said.receive() == "begun"
        with pytest.raises(httpcore.ConnectTimeout):
            await stream.start_tls(ssl.create_default_context(), host, timeout=0.0)
        assert await said.receive() == "ended"


async def test_nobody_listens() -> None:
    """A connection that cannot be made is a ConnectError."""
    port = int(faulty.unused_address().rpartition(":")[2])
    with pytest.raises(httpcore.ConnectError):
        await Network().connect_tcp("127.0.0.1", port)


# ---- one connection, by itself ------------------------------------------------------------------


@asynccontextmanager
async def pair() -> AsyncIterator[tuple[NetworkStream, trio.SocketStream]]:
    """Two ends of a TCP connection."""
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    with trio.fail_after(10):
        ours = await Network().connect_tcp("127.0.0.1", port)
        theirs = await listeners[0].accept()
        async with theirs, listeners[0]:
            yield ours, theirs
            await ours.aclose()


async def test_reads_wait_for_themselves_unless_parked() -> None:
    """An unparked read waits, for as long as it is told; one that is too slow loses nothing."""
    async with pair() as (ours, theirs):
        with pytest.raises(httpcore.ReadTimeout):
            await ours.read(10, timeout=0.0)
        await theirs.send_all(b"Hello")
        assert await ours.read(2, timeout=5.0) == b"He"
        assert await ours.read(10) == b"llo"
        await ours.write(b"Yes", timeout=5.0)
        assert await theirs.receive_some() == b"Yes"
        await theirs.aclose()
        with pytest.raises((httpcore.ReadError, httpcore.WriteError)):
            while True:
                await ours.write(b"x" * 1_000_000)


async def test_a_parked_read_pauses_where_it_stands() -> None:
    """It is filled from outside, by one task or another, and goes on where it stood."""
    async with pair() as (ours, theirs):
        pieces = []

        async def reading() -> None:
            while piece := await ours.read(10):
                pieces.append(piece)

        ours.park()
        hand = reading()
        assert not await until_hungry(hand)
        for word in (b"one", b"two"):
            with trio.CancelScope() as scope:  # loses nothing
                scope.cancel()
                await ours.fill()
            await theirs.send_all(word)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ours.fill)
            assert not await until_hungry(hand)
            assert not await until_hungry(hand)  # nothing new came
            assert pieces[-1] == word
        await theirs.send_eof()
        await ours.fill()
        assert await until_hungry(hand)
        ours.unpark()
        assert await ours.read(10) == b""


@pytest.mark.parametrize("how", ["broken off", "closed"])
async def test_a_parked_read_fails(how: str) -> None:
    """It fails when it is broken off, and when the connection is closed while it is filled."""
    async with pair() as (ours, _theirs):
        ours.park()
        hand = ours.read(10)
        assert not await until_hungry(hand)  # type: ignore[arg-type]
        if how == "broken off":
            ours.break_off()
        else:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ours.fill)
                await trio.testing.wait_all_tasks_blocked()
                await ours.aclose()
        with pytest.raises(httpcore.ReadError):
            await until_hungry(hand)  # type: ignore[arg-type]


async def test_what_it_waits_for_otherwise_is_trio_s() -> None:
    """A coroutine run by hand waits as in a task, and it is its own whether it is cancelled."""
    done = []

    async def working() -> None:
        await trio.lowlevel.checkpoint()
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            done.append("cancelled")
            raise
        finally:
            with trio.CancelScope(shield=True):
                await trio.lowlevel.checkpoint()
                done.append("cleaned up")

    async def run() -> None:
        await until_hungry(working())

    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
    assert done == ["cancelled", "cleaned up"]


async def test_whether_an_idle_connection_has_ended() -> None:
    """httpcore asks that, of a TLS connection too; of nothing else is anything known."""
    async with serving("tls", good("Yes"), good("Yes")) as server:
        host, port = server.base_url.removeprefix("https://").split(":")
        stream = await Network().connect_tcp(host, int(port))
        assert stream.get_extra_info("is_readable") is False
        assert stream.get_extra_info("ssl_object") is None
        secure = await stream.start_tls(ssl.create_default_context(), host)
        await secure.aclose()

    async with serving("tls", good("Yes"), good("Yes")) as server, session_with(server) as session:
        await session.query("Hi")
        await session.query("Hi")
        assert server.connections == 1
