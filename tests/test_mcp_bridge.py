"""Servers of mcp in this process: real ones, spoken to as the claude program does it."""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing
from mcp import types
from mcp.server import MCPServer, Server, ServerRequestContext
from mcp.server.mcpserver import Context

from trio_claude import ConfigurationError, ProtocolError
from trio_claude._backends.claude_cli.mcp_bridge import InProcessServer

INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
CLOSED = -32000
CANCELLED = -32800

CLIENT = {
    "protocolVersion": "2025-06-18",
    "capabilities": {"sampling": {}, "elicitation": {}, "roots": {}},
    "clientInfo": {"name": "claude-code", "version": "2.1.330"},
}


def request(id_: object, method: str, **params: object) -> dict[str, Any]:
    """A request, as the program writes it."""
    return {"jsonrpc": "2.0", "id": id_, "method": method, "params": params}


def notification(method: str, **params: object) -> dict[str, Any]:
    """A notification, likewise."""
    return {"jsonrpc": "2.0", "method": method, "params": params}


def call(id_: object, tool: str, **arguments: object) -> dict[str, Any]:
    """A request to call a tool."""
    return request(id_, "tools/call", name=tool, arguments=arguments)


@asynccontextmanager
async def serving(server: object, *, handshake: bool = True) -> AsyncIterator[InProcessServer]:
    """Have it served while this is open, with the program's handshake done."""
    bridge = InProcessServer("tools", server)
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bridge.serve)
            if handshake:
                await shake_hands(bridge)
            yield bridge
            nursery.cancel_scope.cancel()


async def shake_hands(bridge: InProcessServer, id_: int = 0) -> Mapping[str, Any]:
    """What the program does first."""
    answer = await bridge.handle(request(id_, "initialize", **CLIENT))
    assert answer is not None
    assert (answer["jsonrpc"], answer["id"]) == ("2.0", id_)
    assert await bridge.handle(notification("notifications/initialized")) is None
    result: Mapping[str, Any] = answer["result"]
    return result


async def result(bridge: InProcessServer, message: Mapping[str, Any]) -> Any:
    """The result of a request that must not fail."""
    answer = await bridge.handle(message)
    assert answer is not None
    assert answer["id"] == message["id"]
    return answer["result"]


async def error_code(bridge: InProcessServer, message: Mapping[str, Any]) -> tuple[object, int]:
    """The id and the code of an error response."""
    answer = await bridge.handle(message)
    assert answer is not None
    assert answer["jsonrpc"] == "2.0"
    assert answer["error"]["message"]
    return answer["id"], answer["error"]["code"]


class Workshop:
    """A high-level server whose tools can be watched."""

    def __init__(self) -> None:
        self.server = MCPServer("workshop")
        self.started: list[int] = []
        self.cancelled: list[int] = []
        self.go_on = {n: trio.Event() for n in range(10)}
        self.server.tool()(self.add)
        self.server.tool()(self.wait)
        self.server.tool()(self.break_down)

    def add(self, a: int, b: int) -> int:
        """Add two numbers."""
        return a + b

    async def wait(self, n: int) -> str:
        """Wait until told to go on."""
        self.started.append(n)
        try:
            await self.go_on[n].wait()
        except trio.Cancelled:
            self.cancelled.append(n)
            raise
        return f"waited {n}"

    async def break_down(self) -> str:
        """Fail."""
        raise RuntimeError("the saw is blunt")


async def test_a_high_level_server() -> None:
    """The program's handshake, the list of tools, and a call with its structured result."""
    async with serving(Workshop().server, handshake=False) as bridge:
        hello = await shake_hands(bridge)
        assert hello["serverInfo"]["name"] == "workshop"
        assert hello["protocolVersion"] == "2025-06-18"
        tools = (await result(bridge, request(1, "tools/list")))["tools"]
        assert ["add", "wait", "break_down"] == [tool["name"] for tool in tools]
        assert tools[0]["inputSchema"]["required"] == ["a", "b"]
        answer = await result(bridge, call("two", "add", a=2, b=3))
        assert answer["content"] == [{"type": "text", "text": "5"}]
        assert answer["structuredContent"] == {"result": 5}
        assert not answer["isError"]


