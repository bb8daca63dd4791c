"""The simulator, proven by a client that nobody here wrote: the official `anthropic` package.

Its async client runs on Trio by itself. Retries are off, so that each error is seen once.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anthropic
import pytest
import trio
from anthropic.types import (
    InputJSONDelta,
    MessageParam,
    SignatureDelta,
    TextBlock,
    TextDelta,
    ThinkingBlock,
    ThinkingDelta,
    ToolParam,
    ToolUseBlock,
)

from trio_claude.simulator import Reply, Simulator, open_simulator

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

MODEL = "claude-haiku-4-5"
HELLO: list[MessageParam] = [{"role": "user", "content": "Hello"}]
WEATHER: ToolParam = {
    "name": "get_weather",
    "description": "The weather of a city",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
}


@asynccontextmanager
async def served(
    *args: Any, max_retries: int = 0, **options: Any
) -> AsyncIterator[tuple[Simulator, anthropic.AsyncAnthropic]]:
    """A simulator and the official client for it, for ten seconds at most."""
    with trio.fail_after(10):
        async with (
            open_simulator(*args, **options) as sim,
            anthropic.AsyncAnthropic(
                api_key="sk-test",
                base_url=sim.base_url,
                max_retries=max_retries,
                http_client=anthropic.DefaultAsyncHttpxClient(trust_env=False),
            ) as client,
        ):
            yield sim, client


def text_of(message: anthropic.types.Message) -> str:
    """The text of a message that is one text block."""
    [block] = message.content
    assert isinstance(block, TextBlock)
    return block.text


async def test_it_does_not_stream() -> None:
    """A whole message, with its usage and its request id."""
    async with served(lambda body: "Hello to you") as (sim, client):
        message = await client.messages.create(model=MODEL, max_tokens=10, messages=HELLO)
    assert text_of(message) == "Hello to you"
    assert (message.role, message.model, message.stop_reason) == ("assistant", MODEL, "end_turn")
    assert (message.usage.input_tokens, message.usage.output_tokens) == (1, 3)
    assert message._request_id == "req_sim000000000000000001"
    assert sim.requests[0].headers["x-stainless-async"] == "async:trio"


async def test_it_streams() -> None:
    """The words one by one, and at the end the same message as without a stream."""
    async with (
        served(lambda body: "Hello to you") as (_, client),
        client.messages.stream(model=MODEL, max_tokens=10, messages=HELLO) as stream,
    ):
        words = [text async for text in stream.text_stream]
        message = await stream.get_final_message()
    assert words == ["Hello", " to", " you"]
    assert text_of(message) == "Hello to you"
    assert message.stop_reason == "end_turn"
    assert (message.usage.input_tokens, message.usage.output_tokens) == (1, 3)


async def test_raw_events_come_in_the_service_s_order() -> None:
    """With ``stream=True`` the client gives the events as they are, but for the ping."""
    async with served(lambda body: "Hi") as (_, client):
        stream = await client.messages.create(
            model=MODEL, max_tokens=10, messages=HELLO, stream=True
        )
        async with stream:
            types = [event.type async for event in stream]
    assert types == [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]


async def test_it_lists_models() -> None:
    """All pages, by the client's own paging; one model by its alias; an unknown one is not found."""
    async with served() as (sim, client):
        listed = [model async for model in client.models.list(limit=4)]
        assert len(sim.requests) == 4
        found = await client.models.retrieve(MODEL)
        with pytest.raises(anthropic.NotFoundError):
            await client.models.retrieve("claude-2")
    assert len({model.id for model in listed}) == len(listed) == 15
    for line in ("opus", "sonnet", "haiku"):
        assert len([model for model in listed if model.line == line]) >= 2
    assert [model.created_at for model in listed] == sorted(
        (model.created_at for model in listed), reverse=True
    )
    assert found in listed
    assert {model.type for model in listed} == {"model"}


async def test_it_counts_tokens() -> None:
    """The count that the answer's usage gives then, with the system prompt and the tools."""
    async with served() as (_, client):
        counted = await client.messages.count_tokens(
            model=MODEL, messages=HELLO, system="Be brief", tools=[WEATHER]
        )
        message = await client.messages.create(
            model=MODEL, max_tokens=10, messages=HELLO, system="Be brief", tools=[WEATHER]
        )
    assert counted.input_tokens == message.usage.input_tokens > 3


async def test_a_conversation_is_remembered_by_who_sends_it() -> None:
    """Told in the first turn, asked in the second; in a fresh conversation it is not known."""
    async with served() as (_, client):
        messages: list[MessageParam] = [
            {"role": "user", "content": "My favorite language is Python"}
        ]
        first = await client.messages.create(model=MODEL, max_tokens=99, messages=messages)
        question: MessageParam = {"role": "user", "content": "What's my favorite language?"}
        messages += [{"role": "assistant", "content": first.content}, question]
        second = await client.messages.create(model=MODEL, max_tokens=99, messages=messages)
        fresh = await client.messages.create(model=MODEL, max_tokens=99, messages=[question])
    assert "Python" in text_of(second)
    assert "don't know" in text_of(fresh)


