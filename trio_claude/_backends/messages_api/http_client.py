"""The HTTP client: requests, and the bodies of their answers.

Everything that goes wrong below comes out as one of our errors. httpcore's pool loses a slot for
ever when a request is cancelled that waits for one (its issue 1093; seen on Trio). So nobody ever
waits there: a limiter of our own, as large as the pool, is held from before a request is sent until
its response is closed.

A body passes through three async generators of httpcore, one inside the other. They are read by
one coroutine that is run by hand (see `network`): it takes all pieces that the bytes from one read
of the socket make, and is ended by letting its next read fail, which closes them all in order.
Closing the outermost would leave the others to the garbage collector.
"""

from __future__ import annotations

import contextlib
import functools
import math
import ssl
from typing import TYPE_CHECKING, final

import httpcore
import httpx
import trio

from ..._errors import APIConnectionError, APIError, ConfigurationError
from ..._wire.api_errors import cut_short
from .gate import Gate
from .network import NetworkStream, until_hungry
from .pools import CLOSE_SECONDS, Pools, core_url

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

# For the last bytes of an answer of which all is known: they come at once, or it is not worth it.
_DRAIN_SECONDS = 0.5
_DRAIN_SIZE = 64 * 1024

# All that httpcore raises; it has no base for them.
_HTTPCORE_ERRORS = (
    httpcore.TimeoutException,
    httpcore.NetworkError,
    httpcore.ProtocolError,
    httpcore.ProxyError,
    httpcore.UnsupportedProtocol,
)


@functools.lru_cache(maxsize=64)
def _address(url: str) -> tuple[httpx.URL, str]:
    """An address, and its host as messages call it: nothing of that is secret.

    Raises:
      ConfigurationError: it is none.
    """
    try:
        parsed = httpx.URL(url)
        if ":" not in parsed.host:
            parsed.host.encode("idna")  # as the look-up will, outside of any error handling
    except (httpx.InvalidURL, UnicodeError) as exc:
        raise ConfigurationError(f"base_url is not a valid address: {exc}") from exc
    host = parsed.host if parsed.port is None else f"{parsed.host}:{parsed.port}"
    return parsed, host


@final
class Response:
    """An answer whose body is being received. It holds a slot of the pool until it is closed."""

    status: int
    headers: Mapping[str, str]
    """Their names in lower case."""

    host: str

    def __init__(
        self,
        response: httpcore.Response,
        host: str,
        idle_timeout: float,
        limiter: trio.CapacityLimiter,
        slot: object,
    ) -> None:
        self.status = response.status
        self.headers = _headers(response)
        self.host = host
        self._response = response
        network = response.extensions["network_stream"]
        assert isinstance(network, NetworkStream)
        self._network = network
        self._idle_timeout = idle_timeout
        self._limiter = limiter
        self._slot = slot
        self._pieces: list[bytes] = []
        self._reading = self._read()
        self._hungry = False
        self._ended = False
        self._closed = False
        self._failure: APIError | None = None
        network.park()

    async def _read(self) -> None:
        # The one loop over the pieces: in it, each costs what httpcore and h11 do, and an append.
        async for piece in self._response.stream:  # type: ignore[union-attr]  # it is async
            self._pieces.append(piece)

    async def receive_some(self, patience: float = math.inf) -> bytes:
        """All bytes of the body that have come, or ``b""`` at its end; waits if there are none.

        No more than 32 KiB at a time, in which the connection's own are counted. Cancelling it
        loses nothing, but two tasks must not wait here at once.

        Args:
          patience: seconds to wait at most, if that is less than the idle timeout.

        Raises:
          StreamInterrupted: the connection broke, or was silent for the idle timeout.
          trio.TooSlowError: patience is at an end; nothing was lost.
          trio.ClosedResourceError: the response has been closed, meanwhile or before.
        """
        while not self._pieces:
            if self._hungry:
                await self._fill(patience)
            if self._closed:
                raise trio.ClosedResourceError("this answer was closed: its turn is over")
            if self._failure is not None:
                raise self._failure
            if self._ended:
                return b""
            await self._run()
        data = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces.clear()
        return data

    async def _fill(self, patience: float) -> None:
        # No fail_after: it is a generator more, on each packet.
        with trio.move_on_after(min(patience, self._idle_timeout)) as scope:
            await self._network.fill()
        if scope.cancelled_caught:
            if patience < self._idle_timeout:
                raise trio.TooSlowError
            self._failure = cut_short(self.host, _SILENT)
        self._hungry = False

    async def _run(self) -> None:
        self._ended = True  # while it runs, nobody else may run it
        try:
            self._ended = await until_hungry(self._reading)
        except _HTTPCORE_ERRORS as exc:
            # To be raised after the pieces that came before it.
            self._failure = cut_short(self.host, _why(exc))
            self._failure.__cause__ = exc
        self._hungry = not self._ended

    async def receive_into(self, body: bytearray, max_size: int) -> None:
        """The rest of the body, as far as ``body`` is no larger than ``max_size``.

        What came before an error or a cancellation is in ``body`` too.
        """
        while len(body) <= max_size and (data := await self.receive_some()):
            body += data

    async def drain(self) -> None:
        """Receive what is left, if it comes at once, so that the connection can be used again."""
        if self._ended:  # as a rule
            return
        with contextlib.suppress(APIError), trio.move_on_after(_DRAIN_SECONDS):
            await self.receive_into(bytearray(), _DRAIN_SIZE)

    async def aclose(self) -> None:
        """Let go of the connection: at once, however much of the body is still to come.

        To be called once. Another task that waits in `receive_some` gets ClosedResourceError.
        """
        self._closed = True
        try:
            if not self._ended:
                self._network.break_off()
                with (
                    trio.move_on_after(CLOSE_SECONDS, shield=True),
                    contextlib.suppress(*_HTTPCORE_ERRORS),
                ):
                    await until_hungry(self._reading)
            self._network.unpark()
            await self._response.aclose()  # which httpcore shields itself
        finally:
            self._limiter.release_on_behalf_of(self._slot)