async def test_a_low_level_server() -> None:
    """Its handlers are called, and a null in what a tool returns arrives as one."""

    async def list_tools(
        context: ServerRequestContext[Any], params: types.PaginatedRequestParams | None
    ) -> types.ListToolsResult:
        tool = types.Tool(name="look", input_schema={"type": "object"})
        return types.ListToolsResult(tools=[tool])

    async def call_tool(
        context: ServerRequestContext[Any], params: types.CallToolRequestParams
    ) -> types.CallToolResult:
        text = types.TextContent(type="text", text=params.name)
        return types.CallToolResult(content=[text], structured_content={"found": None})

    server = Server("low", on_list_tools=list_tools, on_call_tool=call_tool)
    async with serving(server) as bridge:
        tools = await result(bridge, request(1, "tools/list"))
        assert [tool["name"] for tool in tools["tools"]] == ["look"]
        answer = await result(bridge, call(2, "look"))
        assert answer["content"][0]["text"] == "look"
        assert answer["structuredContent"] == {"found": None}


async def test_a_low_level_handler_that_raises() -> None:
    """It is an error response, without members that the server did not set."""

    async def list_tools(
        context: ServerRequestContext[Any], params: types.PaginatedRequestParams | None
    ) -> types.ListToolsResult:
        raise RuntimeError("no tools today")

    async with serving(Server("low", on_list_tools=list_tools)) as bridge:
        answer = await bridge.handle(request(1, "tools/list"))
        assert answer is not None
        assert {"jsonrpc", "id", "error"} == set(answer)
        assert {"code", "message"} == set(answer["error"])
        assert {} == await result(bridge, request(2, "ping"))


async def test_two_calls_at_once_in_the_other_order() -> None:
    """Each caller gets the answer to its own request, whichever comes first."""
    workshop = Workshop()
    answers: list[tuple[int, str]] = []

    async def ask(bridge: InProcessServer, n: int) -> None:
        answer = await result(bridge, call(n, "wait", n=n))
        answers.append((n, answer["content"][0]["text"]))

    async with serving(workshop.server) as bridge:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, bridge, 1)
            nursery.start_soon(ask, bridge, 2)
            await trio.testing.wait_all_tasks_blocked()
            assert {1, 2} == set(workshop.started)
            workshop.go_on[2].set()
            await trio.testing.wait_all_tasks_blocked()
            assert [(2, "waited 2")] == answers
            workshop.go_on[1].set()
        assert [(2, "waited 2"), (1, "waited 1")] == answers


async def test_a_tool_that_raises() -> None:
    """It is an error result, which the model sees, and the server goes on."""
    async with serving(Workshop().server) as bridge:
        answer = await result(bridge, call(1, "break_down"))
        assert answer["isError"]
        assert "break_down" in answer["content"][0]["text"]
        assert not (await result(bridge, call(2, "add", a=1, b=1)))["isError"]


async def test_cancelling_a_call_cancels_the_tool() -> None:
    """The server is told; its id is free at once; other calls go on."""
    workshop = Workshop()
    async with serving(workshop.server) as bridge:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bridge.handle, call(1, "wait", n=1))
            async with trio.open_nursery() as inner:
                inner.start_soon(bridge.handle, call(2, "wait", n=2))
                await trio.testing.wait_all_tasks_blocked()
                inner.cancel_scope.cancel()
            answer = await result(bridge, call(2, "add", a=1, b=1))
            assert answer["structuredContent"] == {"result": 2}
            await trio.testing.wait_all_tasks_blocked()
            assert [2] == workshop.cancelled
            workshop.go_on[1].set()
        assert [2] == workshop.cancelled


async def test_a_call_cancelled_before_the_server_has_seen_it() -> None:
    """The tool does not run on, if it ran at all, and the id is free."""
    workshop = Workshop()
    bridge = InProcessServer("tools", workshop.server)
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bridge.handle, request(0, "initialize", **CLIENT))
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(bridge.handle, call(1, "wait", n=1))
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bridge.serve)
            assert {} == await result(bridge, request(1, "ping"))
            await trio.testing.wait_all_tasks_blocked()
            assert workshop.started == workshop.cancelled
            nursery.cancel_scope.cancel()


async def test_a_tool_that_outlives_its_cancellation() -> None:
    """The id can be used meanwhile, and what the first tool returns is not taken for the second's."""
    server = MCPServer("slow")
    started, let_go, finished = trio.Event(), trio.Event(), trio.Event()

    @server.tool()
    async def stubborn() -> str:
        started.set()
        with trio.CancelScope(shield=True):
            await let_go.wait()
        finished.set()
        return "too late"

    @server.tool()
    async def quick() -> str:
        let_go.set()
        await finished.wait()
        return "in time"

    async with serving(server) as bridge:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bridge.handle, call(1, "stubborn"))
            await started.wait()
            nursery.cancel_scope.cancel()
        answer = await result(bridge, call(1, "quick"))
        assert answer["content"][0]["text"] == "in time"


