"""httpx's way to the network: httpcore's pools on a network of ours, and the environment's proxies.

httpx takes a transport, and httpcore takes a network, so both are used as they are meant to be. Only
what httpx does for its own transport alone is done here too: to look which proxy a request goes by.
"""

from __future__ import annotations

import importlib.util
import urllib.request
from collections.abc import AsyncIterable
from typing import TYPE_CHECKING, final

import httpcore
import httpx

from .network import Network

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@final
class Transport(httpx.AsyncBaseTransport):
    """One pool of connections for each way that leads to the service.

    Args:
      max_connections: how many each of them has at most.
      kept: how many idle ones it keeps.
      keepalive: for how many seconds.

    Raises:
      ValueError, ImportError, OSError, httpx.InvalidURL: what the environment says of proxies and
        certificates cannot be used.
    """

    def __init__(self, *, max_connections: int, kept: int, keepalive: float) -> None:
        self._max_connections = max_connections
        self._kept = kept
        self._keepalive = keepalive
        self._ssl_context = httpx.create_ssl_context()
        self._direct = self._pool(None)
        self._proxies = {
            scheme: self._pool(url)
            for scheme, url in urllib.request.getproxies().items()
            if scheme in ("http", "https", "all")
        }

    def _pool(self, proxy: str | None) -> httpcore.AsyncConnectionPool:
        return httpcore.AsyncConnectionPool(
            ssl_context=self._ssl_context,
            proxy=None if proxy is None else _proxy(proxy),
            max_connections=self._max_connections,
            max_keepalive_connections=self._kept,
            keepalive_expiry=self._keepalive,
            network_backend=Network(),
        )

    def _way(self, url: httpx.URL) -> httpcore.AsyncConnectionPool:
        proxy = self._proxies.get(url.scheme) or self._proxies.get("all")
        if proxy is None or urllib.request.proxy_bypass(url.netloc.decode("ascii")):
            return self._direct
        return proxy

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request; the response's body is still to be read.

        Raises:
          Exception: httpcore's own errors.
        """
        url = request.url
        response = await self._way(url).handle_async_request(
            httpcore.Request(
                request.method,
                httpcore.URL(
                    scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path
                ),
                headers=request.headers.raw,
                content=request.stream,
                extensions=request.extensions,
            )
        )
        return httpx.Response(
            response.status,
            headers=response.headers,
            stream=_Body(response),
            extensions=response.extensions,
        )

    async def aclose(self) -> None:
        """Close all connections."""
        for pool in (self._direct, *self._proxies.values()):
            await pool.aclose()


def _proxy(url: str) -> httpcore.Proxy:
    proxy = httpx.Proxy(url if "://" in url else f"http://{url}")
    if proxy.url.scheme.startswith("socks") and importlib.util.find_spec("socksio") is None:
        raise ImportError("for a SOCKS proxy, install httpx[socks]")
    return httpcore.Proxy(
        httpcore.URL(
            scheme=proxy.url.raw_scheme,
            host=proxy.url.raw_host,
            port=proxy.url.port,
            target=proxy.url.raw_path,
        ),
        auth=proxy.raw_auth,
    )


@final
class _Body(httpx.AsyncByteStream):
    """A response's body, as httpx wants it: it adds no layer of its own to each piece."""

    def __init__(self, response: httpcore.Response) -> None:
        self._response = response
        stream = response.stream
        assert isinstance(stream, AsyncIterable)
        self._stream = stream

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._stream.__aiter__()

    async def aclose(self) -> None:
        await self._response.aclose()
