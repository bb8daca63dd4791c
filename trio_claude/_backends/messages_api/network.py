"""The network under httpcore: Trio's streams, read so that a reader may be cancelled.

httpcore closes a connection when a read of it is cancelled, whoever reads and whatever was lost by
it. So the reading of a body is a coroutine that nobody cancels. Where it would wait for bytes it
pauses, and stays as it is; the task that wants to receive waits for the bytes itself, by `fill`, and
then lets it run on (`until_hungry`). That waiting loses nothing when it is cancelled, may be
done by another task each time, and ends when the stream is closed. It is cheaper, too: a wait of
httpcore's own is a cancel scope, two context managers and seven frames on each piece.
"""

from __future__ import annotations

import contextlib
import math
import types
from typing import TYPE_CHECKING, Any, final

import httpcore
import trio

if TYPE_CHECKING:
    import ssl
    from collections.abc import Coroutine, Generator, Iterable, Iterator

# What one read of the socket takes at most, and so the most that waits for a slow reader.
READ_SIZE = 32 * 1024

_HUNGRY = object()


@types.coroutine
def _pause() -> Generator[object, None, None]:
    yield _HUNGRY


@types.coroutine
def until_hungry(reading: Coroutine[Any, Any, None]) -> Generator[Any, Any, bool]:
    """Let a coroutine run on until it needs bytes (False) or has ended (True).

    What else it waits for, such as a lock when it closes its connection, Trio gets to see.
    """
    value: Any = None
    while True:
        try:
            trap = reading.send(value)
        except StopIteration:
            return True
        if trap is _HUNGRY:
            return False
        value = yield trap


@final
class Network(httpcore.AsyncNetworkBackend):
    """Makes the connections."""

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's interface
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> NetworkStream:
        """Connect; httpcore never gives more than the first three arguments here."""
        with _translated(httpcore.ConnectTimeout, httpcore.ConnectError, timeout):
            return NetworkStream(await trio.open_tcp_stream(host, port))


@final
class NetworkStream(httpcore.AsyncNetworkStream):
    """One connection."""

    def __init__(self, stream: trio.SocketStream | trio.SSLStream[Any]) -> None:
        self._stream = stream
        self._parked = False
        self._came: bytes | bytearray | Exception | None = None

    # ---- for who receives a body ----------------------------------------------------------------

    def park(self) -> None:
        """From here on reads pause instead of waiting."""
        self._parked = True
        self._came = None

    def unpark(self) -> None:
        """From here on reads wait by themselves again."""
        self._parked = False

    async def fill(self) -> None:
        """Wait until there are bytes, or the end, for the read that has paused.

        Cancelling it loses nothing. A connection that breaks, or is closed meanwhile, is raised
        from that read.
        """
        try:
            self._came = await self._stream.receive_some(READ_SIZE)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            self._came = exc

    def break_off(self) -> None:
        """Let the read that has paused fail."""
        self._came = trio.ClosedResourceError("the answer is not wanted any more")

    # ---- for httpcore ---------------------------------------------------------------------------

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109
        """The next bytes, or ``b""`` at the end. No more than 32 KiB are asked for."""
        if not self._parked:
            with _translated(httpcore.ReadTimeout, httpcore.ReadError, timeout):
                return bytes(await self._stream.receive_some(min(max_bytes, READ_SIZE)))
        while self._came is None:
            await _pause()
        came, self._came = self._came, None
        if isinstance(came, Exception):
            raise httpcore.ReadError(came) from came
        return bytes(came)

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109
        """Send all of it."""
        with _translated(httpcore.WriteTimeout, httpcore.WriteError, timeout):
            await self._stream.send_all(buffer)

    async def aclose(self) -> None:
        """Close the connection; who waits in `fill` is woken."""
        await self._stream.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's interface
    ) -> NetworkStream:
        """Speak TLS from here on; through this or, for a proxy's sake, inside of its TLS."""
        stream = trio.SSLStream(
            self._stream, ssl_context, server_hostname=server_hostname, https_compatible=True
        )
        try:
            with _translated(httpcore.ConnectTimeout, httpcore.ConnectError, timeout):
                await stream.do_handshake()
        except BaseException:  # httpcore does not know the stream yet
            await trio.aclose_forcefully(self._stream)
            raise
        return NetworkStream(stream)

    def get_extra_info(self, info: str) -> Any:
        """What httpcore asks: whether an idle connection has something to read, such as its end."""
        if info != "is_readable":
            return None
        stream: Any = self._stream
        while isinstance(stream, trio.SSLStream):
            stream = stream.transport_stream
        return stream.socket.is_readable()


@contextlib.contextmanager
def _translated(
    too_slow: type[Exception], broken: type[Exception], timeout: float | None
) -> Iterator[None]:
    """Give it so many seconds, and turn Trio's errors into httpcore's."""
    try:
        with trio.fail_after(math.inf if timeout is None else timeout):
            yield
    except trio.TooSlowError as exc:
        raise too_slow(exc) from exc
    except (
        *(trio.BrokenResourceError, trio.ClosedResourceError, OSError),
        *(UnicodeError, OverflowError),  # a host or a port that no address can have
    ) as exc:
        raise broken(exc) from exc
