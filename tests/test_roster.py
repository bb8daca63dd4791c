"""The rules of restarting, seen from outside: order, retries, delays, and what is called off."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from trio.testing import MockClock

import trio_claude
from trio_claude import (
    Backoff,
    RestartIntensityExceeded,
    RestartScheduled,
    SessionNotFound,
    SessionOptions,
    SessionRestarted,
    SessionSpec,
    SessionTerminated,
    Supervisor,
    TooManySessions,
    open_supervisor,
)
from trio_claude._session.session import Session
from trio_claude._supervision.policy import Strategy
from trio_claude.testing import ScriptedBackend, crash

from .support import Record, nothing_left, spec


class Flaky(ScriptedBackend):
    """Sessions know their own name by their model; some don't start, some hang."""

    def __init__(self) -> None:
        super().__init__(on_open=self._start)
        self.failing: dict[str | None, int] = {}
        self.hanging: set[str | None] = set()

    async def _start(self, options: SessionOptions) -> None:
        if self.failing.get(options.model, 0) > 0:
            self.failing[options.model] -= 1
            raise OSError(f"{options.model} fails to start")
        if options.model in self.hanging:
            await trio.sleep_forever()

    def specs(self, names: str, **options: object) -> list[SessionSpec]:
        """One session for each letter."""
        return [spec(name, self, model=name, **options) for name in names]


async def _crash(supervisor: Supervisor, name: str) -> None:
    await crash(supervisor.get_session(name))
    await trio.testing.wait_all_tasks_blocked()


@pytest.mark.parametrize(
    ("strategy", "moves"),
    [
        ("one_for_one", "Failed c, Ready c"),
        (
            "one_for_all",
            "Stopped d, Stopped c, Stopped a, Ready a, Ready b, Failed c, "
            "Stopped b, Stopped a, Ready a, Ready b, Ready c, Ready d",
        ),
        ("rest_for_one", "Stopped d, Stopped c, Ready b, Failed c, Ready c, Ready d"),
    ],
)
async def test_a_failed_start_in_a_group(strategy: Strategy, moves: str) -> None:
    """OTP 1.6: the sibling that fails to start is restarted by the strategy in its turn."""
    record, backend = Record(), Flaky()
    async with open_supervisor(
        backend.specs("abcd"),
        strategy=strategy,
        on_event=record,
    ) as supervisor:
        record.moves()
        backend.failing = {"c": 1}
        await _crash(supervisor, "c" if strategy == "one_for_one" else "b")

        assert moves.split(", ") == record.moves()
        assert 2 == supervisor.statistics().recent_restarts
        assert 4 == supervisor.count_sessions()


async def test_retries_count_and_may_be_too_many() -> None:
    """A crash and k failed starts are 1 + k entries in the window."""
    backend = Flaky()
    with pytest.raises(RestartIntensityExceeded, match="'a'") as caught:
        async with open_supervisor(backend.specs("a"), max_restarts=3) as supervisor:
            backend.failing = {"a": 3}
            await _crash(supervisor, "a")
            await trio.sleep_forever()
    assert 0 == backend.failing["a"]
    assert isinstance(caught.value.__cause__, ExceptionGroup)
    assert isinstance(caught.value.__cause__.exceptions[0], OSError)


async def test_temporary_siblings_are_not_brought_back() -> None:
    """A group's restart forgets temporary children, and revives stopped transient ones."""
    record, backend = Record(), Flaky()
    specs = [
        *backend.specs("a", restart="temporary"),
        *backend.specs("b", restart="transient"),
        *backend.specs("c"),
    ]
    async with open_supervisor(specs, strategy="one_for_all", on_event=record) as supervisor:
        await supervisor.get_session("b").stop()
        await trio.testing.wait_all_tasks_blocked()
        record.moves()
        await _crash(supervisor, "c")

        assert ["Stopped a", "Ready b", "Ready c"] == record.moves()
        assert ["b", "c"] == [info.name for info in supervisor.list_sessions()]
        await trio_claude.query("b", "Hi")


