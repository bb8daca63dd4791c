"""The Messages API backend over real sockets: answers, faults, retries, cancellation, the pool."""

import contextlib
import gc
import json
import math
import random
import socket
import ssl
import traceback
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import metadata
from typing import Any

import attrs
import httpcore
import httpx
import pytest
import trio
import trio.testing

import trio_claude
import trio_claude._errors as errors
from tests import faulty_server as faulty
from tests.faulty_server import LAST_CHUNK, PING, Exchange, Script, chunk, good, head, sse
from trio_claude._backends.messages_api import (
    MessagesBackend,
    attempts,
    backend as backend_module,
    http_client,
    models,
)
from trio_claude._backends.messages_api.backend import MessagesConnection, MessagesConversation
from trio_claude._messages import (
    AssistantMessage,
    Event,
    ResultMessage,
    SystemMessage,
    TextBlock,
    TextDelta,
    ToolUseBlock,
    Usage,
)
from trio_claude._options import SessionOptions
from trio_claude._wire.requests import NO_RESULT
from trio_claude.simulator import open_simulator

BACKEND = MessagesBackend()
OVERLOADED = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}


pytestmark = pytest.mark.usefixtures("no_proxies")


def options(base_url: str, **changes: Any) -> SessionOptions:
    """What a session has, without retries."""
    settings = {
        "base_url": base_url,
        "api_key": "sk-test-secret",
        "model": "claude-test",
        "max_tokens": 100,
        "max_retries": 0,
        **changes,
    }
    return SessionOptions(**settings)


async def turn_of(
    conversation: MessagesConversation, settings: SessionOptions, prompt: str = "Hi"
) -> list[Event]:
    """The events of a whole turn."""
    async with conversation.turn(prompt, settings) as events:
        return [event async for event in events]


async def text_of(
    conversation: MessagesConversation, settings: SessionOptions, prompt: str = "Hi"
) -> str:
    """The text of a whole turn."""
    last = (await turn_of(conversation, settings, prompt))[-1]
    assert isinstance(last, ResultMessage)
    return last.result


class Talk:
    """A conversation with a server, and what a test asks of it."""

    def __init__(
        self,
        server: faulty.FaultyServer,
        conversation: MessagesConversation,
        settings: SessionOptions,
    ) -> None:
        self.server = server
        self.conversation = conversation
        self.options = settings

    async def events(self, prompt: str = "Hi", **changes: Any) -> list[Event]:
        """The events of a whole turn."""
        settings = self.options
        if changes:
            settings = options(**{"base_url": self.server.base_url, **changes})
        return await turn_of(self.conversation, settings, prompt)

    async def ask(self, prompt: str = "Hi", **changes: Any) -> str:
        """The text of a whole turn."""
        last = (await self.events(prompt, **changes))[-1]
        assert isinstance(last, ResultMessage)
        return last.result

    def messages(self, number: int = -1) -> Any:
        """The messages of a request that came."""
        return self.server.requests[number].body["messages"]


@asynccontextmanager
async def talk(
    *scripts: Script, backend: MessagesBackend = BACKEND, **changes: Any
) -> AsyncIterator[Talk]:
    """A conversation with a server that plays these scripts, for no longer than 20 seconds."""
    async with serving(*scripts, backend=backend) as (server, connection):
        settings = options(server.base_url, **changes)
        async with connection.open(settings) as conversation:
            yield Talk(server, conversation, settings)


@asynccontextmanager
async def serving(
    *scripts: Script, backend: MessagesBackend = BACKEND
) -> AsyncIterator[tuple[faulty.FaultyServer, MessagesConnection]]:
    """A server that plays these scripts, and a connection, for no longer than 20 seconds."""
    async with (
        guarded(),
        faulty.open_faulty_server(*scripts) as server,
        backend.connect() as connection,
    ):
        yield server, connection


@asynccontextmanager
async def guarded() -> AsyncIterator[None]:
    """End the test after 20 seconds."""
    with trio.fail_after(20):
        yield


def user(content: Any) -> dict[str, Any]:
    """A message of the user."""
    return {"role": "user", "content": content}


def assistant(*texts: str) -> dict[str, Any]:
    """A message of the model."""
    return {"role": "assistant", "content": [{"type": "text", "text": text} for text in texts]}


# ---- answers ------------------------------------------------------------------------------------


async def test_a_turn() -> None:
    """A turn gives its events in order, the result last, and then the end of the channel."""
    async with talk(good("Hel", "lo")) as to, to.conversation.turn("Hi", to.options) as channel:
        events = [await channel.receive() for _ in range(5)]
        for _ in range(2):
            with pytest.raises(trio.EndOfChannel):
                await channel.receive()

    init, first, second, message, result = events
    assert isinstance(init, SystemMessage)
    assert isinstance(result, ResultMessage)
    assert init.subtype == "init"
    assert init.data == {
        "session_id": result.session_id, "model": "claude-test", "message_id": "msg_1"
    }  # fmt: skip
    assert [first, second] == [TextDelta(0, "Hel"), TextDelta(0, "lo")]
    counts = Usage(input_tokens=10, output_tokens=5)
    assert message == AssistantMessage(
        (TextBlock("Hello"),), "claude-test", "msg_1", "end_turn", counts
    )
    assert (result.result, result.subtype, result.is_error) == ("Hello", "success", False)
    assert (result.stop_reason, result.num_turns, result.usage) == ("end_turn", 1, counts)
    assert result.session_id
    assert 0 <= result.duration_api_ms <= result.duration_ms < 20_000


async def test_the_request() -> None:
    """The request is the service's own, with the options of the turn."""
    async with talk(good("Yes")) as to:
        await to.ask("Hi", system_prompt="Be kind.", extra_headers={"anthropic-beta": "a,b"})
        (request,) = to.server.requests
    assert (request.method, request.path) == ("POST", "/v1/messages")
    assert request.body == {
        "model": "claude-test",
        "max_tokens": 100,
        "system": "Be kind.",
        "messages": [user("Hi")],
        "stream": True,
    }
    assert request.headers["x-api-key"] == "sk-test-secret"
    assert request.headers["anthropic-version"] == "2023-06-01"
    assert request.headers["anthropic-beta"] == "a,b"
    assert request.headers["content-type"] == "application/json"
    assert request.headers["user-agent"].startswith("trio-claude/")
    assert request.headers["accept-encoding"] == "identity"


async def test_the_model_that_nobody_chose() -> None:
    """It is the newest sonnet that the service has."""
    async with open_simulator() as simulator, BACKEND.connect() as connection:
        settings = SessionOptions(base_url=simulator.base_url, api_key="x")
        async with connection.open(settings) as conversation:
            await turn_of(conversation, settings)
        assert "sonnet" in simulator.requests[-1].body["model"]


async def test_the_conversation_continues() -> None:
    """Each turn sends all that was said before, on the same connection, with the same id."""
    async with talk(good("One"), good("Two"), good("Three")) as to:
        results = [(await to.events(prompt))[-1] for prompt in ("1", "2", "3")]
        assert to.messages() == [
            user("1"), assistant("One"), user("2"), assistant("Two"), user("3")
        ]  # fmt: skip
        assert to.server.connections == 1
    assert len({result.session_id for result in results if isinstance(result, ResultMessage)}) == 1


