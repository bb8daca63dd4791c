"""Turns that end before their answer does: left, not read on, or interrupted."""

from __future__ import annotations

import contextlib
import socket
import time

import pytest
import trio
import trio.testing

from tests import faulty_server as faulty
from trio_claude import AssistantMessage, Event, Interrupted, ResultMessage, TextDelta

from .kit import (
    MINE,
    MODEL,
    PATIENCE,
    RUST,
    WHICH,
    Place,
    call,
    fails,
    notes,
    opened,
    read_to,
    spec,
    talk,
    texts,
)

IN_SOCKETS = 2 * 2**20
"""Bytes that the sockets between a service and a session of this run may take in."""


# ---- a turn that is left -------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["cancel", "cancel a stream", "leave", "raise", "close"])
async def test_a_turn_that_is_left_early_is_forgotten(place: Place, way: str) -> None:
    """The response is closed at its source, and the conversation is as it was before the turn."""
    async with opened(place) as (simulator, session):
        await session.query(MINE)
        hold = simulator.hold_next()
        if way == "cancel":
            async with trio.open_nursery() as nursery:
                caller = await call(nursery, session, RUST)
                await hold.started.wait()
                caller.scope.cancel()
            assert await caller.outcome() is None
        else:
            with contextlib.suppress(KeyError), trio.CancelScope() as scope:
                async with session.stream(RUST) as events:
                    await read_to(TextDelta, events)
                    if way == "cancel a stream":
                        scope.cancel()
                        await events.receive()
                    if way == "raise":
                        raise KeyError(way)
                    if way == "close":
                        await events.aclose()
                        with pytest.raises(trio.ClosedResourceError):
                            await events.receive()
            with pytest.raises(trio.ClosedResourceError):
                await events.receive()
        await hold.ended.wait()
        assert not hold.released

        assert "Python" in str(await session.query(WHICH))
        assert 3 == len(simulator.requests[-1].body["messages"])


async def test_a_result_that_nobody_has_received_is_forgotten(place: Place) -> None:
    """Also if all but the result was received when the reader leaves, and nothing else is to come."""
    async with opened(place) as (simulator, session):
        await session.query(MINE)
        async with session.stream(RUST) as events:
            await read_to(AssistantMessage, events)
            await trio.testing.wait_all_tasks_blocked(cushion=0.1)

        assert "Python" in str(await session.query(WHICH))
        assert 3 == len(simulator.requests[-1].body["messages"])


async def test_a_turn_can_be_interrupted_until_its_result_is_received(place: Place) -> None:
    """However much of its answer has come already."""
    async with opened(place) as (_, session):
        await session.query(MINE)
        async with session.stream(RUST) as events:
            await read_to(AssistantMessage, events)
            await trio.testing.wait_all_tasks_blocked(cushion=0.1)
            await session.interrupt()
            await fails(events, Interrupted)

        assert "Python" in str(await session.query(WHICH))


async def test_a_query_that_is_cancelled_with_its_answer_under_way(place: Place) -> None:
    """The conversation remembers a turn if its caller has the result, and only then."""
    async with opened(place) as (simulator, session):
        await session.query(MINE)
        hold = simulator.hold_next()
        async with trio.open_nursery() as nursery:
            caller = await call(nursery, session, RUST)
            await hold.started.wait()
            hold.release()
            await hold.ended.wait()
            time.sleep(0.3)  # noqa: ASYNC251 - nothing may happen in this run meanwhile
            caller.scope.cancel()
        has_it = await caller.outcome() is not None

        assert ("Rust" if has_it else "Python") in str(await session.query(WHICH))


async def test_a_cancelled_receive_loses_no_event(place: Place) -> None:
    """Whoever reads on gets all of them."""
    words = [f"{number} " for number in range(50)]
    async with opened(place, lambda body: "".join(words)) as (simulator, session):
        hold = simulator.hold_next()
        async with session.stream("Count") as events:
            seen = await read_to(TextDelta, events)
            for _ in range(3):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(events.receive)
                    await trio.testing.wait_all_tasks_blocked()
                    nursery.cancel_scope.cancel()
            hold.release()
            while not isinstance(seen[-1], ResultMessage):
                with trio.CancelScope() as scope:
                    scope.cancel()
                    seen.append(await events.receive())  # the result is given all the same
                if scope.cancelled_caught:
                    seen.append(await events.receive())

        assert "".join(words) == texts(seen)


