"""From what a responder said to the message and the events: pure."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, strategies as st

from trio_claude.simulator import Reply
from trio_claude.simulator.replies import (
    count_input_tokens,
    default_responder,
    encode_event,
    encode_json,
    events_of,
    message_of,
    signature_of,
)


def body(**fields: object) -> dict[str, Any]:
    """A good body, but for what is given."""
    return {
        "model": "claude-haiku-4-5",
        "max_tokens": 1000,
        "messages": [{"role": "user", "content": "Hi there"}],
        **fields,
    }


def said(reply: object, **fields: object) -> dict[str, Any]:
    """The message made of a reply."""
    return message_of(reply, body(**fields), "msg_1")


def rebuilt(events: list[dict[str, Any]]) -> dict[str, Any]:
    """The message that a client makes of the events."""
    message: dict[str, Any] = dict(events[0]["message"])
    content: list[dict[str, Any]] = []
    inputs: dict[int, str] = {}
    for event in events[1:]:
        match event["type"]:
            case "content_block_start":
                assert event["index"] == len(content)
                content.append(dict(event["content_block"]))
            case "content_block_delta":
                delta = dict(event["delta"])
                kind = delta.pop("type")
                (name, piece) = delta.popitem()
                if kind == "input_json_delta":
                    inputs[event["index"]] = inputs.get(event["index"], "") + piece
                else:
                    content[event["index"]][name] += piece
            case "content_block_stop":
                if event["index"] in inputs:
                    content[event["index"]]["input"] = json.loads(inputs[event["index"]])
            case "message_delta":
                message |= event["delta"]
                message["usage"] = message["usage"] | event["usage"]
    return {**message, "content": content}


texts = st.builds(lambda text: {"type": "text", "text": text}, st.text(min_size=1))
thoughts = st.builds(lambda text: {"type": "thinking", "thinking": text}, st.text())
values = st.dictionaries(st.text(), st.text() | st.integers() | st.lists(st.booleans()))
tools = st.builds(lambda i: {"type": "tool_use", "name": "look", "input": i}, values)
others = st.just({"type": "redacted_thinking", "data": "xyz"})
contents = st.lists(texts | thoughts | tools | others, max_size=5)


@given(contents, st.integers(0, 20), st.lists(st.text(min_size=1), max_size=2))
def test_the_events_make_the_message(
    content: list[dict[str, Any]], max_tokens: int, stop_sequences: list[str]
) -> None:
    """Streamed or not, cut or not, it is the same message."""
    message = said(content, max_tokens=max_tokens, stop_sequences=stop_sequences)
    assert rebuilt(events_of(message)) == message
    assert message["usage"]["output_tokens"] <= max_tokens


@given(st.text(min_size=1), st.integers(0, 20))
def test_max_tokens_counts_words(text: str, max_tokens: int) -> None:
    """An answer is the first words of what was said, and says so where it was cut."""
    message = said(text, max_tokens=max_tokens)
    words = [word for block in message["content"] for word in block["text"].split()]
    assert words == text.split()[:max_tokens]
    if len(text.split()) > max_tokens:
        assert message["stop_reason"] == "max_tokens"


def test_max_tokens_cuts_thoughts_and_leaves_tools_out() -> None:
    """A thought is cut, and signed as it is; a tool call that does not fit is not made."""
    cut = said([{"type": "thinking", "thinking": "one two three"}], max_tokens=2)["content"][0]
    assert cut == {"type": "thinking", "thinking": "one two", "signature": signature_of("one two")}
    content: list[dict[str, Any]] = [
        {"type": "text", "text": "one"},
        {"type": "tool_use", "name": "look", "input": {"at": "it"}},
    ]
    message = said(content, max_tokens=2)
    assert (message["content"], message["stop_reason"]) == (content[:1], "max_tokens")


@pytest.mark.parametrize(
    ("stop_sequences", "expected", "stopped_by"),
    [
        (["STOP"], ["one two "], "STOP"),
        (["three", "two"], ["one "], "two"),
        (["one"], [], "one"),
        (["four"], ["one two STOP three", "rest"], None),
    ],
)
def test_stop_sequences_end_the_answer(
    stop_sequences: list[str], expected: list[str], stopped_by: str | None
) -> None:
    """The first one that comes ends it, is named, and is no part of it; nor is what follows."""
    content = [{"type": "text", "text": text} for text in ("one two STOP three", "rest")]
    message = said(content, stop_sequences=stop_sequences)
    assert [block["text"] for block in message["content"]] == expected
    assert message["stop_sequence"] == stopped_by
    assert message["stop_reason"] == ("stop_sequence" if stopped_by else "end_turn")


def test_a_reply_says_more() -> None:
    """Its stop reason, its counts and its model are taken; what it leaves out is made up."""
    reply = Reply("no", stop_reason="refusal", usage={"input_tokens": 7}, model="claude-x")
    message = said(reply)
    assert message["stop_reason"] == "refusal"
    assert message["model"] == "claude-x"
    assert message["usage"] == {
        "input_tokens": 7,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
        "output_tokens": 1,
        "service_tier": "standard",
    }


def test_a_tool_call_gets_an_id_and_its_stop_reason() -> None:
    """Each call an id of its own, but where it has one; the answer ends for it."""
    call = {"type": "tool_use", "name": "look", "input": {}}
    message = said([call, call, {**call, "id": "mine"}])
    ids = [block["id"] for block in message["content"]]
    assert ids == ["toolu_10", "toolu_11", "mine"]
    assert message["stop_reason"] == "tool_use"


def test_tool_input_comes_in_pieces() -> None:
    """The first piece is empty, as the service's is; the pieces make the JSON."""
    call = {"type": "tool_use", "name": "look", "input": {"city": "Zürich", "unit": "celsius"}}
    deltas = [e["delta"] for e in events_of(said([call])) if e["type"] == "content_block_delta"]
    pieces = [delta["partial_json"] for delta in deltas]
    assert pieces[0] == ""
    assert len(pieces) > 2
    assert json.loads("".join(pieces)) == call["input"]


