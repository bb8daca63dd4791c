"""What is made good behind a turn, where that fails, and what a resumed conversation knows."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from tests.claude.support import (
    ASKED,
    KNOWN,
    PATIENCE,
    SOON,
    TOLD,
    TOLD_IN_VAIN,
    UNKNOWN,
    Exited,
    backend,
    begin,
    crash_of,
    fault,
    read_to_end,
    scripted_claude,
    session,
    until,
)
from trio_claude import (
    HookMatcher,
    PermissionResult,
    PermissionResultAllow,
    ProcessError,
    ResultMessage,
    SessionCrashed,
    SessionHandle,
    SessionOptions,
    SessionTerminated,
    ToolPermissionContext,
)
from trio_claude._backends.claude_cli import ends, programs
from trio_claude._backends.claude_cli.ends import End, Ends
from trio_claude._backends.claude_cli.process import open_program

BASH = {"subtype": "can_use_tool", "tool_name": "Bash", "input": {"command": "ls"}}
STOP = {"subtype": "hook_callback", "input": {"hook_event_name": "Stop"}}


class Failing:
    """A hook that says when it is called, and fails when it is told to."""

    def __init__(self) -> None:
        self.called, self.wanted, self.failed = trio.Event(), trio.Event(), trio.Event()
        self.calls = 0

    async def __call__(self, data: Mapping[str, Any], tool_use_id: str | None) -> None:
        """Wait, and fail without another checkpoint."""
        self.calls += 1
        self.called.set()
        await self.wanted.wait()
        self.failed.set()
        raise ZeroDivisionError("in the hook")

    @property
    def hooks(self) -> Any:
        """The option."""
        return {"Stop": [HookMatcher([self])]}


# ---- what fails behind a turn that was left -----------------------------------------------------


@pytest.mark.parametrize("at", ["interrupt", "rewind_conversation"])
async def test_a_death_while_a_turn_is_taken_out_is_a_crash(tmp_path: Path, at: str) -> None:
    """It is told of and counted as any other, and the next program is a fresh one."""
    exited = Exited()
    claude = scripted_claude(
        tmp_path, fault("hold", at="delta 2", turn=2), fault("exit", at=at, code=3)
    )
    async with session(claude, on_event=exited) as a:
        await a.query(TOLD)
        async with a.stream(TOLD_IN_VAIN) as stream:
            await begin(stream)
        cause = await exited.wait()
        assert isinstance(cause, ProcessError)
        assert 3 == cause.exit_code
        assert UNKNOWN == str(await a.query(ASKED))
        assert 2 == len(claude.pids)


async def leave_and_ask(a: SessionHandle, hook: Failing) -> BaseException | None:
    """Leave a turn in which a hook was called, ask once more, and let the hook fail when that
    question waits for the turn to be taken out; return what the session crashes of."""
    async with trio.open_nursery() as nursery:
        async with a.stream(TOLD_IN_VAIN) as stream:
            await begin(stream)
            await hook.called.wait()

        async def fail() -> None:
            await trio.testing.wait_all_tasks_blocked()
            hook.wanted.set()

        nursery.start_soon(fail)
        return await crash_of(a, ASKED)


# The interrupt is not answered before the hook is, which waits for the next question.
_LATE = [
    fault("ask", at="delta 2", turn=2, wait=False, request=STOP),
    fault("hold", at="delta 2", turn=2),
    fault("late", at="interrupt"),
]


async def test_a_callback_that_fails_while_the_next_question_waits_is_raised(
    tmp_path: Path,
) -> None:
    """The callback of a turn that was left, and is still being taken out: the session crashes in
    the turn that waits for that."""
    hook = Failing()
    claude = scripted_claude(tmp_path, *_LATE)
    async with session(claude, hooks=hook.hooks) as a:
        await a.query(TOLD)
        assert isinstance(await leave_and_ask(a, hook), ZeroDivisionError)
        assert UNKNOWN == str(await a.query(ASKED))
        assert [TOLD, TOLD_IN_VAIN, ASKED] == [turn["prompt"] for turn in claude.turns]


async def test_a_death_is_raised_by_the_question_that_waits(tmp_path: Path) -> None:
    """The program dies when it should take the turn out, and not when it is interrupted."""
    asked = trio.Event()

    async def hook(data: Mapping[str, Any], tool_use_id: str | None) -> None:
        await asked.wait()

    claude = scripted_claude(tmp_path, *_LATE, fault("exit", at="rewind_conversation", code=3))
    async with session(claude, hooks={"Stop": [HookMatcher([hook])]}) as a:
        await a.query(TOLD)
        async with trio.open_nursery() as nursery:
            async with a.stream(TOLD_IN_VAIN) as stream:
                await begin(stream)

            async def answer() -> None:
                await trio.testing.wait_all_tasks_blocked()
                asked.set()

            nursery.start_soon(answer)
            assert isinstance(await crash_of(a, ASKED), ProcessError)
        assert UNKNOWN == str(await a.query(ASKED))


async def test_a_session_that_is_stopped_does_not_wait_for_a_turn_to_be_taken_out(
    tmp_path: Path,
) -> None:
    """Its program hangs, and may do so for an hour: it is stopped, and who waits for it told."""
    claude = scripted_claude(tmp_path, fault("hang", at="delta 2"))
    settings = {"interrupt_timeout": 3600.0, "close_timeout": 0.1}
    async with session(claude, settings=settings, restart="transient") as a:
        async with a.stream(TOLD_IN_VAIN) as stream:
            await begin(stream)

        async def ask() -> None:
            with pytest.raises(SessionTerminated):
                await a.server_info()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await trio.testing.wait_all_tasks_blocked()
            await a.stop()


async def test_a_session_is_stopped_while_it_has_no_program(tmp_path: Path) -> None:
    """One was stopped, for it didn't let go of a turn, and no other one has been needed since."""
    claude = scripted_claude(tmp_path, fault("hang", at="delta 2"))
    async with session(claude, settings=SOON) as a:
        async with a.stream(TOLD_IN_VAIN) as stream:
            await begin(stream)
        await until(lambda: not claude.left)
    assert 1 == len(claude.pids)


