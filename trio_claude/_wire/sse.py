"""Bytes in, server-sent events out.

Follows https://html.spec.whatwg.org/multipage/server-sent-events.html with two differences, both
because an API answers here and no page is pushed to: an event that the end of the stream left
without its blank line is still given out by :meth:`SSEDecoder.finish` (the service is known to
leave out the last one), and the data stays bytes, so that bytes that are not UTF-8 are found out
by whoever reads them instead of being replaced.

Every byte is copied a fixed number of times, however the stream is cut: an unfinished line grows in
place and is looked at once, when its end has come.
"""

from __future__ import annotations

import attrs

_BOM = b"\xef\xbb\xbf"
_LINE_FEED = 0x0A


@attrs.frozen
class ServerSentEvent:
    """One event of a stream."""

    event: str
    """Its type; ``"message"`` where the stream says none."""

    data: bytes
    """Its data lines, joined by line feeds, as they came."""

    id: str = ""
    """The last id that the stream gave, with this event or before it."""

    retry: int | None = None
    """Milliseconds to wait before connecting again, if this event says so."""


class SSEDecoder:
    """Cuts a stream into events.

    Args:
      max_size: the most bytes that a line, or an event's data, may have.
    """

    overflowed: bool
    """Whether a line or an event was larger than ``max_size``. Nothing is decoded after it."""

    def __init__(self, max_size: int) -> None:
        self.overflowed = False
        self._max_size = max_size
        self._line = bytearray()  # the one that has no end yet
        self._at_start = True
        self._skip_line_feed = False  # the last byte was a carriage return, which ended a line
        self._event = ""
        self._data: list[bytes] = []
        self._size = 0
        self._id = ""
        self._retry: int | None = None

    @property
    def at_rest(self) -> bool:
        """Whether the next byte begins an event, and nothing that came before bears on it."""
        begun = self._line or self._data or self._event or self._skip_line_feed or self._at_start
        return not begun and self._retry is None and not self.overflowed

    def feed(self, data: bytes) -> list[ServerSentEvent]:
        """Take the next bytes, and give the events that they complete."""
        events: list[ServerSentEvent] = []
        if self.overflowed or not data:
            return events
        if self._skip_line_feed and data[0] == _LINE_FEED:
            data = data[1:]
        self._skip_line_feed = data.endswith(b"\r")
        for piece in data.splitlines(keepends=True):  # of bytes: at \n, \r and \r\n only
            line = piece.rstrip(b"\r\n")
            if len(self._line) + len(line) > self._max_size:
                self._overflow()
                break
            if len(line) == len(piece):
                self._line += line
            elif self._line:
                self._line += line
                line = bytes(self._line)
                self._line.clear()
                self._take(line, events)
            else:
                self._take(line, events)
            if self.overflowed:
                break
        return events

    def finish(self) -> list[ServerSentEvent]:
        """Say that the stream has ended, and get the event that it left open, if any."""
        events: list[ServerSentEvent] = []
        if not self.overflowed:
            line = bytes(self._line)
            self._line.clear()
            if line:
                self._take(line, events)
            self._dispatch(events)
        return events

    def _take(self, line: bytes, events: list[ServerSentEvent]) -> None:
        if self._at_start:
            self._at_start = False
            line = line.removeprefix(_BOM)
        if not line:
            self._dispatch(events)
            return
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._data.append(value)
            self._size += len(value) + 1
            if self._size - 1 > self._max_size:
                self._overflow()
        elif name == b"event":
            self._event = value.decode("utf-8", "replace")
        elif name == b"id":
            if b"\0" not in value:
                self._id = value.decode("utf-8", "replace")
        elif name == b"retry" and value.isdigit() and len(value) < 16:
            self._retry = int(value)

    def _dispatch(self, events: list[ServerSentEvent]) -> None:
        if self._data:
            data = self._data[0] if len(self._data) == 1 else b"\n".join(self._data)
            events.append(ServerSentEvent(self._event or "message", data, self._id, self._retry))
            self._data = []
            self._size = 0
        self._event = ""
        self._retry = None

    def _overflow(self) -> None:
        self.overflowed = True
        self._line.clear()
        self._data.clear()
