"""Helpers over the events of a turn: each takes a stream, and gives a stream or a value.

::

    async with trio_claude.stream("writer", "Tell me a story") as events:
        async for sentence in trio_claude.streams.buffered_text(events):
            print(sentence, end="")

What is taken is any asynchronous iterable of events: a :class:`~trio_claude.ResponseStream`, what
one of these helpers gives, a generator of your own. It is read only as far as somebody reads what
comes of it, and by one reader: two helpers over one stream share its events out.

What is given is a :class:`trio.abc.ReceiveChannel`. Cancelling its ``receive`` loses nothing that
cancelling the ``receive`` of its source doesn't; closing it closes its source.

No error is swallowed, and the end of a stream is not success: where the source ends before its
:class:`~trio_claude.ResultMessage`, every helper raises :class:`~trio_claude.StreamInterrupted`;
where that says that the turn failed, :class:`~trio_claude.ResultError`.
"""

from collections.abc import AsyncIterable, Iterator
from typing import Any, TypeVar, overload

import attrs
import trio

from .._errors import ConfigurationError, StreamInterrupted
from .._messages import (
    AssistantMessage,
    Event,
    ResultMessage,
    SystemMessage,
    TextBlock,
    TextDelta,
    ThinkingBlock,
    ThinkingDelta,
    ToolResultBlock,
    ToolUseBlock,
    Usage,
    UserMessage,
)
from ._channel import EVENTS, Picked
from ._sentences import Sentences

_A = TypeVar("_A", bound=Event)
_B = TypeVar("_B", bound=Event)
_C = TypeVar("_C", bound=Event)

# ---- streams ------------------------------------------------------------------------------------


def text_deltas(events: AsyncIterable[Event]) -> trio.abc.ReceiveChannel[str]:
    """The text as it comes, piece by piece.

    Raises:
      ConfigurationError: ``events`` is no stream; from the call.
      StreamInterrupted, ResultError: from ``receive``; see the top of this module.
    """
    return Picked(events, lambda event: (event.text,) if isinstance(event, TextDelta) else ())


def thinking_deltas(events: AsyncIterable[Event]) -> trio.abc.ReceiveChannel[str]:
    """The thinking as it comes, piece by piece. Errors are those of :func:`text_deltas`."""
    return Picked(
        events, lambda event: (event.thinking,) if isinstance(event, ThinkingDelta) else ()
    )


def text_content(events: AsyncIterable[Event]) -> trio.abc.ReceiveChannel[str]:
    """The text of each whole message of the model that has any: its text blocks, joined.

    Errors are those of :func:`text_deltas`.
    """
    return Picked(
        events,
        lambda event: (event.text,) if isinstance(event, AssistantMessage) and event.text else (),
    )


def tool_uses(events: AsyncIterable[Event]) -> trio.abc.ReceiveChannel[ToolUseBlock]:
    """The tools that whole messages of the model ask for. Errors are those of
    :func:`text_deltas`."""
    return Picked(
        events,
        lambda event: (
            [block for block in event.content if isinstance(block, ToolUseBlock)]
            if isinstance(event, AssistantMessage)
            else ()
        ),
    )


def messages(
    events: AsyncIterable[Event],
) -> trio.abc.ReceiveChannel[SystemMessage | AssistantMessage | UserMessage | ResultMessage]:
    """The whole messages: no deltas, and nothing that this version does not know.

    Errors are those of :func:`text_deltas`.
    """
    whole = (SystemMessage, AssistantMessage, UserMessage, ResultMessage)
    return Picked(events, lambda event: (event,) if isinstance(event, whole) else ())


@overload
def filter_type(
    events: AsyncIterable[Event], type1: type[_A], /
) -> trio.abc.ReceiveChannel[_A]: ...
@overload
def filter_type(
    events: AsyncIterable[Event], type1: type[_A], type2: type[_B], /
) -> trio.abc.ReceiveChannel[_A | _B]: ...
@overload
def filter_type(
    events: AsyncIterable[Event], type1: type[_A], type2: type[_B], type3: type[_C], /
) -> trio.abc.ReceiveChannel[_A | _B | _C]: ...
@overload
def filter_type(
    events: AsyncIterable[Event], *types: type[Event]
) -> trio.abc.ReceiveChannel[Event]: ...
def filter_type(events: AsyncIterable[Event], *types: Any) -> trio.abc.ReceiveChannel[Any]:
    """The events of these types.

    Args:
      events: the stream.
      types: one or more of the classes of events.

    Raises:
      ConfigurationError: there is no type, or one is no class of events; from the call.
      StreamInterrupted, ResultError: from ``receive``; see the top of this module.
    """
    for given in types or (None,):
        if given not in EVENTS:
            valid = ", ".join(event.__name__ for event in EVENTS)
            raise ConfigurationError(f"types must be classes out of {valid}, not {given!r}")
    return Picked(events, lambda event: (event,) if isinstance(event, types) else ())


