"""How supervisors begin and end: every way into the block and out of it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Hashable
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from trio.testing import MockClock

import trio_claude
from trio_claude import (
    CLIBackend,
    CLINotFound,
    ConfigurationError,
    LocalRegistry,
    RestartIntensityExceeded,
    SessionCrashed,
    SessionExists,
    SessionNotFound,
    SessionSpec,
    SessionTerminated,
    SupervisorError,
    SupervisorEvent,
    SupervisorSpec,
    SupervisorStopped,
    Via,
    open_session,
    open_supervisor,
    run_supervisor,
)
from trio_claude.testing import ScriptedBackend, ScriptedTurn, crash

from .support import Record, hang, nothing_left, spec


def _three(backend: ScriptedBackend, **options: object) -> list[SessionSpec]:
    return [spec(name, backend, model=name, **options) for name in "abc"]


def _refuse(*names: str) -> ScriptedBackend:
    """A backend that doesn't open for sessions with these models."""

    def on_open(options: trio_claude.SessionOptions) -> None:
        if options.model in names:
            raise OSError(f"{options.model} is broken")

    return ScriptedBackend(on_open=on_open)


async def test_starts_in_order_and_stops_in_reverse() -> None:
    """The first started is the last stopped."""
    record = Record()
    backend = ScriptedBackend()
    async with nothing_left(backend):
        async with open_supervisor(_three(backend), on_event=record):
            assert ["Ready a", "Ready b", "Ready c"] == record.moves()

        assert ["Stopped c", "Stopped b", "Stopped a"] == record.moves()


async def test_a_start_that_fails_stops_those_before_it() -> None:
    """The exception is raised as it was, with a note; what was started is stopped in reverse."""
    record = Record()
    backend = _refuse("c")
    async with nothing_left(backend):
        with pytest.raises(OSError, match="c is broken") as caught:
            async with open_supervisor([*_three(backend), spec("d", backend)], on_event=record):
                raise AssertionError("never entered")

        assert ["Ready a", "Ready b", "Failed c", "Stopped b", "Stopped a"] == record.moves()
        assert ["while the supervisor was starting 'c'"] == caught.value.__notes__


async def test_the_body_s_exception_leaves_as_the_same_object() -> None:
    """Never inside a group, even if it is a group itself; and everything is stopped."""
    backend = ScriptedBackend()
    for error in (KeyError("mine"), ExceptionGroup("mine", [ValueError()]), KeyboardInterrupt()):
        async with nothing_left(backend):
            with pytest.raises(BaseException) as caught:  # noqa: PT011 - it is compared below
                async with open_supervisor(_three(backend)):
                    raise error
            assert error is caught.value
            assert caught.value.__cause__ is None
            assert caught.value.__context__ is None


async def test_leaving_waits_for_turns_within_their_grace(autojump_clock: MockClock) -> None:
    """A turn in flight may finish within `shutdown` seconds; one that can't is cut off."""
    record = Record()
    slow, endless = ScriptedBackend(lambda turn: [3.0, "done"]), ScriptedBackend(hang)
    results: list[object] = []

    async def ask(name: str) -> None:
        try:
            results.append(str(await trio_claude.query(name, "work")))
        except SessionTerminated as exc:
            results.append(exc.name)

    async with trio.open_nursery() as nursery, nothing_left(slow, endless):
        async with open_supervisor(
            [spec("slow", slow), spec("endless", endless, shutdown=2)], on_event=record
        ):
            nursery.start_soon(ask, "slow")
            nursery.start_soon(ask, "endless")
            await trio.testing.wait_all_tasks_blocked()
            began = trio.current_time()
        assert 3 == trio.current_time() - began
        await trio.testing.wait_all_tasks_blocked()

    assert ["endless", "done"] == results


