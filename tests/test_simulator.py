"""The simulator on its socket, asked with httpx: headers, faults, cuts, holds, and leaving."""

from __future__ import annotations

import json
import logging
import math
import sys
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import trio
import trio.testing

from trio_claude import simulator
from trio_claude._errors import ConfigurationError
from trio_claude.simulator import Simulator, open_simulator
from trio_claude.simulator.app import MessagesApi
from trio_claude.simulator.exchange import MAX_BODY
from trio_claude.simulator.replies import default_responder

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

HEADERS = {"x-api-key": "sk-secret", "anthropic-version": "2023-06-01"}


def ask(prompt: str = "Hello", **fields: object) -> dict[str, Any]:
    """A request's body."""
    return {
        "model": "claude-haiku-4-5",
        "max_tokens": 1000,
        "messages": [{"role": "user", "content": prompt}],
        **fields,
    }


@asynccontextmanager
async def simulated(
    *args: Any, headers: dict[str, str] = HEADERS, **options: Any
) -> AsyncIterator[tuple[Simulator, httpx.AsyncClient]]:
    """A simulator and a client for it, for ten seconds at most."""
    with trio.fail_after(10):
        async with (
            open_simulator(*args, **options) as sim,
            httpx.AsyncClient(
                base_url=sim.base_url, headers=headers, trust_env=False, timeout=10
            ) as client,
        ):
            yield sim, client


async def events_of(
    client: httpx.AsyncClient, body: dict[str, Any] | None = None
) -> AsyncGenerator[dict[str, Any], None]:
    """The events of one streamed answer, as they come."""
    sent = {"stream": True, **(body or ask())}
    async with client.stream("POST", "/v1/messages", json=sent) as response:
        assert response.status_code == 200
        async for line in response.aiter_lines():
            if line.startswith("data: "):
                yield json.loads(line.removeprefix("data: "))


async def all_events(
    client: httpx.AsyncClient, body: dict[str, Any] | None = None
) -> list[dict[str, Any]]:
    """The events of one streamed answer."""
    async with aclosing(events_of(client, body)) as events:
        return [event async for event in events]


async def collect_into(came: list[dict[str, Any]], client: httpx.AsyncClient) -> None:
    """The same, kept when it raises."""
    async with aclosing(events_of(client)) as events:
        async for event in events:
            came.append(event)  # noqa: PERF401  # kept when the loop raises


def types_of(events: list[dict[str, Any]]) -> list[str]:
    """Their types."""
    return [event["type"] for event in events]


def text_of(events: list[dict[str, Any]]) -> str:
    """The text that they make."""
    deltas = [event["delta"] for event in events if event["type"] == "content_block_delta"]
    return "".join(delta["text"] for delta in deltas)


async def raw_connection(sim: Simulator) -> trio.SocketStream:
    """A connection without HTTP."""
    url = httpx.URL(sim.base_url)
    assert url.port is not None
    return await trio.open_tcp_stream(url.host, url.port)


def raw_request(body: bytes, *, length: int | None = None) -> bytes:
    """A request as bytes."""
    head = (
        "POST /v1/messages HTTP/1.1\r\nhost: x\r\nx-api-key: k\r\nanthropic-version: 2023-06-01\r\n"
        f"content-length: {len(body) if length is None else length}\r\n\r\n"
    )
    return head.encode() + body


# What it answers


async def test_an_answer_whole() -> None:
    """Without ``stream`` the answer is one JSON message."""
    async with simulated(lambda body: "Hello to you") as (_, client):
        response = await client.post("/v1/messages", json=ask())
    assert response.status_code == 200
    assert response.json() == {
        "id": "msg_sim000000000000000001",
        "type": "message",
        "role": "assistant",
        "content": [{"type": "text", "text": "Hello to you"}],
        "model": "claude-haiku-4-5",
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {
            "input_tokens": 1,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "output_tokens": 3,
            "service_tier": "standard",
        },
    }


