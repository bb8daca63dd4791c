"""The claude program's lines: what each is, how a turn ends, what it cost, and that nothing fails."""

from __future__ import annotations

import copy
import json
from bisect import bisect_left
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, strategies as st

from trio_claude import (
    APIConnectionError,
    APIStatusError,
    AssistantMessage,
    AuthenticationError,
    BadRequestError,
    Event,
    InputJSONDelta,
    InternalServerError,
    Interrupted,
    OverloadedError,
    ProtocolError,
    QueryError,
    RateLimitError,
    RedactedThinkingBlock,
    ResultError,
    ResultMessage,
    SystemMessage,
    TextBlock,
    TextDelta,
    ThinkingBlock,
    ThinkingDelta,
    ToolResultBlock,
    ToolUseBlock,
    UnknownBlock,
    UnknownMessage,
    Usage,
    UserMessage,
)
from trio_claude._wire.jsonlines import LineDecoder
from trio_claude._wire.results import CostLedger
from trio_claude._wire.stream_json import (
    TurnDecoder,
    control_error,
    control_request,
    control_success,
    encode,
    prompt_line,
)

Line = dict[str, Any]

PROMPT = "prompt-1"

# ---- lines, as version 2.1.330 of the program writes them ----

INIT: Line = {
    "type": "system",
    "subtype": "init",
    "cwd": "/w",
    "session_id": "s1",
    "tools": ["Bash"],
    "model": "claude-opus",
    "permissionMode": "default",
    "uuid": "u-init",
}
STATUS: Line = {"type": "system", "subtype": "status", "status": "requesting", "uuid": "u-s"}
LIFECYCLE: Line = {"type": "command_lifecycle", "command_uuid": PROMPT, "state": "started"}


def streamed(event: Any, **fields: Any) -> Line:
    """A stream event."""
    return {
        "type": "stream_event",
        "event": event,
        "parent_tool_use_id": None,
        "uuid": "u-e",
        "session_id": "s1",
        **fields,
    }


def start(id_: str | None = "msg_1", **fields: Any) -> Line:
    """The beginning of a message; its usage is not the final one."""
    message = {
        "id": id_,
        "type": "message",
        "role": "assistant",
        "model": "claude-opus",
        "content": [],
        "stop_reason": None,
        "usage": {"input_tokens": 3, "output_tokens": 1},
        **fields,
    }
    return streamed({"type": "message_start", "message": message})


def block(index: int, block: Line) -> Line:
    """The beginning of a block."""
    return streamed({"type": "content_block_start", "index": index, "content_block": block})


def text(index: int, piece: str, **fields: Any) -> Line:
    """A piece of a text."""
    delta = {"type": "text_delta", "text": piece}
    return streamed({"type": "content_block_delta", "index": index, "delta": delta}, **fields)


def delta(index: int, **delta: Any) -> Line:
    """Another piece of a block."""
    return streamed({"type": "content_block_delta", "index": index, "delta": delta})


def block_end(index: int) -> Line:
    """The end of a block."""
    return streamed({"type": "content_block_stop", "index": index})


def end(stop_reason: str = "end_turn", **usage: int) -> tuple[Line, Line]:
    """The end of a message, with its true usage."""
    return (
        streamed(
            {
                "type": "message_delta",
                "delta": {"stop_reason": stop_reason, "stop_sequence": None},
                "usage": {"output_tokens": 9, **usage},
            }
        ),
        streamed({"type": "message_stop"}),
    )


def said(*content: Line, id_: str | None = "msg_1", **fields: Any) -> Line:
    """A message's line; its usage and stop reason are those of the beginning."""
    message = {
        "id": id_,
        "type": "message",
        "role": "assistant",
        "model": "claude-opus",
        "content": list(content),
        "stop_reason": None,
        "usage": {"input_tokens": 3, "output_tokens": 1},
    }
    return {
        "type": "assistant",
        "message": message,
        "parent_tool_use_id": None,
        "session_id": "s1",
        "uuid": "u-a",
        **fields,
    }


def result(**fields: Any) -> Line:
    """The end of a turn."""
    return {
        "duration_api_ms": 16,
        "is_error": False,
        "duration_ms": 10,
        "num_turns": 1,
        "result": "Hello",
        "session_id": "s1",
        "total_cost_usd": 0.25,
        "usage": {"input_tokens": 3, "output_tokens": 9},
        "uuid": "u-r",
        "subtype": "success",
        "stop_reason": "end_turn",
        "user_message_uuid": PROMPT,
        "user_message_uuids": [PROMPT],
        "type": "result",
        **fields,
    }


HELLO: Line = {"type": "text", "text": "Hello"}

TURN: list[Line] = [
    LIFECYCLE,
    INIT,
    STATUS,
    start(),
    block(0, {"type": "text", "text": ""}),
    text(0, "Hel"),
    text(0, "lo"),
    said(HELLO),
    block_end(0),
    *end(),
    result(),
]


def decode(*lines: Line, decoder: TurnDecoder | None = None) -> list[Event]:
    """The events of these lines."""
    decoder = TurnDecoder(PROMPT, CostLedger()) if decoder is None else decoder
    events: list[Event] = []
    for line in lines:
        decoder.feed(copy.deepcopy(line), events)  # it may keep, and fill, what it is given
    return events


def only(*lines: Line) -> Event:
    """The one event of these lines, behind an init."""
    init, event = decode(INIT, *lines)
    assert SystemMessage("init", INIT) == init
    return event


def failure_of(line: Line, *before: Line) -> QueryError:
    """What a turn with this result fails of."""
    decoder = TurnDecoder(PROMPT, CostLedger())
    events = decode(INIT, *before, line, decoder=decoder)
    assert decoder.result is not None
    assert decoder.result.is_error
    assert not any(isinstance(event, ResultMessage) for event in events)
    assert decoder.failure is not None
    return decoder.failure


def result_of(line: Line, *before: Line) -> ResultMessage:
    """How a turn with this result ends."""
    *_, event = decode(INIT, *before, line)
    assert isinstance(event, ResultMessage)
    return event


# ---- to the program ----


def test_what_is_said_is_one_compact_line_of_ascii() -> None:
    """No text, however odd, ends the line early or can't be written."""
    odd = 'a\n\u2028\x85"\\é😀\ud800'
    line = encode({"a": odd, "b": [1, None]})
    assert line.endswith(b',"b":[1,null]}\n')
    assert 1 == line.count(b"\n")
    assert line.isascii()
    assert {"a": odd, "b": [1, None]} == json.loads(line)


