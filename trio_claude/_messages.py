"""What a conversation is made of: content blocks, messages, the events of a turn, usage.

All of them are frozen values. What a newer service sends and this version has no name for is kept:
fields in ``extra``, blocks as :class:`UnknownBlock`, events as :class:`UnknownMessage`.
"""

from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

import attrs

JSONObject: TypeAlias = Mapping[str, Any]


def _json_field() -> Any:
    """An empty mapping by default; left out of the hash, for a dict has none."""
    return attrs.field(factory=dict, hash=False)


@attrs.frozen
class Usage:
    """The tokens that a message or a turn took, as the service counts them."""

    input_tokens: int = 0
    """Tokens read, without those written to or read from the prompt cache."""

    output_tokens: int = 0
    """Tokens written."""

    cache_creation_input_tokens: int = 0
    """Tokens written to the prompt cache."""

    cache_read_input_tokens: int = 0
    """Tokens read from the prompt cache."""

    extra: JSONObject = _json_field()
    """The fields that this version has no name for."""

    def __add__(self, other: "Usage") -> "Usage":
        """Both together; ``extra`` is that of the later one."""
        return Usage(
            input_tokens=self.input_tokens + other.input_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            cache_creation_input_tokens=self.cache_creation_input_tokens
            + other.cache_creation_input_tokens,
            cache_read_input_tokens=self.cache_read_input_tokens + other.cache_read_input_tokens,
            extra={**self.extra, **other.extra},
        )


@attrs.frozen
class TextBlock:
    """A piece of text."""

    text: str
    extra: JSONObject = _json_field()
    """Further fields, such as ``citations``."""


@attrs.frozen
class ThinkingBlock:
    """What the model thought before it answered, with the service's signature."""

    thinking: str
    signature: str = ""
    extra: JSONObject = _json_field()


@attrs.frozen
class RedactedThinkingBlock:
    """A thought that the service gives only encrypted."""

    data: str
    extra: JSONObject = _json_field()


@attrs.frozen
class ToolUseBlock:
    """The model asks for a tool to be run."""

    id: str
    """Its id; the result names it."""

    name: str
    input: JSONObject = _json_field()
    extra: JSONObject = _json_field()


@attrs.frozen
class ToolResultBlock:
    """What a tool answered."""

    tool_use_id: str
    content: str | tuple[JSONObject, ...] | None = attrs.field(default=None, hash=False)
    is_error: bool = False
    """Whether the tool failed."""

    extra: JSONObject = _json_field()


@attrs.frozen
class UnknownBlock:
    """A block of a type that this version does not know, as it came."""

    raw: JSONObject = _json_field()


ContentBlock: TypeAlias = (
    TextBlock
    | ThinkingBlock
    | RedactedThinkingBlock
    | ToolUseBlock
    | ToolResultBlock
    | UnknownBlock
)


@attrs.frozen
class SystemMessage:
    """Something about the turn itself; the first one of a turn has the subtype ``"init"``."""

    subtype: str
    data: JSONObject = _json_field()


# Of the deltas there are as many as an answer has pieces. What attrs writes to fill a frozen value
# takes 0.4 µs, which is as long as all else that is done to decode one; by the slots it is 0.2.


@attrs.frozen(init=False)
class TextDelta:
    """The next piece of the text of block number ``index``."""

    index: int
    text: str

    def __init__(self, index: int, text: str) -> None:
        _set_text_index(self, index)
        _set_text(self, text)


@attrs.frozen(init=False)
class ThinkingDelta:
    """The next piece of the thinking of block number ``index``."""

    index: int
    thinking: str

    def __init__(self, index: int, thinking: str) -> None:
        _set_thinking_index(self, index)
        _set_thinking(self, thinking)


@attrs.frozen(init=False)
class InputJSONDelta:
    """The next piece of the JSON of a tool's input, in block number ``index``."""

    index: int
    partial_json: str

    def __init__(self, index: int, partial_json: str) -> None:
        _set_json_index(self, index)
        _set_json(self, partial_json)


