"""What the tests of the command need: a service in another thread, and a terminal."""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Self

import pytest
import trio

from trio_claude.simulator import Simulator, open_simulator
from trio_claude.simulator.app import Responder

# Whatever is waited for has come long before.
PATIENCE = 20.0

# A new session's leader gets its terminal, so that Ctrl-C reaches it, and becomes the command.
_ON_A_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.executable, [sys.executable, "-m", "trio_claude", *sys.argv[1:]])
"""


class Service:
    """A simulator in a thread of its own, for commands that have a run of their own."""

    def __init__(self, responder: Responder | None = None) -> None:
        self._responder = responder
        self._ready = threading.Event()
        self._stop = trio.Event()

    def __enter__(self) -> Simulator:
        self._thread = threading.Thread(target=trio.run, args=(self._serve,))
        self._thread.start()
        assert self._ready.wait(PATIENCE)
        return self.simulator

    async def _serve(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        async with open_simulator(self._responder) as self.simulator:
            self._ready.set()
            await self._stop.wait()

    def call(self, function: Callable[[], None]) -> None:
        """Call it in the simulator's thread."""
        trio.from_thread.run_sync(function, trio_token=self._token)

    def __exit__(self, *_error: object) -> None:
        self._token.run_sync_soon(self._stop.set)
        self._thread.join(PATIENCE)


def use(monkeypatch: pytest.MonkeyPatch, simulator: Simulator) -> None:
    """Let the commands talk to this simulator."""
    monkeypatch.setenv("ANTHROPIC_BASE_URL", simulator.base_url)
    monkeypatch.setenv("ANTHROPIC_API_KEY", "simulated")


@contextlib.contextmanager
def new_terminal() -> Iterator[tuple[int, int]]:
    """The two ends of a terminal: the user's and the program's."""
    user, program = os.openpty()
    try:
        yield user, program
    finally:
        os.close(user)
        os.close(program)


class Terminal:
    """The command on a terminal of its own, and somebody who types."""

    def __init__(self, *args: str) -> None:
        self._user, program = os.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-c", _ON_A_TERMINAL, *args],
            stdin=program,
            stdout=program,
            stderr=program,
            start_new_session=True,
        )
        self.program = program
        self.screen = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._user)
        os.close(self.program)

    def type(self, text: str) -> None:
        """Press keys."""
        os.write(self._user, text.encode())

    def wait_for(self, text: str) -> str:
        """Read on until this text has come; gives what came up to it."""
        deadline = time.monotonic() + PATIENCE
        while text not in self.screen:
            left = max(deadline - time.monotonic(), 0)
            assert select.select([self._user], [], [], left)[0], f"{text!r}: {self.screen!r}"
            self.screen += os.read(self._user, 65536).decode()
        seen, _, self.screen = self.screen.partition(text)
        return seen

    def wait_ended(self) -> int:
        """The exit status."""
        return self.process.wait(PATIENCE)