async def test_a_cancelled_scope_around_stops_all_at_once(autojump_clock: MockClock) -> None:
    """Without grace, in reverse order, nothing restarted, and the scope has caught it."""
    record = Record()
    backend = ScriptedBackend(hang)
    failed: list[BaseException] = []

    async def ask() -> None:
        with pytest.raises(SessionTerminated) as caught:
            await trio_claude.query("a", "work")
        failed.append(caught.value)

    async with nothing_left(backend), trio.open_nursery() as nursery:
        with trio.CancelScope() as scope:
            async with open_supervisor(_three(backend), on_event=record):
                nursery.start_soon(ask)
                await trio.testing.wait_all_tasks_blocked()
                record.moves()
                began = trio.current_time()
                scope.cancel()
                await trio.sleep_forever()
        assert scope.cancelled_caught
        assert began == trio.current_time()
    assert ["Stopped c", "Stopped b", "Stopped a"] == record.moves()
    assert 1 == len(failed)


async def test_a_cancellation_cuts_the_grace_short(autojump_clock: MockClock) -> None:
    """A block that is being left, and is cancelled meanwhile, doesn't wait any longer."""
    backend = ScriptedBackend(hang)
    record = Record()
    async with nothing_left(backend), trio.open_nursery() as nursery:
        with trio.move_on_after(1) as scope:
            async with open_supervisor(
                [spec("a", backend, shutdown=float("inf"))], on_event=record
            ):

                async def ask() -> None:
                    with pytest.raises(SessionTerminated):
                        await trio_claude.query("a", "work")

                nursery.start_soon(ask)
                await trio.testing.wait_all_tasks_blocked()
        assert scope.cancelled_caught
        assert ["SupervisorStopped"] == record.words("SupervisorStopped")


async def test_cancelling_while_it_starts_leaves_nothing(autojump_clock: MockClock) -> None:
    """A start that hangs is called off by the scope around it."""

    async def never(options: trio_claude.SessionOptions) -> None:
        if options.model == "b":
            await trio.sleep_forever()

    backend = ScriptedBackend(on_open=never)
    record = Record()
    async with nothing_left(backend):
        with trio.move_on_after(1) as scope:
            async with open_supervisor(_three(backend), on_event=record):
                raise AssertionError("never entered")
        assert scope.cancelled_caught
        assert ["Ready a", "Stopped b", "Stopped a"] == record.moves()


async def test_giving_up_cancels_the_block(autojump_clock: MockClock) -> None:
    """RestartIntensityExceeded from a group of the last crash; the others are stopped."""
    record = Record()
    backend = ScriptedBackend()
    last = ValueError("the last straw")
    async with nothing_left(backend):
        with pytest.raises(RestartIntensityExceeded, match="'b' needed one more") as caught:
            async with open_supervisor(
                _three(backend), name="group", max_restarts=1, max_seconds=9, on_event=record
            ) as supervisor:
                await crash(supervisor.get_session("b"))
                await trio.testing.wait_all_tasks_blocked()
                record.moves()
                await crash(supervisor.get_session("b"), last)
                await trio.sleep_forever()

        error = caught.value
        assert ("group", 1, 9) == (error.name, error.max_restarts, error.max_seconds)
        assert isinstance(error, SupervisorError)
        assert isinstance(error.__cause__, ExceptionGroup)
        assert (last,) == error.__cause__.exceptions
        assert ["Stopped c", "Stopped a"] == record.moves()


async def test_giving_up_tells_of_the_body_s_error_too() -> None:
    """If the body ends with an error when it is cancelled, that is in the cause's group."""
    mine = KeyError("mine")
    with pytest.raises(RestartIntensityExceeded) as caught:
        async with open_supervisor([spec("a")], max_restarts=0) as supervisor:
            try:
                await crash(supervisor.get_session("a"))
                await trio.sleep_forever()
            finally:
                raise mine
    assert isinstance(caught.value.__cause__, ExceptionGroup)
    assert mine is caught.value.__cause__.exceptions[1]


async def test_a_normal_end_of_a_permanent_session_counts() -> None:
    """OTP: a permanent child that returns is restarted, and that may be one too many."""
    with pytest.raises(RestartIntensityExceeded) as caught:
        async with open_supervisor([spec("a")], max_restarts=0) as supervisor:
            await supervisor.get_session("a").stop()
            await trio.sleep_forever()
    assert isinstance(caught.value.__cause__, ExceptionGroup)
    (cause,) = caught.value.__cause__.exceptions
    assert isinstance(cause, SessionTerminated)