async def test_the_program_cancels_by_a_notification() -> None:
    """The tool is cancelled and the request answered; an id that is not in flight is no matter."""
    workshop = Workshop()
    codes: list[tuple[object, int]] = []

    async def ask(bridge: InProcessServer) -> None:
        codes.append(await error_code(bridge, call("a", "wait", n=1)))

    async with serving(workshop.server) as bridge:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, bridge)
            await trio.testing.wait_all_tasks_blocked()
            for params in ({"requestId": "b"}, {"requestId": ["a"]}, {}):
                await bridge.handle(notification("notifications/cancelled", **params))
            await bridge.handle({**notification("notifications/cancelled"), "params": []})
            await trio.testing.wait_all_tasks_blocked()
            assert [] == workshop.cancelled
            cancel = notification("notifications/cancelled", requestId="a")
            assert await bridge.handle(cancel) is None
        await trio.testing.wait_all_tasks_blocked()
        assert [("a", CANCELLED)] == codes
        assert [1] == workshop.cancelled


async def test_an_id_that_is_in_flight() -> None:
    """The second request is refused, the first answered; then the id can be used again."""
    workshop = Workshop()
    answers: list[Any] = []

    async def ask(bridge: InProcessServer) -> None:
        answers.append(await result(bridge, call(1, "wait", n=1)))

    async with serving(workshop.server) as bridge:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, bridge)
            await trio.testing.wait_all_tasks_blocked()
            assert (1, INVALID_REQUEST) == await error_code(bridge, call(1, "wait", n=2))
            workshop.go_on[1].set()
        assert answers[0]["content"][0]["text"] == "waited 1"
        assert [1] == workshop.started
        assert (await result(bridge, call(1, "add", a=1, b=1)))["structuredContent"]


async def test_a_request_before_it_is_served() -> None:
    """It waits for serve()."""
    bridge = InProcessServer("tools", Workshop().server)
    hello: list[Mapping[str, Any]] = []

    async def greet() -> None:
        hello.append(await shake_hands(bridge))

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(greet)
            await trio.testing.wait_all_tasks_blocked()
            assert [] == hello
            nursery.start_soon(bridge.serve)
            await trio.testing.wait_all_tasks_blocked()
            assert "workshop" == hello[0]["serverInfo"]["name"]
            nursery.cancel_scope.cancel()


async def test_the_handshake_comes_first_and_may_come_again() -> None:
    """A request before it is refused by mcp itself; a second one on the live connection works."""
    workshop = Workshop()
    async with serving(workshop.server, handshake=False) as bridge:
        assert (1, -32602) == await error_code(bridge, request(1, "tools/list"))
        first = await shake_hands(bridge, 2)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bridge.handle, call(3, "wait", n=3))
            await trio.testing.wait_all_tasks_blocked()
            assert first == await shake_hands(bridge, 4)
            assert (await result(bridge, request(5, "tools/list")))["tools"]
            workshop.go_on[3].set()
        assert [] == workshop.cancelled


async def test_methods_that_there_are_not() -> None:
    """An unknown request is refused by mcp itself; an unknown notification is dropped."""
    async with serving(Workshop().server) as bridge:
        assert (1, METHOD_NOT_FOUND) == await error_code(bridge, request(1, "tools/polish"))
        with trio.testing.assert_checkpoints():
            assert await bridge.handle(notification("notifications/polished")) is None
        assert {} == await result(bridge, request(2, "ping"))


@pytest.mark.parametrize(
    ("message", "id_"),
    [
        ({}, None),
        ({"method": "ping"}, None),
        ({"jsonrpc": "2.0", "method": 7}, None),
        ({"jsonrpc": "2.0", "id": 1}, 1),
        ({"jsonrpc": "2.0", "id": 1, "method": 7, "result": {}, "error": {}}, 1),
        ({"jsonrpc": "2.0", "id": 1, "method": "ping", "params": ["?"]}, 1),
        ({"jsonrpc": "2.0", "id": True, "method": "ping"}, None),
        ({"jsonrpc": "2.0", "id": None, "method": "ping"}, None),
        ({"jsonrpc": "2.0", "id": [1], "method": "ping"}, None),
    ],
)
async def test_what_is_no_message(message: Mapping[str, Any], id_: int | None) -> None:
    """It is refused with the id that it has, if it has one, and the server goes on."""
    async with serving(Workshop().server) as bridge:
        assert (id_, INVALID_REQUEST) == await error_code(bridge, message)
        assert {} == await result(bridge, request(1, "ping"))


