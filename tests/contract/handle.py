"""What every :class:`~trio_claude.SessionHandle` keeps to, whichever way it was got.

Each test is given a `place`, which opens a session somewhere and gives its handle. The service that
the session asks is always in the test's own run, so that a test can hold an answer back, let it fail,
and see what was asked, also where the session is in another process. So all is in real time here, and
nobody sleeps: tests wait for what happens.
"""

from __future__ import annotations

import contextlib
import math
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Protocol

import attrs
import pytest
import trio
import trio.testing

import trio_claude
from tests import faulty_server as faulty
from trio_claude import (
    APIConnectionError,
    APIStatusError,
    AssistantMessage,
    AuthenticationError,
    BadRequestError,
    BillingError,
    ConfigurationError,
    ConflictError,
    Event,
    InternalServerError,
    Interrupted,
    NotFoundError,
    OverloadedError,
    PermissionDeniedError,
    ProtocolError,
    QueryTimeout,
    RateLimitError,
    RequestTooLargeError,
    ResponseStream,
    ResultError,
    ResultMessage,
    SessionBusy,
    SessionCrashed,
    SessionHandle,
    SessionRestarted,
    SessionSpec,
    SessionTerminated,
    StreamInterrupted,
    SystemMessage,
    TextDelta,
    TrioClaudeError,
    UnprocessableEntityError,
    UsageError,
    open_session,
)
from trio_claude.simulator import Reply, Responder, Simulator, open_simulator

from .unruly import CRASH, FAIL, Unruly

PATIENCE = 30.0
"""Seconds; only what doesn't happen takes as long."""

IN_SOCKETS = 2 * 2**20
"""Bytes that the sockets between a service and a session of this run may take in."""

MODEL = "claude-sonnet-5-5"
MINE = "My favorite language is Python"
RUST = "My favorite language is Rust"
WHICH = "What's my favorite language?"


class Place(Protocol):
    """Where a session is, and what can be done to it there. One at a time is open."""

    @property
    def name(self) -> Hashable:
        """The name of the session."""

    @property
    def ahead(self) -> int:
        """Bytes of an answer that may be taken beyond what a session of this run takes."""

    def __call__(self, spec: SessionSpec) -> AbstractAsyncContextManager[SessionHandle]:
        """Open a session for the length of a block, and give its handle."""

    def find(self) -> SessionHandle:
        """Give it once more."""

    async def restart(self) -> None:
        """Have its supervisor restart it."""

    async def terminate(self) -> None:
        """Have its supervisor terminate it."""


# ---- what the tests are made of -----------------------------------------------------------------


def spec(place: Place, base_url: str, **options: Any) -> SessionSpec:
    """A session that asks the service at this address, and no more than once."""
    settings = {"api_key": "sk-test", "model": MODEL, "max_retries": 0, **options}
    return SessionSpec(name=place.name, base_url=base_url, **settings)


@asynccontextmanager
async def opened(
    place: Place, responder: Responder | None = None, **options: Any
) -> AsyncIterator[tuple[Simulator, SessionHandle]]:
    """A session, and the service that it asks."""
    with trio.fail_after(PATIENCE):
        async with open_simulator(responder) as simulator:
            async with place(spec(place, simulator.base_url, **options)) as session:
                yield simulator, session


class Caller:
    """Somebody who asks, in a task of its own."""

    def __init__(self) -> None:
        self.scope = trio.CancelScope()
        self.ended = trio.Event()
        self.got: ResultMessage | TrioClaudeError | None = None

    async def ask(self, session: SessionHandle, prompt: str) -> None:
        """Ask, and keep what comes of it."""
        with self.scope:
            try:
                self.got = await session.query(prompt)
            except TrioClaudeError as exc:
                self.got = exc
        self.ended.set()

    async def outcome(self) -> ResultMessage | TrioClaudeError | None:
        """What came of it; None if it was cancelled."""
        await self.ended.wait()
        return self.got