def test_a_prompt() -> None:
    """It carries the id by which its result names it."""
    assert {
        "type": "user",
        "message": {"role": "user", "content": "hi\ud800"},
        "parent_tool_use_id": None,
        "session_id": "",
        "uuid": "prompt-2",
    } == json.loads(prompt_line("hi\ud800", "prompt-2"))


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            control_request("r1", {"subtype": "interrupt"}),
            b'{"type":"control_request","request_id":"r1","request":{"subtype":"interrupt"}}\n',
        ),
        (
            control_success("r2", {"behavior": "allow"}),
            b'{"type":"control_response","response":'
            b'{"subtype":"success","request_id":"r2","response":{"behavior":"allow"}}}\n',
        ),
        (
            control_error("r3", "no"),
            b'{"type":"control_response","response":'
            b'{"subtype":"error","request_id":"r3","error":"no"}}\n',
        ),
    ],
)
def test_control_frames(line: bytes, expected: bytes) -> None:
    """To the letter, for there are programs that look for it with no parser."""
    assert expected == line


# ---- a whole turn ----


def test_a_turn_as_it_is_written() -> None:
    """Deltas while it is said, the message once and with its true usage, and the result."""
    usage = Usage(input_tokens=3, output_tokens=9)
    assert [
        SystemMessage("init", INIT),
        UnknownMessage(LIFECYCLE),
        SystemMessage("status", STATUS),
        TextDelta(0, "Hel"),
        TextDelta(0, "lo"),
        AssistantMessage(
            (TextBlock("Hello"),),
            model="claude-opus",
            id="msg_1",
            stop_reason="end_turn",
            usage=usage,
        ),
        ResultMessage(
            "Hello",
            stop_reason="end_turn",
            num_turns=1,
            session_id="s1",
            usage=usage,
            total_cost_usd=0.25,
            duration_ms=10,
            duration_api_ms=16,
            extra={
                "user_message_uuid": PROMPT,
                "user_message_uuids": [PROMPT],
                "uuid": "u-r",
            },
        ),
    ] == decode(*TURN)


def test_a_turn_that_is_not_streamed() -> None:
    """An older program, or one that was told not to stream: its lines are the same turn, block by
    block, and each message is given once it is whole."""
    call = {"type": "tool_use", "id": "t1", "name": "Read", "input": {"file": "a"}}
    thought = {"type": "thinking", "thinking": "hm", "signature": "s"}
    answer = {"type": "tool_result", "tool_use_id": "t1", "content": "x"}
    lines = [
        said(thought),
        said(HELLO),
        said({"type": "redacted_thinking", "data": "?"}, call),
        {"type": "user", "message": {"content": [answer]}},
        said({"type": "text", "text": "Done"}, id_="msg_2"),
        result(),
    ]
    events = decode(INIT, *lines)[1:]
    assert [
        ThinkingDelta(0, "hm"),
        TextDelta(1, "Hello"),
        InputJSONDelta(3, '{"file": "a"}'),
        AssistantMessage(
            (
                ThinkingBlock("hm", "s"),
                TextBlock("Hello"),
                RedactedThinkingBlock("?"),
                ToolUseBlock("t1", "Read", {"file": "a"}),
            ),
            model="claude-opus",
            id="msg_1",
            usage=Usage(3, 1),
        ),
        UserMessage((ToolResultBlock("t1", "x"),)),
        TextDelta(0, "Done"),
        AssistantMessage((TextBlock("Done"),), model="claude-opus", id="msg_2", usage=Usage(3, 1)),
    ] == events[:-1]
    assert isinstance(events[-1], ResultMessage)


@pytest.mark.parametrize("id_", ["msg_2", None])
def test_messages_that_are_not_streamed_are_told_apart(id_: str | None) -> None:
    """By their ids; one that has none is a message of its own."""
    events = decode(INIT, said(HELLO), said(HELLO, id_=id_), said(HELLO, id_=id_), result())
    messages = [event.text for event in events if isinstance(event, AssistantMessage)]
    assert (["Hello", "HelloHello"] if id_ else ["Hello"] * 3) == messages


def test_a_turn_of_many_messages() -> None:
    """Each is streamed, and given once; the tool's result stands between them."""
    call = {"type": "tool_use", "id": "t1", "name": "Read", "input": {}}
    whole = {**call, "input": {"file": "a"}}
    answer = {"type": "tool_result", "tool_use_id": "t1", "content": "x", "is_error": True}
    events = decode(
        INIT,
        start(),
        block(0, {"type": "thinking", "thinking": ""}),
        delta(0, type="thinking_delta", thinking="Let me"),
        delta(0, type="signature_delta", signature="sig"),
        said({"type": "thinking", "thinking": "Let me", "signature": "sig"}),
        block_end(0),
        block(1, call),
        delta(1, type="input_json_delta", partial_json='{"file":'),
        delta(1, type="input_json_delta", partial_json='"a"}'),
        said(whole, uuid="u-a2"),
        block_end(1),
        *end("tool_use"),
        {"type": "user", "message": {"role": "user", "content": [answer]}, "uuid": "u-u"},
        start("msg_2"),
        block(0, {"type": "text", "text": ""}),
        text(0, "Done"),
        said({"type": "text", "text": "Done"}, id_="msg_2", uuid="u-a3"),
        block_end(0),
        *end(),
        result(result="Done", num_turns=2),
    )
    assert [
        ThinkingDelta(0, "Let me"),
        InputJSONDelta(1, '{"file":'),
        InputJSONDelta(1, '"a"}'),
        AssistantMessage(
            (ThinkingBlock("Let me", "sig"), ToolUseBlock("t1", "Read", {"file": "a"})),
            model="claude-opus",
            id="msg_1",
            stop_reason="tool_use",
            usage=Usage(input_tokens=3, output_tokens=9),
        ),
        UserMessage((ToolResultBlock("t1", "x", is_error=True),)),
        TextDelta(0, "Done"),
    ] == events[1:7]
    assert ["Done", "Done"] == [
        event.text for event in events[7:] if isinstance(event, AssistantMessage | ResultMessage)
    ]


def test_nothing_of_a_turn_comes_behind_its_result() -> None:
    """What is still said then belongs to no turn."""
    decoder = TurnDecoder(PROMPT, CostLedger())
    decode(*TURN, decoder=decoder)
    first = decoder.result
    assert [] == decode(INIT, text(0, "x"), said(HELLO), result(result="2"), decoder=decoder)
    assert decoder.result is first
    assert "u-a" == decoder.last_id


# ---- before the init ----


