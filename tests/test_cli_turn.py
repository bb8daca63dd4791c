"""One turn on the claude program: what is given out, in what order, and how it ends."""

from __future__ import annotations

import copy
from collections.abc import Awaitable, Callable

import pytest
import trio
from trio.testing import assert_checkpoints, wait_all_tasks_blocked

from trio_claude import (
    AssistantMessage,
    Event,
    ProcessError,
    ResultError,
    ResultMessage,
    SystemMessage,
    TextBlock,
    TextDelta,
)
from trio_claude._backends.claude_cli.turn import CLIAnswer
from trio_claude._wire.results import CostLedger

from .test_stream_json import (
    HELLO,
    INIT,
    PROMPT,
    TURN,
    Line,
    block,
    end,
    result,
    said,
    start,
    text,
)

NO_TEXT: Line = {"type": "text", "text": ""}
LOST = ProcessError("it ended", exit_code=3)


def new(*lines: Line) -> CLIAnswer:
    """An answer of which these lines have come."""
    answer = CLIAnswer(PROMPT, CostLedger())
    take(answer, *lines)
    return answer


def take(answer: CLIAnswer, *lines: Line) -> None:
    """These lines come together."""
    answer.take(copy.deepcopy(lines))  # it may keep, and fill, what it is given


async def rest(answer: CLIAnswer) -> list[Event]:
    """What there is to receive until its end."""
    return [event async for event in answer]


async def rest_together(answer: CLIAnswer) -> list[Event]:
    """The same, by what came together."""
    events: list[Event] = []
    try:
        while True:
            events += await answer.receive_some()
    except trio.EndOfChannel:
        return events


both_ways = pytest.mark.parametrize("read", [rest, rest_together])
calls = pytest.mark.parametrize(
    "call", [CLIAnswer.receive, CLIAnswer.receive_some], ids=["receive", "receive_some"]
)
Read = Callable[[CLIAnswer], Awaitable[list[Event]]]
Call = Callable[[CLIAnswer], Awaitable[object]]


@both_ways
async def test_a_turn_that_has_come_already(read: Read) -> None:
    """Its events in order, the result last, and then the end, again and again."""
    answer = new(*TURN)
    assert answer.ended
    assert answer.given is None
    events = await read(answer)
    assert [SystemMessage("init", INIT), TextDelta(0, "Hel"), TextDelta(0, "lo")] == [
        event
        for event in events
        if event == SystemMessage("init", INIT) or type(event) is TextDelta
    ]
    assert isinstance(events[-1], ResultMessage)
    assert events[-1] is answer.given
    assert [] == await read(answer)
    assert (PROMPT, "u-a", False) == (answer.prompt_id, answer.last_id, answer.remembered)


@both_ways
async def test_a_turn_while_it_comes(read: Read) -> None:
    """Line by line, each after the reader has come to wait for it: nothing else is given."""
    answer = new()
    given: list[Event] = []

    async def keep() -> None:
        given.extend(await read(answer))

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(keep)
            for line in TURN:
                await wait_all_tasks_blocked()
                take(answer, line)
    assert await read(new(*TURN)) == given


@calls
async def test_a_cancelled_reader_loses_nothing(call: Call) -> None:
    """Neither one that waits, nor one that is cancelled when something is there."""
    answer = new()
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(call, answer)
            await wait_all_tasks_blocked()
            scope.cancel()
    assert scope.cancelled_caught
    take(answer, INIT)
    with trio.CancelScope() as scope:
        scope.cancel()
        await call(answer)
    assert scope.cancelled_caught
    assert SystemMessage("init", INIT) == await answer.receive()


async def test_what_comes_together_is_given_together() -> None:
    """So many at most that other tasks aren't kept waiting, and a result by itself."""
    answer = new(INIT, start(), block(0, NO_TEXT), *[text(0, "x")] * 200, *end(), result())
    sizes = []
    with pytest.raises(trio.EndOfChannel):
        while True:
            events = await answer.receive_some()
            assert (answer.given is None) == (not isinstance(events[-1], ResultMessage))
            sizes.append(len(events))
    assert 203 == sum(sizes)
    assert 1 == sizes[-1]
    assert max(sizes) <= 64
    assert len(sizes) <= 6


async def test_other_tasks_get_their_turn() -> None:
    """Each time that events are given together."""
    answer = new(INIT, said(HELLO), result())
    for _ in range(2):
        with assert_checkpoints():
            await answer.receive_some()
    with assert_checkpoints(), pytest.raises(trio.EndOfChannel):
        await answer.receive_some()


async def test_what_nobody_reads_is_kept() -> None:
    """However much it is, for the program's output has to be read."""
    answer = new(INIT, start(), block(0, NO_TEXT))
    for _ in range(100):
        take(answer, *[text(0, "x")] * 1000)
    take(answer, *end(), result())
    events = await rest_together(answer)
    assert 100_000 == sum(type(event) is TextDelta for event in events)
    assert isinstance(events[-2], AssistantMessage)
    assert "x" * 100_000 == events[-2].text