async def test_the_mailbox_is_served_between_retries() -> None:
    """A start that fails again and again starves nobody: calls and the stop get through."""
    backend = Flaky()
    async with nothing_left(backend):
        async with open_supervisor(
            [*backend.specs("a"), *backend.specs("b")], max_restarts=10**9
        ) as supervisor:
            backend.failing = {"a": 10**9}
            await crash(supervisor.get_session("a"))
            for _ in range(50):
                await trio.lowlevel.checkpoint()
            assert "restarting" == supervisor.list_sessions()[0].status
            assert 1 == supervisor.statistics().restarting
            await supervisor.start_session(spec("c", backend))
            await trio_claude.query("b", "Hi")
            await supervisor.restart_session("b")
            with pytest.raises(OSError, match="a fails to start"):
                await supervisor.restart_session("a")
            assert "stopped" == supervisor.list_sessions()[0].status
            backend.failing = {}
            await supervisor.restart_session("a")
            backend.failing = {"a": 10**9}
            await crash(supervisor.get_session("a"))
            for _ in range(50):
                await trio.lowlevel.checkpoint()
            await supervisor.terminate_session("a")
            assert ["b", "c"] == [info.name for info in supervisor.list_sessions()]
            await supervisor.start_session(spec("d", backend, model="a2"))
            backend.failing = {"b": 10**9}
            await crash(supervisor.get_session("b"))


async def test_those_behind_a_child_that_will_not_come_are_started() -> None:
    """Terminating the child at which a group's start has stopped lets the others come up."""
    backend = Flaky()
    async with open_supervisor(
        backend.specs("abc"), strategy="one_for_all", max_restarts=10**9
    ) as supervisor:
        backend.failing = {"b": 10**9}
        await crash(supervisor.get_session("a"))
        for _ in range(50):
            await trio.lowlevel.checkpoint()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio_claude.query, "c", "are you there?")
            await supervisor.terminate_session("b")
        assert ["a", "c"] == [info.name for info in supervisor.list_sessions()]
        assert 2 == supervisor.count_sessions()


async def test_restarting_the_child_that_others_wait_for_lets_them_come() -> None:
    """restart_session of the one that failed goes on with those behind it."""
    backend = Flaky()
    async with open_supervisor(
        backend.specs("abc"), strategy="rest_for_one", max_restarts=10**9
    ) as supervisor:
        backend.failing = {"b": 10**9}
        await crash(supervisor.get_session("a"))
        for _ in range(50):
            await trio.lowlevel.checkpoint()
        backend.failing = {}
        await supervisor.restart_session("b")
        await trio.testing.wait_all_tasks_blocked()
        assert 3 == supervisor.count_sessions()


async def test_a_backoff_delays_and_resets(autojump_clock: MockClock) -> None:
    """Delays double up to the maximum; after reset_after healthy seconds they begin anew."""
    record, backend = Record(), Flaky()
    backoff = Backoff(1, 4, jitter=0, reset_after=10)
    async with open_supervisor(
        backend.specs("a"), backoff=backoff, max_restarts=100, on_event=record
    ) as supervisor:

        async def crash_and_wait() -> None:
            await _crash(supervisor, "a")
            began = trio.current_time()
            assert "restarting" == supervisor.get_session("a").status
            await trio_claude.query("a", "Hi")  # waits in line
            waited.append(trio.current_time() - began)

        waited: list[float] = []
        for _ in range(4):
            await crash_and_wait()
        await trio.sleep(10)
        await crash_and_wait()

        assert [1, 2, 4, 4, 1] == waited
        scheduled = [event for event in record.events if isinstance(event, RestartScheduled)]
        assert [1, 2, 4, 4, 1] == [event.delay for event in scheduled]


async def test_a_group_waits_as_long_as_its_slowest(autojump_clock: MockClock) -> None:
    """The group is stopped at once, and comes back after the longest of its delays."""
    record, backend = Record(), Flaky()
    async with open_supervisor(
        backend.specs("ab"),
        strategy="one_for_all",
        backoff=Backoff(1, 60, jitter=0),
        max_restarts=100,
        on_event=record,
    ) as supervisor:
        for _ in range(3):
            await _crash(supervisor, "b")
            await trio.sleep(30)
        record.events.clear()
        await _crash(supervisor, "a")  # its first; b has failed three times in a row
        assert ["Stopped b"] == record.moves()
        began = trio.current_time()
        await trio_claude.query("a", "Hi")
        assert 4 == trio.current_time() - began


