"""What the program asks of us: each request goes to its callback, and its answer is the program's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pytest

from trio_claude import (
    ConfigurationError,
    PermissionResult,
    PermissionResultAllow,
    PermissionResultDeny,
    ToolPermissionContext,
)
from trio_claude._backends.claude_cli.callbacks import Callbacks
from trio_claude._backends.claude_cli.link import Refused
from trio_claude._backends.claude_cli.mcp_bridge import InProcessServer

JSON = Mapping[str, Any]

PERMISSION: dict[str, Any] = {
    "subtype": "can_use_tool",
    "tool_name": "Bash",
    "input": {"command": "ls"},
    "tool_use_id": "t1",
}
HOOK: dict[str, Any] = {
    "subtype": "hook_callback",
    "callback_id": "hook_0",
    "input": {"hook_event_name": "PreToolUse", "tool_name": "Bash", "tool_use_id": "t1"},
    "tool_use_id": "made up",
}
MESSAGE: dict[str, Any] = {"jsonrpc": "2.0", "id": 2, "method": "tools/list", "params": {}}
MCP: dict[str, Any] = {"subtype": "mcp_message", "server_name": "greeter", "message": MESSAGE}


async def _allow(name: str, given: JSON, context: ToolPermissionContext) -> PermissionResult:
    return PermissionResultAllow()


async def _silent(given: JSON, tool_use_id: str | None) -> JSON | None:
    return None


class Server:
    """Answers every message alike."""

    def __init__(self, answer: JSON | None) -> None:
        self.heard: list[JSON] = []
        self._answer = answer

    async def handle(self, message: JSON) -> JSON | None:
        """Answer a message."""
        self.heard.append(message)
        return self._answer


def callbacks(can_use_tool: Any = _allow, hook: Any = _silent, server: Any = None) -> Callbacks:
    """With one of each."""
    servers = cast("dict[str, InProcessServer]", {"greeter": server or Server({"result": 1})})
    return Callbacks(can_use_tool, {"hook_0": hook}, servers)


# ---- permissions ----


async def test_what_a_callback_for_permissions_is_given() -> None:
    """The tool, its input, and all that the program said about it."""
    seen: list[tuple[str, JSON, ToolPermissionContext]] = []

    async def can_use_tool(
        name: str, given: JSON, context: ToolPermissionContext
    ) -> PermissionResult:
        seen.append((name, given, context))
        return PermissionResultAllow()

    suggestion = {"type": "addRules", "behavior": "allow"}
    full = {
        **PERMISSION,
        "agent_id": "a1",
        "permission_suggestions": [suggestion],
        "blocked_path": "/etc",
        "decision_reason": "a rule",
        "title": "May I?",
        "display_name": "Shell",
        "description": "Lists files",
        "new_field": [1],
    }
    for request in (full, PERMISSION, {**PERMISSION, "permission_suggestions": "odd"}):
        await callbacks(can_use_tool).answer(request)
    expected = ToolPermissionContext(
        tool_use_id="t1",
        agent_id="a1",
        suggestions=(suggestion,),
        blocked_path="/etc",
        decision_reason="a rule",
        title="May I?",
        display_name="Shell",
        description="Lists files",
        extra={"new_field": [1]},
    )
    assert ("Bash", {"command": "ls"}, expected) == seen[0]
    bare = ToolPermissionContext(tool_use_id="t1")
    assert [("Bash", {"command": "ls"}, bare)] * 2 == seen[1:]


RULE = {"type": "addRules"}


@pytest.mark.parametrize(
    ("decision", "expected"),
    [
        (PermissionResultAllow(), {"behavior": "allow", "updatedInput": {"command": "ls"}}),
        (
            PermissionResultAllow(updated_input={"command": "ls -l"}),
            {"behavior": "allow", "updatedInput": {"command": "ls -l"}},
        ),
        (PermissionResultAllow(updated_input={}), {"behavior": "allow", "updatedInput": {}}),
        (
            PermissionResultAllow(updated_permissions=[RULE]),
            {
                "behavior": "allow",
                "updatedInput": {"command": "ls"},
                "updatedPermissions": [RULE],
            },
        ),
        (
            PermissionResultAllow(updated_permissions=[]),
            {"behavior": "allow", "updatedInput": {"command": "ls"}, "updatedPermissions": []},
        ),
        (PermissionResultDeny("not here"), {"behavior": "deny", "message": "not here"}),
        (
            PermissionResultDeny("stop", interrupt=True),
            {"behavior": "deny", "message": "stop", "interrupt": True},
        ),
    ],
)
async def test_a_decision(decision: PermissionResult, expected: JSON) -> None:
    """As the program takes it; what is allowed goes back with its input, changed or not."""

    async def can_use_tool(*_: object) -> PermissionResult:
        return decision

    assert expected == await callbacks(can_use_tool).answer(PERMISSION)


async def test_a_denial_always_says_something() -> None:
    """The agent reads it."""

    async def can_use_tool(*_: object) -> PermissionResult:
        return PermissionResultDeny()

    answer = await callbacks(can_use_tool).answer(PERMISSION)
    assert "deny" == answer["behavior"]
    assert answer["message"]


@pytest.mark.parametrize("odd", [None, True, {"behavior": "allow"}, "allow"])
async def test_what_is_no_decision(odd: object) -> None:
    """It is an error, and no permission."""

    async def can_use_tool(*_: object) -> object:
        return odd

    with pytest.raises(
        ConfigurationError, match="can_use_tool must return a PermissionResultAllow"
    ):
        await callbacks(can_use_tool).answer(PERMISSION)


async def test_a_callback_for_permissions_that_raises() -> None:
    """Its own error, with a word on where it comes from."""

    async def can_use_tool(*_: object) -> PermissionResult:
        raise OSError("no terminal")

    with pytest.raises(OSError, match="no terminal") as caught:
        await callbacks(can_use_tool).answer(PERMISSION)
    assert ["in can_use_tool, asked about Bash"] == caught.value.__notes__


# ---- hooks ----


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        (None, {}),
        ({}, {}),
        ({"decision": "block", "reason": "no"}, {"decision": "block", "reason": "no"}),
    ],
)
async def test_a_hook(output: JSON | None, expected: JSON) -> None:
    """It is given its input and what it is about, and says what it says."""
    seen: list[object] = []

    async def hook(given: JSON, tool_use_id: str | None) -> JSON | None:
        seen.append((given, tool_use_id))
        return output

    assert expected == await callbacks(hook=hook).answer(HOOK)
    assert [(HOOK["input"], "t1")] == seen


@pytest.mark.parametrize("given", [None, "odd", []])
async def test_a_hook_without_its_input(given: object) -> None:
    """It is called all the same, with none; it is about no tool then."""
    seen: list[object] = []

    async def hook(given: JSON, tool_use_id: str | None) -> None:
        seen.append((given, tool_use_id))

    request = {**HOOK, "input": given}
    assert {} == await callbacks(hook=hook).answer(request)
    assert [({}, None)] == seen


@pytest.mark.parametrize("odd", [True, "block", [("decision", "block")]])
async def test_what_is_no_output_of_a_hook(odd: object) -> None:
    """It is an error that names the event."""

    async def hook(*_: object) -> object:
        return odd

    with pytest.raises(ConfigurationError, match="a hook for PreToolUse must return a mapping"):
        await callbacks(hook=hook).answer(HOOK)


@pytest.mark.parametrize(
    ("output", "said"),
    [
        ({"permissionDecision": "deny"}, "permissionDecision belongs into hookSpecificOutput"),
        ({"decision": "blok"}, "decision must be 'approve' or 'block', not 'blok'"),
        ({"hookSpecificOutput": {"permissionDecision": "deny"}}, "hookEventName='PreToolUse'"),
        ({"hookSpecificOutput": ["deny"]}, "hookEventName='PreToolUse'"),
        (
            {"hookSpecificOutput": {"hookEventName": "PreToolUse", "permissionDecision": "denied"}},
            "permissionDecision must be one of allow, deny, ask, defer",
        ),
        ({"reason": object()}, "must return what is JSON: a object is no JSON"),
    ],
)
async def test_a_decision_that_the_program_would_pass_over(output: JSON, said: str) -> None:
    """It is an error, for the tool would run."""

    async def hook(*_: object) -> JSON:
        return output

    with pytest.raises(ConfigurationError, match="a hook for PreToolUse .*" + said):
        await callbacks(hook=hook).answer(HOOK)


@pytest.mark.parametrize(
    "output",
    [
        {"decision": "approve"},
        {"hookSpecificOutput": {"hookEventName": "PreToolUse", "permissionDecision": "ask"}},
        {"hookSpecificOutput": {"hookEventName": "PreToolUse", "additionalContext": "x"}},
        {"continue": False, "stopReason": "enough"},
    ],
)
async def test_a_decision_of_a_hook(output: JSON) -> None:
    """It reaches the program as it is."""

    async def hook(*_: object) -> JSON:
        return output

    assert output == await callbacks(hook=hook).answer(HOOK)


async def test_an_input_that_is_no_json() -> None:
    """The error names the tool that was asked about."""

    async def may_use(*_: object) -> PermissionResultAllow:
        return PermissionResultAllow(updated_input={"path": Path()})

    with pytest.raises(ConfigurationError, match="asked about Bash, must return what is JSON"):
        await callbacks(may_use).answer(PERMISSION)


async def test_a_hook_that_raises() -> None:
    """Its own error, with a word on where it comes from."""

    async def hook(*_: object) -> None:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full") as caught:
        await callbacks(hook=hook).answer(HOOK)
    assert ["in a hook for PreToolUse"] == caught.value.__notes__


# ---- where a callback failed ----

FAILED = "what was to decide on this has failed"


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (PERMISSION, {"behavior": "deny", "message": FAILED, "interrupt": True}),
        (
            HOOK,
            {
                "continue": False,
                "stopReason": FAILED,
                "hookSpecificOutput": {
                    "hookEventName": "PreToolUse",
                    "permissionDecision": "deny",
                    "permissionDecisionReason": FAILED,
                },
            },
        ),
        (
            {**HOOK, "input": {"hook_event_name": "Stop"}},
            {"continue": False, "stopReason": FAILED},
        ),
        ({**HOOK, "input": {}}, {"continue": False, "stopReason": FAILED}),
        ({**HOOK, "input": None}, {"continue": False, "stopReason": FAILED}),
    ],
)
def test_what_a_failed_callback_was_asked_about_does_not_happen(
    request_: JSON, expected: JSON
) -> None:
    """The tool is denied, and the turn goes no further; why it failed is not the agent's to know."""
    assert expected == callbacks().stop(request_)