@final
class _Body:
    """What a request sends, in one piece. No async generator: nobody would close it."""

    def __init__(self, data: bytes) -> None:
        self._left = [data]

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if not self._left:
            raise StopAsyncIteration
        return self._left.pop()


@final
class HTTPClient:
    """A pool of connections; made by `open_http_client`."""

    def __init__(
        self,
        pools: Pools,
        limiter: trio.CapacityLimiter,
        *,
        connect_timeout: float,
        idle_timeout: float,
        progress_timeout: float,
    ) -> None:
        self.gate = Gate()
        """What the service has asked all of us to wait for."""
        self._pools = pools
        self._limiter = limiter
        self._idle_timeout = idle_timeout
        self._progress_timeout = progress_timeout
        self._extensions = {
            "timeout": {"connect": connect_timeout, "read": idle_timeout, "write": idle_timeout}
        }

    def check_address(self, url: str) -> None:
        """Refuse what is no address.

        Raises:
          ConfigurationError: it is none.
        """
        _address(url)

    async def send(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes = b""
    ) -> Response:
        """Send a request, and receive the beginning of the answer. Waits for a free connection.

        If it is cancelled, the connection is closed.

        Raises:
          APIConnectionError: there was no answer.
          ConfigurationError: the request cannot be sent as it is.
        """
        address, host = _address(url)
        fields = {
            "host": address.netloc.decode("ascii"),
            "content-length": str(len(body)),
            **headers,
        }
        request = httpcore.Request(
            method,
            core_url(address),
            headers=list(fields.items()),
            content=_Body(body),
            extensions=self._extensions,
        )
        slot = object()  # not the task: another one may read on, or close
        await self._limiter.acquire_on_behalf_of(slot)
        try:
            with trio.move_on_after(self._progress_timeout):
                response = await self._pools.pool(address).handle_async_request(request)
                return Response(response, host, self._idle_timeout, self._limiter, slot)
            raise APIConnectionError(
                f"no answer from {host}: it did not begin within the progress_timeout"
            )
        except BaseException as exc:
            self._limiter.release_on_behalf_of(slot)
            if isinstance(exc, httpcore.LocalProtocolError):
                # Not `from` it: it quotes the header that it refuses, which may be the key.
                raise ConfigurationError(
                    "extra_headers: a request with them cannot be sent"
                ) from None
            if isinstance(exc, _HTTPCORE_ERRORS):
                raise APIConnectionError(f"no answer from {host}: {_why(exc)}") from exc
            raise


@contextlib.asynccontextmanager
async def open_http_client(
    *,
    connect_timeout: float,
    idle_timeout: float,
    progress_timeout: float,
    max_connections: int,
) -> AsyncIterator[HTTPClient]:
    """A pool of connections, closed when the block is left.

    Args:
      connect_timeout: seconds for a connection to be made.
      idle_timeout: seconds without a byte, before and in an answer, after which it is given up.
      progress_timeout: seconds for an answer to begin.
      max_connections: how many requests can be under way; further ones wait.

    Raises:
      ConfigurationError: what the environment says of proxies and certificates cannot be used.
    """
    try:
        pools = Pools(max_connections)
    except httpx.InvalidURL:  # not `from` it: it quotes what it takes for a port, a password maybe
        raise ConfigurationError(
            "the environment's proxies (HTTP_PROXY, HTTPS_PROXY, ALL_PROXY) cannot be used: one of "
            "them is no address"
        ) from None
    except (ValueError, ImportError, OSError) as exc:
        raise ConfigurationError(
            "the environment's settings for HTTP (HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, "
            f"SSL_CERT_FILE, SSL_CERT_DIR) cannot be used: {exc}"
        ) from exc
    try:
        yield HTTPClient(
            pools,
            trio.CapacityLimiter(max_connections),
            connect_timeout=connect_timeout,
            idle_timeout=idle_timeout,
            progress_timeout=progress_timeout,
        )
    finally:
        await pools.aclose()


def _headers(response: httpcore.Response) -> dict[str, str]:
    headers: dict[str, str] = {}
    for raw_name, raw_value in response.headers:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


def _why(exc: BaseException) -> str:
    """What went wrong, in words."""
    return _TIMEOUTS.get(type(exc)) or _first_words(exc) or type(exc).__name__


def _first_words(exc: BaseException) -> str:
    """What the error says or, where it is silent as for TLS, the first of those it came from."""
    link: BaseException | None = exc
    while link is not None:
        if str(link):
            hint = "; set SSL_CERT_FILE" * isinstance(link, ssl.SSLCertVerificationError)
            return f"{link}{hint}"
        link = link.__cause__ or link.__context__
    return ""


_SILENT = "nothing came for as long as the idle_timeout allows"

_TIMEOUTS: dict[type[BaseException], str] = {
    httpcore.ConnectTimeout: "it could not be connected to within the connect_timeout",
    httpcore.ReadTimeout: _SILENT,
    httpcore.WriteTimeout: "it took nothing for as long as the idle_timeout allows",
}
