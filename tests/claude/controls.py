"""What the scripted `claude` program answers to control requests: one function for each subtype.

A LookupError is the text of a refusal.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from tests.claude import faults

if TYPE_CHECKING:
    from tests.claude.scripted import Program

MODES = ("acceptEdits", "auto", "bypassPermissions", "default", "dontAsk", "plan")


def initialize(program: Program, hooks: Any = None, **_more: Any) -> dict[str, Any]:
    """Begin, or continue an earlier conversation; say who we are."""
    session_id = program.option("resume")
    if "--continue" in program.argv:
        session_id = program.memory.latest()
    if session_id is not None:
        try:
            program.memory.load(session_id, program.option("resume-session-at"))
        except LookupError as exc:
            faults.exit(program, 1, f"{exc}\n")
        program.cost_before = program.memory.cost
        if program.older:  # its total counts from 0 again
            program.cost_at_start = program.memory.cost
        if "--fork-session" in program.argv:
            program.memory.fork()
    program.hooks = hooks or {}
    about: dict[str, Any] = {
        "commands": [],
        "agents": [],
        "models": [],
        "account": {},
        "pid": os.getpid(),
    }
    about |= {"output_style": "default", "current_permission_mode": program.mode}
    return {**about, "claude_code_version": program.version}


def interrupt(program: Program) -> dict[str, Any]:
    """End the turn, if there is one."""
    program.interrupted = program.running
    return {} if program.older else {"still_queued": []}


def set_model(program: Program, model: str | None = None) -> dict[str, Any]:
    """Use another model from the next turn on."""
    program.model = model or program.first_model
    return {"model": program.model}


def set_permission_mode(program: Program, mode: str) -> dict[str, Any]:
    """Use another mode."""
    if mode not in MODES:
        raise LookupError(f"Cannot set permission mode: must be one of {', '.join(MODES)}")
    program.mode = mode
    return {"mode": mode}


def mcp_status(program: Program) -> dict[str, Any]:
    """There are no servers."""
    return {"mcpServers": []}


def get_context_usage(program: Program) -> dict[str, Any]:
    """How full the context is."""
    return {"categories": [], "totalTokens": 4000, "maxTokens": 200000, "percentage": 2}


def rewind_files(program: Program, user_message_id: str, dry_run: bool = False) -> dict[str, Any]:
    """Only where it was switched on."""
    if os.environ.get("CLAUDE_CODE_ENABLE_SDK_FILE_CHECKPOINTING") != "true":
        raise LookupError("File rewinding is not enabled.")
    return {"canRewind": user_message_id in program.prompts, "filesChanged": []}


def rewind_conversation(program: Program, target_message_uuid: str, **_more: Any) -> dict[str, Any]:
    """Take a prompt, and all after it, out of the conversation."""
    if program.older:
        raise LookupError("Unsupported control request subtype: rewind_conversation")
    if program.running:
        raise LookupError("Cannot rewind: a turn is running")
    return {"rewound": True, "precedingAssistantUuid": program.memory.rewind(target_message_uuid)}
