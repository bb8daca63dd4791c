"""What users do with a supervisor: start, terminate, restart, list, count; and the bad calls."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing
from trio.testing import MockClock

import trio_claude
from trio_claude import (
    ConfigurationError,
    SessionExists,
    SessionNotFound,
    SessionRestarted,
    SessionTerminated,
    SupervisorSpec,
    TooManySessions,
    UsageError,
    open_supervisor,
)
from trio_claude._supervision.policy import Strategy
from trio_claude.testing import ScriptedBackend, ScriptedTurn, crash

from .support import Record, hang, inbox_of, nothing_left, spec


async def test_start_terminate_and_the_name_is_free_again() -> None:
    """A session is started, asked, terminated; its name can be taken again."""
    backend = ScriptedBackend()
    async with nothing_left(backend), open_supervisor() as supervisor:
        for _ in range(2):
            session = await supervisor.start_session(spec("a", backend))
            assert session is trio_claude.get_session("a")
            await session.query("Hi")
            await supervisor.terminate_session("a")
            assert trio_claude.whereis("a") is None
            assert () == supervisor.list_sessions()
            with pytest.raises(SessionTerminated):
                await session.query("Hi")


async def test_ids_are_the_call_s_or_the_spec_s_or_the_name_or_unique() -> None:
    """Methods take the id or the name; sessions without either have an id of their own."""
    async with open_supervisor() as supervisor:
        await supervisor.start_session(spec("a", id=1), id=2)
        await supervisor.start_session(spec("b", id=3))
        await supervisor.start_session(spec("c"))
        first = await supervisor.start_session(spec(None))
        second = await supervisor.start_session(spec(None))

        assert [2, 3, "c", first.id, second.id] == [info.id for info in supervisor.list_sessions()]
        assert first.id != second.id
        assert repr(first.id).startswith("unnamed-")
        assert supervisor.get_session(2) is supervisor.get_session("a")
        await supervisor.restart_session("b")
        await supervisor.terminate_session(3)
        await supervisor.terminate_session(first.id)
        assert 3 == supervisor.count_sessions()


async def test_a_taken_id_or_name_is_refused_and_changes_nothing() -> None:
    """SessionExists; who is there stays there."""
    backend = ScriptedBackend()
    async with open_supervisor([spec("a", backend)]) as supervisor:
        with pytest.raises(SessionExists, match="the id 'a'"):
            await supervisor.start_session(spec("a", backend))
        with pytest.raises(SessionExists, match="'a' is taken"):
            await supervisor.start_session(spec("a", backend, id="other"))
        async with open_supervisor() as another:
            with pytest.raises(SessionExists):
                await another.start_session(spec("a", backend))
            assert () == another.list_sessions()
        assert 1 == supervisor.count_sessions() == backend.conversations
        await trio_claude.query("a", "Hi")


async def test_unknown_ids_are_refused_with_what_there_is() -> None:
    """SessionNotFound names the sessions of this supervisor."""
    async with open_supervisor([spec("a"), spec("b")]) as supervisor:
        for call in (supervisor.terminate_session, supervisor.restart_session):
            with pytest.raises(SessionNotFound, match="no session 'c'; there are 'a', 'b'"):
                await call("c")
        with pytest.raises(SessionNotFound):
            supervisor.get_session("c")
        bad_ids: list[Any] = [[], None]
        for bad in bad_ids:
            with pytest.raises(ConfigurationError, match="hashable"):
                supervisor.get_session(bad)


async def test_what_start_session_takes() -> None:
    """Anything but a SessionSpec, and significant ones that can't be, are refused by name."""
    async with open_supervisor() as supervisor:
        for wrong in ("a", SupervisorSpec(), {"name": "a"}):
            with pytest.raises(ConfigurationError, match="takes a SessionSpec"):
                await supervisor.start_session(wrong)  # type: ignore[arg-type]
        with pytest.raises(ConfigurationError, match="auto_shutdown is 'never'"):
            await supervisor.start_session(spec("a", restart="transient", significant=True))
        assert 0 == supervisor.count_sessions()