async def test_an_answer_streamed() -> None:
    """With ``stream`` it comes as events: a ping after the start, and the words one by one."""
    async with simulated(lambda body: "Hello to you") as (_, client):
        events = await all_events(client)
    assert types_of(events) == [
        "message_start",
        "ping",
        "content_block_start",
        "content_block_delta",
        "content_block_delta",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    assert [e["delta"]["text"] for e in events[3:6]] == ["Hello", " to", " you"]


async def test_each_event_is_sent_by_itself() -> None:
    """One event, one chunk of the body, named in its first line."""
    async with simulated() as (_, client):
        response = await client.post("/v1/messages", json=ask(stream=True))
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.headers["transfer-encoding"] == "chunked"
    blocks = response.text.split("\n\n")
    assert blocks.pop() == ""
    for block in blocks:
        event, data = block.split("\n")
        assert event == "event: " + json.loads(data.removeprefix("data: "))["type"]


async def test_the_conversation_is_what_it_is_sent() -> None:
    """A fact is known while it is in the messages, and unknown without them."""
    question = {"role": "user", "content": "What's my favorite language?"}
    told = [
        {"role": "user", "content": "My favorite language is Python"},
        {"role": "assistant", "content": "Noted."},
    ]
    async with simulated() as (_, client):
        known = text_of(await all_events(client, ask(messages=[*told, question])))
        unknown = text_of(await all_events(client, ask(messages=[question])))
    assert "Python" in known
    assert "I don't know your favorite language." in unknown


async def test_a_responder_may_be_async_and_keep_its_body() -> None:
    """It gets a copy of the decoded body: what it does with it doesn't change the record."""

    async def responder(body: dict[str, Any]) -> str:
        await trio.lowlevel.checkpoint()
        return str(body.pop("messages")[0]["content"])

    async with simulated(responder) as (sim, client):
        assert text_of(await all_events(client, ask("Echo me"))) == "Echo me"
        assert sim.requests[0].body["messages"] == [{"role": "user", "content": "Echo me"}]


@pytest.mark.parametrize("said", [ZeroDivisionError("oh"), 17])
async def test_a_responder_that_fails_is_a_500_and_a_record(
    said: object, caplog: pytest.LogCaptureFixture
) -> None:
    """Its client gets a 500 that says so, the log the traceback, and the next one an answer."""
    answers = [said, "fine"]

    def responder(body: dict[str, Any]) -> Any:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async with simulated(responder) as (_, client):
        failed = await client.post("/v1/messages", json=ask())
        worked = await client.post("/v1/messages", json=ask())
    assert failed.status_code == 500
    assert failed.json()["error"]["message"].startswith("The responder failed: ")
    assert worked.status_code == 200
    [record] = caplog.records
    assert (record.name, record.levelno) == ("trio_claude.simulator", logging.ERROR)
    assert record.exc_info is not None


async def test_a_fault_of_its_own_is_a_500_and_a_record(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A bug in the simulator is in its own log, not on anybody's terminal; it serves on."""
    async with simulated() as (_, client):
        with monkeypatch.context() as patch:
            patch.setattr("trio_claude.simulator.app.count_input_tokens", None)
            fields = {"model": "claude-haiku-4-5", "messages": ask()["messages"]}
            failed = await client.post("/v1/messages/count_tokens", json=fields)
        assert failed.status_code == 500
        assert (await client.post("/v1/messages", json=ask())).status_code == 200
    assert [record.name for record in caplog.records] == ["trio_claude.simulator"]
    assert capsys.readouterr() == ("", "")


async def test_the_last_piece_is_sent_whole() -> None:
    """The server says that the exchange is over while it sends the end: that is no client gone."""
    to_app, from_server = trio.open_memory_channel[Any](2)
    to_app.send_nowait({"type": "http.request", "body": b"", "more_body": False})
    sent: list[Any] = []

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body" and not message["more_body"]:
            to_app.send_nowait({"type": "http.disconnect"})
            await trio.testing.wait_all_tasks_blocked()
        sent.append(message)

    scope: Any = {
        "type": "http",
        "method": "GET",
        "path": "/",
        "query_string": b"",
        "headers": [],
        "state": {"connection": None},
    }
    with to_app, from_server:
        await MessagesApi(default_responder, None, 0.0)(scope, from_server.receive, send)
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]


async def test_tokens_are_counted() -> None:
    """The same count as an answer's usage gives."""
    async with simulated() as (_, client):
        fields = {"model": "claude-haiku-4-5", "messages": ask("one two three")["messages"]}
        response = await client.post("/v1/messages/count_tokens", json=fields)
    assert response.json() == {"input_tokens": 3}


async def test_models_are_listed_and_found() -> None:
    """A page of the list, and one model by its id or alias."""
    async with simulated() as (_, client):
        page = (await client.get("/v1/models", params={"limit": 2})).json()
        assert [len(page["data"]), page["has_more"]] == [2, True]
        found = (await client.get("/v1/models/claude-haiku-4-5")).json()
    assert found == {
        "type": "model",
        "id": "claude-haiku-4-5-20251001",
        "display_name": "Claude Haiku 4.5",
        "created_at": "2025-10-15T00:00:00Z",
        "line": "haiku",
        "lifecycle": "active",
    }


async def test_pace_waits_between_events() -> None:
    """With a pace, the events come that many seconds apart."""
    async with simulated(lambda body: "one two three", pace=0.01) as (_, client):
        before = trio.current_time()
        assert text_of(await all_events(client)) == "one two three"
        # Eight events, seven gaps.
        assert trio.current_time() - before >= 0.07


# What it refuses


async def test_a_request_without_a_key_is_a_401() -> None:
    """Any key will do, as a header or as a bearer token, but there must be one."""
    async with simulated(headers={"anthropic-version": "2023-06-01"}) as (_, client):
        for headers in ({}, {"x-api-key": ""}, {"authorization": "Basic abc"}):
            response = await client.get("/v1/models", headers=headers)
            assert response.status_code == 401
            assert response.json()["error"] == {
                "type": "authentication_error",
                "message": "x-api-key header is required",
            }
        for headers in ({"x-api-key": "k"}, {"authorization": "Bearer t"}):
            assert (await client.get("/v1/models", headers=headers)).status_code == 200


async def test_a_wrong_key_is_a_401() -> None:
    """Where the simulator has a key, no other one is good."""
    async with simulated(api_key="right", headers={"anthropic-version": "1"}) as (_, client):
        wrong = await client.get("/v1/models", headers={b"x-api-key": "wröng".encode()})
        right = await client.get("/v1/models", headers={"authorization": "Bearer right"})
    assert wrong.status_code == 401
    assert wrong.json()["error"]["message"] == "invalid x-api-key"
    assert right.status_code == 200


async def test_a_request_without_a_version_is_a_400() -> None:
    """The service wants to know which version of it is meant."""
    async with simulated(headers={"x-api-key": "k"}) as (_, client):
        response = await client.get("/v1/models")
    assert response.status_code == 400
    assert response.json()["error"]["message"] == "anthropic-version: header is required"


@pytest.mark.parametrize(
    ("method", "path", "status", "type_"),
    [
        ("GET", "/", 404, "not_found_error"),
        ("POST", "/v1/complete", 404, "not_found_error"),
        ("GET", "/v1/models/", 404, "not_found_error"),
        ("GET", "/v1/models/claude-haiku-4-5/x", 404, "not_found_error"),
        ("GET", "/x/v1/models/claude-haiku-4-5", 404, "not_found_error"),
        ("GET", "/v1/models/gpt", 404, "not_found_error"),
        ("GET", "/v1/messages", 405, "invalid_request_error"),
        ("PUT", "/v1/messages/count_tokens", 405, "invalid_request_error"),
        ("DELETE", "/v1/models", 405, "invalid_request_error"),
        ("POST", "/v1/models/claude-haiku-4-5", 405, "invalid_request_error"),
    ],
)
async def test_a_wrong_path_or_method_is_refused(
    method: str, path: str, status: int, type_: str
) -> None:
    """What is not there is a 404, what is there for others a 405."""
    async with simulated() as (_, client):
        response = await client.request(method, path)
    assert response.status_code == status
    assert response.json() == {
        "type": "error",
        "error": {"type": type_, "message": response.json()["error"]["message"]},
        "request_id": response.headers["request-id"],
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "The request body is not valid JSON"),
        (b'{"model": ', "The request body is not valid JSON"),
        (b"[1]", "Input should be a valid dictionary"),
        (b"{}", "model: Field required"),
    ],
)
async def test_a_body_that_is_no_request_is_a_400(content: bytes, message: str) -> None:
    """No body, half a body, another type, nothing in it."""
    async with simulated() as (_, client):
        for path in ("/v1/messages", "/v1/messages/count_tokens"):
            response = await client.post(path, content=content)
            assert response.status_code == 400
            assert response.json()["error"]["message"].startswith(message)


