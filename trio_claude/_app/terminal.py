"""Text on its way to a terminal, or into a pipe."""

from __future__ import annotations

import sys


def printable(text: str) -> str:
    """The text without control characters but tabs and ends of lines.

    An answer is somebody else's text: its escape sequences could move the cursor, or worse.
    """
    return "".join(char if char.isprintable() or char in "\n\t" else "?" for char in text)


def one_line(text: str) -> str:
    """The text as one printable line."""
    return printable(" ".join(text.split()))


def write(text: str) -> None:
    """Put text on standard output, now. On a terminal, only what is printable."""
    sys.stdout.write(printable(text) if sys.stdout.isatty() else text)
    sys.stdout.flush()


def complain(text: str) -> None:
    """Put one line on standard error."""
    print(f"trio-claude: {one_line(text)}", file=sys.stderr, flush=True)


def decoded(piped: bytes) -> str:
    """What came from standard input, as text.

    Raises:
      OSError: it is none.
    """
    try:
        return piped.decode("utf-8")
    except UnicodeDecodeError as exc:
        raise OSError(f"standard input is no text in UTF-8: {exc}") from exc