async def test_max_sessions_is_a_limit_of_those_not_stopped() -> None:
    """One more is TooManySessions; a failed start gives its place back; a stopped one has none."""

    def on_open(options: trio_claude.SessionOptions) -> None:
        if options.model == "broken":
            raise OSError("broken")

    backend = ScriptedBackend(on_open=on_open)
    async with open_supervisor(
        [spec("a", backend, restart="transient")], max_sessions=2
    ) as supervisor:
        with pytest.raises(OSError, match="broken") as caught:
            await supervisor.start_session(spec("b", backend, model="broken"))
        assert ["while the supervisor was starting 'b'"] == caught.value.__notes__
        await supervisor.start_session(spec("b", backend))
        with pytest.raises(TooManySessions, match="max_sessions is 2"):
            await supervisor.start_session(spec("c", backend))
        await supervisor.get_session("a").stop()
        await trio.testing.wait_all_tasks_blocked()
        await supervisor.start_session(spec("c", backend))


async def test_restart_session_restarts_a_running_session() -> None:
    """In one step: the same handle and name, an empty conversation, and it doesn't count."""
    backend = ScriptedBackend()
    record = Record()
    async with open_supervisor(
        [spec("a", backend), spec("b", backend)], max_restarts=0, on_event=record
    ) as supervisor:
        session = supervisor.get_session("a")
        await session.query("My favorite language is Python")
        record.moves()
        for _ in range(5):
            await supervisor.restart_session("a")

        assert ["Stopped a", "Ready a"] * 5 == record.moves()
        assert session is trio_claude.get_session("a")
        assert "don't know" in str(await session.query("What's my favorite language?"))
        info = supervisor.list_sessions()[0]
        assert (6, 5, "running") == (info.incarnation, info.restarts, info.status)
        assert 0 == supervisor.statistics().recent_restarts


async def test_restart_session_starts_a_stopped_session() -> None:
    """A transient session that has finished is known, stopped, and comes back."""
    async with open_supervisor([spec("a", restart="transient")]) as supervisor:
        session = supervisor.get_session("a")
        await session.stop()
        await trio.testing.wait_all_tasks_blocked()
        assert trio_claude.whereis("a") is None
        info = supervisor.list_sessions()[0]
        assert ("stopped", None, None) == (info.status, info.started_at, info.last_error)
        with pytest.raises(SessionExists, match="the id 'a'"):
            await supervisor.start_session(spec("a"))
        await supervisor.restart_session("a")
        assert session is trio_claude.get_session("a")
        await session.query("Hi")


async def test_a_restart_that_fails_leaves_the_session_stopped(
    autojump_clock: MockClock,
) -> None:
    """Its exception is the caller's; the session is known and stopped, those in line are told."""
    broken = False

    def on_open(options: trio_claude.SessionOptions) -> None:
        if broken:
            raise OSError("broken")

    backend = ScriptedBackend(lambda turn: [1.0, "done"], on_open=on_open)
    async with open_supervisor([spec("a", backend)]) as supervisor, trio.open_nursery() as nursery:
        session = supervisor.get_session("a")

        async def ask(outcome: type[Exception] | None) -> None:
            if outcome is None:
                await session.query("Hi")
            else:
                with pytest.raises(outcome):
                    await session.query("Hi")

        nursery.start_soon(ask, None)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(ask, SessionTerminated)
        await trio.testing.wait_all_tasks_blocked()
        broken = True
        with pytest.raises(OSError, match="broken"):
            await supervisor.restart_session("a")
        broken = False
        info = supervisor.list_sessions()[0]
        assert "stopped" == info.status
        assert isinstance(info.last_error, OSError)
        await supervisor.restart_session("a")
        await session.query("Hi")