async def test_an_unknown_model_is_a_404() -> None:
    """As the service says it: the name of the field and of the model."""
    async with simulated() as (_, client):
        for path, unasked in (("/v1/messages", ""), ("/v1/messages/count_tokens", "max_tokens")):
            fields = {k: v for k, v in ask(model="claude-2").items() if k != unasked}
            response = await client.post(path, json=fields)
            assert response.status_code == 404
            assert response.json()["error"] == {
                "type": "not_found_error",
                "message": "model: claude-2",
            }


async def test_a_body_over_32_megabytes_is_a_413() -> None:
    """Only what is larger than the service takes; the connection stays good."""
    async with simulated() as (sim, client):
        large = await client.post("/v1/messages", content=b" " * (MAX_BODY + 1))
        assert large.status_code == 413
        assert large.json()["error"]["type"] == "request_too_large"
        assert sim.requests[-1].body is None
        body = json.dumps(ask()).encode()
        whole = await client.post("/v1/messages", content=body.ljust(MAX_BODY))
        assert whole.status_code == 200


async def test_a_beta_request_may_have_unknown_fields() -> None:
    """Asked for in the query, as the claude program does, or with a header."""
    body = ask(context_management={})
    async with simulated() as (sim, client):
        assert (await client.post("/v1/messages", json=body)).status_code == 400
        assert (await client.post("/v1/messages?beta=true", json=body)).status_code == 200
        assert (sim.requests[-1].path, sim.requests[-1].query) == ("/v1/messages", "beta=true")
        headers = {"anthropic-beta": "x"}
        assert (await client.post("/v1/messages", json=body, headers=headers)).status_code == 200


