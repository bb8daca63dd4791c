"""The simulator's checks of a body: pure, each rule by a body that breaks it and nothing else."""

from __future__ import annotations

import re
from typing import Any

import pytest

from trio_claude.simulator import models
from trio_claude.simulator.checks import check_count, check_create
from trio_claude.simulator.errors import ApiError
from trio_claude.simulator.replies import signature_of
from trio_claude.simulator.requests import decode_json

Block = dict[str, Any]


def body(**fields: object) -> dict[str, Any]:
    """A good body, but for what is given."""
    return {
        "model": "claude-haiku-4-5",
        "max_tokens": 2048,
        "messages": [{"role": "user", "content": "Hi"}],
        **fields,
    }


def without(name: str) -> dict[str, Any]:
    """A good body without a field."""
    return {key: value for key, value in body().items() if key != name}


def user(*content: object) -> Block:
    """What the user says."""
    return {"role": "user", "content": list(content)}


def assistant(*content: object) -> Block:
    """What the assistant says."""
    return {"role": "assistant", "content": list(content)}


def text(words: object = "Hi") -> Block:
    """A text block."""
    return {"type": "text", "text": words}


def use(tool_use_id: str = "toolu_1") -> Block:
    """A tool call."""
    return {"type": "tool_use", "id": tool_use_id, "name": "look", "input": {}}


def result(tool_use_id: str = "toolu_1", **fields: object) -> Block:
    """A tool's result."""
    return {"type": "tool_result", "tool_use_id": tool_use_id, **fields}


def thought(thinking: str, signature: object) -> Block:
    """A thinking block."""
    return {"type": "thinking", "thinking": thinking, "signature": signature}


def refused(sent: dict[str, Any], message: str) -> None:
    """Check that a body gets a 400 that says this."""
    with pytest.raises(ApiError, match=re.escape(message)) as caught:
        check_create(sent)
    assert caught.value.status == 400


TOOL = {"name": "look", "input_schema": {"type": "object"}}
THINKING = {"type": "enabled", "budget_tokens": 1024}


@pytest.mark.parametrize(
    "sent",
    [
        body(),
        body(
            max_tokens=0, stream=True, temperature=0.5, top_p=1, top_k=0, stop_sequences=["\n\nx"]
        ),
        body(metadata={"user_id": "u"}, temperature=None, system=None, tools=None, thinking=None),
        body(system="Be brief"),
        body(system=[text()]),
        body(tools=[TOOL, {"type": "web_search_20250305", "name": "web_search"}]),
        body(tools=[TOOL], tool_choice={"type": "tool", "name": "look"}),
        body(tools=[TOOL], tool_choice={"type": "auto"}, thinking=THINKING, temperature=1),
        body(thinking={"type": "adaptive"}),
    ],
)
def test_good_parameters_pass(sent: dict[str, Any]) -> None:
    """What the service takes is taken."""
    check_create(sent)


