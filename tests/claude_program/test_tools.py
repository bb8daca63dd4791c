"""Tools on the real program: files, permissions, hooks, and servers in this process."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import trio
from mcp.server import MCPServer
from mcp.server.mcpserver.exceptions import ToolError

from trio_claude import (
    HookMatcher,
    Interrupted,
    PermissionResult,
    PermissionResultAllow,
    PermissionResultDeny,
    ResultMessage,
    SessionCrashed,
    ToolPermissionContext,
    ToolUseBlock,
    UsageError,
    open_session,
    open_supervisor,
)
from trio_claude.simulator import Responder, Step, open_simulator, script

from .support import PATIENCE, Claude, command_of, results, text_of, use

WRITE = "Write a note"
NOTE = "My pet is Tom"


def writing(claude: Claude, more: Mapping[str, Sequence[Step]] | None = None) -> Responder:
    """A Claude that writes a note where it is asked to, and what more it answers."""
    tool = use("Write", file_path=str(claude.cwd / "note.txt"), content=f"{NOTE}\n")
    return script({WRITE: [[tool], "That was all."], **(more or {})})


async def test_a_file_is_written_and_read(claude: Claude) -> None:
    """Write makes a real file, Read brings its content back, and the next turn knows of it."""
    note = claude.cwd / "note.txt"
    answers = writing(claude, {"Read it": [[use("Read", file_path=str(note))]]})
    async with claude.session(answers, permission_mode="acceptEdits") as (session, simulator):
        async with session.stream(WRITE) as stream:
            events = [event async for event in stream]
        assert note.read_text() == f"{NOTE}\n"
        assert str(await session.query("Read it")).count(NOTE) == 1
        assert text_of(results(simulator)[-1]) == f"1\t{NOTE}\n2\t"
        assert str(await session.query("What's my pet?")).startswith("Your pet is Tom.")
    uses = [b for e in events for b in getattr(e, "content", ()) if isinstance(b, ToolUseBlock)]
    assert [(b.name, b.input["content"]) for b in uses] == [("Write", f"{NOTE}\n")]
    result = events[-1]
    assert isinstance(result, ResultMessage)
    assert (str(result), result.num_turns) == ("That was all.", 2)


async def test_a_permission_is_denied(claude: Claude) -> None:
    """The callback is asked, says no and why, and there is no file."""
    asked = []

    async def can_use_tool(
        name: str, tool_input: Mapping[str, Any], context: ToolPermissionContext
    ) -> PermissionResult:
        asked.append((name, dict(tool_input), context))
        return PermissionResultDeny("not on a Sunday")

    async with claude.session(writing(claude), can_use_tool=can_use_tool) as (session, simulator):
        result = await session.query(WRITE)
    assert str(result) == "That was all."
    [(name, tool_input, context)] = asked
    assert (name, tool_input["content"]) == ("Write", f"{NOTE}\n")
    [block] = results(simulator)
    assert (block["tool_use_id"], block["is_error"]) == (context.tool_use_id, True)
    assert text_of(block) == "not on a Sunday"
    assert context.suggestions
    assert list(claude.cwd.iterdir()) == []


async def test_a_permission_is_given_for_another_input(claude: Claude) -> None:
    """What the callback makes of the input is what the tool gets."""

    async def can_use_tool(
        _name: str, tool_input: Mapping[str, Any], _context: ToolPermissionContext
    ) -> PermissionResult:
        return PermissionResultAllow(updated_input={**tool_input, "content": "nothing"})

    async with claude.session(writing(claude), can_use_tool=can_use_tool) as (session, _):
        await session.query(WRITE)
    assert (claude.cwd / "note.txt").read_text() == "nothing"


async def test_a_permission_is_given_for_good(claude: Claude) -> None:
    """The suggestion taken, the tool is used again without asking."""
    asked = []

    async def can_use_tool(
        name: str, _input: Mapping[str, Any], context: ToolPermissionContext
    ) -> PermissionResult:
        asked.append(name)
        return PermissionResultAllow(updated_permissions=context.suggestions)

    again = use("Write", file_path=str(claude.cwd / "again.txt"), content="again")
    answers = writing(claude, {"Write more": [[again]]})
    async with claude.session(answers, can_use_tool=can_use_tool) as (session, _):
        await session.query(WRITE)
        await session.query("Write more")
    assert asked == ["Write"]
    assert {path.name for path in claude.cwd.iterdir()} == {"note.txt", "again.txt"}


async def test_a_denial_may_end_the_turn(claude: Claude) -> None:
    """With ``interrupt`` the answer ends there, as if it had not been, and the session goes on."""

    async def can_use_tool(
        _name: str, _input: Mapping[str, Any], _context: ToolPermissionContext
    ) -> PermissionResult:
        return PermissionResultDeny("stop it", interrupt=True)

    async with claude.session(writing(claude), can_use_tool=can_use_tool) as (session, simulator):
        with pytest.raises(Interrupted):
            await session.query(WRITE)
        assert "You said" in str(await session.query("Hello"))
        assert results(simulator) == []
    assert list(claude.cwd.iterdir()) == []


async def test_a_permission_may_be_a_question_to_another_session(claude: Claude) -> None:
    """The callback may ask another program; asking its own session is an error, and no deadlock."""

    async def can_use_tool(
        _name: str, _input: Mapping[str, Any], _context: ToolPermissionContext
    ) -> PermissionResult:
        with pytest.raises(UsageError):
            await worker.query("May I?")
        return PermissionResultDeny(str(await judge.query("May it write?")))

    with trio.fail_after(PATIENCE):
        async with (
            open_simulator(writing(claude, {"May it write?": ["Never."]})) as simulator,
            open_session(**claude.options(simulator)) as judge,
            open_session(**claude.options(simulator, can_use_tool=can_use_tool)) as worker,
        ):
            await worker.query(WRITE)
            assert [text_of(block) for block in results(simulator)] == ["Never."]
    assert list(claude.cwd.iterdir()) == []


async def test_a_question_is_taken_back(claude: Claude) -> None:
    """Whoever leaves the turn ends the callback, too; nothing is written, now or later."""
    asked, ended = trio.Event(), trio.Event()

    async def can_use_tool(
        _name: str, _input: Mapping[str, Any], _context: ToolPermissionContext
    ) -> PermissionResult:
        asked.set()
        try:
            await trio.sleep_forever()
        finally:
            ended.set()

    async with claude.session(writing(claude), can_use_tool=can_use_tool) as (session, simulator):
        async with session.stream(WRITE):
            await asked.wait()
        await ended.wait()
        assert "You said" in str(await session.query("Hello"))
        assert results(simulator) == []
    assert list(claude.cwd.iterdir()) == []


async def test_a_callback_that_fails_lets_nothing_through(claude: Claude) -> None:
    """It crashes its session, the tool has not run, and the restarted session works."""

    async def can_use_tool(
        _name: str, _input: Mapping[str, Any], _context: ToolPermissionContext
    ) -> PermissionResult:
        raise ZeroDivisionError("a bug")

    with trio.fail_after(PATIENCE):
        async with open_simulator(writing(claude)) as simulator:
            spec = claude.spec(simulator, name="worker", can_use_tool=can_use_tool)
            async with open_supervisor([spec]) as supervisor:
                worker = supervisor.get_session("worker")
                with pytest.raises(SessionCrashed) as caught:
                    await worker.query(WRITE)
                assert isinstance(caught.value.__cause__, ZeroDivisionError)
                assert "You said" in str(await worker.query("Hello"))
    assert list(claude.cwd.iterdir()) == []


async def test_a_hook_forbids(claude: Claude) -> None:
    """A PreToolUse hook says no, though the permissions say yes; its reason is what Claude hears."""

    async def forbid(_input: Mapping[str, Any], _tool_use_id: str | None) -> Mapping[str, Any]:
        return {
            "hookSpecificOutput": {
                "hookEventName": "PreToolUse",
                "permissionDecision": "deny",
                "permissionDecisionReason": "paper is expensive",
            }
        }

    async with claude.session(
        writing(claude),
        permission_mode="acceptEdits",
        hooks={"PreToolUse": [HookMatcher([forbid], matcher="Write")]},
    ) as (session, simulator):
        await session.query(WRITE)
    [block] = results(simulator)
    assert block["is_error"] is True
    assert "paper is expensive" in text_of(block)
    assert list(claude.cwd.iterdir()) == []


async def test_hooks_listen(claude: Claude) -> None:
    """Hooks that say nothing change nothing; each hears of its own event and its own tools."""
    heard = []

    async def listen(event: Mapping[str, Any], tool_use_id: str | None) -> None:
        heard.append((event["hook_event_name"], event.get("tool_name")))
        if "tool_name" in event:
            assert event["tool_use_id"] == tool_use_id

    async with claude.session(
        writing(claude),
        permission_mode="acceptEdits",
        hooks={
            "UserPromptSubmit": [HookMatcher([listen])],
            "PreToolUse": [HookMatcher([listen], matcher="Write", timeout=PATIENCE)],
            "PostToolUse": [HookMatcher([listen]), HookMatcher([listen], matcher="Bash")],
            "Stop": [HookMatcher([listen])],
        },
    ) as (session, _):
        await session.query(WRITE)
    assert heard == [
        ("UserPromptSubmit", None),
        ("PreToolUse", "Write"),
        ("PostToolUse", "Write"),
        ("Stop", None),
    ]
    assert (claude.cwd / "note.txt").exists()


async def test_a_tool_of_this_process(claude: Claude) -> None:
    """The program calls a function of ours through MCP, and Claude hears what it returned."""
    server = MCPServer("shop")
    sold = []

    @server.tool()
    async def price(item: str) -> str:
        """The price of an item."""
        await trio.lowlevel.checkpoint()  # it runs in the session's own run
        sold.append(item)
        if item == "moon":
            raise ToolError("not for sale")
        return f"{len(item)} coins"

    answers = script(
        {
            "A fish": [[use("mcp__shop__price", item="fish")]],
            "The moon": [[use("mcp__shop__price", item="moon")]],
        }
    )
    async with claude.session(
        answers, mcp_servers={"shop": server}, allowed_tools=["mcp__shop__price"]
    ) as (session, simulator):
        assert "4 coins" in str(await session.query("A fish"))
        assert "The tool failed:" in str(await session.query("The moon"))
        assert "not for sale" in text_of(results(simulator)[-1])
        status = await session.mcp_status()
    assert sold == ["fish", "moon"]
    assert [(s["name"], s["status"]) for s in status["mcpServers"]] == [("shop", "connected")]


SERVER = """
import os
from mcp.server import MCPServer

server = MCPServer("words")

@server.tool()
def word() -> str:
    return os.environ["WORD"]

server.run()
"""


async def test_a_tool_of_another_process(claude: Claude) -> None:
    """The program starts a server by itself; what only that is to know is in no list of processes."""
    secret = "a-secret-word"
    answers = script({"The word": [[use("mcp__words__word")]]})
    server = {"command": sys.executable, "args": ["-c", SERVER], "env": {"WORD": secret}}
    async with claude.session(
        answers, mcp_servers={"words": server}, allowed_tools=["mcp__words"]
    ) as (session, _):
        assert secret in str(await session.query("The word"))
        pid = (await session.server_info())["pid"]
        command = command_of(pid)
    assert "mcp-config" in command
    assert secret not in command
    assert "a-dummy" not in command
