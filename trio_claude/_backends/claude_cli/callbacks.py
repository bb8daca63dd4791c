"""What the program asks of us in the middle of its work: permissions, hooks, tools of our own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, final

from ..._callbacks import PermissionResultAllow, PermissionResultDeny, ToolPermissionContext
from ..._errors import ConfigurationError
from .link import Refused

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..._callbacks import CanUseTool, HookCallback
    from .mcp_bridge import InProcessServer

# What a request for permission has beside what the context names.
_KNOWN = (
    "subtype",
    "tool_name",
    "input",
    "tool_use_id",
    "agent_id",
    "permission_suggestions",
    "blocked_path",
    "decision_reason",
    "title",
    "display_name",
    "description",
)


@final
class Callbacks:
    """Answers the program's requests by calling what the options give.

    Args:
      can_use_tool: the option.
      hooks: by the ids under which the program was told of them.
      servers: the tools of our own, by their names.
    """

    def __init__(
        self,
        can_use_tool: CanUseTool | None,
        hooks: Mapping[str, HookCallback],
        servers: Mapping[str, InProcessServer],
    ) -> None:
        self._can_use_tool = can_use_tool
        self._hooks = hooks
        self._servers = servers

    async def answer(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """The response to a request.

        Raises:
          Refused: there is nobody to answer it.
          Exception: what the callback raised.
        """
        match request:
            case {"subtype": "can_use_tool", "tool_name": str(name), "input": dict(given)} if (
                self._can_use_tool is not None
            ):
                return await self._permission(self._can_use_tool, name, given, request)
            case {"subtype": "hook_callback", "callback_id": str(callback_id)} if (
                callback_id in self._hooks
            ):
                return await self._hook(self._hooks[callback_id], request)
            case {"subtype": "mcp_message", "message": dict(message)}:
                return await self._mcp_message(str(request.get("server_name")), message)
            case _:
                raise Refused(f"Unsupported control request: {request.get('subtype')}")

    async def _permission(
        self,
        can_use_tool: CanUseTool,
        name: str,
        given: Mapping[str, Any],
        request: Mapping[str, Any],
    ) -> Mapping[str, Any]:
        suggestions = request.get("permission_suggestions")
        context = ToolPermissionContext(
            tool_use_id=str(request.get("tool_use_id")),
            agent_id=request.get("agent_id"),
            suggestions=tuple(suggestions) if isinstance(suggestions, list) else (),
            blocked_path=request.get("blocked_path"),
            decision_reason=request.get("decision_reason"),
            title=request.get("title"),
            display_name=request.get("display_name"),
            description=request.get("description"),
            extra={key: value for key, value in request.items() if key not in _KNOWN},
        )
        try:
            decision = await can_use_tool(name, given, context)
        except Exception as exc:
            exc.add_note(f"in can_use_tool, asked about {name}")
            raise
        match decision:
            case PermissionResultAllow(updated_input, updated_permissions):
                # The input goes back in any case: without it the program refuses the answer.
                allowed: dict[str, Any] = {"behavior": "allow", "updatedInput": given}
                if updated_input is not None:
                    allowed["updatedInput"] = updated_input
                if updated_permissions is not None:
                    allowed["updatedPermissions"] = list(updated_permissions)
                return allowed
            case PermissionResultDeny(message, interrupt):
                denied = {"behavior": "deny", "message": message or "this is not allowed"}
                return {**denied, "interrupt": True} if interrupt else denied
            case _:
                raise ConfigurationError(
                    "can_use_tool must return a PermissionResultAllow or a PermissionResultDeny, "
                    f"not {decision!r}"
                )

    async def _hook(self, hook: HookCallback, request: Mapping[str, Any]) -> Mapping[str, Any]:
        given = request.get("input")
        given = given if isinstance(given, dict) else {}
        event = given.get("hook_event_name")
        try:
            # The request's own is made up where the event is about no tool.
            output = await hook(given, given.get("tool_use_id"))
        except Exception as exc:
            exc.add_note(f"in a hook for {event}")
            raise
        if output is None:
            return {}
        if not isinstance(output, dict):
            raise ConfigurationError(
                f"a hook must return a dict or None, and the one for {event} returned {output!r}"
            )
        return output

    async def _mcp_message(self, name: str, message: Mapping[str, Any]) -> Mapping[str, Any]:
        server = self._servers.get(name)
        if server is None:
            error = {"code": -32601, "message": f"Server {name!r} not found"}
            return _mcp_response({"jsonrpc": "2.0", "id": message.get("id"), "error": error})
        return _mcp_response(await server.handle(message) or {"jsonrpc": "2.0", "result": {}})


def _mcp_response(message: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"mcp_response": message}
