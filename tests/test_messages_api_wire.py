"""The Messages API's JSON: requests, the history, streamed messages, errors, retries, models."""

import datetime
import itertools
import json
import math
from collections.abc import Sequence
from types import MappingProxyType
from typing import Any

import attrs
import pytest
from hypothesis import given, strategies as st

import trio_claude._errors as errors
from tests.faulty_server import events, payloads, sse
from trio_claude._messages import (
    AssistantMessage,
    Event,
    InputJSONDelta,
    RedactedThinkingBlock,
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
)
from trio_claude._options import SessionOptions
from trio_claude._wire import api_errors, models, requests, retries
from trio_claude._wire.answers import structured_output
from trio_claude._wire.blocks import content_block, usage
from trio_claude._wire.messages_api import MessageDecoder
from trio_claude._wire.sse import ServerSentEvent, SSEDecoder

OPTIONS = SessionOptions(api_key="sk-test", model="m", max_tokens=100)

# ---- requests -----------------------------------------------------------------------------------


def body(**options: Any) -> Any:
    """The decoded body of a request with these options."""
    given_options = attrs.evolve(OPTIONS, **options)
    return json.loads(
        requests.request_body([{"role": "user", "content": "Hi"}], "m-1", given_options)
    )


def test_smallest_body() -> None:
    """What is not set is not sent."""
    assert body(stop_sequences=[], system_prompt="") == {
        "model": "m-1",
        "max_tokens": 100,
        "messages": [{"role": "user", "content": "Hi"}],
        "stream": True,
    }


def test_whole_body() -> None:
    """Every option has its field, and `extra_body` is laid on top."""
    assert body(
        system_prompt="Be kind.",
        append_system_prompt="Be short.",
        temperature=0.0,
        top_p=0.5,
        top_k=0,
        stop_sequences=("a", "b"),
        thinking=MappingProxyType({"type": "enabled", "budget_tokens": 1024}),
        effort="low",
        output_format={"type": "json_schema", "schema": {"type": "object"}},
        metadata={"user_id": "u"},
        extra_body={"service_tier": "auto", "top_k": 7},
    ) == {
        "model": "m-1",
        "max_tokens": 100,
        "system": "Be kind.\n\nBe short.",
        "temperature": 0.0,
        "top_p": 0.5,
        "top_k": 7,
        "stop_sequences": ["a", "b"],
        "thinking": {"type": "enabled", "budget_tokens": 1024},
        "output_config": {
            "effort": "low",
            "format": {"type": "json_schema", "schema": {"type": "object"}},
        },
        "metadata": {"user_id": "u"},
        "service_tier": "auto",
        "messages": [{"role": "user", "content": "Hi"}],
        "stream": True,
    }


def test_the_backend_has_defaults_of_its_own() -> None:
    """Where nobody has said how long an answer may be, or how often a request is sent again."""
    assert body(max_tokens=None)["max_tokens"] == 8192
    assert requests.max_retries(SessionOptions()) == 2
    assert requests.max_retries(SessionOptions(max_retries=0)) == 0


def test_effort_alone() -> None:
    """What is not set of the form of the answer is not sent."""
    assert body(effort="max")["output_config"] == {"effort": "max"}


def test_options_of_another_backend() -> None:
    """They are refused by name, with where they work; what is not set is not looked at."""
    requests.refuse_unsupported(SessionOptions(model="opus", timeout=5, cwd=None))
    with pytest.raises(errors.ConfigurationError) as caught:
        requests.refuse_unsupported(SessionOptions(cwd="/", model="opus", fork_session=False))
    assert str(caught.value) == (
        "the Messages API has no option 'cwd' or 'fork_session'; backend='cli' has"
    )


@pytest.mark.parametrize("text", ["", "It is", '{"a": ', "[" * 100_000])
def test_an_answer_without_its_form(text: str) -> None:
    """It says whose answer it is, and why it ended."""
    with pytest.raises(errors.APIError, match=r"answer of host.*not the JSON.*'max_tokens'"):
        structured_output("host", text, "max_tokens")


@pytest.mark.parametrize("value", [{"a": [1, None]}, [], "x", 1, None])
def test_an_answer_in_its_form(value: object) -> None:
    """Whatever JSON it is."""
    assert structured_output("host", json.dumps(value), "end_turn") == value


def test_only_an_appended_system_prompt() -> None:
    """Without a system prompt there is no empty line before what is appended."""
    assert body(append_system_prompt="Be short.")["system"] == "Be short."


@pytest.mark.parametrize("name", ["messages", "stream"])
def test_extra_body_may_not_take_over(name: str) -> None:
    """`extra_body` may not set what the session itself sets."""
    with pytest.raises(errors.ConfigurationError, match=f"extra_body must not set '{name}'"):
        body(extra_body={name: None})


@pytest.mark.parametrize(
    "value", [{1, 2}, math.nan, math.inf, b"x", object()], ids=lambda value: type(value).__name__
)
def test_what_is_no_json(value: object) -> None:
    """An option that cannot be written as JSON is refused."""
    with pytest.raises(errors.ConfigurationError, match="must be JSON"):
        body(extra_body={"x": [value]})


def test_circle() -> None:
    """An option that holds itself is refused."""
    circle: dict[str, Any] = {}
    circle["again"] = circle
    with pytest.raises(errors.ConfigurationError, match="must be JSON"):
        body(extra_body=circle)


def test_text_that_utf8_cannot_say() -> None:
    """Half a surrogate pair is sent as an escape; other text as UTF-8."""
    messages = [{"role": "user", "content": "é\ud83d"}]
    assert json.loads(requests.request_body(messages, "m", OPTIONS))["messages"] == messages
    assert "é".encode() in requests.request_body([{"content": "é"}], "m", OPTIONS)