async def test_the_caller_of_a_session_gets_its_own_error_when_all_ends() -> None:
    """The crash that makes the supervisor give up reaches the caller as SessionCrashed."""
    backend = ScriptedBackend([OSError("broken")])
    with pytest.raises(RestartIntensityExceeded):
        async with open_supervisor([spec("a", backend)], max_restarts=0):
            with pytest.raises(SessionCrashed):
                await trio_claude.query("a", "Hi")
            await trio.sleep_forever()


async def test_auto_shutdown_ends_the_block_without_an_error() -> None:
    """The sessions are stopped in reverse, the body is cancelled, the event says why."""
    record = Record()
    backend = ScriptedBackend()
    reached = False
    async with nothing_left(backend):
        async with open_supervisor(
            [*_three(backend), spec("job", backend, restart="transient", significant=True)],
            auto_shutdown="any_significant",
            on_event=record,
        ) as supervisor:
            record.moves()
            await supervisor.get_session("job").stop()
            await trio.sleep_forever()
            reached = True
        assert not reached
        stopped = record.events[-1]
        assert isinstance(stopped, SupervisorStopped)
        assert "auto_shutdown" == stopped.reason
        assert ["Stopped c", "Stopped b", "Stopped a"] == record.moves()


async def test_auto_shutdown_does_not_hide_the_body_s_error() -> None:
    """The body's own exception still leaves the block."""
    with pytest.raises(KeyError, match="mine"):
        async with open_supervisor(
            [spec("job", restart="temporary", significant=True)], auto_shutdown="all_significant"
        ) as supervisor:
            try:
                await crash(supervisor.get_session("job"))
                await trio.sleep_forever()
            finally:
                raise KeyError("mine")


async def test_all_significant_waits_for_the_last() -> None:
    """all_significant ends when the last running significant session has ended by itself."""
    specs = [spec(name, restart="transient", significant=True) for name in "ab"]
    async with open_supervisor([*specs, spec("c")], auto_shutdown="all_significant") as supervisor:
        await supervisor.get_session("a").stop()
        await trio.testing.wait_all_tasks_blocked()
        assert 2 == supervisor.count_sessions()
        await supervisor.get_session("b").stop()
        await trio.sleep_forever()


async def test_terminating_a_significant_session_ends_nothing() -> None:
    """OTP 1.9: only an end by itself counts."""
    async with open_supervisor(
        [spec("job", restart="transient", significant=True)], auto_shutdown="any_significant"
    ) as supervisor:
        await supervisor.terminate_session("job")
        await trio.testing.wait_all_tasks_blocked()


async def test_an_on_event_that_raises_fails_the_supervisor() -> None:
    """SupervisorError from its exception, in each phase; nothing is left behind."""
    kinds = ["SessionStarting", "SessionReady", "SupervisorStarted", "SessionExited"]
    kinds += ["RestartScheduled", "SessionStopped", "SupervisorStopped"]
    for kind in kinds:
        backend = ScriptedBackend()

        def complain(event: SupervisorEvent, kind: str = kind) -> None:
            if type(event).__name__ == kind:
                raise LookupError(kind)

        async with nothing_left(backend):
            with pytest.raises(SupervisorError, match="on_event raised") as caught:
                async with open_supervisor(_three(backend), on_event=complain) as supervisor:
                    if kind in ("SessionExited", "RestartScheduled"):
                        await crash(supervisor.get_session("a"))
                        await trio.sleep_forever()
            assert isinstance(caught.value.__cause__, LookupError), kind


async def test_an_on_event_that_raises_beside_the_body() -> None:
    """Both errors are in the cause, and neither is lost."""

    def complain(event: SupervisorEvent) -> None:
        if isinstance(event, SupervisorStopped):
            raise LookupError("first")

    with pytest.raises(SupervisorError) as caught:
        async with open_supervisor([spec("a")], on_event=complain):
            raise KeyError("second")
    assert isinstance(caught.value.__cause__, ExceptionGroup)
    assert [LookupError, KeyError] == [type(exc) for exc in caught.value.__cause__.exceptions]