async def test_conversations_are_apart() -> None:
    """Two conversations of one connection know nothing of each other."""
    async with serving(good("Yes")) as (server, connection):
        settings = options(server.base_url)
        async with connection.open(settings) as first, connection.open(settings) as second:
            one = Talk(server, first, settings)
            two = Talk(server, second, settings)
            ids = {str((await talker.events())[0]) for talker in (one, two, one)}
            assert two.messages(1) == [user("Hi")]
            assert len(ids) == 2


@pytest.mark.parametrize("delivery", ["whole", "bytewise", "length"])
async def test_delivery(delivery: str) -> None:
    """Chunked or with a length, at once or byte by byte: the answer is the same."""
    body = faulty.events(faulty.payloads("Hel", "lö"))

    async def play(exchange: Exchange) -> None:
        exchange.keep = True
        if delivery == "whole":
            await exchange.send(head(), chunk(body), LAST_CHUNK)
        elif delivery == "bytewise":
            await exchange.send_bytewise(head(), chunk(body), LAST_CHUNK)
        else:
            await exchange.send(head(length=len(body)), body)

    async with talk(play) as to:
        assert await to.ask() == "Hellö"
        assert await to.ask() == "Hellö"
        assert to.server.connections == 1


async def test_events_come_while_the_answer_is_written() -> None:
    """An event can be received before the next one has been sent."""
    release = trio.Event()
    items = [sse(payload) for payload in faulty.payloads("Hel", "lo")]

    async def play(exchange: Exchange) -> None:
        await exchange.send(head(), chunk(*items[:3]))
        await release.wait()
        await exchange.send(chunk(*items[3:]), LAST_CHUNK)

    async with talk(play) as to, to.conversation.turn("Hi", to.options) as events:
        assert isinstance(await events.receive(), SystemMessage)
        assert await events.receive() == TextDelta(0, "Hel")
        release.set()
        assert await events.receive() == TextDelta(0, "lo")


async def test_clean_end_with_a_stop_reason() -> None:
    """A stop reason and a clean end are a whole answer, without message_stop too."""
    body = faulty.events(faulty.payloads("Yes")[:-1])
    async with talk(faulty.plays(head(), chunk(body), LAST_CHUNK)) as to:
        assert await to.ask() == "Yes"


async def test_last_event_without_its_blank_line() -> None:
    """The last event of a stream need not end."""
    body = faulty.events(faulty.payloads("Yes")).rstrip()
    async with talk(faulty.plays(head(), chunk(body), LAST_CHUNK)) as to:
        assert await to.ask() == "Yes"


async def test_a_server_that_does_not_end_its_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """After message_stop the answer is whole, even if the body goes on: its connection is closed."""
    monkeypatch.setattr(http_client, "_DRAIN_SECONDS", 0.001)
    body = faulty.events(faulty.payloads("Yes"))

    async def play(exchange: Exchange) -> None:
        await exchange.send(head(), chunk(body))
        await exchange.wait_closed()

    async with talk(play, good("Again")) as to:
        assert await to.ask() == "Yes"
        assert await to.ask() == "Again"
        assert to.messages() == [user("Hi"), assistant("Yes"), user("Hi")]
        assert to.server.connections == 2


async def test_a_server_that_breaks_after_the_end() -> None:
    """A connection that breaks after message_stop breaks nothing."""
    body = faulty.events(faulty.payloads("Yes"))
    async with talk(faulty.plays(head(), chunk(body), b"nonsense")) as to:
        assert await to.ask() == "Yes"


async def test_more_after_the_end() -> None:
    """What follows message_stop is not looked at, and not waited for without end."""
    body = faulty.events(faulty.payloads("Yes"))

    async def play(exchange: Exchange) -> None:
        await exchange.send(head(), chunk(body, b"data: [DONE]\n\n", b"x" * 5000))
        for _ in range(5):
            await exchange.send(chunk(b"x" * 30_000))
        await exchange.wait_closed()

    backend = MessagesBackend(max_event_size=2000)
    async with talk(play, backend=backend) as to:
        assert await to.ask() == "Yes"


async def test_model_and_key_of_one_call() -> None:
    """A turn's own options hold for it alone."""
    async with talk(good("Yes")) as to:
        await to.ask("Hi", model="other", api_key=None, auth_token="tok")
        await to.ask()
        first, second = to.server.requests
    assert (first.body["model"], second.body["model"]) == ("other", "claude-test")
    assert first.headers["authorization"] == "Bearer tok"
    assert "x-api-key" not in first.headers


# ---- the history --------------------------------------------------------------------------------


async def test_early_exit_is_no_turn() -> None:
    """A turn that was left before its result is not remembered, and its connection is closed."""
    items = [sse(payload) for payload in faulty.payloads("Hel", "lo")]

    async def play(exchange: Exchange) -> None:
        await exchange.send(head(), chunk(*items[:3]), chunk(items[3]))
        await exchange.wait_closed()

    async with talk(play, good("Yes")) as to:
        async with to.conversation.turn("Left", to.options) as events:
            await events.receive()
        await to.server.wait_all_closed()
        gc.collect()  # a body that was not wound up would warn now
        await to.ask()
        assert to.messages() == [user("Hi")]


async def test_leaving_before_the_result_was_received() -> None:
    """A turn whose result was not received is not remembered, though the answer was whole."""
    async with talk(good("Yes")) as to:
        async with to.conversation.turn("Left", to.options) as events:
            while not isinstance(await events.receive(), AssistantMessage):
                pass
        await to.ask()
        assert to.messages() == [user("Hi")]


async def test_an_exception_after_the_result() -> None:
    """A turn whose block ends with an exception is not remembered, with its result too."""
    async with talk(good("Yes")) as to:

        async def fail() -> None:
            async with to.conversation.turn("Bad", to.options) as events:
                assert [event async for event in events]
                raise KeyError

        with pytest.raises(KeyError):
            await fail()
        await to.ask()
        assert to.messages() == [user("Hi")]


async def test_no_checkpoint_after_the_result() -> None:
    """Once the result is there nothing is awaited: a cancellation cannot tear the turn any more."""
    async with talk(good("Yes")) as to:
        with trio.CancelScope() as scope:
            async with to.conversation.turn("Kept", to.options) as events:
                while not isinstance(await events.receive(), ResultMessage):
                    pass
                scope.cancel()
        assert not scope.cancelled_caught
        await to.ask()
        assert to.messages() == [user("Kept"), assistant("Yes"), user("Hi")]