def test_headers_with_a_key() -> None:
    """The headers of a request with an API key."""
    headers = requests.request_headers(OPTIONS, "trio-claude/1")
    assert headers == {
        "x-api-key": "sk-test",
        "anthropic-version": "2023-06-01",
        "content-type": "application/json",
        "accept": "text/event-stream, application/json",
        "accept-encoding": "identity",
        "user-agent": "trio-claude/1",
    }


def test_headers_with_a_token() -> None:
    """A token is a bearer token, and no key is sent beside it."""
    headers = requests.request_headers(SessionOptions(auth_token="t"), "x")
    assert headers["authorization"] == "Bearer t"
    assert "x-api-key" not in headers


def test_extra_headers_win() -> None:
    """`extra_headers` are laid on top, whatever their case, and may bring the credential."""
    options = SessionOptions(extra_headers={"X-API-Key": "k", "Anthropic-Version": "2"})
    headers = requests.request_headers(options, "x")
    assert headers["x-api-key"] == "k"
    assert headers["anthropic-version"] == "2"


def test_no_credential() -> None:
    """Without a key or a token, the error names the variable and the option."""
    with pytest.raises(errors.ConfigurationError, match=r"ANTHROPIC_API_KEY.*api_key="):
        requests.request_headers(SessionOptions(), "x")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"api_key": " sk-secret"}, "api_key must be printable ASCII text without spaces"),
        ({"auth_token": "secret "}, "auth_token must be"),
        ({"api_key": "k", "extra_headers": {"X-Y": "secret "}}, "extra_headers must be"),
        ({"api_key": "k", "extra_headers": {"a b": "secret"}}, "extra_headers must be"),
        ({"api_key": "k", "extra_headers": {"Content-Length": "3"}}, "must not set 'Content-L"),
        ({"api_key": "k", "extra_headers": {"transfer-encoding": "x"}}, "must not set 'tra"),
    ],
)
def test_headers_that_cannot_be_sent(options: dict[str, Any], said: str) -> None:
    """A header that HTTP does not allow is refused by name, without its value."""
    with pytest.raises(errors.ConfigurationError, match=said) as caught:
        requests.request_headers(SessionOptions(**options), "x")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("base", ["http://x/a", "http://x/a/"])
def test_endpoint(base: str) -> None:
    """A slash at the end of `base_url` makes no difference."""
    assert requests.endpoint(SessionOptions(base_url=base), "/v1") == "http://x/a/v1"


def test_default_endpoint() -> None:
    """Without a `base_url` it is the public service."""
    assert requests.endpoint(SessionOptions(), "/v1") == "https://api.anthropic.com/v1"


# ---- the conversation ---------------------------------------------------------------------------

TEXT = {"type": "text", "text": "Yes"}
TOOL = {"type": "tool_use", "id": "t1", "name": "f", "input": {}}
THOUGHT = {"type": "thinking", "thinking": "Hm", "signature": "s"}
SEARCH = {"type": "server_tool_use", "id": "s1", "name": "web_search", "input": {}}
FOUND = {"type": "web_search_tool_result", "tool_use_id": "s1", "content": []}


def user(content: Any) -> dict[str, Any]:
    """A message of the user."""
    return {"role": "user", "content": content}


def assistant(*content: dict[str, Any]) -> dict[str, Any]:
    """A message of the model."""
    return {"role": "assistant", "content": list(content)}


def remembered(*content: dict[str, Any], stop_reason: str = "end_turn") -> Sequence[dict[str, Any]]:
    """The history after one turn that was answered so."""
    return requests.remember([], requests.ask([], "Hi"), list(content), stop_reason)


def test_first_and_second_question() -> None:
    """A question follows all that was said before it, and changes nothing of it."""
    history = remembered(TEXT)
    assert history == [user("Hi"), assistant(TEXT)]
    assert requests.ask(history, "And?") == [user("Hi"), assistant(TEXT), user("And?")]
    assert history == [user("Hi"), assistant(TEXT)]


def test_unanswered_tools() -> None:
    """The message after calls of tools begins with an answer to each of them."""
    other = {**TOOL, "id": "t2"}
    *before, last = requests.ask(remembered(TEXT, TOOL, other, stop_reason="tool_use"), "And?")
    assert before == [user("Hi"), assistant(TEXT, TOOL, other)]
    assert last == user(
        [
            {
                "type": "tool_result",
                "tool_use_id": id_,
                "content": requests.NO_RESULT,
                "is_error": True,
            }
            for id_ in ("t1", "t2")
        ]
        + [{"type": "text", "text": "And?"}]
    )


@pytest.mark.parametrize(
    ("content", "kept"),
    [
        ((THOUGHT, TEXT), (THOUGHT, TEXT)),
        ((TEXT, THOUGHT), (TEXT,)),
        ((TEXT, {"type": "redacted_thinking", "data": "d"}, THOUGHT), (TEXT,)),
        ((SEARCH, FOUND, TEXT), (SEARCH, FOUND, TEXT)),
        ((TEXT, SEARCH), (TEXT,)),
        ((TEXT, {**SEARCH, "type": "mcp_tool_use"}), (TEXT,)),
        ((TEXT, {"type": "new"}), (TEXT, {"type": "new"})),
        ((TEXT, {}), (TEXT, {})),
    ],
)
def test_what_is_remembered(
    content: tuple[dict[str, Any], ...], kept: tuple[dict[str, Any], ...]
) -> None:
    """What the service would refuse for ever is not remembered, all else is."""
    assert remembered(*content) == [user("Hi"), assistant(*kept)]