async def test_too_many_in_a_row_is_giving_up(autojump_clock: MockClock) -> None:
    """max_consecutive ends what the window, because of the delays, never would."""
    backend = Flaky()
    with pytest.raises(RestartIntensityExceeded):
        async with open_supervisor(
            backend.specs("a"), backoff=Backoff(10, 60, jitter=0, max_consecutive=3)
        ) as supervisor:
            backend.failing = {"a": 10**9}
            await crash(supervisor.get_session("a"))
            await trio.sleep_forever()
    assert 10**9 - 3 == backend.failing["a"]


async def test_everything_works_during_a_delay(autojump_clock: MockClock) -> None:
    """Terminate, restart, start and the end of the block don't wait for it."""
    backend = Flaky()
    async with nothing_left(backend):
        async with open_supervisor(
            backend.specs("abc"), backoff=Backoff(1000, 1000, jitter=0)
        ) as supervisor:
            began = trio.current_time()
            for name in "abc":
                await _crash(supervisor, name)
            await supervisor.terminate_session("a")
            await supervisor.restart_session("b")
            await supervisor.start_session(spec("d", backend))
            assert ["running", "restarting", "running"] == [
                info.status for info in supervisor.list_sessions()
            ]
            assert began == trio.current_time()
        assert began == trio.current_time()


async def test_a_group_in_its_delay_loses_its_leader(autojump_clock: MockClock) -> None:
    """Terminating the one that crashed starts the others at once; they are not forgotten."""
    backend = Flaky()
    async with open_supervisor(
        backend.specs("abc"), strategy="one_for_all", backoff=Backoff(1000, 1000, jitter=0)
    ) as supervisor:
        await _crash(supervisor, "b")
        assert 0 == supervisor.count_sessions()
        await supervisor.restart_session("c")
        await supervisor.terminate_session("b")
        assert ["a", "c"] == [info.name for info in supervisor.list_sessions()]
        assert 2 == supervisor.count_sessions()
        await trio.sleep(2000)
        assert 2 == supervisor.count_sessions()


async def test_an_automatic_start_that_hangs_can_be_called_off(autojump_clock: MockClock) -> None:
    """terminate and restart work on a session whose restart hangs; others are served after."""
    backend = Flaky()
    async with open_supervisor(backend.specs("ab"), strategy="one_for_all") as supervisor:
        backend.hanging = {"a"}
        await _crash(supervisor, "b")
        assert ["restarting", "restarting"] == [info.status for info in supervisor.list_sessions()]
        backend.hanging = set()
        await supervisor.restart_session("a")
        await trio.testing.wait_all_tasks_blocked()
        assert 2 == supervisor.count_sessions()

        backend.hanging = {"a"}
        await _crash(supervisor, "b")
        await supervisor.terminate_session("a")
        await trio.testing.wait_all_tasks_blocked()
        assert ["b"] == [info.name for info in supervisor.list_sessions()]
        assert 1 == supervisor.count_sessions()


async def test_a_restart_that_hangs_can_be_called_off(autojump_clock: MockClock) -> None:
    """Who waits for restart_session is told when somebody terminates the session meanwhile."""
    backend = Flaky()
    async with (
        open_supervisor(backend.specs("a")) as supervisor,
        trio.open_nursery() as nursery,
    ):
        backend.hanging = {"a"}

        async def restart() -> None:
            with pytest.raises(SessionTerminated, match="while it was being started"):
                await supervisor.restart_session("a")

        nursery.start_soon(restart)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(supervisor.terminate_session, "a")
        nursery.start_soon(supervisor.terminate_session, "a")


