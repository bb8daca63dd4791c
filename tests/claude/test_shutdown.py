"""Nothing of the program is left, however it is told to end, and whoever is killed."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio

import trio_claude
from tests.claude.support import (
    PATIENCE,
    SOON,
    TOLD,
    ScriptedClaude,
    alive,
    children_of,
    fault,
    scripted_claude,
    session,
    wait_ended,
)
from trio_claude import (
    SessionHandle,
)

DEAF = fault("deaf", at="start", start=None)
"""It ends neither with its input nor for SIGTERM."""

CHILD = fault("child", at="start", start=None)
"""It has a child in its group that ignores SIGTERM."""

GREEDY_CHILD = fault("child", at="start", start=None, keeps_output=True)
"""The same, and the child has the program's output open."""


# ---- the ladder ---------------------------------------------------------------------------------


async def test_a_program_may_finish_its_work(tmp_path: Path) -> None:
    """Its input ends, and it has `close_timeout` seconds to save what it has to; nobody kills it."""
    claude = scripted_claude(tmp_path, fault("finish", at="end", seconds=0.3))
    async with session(claude, settings={"close_timeout": 10.0}) as a:
        await a.query(TOLD)
    assert 1 == claude.finished


async def test_a_program_that_ignores_the_end_of_its_input_is_terminated(tmp_path: Path) -> None:
    """After `close_timeout` seconds, which begin once its input has ended."""
    claude = scripted_claude(tmp_path, fault("deaf", at="start", signals=False))
    async with session(claude, settings={"close_timeout": 0.2}) as a:
        await a.query(TOLD)
        begin = time.monotonic()
    assert 0.2 <= time.monotonic() - begin < 5


async def test_a_program_that_ignores_everything_is_killed(tmp_path: Path) -> None:
    """After `close_timeout` seconds more."""
    claude = scripted_claude(tmp_path, DEAF)
    async with session(claude, settings={"close_timeout": 0.2}) as a:
        await a.query(TOLD)
        begin = time.monotonic()
    assert 0.4 <= time.monotonic() - begin < 5


async def test_a_program_that_writes_is_read_until_it_ends(tmp_path: Path) -> None:
    """What it says last is larger than a pipe, on both of its outputs, and it is let finish."""
    claude = scripted_claude(
        tmp_path,
        fault("say", at="end", lines=["." * 1_000_000]),
        fault("flood", at="end", size=1_000_000),
        fault("finish", at="end", seconds=0.0),
    )
    async with session(claude, settings={"close_timeout": 10.0}) as a:
        await a.query(TOLD)
    assert 1 == claude.finished


@pytest.mark.parametrize("child", [CHILD, GREEDY_CHILD])
async def test_what_the_program_started_goes_with_it(tmp_path: Path, child: dict[str, Any]) -> None:
    """A process of its group that ignores SIGTERM, though the program itself ends as it should."""
    claude = scripted_claude(tmp_path, child)
    async with session(claude, settings=SOON) as a:
        await a.query(TOLD)
        assert alive(claude.children[0])
    assert 1 == len(claude.children)


async def test_what_a_crashed_program_started_goes_too(tmp_path: Path) -> None:
    """Before the next program begins."""
    claude = scripted_claude(tmp_path, CHILD, fault("exit", at="delta 3", code=3))
    async with session(claude, settings=SOON) as a:
        with pytest.raises(trio_claude.SessionCrashed):
            await a.query(TOLD)
        await a.query(TOLD)
        assert [False, True] == [alive(pid) for pid in claude.children]
        assert [False, True] == [alive(pid) for pid in claude.pids]


# ---- by whom it is told to end ------------------------------------------------------------------


async def stop(supervisor: trio_claude.Supervisor, a: SessionHandle) -> None:
    """Have the supervisor stop the session."""
    await supervisor.terminate_session("a")


