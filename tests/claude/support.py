"""Writing scripted `claude` programs, and seeing that their processes are gone."""

from __future__ import annotations

import json
import os
import stat
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

import trio_claude
from tests.claude import faults
from tests.support import nothing_left
from trio_claude import (
    CLIBackend,
    ResponseStream,
    SessionCrashed,
    SessionExited,
    SessionHandle,
    SessionSpec,
    SupervisorEvent,
    TextDelta,
)

TOLD = "My favorite language is Python"
TOLD_IN_VAIN = "My favorite language is Rebmuno"
ASKED = "What's my favorite language?"
KNOWN = "Your favorite language is Python. You told me so in this conversation."
UNKNOWN = "I don't know your favorite language. You have not told me in this conversation."

PATIENCE = 15
"""Seconds, for what would take for ever."""

SOON: dict[str, Any] = {"interrupt_timeout": 0.2, "close_timeout": 0.1}
"""Settings for programs that do not let go: what else is as it should be may take its time."""

# Of the tests, and of the package itself: the program imports a module of it, and not all of it.
_PATH = [str(Path(__file__).parents[2]), str(Path(trio_claude.__file__).parent)]
_PROGRAM = """\
#!{python} -IS
import sys

sys.path += {path!r}
from tests.claude.scripted import main

main(__file__, {script!r}, **{settings!r})
"""


def fault(
    name: str,
    *,
    at: str,
    turn: int | None = None,
    start: int | None = 1,
    once: bool = False,
    **details: Any,
) -> dict[str, Any]:
    """Something that goes wrong: a function of `faults`, called with the details.

    `at` is where: `version` (it was asked for its version), `start` (before anything is read),
    `initialize`, `interrupt`, `set_model` ... (such a control request came; before its answer),
    `prompt` (before anything of a turn is written), `delta 3` (before the third piece of the
    answer's text), `message` (before the whole message), `result` (before the turn's result),
    `idle` (after it) or `end` (the end of input was read). `turn` counts the turns of a process
    from 1, None is every one; `start` counts the processes, the same way. `once`: only the first
    time that it gets there.
    """
    assert hasattr(faults, name), name
    return {
        "name": name,
        "at": at,
        "turn": turn,
        "start": start,
        "once": once,
        "details": details,
    }


@attrs.frozen
class ScriptedClaude:
    """A program that a test wrote, and what its log says about the processes that ran it."""

    path: Path

    def _log(self, kind: str) -> list[dict[str, Any]]:
        try:
            lines = Path(f"{self.path}.log").read_text().splitlines()
        except FileNotFoundError:
            return []
        return [entry for entry in map(json.loads, lines) if kind in entry]

    def forget(self) -> None:
        """Begin another log: starts are counted from 1 again."""
        Path(f"{self.path}.log").unlink()

    @property
    def argv(self) -> list[list[str]]:
        """The arguments of each start, without those that asked for the version only."""
        return [entry["argv"] for entry in self._log("argv")]

    @property
    def pids(self) -> list[int]:
        """The processes of those starts."""
        return [entry["pid"] for entry in self._log("argv")]

    @property
    def children(self) -> list[int]:
        """The processes that they started."""
        return [entry["child"] for entry in self._log("child")]

    @property
    def requests(self) -> list[str]:
        """The subtypes of the control requests that they were sent."""
        return [entry["got"] for entry in self._log("got")]

    @property
    def responses(self) -> list[str]:
        """The subtypes of the responses to what they asked for themselves."""
        return [response["subtype"] for response in self.answers]

    @property
    def answers(self) -> list[dict[str, Any]]:
        """Those responses."""
        return [entry["answered"] for entry in self._log("answered")]

    @property
    def turns(self) -> list[dict[str, Any]]:
        """Their turns: the `prompt` of each, and the `model` and the `mode` that it had."""
        return [entry["turn"] for entry in self._log("turn")]

    @property
    def finished(self) -> int:
        """How many of them had the time to finish their work after the end of input."""
        return len(self._log("finished"))

    @property
    def hanging(self) -> int:
        """How many of them have begun to hang."""
        return len(self._log("hangs"))

    @property
    def left(self) -> list[int]:
        """The processes that are still there, those that nobody reaped among them."""
        asked = [entry["pid"] for entry in self._log("version")]
        return [pid for pid in asked + self.pids if _state(pid)] + [
            pid
            for pid in self.children
            if alive(pid)  # to reap those is not the library's part
        ]


