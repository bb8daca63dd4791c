"""The service's JSON for content blocks and usage, as our values."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import attrs

from .._messages import (
    ContentBlock,
    RedactedThinkingBlock,
    TextBlock,
    ThinkingBlock,
    ToolResultBlock,
    ToolUseBlock,
    UnknownBlock,
    Usage,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

_COUNTS = (
    "input_tokens",
    "output_tokens",
    "cache_creation_input_tokens",
    "cache_read_input_tokens",
)


@attrs.define
class GrowingBlock:
    """A block on its way: as it began, and the pieces that came since."""

    raw: dict[str, Any]
    text: list[str] = attrs.field(factory=list)
    thinking: list[str] = attrs.field(factory=list)
    partial_json: list[str] = attrs.field(factory=list)

    def so_far(self) -> TextBlock | ThinkingBlock | None:
        """What has come of a text or of a thought; None if that is nothing."""
        text, thinking = self._whole("text", self.text), self._whole("thinking", self.thinking)
        if text:
            return TextBlock(text)
        return ThinkingBlock(thinking) if thinking else None

    def _whole(self, name: str, pieces: list[str]) -> str:
        return "".join((str(self.raw.get(name) or ""), *pieces))

    def close(self) -> str | None:
        """Put the pieces together in ``raw``.

        Returns:
          The input of the tool, if the block calls one and its input is no JSON object; ``raw`` has
          an empty one then. Else None.
        """
        for name, pieces in (("text", self.text), ("thinking", self.thinking)):
            if pieces:
                self.raw[name] = self._whole(name, pieces)
        partial_json = "".join(self.partial_json)
        if not partial_json.strip():
            return None
        try:
            value = json.loads(partial_json)
        except (ValueError, RecursionError):
            value = None
        whole = isinstance(value, dict)
        self.raw["input"] = value if whole else {}
        return None if whole else partial_json


def beyond(raw: Mapping[str, Any], *known: str) -> dict[str, Any]:
    """The fields that ``known`` does not name; null is as good as left out."""
    return {name: value for name, value in raw.items() if name not in known and value is not None}


def content_block(raw: Mapping[str, Any]) -> ContentBlock:
    """The block that this JSON is; an :class:`UnknownBlock` where it is none that we know."""
    match raw:
        case {"type": "text", "text": str(text)}:
            return TextBlock(text, beyond(raw, "type", "text"))
        case {"type": "thinking", "thinking": str(thinking)}:
            signature = raw.get("signature")
            return ThinkingBlock(
                thinking,
                signature if isinstance(signature, str) else "",
                beyond(raw, "type", "thinking", "signature"),
            )
        case {"type": "redacted_thinking", "data": str(data)}:
            return RedactedThinkingBlock(data, beyond(raw, "type", "data"))
        case {"type": "tool_use", "id": str(id_), "name": str(name), "input": dict(input_)}:
            return ToolUseBlock(id_, name, input_, beyond(raw, "type", "id", "name", "input"))
        case {"type": "tool_result", "tool_use_id": str(id_)}:
            content = raw.get("content")
            return ToolResultBlock(
                id_,
                tuple(content) if isinstance(content, list) else content,
                raw.get("is_error") is True,
                beyond(raw, "type", "tool_use_id", "content", "is_error"),
            )
        case _:
            return UnknownBlock(raw)


def usage(raw: Mapping[str, Any]) -> Usage:
    """The counts that this JSON gives; what is missing or null is 0."""
    counts = {name: raw[name] for name in _COUNTS if type(raw.get(name)) is int}
    return Usage(**counts, extra=beyond(raw, *_COUNTS))
