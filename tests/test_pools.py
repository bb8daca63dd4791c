"""The ways to the service: directly, or by the proxies that the environment names."""

from __future__ import annotations

import base64
import importlib.util
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import attrs
import httpx
import pytest
import trio

from trio_claude import (
    APIConnectionError,
    ConfigurationError,
    MessagesBackend,
    SessionHandle,
    TrioClaudeError,
    open_session,
)
from trio_claude._backends.messages_api.backend import MessagesConnection
from trio_claude._backends.messages_api.pools import Pools

from .faulty_server import Exchange, good
from .test_network import CA, serving

BACKEND = MessagesBackend()
SECRETS = ("nobody", "s3cret", base64.b64encode(b"nobody:s3cret").decode())


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An environment without proxies, in which the servers of these tests are trusted."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name == "REQUEST_METHOD":
            monkeypatch.delenv(name)
    CA.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))


@attrs.define
class Proxy:
    """A proxy on loopback."""

    address: str
    refuses: bytes = b""
    heads: list[str] = attrs.field(factory=list)
    """What was asked of it."""

    async def serve(self, stream: trio.SocketStream) -> None:
        """Serve one connection: pass on one request, or open a tunnel, and then just pass on."""
        data = b""
        while b"\r\n\r\n" not in data:
            more = await stream.receive_some()
            if not more:
                return
            data += more
        head, _, rest = data.partition(b"\r\n\r\n")
        self.heads.append(head.decode())
        if self.refuses:
            await stream.send_all(self.refuses)
            return
        method, target, _version = head.split(b"\r\n")[0].decode().split(" ")
        if method == "CONNECT":
            host, _, port = target.rpartition(":")
            first = b""
        else:
            url = httpx.URL(target)
            host, port = url.host, str(url.port)
            first = data.replace(target.encode(), url.raw_path, 1)
            rest = b""
        try:
            there = await trio.open_tcp_stream(host, int(port))
        except OSError:
            await stream.send_all(b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n")
            return
        if method == "CONNECT":
            await stream.send_all(b"HTTP/1.1 200 Connection established\r\n\r\n")
        async with there, trio.open_nursery() as nursery:
            await there.send_all(first + rest)
            nursery.start_soon(_pass_on, stream, there, nursery.cancel_scope)
            nursery.start_soon(_pass_on, there, stream, nursery.cancel_scope)


async def _pass_on(
    here: trio.SocketStream, there: trio.SocketStream, scope: trio.CancelScope
) -> None:
    try:
        async for data in here:
            await there.send_all(data)
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass
    scope.cancel()


@asynccontextmanager
async def open_proxy(refuses: bytes = b"") -> AsyncIterator[Proxy]:
    """A proxy, for no longer than 20 seconds."""
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            proxy = Proxy("", refuses)
            (listener,) = await nursery.start(
                partial(trio.serve_tcp, proxy.serve, 0, host="127.0.0.1")
            )
            proxy.address = f"127.0.0.1:{listener.socket.getsockname()[1]}"
            yield proxy
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def session_at(
    base_url: str, backend: MessagesBackend = BACKEND
) -> AsyncIterator[SessionHandle]:
    """A session that asks there."""
    async with open_session(
        backend=backend,
        base_url=base_url,
        api_key="sk-test",
        model="claude-test",
        max_tokens=10,
        max_retries=0,
    ) as session:
        yield session


# ---- by a proxy ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"])
@pytest.mark.parametrize("scheme", ["http://", ""])
async def test_a_forward_proxy(name: str, scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain HTTP goes by the proxy with its whole address; one connection serves many turns."""
    async with open_proxy() as proxy, serving("tcp", good("Yes")) as server:
        monkeypatch.setenv(name, f"{scheme}{proxy.address}")
        async with session_at(server.base_url) as session:
            for _ in range(2):
                assert (await session.query("Hi")).result == "Yes"
        (head,) = proxy.heads
        assert head.split()[:2] == ["POST", f"{server.base_url}/v1/messages"]
        assert "proxy-authorization" not in head.lower()
        assert (server.connections, len(server.requests)) == (1, 2)


@pytest.mark.parametrize("name", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY"])
async def test_a_tunnel(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """HTTPS goes through a tunnel, in which the proxy sees nothing; it serves many turns."""
    async with open_proxy() as proxy, serving("tls", good("Yes")) as server:
        monkeypatch.setenv(name, f"http://{proxy.address}")
        async with session_at(server.base_url) as session:
            for _ in range(2):
                assert (await session.query("Hi")).result == "Yes"
        (head,) = proxy.heads
        assert head.split()[:2] == ["CONNECT", server.base_url.removeprefix("https://")]
        assert "sk-test" not in head
        assert (server.connections, len(server.requests)) == (1, 2)


@pytest.mark.parametrize(
    ("way", "name"), [("tcp", "HTTPS_PROXY"), ("tls", "HTTP_PROXY"), ("tcp", "FTP_PROXY")]
)
async def test_a_proxy_for_something_else(
    way: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a proxy is not named for goes directly."""
    async with open_proxy() as proxy, serving(way, good("Yes")) as server:
        monkeypatch.setenv(name, f"http://{proxy.address}")
        async with session_at(server.base_url) as session:
            assert (await session.query("Hi")).result == "Yes"
        assert proxy.heads == []


@pytest.mark.parametrize("way", ["tcp", "tls"])
async def test_no_proxy(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What NO_PROXY names goes directly."""
    async with open_proxy() as proxy, serving(way, good("Yes")) as server:
        monkeypatch.setenv("ALL_PROXY", f"http://{proxy.address}")
        monkeypatch.setenv("NO_PROXY", "example.com, 127.0.0.1")
        async with session_at(server.base_url) as session:
            assert (await session.query("Hi")).result == "Yes"
        assert proxy.heads == []


@pytest.mark.parametrize("way", ["tcp", "tls"])
async def test_credentials(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy gets its credentials, decoded, and nobody else does."""
    async with open_proxy() as proxy, serving(way, good("Yes")) as server:
        monkeypatch.setenv("ALL_PROXY", f"http://no%62ody:s3cret@{proxy.address}")
        async with session_at(server.base_url) as session:
            assert (await session.query("Hi")).result == "Yes"
        assert f"proxy-authorization: basic {SECRETS[2]}".lower() in proxy.heads[0].lower()
        if way == "tls":
            assert "proxy-authorization" not in server.requests[0].headers


def words_of(error: BaseException | None) -> str:
    """Everything that is said of an error, and of what it came from."""
    said = []
    while error is not None:
        said += [str(error), repr(error), *getattr(error, "__notes__", ())]
        hidden = error.__suppress_context__
        error = error.__cause__ or (None if hidden else error.__context__)
    return "\n".join(said)


@pytest.mark.parametrize("way", ["tcp", "tls"])
@pytest.mark.parametrize("fault", ["refused", "denied", "broken"])
async def test_credentials_are_in_no_error(
    way: str, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What goes wrong with a proxy is our error, without the proxy's credentials."""
    answer = {
        "refused": b"",
        "denied": b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n",
        "broken": b"What?\r\n\r\n",
    }[fault]
    async with open_proxy(answer) as proxy:
        address = "127.0.0.1:1" if fault == "refused" else proxy.address
        monkeypatch.setenv("ALL_PROXY", f"http://nobody:s3cret@{address}")
        scheme = {"tcp": "http", "tls": "https"}[way]
        async with session_at(f"{scheme}://127.0.0.1:2") as session:
            for _ in range(2):
                with pytest.raises(TrioClaudeError) as caught:
                    await session.query("Hi")
                assert "407" in str(caught.value) or fault != "denied"
                assert not any(secret in words_of(caught.value) for secret in SECRETS)


async def test_failed_handshakes_in_a_tunnel_use_nothing_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With a pool of one connection, the second attempt doesn't wait for what the first one left."""
    monkeypatch.delenv("SSL_CERT_FILE")
    backend = MessagesBackend(max_connections=1, progress_timeout=2)
    async with open_proxy() as proxy, serving("tls", good("Yes")) as server:
        monkeypatch.setenv("ALL_PROXY", f"http://{proxy.address}")
        async with session_at(server.base_url, backend) as session:
            for _ in range(3):
                with pytest.raises(APIConnectionError, match="CERTIFICATE"):
                    await session.query("Hi")
        assert len(proxy.heads) == 3


async def test_a_tunnel_that_breaks_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next question makes a new one."""

    async def breaks(exchange: Exchange) -> None:
        """Answers nothing."""

    backend = MessagesBackend(max_connections=1, progress_timeout=2)
    async with open_proxy() as proxy, serving("tls", good("One"), breaks, good("Two")) as server:
        monkeypatch.setenv("ALL_PROXY", f"http://{proxy.address}")
        async with session_at(server.base_url, backend) as session:
            assert str(await session.query("Hi")) == "One"
            with pytest.raises(APIConnectionError):
                await session.query("Hi", max_retries=0)
            assert str(await session.query("Hi")) == "Two"


async def test_a_cancelled_handshake_in_a_tunnel_uses_nothing_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With a pool of one connection, a turn that is cancelled while TLS begins leaves it free."""
    backend = MessagesBackend(max_connections=1, progress_timeout=2)
    begun = trio.Event()
    closed = trio.Event()

    async def stalls(stream: trio.SocketStream) -> None:
        async for _ in stream:
            begun.set()
        closed.set()

    async with open_proxy() as proxy, serving("tls", good("Yes")) as server:
        monkeypatch.setenv("ALL_PROXY", f"http://{proxy.address}")
        async with trio.open_nursery() as nursery:
            (stalled,) = await nursery.start(partial(trio.serve_tcp, stalls, 0, host="127.0.0.1"))
            port = stalled.socket.getsockname()[1]
            async with session_at(server.base_url, backend) as session:
                with trio.CancelScope() as scope:
                    async with trio.open_nursery() as inner:
                        inner.start_soon(
                            partial(session.query, "Hi", base_url=f"https://127.0.0.1:{port}")
                        )
                        await begun.wait()
                        scope.cancel()
                await closed.wait()
                assert (await session.query("Hi")).result == "Yes"
            nursery.cancel_scope.cancel()


# ---- what cannot be -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "proxy",
    [
        "nonsense://nowhere",
        "socks4://127.0.0.1:1",
        "http://127.0.0.1:port",
        "http://nobody:s3cret@127.0.0.1:port",
        "http://nobody:s3cret@\x01",
        "http://nobody:pass/s3cret@127.0.0.1:1",
        "http://nobody:s3cret/@127.0.0.1:1",
        "ftp://nobody:s3cret@127.0.0.1",
    ],
)
async def test_a_proxy_that_cannot_be(proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Connecting refuses it, and says nothing of what is secret in it."""
    monkeypatch.setenv("HTTP_PROXY", proxy)
    with pytest.raises(ConfigurationError, match="HTTP_PROXY") as caught:
        async with BACKEND.connect():
            raise AssertionError("it must not connect")
    assert "s3cret" not in words_of(caught.value)


@pytest.mark.parametrize(
    "address", ["a" * 64 + ".example", "two..dots", "127.0.0.1:99999", "127.0.0.1:0"]
)
@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_proxy_s_address_that_cannot_be_connected_to(
    address: str, scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found out when connecting or when asking, it is our error, and the session lives."""
    monkeypatch.setenv("ALL_PROXY", f"http://{address}")
    with pytest.raises((ConfigurationError, APIConnectionError)):
        async with session_at(f"{scheme}://127.0.0.1:1") as session:
            await session.query("Hi")


@pytest.mark.parametrize("scheme", ["socks5", "socks5h"])
async def test_socks_without_its_library(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says what to install."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    monkeypatch.setenv("ALL_PROXY", f"{scheme}://127.0.0.1:1")
    with pytest.raises(ConfigurationError, match=r"httpx\[socks\]"):
        async with BACKEND.connect():
            raise AssertionError("it must not connect")


async def test_socks_with_its_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is httpcore's matter then."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: object())
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:1")
    async with BACKEND.connect() as connection:
        assert isinstance(connection, MessagesConnection)


def test_certificates_are_read_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Until their file is written anew, or the environment names another one."""

    def read() -> object:
        return Pools(1)._ssl_context

    first = read()
    assert read() is first
    os.utime(tmp_path / "ca.pem", ns=(1, 1))
    second = read()
    assert second is not first
    monkeypatch.delenv("SSL_CERT_FILE")
    assert read() is not second


async def test_certificates_that_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connecting refuses a file of certificates that does not exist."""
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere/ca.pem")
    with pytest.raises(ConfigurationError, match="SSL_CERT_FILE"):
        async with BACKEND.connect():
            raise AssertionError("it must not connect")


# ---- which proxy ---------------------------------------------------------------------------------

ADDRESSES = [
    "http://example.com",
    "https://example.com",
    "https://EXAMPLE.com",
    "https://example.com:8080/v1",
    "https://www.example.com",
    "http://notexample.com",
    "http://localhost:8000",
    "http://127.0.0.1",
    "http://127.0.0.1:8000",
    "http://[::1]:8000",
    "http://[::1]",
    "http://10.1.2.3",
]
THREE = {
    "HTTP_PROXY": "http://proxy:1",
    "HTTPS_PROXY": "http://proxy:2",
    "ALL_PROXY": "http://proxy:3",
}
NO_PROXIES = [
    "",
    ",",
    "*",
    " * ",
    "a,*",
    "localhost",
    "LOCALHOST",
    "example.com",
    "EXAMPLE.com",
    "www.example.com",
    "example.com:8080",
    "localhost, example.com ",
    "com",
    "ample.com",
    "127.0.0.1",
    "::1",
    "localhost,127.0.0.1,::1",
    "10.0.0.0/8",
    "http://example.com",
    "all://example.com",
]


def ports_by_us() -> list[int | None]:
    """By which proxy each address goes."""
    pools = Pools(1)
    proxies = [pools.pool(httpx.URL(address))._proxy for address in ADDRESSES]
    return [None if proxy is None else proxy.url.port for proxy in proxies]


def ports_by_httpx() -> list[int | None]:
    """By which one httpx would send it."""
    client = httpx.AsyncClient()
    ports = []
    for address in ADDRESSES:
        transport = client._transport_for_url(httpx.URL(address))
        assert isinstance(transport, httpx.AsyncHTTPTransport)
        url = getattr(transport._pool, "_proxy_url", None) or getattr(
            getattr(transport._pool, "_proxy", None), "url", None
        )
        ports.append(None if url is None else url.port)
    return ports


@pytest.mark.parametrize(
    "names",
    [
        {},
        {"HTTP_PROXY": "http://proxy:1"},
        {"HTTPS_PROXY": "http://proxy:2"},
        {"ALL_PROXY": "http://proxy:3"},
        {"HTTP_PROXY": "http://proxy:1", "ALL_PROXY": "http://proxy:3"},
        {"HTTP_PROXY": "http://proxy:5", "http_proxy": "http://proxy:1"},
        {"HTTP_PROXY": "http://proxy:5", "http_proxy": ""},
        {"HTTP_PROXY": "", "ALL_PROXY": "http://proxy:3"},
        {"HTTP_PROXY": "proxy:1"},
        {"HTTP_PROXY": "https://proxy:1"},
        {"HTTP_PROXY": "http://[::1]:1"},
        {"HTTP_PROXY": "http://proxy:1", "REQUEST_METHOD": "GET"},
        {"FTP_PROXY": "http://proxy:1"},
        *({**THREE, "NO_PROXY": no_proxy} for no_proxy in NO_PROXIES),
    ],
    ids=lambda names: names.get("NO_PROXY") if "NO_PROXY" in names else ",".join(names),
)
def test_the_environment_as_httpx_reads_it(
    names: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each address goes the way that an httpx client in the same environment would choose."""
    for name, value in names.items():
        monkeypatch.setenv(name, value)
    assert ports_by_us() == ports_by_httpx()


async def test_the_environment_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What changes after connecting changes nothing, as for an httpx client."""
    for name, value in THREE.items():
        monkeypatch.setenv(name, value)
    pools = Pools(1)
    url = httpx.URL("https://example.com")
    before = pools.pool(url)
    monkeypatch.setenv("NO_PROXY", "example.com")
    monkeypatch.delenv("HTTPS_PROXY")
    assert pools.pool(url) is before
