"""What is said to the ``claude`` program, and the lines of a turn that it answers with.

Its protocol is a line of JSON for everything, both ways. An answer comes twice: as the Messages
API's own stream events, for what is said while it is said, and as a line for each content block
once that is whole. The events are decoded like those from HTTP, by the same decoder, so that a turn
looks the same wherever it was answered; the lines count where there are no events: a subagent's
messages, those that the program writes itself, and those of a program that streams nothing.

Nothing that a line lacks, or has too much of, fails a turn: what is unknown passes through as an
:class:`~trio_claude.UnknownMessage`. But whether a turn has ended, and how, is taken from its
``result`` line alone, and only if that is the one of this turn's prompt; for results come that
nobody asked for, and late ones.

Source: the program's own help, and the lines that it was seen to write (2.1.330).
"""

from __future__ import annotations

import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import attrs

from .._errors import APIError, QueryError
from .._messages import (
    AssistantMessage,
    ContentBlock,
    Event,
    InputJSONDelta,
    ResultMessage,
    SystemMessage,
    TextBlock,
    TextDelta,
    ThinkingBlock,
    ThinkingDelta,
    ToolUseBlock,
    UnknownMessage,
    UserMessage,
)
from .blocks import beyond, content_block, usage
from .messages_api import MessageDecoder
from .results import PROGRAM, CostLedger, as_text, failure_of, result_message

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from .deltas import Delta
    from .jsonlines import JSONLine

_ENVELOPE = ("type", "message", "parent_tool_use_id", "session_id", "uuid")
_MESSAGE = ("type", "role", "content", "model", "id", "stop_reason", "usage")

# ---- to the program -----------------------------------------------------------------------------


def encode(value: Mapping[str, Any]) -> bytes:
    """One line. ASCII, so that no text, however odd, is cut or refused on the way."""
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"


def prompt_line(prompt: str, prompt_id: str) -> bytes:
    """A prompt, with the id by which its result names it."""
    return encode(
        {
            "type": "user",
            "message": {"role": "user", "content": prompt},
            "parent_tool_use_id": None,
            "session_id": "",
            "uuid": prompt_id,
        }
    )


def control_request(request_id: str, request: Mapping[str, Any]) -> bytes:
    """A request beside the turn, such as to interrupt it."""
    return encode({"type": "control_request", "request_id": request_id, "request": request})


def control_success(request_id: str, response: Mapping[str, Any]) -> bytes:
    """The answer to a request of the program's."""
    return _control_response(subtype="success", request_id=request_id, response=response)


def control_error(request_id: str, error: str) -> bytes:
    """The refusal of a request of the program's."""
    return _control_response(subtype="error", request_id=request_id, error=error)


def _control_response(**response: Any) -> bytes:
    return encode({"type": "control_response", "response": response})


# ---- from the program ---------------------------------------------------------------------------