async def call(nursery: trio.Nursery, session: SessionHandle, prompt: str) -> Caller:
    """A caller that has asked, and is in line or served."""
    caller = Caller()
    nursery.start_soon(caller.ask, session, prompt)
    await heard(session)
    return caller


async def heard(session: SessionHandle) -> None:
    """Wait until the session, wherever it is, has heard of all that was asked of it."""
    await trio.testing.wait_all_tasks_blocked()
    with pytest.raises(UsageError):  # what it says at once, but after it was asked for the others
        await session.server_info()


async def read_to(kind: type[Event], events: ResponseStream) -> list[Event]:
    """The events up to the first one of a kind."""
    seen: list[Event] = []
    while not (seen and isinstance(seen[-1], kind)):
        seen.append(await events.receive())
    return seen


async def fails(events: ResponseStream, error: type[BaseException]) -> list[Event]:
    """Read on to the error that is to come; it is raised again, each time."""
    seen: list[Event] = []
    with pytest.raises(error) as caught:
        while True:
            seen.append(await events.receive())
    for _ in range(2):
        with pytest.raises(error) as again:
            await events.receive()
        assert caught.value is again.value
    return seen


def prompts(simulator: Simulator) -> list[str]:
    """What was asked, in its order."""
    return [talk(request.body["messages"])[-1] for request in simulator.requests]


def talk(messages: Sequence[Any]) -> list[str]:
    """The texts of a conversation."""
    return [
        content if isinstance(content := message["content"], str) else content[-1]["text"]
        for message in messages
    ]


def texts(events: Sequence[Event]) -> str:
    """The text of the deltas."""
    return "".join(event.text for event in events if isinstance(event, TextDelta))


def notes(error: BaseException) -> list[str]:
    """Its notes."""
    return list(getattr(error, "__notes__", ()))


def last_prompt(body: dict[str, Any]) -> str:
    """What a request asks."""
    return talk(body["messages"])[-1]


# ---- an answer ----------------------------------------------------------------------------------


async def test_a_query_gives_the_result(place: Place) -> None:
    """The text, the tokens that it took, why it ended, and the conversation's id."""
    async with opened(place, lambda body: "Hello there") as (_, session):
        result = await session.query("How are you?")

        assert ResultMessage is type(result)
        assert "Hello there" == str(result) == result.text == result.result
        assert ("success", False, "end_turn", 1) == (
            result.subtype,
            result.is_error,
            result.stop_reason,
            result.num_turns,
        )
        assert (3, 2) == (result.usage.input_tokens, result.usage.output_tokens)
        assert result.session_id is not None
        assert result.session_id == session.session_id


async def test_a_stream_gives_the_events_in_order(place: Place) -> None:
    """Init, deltas, the whole message, the result; then the end, each time; then it is closed."""
    async with opened(place, lambda body: "Hello there") as (_, session):
        async with session.stream("Hi") as events:
            seen = [event async for event in events]
            for _ in range(2):
                with pytest.raises(trio.EndOfChannel):
                    await events.receive()
        with pytest.raises(trio.ClosedResourceError):
            await events.receive()

        expected = [SystemMessage, TextDelta, TextDelta, AssistantMessage, ResultMessage]
        assert expected == [type(event) for event in seen]
        assert "Hello there" == texts(seen)
        assert isinstance(seen[-1], ResultMessage)
        assert session.session_id == seen[-1].session_id


