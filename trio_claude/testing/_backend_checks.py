"""What every backend promises, shown of any one of them through its three methods alone.

Each check opens connections of its own, and asserts outside of its turns' blocks, for a backend may
do anything with what is raised inside. The talk is about favorite languages: a model, the simulator and a
:class:`ScriptedBackend` without answers of its own all know what they were told in the same
conversation, and nothing else.
"""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, get_args

import trio

from .._backends.base import Backend, Connection, Conversation
from .._messages import AssistantMessage, Event, ResultMessage, SystemMessage, TextDelta
from .._options import SessionOptions

TOLD = "My favorite language is Python"
TOLD_IN_VAIN = "My favorite language is Rebmuno"
ASKED = "What's my favorite language?"


async def events_in_order(backend: Backend, options: SessionOptions) -> None:
    """An init first, pieces that join to the message and the result, one result, and the end."""
    events: list[Any] = []
    ends = False
    async with (
        _conversation(backend, options) as conversation,
        conversation.turn(TOLD, options) as channel,
    ):
        try:
            while len(events) < 10_000:
                events.append(await channel.receive())
        except trio.EndOfChannel:
            ends = True
    expect(ends, "there is no EndOfChannel after the answer")
    strangers = [event for event in events if not isinstance(event, get_args(Event))]
    expect(not strangers, f"what it gives are no events: {strangers}")
    results = [event for event in events if isinstance(event, ResultMessage)]
    expect(len(results) == 1, f"a turn has one ResultMessage, not {len(results)}")
    expect(events[-1] is results[0], "the ResultMessage is not the last event")
    expect(not results[0].is_error, "a ResultMessage with is_error is no answer: raise instead")
    first = events[0]
    expect(
        isinstance(first, SystemMessage) and first.subtype == "init",
        f"the first event is not SystemMessage('init'), but {first!r}",
    )
    pieces = "".join(event.text for event in events if isinstance(event, TextDelta))
    whole = [event.text for event in events if isinstance(event, AssistantMessage)]
    expect(pieces != "", "there is no TextDelta in the answer")
    expect(pieces == "".join(whole), f"the deltas join to {pieces!r}, the messages to {whole!r}")
    expect(
        whole[-1:] == [results[0].result],
        f"the result is {results[0].result!r}, and the messages are {whole!r}",
    )


async def conversation_remembers(backend: Backend, options: SessionOptions) -> None:
    """A turn that succeeded is known to the later ones of its conversation."""
    async with _conversation(backend, options) as conversation:
        await _ask(conversation, TOLD, options)
        await _ask(conversation, "What is two and two?", options)
        await _expect_known(conversation, options)


async def fresh_conversation_knows_nothing(backend: Backend, options: SessionOptions) -> None:
    """Not from an earlier one of the same connection, and not from an earlier connection."""
    async with backend.connect() as connection:
        async with connection.open(options) as conversation:
            await _ask(conversation, TOLD, options)
        async with connection.open(options) as conversation:
            said = await _ask(conversation, ASKED, options)
    expect("Python" not in said, f"a fresh conversation knows of an earlier one: {said!r}")
    async with _conversation(backend, options) as conversation:
        said = await _ask(conversation, ASKED, options)
    expect("Python" not in said, f"a fresh connection knows of an earlier one: {said!r}")


async def turn_left_unread(backend: Backend, options: SessionOptions) -> None:
    """A turn that nobody reads is as if it had not been."""
    async with _conversation_that_knows(backend, options) as conversation:
        async with conversation.turn(TOLD_IN_VAIN, options):
            pass
        await _expect_known(conversation, options)


async def turn_left_early(backend: Backend, options: SessionOptions) -> None:
    """A turn whose block is left in the middle of the answer is as if it had not been."""
    async with _conversation_that_knows(backend, options) as conversation:
        async with conversation.turn(TOLD_IN_VAIN, options) as events:
            await _read_to(TextDelta, events)
        await _expect_known(conversation, options)


async def turn_cancelled(backend: Backend, options: SessionOptions) -> None:
    """A turn that is cancelled, at its door or in mid-answer, ends so, and had not been."""
    async with _conversation_that_knows(backend, options) as conversation:
        for at_the_door in (True, False):
            with trio.CancelScope() as scope:
                if at_the_door:
                    scope.cancel(reason="to see what it does")
                async with conversation.turn(TOLD_IN_VAIN, options) as events:
                    await _read_to(TextDelta, events)
                    scope.cancel(reason="to see what it does")
                    await _read_to(ResultMessage, events)
            expect(scope.cancelled_caught, "the turn swallows its cancellation")
            await _expect_known(conversation, options)


