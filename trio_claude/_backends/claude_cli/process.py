"""The ``claude`` program as a process: how it is started, and that nothing of it is left.

It is the first of a group of its own, so that a Ctrl-C at the terminal, which stops *this* program
in its own order, doesn't reach it, and so that what it starts (shells, servers, whatever a tool
leaves running) can be stopped with it.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import uuid
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, final

import trio

from ..._errors import ConfigurationError, ProcessError
from . import guardian
from .guardian import MARK, send_signal
from .private import private_files

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

logger = logging.getLogger("trio_claude")

# A process that was killed is gone within milliseconds, unless the system itself hangs.
_REAP_SECONDS = 5.0

_POLL_SECONDS = 0.05


@final
class Guard:
    """Sees to it that groups of processes don't outlive this program. Made by `open_guard`."""

    def __init__(self, process: trio.Process) -> None:
        self._process = process
        self._telling = trio.Lock()

    async def add(self, group: int, mark: str, folder: str | None) -> None:
        """Have a program stopped, and the folder with its files removed, if this one is killed."""
        await self._tell(group, mark, folder)

    async def remove(self, group: int) -> None:
        """It is gone, and so are its files."""
        await self._tell(group, None, None)

    async def _tell(self, *entry: int | str | None) -> None:
        assert self._process.stdin is not None
        try:
            # Shielded: half a line would spoil those that follow. It is soon read, if at all.
            with trio.CancelScope(shield=True):
                async with self._telling:
                    await self._process.stdin.send_all(json.dumps(entry).encode() + b"\n")
        except trio.BrokenResourceError:
            # No reason to end a session for; all that is lost is a help in a worse case.
            logger.warning(
                "somebody stopped process %d, which was to stop claude programs if this program "
                "is killed; nobody will now",
                self._process.pid,
            )


@asynccontextmanager
async def open_guard() -> AsyncIterator[Guard]:
    """Start a guardian; it ends with the block, or when this program does."""
    process = await trio.lowlevel.open_process(
        [sys.executable, "-I", "-S", guardian.__file__],
        # It must not be taken for one of the programs, where we are below one ourselves.
        env={name: text for name, text in os.environ.items() if name != MARK},
        stdin=subprocess.PIPE,
        # It outlives this program by seconds, for which nobody is to wait who reads from it.
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield Guard(process)
    finally:
        with trio.CancelScope(shield=True):
            assert process.stdin is not None
            await process.stdin.aclose()
            with trio.move_on_after(_REAP_SECONDS):
                await process.wait()
            process.kill()
            await process.wait()


@asynccontextmanager
async def open_program(
    command: Sequence[str],
    *,
    files: Mapping[str, str],
    env: Mapping[str, str],
    cwd: str | None,
    guard: Guard,
    close_timeout: float,
) -> AsyncIterator[trio.Process]:
    """Run the program for the length of a block, its three streams connected to us.

    Leaving ends its input, and gives it ``close_timeout`` seconds to end, for it has a conversation
    to save; then it is terminated, and has as long again; then it is killed. Who is left of its
    group goes the last two steps, too. All of this is shielded from cancellation.

    Args:
      command: its path and its arguments.
      files: what it is told in files, by the flags that name them.
      env: its environment.
      cwd: the folder that it works in.
      guard: who sees to it that it doesn't outlive this program.
      close_timeout: in seconds.

    Raises:
      ConfigurationError: ``cwd`` is no folder.
      ProcessError: the program cannot be run.
    """
    _check_folder(cwd)
    mark = uuid.uuid4().hex
    with private_files(files) as (flags, folder):
        process = await _start([*command, *flags], {**env, MARK: mark}, cwd)
        try:
            await guard.add(process.pid, mark, folder)
            yield process
        finally:
            with trio.CancelScope(shield=True):
                await _stop(process, mark, close_timeout)
                await guard.remove(process.pid)


async def _start(command: Sequence[str], env: Mapping[str, str], cwd: str | None) -> trio.Process:
    try:
        return await trio.lowlevel.open_process(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=env,
            cwd=cwd,
            start_new_session=True,
        )
    except (OSError, ValueError) as exc:  # ValueError: a NUL character in an argument
        raise ProcessError(f"cannot run {command[0]}: {exc}") from exc


def _check_folder(cwd: str | None) -> None:
    # The system would say the same of a missing folder as of a missing program.
    if cwd is not None and not os.path.isdir(cwd):
        raise ConfigurationError(f"cwd must be a folder that there is, not {cwd!r}")


async def _stop(process: trio.Process, mark: str, patience: float) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    await process.stdin.aclose()
    async with trio.open_nursery() as nursery:
        # Who cannot write can't end: what it still has to say is read, by nobody.
        for stream in (process.stdout, process.stderr):
            nursery.start_soon(_drain, stream)
        for number in (None, signal.SIGTERM, signal.SIGKILL):
            if number is not None:
                await _send_signal(process.pid, mark, number)
            with trio.move_on_after(_REAP_SECONDS if number is signal.SIGKILL else patience):
                await process.wait()
                break
        await _stop_others(process.pid, mark, patience)
        nursery.cancel_scope.cancel(reason="the program is gone")
    await process.stdout.aclose()
    await process.stderr.aclose()


async def _stop_others(group: int, mark: str, patience: float) -> None:
    """Stop who is left when the program itself is gone."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if not await _send_signal(group, mark, number):
            return
        with trio.move_on_after(_REAP_SECONDS if number is signal.SIGKILL else patience):
            while await _send_signal(group, mark, 0):  # noqa: ASYNC110 - nobody tells of their end
                await trio.sleep(_POLL_SECONDS)


async def _send_signal(group: int, mark: str, number: int) -> bool:
    # In a thread, for it looks at all processes that there are; in one that is always to be had.
    limiter = trio.CapacityLimiter(1)
    return await trio.to_thread.run_sync(send_signal, group, mark, number, limiter=limiter)


async def _drain(stream: trio.abc.ReceiveStream) -> None:
    async for _ in stream:
        pass
