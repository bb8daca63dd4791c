"""What a process does for others: asked by calls that never leave this run, without Ray."""

from __future__ import annotations

import pickle
from collections.abc import AsyncGenerator, AsyncIterator, Hashable
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest
import trio
from hypothesis import given, strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_claude import (
    AssistantMessage,
    ConfigurationError,
    ControlError,
    Event,
    Interrupted,
    ProtocolError,
    QueryError,
    ResultMessage,
    SessionBusy,
    SessionCrashed,
    SessionHandle,
    SessionTerminated,
    SystemMessage,
    TextDelta,
    UsageError,
    open_supervisor,
)
from trio_claude._backends.base import Answer, Backend, Connection, Conversation
from trio_claude._nurseries import open_hidden_nursery
from trio_claude._options import SessionOptions
from trio_claude._session import question as _question
from trio_claude._session.inbox import Inbox
from trio_claude._session.line import Taker
from trio_claude.cluster import _service, _turns
from trio_claude.cluster._jobs import NotHere
from trio_claude.cluster._lines import BROKEN, REFUSED
from trio_claude.cluster._service import Service
from trio_claude.cluster._wire import BATCH_SIZE, Request, Said, Standing, dumps, loads, size_of
from trio_claude.cluster._wire_errors import loads_error
from trio_claude.testing import ScriptedBackend, ScriptedTurn

from .support import hang, inbox_of, nothing_left, spec


@attrs.frozen
class Known:
    """A session that others may ask."""

    inbox: Inbox

    @property
    def standing(self) -> Standing:
        """How it stands."""
        return 1, 0, self.inbox.status, self.inbox.session_id


@attrs.define
class Call:
    """A call, and what was answered to it."""

    said: list[Said] = attrs.field(factory=list)
    there: trio.Event = attrs.field(factory=trio.Event)
    broken: bool = False
    begun: bool = False
    """If its line is broken: whether it may have been begun."""

    def __call__(self, data: bytes) -> None:
        """Take the answer: there is one at most."""
        assert not self.there.is_set()
        if data in (BROKEN, REFUSED):
            self.broken = True
            self.begun = data == BROKEN
        else:
            self.said.append(loads(data))
        self.there.set()

    async def wait(self) -> Said:
        """The answer, once it is there."""
        await self.there.wait()
        (said,) = self.said
        return said

    async def end(self) -> Said:
        """The answer, which is an end."""
        said = await self.wait()
        assert said.state == "end"
        return said

    async def error(self) -> Exception:
        """The error that it is answered with."""
        said = await self.end()
        assert said.error is not None
        return loads_error(said.error)


class Asked:
    """A process that is asked, and those who ask it."""

    def __init__(self) -> None:
        self.arrival: trio.Event | None = None
        self.service = Service(self._find, lambda: self.arrival, self._until_lost, self._do)
        self.blinks: set[trio.Event] = set()
        """Ends of reach that are no ends of life."""
        self.sessions: dict[Hashable, Known] = {}
        self.gone: dict[str, trio.Event] = {}
        self.life = 1
        """Of the askers."""
        self.lines: dict[str, int] = {}
        """Which line each asker calls by."""
        self.places: dict[str, int] = {}
        """How many calls there were by it."""
        self.done: list[tuple[str, tuple[Any, ...]]] = []
        self.go = trio.Event()

    def know(self, *handles: SessionHandle) -> None:
        """Let these be asked."""
        for handle in handles:
            self.sessions[handle.name] = Known(inbox_of(handle))

    def arrive(self, *, last: bool = False) -> None:
        """A session has been started that the process starts by itself."""
        arrived, self.arrival = self.arrival, None if last else trio.Event()
        assert arrived is not None
        arrived.set()

    def _find(self, name: Hashable, born: tuple[int, int] | None) -> Known | None:
        return None if born == (1, 0) else self.sessions.get(name)

    async def _until_lost(self, asker: str) -> bool:
        gone = self.gone.setdefault(asker, trio.Event())
        await gone.wait()
        return gone in self.blinks

    def blink(self, asker: str = "x") -> None:
        """Let an asker be out of reach for a moment."""
        gone = self.gone.pop(asker)
        self.blinks.add(gone)
        gone.set()

    async def _do(self, kind: str, args: tuple[Any, ...]) -> Any:
        if kind == "wait":
            await self.go.wait()
        if kind == "fail":
            raise ValueError("no")
        self.done.append((kind, args))
        return ("did", kind)

    def call(
        self, kind: str, number: int, name: Hashable = None, *args: Any, asker: str = "x"
    ) -> Call:
        """What an asker's call does."""
        return self.receive(dumps(Request(kind, number, name, args=args)), asker)  # type: ignore[arg-type]

    def receive(self, data: bytes, asker: str = "x", place: int | None = None) -> Call:
        """What comes of a call, in its order or at another place."""
        call = Call()
        line = self.lines.setdefault(asker, 1)
        if place is None:
            place = self.places[asker] = self.places.get(asker, 0) + 1
        self.service.receive(dumps((asker, (self.life, line), place, data)), call)
        return call

    def new_line(self, asker: str = "x") -> None:
        """The way was cut for a moment: the next call goes by another line."""
        self.lines[asker] = self.lines.get(asker, 1) + 1
        self.places[asker] = 0

    def ask(
        self, number: int, name: str, prompt: str = "Hi", *, whole: bool = False, asker: str = "x"
    ) -> Call:
        """Ask a session."""
        return self.call("ask", number, name, prompt, None, whole, asker=asker)

    def more(self, number: int, asker: str = "x") -> Call:
        """Ask on."""
        return self.call("more", number, asker=asker)

    def leave(self, number: int, asker: str = "x") -> Call:
        """Want it no more."""
        return self.call("leave", number, asker=asker)

    def lose(self, asker: str = "x") -> None:
        """Let an asker die."""
        self.gone.pop(asker).set()
        self.new_line(asker)

    @property
    def jobs(self) -> int:
        """How much it has to do."""
        return sum(len(asker.jobs) for asker in self.service._askers.values())

    async def read(self, number: int) -> list[Event]:
        """Read an answer to its end."""
        events: list[Event] = []
        while (said := await self.more(number).wait()).state != "end":
            events += said.events
        assert said.error is None
        return [*events, *said.events]


