"""The line of callers: first come, first taken; who is cancelled was never in it."""

from __future__ import annotations

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from trio_claude._session.line import Line, Taker
from trio_claude._session.question import Clear


async def test_requests_are_taken_in_the_order_in_which_they_came() -> None:
    """A caller waits until its own request is taken, however many others wait."""
    line = Line()
    requests = [Clear() for _ in range(3)]
    taken = []

    async def call(request: Clear) -> None:
        await line.put(request)
        taken.append(request)

    async with trio.open_nursery() as nursery:
        for request in requests:
            nursery.start_soon(call, request)
            await wait_all_tasks_blocked()
        assert (len(line), taken) == (3, [])
        with Taker(line) as taker:
            for number, request in enumerate(requests, 1):
                assert await taker.receive() is request
                await wait_all_tasks_blocked()
                assert (len(line), taken) == (3 - number, requests[:number])


async def test_one_who_waits_for_a_request_gets_the_next_one() -> None:
    """Then the caller does not wait, and nobody stands in line."""
    line = Line()
    request = Clear()
    received = []

    async def take() -> None:
        with Taker(line) as taker:
            received.append(await taker.receive())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(take)
        await wait_all_tasks_blocked()
        await line.put(request)
    assert received == [request]
    assert len(line) == 0


async def test_a_caller_that_is_cancelled_was_never_in_the_line() -> None:
    """Its place is gone; those behind it move up."""
    line = Line()
    request = Clear()
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(line.put, Clear())
            await wait_all_tasks_blocked()
            scope.cancel()
    assert len(line) == 0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(line.put, request)
        with Taker(line) as taker:
            assert await taker.receive() is request


async def test_a_caller_that_is_cancelled_before_is_not_let_in() -> None:
    """Even where somebody waits for a request."""
    line = Line()

    async with trio.open_nursery() as nursery:
        with Taker(line) as taker:
            nursery.start_soon(taker.receive)
            await wait_all_tasks_blocked()
            with trio.CancelScope() as scope:
                scope.cancel()
                await line.put(Clear())
            assert scope.cancelled_caught
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()


async def test_one_who_is_cancelled_while_it_waits_for_a_request_takes_none() -> None:
    """The next request waits for the next one."""
    line = Line()
    with trio.move_on_after(0):
        await Taker(line).receive()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(line.put, Clear())
        await wait_all_tasks_blocked()
        assert len(line) == 1
        await Taker(line).receive()


@pytest.mark.parametrize("first", ["caller", "taker"])
async def test_a_cancellation_comes_too_late_once_the_request_is_handed_over(first: str) -> None:
    """Whoever comes second is cancelled by the first, right then, and has the request all the same."""

    async def hand_over() -> None:
        line = Line()
        taker = Taker(line)
        scope = trio.CancelScope()

        async def call() -> None:
            await line.put(Clear())

        async def take() -> None:
            await taker.receive()

        async def wait_and_cancel() -> None:
            await (call if first == "caller" else take)()
            scope.cancel()

        done = False
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait_and_cancel)
            await wait_all_tasks_blocked()
            with scope:
                await (take if first == "caller" else call)()
                done = True
        assert done

    for _ in range(20):  # Trio runs the two in any order
        await hand_over()


async def test_a_closed_line_turns_all_away() -> None:
    """Those who wait at once, and whoever comes."""
    line = Line()

    async def call() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await line.put(Clear())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(call)
        nursery.start_soon(call)
        await wait_all_tasks_blocked()
        line.close()
        assert len(line) == 0
    line.close()
    await call()


async def test_one_end_is_closed_and_the_line_stays_open() -> None:
    """Closing wakes who waits there; the requests are for the next one."""
    line = Line()
    request = Clear()

    async def take(taker: Taker) -> None:
        with pytest.raises(trio.ClosedResourceError):
            await taker.receive()

    async with trio.open_nursery() as nursery:
        taker = Taker(line)
        nursery.start_soon(take, taker)
        await wait_all_tasks_blocked()
        taker.close()
    await take(taker)
    taker.close()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(line.put, request)
        await wait_all_tasks_blocked()
        with Taker(line) as another:
            taker.close()
            assert await another.receive() is request