@pytest.mark.parametrize("content", [(), (THOUGHT,), (SEARCH,)])
def test_nothing_was_answered(content: tuple[dict[str, Any], ...]) -> None:
    """Of a turn with an empty answer the question is remembered, and the next one follows it."""
    history = remembered(*content)
    assert history == [user("Hi")]
    assert requests.ask(history, "And?") == [user("Hi"), user("And?")]


def test_refusal_is_forgotten() -> None:
    """A refused turn leaves nothing, for the service goes on refusing while it sees it."""
    before = [user("Hi"), assistant(TEXT)]
    assert requests.remember(before, [*before, user("Bad")], [TEXT], "refusal") == before


def test_carry_on() -> None:
    """A paused answer goes on from all that it said, without white space at its end."""
    question = requests.ask([], "Hi")
    assert requests.carry_on(question, []) == question
    assert requests.carry_on(question, [TEXT, SEARCH]) == [user("Hi"), assistant(TEXT, SEARCH)]
    content: list[dict[str, Any]] = [SEARCH, {**TEXT, "text": "Yes \n"}]
    assert requests.carry_on(question, content) == [user("Hi"), assistant(SEARCH, TEXT)]
    assert content[1]["text"] == "Yes \n"


@pytest.mark.parametrize(
    ("block", "sendable"),
    [
        (TEXT, True),
        ({"type": "text", "text": ""}, False),
        ({"type": "text", "text": " \n"}, False),
        ({"type": "text"}, False),
        (THOUGHT, True),
        ({"type": "thinking", "thinking": "Hm", "signature": ""}, False),
        ({"type": "thinking", "thinking": "Hm"}, False),
        ({"type": "new"}, True),
    ],
)
def test_can_be_sent(block: dict[str, Any], sendable: bool) -> None:
    """Blank text and unsigned thinking are refused by the service."""
    assert requests.can_be_sent(block) is sendable


# ---- blocks -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "block"),
    [
        ({"type": "text", "text": "a", "citations": None}, TextBlock("a")),
        ({"type": "text", "text": "a", "citations": [1]}, TextBlock("a", {"citations": [1]})),
        (
            {"type": "thinking", "thinking": "a", "signature": "s", "x": 1},
            ThinkingBlock("a", "s", {"x": 1}),
        ),
        ({"type": "thinking", "thinking": "a", "signature": 5}, ThinkingBlock("a")),
        ({"type": "redacted_thinking", "data": "d"}, RedactedThinkingBlock("d")),
        (
            {"type": "tool_use", "id": "t", "name": "f", "input": {"a": 1}, "caller": "c"},
            ToolUseBlock("t", "f", {"a": 1}, {"caller": "c"}),
        ),
        (
            {"type": "tool_result", "tool_use_id": "t", "content": "x", "is_error": True},
            ToolResultBlock("t", "x", True),
        ),
        (
            {"type": "tool_result", "tool_use_id": "t", "content": [{"type": "text"}]},
            ToolResultBlock("t", ({"type": "text"},)),
        ),
        ({"type": "tool_result", "tool_use_id": "t"}, ToolResultBlock("t")),
        ({"type": "new", "x": 1}, UnknownBlock({"type": "new", "x": 1})),
        ({"type": "text", "text": 5}, UnknownBlock({"type": "text", "text": 5})),
        ({}, UnknownBlock({})),
    ],
)
def test_content_block(raw: dict[str, Any], block: object) -> None:
    """Each block has its class; what is unknown is kept."""
    assert content_block(raw) == block


def test_usage() -> None:
    """Missing and ill-typed counts are 0, and what is unknown is kept."""
    assert usage({"input_tokens": 3, "output_tokens": None, "service_tier": "x"}) == Usage(
        input_tokens=3, extra={"service_tier": "x"}
    )


# ---- streamed messages --------------------------------------------------------------------------

SESSION = "session-1"


def start(index: int = 0, **block: Any) -> dict[str, Any]:
    """The beginning of a block."""
    return {"type": "content_block_start", "index": index, "content_block": block}


def delta(kind: str, index: int = 0, **fields: Any) -> dict[str, Any]:
    """A piece of a block."""
    return {
        "type": "content_block_delta",
        "index": index,
        "delta": {"type": kind, **fields},
    }


def message(
    *inner: dict[str, Any], stop_reason: str | None = "end_turn", **fields: Any
) -> list[dict[str, Any]]:
    """A whole message with these events inside."""
    begin, *_, message_delta, end = payloads(stop_reason=stop_reason, **fields)
    return [begin, *inner, message_delta, end]


def as_sse(payload: dict[str, Any]) -> ServerSentEvent:
    """An event as the decoder below gives it."""
    return ServerSentEvent(payload.get("type", "message"), json.dumps(payload).encode())


def decode(
    *items: dict[str, Any], session_id: str | None = SESSION
) -> tuple[list[Event], MessageDecoder]:
    """What these events of the service are decoded to."""
    decoder = MessageDecoder("host", session_id)
    return [event for item in items for event in decoder.feed(as_sse(item))], decoder


def whole(*items: dict[str, Any]) -> tuple[AssistantMessage, list[dict[str, Any]]]:
    """The whole message of these events, and what is sent back of it."""
    _events, decoder = decode(*items)
    assert decoder.done
    return decoder.message, decoder.content


INIT = SystemMessage("init", {"session_id": SESSION, "model": "claude-test", "message_id": "msg_1"})


