"""Which conversation an incarnation goes on with: none, the last one once, or always the same."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_claude import (
    Backoff,
    Interrupted,
    SessionCrashed,
    SessionHandle,
    SessionOptions,
    SessionReady,
    SessionSpec,
    Supervisor,
    get_session,
    open_supervisor,
)
from trio_claude.testing import ScriptedBackend, ScriptedTurn, crash

from .support import Record


async def respond(turn: ScriptedTurn) -> str:
    """Answer; but crash, hang or fail if asked to."""
    if turn.prompt == "crash":
        raise OSError("crashed in a turn")
    if turn.prompt == "hang":
        await trio.sleep_forever()
    if turn.prompt == "fail":
        raise Interrupted("it failed")
    return "hello"


@attrs.define
class Opened:
    """A backend's record of what it was opened with; its conversations are scripted-1, ..."""

    refuses: Callable[[SessionOptions], bool] = lambda options: False
    options: list[SessionOptions] = attrs.field(factory=list)

    @property
    def resumed(self) -> list[str | None]:
        """The conversations that were to be resumed, in order."""
        return [options.resume for options in self.options]

    def backend(self) -> ScriptedBackend:
        """The backend."""

        def on_open(options: SessionOptions) -> None:
            self.options.append(options)
            if self.refuses(options):
                raise OSError(f"no conversation {options.resume}")

        return ScriptedBackend(respond, on_open=on_open)


def last(name: str, backend: ScriptedBackend) -> SessionSpec:
    """A session that goes on with its last conversation."""
    return SessionSpec(name=name, backend=backend, resume="last")


def ready(record: Record, name: str = "a") -> list[bool]:
    """Whether this session was resumed, each time that it got up."""
    return [
        event.resumed
        for event in record.events
        if isinstance(event, SessionReady) and event.session == name
    ]


async def restarted(session: SessionHandle) -> None:
    """Wait until the supervisor has started it again."""
    await wait_all_tasks_blocked()
    assert session.is_alive()


# ---- resume="last" ----


async def test_the_first_start_is_fresh() -> None:
    """There is no last conversation yet; the backend never sees the word."""
    opened = Opened()
    record = Record()
    async with open_supervisor([last("a", opened.backend())], on_event=record):
        assert get_session("a").session_id is None
    assert [None] == opened.resumed
    assert [False] == ready(record)


async def test_a_conversation_is_continued_after_a_crash() -> None:
    """By the id that was confirmed; the session has it, and its event says so."""
    opened = Opened()
    record = Record()
    async with open_supervisor([last("a", opened.backend())], on_event=record):
        session = get_session("a")
        await session.query("hi")
        await crash(session)
        await restarted(session)
        assert "scripted-1" == session.session_id
    assert [None, "scripted-1"] == opened.resumed
    assert [False, True] == ready(record)


async def test_a_conversation_is_continued_once() -> None:
    """If it crashes again before a turn has succeeded, the next one is fresh, and so on."""
    opened = Opened()
    record = Record()
    async with open_supervisor([last("a", opened.backend())], on_event=record, max_restarts=9):
        session = get_session("a")
        await session.query("hi")
        for _ in range(3):
            await crash(session)
            await restarted(session)
        assert session.session_id is None
    assert [None, "scripted-1", None, None] == opened.resumed
    assert [False, True, False, False] == ready(record)


async def test_a_conversation_that_goes_on_well_is_continued_again() -> None:
    """Each turn that succeeds confirms it anew."""
    opened = Opened()
    record = Record()
    async with open_supervisor([last("a", opened.backend())], on_event=record, max_restarts=9):
        session = get_session("a")
        for _ in range(3):
            await session.query("hi")
            await crash(session)
            await restarted(session)
    assert [None, "scripted-1", "scripted-2", "scripted-3"] == opened.resumed
    assert [False, True, True, True] == ready(record)


async def test_a_crash_in_a_turn() -> None:
    """What was confirmed before that turn is continued."""
    opened = Opened()
    async with open_supervisor([last("a", opened.backend())]):
        session = get_session("a")
        await session.query("hi")
        with pytest.raises(SessionCrashed):
            await session.query("crash")
        await restarted(session)
        assert "hello" == str(await session.query("hi"))
        assert "scripted-2" == session.session_id
    assert [None, "scripted-1"] == opened.resumed


@pytest.mark.parametrize("turns", [[], ["fail"], ["crash"]])
async def test_nothing_that_was_not_confirmed_is_continued(turns: list[str]) -> None:
    """Only a turn that succeeded makes a conversation."""
    opened = Opened()
    record = Record()
    async with open_supervisor([last("a", opened.backend())], on_event=record):
        session = get_session("a")
        for prompt in turns:
            with pytest.raises((Interrupted, SessionCrashed)):
                await session.query(prompt)
        if turns != ["crash"]:
            await crash(session)
        await restarted(session)
        assert session.session_id is None
    assert [None, None] == opened.resumed
    assert [False, False] == ready(record)


