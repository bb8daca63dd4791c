"""What the scripted `claude` program can be told to do wrong: one function for each fault.

Each is called by the program at the place, in the turn and in the start that a test named; see
`support.fault`.
"""

from __future__ import annotations

import json
import os
import signal
import time
import uuid
from typing import TYPE_CHECKING, Any, NoReturn

from tests.claude.memory import Memory

if TYPE_CHECKING:
    from tests.claude.scripted import Program

# ---- the process ----


def exit(program: Program, code: int = 0, stderr: str = "") -> NoReturn:  # noqa: A001
    """End at once; a negative code is a signal."""
    program.write_bytes(stderr.encode(), to=2)
    if code < 0:
        os.kill(os.getpid(), -code)
    os._exit(code)


def cut(program: Program, code: int = 0) -> NoReturn:
    """Write half a line, and end."""
    line = program.line({"type": "system", "subtype": "status", "status": "requesting"})
    program.write_bytes(line[: len(line) // 2])
    os._exit(code)


def hang(program: Program) -> NoReturn:
    """Do nothing more, and read nothing."""
    program.note(hangs=True)
    while True:
        signal.pause()


def hold(program: Program) -> None:
    """Say nothing more until interrupted."""
    program.wait_for(lambda: program.interrupted)


def deaf(program: Program, signals: bool = True) -> None:
    """Don't end at the end of input; nor for signals that can be ignored."""
    program.lives_on = True
    if signals:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)


def finish(program: Program, seconds: float) -> None:
    """Take so long, and put it on record that there was the time for it."""
    time.sleep(seconds)
    program.note(finished=seconds)


def child(program: Program, keeps_output: bool = False) -> None:
    """Start a process in the same group that ignores SIGTERM; it may keep our pipes open."""
    ready, set_ready = os.pipe()
    if pid := os.fork():
        os.close(set_ready)
        os.read(ready, 1)
        program.note(child=pid)
        return
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if not keeps_output:
        os.closerange(0, 3)
    os.close(set_ready)
    time.sleep(program.longest_life)
    os._exit(0)


# ---- lines ----


def say(program: Program, lines: list[Any]) -> None:
    """Write these lines: text as it is, mappings as messages of the session."""
    for line in lines:
        text = isinstance(line, str)
        program.write_bytes(line.encode() + b"\n" if text else program.line(line))


def flood(program: Program, size: int) -> None:
    """Write so many bytes of lines to stderr."""
    line = b"This is a warning, and it says nothing that anybody needs to know.\n"
    program.write_bytes(line * (size // len(line)) + b"The last line of a flood.\n", to=2)


def burst(program: Program, count: int) -> None:
    """Write so many pieces of text at once."""
    program.said.append("." * count)
    program.write_bytes(program.delta(".") * count)


def stray(program: Program, of: str) -> None:
    """Write a result that answers no prompt of now, but a `task` or a `prompt` of before."""
    extra = {"origin": {"kind": "task-notification"}} if of == "task" else {}
    prompt_id = str(uuid.uuid4()) if of == "task" else program.prompts[-2]
    program.write_result(prompt_id, result="This is the answer to something else.", **extra)


def fail(program: Program, lacks: list[str] | None = None, **fields: Any) -> None:
    """Give the turn's result these fields, and take others away."""
    program.verdict, program.lacks = fields, lacks or []


def command(program: Program) -> None:
    """Take the prompt for `/clear`: begin another conversation, and don't ask the model."""
    program.commanded = True
    program.said = ["(no content)"]
    program.memory = Memory(program.memory.folder)


def tool_result(program: Program) -> None:
    """Have the turn end with what a tool gave back, and not with the model's words."""
    block = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "It is recorded."}
    program.write(
        uuid=program.memory.add("user", [block]),
        message={"role": "user", "content": [block]},
        parent_tool_use_id=None,
        type="user",
    )


def nameless(program: Program) -> None:
    """Don't say any more how the conversation is called."""
    line = program.line
    program.line = lambda message: line(  # type: ignore[method-assign]
        {**message, "session_id": None}
    )


def drift(program: Program, mode: str) -> None:
    """Change the permission mode by itself, as a rule that was added to it can."""
    program.mode = mode


def again(program: Program) -> None:
    """Begin the message once more, as after an error of the service in mid-answer."""
    program.broken_off = program.attempts == 1


# ---- control requests of the program's own ----


def ask(program: Program, request: dict[str, Any], wait: bool = True) -> None:
    """Send a control request, wait for the response and say it."""
    program.asked = str(uuid.uuid4())
    if request["subtype"] == "hook_callback" and "callback_id" not in request:
        matcher = program.hooks[request["input"]["hook_event_name"]][0]
        request = {**request, "callback_id": matcher["hookCallbackIds"][0]}
    program.write(type="control_request", request_id=program.asked, request=request)
    if wait:
        hear(program)


def hear(program: Program) -> None:
    """Wait for the response to the last `ask`, and say it."""
    program.wait_for(lambda: program.interrupted or program.asked in program.responses)
    if program.asked in program.responses:
        response = program.responses[program.asked]
        del response["request_id"]
        program.piece(json.dumps(response, sort_keys=True))


def take_back(program: Program) -> None:
    """Take the last `ask` back; who waits to `hear` is told so."""
    program.write(type="control_cancel_request", request_id=program.asked)
    program.responses[program.asked] = {"request_id": program.asked, "taken": "back"}


# ---- control requests to the program; these strike at a request's name ----


def silent(program: Program) -> None:
    """Don't answer it, and don't do it."""
    program.manner = "silent"


def late(program: Program) -> None:
    """Do it, and answer when the next line has come."""
    program.manner = "late"


def vain(program: Program) -> None:
    """Answer it, and don't do it."""
    program.manner = "vain"


def refuse(program: Program, error: str | None = None) -> None:
    """Answer with an error; by default that of a program that doesn't know the request."""
    program.manner, program.reason = "refuse", error