async def test_unanswered_tools() -> None:
    """The calls of tools that nobody answered are answered by the next turn."""
    begin, *_, message_delta, end = faulty.payloads(stop_reason="tool_use")
    tool = {"type": "tool_use", "id": "t1", "name": "f", "input": {}}
    asks_tool = [
        begin, {"type": "content_block_start", "index": 0, "content_block": tool}, message_delta, end
    ]  # fmt: skip
    script = faulty.plays(head(), chunk(faulty.events(asks_tool)), LAST_CHUNK)
    async with talk(script, good("Yes")) as to:
        events = await to.events("Use it")
        message = events[-2]
        assert isinstance(message, AssistantMessage)
        assert message.content == (ToolUseBlock("t1", "f", {}),)
        await to.ask()
        result = {
            "type": "tool_result", "tool_use_id": "t1", "content": NO_RESULT, "is_error": True
        }  # fmt: skip
        assert to.messages() == [
            user("Use it"),
            {"role": "assistant", "content": [tool]},
            user([result, {"type": "text", "text": "Hi"}]),
        ]


@pytest.mark.parametrize("texts", [(), ("",), (" \n",)])
async def test_empty_answers(texts: tuple[str, ...]) -> None:
    """An empty answer poisons nothing: its question stays, and the next one follows it."""
    async with talk(good(*texts), good("Yes")) as to:
        assert await to.ask("One") == "".join(texts)
        await to.ask("Two")
        await to.ask("Three")
        assert to.messages() == [user("One"), user("Two"), assistant("Yes"), user("Three")]


async def test_refusal() -> None:
    """A refused turn is a result, and is forgotten."""
    async with talk(good("I can", stop_reason="refusal"), good("Yes")) as to:
        result = (await to.events("Bad"))[-1]
        assert isinstance(result, ResultMessage)
        assert (result.result, result.stop_reason) == ("I can", "refusal")
        await to.ask()
        assert to.messages() == [user("Hi")]


FORM = {"type": "json_schema", "schema": {"type": "object"}}


async def test_an_answer_in_a_form() -> None:
    """What was answered in the form that was asked for is in the result, and the text, too."""
    async with talk(good('{"a":', " 1}")) as to:
        result = (await to.events(output_format=FORM, effort="low"))[-1]
    assert isinstance(result, ResultMessage)
    assert (result.structured_output, result.result) == ({"a": 1}, '{"a": 1}')
    assert to.server.requests[0].body["output_config"] == {"effort": "low", "format": FORM}


async def test_an_answer_without_its_form() -> None:
    """The turn fails, once, and is no part of the conversation."""
    async with talk(good("It is"), good("Yes")) as to:
        with pytest.raises(errors.APIError, match="not the JSON that output_format asks for"):
            await to.events(output_format=FORM, max_retries=2)
        assert await to.ask("Again") == "Yes"
        assert len(to.server.requests) == 2
        assert to.messages() == [user("Again")]


async def test_an_answer_without_its_form_of_a_session() -> None:
    """It fails where another task reads, as well: with what was said, and the session goes on."""
    async with guarded(), faulty.open_faulty_server(good("It is"), good("Yes")) as server:
        settings = attrs.asdict(options(server.base_url), recurse=False)
        async with trio_claude.open_session(**settings) as session:
            with pytest.raises(errors.APIError, match="not the JSON") as caught:
                await session.query("Hi", output_format=FORM)
            assert caught.value.partial is not None
            assert caught.value.partial.text == "It is"
            assert (await session.query("Again")).structured_output is None


async def test_pauses() -> None:
    """A paused answer goes on in the same stream, as one turn and one message of the history."""
    async with talk(
        good("One ", stop_reason="pause_turn", id="m1"),
        good(stop_reason="pause_turn", id="m2"),
        good("Two", id="m3"),
        good("Yes"),
    ) as to:
        events = await to.events()
        await to.ask("And?")
        bodies = [request.body["messages"] for request in to.server.requests]
    kinds = [type(event).__name__ for event in events]
    assert kinds == [
        "SystemMessage", "TextDelta", "AssistantMessage", "AssistantMessage",
        "TextDelta", "AssistantMessage", "ResultMessage",
    ]  # fmt: skip
    result = events[-1]
    assert isinstance(result, ResultMessage)
    assert (result.result, result.stop_reason, result.num_turns) == ("Two", "end_turn", 3)
    assert result.usage == Usage(input_tokens=30, output_tokens=15)
    assert bodies[1] == bodies[2] == [user("Hi"), assistant("One")]
    assert bodies[3] == [user("Hi"), assistant("One ", "Two"), user("And?")]


async def test_endless_pauses() -> None:
    """An answer that is paused again and again is given up."""
    async with talk(good("One", stop_reason="pause_turn")) as to:
        with pytest.raises(errors.APIError, match="paused its answer 32 times"):
            await to.ask()
        assert len(to.server.requests) == 32
        to.server.scripts[:] = [good("Yes")]
        await to.ask()
        assert to.messages() == [user("Hi")]


@pytest.mark.usefixtures("hurry")
async def test_retry_after_a_pause() -> None:
    """A request that goes on with a paused answer is sent again as long as it was not answered."""
    async with talk(
        good("One", stop_reason="pause_turn"), faulty.refuses(529), good("Two"), max_retries=1
    ) as to:
        assert await to.ask() == "Two"
        assert to.messages(1) == to.messages(2)


# ---- faults -------------------------------------------------------------------------------------

HALF = faulty.events(faulty.payloads("Hel", "lo")[:3])
CUTS: dict[str, bytes] = {
    "clean end": chunk(HALF) + LAST_CHUNK,
    "clean end in mid-event": chunk(HALF, b"event: content_block_delta\n") + LAST_CHUNK,
    "clean end in mid-JSON": chunk(HALF, b'data: {"type": "content_bl') + LAST_CHUNK,
    "cut between events": chunk(HALF),
    "cut in mid-event": chunk(HALF, b"event: content_block_delta\n"),
    "cut in mid-JSON": chunk(HALF, b'data: {"type": "content_bl'),
    "cut in mid-chunk": chunk(HALF) + b"fff\r\nevent: content",
    "nonsense for a chunk": chunk(HALF) + b"nonsense\r\n",
}


@pytest.mark.parametrize("cut", CUTS)
async def test_cuts(cut: str) -> None:
    """An answer that breaks off is never a whole one; what came before is given out."""
    async with talk(faulty.plays(head(), CUTS[cut]), good("Yes")) as to:
        async with to.conversation.turn("Hi", to.options) as events:
            await events.receive()
            assert await events.receive() == TextDelta(0, "Hel")
            with pytest.raises(errors.StreamInterrupted, match=r"127\.0\.0\.1:\d+ broke off"):
                await events.receive()
            with pytest.raises(errors.StreamInterrupted, match="has failed already"):
                await events.receive()
        assert await to.ask() == "Yes"
        assert to.messages() == [user("Hi")]


@pytest.mark.parametrize("body", [b"", PING, chunk(PING), chunk(HALF[:-40])])
async def test_cut_before_anything_was_said(body: bytes) -> None:
    """An answer without any content that breaks off is interrupted too."""
    async with talk(faulty.plays(head(), body), good("Yes")) as to:
        with pytest.raises(errors.StreamInterrupted):
            await to.ask()
        assert await to.ask() == "Yes"