_CONTENTS: dict[str, Any] = {
    "text": "Three words here",
    "unicode": "größer ≠ 日本語 👩🏽\u200d💻 \u202e\u0645\u0631\u062d\u2028 \x00 \x1b[0m e\u0301",
    "thinking": [
        {"type": "thinking", "thinking": "Let me see …"},
        {"type": "redacted_thinking", "data": "c2VjcmV0"},
        {"type": "text", "text": "I see"},
    ],
    "tools": [
        {"type": "text", "text": "I'll look"},
        {
            "type": "tool_use",
            "name": "look",
            "input": {"at": ["ä", 1, 2.5, None, {"deep": [True]}], "long": "x" * 100},
        },
        {"type": "tool_use", "name": "touch", "input": {}},
    ],
    "unknown": [
        {"type": "hologram", "data": {"x": [1, {"y": None}]}},
        {"type": "text", "text": "There", "citations": [{"type": "page", "page": 7}]},
    ],
    "counts": Reply("Well", usage={"cache_read_input_tokens": 70, "of_a_new_kind": {"n": 1}}),
    "many": " ".join(f"{number}" for number in range(1_000)),
}


@pytest.mark.parametrize("kind", _CONTENTS)
async def test_every_event_is_what_it_is_without_a_supervisor(place: Place, kind: str) -> None:
    """All kinds of content, equal to what a session gives that is opened here and asked the same."""

    def same(event: Event) -> Event:
        match event:
            case ResultMessage():
                return attrs.evolve(event, session_id=None, duration_ms=0, duration_api_ms=0)
            case SystemMessage(subtype, data):
                return SystemMessage(subtype, {**data, "session_id": None})
        return event

    async def ask(session: SessionHandle) -> list[Event]:
        async with session.stream("Hi") as events:
            seen = [same(event) async for event in events]
        await session.clear()  # what it knows is for the service to take back, or not
        return [*seen, same(await session.query("Hi"))]

    async with opened(place, lambda body: _CONTENTS[kind]) as (_, session):
        seen = await ask(session)
    async with open_simulator(lambda body: _CONTENTS[kind]) as simulator:
        async with open_session(
            base_url=simulator.base_url, api_key="sk-test", model=MODEL
        ) as session:
            expected = await ask(session)

    assert expected == seen
    assert list(map(type, expected)) == list(map(type, seen))


async def test_large_prompts_and_answers(place: Place) -> None:
    """A megabyte each way, in one piece, arrives as it was."""
    prompt, reply = "ä" * 2**19, "y" * 2**20
    async with opened(place, lambda body: reply) as (simulator, session):
        assert reply == (await session.query(prompt)).text
        async with session.stream("Again") as events:
            assert reply == texts([event async for event in events])

        assert prompt == prompts(simulator)[0]
        assert [prompt, reply, "Again"] == talk(simulator.requests[-1].body["messages"])


async def test_a_handle_may_be_asked_by_the_functions_too(place: Place) -> None:
    """`query` and `stream` take it in the place of a name."""
    async with opened(place, lambda body: "Hello") as (_, session):
        assert "Hello" == str(await trio_claude.query(session, "Hi", max_tokens=10))
        async with trio_claude.stream(session, "Hi") as events:
            assert "Hello" == texts([event async for event in events])


# ---- a conversation -----------------------------------------------------------------------------


async def test_a_conversation_goes_on_until_it_is_cleared(place: Place) -> None:
    """Later turns know the earlier ones; clear() forgets them, and the conversation's id."""
    async with opened(place) as (_, session):
        assert session.session_id is None

        first = (await session.query(MINE)).session_id
        assert first is not None
        assert first == session.session_id
        assert "Python" in str(await session.query(WHICH))
        assert first == session.session_id

        await session.clear()

        assert session.session_id is None
        second = await session.query(WHICH)
        assert "don't know" in str(second)
        assert second.session_id not in (None, first)
        assert second.session_id == session.session_id


async def test_clear_waits_in_line(place: Place) -> None:
    """It forgets what was asked before it, and not what is asked after it."""
    async with opened(place) as (simulator, session), trio.open_nursery() as nursery:
        hold = simulator.hold_next()
        before = await call(nursery, session, MINE)
        await hold.started.wait()
        nursery.start_soon(session.clear)
        await heard(session)
        behind = await call(nursery, session, WHICH)
        hold.release()

        assert isinstance(await before.outcome(), ResultMessage)
        assert "don't know" in str(await behind.outcome())