async def turn_cancelled_after_its_result(backend: Backend, options: SessionOptions) -> None:
    """A turn is remembered if and only if its block is left without Cancelled."""
    async with _conversation(backend, options) as conversation:
        succeeded = False
        with trio.CancelScope() as scope:
            async with conversation.turn(TOLD, options) as events:
                await _read_to(ResultMessage, events)
                scope.cancel(reason="to see what it does")
            succeeded = True
        said = await _ask(conversation, ASKED, options)
        ended = "succeeded" if succeeded else "was cancelled"
        expect(("Python" in said) is succeeded, f"a turn {ended}, and then it says {said!r}")


async def turn_left_with_an_exception(backend: Backend, options: SessionOptions) -> None:
    """The block's own exception comes out as it is, and the turn had not been: after a piece of
    the answer, and after its result too."""
    for last in (TextDelta, ResultMessage):
        async with _conversation_that_knows(backend, options) as conversation:
            mine, out = _OnPurpose(), None
            try:
                async with conversation.turn(TOLD_IN_VAIN, options) as events:
                    await _read_to(last, events)
                    raise mine
            except Exception as exc:
                out = exc
            expect(out is mine, f"an exception in the block comes out as {out!r}")
            await _expect_known(conversation, options)


async def conversations_at_once(backend: Backend, options: SessionOptions) -> None:
    """One conversation's turn is answered while another's is in flight; they share nothing."""
    said = ""
    failure: Exception | None = None

    async def ask_another(connection: Connection) -> None:
        nonlocal said, failure
        try:
            async with connection.open(options) as conversation:
                said = await _ask(conversation, ASKED, options)
        except Exception as exc:
            failure = exc

    async with backend.connect() as connection, connection.open(options) as conversation:
        async with conversation.turn(TOLD, options) as events:
            await _read_to(TextDelta, events)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ask_another, connection)
            await _read_to(ResultMessage, events)
        if failure is not None:
            raise failure
        expect("Python" not in said, f"a conversation knows of another one: {said!r}")
        await _expect_known(conversation, options)


async def opening_cancelled(backend: Backend, options: SessionOptions) -> None:
    """A connection or a conversation can be cancelled while it opens; the next one opens."""
    for at_the_door in (True, False):
        expect(await _cancel(backend.connect(), at_the_door), "connect() swallows cancellation")
        async with backend.connect() as connection:
            cancelled = await _cancel(connection.open(options), at_the_door)
            expect(cancelled, "open() swallows cancellation")
            async with connection.open(options) as conversation:
                await _ask(conversation, TOLD, options)


CHECKS: tuple[Any, ...] = (
    events_in_order,
    conversation_remembers,
    fresh_conversation_knows_nothing,
    turn_left_unread,
    turn_left_early,
    turn_cancelled,
    turn_cancelled_after_its_result,
    turn_left_with_an_exception,
    conversations_at_once,
    opening_cancelled,
)


# ---- what they are made of ----------------------------------------------------------------------


class _OnPurpose(Exception):
    """What a block is left with."""


def expect(promise: bool, otherwise: str) -> None:
    """Raise AssertionError with the text ``otherwise`` for a promise that is not kept."""
    if not promise:
        raise AssertionError(otherwise)


@asynccontextmanager
async def _conversation(backend: Backend, options: SessionOptions) -> AsyncIterator[Conversation]:
    async with backend.connect() as connection, connection.open(options) as conversation:
        yield conversation


@asynccontextmanager
async def _conversation_that_knows(
    backend: Backend, options: SessionOptions
) -> AsyncIterator[Conversation]:
    async with _conversation(backend, options) as conversation:
        await _ask(conversation, TOLD, options)
        yield conversation


async def _ask(conversation: Conversation, prompt: str, options: SessionOptions) -> str:
    async with conversation.turn(prompt, options) as events:
        result = await _read_to(ResultMessage, events)
    expect(result is not None, "the answer ended without a ResultMessage")
    return str(result)


async def _read_to(last: type[Event], events: trio.abc.ReceiveChannel[Event]) -> Event | None:
    async for event in events:
        if isinstance(event, last):
            return event
    return None


async def _expect_known(conversation: Conversation, options: SessionOptions) -> None:
    said = await _ask(conversation, ASKED, options)
    expect("Rebmuno" not in said, f"a turn that did not succeed is remembered: {said!r}")
    expect("Python" in said, f"a turn that succeeded is forgotten: {said!r}")


async def _cancel(block: AbstractAsyncContextManager[Any], at_the_door: bool) -> bool:
    """Cancel the block as it opens, or as soon as that waits; whether the cancellation came out."""
    async with trio.open_nursery() as nursery:
        with trio.CancelScope() as scope:
            if at_the_door:
                scope.cancel(reason="to see what it does")
            else:
                nursery.start_soon(_cancel_when_blocked, scope)
            async with block:
                await trio.sleep_forever()
    return scope.cancelled_caught


async def _cancel_when_blocked(scope: trio.CancelScope) -> None:
    # Imported here, for trio.testing imports pytest where there is one.
    from trio.testing import wait_all_tasks_blocked

    await wait_all_tasks_blocked()
    scope.cancel(reason="to see what it does")