def test_what_comes_before_the_init_comes_behind_it() -> None:
    """A turn's first event is its init, and none is lost."""
    hook = {"type": "system", "subtype": "hook_started"}
    assert [
        SystemMessage("init", INIT),
        UnknownMessage(LIFECYCLE),
        SystemMessage("hook_started", hook),
        UnknownMessage({"type": "keep"}),
        SystemMessage("status", STATUS),
        SystemMessage("init", INIT),
    ] == decode(LIFECYCLE, hook, {"type": "keep"}, INIT, STATUS, INIT)
    assert [] == decode(LIFECYCLE, hook)


@pytest.mark.parametrize(
    "line",
    [
        start(),
        text(0, "x"),
        said(HELLO),
        said(HELLO, parent_tool_use_id="t1"),
        {"type": "user", "message": {"role": "user", "content": "x"}},
    ],
    ids=["message_start", "delta", "assistant", "subagent", "user"],
)
def test_a_turn_without_an_init(line: Line) -> None:
    """What is held back is given with the first line of an answer, and then as it comes."""
    held = UnknownMessage(LIFECYCLE)
    decoder = TurnDecoder(PROMPT, CostLedger())
    assert [] == decode(LIFECYCLE, decoder=decoder)
    assert [held] == decode(line, decoder=decoder)[:1]
    assert [held] == decode(LIFECYCLE, decoder=decoder)


def test_a_result_without_an_init() -> None:
    """Nothing that is held back is lost with it."""
    first, last = decode(LIFECYCLE, result())
    assert UnknownMessage(LIFECYCLE) == first
    assert isinstance(last, ResultMessage)


# ---- each kind of line ----


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            {
                "type": "system",
                "subtype": "compact_boundary",
                "compact_metadata": {"trigger": "auto"},
            },
            SystemMessage(
                "compact_boundary",
                {
                    "type": "system",
                    "subtype": "compact_boundary",
                    "compact_metadata": {"trigger": "auto"},
                },
            ),
        ),
        (
            {
                "type": "user",
                "message": {"role": "user", "content": "<local-command-stdout>x"},
                "isReplay": True,
                "uuid": "u",
                "session_id": "s1",
                "tool_use_result": None,
            },
            UserMessage((TextBlock("<local-command-stdout>x"),), extra={"isReplay": True}),
        ),
        (
            {
                "type": "user",
                "message": {
                    "role": "user",
                    "content": [
                        {"type": "tool_result", "tool_use_id": "t", "content": [HELLO]},
                        "no block",
                        {"type": "new"},
                    ],
                },
                "parent_tool_use_id": "t0",
                "tool_use_result": {"lines": 1},
            },
            UserMessage(
                (ToolResultBlock("t", (HELLO,)), UnknownBlock({"type": "new"})),
                parent_tool_use_id="t0",
                extra={"tool_use_result": {"lines": 1}},
            ),
        ),
        ({"type": "user", "message": {"role": "user"}}, UserMessage(())),
    ],
    ids=["system", "replay", "tool result", "user without"],
)
def test_a_line(line: Line, expected: Event) -> None:
    """What is known becomes what it is, with further fields in `extra`; null is no field."""
    assert expected == only(line)


@pytest.mark.parametrize(
    "line",
    [
        {},
        {"type": None},
        {"type": "rate_limit_event", "rate_limit_info": {"status": "allowed"}},
        {"type": "tool_progress", "elapsed_time_seconds": 1},
        {"type": "conversation_reset", "new_conversation_id": "s2"},
        {"type": "system"},
        {"type": "system", "subtype": 1},
        {"type": "assistant"},
        {"type": "assistant", "message": "no object"},
        {"type": "user", "message": []},
        {"type": "stream_event"},
        {"type": "stream_event", "event": {}},
        {"type": "stream_event", "event": {"type": 7}},
        streamed({"type": "ping"}),
        streamed({"type": "message_stop"}),
        text(0, "of no message"),
        text(0, "of a subagent", parent_tool_use_id="t1"),
        {**start(), "parent_tool_use_id": "t1"},
    ],
)
def test_what_is_not_known_passes_through(line: Line) -> None:
    """As it came."""
    assert UnknownMessage(line) == only(line)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ({"type": "assistant", "message": {}}, AssistantMessage(())),
        (
            said(HELLO, error="rate_limit"),
            AssistantMessage(
                (TextBlock("Hello"),),
                model="claude-opus",
                id="msg_1",
                usage=Usage(3, 1),
                extra={"error": "rate_limit"},
            ),
        ),
        (
            {"type": "assistant", "message": {"content": "Hi", "stop_reason": "end_turn", "x": 1}},
            AssistantMessage((TextBlock("Hi"),), stop_reason="end_turn", extra={"x": 1}),
        ),
    ],
    ids=["nothing", "error", "text"],
)
def test_a_message_as_a_line(line: Line, expected: AssistantMessage) -> None:
    """What is missing is left out; what is more is in `extra`."""
    assert expected == decode(INIT, line, result())[-2]


# ---- messages ----

_PIECES = st.text(max_size=5)
_BLOCKS = (
    st.builds(lambda pieces: ("text", pieces), st.lists(_PIECES, min_size=1, max_size=4))
    | st.builds(lambda pieces: ("thinking", pieces), st.lists(_PIECES, min_size=1, max_size=4))
    | st.builds(lambda value: ("tool_use", [value]), st.dictionaries(_PIECES, _PIECES, max_size=2))
)


def _pieces_of(index: int, kind: str, pieces: list[Any]) -> tuple[list[Line], Line]:
    """A block's stream events but its end, and what its line says."""
    if kind == "tool_use":
        call = {"type": "tool_use", "id": f"t{index}", "name": "Bash"}
        given = json.dumps(pieces[0])
        events = [delta(index, type="input_json_delta", partial_json=c) for c in given]
        return [block(index, {**call, "input": {}}), *events], {**call, "input": pieces[0]}
    whole: Line = {"type": kind, kind: "".join(pieces)}
    events = [delta(index, type=f"{kind}_delta", **{kind: piece}) for piece in pieces]
    if kind == "thinking":
        events.append(delta(index, type="signature_delta", signature="s"))
        whole["signature"] = "s"
    return [block(index, {"type": kind, kind: ""}), *events], whole


