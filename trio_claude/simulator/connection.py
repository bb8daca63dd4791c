"""One connection, served by hypercorn.

Not with hypercorn's own ``serve``: it sends under a shield, so that one client that has stopped
reading would keep it from ending. Here the connections are the simulator's, which closes them.

Hypercorn ends a connection that waits for its next request when it has waited too long, and not
before, even when the client has gone long ago. Here it never waits too long, so that no client
finds its connection closed under it; that the client has gone is told by a context of its own,
which says of this connection what hypercorn's says of the whole server: it is to end.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, cast

from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState

if TYPE_CHECKING:
    import logging
    from collections.abc import Awaitable, Callable

    import trio
    from hypercorn.typing import ASGIFramework


def connection_handler(
    app: ASGIFramework, logger: logging.Logger
) -> Callable[[trio.SocketStream], Awaitable[None]]:
    """What serves a connection until its client goes; the app finds the stream in its state."""
    config = Config()
    config.errorlog = logger
    config.include_server_header = False
    config.keep_alive_timeout = math.inf
    wrapped = ASGIWrapper(app)

    async def handle(stream: trio.SocketStream) -> None:
        context = WorkerContext(max_requests=None)
        state = ConnectionState({"connection": stream})
        watched = cast("Any", _WatchedStream(stream, context))
        await TCPServer(wrapped, config, context, state, watched).run()

    return handle


class _WatchedStream:
    """What hypercorn wants of a stream, with an eye on its end."""

    def __init__(self, stream: trio.SocketStream, context: WorkerContext) -> None:
        self.socket = stream.socket
        self.send_all = stream.send_all
        self.send_eof = stream.send_eof
        self.aclose = stream.aclose
        self._receive_some = stream.receive_some
        self._context = context

    async def receive_some(self, max_bytes: int) -> bytes:
        data = b""
        try:
            data = bytes(await self._receive_some(max_bytes))
        finally:
            if not data:
                await self._context.terminated.set()
        return data
