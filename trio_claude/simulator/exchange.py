"""One request and its answer, in the words of ASGI: what `app` says, put on the wire."""

from __future__ import annotations

import math
import socket
import struct
from typing import TYPE_CHECKING

from .replies import Event, encode_event, encode_json

if TYPE_CHECKING:
    from collections.abc import Iterable

    import trio
    from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable, HTTPScope

MAX_BODY = 32 * 1024 * 1024
"""The size of the largest request, in bytes: the service's own limit."""

_PING: Event = {"type": "ping"}


class ClientGone(Exception):
    """The client went away before its request was whole."""


class Exchange:
    """One request and its response."""

    def __init__(
        self,
        scope: HTTPScope,
        receive: ASGIReceiveCallable,
        send: ASGISendCallable,
        request_id: str,
    ) -> None:
        self._receive = receive
        self._send = send
        self._connection: trio.SocketStream = scope["state"]["connection"]
        self.request_id = request_id
        self.is_ending = False

    async def read_body(self) -> bytes | None:
        """The whole body, or None when it is larger than `MAX_BODY`; all of it is read anyway.

        A client that is still writing would not see the answer.

        Raises:
            ClientGone: the connection ended in the middle of it.
        """
        parts: list[bytes] = []
        size = 0
        while True:
            message = await self._receive()
            if message["type"] != "http.request":
                raise ClientGone
            size += len(message["body"])
            if size > MAX_BODY:
                parts.clear()
            else:
                parts.append(message["body"])
            if not message["more_body"]:
                return b"".join(parts) if size <= MAX_BODY else None

    async def wait_client_gone(self) -> None:
        """Wait until the client has closed its side, or has been answered."""
        await self._receive()  # after the body there is but one message: http.disconnect

    async def answer(
        self, status: int, value: object, headers: Iterable[tuple[str, str]] = ()
    ) -> None:
        """Answer with JSON."""
        body = encode_json(value)
        length = ("content-length", str(len(body)))
        await self._start(status, "application/json", [length, *headers])
        await self._body(body, more=False)

    async def start_stream(self, headers: Iterable[tuple[str, str]] = ()) -> None:
        """Answer 200, and that events follow."""
        await self._start(
            200, "text/event-stream; charset=utf-8", [("cache-control", "no-cache"), *headers]
        )

    async def event(self, event: Event) -> None:
        """Send one event, in a message of its own."""
        await self._body(encode_event(event), more=True)

    async def ping(self) -> None:
        """Send an event that says nothing."""
        await self.event(_PING)

    async def end_stream(self) -> None:
        """End the stream as HTTP wants it ended."""
        await self._body(b"", more=False)

    def drop(self) -> None:
        """Break the connection: the client sees it reset. What was sent before still arrives."""
        # Lingering for 0 seconds is how TCP spells a reset.
        self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._connection.socket.close()

    async def _start(
        self, status: int, content_type: str, headers: Iterable[tuple[str, str]]
    ) -> None:
        named = [("content-type", content_type), ("request-id", self.request_id), *headers]
        await self._send(
            {
                "type": "http.response.start",
                "status": status,
                "headers": [(name.encode(), value.encode()) for name, value in named],
            }
        )

    async def _body(self, body: bytes, *, more: bool) -> None:
        # From here on a client that goes is no news: the server itself says it is gone.
        self.is_ending = not more
        await self._send({"type": "http.response.body", "body": body, "more_body": more})


def retry_headers(retry_after: float | None) -> list[tuple[str, str]]:
    """When to try again: ``retry-after`` in whole seconds, ``-ms`` too where that rounds."""
    if retry_after is None:
        return []
    headers = [("retry-after", str(math.ceil(retry_after)))]
    if retry_after != int(retry_after):
        headers.append(("retry-after-ms", f"{retry_after * 1000:g}"))
    return headers
