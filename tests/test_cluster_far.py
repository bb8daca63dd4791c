"""A session elsewhere, against a wire that says what the test says."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, cast

import attrs
import pytest
import ray.cloudpickle
import trio
from trio.testing import wait_all_tasks_blocked

from trio_claude import (
    ClusterError,
    ConfigurationError,
    Event,
    Global,
    Interrupted,
    QueryError,
    ResponseStream,
    ResultMessage,
    SessionBusy,
    SessionCrashed,
    SessionHandle,
    SessionNotFound,
    SessionTerminated,
    SystemMessage,
    TextDelta,
    TrioClaudeError,
    UsageError,
)
from trio_claude._session.handle import ask, read
from trio_claude._session.question import Clear
from trio_claude._session.target import Status
from trio_claude.cluster import _lines
from trio_claude.cluster._doors import DoorLost
from trio_claude.cluster._far import ByName, FarSession
from trio_claude.cluster._far_question import FarQuestion
from trio_claude.cluster._jobs import NotHere
from trio_claude.cluster._lines import Askers
from trio_claude.cluster._peers import Peers
from trio_claude.cluster._wire import Entry, Said
from trio_claude.cluster._wire_errors import dumps_error

A = Global("a")
DONE = Said("end", events=[ResultMessage("done")])
TAKEN = Said("taken")
WAITING = Said("waiting")
WORDS: list[Event] = [TextDelta(0, "one"), TextDelta(0, "two")]


def entry(door: str = "there", life: int = 1, serial: int = 0, status: Status = "running") -> Entry:
    """A session elsewhere."""
    return Entry(door, life, f"process of {door}", A, A, status, "s0", serial)


def lost(*, returns: bool = False, why: str = "The node died.\nMore") -> DoorLost:
    """What is raised of a door that is gone."""
    error = DoorLost(returns=returns)
    error.__cause__ = OSError(why)
    return error


def bad(error: Exception, **said: Any) -> Said:
    """An end with this error."""
    return Said("end", error=dumps_error(error), **said)


Answers = Said | Exception


class Wait:
    """An answer that comes when the test says so."""

    def __init__(self) -> None:
        self.said: Answers | None = None
        self.there = trio.Event()

    def answer(self, said: Answers) -> None:
        """Let it come."""
        self.said = said
        self.there.set()

    async def wait(self) -> Said:
        """What is answered."""
        await self.there.wait()
        assert self.said is not None
        if isinstance(self.said, BaseException):
            raise self.said
        return self.said


@attrs.define(eq=False)
class Script:
    """The wire, and all doors that are reached by it."""

    start_soon: Callable[..., None]
    dumps: Callable[[object], bytes] = ray.cloudpickle.dumps
    run: trio.lowlevel.TrioToken = attrs.field(factory=trio.lowlevel.current_trio_token)
    asked: list[tuple[Any, ...]] = attrs.field(factory=list)
    """What was asked: the door, the kind, and its arguments."""
    says: dict[str, deque[Answers]] = attrs.field(factory=dict)
    """What is answered, by kinds; else the test does."""
    open: list[tuple[str, Wait]] = attrs.field(factory=list)
    reaching: deque[Exception | trio.Event] = attrs.field(factory=deque)
    found: deque[FarSession | trio.Event | None] = attrs.field(factory=deque)
    forgotten: list[FarSession] = attrs.field(factory=list)
    number: int = 0

    @property
    def peers(self) -> Peers:
        """This, as what it stands for."""
        return cast("Peers", self)

    _askers: defaultdict[str, Askers] = attrs.field(factory=lambda: defaultdict(Askers))
    # By what is here.
    do, send, up = Peers.do, Peers.send, Peers.up
    _coming_up: set[Any] = attrs.field(factory=set)
    enter, first, leave = Peers.enter, Peers.first, Peers.leave

    def next_number(self) -> int:
        """One more."""
        self.number += 1
        return self.number

    async def reach(self, door: str) -> Door:
        """Reach it, or fail, or wait."""
        await _next(self.reaching)
        return Door(self, door)

    async def resolve(self, name: Global) -> FarSession | None:
        """Find it."""
        found = self.found.popleft()
        if isinstance(found, trio.Event):
            await found.wait()
            found = None
        await trio.lowlevel.checkpoint()
        return found

    def forget(self, session: FarSession) -> None:
        """It is not there."""
        self.forgotten.append(session)

    def say(self, kind: str, *answers: Answers) -> None:
        """Answer calls of this kind so, one after the other."""
        self.says.setdefault(kind, deque()).extend(answers)

    async def answer(self, kind: str, said: Answers) -> None:
        """Answer the call of this kind that was made first."""
        await wait_all_tasks_blocked()
        for number, (asked, wait) in enumerate(self.open):
            if asked == kind:
                del self.open[number]
                wait.answer(said)
                await wait_all_tasks_blocked()
                return
        raise AssertionError(self.asked)

    def kinds(self) -> list[str]:
        """What was asked since."""
        kinds = [asked[1] for asked in self.asked]
        self.asked.clear()
        return kinds

    def session(self, **how: Any) -> FarSession:
        """A session that it leads to."""
        return FarSession(self.peers, A, entry(**how), self.forget)


async def _next(answers: deque[Exception | trio.Event]) -> None:
    answer = answers.popleft() if answers else None
    await trio.lowlevel.checkpoint()
    if isinstance(answer, trio.Event):
        await answer.wait()
    elif answer is not None:
        raise answer


@attrs.frozen
class Door:
    """One that was reached."""

    script: Script
    door: str

    @property
    def peer(self) -> Door:
        """What it leads to."""
        return self

    def call(self, method: str) -> Wait:
        """Call the door itself."""
        return self.ask(method, 0)

    def ask(self, kind: str, number: int, session: FarSession | None = None, *args: Any) -> Wait:
        """Ask it."""
        name = None if session is None else session.key
        self.script.asked.append((self.door, kind, number, name, *args))
        wait = Wait()
        answers = self.script.says.get(kind)
        if answers:
            wait.answer(answers.popleft())
        else:
            self.script.open.append((kind, wait))
        return wait


@asynccontextmanager
async def scripted() -> AsyncIterator[Script]:
    """A wire; what runs in its background has ended with the block."""
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            script = Script(nursery.start_soon)
            try:
                yield script
            finally:
                for _, wait in script.open:
                    wait.answer(bad(Interrupted("it was left")))


def is_idle(session: FarSession) -> bool:
    """Whether no question to it is open."""
    return not session.questions


# ---- how it stands -------------------------------------------------------------------------------


async def test_what_is_known_of_it() -> None:
    """As it was told last; older news never takes the place of newer, but another life's does."""
    async with scripted() as script:
        session = script.session(life=1, serial=3)
        handle = SessionHandle(session)
        assert repr(handle) == "<SessionHandle Global(key='a') running>"
        assert (handle.name, handle.id, handle.session_id) == (A, A, "s0")
        session.heard((1, 2, "stopped", "old"))
        assert (handle.status, handle.session_id) == ("running", "s0")
        session.heard((1, 3, "restarting", "same"))
        assert (handle.status, handle.session_id) == ("restarting", "same")
        session.heard((1, 4, "running", "new"))
        session.heard((2, 0, "starting", None))
        assert (handle.status, handle.session_id, handle.is_alive()) == ("starting", None, False)
        session.gone()
        assert (handle.status, handle.session_id) == ("stopped", None)


