"""What callers get, and what becomes of the session, when the program goes wrong."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.claude.support import (
    ASKED,
    KNOWN,
    SOON,
    TOLD,
    TOLD_IN_VAIN,
    UNKNOWN,
    Exited,
    alive,
    begin,
    crash_of,
    fault,
    read_to_end,
    scripted_claude,
    session,
)
from trio_claude import (
    APIStatusError,
    AssistantMessage,
    AuthenticationError,
    ConfigurationError,
    ControlError,
    Event,
    HookMatcher,
    Interrupted,
    OverloadedError,
    PermissionResult,
    PermissionResultAllow,
    ProcessError,
    ProtocolError,
    QueryTimeout,
    RateLimitError,
    ResultError,
    ResultMessage,
    SessionHandle,
    TextDelta,
    ToolPermissionContext,
    UnknownBlock,
    UnknownMessage,
)
from trio_claude._backends.claude_cli import discovery

BASH = {"subtype": "can_use_tool", "tool_name": "Bash", "input": {"command": "ls"}}


async def events_of(a: SessionHandle, prompt: str) -> list[Event]:
    """Ask, and return all events."""
    async with a.stream(prompt) as stream:
        return [event async for event in stream]


def said_in(result: ResultMessage) -> Any:
    """The JSON that an `ask` or a `hear` put into the answer."""
    text = str(result)
    return json.JSONDecoder().raw_decode(text[text.index("{") :])[0]


# ---- the process ends ---------------------------------------------------------------------------


@pytest.mark.parametrize("code", [0, 3, -9])
async def test_an_exit_in_a_turn_crashes_the_session(tmp_path: Path, code: int) -> None:
    """Whatever its exit code: the turn's caller gets it with the last words, the next a fresh
    program."""
    claude = scripted_claude(
        tmp_path, fault("exit", at="delta 3", turn=2, code=code, stderr="Oh dear.\nOut of luck.\n")
    )
    async with session(claude) as a:
        assert "Python" in str(await a.query(TOLD))
        cause = await crash_of(a)
        assert isinstance(cause, ProcessError)
        assert (code, "Oh dear.\nOut of luck.") == (cause.exit_code, cause.stderr)
        assert UNKNOWN == str(await a.query(ASKED))
        assert 2 == len(claude.pids)


async def test_an_exit_between_turns_crashes_the_session(tmp_path: Path) -> None:
    """Nobody's turn fails of it, and the supervisor starts a fresh program."""
    exited = Exited()
    claude = scripted_claude(tmp_path, fault("exit", at="idle", code=3, stderr="Enough.\n"))
    async with session(claude, on_event=exited) as a:
        assert "Python" in str(await a.query(TOLD))
        cause = await exited.wait()
        assert UNKNOWN == str(await a.query(ASKED))
    assert isinstance(cause, ProcessError)
    assert (3, "Enough.") == (cause.exit_code, cause.stderr)


async def test_half_a_line_at_the_end_is_no_result(tmp_path: Path) -> None:
    """An output that ends in the middle of a line is a crash, although the exit code is 0."""
    claude = scripted_claude(tmp_path, fault("cut", at="result"))
    async with session(claude) as a:
        cause = await crash_of(a)
        assert isinstance(cause, ProcessError)
        assert 0 == cause.exit_code
        assert UNKNOWN == str(await a.query(ASKED))


async def test_an_exit_is_seen_though_a_child_keeps_the_output_open(tmp_path: Path) -> None:
    """A shell that a tool left running has our pipes: the program's end is seen all the same."""
    claude = scripted_claude(
        tmp_path,
        fault("child", at="start", keeps_output=True),
        fault("exit", at="delta 3", code=3, stderr="Oh dear.\n"),
    )
    async with session(claude, settings=SOON) as a:
        with trio.fail_after(5):
            cause = await crash_of(a)
        assert isinstance(cause, ProcessError)
        assert (3, "Oh dear.") == (cause.exit_code, cause.stderr)
        assert UNKNOWN == str(await a.query(ASKED))


async def test_a_failed_start_says_why(tmp_path: Path) -> None:
    """A program that ends at once: the start fails with its exit code and its last words."""
    claude = scripted_claude(tmp_path, fault("exit", at="start", code=1, stderr="No licence.\n"))
    with pytest.raises(ProcessError, match="No licence") as caught:
        async with session(claude):
            raise AssertionError("it has started")
    assert (1, "No licence.") == (caught.value.exit_code, caught.value.stderr)