async def test_two_tasks_share_a_stream(place: Place) -> None:
    """Each gets its events in order, none twice, and one of them the result."""
    words = [f" {number:03}" for number in range(600)]
    async with opened(place, lambda body: "".join(words)) as (_, session):
        async with session.stream("Count") as events:
            shares: list[list[Event]] = [[], []]

            async def read(share: list[Event]) -> None:
                async for event in events:
                    share.append(event)
                    await trio.lowlevel.checkpoint()

            async with trio.open_nursery() as nursery:
                for share in shares:
                    nursery.start_soon(read, share)
        one, other = ([e.text for e in share if isinstance(e, TextDelta)] for share in shares)
        assert [sorted(one), sorted(other)] == [one, other]
        assert words == sorted(one + other)
        assert 1 == sum(isinstance(e, ResultMessage) for share in shares for e in share)


async def test_a_stream_that_another_task_closes(place: Place) -> None:
    """Who receives then gets ClosedResourceError, like with any channel of Trio's."""
    async with opened(place) as (simulator, session):
        hold = simulator.hold_next()
        async with session.stream("Hi") as events, trio.open_nursery() as nursery:
            await read_to(TextDelta, events)

            async def read() -> None:
                with pytest.raises(trio.ClosedResourceError):
                    await events.receive()

            nursery.start_soon(read)
            await trio.testing.wait_all_tasks_blocked()
            await events.aclose()
            assert "<ResponseStream ended>" == repr(events)
        await hold.ended.wait()


@pytest.mark.parametrize("read_first", [0, 2])
async def test_a_reader_that_does_not_read(place: Place, read_first: int) -> None:
    """Nothing is read from the socket either, but for a little; and read on, all of it is there."""
    text = "x" * 1_000
    delta = {"type": "text_delta", "text": text}
    piece = faulty.sse({"type": "content_block_delta", "index": 0, "delta": delta})
    count = 8_000
    sent = 0

    async def play(exchange: faulty.Exchange) -> None:
        nonlocal sent
        payloads = faulty.payloads()
        exchange.stream.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 * 1024)
        await exchange.send(faulty.head(), faulty.chunk(faulty.events(payloads[:2])))
        for _ in range(0, count, 100):
            await exchange.send(faulty.chunk(piece * 100))
            sent += 100 * len(piece)
        await exchange.send(faulty.chunk(faulty.events(payloads[2:])), faulty.LAST_CHUNK)
        exchange.keep = True

    with trio.fail_after(PATIENCE):
        async with faulty.open_faulty_server(play) as server:
            async with place(spec(place, server.base_url)) as session:
                async with session.stream("Hi") as events:
                    seen = [await events.receive() for _ in range(read_first)]
                    await trio.testing.wait_all_tasks_blocked(cushion=0.2)
                    assert 0 < sent < IN_SOCKETS + place.ahead
                    seen += [event async for event in events]

    assert count * len(text) == len(texts(seen))
    assert isinstance(seen[-1], ResultMessage)


# ---- interrupt -----------------------------------------------------------------------------------


async def test_interrupt_ends_the_turn_and_not_the_session(place: Place) -> None:
    """Its caller gets Interrupted with what there was; those in line are served; it is forgotten."""
    async with opened(place, lambda body: "Well, well") as (simulator, session):
        await session.query("before")
        async with trio.open_nursery() as nursery:
            hold = simulator.hold_next()
            async with session.stream("long") as events:
                await read_to(TextDelta, events)
                behind = await call(nursery, session, "behind")
                nursery.start_soon(session.interrupt)
                with pytest.raises(Interrupted, match=r"^the turn was interrupted") as caught:
                    await events.receive()
                assert [] == await fails(events, Interrupted)
            await hold.ended.wait()
            assert isinstance(await behind.outcome(), ResultMessage)

        error = caught.value
        assert Interrupted is type(error)
        assert error.partial is not None
        assert ("Well,", MODEL) == (error.partial.text, error.partial.model)
        assert [f"in a turn of session {place.name!r}"] == notes(error)
        assert session.is_alive()
        assert ["before", "Well, well", "behind"] == talk(simulator.requests[-1].body["messages"])


async def test_interrupt_reaches_a_query(place: Place) -> None:
    """It returns once the turn is off the session."""
    async with opened(place) as (simulator, session), trio.open_nursery() as nursery:
        hold = simulator.hold_next()
        caller = await call(nursery, session, "long")
        await hold.started.wait()
        await session.interrupt()
        assert isinstance(await caller.outcome(), Interrupted)
        await hold.ended.wait()
        await session.query("short")


async def test_interrupt_without_a_turn_does_nothing(place: Place) -> None:
    """An idle session doesn't mind."""
    async with opened(place) as (_, session):
        await session.query(MINE)
        await session.interrupt()

        assert session.is_alive()
        assert "Python" in str(await session.query(WHICH))