async def test_another_run_may_not_ask_it() -> None:
    """Nor a task that has a stream of it open; bad input is refused before anything is asked."""
    async with scripted() as script:
        session = script.session()
        handle = SessionHandle(session)

        async def call(method: str, *args: Any) -> None:
            await getattr(handle, method)(*args)

        for call_args in (
            ("query", "Hi"),
            ("clear",),
            ("interrupt",),
            ("stop",),
            ("mcp_status",),
        ):
            with pytest.raises(UsageError, match="belongs to another Trio run"):
                await trio.to_thread.run_sync(trio.run, call, *call_args)
        for prompt in ("", " ", 5):
            with pytest.raises(ConfigurationError, match="the prompt must be text"):
                handle.stream(prompt)  # type: ignore[arg-type]
        with pytest.raises(ConfigurationError, match="timeout"):
            await handle.query("Hi", timeout=-1)

        script.say("ask", TAKEN)
        async with handle.stream("Hi"):
            for name in ("query", "clear"):
                with pytest.raises(UsageError, match="by a task that has a stream of it open"):
                    await (handle.query("Hi") if name == "query" else handle.clear())
            assert script.kinds() == ["ask"]
            script.say("interrupt", Said("end"))
            script.say("stop", Said("end"))
            await handle.interrupt()
            await handle.stop()
            assert [asked[4:] for asked in script.asked] == [(), (False,)]
            script.say("leave", Said("end"))
        script.say("stop", Said("end"))
        await handle.stop()
        assert script.asked[-1][4:] == (True,)


# ---- questions -----------------------------------------------------------------------------------


async def test_a_whole_answer_is_one_call() -> None:
    """With the options that hold for it; how the session stands comes along."""
    async with scripted() as script:
        session = script.session()
        script.say("ask", DONE._replace(standing=(1, 1, "running", "s1")))
        assert str(await SessionHandle(session).query("Hi", model="opus")) == "done"
        ((door, kind, number, name, prompt, options, whole),) = script.asked
        assert (door, kind, number, name, prompt, whole) == ("there", "ask", 1, A, "Hi", True)
        assert ray.cloudpickle.loads(options) == {"model": "opus"}
        assert session.session_id == "s1"
        assert is_idle(session)