def test_message_of_text() -> None:
    """A message of text, from its beginning to its end."""
    given_events, decoder = decode(*payloads("Hel", "lo"))
    whole_message = AssistantMessage(
        (TextBlock("Hello"),),
        model="claude-test",
        id="msg_1",
        stop_reason="end_turn",
        usage=Usage(input_tokens=10, output_tokens=5),
    )
    assert given_events == [INIT, TextDelta(0, "Hel"), TextDelta(0, "lo"), whole_message]
    assert decoder.done
    assert decoder.message == whole_message
    assert decoder.content == [{"type": "text", "text": "Hello"}]
    assert decoder.stop_reason == "end_turn"
    assert decoder.usage == whole_message.usage


def test_no_init_without_a_session() -> None:
    """The later messages of a turn don't begin it again."""
    assert decode(*payloads("a"), session_id=None)[0][0] == TextDelta(0, "a")


def test_init_is_held_back() -> None:
    """Until there is something to say nothing is given out, and an error leaves nothing behind."""
    begin, block, *_ = payloads("a")
    assert decode(begin, {"type": "ping"}, block)[0] == []


def test_nothing_after_the_end() -> None:
    """What comes after the end of the message is not looked at."""
    _events, decoder = decode(*payloads("a"))
    assert decoder.feed(ServerSentEvent("message", b"[DONE]")) == []
    assert decoder.finish([ServerSentEvent("message", b"{}")]) == []


def test_a_message_as_far_as_it_came() -> None:
    """Text and thoughts by their blocks' order; a tool's input is left out, and nothing is None."""
    decoder = MessageDecoder("host")
    assert decoder.partial() is None
    tool = start(0, type="tool_use", id="t", name="f", input={})
    *begun, _ = message(tool, delta("input_json_delta", partial_json='{"a": 1'))[:-1]
    for payload in begun:
        decoder.feed(as_sse(payload))
    assert decoder.partial() is None
    for payload in (
        start(2, type="text", text="So "),
        delta("text_delta", 2, text="far"),
        start(1, type="thinking", thinking=""),
        delta("thinking_delta", 1, thinking="hm"),
    ):
        decoder.feed(as_sse(payload))
    partial = decoder.partial()
    assert partial is not None
    assert (ThinkingBlock("hm"), TextBlock("So far")) == partial.content
    assert partial.model is not None


def test_pings_are_nothing() -> None:
    """A ping gives no event and is not counted, however it is written."""
    decoder = MessageDecoder("host")
    assert decoder.feed(ServerSentEvent("ping", b'{"type": "ping"}')) == []
    assert decoder.feed(ServerSentEvent("ping", b"{}")) == []
    assert decoder.heard == 0


def test_all_kinds_of_blocks() -> None:
    """Blocks of all kinds, their deltas mixed, some without their end, and a gap in the numbers."""
    given_events, decoder = decode(
        *message(
            start(0, type="thinking", thinking="", signature=""),
            delta("thinking_delta", 0, thinking="Let "),
            start(1, type="redacted_thinking", data="xyz"),
            start(2, type="text", text="He", citations=None),
            delta("text_delta", 2, text="llo"),
            delta("thinking_delta", 0, thinking="me"),
            delta("signature_delta", 0, signature="old"),
            delta("signature_delta", 0, signature="sig"),
            delta("citations_delta", 2, citation={"n": 1}),
            delta("citations_delta", 2, citation={"n": 2}),
            start(4, type="tool_use", id="t1", name="f", input={}, caller="me"),
            delta("input_json_delta", 4, partial_json=""),
            delta("input_json_delta", 4, partial_json='{"a":'),
            delta("input_json_delta", 4, partial_json=" 1}"),
            start(5, type="tool_use", id="t2", name="g", input={"b": 2}),
            start(6, type="server_tool_use", id="s1", name="search", input={}),
            delta("input_json_delta", 6, partial_json='{"q": "x"}'),
            start(7, type="thinking", thinking="I", signature="s"),
            start(8, type="text", text=""),
        )
    )

    raw_search = {"type": "server_tool_use", "id": "s1", "name": "search", "input": {"q": "x"}}
    raw_text = {"type": "text", "text": "Hello", "citations": [{"n": 1}, {"n": 2}]}
    *deltas, whole_message = given_events
    assert deltas == [
        INIT,
        ThinkingDelta(0, "Let "),
        TextDelta(2, "He"),
        TextDelta(2, "llo"),
        ThinkingDelta(0, "me"),
        InputJSONDelta(4, ""),
        InputJSONDelta(4, '{"a":'),
        InputJSONDelta(4, " 1}"),
        InputJSONDelta(6, '{"q": "x"}'),
        ThinkingDelta(7, "I"),
    ]
    assert whole_message == decoder.message
    assert decoder.message.content == (
        ThinkingBlock("Let me", "sig"),
        RedactedThinkingBlock("xyz"),
        TextBlock("Hello", {"citations": [{"n": 1}, {"n": 2}]}),
        ToolUseBlock("t1", "f", {"a": 1}, {"caller": "me"}),
        ToolUseBlock("t2", "g", {"b": 2}),
        UnknownBlock(raw_search),
        ThinkingBlock("I", "s"),
        TextBlock(""),
    )
    assert decoder.content == [
        {"type": "thinking", "thinking": "Let me", "signature": "sig"},
        {"type": "redacted_thinking", "data": "xyz"},
        raw_text,
        {"type": "tool_use", "id": "t1", "name": "f", "input": {"a": 1}, "caller": "me"},
        {"type": "tool_use", "id": "t2", "name": "g", "input": {"b": 2}},
        raw_search,
        {"type": "thinking", "thinking": "I", "signature": "s"},
    ]


def test_the_history_is_a_copy() -> None:
    """Who changes the input of a tool does not change what is sent back."""
    result, content = whole(*message(start(type="tool_use", id="t", name="f", input={"a": 1})))
    block = result.content[0]
    assert isinstance(block, ToolUseBlock)
    block.input["a"] = 2  # type: ignore[index]
    assert content[0]["input"] == {"a": 1}