async def test_the_list_is_in_start_order_and_a_snapshot() -> None:
    """SessionInfo says how each session is, as of that moment."""
    async with open_supervisor([spec("a"), spec("b", restart="temporary")]) as supervisor:
        await supervisor.start_session(spec("c"))
        before = supervisor.list_sessions()
        fault = ValueError("boom")
        await crash(supervisor.get_session("a"), fault)
        await crash(supervisor.get_session("b"), fault)
        await trio.testing.wait_all_tasks_blocked()

        assert ["a", "b", "c"] == [info.name for info in before]
        assert ["running"] * 3 == [info.status for info in before]
        assert [None, None] == [before[0].last_error, before[1].last_error]
        assert ["a", "c"] == [info.name for info in supervisor.list_sessions()]
        after = supervisor.list_sessions()[0]
        assert (2, 1, fault) == (after.incarnation, after.restarts, after.last_error)
        assert after.handle is before[0].handle
        assert after.started_at is not None
        assert 1 == supervisor.statistics().recent_restarts == supervisor.statistics().restarts


async def test_after_its_block_every_method_raises_at_once() -> None:
    """trio.ClosedResourceError, from the looking ones and from the changing ones."""
    async with open_supervisor([spec("a")], name="group") as supervisor:
        pass
    for look in (supervisor.list_sessions, supervisor.count_sessions, supervisor.statistics):
        with pytest.raises(trio.ClosedResourceError, match="has ended"):
            look()
    with pytest.raises(trio.ClosedResourceError):
        supervisor.get_session("a")
    for call in (supervisor.terminate_session, supervisor.restart_session):
        with pytest.raises(trio.ClosedResourceError):
            await call("a")
    with pytest.raises(trio.ClosedResourceError):
        await supervisor.start_session(spec("a"))
    assert "group" == supervisor.name


async def test_a_call_while_the_block_is_left_is_refused(autojump_clock: MockClock) -> None:
    """Whatever the supervisor has not done by then, and all that comes later, is told so."""
    backend = ScriptedBackend(lambda turn: [3.0, "done"])
    refused: list[str] = []

    async with trio.open_nursery() as nursery:
        async with open_supervisor([spec("a", backend)]) as supervisor:

            async def restart() -> None:
                with pytest.raises(trio.ClosedResourceError):
                    await supervisor.restart_session("a")
                refused.append("being done")

            async def start(after: float) -> None:
                await trio.sleep(after)
                with pytest.raises(trio.ClosedResourceError):
                    await supervisor.start_session(spec("b", backend))
                refused.append(f"after {after:g}")

            nursery.start_soon(trio_claude.query, "a", "work")
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(restart)  # waits for the turn in flight
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(start, 0)  # waits in the mailbox behind it
            nursery.start_soon(start, 2)  # comes while the block is being left
            await trio.sleep(1)
        await trio.testing.wait_all_tasks_blocked()
        assert ["after 0", "after 2", "being done"] == sorted(refused)


async def test_a_cancelled_start_session_starts_nothing(autojump_clock: MockClock) -> None:
    """In the mailbox, while it hangs: the session is not there, and its name is free."""

    async def slow(options: trio_claude.SessionOptions) -> None:
        if options.model == "slow":
            await trio.sleep(10)

    backend = ScriptedBackend(on_open=slow)
    async with nothing_left(backend), open_supervisor() as supervisor:
        with trio.move_on_after(1) as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(supervisor.start_session, spec("a", backend, model="slow"))
                await trio.testing.wait_all_tasks_blocked()
                nursery.start_soon(supervisor.start_session, spec("b", backend))
        assert scope.cancelled_caught
        await trio.testing.wait_all_tasks_blocked()
        assert () == supervisor.list_sessions()
        await supervisor.start_session(spec("a", backend))
        await supervisor.start_session(spec("b", backend))


@pytest.mark.parametrize("moment", range(16))
async def test_start_session_cancelled_at_any_moment(moment: int) -> None:
    """Either the caller has the handle, or nothing was started."""
    for _ in range(10):  # who comes first in a moment is up to Trio's scheduler
        await start_and_cancel(moment)