async def test_a_websocket_is_turned_away() -> None:
    """The service speaks none."""
    async with simulated() as (sim, _):
        async with await raw_connection(sim) as stream:
            await stream.send_all(
                b"GET /v1/messages HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\n"
                b"upgrade: websocket\r\nsec-websocket-version: 13\r\n"
                b"sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
            )
            answer = b"".join([data async for data in stream])
            assert answer.startswith(b"HTTP/1.1 403")
        assert sim.requests == ()


@pytest.mark.parametrize("sent", [b"\x00\xff\r\n\r\n", b"GET", raw_request(b"{", length=100)])
async def test_garbage_disturbs_nobody(sent: bytes) -> None:
    """Bytes that are no HTTP, and a client that goes in the middle: the next one is served."""
    async with simulated() as (sim, client):
        async with await raw_connection(sim) as stream:
            await stream.send_all(sent)
            await stream.send_eof()
            assert b"HTTP/1.1 2" not in b"".join([data async for data in stream])
        assert sim.requests == ()
        assert (await client.post("/v1/messages", json=ask())).status_code == 200


# What it tells


async def test_requests_are_recorded_in_order() -> None:
    """Whatever came, with its headers and its body; what was refused as well."""
    async with simulated() as (sim, client):
        assert list(sim.requests) == []
        await client.post("/v1/messages", json=ask("one"), headers={"X-Thing": "Value"})
        await client.get("/nowhere?a=b", headers={"x-api-key": ""})
        first, second = sim.requests
    assert (first.method, first.path, first.query) == ("POST", "/v1/messages", "")
    assert first.headers["x-thing"] == "Value"
    assert first.headers["x-api-key"] == "sk-secret"
    assert first.body == ask("one")
    assert (second.method, second.path, second.query) == ("GET", "/nowhere", "a=b")
    assert second.body is None


async def test_secrets_are_in_no_repr() -> None:
    """Neither a request nor its headers show a key or a token."""
    async with simulated() as (sim, client):
        await client.get("/v1/models", headers={"authorization": "Bearer t0ken"})
        [request] = sim.requests
    for shown in (repr(request), str(request), repr(request.headers), str(sim.requests)):
        assert "sk-secret" not in shown
        assert "t0ken" not in shown
        assert "'x-api-key': '***'" in shown
    assert request.headers["authorization"] == "Bearer t0ken"


async def test_every_answer_has_an_id_and_messages_their_limits() -> None:
    """``request-id`` always, another one each time; the rate limits beside an answer."""
    async with simulated() as (_, client):
        answers = [
            await client.post("/v1/messages", json=ask()),
            await client.post("/v1/messages", json=ask(stream=True)),
            await client.get("/v1/models"),
            await client.get("/nowhere"),
        ]
    assert len({answer.headers["request-id"] for answer in answers}) == 4
    assert [answer.headers.get("server") for answer in answers] == [None] * 4
    for answer in answers[:2]:
        for kind in ("requests", "tokens", "input-tokens", "output-tokens"):
            for field in ("limit", "remaining", "reset"):
                assert f"anthropic-ratelimit-{kind}-{field}" in answer.headers
        assert answer.headers["anthropic-ratelimit-requests-remaining"] == "3999"