async def test_a_clear_that_is_cancelled_in_line_forgets_nothing(place: Place) -> None:
    """The conversation goes on."""
    async with opened(place) as (simulator, session), trio.open_nursery() as nursery:
        hold = simulator.hold_next()
        before = await call(nursery, session, MINE)
        await hold.started.wait()
        async with trio.open_nursery() as clearing:
            clearing.start_soon(session.clear)
            await heard(session)
            clearing.cancel_scope.cancel()
        behind = await call(nursery, session, WHICH)
        hold.release()

        assert isinstance(await before.outcome(), ResultMessage)
        assert "Python" in str(await behind.outcome())


# ---- a line of callers --------------------------------------------------------------------------


async def test_callers_are_served_in_their_order_one_at_a_time(place: Place) -> None:
    """Twenty of them, who came at once while another one was served; and twenty more, and more."""
    at_once: set[str] = set()

    async def answer(body: dict[str, Any]) -> str:
        prompt = last_prompt(body)
        at_once.add(prompt)
        assert {prompt} == at_once
        await trio.lowlevel.checkpoint()
        at_once.remove(prompt)
        return f"to {prompt}"

    came: list[str] = []

    async def ask(session: SessionHandle, prompt: str) -> None:
        came.append(prompt)
        assert f"to {prompt}" == str(await session.query(prompt))

    async with opened(place, answer) as (simulator, session):
        for _ in range(5):
            async with trio.open_nursery() as nursery:
                hold = simulator.hold_next()
                nursery.start_soon(ask, session, "before")
                await hold.started.wait()
                for number in range(20):
                    nursery.start_soon(ask, session, f"{number}")
                await heard(session)
                hold.release()

        assert 105 == len(came)
        assert came == prompts(simulator)


async def test_a_caller_that_is_cancelled_in_line_leaves_no_trace(place: Place) -> None:
    """Nothing is asked for it; those before and behind it are served."""
    async with opened(place) as (simulator, session), trio.open_nursery() as nursery:
        hold = simulator.hold_next()
        callers = [await call(nursery, session, "first")]
        await hold.started.wait()
        never = await call(nursery, session, "never")
        callers.append(await call(nursery, session, "last"))
        never.scope.cancel()
        assert await never.outcome() is None
        hold.release()

        for caller in callers:
            assert isinstance(await caller.outcome(), ResultMessage)
        assert ["first", "last"] == prompts(simulator)
        assert 3 == len(simulator.requests[-1].body["messages"])


async def test_max_queue_turns_the_next_caller_away_at_once(place: Place) -> None:
    """SessionBusy for one more than max_queue, for that caller only."""
    async with opened(place, max_queue=1) as (simulator, session):
        async with trio.open_nursery() as nursery:
            hold = simulator.hold_next()
            callers = [await call(nursery, session, "first")]
            await hold.started.wait()
            callers.append(await call(nursery, session, "second"))
            with pytest.raises(SessionBusy, match="max_queue=1 may wait for it") as caught:
                await session.query("one too many")
            assert SessionBusy is type(caught.value)
            with pytest.raises(SessionBusy):
                async with session.stream("one too many"):
                    raise AssertionError("never entered")
            hold.release()

            for caller in callers:
                assert isinstance(await caller.outcome(), ResultMessage)
        assert ["first", "second"] == prompts(simulator)


async def test_without_a_queue_one_caller_after_the_other_is_fine(place: Place) -> None:
    """max_queue=0 refuses to wait, not to ask again as soon as there was an answer."""
    async with opened(place, max_queue=0) as (simulator, session):
        for _ in range(3):
            await session.query("work")
            async with session.stream("work") as events:
                await events.receive()
        assert 6 == len(simulator.requests)


# ---- a turn that is left ------------------------------------------------------------------------


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