@given(st.lists(_BLOCKS, min_size=1, max_size=4), st.booleans())
def test_the_streamed_message_is_what_its_lines_say(
    blocks: list[tuple[str, list[Any]]], partly: bool
) -> None:
    """The same content; the usage and stop reason, which the lines don't know, are the true ones."""
    lines: list[Line] = [INIT, start()]
    whole = []
    expected: list[Event] = []
    for index, (kind, pieces) in enumerate(blocks):
        events, content = _pieces_of(index, kind, pieces)
        lines += [*events, said(content), block_end(index)]
        whole.append(said(content))
        made: Any = {"text": TextDelta, "thinking": ThinkingDelta, "tool_use": InputJSONDelta}[kind]
        given = list(json.dumps(pieces[0])) if kind == "tool_use" else pieces
        expected += [made(index, piece) for piece in given]
    decoder = TurnDecoder(PROMPT, CostLedger())
    _init, *events_of = decode(*lines, decoder=decoder)
    assert expected == events_of
    if partly:
        decoder.partial()  # looking changes nothing
    (message,) = decode(*end("max_tokens", cache_read_input_tokens=5), decoder=decoder)
    assert isinstance(message, AssistantMessage)

    *_, unstreamed, _result = decode(INIT, *whole, result())
    assert isinstance(unstreamed, AssistantMessage)
    assert unstreamed.content == message.content
    assert (unstreamed.model, unstreamed.id) == (message.model, message.id)
    assert "max_tokens" == message.stop_reason
    assert message.usage == Usage(3, 9, cache_read_input_tokens=5)
    assert message == decoder.partial()


def test_texts_of_blocks_that_take_turns() -> None:
    """Each piece goes to its own block, in whatever order the pieces come."""
    lines = [
        INIT,
        start(),
        block(0, {"type": "text", "text": "a"}),
        block(1, {"type": "thinking", "thinking": ""}),
        block(2, {"type": "text", "text": ""}),
    ]
    pieces = [(0, "b"), (0, "c"), (2, "x"), (0, "d"), (2, "y"), (2, "z")]
    decoder = TurnDecoder(PROMPT, CostLedger())
    decode(*lines, decoder=decoder)
    events = decode(*(text(index, piece) for index, piece in pieces), decoder=decoder)
    assert [TextDelta(index, piece) for index, piece in pieces] == events

    events = decode(
        text(2, "!", parent_tool_use_id="t1"),
        delta(1, type="thinking_delta", thinking="hm"),
        text(2, "1"),
        streamed({"type": "ping"}),
        text(2, "2"),
        *end(),
        decoder=decoder,
    )
    assert UnknownMessage(text(2, "!", parent_tool_use_id="t1")) == events[0]
    assert isinstance(events[-1], AssistantMessage)
    assert (TextBlock("abcd"), ThinkingBlock("hm"), TextBlock("xyz12")) == events[-1].content


@pytest.mark.parametrize(
    "change",
    [
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta"}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": 1}},
        {"type": "content_block_delta", "index": 0, "delta": "text"},
        {"type": "content_block_delta", "index": 7, "delta": {"type": "text_delta", "text": "x"}},
        {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "x"}},
        {"type": "content_block_stop", "index": "0"},
        {"type": "content_block_start", "index": 0, "content_block": HELLO},
        {"type": "error", "error": {"type": "overloaded_error", "message": "busy"}},
        {"type": "message_delta"},
    ],
    ids=[
        "no text",
        "text is a number",
        "no delta",
        "no such block",
        "no index",
        "odd index",
        "block begins twice",
        "error",
        "no delta of the message",
    ],
)
@pytest.mark.parametrize("pieces", [0, 1, 2])
@pytest.mark.parametrize("line_first", [False, True])
def test_events_that_make_no_sense(change: Line, pieces: int, line_first: bool) -> None:
    """They pass through, and what the lines say counts, be it before or afterwards."""
    decoder = TurnDecoder(PROMPT, CostLedger())
    lines = [INIT, start(), block(0, {"type": "text", "text": ""})]
    decode(*lines, *[text(0, "x")] * pieces, decoder=decoder)

    events = []
    if line_first:
        assert [] == decode(said(HELLO), decoder=decoder)
    events += decode(streamed(change), decoder=decoder)
    if not line_first:
        events += decode(said(HELLO), decoder=decoder)
    assert UnknownMessage(streamed(change)) == events[0]
    partial = decoder.partial()
    assert partial is not None
    assert "Hello" == partial.text

    rest = [text(0, "y"), block_end(0), *end()]
    assert [UnknownMessage(line) for line in rest] == decode(*rest, decoder=decoder)
    second = said({"type": "text", "text": " world"})
    more, whole, last = decode(second, result(), decoder=decoder)
    assert TextDelta(1, " world") == more
    assert isinstance(whole, AssistantMessage)
    assert "Hello world" == whole.text
    assert isinstance(last, ResultMessage)


def test_a_tool_input_that_is_no_json_is_taken_from_the_line() -> None:
    """The events end with a message that can't be put together; the line has it."""
    call = {"type": "tool_use", "id": "t1", "name": "Bash", "input": {}}
    stop = streamed({"type": "message_stop"})
    events = decode(
        INIT,
        start(),
        block(0, call),
        delta(0, type="input_json_delta", partial_json='{"a"'),
        said({**call, "input": {"a": 1}}),
        end("tool_use")[0],
        stop,
        result(),
    )
    assert [UnknownMessage(stop)] == [e for e in events if isinstance(e, UnknownMessage)]
    assert isinstance(events[-2], AssistantMessage)
    assert (ToolUseBlock("t1", "Bash", {"a": 1}),) == events[-2].content


def test_a_streamed_message_with_nothing_in_it() -> None:
    """It was broken off, and is none; what the lines say counts."""
    assert [] == decode(INIT, start(), *end())[1:]
    events = decode(INIT, start(), said(HELLO), *end(), result())
    assert [AssistantMessage, ResultMessage] == [type(event) for event in events[1:]]
    assert isinstance(events[1], AssistantMessage)
    assert "Hello" == events[1].text


LIKE_A_PIECE: Line = {"index": 0, "delta": {"type": "text_delta", "text": "x"}}


@pytest.mark.parametrize(
    ("line", "passed"),
    [
        ({**text(0, "x"), "type": "new"}, None),
        (streamed({**LIKE_A_PIECE, "type": "new_event"}), "event"),
        (
            streamed(
                {
                    "type": "content_block_delta",
                    "index": 0,
                    "delta": {"type": "new_delta", "text": "x"},
                }
            ),
            "event",
        ),
        (text(0, "x", parent_tool_use_id="t1"), None),
    ],
    ids=["line", "event", "delta", "subagent"],
)
def test_what_only_looks_like_a_piece_of_the_text(line: Line, passed: str | None) -> None:
    """It passes through, and is no part of the text, which goes on."""
    events = decode(
        INIT,
        start(),
        block(0, {"type": "text", "text": ""}),
        text(0, "a"),
        line,
        text(0, "b"),
        *end(),
    )
    unknown = UnknownMessage(line if passed is None else line[passed])
    assert [TextDelta(0, "a"), unknown, TextDelta(0, "b")] == events[1:4]
    assert isinstance(events[4], AssistantMessage)
    assert "ab" == events[4].text