def test_where_nothing_depends_on_a_failure() -> None:
    """The program is told that there is no answer."""
    with pytest.raises(Refused, match=f"^{FAILED}$"):
        callbacks().stop(MCP)


# ---- tools of our own ----


async def test_a_message_to_a_server() -> None:
    """Its answer goes back; where there is none, for it was a notification, one says so."""
    server = Server({"jsonrpc": "2.0", "id": 2, "result": {"tools": []}})
    response = await callbacks(server=server).answer(MCP)
    assert {"mcp_response": {"jsonrpc": "2.0", "id": 2, "result": {"tools": []}}} == response
    assert [MESSAGE] == server.heard

    response = await callbacks(server=Server(None)).answer(MCP)
    assert {"mcp_response": {"jsonrpc": "2.0", "result": {}}} == response


@pytest.mark.parametrize("name", ["nobody", None, ["odd"]])
async def test_a_message_to_a_server_that_is_not_there(name: object) -> None:
    """That is an answer of the inner protocol."""
    response = await callbacks().answer({**MCP, "server_name": name})
    assert {
        "mcp_response": {
            "jsonrpc": "2.0",
            "id": 2,
            "error": {"code": -32601, "message": f"Server {str(name)!r} not found"},
        }
    } == response


# ---- what nobody answers ----


@pytest.mark.parametrize(
    "request_",
    [
        {"subtype": "bogus"},
        {},
        {"subtype": "elicitation", "message": "?"},
        {**PERMISSION, "tool_name": None},
        {**PERMISSION, "input": "odd"},
        {**HOOK, "callback_id": "hook_7"},
        {**HOOK, "callback_id": None},
        {**MCP, "message": "odd"},
    ],
)
async def test_a_request_that_is_refused(request_: JSON) -> None:
    """What is unknown, or lacks what it needs, is refused by name."""
    with pytest.raises(Refused, match=f"Unsupported control request: {request_.get('subtype')}"):
        await callbacks().answer(request_)


async def test_permissions_that_nobody_decides() -> None:
    """Without the option nobody is asked, so nothing is allowed."""
    with pytest.raises(Refused):
        await callbacks(can_use_tool=None).answer(PERMISSION)