async def test_calls_for_one_session_are_served_in_their_order(autojump_clock: MockClock) -> None:
    """A restart behind a terminate finds nothing, and so does a second terminate: that is fine."""
    backend = ScriptedBackend(lambda turn: [3.0, "done"])
    specs = [spec("a", backend), spec("b", backend)]
    async with open_supervisor(specs) as supervisor, trio.open_nursery() as nursery:

        async def restart_too_late() -> None:
            with pytest.raises(SessionNotFound, match="'a' has ended meanwhile"):
                await supervisor.restart_session("a")

        async def restart_called_off() -> None:
            with pytest.raises(SessionTerminated, match="while it was being started"):
                await supervisor.restart_session("a")

        nursery.start_soon(trio_claude.query, "b", "work")
        await trio.testing.wait_all_tasks_blocked()
        for call in (
            lambda: supervisor.restart_session("b"),  # keeps the supervisor busy meanwhile
            restart_called_off,
            lambda: supervisor.terminate_session("a"),
            lambda: supervisor.terminate_session("a"),
            restart_too_late,
        ):
            nursery.start_soon(call)
            await trio.testing.wait_all_tasks_blocked()
        await trio.sleep(5)
        assert ["b"] == [info.name for info in supervisor.list_sessions()]


async def test_the_end_of_a_session_is_absorbed_by_its_stop(autojump_clock: MockClock) -> None:
    """OTP 1.7: one that dies while it is being stopped is stopped: not counted, not restarted."""
    record = Record()

    def answer(turn: object) -> list[object]:
        return [1.0, OSError("dies in its grace")]

    backend = ScriptedBackend(answer)  # type: ignore[arg-type]
    async with open_supervisor([spec("a", backend)], max_restarts=0, on_event=record) as supervisor:
        async with trio.open_nursery() as nursery:

            async def ask() -> None:
                with pytest.raises(trio_claude.SessionCrashed):
                    await trio_claude.query("a", "Hi")

            nursery.start_soon(ask)
            await trio.testing.wait_all_tasks_blocked()
            await supervisor.terminate_session("a")
        assert ["Ready a", "Stopped a"] == record.moves()
        assert 0 == supervisor.statistics().recent_restarts


async def test_a_crash_before_the_first_checkpoint_starves_nobody() -> None:
    """A child that dies as soon as it runs lets every other task have its turn."""
    backend = Flaky()
    ticks = 0
    async with nothing_left(backend):
        async with open_supervisor(backend.specs("a"), max_restarts=10**9) as supervisor:
            backend.failing = {"a": 10**9}
            await crash(supervisor.get_session("a"))
            for _ in range(1000):
                await trio.lowlevel.checkpoint()
                ticks += 1
            assert 10**9 - backend.failing["a"] < 1000
    assert 1000 == ticks


async def test_restarted_means_restarted_by_the_group_too(autojump_clock: MockClock) -> None:
    """The caller of a sibling's turn gets SessionRestarted when the group is restarted."""
    backend = ScriptedBackend(lambda turn: [1000.0])
    async with (
        open_supervisor(
            [spec("a", backend), spec("b", shutdown=1)], strategy="one_for_all"
        ) as supervisor,
        trio.open_nursery() as nursery,
    ):

        async def ask() -> None:
            with pytest.raises(SessionRestarted):
                await trio_claude.query("a", "Hi")
            nursery.cancel_scope.cancel()

        nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        await crash(supervisor.get_session("b"))
        await trio.sleep_forever()


async def test_a_delay_that_ends_too_late_starts_nothing(autojump_clock: MockClock) -> None:
    """A session that is terminated before its delayed start is served stays away."""
    backend = ScriptedBackend(lambda turn: [3.0, "done"])
    specs = [spec("a", backend), spec("b", backend)]
    async with (
        open_supervisor(specs, backoff=Backoff(2, 2, jitter=0)) as supervisor,
        trio.open_nursery() as nursery,
    ):
        await _crash(supervisor, "b")
        nursery.start_soon(trio_claude.query, "a", "work")
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(supervisor.restart_session, "a")  # busy for 3 seconds
        await trio.sleep(1)
        nursery.start_soon(supervisor.terminate_session, "b")
        await trio.sleep(10)
        assert ["a"] == [info.name for info in supervisor.list_sessions()]


