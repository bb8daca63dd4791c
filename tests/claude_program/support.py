"""What these tests are made of: a place for the program to live in, and words for the simulator."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import attrs
import trio

from trio_claude import (
    AssistantMessage,
    CLIBackend,
    ResponseStream,
    SessionHandle,
    SessionSpec,
    TextDelta,
    ToolUseBlock,
    open_session,
)
from trio_claude.simulator import Responder, SimulatedRequest, Simulator, open_simulator

# Every wait in these tests is for something that happens; this is for when it does not.
PATIENCE = 60

LEARN = "My favorite language is Python"
LEARN_IN_VAIN = "My favorite language is Rebmuno"
ASK = "What's my favorite language?"


@attrs.frozen
class Claude:
    """The program, with a home and a working directory of one test's own."""

    backend: CLIBackend
    home: Path
    cwd: Path

    def options(self, simulator: Simulator, **more: Any) -> dict[str, Any]:
        """The options of a session whose program asks the simulator, and nobody else."""
        return {
            "backend": self.backend,
            "base_url": simulator.base_url,
            "api_key": "a-dummy",
            "cwd": self.cwd,
            "max_retries": 0,
            "timeout": PATIENCE,
            # Of this process's environment nothing but where programs are.
            "inherit_env": ["PATH"],
            "env": {"HOME": str(self.home), "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1"},
            **more,
        }

    def spec(self, simulator: Simulator, **more: Any) -> SessionSpec:
        """The same for a supervisor."""
        return SessionSpec(**self.options(simulator, **more))

    def transcripts(self) -> str:
        """What the program has written down of its conversations."""
        notes = self.home.glob(".claude/projects/*/*.jsonl")
        return "".join(note.read_text() for note in notes)

    @asynccontextmanager
    async def session(
        self, responder: Responder | None = None, **options: Any
    ) -> AsyncIterator[tuple[SessionHandle, Simulator]]:
        """One session, and the simulator that answers it."""
        with trio.fail_after(PATIENCE):
            async with (
                open_simulator(responder) as simulator,
                open_session(**self.options(simulator, **options)) as session,
            ):
                yield session, simulator


def use(name: str, **tool_input: object) -> dict[str, Any]:
    """A block that uses a tool."""
    return {"type": "tool_use", "name": name, "input": tool_input}


def conversations(simulator: Simulator) -> list[SimulatedRequest]:
    """The requests for an answer, without the program's own small ones."""
    return [r for r in simulator.requests if r.path == "/v1/messages" and r.body.get("tools")]


def results(simulator: Simulator) -> list[dict[str, Any]]:
    """The results of tools in the last conversation that was sent."""
    return [
        block
        for message in conversations(simulator)[-1].body["messages"]
        if isinstance(message["content"], list)
        for block in message["content"]
        if block["type"] == "tool_result"
    ]


def text_of(result: dict[str, Any]) -> str:
    """What a tool gave back, however it is wrapped."""
    content = result["content"]
    if isinstance(content, str):
        return content
    return "".join(block["text"] for block in content)


async def read_to_text(stream: ResponseStream) -> None:
    """Read the answer to its first piece of text."""
    async for event in stream:
        if isinstance(event, TextDelta):
            return
    raise AssertionError("the answer has no text")


async def read_to_tool(stream: ResponseStream) -> None:
    """Read the answer to its first use of a tool."""
    async for event in stream:
        if isinstance(event, AssistantMessage) and any(
            isinstance(block, ToolUseBlock) for block in event.content
        ):
            return
    raise AssertionError("the answer uses no tool")


async def kill(session: SessionHandle) -> None:
    """Kill the session's program as the system does when it needs the memory."""
    os.kill((await session.server_info())["pid"], signal.SIGKILL)


def processes_in(home: Path) -> Iterator[str]:
    """Whoever lives in that home: the program, and all that it has started."""
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(FileNotFoundError, ProcessLookupError, PermissionError):  # gone, or not ours
            if f"HOME={home}".encode() in (place / "environ").read_bytes().split(b"\0"):
                yield f"{place.name} {command_of(place.name)}"


def children() -> Iterator[str]:
    """Our own children, dead ones that nobody has waited for too."""
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(FileNotFoundError, ProcessLookupError):
            # The name may hold anything; what follows it is the state and the parent.
            state, parent = (place / "stat").read_text().rpartition(")")[2].split()[:2]
            if int(parent) == os.getpid():
                yield f"{place.name} ({state}) {command_of(place.name)}"


def command_of(pid: int | str) -> str:
    """The program's name and arguments, as everybody on the machine can read them."""
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