@asynccontextmanager
async def asked(
    *names: str, backend: Backend | None = None, **options: Any
) -> AsyncIterator[Asked]:
    """A process with sessions, which leaves nothing behind."""
    backends = [backend] if isinstance(backend, ScriptedBackend) else []
    async with nothing_left(*backends):
        async with (
            open_supervisor(
                [spec(name, backend, **options) for name in names]  # type: ignore[arg-type]
            ) as supervisor,
            open_hidden_nursery() as nursery,
        ):
            process = Asked()
            process.know(*map(supervisor.get_session, names))
            await nursery.start(process.service.run)
            yield process
            await wait_all_tasks_blocked()
            assert process.jobs == 0
            nursery.cancel_scope.cancel()


async def gone(process: Asked, name: str) -> None:
    """Wait until nobody has a turn there, and check that it can be asked."""
    await wait_all_tasks_blocked()
    assert process.sessions[name].inbox.turn is None
    assert process.sessions[name].inbox._present == 0


# ---- a question ----------------------------------------------------------------------------------


async def test_a_whole_answer_comes_with_one_call(autojump_clock: MockClock) -> None:
    """The end, with the result alone and how the session stands."""
    async with asked("a") as process:
        said = await process.ask(1, "a", whole=True).end()
        (result,) = said.events
        assert isinstance(result, ResultMessage)
        assert (said.error, said.taken) == (None, True)
        assert said.standing == (1, 0, "running", result.session_id)


async def test_an_answer_is_asked_for_bit_by_bit(autojump_clock: MockClock) -> None:
    """First that it was taken; then its events, and the end with the result."""
    backend = ScriptedBackend(lambda turn: ["one ", 1, "two"])
    async with asked("a", backend=backend) as process:
        said = await process.ask(1, "a").wait()
        assert (said.state, said.events, said.taken) == ("taken", (), True)
        said = await process.more(1).wait()
        assert [type(event) for event in said.events] == [SystemMessage]
        said = await process.more(1).wait()
        assert (said.state, said.events) == ("events", [TextDelta(0, "one ")])
        events = await process.read(1)
        kinds = [type(event) for event in events]
        assert kinds == [TextDelta, AssistantMessage, ResultMessage]
        assert isinstance(await process.more(1).error(), Interrupted)  # it is forgotten