@pytest.mark.usefixtures("hurry")
@pytest.mark.parametrize("script", ["clean", "cut", "error", "reset"])
async def test_broken_before_anything_was_said(script: str) -> None:
    """Until something has been given out, an answer that breaks is asked for again."""
    begin = sse(faulty.payloads()[0])

    async def play(exchange: Exchange) -> None:
        await exchange.send(head(), chunk(begin, PING))
        if script == "clean":
            await exchange.send(LAST_CHUNK)
        elif script == "error":
            await exchange.send(chunk(sse(OVERLOADED)), LAST_CHUNK)
        elif script == "reset":
            exchange.reset()

    async with talk(play, play, good("Yes"), max_retries=2) as to:
        events = await to.events()
        assert [type(event).__name__ for event in events] == [
            "SystemMessage", "TextDelta", "AssistantMessage", "ResultMessage"
        ]  # fmt: skip
        assert len(to.server.requests) == 3


async def test_refused() -> None:
    """A connection that is refused is an error that names the host and not the key."""
    async with guarded(), BACKEND.connect() as connection:
        settings = options(faulty.unused_address())
        async with connection.open(settings) as conversation:
            with pytest.raises(errors.APIConnectionError, match=r"no answer from 127") as caught:
                async with conversation.turn("Hi", settings):
                    raise AssertionError("nobody listens there")
    assert caught.value.__cause__ is not None
    assert "secret" not in str(caught.value) + repr(caught.value)


@pytest.mark.usefixtures("hurry")
@pytest.mark.parametrize("how", ["reset", "closed", "half a head"])
async def test_broken_before_the_headers(how: str) -> None:
    """A connection that breaks before an answer began is a connection error; it is tried again."""

    async def play(exchange: Exchange) -> None:
        if how == "reset":
            exchange.reset()
        elif how == "half a head":
            await exchange.send(b"HTTP/1.1 200 OK\r\ncont")

    async with talk(play) as to:
        with pytest.raises(errors.APIConnectionError, match="no answer from") as caught:
            await to.ask()
        assert "tried" not in str(caught.value)
        with pytest.raises(errors.APIConnectionError, match="tried 3 times"):
            await to.ask(max_retries=2)
        assert len(to.server.requests) == 4
        to.server.scripts[:] = [play, play, good("Yes")]
        assert await to.ask(max_retries=2) == "Yes"


async def test_no_http() -> None:
    """What answers but speaks no HTTP is a connection error."""
    async with talk(faulty.plays(b"SSH-2.0-OpenSSH_9.6\r\n\r\n")) as to:
        with pytest.raises(errors.APIConnectionError):
            await to.ask()


@pytest.mark.parametrize("begun", [False, True])
async def test_silence(begun: bool) -> None:
    """A service that says nothing is given up after the idle timeout."""

    async def play(exchange: Exchange) -> None:
        if begun:
            await exchange.send(head(), chunk(HALF))
        await exchange.wait_closed()

    backend = MessagesBackend(idle_timeout=0.05)
    expected = errors.StreamInterrupted if begun else errors.APIConnectionError
    async with talk(play, good("Yes"), backend=backend) as to:
        with pytest.raises(expected, match="idle_timeout"):
            await to.ask()
        assert await to.ask() == "Yes"


@pytest.mark.parametrize("ping", [PING, b": ping\n\n", b"event: ping\ndata: {}\n\n"])
async def test_pings_for_ever(ping: bytes) -> None:
    """Pings keep a connection from being idle, but are no progress."""

    async def play(exchange: Exchange) -> None:
        await exchange.send(head(), chunk(HALF))
        while True:
            await exchange.send(chunk(ping))
            await trio.sleep(0.002)

    backend = MessagesBackend(progress_timeout=0.1, idle_timeout=10)
    async with talk(play, good("Yes"), backend=backend) as to:
        with pytest.raises(errors.StreamInterrupted, match=r"progress_timeout of 0\.1 s"):
            await to.ask()
        assert await to.ask() == "Yes"


async def test_a_head_without_end() -> None:
    """A head that comes so slowly that nothing is ever idle is given up, too."""

    async def play(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 200 OK\r\nx: ")
        while True:
            await exchange.send(b"x")
            await trio.sleep(0.002)

    async with talk(play, good("Yes"), backend=MessagesBackend(progress_timeout=0.1)) as to:
        with pytest.raises(errors.APIConnectionError, match="did not begin within the progress"):
            await to.ask()
        assert await to.ask() == "Yes"


async def test_progress_starts_anew_with_each_event() -> None:
    """Events that come slowly, but come, are progress, however long the answer takes."""

    async def play(exchange: Exchange) -> None:
        await exchange.send(head())
        for payload in faulty.payloads(*"abcdefgh"):
            await exchange.send(chunk(PING), chunk(sse(payload)))
            await trio.sleep(0.05)
        await exchange.send(LAST_CHUNK)

    async with talk(play, backend=MessagesBackend(progress_timeout=0.3)) as to:
        assert await to.ask() == "abcdefgh"  # which takes 0.65 seconds


async def test_a_slow_reader_is_no_lack_of_progress() -> None:
    """The time that the reader takes for itself does not count for the watchdogs."""
    items = [sse(payload) for payload in faulty.payloads("Hel", "lo")]
    read = trio.Event()

    async def play(exchange: Exchange) -> None:
        await exchange.send(head(), chunk(*items[:3]))
        await read.wait()
        await exchange.send(chunk(PING))
        await trio.sleep(0.01)
        await exchange.send(chunk(*items[3:]), LAST_CHUNK)

    backend = MessagesBackend(progress_timeout=0.2, idle_timeout=0.2)
    async with talk(play, backend=backend) as to:
        async with to.conversation.turn("Hi", to.options) as events:
            await events.receive()
            await events.receive()
            began = trio.current_time()
            while trio.current_time() < began + 0.3:
                await trio.lowlevel.checkpoint()
            read.set()
            rest = [event async for event in events]
        assert isinstance(rest[-1], ResultMessage)


async def test_a_huge_event() -> None:
    """An event of 100 MiB is given up near the limit, and the rest of it is not received."""
    sent = 0
    limit = 1024 * 1024

    async def play(exchange: Exchange) -> None:
        nonlocal sent
        await exchange.send(head(), chunk(HALF, b"data: "))
        piece = chunk(b"x" * 65536)
        for _ in range(1600):
            await exchange.send(piece)
            sent += 65536

    async with talk(play, good("Yes"), backend=MessagesBackend(max_event_size=limit)) as to:
        with pytest.raises(errors.APIError, match="larger than max_event_size, 1048576") as caught:
            await to.ask()
        assert type(caught.value) is errors.APIError
        assert sent < limit + 16 * 1024 * 1024  # what the sockets' buffers hold
        assert await to.ask() == "Yes"
        assert to.messages() == [user("Hi")]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"data: \xff\xfe\n\n", "not UTF-8"),
        (b"data: {\n\n", "not JSON"),
        (b"data: []\n\n", "no JSON object"),
        (sse(faulty.payloads()[0]), "a second message"),
    ],
)
async def test_unreadable(data: bytes, said: str) -> None:
    """What cannot be read fails the turn, after what came before it, and is not retried."""
    script = faulty.plays(head(), chunk(HALF, data), LAST_CHUNK)
    async with talk(script, good("Yes"), max_retries=2) as to:
        async with to.conversation.turn("Hi", to.options) as events:
            assert isinstance(await events.receive(), SystemMessage)
            assert await events.receive() == TextDelta(0, "Hel")
            with pytest.raises(errors.APIError, match=said) as caught:
                await events.receive()
        assert type(caught.value) is errors.APIError
        assert await to.ask() == "Yes"
        assert len(to.server.requests) == 2


