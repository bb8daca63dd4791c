"""The model and the permission mode that turns have, and callbacks that fail to decide."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from mcp.server import MCPServer

from tests.claude.support import (
    ASKED,
    KNOWN,
    SOON,
    TOLD,
    TOLD_IN_VAIN,
    UNKNOWN,
    Exited,
    ScriptedClaude,
    begin,
    fault,
    scripted_claude,
    session,
    until,
)
from trio_claude import (
    ConfigurationError,
    ControlError,
    HookMatcher,
    PermissionResult,
    ProcessError,
    QueryError,
    SessionCrashed,
    ToolPermissionContext,
)

FIRST = ("claude-opus-5-5", "default")
"""The model and the mode of a program that was told of none."""

MODEL: dict[str, Any] = {"model": "claude-haiku-5"}
MODE: dict[str, Any] = {"permission_mode": "plan"}


def settings_of(claude: ScriptedClaude) -> list[tuple[str, str]]:
    """The model and the mode of each turn."""
    return [(turn["model"], turn["mode"]) for turn in claude.turns]


def prompts_of(claude: ScriptedClaude) -> list[str]:
    """What was asked in each turn."""
    return [turn["prompt"] for turn in claude.turns]


# ---- of one turn --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "settings"),
    [
        (MODEL, ("claude-haiku-5", "default")),
        ({**MODEL, **MODE}, ("claude-haiku-5", "plan")),
    ],
)
async def test_what_a_call_wants_is_given_and_taken_back(
    tmp_path: Path, overrides: dict[str, Any], settings: tuple[str, str]
) -> None:
    """The turn has it; the one before and the one after have the session's."""
    claude = scripted_claude(tmp_path)
    async with session(claude) as a:
        await a.query(TOLD)
        await a.query(ASKED, **overrides)
        await a.query(ASKED)
        await a.query(ASKED)
    assert [FIRST, settings, FIRST, FIRST] == settings_of(claude)
    assert 2 * len(overrides) == len(claude.requests) - 1  # and never said without need


async def test_what_is_taken_back_is_what_the_session_has(tmp_path: Path) -> None:
    """Its options, and not what a program has that is told of none."""
    claude = scripted_claude(tmp_path)
    async with session(claude, model="claude-sonnet-5", permission_mode="acceptEdits") as a:
        await a.query(TOLD, **MODEL, **MODE)
        await a.query(ASKED)
    own = ("claude-sonnet-5", "acceptEdits")
    assert [("claude-haiku-5", "plan"), own] == settings_of(claude)


@pytest.mark.parametrize(
    ("how", "at", "overrides"),
    [
        ("late", "set_permission_mode", MODE),
        ("silent", "set_permission_mode", MODE),
        ("late", "set_model", MODEL),
    ],
)
async def test_a_turn_that_is_cancelled_while_it_is_given_leaves_nothing(
    tmp_path: Path, how: str, at: str, overrides: dict[str, Any]
) -> None:
    """Whether or not the program has done it: the next turn has the session's own."""
    claude = scripted_claude(tmp_path, fault(how, at=at, once=True))
    async with session(claude) as a:
        async with trio.open_nursery() as nursery:
            with trio.CancelScope() as scope:

                async def cancel() -> None:
                    await until(lambda: at in claude.requests)
                    scope.cancel(reason="it has been asked for")

                nursery.start_soon(cancel)
                await a.query(TOLD_IN_VAIN, **overrides)
        assert scope.cancelled_caught
        assert UNKNOWN == str(await a.query(ASKED))
        assert 1 == len(claude.pids)
    assert [ASKED] == prompts_of(claude)
    assert [FIRST] == settings_of(claude)