def _setters(delta: type) -> list[Any]:
    return [vars(delta)[field.name].__set__ for field in attrs.fields(delta)]


_set_text_index, _set_text = _setters(TextDelta)
_set_thinking_index, _set_thinking = _setters(ThinkingDelta)
_set_json_index, _set_json = _setters(InputJSONDelta)


@attrs.frozen
class AssistantMessage:
    """A message of the model, once it is whole."""

    content: tuple[ContentBlock, ...]
    model: str | None = None
    """The model that wrote it."""

    id: str | None = None
    """The service's id of it."""

    stop_reason: str | None = None
    """Why the model stopped, in the service's word."""

    usage: Usage | None = None
    """The tokens that it took."""

    parent_tool_use_id: str | None = None
    """The tool use that it belongs to, or None."""

    extra: JSONObject = _json_field()

    @property
    def text(self) -> str:
        """The text blocks, joined."""
        return "".join(block.text for block in self.content if isinstance(block, TextBlock))


@attrs.frozen
class UserMessage:
    """A message on the user's side that the agent itself wrote: the results of tools."""

    content: tuple[ContentBlock, ...]
    parent_tool_use_id: str | None = None
    extra: JSONObject = _json_field()


@attrs.frozen
class UnknownMessage:
    """An event that this version does not know, as it came."""

    raw: JSONObject = _json_field()


@attrs.frozen
class ResultMessage:
    """How a turn ended; always the last event of one that did not fail."""

    result: str = ""
    """The final text; ``str()`` of this message gives it too."""

    subtype: str = "success"
    """``"success"``, or the agent's word for what went wrong."""

    is_error: bool = False
    stop_reason: str | None = None
    num_turns: int = 1
    """How many messages the model wrote for this answer."""

    session_id: str | None = None
    """The conversation's id."""

    usage: Usage = Usage()
    """The tokens of this turn."""

    total_cost_usd: float | None = None
    """What this turn cost in US dollars, where the backend knows."""

    duration_ms: int = 0
    """Milliseconds from the question to the end of the answer."""

    duration_api_ms: int = 0
    """Milliseconds of those that were spent on requests to the service."""

    structured_output: Any = attrs.field(default=None, hash=False)
    """What was answered in the form that was asked for, or None."""

    extra: JSONObject = _json_field()

    @property
    def text(self) -> str:
        """The final text."""
        return self.result

    def __str__(self) -> str:
        return self.result


Event: TypeAlias = (
    SystemMessage
    | TextDelta
    | ThinkingDelta
    | InputJSONDelta
    | AssistantMessage
    | UserMessage
    | UnknownMessage
    | ResultMessage
)


def partial_message(events: Iterable[Event]) -> AssistantMessage | None:
    """The message that these events of one turn amount to so far, or None.

    A whole message replaces the deltas that led to it. A tool's input is left out: half of it is
    no JSON.
    """
    model: str | None = None
    texts: dict[int, list[str]] = {}
    thoughts: dict[int, list[str]] = {}
    whole: AssistantMessage | None = None
    for event in events:
        match event:
            case TextDelta(index, text):
                texts.setdefault(index, []).append(text)
            case ThinkingDelta(index, thinking):
                thoughts.setdefault(index, []).append(thinking)
            case AssistantMessage():
                whole = event
                texts.clear()
                thoughts.clear()
            case SystemMessage("init", data):
                model = data.get("model")
            case _:
                pass
    blocks: dict[int, ContentBlock] = {}
    blocks.update({index: ThinkingBlock("".join(parts)) for index, parts in thoughts.items()})
    blocks.update({index: TextBlock("".join(parts)) for index, parts in texts.items()})
    if not blocks:
        return whole
    return AssistantMessage(tuple(blocks[index] for index in sorted(blocks)), model=model)