async def test_an_id_that_is_not_there_fails_the_start_at_once(tmp_path: Path) -> None:
    """The program ends while it should answer `initialize`: that is told, and no timeout waited
    for."""
    claude = scripted_claude(tmp_path)
    with pytest.raises(ProcessError, match="No conversation found with session ID: abc") as caught:
        async with session(claude, resume="abc", settings={"initialize_timeout": math.inf}):
            raise AssertionError("it has started")
    assert 1 == caught.value.exit_code


async def test_a_folder_that_is_not_there_fails_the_start(tmp_path: Path) -> None:
    """It is told by the option's name, and no program is begun."""
    claude = scripted_claude(tmp_path)
    with pytest.raises(ConfigurationError, match="cwd must be a folder that there is"):
        async with session(claude, cwd=tmp_path / "nowhere"):
            raise AssertionError("it has started")
    assert [] == claude.pids


async def test_no_answer_to_initialize_fails_the_start(tmp_path: Path) -> None:
    """After `initialize_timeout` seconds the program is stopped, and the start has failed."""
    claude = scripted_claude(tmp_path, fault("silent", at="initialize"))
    with pytest.raises(ProcessError, match=r"initialize.* 0\.2 s") as caught:
        async with session(claude, settings={"initialize_timeout": 0.2}):
            raise AssertionError("it has started")
    assert caught.value.exit_code is None


# ---- the output ---------------------------------------------------------------------------------


async def test_broken_json_crashes_the_session(tmp_path: Path) -> None:
    """A line that begins as an object and is none may have been the result: nobody waits for
    ever."""
    claude = scripted_claude(tmp_path, fault("say", at="delta 3", lines=['{"type":"result", oops']))
    async with session(claude) as a:
        cause = await crash_of(a)
        assert isinstance(cause, ProtocolError)
        assert "oops" in str(cause)
        assert UNKNOWN == str(await a.query(ASKED))


async def test_noise_between_the_lines_is_skipped(tmp_path: Path) -> None:
    """Debugging remarks, blank lines and JSON that is no object don't disturb a turn."""
    noise = ["[SandboxDebug] {", "", "  ", "\r", "null", "[1]", "(node:1) Warning: \u2028\x85"]
    claude = scripted_claude(
        tmp_path, *(fault("say", at=place, lines=noise) for place in ("initialize", "delta 3"))
    )
    async with session(claude) as a:
        assert "Python" in str(await a.query(TOLD))
        assert KNOWN == str(await a.query(ASKED))


async def test_what_is_said_before_the_first_turn_is_nobodys(tmp_path: Path) -> None:
    """Such as the remarks of hooks at the start: the first turn begins with its own lines."""
    lines = [{"type": "system", "subtype": "hook_started", "n": 1}]
    claude = scripted_claude(tmp_path, fault("say", at="start", lines=lines))
    async with session(claude) as a:
        events = await events_of(a, TOLD)
        assert not [event for event in events if getattr(event, "subtype", "") == "hook_started"]


async def test_a_program_that_does_not_name_its_conversation(tmp_path: Path) -> None:
    """It cannot be resumed, and works as long as it lives."""
    claude = scripted_claude(
        tmp_path, fault("nameless", at="start"), fault("hold", at="delta 3", turn=2)
    )
    async with session(claude) as a:
        assert (await a.query(TOLD)).session_id is None
        async with a.stream(TOLD_IN_VAIN) as stream:
            await begin(stream)
        assert KNOWN == str(await a.query(ASKED))
        assert 1 == len(claude.pids)


async def test_a_line_over_the_limit_crashes_the_session(tmp_path: Path) -> None:
    """One byte more than `max_buffer_size` is told as such; one line of that size passes."""
    limit = 100_000
    frame = len('{"type":"x","pad":""}')
    lines = ['{"type":"x","pad":"%s"}' % ("." * (limit - frame + more)) for more in (0, 1)]
    claude = scripted_claude(
        tmp_path,
        fault("say", at="delta 3", turn=1, lines=lines[:1]),
        fault("say", at="delta 3", turn=2, lines=lines[1:]),
    )
    async with session(claude, max_buffer_size=limit) as a:
        assert "Python" in str(await a.query(TOLD))
        cause = await crash_of(a)
        assert isinstance(cause, ProtocolError)
        assert "100000 bytes" in str(cause)
        assert "max_buffer_size" in str(cause)
        assert UNKNOWN == str(await a.query(ASKED))