def until_result(events: AsyncIterable[Event]) -> trio.abc.ReceiveChannel[Event]:
    """The events up to the :class:`~trio_claude.ResultMessage`, and with it.

    For a source that goes on after it, and stays as it is; the other helpers read their source to
    its end. Errors are those of :func:`text_deltas`.
    """
    return Picked(events, lambda event: (event,), stop_at_result=True)


def buffered_text(events: AsyncIterable[Event]) -> trio.abc.ReceiveChannel[str]:
    """The text in whole sentences and lines, each as soon as it is seen to be whole.

    A sentence ends with its mark and the space behind it; whether the next word begins another one
    is seen when that comes. A line's end, a block's and the answer's end one too. Joined, the
    pieces are the text. Where a dot may belong to an abbreviation, the piece goes on. Errors are
    those of :func:`text_deltas`.
    """
    sentences = Sentences()
    block = 0

    def pick(event: Event) -> Iterator[str]:
        nonlocal block
        if isinstance(event, TextDelta):
            if event.index != block:
                block = event.index
                yield from sentences.finish()
            yield from sentences.feed(event.text)
        elif isinstance(event, AssistantMessage | ResultMessage):
            yield from sentences.finish()

    return Picked(events, pick)


# ---- values -------------------------------------------------------------------------------------


@attrs.frozen
class ToolCall:
    """A tool that was asked for, and what it answered."""

    use: ToolUseBlock
    result: ToolResultBlock | None = None
    """None where no answer was seen."""


@attrs.frozen
class Collected:
    """What there is to know of a turn that succeeded."""

    text: str
    """All that the model wrote in this turn: the text of its whole messages, joined."""

    thinking: str
    """All that it thought, likewise."""

    tool_calls: tuple[ToolCall, ...]
    """The tools that it asked for, in that order."""

    usage: Usage
    """The tokens of the turn."""

    total_cost_usd: float | None
    """What the turn cost in US dollars, where the backend knows."""

    stop_reason: str | None
    """Why the model stopped, in the service's own word."""

    result: ResultMessage
    """The turn's end itself."""


async def final_text(events: AsyncIterable[Event]) -> str:
    """Read to the end, and give the final text. If cancelled, what was read is gone.

    Raises:
      ConfigurationError: ``events`` is no stream.
      StreamInterrupted, ResultError: see the top of this module.
    """
    return (await final_result(events)).result


async def final_result(events: AsyncIterable[Event]) -> ResultMessage:
    """Read to the end, and give the :class:`~trio_claude.ResultMessage`.

    If cancelled, what was read is gone. Errors are those of :func:`final_text`.
    """
    return (await collect(events)).result


async def collect(events: AsyncIterable[Event]) -> Collected:
    """Read to the end, and give all of it.

    If cancelled, what was read is gone. Errors are those of :func:`final_text`.
    """
    text: list[str] = []
    thinking: list[str] = []
    uses: list[ToolUseBlock] = []
    results: dict[str, ToolResultBlock] = {}
    result: ResultMessage | None = None
    async for event in messages(events):
        if isinstance(event, ResultMessage):
            result = event
        elif isinstance(event, AssistantMessage | UserMessage):
            for block in event.content:
                match block:
                    case TextBlock() if isinstance(event, AssistantMessage):
                        text.append(block.text)
                    case ThinkingBlock():
                        thinking.append(block.thinking)
                    case ToolUseBlock():
                        uses.append(block)
                    case ToolResultBlock():
                        results[block.tool_use_id] = block
                    case _:
                        pass
    if result is None:
        raise StreamInterrupted(
            "the stream gave no ResultMessage: something before this has taken it out"
        )
    return Collected(
        text="".join(text),
        thinking="".join(thinking),
        tool_calls=tuple(ToolCall(use, results.get(use.id)) for use in uses),
        usage=result.usage,
        total_cost_usd=result.total_cost_usd,
        stop_reason=result.stop_reason,
        result=result,
    )