async def start_and_cancel(moment: int) -> None:
    """Start a session, and cancel that after so many turns of the scheduler."""
    backend = ScriptedBackend()
    async with nothing_left(backend), open_supervisor() as supervisor:
        got = None
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:

                async def count_down() -> None:
                    for _ in range(moment):
                        await trio.lowlevel.checkpoint()
                    scope.cancel()

                nursery.start_soon(count_down)
                got = await supervisor.start_session(spec("a", backend))
        await trio.testing.wait_all_tasks_blocked()
        assert (0 if got is None else 1) == supervisor.count_sessions()
        assert got is trio_claude.whereis("a")


async def test_a_cancelled_terminate_and_restart_still_happen(autojump_clock: MockClock) -> None:
    """What was begun cannot be taken back; it goes on without its caller."""
    backend = ScriptedBackend(lambda turn: hang(turn) if turn.prompt == "hang" else "fine")
    async with open_supervisor([spec("a", backend)]) as supervisor, trio.open_nursery() as nursery:

        async def ask(error: type[Exception]) -> None:
            with pytest.raises(error):
                await trio_claude.query("a", "hang")

        for call, error in (
            (supervisor.restart_session, SessionRestarted),
            (supervisor.terminate_session, SessionTerminated),
        ):
            nursery.start_soon(ask, error)
            await trio.testing.wait_all_tasks_blocked()
            with trio.move_on_after(1) as scope:
                await call("a")
            assert scope.cancelled_caught
            await trio.sleep(10)
        assert () == supervisor.list_sessions()


async def test_a_start_that_hangs_can_be_called_off(autojump_clock: MockClock) -> None:
    """terminate_session ends a hanging start, and whoever waits for it is told."""

    async def never(options: trio_claude.SessionOptions) -> None:
        await trio.sleep_forever()

    backend = ScriptedBackend(on_open=never)
    async with nothing_left(backend), open_supervisor() as supervisor:
        async with trio.open_nursery() as nursery:

            async def start() -> None:
                with pytest.raises(SessionTerminated, match="while it was being started"):
                    await supervisor.start_session(spec("a", backend))

            nursery.start_soon(start)
            await trio.testing.wait_all_tasks_blocked()
            assert "starting" == supervisor.list_sessions()[0].status
            assert 0 == supervisor.count_sessions()
            await supervisor.terminate_session("a")
        assert () == supervisor.list_sessions()


async def test_a_session_cannot_terminate_or_restart_itself() -> None:
    """From inside, the call is refused with what to do instead; the next turn works."""
    refused: list[UsageError] = []

    async def answer(turn: ScriptedTurn) -> str:
        for call in (supervisor.terminate_session, supervisor.restart_session):
            try:
                await call("a")
            except UsageError as exc:
                refused.append(exc)
        await supervisor.restart_session("b")  # a sibling is fine
        helper = await supervisor.start_session(spec("c"))
        return f"{helper.name} helps"

    async with open_supervisor([spec("a", ScriptedBackend(answer)), spec("b")]) as supervisor:
        for name in ("c helps",):
            assert name == str(await trio_claude.query("a", "End yourself"))
        assert 2 == len(refused)
        assert "call stop() of its handle instead" in str(refused[0])


async def test_a_session_that_starts_cannot_call_its_supervisor() -> None:
    """The supervisor waits for the start, so the call would wait for ever: it is refused."""

    async def on_open(options: trio_claude.SessionOptions) -> None:
        await trio_claude.get_supervisor("group").start_session(spec("helper"))

    backend = ScriptedBackend(on_open=on_open)
    with pytest.raises(UsageError, match="'a' called its supervisor"):
        async with open_supervisor([spec("a", backend)], name="group"):
            raise AssertionError("never entered")