async def test_no_stream_of_events() -> None:
    """A page instead of a stream says what it is, and where to look."""
    html = b"<html>Welcome to the hotel</html>"
    script = faulty.plays(head(length=len(html), content_type="text/html"), html)
    async with talk(script) as to:
        with pytest.raises(errors.APIError, match=r"it is text/html, not a stream.*base_url"):
            await to.ask()


async def test_ill_encoded_body() -> None:
    """A body in an encoding that was not asked for is unreadable."""
    script = faulty.plays(head(content_encoding="gzip"), chunk(b"no gzip"), LAST_CHUNK)
    async with talk(script) as to:
        with pytest.raises(errors.APIError, match=r"it is encoded \(gzip\)"):
            await to.ask()


@pytest.mark.usefixtures("hurry")
async def test_error_event_first() -> None:
    """An error event before any content is retried if its type allows."""
    overloaded = faulty.plays(head(), chunk(sse(OVERLOADED)), LAST_CHUNK)
    async with talk(overloaded, overloaded, good("Yes")) as to:
        with pytest.raises(errors.OverloadedError, match="Overloaded") as caught:
            await to.ask()
        assert caught.value.status_code == 200
        assert await to.ask(max_retries=1) == "Yes"


async def test_error_event_in_the_middle() -> None:
    """An error event behind content is raised behind it, and never retried."""
    script = faulty.plays(head(), chunk(HALF, sse(OVERLOADED)), LAST_CHUNK)
    async with talk(script, max_retries=2) as to:
        async with to.conversation.turn("Hi", to.options) as events:
            assert isinstance(await events.receive(), SystemMessage)
            assert await events.receive() == TextDelta(0, "Hel")
            with pytest.raises(errors.OverloadedError):
                await events.receive()
        assert len(to.server.requests) == 1


# ---- statuses -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "status",
    [300, 301, 307, *range(400, 419), 422, 429, 451, *range(500, 506), 520, 529, 599],
)
@pytest.mark.parametrize("kind", ["none", "json", "html"])
async def test_every_status(status: int, kind: str) -> None:
    """Every status that is no success is an error with that status, and the next turn works."""
    bodies: dict[str, bytes | dict[str, Any]] = {
        "none": b"",
        "json": {"type": "error", "error": {"type": "t", "message": "Because."}},
        "html": b"<html><title>Nope</title></html>",
    }
    body = bodies[kind]
    script = faulty.refuses(status, body, content_type="text/html", request_id="req_1")
    async with talk(script, good("Yes")) as to:
        with pytest.raises(errors.APIStatusError) as caught:
            async with to.conversation.turn("Hi", to.options):
                raise AssertionError("the turn has not begun")
        assert caught.value.status_code == status
        assert {"none": str(status), "json": "Because.", "html": "Nope"}[kind] in str(caught.value)
        assert caught.value.request_id == "req_1"
        assert await to.ask() == "Yes"
        assert to.server.connections == 1


async def test_a_huge_error_body() -> None:
    """No more than the beginning of an error's body is received."""
    sent = 0

    async def play(exchange: Exchange) -> None:
        nonlocal sent
        await exchange.send(head(500, content_type="text/plain"))
        for _ in range(1600):
            await exchange.send(chunk(b"x" * 65536))
            sent += 65536

    async with talk(play, good("Yes")) as to:
        with pytest.raises(errors.InternalServerError) as caught:
            await to.ask()
        assert caught.value.body == "x" * 65536
        assert sent < 32 * 1024 * 1024
        assert await to.ask() == "Yes"


@pytest.mark.parametrize("how", ["cut", "silence"])
async def test_an_error_whose_body_breaks_off(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What came of an error's body is shown, and the status counts."""
    monkeypatch.setattr(attempts, "_ERROR_BODY_SECONDS", 0.05)

    async def play(exchange: Exchange) -> None:
        await exchange.send(head(404), chunk(b"Not he"))
        if how == "silence":
            await exchange.wait_closed()

    async with talk(play) as to:
        with pytest.raises(errors.NotFoundError, match="404: Not he"):
            await to.ask()


async def test_a_success_of_another_kind() -> None:
    """A status such as 204 is a success without an answer."""
    async with talk(faulty.plays(head(204, length=0))) as to:
        with pytest.raises(errors.StreamInterrupted):
            await to.ask()


@pytest.mark.parametrize("status", [408, 409, 429, 500, 503, 529])
async def test_retried_statuses(status: int) -> None:
    """What is transient is tried again, and the caller sees nothing of it."""
    refuses = faulty.refuses(status, retry_after_ms="1")
    async with talk(refuses, refuses, good("Yes"), max_retries=2) as to:
        assert await to.ask() == "Yes"
        assert len(to.server.requests) == 3


async def test_retries_end() -> None:
    """After the last retry the error is raised, and says how often it was tried."""
    async with talk(faulty.refuses(529, OVERLOADED, retry_after_ms="1"), max_retries=2) as to:
        with pytest.raises(errors.OverloadedError, match=r"Overloaded \(it was tried 3 times\)"):
            await to.ask()
        assert len(to.server.requests) == 3


async def test_not_retried() -> None:
    """What would fail again is not tried again; the service may overrule this, both ways."""
    async with talk(
        faulty.refuses(400),
        faulty.refuses(529, x_should_retry="false"),
        faulty.refuses(400, x_should_retry="true", retry_after_ms="1"),
        good("Yes"),
        max_retries=2,
    ) as to:
        with pytest.raises(errors.BadRequestError):
            await to.ask()
        with pytest.raises(errors.OverloadedError):
            await to.ask()
        assert await to.ask() == "Yes"
        assert len(to.server.requests) == 4


async def test_too_long_a_wait() -> None:
    """If the service asks for a longer wait than is allowed, the error comes at once and says so."""
    script = faulty.refuses(429, retry_after="301")
    async with talk(script, max_retries=2) as to:
        with pytest.raises(
            errors.RateLimitError, match=r"wait 301 seconds.*max_retry_after of 300"
        ) as e:
            await to.ask()
        assert e.value.retry_after == 301
        assert len(to.server.requests) == 1


async def test_a_wait_holds_no_connection() -> None:
    """Who waits for a retry lets others use the connection meanwhile."""
    waiting = trio.Event()

    async def refuse(exchange: Exchange) -> None:
        await faulty.refuses(529, retry_after="100")(exchange)
        waiting.set()

    backend = MessagesBackend(max_connections=1)
    async with serving(refuse, good("Yes"), backend=backend) as (server, connection):
        settings = options(server.base_url, max_retries=1)
        async with (
            connection.open(settings) as first,
            connection.open(settings) as second,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(Talk(server, first, settings).ask)
            await waiting.wait()
            assert await Talk(server, second, settings).ask() == "Yes"
            nursery.cancel_scope.cancel()


# ---- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"api_key": None}, "ANTHROPIC_API_KEY"),
        ({"base_url": "http://a..b"}, "base_url"),
        ({"base_url": f"http://{'a' * 70}.com"}, "base_url"),
        ({"extra_body": {"stream": False}}, "extra_body"),
        ({"extra_headers": {"content-length": "1"}}, "extra_headers"),
        ({"cwd": "/"}, "the Messages API has no option 'cwd'"),
    ],
)
async def test_options_that_cannot_be(changes: dict[str, Any], said: str) -> None:
    """Options that no request can be made of are refused when the conversation is opened."""
    async with BACKEND.connect() as connection:
        settings = options(**{"base_url": "http://localhost", **changes})
        with pytest.raises(errors.ConfigurationError, match=said):
            async with connection.open(settings):
                raise AssertionError("it must not open")


