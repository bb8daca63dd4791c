"""What a responder said, as the message and the events that the service would send.

Pure. Tokens are counted in words, which is wrong by a third and the same every time: a count is
the number of words, separated by white space, in the texts concerned. ``max_tokens`` cuts an
answer after that many words, thinking included, and a ``tool_use`` block that does not fit is
left out whole.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import attrs

from .._responder import answer

Block = Mapping[str, Any]
Event = dict[str, Any]

SIGNATURE_PREFIX: Final = "sim-"
_WORDS = re.compile(r"\s*\S+|\s+\Z")
_BILLING: Final = "x-anthropic-billing-header:"
_PIECE = 12  # characters of tool input in one delta


@attrs.frozen
class Reply:
    """What a responder may return where the content alone does not say enough."""

    content: str | Sequence[Block]
    """The text, or a list of content blocks: ``text``, ``thinking``, ``tool_use``, ..."""
    stop_reason: str | None = None
    """Why the answer ends; ``end_turn``, or ``tool_use`` with a tool in it, where not given."""
    usage: Mapping[str, Any] | None = None
    """Counts of tokens that differ from the simulator's own."""
    model: str | None = None
    """The model that says it answered; the one that was asked where not given."""


def default_responder(body: Mapping[str, Any]) -> list[Block]:
    """Answer from the conversation, after a thought where thinking was asked for."""
    system = body.get("system")
    if isinstance(system, list):
        texts = [block["text"] for block in system]
        # The claude program begins with a bill and with what it is; the prompt follows.
        of_program = bool(texts) and texts[0].startswith(_BILLING)
        system = "\n\n".join(texts[2:] if of_program else texts)
    blocks: list[Block] = [{"type": "text", "text": answer(body["messages"], system)}]
    thinking = body.get("thinking", {})
    if thinking.get("type") in {"enabled", "adaptive"}:
        shown = "" if thinking.get("display") == "omitted" else "Let me read it all once more."
        blocks.insert(0, {"type": "thinking", "thinking": shown})
    return blocks


def signature_of(thinking: str) -> str:
    """The signature that the simulator gives to a thought, and knows again."""
    return SIGNATURE_PREFIX + hashlib.sha256(thinking.encode("utf-8", "replace")).hexdigest()


def count_input_tokens(body: Mapping[str, Any]) -> int:
    """The words of the system prompt, the messages and the tools; at least 1."""
    words = 0
    # A stack, not recursion: the depth is the client's.
    waiting: list[object] = [body.get("system"), body["messages"], body.get("tools")]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            words += len(value.split())
        elif isinstance(value, list):
            waiting.extend(value)
        elif isinstance(value, dict):
            waiting.extend(inner for key, inner in value.items() if key not in {"type", "role"})
    return max(words, 1)


def message_of(reply: object, body: Mapping[str, Any], message_id: str) -> dict[str, Any]:
    """The whole message, in the form in which the service returns it when it does not stream.

    Raises:
        TypeError: when a responder returned something else than a text, blocks or a `Reply`.
    """
    reply = reply if isinstance(reply, Reply) else Reply(_content(reply))
    content, stop_reason, stop_sequence = _limited(
        _blocks(reply.content, message_id), body["max_tokens"], body.get("stop_sequences") or ()
    )
    for block in content:
        if block["type"] == "thinking":  # signed as it is said: it may have been cut
            block.setdefault("signature", signature_of(block["thinking"]))
    if stop_reason is None:
        uses_tool = any(block["type"] == "tool_use" for block in content)
        stop_reason = reply.stop_reason or ("tool_use" if uses_tool else "end_turn")
    return {
        "id": message_id,
        "type": "message",
        "role": "assistant",
        "content": content,
        "model": reply.model or body["model"],
        "stop_reason": stop_reason,
        "stop_sequence": stop_sequence,
        "usage": {
            "input_tokens": count_input_tokens(body),
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "output_tokens": sum(len(_words(block)) for block in content),
            "service_tier": "standard",
            **(reply.usage or {}),
        },
    }