async def test_nothing_of_the_caller_s_reaches_the_session() -> None:
    """Neither the caller's cancel scope nor its context variables are the session's."""
    import contextvars

    mine: contextvars.ContextVar[str] = contextvars.ContextVar("mine", default="nobody's")
    seen: list[str] = []

    async def on_open(options: trio_claude.SessionOptions) -> None:
        seen.append(mine.get())

    backend = ScriptedBackend(on_open=on_open)
    async with open_supervisor() as supervisor:
        mine.set("the caller's")
        with trio.CancelScope() as scope:
            session = await supervisor.start_session(spec("a", backend))
        scope.cancel()
        await session.query("Hi")
        await crash(session)
        await session.query("Hi")
    assert ["nobody's", "nobody's"] == seen


async def test_two_events_of_one_moment(autojump_clock: MockClock) -> None:
    """Two crashes at once are two entries for one_for_one, and one for one_for_all (OTP 1.7)."""
    strategies: list[tuple[Strategy, int]] = [("one_for_one", 2), ("one_for_all", 1)]
    for strategy, entries in strategies:
        record = Record()
        async with open_supervisor(
            [spec("a"), spec("b")], strategy=strategy, on_event=record
        ) as supervisor:
            for name in "ab":
                incarnation = inbox_of(supervisor.get_session(name)).incarnation
                assert incarnation is not None
                incarnation.crash(ValueError(name))
            await trio.testing.wait_all_tasks_blocked()
            assert entries == supervisor.statistics().recent_restarts
            assert 2 == supervisor.count_sessions()
            # Each end is reported as what it was, also the one that the group's stop absorbs.
            assert ["Exited a", "Exited b"] == sorted(record.words("Exited", "Stopped"))
            assert ["a", "b"] == [str(info.last_error) for info in supervisor.list_sessions()]


async def test_after_a_crash_everything_says_so_at_once() -> None:
    """Status, count and statistics don't wait for the supervisor to come to it."""
    specs = [spec("a"), spec("b", restart="transient"), spec("c", restart="temporary")]
    for _ in range(10):  # the moment depends on Trio's scheduler
        async with open_supervisor(specs) as supervisor:
            for info in supervisor.list_sessions():
                await crash(info.handle)
                assert (info.name == "c") == (info.handle.status == "stopped")
                assert not info.handle.is_alive()
            await trio.testing.wait_all_tasks_blocked()
            assert 2 == supervisor.count_sessions()


async def test_a_handle_is_as_good_as_an_id() -> None:
    """Methods that take an id take the session's handle too."""
    async with open_supervisor([spec("a"), spec(None)]) as supervisor:
        for info in supervisor.list_sessions():
            assert info.handle is supervisor.get_session(info.handle)
            await supervisor.restart_session(info.handle)
            await supervisor.terminate_session(info.handle)
        assert 0 == supervisor.count_sessions()


async def test_an_async_on_event_is_refused() -> None:
    """Nobody would await it."""

    async def on_event(event: trio_claude.SupervisorEvent) -> None: ...

    with pytest.raises(ConfigurationError, match="on_event must be a function that is not async"):
        open_supervisor(on_event=on_event)  # type: ignore[arg-type]


async def test_a_start_that_is_taken_back_when_it_is_done_already() -> None:
    """A caller that is cancelled in the very moment of the success: the session goes away again."""
    backend = ScriptedBackend()
    async with nothing_left(backend), open_supervisor([spec("a", backend)]) as supervisor:
        roster = supervisor._control.roster
        child = roster.children["a"]
        roster.take_back(child)
        await trio.testing.wait_all_tasks_blocked()
        assert () == supervisor.list_sessions()
        roster.take_back(child)  # it is gone: there is nothing left to do


