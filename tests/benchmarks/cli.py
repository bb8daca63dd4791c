"""What a session on the ``claude`` program costs, with a program that costs little: `program`."""

from __future__ import annotations

import gc
import json
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import trio

from . import program

Figures = dict[str, float]

_WARM_UP = 20

_PROMPT = "Hi"


@contextmanager
def installed(events: int) -> Iterator[str]:
    """The path of a program that answers each prompt with so many words, there for the block."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "claude")
        command = shlex.join([sys.executable, "-I", "-S", program.__file__, str(events)])
        # By way of a shell: a path after `#!` must be short and without spaces.
        path.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
        path.chmod(0o700)
        yield str(path)


# ---- CPU of an event ----------------------------------------------------------------------------


async def _read(turns: int, events: int, read: Callable[[], Awaitable[int]]) -> Figures:
    """Read a turn, and then so many more; seconds of CPU an event of those.

    Args:
      read: reads a turn, and gives how many words came by themselves.
    """
    assert await read() == events
    gc.collect()
    began = time.process_time()
    for _ in range(turns):
        words = await read()
        assert words == events, f"{words} of {events} words"
    return {"cpu": (time.process_time() - began) / (turns * events)}


def ours(turns: int, events: int) -> Figures:
    """A session's `stream`."""
    from trio_claude import CLIBackend, ResultMessage, TextDelta, open_session

    text = program.text(events)

    async def main(path: str) -> Figures:
        async with open_session(backend=CLIBackend(cli_path=path)) as session:

            async def read() -> int:
                words = 0
                async with session.stream(_PROMPT) as answer:
                    async for event in answer:
                        if isinstance(event, TextDelta):
                            words += 1
                assert isinstance(event, ResultMessage)
                assert event.result == text
                return words

            return await _read(turns, events, read)

    with installed(events) as path:
        return trio.run(main, path)


def official(turns: int, events: int) -> Figures:
    """The official SDK's `ClaudeSDKClient`, on Trio as well."""
    from claude_agent_sdk import (
        ClaudeAgentOptions,
        ClaudeSDKClient,
        ResultMessage,
        StreamEvent,
    )

    text = program.text(events)

    async def main(path: str) -> Figures:
        options = ClaudeAgentOptions(cli_path=path, include_partial_messages=True)
        async with ClaudeSDKClient(options) as client:

            async def read() -> int:
                words = 0
                await client.query(_PROMPT)
                async for message in client.receive_response():
                    if isinstance(message, StreamEvent):
                        words += message.event["type"] == "content_block_delta"
                assert isinstance(message, ResultMessage)
                assert message.result == text
                return words

            return await _read(turns, events, read)
        raise AssertionError("the block returns")

    with installed(events) as path:
        return trio.run(main, path)


# ---- the time of a turn -------------------------------------------------------------------------


async def _repeat(turns: int, ask: Callable[[], Awaitable[float]]) -> Figures:
    """Ask so often; the seconds of a turn beyond those that were the program's own.

    Args:
      ask: has a turn, and gives the milliseconds that were the program's own.
    """
    beyond = []
    for number in range(_WARM_UP + turns):
        if number == _WARM_UP:
            gc.collect()
        began = time.perf_counter()
        own_ms = await ask()
        beyond.append(time.perf_counter() - began - own_ms / 1000)
    return {"beyond": statistics.median(beyond[_WARM_UP:])}


def turn(turns: int, events: int) -> Figures:
    """A session's `query`."""
    from trio_claude import CLIBackend, open_session

    text = program.text(events)

    async def main(path: str) -> Figures:
        async with open_session(backend=CLIBackend(cli_path=path)) as session:

            async def ask() -> float:
                result = await session.query(_PROMPT)
                assert result.result == text
                own_ms: float = result.extra["own_ms"]
                return own_ms

            return await _repeat(turns, ask)

    with installed(events) as path:
        return trio.run(main, path)


def floor(turns: int, events: int) -> Figures:
    """The same by bare Trio: a line is written, and lines are read until it is the result."""
    text = program.text(events)
    message = {"role": "user", "content": _PROMPT}
    line = json.dumps({"type": "user", "message": message}).encode() + b"\n"

    async def main(path: str) -> Figures:
        pipe = subprocess.PIPE
        process = await trio.lowlevel.open_process([path], stdin=pipe, stdout=pipe)
        stdin, stdout = process.stdin, process.stdout
        assert stdin is not None
        assert stdout is not None

        async def ask() -> float:
            await stdin.send_all(line)
            rest = b""
            while True:
                data = await stdout.receive_some()
                assert data, "the program ended"
                *lines, rest = (rest + data).split(b"\n")
                for one in map(json.loads, lines):
                    if one["type"] == "result":
                        assert one["result"] == text
                        own_ms: float = one["own_ms"]
                        return own_ms

        async with stdin, stdout:
            figures = await _repeat(turns, ask)
        await process.wait()
        return figures

    with installed(events) as path:
        return trio.run(main, path)