@pytest.mark.parametrize(
    "messages",
    [
        [user(text()), assistant(text()), user(text())],
        [user(text()), user(text())],
        [user(text()), assistant(text(), use()), user(result(), text())],
        [user(text()), assistant(use()), user(result(content="x"))],
        [user(text()), assistant(use()), user(result(content=[text(), {"type": "image"}]))],
        # Turns of one role in a row are one turn.
        [
            user(text()),
            assistant(use("a")),
            assistant(use("b")),
            user(result("a")),
            user(result("b")),
        ],
        [user(text()), assistant(thought("hm", signature_of("hm"))), user(text())],
        [user(text()), assistant(thought("hm", "of another server")), user(text())],
        [user(text()), assistant({"type": "redacted_thinking", "data": "x"}), user(text())],
        [user(text()), assistant({"type": "web_search_tool_result"}), user(text())],
        [user({"type": "image", "source": {}}, {"type": "document", "source": {}})],
    ],
)
def test_good_conversations_pass(messages: list[Block]) -> None:
    """What the service takes is taken."""
    check_create(body(messages=messages))


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        (body(colour="red"), "colour: Extra inputs are not permitted"),
        (without("model"), "model: Field required"),
        (without("messages"), "messages: Field required"),
        (without("max_tokens"), "max_tokens: Field required"),
        (body(model=1), "model: Input should be a valid string"),
        (body(max_tokens="9"), "max_tokens: Input should be a whole number"),
        (body(max_tokens=True), "max_tokens: Input should be a whole number"),
        (body(max_tokens=-1), "max_tokens: Input should be a whole number"),
        (body(max_tokens=128_001), "max_tokens: 128001 > 128000"),
        (body(stream="yes"), "stream: Input should be a valid boolean"),
        (body(temperature=1.1), "temperature: Input should be a number from 0 to 1"),
        (body(top_p=-0.1), "top_p: Input should be a number from 0 to 1"),
        (body(top_k=0.5), "top_k: Input should be a whole number"),
        (body(metadata="me"), "metadata: Input should be a valid dictionary"),
        (body(stop_sequences="x"), "stop_sequences: each stop sequence"),
        (body(stop_sequences=[" "]), "stop_sequences: each stop sequence"),
        (body(system=1), "system: Input should be a valid string or a valid list"),
        (body(system=["x"]), "system.0: Input should be a text block"),
        (body(system=[{"type": "image"}]), "system.0: Input should be a text block"),
        (body(system=[{"type": "text"}]), "system.0.text: Input should be a valid string"),
        (body(system=[text("")]), "system: text content blocks must be non-empty"),
        (body(tools={}), "tools: Input should be a valid list"),
        (body(tools=["x"]), "tools.0: Input should be a valid dictionary"),
        (body(tools=[{"name": "x"}]), "tools.0.custom.input_schema: Field required"),
        (body(tools=[{"input_schema": {}}]), "tools.0.custom.name: Field required"),
        (body(tools=[{**TOOL, "name": "a b"}]), "tools.0.custom.name: String should match"),
        (body(tools=[{**TOOL, "name": 1}]), "tools.0.custom.name: String should match"),
        (body(tools=[{**TOOL, "input_schema": 1}]), "tools.0.custom.input_schema.type: Input"),
        (body(tools=[{**TOOL, "input_schema": {}}]), "tools.0.custom.input_schema.type: Input"),
        (body(tools=[TOOL, TOOL]), "tools: Tool names must be unique."),
        (body(tool_choice="auto"), "tool_choice: type should be one of"),
        (body(tool_choice={"type": "all"}), "tool_choice: type should be one of"),
        (body(tool_choice={"type": "auto"}), "tool_choice may only be specified while"),
        (body(tools=[TOOL], tool_choice={"type": "tool", "name": "x"}), "Tool 'x' not found"),
        (
            body(tools=[TOOL], tool_choice={"type": "any"}, thinking=THINKING),
            "Thinking may not be enabled when tool_choice forces tool use.",
        ),
        (body(thinking="yes"), "thinking: type should be one of adaptive, disabled, enabled"),
        (body(thinking={"type": "on"}), "thinking: type should be one of"),
        (body(thinking={"type": "enabled"}), "thinking.enabled.budget_tokens: Input should be"),
        (body(thinking={**THINKING, "budget_tokens": 1023}), "greater than or equal to 1024"),
        (body(thinking={**THINKING, "budget_tokens": 2048}), "`max_tokens` must be greater"),
        (body(thinking=THINKING, temperature=0.5), "`temperature` may only be set to 1"),
    ],
)
def test_a_bad_parameter_is_refused(sent: dict[str, Any], message: str) -> None:
    """Each one with its name in the message."""
    refused(sent, message)


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ("Hi", "messages: Input should be a valid list"),
        ([], "messages: at least one message is required"),
        ([user(text())] * 100_001, "messages: at most 100000 messages"),
        (["Hi"], "messages.0: Input should be a valid dictionary"),
        ([{"role": "system", "content": "x"}], 'messages: Unexpected role "system"'),
        ([{"role": "tool", "content": "x"}], "messages.0.role: Input should be 'user' or"),
        ([{"role": ["user"], "content": "x"}], "messages.0.role: Input should be 'user' or"),
        ([{"role": "user"}], "messages.0.content: Field required"),
        ([{"role": "user", "content": 1}], "messages.0.content: Input should be a valid string"),
        ([{"role": "user", "content": ""}], "messages.0: all messages must have non-empty content"),
        ([user()], "messages.0: all messages must have non-empty content"),
        (
            [{"role": "user", "content": " "}],
            "messages: text content blocks must contain non-white",
        ),
        ([user(text(""))], "messages: text content blocks must be non-empty"),
        ([user({"type": "text"})], "messages.0.content.0.text.text: Field required"),
        ([user(text(1))], "messages.0.content.0.text.text: Input should be a valid string"),
        ([user("Hi")], "messages.0.content.0: Input should be a valid dictionary"),
        ([user({"type": "song"})], "messages.0.content.0: Input tag 'song' found"),
        ([user({"type": ["text"]})], "messages.0.content.0: Input tag ['text'] found"),
        ([user(use())], "messages.0.content.0: Input tag 'tool_use' found"),
        ([user({"type": "image", "source": "x"})], "image.source: Input should be a valid dict"),
        ([assistant(text())], 'messages: first message must use the "user" role'),
        ([user(text()), assistant(text())], "does not support assistant message prefill"),
    ],
)
def test_a_bad_message_is_refused(messages: object, message: str) -> None:
    """Wrong roles, empty texts, and blocks that nobody knows."""
    refused(body(messages=messages), message)


