"""Tools that run in this process: a server of the ``mcp`` package, spoken to by ``claude``.

The program sends JSON-RPC, one message in a control request, and wants a response to each request.
A server of ``mcp`` reads its messages from one stream and writes to another. Between them stands
one table of the requests in flight, and no task of ours:

* what the server reads is a memory channel without a bound, so that whoever hands over a message
  never waits. In it lies what the program has sent and the server, which reads all the time, has
  not taken yet;
* what the server writes to is an object of ours, which puts a response where its caller waits, in
  the server's own task. So no caller, however slow or gone, holds up the server.

To the server, requests go under numbers of ours. The program may use an id again as soon as it has
cancelled the request, while the server is still winding up the first one: what comes under the old
number after that belongs to nobody, and never to the wrong request.

Nothing is imported from ``mcp`` before there is such a server: it is large, and an extra.
"""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any, Self, final

import attrs
import trio

from ..._errors import ConfigurationError, ProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mcp.server import Server
    from mcp.shared.message import SessionMessage

_INVALID_REQUEST = -32600  # this and the next: https://www.jsonrpc.org/specification
_METHOD_NOT_FOUND = -32601
_CLOSED = -32000  # mcp's own code for it
_CANCELLED = -32800  # the Language Server Protocol's code, and mcp's over HTTP


@final
class InProcessServer:
    """A server of ``mcp`` in conversation with one ``claude`` program.

    One server object may be behind several of these at once. What it sends of its own accord does
    not reach the program: notifications (progress, logging, changed lists) are dropped, and
    requests (sampling, roots, elicitation) are refused at once as unknown methods.

    Args:
        name: What the server is called in the option ``mcp_servers``.
        server: An ``mcp.server.MCPServer`` or an ``mcp.server.Server``.

    Raises:
        ConfigurationError: It is neither, or ``mcp`` is not installed.
    """

    def __init__(self, name: str, server: object) -> None:
        self._name = name
        self._server = _low_level(name, server)
        self._to_server: trio.MemorySendChannel[SessionMessage]
        self._to_server, to_read = trio.open_memory_channel(math.inf)
        self._transport = _Transport(to_read, self._take)
        self._numbers = itertools.count(1)
        self._by_id: dict[int | str, _Request] = {}
        self._by_number: dict[int, _Request] = {}
        self._has_ended = False

    async def serve(self) -> None:
        """Run the server until this is cancelled; to be called once.

        The server's lifespan and its tools run in this task and in nurseries inside it. A tool that
        does not react to cancellation, such as one in a thread, holds up the end. Requests still in
        flight when the server ends are answered with an error.

        Raises:
            ProtocolError: The server ended by itself.
            Exception: What the server failed with, as it was raised and not inside a group.
        """
        failure: BaseException = ProtocolError(
            f"the in-process MCP server {self._name!r} ended by itself; its run() must go on until"
            " its input ends"
        )
        try:
            await self._server.run(
                self._transport, self._transport, self._server.create_initialization_options()
            )
        except BaseExceptionGroup as group:
            failure = _ungrouped(group)
        finally:
            self._has_ended = True
            for request in self._by_number.values():
                request.answer(self._closed(request.id))
        # Not raised where it was caught: the group would be the context of what it has inside.
        raise failure

    async def handle(self, message: Mapping[str, Any]) -> dict[str, Any] | None:
        """Hand one message of the program to the server, and wait for what it answers.

        Any number may be in flight. Before :meth:`serve` is up, a request waits for it. If this is
        cancelled, the server is told, and cancels what it does for the request.

        Returns:
            The response to a request, be it a result or an error; an error, too, for what is no
            message of MCP. None for a notification, and for a response: the program is asked
            nothing that it could respond to.
        """
        await trio.lowlevel.checkpoint()
        if "method" not in message and ("result" in message or "error" in message):
            return None
        if "id" in message:
            return await self._request(message)
        if message.get("method") == "notifications/cancelled":
            self._cancelled_by_program(message.get("params"))
            return None
        try:
            self._send(message)
        except ValueError:
            return _not_mcp(None)
        return None

    async def _request(self, message: Mapping[str, Any]) -> dict[str, Any]:
        request_id = message["id"]
        if isinstance(request_id, bool) or not isinstance(request_id, int | str):
            return _not_mcp(None)
        if request_id in self._by_id:
            return _error(request_id, _INVALID_REQUEST, f"the id {request_id!r} is in flight")
        if self._has_ended:
            return self._closed(request_id)
        request = _Request(request_id, next(self._numbers))
        try:
            self._send({**message, "id": request.number})
        except ValueError:
            return _not_mcp(request_id)
        self._by_id[request.id] = self._by_number[request.number] = request
        try:
            await request.answered.wait()
        finally:
            del self._by_id[request.id], self._by_number[request.number]
            if not request.answered.is_set():
                self._cancel(request)
        return request.response

    def _cancelled_by_program(self, params: object) -> None:
        """Pass it on under the server's number, and answer the request, which mcp would not."""
        request_id = params.get("requestId") if isinstance(params, dict) else None
        if isinstance(request_id, int | str) and (request := self._by_id.get(request_id)):
            self._cancel(request)
            request.answer(_error(request.id, _CANCELLED, "the request was cancelled"))

    def _cancel(self, request: _Request) -> None:
        params = {"requestId": request.number}
        self._send({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params})

    def _send(self, message: Mapping[str, Any]) -> None:
        """Hand it to the server; a ValueError if it is no message of MCP."""
        self._to_server.send_nowait(_parsed(message))

    def _take(self, message: dict[str, Any]) -> None:
        """Take a message of the server."""
        if "method" not in message:
            if (request := self._by_number.get(message["id"])) is not None:
                request.answer({**message, "id": request.id})
        elif "id" in message:
            why = f"a server in this process cannot ask the program for {message['method']!r}"
            self._send(_error(message["id"], _METHOD_NOT_FOUND, why))

    def _closed(self, request_id: int | str) -> dict[str, Any]:
        return _error(
            request_id, _CLOSED, f"the in-process MCP server {self._name!r} is not running any more"
        )