async def test_a_retry_is_overtaken_by_the_restart_of_its_group(autojump_clock: MockClock) -> None:
    """If the group is restarted before the retry is served, that retry is not one more."""
    record, backend = Record(), Flaky()
    opened = backend._start

    async def slowly(options: SessionOptions) -> None:
        if options.model == "b":
            await trio.sleep(1)
        await opened(options)

    backend._on_open = slowly
    async with open_supervisor(
        backend.specs("abc"), strategy="rest_for_one", max_seconds=100, on_event=record
    ) as supervisor:
        record.moves()
        backend.failing = {"c": 1}
        await _crash(supervisor, "b")
        await _crash(supervisor, "a")  # while b is being started, before c fails
        await trio.sleep(10)

        assert [
            *["Stopped c", "Ready b", "Failed c"],
            *["Stopped b", "Ready a", "Ready b", "Ready c"],
        ] == record.moves()
        assert 2 == supervisor.statistics().recent_restarts


async def test_a_group_does_not_wait_for_one_that_has_been_well(autojump_clock: MockClock) -> None:
    """Failures of a sibling that has run for reset_after seconds since don't count any more."""
    backend = Flaky()
    async with open_supervisor(
        backend.specs("ab"),
        strategy="one_for_all",
        backoff=Backoff(1, 60, jitter=0, reset_after=20),
        max_restarts=100,
    ) as supervisor:
        for _ in range(3):
            await _crash(supervisor, "b")
            await trio.sleep(10)
        await trio.sleep(20)
        await _crash(supervisor, "a")
        began = trio.current_time()
        await trio_claude.query("b", "Hi")
        assert 1 == trio.current_time() - began


async def test_a_delay_is_overtaken_by_that_of_its_group(autojump_clock: MockClock) -> None:
    """A delay that ends just when the group has to wait anew starts nobody before its time."""
    backend = Flaky()
    slow = ScriptedBackend(lambda turn: [3.0, "done"])
    async with (
        open_supervisor(
            [spec("x", slow), *backend.specs("ac")],
            strategy="rest_for_one",
            backoff=Backoff(2, 2, jitter=0),
        ) as supervisor,
        trio.open_nursery() as nursery,
    ):
        began = trio.current_time()
        await _crash(supervisor, "c")  # comes back at 2, but for what follows
        await trio.sleep(1)
        nursery.start_soon(trio_claude.query, "x", "work")
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(supervisor.restart_session, "x")  # the supervisor is busy until 4
        await trio.testing.wait_all_tasks_blocked()
        await _crash(supervisor, "a")  # so at 4 the two of them have to wait until 6
        await trio_claude.query("c", "Hi")
        assert 6 == trio.current_time() - began


async def test_a_group_comes_back_in_order_after_its_delay(autojump_clock: MockClock) -> None:
    """The start order is the same with a backoff as without."""
    record, backend = Record(), Flaky()
    async with open_supervisor(
        backend.specs("abc"), strategy="one_for_all", backoff=Backoff(1, 1), on_event=record
    ) as supervisor:
        record.moves()
        await _crash(supervisor, "b")
        await trio.sleep(2)
        assert ["Stopped c", "Stopped a", "Ready a", "Ready b", "Ready c"] == record.moves()


async def test_a_restart_during_the_first_start_comes_after_it(autojump_clock: MockClock) -> None:
    """Whoever starts a session gets it, also if somebody restarts it meanwhile."""

    async def slowly(options: SessionOptions) -> None:
        await trio.sleep(2)

    backend = ScriptedBackend(on_open=slowly)
    async with open_supervisor() as supervisor, trio.open_nursery() as nursery:
        nursery.start_soon(supervisor.start_session, spec("a", backend))
        await trio.testing.wait_all_tasks_blocked()
        await supervisor.restart_session("a")
        (info,) = supervisor.list_sessions()
        assert (2, "running") == (info.incarnation, info.status)


async def test_a_stopped_session_needs_room_to_come_back() -> None:
    """max_sessions holds for restart_session of one that is stopped."""
    async with open_supervisor([spec("a", restart="transient")], max_sessions=1) as supervisor:
        await supervisor.get_session("a").stop()
        await trio.testing.wait_all_tasks_blocked()
        await supervisor.start_session(spec("b"))
        with pytest.raises(TooManySessions, match="max_sessions is 1"):
            await supervisor.restart_session("a")
        await supervisor.restart_session("b")