def test_a_thought_ends_with_its_signature() -> None:
    """Words of it first, the signature last, a given one as it is."""
    thought = {"type": "thinking", "thinking": "one two", "signature": "mine"}
    deltas = [e["delta"] for e in events_of(said([thought])) if e["type"] == "content_block_delta"]
    assert deltas == [
        {"type": "thinking_delta", "thinking": "one"},
        {"type": "thinking_delta", "thinking": " two"},
        {"type": "signature_delta", "signature": "mine"},
    ]


@pytest.mark.parametrize("reply", [None, 1, b"text", ["text"], {"type": "text", "text": "x"}])
def test_another_type_is_refused(reply: object) -> None:
    """A responder's mistake is named, with what would be right."""
    with pytest.raises(TypeError, match="a responder returns a text, a list of content blocks"):
        said(reply)


def test_the_default_responder_hears_system_and_conversation() -> None:
    """A system prompt of text or of blocks arrives; the conversation is answered."""
    for system in ("You are a poet.", [{"type": "text", "text": "You are a poet."}]):
        [block] = default_responder(body(system=system))
        assert block["text"].startswith(
            'As a poet, I have read what you wrote. You said: "Hi there"'
        )


def test_the_default_responder_hears_the_prompt_behind_a_programs_own() -> None:
    """The claude program's bill, and its line about itself, are not the system prompt."""
    own = ["x-anthropic-billing-header: cc_version=2;", "You are a Claude agent."]
    for texts, heard in (([*own, "You are a poet."], "As a poet, I"), (own, "I"), (own[:1], "I")):
        [block] = default_responder(body(system=[{"type": "text", "text": t} for t in texts]))
        assert block["text"].startswith(f"{heard} have read what you wrote.")
    [block] = default_responder(body(system=[]))
    assert block["text"].startswith("I have read what you wrote.")


@pytest.mark.parametrize(
    ("thinking", "thought"),
    [
        ({"type": "disabled"}, None),
        ({"type": "adaptive"}, "Let me read it all once more."),
        ({"type": "enabled", "display": "omitted"}, ""),
    ],
)
def test_the_default_responder_thinks_where_asked(
    thinking: dict[str, str], thought: str | None
) -> None:
    """A thought comes first, empty where it is not to be shown."""
    blocks = default_responder(body(thinking=thinking))
    assert [b["thinking"] for b in blocks if b["type"] == "thinking"] == (
        [] if thought is None else [thought]
    )
    assert blocks[-1]["type"] == "text"


def test_input_tokens_are_words() -> None:
    """Those of the system prompt, the messages and the tools; what is no text counts nothing."""
    counted = body(
        system=[{"type": "text", "text": "Be brief"}],
        tools=[{"name": "look", "description": "looks at it", "input_schema": {"n": 1}}],
        metadata={"user_id": "not counted"},
    )
    assert count_input_tokens(counted) == 2 + 2 + 4
    assert count_input_tokens(body(messages=[{"role": "user", "content": []}])) == 1


def test_events_are_utf8_on_two_lines() -> None:
    """Letters go out as they are, line ends as escapes, half a surrogate pair as a question mark."""
    event = {"type": "ping", "text": "ü\n\u2028\ud800"}
    assert encode_event(event) == (
        'event: ping\ndata: {"type":"ping","text":"ü\\n\u2028?"}\n\n'.encode()
    )
    assert encode_json("\udfff") == b'"?"'
    assert signature_of("\udfff") == signature_of("?")