async def test_it_says_where_it_is() -> None:
    """The repr has the address, which clients can use."""
    async with simulated() as (sim, _):
        assert sim.base_url.startswith("http://127.0.0.1:")
        assert repr(sim) == f"<trio_claude.simulator.Simulator at {sim.base_url}>"


async def test_it_listens_on_ipv6() -> None:
    """The address stands in brackets, as a URL wants it."""
    async with simulated(host="::1") as (sim, client):
        assert sim.base_url.startswith("http://[::1]:")
        assert (await client.get("/v1/models")).status_code == 200


async def test_the_port_can_be_chosen() -> None:
    """A given port is used, is free again after the block, and taken is an OSError."""
    async with simulated() as (first, _):
        port = httpx.URL(first.base_url).port
        with pytest.raises(OSError, match="in use"):
            async with open_simulator(port=port or 0):
                raise AssertionError("two on one port")
    async with simulated(port=port) as (second, client):
        assert second.base_url == first.base_url
        assert (await client.get("/v1/models")).status_code == 200


# Faults


async def test_fail_next_fails_once() -> None:
    """The next request fails, before its key or body are looked at; the one after is answered."""
    async with simulated() as (sim, client):
        sim.fail_next(529)
        failed = await client.post("/v1/messages", content=b"junk", headers={"x-api-key": ""})
        assert failed.status_code == 529
        assert failed.json()["error"] == {"type": "overloaded_error", "message": "Overloaded"}
        assert "retry-after" not in failed.headers
        assert (await client.post("/v1/messages", json=ask())).status_code == 200


async def test_faults_wait_in_line() -> None:
    """As many as asked for, the first asked for first."""
    async with simulated() as (sim, client):
        sim.fail_next(500, times=2)
        sim.fail_next(429)
        statuses = [(await client.post("/v1/messages", json=ask())).status_code for _ in range(4)]
    assert statuses == [500, 500, 429, 200]


async def test_only_the_path_fails() -> None:
    """A failure meets the messages, or the path that it was asked for."""
    async with simulated() as (sim, client):
        sim.fail_next(500)
        sim.fail_next(403, path="/v1/models")
        assert (await client.get("/v1/models")).status_code == 403
        assert (await client.get("/v1/models")).status_code == 200
        assert (await client.post("/v1/messages", json=ask())).status_code == 500


@pytest.mark.parametrize(
    ("retry_after", "expected"),
    [(None, {}), (0, {"": "0"}), (7, {"": "7"}), (0.25, {"": "1", "-ms": "250"})],
)
async def test_retry_after_is_told(retry_after: float | None, expected: dict[str, str]) -> None:
    """In whole seconds, and in milliseconds where that is not exact; none left at a 429."""
    async with simulated() as (sim, client):
        sim.fail_next(429, retry_after=retry_after)
        headers = (await client.post("/v1/messages", json=ask())).headers
    told = {k.removeprefix("retry-after"): v for k, v in headers.items() if "retry-after" in k}
    assert told == expected
    assert headers["anthropic-ratelimit-requests-remaining"] == "0"


async def test_a_stream_may_fail_after_some_events() -> None:
    """A 200, the events asked for, an error event with the status's type, and a clean end."""
    async with simulated(lambda body: "one two three") as (sim, client):
        sim.fail_next(529, after_events=3)
        sim.fail_next(500, after_events=0)
        late = await all_events(client)
        first = await all_events(client)
    assert types_of(late) == [
        "message_start",
        "ping",
        "content_block_start",
        "content_block_delta",
        "error",
    ]
    assert late[-1]["error"]["type"] == "overloaded_error"
    assert late[-1]["request_id"].startswith("req_")
    assert types_of(first) == ["error"]


async def test_faults_of_streams_leave_other_requests_alone() -> None:
    """An answer that is not streamed has no events: the fault waits for one that is."""
    async with simulated() as (sim, client):
        sim.cut_next(1)
        whole = await client.post("/v1/messages", json=ask())
        assert whole.json()["stop_reason"] == "end_turn"
        assert types_of(await all_events(client)) == ["message_start", "ping"]


