"""A stand-in for the `claude` program that can be told to go wrong; see `support.scripted_claude`.

It speaks stream-json as the real program was seen to (2.1.330): the same lines in the same order,
keys in no order, a running total of the cost. It answers from its conversation alone, as our
simulator does, and keeps that in a file for `--resume`. It runs as a process of its own, without
trio_claude, and starts in 30 ms.

A fault has a name, which is that of a method of `Faults`, and strikes `at` a place:

    version                the program was asked for its version
    start                  before anything is read
    initialize, interrupt, set_model ...    such a control request came, before its answer
    prompt                 a turn begins: nothing of it has been written
    delta N                before the Nth piece of the answer's text, from 1
    message                the answer's text is out, before the assistant line
    result                 before the turn's result
    idle                   after the turn's result
    end                    the end of input was read

in this `turn` of the process (from 1; None: in each), in this `start` of the program (from 1; None:
in each).
"""

import json
import os
import select
import signal
import sys
import time
import uuid
from collections import deque

FOLDER = os.path.dirname(os.path.abspath(__file__))
sys.path.append(os.path.join(FOLDER, "..", "..", "trio_claude"))
from _responder import answer  # noqa: E402 - a module by itself, without its package

VERSION, OLDER_VERSION = "2.1.330", "2.0.0"
MODEL = "claude-opus-5-5"
COST = 0.25  # US dollars a turn: a sum of these is exact
LONGEST_LIFE = 100  # seconds; whatever a test did wrong


