"""An HTTP server that does what it is told, right or wrong: a script for each request.

A script is an async function that is given an `Exchange` and plays whatever bytes it likes. The
first request gets the first script, the last script is played for all that follow. When a script
returns, the connection is closed, unless it says `exchange.keep = True`.
"""

import json
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import attrs
import trio


@attrs.frozen
class Received:
    """A request as it came."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any


@attrs.define
class Exchange:
    """One request, and the connection that waits for its answer."""

    request: Received
    stream: trio.SocketStream
    keep: bool = False

    async def send(self, *parts: bytes) -> None:
        """Send these bytes, in one piece."""
        await self.stream.send_all(b"".join(parts))

    async def send_bytewise(self, *parts: bytes) -> None:
        """Send these bytes one by one."""
        for byte in b"".join(parts):
            await self.stream.send_all(bytes([byte]))

    def reset(self) -> None:
        """Close the connection with a reset."""
        linger = struct.pack("ii", 1, 0)
        self.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.stream.socket.close()

    async def wait_closed(self) -> None:
        """Wait until the client has closed the connection."""
        try:
            while await self.stream.receive_some():
                raise AssertionError("a request came that nobody waited for")
        except trio.BrokenResourceError:
            pass


Script = Callable[[Exchange], Awaitable[None]]


@attrs.define
class FaultyServer:
    """What a test sees of the server."""

    base_url: str
    scripts: list[Script]
    requests: list[Received] = attrs.field(factory=list)
    connections: int = 0
    open_connections: int = 0
    all_closed: trio.Event = attrs.field(factory=trio.Event)

    async def serve(self, stream: trio.SocketStream) -> None:
        """Serve one connection."""
        self.connections += 1
        self.open_connections += 1
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            with trio.CancelScope() as scope:
                try:
                    await self._exchanges(stream)
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    scope.cancel()
                await stream.aclose()
        finally:
            self.open_connections -= 1
            if self.open_connections == 0:
                self.all_closed.set()
                self.all_closed = trio.Event()

    async def _exchanges(self, stream: trio.SocketStream) -> None:
        buffered = bytearray()
        while request := await _read_request(stream, buffered):
            self.requests.append(request)
            script = self.scripts.pop(0) if len(self.scripts) > 1 else self.scripts[0]
            exchange = Exchange(request, stream)
            await script(exchange)
            if not exchange.keep:
                return

    async def wait_all_closed(self) -> None:
        """Wait until no connection is open."""
        if self.open_connections:
            await self.all_closed.wait()


async def _read_request(stream: trio.SocketStream, buffered: bytearray) -> Received | None:
    while b"\r\n\r\n" not in buffered:
        data = await stream.receive_some()
        if not data:
            return None
        buffered += data
    head, _, rest = bytes(buffered).partition(b"\r\n\r\n")
    first, *lines = head.decode("ascii").split("\r\n")
    method, path, _version = first.split(" ")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    length = int(headers.get("content-length", "0"))
    while len(rest) < length:
        more = await stream.receive_some()
        if not more:
            return None
        rest += more
    buffered[:] = rest[length:]
    return Received(method, path, headers, json.loads(rest[:length] or b"null"))


@asynccontextmanager
async def open_faulty_server(*scripts: Script) -> AsyncIterator[FaultyServer]:
    """A server on loopback, which is gone when the block is left."""
    async with trio.open_nursery() as nursery:
        server = FaultyServer("", list(scripts))
        (listener,) = await nursery.start(
            partial(trio.serve_tcp, server.serve, 0, host="127.0.0.1")
        )
        server.base_url = f"http://127.0.0.1:{listener.socket.getsockname()[1]}"
        yield server
        nursery.cancel_scope.cancel()


def unused_address() -> str:
    """An address at which nobody listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{bound.getsockname()[1]}"


# ---- bytes to play ------------------------------------------------------------------------------


def head(status: int = 200, *, length: int | None = None, **headers: str) -> bytes:
    """The beginning of an answer; chunked where no length is given."""
    lines = [f"HTTP/1.1 {status} Whatever"]
    if length is None:
        lines.append("transfer-encoding: chunked")
    else:
        lines.append(f"content-length: {length}")
    headers.setdefault("content_type", "text/event-stream")
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode()


def chunk(*parts: bytes) -> bytes:
    """One chunk of a body."""
    data = b"".join(parts)
    return b"%x\r\n%b\r\n" % (len(data), data)


LAST_CHUNK = b"0\r\n\r\n"


def sse(payload: dict[str, Any]) -> bytes:
    """One event of the service."""
    return f"event: {payload['type']}\ndata: {json.dumps(payload)}\n\n".encode()


PING = sse({"type": "ping"})


def payloads(
    *texts: str, stop_reason: str | None = "end_turn", **message: Any
) -> list[dict[str, Any]]:
    """The events of a whole message with one block of text."""
    fields = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-test",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {"input_tokens": 10, "output_tokens": 1},
        **message,
    }
    return [
        {"type": "message_start", "message": fields},
        {
            "type": "content_block_start",
            "index": 0,
            "content_block": {"type": "text", "text": ""},
        },
        *(
            {
                "type": "content_block_delta",
                "index": 0,
                "delta": {"type": "text_delta", "text": text},
            }
            for text in texts
        ),
        {"type": "content_block_stop", "index": 0},
        {
            "type": "message_delta",
            "delta": {"stop_reason": stop_reason, "stop_sequence": None},
            "usage": {"output_tokens": 5},
        },
        {"type": "message_stop"},
    ]


def events(items: Iterable[dict[str, Any]]) -> bytes:
    """The events as a body."""
    return b"".join(map(sse, items))


def good(*texts: str, **message: Any) -> Script:
    """A script that answers well, and keeps the connection."""
    body = events(payloads(*texts, **message))

    async def play(exchange: Exchange) -> None:
        await exchange.send(head(), chunk(body), LAST_CHUNK)
        exchange.keep = True

    return play


def refuses(status: int, body: bytes | dict[str, Any] = b"", **headers: str) -> Script:
    """A script that answers with an error."""
    data = json.dumps(body).encode() if isinstance(body, dict) else body
    headers.setdefault("content_type", "application/json")

    async def play(exchange: Exchange) -> None:
        await exchange.send(head(status, length=len(data), **headers), data)
        exchange.keep = True

    return play


def plays(*parts: bytes) -> Script:
    """A script that sends these bytes and closes."""

    async def play(exchange: Exchange) -> None:
        await exchange.send(*parts)

    return play