@pytest.mark.parametrize(
    ("how", "at", "overrides", "why"),
    [
        ("refuse", "set_permission_mode", MODE, "refused 'set_permission_mode': Unsupported"),
        ("refuse", "set_model", MODEL, "refused 'set_model': Unsupported"),
        ("late", "set_permission_mode", MODE, "did not answer 'set_permission_mode' within"),
    ],
)
async def test_what_cannot_be_given_is_told_and_the_turn_not_asked(
    tmp_path: Path, how: str, at: str, overrides: dict[str, Any], why: str
) -> None:
    """Refused, or not answered in time: ConfigurationError; the session goes on with its own."""
    claude = scripted_claude(tmp_path, fault(how, at=at, once=True))
    async with session(claude, settings={"control_timeout": 0.3}) as a:
        (option,) = overrides
        with pytest.raises(ConfigurationError, match=option) as caught:
            await a.query(TOLD_IN_VAIN, **overrides)
        assert why in str(caught.value)
        assert isinstance(caught.value.__cause__, ControlError)
        assert UNKNOWN == str(await a.query(ASKED))
        assert 1 == len(claude.pids)
    assert [ASKED] == prompts_of(claude)
    assert [FIRST] == settings_of(claude)


async def test_a_program_that_dies_of_it_has_crashed(tmp_path: Path) -> None:
    """That is no error of the call's options."""
    claude = scripted_claude(tmp_path, fault("exit", at="set_permission_mode", code=3))
    async with session(claude) as a:
        with pytest.raises(SessionCrashed) as caught:
            await a.query(TOLD_IN_VAIN, **MODE)
        assert isinstance(caught.value.__cause__, ProcessError)
        assert UNKNOWN == str(await a.query(ASKED))


async def test_a_mode_that_a_call_names_is_said_again(tmp_path: Path) -> None:
    """The program was believed to have it, and has changed it by a rule of the agent's."""
    claude = scripted_claude(tmp_path, fault("drift", at="idle", turn=1, mode="bypassPermissions"))
    async with session(claude) as a:
        await a.query(TOLD, **MODE)
        await a.query(ASKED, **MODE)
    assert ["plan", "plan"] == [mode for _model, mode in settings_of(claude)]


# ---- of the session -----------------------------------------------------------------------------


async def test_what_was_set_is_kept_by_the_next_program(tmp_path: Path) -> None:
    """A program that is replaced, because it didn't let go of a turn, is like the one before."""
    claude = scripted_claude(
        tmp_path, fault("hold", at="delta 2", turn=2), fault("silent", at="rewind_conversation")
    )
    async with session(claude, settings=SOON) as a:
        await a.set_model("claude-haiku-5")
        await a.set_permission_mode("plan")
        await a.query(TOLD)
        async with a.stream(TOLD_IN_VAIN) as stream:
            await begin(stream)
        assert KNOWN == str(await a.query(ASKED))
        await a.query(ASKED, model="claude-sonnet-5", permission_mode="acceptEdits")
        await a.query(ASKED)
    assert 2 == len(claude.pids)
    assert {"--model=claude-haiku-5", "--permission-mode=plan"} < set(claude.argv[1])
    of_session, of_turn = ("claude-haiku-5", "plan"), ("claude-sonnet-5", "acceptEdits")
    assert [of_session] * 3 + [of_turn, of_session] == settings_of(claude)


async def test_a_model_is_set_in_the_middle_of_a_turn(tmp_path: Path) -> None:
    """It holds from the next turn on, and needn't be said once more."""
    claude = scripted_claude(tmp_path, fault("hold", at="delta 2", turn=1))
    async with session(claude) as a:
        async with a.stream(TOLD_IN_VAIN) as stream:
            await begin(stream)
            await a.set_model("claude-haiku-5")
            await a.set_model(None)
            await a.set_model("claude-haiku-5")
        await a.query(ASKED)
    assert ["claude-opus-5-5", "claude-haiku-5"] == [model for model, _mode in settings_of(claude)]
    assert 3 == claude.requests.count("set_model")


async def test_the_program_says_what_it_is(tmp_path: Path) -> None:
    """From when it was started, though that one has been replaced."""
    claude = scripted_claude(tmp_path, fault("silent", at="rewind_conversation"))
    async with session(claude, settings=SOON) as a:
        assert claude.pids == [(await a.server_info())["pid"]]
        async with a.stream(TOLD_IN_VAIN) as stream:
            await begin(stream)
        info = await a.server_info()
        assert claude.pids[1:] == [info["pid"]]
        assert "2.1.330" == info["claude_code_version"]