async def test_one_batch_of_deltas_is_read_ahead_of_what_was_asked_for(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then the answer waits at its source. What has come until it is asked for goes at once."""
    monkeypatch.setattr(_turns, "_BATCH", 3)
    sent = []

    async def answer(turn: ScriptedTurn) -> AsyncGenerator[str, None]:
        for number in range(9):
            sent.append(number)
            yield "x"
            await trio.sleep(1)

    async with asked("a", backend=ScriptedBackend(answer)) as process:
        await process.ask(1, "a").wait()
        await trio.sleep(20)
        assert sent == []  # the first event is no delta, and none is read before it is asked for
        assert [type(event) for event in (await process.more(1).wait()).events] == [SystemMessage]
        await trio.sleep(20)
        assert len(sent) <= 1
        assert len((await process.more(1).wait()).events) == 1
        await trio.sleep(20)
        assert len(sent) <= 5
        assert len((await process.more(1).wait()).events) == 3
        await trio.sleep(0.5)
        assert len((await process.more(1).wait()).events) == 1  # what has come until then
        await process.leave(1).end()


async def test_a_result_is_not_read_before_it_is_asked_for(autojump_clock: MockClock) -> None:
    """For with that the conversation has the turn, which its reader may still leave."""
    backend = ScriptedBackend(lambda turn: str(len(turn.history)))
    async with asked("a", backend=backend) as process:
        await process.ask(1, "a").wait()
        last: Event | None = None
        while not isinstance(last, AssistantMessage):
            last = (await process.more(1).wait()).events[-1]
            await trio.sleep(5)
        await process.leave(1).end()
        said = await process.ask(2, "a", whole=True).end()
        assert [str(event) for event in said.events] == ["0"]


async def test_nothing_is_read_ahead_of_one_who_waited_in_line(autojump_clock: MockClock) -> None:
    """To be told that it was taken is no reason to read: that comes with the next call."""
    sent = []

    async def answer(turn: ScriptedTurn) -> AsyncGenerator[str, None]:
        for _ in range(4):
            sent.append(turn.prompt)
            yield "x"

    async with asked("a", backend=ScriptedBackend(answer)) as process:
        await process.ask(1, "a").wait()
        assert (await process.ask(2, "a", "second").wait()).state == "waiting"
        await process.leave(1).end()
        await wait_all_tasks_blocked()  # it is taken, and nobody has asked for that yet
        assert (await process.more(2).wait()).state == "taken"
        await wait_all_tasks_blocked()
        assert "second" not in sent
        await process.leave(2).end()


@pytest.mark.parametrize("whole", [True, False])
async def test_who_waits_in_line_is_told(whole: bool, autojump_clock: MockClock) -> None:
    """And then that it was taken, before the end of a whole answer too."""
    async with asked("a", backend=ScriptedBackend(lambda turn: ["yes", 5])) as process:
        first = process.ask(1, "a", whole=True)
        second = process.ask(2, "a", whole=whole)
        assert (await second.wait()).state == "waiting"
        more = process.more(2)
        await wait_all_tasks_blocked()
        assert not more.there.is_set()
        await first.end()
        assert (await more.wait()).state == "taken"
        assert [str(event) for event in await process.read(2)][-1] == "yes"


async def test_many_questions_of_one_batch_are_served_in_their_order(
    autojump_clock: MockClock,
) -> None:
    """Trio starts tasks in an order of its own, the service doesn't; other sessions' don't wait."""
    prompts: list[str] = []

    def answer(turn: ScriptedTurn) -> str:
        prompts.append(turn.prompt)
        return "yes"

    async with asked("a", "b", backend=ScriptedBackend(answer)) as process:
        calls = [process.ask(number, "a", str(number), whole=True) for number in range(20)]
        calls.append(process.ask(20, "b", "b", whole=True))
        for number in range(20):
            while (await calls[number].wait()).state != "end":
                calls[number] = process.more(number)
        await calls[20].end()
        prompts.remove("b")
        assert prompts == [str(number) for number in range(20)]


async def test_a_clear_is_not_overtaken_either(autojump_clock: MockClock) -> None:
    """It waits in line like a question."""
    async with asked("a", backend=ScriptedBackend(lambda t: str(len(t.history)))) as process:
        calls = [
            process.ask(1, "a", whole=True),
            process.ask(2, "a", whole=True),
            process.call("clear", 3, "a"),
            process.ask(4, "a", whole=True),
        ]
        said = {}
        for number, call in enumerate(calls, 1):
            while (last := await call.wait()).state != "end":
                call = process.more(number)
            said[number] = [str(event) for event in last.events]
        assert said == {1: ["0"], 2: ["1"], 3: [], 4: ["0"]}


async def test_what_takes_long_elsewhere_holds_no_question_up(autojump_clock: MockClock) -> None:
    """To start a session in a group is nothing that its other sessions have to do with."""
    async with asked("a") as process:
        starting = process.call("wait", 1)
        with trio.move_on_after(5):
            await process.ask(2, "a", whole=True).end()
        held_up = trio.current_time() > 4
        process.go.set()
        await starting.end()
        await wait_all_tasks_blocked()
        assert not held_up


async def test_what_holds_for_one_turn_comes_along(autojump_clock: MockClock) -> None:
    """Pickled for itself; what cannot be had here is the caller's error, and no session's."""
    async with asked("a", backend=ScriptedBackend(lambda t: str(t.options.model))) as process:
        options = dumps({"model": "opus"})
        said = await process.call("ask", 1, "a", "Hi", options, True).end()
        assert [str(event) for event in said.events] == ["opus"]
        call = process.call("ask", 2, "a", "Hi", b"no pickle", True)
        assert (await call.end()).taken is False
        assert isinstance(await call.error(), pickle.UnpicklingError)
        bad = dumps({"timeout": -1})
        assert isinstance(
            await process.call("ask", 3, "a", "Hi", bad, True).error(), ConfigurationError
        )


async def test_why_a_question_was_not_taken_is_told(autojump_clock: MockClock) -> None:
    """As it is raised here: no such session, a full line, a session that is stopped in between."""
    async with asked("a", backend=ScriptedBackend(hang), max_queue=1, shutdown=0) as process:
        call = process.ask(1, "b")
        error = await call.error()
        assert isinstance(error, NotHere)
        assert (error.name, str(error)) == ("b", "session 'b' is not there any more")
        assert (await call.end()).standing is None
        request = Request("ask", 5, "a", (1, 0), ("Hi", None, True))  # type: ignore[arg-type]
        assert isinstance(await process.receive(dumps(request)).error(), NotHere)  # it is another

        await process.ask(2, "a").wait()
        assert (await process.ask(3, "a").wait()).state == "waiting"
        assert (await process.ask(4, "a").wait()).state == "waiting"
        call = process.more(4)
        assert isinstance(await call.error(), SessionBusy)
        assert (await call.end()).taken is False

        more = process.more(3)
        process.sessions["a"].inbox.close()
        assert isinstance(await more.error(), SessionTerminated)
        assert not (await more.end()).taken
        process.sessions["a"].inbox.open()
        await process.leave(2).end()


async def test_what_a_turn_fails_of_is_told(autojump_clock: MockClock) -> None:
    """At the end, to whoever asks next; it was taken."""
    backend = ScriptedBackend(lambda turn: ["Well", QueryError("no")])
    async with asked("a", backend=backend) as process:
        await process.ask(1, "a").wait()
        for _ in range(2):
            assert (await process.more(1).wait()).state == "events"
        call = process.more(1)
        error = await call.error()
        assert isinstance(error, QueryError)
        assert error.partial is not None
        assert (str(error), error.partial.text) == ("no", "Well")
        assert (await call.end()).taken
        assert isinstance(await process.ask(2, "a", whole=True).error(), QueryError)


async def test_what_came_before_a_failure_comes_before_it(autojump_clock: MockClock) -> None:
    """Also where the failure was met while it was read ahead."""
    backend = ScriptedBackend(lambda turn: ["one ", "two", QueryError("no")])
    async with asked("a", backend=backend) as process:
        await process.ask(1, "a").wait()
        events: list[Event] = []
        while (said := await (call := process.more(1)).wait()).state != "end":
            events += said.events
            await wait_all_tasks_blocked()
        assert events[1:] == [TextDelta(0, "one "), TextDelta(0, "two")]
        error = await call.error()
        assert isinstance(error, QueryError)
        assert error.partial is not None
        assert error.partial.text == "one two"


async def test_a_crash_is_told(autojump_clock: MockClock) -> None:
    """And the session can be asked again."""
    async with asked("a", backend=ScriptedBackend([ValueError("bad"), "yes"])) as process:
        error = await process.ask(1, "a", whole=True).error()
        assert isinstance(error, SessionCrashed)
        assert isinstance(error.__cause__, ValueError)
        call = process.ask(2, "a", whole=True)
        while (await call.wait()).state != "end":
            call = process.more(2)
        assert [str(event) for event in (await call.wait()).events] == ["yes"]


async def test_who_was_taken_before_it_asked_on_can_read(autojump_clock: MockClock) -> None:
    """One who waited in line, and whose next call was still under way."""
    with trio.fail_after(100):
        async with asked("a") as process:
            await process.ask(1, "a").wait()
            assert (await process.ask(2, "a").wait()).state == "waiting"
            await process.leave(1).end()
            await wait_all_tasks_blocked()
            assert (await process.more(2).wait()).state == "taken"
            with trio.move_on_after(50) as scope:
                assert isinstance((await process.read(2))[-1], ResultMessage)
            if scope.cancelled_caught:
                await process.leave(2).end()
        assert not scope.cancelled_caught


# ---- lines ---------------------------------------------------------------------------------------


async def test_calls_are_done_by_their_number(autojump_clock: MockClock) -> None:
    """Ray begins them in any order."""
    prompts: list[str] = []

    def answer(turn: ScriptedTurn) -> str:
        prompts.append(turn.prompt)
        return "yes"

    async with asked("a", backend=ScriptedBackend(answer)) as it:
        requests = [Request("ask", n, "a", args=(f"{n}", None, True)) for n in range(1, 6)]  # type: ignore[arg-type]
        calls = {n: it.receive(dumps(requests[n - 1]), place=n) for n in (3, 5, 2, 1, 4)}
        it.places["x"] = 5
        for number, call in sorted(calls.items()):
            while (await call.wait()).state != "end":
                call = it.more(number)
        assert prompts == ["1", "2", "3", "4", "5"]


async def test_what_came_by_a_broken_line_is_left(autojump_clock: MockClock) -> None:
    """Once a call comes by a new one, which asks again; what comes by the old one is refused."""
    async with asked("a", "b", backend=ScriptedBackend(hang)) as process:
        await process.ask(1, "a").wait()
        assert (await process.ask(2, "a").wait()).state == "waiting"
        late = dumps(Request("ask", 9, "a", args=("Hi", None, False)))  # type: ignore[arg-type]
        process.new_line()
        again = process.ask(2, "a")
        await wait_all_tasks_blocked()
        assert process.sessions["a"].inbox._present == 1
        while (await again.wait()).state != "taken":
            again = process.more(2)
        process.lines["x"] = 1
        assert process.receive(late, place=3).broken
        process.lines["x"] = 2
        await process.leave(2).end()
        await gone(process, "a")


async def test_what_is_asked_for_can_be_taken_back(autojump_clock: MockClock) -> None:
    """It is answered at once, with nothing, and what comes later is for who asks again; where nothing
    was asked for, there is nothing to take back."""
    backend = ScriptedBackend(lambda turn: ["one", 10.0, "two"])
    async with asked("a", backend=backend) as process:
        await process.ask(1, "a").wait()
        assert (await process.call("unask", 1).wait()).state == "taken"
        seen: list[Event] = []
        while "one" not in [getattr(event, "text", None) for event in seen]:
            seen += (await process.more(1).wait()).events
        pending = process.more(1)
        await wait_all_tasks_blocked()
        await process.call("unask", 1).wait()
        said = await pending.wait()
        assert (said.state, list(said.events)) == ("events", [])
        said = await process.more(1).wait()
        while said.state != "end":
            seen += said.events
            said = await process.more(1).wait()
        assert "two" in [getattr(event, "text", None) for event in seen]
        assert said.error is None


async def test_who_leaves_when_it_has_succeeded_is_given_the_result(
    autojump_clock: MockClock,
) -> None:
    """Though they have not asked for it yet: the conversation has the turn."""
    async with asked("a", backend=ScriptedBackend(lambda turn: [1.0, "yes"])) as process:
        first = process.ask(1, "a", whole=True)
        second = process.ask(2, "a", whole=True)
        assert (await second.wait()).state == "waiting"
        await first.end()
        assert (await process.more(2).wait()).state == "taken"
        await trio.sleep(5)
        said = await process.leave(2).end()
        assert "yes" == str(said.events[-1])


async def test_an_asker_that_was_cut_off_for_a_moment_is_told(autojump_clock: MockClock) -> None:
    """What it had begun is left; and what it asks by the same line says that this is broken, where
    it would wait for what was before it."""
    async with asked("a", backend=ScriptedBackend(hang)) as process:
        await process.ask(1, "a").wait()
        process.blink()
        await gone(process, "a")
        assert process.ask(2, "a").broken
        process.new_line()
        assert (await process.ask(2, "a").wait()).state == "taken"
        process.lose()
        await gone(process, "a")


async def test_the_end_of_a_line_is_none_of_the_next_one(autojump_clock: MockClock) -> None:
    """Though it is noticed later: what came by that is done."""
    async with asked("a", backend=ScriptedBackend(lambda turn: [1.0, "yes"])) as process:
        await process.ask(1, "a").wait()
        process.lose()
        asking = process.ask(1, "a", "again", whole=True)
        while (said := await asking.wait()).state != "end":
            asking = process.more(1)
        assert [str(event) for event in said.events] == ["yes"]
        assert list(process.service._askers) == ["x"]
        process.lose()
        await wait_all_tasks_blocked()
        assert process.service._askers == {}


async def test_a_process_that_ends_has_no_sessions(autojump_clock: MockClock) -> None:
    """Who asks it then is told that nothing was begun."""
    async with asked("a") as process:
        pass
    call = process.ask(1, "a")
    assert isinstance(await call.error(), NotHere)
    assert not (await call.end()).taken


async def test_no_turn_is_done_twice(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The way was cut while a question waited: its asker doesn't know that it was begun since, and asks
    again by the next line. What still waits is asked again; another life's numbers are its own."""
    monkeypatch.setattr(_service, "_BEGUN_KEPT", 2)
    prompts: list[str] = []

    def answer(turn: ScriptedTurn) -> Any:
        prompts.append(turn.prompt)
        return ["Well", 100.0] if turn.prompt == "4" else "yes"

    async with asked("a", backend=ScriptedBackend(answer)) as process:
        await process.ask(10, "a", "0").wait()
        await wait_all_tasks_blocked()
        for number in range(11, 16):
            assert (await process.ask(number, "a", f"{number - 10}", whole=True).wait()).state == (
                "waiting"
            )
        await process.leave(10).end()
        await wait_all_tasks_blocked()
        assert "".join(prompts) == "1234"  # three have ended, and one is in flight
        for number in (11, 12, 13):
            for state in ("taken", "end"):  # said, and lost on the way
                assert (await process.more(number).wait()).state == state
        process.new_line()
        for number, name in ((13, "a"), (14, "a")):
            error = await process.ask(number, name, f"{number - 10}", whole=True).error()
            assert isinstance(error, SessionCrashed)
            assert str(error) == (
                "the way to session 'a' was cut for a moment, and what became of this turn meanwhile "
                "was not heard"
            )
        again = process.ask(15, "a", "5", whole=True)
        while (await again.wait()).state != "end":
            again = process.more(15)
        assert "".join(prompts) == "12345"
        assert len(process.service._askers["x"].begun) == 2
        process.life += 1
        process.new_line()
        assert (await process.ask(13, "a", "6", whole=True).end()).error is None


async def test_who_watches_a_line_that_was_replaced_watches_no_longer(
    autojump_clock: MockClock,
) -> None:
    """Once it is lost: each new line has its own, and an actor may be started again without end."""
    async with asked("a", backend=ScriptedBackend(hang)) as process:
        for number in range(1, 5):
            process.ask(number, "a")
            await wait_all_tasks_blocked()
            assert process.service._nursery is not None
            watches = [
                task for task in process.service._nursery.child_tasks if "_wait_for" in task.name
            ]
            assert len(watches) <= 2
            process.blink()
            await wait_all_tasks_blocked()
            process.new_line()
        process.lose()


async def test_who_leaves_in_line_lets_nobody_overtake(autojump_clock: MockClock) -> None:
    """However Trio starts the tasks of those who came together."""
    prompts: list[str] = []

    def answer(turn: ScriptedTurn) -> str:
        prompts.append(turn.prompt)
        return "yes"

    async with asked("a", backend=ScriptedBackend(answer)) as process:
        for first in range(1, 200, 5):
            prompts.clear()
            calls = {}
            for number in range(first, first + 5):
                calls[number] = process.ask(number, "a", f"{number - first}", whole=True)
                if number == first + 3:
                    process.leave(number)
            for number, call in calls.items():
                while (await call.wait()).state != "end":
                    call = process.more(number)
            assert prompts == ["0", "1", "2", "4"]


async def test_what_waits_for_its_turn_is_told_that_its_line_is_broken(
    autojump_clock: MockClock,
) -> None:
    """Its asker left nothing, and may ask again; also what came before its time, and who leaves."""
    async with asked("a", backend=ScriptedBackend(hang)) as process:
        await process.ask(1, "a").wait()
        pending = process.more(1)
        early = process.receive(dumps(Request("more", 1)), place=9)
        leaving = process.leave(1)
        process.blink()
        await gone(process, "a")
        assert (pending.broken, early.broken, leaving.broken) == (True, True, True)
        assert (pending.begun, early.begun) == (True, False)
        process.lose()


async def test_what_its_session_has_just_taken_is_begun(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though the task that has put it there doesn't know yet, when the line is cut."""
    async with asked("a", backend=ScriptedBackend(hang)) as process:
        await wait_all_tasks_blocked()
        give = Taker.give

        def give_and_cut(self: Taker, request: _question.Request) -> None:
            give(self, request)
            process.service._askers["x"].cut()

        monkeypatch.setattr(Taker, "give", give_and_cut)
        call = process.ask(1, "a", whole=True)
        await gone(process, "a")
        assert (call.broken, call.begun) == (True, True)
        process.gone["x"].set()


async def test_who_waits_when_the_process_ends_is_told(autojump_clock: MockClock) -> None:
    """That its line is broken, and whether its turn was begun."""
    async with nothing_left():
        async with open_supervisor([spec("a", ScriptedBackend(hang))]) as supervisor:
            async with open_hidden_nursery() as nursery:
                process = Asked()
                process.know(supervisor.get_session("a"))
                await nursery.start(process.service.run)
                await process.ask(1, "a").wait()
                begun = process.more(1)
                await process.ask(2, "a").wait()
                waiting = process.more(2)
                nursery.cancel_scope.cancel()
            assert (begun.broken, begun.begun) == (True, True)
            assert (waiting.broken, waiting.begun) == (True, False)
            assert isinstance(await process.ask(3, "a").error(), NotHere)


# ---- a process that is starting ------------------------------------------------------------------


async def test_who_asks_a_session_that_is_yet_to_start_waits_for_it(
    autojump_clock: MockClock,
) -> None:
    """And is told so; in order; sessions that are there are asked meanwhile."""
    prompts: list[str] = []

    def answer(turn: ScriptedTurn) -> str:
        prompts.append(turn.prompt)
        return "yes"

    async with asked("a", "b", backend=ScriptedBackend(answer)) as process:
        late = process.sessions.pop("b")
        process.arrival = trio.Event()
        calls = {n: process.ask(n, "b", f"{n}", whole=True) for n in range(1, 6)}
        clear = process.call("clear", 6, "b")
        assert (await process.ask(7, "a", "a", whole=True).end()).error is None
        for number, call in calls.items():
            assert (await call.wait()).state == "waiting"
            calls[number] = process.more(number)
        left = process.leave(3)
        assert isinstance(await calls.pop(3).error(), Interrupted)
        await left.end()
        assert not clear.there.is_set()
        process.arrive()
        await wait_all_tasks_blocked()  # that was another one
        process.sessions["b"] = late
        process.arrive()
        for number, call in calls.items():
            while (await call.wait()).state != "end":
                call = process.more(number)
        assert (await clear.end()).error is None
        assert prompts == ["a", "1", "2", "4", "5"]


async def test_a_session_that_has_not_been_started_after_all(autojump_clock: MockClock) -> None:
    """Nothing was begun."""
    async with asked("a") as process:
        del process.sessions["a"]
        process.arrival = trio.Event()
        assert (await process.ask(1, "a").wait()).state == "waiting"
        process.arrive(last=True)
        end = await process.more(1).end()
        assert end.error is not None
        assert isinstance(loads_error(end.error), NotHere)
        assert not end.taken


# ---- who leaves ----------------------------------------------------------------------------------


async def test_who_leaves_in_line_was_never_there(autojump_clock: MockClock) -> None:
    """Nothing is asked; the call that waits is answered, too."""
    backend = ScriptedBackend(hang)
    async with asked("a", backend=backend) as process:
        await process.ask(1, "a").wait()
        await process.ask(2, "a").wait()
        more = process.more(2)
        said = await process.leave(2).end()
        assert (said.error, said.standing) == (None, (1, 0, "running", None))
        assert isinstance(await more.error(), Interrupted)
        await process.leave(1).end()
        await gone(process, "a")
        assert [turn.prompt for turn in backend.turns] == []  # none was read


@pytest.mark.parametrize("read", [0, 1])
@pytest.mark.parametrize("pulls", [False, True])
async def test_who_leaves_a_turn_ends_it(read: int, pulls: bool, autojump_clock: MockClock) -> None:
    """And is answered once it is off the session; also with a call under way."""
    ended = []

    async def answer(turn: ScriptedTurn) -> AsyncGenerator[str, None]:
        try:
            while True:
                yield "x"
                await trio.sleep(1)
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(3)
                ended.append(trio.current_time())

    async with asked("a", backend=ScriptedBackend(answer)) as process:
        await process.ask(1, "a").wait()
        for _ in range(read):
            await process.more(1).wait()
        more = process.more(1) if pulls else None
        await wait_all_tasks_blocked()
        start = trio.current_time()
        call = process.leave(1)
        again = process.leave(1)
        said = await call.end()
        assert said.error is None
        assert await again.end() == said
        if read or pulls:
            assert ended == [start + 3] == [trio.current_time()]
        if more is not None:
            (pulled,) = more.said
            assert pulled.state in ("events", "end")
        assert isinstance(await process.more(1).error(), Interrupted)
        await gone(process, "a")


async def test_who_leaves_after_the_end_is_told_so(autojump_clock: MockClock) -> None:
    """Whether the end was fetched or waits still."""
    async with asked("a", backend=ScriptedBackend(lambda turn: [QueryError("no")])) as process:
        await process.ask(1, "a", whole=True).end()
        assert isinstance(await process.leave(1).error(), Interrupted)

        await process.ask(2, "a").wait()
        await process.more(2).wait()
        await process.more(2).end()
        assert isinstance(await process.leave(2).error(), Interrupted)


async def test_who_leaves_while_the_end_waits_is_told_at_once(autojump_clock: MockClock) -> None:
    """One who waits in line, and whose end has come without being asked for."""
    async with asked("a", backend=ScriptedBackend(hang), shutdown=0) as process:
        await process.ask(1, "a").wait()
        await process.ask(2, "a").wait()
        process.sessions["a"].inbox.close()
        await wait_all_tasks_blocked()
        call = process.leave(2)
        assert call.there.is_set()
        assert (await call.end()).error is None
        process.sessions["a"].inbox.open()
        await process.leave(1).end()


async def test_an_asker_that_is_lost_has_left_all(autojump_clock: MockClock) -> None:
    """In line, in its turn, between two calls, after the end, and before its tasks have begun; others'
    questions go on."""
    backend = ScriptedBackend(lambda turn: ["Well", 100.0] if turn.prompt == "Hi" else "yes")
    async with asked("a", "b", backend=backend) as process:
        await process.ask(1, "a").wait()
        await process.more(1).wait()
        await process.ask(2, "a").wait()
        await process.ask(3, "b", "short").wait()
        await process.ask(4, "b").wait()
        other = process.ask(1, "a", "other", whole=True, asker="y")
        waiting = process.call("wait", 5)
        late = process.ask(6, "a")
        process.lose("x")
        await wait_all_tasks_blocked()
        assert "x" not in process.service._askers
        assert process.jobs == 0 or list(process.service._askers["y"].jobs) == [1]
        assert waiting.broken
        assert late.broken or (await late.wait()).state == "waiting"
        while (await other.wait()).state != "end":
            other = process.more(1, "y")
        assert trio.current_time() < 1
        await gone(process, "b")

        # It is known anew if it comes again, as one that Ray has started again does.
        assert (await process.ask(1, "a", "again", whole=True).end()).error is None
        process.lose("x")
        process.lose("y")
        await wait_all_tasks_blocked()
        assert process.service._askers == {}


# ---- what else can be asked ----------------------------------------------------------------------


async def test_a_session_is_interrupted_and_stopped_from_afar(autojump_clock: MockClock) -> None:
    """As by its handle; `stop` waits or not."""
    async with asked(
        "a", backend=ScriptedBackend(hang), shutdown=0, restart="transient"
    ) as process:
        call = process.ask(1, "a", whole=True)
        await wait_all_tasks_blocked()
        assert (await process.call("interrupt", 2, "a").end()).error is None
        assert isinstance(await call.error(), Interrupted)

        await process.ask(3, "a").wait()
        await process.call("stop", 4, "a", False).end()  # it waits for no reader
        stop = process.call("stop", 5, "a", True)
        await wait_all_tasks_blocked()
        assert not stop.there.is_set()
        await process.leave(3).end()
        assert (await stop.end()).error is None
        assert isinstance(await process.call("clear", 6, "a").error(), SessionTerminated)


async def test_a_session_is_controlled_from_afar(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the program says is sent as a dict; what it refuses is raised."""
    async with asked("a") as process:
        call = process.call("control", 1, "a", "mcp_status", {"subtype": "mcp_status"})
        assert isinstance(await call.error(), UsageError)  # this backend has none

        async def control(inbox: Inbox, what: str, request: Any) -> Any:
            if request is None:
                raise ControlError("no", refused=True)
            return attrs.converters.default_if_none({})({what: request})

        monkeypatch.setattr(Inbox, "control", control)
        said = await process.call("control", 2, "a", "x", {"y": 1}).end()
        assert said.value == {"x": {"y": 1}}
        error = await process.call("control", 3, "a", "x", None).error()
        assert isinstance(error, ControlError)
        assert error.refused


async def test_what_is_about_no_session_is_done_by_others(autojump_clock: MockClock) -> None:
    """With its value, or what it raised; one who leaves cancels it."""
    async with asked() as process:
        assert (await process.call("plan", 1, None, "door").end()).value == ("did", "plan")
        assert process.done == [("plan", ("door",))]
        error = await process.call("fail", 2).error()
        assert (type(error), str(error)) == (ValueError, "no")
        call = process.call("wait", 3)
        await wait_all_tasks_blocked()
        assert (await process.leave(3).end()).error is None
        assert isinstance(await call.error(), Interrupted)
        assert process.done == [("plan", ("door",))]


async def test_who_leaves_what_has_not_begun_begins_nothing(autojump_clock: MockClock) -> None:
    """Both calls come in one batch."""
    backend = ScriptedBackend()
    async with asked("a", backend=backend) as process:
        call, left = process.ask(1, "a"), process.leave(1)
        other = process.ask(2, "a", whole=True)
        assert isinstance(await call.error(), Interrupted)
        await left.end()
        while (await other.wait()).state != "end":
            other = process.more(2)
        assert len(backend.turns) == 1


async def test_what_cannot_be_understood_is_said(autojump_clock: MockClock) -> None:
    """An unknown kind; what is no pickle; neither harms anybody else."""
    async with asked("a") as process:
        error = await process.call("dance", 1, "a").error()
        assert isinstance(error, ProtocolError)
        assert str(error) == "nothing is known here of 'dance': is it another version?"
        call = process.receive(b"no pickle")
        said = await call.end()
        assert (said.taken, said.error is None) == (False, False)
        assert isinstance(await process.more(9).error(), Interrupted)
        assert (await process.ask(2, "a", whole=True).end()).error is None


async def test_a_request_of_another_version_is_the_asker_s_error(autojump_clock: MockClock) -> None:
    """Whatever it unpickles to: the process goes on."""
    async with asked("a") as process:
        call = process.receive(dumps("no request"))
        assert isinstance(await call.error(), ProtocolError)
        assert (await process.ask(1, "a", whole=True).end()).error is None


@pytest.mark.parametrize("whole", [True, False])
async def test_an_answer_that_cannot_be_sent_is_the_askers_error(
    whole: bool, autojump_clock: MockClock
) -> None:
    """It is told what cannot; the session goes on."""
    odd = ResultMessage("odd", extra={"odd": lambda: None})
    backend = ScriptedBackend(lambda turn: [odd] if turn.prompt == "Hi" else "yes")
    async with asked("a", backend=backend) as process:
        call = process.ask(1, "a", whole=whole)
        if not whole:
            for _ in range(2):
                await call.wait()
                call = process.more(1)
        error = await call.error()
        assert isinstance(error, ProtocolError)
        assert str(error).startswith("the answer can't be sent to another process: ")
        assert (await call.end()).taken
        assert (await process.ask(2, "a", "Bye", whole=True).end()).error is None


async def test_events_that_cannot_be_sent_end_the_turn(autojump_clock: MockClock) -> None:
    """In the midst of an answer: nobody asks on after an error, so it must not go on here."""
    odd = AssistantMessage((), model=lambda: None)  # type: ignore[arg-type]
    async with asked("a", backend=ScriptedBackend(lambda turn: [odd, 10.0, "x"])) as process:
        await process.ask(1, "a").wait()
        await process.more(1).wait()
        assert isinstance(await process.more(1).error(), ProtocolError)
        await wait_all_tasks_blocked()
        left = process.jobs
        process.lose()
        await wait_all_tasks_blocked()
        assert left == 0


# ---- batches -------------------------------------------------------------------------------------


class Bursts(Answer, trio.abc.ReceiveChannel[Event]):
    """An answer whose events come together, as from a network."""

    def __init__(self, events: list[Event]) -> None:
        self.events = events

    async def receive_some(self) -> list[Event]:
        """All that there are, and then the result."""
        await trio.lowlevel.checkpoint()
        events, self.events = self.events, []
        return events or [ResultMessage("done")]

    async def attend(self) -> None:
        """There is nothing to do."""
        await trio.sleep_forever()

    def partial(self) -> None:
        """There is nothing."""

    async def receive(self) -> Event:
        """Nobody calls it."""
        raise AssertionError

    async def aclose(self) -> None:
        """There is nothing to close."""


@attrs.frozen(eq=False)
class BurstBackend(Backend, Connection, Conversation):
    """A backend whose answers are bursts of these events."""

    events: list[Event]

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[Connection]:
        """Connect to nothing."""
        yield self

    @asynccontextmanager
    async def open(self, options: SessionOptions) -> AsyncIterator[Conversation]:
        """Open nothing."""
        yield self

    @asynccontextmanager
    async def turn(self, prompt: str, options: SessionOptions) -> AsyncIterator[Bursts]:
        """Give the burst."""
        yield Bursts(list(self.events))


@pytest.mark.parametrize(
    "events",
    [
        [TextDelta(0, "x")] * 10,  # by number
        [TextDelta(0, "x" * BATCH_SIZE)] * 3,  # by size
        [TextDelta(0, "x"), TextDelta(0, "x" * BATCH_SIZE), TextDelta(0, "x")],
    ],
)
async def test_a_batch_is_bounded_by_number_and_by_size(
    events: list[Event], autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is what is there, as far as it fits; one event more than its size at most."""
    monkeypatch.setattr(_turns, "_BATCH", 4)
    async with asked("a", backend=BurstBackend(events)) as process:
        await process.ask(1, "a").wait()
        batches = []
        while (said := await process.more(1).wait()).state != "end":
            batches.append(said.events)
        assert len(batches) >= 2 or len(events) == 3
        batches.append(said.events)
        for batch in batches:
            assert len(batch) <= 4
            assert sum(map(size_of, batch[:-1])) < BATCH_SIZE
        assert [event for batch in batches for event in batch] == [*events, ResultMessage("done")]


# ---- whatever happens ----------------------------------------------------------------------------

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["ask", "whole", "more", "more", "more", "leave", "lose", "pause", "wait"]),
        st.integers(0, 2),
        st.sampled_from("xy"),
    ),
    max_size=25,
)


@given(steps=STEPS, pauses=st.booleans())
def test_each_question_has_one_end_and_leaves_nothing(
    steps: list[tuple[str, int, str]], pauses: bool
) -> None:
    """Whatever its asker calls, in whatever order, and whenever it is lost."""

    async def main() -> None:
        def answer(turn: ScriptedTurn) -> list[str | float | BaseException]:
            steps: list[str | float | BaseException] = ["one ", 1, "two ", QueryError("no")]
            return steps[: len(turn.prompt)]

        backend = ScriptedBackend(answer)
        with trio.fail_after(1000):
            async with asked("a", "b", backend=backend) as process:
                await storm(process)

    async def storm(process: Asked) -> None:
        if True:
            calls: dict[tuple[str, int, int], list[Call]] = {}
            life = dict.fromkeys("xy", 0)
            number = dict.fromkeys("xy", 0)
            lost: set[tuple[str, int, int]] = set()
            for kind, which, asker in steps:
                mine = [key for key in calls if key[:2] == (asker, life[asker])]
                if kind in ("ask", "whole"):
                    number[asker] += 1
                    call = process.ask(
                        number[asker],
                        "ab"[which % 2],
                        "x" * (1 + number[asker] % 4),
                        whole=kind == "whole",
                        asker=asker,
                    )
                    calls[asker, life[asker], number[asker]] = [call]
                elif kind in ("more", "leave") and mine:
                    key = mine[which % len(mine)]
                    if kind == "leave":
                        process.leave(key[2], asker)
                    elif calls[key][-1].there.is_set():  # one at a time
                        calls[key].append(process.more(key[2], asker))
                elif kind == "lose" and asker in process.gone:
                    process.lose(asker)
                    lost |= set(mine)
                    life[asker] += 1
                    await wait_all_tasks_blocked()
                elif kind == "wait":
                    await trio.sleep(which)
                if pauses:
                    await wait_all_tasks_blocked()
            for key, asked_so_far in calls.items():
                if key in lost:
                    continue
                while (await asked_so_far[-1].wait()).state != "end":
                    asked_so_far.append(process.more(key[2], key[0]))
            for asker in [*process.gone]:
                process.lose(asker)
            await wait_all_tasks_blocked()
            for key, asked_so_far in calls.items():
                said = [said for call in asked_so_far for said in call.said]
                states = [each.state for each in said]
                assert all(len(call.said) <= 1 for call in asked_so_far)
                if key not in lost:
                    assert states[-1] == "end"
                # One end, and nothing but that it was left behind it.
                for late in states[states.index("end") + 1 :] if "end" in states else []:
                    assert late == "end"
                assert states == sorted(states, key=["waiting", "taken", "events", "end"].index)
            for name in "ab":
                await gone(process, name)

    trio.run(main, clock=MockClock(autojump_threshold=0))