@pytest.mark.parametrize("where", ["turn", "open", "connect", "event"])
async def test_a_keyboard_interrupt_is_never_answered_with_a_restart(where: str) -> None:
    """It leaves the block as it is, after all sessions were stopped."""
    error = KeyboardInterrupt()

    def on_open(options: trio_claude.SessionOptions) -> None:
        if where == "open":
            raise error

    class Backend(ScriptedBackend):
        def connect(self):  # type: ignore[no-untyped-def]  # noqa: ANN202
            if where == "connect":
                raise error
            return super().connect()

    def on_event(event: SupervisorEvent) -> None:
        if where == "event" and isinstance(event, trio_claude.SessionReady):
            raise error

    backend = Backend([error], on_open=on_open)
    async with nothing_left(backend):
        with pytest.raises(KeyboardInterrupt) as caught:
            async with open_supervisor(_three(backend), on_event=on_event):
                with pytest.raises(SessionTerminated):
                    await trio_claude.query("a", "Hi")
                await trio.sleep_forever()
        assert error is caught.value


async def test_run_supervisor_is_for_nursery_start() -> None:
    """nursery.start gives the Supervisor once all are ready; cancelling stops it."""
    backend = ScriptedBackend()
    async with nothing_left(backend), trio.open_nursery() as nursery:
        supervisor: trio_claude.Supervisor = await nursery.start(
            lambda task_status: run_supervisor(
                _three(backend), name="group", task_status=task_status
            )
        )
        assert 3 == supervisor.count_sessions()
        assert supervisor is trio_claude.get_supervisor("group")
        nursery.cancel_scope.cancel()


async def test_run_supervisor_raises_what_its_start_fails_of() -> None:
    """nursery.start raises the session's own exception, unwrapped."""
    backend = _refuse("b")
    async with nothing_left(backend), trio.open_nursery() as nursery:
        with pytest.raises(OSError, match="b is broken"):
            await nursery.start(
                lambda task_status: run_supervisor(_three(backend), task_status=task_status)
            )


async def test_run_supervisor_returns_after_auto_shutdown() -> None:
    """auto_shutdown makes it return."""
    async with trio.open_nursery() as nursery:
        await nursery.start(
            lambda task_status: run_supervisor(
                [spec("job", restart="temporary", significant=True)],
                auto_shutdown="any_significant",
                task_status=task_status,
            )
        )
        await trio_claude.get_session("job").stop()


async def test_open_session_is_ended_by_a_crash() -> None:
    """Nothing is started again: the turn gets SessionCrashed, later ones SessionTerminated."""
    backend = ScriptedBackend([OSError("broken"), "never"])
    async with nothing_left(backend), open_session(name="a", backend=backend) as session:
        with pytest.raises(SessionCrashed):
            await session.query("Hi")
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(SessionTerminated):
            await session.query("Hi")
        assert trio_claude.whereis("a") is None


async def test_arguments_are_refused_by_the_call() -> None:
    """ConfigurationError comes from open_supervisor(...), before any block."""
    wrong: list[dict[str, Any]] = [
        {"strategy": "one_for_some"},
        {"max_restarts": -1},
        {"max_restarts": True},
        {"max_seconds": 0},
        {"max_seconds": float("nan")},
        {"auto_shutdown": "always"},
        {"max_sessions": -1},
        {"backoff": 3},
        {"defaults": {"model": "opus"}},
        {"on_event": "print"},
        {"name": []},
    ]
    for arguments in wrong:
        with pytest.raises(ConfigurationError, match=next(iter(arguments))):
            open_supervisor(**arguments)
    with pytest.raises(ConfigurationError, match="did you mean 'model'"):
        open_session(modle="opus")  # type: ignore[call-arg]


async def test_a_supervisor_s_name_is_taken_while_it_runs() -> None:
    """A second one is refused; after the block the name is free."""
    async with open_supervisor(name="group") as supervisor:
        assert supervisor is trio_claude.get_supervisor("group")
        assert "<Supervisor 'group' of 0>" == repr(supervisor)
        with pytest.raises(SessionExists, match="'group' is running already"):
            async with open_supervisor(name="group"):
                raise AssertionError("never entered")
    assert "<Supervisor 'group' ended>" == repr(supervisor)
    with pytest.raises(SessionNotFound):
        trio_claude.get_supervisor("group")
    async with open_supervisor(name="group"):
        pass