@pytest.mark.parametrize("after_events", [0, 1, 3, 1000])
async def test_a_cut_ends_the_stream_early(after_events: int) -> None:
    """The response is whole for HTTP; the message is not: no message_stop ever."""
    async with simulated(lambda body: "one two three") as (sim, client):
        sim.cut_next(after_events)
        types = types_of(await all_events(client))
        uncut = types_of(await all_events(client))
    pingless = [type_ for type_ in types if type_ != "ping"]
    assert pingless == [type_ for type_ in uncut if type_ != "ping"][: min(after_events, 7)]
    assert "message_stop" not in types


@pytest.mark.parametrize("after_events", [0, 3, 1000])
async def test_an_abrupt_cut_breaks_the_connection(after_events: int) -> None:
    """What was sent before arrives, then the connection is reset; with 0 there is no response."""
    came: list[dict[str, Any]] = []
    async with simulated(lambda body: "one two three") as (sim, client):
        sim.cut_next(after_events, abruptly=True, times=2)
        for _ in range(2):
            came.clear()
            with pytest.raises(httpx.ReadError):
                await collect_into(came, client)
        assert "message_stop" in types_of(await all_events(client))
    assert len([event for event in came if event["type"] != "ping"]) == min(after_events, 7)


async def test_a_hold_stops_an_answer_until_it_is_released() -> None:
    """After the first word nothing but pings comes; then the rest."""
    async with simulated(lambda body: "one two three") as (sim, client):
        hold = sim.hold_next(ping_every=0.001)
        assert repr(hold) == "<trio_claude.simulator.Hold waiting>"
        seen: list[dict[str, Any]] = []
        async with aclosing(events_of(client)) as events:
            async for event in events:
                seen.append(event)
                if len(seen) == 10:
                    await hold.started.wait()
                    assert repr(hold) == "<trio_claude.simulator.Hold started>"
                    hold.release()
    start = ["message_start", "ping", "content_block_start", "content_block_delta"]
    assert types_of(seen[:10]) == [*start, *["ping"] * 6]
    assert text_of(seen) == "one two three"


async def test_a_released_answer_is_whole() -> None:
    """The client cannot tell that it was held."""
    async with simulated(lambda body: "one two three") as (sim, client):
        hold = sim.hold_next()
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def _release() -> None:
                await hold.started.wait()
                assert not hold.released
                hold.release()

            assert text_of(await all_events(client)) == "one two three"
        await hold.ended.wait()
        assert hold.released
        assert repr(hold) == "<trio_claude.simulator.Hold ended>"


async def test_a_hold_released_before_it_began_is_none() -> None:
    """An answer that may go on does not stop."""
    async with simulated() as (sim, client):
        hold = sim.hold_next(after_events=0)
        hold.release()
        assert repr(hold) == "<trio_claude.simulator.Hold released>"
        assert types_of(await all_events(client))[-1] == "message_stop"


async def test_pings_flow_while_an_answer_is_held() -> None:
    """With ``ping_every`` the connection is alive, and nothing is said."""
    async with simulated() as (sim, client):
        hold = sim.hold_next(after_events=1, ping_every=0.001)
        types = []
        async with aclosing(events_of(client)) as events:
            async for event in events:
                types.append(event["type"])
                if len(types) == 10:
                    hold.release()
    assert types[:10] == ["message_start", *["ping"] * 9]
    assert types[-1] == "message_stop"


async def test_an_answer_without_text_is_held_before_its_end() -> None:
    """A hold always takes hold: where no text comes, before message_stop."""
    call = {"type": "tool_use", "name": "look", "input": {}}
    async with simulated(lambda body: [call]) as (sim, client):
        hold = sim.hold_next()
        async with aclosing(events_of(client)) as events:
            async for event in events:
                if event["type"] == "message_delta":
                    break
            await hold.started.wait()
            hold.release()
            assert types_of([event async for event in events]) == ["message_stop"]