def system(*content: object) -> Block:
    """What the application says in between."""
    return {"role": "system", "content": list(content)}


@pytest.mark.parametrize(
    "messages",
    [
        [user(text()), {"role": "system", "content": "Be brief"}],
        [user(text()), system(text()), assistant(text()), user(text()), system(text())],
        [user(text()), system({"type": "tool_addition", "tool": {}})],
        [user(text()), {"role": "system", "output_config": {"effort": "low"}}],
        [user(text()), assistant(use()), user(result()), system(text())],
        [user(text()), system(text()), assistant(use()), user(result())],
    ],
)
def test_a_system_message_passes(messages: list[Block]) -> None:
    """Newer models take one between what the user said and the answer, or at the end."""
    check_create(body(model="claude-opus-4-8", messages=messages))
    refused(body(model="claude-opus-4-7", messages=messages), 'messages: Unexpected role "system"')


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([system(text())], 'messages: first message must use the "user" role'),
        (
            [user(text()), system(text()), user(text())],
            "messages.1: role 'system' must precede an 'assistant' message or end the array",
        ),
        (
            [user(text()), assistant(text()), system(text())],
            "messages.2: role 'system' must follow a 'user' message",
        ),
        (
            [user(text()), assistant(use()), system(text()), assistant(text()), user(text())],
            "messages.2: role 'system' must follow a 'user' message",
        ),
        ([user(text()), {"role": "system"}], "messages.1.content: Field required"),
        ([user(text()), system({"type": "image"})], "messages.1.content.0: Input tag 'image'"),
        ([user(text()), system(text(""))], "messages: text content blocks must be non-empty"),
        (
            [user(text()), assistant(use()), user(text()), system(text())],
            "messages.1: `tool_use` ids were found without `tool_result` blocks",
        ),
    ],
)
def test_a_system_message_elsewhere_is_refused(messages: list[Block], message: str) -> None:
    """It has its place, and says nothing but text."""
    refused(body(model="claude-sonnet-5", messages=messages), message)


@pytest.mark.parametrize(
    "signature",
    ["", signature_of("hm")[:-1], signature_of("well")],
)
def test_a_thought_without_its_signature_is_refused(signature: str) -> None:
    """Missing in part, or that of another thought."""
    messages = [user(text()), assistant(thought("hm", signature)), user(text())]
    refused(body(messages=messages), "messages.1.content.0: Invalid `signature` in `thinking`")


def test_a_thought_that_was_never_signed_is_refused() -> None:
    """No signature at all is a missing field."""
    messages = [user(text()), assistant({"type": "thinking", "thinking": "hm"}), user(text())]
    refused(body(messages=messages), "messages.1.content.0.thinking.signature: Field required")


@pytest.mark.parametrize(
    ("following", "missing"),
    [
        ([], "a, b"),
        ([user(text())], "a, b"),
        ([user(result("a"), text())], "b"),
        ([user(text(), result("a"), result("b"))], "a, b"),
    ],
)
def test_an_unanswered_tool_use_is_refused(following: list[Block], missing: str) -> None:
    """Every call must be answered, by the next message, before anything else in it."""
    messages = [user(text()), assistant(use("a"), use("b")), *following]
    refused(
        body(messages=messages),
        f"messages.1: `tool_use` ids were found without `tool_result` blocks immediately after: "
        f"{missing}.",
    )


@pytest.mark.parametrize(
    "messages",
    [
        [user(result())],
        [user(text()), assistant(use()), user(result(), result("toolu_2"))],
        [user(text()), assistant(use()), user(result()), assistant(text()), user(result())],
    ],
)
def test_a_result_that_nobody_asked_for_is_refused(messages: list[Block]) -> None:
    """A result answers a call of the message before it."""
    refused(body(messages=messages), "unexpected `tool_use_id` found in `tool_result` blocks")