async def test_a_program_that_is_not_there(tmp_path: Path) -> None:
    """A session on a missing program fails when the block begins, with what is missing."""
    backend = CLIBackend(cli_path=str(tmp_path / "claude"))
    async with nothing_left():
        with pytest.raises(CLINotFound, match="there is no such file") as caught:
            async with open_supervisor([SessionSpec(name="a", backend=backend)]):
                raise AssertionError("never entered")
        assert ["while the supervisor was starting 'a'"] == caught.value.__notes__
        async with open_supervisor() as supervisor:
            with pytest.raises(CLINotFound):
                await supervisor.start_session(SessionSpec(name="a", backend=backend))
            assert () == supervisor.list_sessions()


async def test_a_tree_of_supervisors(autojump_clock: MockClock) -> None:
    """A group that gives up is one crash for the supervisor above, which starts it anew."""
    record = Record()
    backend = ScriptedBackend()
    group = SupervisorSpec(name="group", specs=_three(backend), max_restarts=1)
    async with nothing_left(backend):
        async with open_supervisor([spec("x", backend), group], on_event=record) as supervisor:
            assert 1 == supervisor.count_sessions()
            statistics = supervisor.statistics()
            assert (2, 1, 2) == (statistics.specs, statistics.supervisors, statistics.active)
            with pytest.raises(SessionNotFound, match="is a supervisor"):
                supervisor.get_session("group")
            record.moves()
            below = trio_claude.get_supervisor("group")
            for _ in range(2):
                await crash(below.get_session("b"))
                await trio.testing.wait_all_tasks_blocked()

            assert below is not trio_claude.get_supervisor("group")
            assert [
                *["Ready b", "Stopped c", "Stopped a"],
                *["Ready a", "Ready b", "Ready c", "Ready group"],
            ] == record.moves()
            with pytest.raises(trio.ClosedResourceError):
                below.count_sessions()
            assert 1 == supervisor.statistics().restarts
            await supervisor.restart_session("group")
            await supervisor.terminate_session("group")
            assert trio_claude.whereis("b") is None


async def test_a_group_that_shuts_itself_down_is_a_normal_end() -> None:
    """For the supervisor above, auto_shutdown below is no crash."""
    job = spec("job", restart="temporary", significant=True)
    group = SupervisorSpec(
        name="group", specs=[job], auto_shutdown="any_significant", restart="transient"
    )
    async with open_supervisor([group]) as supervisor:
        await trio_claude.get_session("job").stop()
        await trio.testing.wait_all_tasks_blocked()
        assert (1, 0) == (supervisor.statistics().specs, supervisor.statistics().active)


async def test_events_and_defaults_come_from_above() -> None:
    """A group's options win over those above it, and its events go to the one above."""
    backend = ScriptedBackend()
    above, below = Record(), Record()
    groups = [
        SupervisorSpec(
            name="one",
            specs=[spec("a", backend)],
            defaults=trio_claude.SessionOptions(model="opus"),
        ),
        SupervisorSpec(name="two", specs=[spec("b", backend)], on_event=below),
    ]
    async with open_supervisor(
        groups,
        defaults=trio_claude.SessionOptions(model="haiku", max_tokens=9),
        on_event=above,
    ):
        await trio_claude.query("a", "Hi")
        await trio_claude.query("b", "Hi")
        assert [("opus", 9), ("haiku", 9)] == [
            (turn.options.model, turn.options.max_tokens) for turn in backend.turns
        ]
        assert ["Ready a", "Ready one", "Ready two"] == above.moves()
        assert ["Ready b"] == below.moves()


