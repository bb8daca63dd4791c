"""Turns that fail: each with its error, and what there was of the answer."""

from __future__ import annotations

import math

import pytest
import trio

from tests import faulty_server as faulty
from trio_claude import (
    APIConnectionError,
    APIStatusError,
    AssistantMessage,
    AuthenticationError,
    BadRequestError,
    BillingError,
    ConflictError,
    InternalServerError,
    NotFoundError,
    OverloadedError,
    PermissionDeniedError,
    QueryTimeout,
    RateLimitError,
    RequestTooLargeError,
    ResultError,
    ResultMessage,
    StreamInterrupted,
    UnprocessableEntityError,
)

from .kit import MINE, WHICH, Place, fails, notes, opened, texts
from .unruly import FAIL, Unruly

_STATUSES: dict[int, type[APIStatusError]] = {
    400: BadRequestError,
    401: AuthenticationError,
    402: BillingError,
    403: PermissionDeniedError,
    404: NotFoundError,
    409: ConflictError,
    413: RequestTooLargeError,
    422: UnprocessableEntityError,
    429: RateLimitError,
    500: InternalServerError,
    503: InternalServerError,
    529: OverloadedError,
}


async def test_each_status_is_its_error(place: Place) -> None:
    """With all that the service said of it; the session goes on, and so does the conversation."""
    async with opened(place) as (simulator, session):
        await session.query(MINE)
        for number, (status, kind) in enumerate(_STATUSES.items(), 2):
            simulator.fail_next(status, retry_after=7.5 if status == 429 else None)
            with pytest.raises(APIStatusError) as caught:
                await session.query("Hi")
            error = caught.value
            assert kind is type(error)
            assert status == error.status_code
            assert f"req_sim{number:018}" == error.request_id
            assert (7.5 if status == 429 else None) == error.retry_after
            assert isinstance(error.body, dict)
            assert "error" == error.body["type"]
            assert error.type == error.body["error"]["type"] != None  # noqa: E711
            assert error.body["error"]["message"] in str(error)
            assert error.partial is None
            assert error.__cause__ is None
            assert [f"in a turn of session {place.name!r}"] == notes(error)

        assert "Python" in str(await session.query(WHICH))
        assert 3 == len(simulator.requests[-1].body["messages"])


async def test_an_error_in_the_midst_of_an_answer(place: Place) -> None:
    """It comes after the events before it, each time that one reads on, with what there was."""
    async with opened(place, lambda body: "one two three") as (simulator, session):
        simulator.fail_next(529, after_events=4)
        async with session.stream("Hi") as events:
            seen = await fails(events, OverloadedError)
            with pytest.raises(OverloadedError) as caught:
                await events.receive()
        assert "one two" == texts(seen)
        assert (200, "overloaded_error") == (caught.value.status_code, caught.value.type)
        assert caught.value.partial is not None
        assert "one two" == caught.value.partial.text

        assert "one two three" == str(await session.query("Hi"))
        assert 1 == len(simulator.requests[-1].body["messages"])


@pytest.mark.parametrize("abruptly", [False, True])
async def test_an_answer_that_is_cut_off(place: Place, abruptly: bool) -> None:
    """StreamInterrupted, with what there was, for a query and for a stream."""
    async with opened(place, lambda body: "one two three") as (simulator, session):
        simulator.cut_next(4, times=2, abruptly=abruptly)
        with pytest.raises(StreamInterrupted) as caught:
            await session.query("Hi")
        async with session.stream("Hi") as events:
            seen = await fails(events, StreamInterrupted)

        error = caught.value
        assert StreamInterrupted is type(error)
        assert "one two" == texts(seen)
        assert error.partial is not None
        assert "one two" == error.partial.text
        cause = error.__cause__
        assert ("ReadError" if abruptly else "NoneType") == type(cause).__name__
        assert [f"in a turn of session {place.name!r}"] == notes(error)
        assert "one two three" == str(await session.query("Hi"))


async def test_a_service_that_is_not_there(place: Place) -> None:
    """APIConnectionError, from what the library below said."""
    async with opened(place) as (_, session):
        with pytest.raises(APIConnectionError) as caught:
            await session.query("Hi", base_url=faulty.unused_address())
        assert APIConnectionError is type(caught.value)
        assert "ConnectError" == type(caught.value.__cause__).__name__
        assert [f"in a turn of session {place.name!r}"] == notes(caught.value)
        await session.query("Hi")


async def test_a_turn_longer_than_its_timeout_fails(place: Place) -> None:
    """QueryTimeout, which is a TooSlowError too, with what there was; the session lives on."""
    async with opened(place, lambda body: "one two three") as (simulator, session):
        hold = simulator.hold_next()
        async with session.stream("Hi", timeout=0.3) as events:
            seen = await fails(events, QueryTimeout)
            with pytest.raises(trio.TooSlowError, match=r"timeout of 0\.3 seconds") as caught:
                await events.receive()
        await hold.ended.wait()

        error = caught.value
        assert QueryTimeout is type(error)
        assert [texts(seen) or None] == [error.partial and error.partial.text]
        assert "one two three" == str(await session.query("Hi", timeout=math.inf))


async def test_a_result_that_is_an_error_is_raised(place: Place) -> None:
    """ResultError has the agent's own report; the turn is not remembered."""
    async with opened(place, lambda body: f"I{FAIL}", backend=Unruly()) as (simulator, session):
        with pytest.raises(ResultError, match="the agent reported 'error_max_turns'") as caught:
            await session.query("Hi")
        result = caught.value.result
        assert isinstance(result, ResultMessage)
        assert (True, "error_max_turns", "I FAIL") == (
            result.is_error,
            result.subtype,
            result.text,
        )
        async with session.stream("Hi") as events:
            seen = await fails(events, ResultError)
        assert AssistantMessage is type(seen[-1])
        assert 1 == len(simulator.requests[-1].body["messages"])
