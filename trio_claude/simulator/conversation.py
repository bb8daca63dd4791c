"""The rules of a conversation: who may say what, and what must follow what.

Breaking one of them makes the service refuse the whole history, now and in every later turn. Pure,
like `checks`, and raising the same 400.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from .errors import invalid
from .replies import SIGNATURE_PREFIX, signature_of

Block = Mapping[str, Any]

_MAX_MESSAGES: Final = 100_000
_ANYBODY: Final[Mapping[str, Mapping[str, type]]] = {
    "text": {"text": str},
    "image": {"source": dict},
    "document": {"source": dict},
    "search_result": {"content": list},
    "container_upload": {"file_id": str},
}
_BY_ROLE: Final[Mapping[str, Mapping[str, Mapping[str, type]]]] = {
    "user": {**_ANYBODY, "tool_result": {"tool_use_id": str}},
    "assistant": {
        **_ANYBODY,
        "tool_use": {"id": str, "name": str, "input": dict},
        "server_tool_use": {"id": str, "name": str, "input": dict},
        "mcp_tool_use": {"id": str, "name": str, "input": dict},
        "thinking": {"signature": str, "thinking": str},
        "redacted_thinking": {"data": str},
        "compaction": {},
    },
    "system": {
        "text": {"text": str},
        "tool_addition": {"tool": dict},
        "tool_removal": {"tool": dict},
    },
}
_NOUNS: Final[Mapping[type, str]] = {str: "string", dict: "dictionary", list: "list"}


def check_conversation(messages: object, *, answered: bool, system_messages: bool) -> None:
    """Check the messages of a request.

    Args:
        messages: what the body has under that name.
        answered: whether it asks for an answer.
        system_messages: whether the model takes messages with the role ``system``.
    """
    if not isinstance(messages, list):
        raise invalid("messages: Input should be a valid list")
    if not messages:
        raise invalid("messages: at least one message is required")
    if len(messages) > _MAX_MESSAGES:
        raise invalid(f"messages: at most {_MAX_MESSAGES} messages are allowed")
    for number, message in enumerate(messages):
        _check_message(f"messages.{number}", message, system_messages=system_messages)
    if messages[0]["role"] != "user":
        raise invalid('messages: first message must use the "user" role')
    _check_system_places([message["role"] for message in messages])
    _check_tool_results(messages)
    if answered and messages[-1]["role"] == "assistant":
        raise invalid(
            "This model does not support assistant message prefill. "
            "The conversation must end with a user message."
        )


def check_text(where: str, field: str, block: Block) -> None:
    """Refuse a text block without words."""
    if not isinstance(block.get("text"), str):
        raise invalid(f"{where}.text: Input should be a valid string")
    if not block["text"]:
        raise invalid(f"{field}: text content blocks must be non-empty")
    if not block["text"].strip():
        raise invalid(f"{field}: text content blocks must contain non-whitespace text")


def _check_message(where: str, message: object, *, system_messages: bool) -> None:
    if not isinstance(message, dict):
        raise invalid(f"{where}: Input should be a valid dictionary")
    role, content = message.get("role"), message.get("content")
    if role == "system" and not system_messages:
        raise invalid(
            'messages: Unexpected role "system". The Messages API accepts a top-level `system` '
            'parameter, not "system" as an input message role.'
        )
    if role not in ("user", "assistant", "system"):
        raise invalid(f"{where}.role: Input should be 'user' or 'assistant'")
    if role == "system" and "content" not in message and message.get("output_config"):
        return  # beta: nothing is said, only how much effort the next answer is worth
    if "content" not in message:
        raise invalid(f"{where}.content: Field required")
    if not isinstance(content, str | list):
        raise invalid(f"{where}.content: Input should be a valid string or a valid list")
    if not content:
        raise invalid(f"{where}: all messages must have non-empty content")
    if isinstance(content, str):
        check_text(where, "messages", {"text": content})
        return
    for number, block in enumerate(content):
        _check_block(f"{where}.content.{number}", role, block)


def _check_block(where: str, role: str, block: object) -> None:
    if not isinstance(block, dict):
        raise invalid(f"{where}: Input should be a valid dictionary")
    kind, known = block.get("type"), _BY_ROLE[role]
    if isinstance(kind, str) and kind.endswith("_tool_result"):
        return  # of a tool that the service ran; what is in it is the service's business
    if not isinstance(kind, str) or kind not in known:
        raise invalid(
            f"{where}: Input tag {kind!r} found using 'type' does not match any of the expected "
            f"tags of a message with the role {role!r}: {', '.join(map(repr, known))}"
        )
    for name, type_ in known[kind].items():
        if name not in block:
            raise invalid(f"{where}.{kind}.{name}: Field required")
        if not isinstance(block[name], type_):
            raise invalid(f"{where}.{kind}.{name}: Input should be a valid {_NOUNS[type_]}")
    if kind == "text":
        check_text(where, "messages", block)
    elif kind == "thinking":
        _check_signature(where, block)
    elif kind == "tool_result":
        _check_result(f"{where}.tool_result", block.get("content"))


def _check_signature(where: str, block: Block) -> None:
    """Refuse a thought that is not as it was said. Other signatures than ours are believed."""
    signature = block["signature"]
    ours = signature.startswith(SIGNATURE_PREFIX)
    if not signature or (ours and signature != signature_of(block["thinking"])):
        raise invalid(f"{where}: Invalid `signature` in `thinking` block")


def _check_result(where: str, content: object) -> None:
    if content is None or isinstance(content, str):
        return
    if not isinstance(content, list):
        raise invalid(f"{where}.content: Input should be a valid string or a valid list")
    for number, block in enumerate(content):
        inner = f"{where}.content.{number}"
        if not isinstance(block, dict) or block.get("type") not in _ANYBODY:
            raise invalid(f"{inner}: Input should be a block of {', '.join(_ANYBODY)}")
        if block["type"] == "text":
            check_text(inner, "messages", block)


def _check_system_places(roles: Sequence[str]) -> None:
    """A ``system`` message stands between what the user said and the answer to it."""
    for number, (before, role, after) in enumerate(
        zip(roles, roles[1:], [*roles[2:], None], strict=False), start=1
    ):
        if role != "system":
            continue
        if before != "user":
            raise invalid(f"messages.{number}: role 'system' must follow a 'user' message")
        if after not in {"assistant", None}:
            raise invalid(
                f"messages.{number}: role 'system' must precede an 'assistant' message or end the "
                "array"
            )


def _check_tool_results(messages: Sequence[Mapping[str, Any]]) -> None:
    """Every ``tool_use`` is answered at the head of the next user turn, and nothing else is."""
    turns = _turns(messages)
    used: set[str] = set()
    for (first, role, blocks), following in zip(turns, [*turns[1:], None], strict=True):
        if role == "user":
            continue
        asked = [block["id"] for block in blocks if block["type"] == "tool_use"]
        if used.intersection(asked) or len(set(asked)) < len(asked):
            raise invalid("messages: `tool_use` ids must be unique")
        used.update(asked)
        answers = _leading_results(following[2]) if following else []
        missing = [tool_use_id for tool_use_id in asked if tool_use_id not in answers]
        if missing:
            raise invalid(
                f"messages.{first}: `tool_use` ids were found without `tool_result` blocks "
                f"immediately after: {', '.join(missing)}. Each `tool_use` block must have a "
                "corresponding `tool_result` block in the next message."
            )
    for before, (first, _role, blocks) in zip([None, *turns], turns, strict=False):
        asked = [b["id"] for b in before[2] if b["type"] == "tool_use"] if before else []
        answers = [block["tool_use_id"] for block in blocks if block["type"] == "tool_result"]
        strange = [tool_use_id for tool_use_id in answers if tool_use_id not in asked]
        if strange:
            raise invalid(
                f"messages.{first}: unexpected `tool_use_id` found in `tool_result` blocks: "
                f"{', '.join(strange)}. Each `tool_result` block must have a corresponding "
                "`tool_use` block in the previous message."
            )


def _turns(messages: Sequence[Mapping[str, Any]]) -> list[tuple[int, str, list[Block]]]:
    """What both sides said, with messages of one role in a row merged: the first one's number, the
    role, the blocks."""
    turns: list[tuple[int, str, list[Block]]] = []
    for number, message in enumerate(messages):
        if message["role"] == "system":
            continue
        content = message["content"]
        blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
        if turns and turns[-1][1] == message["role"]:
            turns[-1][2].extend(blocks)
        else:
            turns.append((number, message["role"], [*blocks]))
    return turns


def _leading_results(blocks: Sequence[Block]) -> list[str]:
    found = []
    for block in blocks:
        if block["type"] != "tool_result":
            break
        found.append(block["tool_use_id"])
    return found