async def test_a_session_is_stopped_while_its_program_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one is being stopped; who waits for the other one is told that there is none."""
    ending, may_end = trio.Event(), trio.Event()

    async def end() -> None:
        ending.set()
        with trio.CancelScope(shield=True):
            await may_end.wait()

    at_the_end_of_programs(monkeypatch, end)
    claude = scripted_claude(tmp_path, fault("hang", at="delta 2"))
    async with session(claude, settings=SOON, restart="transient") as a:
        async with a.stream(TOLD_IN_VAIN) as stream:
            await begin(stream)
        await ending.wait()

        async def ask() -> None:
            with pytest.raises(SessionTerminated):
                await a.server_info()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(a.stop)
            await trio.testing.wait_all_tasks_blocked()
            may_end.set()
    assert 1 == len(claude.pids)


async def test_a_program_that_was_replaced_cannot_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Something goes wrong when it is cleared away: the conversation goes on with the next one."""

    async def end() -> None:
        if 1 == len(claude.pids):
            raise OSError("the folder cannot be removed")

    at_the_end_of_programs(monkeypatch, end)
    claude = scripted_claude(
        tmp_path, fault("hold", at="delta 2", turn=2), fault("silent", at="rewind_conversation")
    )
    async with session(claude, settings=SOON) as a:
        await a.query(TOLD)
        async with a.stream(TOLD_IN_VAIN) as stream:
            await begin(stream)
        assert KNOWN == str(await a.query(ASKED))
        assert 2 == len(claude.pids)


def at_the_end_of_programs(
    monkeypatch: pytest.MonkeyPatch, end: Callable[[], Awaitable[None]]
) -> None:
    """Do this when a program has been stopped, and before anybody knows."""

    @asynccontextmanager
    async def open_slowly(*args: Any, **kwargs: Any) -> AsyncIterator[trio.Process]:
        try:
            async with open_program(*args, **kwargs) as process:
                yield process
        finally:
            await end()

    monkeypatch.setattr(programs, "open_program", open_slowly)


# ---- crashes between turns ----------------------------------------------------------------------


