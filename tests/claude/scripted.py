"""A stand-in for the `claude` program: the same lines, and faults on demand.

It speaks stream-json as the real one was seen to (2.1.330): the same lines in the same order, keys
in no order, a running total of the cost. It answers from its conversation alone, as our simulator
does, and keeps that in a file for `--resume`. It is a process of its own without trio_claude, and
starts in 40 ms. `support.scripted_claude` writes the file that calls `main`.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import uuid
from collections import deque
from collections.abc import Callable
from typing import Any

from _responder import answer  # type: ignore[import-not-found]  # of trio_claude, alone

from tests.claude import controls, faults
from tests.claude.memory import Memory

VERSION, OLDER_VERSION = "2.1.330", "2.0.0"
COST = 0.25  # US dollars a turn: a sum of these is exact


class Program:
    """The program, and its conversation."""

    first_model = "claude-opus-5-5"
    longest_life = 100  # seconds, whatever a test does wrong

    def __init__(
        self,
        argv: list[str],
        path: str,
        script: list[dict[str, Any]],
        older: bool,
        streams: bool,
        pace: float,
    ) -> None:
        self.argv, self.path, self.script = argv, path, script
        self.older, self.streams, self.pace = older, streams, pace
        self.version = OLDER_VERSION if older else VERSION
        self.start = self.turns = self.attempts = 0
        # Input: what has been read of it, and prompts that wait.
        self.buffered, self.lines, self.ended = b"", deque[bytes](), False
        self.waiting = deque[dict[str, Any]]()
        # The turn: its state, what it has said, what its result says instead.
        self.running = self.interrupted = self.broken_off = self.lives_on = False
        self.commanded = False  # the prompt is a command: the model is not asked
        self.said: list[str] = []
        self.verdict: dict[str, Any] = {}
        self.lacks: list[str] = []
        # Control: what we asked and were answered; how to treat a request; answers that are late.
        self.asked = ""
        self.responses: dict[str, dict[str, Any]] = {}
        self.hooks: dict[str, list[dict[str, Any]]] = {}
        self.manner, self.reason = "", None  # type: str, str | None
        self.held: list[dict[str, Any]] = []
        # The conversation.
        self.memory = Memory(os.environ.get("CLAUDE_CONFIG_DIR") or os.path.dirname(path))
        self.cost_at_start = self.cost_before = 0.0  # what totals leave out, and the last one
        self.prompts: list[str] = []  # the ids of all that had a turn in this process
        self.model = self.option("model") or self.first_model
        self.mode = self.option("permission-mode") or "default"

    def option(self, name: str) -> str | None:
        """The value of a flag, or None."""
        for index, argument in enumerate(self.argv):
            if argument == f"--{name}":
                return self.argv[index + 1]
            if argument.startswith(f"--{name}="):
                return argument.partition("=")[2]
        return None

    def run(self) -> None:
        """Live until the end of input."""
        if "-v" in self.argv or "--version" in self.argv:
            self.start = self.note(version=self.version)
            self.strike("version")
            self.write_bytes(f"{self.version} (Claude Code)\n".encode())
            return
        signal.alarm(self.longest_life)
        self.start = self.note(argv=self.argv)
        self.strike("start")
        while self.take_next(None):
            while self.waiting:
                self.turn(self.waiting.popleft())
        self.strike("end")
        if self.lives_on:
            faults.hang(self)

    def strike(self, place: str) -> None:
        """Do what is to go wrong here."""
        for fault in list(self.script):
            where = (fault["at"], fault["turn"] or self.turns, fault["start"] or self.start)
            if where == (place, self.turns, self.start):
                if fault["once"]:
                    self.script.remove(fault)
                getattr(faults, fault["name"])(self, **fault["details"])

    def note(self, **what: Any) -> int:
        """Write to the log that tests read; which entry of its kind this is, from 1."""
        (kind,) = what
        mine = {"pid": os.getpid(), **what}
        log = os.open(self.path + ".log", os.O_RDWR | os.O_APPEND | os.O_CREAT)
        os.write(log, json.dumps(mine).encode() + b"\n")
        entries = [json.loads(line) for line in os.pread(log, 10**8, 0).splitlines()]
        os.close(log)
        return [entry for entry in entries if kind in entry].index(mine) + 1

    # ---- lines in ----

    def take_next(self, patience: float | None) -> bool:
        """Take the next line, waiting so many seconds or for ever; False if there is none."""
        while not self.lines and not self.ended and select.select([0], [], [], patience)[0]:
            data = os.read(0, 65536)
            self.ended = not data
            *lines, self.buffered = (self.buffered + data).split(b"\n")
            self.lines += lines
        if not self.lines:
            return False
        message = json.loads(self.lines.popleft())
        for response in self.held:
            self.write(type="control_response", response=response)
        self.held.clear()
        if message["type"] == "user":
            self.waiting.append(message)
        elif message["type"] == "control_request":
            self.serve(message["request_id"], message["request"])
        elif message["type"] == "control_response":
            self.responses[message["response"]["request_id"]] = message["response"]
            self.note(answered=message["response"])
        return True

    def wait_for(self, condition: Callable[[], bool]) -> None:
        """Take lines until it is so, or until there are no more."""
        while not condition() and self.take_next(None):
            pass

    # ---- lines out ----

    def write_bytes(self, data: bytes, to: int = 1) -> None:
        """Write all of it, however long nobody reads."""
        view = memoryview(data)
        while view:
            view = view[os.write(to, view) :]

    def line(self, message: dict[str, Any]) -> bytes:
        """A message of this session as a line."""
        message = {"uuid": str(uuid.uuid4()), "session_id": self.memory.session_id, **message}
        return json.dumps(message, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"

    def write(self, **message: Any) -> None:
        """Write a message."""
        self.write_bytes(self.line(message))

    def event(self, **event: Any) -> None:
        """Write an event of the Messages API."""
        if self.streams:
            self.write(type="stream_event", event=event, parent_tool_use_id=None)

    def delta(self, text: str) -> bytes:
        """A piece of the answer's text as a line."""
        delta = {"type": "text_delta", "text": text}
        event = {"delta": delta, "index": 1, "type": "content_block_delta"}
        return self.line({"event": event, "parent_tool_use_id": None, "type": "stream_event"})

    def piece(self, text: str) -> None:
        """Say a piece of the answer."""
        self.said.append(text)
        if self.streams:
            self.write_bytes(self.delta(text))

    def lifecycle(self, prompt_id: str, state: str) -> None:
        """Write what becomes of a prompt."""
        if not self.older:
            self.write(type="command_lifecycle", command_uuid=prompt_id, state=state)

    def write_result(self, prompt_id: str, **fields: Any) -> None:
        """Write a turn's result."""
        total = self.memory.cost - self.cost_at_start
        result: dict[str, Any] = {
            "duration_api_ms": 9,
            "stop_reason": "end_turn",
            "total_cost_usd": total,
            "usage": {"input_tokens": 7426, "output_tokens": 24},
            "modelUsage": {self.model: {"outputTokens": 24, "costUSD": total}},
            "permission_denials": [],
            "terminal_reason": "completed",
            "is_error": False,
            "num_turns": 1,
            "subtype": "success",
            "api_error_status": None,
            **fields,
            "type": "result",
            "duration_ms": 12,
        }
        if not self.older:
            result["user_message_uuid"] = prompt_id
            result["user_message_uuids"] = [prompt_id]
            cost = {"outputTokens": 24, "costUSD": self.memory.cost - self.cost_before}
            result["model_usage_since_last_result"] = {self.model: cost}
        self.cost_before = self.memory.cost
        self.write(**result)

    # ---- turns ----

    def turn(self, prompt: dict[str, Any]) -> None:
        """Answer a prompt."""
        self.running, self.interrupted, self.commanded = True, False, False
        self.verdict, self.lacks = {}, []
        self.turns += 1
        prompt_id = prompt.get("uuid") or str(uuid.uuid4())
        self.prompts.append(prompt_id)
        content = prompt["message"]["content"]
        self.memory.add("user", content, prompt_id)
        self.note(turn={"prompt": content, "model": self.model, "mode": self.mode})
        self.strike("prompt")
        self.lifecycle(prompt_id, "queued")
        self.lifecycle(prompt_id, "started")
        self.write(
            subtype="init",
            cwd=os.getcwd(),
            tools=["Read", "Write"],
            mcp_servers=[],
            model=self.model,
            type="system",
            permissionMode=self.mode,
            claude_code_version=self.version,
        )
        self.write(type="system", subtype="status", status="requesting")
        text = answer(self.memory.messages, self.option("system-prompt"))
        self.attempts, self.broken_off = 0, not self.commanded
        while self.broken_off:
            self.attempts, self.broken_off = self.attempts + 1, False
            self.stream(text)
        outcome: dict[str, Any] = {"result": "".join(self.said)}
        if self.interrupted:
            self.memory.add("user", "[Request interrupted by user]")
            outcome = {
                "subtype": "error_during_execution",
                "is_error": True,
                "stop_reason": None,
                "terminal_reason": "aborted_streaming",
                "errors": ["[ede_diagnostic] result_type=user last_content_type=n/a"],
            }
        self.strike("result")
        outcome.update(self.verdict)
        for key in self.lacks:
            del outcome[key]
        self.memory.cost += COST
        self.memory.save()
        self.write_result(prompt_id, **outcome)
        self.lifecycle(prompt_id, "cancelled" if self.interrupted else "completed")
        self.running = False
        self.strike("idle")

    def stream(self, text: str) -> None:
        """Write a message: a thought, and this text in pieces."""
        self.said.clear()
        message: dict[str, Any] = {
            "id": "msg_" + uuid.uuid4().hex,
            "type": "message",
            "role": "assistant",
            "content": [],
            "model": self.model,
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {"input_tokens": 7426, "output_tokens": 1},
        }
        self.event(type="message_start", message=message)
        block = {"type": "thinking", "thinking": "", "signature": ""}
        self.event(type="content_block_start", index=0, content_block=block)
        delta = {"type": "thinking_delta", "thinking": "Let me read it again."}
        self.event(type="content_block_delta", index=0, delta=delta)
        self.write(type="system", subtype="thinking_tokens", estimated_tokens=5)
        block = {"type": "thinking", "thinking": "Let me read it again.", "signature": "signed"}
        self.write(
            message={**message, "content": [block]}, parent_tool_use_id=None, type="assistant"
        )
        self.event(type="content_block_stop", index=0)
        self.event(type="content_block_start", index=1, content_block={"type": "text", "text": ""})
        words = text.split(" ")
        for number, word in enumerate(words, 1):
            self.strike(f"delta {number}")
            while self.take_next(self.pace):
                pass
            if self.broken_off:
                return
            if self.interrupted:
                break
            self.piece(word if number == len(words) else word + " ")
        self.strike("message")
        said = "".join(self.said)
        self.write(
            uuid=self.memory.add("assistant", said),
            message={**message, "content": [{"type": "text", "text": said}]},
            parent_tool_use_id=None,
            type="assistant",
        )
        self.event(type="content_block_stop", index=1)
        usage = {"input_tokens": 7426, "output_tokens": 24}
        reason = None if self.interrupted else "end_turn"
        self.event(type="message_delta", delta={"stop_reason": reason}, usage=usage)
        self.event(type="message_stop")

    # ---- control requests ----

    def serve(self, request_id: str, request: dict[str, Any]) -> None:
        """Answer a control request."""
        subtype = request.pop("subtype")
        self.note(got=subtype)
        self.strike(subtype)
        serve = getattr(controls, subtype, None)
        content: dict[str, Any] = {}
        error = None
        if self.manner == "refuse" or serve is None:
            error = self.reason or f"Unsupported control request subtype: {subtype}"
        elif self.manner in ("", "late"):
            try:
                content = serve(self, **request)
            except LookupError as exc:
                error = str(exc)
        response = {"subtype": "success", "request_id": request_id, "response": content}
        if error is not None:
            response = {"subtype": "error", "request_id": request_id, "error": error}
        if self.manner == "late":
            self.held.append(response)
        elif self.manner != "silent":
            self.write(type="control_response", response=response)
        self.manner, self.reason = "", None


def main(path: str, script: list[dict[str, Any]], **settings: Any) -> None:
    """Be the program; called by the file that a test wrote."""
    try:
        Program(sys.argv[1:], path, script, **settings).run()
    except BrokenPipeError:
        os._exit(1)
