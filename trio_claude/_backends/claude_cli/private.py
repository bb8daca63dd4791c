"""Files for one program, which nobody but this user can read."""

from __future__ import annotations

import os
import tempfile
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


@contextmanager
def private_files(files: Mapping[str, str]) -> Iterator[tuple[list[str], str | None]]:
    """Write files that are gone when the block is left.

    Args:
      files: what is in them, by the flags that name them; JSON.

    Returns:
      The flags with the files' paths, and the folder that these are in, if there are any.
    """
    if not files:
        yield [], None
        return
    with tempfile.TemporaryDirectory(prefix="trio-claude-") as folder:  # with the mode 0700
        yield [_write(folder, flag, text) for flag, text in files.items()], folder


def _write(folder: str, flag: str, text: str) -> str:
    path = os.path.join(folder, f"{flag.strip('-')}.json")
    with open(path, "w", encoding="ascii") as file:
        file.write(text)
    return f"{flag}={path}"
