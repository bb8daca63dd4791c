"""What the program asks of us in the middle of its work: permissions, hooks, tools of our own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, final

from ..._callbacks import PermissionResultAllow, PermissionResultDeny, ToolPermissionContext
from ..._errors import ConfigurationError
from ..._wire.requests import dumps
from .link import Refused

if TYPE_CHECKING:
    from ..._callbacks import CanUseTool, HookCallback
    from .mcp_bridge import InProcessServer

_DECISIONS = ("allow", "deny", "ask", "defer")

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

    def stop(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """The response where a callback failed: whatever it was asked about doesn't happen.

        An error will not do: the program passes over a hook that failed, and runs the tool.

        Raises:
          Refused: nothing depends on it.
        """
        why = "what was to decide on this has failed"
        match request:
            case {"subtype": "can_use_tool"}:
                return {"behavior": "deny", "message": why, "interrupt": True}
            case {"subtype": "hook_callback", "input": {"hook_event_name": "PreToolUse" as event}}:
                denied = {"permissionDecision": "deny", "permissionDecisionReason": why}
                specific = {"hookEventName": event, **denied}
                return {"continue": False, "stopReason": why, "hookSpecificOutput": specific}
            case {"subtype": "hook_callback"}:
                return {"continue": False, "stopReason": why}
            case _:
                raise Refused(why)

    async def _permission(
        self,
        can_use_tool: CanUseTool,
        name: str,
        given: dict[str, Any],
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
                    allowed["updatedPermissions"] = updated_permissions
                return _as_json(allowed, f"can_use_tool, asked about {name},")
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
        who = f"a hook for {event}"
        if not isinstance(output, Mapping):
            raise ConfigurationError(f"{who} must return a mapping or None, not {output!r}")
        checked = _as_json(output, who)
        _check_decision(checked, who, event)
        return checked

    async def _mcp_message(self, name: str, message: Mapping[str, Any]) -> Mapping[str, Any]:
        server = self._servers.get(name)
        if server is None:
            error = {"code": -32601, "message": f"Server {name!r} not found"}
            return _mcp_response({"jsonrpc": "2.0", "id": message.get("id"), "error": error})
        return _mcp_response(await server.handle(message) or {"jsonrpc": "2.0", "result": {}})


def _as_json(value: Mapping[str, Any], who: str) -> dict[str, Any]:
    try:
        copy: dict[str, Any] = json.loads(dumps(value, ascii_only=True))
    except (TypeError, ValueError, RecursionError) as exc:
        raise ConfigurationError(f"{who} must return what is JSON: {exc}") from exc
    return copy


def _check_decision(output: Mapping[str, Any], who: str, event: object) -> None:
    """Refuse a decision with a typo: the program passes over it, and lets the tool run."""
    specific = output.get("hookSpecificOutput", {"hookEventName": event})
    if "permissionDecision" in output:
        wrong = "permissionDecision belongs into hookSpecificOutput"
    elif output.get("decision", "block") not in ("approve", "block"):
        wrong = f"decision must be 'approve' or 'block', not {output['decision']!r}"
    elif not isinstance(specific, dict) or specific.get("hookEventName") != event:
        wrong = f"hookSpecificOutput must be a mapping with hookEventName={event!r}"
    elif specific.get("permissionDecision", "deny") not in _DECISIONS:
        wrong = f"permissionDecision must be one of {', '.join(_DECISIONS)}"
    else:
        return
    raise ConfigurationError(f"{who} returned what the program would not follow: {wrong}")


def _mcp_response(message: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"mcp_response": message}