# ---- interrupt and stop -------------------------------------------------------------------------


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


@pytest.mark.parametrize("restart", ["transient", "permanent"])
async def test_stop_lets_the_turn_finish(place: Place, restart: str) -> None:
    """A transient session then stays down, for those in line too; a permanent one comes back."""
    async with opened(place, restart=restart) as (simulator, session):
        await session.query(MINE)
        async with trio.open_nursery() as nursery:
            hold = simulator.hold_next()
            caller = await call(nursery, session, "work")
            await hold.started.wait()
            behind = await call(nursery, session, WHICH)
            nursery.start_soon(session.stop)
            await heard(session)
            hold.release()
            assert isinstance(await caller.outcome(), ResultMessage)
            outcome = await behind.outcome()

        if restart == "permanent":
            assert "don't know" in str(outcome)
            assert session.is_alive()
            return
        assert SessionTerminated is type(outcome)
        assert outcome.name == place.name
        assert ("stopped", False, None) == (session.status, session.is_alive(), session.session_id)
        await session.stop()
        with pytest.raises(SessionTerminated):
            await session.query("more")


async def test_a_stopped_session_that_is_started_again(place: Place) -> None:
    """Its handle is good again, and it is the same one."""
    async with opened(place, restart="transient") as (_, session):
        for _number in range(5):  # much has been told of it
            await session.query(MINE)
            await session.clear()
        await session.stop()
        with pytest.raises(SessionTerminated):
            await session.query(WHICH)
        await trio.testing.wait_all_tasks_blocked(cushion=0.1)  # its name is given back
        with pytest.raises(SessionTerminated):
            await session.query(WHICH)
        assert "stopped" == session.status
        await place.restart()
        assert "don't know" in str(await session.query(WHICH))
        assert ("running", True) == (session.status, session.is_alive())
        assert place.find() is session


async def test_a_cancelled_stop_still_stops(place: Place) -> None:
    """Who asked the session to finish needn't wait for it."""
    async with opened(place, restart="transient") as (simulator, session):
        async with trio.open_nursery() as nursery:
            hold = simulator.hold_next()
            caller = await call(nursery, session, "work")
            await hold.started.wait()
            async with trio.open_nursery() as stopping:
                stopping.start_soon(session.stop)
                await heard(session)
                stopping.cancel_scope.cancel()
            behind = await call(nursery, session, "never")
            hold.release()
            assert isinstance(await caller.outcome(), ResultMessage)
            assert isinstance(await behind.outcome(), SessionTerminated)


# ---- what a call may say ------------------------------------------------------------------------


async def test_an_option_of_a_call_holds_for_its_turn(place: Place) -> None:
    """The model and the length, for one question; then it is as before."""
    async with opened(place) as (simulator, session):
        await session.query("Hi", model="claude-opus-5-5", max_tokens=7)
        async with session.stream("Hi", system_prompt="You are a poet") as events:
            assert [event async for event in events]
        await session.query("Hi")

        one, two, three = (request.body for request in simulator.requests)
        assert ("claude-opus-5-5", 7) == (one["model"], one["max_tokens"])
        assert (MODEL, "You are a poet") == (two["model"], two["system"])
        assert (MODEL, None) == (three["model"], three.get("system"))
        assert 7 != three["max_tokens"]


@pytest.mark.parametrize(
    ("prompt", "options", "message"),
    [
        ("", {}, "prompt must be text that is not empty"),
        (" \n", {}, "prompt must be text that is not empty"),
        (7, {}, "prompt must be text that is not empty"),
        ("Hi", {"modle": "opus"}, "did you mean 'model'"),
        ("Hi", {"max_tokens": 0}, "max_tokens must be"),
        ("Hi", {"timeout": "soon"}, "timeout must be"),
    ],
)
async def test_what_is_wrong_is_refused_by_the_call(
    place: Place, prompt: Any, options: dict[str, Any], message: str
) -> None:
    """By name, before anything is asked; and the next turn works."""
    async with opened(place) as (simulator, session):
        with pytest.raises(ConfigurationError, match=message):
            await session.query(prompt, **options)
        with pytest.raises(ConfigurationError, match=message):
            session.stream(prompt, **options)

        await session.query("Hi")
        assert ["Hi"] == prompts(simulator)