async def test_a_call_for_one_that_is_gone_leaves_its_successor_alone(
    autojump_clock: MockClock,
) -> None:
    """Calls are for the session that was there when they were made, not for its id."""
    backend, record = ScriptedBackend(lambda turn: [3.0, "done"]), Record()
    async with open_supervisor(
        [spec("a", backend), spec("b", backend)], on_event=record
    ) as supervisor:
        async with trio.open_nursery() as nursery:

            async def restart_too_late() -> None:
                with pytest.raises(SessionNotFound, match="'a' has ended meanwhile"):
                    await supervisor.restart_session("a")

            nursery.start_soon(trio_claude.query, "b", "work")
            await trio.testing.wait_all_tasks_blocked()
            record.moves()
            for call in (
                lambda: supervisor.restart_session("b"),  # keeps the supervisor busy meanwhile
                lambda: supervisor.terminate_session("a"),
                lambda: supervisor.start_session(spec("a", backend)),
                lambda: supervisor.terminate_session("a"),
                restart_too_late,
            ):
                nursery.start_soon(call)
                await trio.testing.wait_all_tasks_blocked()
        assert ["Stopped b", "Ready b", "Stopped a", "Ready a"] == record.moves()
        assert ["b", "a"] == [info.name for info in supervisor.list_sessions()]
        assert 2 == supervisor.count_sessions()


async def test_a_start_that_is_taken_back_in_the_mailbox_is_never_begun(
    autojump_clock: MockClock,
) -> None:
    """A caller that is cancelled before the supervisor comes to its call has asked for nothing."""
    backend, record = ScriptedBackend(lambda turn: [3.0, "done"]), Record()
    async with open_supervisor([spec("a", backend)], on_event=record) as supervisor:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio_claude.query, "a", "work")
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(supervisor.restart_session, "a")  # keeps the supervisor busy
            await trio.testing.wait_all_tasks_blocked()
            with trio.move_on_after(1):
                await supervisor.start_session(spec("b", backend))
        assert ["Starting a", "Starting a"] == record.words("Starting")


async def test_calls_that_are_over_are_forgotten() -> None:
    """Whether they succeed or not: a supervisor that runs for months keeps none of them."""
    async with open_supervisor([spec("a")]) as supervisor:
        await supervisor.restart_session("a")
        with pytest.raises(SessionExists):
            await supervisor.start_session(spec("a"))
        assert not supervisor._control._calls


async def test_two_who_restart_the_same_session_are_both_content(
    autojump_clock: MockClock,
) -> None:
    """A restart that a later one overtakes has done what it was to do."""
    backend = ScriptedBackend(lambda turn: [1.0, "done"])
    async with nothing_left(backend), open_supervisor([spec("a", backend)]) as supervisor:
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(supervisor.restart_session, "a")
        await trio_claude.query("a", "Hi")
        assert 1 <= supervisor.list_sessions()[0].restarts <= 3


async def test_a_session_that_is_being_stopped_says_nothing_else(
    autojump_clock: MockClock,
) -> None:
    """While a group waits for its restart, a transient member is restarting, and not stopped."""
    specs = [spec("a"), spec("b", restart="transient", significant=True)]
    statuses: list[str] = []

    def look(event: trio_claude.SupervisorEvent) -> None:
        if isinstance(event, trio_claude.SessionStopped):
            statuses.append(session.status)

    async with open_supervisor(
        specs,
        strategy="one_for_all",
        backoff=trio_claude.Backoff(5, 5, jitter=0),
        max_sessions=2,
        auto_shutdown="all_significant",
        on_event=look,
    ) as supervisor:
        session = supervisor.get_session("b")
        await crash(supervisor.get_session("a"))
        await trio.sleep(1)
        assert 2 == supervisor.statistics().restarting
        with pytest.raises(TooManySessions):
            await supervisor.start_session(spec("c"))
        await trio.sleep(5)
        assert 2 == supervisor.count_sessions()
        await supervisor.restart_session("b")
        assert {"running", "restarting"} >= set(statuses)


async def test_max_queue_holds_while_the_session_is_away(autojump_clock: MockClock) -> None:
    """While it waits to be restarted nobody is being served, so max_queue callers may wait."""
    async with (
        open_supervisor(
            [spec("a", max_queue=1)], backoff=trio_claude.Backoff(5, 5, jitter=0)
        ) as supervisor,
        trio.open_nursery() as nursery,
    ):
        await crash(supervisor.get_session("a"))
        nursery.start_soon(trio_claude.query, "a", "waits")
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(trio_claude.SessionBusy):
            await trio_claude.query("a", "one too many")
