"""The simulator as users hold it, and the sockets under it."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, final

import trio

from .._errors import ConfigurationError
from .._nurseries import open_hidden_nursery
from .._session.context import current_run
from .._validation import is_count, is_name, is_seconds, is_token
from .app import MessagesApi, Responder, logger
from .replies import default_responder

if TYPE_CHECKING:
    from .faults import Hold
    from .requests import SimulatedRequest

_ConnectionHandler = Callable[[trio.SocketStream], Awaitable[None]]


@final
class Simulator:
    """A server that speaks the Messages API.

    Made by :func:`open_simulator`, never by hand.

    Its methods never block, and after its block they do nothing.
    """

    def __init__(self, api: MessagesApi, base_url: str) -> None:
        self._api = api
        self._base_url = base_url

    @property
    def base_url(self) -> str:
        """Where it listens, as a client wants it: ``http://127.0.0.1:49152``."""
        return self._base_url

    @property
    def requests(self) -> tuple[SimulatedRequest, ...]:
        """What came, oldest first: every request, refused ones too, and the last 10,000 of them."""
        return tuple(self._api.requests)

    def fail_next(
        self,
        status: int,
        *,
        retry_after: float | None = None,
        times: int = 1,
        after_events: int | None = None,
        path: str = "/v1/messages",
    ) -> None:
        """Let the next request fail, or the next ``times`` of them.

        It fails before its key or its body are looked at. Faults wait in line: the first one asked
        for comes first.

        Args:
            status: the HTTP status, 400 to 599; the error's type follows from it.
            retry_after: seconds to wait, for the header ``retry-after``, and where it is not whole
                ``retry-after-ms`` too.
            times: how many requests fail.
            after_events: with a number, a streamed answer begins with a 200 and ends after that
                many events (pings don't count) with an ``error`` event.
            path: only requests to this path fail. Not looked at with ``after_events``.

        Raises:
            ConfigurationError: an argument is not what it should be.
        """
        self._api.faults.fail(status, retry_after, times, after_events, path)

    def cut_next(self, after_events: int, *, times: int = 1, abruptly: bool = False) -> None:
        """Let the next streamed answer stop after ``after_events`` events, before its end.

        Pings don't count. The response ends cleanly, as if it were whole, or ``abruptly``: the
        connection is reset, with 0 before the response's headers.

        Raises:
            ConfigurationError: an argument is not what it should be.
        """
        self._api.faults.cut(after_events, times, abruptly=abruptly)

    def hold_next(
        self, *, after_events: int | None = None, ping_every: float | None = None
    ) -> Hold:
        """Let the next streamed answer stop in the middle, until it is released.

        Wait for its ``started``, then call its ``release()``. Its ``ended`` is set once the answer
        is over, or its client has gone. Leaving the simulator's block ends it in any case.

        Args:
            after_events: after how many events (pings don't count); after the first piece of text
                where not given.
            ping_every: seconds between the pings while it is held; none where not given.

        Raises:
            ConfigurationError: an argument is not what it should be.
        """
        return self._api.faults.hold(after_events, ping_every)

    def __repr__(self) -> str:
        return f"<trio_claude.simulator.Simulator at {self._base_url}>"


def open_simulator(
    responder: Responder | None = None,
    *,
    api_key: str | None = None,
    host: str = "127.0.0.1",
    port: int = 0,
    pace: float = 0.0,
) -> AbstractAsyncContextManager[Simulator]:
    """Open a server that speaks the Messages API on a real socket, for trying and testing.

    It accepts connections when the block begins. Leaving the block, also by a cancel or an
    exception, closes all of them at once, with answers in flight; your own exception leaves it as
    it was raised. Nothing is left behind.

    It checks requests as the service does, and answers from the conversation it is sent. Tokens
    are counted in words.

    Args:
        responder: what to answer: a sync or async callable that gets the decoded body of the
            request, and returns a text, a list of content blocks or a `Reply`. One that raises
            gives its client a 500, and a record in the log ``trio_claude.simulator``. Where not
            given: deterministic, "My favorite language is Python" is known later in the same
            conversation, and anything else is repeated in short.
        api_key: the key that is accepted, as ``x-api-key`` or as a bearer token; any where not
            given, but there must be one.
        host: the address to listen on.
        port: the port to listen on; 0 for a free one.
        pace: seconds between two events of a streamed answer.

    Raises:
        ConfigurationError: an argument is not what it should be.
        ModuleNotFoundError: hypercorn is not installed.
        OSError: the address is not there, or the port is taken.
        UsageError: entered outside of a Trio run.
    """
    if responder is not None and not callable(responder):
        raise ConfigurationError(f"responder must be callable, not {responder!r}")
    if api_key is not None and not is_token(api_key):
        raise ConfigurationError("api_key must be a text without spaces, and not empty")
    if not is_name(host):
        raise ConfigurationError(f"host must be a name or an address, not {host!r}")
    if not (is_count(port) and port <= 65535):
        raise ConfigurationError(f"port must be a number from 0 to 65535, not {port!r}")
    if not is_seconds(pace) or pace == math.inf:
        raise ConfigurationError(f"pace must be a number of seconds, at least 0, not {pace!r}")
    api = MessagesApi(responder or default_responder, api_key, pace)
    return _open(api, _connection_handler(api), host, port)


@asynccontextmanager
async def _open(
    api: MessagesApi, handle: _ConnectionHandler, host: str, port: int
) -> AsyncIterator[Simulator]:
    current_run()  # refuses whoever is in none
    listeners = await trio.open_tcp_listeners(port, host=host)
    address, port = listeners[0].socket.getsockname()[:2]
    base_url = f"http://[{address}]:{port}" if ":" in address else f"http://{address}:{port}"
    connections: set[trio.SocketStream] = set()

    async def serve_connection(stream: trio.SocketStream) -> None:
        connections.add(stream)
        try:
            await handle(stream)
        finally:
            connections.discard(stream)

    async with open_hidden_nursery() as nursery:
        await nursery.start(partial(trio.serve_listeners, serve_connection, listeners))
        try:
            yield Simulator(api, base_url)
        finally:
            for stream in connections:
                stream.socket.close()


def _connection_handler(api: MessagesApi) -> _ConnectionHandler:
    """What serves one connection; it is imported here because hypercorn is an extra."""
    try:
        from .connection import connection_handler
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "The simulator needs hypercorn: pip install 'trio-claude[simulator]'", name=error.name
        ) from error
    return connection_handler(api, logger)