async def test_a_stream_is_asked_on_one_batch_ahead() -> None:
    """In line, taken, events, the end. Behind deltas the next call is under way while they are read;
    behind all else not before it is wanted, for the result may be next."""
    async with scripted() as script:
        session = script.session()
        script.say("ask", WAITING)
        whole = SystemMessage("init")
        script.say("more", WAITING, TAKEN, Said("events", (1, 1, "running", "s1"), [whole]))
        events = []
        async with SessionHandle(session).stream("Hi") as stream:
            assert script.kinds() == ["ask", "more", "more"]
            assert session.questions
            events.append(await stream.receive())
            assert session.session_id == "s1"
            assert script.kinds() == ["more"]
            script.say("more", Said("events", events=WORDS))
            events.append(await stream.receive())
            assert script.kinds() == ["more", "more"]
            await script.answer("more", DONE)
            events += [event async for event in stream]
            assert is_idle(session)
        assert script.kinds() == []
        assert events == [whole, *WORDS, *DONE.events]
        with pytest.raises(trio.ClosedResourceError):
            await stream.receive()


async def test_a_whole_answer_of_one_who_waited_is_waited_for() -> None:
    """Also where it was taken meanwhile: there is nothing to read before the end."""
    async with scripted() as script:
        script.say("ask", WAITING)
        script.say("more", TAKEN, DONE)
        assert str(await SessionHandle(script.session()).query("Hi")) == "done"
        assert script.kinds() == ["ask", "more", "more"]


async def test_reading_on_behind_the_end_says_so() -> None:
    """Each time."""
    async with scripted() as script:
        script.say("ask", TAKEN)
        script.say("more", DONE)
        async with SessionHandle(script.session()).stream("Hi") as stream:
            await stream.receive()
            for _ in range(2):
                with pytest.raises(trio.EndOfChannel):
                    await stream.receive()
            assert await stream._question._read() == []


async def test_what_a_turn_fails_of_is_raised() -> None:
    """From the stream, or the query, each time; with what it carries."""
    async with scripted() as script:
        session = script.session()
        script.say("ask", bad(QueryError("no")))
        with pytest.raises(QueryError, match="no"):
            await SessionHandle(session).query("Hi")
        script.say("ask", TAKEN)
        script.say("more", bad(QueryError("no")))
        async with SessionHandle(session).stream("Hi") as stream:
            for _ in range(2):
                with pytest.raises(QueryError, match="no"):
                    await stream.receive()
        assert is_idle(session)
        assert script.kinds() == ["ask", "ask", "more"]


async def test_what_kept_it_from_being_taken_is_raised_at_once() -> None:
    """By entering the block; what is none of ours says that it could not be asked."""
    async with scripted() as script:
        session = script.session()
        handle = SessionHandle(session)
        script.say("ask", bad(SessionBusy("full"), taken=False))
        with pytest.raises(SessionBusy, match="full"):
            async with handle.stream("Hi"):
                raise AssertionError
        script.say("ask", WAITING)
        script.say("more", bad(ValueError("odd"), taken=False))
        with pytest.raises(
            ClusterError, match=r"could not be asked: ValueError\('odd'\)"
        ) as caught:
            await handle.query("Hi")
        assert isinstance(caught.value.__cause__, ValueError)
        assert is_idle(session)
        assert session.status == "running"


async def test_a_session_that_is_not_there_is_stopped() -> None:
    """And this process forgets what it had heard of it."""
    async with scripted() as script:
        session = script.session()
        handle = SessionHandle(session)
        script.say("ask", bad(NotHere("not there", name=A), taken=False))
        with pytest.raises(SessionTerminated, match="is stopped: it was terminated, has finished"):
            await handle.query("Hi")
        assert script.forgotten == [session]
        assert handle.status == "stopped"


# ---- a door that is lost -------------------------------------------------------------------------


async def terminated(handle: SessionHandle, method: str = "query", *args: Any) -> None:
    """Check that it says that nothing was begun, and why."""
    with pytest.raises(SessionTerminated) as caught:
        await getattr(handle, method)(*args)
    assert str(caught.value) == (
        "session Global(key='a') is stopped: process of there, in which it ran, is gone"
    )
    assert caught.value.name == A
    assert isinstance(caught.value.__cause__, ClusterError)
    assert str(caught.value.__cause__) == (
        "process of there can't be reached any more: The node died."
    )
    assert handle.status == "stopped"


async def crashed(handle: SessionHandle, method: str = "query", *args: Any) -> None:
    """Check that it says that nobody knows."""
    with pytest.raises(SessionCrashed) as caught:
        await getattr(handle, method)(*args)
    assert str(caught.value) == (
        "session Global(key='a') crashed in this turn: process of there, in which it ran, is gone"
    )
    assert caught.value.name == A
    assert str(caught.value.__cause__) == (
        "process of there can't be reached any more: The node died."
    )


async def test_a_door_that_is_not_found_has_begun_nothing() -> None:
    """The session is stopped."""
    async with scripted() as script:
        session = script.session()
        script.reaching.append(lost())
        await terminated(SessionHandle(session), "query", "Hi")
        assert is_idle(session)
        assert script.kinds() == []


async def test_a_door_without_a_reason() -> None:
    """That is Ray's silence after this process was disconnected."""
    async with scripted() as script:
        script.reaching.append(DoorLost(returns=False))
        with pytest.raises(SessionTerminated) as caught:
            await SessionHandle(script.session()).query("Hi")
        assert str(caught.value.__cause__) == (
            "process of there can't be reached any more: this process is cut off from Ray"
        )