async def test_a_program_that_does_not_start_again_is_not_asked(tmp_path: Path) -> None:
    """What it failed of is the session's; who asks from beside gets a ControlError with it."""
    claude = scripted_claude(
        tmp_path,
        fault("silent", at="rewind_conversation"),
        fault("exit", at="start", start=2, code=3, stderr="No licence.\n"),
    )
    async with session(claude, settings=SOON) as a:
        async with a.stream(TOLD_IN_VAIN) as stream:
            await begin(stream)
        with pytest.raises(ControlError, match="No licence"):
            await a.server_info()
        assert UNKNOWN == str(await a.query(ASKED))
        assert 3 == len(claude.pids)


# ---- callbacks that fail ------------------------------------------------------------------------

BASH = {"subtype": "can_use_tool", "tool_name": "Bash", "input": {"command": "ls"}}
PRE_TOOL_USE = {"subtype": "hook_callback", "input": {"hook_event_name": "PreToolUse"}}
STOP = {"subtype": "hook_callback", "input": {"hook_event_name": "Stop"}}

WHY = "what was to decide on this has failed"
DENIED = {
    "hookEventName": "PreToolUse",
    "permissionDecision": "deny",
    "permissionDecisionReason": WHY,
}


def failing(exc: Exception) -> dict[str, Any]:
    """Options with callbacks that all raise this."""

    async def can_use_tool(
        name: str, given: Mapping[str, Any], context: ToolPermissionContext
    ) -> PermissionResult:
        raise exc

    async def hook(data: Mapping[str, Any], tool_use_id: str | None) -> None:
        raise exc

    hooks = {event: [HookMatcher([hook])] for event in ("PreToolUse", "Stop")}
    return {"can_use_tool": can_use_tool, "hooks": hooks}


@pytest.mark.parametrize(
    ("request_", "answer"),
    [
        (BASH, {"behavior": "deny", "message": WHY, "interrupt": True}),
        (PRE_TOOL_USE, {"continue": False, "stopReason": WHY, "hookSpecificOutput": DENIED}),
        (STOP, {"continue": False, "stopReason": WHY}),
    ],
)
async def test_a_callback_that_fails_is_answered_by_a_denial(
    tmp_path: Path, request_: dict[str, Any], answer: dict[str, Any]
) -> None:
    """An error would be passed over, and the tool would run. What it raised ends the turn; if that
    is a QueryError, the session goes on."""
    claude = scripted_claude(tmp_path, fault("ask", at="delta 2", turn=2, request=request_))
    failure = QueryError("nobody can decide")
    async with session(claude, **failing(failure)) as a:
        await a.query(TOLD)
        with pytest.raises(QueryError, match="nobody can decide") as caught:
            await a.query(TOLD_IN_VAIN)
        assert failure is caught.value
        assert KNOWN == str(await a.query(ASKED))
        assert 1 == len(claude.pids)
    (response,) = claude.answers
    assert ("success", answer) == (response["subtype"], response["response"])


async def test_a_tool_server_that_fails_between_turns_crashes_the_session(tmp_path: Path) -> None:
    """One that runs in this process: with what it raised."""
    gone, exited = trio.Event(), Exited()

    async def work() -> None:
        await gone.wait()
        raise LookupError("the database went away")

    @asynccontextmanager
    async def lifespan(server: MCPServer) -> AsyncIterator[None]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(work)
            yield

    claude = scripted_claude(tmp_path)
    servers = {"tools": MCPServer("unlucky", lifespan=lifespan)}
    async with session(claude, on_event=exited, mcp_servers=servers) as a:
        await a.query(TOLD)
        gone.set()
        assert isinstance(await exited.wait(), LookupError)
        gone = trio.Event()
        assert UNKNOWN == str(await a.query(ASKED))