async def test_what_is_unknown_passes_through(tmp_path: Path) -> None:
    """Messages, events and blocks of a newer program reach the caller; lines without their keys
    hurt nobody."""
    block = {"type": "hologram", "depth": 3}
    passes: list[dict[str, Any]] = [
        {"type": "brand_new", "n": 1},
        {"type": "rate_limit_event", "rate_limit_info": {"status": "allowed"}, "n": 2},
        {"type": 5, "n": 3},
        {"n": 4},
    ]
    odd = [
        *({"type": kind} for kind in ("assistant", "user", "stream_event", "system", "keep_alive")),
        *({"type": f"control_{kind}"} for kind in ("request", "response", "cancel_request")),
        {"type": "stream_event", "event": {"type": "brand_new"}},
        {"type": "control_response", "response": {"subtype": "success", "request_id": "nobody's"}},
        {"type": "control_cancel_request", "request_id": "nobody's"},
        {"type": "assistant", "message": {"content": [block]}, "parent_tool_use_id": "toolu_1"},
        {"type": "user", "message": {"content": None}},
    ]
    claude = scripted_claude(tmp_path, fault("say", at="delta 3", turn=1, lines=passes + odd))
    async with session(claude) as a:
        events = await events_of(a, TOLD)
        unknown = [event.raw for event in events if isinstance(event, UnknownMessage)]
        assert [1, 2, 3, 4] == [raw["n"] for raw in unknown if "n" in raw]
        blocks = [b for e in events if isinstance(e, AssistantMessage) for b in e.content]
        assert UnknownBlock(block) in blocks
        assert isinstance(events[-1], ResultMessage)
        assert KNOWN == str(await a.query(ASKED))


async def test_a_message_that_begins_twice_is_one_message(tmp_path: Path) -> None:
    """The program asked the service again in mid-answer: what counts is the second try."""
    claude = scripted_claude(tmp_path, fault("again", at="delta 3"))
    async with session(claude) as a:
        *events, result = await events_of(a, TOLD)
        whole = [event.text for event in events if isinstance(event, AssistantMessage)]
        pieces = "".join(event.text for event in events if isinstance(event, TextDelta))
        # The text of thoughts is none.
        assert [str(result)] == [text for text in whole if text]
        assert "Your favorite " + str(result) == pieces
        assert KNOWN == str(await a.query(ASKED))


async def test_a_flood_of_remarks_blocks_nobody(tmp_path: Path) -> None:
    """10 MB on standard error in mid-turn are read, given to the callback line by line, and
    forgotten but for the last of them."""
    size, lines = 10_000_000, 0
    last = ""

    def stderr(line: str) -> None:
        nonlocal lines, last
        lines, last = lines + 1, line

    claude = scripted_claude(
        tmp_path,
        fault("flood", at="delta 3", turn=1, size=size),
        fault("exit", at="delta 3", turn=2, code=3),
    )
    async with session(claude, stderr=stderr) as a:
        assert "Python" in str(await a.query(TOLD))
        cause = await crash_of(a)
    assert (size // 67 + 1, "The last line of a flood.") == (lines, last)
    assert isinstance(cause, ProcessError)
    assert cause.stderr.endswith("\nThe last line of a flood.")
    assert 7000 < len(cause.stderr) <= 8192


async def test_a_callback_for_remarks_that_raises_crashes_the_session(tmp_path: Path) -> None:
    """As any other callback does, and with a note of where it was."""

    def stderr(line: str) -> None:
        raise ZeroDivisionError(line)

    claude = scripted_claude(
        tmp_path,
        fault("flood", at="delta 3", size=1000),
        fault("hang", at="delta 4"),  # else the answer may be whole before the remark is read
    )
    async with session(claude, stderr=stderr) as a:
        cause = await crash_of(a)
    assert isinstance(cause, ZeroDivisionError)
    assert ["in the callback that the option stderr gives"] == cause.__notes__


async def test_a_program_that_streams_nothing(tmp_path: Path) -> None:
    """Without stream events there are whole messages only, and the result."""
    claude = scripted_claude(tmp_path, streams=False)
    async with session(claude) as a:
        *events, result = await events_of(a, TOLD)
        whole = [event.text for event in events if isinstance(event, AssistantMessage)]
        assert str(result) == "".join(whole)
        assert KNOWN == str(await a.query(ASKED))


# ---- results ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("at", "of", "older"),
    [
        ("delta 3", "task", False),
        ("delta 3", "prompt", False),
        ("idle", "prompt", False),
        ("delta 3", "task", True),
        ("idle", "task", True),
    ],
)
async def test_a_result_that_nobody_asked_for_ends_no_turn(
    tmp_path: Path, at: str, of: str, older: bool
) -> None:
    """A background task's, or a late one of an earlier prompt: each turn gets its own answer."""
    claude = scripted_claude(tmp_path, fault("stray", at=at, turn=2, of=of), older=older)
    async with session(claude) as a:
        assert "Python" in str(await a.query(TOLD))
        for _ in range(3):
            assert KNOWN == str(await a.query(ASKED))
        assert 1 == len(claude.pids)


