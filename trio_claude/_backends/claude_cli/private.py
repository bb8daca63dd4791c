"""What the program is told in files, because its arguments can be read by everybody on the machine.

Servers and settings may hold keys, prompts may be nobody's business, and no argument may be longer
than 128 KiB on Linux. So these go into a folder that only this user can read, for as long as the
program runs.
"""

from __future__ import annotations

import os
import tempfile
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

# The beginning of an argument, and of the one that names a file instead. What begins with a brace
# is JSON; else it is a path already.
_IN_FILES = {
    "--mcp-config={": "--mcp-config=",
    "--settings={": "--settings=",
    "--system-prompt=": "--system-prompt-file=",
    "--append-system-prompt=": "--append-system-prompt-file=",
}


@contextmanager
def private_arguments(arguments: Sequence[str]) -> Iterator[tuple[list[str], str | None]]:
    """The arguments, with files in the place of what is private, and the files' folder if there
    are any; it is gone when the block is left."""
    if not any(_beginning(argument) for argument in arguments):
        yield list(arguments), None
        return
    with tempfile.TemporaryDirectory(prefix="trio-claude-") as folder:
        yield [_in_file(argument, folder, n) for n, argument in enumerate(arguments)], folder


def _beginning(argument: str) -> str | None:
    return next((beginning for beginning in _IN_FILES if argument.startswith(beginning)), None)


def _in_file(argument: str, folder: str, number: int) -> str:
    beginning = _beginning(argument)
    if beginning is None:
        return argument
    path = os.path.join(folder, str(number))
    with open(path, "w", encoding="utf-8", newline="") as file:
        file.write(argument[len(beginning.removesuffix("{")) :])
    return _IN_FILES[beginning] + path