def scripted_claude(
    folder: Path,
    *script: dict[str, Any],
    older: bool = False,
    streams: bool = True,
    pace: float = 0.0,
) -> ScriptedClaude:
    """Write a `claude` program that has these faults.

    One that is `older` doesn't say which prompt a result answers, nor what the turn alone cost,
    counts the cost from 0 again when it resumes, and can't rewind its conversation. One that does
    not stream writes no events. `pace` is the seconds before each piece of text.
    """
    path = folder / "claude"
    settings = {"older": older, "streams": streams, "pace": pace}
    path.write_text(
        _PROGRAM.format(python=sys.executable, path=_PATH, script=list(script), settings=settings)
    )
    path.chmod(stat.S_IRWXU)
    return ScriptedClaude(path)


def backend(claude: ScriptedClaude, **settings: Any) -> CLIBackend:
    """A backend that runs this program."""
    return CLIBackend(cli_path=claude.path, **settings)


@asynccontextmanager
async def session(
    claude: ScriptedClaude,
    *,
    settings: dict[str, Any] | None = None,
    on_event: Callable[[SupervisorEvent], None] | None = None,
    **options: Any,
) -> AsyncIterator[SessionHandle]:
    """A supervised session `a` with this program: all in bounded time, and nothing is left."""
    before = children_of(os.getpid())
    spec = SessionSpec(name="a", backend=backend(claude, **(settings or {})), **options)
    with trio.fail_after(PATIENCE):
        async with nothing_left():
            async with trio_claude.open_supervisor([spec], name="of a", on_event=on_event):
                yield trio_claude.get_session("a")
        await wait_gone(claude)
    assert before == children_of(os.getpid())


@attrs.define
class Exited:
    """Waits for a session's end."""

    seen: trio.Event = attrs.field(factory=trio.Event)
    cause: Exception | None = None

    def __call__(self, event: SupervisorEvent) -> None:
        """Take an event."""
        if isinstance(event, SessionExited):
            self.cause = event.cause
            self.seen.set()

    async def wait(self) -> Exception | None:
        """What it ended with."""
        await self.seen.wait()
        return self.cause


async def crash_of(a: SessionHandle, prompt: str = TOLD_IN_VAIN) -> BaseException | None:
    """Ask, and return what the session dies of."""
    with pytest.raises(SessionCrashed) as caught:
        await a.query(prompt)
    return caught.value.__cause__


async def read_to_end(stream: ResponseStream) -> None:
    """Read what is left."""
    async for _ in stream:
        pass


async def begin(stream: ResponseStream) -> None:
    """Read until there is a piece of the answer's text: the program is at `delta 2` then, or
    will be before it takes another line."""
    async for event in stream:
        if isinstance(event, TextDelta):
            return
    raise AssertionError("there was no piece of text")


async def until(condition: Callable[[], object]) -> None:
    """Wait for what another process does."""
    while not condition():  # noqa: ASYNC110
        await trio.sleep(0.005)


def _state(pid: int) -> str:
    """The letter of a process's state; "" if there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return text.rpartition(")")[2].split()[0]


def alive(pid: int) -> bool:
    """Whether this process runs: one that waits to be reaped does not."""
    return _state(pid) not in ("", "Z", "X")


def children_of(parent: int) -> set[int]:
    """The processes that this one started, those that it has not reaped among them."""
    children = set()
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(FileNotFoundError, ProcessLookupError):
            if parent == int((place / "stat").read_text().rpartition(")")[2].split()[1]):
                children.add(int(place.name))
    return children


async def wait_ended(pid: int) -> None:
    """Wait until this process runs no more, whoever's child it is."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        await trio.lowlevel.wait_readable(fd)
    finally:
        os.close(fd)


async def wait_gone(claude: ScriptedClaude, seconds: float = 2.0) -> None:
    """Wait until no process of this program runs any more, and check that all were reaped."""
    with trio.move_on_after(seconds):
        for pid in claude.left:
            if alive(pid):
                await wait_ended(pid)
    assert [] == claude.left
