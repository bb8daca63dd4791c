"""What the benchmark's server answers: a streamed message of the Messages API, in prebuilt bytes.

A `Plan` says how; it travels in the path of the address that a client is given, so that the server
needs no configuration. The first word belongs to the opening and is counted by nobody: when a
client has it, its stream is open.
"""

from __future__ import annotations

import json
import re
from typing import Any

import attrs

HEAD = (
    b"HTTP/1.1 200 OK\r\n"
    b"Content-Type: text/event-stream; charset=utf-8\r\n"
    b"Cache-Control: no-cache\r\n"
    b"request-id: req_benchmark\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
)

NO_PAUSE = 1
"""A tick that is over before it begins."""

_WORDS = ("The", " session", " has", " read", " it", ":", " a", " few", " letters", " each", ".\n")


@attrs.frozen
class Plan:
    """How an answer is sent."""

    events: int
    """Words after the first one, each an event."""

    a_packet: int = 1
    """Events in a packet, which is one chunk of the body and one write."""

    tick: int = 0
    """Microseconds from one packet of a stream to the next; all streams get theirs in the same
    tick. `NO_PAUSE`: packets follow as fast as they can be written. 0: nothing is held back until
    all streams are open, and the whole answer is one write, with a chunk for each packet."""

    def path(self) -> str:
        """What the address ends with."""
        return f"/n{self.events}/p{self.a_packet}/t{self.tick}"

    @classmethod
    def of(cls, path: str) -> Plan:
        """The plan that a path holds."""
        found = re.match(r"/n(\d+)/p(\d+)/t(\d+)/v1/messages\b", path)
        if found is None:
            raise ValueError(f"{path!r} holds no plan")
        return cls(*map(int, found.groups()))

    def text(self) -> str:
        """All words of the answer."""
        return "".join(map(_word, range(self.events + 1)))

    def opening(self) -> bytes:
        """The response's head, and the message up to its first word."""
        message: dict[str, Any] = {
            "id": "msg_benchmark",
            "type": "message",
            "role": "assistant",
            "model": "claude-benchmark",
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {"input_tokens": 12, "output_tokens": 1},
        }
        return HEAD + _chunk(
            _event("message_start", message=message)
            + _event("content_block_start", index=0, content_block={"type": "text", "text": ""})
            + _delta(0)
        )

    def packets(self) -> list[bytes]:
        """The words after the first one."""
        return [
            _chunk(
                b"".join(map(_delta, range(1 + start, 1 + min(start + self.a_packet, self.events))))
            )
            for start in range(0, self.events, self.a_packet)
        ]

    def closing(self) -> bytes:
        """The end of the message and of the body."""
        delta = {"stop_reason": "end_turn", "stop_sequence": None}
        tail = (
            _event("content_block_stop", index=0)
            + _event("message_delta", delta=delta, usage={"output_tokens": self.events + 1})
            + _event("message_stop")
        )
        return _chunk(tail) + b"0\r\n\r\n"


def _word(number: int) -> str:
    return _WORDS[number % len(_WORDS)]


def _delta(number: int) -> bytes:
    delta = {"type": "text_delta", "text": _word(number)}
    return _event("content_block_delta", index=0, delta=delta)


def _event(kind: str, **fields: Any) -> bytes:
    data = json.dumps({"type": kind, **fields}, separators=(",", ":"))
    return f"event: {kind}\ndata: {data}\n\n".encode()


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)