def test_unknown_passes_through() -> None:
    """Unknown events, deltas, blocks and fields are kept as they came."""
    news = {"type": "news", "x": [1]}
    nameless = {"x": 1}
    odd = delta("odd_delta", 0, value=1)
    compaction = delta("compaction_delta", 1, content="c", encrypted=None)
    given_events, decoder = decode(
        *message(
            news,
            nameless,
            start(0, type="text", text="a"),
            odd,
            start(1, type="compaction", content=None),
            compaction,
            {"type": "content_block_stop", "index": 1},
            container={"id": "c1"},
        )
    )
    assert given_events[:-1] == [
        INIT,
        UnknownMessage(news),
        UnknownMessage(nameless),
        TextDelta(0, "a"),
        UnknownMessage(odd),
        UnknownMessage(compaction),
    ]
    assert decoder.content == [
        {"type": "text", "text": "a"},
        {"type": "compaction", "content": "c"},
    ]
    assert decoder.message.content[1] == UnknownBlock({"type": "compaction", "content": "c"})
    assert decoder.message.extra == {"container": {"id": "c1"}}


def test_unknown_before_the_beginning() -> None:
    """An unknown event that comes too early comes behind the init event."""
    news = {"type": "news"}
    assert decode(news, *payloads("a"))[0][:3] == [INIT, UnknownMessage(news), TextDelta(0, "a")]


def test_the_counts_replace() -> None:
    """The counts of message_delta are totals; null and missing ones leave the earlier ones."""
    begin, *_, end = payloads(usage={"input_tokens": 10, "output_tokens": 1, "tier": "a"})
    first = {"type": "message_delta", "delta": {}, "usage": {"output_tokens": 4, "tier": None}}
    second = {
        "type": "message_delta",
        "delta": {"stop_reason": "stop_sequence", "stop_sequence": "X", "stop_details": None},
        "usage": {"output_tokens": 7, "input_tokens": 11},
    }
    result, _content = whole(begin, first, second, end)
    assert result.usage == Usage(input_tokens=11, output_tokens=7, extra={"tier": "a"})
    assert result.stop_reason == "stop_sequence"
    assert result.extra == {"stop_sequence": "X"}


def test_no_counts_and_no_names() -> None:
    """A message that says nothing about itself is a message all the same."""
    begin = {"type": "message_start", "message": {"usage": None}}
    last = {"type": "message_delta", "delta": {"stop_reason": 5}}
    result, _content = whole(begin, last, {"type": "message_stop"})
    assert result == AssistantMessage((), usage=Usage())


@pytest.mark.parametrize("stop_reason", ["max_tokens", "model_context_window_exceeded", "refusal"])
def test_cut_off_in_a_tool(stop_reason: str) -> None:
    """Half of a tool's input is shown as it came, and kept out of the history."""
    tool = start(1, type="tool_use", id="t", name="f", input={})
    unknown = start(2, type="server_tool_use", id="s", input={})
    result, content = whole(
        *message(
            start(0, type="text", text="a"),
            tool,
            delta("input_json_delta", 1, partial_json='{"a": "b'),
            unknown,
            delta("input_json_delta", 2, partial_json="[1]"),
            stop_reason=stop_reason,
        )
    )
    assert result.content == (
        TextBlock("a"),
        ToolUseBlock("t", "f", {}, {"partial_json": '{"a": "b'}),
        UnknownBlock({"type": "server_tool_use", "id": "s", "input": {}}),
    )
    assert content == [{"type": "text", "text": "a"}]


BEGIN, BLOCK, *_rest = payloads()

# What cannot be a message, and what is said of it.
NONSENSE: list[tuple[str, list[dict[str, Any]]]] = [
    ("before the message began", [BLOCK]),
    ("before the message began", [delta("text_delta", text="a")]),
    ("before the message began", [{"type": "content_block_stop", "index": 0}]),
    ("before the message began", [{"type": "message_delta", "delta": {}}]),
    ("before the message began", [{"type": "message_stop"}]),
    ("a second message", [BEGIN, BEGIN]),
    ("without its message", [{"type": "message_start"}]),
    ("without its content_block", [BEGIN, {"type": "content_block_start", "index": 0}]),
    ("without its index", [BEGIN, {"type": "content_block_start", "content_block": {}}]),
    ("without its index", [BEGIN, BLOCK, {**delta("text_delta", text="a"), "index": "0"}]),
    ("without its index", [BEGIN, BLOCK, {**delta("text_delta", text="a"), "index": True}]),
    ("without its delta", [BEGIN, BLOCK, {"type": "content_block_delta", "index": 0}]),
    ("without its delta", [BEGIN, {"type": "message_delta"}]),
    ("block 0 began twice", [BEGIN, BLOCK, BLOCK]),
    ("block 1, which never began", [BEGIN, BLOCK, delta("text_delta", 1, text="a")]),
    ("block 1, which never began", [BEGIN, BLOCK, delta("odd_delta", 1)]),
    ("block 1, which never began", [BEGIN, {"type": "content_block_stop", "index": 1}]),
    ("text_delta without its content", [BEGIN, BLOCK, delta("text_delta", text=5)]),
    ("citations_delta without its content", [BEGIN, BLOCK, delta("citations_delta")]),
    (
        "input of tool 'f' is not JSON",
        message(
            start(type="tool_use", id="t", name="f", input={}),
            delta("input_json_delta", partial_json="{"),
            stop_reason="tool_use",
        ),
    ),
    (
        "input of tool 'f' is not JSON",
        message(
            start(type="tool_use", id="t", name="f", input={}),
            delta("input_json_delta", partial_json="[" * 100_000),
            stop_reason="tool_use",
        ),
    ),
    (
        "no proper JSON",
        message(
            start(type="tool_use", id="t", name="f", input={}),
            delta("input_json_delta", partial_json='{"a": NaN}'),
        ),
    ),
    (
        "no proper JSON",
        message(
            start(type="tool_use", id="t", name="f", input={}),
            delta("input_json_delta", partial_json='{"a": 1e999}'),
        ),
    ),
]  # fmt: skip