@pytest.mark.parametrize("method", ["fail_next", "cut_next", "hold_next"])
@pytest.mark.parametrize("value", [-1, 1.5, "3", True])
async def test_after_events_is_a_count(method: str, value: object) -> None:
    """Refused by name."""
    args = [500] if method == "fail_next" else []
    async with simulated() as (sim, _):
        with pytest.raises(ConfigurationError, match="after_events must be a whole number"):
            getattr(sim, method)(*args, after_events=value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"status": 200}, "status must be a number from 400 to 599, not 200"),
        ({"status": 600}, "status must be"),
        ({"status": "500"}, "status must be"),
        ({"status": 500, "times": 0}, "times must be a whole number of at least 1, not 0"),
        ({"status": 500, "retry_after": -1}, "retry_after must be a number of seconds"),
        ({"status": 500, "retry_after": math.inf}, "retry_after must be a number of seconds"),
        ({"status": 500, "retry_after": "1"}, "retry_after must be a number of seconds"),
        ({"status": 500, "retry_after": 1, "after_events": 1}, "retry_after is a header"),
        ({"status": 500, "path": "v1"}, "path must be a path like '/v1/models', not 'v1'"),
        ({"status": 500, "path": None}, "path must be a path"),
    ],
)
async def test_bad_arguments_of_fail_next_are_refused(
    arguments: dict[str, Any], message: str
) -> None:
    """By name, and no fault is in line then."""
    async with simulated() as (sim, client):
        with pytest.raises(ConfigurationError, match=message):
            sim.fail_next(**arguments)
        assert (await client.post("/v1/messages", json=ask())).status_code == 200


@pytest.mark.parametrize("ping_every", [0, -1, math.nan, "1"])
async def test_bad_arguments_of_the_others_are_refused(ping_every: object) -> None:
    """By name."""
    async with simulated() as (sim, _):
        with pytest.raises(ConfigurationError, match="ping_every must be a number of seconds"):
            sim.hold_next(ping_every=ping_every)  # type: ignore[arg-type]  # that is the test
        with pytest.raises(ConfigurationError, match="times must be a whole number"):
            sim.cut_next(1, times=0)


# Coming and going


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"responder": "hi"}, "responder must be callable, not 'hi'"),
        ({"api_key": ""}, "api_key must be"),
        ({"api_key": 3}, "api_key must be"),
        ({"host": ""}, "host must be"),
        ({"host": None}, "host must be"),
        ({"port": -1}, "port must be a number from 0 to 65535, not -1"),
        ({"port": 65536}, "port must be"),
        ({"port": "80"}, "port must be"),
        ({"pace": -0.1}, "pace must be"),
        ({"pace": math.inf}, "pace must be"),
        ({"pace": math.nan}, "pace must be"),
    ],
)
def test_bad_options_are_refused_at_the_call(options: dict[str, Any], message: str) -> None:
    """By name, before any block is entered."""
    with pytest.raises(ConfigurationError, match=message):
        open_simulator(**options)


def test_a_refused_key_is_not_shown() -> None:
    """The message of a bad key does not repeat it."""
    with pytest.raises(ConfigurationError) as caught:
        open_simulator(api_key="sk-\nsecret")
    assert "secret" not in str(caught.value)