async def test_a_door_that_returns_is_waited_for() -> None:
    """Before it was asked, and while the question was known to wait in line."""
    async with scripted() as script:
        script.reaching.append(lost(returns=True))
        script.say("ask", WAITING, TAKEN)
        script.say("more", lost(returns=True), DONE)
        assert str(await SessionHandle(script.session()).query("Hi")) == "done"
        assert script.kinds() == ["ask", "more", "ask", "more"]


async def test_a_door_that_is_gone_for_good_has_not_begun_what_was_in_line() -> None:
    """So that the caller knows that it can ask another one."""
    async with scripted() as script:
        script.say("ask", WAITING)
        script.say("more", lost())
        await terminated(SessionHandle(script.session()), "query", "Hi")


@pytest.mark.parametrize("returns", [True, False])
async def test_nobody_knows_what_became_of_a_question_without_an_answer(returns: bool) -> None:
    """Also where the process is started again."""
    async with scripted() as script:
        session = script.session()
        script.say("ask", lost(returns=returns))
        await crashed(SessionHandle(session), "query", "Hi")
        assert is_idle(session)


@pytest.mark.parametrize("returns", [True, False])
async def test_a_turn_is_lost_with_its_process(returns: bool) -> None:
    """The stream raises it, each time; should only the way there be cut, it is left."""
    async with scripted() as script:
        session = script.session()
        script.say("ask", TAKEN)
        script.say("more", lost(returns=returns))
        async with SessionHandle(session).stream("Hi") as stream:
            for _ in range(2):
                with pytest.raises(SessionCrashed, match="crashed in this turn") as caught:
                    await stream.receive()
                assert isinstance(caught.value.__cause__, ClusterError)
        assert script.kinds() == ["ask", "more", "leave"]
        assert is_idle(session)


async def test_what_has_come_before_a_line_was_cut_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """And only then its reader is told."""
    async with scripted() as script:
        session = script.session()
        script.say("ask", TAKEN)
        script.say("more", Said("events", events=WORDS))
        async with SessionHandle(session).stream("Hi") as stream:
            ask = Door.ask

            def cut(self: Door, kind: str, *args: Any) -> Wait:
                if kind == "more" and not script.says["more"]:
                    raise lost(returns=True)
                return ask(self, kind, *args)

            monkeypatch.setattr(Door, "ask", cut)
            assert [await stream.receive() for _ in range(2)] == WORDS
            with pytest.raises(SessionCrashed):
                await stream.receive()


async def test_what_was_heard_of_the_next_life_of_a_process_holds() -> None:
    """Though the end of the one before is noticed later: the session runs, and what crashed says
    where it ran."""
    async with scripted() as script:
        session = script.session()
        handle = SessionHandle(session)
        async with trio.open_nursery() as nursery:

            async def ask() -> None:
                await crashed(handle, "query", "Hi")

            nursery.start_soon(ask)
            await wait_all_tasks_blocked()
            session.hear(attrs.evolve(entry(life=2), where="its next process"))
            await script.answer("ask", lost(returns=True))
        assert (handle.status, handle.session_id) == ("running", "s0")


async def test_a_door_that_does_not_return_after_all() -> None:
    """It was waited for, and is gone for good: nothing was begun."""
    async with scripted() as script:
        script.say("ask", WAITING)
        script.say("more", lost(returns=True))
        script.reaching += [_set(), lost()]
        await terminated(SessionHandle(script.session()), "query", "Hi")


async def test_a_question_in_line_when_the_connection_ends() -> None:
    """Has that for its outcome, not what becomes of its line behind it."""
    async with scripted() as script:
        session = script.session()
        script.say("ask", WAITING)
        async with trio.open_nursery() as nursery:

            async def ask() -> None:
                with pytest.raises(ClusterError, match="the connection has ended"):
                    await SessionHandle(session).query("Hi")

            nursery.start_soon(ask)
            await wait_all_tasks_blocked()
            (question,) = session.questions
            question.end(ClusterError("the connection has ended"))
            await script.answer("more", lost())


async def test_a_session_whose_process_is_gone_is_forgotten() -> None:
    """So that who asks by name finds out who has it now."""
    async with scripted() as script:
        session = script.session()
        script.reaching.append(lost())
        await terminated(SessionHandle(session), "query", "Hi")
        assert script.forgotten == [session]


async def test_a_question_that_was_refused_is_asked_again() -> None:
    """Its line was broken, which it could not know: nothing was begun. What may have been begun is not
    asked again, whatever is said of what it was asked on with."""
    refused = DoorLost(returns=True, begun=False)
    async with scripted() as script:
        session = script.session()
        script.say("ask", refused, DONE)
        assert str(await SessionHandle(session).query("Hi")) == "done"
        assert script.kinds() == ["ask", "ask"]
        script.say("ask", TAKEN)
        script.say("more", refused)
        with pytest.raises(SessionCrashed):
            await SessionHandle(session).query("Hi")
        assert script.kinds() == ["ask", "more", "leave"]