async def test_the_system_prompt_arrives() -> None:
    """As text and as blocks."""
    async with served() as (_, client):
        as_text = await client.messages.create(
            model=MODEL, max_tokens=99, messages=HELLO, system="You are a poet."
        )
        as_blocks = await client.messages.create(
            model=MODEL,
            max_tokens=99,
            messages=HELLO,
            system=[{"type": "text", "text": "You are a poet."}],
        )
    assert text_of(as_text) == text_of(as_blocks)
    assert text_of(as_text).startswith("As a poet, ")


async def test_a_tool_is_called_and_answered() -> None:
    """Its input comes in pieces; the next turn with the result is accepted."""
    call = {"type": "tool_use", "name": "get_weather", "input": {"city": "Zürich, Switzerland"}}
    replies: list[Any] = [[{"type": "text", "text": "I look."}, call], "It is warm."]

    async with served(lambda body: replies.pop(0)) as (_, client):
        async with client.messages.stream(
            model=MODEL, max_tokens=99, messages=HELLO, tools=[WEATHER]
        ) as stream:
            deltas = [e.delta async for e in stream if e.type == "content_block_delta"]
            asked = await stream.get_final_message()
        use = asked.content[1]
        assert isinstance(use, ToolUseBlock)
        result: MessageParam = {
            "role": "user",
            "content": [{"type": "tool_result", "tool_use_id": use.id, "content": "25 degrees"}],
        }
        answered = await client.messages.create(
            model=MODEL,
            max_tokens=99,
            messages=[*HELLO, {"role": "assistant", "content": asked.content}, result],
            tools=[WEATHER],
        )
    pieces = [delta.partial_json for delta in deltas if isinstance(delta, InputJSONDelta)]
    assert pieces[0] == ""
    assert len(pieces) > 2
    assert (use.name, use.input) == ("get_weather", {"city": "Zürich, Switzerland"})
    assert asked.stop_reason == "tool_use"
    assert text_of(answered) == "It is warm."


async def test_thoughts_are_streamed_and_signed() -> None:
    """The thought, its signature, the text; replayed as it was it is good, changed it is not."""
    async with served() as (_, client):
        kinds: list[type] = []
        async with client.messages.stream(
            model=MODEL,
            max_tokens=2000,
            messages=HELLO,
            thinking={"type": "enabled", "budget_tokens": 1024},
        ) as stream:
            async for event in stream:
                if event.type == "content_block_delta" and type(event.delta) not in kinds:
                    kinds.append(type(event.delta))
            message = await stream.get_final_message()
        assert kinds == [ThinkingDelta, SignatureDelta, TextDelta]
        thought = message.content[0]
        assert isinstance(thought, ThinkingBlock)
        assert thought.thinking
        history: list[MessageParam] = [
            *HELLO,
            {"role": "assistant", "content": message.content},
            *HELLO,
        ]
        await client.messages.create(model=MODEL, max_tokens=9, messages=history)
        thought.thinking += "!"
        with pytest.raises(anthropic.BadRequestError, match="Invalid `signature` in `thinking`"):
            await client.messages.create(model=MODEL, max_tokens=9, messages=history)


async def test_limits_stop_an_answer() -> None:
    """Too few tokens, or a stop sequence, with the reason for it."""
    async with served(lambda body: "one two three four") as (_, client):
        cut = await client.messages.create(model=MODEL, max_tokens=2, messages=HELLO)
        stopped = await client.messages.create(
            model=MODEL, max_tokens=9, messages=HELLO, stop_sequences=["three"]
        )
    assert (text_of(cut), cut.stop_reason) == ("one two", "max_tokens")
    assert (text_of(stopped), stopped.stop_reason) == ("one two ", "stop_sequence")
    assert stopped.stop_sequence == "three"


async def test_a_reply_decides_what_the_message_says() -> None:
    """Stop reason, usage and model are the responder's where it gives them."""
    reply = Reply("No.", stop_reason="refusal", usage={"cache_read_input_tokens": 5}, model="x")
    async with (
        served(lambda body: reply) as (_, client),
        client.messages.stream(model=MODEL, max_tokens=9, messages=HELLO) as stream,
    ):
        message = await stream.get_final_message()
    assert (message.stop_reason, message.model) == ("refusal", "x")
    assert message.usage.cache_read_input_tokens == 5