def test_an_event_of_a_type_that_is_new_passes_through() -> None:
    """In the middle of a message, which goes on."""
    new = {"type": "content_block_rewrite", "index": 0}
    events = decode(
        INIT,
        start(),
        block(0, {"type": "text", "text": ""}),
        text(0, "a"),
        streamed(new),
        text(0, "b"),
        *end(),
    )
    assert [TextDelta(0, "a"), UnknownMessage(new), TextDelta(0, "b")] == events[1:4]
    assert isinstance(events[4], AssistantMessage)
    assert "ab" == events[4].text


def test_a_message_that_begins_anew() -> None:
    """The program asks again by itself where an answer broke off: the last one counts."""
    decoder = TurnDecoder(PROMPT, CostLedger())
    events = decode(
        INIT,
        start(),
        block(0, {"type": "text", "text": ""}),
        text(0, "Hel"),
        text(0, "lo"),
        start("msg_2"),
        decoder=decoder,
    )
    assert [TextDelta(0, "Hel"), TextDelta(0, "lo")] == events[1:]
    assert decoder.partial() is None
    events = decode(
        block(0, {"type": "text", "text": ""}),
        text(0, "Hi"),
        said({"type": "text", "text": "Hi"}, id_="msg_2"),
        block_end(0),
        *end(),
        result(result="Hi"),
        decoder=decoder,
    )
    assert [TextDelta, AssistantMessage, ResultMessage] == [type(event) for event in events]
    assert isinstance(events[1], AssistantMessage)
    assert ("msg_2", "Hi") == (events[1].id, events[1].text)


@pytest.mark.parametrize("message", [{}, {"message": None}, {"message": {"id": 3}}])
def test_a_message_without_an_id(message: Line) -> None:
    """It is streamed like any other, if it is one at all."""
    begin = streamed({"type": "message_start", **message})
    events = decode(INIT, begin, block(0, HELLO), said(HELLO, id_=None), *end(), result())
    texts = [event.text for event in events if isinstance(event, AssistantMessage)]
    assert ["Hello"] == texts


def test_messages_without_ids_are_not_taken_for_each_other() -> None:
    """One that was streamed doesn't hide one that comes as a line."""
    other = said({"type": "text", "text": "more"}, id_=None)
    events = decode(INIT, start(None), block(0, HELLO), *end(), other, result())
    texts = [event.text for event in events if isinstance(event, AssistantMessage)]
    assert ["Hello", "more"] == texts


def test_a_message_that_is_not_streamed_before_one_that_is() -> None:
    """It is given before the next one begins."""
    own = said({"type": "text", "text": "[notice]"}, id_="own")
    events = decode(INIT, own, start(), block(0, HELLO), said(HELLO), *end(), result())[1:-1]
    assert TextDelta(0, "[notice]") == events[0]
    assert TextDelta(0, "Hello") == events[2]
    messages = [event.text for event in (events[1], events[3]) if type(event) is AssistantMessage]
    assert ["[notice]", "Hello"] == messages
    assert 4 == len(events)


def test_a_line_behind_its_streamed_message_is_not_given_again() -> None:
    """Nor does it hide the next message."""
    decoder = TurnDecoder(PROMPT, CostLedger())
    decode(INIT, start(), block(0, HELLO), *end(), decoder=decoder)
    assert [] == decode(said(HELLO, uuid="u-late"), decoder=decoder)
    assert "u-late" == decoder.last_id
    events = decode(said({"type": "text", "text": "more"}, id_="msg_2"), result(), decoder=decoder)
    assert TextDelta(0, "more") == events[0]
    assert isinstance(events[1], AssistantMessage)
    assert "more" == events[1].text


def test_messages_of_subagents() -> None:
    """They come as lines while the agent's own message is streamed, and are no part of it."""
    sub = said({"type": "text", "text": "sub"}, parent_tool_use_id="t1", uuid="u-sub")
    decoder = TurnDecoder(PROMPT, CostLedger())
    events = decode(
        INIT, start(), block(0, HELLO), sub, text(0, "!"), said(HELLO), sub, decoder=decoder
    )
    expected = AssistantMessage(
        (TextBlock("sub"),),
        model="claude-opus",
        id="msg_1",
        usage=Usage(3, 1),
        parent_tool_use_id="t1",
    )
    assert [TextDelta(0, "Hello"), expected, TextDelta(0, "!"), expected] == events[1:]
    assert "u-a" == decoder.last_id
    partial = decoder.partial()
    assert partial is not None
    assert "Hello!" == partial.text


def test_the_last_id() -> None:
    """That of the agent's last line which has one; no other line's."""
    decoder = TurnDecoder(PROMPT, CostLedger())
    assert decoder.last_id is None
    decode(INIT, start(), said(HELLO, uuid="u-1"), decoder=decoder)
    assert "u-1" == decoder.last_id
    decode(said(HELLO, uuid=None), said(HELLO, uuid=5), said(HELLO, uuid=""), decoder=decoder)
    assert "u-1" == decoder.last_id
    decode(*end(), said(HELLO, uuid="u-2"), result(), decoder=decoder)
    assert "u-2" == decoder.last_id


def test_what_has_come_so_far() -> None:
    """Text and thoughts without tools' input; then the whole message; then the next one."""
    decoder = TurnDecoder(PROMPT, CostLedger())
    assert decoder.partial() is None
    decode(INIT, start(), block(0, {"type": "text", "text": ""}), decoder=decoder)
    assert decoder.partial() is None
    decode(*(text(0, piece) for piece in "abc"), decoder=decoder)
    assert AssistantMessage((TextBlock("abc"),), model="claude-opus") == decoder.partial()
    decode(text(0, "d"), decoder=decoder)
    assert AssistantMessage((TextBlock("abcd"),), model="claude-opus") == decoder.partial()
    (whole,) = decode(*end(), decoder=decoder)
    assert whole == decoder.partial()
    decode(start("msg_2"), decoder=decoder)
    assert whole == decoder.partial()
    decode(block(0, {"type": "text", "text": "x"}), decoder=decoder)
    assert AssistantMessage((TextBlock("x"),), model="claude-opus") == decoder.partial()