class Faults:
    """What the program can be told to do, at a place."""

    def exit(self, code=0, stderr=""):
        """End at once; a negative code is a signal."""
        os.write(2, stderr.encode())
        if code < 0:
            os.kill(os.getpid(), -code)
        os._exit(code)

    def cut(self, code=0):
        """Write half a line, and end."""
        line = self.line({"type": "stream_event", "event": {"type": "ping", "pong": "ping"}})
        write(1, line[: len(line) // 2])
        os._exit(code)

    def say(self, lines):
        """Write these lines: text as it is, mappings as messages."""
        for line in lines:
            write(1, line.encode() + b"\n" if isinstance(line, str) else self.line(line))

    def flood(self, size):
        """Write so many bytes of lines to stderr."""
        line = b"This is a warning, and it says nothing that anybody needs to know.\n"
        write(2, line * (size // len(line)) + b"The last line of a flood.\n")

    def burst(self, count):
        """Write so many pieces of text at once."""
        self.said.append("." * count)
        write(1, self.delta(".") * count)

    def hang(self):
        """Do nothing more, and read nothing."""
        while True:
            signal.pause()

    def hold(self):
        """Say nothing more until interrupted."""
        self.wait_for(lambda: self.interrupted)

    def deaf(self):
        """End neither for SIGTERM nor at the end of input."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        self.lives_on = True

    def child(self, keeps_output=False):
        """Start a process in the same group, which ignores SIGTERM; it may keep our pipes open."""
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # who reaps it is not the question
        if pid := os.fork():
            self.note(child=pid)
            return
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if not keeps_output:
            os.closerange(0, 3)
        time.sleep(LONGEST_LIFE)
        os._exit(0)

    def ask(self, request, wait=True, cancel=False):
        """Send a control request; wait for the response, and say it; or take the request back."""
        request_id = self.asked = str(uuid.uuid4())
        if request["subtype"] == "hook_callback" and "callback_id" not in request:
            matcher = self.hooks[request["input"]["hook_event_name"]][0]
            request = {**request, "callback_id": matcher["hookCallbackIds"][0]}
        self.write(type="control_request", request_id=request_id, request=request)
        if cancel:
            self.write(type="control_cancel_request", request_id=request_id)
        elif wait:
            self.hear()

    def hear(self):
        """Wait for the response to the last `ask`, and say it."""
        self.wait_for(lambda: self.interrupted or self.asked in self.responses)
        if self.asked in self.responses:
            self.piece(json.dumps(self.responses[self.asked], sort_keys=True))

    def stray(self, of):
        """Write a result that answers no prompt of now, but a `task` or a `prompt` of before."""
        extra = {"origin": {"kind": "task-notification"}} if of == "task" else {}
        prompt = str(uuid.uuid4()) if of == "task" else self.prompts[-2]
        self.write_result(prompt, result="This is the answer to something else.", **extra)

    def fail(self, without=(), **fields):
        """Give the turn's result these fields, and take others away."""
        self.verdict, self.lacks = fields, without

    def again(self):
        """Begin the message once more, as after an error of the service in mid-answer."""
        self.retried = True

    def silent(self):
        """Don't answer this control request."""
        self.manner = "silent"

    def late(self):
        """Answer this control request when the next line has come."""
        self.manner = "late"

    def refuse(self, error=None):
        """Answer this control request with an error."""
        self.manner, self.reason = "refuse", error

    def vain(self):
        """Answer this control request, and don't do it."""
        self.manner = "vain"


class Program(Faults):
    """The program, and one conversation."""

    def __init__(self, path, faults, older, pace, argv):
        self.path, self.faults, self.older, self.pace, self.argv = path, faults, older, pace, argv
        self.start = 0
        self.turns = 0
        self.buffered, self.lines, self.ended = b"", deque(), False  # of input
        self.waiting = deque()  # prompts
        self.prompts = []  # ids of those that had their turn
        self.responses, self.asked, self.hooks, self.held = {}, None, {}, []
        self.manner, self.reason = None, None  # how to treat a control request
        self.running = self.interrupted = self.retried = self.lives_on = False
        self.said, self.message_id, self.verdict, self.lacks = [], "", {}, ()
        self.model, self.mode = self.option("model") or MODEL, self.option("permission-mode")
        self.session_id, self.messages, self.cost, self.rebased = str(uuid.uuid4()), [], 0.0, 0.0

    def run(self):
        """Live until the end of input."""
        if "-v" in self.argv or "--version" in self.argv:
            self.strike("version")
            write(1, f"{OLDER_VERSION if self.older else VERSION} (Claude Code)\n".encode())
            return
        signal.alarm(LONGEST_LIFE)
        self.start = self.note(start=self.argv)
        self.strike("start")
        while not self.ended or self.lines:
            self.take_next(None)
            while self.waiting:
                self.turn(self.waiting.popleft())
        self.strike("end")
        if self.lives_on:
            self.hang()

    def strike(self, place):
        """Do what is to go wrong here."""
        for fault in self.faults:
            where = (fault["at"], fault["turn"] or self.turns, fault["start"] or self.start)
            if where == (place, self.turns, self.start):
                getattr(self, fault["name"])(**fault["details"])

    # ---- lines in and out -----------------------------------------------------------------------

    def take_next(self, patience):
        """Take the next line of input; None: however long that takes. Whether there was one."""
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
        return True

    def wait_for(self, condition):
        """Take lines until it is so, or until there are no more."""
        while not condition() and not (self.ended and not self.lines):
            self.take_next(None)

    def line(self, message):
        """A message of this session as a line."""
        message = {"uuid": str(uuid.uuid4()), "session_id": self.session_id, **message}
        return json.dumps(message, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"

    def write(self, **message):
        """Write a message."""
        write(1, self.line(message))

    def event(self, **event):
        """Write an event of the Messages API."""
        if not self.older:
            self.write(type="stream_event", event=event, parent_tool_use_id=None)

    def delta(self, text):
        """A piece of the answer's text as a line."""
        delta = {"type": "text_delta", "text": text}
        event = {"delta": delta, "index": 1, "type": "content_block_delta"}
        return self.line({"event": event, "parent_tool_use_id": None, "type": "stream_event"})

    def piece(self, text):
        """Say a piece of the answer."""
        self.said.append(text)
        if not self.older:
            write(1, self.delta(text))

    def note(self, **what):
        """Write to the log that tests read; which of the entries of its kind this is, from 1."""
        (kind,) = what
        mine = {"pid": os.getpid(), **what}
        log = os.open(self.path + ".log", os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC)
        os.write(log, json.dumps(mine).encode() + b"\n")
        entries = [json.loads(line) for line in os.pread(log, 10**8, 0).splitlines()]
        os.close(log)
        return [entry for entry in entries if kind in entry].index(mine) + 1

    # ---- turns ----------------------------------------------------------------------------------

    def turn(self, prompt):
        """Answer a prompt."""
        self.running, self.interrupted, self.verdict, self.lacks = True, False, {}, ()
        self.turns += 1
        prompt_id = prompt.get("uuid") or str(uuid.uuid4())
        self.prompts.append(prompt_id)
        self.keep("user", prompt["message"]["content"], prompt_id)
        self.strike("prompt")
        self.lifecycle(prompt_id, "queued")
        self.lifecycle(prompt_id, "started")
        self.write(
            **{"subtype": "init", "cwd": os.getcwd(), "tools": ["Read"], "mcp_servers": []},
            **{"model": self.model, "permissionMode": self.mode or "default", "type": "system"},
            claude_code_version=OLDER_VERSION if self.older else VERSION,
        )
        self.write(type="system", subtype="status", status="requesting")
        text = answer(self.messages, self.option("system-prompt"))
        self.stream(text)
        while self.retried:
            self.retried = False
            self.stream(text)
        text = "".join(self.said)
        if self.interrupted:
            self.keep("user", "[Request interrupted by user]")
            self.verdict = {
                "subtype": "error_during_execution",
                "is_error": True,
                "terminal_reason": "aborted_streaming",
                "errors": ["[ede_diagnostic] result_type=user last_content_type=n/a"],
            }
            self.lacks = ("result",)
        self.strike("result")
        self.cost += COST
        self.save()
        self.write_result(prompt_id, result=text)
        self.lifecycle(prompt_id, "cancelled" if self.interrupted else "completed")
        self.running = False
        self.strike("idle")

    def stream(self, text):
        """Write a message: a thought, and this text in pieces."""
        self.said.clear()
        self.message_id = "msg_" + uuid.uuid4().hex
        self.event(type="message_start", message=self.message([], 1))
        thought = {"type": "thinking", "thinking": "", "signature": ""}
        self.event(type="content_block_start", index=0, content_block=thought)
        delta = {"type": "thinking_delta", "thinking": "Let me read it again."}
        self.event(type="content_block_delta", index=0, delta=delta)
        self.write(type="system", subtype="thinking_tokens", estimated_tokens=5)
        thought = {**thought, "thinking": "Let me read it again.", "signature": "signed"}
        self.write(type="assistant", message=self.message([thought], 1), parent_tool_use_id=None)
        self.event(type="content_block_stop", index=0)
        self.event(type="content_block_start", index=1, content_block={"type": "text", "text": ""})
        words = text.split(" ")
        for number, word in enumerate(words, 1):
            self.strike(f"delta {number}")
            while self.take_next(self.pace):
                pass
            if self.interrupted:
                break
            if self.retried:
                return
            self.piece(word if number == len(words) else word + " ")
        self.strike("message")
        assistant_id = self.keep("assistant", "".join(self.said))
        self.write(
            message=self.message([{"type": "text", "text": "".join(self.said)}], 1),
            **{"uuid": assistant_id, "parent_tool_use_id": None, "type": "assistant"},
        )
        self.event(type="content_block_stop", index=1)
        usage = {"input_tokens": 7426, "output_tokens": len(words)}
        reason = None if self.interrupted else "end_turn"
        self.event(type="message_delta", delta={"stop_reason": reason}, usage=usage)
        self.event(type="message_stop")

    def message(self, content, output_tokens):
        """A message of the Messages API."""
        return {
            **{"id": self.message_id, "type": "message", "role": "assistant", "content": content},
            **{"model": self.model, "stop_reason": None, "stop_sequence": None},
            "usage": {"input_tokens": 7426, "output_tokens": output_tokens},
        }

    def write_result(self, prompt_id, **fields):
        """Write a turn's result."""
        result = {
            **{"duration_api_ms": 9, "stop_reason": "end_turn", "total_cost_usd": self.cost},
            "usage": {"input_tokens": 7426, "output_tokens": 24},
            "modelUsage": {self.model: {"outputTokens": 24, "costUSD": self.cost}},
            **{"permission_denials": [], "terminal_reason": "completed", "is_error": False},
            **{"num_turns": 1, "subtype": "success", "api_error_status": None},
            **fields,
            **{"type": "result", "duration_ms": 12, "result_index": self.turns - 1},
        }
        if not self.older:
            since = {self.model: {"outputTokens": 24, "costUSD": self.cost - self.rebased}}
            result["model_usage_since_last_result"] = since
            result["user_message_uuid"] = prompt_id
            result["user_message_uuids"] = [prompt_id]
        self.rebased = self.cost
        result.update(self.verdict)
        self.write(**{key: value for key, value in result.items() if key not in self.lacks})

    def lifecycle(self, prompt_id, state):
        """Write what becomes of a prompt."""
        if not self.older:
            self.write(type="command_lifecycle", command_uuid=prompt_id, state=state)

    # ---- the conversation and its file ----------------------------------------------------------

    def keep(self, role, content, message_id=None):
        """Add a message to the conversation; its id."""
        message_id = message_id or str(uuid.uuid4())
        self.messages.append({"role": role, "content": content, "uuid": message_id})
        self.save()
        return message_id

    def file(self, session_id):
        """Where a conversation is kept: never in anybody's home."""
        folder = os.environ.get("CLAUDE_CONFIG_DIR") or os.path.dirname(self.path)
        return os.path.join(folder, session_id + ".json")

    def save(self):
        """Write the conversation to its file."""
        with open(self.file(self.session_id), "w") as file:
            json.dump({"messages": self.messages, "cost": self.cost}, file)

    def resume(self):
        """Continue an earlier conversation, if told so."""
        session_id, message_id = self.option("resume"), self.option("resume-session-at")
        if session_id is None:
            return
        try:
            with open(self.file(session_id)) as file:
                saved = json.load(file)
        except OSError:
            self.exit(1, f"No conversation found with session ID: {session_id}\n")
        self.messages, self.cost = saved["messages"], saved["cost"]
        self.rebased = self.cost
        if message_id is not None:
            known = [message["uuid"] for message in self.messages]
            if message_id not in known:
                self.exit(1, f"No message found with message.uuid of: {message_id}\n")
            del self.messages[known.index(message_id) + 1 :]
        self.session_id = session_id

    def option(self, name):
        """The value of a flag, or None."""
        for index, argument in enumerate(self.argv):
            if argument == f"--{name}":
                return self.argv[index + 1]
            if argument.startswith(f"--{name}="):
                return argument.partition("=")[2]
        return None

    # ---- control requests -----------------------------------------------------------------------

    def serve(self, request_id, request):
        """Answer a control request."""
        subtype = request["subtype"]
        self.note(got=subtype)
        self.manner, self.reason = None, None
        self.strike(subtype)
        serve = getattr(self, "serve_" + subtype, None)
        unknown = serve is None or (self.older and subtype == "rewind_conversation")
        error, content = self.reason, {}
        if unknown or self.manner == "refuse":
            error = error or f"Unsupported control request subtype: {subtype}"
        elif self.manner != "vain":
            try:
                content = serve(**{key: request[key] for key in request if key != "subtype"})
            except ValueError as exc:
                error = str(exc)
        response = {"subtype": "success", "request_id": request_id, "response": content}
        if error is not None:
            response = {"subtype": "error", "request_id": request_id, "error": error}
        if self.manner == "late":
            self.held.append(response)
        elif self.manner != "silent":
            self.write(type="control_response", response=response)

    def serve_initialize(self, hooks=None, **_more):
        """Say who we are."""
        self.resume()
        self.hooks = hooks or {}
        about = {"commands": [], "agents": [], "models": [], "account": {}, "pid": os.getpid()}
        return {**about, "output_style": "default", "claude_code_version": VERSION}

    def serve_interrupt(self):
        """End the turn, if there is one."""
        self.interrupted = self.running
        return {} if self.older else {"still_queued": []}

    def serve_set_model(self, model=None):
        """Use another model from the next turn on."""
        self.model = model or MODEL
        return {"model": self.model}

    def serve_set_permission_mode(self, mode):
        """Use another mode."""
        modes = ["acceptEdits", "auto", "bypassPermissions", "default", "dontAsk", "plan"]
        if mode not in modes:
            raise ValueError("Cannot set permission mode: must be one of " + ", ".join(modes))
        self.mode = mode
        return {"mode": mode}

    def serve_mcp_status(self):
        """There are no servers."""
        return {"mcpServers": []}

    def serve_get_context_usage(self):
        """How full the context is."""
        return {"categories": [], "totalTokens": 4000, "maxTokens": 200000, "percentage": 2}

    def serve_rewind_files(self, user_message_id, dry_run=False):
        """Only where it was switched on."""
        if os.environ.get("CLAUDE_CODE_ENABLE_SDK_FILE_CHECKPOINTING") != "true":
            raise ValueError("File rewinding is not enabled.")
        return {"canRewind": user_message_id in self.prompts, "filesChanged": []}

    def serve_rewind_conversation(self, target_message_uuid, **_more):
        """Take a prompt, and all after it, out of the conversation."""
        known = [message["uuid"] for message in self.messages]
        if self.running or target_message_uuid not in known:
            raise ValueError("Cannot rewind: a turn is running, or there is no such message")
        index = known.index(target_message_uuid)
        del self.messages[index:]
        self.save()
        return {"rewound": True, "precedingAssistantUuid": known[index - 1] if index else None}


def write(fd, data):
    """Write all of it, however long nobody reads."""
    data = memoryview(data)
    while data:
        data = data[os.write(fd, data) :]


def main(path, faults, older, pace):
    """Be the program; called by the file that a test wrote."""
    try:
        Program(path, faults, older, pace, sys.argv[1:]).run()
    except BrokenPipeError:
        os._exit(1)