ERRORS = [
    (400, anthropic.BadRequestError, "invalid_request_error"),
    (401, anthropic.AuthenticationError, "authentication_error"),
    (402, anthropic.PaymentRequiredError, "billing_error"),
    (403, anthropic.PermissionDeniedError, "permission_error"),
    (404, anthropic.NotFoundError, "not_found_error"),
    (408, anthropic.RequestTimeoutError, "timeout_error"),
    (409, anthropic.ConflictError, "conflict_error"),
    (413, anthropic.ContentTooLargeError, "request_too_large"),
    (422, anthropic.UnprocessableEntityError, "invalid_request_error"),
    (429, anthropic.RateLimitError, "rate_limit_error"),
    (500, anthropic.InternalServerError, "api_error"),
    (503, anthropic.ServiceUnavailableError, "api_error"),
    (504, anthropic.GatewayTimeoutError, "timeout_error"),
    (529, anthropic.OverloadedError, "overloaded_error"),
]


@pytest.mark.parametrize(("status", "class_", "type_"), ERRORS)
async def test_each_error_is_the_client_s_own(
    status: int, class_: type[anthropic.APIStatusError], type_: str
) -> None:
    """Every status gives the client's class for it, with type, id and the error's body."""
    async with served() as (sim, client):
        sim.fail_next(status)
        with pytest.raises(anthropic.APIStatusError) as caught:
            await client.messages.create(model=MODEL, max_tokens=9, messages=HELLO)
        answered = await client.messages.create(model=MODEL, max_tokens=9, messages=HELLO)
    error = caught.value
    assert type(error) is class_
    assert error.status_code == status
    assert error.request_id == "req_sim000000000000000001"
    assert isinstance(error.body, dict)
    assert error.body["error"]["type"] == type_
    assert error.body["request_id"] == error.request_id
    assert answered.stop_reason == "max_tokens"


@pytest.mark.parametrize("after_events", [0, 4])
async def test_an_error_in_the_stream_is_seen(after_events: int) -> None:
    """First or in the middle, under a 200, with its own type."""
    async with served(lambda body: "one two three") as (sim, client):
        sim.fail_next(529, after_events=after_events)
        words: list[str] = []

        async def stream_words() -> None:
            async with client.messages.stream(model=MODEL, max_tokens=9, messages=HELLO) as stream:
                async for text in stream.text_stream:
                    words.append(text)  # noqa: PERF401  # kept when the loop raises

        with pytest.raises(anthropic.APIStatusError) as caught:
            await stream_words()
    assert isinstance(caught.value.body, dict)
    assert caught.value.body["error"]["type"] == "overloaded_error"
    assert words == (["one", " two"] if after_events else [])


async def test_the_client_waits_as_it_is_told() -> None:
    """Its own retry follows retry-after-ms, and then gets its answer."""
    async with served(max_retries=1) as (sim, client):
        sim.fail_next(429, retry_after=0.05)
        before = trio.current_time()
        await client.messages.create(model=MODEL, max_tokens=9, messages=HELLO)
        assert trio.current_time() - before >= 0.05
        assert [r.headers["x-stainless-retry-count"] for r in sim.requests] == ["0", "1"]


async def test_an_abrupt_cut_is_an_error_for_the_client() -> None:
    """A connection that breaks in the middle is not taken for an answer."""
    async with served() as (sim, client):
        sim.cut_next(0, abruptly=True)
        with pytest.raises(anthropic.APIConnectionError):
            await client.messages.create(model=MODEL, max_tokens=9, messages=HELLO, stream=True)


async def test_the_service_s_own_checks_are_errors_for_the_client() -> None:
    """What is really wrong is refused as it would be: a role, a model, a key, a tool not answered."""
    system: Any = {"role": "system", "content": "Be brief"}
    use: MessageParam = {
        "role": "assistant",
        "content": [{"type": "tool_use", "id": "toolu_1", "name": "look", "input": {}}],
    }
    async with served(api_key="sk-test") as (_, client):
        with pytest.raises(anthropic.BadRequestError, match='Unexpected role "system"'):
            await client.messages.create(model=MODEL, max_tokens=9, messages=[system, *HELLO])
        newer = "claude-opus-5"
        await client.messages.create(model=newer, max_tokens=9, messages=[*HELLO, system])
        with pytest.raises(anthropic.BadRequestError, match="role 'system' must precede"):
            await client.messages.create(
                model=newer, max_tokens=9, messages=[*HELLO, system, *HELLO]
            )
        with pytest.raises(anthropic.BadRequestError, match="toolu_1"):
            await client.messages.create(model=MODEL, max_tokens=9, messages=[*HELLO, use, *HELLO])
        with pytest.raises(anthropic.NotFoundError, match="model: claude-2"):
            await client.messages.create(model="claude-2", max_tokens=9, messages=HELLO)
        with pytest.raises(anthropic.AuthenticationError, match="invalid x-api-key"):
            await client.with_options(api_key="sk-other").messages.create(
                model=MODEL, max_tokens=9, messages=HELLO
            )