async def restart(supervisor: trio_claude.Supervisor, a: SessionHandle) -> None:
    """Have the supervisor start the session again."""
    await supervisor.restart_session("a")


async def clear(supervisor: trio_claude.Supervisor, a: SessionHandle) -> None:
    """Have the conversation forgotten."""
    await a.clear()


async def leave(supervisor: trio_claude.Supervisor, a: SessionHandle) -> None:
    """Leave the supervisor's block."""


@pytest.mark.parametrize("how", [stop, restart, clear, leave])
async def test_it_ends_with_its_session(
    tmp_path: Path, how: Callable[[trio_claude.Supervisor, SessionHandle], Awaitable[None]]
) -> None:
    """Terminated, restarted or cleared: the old program is gone when the call returns, and
    there is another one where there should be."""
    claude = scripted_claude(tmp_path, DEAF)
    async with session(claude, settings=SOON) as a:
        await a.query(TOLD)
        await how(trio_claude.get_supervisor("of a"), a)
        assert (how is leave) == alive(claude.pids[0])
        if how in (restart, clear):
            assert "Python" in str(await a.query(TOLD))
            assert 2 == len(claude.pids)


@pytest.mark.parametrize("at", ["initialize", "delta 3", "end"])
async def test_a_cancelled_supervisor_leaves_nothing(tmp_path: Path, at: str) -> None:
    """Cancelled while the program starts, while it answers, or while it ends: nothing is left, and
    it takes no longer than the ladder."""
    claude = scripted_claude(tmp_path, DEAF, fault("hang", at=at))
    async with trio.open_nursery() as nursery:
        with trio.CancelScope() as scope:
            nursery.start_soon(cancel_when_it_hangs, scope, claude)
            async with session(claude, settings=SOON) as a:
                if at != "end":
                    await a.query(TOLD)
        nursery.cancel_scope.cancel(reason="it has done its work")
    assert scope.cancel_called
    assert [] == claude.left


async def cancel_when_it_hangs(scope: trio.CancelScope, claude: ScriptedClaude) -> None:
    """Cancel as soon as the program does nothing any more."""
    while not claude.hanging:  # noqa: ASYNC110 - it is another process that gets there
        await trio.sleep(0.01)
    scope.cancel(reason="to see what is left")
    await trio.sleep_forever()  # so that it doesn't count as a task that has gone meanwhile


# ---- the parent is killed -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "cancelled_starts"),
    [
        ([], 0),
        (
            [
                fault("deaf", at="prompt", start=None),
                fault("child", at="prompt", start=None, keeps_output=True),
            ],
            20,
        ),
    ],
)
async def test_a_killed_parent_leaves_nothing(
    tmp_path: Path, script: list[dict[str, Any]], cancelled_starts: int
) -> None:
    """`kill -9` of the program that has the session: all are gone within seconds, and so is who
    saw to that; also where starts were cancelled before, at one moment or another."""
    claude = scripted_claude(tmp_path, fault("hold", at="delta 3"), *script)
    with trio.fail_after(PATIENCE):
        parent = await trio.lowlevel.open_process(
            [sys.executable, "-m", "tests.claude.parent", str(claude.path), str(cancelled_starts)],
            cwd=Path(__file__).parents[2],
            stdout=subprocess.PIPE,
        )
        assert parent.stdout is not None
        try:
            said = b""
            while not said.endswith(b"\n"):
                said += await parent.stdout.receive_some()
            assert b"in mid-answer\n" == said
            # The guardian is one of its children.
            program_and_guardian = children_of(parent.pid)
            assert 2 == len(program_and_guardian)
            assert all(map(alive, program_and_guardian))
            everybody = {*program_and_guardian, *claude.pids, *claude.children}
        finally:
            parent.kill()
            assert -signal.SIGKILL == await parent.wait()
            await parent.stdout.aclose()
        with trio.fail_after(8):
            for pid in everybody:
                await wait_ended(pid)