@pytest.mark.parametrize(("said", "items"), NONSENSE)
def test_nonsense(said: str, items: list[dict[str, Any]]) -> None:
    """What cannot be a message fails the turn, and says why."""
    with pytest.raises(
        errors.APIError, match=f"cannot read the answer of host: .*{said}"
    ) as caught:
        decode(*items)
    assert type(caught.value) is errors.APIError


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b'{"type": "\xff"}', "not UTF-8"),
        (b"{", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "no JSON object"),
        (b'"text"', "no JSON object"),
    ],
)
def test_unreadable_data(data: bytes, said: str) -> None:
    """Data that is no JSON object in UTF-8 fails the turn."""
    with pytest.raises(errors.APIError, match=f"its 'e' event is {said}"):
        MessageDecoder("host").feed(ServerSentEvent("e", data))


@pytest.mark.parametrize(
    ("tail", "said"),
    [
        ([], "ended before the message did"),
        ([as_sse(delta("text_delta", text="b"))], "ended before the message did"),
        ([ServerSentEvent("e", b'{"type": "content_b')], "in the middle of an event"),
        ([ServerSentEvent("e", b'{"type": "\xc3')], "in the middle of an event"),
    ],
)
def test_cut_short(tail: list[ServerSentEvent], said: str) -> None:
    """A stream that ends before its message does is interrupted."""
    _events, decoder = decode(*payloads("a")[:3])
    with pytest.raises(errors.StreamInterrupted, match=f"the answer of host broke off: .*{said}"):
        decoder.finish(tail)
    assert not decoder.done


def test_complete_without_message_stop() -> None:
    """A stop reason and a clean end are the end of the message."""
    _events, decoder = decode(*payloads("a")[:-1])
    assert decoder.finish([]) == [decoder.message]
    assert decoder.message.text == "a"


def test_complete_with_an_open_event() -> None:
    """The last event need not have its blank line."""
    *before, last = payloads("a")
    _events, decoder = decode(*before)
    assert decoder.finish([as_sse(last)]) == [decoder.message]


def test_stop_reason_and_half_an_event() -> None:
    """A stop reason is no excuse for an end in the middle of an event."""
    _events, decoder = decode(*payloads("a")[:-1])
    with pytest.raises(errors.StreamInterrupted):
        decoder.finish([ServerSentEvent("message", b'{"type": "mess')])


def test_empty_message_at_a_clean_end() -> None:
    """The init event comes even if the message says nothing, and ends without its end."""
    begin, *_, last, _stop = payloads()
    _events, decoder = decode(begin, last)
    assert decoder.finish([]) == [INIT, decoder.message]


@given(st.lists(st.text(max_size=20), max_size=5), st.lists(st.integers(0, 2000), max_size=30))
def test_any_text_cut_anywhere(texts: list[str], cuts: list[int]) -> None:
    """However the bytes of a message are cut, the events are the same, and its text is whole."""
    data = events(payloads(*texts))
    bounds = [0, *sorted(cut for cut in cuts if cut < len(data)), len(data)]
    stream, decoder = SSEDecoder(1_000_000), MessageDecoder("host", SESSION)
    given_events = [
        event
        for first, last in itertools.pairwise(bounds)
        for item in stream.feed(data[first:last])
        for event in decoder.feed(item)
    ]
    assert given_events == decode(*payloads(*texts))[0]
    assert decoder.message.text == "".join(texts)


@given(st.integers(0, 2000))
def test_no_prefix_is_a_whole_answer(cut: int) -> None:
    """A stream that is cut anywhere before its stop reason is never taken for whole."""
    *before, message_delta, _stop = payloads("Hello", "world", "héllo")
    data = events(before) + sse(message_delta)
    cut = min(cut, len(data) - 3)  # up to the last brace of the event with the stop reason
    stream, decoder = SSEDecoder(1_000_000), MessageDecoder("host")
    for item in stream.feed(data[:cut]):
        decoder.feed(item)
    with pytest.raises(errors.StreamInterrupted):
        decoder.finish(stream.finish())


# ---- errors -------------------------------------------------------------------------------------

CLASSES: list[tuple[int, str | None, type[errors.APIStatusError]]] = [
    (400, "invalid_request_error", errors.BadRequestError),
    (401, "authentication_error", errors.AuthenticationError),
    (402, "billing_error", errors.BillingError),
    (403, "permission_error", errors.PermissionDeniedError),
    (404, "not_found_error", errors.NotFoundError),
    (405, None, errors.APIStatusError),
    (408, None, errors.APIStatusError),
    (409, "conflict_error", errors.ConflictError),
    (413, "request_too_large", errors.RequestTooLargeError),
    (418, None, errors.APIStatusError),
    (422, "invalid_request_error", errors.UnprocessableEntityError),
    (429, "rate_limit_error", errors.RateLimitError),
    (500, "api_error", errors.InternalServerError),
    (502, None, errors.InternalServerError),
    (503, "api_error", errors.InternalServerError),
    (504, "timeout_error", errors.InternalServerError),
    (529, "overloaded_error", errors.OverloadedError),
]


def refused(
    status: int, data: bytes | dict[str, Any] = b"", **headers: str
) -> errors.APIStatusError:
    """The error of such an answer."""
    encoded = json.dumps(data).encode() if isinstance(data, dict) else data
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return api_errors.status_error("host", status, named, encoded, now=1000.0)


