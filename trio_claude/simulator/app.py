"""The Messages API as an ASGI application: who asks what, and what they get."""

from __future__ import annotations

import inspect
import json
import logging
import secrets
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from itertools import count
from typing import TYPE_CHECKING, Any, Final, TypeAlias
from urllib.parse import parse_qsl

import trio

from . import models
from .checks import check_count, check_create
from .errors import ApiError, invalid
from .exchange import ClientGone, Exchange, retry_headers
from .faults import Cut, Faults, Hold, StreamError, position_of
from .replies import Block, Reply, count_input_tokens, events_of, message_of
from .requests import SimulatedRequest, decode_json

if TYPE_CHECKING:
    from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable, HTTPScope, Scope

Said: TypeAlias = str | Sequence[Block] | Reply
Responder: TypeAlias = Callable[[dict[str, Any]], Said | Awaitable[Said]]

logger = logging.getLogger("trio_claude.simulator")

_KEPT_REQUESTS: Final = 10_000
_REQUESTS_LIMIT: Final = 4_000
_TOKENS_LIMIT: Final = 2_000_000

_METHODS: Final = {
    "/v1/messages": "POST",
    "/v1/messages/count_tokens": "POST",
    "/v1/models": "GET",
}


class MessagesApi:
    """The application, with all that it remembers."""

    def __init__(self, responder: Responder, api_key: str | None, pace: float) -> None:
        self.requests: deque[SimulatedRequest] = deque(maxlen=_KEPT_REQUESTS)
        self.faults = Faults()
        self._responder = responder
        self._api_key = api_key
        self._pace = pace
        self._numbers = count(1)

    async def __call__(
        self, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable
    ) -> None:
        """Answer one request; a client that goes away ends the work for it."""
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1000, "reason": None})
            return
        number = next(self._numbers)
        exchange = Exchange(scope, receive, send, f"req_sim{number:018}")
        try:
            raw = await exchange.read_body()
        except ClientGone:
            return
        request, wrong = _received(scope, raw)
        self.requests.append(request)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_cancel_when_gone, exchange, nursery.cancel_scope)
            try:
                await self._answer(exchange, request, wrong, f"msg_sim{number:018}")
            except ApiError as error:
                await exchange.answer(error.status, error.body(exchange.request_id))
            nursery.cancel_scope.cancel(reason="the request is answered")

    async def _answer(
        self,
        exchange: Exchange,
        request: SimulatedRequest,
        wrong: ApiError | None,
        message_id: str,
    ) -> None:
        refusal = self.faults.take_refusal(request.path)
        if refusal is not None:
            error = ApiError.on_demand(refusal.status)
            headers = retry_headers(refusal.retry_after)
            if refusal.status == HTTPStatus.TOO_MANY_REQUESTS:
                reset_in = 60 if refusal.retry_after is None else refusal.retry_after
                headers += _rate_headers(requests_left=0, reset_in=reset_in)
            await exchange.answer(refusal.status, error.body(exchange.request_id), headers)
            return
        _check_route(request)
        self._check_key(request.headers)
        if "anthropic-version" not in request.headers:
            raise invalid("anthropic-version: header is required")
        if wrong is not None:
            raise wrong
        query = dict(parse_qsl(request.query, keep_blank_values=True))
        beta = query.get("beta") == "true" or "anthropic-beta" in request.headers
        if request.path == "/v1/messages":
            check_create(request.body, beta=beta)
            models.find(request.body["model"])
            await self._create(exchange, request.body, message_id)
        elif request.path == "/v1/messages/count_tokens":
            check_count(request.body, beta=beta)
            models.find(request.body["model"])
            await exchange.answer(200, {"input_tokens": count_input_tokens(request.body)})
        elif request.path == "/v1/models":
            await exchange.answer(200, models.page(query))
        else:
            await exchange.answer(200, models.find(_model_id(request.path)).as_json())

    def _check_key(self, headers: Mapping[str, str]) -> None:
        bearer, _, token = headers.get("authorization", "").partition(" ")
        key = headers.get("x-api-key") or (token if bearer.lower() == "bearer" else "")
        if not key:
            raise ApiError(401, "x-api-key header is required")
        if self._api_key is not None and not secrets.compare_digest(
            key.encode(), self._api_key.encode()
        ):
            raise ApiError(401, "invalid x-api-key")

    async def _create(self, exchange: Exchange, body: dict[str, Any], message_id: str) -> None:
        message = await self._respond(body, message_id)
        if not body.get("stream"):
            await exchange.answer(200, message, _rate_headers())
            return
        events = events_of(message)
        fault = self.faults.take_stream_fault()
        try:
            await self._stream(exchange, events, fault)
        finally:
            if isinstance(fault, Hold):
                fault.ended.set()

    async def _respond(self, body: dict[str, Any], message_id: str) -> dict[str, Any]:
        """The message that the responder makes of a body; a 500 where it cannot."""
        try:
            # The responder may do with its copy what it likes: the record stays.
            said = self._responder(json.loads(json.dumps(body)))
            if inspect.isawaitable(said):
                said = await said
            return message_of(said, body, message_id)
        except Exception as error:
            logger.exception("The simulator's responder failed; its client gets a 500")
            raise ApiError(500, f"The responder failed: {error!r}") from error

    async def _stream(
        self,
        exchange: Exchange,
        events: Sequence[dict[str, Any]],
        fault: StreamError | Cut | Hold | None,
    ) -> None:
        fault_at = position_of(fault, events)
        if fault_at == 0 and isinstance(fault, Cut) and fault.abruptly:
            exchange.drop()  # not even the headers
            return
        await exchange.start_stream(_rate_headers())
        for position, event in enumerate(events):
            if position == fault_at:
                match fault:
                    case Hold():
                        fault.started.set()
                        while not await fault.wait_released():
                            await exchange.ping()
                    case StreamError():
                        error = ApiError.on_demand(fault.status)
                        await exchange.event(error.body(exchange.request_id))
                        break
                    case Cut(abruptly=True):
                        exchange.drop()
                        return
                    case _:
                        break
            if position:
                await trio.sleep(self._pace)
            await exchange.event(event)
            if position == 0:
                await exchange.ping()
        await exchange.end_stream()