async def test_what_only_the_backend_can_refuse(place: Place) -> None:
    """ConfigurationError of the turn, as its caller's alone: the session goes on."""
    async with opened(place) as (simulator, session):
        await session.query(MINE)
        with pytest.raises(ConfigurationError, match="extra_body must not set 'messages'") as info:
            await session.query("Hi", extra_body={"messages": []})
        assert [f"in a turn of session {place.name!r}"] == notes(info.value)
        async with session.stream("Hi", extra_body={"messages": []}) as events:
            assert [] == await fails(events, ConfigurationError)

        assert "Python" in str(await session.query(WHICH))
        assert [MINE, WHICH] == prompts(simulator)


async def test_methods_that_this_backend_does_not_have(place: Place) -> None:
    """UsageError says which backend has them; what is not valid is refused as such."""
    async with opened(place) as (_, session):
        calls: dict[str, Callable[[], Awaitable[object]]] = {
            "set_model": lambda: session.set_model("opus"),
            "set_permission_mode": lambda: session.set_permission_mode("plan"),
            "mcp_status": session.mcp_status,
            "server_info": session.server_info,
            "context_usage": session.context_usage,
            "rewind_files": lambda: session.rewind_files("id"),
        }
        for method, ask in calls.items():
            with pytest.raises(UsageError, match=f"has no {method}: .*'cli' have it$") as caught:
                await ask()
            assert UsageError is type(caught.value)
        with pytest.raises(ConfigurationError, match="model must be"):
            await session.set_model("")


# ---- errors -------------------------------------------------------------------------------------

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


# ---- a session that goes away -------------------------------------------------------------------


async def test_a_crash_in_a_turn(place: Place) -> None:
    """Its caller learns why; the session comes back and knows nothing; those in line are served."""

    def answer(body: dict[str, Any]) -> str:
        return f"Oh{CRASH}" if "crash" in last_prompt(body) else "fine"

    async with opened(place, answer, backend=Unruly()) as (simulator, session):
        await session.query(MINE)
        async with trio.open_nursery() as nursery:
            hold = simulator.hold_next()
            async with session.stream("crash") as events:
                await read_to(TextDelta, events)
                behind = [await call(nursery, session, f"{number}") for number in range(3)]
                hold.release()
                assert [] == await fails(events, SessionCrashed)
                with pytest.raises(trio.BrokenResourceError) as caught:
                    await events.receive()
            assert ["fine"] * 3 == [str(await caller.outcome()) for caller in behind]

        error = caught.value
        assert isinstance(error, SessionCrashed)
        assert SessionCrashed is type(error)
        assert f"session {place.name!r} crashed in this turn" in str(error)
        assert place.name == error.name
        cause = error.__cause__
        assert (ProtocolError, "no such word") == (type(cause), str(cause))
        assert cause is not None
        assert (ValueError, "CRASH") == (type(cause.__cause__), str(cause.__cause__))
        assert [MINE, "crash", "0", "1", "2"] == prompts(simulator)
        assert [1, 3, 1, 3, 5] == [len(r.body["messages"]) for r in simulator.requests]
        assert session.is_alive()


async def test_a_crash_reaches_a_query(place: Place) -> None:
    """And the next one is answered by the session's next incarnation."""
    replies = [f"Oh{CRASH}", "fine"]
    async with opened(place, lambda body: replies.pop(0), backend=Unruly()) as (_, session):
        with pytest.raises(SessionCrashed) as caught:
            await session.query("Hi")
        assert isinstance(caught.value.__cause__, ProtocolError)
        assert "fine" == str(await session.query("Hi"))


