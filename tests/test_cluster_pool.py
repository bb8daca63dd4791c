"""A pool of sessions: who is asked, who waits, and that no member is ever lost."""

from __future__ import annotations

import heapq
from collections.abc import AsyncGenerator, Callable, Hashable
from contextlib import suppress
from typing import Any

import attrs
import pytest
import trio
import trio.testing
from hypothesis import given, strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

import trio_claude
from trio_claude import (
    Backoff,
    ConfigurationError,
    LocalRegistry,
    QueryError,
    ResponseStream,
    ResultMessage,
    SessionBusy,
    SessionCrashed,
    SessionHandle,
    SessionNotFound,
    SessionTerminated,
    SupervisorError,
    Via,
    open_session,
    open_supervisor,
)
from trio_claude._session.inbox import Inbox
from trio_claude._session.question import Question
from trio_claude.cluster._pool import Pool
from trio_claude.testing import ScriptedBackend, ScriptedTurn, crash

from .support import hang, nothing_left, spec


class Sessions:
    """Backends that note which session was asked what, and when; a prompt is how long it takes."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self.began: dict[str, float] = {}

    def spec(self, name: str, **options: object) -> trio_claude.SessionSpec:
        """A session with this name. It takes as many seconds as the prompt's first word says."""

        def answer(turn: ScriptedTurn) -> list[str | float]:
            self.asked.append((name, turn.prompt))
            self.began[turn.prompt] = trio.current_time()
            return [float(turn.prompt.split()[0]), name]

        return spec(name, ScriptedBackend(answer), shutdown=0, **options)


# ---- which one is asked --------------------------------------------------------------------------


async def test_the_one_used_longest_ago_is_asked(autojump_clock: MockClock) -> None:
    """In turn, by name or handle, and what a call says goes with it."""
    backend = ScriptedBackend(lambda turn: str(turn.options.model))
    async with open_session(backend=backend) as handle, open_supervisor([spec("a"), spec("b")]):
        pool = Pool(["a", handle, "b"])
        assert (len(pool), pool.free, repr(pool)) == (3, 3, "<Pool of 3, 3 free>")

        assert isinstance(await pool.query("Hi"), ResultMessage)
        assert str(await pool.query("Hi", model="opus")) == "opus"
        async with pool.stream("Hi") as events:
            assert isinstance(events, ResponseStream)
            assert (pool.free, repr(pool)) == (2, "<Pool of 3, 2 free>")
            await pool.query("Hi")  # of "a", which so was used before "b" is done
        async with pool.stream("Hi", model="haiku") as events:
            assert [event async for event in events][-1].text == "haiku"  # type: ignore[union-attr]
        assert pool.free == 3


async def test_a_session_that_runs_is_asked_before_one_that_is_restarted(
    autojump_clock: MockClock,
) -> None:
    """And that one, if there is no other: its line waits for it. A stopped one never is."""
    these = Sessions()
    names = "abc"
    async with open_supervisor(
        map(these.spec, names), backoff=Backoff(5, 5, jitter=0)
    ) as supervisor:
        pool = Pool(["nobody", *names])
        await crash(supervisor.get_session("a"))
        await crash(supervisor.get_session("b"))
        await wait_all_tasks_blocked()
        assert supervisor.get_session("a").status == "restarting"

        async with trio.open_nursery() as nursery:
            for number in range(3):
                nursery.start_soon(pool.query, f"1 {number}")
                await wait_all_tasks_blocked()
            assert (these.asked, pool.free) == ([("c", "1 0")], 1)
        assert sorted(these.asked) == [("a", "1 1"), ("b", "1 2"), ("c", "1 0")]
        assert trio.current_time() == 6


async def test_a_name_is_looked_up_at_each_use(autojump_clock: MockClock) -> None:
    """Whoever has it then is asked; a handle's session that is stopped is nobody's."""
    these = Sessions()
    async with open_supervisor([these.spec("a"), these.spec("b")]) as supervisor:
        pool = Pool(["a", supervisor.get_session("b")])
        await supervisor.terminate_session("a")
        for _ in range(2):
            await pool.query("0")
        assert these.asked == [("b", "0"), ("b", "0")]

        await supervisor.terminate_session("b")
        await supervisor.start_session(these.spec("b"))
        with pytest.raises(SessionTerminated, match="all sessions of this pool are") as caught:
            await pool.query("0")
        assert caught.value.__cause__ is None  # none of them was asked

        await supervisor.start_session(these.spec("a"))
        assert str(await pool.query("0")) == "a"
        assert pool.free == 2