async def test_too_many_in_a_row_says_so(autojump_clock: MockClock) -> None:
    """The message names the limit that was passed."""
    with pytest.raises(RestartIntensityExceeded, match="more than 1 in a row"):
        async with open_supervisor([spec("a")], backoff=Backoff(1, 1, max_consecutive=1)) as group:
            for _ in range(2):
                await crash(group.get_session("a"))
                await trio.sleep(2)


async def test_terminating_in_the_moment_of_a_failed_start(autojump_clock: MockClock) -> None:
    """The retry that is due for it is not done, and those behind it don't wait for it."""
    for _ in range(20):  # the moment depends on Trio's scheduler
        backend = Flaky()
        failing = trio.Event()

        async def start(
            options: SessionOptions, backend: Flaky = backend, failing: trio.Event = failing
        ) -> None:
            if backend.failing:
                failing.set()
            await Flaky._start(backend, options)

        backend._on_open = start
        async with open_supervisor(
            backend.specs("ab"), strategy="rest_for_one", max_restarts=10
        ) as supervisor:
            backend.failing = {"a": 10}
            await crash(supervisor.get_session("a"))
            await failing.wait()
            await supervisor.terminate_session("a")
            await trio.testing.wait_all_tasks_blocked()
            assert [("b", "running")] == [
                (info.name, info.status) for info in supervisor.list_sessions()
            ]


async def test_a_restart_on_request_begins_the_backoff_anew(autojump_clock: MockClock) -> None:
    """Whoever restarts a session has seen to it: its next failure is its first."""
    record, backend = Record(), Flaky()
    async with open_supervisor(
        backend.specs("a"), backoff=Backoff(1, 60, jitter=0), on_event=record
    ) as supervisor:
        await _crash(supervisor, "a")
        await trio.sleep(1.5)
        await _crash(supervisor, "a")
        await supervisor.restart_session("a")
        await _crash(supervisor, "a")
        delays = [event.delay for event in record.events if isinstance(event, RestartScheduled)]
        assert [1, 2, 1] == delays


async def test_a_restart_on_request_that_fails_in_a_delay_is_not_tried_again(
    autojump_clock: MockClock,
) -> None:
    """The call says that it failed; the session stays stopped, also when the delay is over."""
    backend = Flaky()
    async with open_supervisor(backend.specs("a"), backoff=Backoff(5, 5, jitter=0)) as supervisor:
        await _crash(supervisor, "a")
        backend.failing = {"a": 1}
        with pytest.raises(OSError, match="a fails to start"):
            await supervisor.restart_session("a")
        assert "stopped" == supervisor.get_session("a").status
        await trio.sleep(10)
        assert "stopped" == supervisor.get_session("a").status


async def test_nobody_waits_for_a_stopped_member_of_a_group(autojump_clock: MockClock) -> None:
    """One that has finished is stopped until the group's restart starts it, delay or not."""
    backend = Flaky()
    specs = [*backend.specs("a"), *backend.specs("b", restart="transient")]
    async with open_supervisor(
        specs, strategy="one_for_all", backoff=Backoff(5, 5, jitter=0)
    ) as supervisor:
        await supervisor.get_session("b").stop()
        await _crash(supervisor, "a")
        assert ["restarting", "stopped"] == [info.status for info in supervisor.list_sessions()]
        with pytest.raises(SessionTerminated):
            await supervisor.get_session("b").query("Hi")
        await trio.sleep(6)
        assert ["running", "running"] == [info.status for info in supervisor.list_sessions()]


async def test_one_that_crashed_as_soon_as_it_was_up_never_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """If the crash comes before the supervisor sees that it is ready, the status is the crash's."""

    async def run(self: Session) -> None:
        self.incarnation.set_ready()
        raise OSError("at once")

    monkeypatch.setattr(Session, "run", run)
    seen: list[str] = []

    def look(event: trio_claude.SupervisorEvent) -> None:
        if isinstance(event, trio_claude.SessionReady):
            seen.append(trio_claude.get_session("a").status)

    async with open_supervisor(on_event=look) as supervisor:
        await supervisor.start_session(spec("a", restart="temporary"))
        await trio.testing.wait_all_tasks_blocked()
    assert ["stopped"] == seen