# ---- whose result it is ----


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"user_message_uuids": [PROMPT]},
        {"user_message_uuids": ["another", PROMPT], "user_message_uuid": "another"},
        {"user_message_uuid": PROMPT},
        {"user_message_uuid": PROMPT, "user_message_uuids": []},
        {"user_message_uuids": None, "user_message_uuid": None},
        {"origin": None},
        {"origin": {}},
        {"origin": {"kind": "human"}},
        {"origin": "odd"},
        {"user_message_uuids": "odd"},
        {"user_message_uuid": PROMPT, "origin": {"kind": "task-notification"}},
    ],
)
def test_a_result_that_is_ours(fields: Line) -> None:
    """It names our prompt; one that names none was not begun by the program itself."""
    bare = {"type": "result", "result": "Hello", **fields}
    assert "Hello" == result_of(bare).result


@pytest.mark.parametrize(
    "fields",
    [
        {"user_message_uuids": ["another"]},
        {"user_message_uuid": "another"},
        {"user_message_uuid": 7},
        {"user_message_uuid": "another", "origin": {"kind": "human"}},
        {"origin": {"kind": "task-notification"}},
        {"origin": {"kind": 3}},
    ],
)
def test_a_result_of_another_turn(fields: Line) -> None:
    """A late one, or of a turn that nobody asked for: it ends nothing, and costs nothing."""
    other = {"type": "result", "result": "not ours", "total_cost_usd": 5.0, **fields}
    decoder = TurnDecoder(PROMPT, CostLedger())
    assert [UnknownMessage(other)] == decode(INIT, other, decoder=decoder)[1:]
    assert decoder.result is None
    decode(result(), decoder=decoder)
    assert decoder.result is not None
    assert "Hello" == decoder.result.result


# ---- results ----


def test_a_result_that_says_nothing() -> None:
    """Success, with what was said last as the text."""
    extra = {"user_message_uuid": PROMPT}
    assert ResultMessage(extra=extra) == result_of({"type": "result"})
    assert ResultMessage("Hello", extra=extra) == result_of({"type": "result"}, said(HELLO))
    streamed_turn = [line for line in TURN if line["type"] != "result"]
    assert "Hello" == result_of({"type": "result", "result": 5}, *streamed_turn).result


def test_a_result_with_odd_fields() -> None:
    """What has another type than it should is as good as left out."""
    odd = {
        "type": "result",
        "subtype": "",
        "is_error": "no",
        "result": None,
        "stop_reason": 1,
        "num_turns": "two",
        "session_id": ["s"],
        "usage": [],
        "total_cost_usd": "much",
        "duration_ms": float("inf"),
        "duration_api_ms": None,
    }
    assert ResultMessage(extra={"user_message_uuid": PROMPT}) == result_of(odd)


def test_a_result_with_all_that_there_is() -> None:
    """Milliseconds are whole; what is asked for in a form is there; the rest is in `extra`."""
    got = result_of(
        result(
            duration_ms=10.6,
            structured_output={"answer": [1]},
            permission_denials=[{"tool_name": "Bash"}],
            terminal_reason="completed",
            modelUsage={"m": {"costUSD": 9}},
        )
    )
    assert 11 == got.duration_ms
    assert {"answer": [1]} == got.structured_output
    assert {
        "user_message_uuid": PROMPT,
        "user_message_uuids": [PROMPT],
        "uuid": "u-r",
        "permission_denials": [{"tool_name": "Bash"}],
        "terminal_reason": "completed",
        "modelUsage": {"m": {"costUSD": 9}},
    } == got.extra


def test_the_id_of_the_prompt_is_in_every_result() -> None:
    """Older programs don't name it; `rewind_files` takes it."""
    assert PROMPT == result_of({"type": "result"}).extra["user_message_uuid"]


# ---- failures ----


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (400, BadRequestError),
        (401, AuthenticationError),
        (429, RateLimitError),
        (500, InternalServerError),
        (529, OverloadedError),
        (418, APIStatusError),
    ],
)
def test_a_refusal_of_the_service(status: int, expected: type[APIStatusError]) -> None:
    """It comes as a success that is an error; it is the same error as over HTTP."""
    failure = failure_of(
        result(is_error=True, api_error_status=status, result="API Error: Busy", errors=[])
    )
    assert isinstance(failure, APIStatusError)
    assert expected is type(failure)
    assert status == failure.status_code
    assert str(failure).startswith(
        f"the service that the claude program asks answered with an error, {status}"
    )
    assert "API Error: Busy" in str(failure)


def test_a_refusal_that_the_program_tells_of_as_a_message() -> None:
    """The message is given, for it was said; its type is the error's; it is no part of an answer."""
    notice = said(
        {"type": "text", "text": "API Error: Overloaded"},
        id_="own",
        is_api_error_message=True,
        api_error_type="overloaded_error",
    )
    decoder = TurnDecoder(PROMPT, CostLedger())
    failed = result(is_error=True, api_error_status=529, result="API Error: Overloaded")
    _init, told = decode(INIT, notice, failed, decoder=decoder)
    assert isinstance(told, AssistantMessage)
    assert isinstance(decoder.failure, OverloadedError)
    assert "overloaded_error" == decoder.failure.type
    assert decoder.partial() is None


@pytest.mark.parametrize("status", [None, "529", 529.0, True, 200, 0])
def test_an_error_without_a_status(status: object) -> None:
    """The agent's own, with its report."""
    failure = failure_of(
        result(is_error=True, api_error_status=status, result="it broke", terminal_reason="odd")
    )
    assert isinstance(failure, ResultError)
    assert "the agent reported 'odd': it broke" == str(failure)
    assert failure.result is not None
    assert "it broke" == failure.result.result


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        (
            {"subtype": "error_max_turns", "errors": ["too many", 5, "turns"]},
            "'error_max_turns': too many; turns",
        ),
        ({"subtype": "error_max_turns", "errors": "odd"}, "'error_max_turns': it says no more"),
        ({"subtype": "error_during_execution"}, "'error_during_execution': it says no more"),
        (
            {
                "subtype": "error_during_execution",
                "terminal_reason": "odd",
                "errors": [],
                "result": "",
            },
            "'odd': it says no more",
        ),
        ({"subtype": "error_odd", "errors": ["why", ""], "result": "what"}, "'error_odd': why"),
        ({"is_error": True}, "'success': it says no more"),
        ({"is_error": True, "result": "no"}, "'success': no"),
    ],
)
def test_an_error_of_the_agent(fields: Line, text: str) -> None:
    """By the flag, or by its word where there is no flag; the text has what it says."""
    failure = failure_of({"type": "result", **fields})
    assert isinstance(failure, ResultError)
    assert f"the agent reported {text}" == str(failure)
    assert failure.result is not None
    assert fields.get("subtype", "success") == failure.result.subtype