class TurnDecoder:
    """Decodes the lines of one turn.

    Args:
      prompt_id: the id of the prompt that it answers.
      costs: of the conversation.
    """

    result: ResultMessage | None
    """How it ended, once it has."""

    failure: QueryError | None
    """What the turn failed of, if the result is an error."""

    last_id: str | None
    """The id of the last message, by which the program finds the turn's end."""

    session_id: str | None
    """The program's, once it has said so."""

    def __init__(self, prompt_id: str, costs: CostLedger) -> None:
        self.result = None
        self.failure = None
        self.last_id = None
        self.session_id = None
        self._prompt_id = prompt_id
        self._costs = costs
        self._held: list[Event] | None = []  # what comes before the init
        self._streamed: MessageDecoder | None = None
        self._streamed_id: str | None = None
        self._pieces_of: set[int] = set()  # its blocks of which there were any
        self._lines: list[AssistantMessage] = []  # the same message, as lines; or another one
        self._text_index: int | None = None  # the block that the last event was a piece of
        self._texts: list[str] = []  # pieces of it that the decoder has not been given
        self._given: set[str | None] = set()  # ids of messages that were given whole
        self._last: AssistantMessage | None = None
        self._refusal: JSONLine = {}  # of the API, where the program tells of one as a message

    def feed(self, line: JSONLine, events: list[Event]) -> None:
        """Take the next line, and append the events that it is."""
        if self.result is not None or self._is_more_text(line, events):
            return
        match line:
            case {"type": "stream_event", "event": {"type": str(kind)} as event} if (
                line.get("parent_tool_use_id") is None
            ):
                self._release(events)
                if kind == "message_start":
                    self._begin(event, events)
                if self._streamed is None:
                    events.append(UnknownMessage(line))
                else:
                    self._stream_event(self._streamed, event, line, events)
            case {"type": "system", "subtype": str(subtype)}:
                self._system(SystemMessage(subtype, line), events)
            case {"type": "assistant", "message": dict(message)}:
                self._release(events)
                self._assistant(_assistant_message(line, message), line, events)
            case {"type": "user", "message": dict(message)}:
                self._release(events)
                self._join_lines(events)
                if line.get("parent_tool_use_id") is None and not line.get("isReplay"):
                    self.last_id = as_text(line.get("uuid")) or self.last_id
                events.append(
                    UserMessage(
                        _content(message.get("content")),
                        parent_tool_use_id=as_text(line.get("parent_tool_use_id")),
                        extra=beyond(line, *_ENVELOPE),
                    )
                )
            case {"type": "command_lifecycle", "command_uuid": str(prompt_id)} if (
                prompt_id != self._prompt_id
            ):
                pass  # the last turn's end, told late
            case {"type": "result"} if self._is_ours(line):
                self._release(events)
                self._join_lines(events)
                self._end(line, events)
            case _:
                (events if self._held is None else self._held).append(UnknownMessage(line))

    def _is_more_text(self, line: JSONLine, events: list[Event]) -> bool:
        """Take the line if it is one more piece of the text that the last ones were pieces of.

        Nearly all lines are that. The long way would take four times as long.
        """
        if self._text_index is None or line.get("type") != "stream_event":
            return False
        try:
            event = line["event"]
            delta = event["delta"]
            text = delta["text"]
        except (KeyError, TypeError):
            return False
        index = self._text_index
        if (
            type(text) is not str
            or event.get("index") != index
            or event.get("type") != "content_block_delta"
            or delta.get("type") != "text_delta"
            or line.get("parent_tool_use_id") is not None
        ):
            return False
        self._texts.append(text)
        events.append(TextDelta(index, text))
        return True

    def _add_texts(self) -> None:
        """Give the decoder the pieces that went past it."""
        if self._texts and self._streamed is not None and self._text_index is not None:
            self._streamed.add_deltas(TextDelta, self._text_index, self._texts)
            self._texts = []

    def partial(self) -> AssistantMessage | None:
        """What has come so far of the last message, without tools' input; None: nothing."""
        self._add_texts()
        streamed = None if self._streamed is None else self._streamed.partial()
        return streamed or _joined(self._lines) or self._last

    # ---- each kind of line ----

    def _system(self, message: SystemMessage, events: list[Event]) -> None:
        if self._held is None:
            events.append(message)
        elif message.subtype == "init":
            self.session_id = as_text(message.data.get("session_id"))
            events.append(message)
            self._release(events)
        else:
            self._held.append(message)

    def _release(self, events: list[Event]) -> None:
        if self._held is not None:
            events += self._held
            self._held = None

    def _begin(self, event: JSONLine, events: list[Event]) -> None:
        self._join_lines(events)
        # The one before, if it has no end, was given up: the program asks again by itself.
        self._texts = []
        self._text_index = None
        self._pieces_of = set()
        self._streamed = MessageDecoder(PROGRAM)
        message = event.get("message")
        self._streamed_id = as_text(message.get("id")) if isinstance(message, dict) else None

    def _stream_event(
        self, decoder: MessageDecoder, event: JSONLine, line: JSONLine, events: list[Event]
    ) -> None:
        self._add_texts()
        self._text_index = None
        try:
            decoded = decoder.feed_payload(event["type"], event)
        except APIError:
            events.append(UnknownMessage(line))
            self._streamed = None  # from now on the lines count
            return
        if decoder.done:
            self._streamed = None
            if decoder.message.content:  # else it was broken off, and its lines count, if any
                self._lines = []
                self._given.add(self._streamed_id)
                self._whole(decoder.message, events)
        elif decoded:
            events += decoded
            last = decoded[-1]
            if isinstance(last, TextDelta | ThinkingDelta | InputJSONDelta):
                self._pieces_of.add(last.index)
            if isinstance(last, TextDelta):
                self._text_index = last.index

    def _assistant(self, message: AssistantMessage, line: JSONLine, events: list[Event]) -> None:
        if message.parent_tool_use_id is not None:
            events.append(message)
            return
        self.last_id = as_text(line.get("uuid")) or self.last_id
        if message.id is not None and message.id in self._given:
            return
        if line.get("is_api_error_message") is True:
            self._refusal = line
            events.append(message)
            return
        if self._streamed is not None and message.id != self._streamed_id:
            self._whole(message, events)  # between the pieces of another one, so without any
            return
        if self._lines and (message.id is None or message.id != self._lines[0].id):
            self._join_lines(events)
        if self._streamed is None:
            begun = sum(len(one.content) for one in self._lines)
            given = self._pieces_of if message.id == self._streamed_id else ()
            events += [
                piece for piece in _deltas(message.content, begun) if piece.index not in given
            ]
        self._lines.append(message)

    def _join_lines(self, events: list[Event]) -> None:
        """Give the message that has come as lines, one for each block."""
        if self._streamed is None:
            message = _joined(self._lines)
            if message is not None:
                self._whole(message, events)
        self._lines = []

    def _whole(self, message: AssistantMessage, events: list[Event]) -> None:
        self._last = message
        events.append(message)

    # ---- the end ----

    def _is_ours(self, line: JSONLine) -> bool:
        answered = line.get("user_message_uuids") or [line.get("user_message_uuid")]
        if isinstance(answered, list) and answered != [None]:
            return self._prompt_id in answered
        origin = line.get("origin")
        return not isinstance(origin, dict) or origin.get("kind") in (None, "human")

    def _end(self, line: JSONLine, events: list[Event]) -> None:
        said_last = "" if self._last is None else self._last.text
        self.result = result = result_message(
            line, self._prompt_id, self._costs.take(line), said_last
        )
        if result.is_error:
            self.failure = failure_of(result, line, self._refusal)
        else:
            events.append(result)


