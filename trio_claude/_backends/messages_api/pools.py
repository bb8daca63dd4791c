"""The ways to the service: httpcore's pools, one for each proxy that the environment names.

These are the engine of an httpx client, set up as httpx sets it up, without the client around it. That
one would keep cookies for sessions that have nothing to do with each other, merge settings that
there are not, and cost as much again as the request (0.1 of 0.6 ms for a short turn). httpx itself is
used for what it knows best: addresses, proxies, certificates.
"""

from __future__ import annotations

import importlib.util
import urllib.request
from typing import final

import httpcore
import httpx

from .network import Network

# Idle connections, and their seconds, as httpx and the official client keep them.
_KEPT_CONNECTIONS = 100
_KEPT_SECONDS = 5.0


@final
class Pools:
    """Pools of connections.

    Args:
      max_connections: how many each of them has at most.

    Raises:
      ValueError, ImportError, OSError, httpx.InvalidURL: what the environment says of proxies and
        certificates cannot be used.
    """

    def __init__(self, max_connections: int) -> None:
        self._max_connections = max_connections
        self._ssl_context = httpx.create_ssl_context()
        self._direct = self._pool(None)
        self._by_proxy = {
            scheme: self._pool(_proxy(url))
            for scheme, url in urllib.request.getproxies().items()
            if scheme in ("http", "https", "all")
        }

    def _pool(self, proxy: httpcore.Proxy | None) -> httpcore.AsyncConnectionPool:
        return httpcore.AsyncConnectionPool(
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
        if pool is None or urllib.request.proxy_bypass(url.netloc.decode("ascii")):
            return self._direct
        return pool

    async def aclose(self) -> None:
        """Close all connections."""
        for pool in (self._direct, *self._by_proxy.values()):
            await pool.aclose()


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