@pytest.mark.parametrize("reason", ["aborted_streaming", "aborted_tools"])
def test_a_turn_that_was_interrupted_from_inside(reason: str) -> None:
    """Whoever denied a tool so has asked for it; it is no fault of the agent."""
    failure = failure_of(result(is_error=True, terminal_reason=reason))
    assert isinstance(failure, Interrupted)
    assert "interrupted from inside" in str(failure)


def test_the_flag_counts_more_than_the_word() -> None:
    """An error's subtype with a flag that says otherwise is none."""
    assert not result_of(result(subtype="error_odd", is_error=False)).is_error


@pytest.mark.parametrize("status", [None, 500])
def test_an_error_in_odd_characters(status: int | None) -> None:
    """Half a surrogate pair, which no UTF-8 has, may be in any JSON text."""
    odd = "it broke \ud83d"
    failure = failure_of(
        result(is_error=True, result=odd, api_error_status=status),
        start(),
        block(0, {"type": "text", "text": ""}),
        text(0, "\ud83d"),
        text(0, "\ude00"),
    )
    assert "it broke" in str(failure)


def test_another_process_counts_from_the_beginning() -> None:
    """Also where it has spent more than the one before."""
    ledger = CostLedger()
    assert 1.0 == ledger.take({"total_cost_usd": 1.0})
    ledger.restart()
    assert 1.5 == ledger.take({"total_cost_usd": 1.5})


def test_a_failed_turn_costs_too() -> None:
    """The next one's cost is not the sum of both."""
    costs = CostLedger()
    first = TurnDecoder(PROMPT, costs)
    decode(INIT, result(is_error=True, total_cost_usd=1.0), decoder=first)
    second = TurnDecoder(PROMPT, costs)
    decode(INIT, result(total_cost_usd=1.25), decoder=second)
    assert first.result is not None
    assert second.result is not None
    assert (1.0, 0.25) == (first.result.total_cost_usd, second.result.total_cost_usd)


# ---- costs ----


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=10))
def test_running_totals_become_costs(costs: list[float]) -> None:
    """Each turn's cost is what its total is above the last one."""
    ledger = CostLedger()
    total = 0.0
    for cost in costs:
        before, total = total, total + cost
        assert total - before == ledger.take({"total_cost_usd": total})


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        # It counts from 0 again: another process, of a version that doesn't go on counting.
        ([{"total_cost_usd": 1.0}, {"total_cost_usd": 0.25}, {"total_cost_usd": 0.5}], 0.25),
        ([{"total_cost_usd": 1.0}, {"total_cost_usd": 0.25}], 0.25),
        ([{"total_cost_usd": 1.0}, {}, {"total_cost_usd": 1.5}], 0.5),
        ([{"total_cost_usd": 1.0}, {}], None),
        ([{"total_cost_usd": "1"}], None),
        ([{"total_cost_usd": float("nan")}], None),
        ([{"total_cost_usd": 10**400}], None),
        ([{"total_cost_usd": 3}], 3.0),
        # What it says of the turn itself counts more, and the total is kept all the same.
        (
            [
                {
                    "total_cost_usd": 5.0,
                    "model_usage_since_last_result": {
                        "opus": {"costUSD": 0.5},
                        "haiku": {"costUSD": 0.25},
                        "odd": {"costUSD": "x"},
                        "none": {},
                        "no object": 7,
                    },
                }
            ],
            0.75,
        ),
        (
            [
                {"total_cost_usd": 5.0, "model_usage_since_last_result": {"m": {"costUSD": 0.5}}},
                {"total_cost_usd": 5.25, "model_usage_since_last_result": None},
            ],
            0.25,
        ),
        ([{"model_usage_since_last_result": {}}], 0),
        ([{"model_usage_since_last_result": {"m": {"costUSD": 0.5}}}], 0.5),
    ],
)
def test_what_a_turn_cost(lines: list[Line], expected: float | None) -> None:
    """Out of running totals, or of what came since the last result."""
    ledger = CostLedger()
    *_, last = [ledger.take(line) for line in lines]
    assert expected == last


# ---- whatever comes ----

_JSON: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=3)
    | st.sampled_from(["text", "text_delta", "tool_use", "message_start", "message_stop", PROMPT]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "id", "index", "text", "content", "event", "message", "x"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=6,
)


def _paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    found = []
    for key, below in inner:
        found.append((*path, key))
        if isinstance(below, dict | list):
            found += _paths(below, (*path, key))
    return found


@st.composite
def _odd_lines(draw: st.DrawFn) -> list[Line]:
    """A turn with lines that are left out, put elsewhere, or changed anywhere."""
    lines = [
        *TURN,
        said(HELLO, parent_tool_use_id="t1"),
        said(HELLO, is_api_error_message=True, api_error_type="overloaded_error"),
        result(is_error=True, api_error_status=529, errors=["x"], subtype="error"),
        {"type": "user", "message": {"content": [{"type": "tool_result", "tool_use_id": "t"}]}},
    ]
    drawn = draw(st.lists(st.sampled_from(lines), max_size=8))
    odd = json.loads(json.dumps([*TURN[: draw(st.integers(0, len(TURN)))], *drawn]))
    for _ in range(draw(st.integers(0, 4))):
        *path, key = draw(st.sampled_from(_paths(odd) or [(0,)]))
        if not odd:
            break
        below: Any = odd
        for step in path:
            below = below[step]
        if path and draw(st.booleans()):
            del below[key]
        else:
            below[key] = draw(_JSON)
    return [line for line in odd if isinstance(line, dict)]


@given(_odd_lines() | st.lists(st.dictionaries(st.text(max_size=3), _JSON), max_size=3))
def test_nothing_that_a_line_can_be_is_raised(lines: list[Line]) -> None:
    """Any JSON objects are a turn, if an odd one: events, at most one result, and it is the last."""
    decoder = TurnDecoder(PROMPT, CostLedger())
    for line in lines:
        events: list[Event] = []
        over = decoder.result is not None
        decoder.feed(line, events)
        assert not (over and events)
        assert [] == [event for event in events[:-1] if isinstance(event, ResultMessage)]
        partial = decoder.partial()
        assert partial is None or isinstance(partial, AssistantMessage)
    if decoder.result is None:
        assert decoder.failure is None
    else:
        assert decoder.result.is_error is (decoder.failure is not None)


