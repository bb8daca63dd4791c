"""Files for one program, which nobody but this user can read."""

from __future__ import annotations

import os
import tempfile
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ..._errors import ProcessError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


@contextmanager
def private_files(files: Mapping[str, str]) -> Iterator[tuple[list[str], str | None]]:
    """Write files that are gone when the block is left.

    Args:
      files: what is in them, by the flags that name them; JSON.

    Returns:
      The flags with the files' paths, and the folder that these are in, if there are any.

    Raises:
      ProcessError: they cannot be written.
    """
    if not files:
        yield [], None
        return
    with _private_folder() as folder:
        yield [_write(folder, flag, text) for flag, text in files.items()], folder


def _private_folder() -> tempfile.TemporaryDirectory[str]:
    try:
        return tempfile.TemporaryDirectory(prefix="trio-claude-")  # with the mode 0700
    except OSError as exc:
        raise ProcessError(f"cannot write the files for the claude program: {exc}") from exc


def _write(folder: str, flag: str, text: str) -> str:
    path = os.path.join(folder, f"{flag.strip('-')}.json")
    with open(path, "w", encoding="ascii") as file:
        file.write(text)
    return f"{flag}={path}"
