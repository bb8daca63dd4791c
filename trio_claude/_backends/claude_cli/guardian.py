"""What is left of this program's children when it is killed: nothing.

A program that is killed outright can stop nobody. So a second one, this one, is told of each group
of processes that is begun and of each that is gone, and reads its standard input to the end, which
comes when the first program is no more, for whatever reason. What is left then gets some time to
end by itself, for its own input has ended too; then it is terminated, and killed.

Run as a script of its own, with the standard library alone and as little of that as will do.
"""

import os
import shutil
import signal
import sys
import time
from contextlib import suppress

PATIENCE = 2.0
"""Seconds for a group to end by itself, and once more after it was told to."""


def gone(group: int) -> bool:
    """Whether nobody is left in the group."""
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):
        return True
    return False


def wait_gone(groups: set[int]) -> set[int]:
    """Wait until the groups are gone, for as long as the patience lasts; those that are left."""
    end = time.monotonic() + PATIENCE
    while True:
        groups = {group for group in groups if not gone(group)}
        if not groups or time.monotonic() > end:
            return groups
        time.sleep(0.05)


def main() -> None:
    """Keep the list; when the input ends, see to it that nobody on it is left."""
    files: dict[int, bytes] = {}
    for line in sys.stdin.buffer:
        group, _, folder = line.rstrip(b"\n").partition(b" ")
        if int(group) > 0:
            files[int(group)] = folder
        else:
            files.pop(-int(group), None)
    groups = wait_gone(set(files))
    for stop in (signal.SIGTERM, signal.SIGKILL):
        for left in groups:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(left, stop)
        groups = wait_gone(groups)
    for folder in filter(None, files.values()):
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