async def _cancel_when_gone(exchange: Exchange, cancel_scope: trio.CancelScope) -> None:
    await exchange.wait_client_gone()
    if not exchange.is_ending:
        cancel_scope.cancel(reason="the client has gone")


def _received(scope: HTTPScope, raw: bytes | None) -> tuple[SimulatedRequest, ApiError | None]:
    """The request as it came, and what is wrong with a body that should be a JSON object."""
    body, wrong = None, None
    if raw is None:
        wrong = ApiError(413, "Request exceeds the maximum size")
    elif scope["method"] == "POST":
        try:
            body = decode_json(raw)
        except ValueError as error:
            wrong = invalid(f"The request body is not valid JSON: {error}")
        else:
            if not isinstance(body, dict):
                wrong = invalid("Input should be a valid dictionary")
    headers = [
        (name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]
    ]
    query = scope["query_string"].decode("latin-1")
    return SimulatedRequest(scope["method"], scope["path"], query, headers, body), wrong


def _check_route(request: SimulatedRequest) -> None:
    method = _METHODS.get(request.path) or ("GET" if _model_id(request.path) else None)
    if method is None:
        raise ApiError(404, "Not found")
    if request.method != method:
        raise ApiError(405, "Method Not Allowed")


def _model_id(path: str) -> str:
    """The model in ``/v1/models/{id}``; empty where it is another path."""
    before, _, model_id = path.partition("/v1/models/")
    return "" if before or "/" in model_id else model_id


def _rate_headers(
    *, requests_left: int = _REQUESTS_LIMIT - 1, reset_in: float = 0
) -> list[tuple[str, str]]:
    """The rate limits: of a bucket that is full again after each request, but when it refuses."""
    reset = (datetime.now(UTC) + timedelta(seconds=reset_in)).strftime("%Y-%m-%dT%H:%M:%SZ")
    limits = [
        ("requests", _REQUESTS_LIMIT, requests_left),
        ("tokens", _TOKENS_LIMIT, _TOKENS_LIMIT),
        ("input-tokens", _TOKENS_LIMIT, _TOKENS_LIMIT),
        ("output-tokens", _TOKENS_LIMIT, _TOKENS_LIMIT),
    ]
    return [
        (f"anthropic-ratelimit-{what}-{field}", str(value))
        for what, limit, left in limits
        for field, value in (("limit", limit), ("remaining", left), ("reset", reset))
    ]