def events_of(message: Mapping[str, Any]) -> list[Event]:
    """The events that stream a message: words, pieces of tool input and thoughts one by one."""
    usage = message["usage"]
    start = {**message, "content": [], "stop_reason": None, "stop_sequence": None}
    # Like the service: the output is counted when it ends.
    start["usage"] = {**usage, "output_tokens": min(1, usage["output_tokens"])}
    events: list[Event] = [{"type": "message_start", "message": start}]
    for index, block in enumerate(message["content"]):
        opening, deltas = _opened(block)
        events.append({"type": "content_block_start", "index": index, "content_block": opening})
        events += [
            {"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas
        ]
        events.append({"type": "content_block_stop", "index": index})
    events.append(
        {
            "type": "message_delta",
            "delta": {key: message[key] for key in ("stop_reason", "stop_sequence")},
            "usage": {key: count for key, count in usage.items() if key != "service_tier"},
        }
    )
    events.append({"type": "message_stop"})
    return events


def encode_json(value: object) -> bytes:
    """JSON as the service writes it: UTF-8; half a surrogate pair becomes a question mark."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text.encode("utf-8", "replace")


def encode_event(event: Event) -> bytes:
    """One server-sent event, named after its type."""
    return b"event: %s\ndata: %s\n\n" % (event["type"].encode(), encode_json(event))


def _content(said: object) -> str | Sequence[Block]:
    if isinstance(said, str) or (
        isinstance(said, Sequence) and all(isinstance(block, Mapping) for block in said)
    ):
        return said
    raise TypeError(
        "a responder returns a text, a list of content blocks (dicts) or a Reply, "
        f"not {type(said).__name__}"
    )


def _blocks(content: str | Sequence[Block], message_id: str) -> list[dict[str, Any]]:
    """The content as blocks of its own, each tool call with an id."""
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    blocks = [dict(block) for block in content]
    for number, block in enumerate(blocks):
        if block["type"] == "tool_use":
            block.setdefault("id", f"toolu_{message_id.removeprefix('msg_')}{number}")
    return blocks


def _words(block: Block) -> list[str]:
    """What counts as output, word by word with the space before it; joined, it is the whole."""
    match block["type"]:
        case "text":
            return _WORDS.findall(block["text"])
        case "thinking":
            return _WORDS.findall(block["thinking"])
        case "tool_use":
            return _WORDS.findall(json.dumps(block["input"]))
        case _:
            return []


def _limited(
    blocks: Sequence[dict[str, Any]], max_tokens: int, stop_sequences: Sequence[str]
) -> tuple[list[dict[str, Any]], str | None, str | None]:
    """What of an answer may be said, and what stopped it: a reason, and which stop sequence."""
    said: list[dict[str, Any]] = []
    left = max_tokens
    for block in blocks:
        stopped_by = None
        if block["type"] == "text":
            text, stopped_by = _stopped(block["text"], stop_sequences)
            block = {**block, "text": text}
        words = _words(block)
        if len(words) > left:
            kept = "".join(words[:left])
            if kept and block["type"] in {"text", "thinking"}:
                said.append({**block, block["type"]: kept})
            return said, "max_tokens", None
        left -= len(words)
        if stopped_by is None or block["text"]:
            said.append(block)
        if stopped_by is not None:
            return said, "stop_sequence", stopped_by
    return said, None, None


def _stopped(text: str, stop_sequences: Sequence[str]) -> tuple[str, str | None]:
    """The text up to the first stop sequence in it, and that sequence."""
    found = [(text.index(stop), stop) for stop in stop_sequences if stop in text]
    if not found:
        return text, None
    at, stop = min(found)
    return text[:at], stop


def _opened(block: Block) -> tuple[Block, list[Block]]:
    """How a block begins, and the deltas that fill it; a block of another type arrives whole."""
    match block["type"]:
        case "text":
            words = [{"type": "text_delta", "text": word} for word in _words(block)]
            return {**block, "text": ""}, [*words]
        case "thinking":
            thoughts = [{"type": "thinking_delta", "thinking": word} for word in _words(block)]
            signed = {"type": "signature_delta", "signature": block["signature"]}
            return {**block, "thinking": "", "signature": ""}, [*thoughts, signed]
        case "tool_use":
            text = json.dumps(block["input"], ensure_ascii=False)
            pieces = ["", *(text[at : at + _PIECE] for at in range(0, len(text), _PIECE))]
            deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in pieces]
            return {**block, "input": {}}, [*deltas]
        case _:
            return block, []