async def test_responses_of_the_program_are_dropped() -> None:
    """The server's requests were answered already, and these could be taken for answers to them."""
    async with serving(Workshop().server) as bridge:
        error = {"code": 0, "message": ""}
        assert await bridge.handle({"jsonrpc": "2.0", "id": 1, "result": {}}) is None
        assert await bridge.handle({"jsonrpc": "2.0", "id": 1, "error": error}) is None
        assert {} == await result(bridge, {**request(1, "ping"), "result": {}, "error": error})


@pytest.mark.filterwarnings("ignore::mcp.MCPDeprecationWarning")
async def test_what_the_server_sends_of_its_own_accord() -> None:
    """A request to the client fails at once as an unknown method; a notification goes nowhere."""
    server = MCPServer("curious")

    @server.tool()
    async def ask(context: Context) -> list[int]:
        session = context.request_context.session
        codes = []
        text = types.TextContent(type="text", text="?")
        for asking in (
            session.list_roots,
            lambda: session.create_message(
                [types.SamplingMessage(role="user", content=text)], max_tokens=1
            ),
            lambda: session.elicit_form("?", {"type": "object", "properties": {}}),
            session.send_ping,
        ):
            try:
                await asking()
            except Exception as error:
                codes.append(error.error.code)  # type: ignore[attr-defined]
        await context.report_progress(1, 2)
        await session.send_tool_list_changed()
        return codes

    async with serving(server) as bridge:
        message = call(1, "ask")
        message["params"]["_meta"] = {"progressToken": 1}
        answer = await result(bridge, message)
        assert answer["structuredContent"] == {"result": [METHOD_NOT_FOUND] * 4}


async def test_a_server_that_floods_can_be_cancelled() -> None:
    """Writing lets others run, and is where a tool that does nothing else is cancelled."""
    server = MCPServer("flood")
    over = trio.Event()

    @server.tool()
    async def flood(context: Context) -> None:
        try:
            while True:
                await context.request_context.session.send_tool_list_changed()
        finally:
            over.set()

    async with serving(server) as bridge:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bridge.handle, call(1, "flood"))
            assert {} == await result(bridge, request(2, "ping"))
            nursery.cancel_scope.cancel()
        await over.wait()


async def test_one_server_for_two_programs() -> None:
    """Each has its own conversation with it; the same ids are no matter."""
    workshop = Workshop()
    async with serving(workshop.server) as one, serving(workshop.server) as other:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one.handle, call(1, "wait", n=1))
            nursery.start_soon(other.handle, call(1, "wait", n=2))
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
    assert {1, 2} == set(workshop.cancelled)


async def test_the_end() -> None:
    """When serve() is cancelled, tools are cancelled, the lifespan is left, calls are answered with
    an error, and no task is left; later calls get the error, too."""
    living: list[str] = []

    @asynccontextmanager
    async def lifespan(server: MCPServer) -> AsyncIterator[None]:
        living.append("up")
        try:
            yield
        finally:
            living.append("down")

    server = MCPServer("mortal", lifespan=lifespan)
    cancelled = trio.Event()

    @server.tool()
    async def wait() -> None:
        try:
            await trio.sleep_forever()
        finally:
            cancelled.set()

    codes: list[tuple[object, int]] = []

    async def ask(bridge: InProcessServer) -> None:
        codes.append(await error_code(bridge, call(1, "wait")))

    tasks = trio.lowlevel.current_statistics().tasks_living
    async with trio.open_nursery() as nursery:
        async with serving(server) as bridge:
            assert ["up"] == living
            nursery.start_soon(ask, bridge)
            await trio.testing.wait_all_tasks_blocked()
        assert cancelled.is_set()
        assert ["up", "down"] == living
    assert [(1, CLOSED)] == codes
    assert tasks == trio.lowlevel.current_statistics().tasks_living
    assert (1, CLOSED) == await error_code(bridge, call(1, "wait"))
    assert await bridge.handle(notification("notifications/initialized")) is None