def test_without_hypercorn_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra is named where it is missing."""
    monkeypatch.delitem(sys.modules, "trio_claude.simulator.connection", raising=False)
    monkeypatch.setitem(sys.modules, "hypercorn.trio.tcp_server", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'trio-claude\[simulator\]'"):
        open_simulator()


def test_the_public_names() -> None:
    """What users import from here."""
    public = {name for name, value in vars(simulator).items() if not name.startswith("_")}
    modules = {name for name in public if type(getattr(simulator, name)) is type(sys)}
    assert public - modules == {
        "Hold",
        "Reply",
        "Responder",
        "SimulatedRequest",
        "Simulator",
        "Step",
        "open_simulator",
        "script",
    }


async def test_a_client_that_goes_ends_its_answer() -> None:
    """A responder that is still thinking is cancelled when nobody waits for it any more."""
    began, cancelled = trio.Event(), trio.Event()

    async def responder(body: dict[str, Any]) -> str:
        began.set()
        try:
            await trio.sleep_forever()
        finally:
            cancelled.set()
        raise AssertionError

    async with simulated(responder) as (_, client):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(all_events, client)
            await began.wait()
            nursery.cancel_scope.cancel()
        await cancelled.wait()


@pytest.mark.parametrize("held", [True, False])
async def test_leaving_ends_answers_in_flight(*, held: bool) -> None:
    """Leaving the block with a stream in flight takes no time, and the client sees it end."""
    pace = 0.0 if held else 3600.0
    with trio.fail_after(10):
        async with httpx.AsyncClient(headers=HEADERS, trust_env=False) as client:
            async with open_simulator(pace=pace) as sim:
                hold = sim.hold_next() if held else None
                client.base_url = httpx.URL(sim.base_url)
                events = events_of(client)
                assert (await anext(events))["type"] == "message_start"
                assert (await anext(events))["type"] == "ping"
                before = trio.current_time()
            assert trio.current_time() - before < 1.0
            assert hold is None or hold.ended.is_set()
            with pytest.raises(httpx.TransportError):
                print([event async for event in events])
            with pytest.raises(httpx.ConnectError):
                await client.get("/v1/models")


async def test_leaving_does_not_wait_for_a_client_that_stopped_reading() -> None:
    """An answer too large for the buffers of a client that reads nothing is dropped."""
    size = 32 * 1024 * 1024
    sent = raw_request(json.dumps(ask()).encode())
    with trio.fail_after(10):
        async with open_simulator(lambda body: "x" * size) as sim:
            stream = await raw_connection(sim)
            await stream.send_all(sent)
            assert await stream.receive_some(10) == b"HTTP/1.1 2"
            await trio.testing.wait_all_tasks_blocked(0.05)
            before = trio.current_time()
        assert trio.current_time() - before < 1.0
        await stream.aclose()


async def test_leaving_closes_idle_connections() -> None:
    """A connection that waits for its next request ends with the simulator."""
    with trio.fail_after(10):
        async with open_simulator() as sim:
            stream = await raw_connection(sim)
            await stream.send_all(raw_request(json.dumps(ask()).encode()))
            answer = b""
            while b"message" not in answer:
                answer += await stream.receive_some()
        async with stream:
            assert await stream.receive_some() == b""


async def test_a_client_that_goes_leaves_no_task() -> None:
    """Connections end with their clients: idle ones, cut ones, and those in mid-answer."""
    async with simulated() as (sim, _):
        before = trio.lowlevel.current_statistics().tasks_living
        sent = raw_request(json.dumps(ask(stream=True)).encode())
        sim.cut_next(1, times=2)
        sim.cut_next(1, times=2, abruptly=True)
        for _ in range(4):
            async with await raw_connection(sim) as stream:
                await stream.send_all(sent)
                assert (await stream.receive_some(12)) == b"HTTP/1.1 200"
        for _ in range(2):
            hold = sim.hold_next()
            async with await raw_connection(sim) as stream:
                await stream.send_all(sent)
                await hold.started.wait()
            await hold.ended.wait()
        async with await raw_connection(sim):
            pass
        while trio.lowlevel.current_statistics().tasks_living > before:
            await trio.lowlevel.checkpoint()


async def test_cancelling_around_it_leaves_nothing() -> None:
    """A cancel ends block and server: no task stays, no port stays open."""
    tasks = len(trio.lowlevel.current_task().parent_nursery.child_tasks)  # type: ignore[union-attr]
    with trio.fail_after(10):
        with trio.CancelScope() as scope:
            async with open_simulator() as sim:
                hold = sim.hold_next()
                async with await raw_connection(sim) as stream:
                    body = json.dumps(ask(stream=True)).encode()
                    await stream.send_all(raw_request(body))
                    await hold.started.wait()
                    scope.cancel()
                    await trio.sleep_forever()
        assert scope.cancelled_caught
        assert hold.ended.is_set()
        with pytest.raises(OSError, match="connect"):
            await raw_connection(sim)
    nursery = trio.lowlevel.current_task().parent_nursery
    assert nursery is not None
    assert len(nursery.child_tasks) == tasks


@pytest.mark.parametrize(
    "error",
    [
        ValueError("mine"),
        KeyboardInterrupt(),
        ExceptionGroup("mine", [ValueError("a"), KeyError("b")]),
    ],
)
async def test_your_exception_leaves_as_it_was_raised(error: BaseException) -> None:
    """The same object, in no group, with the context that it had."""

    async def block() -> None:
        async with open_simulator() as sim, await raw_connection(sim) as stream:
            hold = sim.hold_next()
            await stream.send_all(raw_request(json.dumps(ask(stream=True)).encode()))
            await hold.started.wait()
            raise error

    with trio.fail_after(10), pytest.raises(type(error)) as caught:
        await block()
    assert caught.value is error
    assert error.__context__ is None
    assert error.__cause__ is None


async def test_a_failing_server_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    """What goes wrong in the server itself is not lost, whatever the block does."""

    async def fail(self: object) -> None:
        raise LookupError("broken")

    monkeypatch.setattr("hypercorn.trio.tcp_server.TCPServer.run", fail)
    with trio.fail_after(10):
        with pytest.RaisesGroup(
            pytest.RaisesExc(LookupError, match="broken"), flatten_subgroups=True
        ):
            async with open_simulator() as sim, await raw_connection(sim):
                await trio.sleep_forever()