# ---- who waits -----------------------------------------------------------------------------------


async def test_who_comes_first_is_served_first(autojump_clock: MockClock) -> None:
    """While all are in use; a caller that is cancelled leaves no trace, and the next moves up."""
    these = Sessions()
    async with nothing_left(), open_supervisor([these.spec("a"), these.spec("b")]):
        pool = Pool(["a", "b"])
        async with trio.open_nursery() as nursery:
            scopes = [trio.CancelScope() for _ in range(7)]

            async def ask(number: int) -> None:
                with scopes[number]:
                    await pool.query(f"{number + 1}")

            for number in range(7):
                nursery.start_soon(ask, number)
                await wait_all_tasks_blocked()
            assert pool.free == 0
            scopes[2].cancel()  # the first in line
            scopes[4].cancel()
            await wait_all_tasks_blocked()
            assert len(these.asked) == 2
        assert [prompt for _, prompt in these.asked] == ["1", "2", "4", "6", "7"]
        assert pool.free == 2


async def test_who_is_cancelled_when_its_turn_has_come_loses_nothing(
    autojump_clock: MockClock,
) -> None:
    """Its member is free again, and goes to the next."""
    these = Sessions()
    async with open_supervisor([these.spec("a")]):
        pool = Pool(["a"])
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                async with pool.stream("9"):
                    nursery.start_soon(pool.query, "8")
                    await wait_all_tasks_blocked()
                scope.cancel()  # its turn has come, but it has not run since
        assert scope.cancelled_caught
        assert pool.free == 1

        with trio.CancelScope() as scope:
            scope.cancel()
            await pool.query("7")
        assert scope.cancelled_caught
        assert (pool.free, str(await pool.query("0"))) == (1, "a")
        assert [prompt for _, prompt in these.asked if prompt != "9"] == ["0"]


async def test_those_who_wait_learn_that_all_are_stopped(autojump_clock: MockClock) -> None:
    """When the last that was in use is given back; each of them."""
    these = Sessions()
    async with open_supervisor([these.spec("a"), these.spec("b")]) as supervisor:
        pool = Pool(["a", "b"])
        caught = []

        async def ask(prompt: str) -> None:
            with pytest.raises(SessionTerminated) as info:
                await pool.query(prompt)
            caught.append(str(info.value))

        async with trio.open_nursery() as nursery:
            for number in range(4):
                nursery.start_soon(ask, f"100 {number}")
                await wait_all_tasks_blocked()
            await supervisor.terminate_session("a")
            await wait_all_tasks_blocked()
            assert len(caught) == 1
            assert "'a'" in caught[0]
            await supervisor.terminate_session("b")
        assert "'b'" in caught[1]
        assert caught[2:] == ["all sessions of this pool are stopped; there are 'a', 'b'"] * 2
        assert len(these.asked) == 2
        assert trio.current_time() == 0


async def test_one_that_is_up_again_is_the_first_one_s(autojump_clock: MockClock) -> None:
    """Whoever comes next finds it, but does not get it before those who wait."""
    these = Sessions()
    async with open_supervisor([these.spec("a")]) as supervisor, trio.open_nursery() as nursery:
        pool = Pool(["a", "b"])
        for number in range(2):
            nursery.start_soon(pool.query, f"5 {number}")
            await wait_all_tasks_blocked()
        await supervisor.start_session(these.spec("b"))
        nursery.start_soon(pool.query, "5 2")
        await wait_all_tasks_blocked()
        assert these.asked == [("a", "5 0"), ("b", "5 1")]


# ---- what goes wrong -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "error"),
    [(QueryError("no"), QueryError), (OSError("no"), SessionCrashed)],
)
async def test_a_turn_that_fails_gives_its_member_back(
    answer: Exception, error: type[Exception], autojump_clock: MockClock
) -> None:
    """The error is the caller's, and nobody else is asked."""
    backend = ScriptedBackend([answer, "fine"])
    async with open_supervisor([spec("a", backend), spec("b", backend)]):
        pool = Pool(["a", "b"])
        with pytest.raises(error):
            await pool.query("Hi")
        assert (len(backend.turns), pool.free) == (1, 2)
        assert str(await pool.query("Hi")) == "fine"


