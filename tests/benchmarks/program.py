"""The program that the rows about the ``claude`` program ask: it speaks its lines and does little.

Run as a script: ``python -I -S program.py EVENTS [flags, which say nothing to it]``. Each prompt is
answered with so many words, each a partial message, and with what the real program (2.1.330) was
seen to write around them, in its shape. All of that is made while it starts, so that a turn costs
it little more than to write: each line by itself, as the real one does, or, where a turn has few
words, all at once. Its result says in ``own_ms`` how many milliseconds there were between the
prompt read and the result about to be written.

The standard library only: it knows nothing of who reads it.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import time
from typing import Any

VERSION = "2.1.330"

# A turn of at most so many words is one write, so that its reader is woken once: nothing of what it
# costs to read the turn is hidden behind the writing of it.
ONE_WRITE = 100

_WORDS = ("The", " session", " has", " read", " it", ":", " a", " few", " letters", " each", ".\n")
_SESSION = "10cd560b-361e-440f-b7d1-542d7369377b"
_MESSAGE = "msg_benchmark0000000001"
_MODEL = "claude-benchmark"
_USAGE = {
    "input_tokens": 7415,
    "cache_creation_input_tokens": 0,
    "cache_read_input_tokens": 0,
    "output_tokens": 1,
    "service_tier": "standard",
}
_INIT = {
    "cwd": "/",
    "tools": ["Task", "Bash", "Edit", "Glob", "Grep", "Read", "WebFetch", "Write"],
    "mcp_servers": [],
    "model": _MODEL,
    "permissionMode": "default",
    "slash_commands": [],
    "apiKeySource": "none",
    "claude_code_version": VERSION,
    "output_style": "default",
    "agents": [],
    "skills": [],
    "plugins": [],
}

# They stand where what a turn has of its own will be.
_PROMPT_ID, _OWN_MS = "3b0b7a52-9d0e-4b43-a5f4-0d8b4f4ee1a1", 123456789


def text(events: int) -> str:
    """What an answer of so many events says."""
    return "".join(map(_word, range(events)))


class Turn:
    """The lines of a turn, made once: up to the first word, each word, and all that follows."""

    def __init__(self, events: int) -> None:
        said = text(events)
        usage = {**_USAGE, "output_tokens": events}
        prompt = {"user_message_uuid": _PROMPT_ID, "user_message_uuids": [_PROMPT_ID]}
        message: dict[str, Any] = {
            "id": _MESSAGE,
            "type": "message",
            "role": "assistant",
            "content": [],
            "model": _MODEL,
            "stop_reason": None,
            "stop_sequence": None,
            "usage": _USAGE,
        }
        whole = {
            **message,
            "content": [{"type": "text", "text": said}],
            "context_management": None,
        }
        self.before = b"".join(
            (
                _line("command_lifecycle", command_uuid=_PROMPT_ID, state="queued"),
                _line("command_lifecycle", command_uuid=_PROMPT_ID, state="started"),
                _line("system", subtype="init", **_INIT),
                _line("system", subtype="status", status="requesting", **prompt),
                _event("message_start", message=message),
                _event("content_block_start", index=0, content_block={"type": "text", "text": ""}),
            )
        )
        self.words = [
            _event("content_block_delta", index=0, delta={"type": "text_delta", "text": _word(n)})
            for n in range(events)
        ]
        self.after = b"".join(
            (
                _line(
                    "assistant",
                    message=whole,
                    parent_tool_use_id=None,
                    request_id="req_benchmark",
                    **prompt,
                ),
                _event("content_block_stop", index=0),
                _event(
                    "message_delta",
                    delta={"stop_reason": "end_turn", "stop_sequence": None},
                    usage=usage,
                ),
                _event("message_stop"),
                _line(
                    "result",
                    subtype="success",
                    is_error=False,
                    api_error_status=None,
                    duration_ms=750,
                    duration_api_ms=544,
                    num_turns=1,
                    result=said,
                    stop_reason="end_turn",
                    total_cost_usd=0.0,
                    usage=usage,
                    modelUsage={},
                    permission_denials=[],
                    terminal_reason="completed",
                    own_ms=_OWN_MS,
                    **prompt,
                ),
            )
        )

    def write(self, prompt_id: str, began: float) -> None:
        """Answer the prompt that was read at ``began``, by `time.perf_counter`."""
        before = self.before.replace(_PROMPT_ID.encode(), prompt_id.encode())
        after = self.after.replace(_PROMPT_ID.encode(), prompt_id.encode())
        if len(self.words) <= ONE_WRITE:
            before = b"".join((before, *self.words))
        else:
            _write(before)
            for word in self.words:
                _write(word)
            before = b""
        own_ms = b"%.6f" % (1000 * (time.perf_counter() - began))
        _write(before + after.replace(b"%d" % _OWN_MS, own_ms))


def _word(number: int) -> str:
    return _WORDS[number % len(_WORDS)]


def _event(kind: str, **fields: Any) -> bytes:
    event = {"type": kind, **fields}
    return _line("stream_event", event=event, parent_tool_use_id=None, api_message_id=_MESSAGE)


def _line(kind: str, **fields: Any) -> bytes:
    """A line; each has an id of its own."""
    line_id = f"52efd51f-b651-4b46-a804-{next(_numbers):012x}"
    message = {"type": kind, **fields, "session_id": _SESSION, "uuid": line_id}
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


_numbers = itertools.count()


def _write(data: bytes) -> None:
    """Write all of it, however long nobody reads."""
    while data:
        data = data[os.write(1, data) :]


def main(events: int) -> None:
    """Answer until the input ends."""
    turn = Turn(events)
    for line in sys.stdin.buffer:
        began = time.perf_counter()
        message = json.loads(line)
        if message["type"] == "user":
            turn.write(message.get("uuid") or _PROMPT_ID, began)
        elif message["type"] == "control_request":
            done = {"subtype": "success", "request_id": message["request_id"], "response": {}}
            _write(json.dumps({"type": "control_response", "response": done}).encode() + b"\n")


if __name__ == "__main__":
    if "-v" in sys.argv:
        print(f"{VERSION} (Claude Code)")
    else:
        main(int(sys.argv[1]))