@attrs.define(eq=False)
class _Request:
    """A request in flight."""

    id: int | str  # the program's
    number: int  # what the server knows it by
    answered: trio.Event = attrs.field(factory=trio.Event)
    response: dict[str, Any] = attrs.field(factory=dict)  # empty until then

    def answer(self, response: dict[str, Any]) -> None:
        """Let the caller have this."""
        self.response = response
        self.answered.set()


@attrs.frozen
class _Transport:
    """What a server of mcp takes for its two streams.

    Closing does nothing. It must not even be a checkpoint: where mcp 2.3 cleans up, what stands
    behind it is skipped when that is cancelled, and a stream of mcp's own stays open.
    """

    input: trio.MemoryReceiveChannel[SessionMessage]
    take: Callable[[dict[str, Any]], None]

    async def receive(self) -> SessionMessage:
        """Wait for the next message to the server."""
        return await self.input.receive()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> SessionMessage:
        return await self.receive()

    async def send(self, item: SessionMessage, /) -> None:
        """Take a message of the server's, and let others run: it may write in a loop."""
        self.take(item.message.model_dump(mode="json", exclude_unset=True))
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        """Do nothing."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *args: object) -> None:
        pass


def _low_level(name: str, server: object) -> Server[Any]:
    """What there is to run of a server object of mcp."""
    option = f"mcp_servers[{name!r}]"
    try:
        import mcp.server.mcpserver
    except ImportError as error:
        raise ConfigurationError(
            f"{option} is of type {type(server).__name__}, to be run in this process, which takes mcp 2:"
            f" pip install 'trio-claude[mcp]' ({error})"
        ) from error
    if isinstance(server, mcp.server.mcpserver.MCPServer):
        # There is no public way to its streams, not even for mcp's own client in memory.
        return server._lowlevel_server
    if isinstance(server, mcp.server.Server):
        return server
    raise ConfigurationError(
        f"{option} is of type {type(server).__name__}; give a server of mcp, such as"
        ' mcp.server.MCPServer("name"), or a mapping such as {"command": "...", "args": [...]}'
    )


def _parsed(message: Mapping[str, Any]) -> SessionMessage:
    """The message in mcp's own class; a ValueError if it is none."""
    from mcp.shared.message import SessionMessage
    from mcp.types import JSONRPCError, JSONRPCNotification, JSONRPCRequest

    # By what is in it, and not by what fits: else a bad request might do as something else.
    if "method" not in message:
        return SessionMessage(JSONRPCError.model_validate(message))
    if "id" in message:
        return SessionMessage(JSONRPCRequest.model_validate(message))
    return SessionMessage(JSONRPCNotification.model_validate(message))


def _error(request_id: int | str | None, code: int, text: str) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": request_id, "error": {"code": code, "message": text}}


def _not_mcp(request_id: int | str | None) -> dict[str, Any]:
    return _error(request_id, _INVALID_REQUEST, "this is no message of MCP (JSON-RPC 2.0)")


def _ungrouped(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """What a server failed with, out of the groups of its nurseries."""
    failures = group.split(trio.Cancelled)[1]
    failure: BaseException = group if failures is None else failures
    while isinstance(failure, BaseExceptionGroup) and len(failure.exceptions) == 1:
        failure = failure.exceptions[0]
    return failure