async def test_a_turn_that_failed_takes_nothing_back() -> None:
    """What was confirmed before it is continued."""
    opened = Opened()
    async with open_supervisor([last("a", opened.backend())]):
        session = get_session("a")
        await session.query("hi")
        with pytest.raises(Interrupted):
            await session.query("fail")
        await crash(session)
        await restarted(session)
    assert [None, "scripted-1"] == opened.resumed


async def test_a_conversation_that_cannot_be_continued(autojump_clock: MockClock) -> None:
    """The start that fails of it is the only one: the next is fresh."""
    opened = Opened(lambda options: options.resume is not None)
    record = Record()
    async with open_supervisor(
        [last("a", opened.backend())],
        on_event=record,
        backoff=Backoff(10.0, factor=1.0, jitter=0.0),
    ):
        session = get_session("a")
        await session.query("hi")
        await crash(session)
        assert "hello" == str(await session.query("hi"))
        assert 20 == trio.current_time()
        assert "scripted-2" == session.session_id
    assert [None, "scripted-1", None] == opened.resumed
    assert [False, False] == ready(record)


async def test_a_session_that_finished_and_is_started_again() -> None:
    """That is an automatic restart, too."""
    opened = Opened()
    record = Record()
    async with open_supervisor([last("a", opened.backend())], on_event=record):
        session = get_session("a")
        await session.query("hi")
        await session.stop()
        await restarted(session)
    assert [None, "scripted-1"] == opened.resumed
    assert [False, True] == ready(record)


@pytest.mark.parametrize("strategy", ["one_for_all", "rest_for_one"])
async def test_those_who_are_restarted_with_another(strategy: str) -> None:
    """Each goes on with its own conversation; the first one of a `rest_for_one` never stopped."""
    opened = {name: Opened() for name in "abc"}
    record = Record()
    async with open_supervisor(
        [last(name, opened[name].backend()) for name in "abc"],
        on_event=record,
        strategy=strategy,  # type: ignore[arg-type]
    ):
        for name in "ac":
            await get_session(name).query("hi")
        await crash(get_session("b"))
        await restarted(get_session("c"))
        assert "scripted-1" == get_session("a").session_id == get_session("c").session_id
        assert get_session("b").session_id is None
    assert [None, None] == opened["b"].resumed
    assert [None, "scripted-1"] == opened["c"].resumed
    assert [False, True] == ready(record, "c")
    assert [False, False] == ready(record, "b")
    assert ([None, "scripted-1"] if strategy == "one_for_all" else [None]) == opened["a"].resumed


async def test_a_sibling_that_fails_to_start(autojump_clock: MockClock) -> None:
    """Who was resumed, and goes with it for no fault of its own, is resumed once more."""
    a, b = Opened(), Opened(lambda options: 1 < len(b.options) < 4)
    record = Record()
    async with open_supervisor(
        [last("a", a.backend()), last("b", b.backend())],
        on_event=record,
        strategy="one_for_all",
        max_restarts=9,
    ):
        await get_session("a").query("hi")
        await crash(get_session("b"))
        await trio.sleep(100)
        assert "scripted-1" == get_session("a").session_id
    assert [None, "scripted-1", "scripted-1", "scripted-1"] == a.resumed
    assert [False, True, True, True] == ready(record)
    assert [False, False] == ready(record, "b")


async def test_who_has_been_told_more_meanwhile(autojump_clock: MockClock) -> None:
    """It is the last conversation that is kept, and not the one before."""
    a, b = Opened(), Opened()
    async with open_supervisor(
        [last("a", a.backend()), last("b", b.backend())], strategy="one_for_all", max_restarts=9
    ):
        for _ in range(2):
            await get_session("a").query("hi")
            await crash(get_session("b"))
            await trio.sleep(100)
    assert [None, "scripted-1", "scripted-2"] == a.resumed


async def test_its_own_crash_counts_after_that_of_a_sibling(autojump_clock: MockClock) -> None:
    """What was kept for the group is continued once, like any other."""
    a, b = Opened(), Opened()
    async with open_supervisor(
        [last("a", a.backend()), last("b", b.backend())], strategy="one_for_all", max_restarts=9
    ):
        await get_session("a").query("hi")
        for name in ("b", "b", "a", "b"):
            await crash(get_session(name))
            await trio.sleep(100)
        assert get_session("a").session_id is None
    assert [None, "scripted-1", "scripted-1", None, None] == a.resumed


async def test_a_fresh_sibling() -> None:
    """Who didn't ask for it begins anew, in the same group."""
    opened = {name: Opened() for name in "ab"}
    record = Record()
    async with open_supervisor(
        [
            last("a", opened["a"].backend()),
            SessionSpec(name="b", backend=opened["b"].backend()),
        ],
        on_event=record,
        strategy="one_for_all",
    ):
        for name in "ab":
            await get_session(name).query("hi")
        await crash(get_session("b"))
        await restarted(get_session("b"))
        assert get_session("b").session_id is None
    assert [None, "scripted-1"] == opened["a"].resumed
    assert [None, None] == opened["b"].resumed
    assert [False, False] == ready(record, "b")