async def test_whatever_a_block_ends_with_its_member_is_given_back(
    autojump_clock: MockClock,
) -> None:
    """An error of its own, also SessionTerminated, is no reason to ask another."""
    backend = ScriptedBackend(hang)
    async with open_supervisor([spec("a", backend), spec("b", backend)]):
        pool = Pool(["a", "b"])
        for error in (KeyError("mine"), SessionTerminated("mine")):
            with pytest.raises(type(error)) as caught:
                async with pool.stream("Hi") as events:
                    for _ in range(2):  # its init, and the first word
                        await events.receive()
                    raise error
            assert caught.value is error
            assert pool.free == 2
        assert len(backend.turns) == 2


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda pool: pool.query(""), ConfigurationError),
        (lambda pool: pool.query("Hi", modle="opus"), ConfigurationError),
    ],
)
async def test_a_call_that_is_refused_gives_its_member_back(
    call: Callable[[Pool], Any], error: type[Exception], autojump_clock: MockClock
) -> None:
    """As the session's handle refuses it."""
    async with open_supervisor([spec("a")]):
        pool = Pool(["a"])
        with pytest.raises(error):
            await call(pool)
        assert pool.free == 1


async def test_others_may_ask_the_same_session(autojump_clock: MockClock) -> None:
    """To the pool it is free: its line is waited in, or refuses, as its options say."""
    these = Sessions()
    async with (
        open_supervisor([these.spec("a", max_queue=1)]),
        trio.open_nursery() as nursery,
    ):
        pool = Pool(["a"])
        nursery.start_soon(trio_claude.query, "a", "5")
        await wait_all_tasks_blocked()
        nursery.start_soon(trio_claude.query, "a", "6")
        await wait_all_tasks_blocked()
        with pytest.raises(SessionBusy):
            await pool.query("1")
        assert pool.free == 1
        await trio.sleep(6)
        await pool.query("2")
        assert [prompt for _, prompt in these.asked] == ["5", "6", "2"]


async def test_one_that_is_gone_before_the_turn_began_is_passed_over(
    autojump_clock: MockClock,
) -> None:
    """Another is asked instead; where none is left the caller is told, and why."""
    these = Sessions()
    async with open_supervisor(map(these.spec, "abc")) as supervisor:
        pool = Pool(["a", "b", "c"])
        caught = []

        async def asked_by_others(name: str) -> None:
            with pytest.raises(SessionTerminated):
                await trio_claude.query(name, "100 others")

        async def ask(prompt: str) -> None:
            with pytest.raises(SessionTerminated, match="all sessions of this pool") as info:
                await pool.query(prompt)
            caught.append(info.value)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(asked_by_others, "a")
            nursery.start_soon(asked_by_others, "b")
            await wait_all_tasks_blocked()
            nursery.start_soon(pool.query, "2 mine")  # waits in the line of "a"
            await wait_all_tasks_blocked()
            await supervisor.terminate_session("a")
            await wait_all_tasks_blocked()  # in that of "b"
            assert pool.free == 2
            await supervisor.terminate_session("b")
            await wait_all_tasks_blocked()
            assert these.asked[-1] == ("c", "2 mine")

            nursery.start_soon(asked_by_others, "c")
            await trio.sleep(3)
            nursery.start_soon(ask, "1")
            await wait_all_tasks_blocked()
            await supervisor.terminate_session("c")
        (error,) = caught
        assert isinstance(error.__cause__, SessionTerminated)
        assert error.__cause__.name == "c"
        assert pool.free == 3


