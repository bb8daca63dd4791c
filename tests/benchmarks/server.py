"""The server that the benchmark's clients stream from, in a process of its own.

``python -m tests.benchmarks.server`` prints its port and serves on loopback until its input ends.
It does little, so that the client is what is measured: one thread, one selector, bytes that are
made once. A stream gets its opening at once, and then waits for ``/go``, which the client sends
when all of its streams are open; from there on the server sends packets, tick by tick, and does
nothing else until the answers are out.
"""

from __future__ import annotations

import re
import selectors
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from .limits import raise_file_limit
from .wire import Plan

ROOT = Path(__file__).parents[2]
GO = b"POST /go HTTP/1.1\r\nContent-Length: 0\r\n\r\n"

# A client that does not read for so long has hung, and is given up.
_SECONDS = 30.0


@contextmanager
def serving() -> Iterator[str]:
    """Run a server in a process of its own; its address, as ``host:port``."""
    command = [sys.executable, "-m", "tests.benchmarks.server"]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield f"127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.stdin.close()
            process.wait(_SECONDS)


class _Server:
    """All connections, and the streams that wait for their packets."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._received: dict[socket.socket, bytes] = {}
        self._waiting: list[tuple[socket.socket, Plan]] = []

    def serve(self) -> None:
        """Print the port, and serve until the input ends."""
        with socket.create_server(("127.0.0.1", 0), backlog=4096) as listener:
            print(listener.getsockname()[1], flush=True)
            self._selector.register(listener, selectors.EVENT_READ)
            self._selector.register(sys.stdin, selectors.EVENT_READ)
            while True:
                for key, _ in self._selector.select():
                    if key.fileobj is sys.stdin:
                        return
                    if key.fileobj is listener:
                        self._accept(listener)
                    else:
                        assert isinstance(key.fileobj, socket.socket)
                        self._read(key.fileobj)

    def _accept(self, listener: socket.socket) -> None:
        client, _ = listener.accept()
        client.settimeout(_SECONDS)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._selector.register(client, selectors.EVENT_READ)
        self._received[client] = b""

    def _read(self, client: socket.socket) -> None:
        data = b""
        with suppress(OSError):
            data = client.recv(65536)
        if not data:
            self._forget(client)
            return
        received = self._received[client] + data
        head, end, body = received.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)^content-length: *(\d+)", head, re.MULTILINE)
        if not end or (length is not None and len(body) < int(length[1])):
            self._received[client] = received
            return
        self._received[client] = b""  # nobody here sends a request before the last one is answered
        self._answer(client, head.split(b" ", 2)[1].decode())

    def _answer(self, client: socket.socket, path: str) -> None:
        if path == "/go":
            self._send_all()
            return
        plan = Plan.of(path)
        if plan.tick == 0:
            self._write(client, _whole(plan))
        else:
            self._write(client, plan.opening())
            self._waiting.append((client, plan))

    def _send_all(self) -> None:
        streams, self._waiting = self._waiting, []
        (plan,) = {plan for _, plan in streams}
        for packet in (*plan.packets(), plan.closing()):
            began = time.perf_counter()
            for client, _ in streams:
                self._write(client, packet)
            # From when this one began, and none is made up for: they would run together.
            time.sleep(max(0.0, began + plan.tick / 1e6 - time.perf_counter()))

    def _write(self, client: socket.socket, data: bytes) -> None:
        with suppress(OSError):  # a client that went away: reading says so too
            client.sendall(data)

    def _forget(self, client: socket.socket) -> None:
        self._selector.unregister(client)
        del self._received[client]
        self._waiting = [stream for stream in self._waiting if stream[0] is not client]
        client.close()


@cache
def _whole(plan: Plan) -> bytes:
    return b"".join([plan.opening(), *plan.packets(), plan.closing()])


if __name__ == "__main__":
    raise_file_limit()
    _Server().serve()