async def test_a_turn_that_comes_in_the_moment_of_a_failure_raises_it(tmp_path: Path) -> None:
    """The conversation is cancelled already: its turn says why, and is not just cancelled."""
    hook = Failing()
    claude = scripted_claude(tmp_path, fault("ask", at="idle", wait=False, request=STOP))
    options = SessionOptions(hooks=hook.hooks)
    with trio.fail_after(PATIENCE), pytest.raises(ZeroDivisionError) as in_the_end:
        async with (
            backend(claude).connect() as connection,
            connection.open(options) as conversation,
        ):
            async with conversation.turn(TOLD, options) as events:
                async for event in events:
                    if isinstance(event, ResultMessage):
                        break
            hook.wanted.set()
            await hook.failed.wait()
            with pytest.raises(ZeroDivisionError) as in_the_turn:
                async with conversation.turn(ASKED, options):
                    raise AssertionError("it was asked")
    assert in_the_end.value is in_the_turn.value
    assert [TOLD] == [turn["prompt"] for turn in claude.turns]


async def test_a_crash_in_the_moment_of_a_question_is_told_as_one(tmp_path: Path) -> None:
    """The session has the question and crashes before it asks: SessionCrashed, not as if somebody
    had stopped it; the session is started again."""
    hook = Failing()
    claude = scripted_claude(tmp_path, fault("ask", at="idle", wait=False, request=STOP))
    async with session(claude, hooks=hook.hooks) as a:
        await a.query(TOLD)
        await hook.called.wait()
        async with trio.open_nursery() as nursery:

            async def ask() -> None:
                hook.wanted.set()  # it runs when this task has handed the question over
                assert isinstance(await crash_of(a, ASKED), ZeroDivisionError)

            nursery.start_soon(ask)
        assert UNKNOWN == str(await a.query(ASKED))


async def test_a_failed_callback_between_turns_crashes_the_session(tmp_path: Path) -> None:
    """Nobody has asked anything: the supervisor is told, once, and starts it again."""
    hook, exited = Failing(), Exited()
    ask = fault("ask", at="idle", wait=False, request=STOP)
    claude = scripted_claude(tmp_path, ask, ask)
    async with session(claude, hooks=hook.hooks, on_event=exited) as a:
        await a.query(TOLD)
        await until(lambda: 2 == hook.calls)
        hook.wanted.set()  # now both fail
        assert isinstance(await exited.wait(), ZeroDivisionError)
        assert UNKNOWN == str(await a.query(ASKED))


async def test_a_callback_in_a_thread_does_not_hold_back_the_news_of_a_death(
    tmp_path: Path,
) -> None:
    """A human is asked in a thread, which cannot be cancelled: the caller knows at once that the
    program is dead."""
    asked, answered = trio.Event(), threading.Event()

    async def can_use_tool(
        name: str, given: Mapping[str, Any], context: ToolPermissionContext
    ) -> PermissionResult:
        asked.set()
        await trio.to_thread.run_sync(answered.wait)
        return PermissionResultAllow()

    claude = scripted_claude(tmp_path, fault("ask", at="delta 2", request=BASH))
    async with session(claude, can_use_tool=can_use_tool) as a:
        try:
            async with a.stream(TOLD) as stream:
                await asked.wait()
                os.kill(claude.pids[0], signal.SIGKILL)
                with pytest.raises(SessionCrashed) as caught:
                    await read_to_end(stream)
        finally:
            answered.set()
        assert isinstance(caught.value.__cause__, ProcessError)
        assert UNKNOWN == str(await a.query(ASKED))


# ---- where conversations end --------------------------------------------------------------------


@pytest.fixture
async def earlier(tmp_path: Path) -> str:
    """The id of a conversation in which something was told."""
    claude = scripted_claude(tmp_path)
    async with session(claude) as a:
        session_id = (await a.query(TOLD)).session_id
    claude.forget()
    assert session_id is not None
    return session_id


def continuing(how: str, session_id: str) -> dict[str, Any]:
    """The options that go on with this conversation."""
    if how == "continue":
        return {"continue_conversation": True}
    return {"resume": session_id, "fork_session": how == "fork"}


@pytest.mark.parametrize("how", ["resume", "continue", "fork"])
async def test_the_first_turn_is_left_and_the_program_does_not_rewind(
    tmp_path: Path, earlier: str, how: str
) -> None:
    """Of a conversation that goes on: there is no good turn of ours to go on from, so the next
    program takes the turn out before it is asked."""
    claude = scripted_claude(
        tmp_path, fault("hold", at="delta 2"), fault("silent", at="rewind_conversation")
    )
    async with session(claude, settings=SOON, **continuing(how, earlier)) as a:
        async with a.stream(TOLD_IN_VAIN) as stream:
            await begin(stream)
        result = await a.query(ASKED)
        assert KNOWN == str(result)
        assert (how == "fork") == (earlier != result.session_id)
        assert f"--resume={result.session_id}" in claude.argv[1]
        assert 2 == claude.requests.count("rewind_conversation")
        assert KNOWN == str(await a.query(ASKED))
        assert 2 == len(claude.pids)