async def test_a_session_that_is_restarted(place: Place) -> None:
    """SessionRestarted for the turn in flight; those in line are served by what knows nothing."""
    async with opened(place, shutdown=0) as (simulator, session):
        await session.query(MINE)
        async with trio.open_nursery() as nursery:
            hold = simulator.hold_next()
            caller = await call(nursery, session, "long")
            await hold.started.wait()
            behind = await call(nursery, session, WHICH)
            await place.restart()
            error = await caller.outcome()
            assert "don't know" in str(await behind.outcome())
        await hold.ended.wait()

        assert SessionRestarted is type(error)
        assert isinstance(error, trio.BrokenResourceError)
        assert place.name == error.name
        assert f"session {place.name!r} was restarted in this turn" == str(error)
        assert place.find() is session
        assert session.is_alive()


async def test_a_session_that_is_terminated(place: Place) -> None:
    """SessionTerminated for the turn in flight, for those in line, and for all who come."""
    async with opened(place, shutdown=0) as (simulator, session):
        async with trio.open_nursery() as nursery:
            hold = simulator.hold_next()
            callers = [await call(nursery, session, "long")]
            await hold.started.wait()
            callers += [await call(nursery, session, f"{number}") for number in range(3)]
            await place.terminate()
            errors = [await caller.outcome() for caller in callers]
        await hold.ended.wait()

        assert [SessionTerminated] * 4 == [type(error) for error in errors]
        said = {str(error) for error in errors[1:]}
        gone = "it was terminated, has finished, or its supervisor ended"
        assert {f"session {place.name!r} is stopped: {gone}"} == said
        assert f"session {place.name!r} was stopped in this turn" == str(errors[0])
        for error in errors:
            assert isinstance(error, SessionTerminated)
            assert isinstance(error, trio.BrokenResourceError)
            assert place.name == error.name
        assert ["long"] == prompts(simulator)


async def test_a_handle_after_the_end(place: Place) -> None:
    """All that asks it is SessionTerminated; there is nothing left to interrupt or to stop."""
    async with opened(place) as (simulator, session):
        await session.query("Hi")
        await place.terminate()
        calls: list[Callable[[], Awaitable[object]]] = [
            lambda: session.query("more"),
            lambda: trio_claude.query(session, "more"),
            session.clear,
            lambda: session.set_model("opus"),
        ]
        for ask in calls:
            with pytest.raises(SessionTerminated, match="stopped") as caught:
                await ask()
            assert SessionTerminated is type(caught.value)
            assert place.name == caught.value.name
        with pytest.raises(SessionTerminated):
            async with session.stream("more"):
                raise AssertionError("never entered")
        await session.interrupt()
        await session.stop()

        assert ("stopped", False, None) == (session.status, session.is_alive(), session.session_id)
        assert f"<SessionHandle {place.name!r} stopped>" == repr(session)
        assert ["Hi"] == prompts(simulator)


async def test_a_handle_is_of_its_session_not_of_the_next_of_that_name(place: Place) -> None:
    """Whoever had the name before stays stopped, and whoever has it now is up from the beginning."""
    async with opened(place) as (simulator, before):
        await before.query(MINE)
        await place.terminate()
        async with place(spec(place, simulator.base_url)) as session:
            assert session is place.find()
            assert "running" == session.status
            with pytest.raises(SessionTerminated):
                await before.query(WHICH)
            assert "stopped" == before.status
            assert "don't know" in str(await session.query(WHICH))
            assert "running" == session.status


# ---- what a handle says, and refuses ------------------------------------------------------------