async def test_a_session_that_cannot_be_killed_is_reported(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing kills a task: the supervisor waits for it, and the log says for whom."""

    async def stubborn(turn: ScriptedTurn) -> AsyncGenerator[str, None]:
        yield "no"
        with trio.CancelScope(shield=True):
            await trio.sleep(25)

    async with trio.open_nursery() as nursery:
        with trio.CancelScope() as scope:
            async with open_supervisor([spec("mule", ScriptedBackend(stubborn))]):

                async def ask() -> None:
                    with pytest.raises(SessionTerminated):
                        await trio_claude.query("mule", "Hi")

                nursery.start_soon(ask)
                await trio.testing.wait_all_tasks_blocked()
                scope.cancel()
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert 2 == len(said)
    assert "'mule' was cancelled and has not ended in 10 seconds" in said[0]


async def test_every_session_is_stopped_although_each_stop_raises() -> None:
    """What no library may answer, raised at each stop by on_event or a registry, waits for the end."""

    class Exits(LocalRegistry):
        def unregister(self, key: Hashable) -> None:
            super().unregister(key)
            raise SystemExit(f"unregister {key!r}")

    def exits(event: SupervisorEvent) -> None:
        if isinstance(event, trio_claude.SessionStopped):
            raise SystemExit("stopped")

    for on_event, registry in ((exits, LocalRegistry()), (Record(), Exits())):
        backend = ScriptedBackend()
        async with nothing_left(backend):
            with pytest.raises(SystemExit) as caught:
                async with open_supervisor(
                    [spec(Via(registry, name), backend) for name in "abc"], on_event=on_event
                ):
                    pass
            assert str(caught.value) in ("stopped", "unregister 'c'")
        assert () == registry.keys()


async def test_a_group_with_a_keyboard_interrupt_in_it() -> None:
    """The body's leaves as it is; of a session's, the KeyboardInterrupt does."""
    interrupt = KeyboardInterrupt()
    group = BaseExceptionGroup("mine", [ValueError(), interrupt])
    with pytest.raises(BaseExceptionGroup) as caught:
        async with open_supervisor([spec("a")]):
            raise group
    assert group is caught.value

    with pytest.raises(KeyboardInterrupt) as caught_interrupt:
        async with open_session(backend=ScriptedBackend([group])) as session:
            await session.query("Hi")
    assert interrupt is caught_interrupt.value


async def test_ctrl_c_cannot_hit_what_decides() -> None:
    """The control and the ends of sessions are protected from it; what users wrote is not."""
    protected: dict[str, bool] = {}

    def on_event(event: SupervisorEvent) -> None:
        protected["decides"] = trio.lowlevel.currently_ki_protected()

    async def answer(turn: ScriptedTurn) -> str:
        protected["answers"] = trio.lowlevel.currently_ki_protected()
        return "fine"

    async with open_supervisor([spec("a", ScriptedBackend(answer))], on_event=on_event):
        protected["body"] = trio.lowlevel.currently_ki_protected()
        await trio_claude.query("a", "Hi")
    assert {"decides": True, "answers": False, "body": False} == protected


async def test_a_ctrl_c_before_there_is_anything() -> None:
    """It leaves as itself, not in a group of the hidden nursery's."""

    def on_control(*args: object) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trio_claude._supervision.opening, "Control", on_control)  # type: ignore[attr-defined]
        with pytest.raises(KeyboardInterrupt):
            async with open_supervisor():
                raise AssertionError("never entered")


async def test_leaving_frees_a_turn_that_waits_for_the_supervisor(
    autojump_clock: MockClock,
) -> None:
    """A call in the mailbox is told at once that all ends: the turn behind it needs no grace."""

    async def on_open(options: trio_claude.SessionOptions) -> None:
        if options.model == "slow":
            await trio.sleep_forever()

    async def answer(turn: ScriptedTurn) -> str:
        with pytest.raises(trio.ClosedResourceError):
            await supervisor.terminate_session("b")
        return "told"

    backend = ScriptedBackend(answer, on_open=on_open)
    answers: list[str] = []

    async def ask() -> None:
        answers.append(str(await trio_claude.query("a", "Terminate b")))

    async def start() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await supervisor.start_session(spec("c", backend, model="slow"))

    async with trio.open_nursery() as nursery, nothing_left(backend):
        async with open_supervisor(
            [spec("a", backend, shutdown=float("inf")), spec("b", backend)]
        ) as supervisor:
            nursery.start_soon(start)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(ask)
            await trio.testing.wait_all_tasks_blocked()
            began = trio.current_time()
        assert began == trio.current_time()
        await trio.testing.wait_all_tasks_blocked()
        assert ["told"] == answers