@pytest.mark.parametrize("how", ["resume", "fork"])
async def test_the_first_turn_dies_and_is_in_no_conversation(
    tmp_path: Path, earlier: str, how: str
) -> None:
    """`kill -9` in mid-answer: the session that is started again goes on from before the turn."""
    claude = scripted_claude(tmp_path, fault("exit", at="delta 2", code=-9))
    async with session(claude, **continuing(how, earlier)) as a:
        assert isinstance(await crash_of(a), ProcessError)
        result = await a.query(ASKED)
        assert KNOWN == str(result)
        assert (how == "fork") == (earlier != result.session_id)
        assert 2 == len(claude.pids)


async def test_a_later_turn_dies_and_is_in_no_conversation(tmp_path: Path, earlier: str) -> None:
    """The session that is started again goes on where the last good turn has ended."""
    claude = scripted_claude(tmp_path, fault("exit", at="delta 2", turn=2, code=-9))
    async with session(claude, resume=earlier) as a:
        await a.query("My favorite color is blue")
        assert isinstance(await crash_of(a), ProcessError)
        assert KNOWN == str(await a.query(ASKED))
        assert "blue" in str(await a.query("What's my favorite color?"))


async def test_an_older_program_keeps_the_first_turn(tmp_path: Path, earlier: str) -> None:
    """It can take nothing out, and says so: what was left stays, and the session goes on."""
    claude = scripted_claude(tmp_path, fault("hold", at="delta 2"), older=True)
    async with session(claude, settings=SOON, resume=earlier) as a:
        async with a.stream(TOLD_IN_VAIN) as stream:
            await begin(stream)
        assert "Rebmuno" in str(await a.query(ASKED))
        assert [f"--resume={earlier}"] == [flag for flag in claude.argv[1] if "resume" in flag]
        assert "Python" in str(await a.query(TOLD))
        assert KNOWN == str(await a.query(ASKED))
        assert 2 == len(claude.pids)


async def test_a_cleared_conversation_does_not_come_back(tmp_path: Path) -> None:
    """A command of the program's own begins another conversation, and no model answers it: the
    program that goes on after a turn that was left goes on with that one."""
    claude = scripted_claude(
        tmp_path,
        fault("command", at="prompt", turn=2),
        fault("hold", at="delta 2", turn=3),
        fault("silent", at="rewind_conversation"),
    )
    async with session(claude, settings=SOON) as a:
        told = await a.query(TOLD)
        cleared = await a.query("/clear")
        assert told.session_id != cleared.session_id
        async with a.stream(TOLD_IN_VAIN) as stream:
            await begin(stream)
        assert UNKNOWN == str(await a.query(ASKED))
        resumed = [flag for flag in claude.argv[1] if "resume" in flag]
        assert [f"--resume={cleared.session_id}"] == resumed


async def test_a_turn_may_end_with_what_a_tool_gave_back(tmp_path: Path) -> None:
    """The conversation goes on behind that: not with a tool that was asked for and never ran."""
    claude = scripted_claude(
        tmp_path,
        fault("tool_result", at="result", turn=1),
        fault("hold", at="delta 2", turn=2),
        fault("silent", at="rewind_conversation"),
    )
    async with session(claude, settings=SOON) as a:
        told = await a.query(TOLD)
        async with a.stream(TOLD_IN_VAIN) as stream:
            await begin(stream)
        assert KNOWN == str(await a.query(ASKED))
        (last,) = (flag for flag in claude.argv[1] if flag.startswith("--resume-session-at="))
    saved = (tmp_path / f"{told.session_id}.json").read_text()
    assert f'"uuid": "{last.partition("=")[2]}"' in saved.partition("It is recorded.")[2][:100]


def test_only_so_many_ends_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of conversations in which something was asked last."""
    monkeypatch.setattr(ends, "_KEPT", 2)
    some = Ends()
    some.answered("a", "1")
    some.asked("b", "2")
    some.asked("a", "3")
    some.answered("c", None)
    assert [End("1", "3"), End(), End(), End()] == [some.of(name) for name in ("a", "b", "c", None)]