@pytest.mark.parametrize(("status", "kind", "cls"), CLASSES)
def test_class_by_status(status: int, kind: str | None, cls: type[errors.APIStatusError]) -> None:
    """Each status has its class, and the error says all that is known."""
    data = {"type": "error", "error": {"type": kind, "message": "Because."}, "request_id": "r0"}
    error = refused(status, data, request_id="req_1", retry_after="7")
    assert type(error) is cls
    assert str(error).startswith(f"host answered with an error, {status} {kind or ''}".strip())
    assert ": Because." in str(error)
    assert "request id req_1" in str(error)
    assert (error.status_code, error.type, error.request_id) == (status, kind, "req_1")
    assert (error.retry_after, error.body) == (7.0, data)


@pytest.mark.parametrize(("status", "kind", "cls"), CLASSES)
def test_status_without_a_body(
    status: int, kind: str | None, cls: type[errors.APIStatusError]
) -> None:
    """An answer without a body has the same class."""
    error = refused(status)
    assert type(error) is cls
    assert (error.type, error.request_id, error.retry_after, error.body) == (None,) * 4
    assert str(error).startswith(f"host answered with an error, {status}")


@pytest.mark.parametrize(
    ("status", "advice"),
    [
        (401, "ANTHROPIC_API_KEY"),
        (402, "billing"),
        (403, "may not use"),
        (404, "model's name"),
        (413, "too long"),
    ],
)
def test_advice(status: int, advice: str) -> None:
    """Where something can be done, the message says what."""
    assert advice in str(refused(status))


@pytest.mark.parametrize(
    ("data", "said", "decoded"),
    [
        (b"<html><title> 502 Bad\nGateway</title>x</html>", ": 502 Bad Gateway", ...),
        (b"<html>oops</html>", ": <html>oops</html>", "<html>oops</html>"),
        (b"plain\n\ttext", ": plain text", "plain\n\ttext"),
        (b"\xff\x00", ": \ufffd?", "\ufffd\x00"),
        (b'{"other": 1}', ': {"other": 1}', {"other": 1}),
        (b'{"error": "text"}', ': {"error": "text"}', {"error": "text"}),
        (b'{"error": {"type": 5, "message": ""}}', ': {"error"', ...),
        (b"[1]", ": [1]", [1]),
        (b"[" * 70_000, ": " + "[" * 500 + "...", ...),
        (b"  ", "", "  "),
    ],
)
def test_odd_bodies(data: bytes, said: str, decoded: object) -> None:
    """A body that is not the service's own is shown in one line and kept."""
    error = refused(500, data)
    assert str(error) == f"host answered with an error, 500{said}" or (
        decoded is ... and str(error).startswith(f"host answered with an error, 500{said}")
    )
    assert decoded is ... or error.body == decoded


def test_redirect() -> None:
    """A redirect is not followed; the error says whereto it would have led."""
    error = refused(307, location="http://elsewhere/")
    assert type(error) is errors.APIStatusError
    assert "307: http://elsewhere/ (redirects are not followed; base_url" in str(error)


@pytest.mark.parametrize(
    ("kind", "cls"),
    [
        ("overloaded_error", errors.OverloadedError),
        ("rate_limit_error", errors.RateLimitError),
        ("api_error", errors.InternalServerError),
        ("timeout_error", errors.InternalServerError),
        ("invalid_request_error", errors.BadRequestError),
        ("authentication_error", errors.AuthenticationError),
        ("new_error", errors.APIStatusError),
        (None, errors.APIStatusError),
    ],
)
def test_error_events(kind: str | None, cls: type[errors.APIStatusError]) -> None:
    """An error in a stream has the class of its type, and the stream's status."""
    payload = {
        "type": "error",
        "error": {"type": kind, "message": "Because."},
        "request_id": "req_1",
    }
    with pytest.raises(errors.APIStatusError, match=r"in mid-stream.*: Because\.") as caught:
        decode(BEGIN, payload)
    assert type(caught.value) is cls
    assert (caught.value.status_code, caught.value.type) == (200, kind)
    assert (caught.value.request_id, caught.value.body) == ("req_1", payload)


def test_error_event_without_an_error() -> None:
    """An error event that says nothing is an error."""
    assert str(api_errors.event_error("host", {"error": []})) == (
        "host answered with an error, in mid-stream"
    )


# ---- retries ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after": "-3"}, 0.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after-ms": "20", "retry-after": "7"}, 0.02),
        ({"retry-after-ms": "soon", "retry-after": "7"}, 7.0),
        ({"retry-after": "Thu, 01 Jan 1970 00:20:00 GMT"}, 200.0),
        ({"retry-after": "Thu, 01 Jan 1970 00:10:00 GMT"}, 0.0),
        ({"retry-after": "Thu, 01 Jan 99999 00:10:00 GMT"}, None),
    ],
)
def test_retry_after(headers: dict[str, str], seconds: float | None) -> None:
    """Milliseconds, seconds and dates are understood, and nonsense is not."""
    assert api_errors.retry_after(headers, 1000.0) == seconds