def test_a_message_of_another_id_in_mid_stream() -> None:
    """Both are given, each once, and the pieces are those of the one that is streamed."""
    own = said({"type": "text", "text": "[notice]"}, id_="own")
    events = decode(INIT, start(), block(0, HELLO), own, text(0, "!"), *end(), result())
    messages = [event.text for event in events if isinstance(event, AssistantMessage)]
    assert ["[notice]", "Hello!"] == messages
    assert "Hello!" == "".join(event.text for event in events if isinstance(event, TextDelta))


def test_no_piece_is_given_twice() -> None:
    """What came before the stream made no sense is not in the pieces of the line."""
    nonsense = streamed({"type": "content_block_stop", "index": 9})
    pieces = [text(0, "Hel"), text(0, "lo")]
    begun = [INIT, start(), block(0, {"type": "text", "text": ""})]
    events = decode(*begun, *pieces, nonsense, said(HELLO), result())
    assert "Hello" == "".join(event.text for event in events if isinstance(event, TextDelta))


DEEP_LINES = {
    "input": '{"type":"assistant","message":{"id":"y","content":'
    '[{"type":"tool_use","id":"t","name":"n","input":{"a":@}}]}}',
    "error": '{"type":"assistant","is_api_error_message":true,"api_error_type":@,'
    '"message":{"content":[]}}',
    "stream": '{"type":"stream_event","event":{"type":"message_start","message":{"usage":@}}}',
    "unknown": '{"type":"new","x":@}',
}


def _feed_below(frames: int, decoder: TurnDecoder, line: Line) -> None:
    """Feed the line from further below than where it was read, as it is in a link."""
    if frames:
        _feed_below(frames - 1, decoder, line)
    else:
        decoder.feed(line, [])


@pytest.mark.parametrize("where", DEEP_LINES.values(), ids=DEEP_LINES)
def test_what_is_nested_deep(where: str) -> None:
    """As deep as can be read, and a little less: nothing is raised of it, and the turn ends."""
    read: list[Line] = []

    def is_too_deep(depth: int) -> bool:
        nested = where.replace("@", "[" * depth + "]" * depth).encode()
        with suppress(ProtocolError):
            LineDecoder(10**7).feed(nested + b"\n", read)
            return False
        return True

    # Where that is depends on the Python, and a little on who calls.
    limit = bisect_left(range(1_000_000), True, key=is_too_deep)
    assert 500 < limit < 1_000_000
    read.clear()
    for depth in range(limit - 40, limit + 5):
        is_too_deep(depth)
    assert 40 <= len(read) < 45
    for line in read:
        decoder = TurnDecoder(PROMPT, CostLedger())
        for one in (INIT, line, result(is_error=True, api_error_status=500)):
            _feed_below(20, decoder, one)
        assert isinstance(decoder.failure, InternalServerError)


# ---- where the turn ends, and how the conversation is called ----


def test_the_last_message_may_be_the_users() -> None:
    """A tool's result, as well as what the model says; the model's own, not a subagent's."""
    decoder = TurnDecoder(PROMPT, CostLedger())
    user = {"type": "user", "message": {"content": []}}
    last_ids = []
    for line in (
        INIT,
        user,
        {**user, "uuid": 5},
        {**user, "uuid": "u1"},
        user,
        said(HELLO, uuid="a1"),
        {**user, "uuid": "u2"},
        {**user, "uuid": "u3", "parent_tool_use_id": "t1"},
        said(HELLO, uuid="a2", parent_tool_use_id="t1"),
        {**user, "uuid": "u4", "isReplay": True},
        {**user, "uuid": "u5", "isReplay": False},
    ):
        decode(line, decoder=decoder)
        last_ids.append(decoder.last_id)
    assert [None] * 3 + ["u1"] * 2 + ["a1"] + ["u2"] * 4 + ["u5"] == last_ids


@pytest.mark.parametrize(
    ("init", "expected"),
    [
        ({"session_id": "s1"}, "s1"),
        ({"session_id": 5}, None),
        ({"session_id": None}, None),
    ],
)
def test_the_program_says_how_the_conversation_is_called(init: Line, expected: str | None) -> None:
    """When it begins the turn, and not before; another init in the turn says nothing new."""
    decoder = TurnDecoder(PROMPT, CostLedger())
    decode(LIFECYCLE, {**STATUS, "session_id": "other"}, decoder=decoder)
    assert decoder.session_id is None
    decode({**INIT, **init}, decoder=decoder)
    assert expected == decoder.session_id
    decode({**INIT, "session_id": "s2"}, decoder=decoder)
    assert expected == decoder.session_id


# ---- pieces, where what is streamed and the lines are not the same ----


def test_pieces_of_each_block_are_given_once() -> None:
    """Where the stream breaks: those that were streamed are, and the line's other blocks whole."""
    nonsense = streamed({"type": "content_block_stop", "index": 9})
    tool: Line = {"type": "tool_use", "id": "t", "name": "n", "input": {"a": 1}}
    events = decode(
        INIT,
        start(),
        block(0, {"type": "text", "text": ""}),
        text(0, "Hello"),
        nonsense,
        said(HELLO),
        said(tool),
        said(HELLO, id_="another"),
        result(),
    )
    deltas = [event for event in events if isinstance(event, TextDelta | InputJSONDelta)]
    assert [TextDelta(0, "Hello"), InputJSONDelta(1, '{"a": 1}'), TextDelta(0, "Hello")] == deltas
    messages = [event for event in events if isinstance(event, AssistantMessage)]
    assert [2, 1] == [len(message.content) for message in messages]


# ---- what the program says of itself ----


def test_the_last_turns_end_that_is_told_late() -> None:
    """It is no event of this turn, neither before its beginning nor later."""
    late = {**LIFECYCLE, "command_uuid": "prompt-0", "state": "completed"}
    assert [SystemMessage("init", INIT), UnknownMessage(LIFECYCLE)] == decode(
        late, INIT, late, LIFECYCLE
    )


def test_a_program_that_cannot_reach_the_service() -> None:
    """A connection's error, as over HTTP."""
    failure = failure_of(result(is_error=True, api_error="connection_failed", result="refused"))
    assert type(failure) is APIConnectionError
    assert "the claude program could not reach the service: refused" == str(failure)


def test_a_program_that_nobody_has_logged_in() -> None:
    """The error says what to do."""
    refusal = said(HELLO, is_api_error_message=True, error="authentication_failed")
    failure = failure_of(result(is_error=True, result="Please run /login"), refusal)
    assert type(failure) is AuthenticationError
    assert "(Please run /login): give the option api_key, set ANTHROPIC_API_KEY" in str(failure)
