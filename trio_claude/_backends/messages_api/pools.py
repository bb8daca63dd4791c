"""The ways to the service: httpcore's pools, one for each proxy that the environment names.

These are the engine of an httpx client, set up as httpx sets it up, without the client around it. That
one would keep cookies for sessions that have nothing to do with each other, merge settings that
there are not, and cost a tenth of a short turn. httpx itself is used for what it knows best: addresses,
proxies, certificates.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import urllib.request
from typing import TYPE_CHECKING, final

import httpcore
import httpx
import trio

from .network import Network

if TYPE_CHECKING:
    import ssl

# Idle connections, and their seconds, as httpx and the official client keep them.
_KEPT_CONNECTIONS = 100
_KEPT_SECONDS = 5.0

# For closing a socket, which waits for nobody; a bound all the same.
CLOSE_SECONDS = 5.0


@final
class Pools:
    """Pools of connections. The environment is read once, as by an httpx client.

    Args:
      max_connections: how many each of them has at most.

    Raises:
      ValueError, ImportError, OSError, httpx.InvalidURL: what the environment says of proxies and
        certificates cannot be used.
    """

    def __init__(self, max_connections: int) -> None:
        self._max_connections = max_connections
        self._ssl_context = _ssl_context()
        said = urllib.request.getproxies()
        self._direct = self._pool(None)
        self._by_proxy = {
            scheme: self._pool(_proxy(said[scheme]))
            for scheme in ("http", "https", "all")
            if said.get(scheme)
        }
        self._exceptions = [entry.strip().lower() for entry in said.get("no", "").split(",")]

    def _pool(self, proxy: httpcore.Proxy | None) -> httpcore.AsyncConnectionPool:
        kind = httpcore.AsyncConnectionPool if proxy is None else _ProxyPool
        return kind(
            ssl_context=self._ssl_context,
            proxy=proxy,
            max_connections=self._max_connections,
            max_keepalive_connections=_KEPT_CONNECTIONS,
            keepalive_expiry=_KEPT_SECONDS,
            network_backend=Network(),
        )

    def pool(self, url: httpx.URL) -> httpcore.AsyncConnectionPool:
        """The one for this address."""
        pool = self._by_proxy.get(url.scheme) or self._by_proxy.get("all")
        if pool is None or any(_is_excepted(url, entry) for entry in self._exceptions):
            return self._direct
        return pool

    async def aclose(self) -> None:
        """Close all connections."""
        for pool in (self._direct, *self._by_proxy.values()):
            await pool.aclose()


def _is_excepted(url: httpx.URL, entry: str) -> bool:
    """Whether an entry of NO_PROXY, in lower case, means this address: by curl's rules, as httpx
    reads them: a name means those below it, too, but not with a scheme before it."""
    if entry == "*":
        return True
    scheme, with_scheme, name = entry.rpartition("://")
    if scheme not in ("", "all", url.scheme):
        return False
    port = ""
    if name.count(":") == 1 or "]:" in name:
        name, _, port = name.rpartition(":")
    name = name.strip("[]").removeprefix("*").lstrip(".")
    host = url.raw_host.decode("ascii")
    same = host == name or (not with_scheme and host.endswith(f".{name}"))
    return bool(name) and same and port in ("", str(url.port))


def _ssl_context() -> ssl.SSLContext:
    """What httpx would make: the same one again until the environment names another file or
    folder, or that was written. To read the certificates takes as long as to start 300 sessions."""
    return _ssl_context_of(
        *(
            (path, os.stat(path).st_mtime_ns if path and os.path.exists(path) else None)
            for path in map(os.environ.get, ("SSL_CERT_FILE", "SSL_CERT_DIR"))
        )
    )


@functools.lru_cache(maxsize=4)
def _ssl_context_of(*_: object) -> ssl.SSLContext:
    return httpx.create_ssl_context()


def _proxy(url: str) -> httpcore.Proxy:
    proxy = httpx.Proxy(url if "://" in url else f"http://{url}")
    if proxy.url.scheme.startswith("socks") and importlib.util.find_spec("socksio") is None:
        raise ImportError("for a SOCKS proxy, install httpx[socks]")
    return httpcore.Proxy(core_url(proxy.url), auth=proxy.raw_auth)


def core_url(url: httpx.URL) -> httpcore.URL:
    """An address as httpcore takes it."""
    return httpcore.URL(
        scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path
    )


# ---- tunnels ------------------------------------------------------------------------------------


@final
class _ProxyPool(httpcore.AsyncConnectionPool):
    """A pool whose connections are not lost when they are never made.

    httpcore keeps a tunnel in the pool for ever, as busy, if TLS fails in it or is cancelled (seen
    with 1.0.9); after max_connections of those nobody gets a connection any more.
    """

    def create_connection(self, origin: httpcore.Origin) -> httpcore.AsyncConnectionInterface:
        """A connection by the proxy."""
        return _ProxyConnection(super().create_connection(origin))


@final
class _ProxyConnection(httpcore.AsyncConnectionInterface):
    """A connection that is closed if its first request fails."""

    def __init__(self, connection: httpcore.AsyncConnectionInterface) -> None:
        self._connection = connection
        self._made = False

    async def handle_async_request(self, request: httpcore.Request) -> httpcore.Response:
        try:
            response = await self._connection.handle_async_request(request)
        except BaseException:
            if not self._made:  # else another request may be in it
                with trio.move_on_after(CLOSE_SECONDS, shield=True):
                    await self._connection.aclose()
            raise
        self._made = True
        return response

    async def aclose(self) -> None:
        await self._connection.aclose()

    def can_handle_request(self, origin: httpcore.Origin) -> bool:
        return self._connection.can_handle_request(origin)

    def is_available(self) -> bool:
        return self._connection.is_available()

    def has_expired(self) -> bool:
        return self._connection.has_expired()

    def is_idle(self) -> bool:
        return self._connection.is_idle()

    def is_closed(self) -> bool:
        return self._connection.is_closed()