async def test_options_of_a_call_that_cannot_be() -> None:
    """They are refused in a turn too, and the next turn works."""
    async with talk(good("Yes")) as to:
        changes: dict[str, Any]
        for changes in (
            {"base_url": "http://a..b"},
            {"extra_body": {"stream": False}},
            {"tools": []},
        ):
            with pytest.raises(errors.ConfigurationError):
                await to.ask(**changes)
        assert await to.ask() == "Yes"
        assert len(to.server.requests) == 1


async def test_an_address_by_number() -> None:
    """Addresses of the sixth version of IP are taken as they are."""
    settings = options("http://[::1]:1")
    async with BACKEND.connect() as connection, connection.open(settings) as conversation:
        assert isinstance(conversation, MessagesConversation)


async def test_headers_that_http_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client's own words about a header, which may be the key, are not passed on."""

    async def refuse(*_: object) -> None:
        raise httpcore.LocalProtocolError("Illegal header value b'secret'")

    monkeypatch.setattr(httpcore.AsyncConnectionPool, "handle_async_request", refuse)
    async with BACKEND.connect() as connection:
        with pytest.raises(errors.ConfigurationError, match="extra_headers") as caught:
            await connection.client.send("GET", "http://127.0.0.1:1", {})
    assert "secret" not in "".join(traceback.format_exception(caught.value))


async def test_proxies_that_cannot_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the environment names a proxy that cannot be, connecting says so."""
    monkeypatch.setenv("ALL_PROXY", "nonsense://nowhere")
    with pytest.raises(errors.ConfigurationError, match="ALL_PROXY"):
        async with BACKEND.connect():
            raise AssertionError("it must not connect")


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        *((name, value) for name in ("connect_timeout", "idle_timeout", "progress_timeout")
          for value in (0, -1, math.nan, "5", True, None)),
        *(("max_retry_after", value) for value in (-1, math.nan, "5", None)),
        *(("max_connections", value) for value in (0, -1, 1.5, True, None)),
        *(("max_event_size", value) for value in (0, 1.5, None)),
    ],
)  # fmt: skip
def test_settings_that_cannot_be(setting: str, value: object) -> None:
    """A setting that cannot be is refused by name."""
    with pytest.raises(errors.ConfigurationError, match=setting):
        MessagesBackend(**{setting: value})  # type: ignore[arg-type]


def test_unknown_setting() -> None:
    """A typo is refused with a hint."""
    with pytest.raises(errors.ConfigurationError, match="did you mean 'idle_timeout'"):
        MessagesBackend(idle_timout=5)  # type: ignore[call-arg]


def test_backends_are_values() -> None:
    """Equal settings make equal backends, which one supervisor connects once."""
    assert MessagesBackend(max_connections=4) == MessagesBackend(max_connections=4)
    assert hash(MessagesBackend()) == hash(MessagesBackend())
    assert MessagesBackend() != MessagesBackend(idle_timeout=math.inf)
    assert repr(MessagesBackend(idle_timeout=7.0)).startswith("MessagesBackend(")


def test_version(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is said of this program has its version, if it is installed."""
    monkeypatch.setattr(metadata, "version", lambda _name: "1.2")
    assert backend_module._version() == "1.2"

    def missing(_name: str) -> str:
        raise metadata.PackageNotFoundError

    monkeypatch.setattr(metadata, "version", missing)
    assert backend_module._version() == "0"


# ---- families of models -------------------------------------------------------------------------


def listing(*ids: str, answer: Script | None = None, **fields: Any) -> Script:
    """A script that lists these models, each newer than the one before; else it answers well."""
    data = [
        {"id": id_, "created_at": f"2025-01-0{day}T00:00:00Z"} for day, id_ in enumerate(ids, 1)
    ]

    async def play(exchange: Exchange) -> None:
        if exchange.request.method == "GET":
            page = json.dumps({"data": data, "has_more": False, "last_id": None, **fields})
            await exchange.send(head(length=len(page), content_type="application/json"))
            await exchange.send(page.encode())
            exchange.keep = True
        else:
            await (answer or good("Yes"))(exchange)

    return play


async def test_family() -> None:
    """The name of a family is the newest of its models, asked for once."""
    async with talk(
        listing("claude-sonnet-1", "claude-opus-1", "claude-sonnet-2"), model="sonnet"
    ) as to:
        await to.ask()
        await to.ask(model="opus")
        await to.ask(model="claude-sonnet-1")
        first, *rest = to.server.requests
    assert (first.method, first.path) == ("GET", "/v1/models?limit=1000")
    assert first.headers["x-api-key"] == "sk-test-secret"
    assert [request.body["model"] for request in rest] == [
        "claude-sonnet-2", "claude-opus-1", "claude-sonnet-1"
    ]  # fmt: skip


async def test_family_by_credential() -> None:
    """Another credential may see other models, so it asks for itself."""
    async with talk(listing("claude-sonnet-1"), model="sonnet") as to:
        await to.ask()
        await to.ask(model="sonnet", api_key="other")
        assert [request.method for request in to.server.requests] == ["GET", "POST"] * 2


async def test_list_of_several_pages() -> None:
    """All pages of the list are asked for."""
    first = listing("claude-haiku-1", "claude-opus-0", has_more=True, last_id="a b&c")
    async with talk(first, listing("claude-opus-1"), model="opus") as to:
        await to.ask()
        paths = [request.path for request in to.server.requests]
        assert paths == [
            "/v1/models?limit=1000",
            "/v1/models?limit=1000&after_id=a%20b%26c",
            "/v1/messages",
        ]
        assert to.server.requests[-1].body["model"] == "claude-opus-0"