def _assistant_message(line: JSONLine, message: JSONLine) -> AssistantMessage:
    counts = message.get("usage")
    return AssistantMessage(
        _content(message.get("content")),
        model=as_text(message.get("model")),
        id=as_text(message.get("id")),
        stop_reason=as_text(message.get("stop_reason")),
        usage=usage(counts) if isinstance(counts, dict) else None,
        parent_tool_use_id=as_text(line.get("parent_tool_use_id")),
        extra={**beyond(message, *_MESSAGE), **beyond(line, *_ENVELOPE)},
    )


def _joined(lines: list[AssistantMessage]) -> AssistantMessage | None:
    if not lines:
        return None
    return attrs.evolve(lines[-1], content=tuple(block for one in lines for block in one.content))


def _deltas(content: Iterable[ContentBlock], begun: int) -> Iterator[Delta]:
    """A message that was not streamed, as the pieces that it would have come in: its blocks."""
    for index, block in enumerate(content, begun):
        match block:
            case TextBlock(text):
                yield TextDelta(index, text)
            case ThinkingBlock(thinking):
                yield ThinkingDelta(index, thinking)
            case ToolUseBlock(input=given):
                with suppress(RecursionError):
                    yield InputJSONDelta(index, json.dumps(given))


def _content(value: object) -> tuple[ContentBlock, ...]:
    if isinstance(value, str):
        return (TextBlock(value),)
    blocks = value if isinstance(value, list) else ()
    return tuple(content_block(block) for block in blocks if isinstance(block, dict))