# ---- who is cancelled ----------------------------------------------------------------------------


async def cancelled(
    script: Script, handle: SessionHandle | Named, then: Said | None = None
) -> None:
    """Ask, and be cancelled once it waits; what was asked for is answered so, after that."""
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(handle.query, "Hi")
            await wait_all_tasks_blocked()
            scope.cancel()
            with trio.CancelScope(shield=True):
                await wait_all_tasks_blocked()
                for _, wait in script.open:
                    wait.answer(then or bad(Interrupted("the asker has left")))
                script.open.clear()
    assert scope.cancelled_caught == (then is None)
    await wait_all_tasks_blocked()


@pytest.mark.parametrize(
    ("stage", "kinds"),
    [
        ("reach", []),
        ("ask", ["ask", "leave"]),
        ("more", ["ask", "more", "leave"]),
        ("return", ["ask", "more", "leave"]),
        ("read", ["ask", "more", "leave"]),
    ],
)
async def test_a_question_is_left_wherever_it_is_cancelled(stage: str, kinds: list[str]) -> None:
    """The other side says that it has done so before its caller goes on."""
    async with scripted() as script:
        session = script.session()
        if stage == "reach":
            script.reaching.append(trio.Event())
        if stage in ("more", "return"):
            script.say("ask", WAITING)
        if stage == "return":
            script.say("more", lost(returns=True))
            script.reaching += [_set(), trio.Event()]
        if stage == "read":
            script.say("ask", TAKEN)
        await cancelled(script, SessionHandle(session))
        assert script.kinds() == kinds
        assert is_idle(session)


async def test_a_session_that_has_stopped_may_have_done_so_with_its_process() -> None:
    """So its door is called first: nothing was begun where that is gone."""
    async with scripted() as script:
        session = script.session(status="stopped")
        script.say("up", Said("end"))
        script.say("ask", DONE)
        assert str(await SessionHandle(session).query("Hi")) == "done"
        session.gone()
        script.say("up", lost())
        await terminated(SessionHandle(session), "query", "Hi")
        await cancelled(script, SessionHandle(script.session(status="stopped")))
        assert script.kinds() == ["up", "ask", "up", "up"]


async def test_who_leaves_hears_how_that_ended() -> None:
    """Also behind what it is told first: that it waits."""
    async with scripted() as script:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(SessionHandle(script.session()).query, "Hi")
                await wait_all_tasks_blocked()
                scope.cancel()
                with trio.CancelScope(shield=True):
                    await script.answer("ask", WAITING)
                    await script.answer("leave", DONE)
        assert not scope.cancelled_caught
        assert script.kinds() == ["ask", "leave"]