async def test_a_handle_says_what_it_is(place: Place) -> None:
    """Name, id, state; before, in and after a turn; and it is the same object each time."""
    async with opened(place) as (simulator, session):
        expected = (place.name, place.name, "running", True, None)

        def said() -> tuple[object, ...]:
            return session.name, session.id, session.status, session.is_alive(), session.session_id

        assert expected == said()
        assert f"<SessionHandle {place.name!r} running>" == repr(session)
        assert session is place.find()
        assert isinstance(session, SessionHandle)
        hold = simulator.hold_next()
        async with session.stream("Hi") as events:
            assert isinstance(events, ResponseStream)
            await read_to(TextDelta, events)
            assert "<ResponseStream open>" == repr(events)
            assert expected == said()
            hold.release()
            seen = [event async for event in events]
        assert "<ResponseStream ended>" == repr(events)
        assert isinstance(seen[-1], ResultMessage)
        assert (*expected[:-1], seen[-1].session_id) == said()
        await place.terminate()
        with pytest.raises(SessionTerminated):
            await session.query("more")
    assert (place.name, place.name, "stopped", False, None) == said()


async def test_a_session_with_an_id_of_its_own(place: Place) -> None:
    """The handle has both, and errors call it by its name."""
    async with opened(place, id=7) as (simulator, session):
        assert (place.name, 7) == (session.name, session.id)
        simulator.fail_next(500)
        with pytest.raises(InternalServerError) as caught:
            await session.query("Hi")
        assert [f"in a turn of session {place.name!r}"] == notes(caught.value)


async def test_a_task_that_reads_a_session_cannot_ask_it_meanwhile(place: Place) -> None:
    """It would wait for itself: refused; another task may wait, and is served."""
    async with opened(place, restart="transient") as (simulator, session):
        hold = simulator.hold_next()
        async with trio.open_nursery() as nursery:
            async with session.stream("first") as events:
                await read_to(TextDelta, events)
                refused: list[Callable[[], Awaitable[object]]] = [
                    lambda: session.query("second"),
                    session.clear,
                ]
                for ask in refused:
                    with pytest.raises(UsageError, match="leave the stream first") as caught:
                        await ask()
                    assert UsageError is type(caught.value)
                with pytest.raises(UsageError, match="leave the stream first"):
                    session.stream("second")
                behind = await call(nursery, session, "another task")
                hold.release()
                assert [event async for event in events]
                await session.query("the stream has ended")
            assert isinstance(await behind.outcome(), ResultMessage)
        first, second = session.stream("1"), session.stream("2")
        async with first:
            with pytest.raises(UsageError, match="leave the stream first"):
                async with second:
                    raise AssertionError("never entered")
        assert ["first", "another task", "the stream has ended"] == prompts(simulator)[:3]


async def test_a_task_that_reads_a_session_may_stop_and_interrupt_it(place: Place) -> None:
    """stop() doesn't wait for the turn then, which waits for this task; interrupt() ends it."""
    async with opened(place, restart="transient") as (simulator, session):
        simulator.hold_next()
        async with session.stream("Hi") as events:
            await read_to(TextDelta, events)
            await session.interrupt()
            await fails(events, Interrupted)
        async with session.stream("Hi") as events:
            await events.receive()
            await session.stop()
            seen = [event async for event in events]
            assert isinstance(seen[-1], ResultMessage)
        with pytest.raises(SessionTerminated):
            await session.query("more")


async def test_a_handle_belongs_to_its_run(place: Place) -> None:
    """Another run is refused, and disturbs nothing."""

    def elsewhere(ask: Callable[[], Awaitable[object]]) -> None:
        with pytest.raises(UsageError, match="another Trio run"):
            trio.run(ask)

    async with opened(place) as (simulator, session):
        for ask in (lambda: session.query("Hi"), session.clear, session.interrupt, session.stop):
            await trio.to_thread.run_sync(elsewhere, ask)
        async with session.stream("Hi") as events:
            await trio.to_thread.run_sync(elsewhere, events.receive)
            await trio.to_thread.run_sync(elsewhere, events.aclose)
            assert isinstance([event async for event in events][-1], ResultMessage)
        assert ["Hi"] == prompts(simulator)