async def test_list_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A list that never ends is given up, with what it had."""
    monkeypatch.setattr(models, "_MAX_PAGES", 3)
    async with talk(listing("claude-opus-1", has_more=True, last_id="x"), model="opus") as to:
        assert await to.ask() == "Yes"
        assert len(to.server.requests) == 4


async def test_no_model_of_the_family() -> None:
    """If there is no model of the family, the error says which there are."""
    async with talk(listing("claude-opus-1"), listing(), model="haiku") as to:
        with pytest.raises(errors.APIError, match=r"no model of the family 'haiku'.*claude-opus-1"):
            await to.ask()
        with pytest.raises(errors.APIError, match="it has: none"):
            await to.ask(model="haiku", api_key="other")


async def test_failing_list() -> None:
    """A failure is this turn's error, and the next turn asks again; retries are for it, too."""
    async with talk(
        faulty.refuses(401),
        faulty.refuses(529, retry_after_ms="1"),
        listing("claude-opus-1"),
        max_retries=1,
        model="opus",
    ) as to:
        with pytest.raises(errors.AuthenticationError):
            await to.ask()
        assert await to.ask() == "Yes"
        assert [request.method for request in to.server.requests] == ["GET"] * 3 + ["POST"]


async def test_list_that_is_too_large() -> None:
    """The size of a page is bounded."""
    backend = MessagesBackend(max_event_size=100)
    async with talk(listing("x" * 100), backend=backend, model="opus") as to:
        with pytest.raises(errors.APIError, match="too large"):
            await to.ask()


async def test_callers_share_the_list() -> None:
    """Callers that come at once share one request, and one who is cancelled takes nobody along."""
    asked, release = trio.Event(), trio.Event()
    texts: list[str] = []

    async def play(exchange: Exchange) -> None:
        asked.set()
        await release.wait()
        await listing("claude-opus-1")(exchange)

    async with serving(play, listing("claude-opus-1")) as (server, connection):
        settings = options(server.base_url, model="opus")

        async def ask(scope: trio.CancelScope) -> None:
            with scope:
                async with connection.open(settings) as conversation:
                    texts.append(await Talk(server, conversation, settings).ask())

        async with trio.open_nursery() as nursery:
            scopes = [trio.CancelScope() for _ in range(5)]
            nursery.start_soon(ask, scopes[0])
            await asked.wait()
            for scope in scopes[1:]:
                nursery.start_soon(ask, scope)
            await trio.testing.wait_all_tasks_blocked()
            scopes[0].cancel()  # it was the one that asked: the next one asks again
            scopes[2].cancel()
            await trio.testing.wait_all_tasks_blocked()
            release.set()
        assert texts == ["Yes"] * 3
        assert [request.method for request in server.requests].count("GET") == 2


async def test_callers_share_a_failure() -> None:
    """Callers that wait for a list that fails get its error, without asking one after the other."""
    asked, release = trio.Event(), trio.Event()
    caught: list[errors.APIStatusError] = []

    async def play(exchange: Exchange) -> None:
        asked.set()
        await release.wait()
        await faulty.refuses(403)(exchange)

    async with serving(play, listing("claude-opus-1")) as (server, connection):
        settings = options(server.base_url, model="opus")

        async def ask() -> None:
            async with connection.open(settings) as conversation:
                with pytest.raises(errors.PermissionDeniedError) as info:
                    await Talk(server, conversation, settings).ask()
                caught.append(info.value)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await asked.wait()
            nursery.start_soon(ask)
            nursery.start_soon(ask)
            await trio.testing.wait_all_tasks_blocked()
            release.set()
        assert len(server.requests) == 1
        assert len({id(error) for error in caught}) == 3
        assert {error.status_code for error in caught} == {403}


# ---- who receives -------------------------------------------------------------------------------


def stalls(after: bytes = HALF) -> Script:
    """A script that begins an answer, and waits until the client has gone."""

    async def play(exchange: Exchange) -> None:
        await exchange.send(head(), chunk(after))
        await exchange.wait_closed()

    return play


async def test_cancelled_while_receiving() -> None:
    """A cancelled receive ends the turn at its source; the turn says so, and the next one works."""
    async with talk(stalls(), good("Yes")) as to:
        async with to.conversation.turn("Hi", to.options) as events:
            await events.receive()
            await events.receive()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(events.receive)
                await trio.testing.wait_all_tasks_blocked()
                nursery.cancel_scope.cancel()
            with pytest.raises(errors.StreamInterrupted, match="cancelled"):
                await events.receive()
        await to.server.wait_all_closed()
        assert await to.ask() == "Yes"
        assert to.messages() == [user("Hi")]


async def test_a_cancelled_receive_loses_no_event_that_is_there() -> None:
    """An event that has already come is not lost to a cancellation."""
    async with talk(good("Hel", "lo")) as to, to.conversation.turn("Hi", to.options) as events:
        assert isinstance(await events.receive(), SystemMessage)
        with trio.CancelScope() as scope:
            scope.cancel()
            await events.receive()
        assert scope.cancelled_caught
        assert await events.receive() == TextDelta(0, "Hel")


@pytest.mark.parametrize("where", ["headers", "body", "retry", "slot", "models"])
async def test_cancelled_anywhere(where: str) -> None:
    """A cancelled turn is gone without delay or trace, whatever it was waiting for."""
    reached = trio.Event()
    backend = MessagesBackend(max_connections=1)

    async def play(exchange: Exchange) -> None:
        if where == "retry":
            await faulty.refuses(529, retry_after="100")(exchange)
        elif where == "body":
            await exchange.send(head(), chunk(HALF))
        reached.set()
        if where != "retry":
            await exchange.wait_closed()

    async with serving(play, good("Yes"), backend=backend) as (server, connection):
        model = "opus" if where == "models" else "claude-test"
        settings = options(server.base_url, max_retries=1, model=model)
        async with connection.open(settings) as first, connection.open(settings) as second:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(Talk(server, first, settings).ask, "Lost")
                await reached.wait()
                if where == "slot":
                    nursery.start_soon(Talk(server, second, settings).ask, "Lost")
                await trio.testing.wait_all_tasks_blocked()
                nursery.cancel_scope.cancel()
            plain = options(server.base_url)
            talker = Talk(server, first, plain)
            assert await talker.ask() == "Yes"
            assert talker.messages() == [user("Hi")]
            assert pool_of(connection) == (0, 0)


async def test_left_while_another_task_receives() -> None:
    """If the block is left by one task, another one that receives gets ClosedResourceError."""
    async with talk(stalls(), good("Yes")) as to:
        async with trio.open_nursery() as nursery:

            async def read(events: trio.abc.ReceiveChannel[Event]) -> None:
                with pytest.raises(trio.ClosedResourceError, match="while it was being received"):
                    async for _ in events:
                        pass

            async with to.conversation.turn("Hi", to.options) as events:
                nursery.start_soon(read, events)
                await trio.testing.wait_all_tasks_blocked()
                with pytest.raises(trio.BusyResourceError):
                    await events.receive()
        with pytest.raises(trio.ClosedResourceError, match="has been left"):
            await events.receive()
        await to.server.wait_all_closed()
        assert await to.ask() == "Yes"


async def test_closing_the_channel() -> None:
    """Closing the channel ends the turn, which is not remembered; closing twice is fine."""
    async with talk(stalls(), good("Yes")) as to:
        async with to.conversation.turn("Hi", to.options) as events:
            await events.receive()
            await events.aclose()
            await to.server.wait_all_closed()
            await events.aclose()
            with pytest.raises(trio.ClosedResourceError):
                await events.receive()
        await to.ask()
        assert to.messages() == [user("Hi")]