async def test_a_session_that_crashes_as_soon_as_it_is_open() -> None:
    """open_session gives its handle all the same, and the first query says that it is gone."""
    for _ in range(20):  # the moment depends on Trio's scheduler
        backend = ScriptedBackend([OSError("at once")])
        async with trio.open_nursery() as nursery:

            async def ask() -> None:
                while (session := trio_claude.whereis("a")) is None:
                    await trio.lowlevel.checkpoint()
                with pytest.raises(SessionCrashed):
                    await session.query("Hi")

            nursery.start_soon(ask)
            async with open_session(name="a", backend=backend) as handle:
                await trio.testing.wait_all_tasks_blocked()
                with pytest.raises(SessionTerminated):
                    await handle.query("Hi")


async def test_the_one_that_was_given_up_for_is_stopped(autojump_clock: MockClock) -> None:
    """While the others have their grace, it is known as stopped, and nobody waits for it."""
    backend = ScriptedBackend(lambda turn: [3.0, "done"])
    with pytest.RaisesGroup(RestartIntensityExceeded):
        async with trio.open_nursery() as nursery:
            async with open_supervisor(
                [spec("a", backend), spec("b", backend)], max_restarts=0
            ) as supervisor:
                nursery.start_soon(trio_claude.query, "b", "work")
                await trio.testing.wait_all_tasks_blocked()
                session = supervisor.get_session("a")

                async def look() -> None:
                    await trio.sleep(1)
                    assert "stopped" == session.status
                    assert trio_claude.whereis("a") is None
                    assert 1 == supervisor.count_sessions()
                    assert supervisor.statistics().gave_up
                    with pytest.raises(SessionTerminated):
                        await session.query("Hi")

                nursery.start_soon(look)
                await crash(session)
                await trio.sleep_forever()


async def test_a_cancellation_while_it_gives_up(autojump_clock: MockClock) -> None:
    """Cut short while the others have their grace, it has given up all the same."""
    backend = ScriptedBackend(lambda turn: [30.0, "done"])
    record = Record()
    errors: list[Exception] = []
    async with trio.open_nursery() as nursery:

        async def run() -> None:
            with trio.move_on_after(2):
                try:
                    async with open_supervisor(
                        [spec("a", backend), spec("b", backend, shutdown=20)],
                        max_restarts=0,
                        on_event=record,
                    ):
                        await trio.sleep_forever()
                except RestartIntensityExceeded as exc:
                    errors.append(exc)

        async def ask() -> None:
            with pytest.raises(SessionTerminated):
                await trio_claude.query("b", "work")

        nursery.start_soon(run)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        await crash(trio_claude.get_session("a"))
    assert 1 == len(errors)
    stopped = record.events[-1]
    assert isinstance(stopped, SupervisorStopped)
    assert "intensity" == stopped.reason


async def test_an_error_that_counts_as_false_is_an_error() -> None:
    """An exception with a length of 0 is raised and told like any other."""

    class Empty(Exception):
        def __len__(self) -> int:
            return 0

    def on_open(options: trio_claude.SessionOptions) -> None:
        raise Empty

    with pytest.raises(Empty):
        async with open_supervisor([spec("a", ScriptedBackend(on_open=on_open))]):
            raise AssertionError("never entered")
    with pytest.raises(RestartIntensityExceeded) as caught:
        async with open_supervisor([spec("a")], max_restarts=0) as supervisor:
            await crash(supervisor.get_session("a"), Empty())
            await trio.sleep_forever()
    assert isinstance(caught.value.__cause__, ExceptionGroup)
    assert isinstance(caught.value.__cause__.exceptions[0], Empty)


async def test_the_body_s_keyboard_interrupt_is_more_than_a_failure() -> None:
    """A supervisor that has given up lets it through: no library may answer it."""
    with pytest.raises(KeyboardInterrupt):
        async with open_supervisor([spec("a")], max_restarts=0) as supervisor:
            try:
                await crash(supervisor.get_session("a"))
                await trio.sleep_forever()
            finally:
                raise KeyboardInterrupt


async def test_an_on_event_that_counts_as_false_is_called() -> None:
    """Whatever is callable will do, also one that is an empty list."""

    class Seen(list[SupervisorEvent]):
        def __call__(self, event: SupervisorEvent) -> None:
            self.append(event)

    seen = Seen()
    async with open_supervisor([spec("a")], on_event=seen):
        assert seen