@pytest.mark.parametrize(
    ("status", "kind"),
    [(529, OverloadedError), (429, RateLimitError), (401, AuthenticationError)],
)
async def test_an_error_of_the_service_is_the_same_as_over_http(
    tmp_path: Path, status: int, kind: type[APIStatusError]
) -> None:
    """It comes as a success with `is_error`; the caller gets the class of its status, and the turn
    had not been."""
    claude = scripted_claude(
        tmp_path,
        fault(
            "fail",
            at="result",
            turn=2,
            is_error=True,
            api_error_status=status,
            result=f"API Error: {status} it is too much",
            terminal_reason="api_error",
        ),
    )
    async with session(claude) as a:
        await a.query(TOLD)
        with pytest.raises(kind, match="it is too much") as caught:
            await a.query(TOLD_IN_VAIN)
        assert status == caught.value.status_code
        assert KNOWN == str(await a.query(ASKED))
        assert ["rewind_conversation"] == claude.requests[1:]
        assert 1 == len(claude.pids)


async def test_an_error_of_the_service_without_a_status(tmp_path: Path) -> None:
    """A success that is none, and has no status: a ResultError with what was said."""
    claude = scripted_claude(
        tmp_path,
        fault("fail", at="result", turn=2, is_error=True, result="API Error: Connection error."),
    )
    async with session(claude) as a:
        await a.query(TOLD)
        with pytest.raises(ResultError, match="Connection error") as caught:
            await a.query(TOLD_IN_VAIN)
        assert caught.value.result is not None
        assert ("success", True) == (caught.value.result.subtype, caught.value.result.is_error)
        assert KNOWN == str(await a.query(ASKED))


async def test_a_turn_over_its_limit_of_messages(tmp_path: Path) -> None:
    """`error_max_turns` comes without a `result`: it is a ResultError all the same."""
    claude = scripted_claude(
        tmp_path,
        fault(
            "fail",
            at="result",
            turn=2,
            lacks=["result"],
            subtype="error_max_turns",
            is_error=True,
            terminal_reason="max_turns",
            errors=["Reached maximum number of turns (1)"],
        ),
    )
    async with session(claude) as a:
        await a.query(TOLD)
        with pytest.raises(ResultError, match="Reached maximum number of turns") as caught:
            await a.query(TOLD_IN_VAIN)
        assert caught.value.result is not None
        assert "error_max_turns" == caught.value.result.subtype
        assert caught.value.partial is not None
        assert "Rebmuno" in caught.value.partial.text
        assert KNOWN == str(await a.query(ASKED))


# ---- turns that are left, and don't end ---------------------------------------------------------


async def test_a_turn_that_is_left_is_interrupted_and_taken_out(tmp_path: Path) -> None:
    """In mid-answer: the program is told to stop, and goes on with the same conversation."""
    claude = scripted_claude(tmp_path, fault("hold", at="delta 3", turn=2))
    async with session(claude) as a:
        await a.query(TOLD)
        async with a.stream(TOLD_IN_VAIN) as stream:
            async for event in stream:
                if isinstance(event, TextDelta):
                    break
        result = await a.query(ASKED)
        assert KNOWN == str(result)
        # What the turn that was left has cost is no part of it.
        assert 0.25 == result.total_cost_usd
        assert ["initialize", "interrupt", "rewind_conversation"] == claude.requests
        assert 1 == len(claude.pids)