# ---- what is meant to begin anew ----


async def _clear(_: Supervisor, session: SessionHandle) -> None:
    await session.clear()


async def _restart(supervisor: Supervisor, _: SessionHandle) -> None:
    await supervisor.restart_session("a")


@pytest.mark.parametrize("begin", [_clear, _restart], ids=["clear", "restart_session"])
async def test_what_is_forgotten_is_not_continued(
    begin: Callable[[Supervisor, SessionHandle], Awaitable[None]],
) -> None:
    """Neither at once, nor after a crash; the conversation that began then is."""
    opened = Opened()
    record = Record()
    async with open_supervisor(
        [last("a", opened.backend())], on_event=record, max_restarts=9
    ) as supervisor:
        session = get_session("a")
        await session.query("hi")
        await begin(supervisor, session)
        assert session.session_id is None
        assert [None, None] == opened.resumed
        await crash(session)
        await restarted(session)
        assert [None, None, None] == opened.resumed
        await session.query("hi")
        await crash(session)
        await restarted(session)
    assert [None, None, None, "scripted-3"] == opened.resumed
    assert [False] * (len(ready(record)) - 1) + [True] == ready(record)


async def test_a_restart_on_request_while_one_is_due(autojump_clock: MockClock) -> None:
    """Whoever asks for a restart gets a fresh one, also instead of an automatic one."""
    opened = Opened()
    record = Record()
    async with open_supervisor(
        [last("a", opened.backend())], on_event=record, backoff=Backoff(10.0, jitter=0.0)
    ) as supervisor:
        session = get_session("a")
        await session.query("hi")
        await crash(session)
        await supervisor.restart_session("a")
        assert 0 == trio.current_time()
    assert [None, None] == opened.resumed
    assert [False, False] == ready(record)


async def test_a_session_that_was_terminated_is_forgotten() -> None:
    """Another one of that name has no last conversation."""
    opened = Opened()
    async with open_supervisor([last("a", opened.backend())]) as supervisor:
        await get_session("a").query("hi")
        await supervisor.terminate_session("a")
        await supervisor.start_session(last("a", opened.backend()))
    assert [None, None] == opened.resumed


async def test_a_crash_while_the_conversation_is_forgotten(autojump_clock: MockClock) -> None:
    """What was to be forgotten is not continued."""
    opened = Opened()
    opened.refuses = lambda options: len(opened.options) == 2
    async with open_supervisor([last("a", opened.backend())]):
        session = get_session("a")
        await session.query("hi")
        with pytest.raises(SessionCrashed):
            await session.clear()
        assert "hello" == str(await session.query("hi"))
    assert [None, None, None] == opened.resumed


# ---- resume=<id>, continue_conversation ----


async def test_a_conversation_that_is_named() -> None:
    """Each incarnation begins with it, whatever has been confirmed since; that is no resumption
    of what the session had itself."""
    opened = Opened()
    record = Record()
    spec = SessionSpec(name="a", backend=opened.backend(), resume="s1", fork_session=True)
    async with open_supervisor([spec], on_event=record) as supervisor:
        session = get_session("a")
        assert session.session_id is None
        await session.query("hi")
        await crash(session)
        await restarted(session)
        assert session.session_id is None
        await supervisor.restart_session("a")
    assert ["s1"] * 3 == opened.resumed
    assert [True] * 3 == [options.fork_session for options in opened.options]
    assert [False] * 3 == ready(record)


@pytest.mark.parametrize("named", [{"resume": "s1"}, {"continue_conversation": True}])
async def test_a_named_conversation_can_be_forgotten(named: dict[str, object]) -> None:
    """With `clear`, until the next restart begins with it again."""
    opened = Opened()
    options = SessionOptions(fork_session=True, **named)  # type: ignore[arg-type]
    async with open_supervisor([SessionSpec(name="a", backend=opened.backend())], defaults=options):
        session = get_session("a")
        await session.clear()
        await crash(session)
        await restarted(session)
    first, cleared, again = [
        (o.resume, o.continue_conversation, o.fork_session) for o in opened.options
    ]
    assert (None, None, None) == cleared
    assert first == again == (options.resume, options.continue_conversation, True)


async def test_without_any_of_them() -> None:
    """Every conversation is fresh, and a spec's other options are always the same."""
    opened = Opened()
    record = Record()
    spec = SessionSpec(name="a", backend=opened.backend(), model="opus")
    async with open_supervisor([spec], on_event=record):
        session = get_session("a")
        await session.query("hi")
        await session.clear()
        await session.query("hi")
        await crash(session)
        await restarted(session)
    assert [None] * 3 == opened.resumed
    assert ["opus"] * 3 == [options.model for options in opened.options]
    assert [False, False] == ready(record)