async def test_one_that_is_not_found_any_more_is_passed_over(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    """What a session elsewhere may say when it is asked; here it has to be made to."""
    these = Sessions()

    async def put(inbox: Inbox, question: Question) -> None:
        if inbox.name == "a":
            raise SessionNotFound("no session is named 'a'")
        await really_put(inbox, question)

    really_put = Inbox.put
    monkeypatch.setattr(Inbox, "put", put)
    async with open_supervisor([these.spec("a"), these.spec("b")]):
        pool = Pool(["a", "b"])
        assert str(await pool.query("0")) == "b"
        with pytest.raises(SessionTerminated) as caught:
            await Pool(["a"]).query("0")
        assert isinstance(caught.value.__cause__, SessionNotFound)
        assert pool.free == 2


async def test_who_found_one_gone_waits_for_another_and_in_nobody_s_way(
    autojump_clock: MockClock,
) -> None:
    """It asks none twice; and those behind it get what it may not have."""
    these = Sessions()
    async with open_supervisor([these.spec("a"), these.spec("b")]) as supervisor:
        pool = Pool(["b", "a"])

        async def asked_by_others() -> None:
            with pytest.raises(SessionTerminated):
                await trio_claude.query("a", "100 others")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(asked_by_others)
            nursery.start_soon(pool.query, "50 first")  # of "b"
            await wait_all_tasks_blocked()
            nursery.start_soon(pool.query, "1 second")  # in the line of "a"
            await wait_all_tasks_blocked()
            nursery.start_soon(pool.query, "2 third")
            await wait_all_tasks_blocked()
            await supervisor.terminate_session("a")
            await wait_all_tasks_blocked()
            assert pool.free == 1
            await supervisor.start_session(these.spec("a"))
            nursery.start_soon(pool.query, "3 fourth")
        assert these.asked[-3:-1] == [("a", "2 third"), ("a", "3 fourth")]
        assert these.began["3 fourth"] == 2
        assert these.asked[-1] == ("b", "1 second")
        assert trio.current_time() == 51


async def test_who_waits_for_one_that_it_found_gone_is_told_so(autojump_clock: MockClock) -> None:
    """If all others are stopped: it does not wait for one that it would not ask."""
    these = Sessions()
    async with open_supervisor([these.spec("a"), these.spec("b")]) as supervisor:
        pool = Pool(["b", "a"])
        caught = []

        async def asked_by_others() -> None:
            with pytest.raises(SessionTerminated):
                await trio_claude.query("a", "100 others")

        async def ask(prompt: str) -> None:
            with pytest.raises(SessionTerminated) as info:
                await pool.query(prompt)
            caught.append((prompt, trio.current_time()))
            assert info.value.__cause__ is None or info.value.__cause__.name == "a"  # type: ignore[attr-defined]

        async with trio.open_nursery() as nursery:
            nursery.start_soon(asked_by_others)
            nursery.start_soon(ask, "50 first")  # of "b"
            await wait_all_tasks_blocked()
            nursery.start_soon(ask, "1 second")  # in the line of "a"
            await wait_all_tasks_blocked()
            await supervisor.terminate_session("a")
            await supervisor.start_session(these.spec("a"))
            nursery.start_soon(pool.query, "20 third")  # of the new "a"
            await trio.sleep(10)
            await supervisor.terminate_session("b")
        assert sorted(caught) == [("1 second", 10), ("50 first", 10)]
        assert these.asked[-1] == ("a", "20 third")
        assert trio.current_time() == 20


class Broken(LocalRegistry):
    """A registry that fails when it is told to."""

    broken = False

    def lookup(self, key: Hashable) -> SessionHandle | None:
        """Look it up, if it is not broken."""
        if self.broken:
            raise OSError("no")
        return super().lookup(key)


async def test_a_registry_that_fails_loses_nothing(autojump_clock: MockClock) -> None:
    """Its error goes to those who would have asked, also to who waits; then all is as before."""
    registry = Broken()
    name = Via(registry, "a")
    async with open_supervisor([spec(name, ScriptedBackend(lambda turn: [5.0, "ok"]))]):
        pool = Pool([name])

        async def ask() -> None:
            with pytest.raises(SupervisorError, match="could not look it up"):
                await pool.query("Hi")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(pool.query, "Hi")
            await wait_all_tasks_blocked()
            nursery.start_soon(ask)
            nursery.start_soon(ask)
            await wait_all_tasks_blocked()
            registry.broken = True
        registry.broken = False
        assert str(await pool.query("Hi")) == "ok"
        assert pool.free == 1


# ---- what a pool can be made of ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("targets", "why"),
    [
        (None, "a list of names or handles, not None"),
        (7, "a list of names or handles, not 7"),
        ("abc", "a list of names or handles, not 'abc'"),
        (b"abc", "a list of names or handles, not b'abc'"),
        ([], "at least one session"),
        (iter(()), "at least one session"),
        (["a", None], "None is neither"),
        (["a", ["b"]], r"\['b'\] is neither"),
        (["a", "b", "a"], "each session once, but has 'a' twice"),
    ],
)
def test_bad_targets_are_refused(targets: Any, why: str) -> None:
    """By name, before anything is asked."""
    with pytest.raises(ConfigurationError, match=f"targets must .*{why}"):
        Pool(targets)


async def test_a_session_is_in_a_pool_once(autojump_clock: MockClock) -> None:
    """However it is named: by its name, or its handle."""
    async with (
        open_session(name="a", backend=ScriptedBackend()) as named,
        open_session(backend=ScriptedBackend()) as other,
    ):
        for targets in ([named, "a"], ["a", named], [other, other]):
            with pytest.raises(ConfigurationError, match="each session once"):
                Pool(targets)
        assert len(Pool(target for target in (named, other, "b"))) == 3


# ---- laws ----------------------------------------------------------------------------------------


