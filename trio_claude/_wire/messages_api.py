"""A streamed message of the Messages API: server-sent events in, events of a turn out.

What is known is decoded, what is not passes through: an event or a delta of a type that this
version has no name for becomes an :class:`~trio_claude.UnknownMessage`, a block an
:class:`~trio_claude.UnknownBlock`, a field goes to ``extra``.

What cannot be a message is never taken for one. An answer that breaks off is
:class:`~trio_claude.StreamInterrupted`; one that makes no sense (no JSON, not UTF-8, a piece of a
block that never began, two beginnings) is an :class:`~trio_claude.APIError`. Both fail the turn
and not the session: the next request starts anew, so that nothing of them can linger.

Source: https://docs.claude.com/en/docs/build-with-claude/streaming
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import attrs

from .._messages import (
    AssistantMessage,
    ContentBlock,
    Event,
    InputJSONDelta,
    SystemMessage,
    TextDelta,
    ThinkingDelta,
    ToolUseBlock,
    UnknownMessage,
    Usage,
)
from .api_errors import cut_short, event_error, unreadable
from .blocks import GrowingBlock, beyond, content_block, usage
from .deltas import FIELDS
from .requests import Raw, can_be_sent

if TYPE_CHECKING:
    from .deltas import Delta
    from .sse import ServerSentEvent

# The answer was cut off where it stood, so that a tool's input may be half.
_CUT_OFF = ("max_tokens", "model_context_window_exceeded", "refusal")

_KNOWN_BLOCKS = ("text", "thinking", "redacted_thinking", "tool_use")


class MessageDecoder:
    """Decodes one message.

    Args:
      host: whose answer it is, for error messages.
      session_id: the conversation's id, if this message begins its turn: then a
        :class:`~trio_claude.SystemMessage` comes first. It is held back until there is something
        to say, so that an answer that fails before is as good as none and can be asked for again.
    """

    done: bool
    """Whether the message is whole. Then the following hold what came of it."""

    message: AssistantMessage
    content: list[Raw]
    """The blocks that the service will take back, as they came."""

    stop_reason: str | None
    usage: Usage

    heard: int
    """How many events came that were no pings."""

    def __init__(self, host: str, session_id: str | None = None) -> None:
        self.done = False
        self.heard = 0
        self.stop_reason = None
        self._host = host
        self._session_id = session_id
        self._held: list[Event] = []
        self._raw: Raw | None = None
        self._usage: Raw = {}
        self._blocks: dict[int, GrowingBlock] = {}

    def feed(self, sse: ServerSentEvent) -> list[Event]:
        """Take the next event of the stream.

        Raises:
          APIStatusError: it is an error of the service.
          APIError: it makes no sense.
        """
        if self.done:
            return []
        payload = self._payload(sse)
        return self.feed_payload(payload.get("type", sse.event), payload)

    def feed_payload(self, kind: object, payload: Raw) -> list[Event]:
        """As `feed`, for an event that has been decoded from JSON; ``kind`` is its type."""
        if self.done or kind == "ping":
            return []
        self.heard += 1
        if kind == "content_block_delta":
            events = self._delta(payload)
        else:
            events = self._other(kind, payload)
        if self._raw is None:
            self._held += events  # unknown ones, before the message begins
            return []
        return self._after_held(events)

    def add_deltas(self, kind: type[Delta], index: int, texts: list[str]) -> None:
        """Take deltas of a block that a delta of the same kind has been fed of, by their texts."""
        pieces: list[str] = getattr(self._blocks[index], FIELDS[kind])
        pieces.append("".join(texts))  # not the texts: as many objects as there are events
        self.heard += len(texts)

    def finish(self, tail: list[ServerSentEvent]) -> list[Event]:
        """Take the end of the stream.

        Args:
          tail: the event without its blank line that it ended with, if any.

        Raises:
          StreamInterrupted: the message is not whole.
          APIStatusError: the tail is an error of the service.
          APIError: the tail makes no sense.
        """
        events: list[Event] = []
        for sse in tail:
            try:
                json.loads(sse.data)
            except (ValueError, RecursionError) as exc:
                raise cut_short(self._host, "it ended in the middle of an event") from exc
            events += self.feed(sse)
        if not self.done:
            if self.stop_reason is None:
                raise cut_short(self._host, "it ended before the message did")
            events += self._after_held([self._whole()])
        return events

    def partial(self) -> AssistantMessage | None:
        """The message as far as it came, without tools' input; None: there is no text at all."""
        if self.done:
            return self.message
        blocks = [block.so_far() for _index, block in sorted(self._blocks.items())]
        content = tuple(block for block in blocks if block is not None)
        model = None if self._raw is None else self._raw.get("model")
        return AssistantMessage(content, model=model) if content else None

    def _after_held(self, events: list[Event]) -> list[Event]:
        if events and self._held:
            events = self._held + events
            self._held = []
        return events

    # ---- the events of the stream ---------------------------------------------------------------

    def _payload(self, sse: ServerSentEvent) -> Raw:
        try:
            payload = json.loads(sse.data.decode())
        except UnicodeDecodeError as exc:
            raise unreadable(self._host, f"its {sse.event!r} event is not UTF-8") from exc
        except (ValueError, RecursionError) as exc:
            raise unreadable(self._host, f"its {sse.event!r} event is not JSON") from exc
        if not isinstance(payload, dict):
            raise unreadable(self._host, f"its {sse.event!r} event is no JSON object")
        return payload

    def _other(self, kind: object, payload: Raw) -> list[Event]:
        match kind:
            case "message_start":
                self._message_start(payload)
            case "content_block_start":
                return self._block_start(payload)
            case "content_block_stop":
                # Nothing to do: some blocks never get one, so all end with the message.
                self._block(payload)
            case "message_delta":
                self._message_delta(payload)
            case "message_stop":
                return [self._whole()]
            case "error":
                raise event_error(self._host, payload)
            case _:
                return [UnknownMessage(payload)]
        return []

    def _message_start(self, payload: Raw) -> None:
        if self._raw is not None:
            raise unreadable(self._host, "a second message began inside the first one")
        self._raw = self._object(payload, "message")
        counts = self._raw.get("usage")
        self._usage = dict(counts) if isinstance(counts, dict) else {}
        if self._session_id is not None:
            data = {
                "session_id": self._session_id,
                "model": self._raw.get("model"),
                "message_id": self._raw.get("id"),
            }
            self._held.insert(0, SystemMessage("init", data))

    def _block_start(self, payload: Raw) -> list[Event]:
        self._begun("content_block_start")
        index = self._index(payload)
        if index in self._blocks:
            raise unreadable(self._host, f"content block {index} began twice")
        raw = self._object(payload, "content_block")
        self._blocks[index] = GrowingBlock(raw)
        # Blocks begin empty, as a rule; what one begins with is said like the rest.
        match raw:
            case {"type": "text", "text": str(text)} if text:
                return [TextDelta(index, text)]
            case {"type": "thinking", "thinking": str(thinking)} if thinking:
                return [ThinkingDelta(index, thinking)]
            case _:
                return []

    def _delta(self, payload: Raw) -> list[Event]:
        match payload:
            # The one that nearly all are.
            case {"index": index, "delta": {"type": "text_delta", "text": str(text)}}:
                self._block(payload).text.append(text)
                return [TextDelta(index, text)]
            case {"index": index, "delta": {"type": "thinking_delta", "thinking": str(text)}}:
                self._block(payload).thinking.append(text)
                return [ThinkingDelta(index, text)]
            case {"index": index, "delta": {"type": "input_json_delta", "partial_json": str(text)}}:
                self._block(payload).partial_json.append(text)
                return [InputJSONDelta(index, text)]
            case {"delta": {"type": "signature_delta", "signature": str(signature)}}:
                self._block(payload).raw["signature"] = signature
                return []
            case {"delta": {"type": "citations_delta", "citation": dict(citation)}}:
                raw = self._block(payload).raw
                raw["citations"] = [*(raw.get("citations") or ()), citation]
                return []
        return self._unknown_delta(payload)

    def _unknown_delta(self, payload: Raw) -> list[Event]:
        raw = self._block(payload).raw
        delta = self._object(payload, "delta")
        if delta.get("type") in (
            "text_delta",
            "thinking_delta",
            "input_json_delta",
            "signature_delta",
            "citations_delta",
        ):
            raise unreadable(self._host, f"a {delta['type']} without its content")
        if raw.get("type") not in _KNOWN_BLOCKS:
            # Such as compaction_delta: it brings the fields that its block began without, and
            # without which the service would not take the block back.
            raw.update(beyond(delta, "type"))
        return [UnknownMessage(payload)]

    def _message_delta(self, payload: Raw) -> None:
        raw = self._begun("message_delta")
        delta = self._object(payload, "delta")
        raw.update({name: value for name, value in delta.items() if value is not None})
        reason = raw.get("stop_reason")
        self.stop_reason = reason if isinstance(reason, str) else None
        counts = payload.get("usage")
        if isinstance(counts, dict):
            # They count from the beginning of the message, so they replace and don't add.
            self._usage.update({k: count for k, count in counts.items() if count is not None})

    # ---- the whole message ----------------------------------------------------------------------

    def _whole(self) -> AssistantMessage:
        raw = self._begun("message_stop")
        blocks: list[ContentBlock] = []
        content: list[Raw] = []
        for _index, block in sorted(self._blocks.items()):
            self._close(block, blocks, content)
        try:
            # A copy, for the blocks hold the same values, and proof that it can be sent again.
            self.content = json.loads(json.dumps(content, allow_nan=False))
        except (ValueError, RecursionError) as exc:
            raise unreadable(self._host, f"its content is no proper JSON: {exc}") from exc
        self.usage = usage(self._usage)
        model, id_ = raw.get("model"), raw.get("id")
        self.message = AssistantMessage(
            tuple(blocks),
            model=model if isinstance(model, str) else None,
            id=id_ if isinstance(id_, str) else None,
            stop_reason=self.stop_reason,
            usage=self.usage,
            extra=beyond(raw, "type", "role", "content", "model", "id", "stop_reason", "usage"),
        )
        self.done = True
        return self.message

    def _close(self, block: GrowingBlock, blocks: list[ContentBlock], content: list[Raw]) -> None:
        partial_json = block.close()
        value = content_block(block.raw)
        if partial_json is None:
            if can_be_sent(block.raw):
                content.append(block.raw)
        elif self.stop_reason not in _CUT_OFF:
            name = block.raw.get("name")
            raise unreadable(self._host, f"the input of tool {name!r} is not JSON")
        elif isinstance(value, ToolUseBlock):
            value = attrs.evolve(value, extra={**value.extra, "partial_json": partial_json})
        blocks.append(value)

    # ---- what must be there ---------------------------------------------------------------------

    def _begun(self, kind: str) -> Raw:
        if self._raw is None:
            raise unreadable(self._host, f"{kind} came before the message began")
        return self._raw

    def _object(self, payload: Raw, name: str) -> Raw:
        value = payload.get(name)
        if not isinstance(value, dict):
            raise unreadable(self._host, f"a {payload.get('type')} without its {name}")
        return value

    def _index(self, payload: Raw) -> int:
        index: Any = payload.get("index")
        if type(index) is not int:
            raise unreadable(self._host, f"a {payload.get('type')} without its index")
        return index

    def _block(self, payload: Raw) -> GrowingBlock:
        self._begun("a content block")
        index = self._index(payload)
        if index not in self._blocks:
            raise unreadable(self._host, f"a piece of content block {index}, which never began")
        return self._blocks[index]
