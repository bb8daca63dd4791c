"""What is left of this program's children when it is killed: nothing.

A program that is killed outright can stop nobody. So a second one, this one, is told of each program
that is begun and of each that is gone, and reads its standard input to the end, which comes when the
first program is no more, for whatever reason. What is left then gets some time to end by itself, for
its own input has ended too; then it is terminated, and killed.

Run as a script of its own, with the standard library alone and as little of that as will do.
"""

import json
import os
import shutil
import signal
import sys
import time
from contextlib import suppress

MARK = "TRIO_CLAUDE_PROGRAM"
"""The variable by which those are known that a program has started, and they in their turn."""

PATIENCE = 2.0
"""Seconds for a program to end by itself, and once more after it was told to."""


def send_signal(group: int, mark: str, number: int) -> bool:
    """Send a signal to a program and to whoever it has started, wherever they are by now.

    Args:
      group: of the program.
      mark: the value of `MARK` that it was started with. Who has left the group, as a shell's
        commands do, is found by it, on Linux.
      number: the signal; 0 for none.

    Returns:
      Whether there was anybody.
    """
    found = False
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)
        found = True
    if not os.path.isdir("/proc/self"):
        return found
    # Here the dead don't count, who stay in the group until somebody asks for them.
    found = False
    for pid, its_group in _alive(group, mark):
        found = True
        if its_group != group:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, number)
    return found


def _alive(group: int, mark: str) -> list[tuple[int, int]]:
    """The processes, and the group of each."""
    variable = f"{MARK}={mark}\0".encode()
    alive = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError):  # it has ended meanwhile, or is somebody else's
            # The name, in parentheses, may have anything in it.
            state, _parent, its_group = _read(f"/proc/{pid}/stat").rpartition(b")")[2].split()[:3]
            if state not in (b"Z", b"X") and (
                int(its_group) == group or variable in _read(f"/proc/{pid}/environ")
            ):
                alive.append((int(pid), int(its_group)))
    return alive


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def wait_gone(programs: dict[int, str]) -> dict[int, str]:
    """Wait until they are gone, for as long as the patience lasts; those that are left."""
    end = time.monotonic() + PATIENCE
    while True:
        programs = {group: mark for group, mark in programs.items() if send_signal(group, mark, 0)}
        if not programs or time.monotonic() > end:
            return programs
        time.sleep(0.05)


def main() -> None:
    """Keep the list; when the input ends, see to it that nobody on it is left."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # whoever stops all that there is needs it still
    programs: dict[int, str] = {}
    folders: dict[int, str | None] = {}
    for line in sys.stdin.buffer:
        group, mark, folder = json.loads(line)
        if mark is not None:
            programs[group], folders[group] = mark, folder
        else:
            programs.pop(group, None)
            folders.pop(group, None)
    programs = wait_gone(programs)
    for number in (signal.SIGTERM, signal.SIGKILL):
        for left, mark in programs.items():
            send_signal(left, mark, number)
        programs = wait_gone(programs)
    for folder in filter(None, folders.values()):
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