@pytest.mark.parametrize(
    "messages",
    [
        [user(text()), assistant(use(), use()), user(result())],
        [user(text()), assistant(use()), user(result()), assistant(use()), user(result())],
    ],
)
def test_two_tool_uses_of_one_id_are_refused(messages: list[Block]) -> None:
    """In one message, and in two."""
    refused(body(messages=messages), "messages: `tool_use` ids must be unique")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (1, "tool_result.content: Input should be a valid string or a valid list"),
        ([1], "tool_result.content.0: Input should be a block of"),
        ([use()], "tool_result.content.0: Input should be a block of"),
        ([text("")], "messages: text content blocks must be non-empty"),
    ],
)
def test_a_bad_result_is_refused(content: object, message: str) -> None:
    """What a tool gave is looked at like any other content."""
    messages = [user(text()), assistant(use()), user(result(content=content))]
    refused(body(messages=messages), message)


def test_counting_needs_no_answer() -> None:
    """Counting takes no max_tokens, and a conversation that the assistant ended."""
    messages = [user(text()), assistant(text())]
    counted = {"model": "claude-haiku-4-5", "messages": messages}
    check_count(counted)
    with pytest.raises(ApiError, match="max_tokens: Extra inputs are not permitted"):
        check_count({**counted, "max_tokens": 1})
    check_count({**counted, "max_tokens": 1}, beta=True)


def test_a_beta_request_may_say_more() -> None:
    """Fields unknown here are refused, but in beta, where they come and go."""
    check_create(body(context_management={}), beta=True)
    refused(body(context_management={}), "context_management: Extra inputs are not permitted")


def test_the_families_have_models_newest_first() -> None:
    """Two at least of each family, in the order in which they came out."""
    for line in ("opus", "sonnet", "haiku"):
        assert len([model for model in models.MODELS if model.line == line]) >= 2
    days = [model.created_at for model in models.MODELS]
    assert days == sorted(days, reverse=True)


def test_a_model_is_found_by_its_alias() -> None:
    """The id without its date is the same model; a family's name alone is none."""
    assert models.find("claude-haiku-4-5") is models.find("claude-haiku-4-5-20251001")
    with pytest.raises(ApiError, match="model: sonnet") as caught:
        models.find("sonnet")
    assert caught.value.status == 404


def test_pages_of_models_join_to_the_whole() -> None:
    """Forward with after_id and backward with before_id, nothing is left out or doubled."""
    ids = [model.id for model in models.MODELS]
    forward: list[str] = []
    page = models.page({"limit": "4"})
    forward += [model["id"] for model in page["data"]]
    while page["has_more"]:
        page = models.page({"limit": "4", "after_id": page["last_id"]})
        forward += [model["id"] for model in page["data"]]
    assert forward == ids
    page = models.page({"limit": "4", "before_id": ids[-1]})
    assert [model["id"] for model in page["data"]] == ids[-5:-1]
    assert page["has_more"] is True
    page = models.page({"before_id": ids[3]})
    assert (page["first_id"], page["last_id"], page["has_more"]) == (ids[0], ids[2], False)


def test_a_page_after_the_last_is_empty() -> None:
    """Nothing follows the oldest model."""
    page = models.page({"after_id": models.MODELS[-1].id})
    assert page == {"data": [], "has_more": False, "first_id": None, "last_id": None}


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ({"limit": "0"}, "limit: Input should be a whole number from 1 to 1000"),
        ({"limit": "1001"}, "limit: Input should be"),
        ({"limit": "9" * 5000}, "limit: Input should be"),
        ({"limit": "\N{SUPERSCRIPT TWO}"}, "limit: Input should be"),
        ({"limit": ""}, "limit: Input should be"),
        ({"after_id": "gpt"}, "after_id: there is no model 'gpt'"),
        ({"before_id": "gpt"}, "before_id: there is no model 'gpt'"),
        ({"after_id": "a", "before_id": "b"}, "Only one of before_id and after_id"),
    ],
)
def test_a_bad_page_is_refused(query: dict[str, str], message: str) -> None:
    """Each one with the parameter's name."""
    with pytest.raises(ApiError, match=re.escape(message)):
        models.page(query)


@pytest.mark.parametrize("raw", [b"", b"{", b"\xff", b'{"a": NaN}', b"[" * 100_000, b"{}x"])
def test_what_is_not_json_is_a_value_error(raw: bytes) -> None:
    """Cut, not UTF-8, numbers that JSON has not, too deep, too much."""
    with pytest.raises(ValueError, match=r"."):
        decode_json(raw)


@pytest.mark.parametrize(
    ("status", "type_"),
    [(418, "invalid_request_error"), (501, "api_error"), (529, "overloaded_error")],
)
def test_every_status_has_a_type(status: int, type_: str) -> None:
    """The service's own where it has one, else that of its class."""
    error = ApiError.on_demand(status).body("req_1")
    assert error["request_id"] == "req_1"
    assert error["type"] == "error"
    assert isinstance(error["error"], dict)
    assert error["error"]["type"] == type_