async def test_an_interrupt_that_comes_too_early_is_repeated(tmp_path: Path) -> None:
    """A program that has not begun says yes, and goes on: it is told again, and kept."""
    claude = scripted_claude(
        tmp_path,
        fault("hold", at="delta 3", turn=2),
        fault("vain", at="interrupt", once=True),
    )
    async with session(claude) as a:
        await a.query(TOLD)
        async with a.stream(TOLD_IN_VAIN) as stream:
            await stream.receive()
        assert KNOWN == str(await a.query(ASKED))
        assert ["interrupt", "interrupt", "rewind_conversation"] == claude.requests[1:]
        assert 1 == len(claude.pids)


@pytest.mark.parametrize(
    ("how", "older"), [("silent", False), ("vain", False), ("refuse", False), ("vain", True)]
)
async def test_an_interrupt_that_ends_nothing_has_the_program_replaced(
    tmp_path: Path, how: str, older: bool
) -> None:
    """Not answered, answered in vain, or refused: another program goes on where the last good turn
    ended."""
    claude = scripted_claude(
        tmp_path,
        fault("hold", at="delta 3", turn=2),
        fault(how, at="interrupt"),
        older=older,
    )
    async with session(claude, settings=SOON) as a:
        await a.query(TOLD)
        async with a.stream(TOLD_IN_VAIN) as stream:
            async for event in stream:
                if isinstance(event, TextDelta):
                    break
            await a.interrupt()
            with pytest.raises(Interrupted):
                await read_to_end(stream)
        result = await a.query(ASKED)
        assert KNOWN == str(result)
        assert 0.25 == result.total_cost_usd
        assert 2 == len(claude.pids)
        assert not alive(claude.pids[0])
        assert KNOWN == str(await a.query(ASKED))


async def test_a_first_turn_that_hangs_leaves_a_fresh_program(tmp_path: Path) -> None:
    """There is no good turn to go on from: the other program begins anew."""
    claude = scripted_claude(tmp_path, fault("hang", at="delta 3"))
    async with session(claude, settings=SOON) as a:
        with pytest.raises(QueryTimeout) as caught:
            await a.query(TOLD_IN_VAIN, timeout=0.5)
        assert caught.value.partial is not None
        assert "Your favorite " == caught.value.partial.text
        assert UNKNOWN == str(await a.query(ASKED))
        assert 2 == len(claude.pids)
        assert [] == [flag for flag in claude.argv[1] if "resume" in flag]


async def test_a_program_that_cannot_rewind_is_replaced(tmp_path: Path) -> None:
    """The turn was interrupted; but it stays in that program's conversation."""
    claude = scripted_claude(
        tmp_path, fault("hold", at="delta 3", turn=2), fault("refuse", at="rewind_conversation")
    )
    async with session(claude) as a:
        first = await a.query(TOLD)
        with pytest.raises(QueryTimeout):
            await a.query(TOLD_IN_VAIN, timeout=0.2)
        assert KNOWN == str(await a.query(ASKED))
        assert 2 == len(claude.pids)
        assert f"--resume={first.session_id}" in claude.argv[1]


async def test_a_program_that_reads_nothing_is_replaced(tmp_path: Path) -> None:
    """A prompt larger than the pipe, which nobody reads: the turn's deadline holds, and the next
    one is answered."""
    claude = scripted_claude(tmp_path, fault("hang", at="idle", turn=1))
    async with session(claude, settings=SOON) as a:
        await a.query(TOLD)
        with pytest.raises(QueryTimeout):
            await a.query("A very long story. " * 100_000, timeout=0.3)
        assert KNOWN == str(await a.query(ASKED))
        assert 2 == len(claude.pids)


async def test_what_has_been_asked_for_beside_a_turn_does_not_wait_for_a_deaf_program(
    tmp_path: Path,
) -> None:
    """Nobody reads the pipe, and it is full: a control request has its own bound."""
    claude = scripted_claude(tmp_path, fault("hang", at="idle", turn=1))
    async with session(claude, settings={**SOON, "control_timeout": 0.2}) as a:
        await a.query(TOLD)
        async with a.stream("A very long story. " * 100_000):
            with pytest.raises(ControlError, match=r"mcp_status.* 0\.2 s"):
                await a.mcp_status()
        assert KNOWN == str(await a.query(ASKED))


# ---- control requests to the program ------------------------------------------------------------