async def test_a_server_that_cannot_start() -> None:
    """Its lifespan's error is serve()'s, and a request that waited is answered with an error."""

    @asynccontextmanager
    async def lifespan(server: MCPServer) -> AsyncIterator[None]:
        raise LookupError("no database")
        yield

    bridge = InProcessServer("tools", MCPServer("unlucky", lifespan=lifespan))
    codes: list[tuple[object, int]] = []

    async def ask() -> None:
        codes.append(await error_code(bridge, request(0, "initialize", **CLIENT)))

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(LookupError, match=r"^no database$"):
                await bridge.serve()
    assert [(0, CLOSED)] == codes


async def test_a_server_that_fails_while_it_serves() -> None:
    """What broke inside its nurseries is raised as it is; the call in flight is answered."""
    broken = trio.Event()

    async def work() -> None:
        await broken.wait()
        raise LookupError("the database went away")

    @asynccontextmanager
    async def lifespan(server: MCPServer) -> AsyncIterator[None]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(work)
            yield

    server = MCPServer("unlucky", lifespan=lifespan)

    @server.tool()
    async def ask() -> None:
        broken.set()
        await trio.sleep_forever()

    bridge = InProcessServer("tools", server)
    codes: list[tuple[object, int]] = []

    async def talk() -> None:
        await shake_hands(bridge)
        codes.append(await error_code(bridge, call(1, "ask")))

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(talk)
            with pytest.raises(LookupError, match="went away") as caught:
                await bridge.serve()
            assert caught.value.__context__ is None
    assert [(1, CLOSED)] == codes


async def test_cancelled_before_the_first_request() -> None:
    """The server ends without a word: mcp leaves none of its streams open."""
    async with serving(Workshop().server, handshake=False):
        await trio.testing.wait_all_tasks_blocked()
    gc.collect()  # a stream left open warns, which fails a test


async def test_a_server_that_fails_in_two_ways() -> None:
    """Both are raised, in their group: neither may be lost."""

    async def fail(error: Exception) -> None:
        raise error

    @asynccontextmanager
    async def lifespan(server: MCPServer) -> AsyncIterator[None]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail, LookupError())
            nursery.start_soon(fail, ValueError())
            yield

    with pytest.RaisesGroup(LookupError, ValueError):
        await InProcessServer("tools", MCPServer("unlucky", lifespan=lifespan)).serve()


async def test_a_server_that_fails_as_it_is_cancelled() -> None:
    """What it failed with is raised, without what it was cancelled by."""

    async def work() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise LookupError("the last page is missing")

    @asynccontextmanager
    async def lifespan(server: MCPServer) -> AsyncIterator[None]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(work)
            yield

    bridge = InProcessServer("tools", MCPServer("unlucky", lifespan=lifespan))

    async def serve() -> None:
        with pytest.raises(LookupError, match="missing"):
            await bridge.serve()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()


async def test_requests_while_a_server_winds_up() -> None:
    """A server that has stopped reading but has not ended: the request waits, and gets its error."""
    winding_up, let_go = trio.Event(), trio.Event()

    class Short(Server[Any]):
        async def run(self, read_stream: Any, write_stream: Any, *args: Any) -> None:
            async with read_stream:
                winding_up.set()
            await let_go.wait()

    bridge = InProcessServer("tools", Short("short"))
    codes: list[tuple[object, int]] = []

    async def ask() -> None:
        await winding_up.wait()
        codes.append(await error_code(bridge, request(1, "ping")))

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)

            @nursery.start_soon
            async def end() -> None:
                await trio.testing.wait_all_tasks_blocked()
                assert [] == codes
                let_go.set()

            with pytest.raises(ProtocolError, match="'tools' ended by itself"):
                await bridge.serve()
    assert [(1, CLOSED)] == codes


def test_no_server() -> None:
    """What is no server of mcp is refused by name, and the message says what would do."""
    for wrong in (7, MCPServer, "server.py"):
        with pytest.raises(
            ConfigurationError, match=r"mcp_servers\['tools'\] is of type .*MCPServer"
        ):
            InProcessServer("tools", wrong)


def test_mcp_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message says what to install."""
    server = MCPServer("tools")
    monkeypatch.setitem(sys.modules, "mcp", None)
    with pytest.raises(ConfigurationError, match=r"'tools'.*pip install 'trio-claude\[mcp\]'"):
        InProcessServer("tools", server)


def test_the_import_is_light() -> None:
    """mcp and what it brings are not imported before a server is used."""
    code = """
import sys
import trio_claude._backends.claude_cli.mcp_bridge
assert not {"mcp", "mcp_types", "anyio", "pydantic"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
