"""Bytes in, JSON objects out: one object a line, as the ``claude`` program writes them.

What can stand between them is skipped: blank lines, and lines that begin with something else than
``{``, for debugging remarks of a sandbox or of an MCP server are known to get there. A line that
begins like an object and is none is an error: it may have been the end of the turn.
"""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any, TypeAlias

from .._errors import ProtocolError

JSONLine: TypeAlias = dict[str, Any]

# What json.loads does, in three quarters of the time.
_decode = json.JSONDecoder().raw_decode

_SHOWN = 200  # bytes of a line that cannot be read


class LineDecoder:
    """Cuts a stream into objects.

    Args:
      max_size: the most bytes that a line may have.
    """

    def __init__(self, max_size: int) -> None:
        self._max_size = max_size
        self._pending: list[bytes] = []  # the pieces of the line that has no end yet
        self._size = 0

    def feed(self, data: bytes, lines: list[JSONLine]) -> None:
        """Take the next bytes, and append the objects that they complete.

        Raises:
          ProtocolError: a line is no JSON object, or is too large; ``lines`` has those before it.
        """
        # Bytes, and at line feeds only: other characters that end a line may stand in a text.
        first, *others = data.split(b"\n")
        self._pending.append(first)
        self._size += len(first)
        if self._size > self._max_size:
            raise self._too_large()
        if not others:
            return
        self._take(b"".join(self._pending) if len(self._pending) > 1 else first, lines)
        last = others.pop()
        for line in others:
            if len(line) > self._max_size:
                raise self._too_large()
            self._take(line, lines)
        self._pending = [last]
        self._size = len(last)
        if self._size > self._max_size:
            raise self._too_large()

    def finish(self, lines: list[JSONLine]) -> None:
        """Take the end of the stream, and append the line that it left without its end.

        Half a line is nothing: whoever waits for more finds out that it is missing.
        """
        with suppress(ProtocolError):
            self._take(b"".join(self._pending), lines)
        self._pending = []

    def _take(self, line: bytes, lines: list[JSONLine]) -> None:
        if not line.startswith(b"{"):
            return
        try:
            text = line.decode()
            value, end = _decode(text)
            if end < len(text) and not text[end:].isspace():
                raise ValueError("there is more behind the object")
            lines.append(value)
        except (ValueError, RecursionError) as exc:
            shown = line[:_SHOWN].decode("utf-8", "backslashreplace")
            more = " ..." if len(line) > _SHOWN else ""
            raise ProtocolError(
                f"the claude program wrote a line that is no JSON: {shown}{more}"
            ) from exc

    def _too_large(self) -> ProtocolError:
        return ProtocolError(
            f"the claude program wrote a line of more than {self._max_size} bytes, which is "
            "max_buffer_size; set that option higher if such lines are meant to be"
        )