async def test_a_late_answer_is_nobodys(tmp_path: Path) -> None:
    """It comes after its timeout, and is taken neither for the next request's nor for a turn's."""
    claude = scripted_claude(tmp_path, fault("late", at="mcp_status"))
    async with session(claude, settings={"control_timeout": 0.4}) as a:
        with pytest.raises(ControlError, match=r"mcp_status.* 0\.4 s"):
            await a.mcp_status()
        usage = await a.context_usage()  # what comes first is the other one's answer
        assert 4000 == usage["totalTokens"]
        with pytest.raises(ControlError):
            await a.mcp_status()
        assert "Python" in str(await a.query(TOLD))
        assert KNOWN == str(await a.query(ASKED))
        assert 1 == len(claude.pids)


async def test_a_refused_request_is_told_in_the_programs_words(tmp_path: Path) -> None:
    """The session is fine; the same holds for a program that doesn't know the request."""
    claude = scripted_claude(
        tmp_path,
        fault("refuse", at="set_model", error="No such model.", once=True),
        fault("refuse", at="mcp_status"),
    )
    async with session(claude) as a:
        with pytest.raises(ControlError, match=r"set_model.*No such model"):
            await a.set_model("nobody")
        with pytest.raises(ControlError, match="Unsupported control request subtype"):
            await a.mcp_status()
        with pytest.raises(ControlError, match="not enabled"):
            await a.rewind_files("abc")
        assert "Python" in str(await a.query(TOLD))
        assert 1 == len(claude.pids)


async def test_an_exit_ends_a_request_that_waits(tmp_path: Path) -> None:
    """No timeout is waited for, and the session is started again."""
    exited = Exited()
    claude = scripted_claude(tmp_path, fault("exit", at="mcp_status", code=3))
    async with session(claude, on_event=exited, settings={"control_timeout": math.inf}) as a:
        with pytest.raises(ControlError, match="ended before it answered 'mcp_status'"):
            await a.mcp_status()
        assert isinstance(await exited.wait(), ProcessError)
        assert "Python" in str(await a.query(TOLD))
        assert 2 == len(claude.pids)


# ---- control requests of the program ------------------------------------------------------------


async def test_a_request_is_answered_while_100_000_messages_are_unread(tmp_path: Path) -> None:
    """Nobody reads the stream: the permission behind all of it is asked for, and so are we."""
    asked = trio.Event()

    async def can_use_tool(
        name: str, given: Mapping[str, Any], context: ToolPermissionContext
    ) -> PermissionResult:
        asked.set()
        return PermissionResultAllow({"command": "ls -l"})

    claude = scripted_claude(
        tmp_path,
        fault("burst", at="delta 3", count=100_000),
        fault("ask", at="delta 4", request=BASH),
        fault("hold", at="delta 5"),
    )
    async with session(claude, can_use_tool=can_use_tool) as a:
        async with a.stream(TOLD) as stream:
            await asked.wait()
            assert {"mcpServers": []} == await a.mcp_status()
            pieces = []
            async for event in stream:
                if isinstance(event, TextDelta):
                    pieces.append(event.text)
                    if event.text.startswith("{"):
                        break
        assert 100_000 == pieces.count(".")
        answer = {"behavior": "allow", "updatedInput": {"command": "ls -l"}}
        assert {"subtype": "success", "response": answer} == json.loads(pieces[-1])


async def test_a_request_that_is_taken_back_is_not_answered(tmp_path: Path) -> None:
    """The callback is cancelled, and the program hears nothing of it; the turn goes on."""
    asked, cancelled = trio.Event(), trio.Event()

    async def can_use_tool(
        name: str, given: Mapping[str, Any], context: ToolPermissionContext
    ) -> PermissionResult:
        asked.set()
        try:
            await trio.sleep_forever()
        finally:
            cancelled.set()
        raise AssertionError

    claude = scripted_claude(
        tmp_path,
        fault("ask", at="delta 3", turn=1, request=BASH, wait=False),
        fault("take_back", at="mcp_status"),
        fault("hear", at="delta 4", turn=1),
        fault("ask", at="delta 3", turn=2, request={"subtype": "brand_new"}),
    )
    async with session(claude, can_use_tool=can_use_tool) as a:
        async with a.stream(TOLD) as stream:
            await asked.wait()
            assert not cancelled.is_set()
            await a.mcp_status()
            await cancelled.wait()
            await read_to_end(stream)
        assert "error" == said_in(await a.query(ASKED))["subtype"]
        assert ["error"] == claude.responses


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        ({"subtype": "brand_new"}, "brand_new"),
        ({"subtype": "elicitation", "mcp_server_name": "x", "message": "?"}, "elicitation"),
        (BASH, "can_use_tool"),
        ({"subtype": "hook_callback", "callback_id": "none", "input": {}}, "hook_callback"),
    ],
)
async def test_what_nobody_can_answer_is_refused(
    tmp_path: Path, request_: dict[str, Any], error: str
) -> None:
    """The program is told, so that it doesn't wait; the turn goes on."""
    claude = scripted_claude(tmp_path, fault("ask", at="delta 3", request=request_))
    async with session(claude) as a:
        said = said_in(await a.query(TOLD))
        assert "error" == said["subtype"]
        assert error in said["error"]
        assert 1 == len(claude.pids)


