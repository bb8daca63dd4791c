"""Calls in their order: numbered at one end, given out by number at the other."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import trio
from hypothesis import given, strategies as st
from trio.testing import wait_all_tasks_blocked

from trio_claude import ClusterError, Global
from trio_claude.cluster._doors import DoorLost
from trio_claude.cluster._far import FarSession
from trio_claude.cluster._lines import BROKEN, REFUSED, Askers, InOrder, Line
from trio_claude.cluster._wire import Entry, Said, dumps, loads

Outcome = Callable[[], bytes]


class Peer:
    """An actor that answers when the test says so."""

    def __init__(self) -> None:
        self.sent: list[tuple[Any, ...]] = []
        self.then: list[Callable[[Outcome], None]] = []
        self.lost = False

    def send(self, then: Callable[[Outcome], None], method: str, *args: Any) -> None:
        """Take a call."""
        if self.lost:
            raise DoorLost(returns=False)
        if method == "alive":
            self.ended = then
            return
        (call,) = args
        self.sent.append((method, *loads(call)))
        self.then.append(then)

    def answer(self, number: int, said: Said | Exception) -> None:
        """Answer one of them."""
        self.then[number](partial(_outcome, said))


def _outcome(said: Said | Exception) -> bytes:
    if isinstance(said, Exception):
        raise said
    return dumps(said)


class Ends:
    """A line, and what is told of its end."""

    def __init__(self, life: int | None = 3) -> None:
        self.peer = Peer()
        self.broken: list[bool] = []
        self.line = Line(self.peer, "me", (7, 1), life, self._break)  # type: ignore[arg-type]

    def _break(self, lost: DoorLost) -> None:
        self.broken.append(lost.returns)


async def test_calls_are_numbered() -> None:
    """From one on; each says who asks, and by which line."""
    ends = Ends()
    entry = Entry("d", 3, "w", 1, 1, "running", None, 0, 5)
    session = FarSession(None, Global("a"), entry, lambda session: None)  # type: ignore[arg-type]
    first = ends.line.ask("plan", 11)
    second = ends.line.ask("ask", 12, session, "Hi")
    assert [sent[:4] for sent in ends.peer.sent] == [("ask", "me", (7, 1), n) for n in (1, 2)]
    request = loads(ends.peer.sent[1][4])
    assert (request.kind, request.number, request.name) == ("ask", 12, Global("a"))
    assert (request.born, request.args) == ((3, 5), ("Hi",))
    request = loads(ends.peer.sent[0][4])
    assert (request.name, request.born, request.args) == (None, None, ())
    ends.peer.answer(1, Said("taken"))
    ends.peer.answer(0, Said("end", value=1))
    for _ in range(2):
        assert (await second.wait()).state == "taken"
    assert (await first.wait()).value == 1
    assert ends.broken == []


async def test_a_line_breaks_as_a_whole() -> None:
    """With one call, all others that have no answer are lost; and nothing goes by it any more."""
    ends = Ends()
    answered, lost, other = (ends.line.ask("ask", number) for number in range(3))
    ends.peer.answer(0, Said("end"))
    error = DoorLost(returns=True)
    error.__cause__ = OSError("cut")
    ends.peer.answer(1, error)
    assert (await answered.wait()).state == "end"
    for answer in (lost, other):
        with pytest.raises(DoorLost) as caught:
            await answer.wait()
        assert caught.value.returns
        assert isinstance(caught.value.__cause__, OSError)
    ends.peer.answer(2, Said("end"))  # too late
    with pytest.raises(DoorLost):
        await other.wait()
    with pytest.raises(DoorLost) as caught:
        ends.line.ask("ask", 4)
    assert caught.value.returns
    ends.line.cut(DoorLost(returns=False))
    assert ends.broken == [True]


async def test_what_an_actor_fails_of_is_the_callers_alone() -> None:
    """The line holds."""
    ends = Ends()
    answer = ends.line.ask("ask", 1)
    ends.peer.answer(0, ClusterError("failed"))
    with pytest.raises(ClusterError, match="failed"):
        await answer.wait()
    ends.line.ask("ask", 2)
    assert ends.broken == []


@pytest.mark.parametrize(
    ("error", "returns"),
    [
        (DoorLost(returns=True), True),
        (DoorLost(returns=False), False),
        (ClusterError("odd"), False),
    ],
)
async def test_a_line_breaks_when_its_process_ends(error: Exception, returns: bool) -> None:
    """However idle it is, and however that is told."""
    ends = Ends()
    answer = ends.line.ask("ask", 1)
    ends.peer.ended(partial(_outcome, error))
    assert ends.broken == [returns]
    with pytest.raises(DoorLost) as caught:
        await answer.wait()
    assert caught.value.returns == returns
    assert caught.value.__cause__ is (error if isinstance(error, ClusterError) else None)


async def test_a_line_breaks_when_the_next_life_is_heard_of() -> None:
    """Which may be before Ray tells of the end of the one that it goes to."""
    ends = Ends(3)
    answer = ends.line.ask("ask", 1)
    for _ in range(2):
        ends.line.heard(3)
    assert ends.broken == []
    ends.line.heard(4)
    assert ends.broken == [True]
    with pytest.raises(DoorLost) as caught:
        await answer.wait()
    assert caught.value.returns


async def test_a_line_is_not_broken_by_what_was_so_before() -> None:
    """A life begins while some of its names are still known by the life before; and where Ray starts
    nothing again, there is no other life."""
    ends = Ends(4)
    ends.line.heard(3)
    assert ends.broken == []
    ends.line.heard(5)
    assert ends.broken == [True]
    ends = Ends(None)
    ends.line.heard(3)
    ends.line.heard(5)
    assert ends.broken == []


async def test_who_is_cancelled_may_wait_again() -> None:
    """The answer is there for the next one."""
    ends = Ends()
    answer = ends.line.ask("ask", 1)
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer.wait)
            await wait_all_tasks_blocked()
            scope.cancel()
    ends.peer.answer(0, Said("end"))
    assert (await answer.wait()).state == "end"


async def test_what_cannot_be_sent_leaves_no_gap() -> None:
    """The other end would wait for it for ever, and for all behind it."""
    ends = Ends()
    with pytest.raises(Exception, match=r"pickle|local object"):
        ends.line.ask("ask", 1, None, lambda: None)
    ends.line.ask("ask", 2)
    assert [sent[3] for sent in ends.peer.sent] == [1]


async def test_a_process_that_is_cut_off_asks_nothing() -> None:
    """The caller is told at once, and nothing waits for an answer."""
    ends = Ends()
    ends.peer.lost = True
    with pytest.raises(DoorLost):
        ends.line.ask("ask", 1)
    assert ends.line._unanswered == set()


@given(st.permutations(range(1, 9)))
def test_what_comes_in_any_order_goes_out_in_its_own(numbers: list[int]) -> None:
    """Each as soon as all before it have come."""
    calls: InOrder[str] = InOrder()
    given_out: list[str] = []
    come: set[int] = set()
    for number in numbers:
        come.add(number)
        given_out += calls.put(number, f"{number}")
        first_missing = min(set(range(1, 10)) - come)
        assert given_out == [f"{n}" for n in range(1, first_missing)]


@pytest.mark.parametrize("said", [BROKEN, REFUSED])
async def test_a_line_whose_other_end_is_broken_breaks(said: bytes) -> None:
    """With all that is under way: a process that could not reach this one for a moment has left what came
    by it. Only of what it refused is it known that it was not begun."""
    ends = Ends()
    first, second = (ends.line.ask("ask", number) for number in (1, 2))
    ends.peer.then[1](lambda: said)
    for answer, begun in ((first, True), (second, said == BROKEN)):
        with pytest.raises(DoorLost) as caught:
            await answer.wait()
        assert (caught.value.returns, caught.value.begun) == (True, begun)
        assert caught.value.why == "the way to it was cut for a moment"
    assert ends.broken == [True]


@given(
    numbers=st.lists(st.integers(1, 99), unique=True, min_size=1, max_size=9),
    gone=st.sets(st.integers(1, 99)),
    again=st.sets(st.integers(1, 99)),
)
def test_who_is_to_ask_goes_by_number(numbers: list[int], gone: set[int], again: set[int]) -> None:
    """Whoever goes away instead holds up nobody, nor does it change anything to come twice."""
    askers, went = Askers(), []

    async def go(number: int) -> None:
        try:
            await askers.first(number)
            if number not in gone:
                went.append(number)
        finally:
            askers.leave(number)

    async def main() -> None:
        for number in numbers:
            askers.enter(number)
        for number in again & set(numbers):
            askers.enter(number)
        async with trio.open_nursery() as nursery:
            for number in numbers:
                nursery.start_soon(go, number)

    trio.run(main)
    assert went == sorted(set(numbers) - gone)
    assert not askers


async def test_what_has_to_be_asked_again_comes_before_what_is_new() -> None:
    """Also where that was next already; who is cancelled lets the next one go."""
    askers, went = Askers(), []

    async def go(number: int) -> None:
        askers.enter(number)
        try:
            await askers.first(number)
            went.append(number)
        finally:
            askers.leave(number)

    askers.enter(3)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(go, 9)
        await wait_all_tasks_blocked()
        askers.leave(3)
        askers.enter(5)  # before that one runs
        await wait_all_tasks_blocked()
        assert went == []
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as inner:
                inner.start_soon(go, 7)
                await wait_all_tasks_blocked()
                scope.cancel()
        askers.leave(4)  # was none of them
        askers.leave(5)
    assert went == [9]


@pytest.mark.parametrize("order", [(1, 2), (2, 1)])
async def test_who_has_left_waits_no_longer(order: tuple[int, int]) -> None:
    """Also where another one has it leave: the connection has ended."""
    askers = Askers()
    for number in (1, 2):
        askers.enter(number)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(askers.first, 2)
        await wait_all_tasks_blocked()
        for number in order:
            askers.leave(number)
    assert not askers
    assert askers.is_first(3)