@pytest.mark.parametrize(
    ("failure", "headers", "again"),
    [
        *((refused(status), {}, True) for status in (408, 409, 429, 500, 502, 503, 504, 529)),
        *((refused(status), {}, False) for status in (307, 400, 401, 402, 403, 404, 413, 422)),
        (refused(400), {"x-should-retry": "true"}, True),
        (refused(429), {"x-should-retry": "false"}, False),
        (refused(429), {"x-should-retry": "perhaps"}, True),
        (errors.APIConnectionError(), {}, True),
        (errors.StreamInterrupted(), {}, True),
        (errors.APIError(), {}, False),
        *(
            (errors.APIStatusError(status_code=200, type=kind), {}, again)
            for kind, again in (
                ("overloaded_error", True),
                ("rate_limit_error", True),
                ("api_error", True),
                ("timeout_error", True),
                ("invalid_request_error", False),
                (None, False),
            )
        ),
    ],
)
def test_what_is_sent_again(failure: errors.APIError, headers: dict[str, str], again: bool) -> None:
    """What may be better the next time is sent again, and nothing else is."""
    delay = retries.retry_delay(
        failure, headers, attempt=1, max_retries=1, max_retry_after=300, chance=0
    )
    assert (delay is not None) is again


def delay_of(failure: errors.APIError, attempt: int = 1, **changes: Any) -> float | None:
    """The delay before the next attempt, with many attempts left."""
    arguments = {"max_retries": 2000, "max_retry_after": 300.0, "chance": 0.0, **changes}
    return retries.retry_delay(failure, {}, attempt=attempt, **arguments)


def test_backoff() -> None:
    """The delay doubles from half a second to eight."""
    lost = errors.APIConnectionError()
    assert [delay_of(lost, attempt) for attempt in (1, 2, 3, 4, 5, 6, 2000)] == [
        0.5, 1.0, 2.0, 4.0, 8.0, 8.0, 8.0,
    ]  # fmt: skip


@given(st.integers(1, 50), st.floats(0, 1, exclude_max=True))
def test_jitter(attempt: int, chance: float) -> None:
    """Chance shortens a delay by up to a quarter."""
    lost = errors.APIConnectionError()
    full, delay = delay_of(lost, attempt), delay_of(lost, attempt, chance=chance)
    assert full is not None
    assert delay is not None
    assert 0.75 * full <= delay <= full


def test_max_retries() -> None:
    """There are no more retries than allowed."""
    lost = errors.APIConnectionError()
    assert delay_of(lost, 2, max_retries=2) is not None
    assert delay_of(lost, 3, max_retries=2) is None
    assert delay_of(lost, 1, max_retries=0) is None


def test_retry_after_is_honoured() -> None:
    """What the service asks for is waited for, exactly, up to the limit."""
    assert delay_of(refused(429, retry_after="300"), chance=0.9) == 300.0
    assert delay_of(refused(429, retry_after="0")) == 0.0
    assert delay_of(refused(429, retry_after="301")) is None
    assert delay_of(refused(429, retry_after="301"), max_retry_after=math.inf) == 301.0


@pytest.mark.parametrize(
    ("failure", "attempt", "said"),
    [
        (errors.APIConnectionError(), 1, ""),
        (errors.APIConnectionError(), 3, "it was tried 3 times"),
        (refused(429, retry_after="300"), 1, ""),
        (refused(400, retry_after="301"), 1, ""),
        (refused(429, retry_after="301"), 1, "asks to wait 301 seconds, which is more than"),
        (refused(429, retry_after="301"), 2, "tried 2 times; the service asks to wait 301"),
    ],
)
def test_explain(failure: errors.APIError, attempt: int, said: str) -> None:
    """An error that was not retried says how often it was tried, and why no more."""
    explained = retries.explain(failure, {}, attempt=attempt, max_retry_after=300)
    assert said in explained
    assert bool(said) == bool(explained)


# ---- models -------------------------------------------------------------------------------------


def page(*ids: str, **fields: Any) -> bytes:
    """A page of the list of models, each a day older than the one before."""
    data = [
        {"id": id_, "type": "model", "created_at": f"2025-01-{30 - number}T00:00:00Z"}
        for number, id_ in enumerate(ids)
    ]
    return json.dumps({"data": data, **fields}).encode()


def test_newest_model() -> None:
    """The newest model of a family is found by its date, wherever it stands in the list."""
    found, last = models.models_page("host", page("opus-2", "sonnet-9", "opus-1"))
    assert last is None
    assert models.newest("opus", found) == "opus-2"
    assert models.newest("opus", reversed(found)) == "opus-2"
    assert models.newest("sonnet", found) == "sonnet-9"
    assert models.newest("haiku", found) is None


def test_pages() -> None:
    """There is a next page where the service says so, and says from where."""
    assert models.models_page("host", page("a", has_more=True, last_id="a"))[1] == "a"
    assert models.models_page("host", page("a", has_more=False, last_id="a"))[1] is None
    assert models.models_page("host", page("a", has_more=True, last_id=None))[1] is None
    assert models.models_page("host", page(has_more=True, last_id="a"))[1] is None


def test_dates() -> None:
    """Dates with and without a zone can be compared; what is no date is long ago."""
    data = [
        {"id": "opus-none"},
        {"id": "opus-odd", "created_at": "new"},
        {"id": "opus-naive", "created_at": "2025-01-01T00:00:00"},
        {"id": "opus-zone", "created_at": "2025-01-01T01:00:00+02:00"},
        {"id": 5},
    ]
    found, _last = models.models_page("host", json.dumps({"data": data}).encode())
    assert models.newest("opus", found) == "opus-naive"
    assert models.newest("opus", found[:2]) == "opus-odd"
    assert found[3].created_at.utcoffset() == datetime.timedelta(hours=2)
    assert len(found) == 4


@pytest.mark.parametrize(
    "data",
    [b"", b"<html>", b"[]", b"5", b"{}", b'{"data": [1]}', b'{"data": [{}]}', b"[" * 100_000],
)
def test_no_list_of_models(data: bytes) -> None:
    """What is no list of models is an error of the turn."""
    with pytest.raises(errors.APIError, match="this is no list of models"):
        models.models_page("host", data)