@pytest.mark.parametrize("how", ["cancelled", "interrupted"])
async def test_who_is_gone_holds_up_nobody(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever becomes of what it had asked for."""
    monkeypatch.setattr(_lines, "PARTING_SECONDS", 0.001)
    async with scripted() as script:
        handle = SessionHandle(script.session())
        if how == "cancelled":
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(handle.query, "Hi")
                    await wait_all_tasks_blocked()
                    scope.cancel()
        else:
            script.says["ask"] = deque([KeyboardInterrupt()])  # type: ignore[list-item]
            with pytest.raises(KeyboardInterrupt):
                await handle.query("Hi")
        assert script._askers == {}
        script.say("ask", DONE)
        assert str(await handle.query("Hi")) == "done"


async def test_a_fault_of_the_other_side_hides_no_cancellation() -> None:
    """And leaves nothing behind."""
    async with scripted() as script:
        session = script.session()
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(SessionHandle(session).query, "Hi")
                await wait_all_tasks_blocked()
                scope.cancel()
                with trio.CancelScope(shield=True):
                    await script.answer("ask", ClusterError("an actor of trio_claude failed"))
        assert scope.cancelled_caught
        assert is_idle(session)


async def test_who_comes_back_while_another_one_reaches_a_door_goes_first() -> None:
    """That one has not asked yet."""
    async with scripted() as script:
        reached = trio.Event()
        script.reaching += [reached]
        script.say("ask", DONE)
        async with trio.open_nursery() as nursery:
            number = script.next_number()
            nursery.start_soon(SessionHandle(script.session()).query, "Hi")
            await wait_all_tasks_blocked()
            script.peers.enter("there", number)
            reached.set()
            await wait_all_tasks_blocked()
            assert script.asked == []
            script.peers.leave("there", number)
        assert script.kinds() == ["ask"]


async def test_a_question_that_a_ctrl_c_hits_is_left() -> None:
    """Nobody waits for what comes of that; before it was reached, there is nothing to leave."""
    async with scripted() as script:
        for reached, kinds in ((False, []), (True, ["ask", "leave"])):
            session = script.session()
            script.asked.clear()
            if reached:
                script.says["ask"] = deque([KeyboardInterrupt()])  # type: ignore[list-item]
            else:
                script.reaching.append(KeyboardInterrupt())  # type: ignore[arg-type]
            with pytest.raises(KeyboardInterrupt):
                await SessionHandle(session).query("Hi")
            assert script.kinds() == kinds
            assert is_idle(session)


async def test_an_answer_that_was_under_way_is_the_callers() -> None:
    """Though it was cancelled: the conversation has the turn, so its caller has it, too."""
    async with scripted() as script:
        session = script.session()
        await cancelled(script, SessionHandle(session), then=DONE)
        assert script.kinds() == ["ask", "leave"]
        assert is_idle(session)


async def test_what_is_said_of_it_is_not_waited_for_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Some moments."""
    monkeypatch.setattr(_lines, "PARTING_SECONDS", 0.001)
    async with scripted() as script:
        session = script.session()
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(SessionHandle(session).query, "Hi")
                await wait_all_tasks_blocked()
                scope.cancel()
        assert scope.cancelled_caught
        assert script.kinds() == ["ask", "leave"]
        assert is_idle(session)


async def test_who_is_cancelled_already_asks_nothing() -> None:
    """For each method."""
    async with scripted() as script:
        handle = SessionHandle(script.session())
        for method in ("query", "clear", "interrupt", "stop", "mcp_status"):
            with trio.CancelScope() as scope:
                scope.cancel()
                await (
                    getattr(handle, method)("Hi")
                    if method == "query"
                    else getattr(handle, method)()
                )
            assert scope.cancelled_caught
        await wait_all_tasks_blocked()
        assert script.asked == []
        assert is_idle(script.session())


async def test_leaving_a_stream_waits_until_the_turn_is_off_the_session() -> None:
    """And says so once; what comes meanwhile is nobody's."""
    async with scripted() as script:
        session = script.session()
        script.say("ask", TAKEN)
        left = trio.Event()

        async def ask() -> None:
            async with SessionHandle(session).stream("Hi") as stream:
                pass
            left.set()
            with pytest.raises(trio.ClosedResourceError):
                await stream.receive()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await wait_all_tasks_blocked()
            assert not left.is_set()
            assert script.kinds() == ["ask", "leave"]
            await script.answer("leave", Said("end"))
            assert left.is_set()
        assert is_idle(session)


async def test_leaving_a_stream_of_a_process_that_is_gone() -> None:
    """Then the turn has ended, too."""
    async with scripted() as script:
        session = script.session()
        script.say("ask", TAKEN)
        script.say("leave", lost())
        async with SessionHandle(session).stream("Hi"):
            pass
        assert is_idle(session)


async def test_another_task_may_close_a_stream_that_is_read() -> None:
    """Who reads is told that it is closed; the answer that is under way is taken in before."""
    async with scripted() as script:
        session = script.session()
        script.say("ask", TAKEN)
        async with SessionHandle(session).stream("Hi") as stream:
            async with trio.open_nursery() as nursery:

                async def read() -> None:
                    with pytest.raises(trio.ClosedResourceError):
                        await stream.receive()

                nursery.start_soon(read)
                await wait_all_tasks_blocked()
                nursery.start_soon(stream.aclose)
                await wait_all_tasks_blocked()
                await script.answer("leave", Said("end"))
                await script.answer("more", bad(Interrupted("the asker has left")))
        assert script.kinds() == ["ask", "more", "leave"]
        assert is_idle(session)


async def test_a_reader_who_is_cancelled_loses_nothing() -> None:
    """The answer that was asked for is taken in by the next one to read."""
    async with scripted() as script:
        script.say("ask", TAKEN)
        async with SessionHandle(script.session()).stream("Hi") as stream:
            script.say("unask", TAKEN)
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(stream.receive)
                    await wait_all_tasks_blocked()
                    scope.cancel()
                    with trio.CancelScope(shield=True):
                        await wait_all_tasks_blocked()
                        await script.answer("more", Said("events"))  # as there was nothing yet
            script.say("more", Said("events", events=WORDS), DONE)
            assert [event async for event in stream] == [*WORDS, *DONE.events]
        assert script.kinds() == ["ask", "more", "unask", "more", "more"]


async def test_a_reader_who_is_cancelled_has_what_was_under_way() -> None:
    """Events, or the result, which the conversation has as well."""
    async with scripted() as script:
        script.say("ask", TAKEN)
        async with SessionHandle(script.session()).stream("Hi") as stream:
            script.say("unask", TAKEN)
            seen: list[Event] = []
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:

                    async def read() -> None:
                        seen.append(await stream.receive())

                    nursery.start_soon(read)
                    await wait_all_tasks_blocked()
                    scope.cancel()
                    with trio.CancelScope(shield=True):
                        await wait_all_tasks_blocked()
                        await script.answer("more", DONE)
            assert seen == [*DONE.events]


# ---- the handle's other methods ------------------------------------------------------------------


async def test_what_else_a_handle_asks() -> None:
    """Each is one call, whose value or error is the caller's."""
    async with scripted() as script:
        handle = SessionHandle(script.session())
        script.say("clear", Said("end", (1, 1, "running", None)))
        await handle.clear()
        assert handle.session_id is None
        script.say("control", Said("end", value={"x": 1}))
        assert await handle.mcp_status() == {"x": 1}
        assert script.asked[-1][4:] == ("mcp_status", {"subtype": "mcp_status"})
        script.say("control", bad(UsageError("has none")))
        with pytest.raises(UsageError, match="has none"):
            await handle.mcp_status()
        script.say("interrupt", Said("end"))
        await handle.interrupt()
        script.say("stop", Said("end"))
        await handle.stop()
        numbers = [asked[2] for asked in script.asked]
        assert numbers == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("at", ["reach", "answer"])
async def test_what_they_say_of_a_door_that_is_lost(at: str) -> None:
    """There is nothing to interrupt or stop any more; a clear was lost; nothing is there to control."""
    async with scripted() as script:
        handle = SessionHandle(script.session())
        for method in ("interrupt", "stop", "clear", "mcp_status"):
            if at == "reach":
                script.reaching.append(lost())
            else:
                kind = "control" if method == "mcp_status" else method
                script.say(kind, lost())
            if method == "clear":
                await crashed(handle, "clear")
            elif method == "mcp_status":
                await terminated(handle, "mcp_status")
            else:
                await getattr(handle, method)()


async def test_what_they_say_of_a_session_that_is_not_there() -> None:
    """The same, but that it is known."""
    async with scripted() as script:
        session = script.session()
        handle = SessionHandle(session)
        gone = bad(NotHere("not there", name=A), taken=False)
        for kind in ("interrupt", "stop", "clear", "control"):
            script.say(kind, gone)
        await handle.interrupt()
        await handle.stop()
        for method in ("clear", "mcp_status"):
            with pytest.raises(SessionTerminated, match="it was terminated, has finished"):
                await getattr(handle, method)()
        assert script.forgotten == [session] * 4
        assert handle.status == "stopped"


@pytest.mark.parametrize(
    ("method", "kinds"),
    [
        ("clear", ["clear", "leave"]),
        ("mcp_status", ["control", "leave"]),
        ("interrupt", ["interrupt"]),
        ("stop", ["stop"]),
    ],
)
async def test_they_are_called_off_where_that_has_a_sense(
    method: str, kinds: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A session is interrupted and stopped all the same."""
    monkeypatch.setattr(_lines, "PARTING_SECONDS", 0.001)
    async with scripted() as script:
        handle = SessionHandle(script.session())
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(getattr(handle, method))
                await wait_all_tasks_blocked()
                scope.cancel()
        assert scope.cancelled_caught
        assert script.kinds() == kinds


async def test_what_was_refused_is_asked_again() -> None:
    """Whatever it is: its line was broken, and nothing was begun."""
    refused = DoorLost(returns=True, begun=False)
    async with scripted() as script:
        handle = SessionHandle(script.session())
        for method, kind in (("interrupt", "interrupt"), ("stop", "stop"), ("clear", "clear")):
            script.say(kind, refused, Said("end"))
            await getattr(handle, method)()
            assert script.kinds() == [kind, kind]


async def test_a_ctrl_c_leaves_what_was_asked() -> None:
    """Nobody waits for that."""
    async with scripted() as script:
        script.says["clear"] = deque([KeyboardInterrupt()])  # type: ignore[list-item]
        with pytest.raises(KeyboardInterrupt):
            await SessionHandle(script.session()).clear()
        assert script.kinds() == ["clear", "leave"]


async def test_a_control_request_whose_way_was_cut() -> None:
    """The session is not stopped for that, and not forgotten; its next news counts."""
    async with scripted() as script:
        session = script.session()
        script.say("control", lost(returns=True))
        await crashed(SessionHandle(session), "mcp_status")
        assert (session.status, script.forgotten) == ("restarting", [])
        session.hear(entry())
        assert session.status == "running"


# ---- by name -------------------------------------------------------------------------------------


@attrs.frozen
class Named:
    """What `query` and `stream` do with a name."""

    target: ByName

    async def query(self, prompt: str) -> ResultMessage:
        """Ask."""
        return await ask(self.target, prompt, {})

    def stream(self, prompt: str) -> AbstractAsyncContextManager[ResponseStream]:
        """Ask, and receive."""
        return read(self.target, self.target.new_question(prompt, {}))


def by_name(script: Script) -> Named:
    """The name, to be asked."""
    return Named(ByName(script.peers, A, script.resolve))


async def test_a_name_is_looked_up_when_it_is_asked() -> None:
    """By `query` and `stream`; the handle knows nothing by itself."""
    async with scripted() as script:
        handle = by_name(script)
        session = script.session()
        script.found += [session, session]
        script.say("ask", DONE, TAKEN)
        script.say("more", DONE)
        assert str(await handle.query("Hi")) == "done"
        async with handle.stream("Hi") as stream:
            with pytest.raises(UsageError, match="by a task that has a stream of it open"):
                await SessionHandle(session).query("Hi")
            assert [event async for event in stream] == [*DONE.events]
        assert is_idle(session)


async def test_a_name_that_nobody_has() -> None:
    """It is said by the question."""
    async with scripted() as script:
        script.found.append(None)
        with pytest.raises(SessionNotFound, match=r"no session is named Global\(key='a'\)"):
            await by_name(script).query("Hi")


async def test_a_name_that_has_changed_hands_is_looked_up_again() -> None:
    """What was heard of it was old: its next holder is asked, in the same call."""
    async with scripted() as script:
        old, new = script.session(door="old"), script.session(door="new")
        script.found += [old, new]
        script.say("ask", bad(NotHere("not there", name=A), taken=False), DONE)
        assert str(await by_name(script).query("Hi")) == "done"
        assert [asked[0] for asked in script.asked] == ["old", "new"]
        assert script.forgotten == [old]
        assert is_idle(old)
        assert is_idle(new)


async def test_a_name_whose_next_holder_is_gone() -> None:
    """That one was never asked, so nothing was begun."""
    async with scripted() as script:
        old, new = script.session(door="old"), script.session()
        script.found += [old, new]
        script.say("ask", bad(NotHere("not there", name=A), taken=False))
        script.reaching += [_set(), lost()]
        with pytest.raises(SessionTerminated, match="is gone"):
            await by_name(script).query("Hi")


def _set() -> trio.Event:
    event = trio.Event()
    event.set()
    return event


async def test_who_is_cancelled_while_a_name_is_looked_up_asks_nothing() -> None:
    """There is nothing to leave."""
    async with scripted() as script:
        script.found.append(trio.Event())
        await cancelled(script, by_name(script))
        assert script.asked == []


async def test_who_asks_by_name_first_is_asked_for_first() -> None:
    """Though the name has to be found, and those who come later know it already."""
    async with scripted() as script:
        session = script.session()
        looked = trio.Event()
        script.found += [looked, session, session]
        script.say("ask", DONE, DONE)

        async def unknown() -> None:
            with pytest.raises(SessionNotFound):
                await by_name(script).query("0")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(unknown)
            for number in (1, 2):
                await wait_all_tasks_blocked()
                nursery.start_soon(by_name(script).query, f"{number}")
            await wait_all_tasks_blocked()
            assert script.asked == []
            looked.set()
        assert [asked[4] for asked in script.asked] == ["1", "2"]


# ---- a wire that is closed -----------------------------------------------------------------------


class Cut(Door):
    """A door of a process that is not connected any more."""

    def ask(self, kind: str, number: int, session: FarSession | None = None, *args: Any) -> Wait:
        """What Peer.call does without Ray."""
        raise DoorLost(returns=False)


async def test_a_stream_of_a_lost_connection_says_so() -> None:
    """Where not even that it is left can be told: the error is one of ours all the same."""
    async with scripted() as script:
        session = script.session()
        script.say("ask", TAKEN)
        script.say("more", lost())
        async with SessionHandle(session).stream("Hi") as stream:
            question = stream._question
            assert isinstance(question, FarQuestion)
            vars(question)["_line"] = Cut(script, "there")
            with pytest.raises(SessionCrashed):
                await stream.receive()


@pytest.mark.parametrize("method", ["clear", "mcp_status"])
async def test_a_lost_connection_hides_no_cancellation(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where not even that it is called off can be told."""
    monkeypatch.setattr(_lines, "PARTING_SECONDS", 0.001)
    async with scripted() as script:
        handle = SessionHandle(script.session())
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(getattr(handle, method))
                await wait_all_tasks_blocked()
                monkeypatch.setattr(Door, "ask", Cut.ask)
                scope.cancel()
        assert scope.cancelled_caught


async def test_a_question_is_a_question_of_its_own_kind() -> None:
    """What is put is what was made here."""
    async with scripted() as script:
        with pytest.raises(AssertionError):
            await script.session().put(Clear())  # type: ignore[arg-type]
        assert issubclass(NotHere, TrioClaudeError)


async def test_an_option_that_cannot_be_sent() -> None:
    """Is the caller's error, before anything is asked."""
    async with scripted() as script:

        def dumps(value: object) -> bytes:
            raise TypeError("not me")

        script.dumps = dumps
        with pytest.raises(ConfigurationError, match="an option among model cannot be sent"):
            await SessionHandle(script.session()).query("Hi", model="opus")
        assert script.asked == []


async def test_a_question_that_was_put_nowhere_has_nothing_to_leave() -> None:
    """It ends all the same."""
    async with scripted() as script:
        question = script.session().new_question("Hi", {})
        question._left()
        assert not question.ended


async def test_a_question_that_the_wire_loses_while_it_is_left() -> None:
    """Its caller is cancelled as it should be."""
    async with scripted() as script:
        session = script.session()
        script.say("leave", lost())
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(SessionHandle(session).query, "Hi")
                await wait_all_tasks_blocked()
                scope.cancel()
                with trio.CancelScope(shield=True):
                    await script.answer("ask", lost())
        assert scope.cancelled_caught
        assert is_idle(session)