@attrs.frozen
class Call:
    """One caller: when it comes, what its turn takes, and for how long it has patience."""

    arrival: int
    seconds: int
    patience: int


CALLS = st.lists(
    st.builds(Call, st.integers(0, 20), st.integers(0, 9), st.integers(0, 12)),
    max_size=12,
    unique_by=lambda call: call.arrival,
).map(lambda calls: sorted(calls, key=lambda call: call.arrival))


def _gives_up(number: int, call: Call) -> float:
    """A time that is no other's: a turn's end and a cancellation never meet."""
    return call.arrival + call.patience + (number + 1) / 64


@given(members=st.integers(1, 3), calls=CALLS)
def test_a_pool_is_a_line_before_so_many_counters(members: int, calls: list[Call]) -> None:
    """Each turn begins when it does in the textbook's queue, and no two are on one session."""
    expected: dict[str, float] = {}
    free_at = [0.0] * members
    for number, call in enumerate(calls):
        begin = max(call.arrival, free_at[0])
        if begin < _gives_up(number, call):
            expected[f"{call.seconds} {number}"] = begin
            heapq.heapreplace(free_at, min(begin + call.seconds, _gives_up(number, call)))

    async def main() -> None:
        these = Sessions()
        # A session that is asked twice at a time refuses the second.
        specs = [these.spec(f"{number}", max_queue=0) for number in range(members)]
        async with open_supervisor(specs):
            pool = Pool(f"{number}" for number in range(members))
            began_at = trio.current_time()

            async def ask(number: int, call: Call) -> None:
                await trio.sleep_until(began_at + call.arrival)
                with trio.move_on_at(began_at + _gives_up(number, call)):
                    await pool.query(f"{call.seconds} {number}")

            async with trio.open_nursery() as nursery:
                for number, call in enumerate(calls):
                    nursery.start_soon(ask, number, call)
            assert these.began == expected
            assert pool.free == len(pool) == members

    trio.run(main, clock=MockClock(autojump_threshold=0))


async def _slowly(turn: ScriptedTurn) -> AsyncGenerator[str, None]:
    yield turn.prompt
    await trio.sleep(float(turn.prompt.split()[0]))


@given(
    calls=CALLS,
    ends=st.lists(st.tuples(st.integers(0, 20), st.sampled_from("abc")), max_size=6),
    others=st.lists(st.tuples(st.integers(0, 20), st.sampled_from("abc")), max_size=4),
)
def test_every_caller_gets_one_outcome(
    calls: list[Call], ends: list[tuple[int, str]], others: list[tuple[int, str]]
) -> None:
    """However sessions come and go, and others ask them too: and all members are free again."""

    async def main() -> None:
        outcomes: list[str] = []
        backend = ScriptedBackend(_slowly)
        async with open_supervisor([spec(name, backend, shutdown=0) for name in "abc"]) as up:
            pool = Pool(["a", "b", "c"])

            async def ask(number: int, call: Call) -> None:
                await trio.sleep(call.arrival)
                prompt = f"{call.seconds} {number}"
                with trio.move_on_after(call.patience + (number + 1) / 64) as scope:
                    try:
                        assert str(await pool.query(prompt)) == prompt
                    except SessionTerminated as exc:
                        if exc.name is None and exc.__cause__ is None:  # the pool's own
                            assert not any(map(trio_claude.whereis, "abc"))
                        outcomes.append("terminated")
                    else:
                        outcomes.append("answered")
                if scope.cancelled_caught:
                    outcomes.append("cancelled")

            async def end(time: int, name: str) -> None:
                """Stop the session with this name; or start one, if there is none."""
                await trio.sleep(time + 1 / 3)
                if trio_claude.whereis(name) is None:
                    await up.start_session(spec(name, backend, shutdown=0))
                else:
                    await up.terminate_session(name)

            async def ask_one(time: int, name: str) -> None:
                await trio.sleep(time)
                handle = trio_claude.whereis(name)
                if handle is not None:
                    with trio.move_on_after(5 + 1 / 5):
                        with suppress(SessionTerminated):
                            await handle.query("9 others")

            async with trio.open_nursery() as nursery:
                for number, call in enumerate(calls):
                    nursery.start_soon(ask, number, call)
                for time, name in dict(ends).items():
                    nursery.start_soon(end, time, name)
                for time, name in others:
                    nursery.start_soon(ask_one, time, name)
            assert len(outcomes) == len(calls)
            assert pool.free == len(pool) == 3

    trio.run(main, clock=MockClock(autojump_threshold=0))