async def test_events_of_one_packet_let_a_cancellation_through() -> None:
    """A reader of events that have already come can be cancelled between any two."""
    async with talk(good(*"abcdefgh")) as to:
        seen = 0
        with trio.CancelScope() as scope:
            async with to.conversation.turn("Hi", to.options) as events:
                async for _ in events:
                    seen += 1
                    if seen == 3:
                        scope.cancel()
        assert seen == 3
        assert scope.cancelled_caught


# ---- the pool -----------------------------------------------------------------------------------


def pool_of(connection: MessagesConnection) -> tuple[int, int]:
    """How many requests httpcore's pool knows of, and how many of our slots are taken."""
    return len(connection.client._pools._direct._requests), int(
        connection.client._limiter.borrowed_tokens
    )


@pytest.mark.parametrize("seed", range(3))
async def test_churn(seed: int) -> None:
    """Ten callers on four connections, cancelled at random: afterwards every slot can be used."""
    chance = random.Random(seed)
    items = [sse(payload) for payload in faulty.payloads(*"abcdef")]

    async def play(exchange: Exchange) -> None:
        await exchange.send(head())
        for item in items:
            await exchange.send(chunk(item))
            await trio.sleep(0.0005)
        await exchange.send(LAST_CHUNK)
        exchange.keep = True

    async with serving(play, backend=MessagesBackend(max_connections=4)) as (server, connection):
        settings = options(server.base_url)
        finished = 0

        async def caller(patience: list[float]) -> None:
            nonlocal finished
            async with connection.open(settings) as conversation:
                talker = Talk(server, conversation, settings)
                for seconds in patience:
                    with trio.move_on_after(seconds):
                        assert await talker.ask() == "abcdef"
                        finished += 1

        async with trio.open_nursery() as nursery:
            for _ in range(10):
                patience = [chance.choice((0, 0.001, 0.005, 0.02, 0.1)) for _ in range(40)]
                nursery.start_soon(caller, patience)
        assert finished > 0
        assert pool_of(connection) == (0, 0)

        # Every slot: four answers under way at once, and each waits for the other three.
        together = 0
        all_there = trio.Event()

        async def meet(exchange: Exchange) -> None:
            nonlocal together
            together += 1
            if together == 4:
                all_there.set()
            await all_there.wait()
            await good("Yes")(exchange)

        server.scripts[:] = [meet]

        async def ask_one() -> None:
            async with connection.open(settings) as conversation:
                assert await Talk(server, conversation, settings).ask() == "Yes"

        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(ask_one)
        assert together == 4
        assert pool_of(connection) == (0, 0)


async def test_leaving_closes_all_connections() -> None:
    """When the connection is left, no socket stays open."""
    async with guarded(), faulty.open_faulty_server(good("Yes")) as server:
        settings = options(server.base_url)
        async with BACKEND.connect() as connection, connection.open(settings) as conversation:
            await Talk(server, conversation, settings).ask()
            assert server.open_connections == 1
        await server.wait_all_closed()


async def test_no_slot_is_lost_to_errors() -> None:
    """After errors of all kinds there is a slot for the next turn."""
    backend = MessagesBackend(max_connections=1)
    scripts = [
        faulty.refuses(500), faulty.plays(head(), chunk(HALF)), faulty.plays(), good("Yes")
    ]  # fmt: skip
    async with serving(*scripts, backend=backend) as (server, connection):
        settings = options(server.base_url)
        async with connection.open(settings) as conversation:
            talker = Talk(server, conversation, settings)
            for _ in range(3):
                with pytest.raises(errors.APIError):
                    await talker.ask()
            assert await talker.ask() == "Yes"
            assert pool_of(connection) == (0, 0)


# ---- the simulator ------------------------------------------------------------------------------


async def test_the_simulator() -> None:
    """Against a server that was written by somebody else: it remembers what it was told, by turns."""
    async with guarded(), open_simulator(api_key="sk-test-secret") as simulator:
        settings = options(simulator.base_url, model="sonnet", max_retries=2)
        async with BACKEND.connect() as connection, connection.open(settings) as conversation:
            await text_of(conversation, settings, "My favorite language is Python")
            simulator.fail_next(529, retry_after=0.001)
            question = "What's my favorite language?"
            assert "Python" in await text_of(conversation, settings, question)
            async with connection.open(settings) as fresh:
                assert "Python" not in await text_of(fresh, settings, question)
            with pytest.raises(errors.AuthenticationError):
                await text_of(conversation, attrs.evolve(settings, api_key="wrong"))
            assert pool_of(connection) == (0, 0)


async def test_the_simulator_and_odd_histories() -> None:
    """It takes what we make of an empty answer: two questions in a row."""
    said = iter(["", "Yes", "Sure"])
    async with guarded(), open_simulator(lambda _request: next(said)) as simulator:
        settings = options(simulator.base_url, model="claude-sonnet-4-5")
        async with BACKEND.connect() as connection, connection.open(settings) as conversation:
            texts = [await text_of(conversation, settings) for _ in range(3)]
            assert texts == ["", "Yes", "Sure"]


async def test_a_service_that_cannot_be_connected_to() -> None:
    """connect_timeout is what a connection may take to be made, whatever the other timeouts say."""
    with trio.fail_after(10), socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with contextlib.ExitStack() as full:
            for _ in range(
                3
            ):  # nobody accepts, so the queue is full and further ones get no answer
                client = full.enter_context(socket.socket())
                client.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    client.connect(listener.getsockname())
            began = trio.current_time()
            backend = MessagesBackend(connect_timeout=0.3, idle_timeout=30)
            async with (
                backend.connect() as connection,
                connection.open(options(url)) as conversation,
            ):
                with pytest.raises(errors.APIConnectionError, match="connect_timeout"):
                    await turn_of(conversation, options(url))
            assert 0.3 <= trio.current_time() - began < 5


def test_the_defaults() -> None:
    """Five seconds to connect, events of 32 MiB, a retry-after of five minutes."""
    assert BACKEND.connect_timeout == 5.0
    assert BACKEND.max_event_size == 32 * 1024 * 1024
    assert BACKEND.max_retry_after == 300.0


async def test_a_failed_handshake_says_why() -> None:
    """An https address where plain HTTP is spoken: the reason is deep in the chain, and is told."""

    async def refuse(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, refuse, listeners)
        settings = options(f"https://127.0.0.1:{listeners[0].socket.getsockname()[1]}")
        async with BACKEND.connect() as connection, connection.open(settings) as conversation:
            with trio.fail_after(10), pytest.raises(errors.APIConnectionError, match="SSL"):
                await turn_of(conversation, settings)
        nursery.cancel_scope.cancel()


def test_a_certificate_that_is_not_trusted_says_what_to_do() -> None:
    """Behind a proxy that looks into TLS it is SSL_CERT_FILE; silence has only its class."""
    silent = httpx.ConnectError("")
    silent.__cause__ = ssl.SSLCertVerificationError("self-signed certificate")
    assert "set SSL_CERT_FILE" in http_client._first_words(silent)
    assert http_client._first_words(httpcore.ConnectError("")) == ""