async def test_a_message_for_a_server_that_is_not_there(tmp_path: Path) -> None:
    """It gets an error of MCP's own, for the program hands it on."""
    message = {"jsonrpc": "2.0", "id": 7, "method": "tools/list", "params": {}}
    request = {"subtype": "mcp_message", "server_name": "nobody", "message": message}
    claude = scripted_claude(tmp_path, fault("ask", at="delta 3", request=request))
    async with session(claude) as a:
        said = said_in(await a.query(TOLD))
        assert "success" == said["subtype"]
        answer = said["response"]["mcp_response"]
        assert ("2.0", 7, -32601) == (answer["jsonrpc"], answer["id"], answer["error"]["code"])


async def test_a_hook_is_called_and_its_output_returned(tmp_path: Path) -> None:
    """By the id under which the program was told of it."""
    given = []

    async def hook(data: Mapping[str, Any], tool_use_id: str | None) -> dict[str, Any]:
        given.append((data["hook_event_name"], tool_use_id))
        return {"continue": False, "stopReason": "enough"}

    request = {
        "subtype": "hook_callback",
        "input": {"hook_event_name": "PreToolUse", "tool_use_id": "toolu_1"},
        "tool_use_id": "made up, as it is for events that are about no tool",
    }
    claude = scripted_claude(tmp_path, fault("ask", at="delta 3", request=request))
    async with session(claude, hooks={"PreToolUse": [HookMatcher([hook], "Bash")]}) as a:
        said = said_in(await a.query(TOLD))
    output = {"continue": False, "stopReason": "enough"}
    assert {"subtype": "success", "response": output} == said
    assert [("PreToolUse", "toolu_1")] == given


async def test_a_callback_outlives_the_turn_in_which_it_was_called(tmp_path: Path) -> None:
    """The turn was left while the permission is asked for: the answer goes nowhere, and the next
    turn is right."""
    asked, answer = trio.Event(), trio.Event()

    async def can_use_tool(
        name: str, given: Mapping[str, Any], context: ToolPermissionContext
    ) -> PermissionResult:
        asked.set()
        await answer.wait()
        return PermissionResultAllow()

    claude = scripted_claude(tmp_path, fault("ask", at="delta 3", turn=2, request=BASH))
    async with session(claude, can_use_tool=can_use_tool) as a:
        await a.query(TOLD)
        async with a.stream(TOLD_IN_VAIN):
            await asked.wait()
        assert KNOWN == str(await a.query(ASKED))
        answer.set()
        assert KNOWN == str(await a.query(ASKED))
        assert 1 == len(claude.pids)


async def test_a_callback_that_raises_crashes_the_session(tmp_path: Path) -> None:
    """In its turn; the tool doesn't run, and the session is started again."""

    async def can_use_tool(
        name: str, given: Mapping[str, Any], context: ToolPermissionContext
    ) -> PermissionResult:
        raise ZeroDivisionError("in the callback")

    claude = scripted_claude(tmp_path, fault("ask", at="delta 3", turn=2, request=BASH))
    async with session(claude, can_use_tool=can_use_tool) as a:
        await a.query(TOLD)
        assert isinstance(await crash_of(a), ZeroDivisionError)
        assert UNKNOWN == str(await a.query(ASKED))


# ---- its version --------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["hang", "exit"])
async def test_a_program_that_does_not_say_its_version_is_a_warning(
    tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """That is waited for not too long, and the session works all the same."""
    monkeypatch.setattr(discovery, "_VERSION_SECONDS", 0.3)
    claude = scripted_claude(tmp_path, fault(how, at="version"))
    with caplog.at_level(logging.WARNING, "trio_claude"):
        async with session(claude) as a:
            assert "Python" in str(await a.query(TOLD))
    assert 1 == caplog.text.count("doesn't say its version")