async def test_an_error_comes_behind_what_was_said() -> None:
    """Each time that it is asked for; and no result."""
    answer = new(INIT, said(HELLO), result(is_error=True, result="no"))
    assert answer.ended
    said_before = [type(event) for event in await answer.receive_some()]
    assert [SystemMessage, TextDelta, AssistantMessage] == said_before
    for _ in range(2):
        with pytest.raises(ResultError, match="no"):
            await answer.receive()
        with pytest.raises(ResultError, match="no"):
            await answer.receive_some()
    assert answer.given is None


# ---- a program that is lost ----


@calls
async def test_a_lost_program_fails_who_waits(call: Call) -> None:
    """The reader, and the one who attends to the turn; the first failure counts."""
    answer = new()
    found = []

    async def wait(call: Call) -> None:
        with pytest.raises(ProcessError) as caught:
            await call(answer)
        found.append(caught.value)

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait, call)
            nursery.start_soon(wait, CLIAnswer.attend)
            await wait_all_tasks_blocked()
            assert [] == found
            answer.fail(LOST)
            answer.fail(OSError("later"))
    assert [LOST, LOST] == found
    assert not answer.ended
    for later in (call, CLIAnswer.attend):
        with pytest.raises(ProcessError):
            await later(answer)


async def test_what_was_said_before_is_given_before_the_failure() -> None:
    """The same as with a turn that failed by itself."""
    answer = new(INIT, start(), block(0, NO_TEXT), text(0, "Hel"))
    answer.fail(LOST)
    assert [SystemMessage("init", INIT), TextDelta(0, "Hel")] == await answer.receive_some()
    with pytest.raises(ProcessError):
        await answer.receive()
    assert AssistantMessage((TextBlock("Hel"),), model="claude-opus") == answer.partial()


async def test_a_program_that_is_lost_after_the_result() -> None:
    """That turn was answered; nobody who attends to it is told."""
    answer = new(*TURN)
    answer.fail(LOST)
    with trio.move_on_after(0) as scope:
        await answer.attend()
    assert scope.cancelled_caught
    events = await rest(answer)
    assert isinstance(events[-1], ResultMessage)


async def test_attending_ends_by_cancellation_alone() -> None:
    """A turn that goes well has nothing that needs attention."""
    answer = new()
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer.attend)
            take(answer, *TURN)
            await wait_all_tasks_blocked()
            assert not nursery.cancel_scope.cancel_called
            assert 1 == len(nursery.child_tasks)
            scope.cancel()
    assert scope.cancelled_caught


# ---- a turn that is left ----


@calls
@pytest.mark.parametrize("how", ["aclose", "hang_up"])
async def test_a_closed_turn_gives_nothing(call: Call, how: str) -> None:
    """Neither what has come, nor what is still to come, nor how it ended."""
    answer = new(INIT, said(HELLO))
    if how == "aclose":
        with assert_checkpoints():
            await answer.aclose()
    else:
        answer.hang_up()
    for lines in ([], [said(HELLO, id_="msg_2")], [result()]):
        take(answer, *lines)
        with pytest.raises(trio.ClosedResourceError, match="its block has been left"):
            await call(answer)
    assert answer.ended
    assert answer.given is None


@calls
async def test_closing_wakes_who_waits(call: Call) -> None:
    """It is told that the turn is over."""
    answer = new()

    async def wait() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await call(answer)

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await wait_all_tasks_blocked()
            answer.hang_up()


async def test_a_turn_that_was_left_still_ends() -> None:
    """Its end can be waited for, and is found in what goes on coming."""
    answer = new(INIT, start())
    answer.hang_up()
    ended = trio.Event()

    async def wait() -> None:
        await answer.wait_ended()
        ended.set()

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            for line in (block(0, HELLO), said(HELLO), result(user_message_uuids=["another"])):
                take(answer, line)
                await wait_all_tasks_blocked()
                assert not ended.is_set()
            take(answer, result())
        await answer.wait_ended()
    assert ended.is_set()
    assert "u-a" == answer.last_id


async def test_closing_a_cancelled_turn() -> None:
    """It is closed, even if the call is cancelled."""
    answer = new(INIT)
    with trio.CancelScope() as scope:
        scope.cancel()
        await answer.aclose()
    assert scope.cancelled_caught
    with pytest.raises(trio.ClosedResourceError):
        await answer.receive()


def test_what_the_program_calls_it() -> None:
    """The conversation, once it has said so, and its last message."""
    answer = new()
    assert (None, None) == (answer.session_id, answer.last_id)
    take(answer, INIT, said(HELLO, uuid="u1"))
    assert (INIT["session_id"], "u1") == (answer.session_id, answer.last_id)
