"""A supervisor in other processes, on a cluster that is none: how it starts, is lost, and ends."""

from __future__ import annotations

import logging
import threading
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Any, ClassVar

import attrs
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import trio_claude
from trio_claude import (
    ClusterError,
    ConfigurationError,
    Global,
    RestartIntensityExceeded,
    SessionCrashed,
    SessionExists,
    SessionNotFound,
    SessionSpec,
    SessionTerminated,
    SupervisorSpec,
    UsageError,
    open_supervisor,
    query,
    whereis,
)
from trio_claude._backends.base import Backend, Connection as BackendConnection
from trio_claude.cluster import Group, _doors, _group, _lines, _opening, open_group
from trio_claude.cluster._connection import Connection
from trio_claude.cluster._doors import DoorLost
from trio_claude.testing import ScriptedBackend, ScriptedTurn

from .cluster_support import connected, other_process, until, until_stands
from .fake_ray import FakeRay, fake
from .support import hang, spec

__all__ = ["fake"]

A, B = Global("a"), Global("b")


def says(text: Any = "yes", **options: Any) -> ScriptedBackend:
    """A backend that says this, in another process too."""
    return ScriptedBackend(lambda turn: text, **options)


def hosts(fake: FakeRay, connection: Connection) -> list[str]:
    """The doors of groups."""
    return [door for door in fake.doors() if door != connection.life.door]


@attrs.frozen
class Opening(Backend):
    """Has a group of its own for as long as its session lives."""

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[BackendConnection]:
        """Open the group."""
        async with open_group([spec("below", says("below"))]) as group:

            async def ask(turn: ScriptedTurn) -> str:
                sessions = await group.list_sessions()
                return f"{len(sessions)} {await group.get_session('below').query(turn.prompt)}"

            async with ScriptedBackend(ask).connect() as connection:
                yield connection


@attrs.frozen
class Endless(Backend):
    """Never connects."""

    begun: ClassVar = threading.Event()

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[BackendConnection]:
        """Try."""
        Endless.begun.set()
        await trio.sleep_forever()
        raise AssertionError
        yield


@asynccontextmanager
async def group_of(
    fake: FakeRay, *specs: SessionSpec | SupervisorSpec, **options: Any
) -> AsyncIterator[tuple[Group, Connection]]:
    """A connected run with a group, of which nothing is left."""
    async with connected() as connection:
        try:
            async with open_group(specs, **options) as group:
                yield group, connection
        finally:
            assert hosts(fake, connection) == []
            assert connection.life.plans == {}


# ---- the block -----------------------------------------------------------------------------------


async def test_a_group_runs_elsewhere(fake: FakeRay) -> None:
    """Its sessions are found by id, and by name from everywhere; they are gone with the block."""
    specs = [spec(A, says("a")), spec("b", says("b")), spec(None, says("c"))]
    async with group_of(fake, *specs, name="n") as (group, _):
        assert repr(group) == "<Group in 1 actor>"
        for key, said in ((A, "a"), ("b", "b"), ("unnamed-3", "c")):
            handle = group.get_session(key)
            assert group.get_session(key) is handle
            assert (str(await handle.query("Hi")), handle.status) == (said, "running")
        assert str(await query(A, "Hi")) == "a"
        assert whereis("b") is None  # that name is its process's
        with pytest.raises(SessionNotFound, match=r"this group has no session 'x'; there are Glob"):
            group.get_session("x")
        assert fake.started == [{"num_cpus": 1.0, "num_gpus": 0.0, "max_restarts": 3}]
        handle = group.get_session(A)
    assert repr(group) == "<Group ended>"
    for call in (group.start_session(specs[0]), group.list_sessions(), group.restart_session(A)):
        with pytest.raises(trio.ClosedResourceError, match="this group has ended"):
            await call
    with pytest.raises(trio.ClosedResourceError):
        group.get_session(A)
    with pytest.raises(ClusterError, match="the connection to the cluster has ended"):
        await handle.query("Hi")


async def test_a_session_is_found_by_its_name_too(fake: FakeRay) -> None:
    """And by its handle; as with a supervisor."""
    async with group_of(fake, spec("n", says(), id="i")) as (group, _):
        handle = group.get_session("i")
        for id_ in ("n", handle):
            assert handle is group.get_session(id_)


async def test_a_handle_whose_group_was_left(fake: FakeRay) -> None:
    """Its session is stopped, at once, and not crashed."""
    async with connected() as connection:
        async with open_group([spec("a", says())]) as group:
            handle = group.get_session("a")
            assert str(await handle.query("Hi")) == "yes"
            line = await connection.peers.reach(hosts(fake, connection)[0])
        with pytest.raises(DoorLost):
            line.ask("renew", 0)
        assert handle.status == "stopped"
        with pytest.raises(SessionTerminated):
            await handle.query("Hi")


async def test_children_are_dealt_out_to_replicas(fake: FakeRay) -> None:
    """Each actor has its share; a new session goes to the one that has the fewest."""
    specs = [spec(name, says(name)) for name in "abc"]
    async with group_of(fake, *specs, replicas=2) as (group, _):
        infos = await group.list_sessions()
        assert [info.id for info in infos] == ["a", "c", "b"]
        assert [info.handle for info in infos] == [group.get_session(i.id) for i in infos]
        assert {(info.status, info.incarnation, info.last_error) for info in infos} == {
            ("running", 1, None)
        }
        for name in "de":
            handle = await group.start_session(spec(name, says(name)))
            assert handle is group.get_session(name)
            assert str(await handle.query("Hi")) == name
        assert [group._count(actor) for actor in group._actors] == [3, 2]
        await group.terminate_session("c")
        with pytest.raises(SessionNotFound):
            group.get_session("c")
        assert [group._count(actor) for actor in group._actors] == [2, 2]
        assert (await group.start_session(SessionSpec(backend=says()))).id is not None
        assert (await group.start_session(spec(None, says()), id=7)).id == 7
        assert [group._count(actor) for actor in group._actors] == [3, 3]


async def test_sessions_are_restarted_on_request(fake: FakeRay) -> None:
    """And with what last failed of, comes along in the list."""
    backend = ScriptedBackend(lambda turn: ValueError("bad") if turn.prompt == "crash" else "yes")
    async with group_of(fake, spec("a", backend)) as (group, _):
        await group.restart_session("a")
        (info,) = await group.list_sessions()
        assert (info.incarnation, info.restarts, info.last_error) == (2, 1, None)
        with pytest.raises(SessionCrashed):
            await group.get_session("a").query("crash")
        assert str(await group.get_session("a").query("Hi")) == "yes"
        (info,) = await group.list_sessions()
        assert isinstance(info.last_error, ValueError)


async def test_what_start_session_refuses(fake: FakeRay) -> None:
    """At the door, or there: nothing is counted by it."""
    async with group_of(fake, spec("a", says())) as (group, connection):
        with pytest.raises(ConfigurationError, match="takes a SessionSpec, not 5"):
            await group.start_session(5)  # type: ignore[arg-type]
        with pytest.raises(ConfigurationError, match="can't be known in a cluster"):
            await group.start_session(spec(object()))
        with pytest.raises(ConfigurationError, match="cannot be sent to another process"):
            await group.start_session(spec("b", says(Unsendable())))
        with pytest.raises(SessionExists):
            await group.start_session(spec("a", says()))
        with pytest.raises(ValueError, match="not today"):
            await group.start_session(spec("b", ScriptedBackend(on_open=not_today)))
        assert [group._count(actor) for actor in group._actors] == [1]
        with pytest.raises(UsageError, match="belongs to another Trio run"):
            await trio.to_thread.run_sync(trio.run, group.list_sessions)
        assert connection.life.failure is None


class Unsendable:
    """What cannot be pickled."""

    def __reduce__(self) -> str:
        raise TypeError("not me")


def not_today(options: object) -> None:
    """A backend that can't be opened."""
    raise ValueError("not today")


async def test_a_group_that_cannot_be_sent(fake: FakeRay) -> None:
    """Is refused, with the spec that can't; nothing is started."""
    async with connected():
        for specs in (
            [spec("a"), spec("b", says(Unsendable()))],
            [spec(None, says(Unsendable()), id="b")],
        ):
            with pytest.raises(ConfigurationError, match="the spec of 'b' cannot be sent"):
                async with open_group(specs):
                    raise AssertionError
        with pytest.raises(ConfigurationError, match="the group cannot be sent to another process"):
            async with open_group(backoff=Odd()):
                raise AssertionError
        assert fake.started == []


class Odd(trio_claude.Backoff):
    """A backoff that cannot be pickled."""

    def __init__(self) -> None:
        super().__init__(1, 1)

    def __reduce__(self) -> str:
        raise TypeError("not me")


async def test_options_that_ray_does_not_take(fake: FakeRay) -> None:
    """Are said so, and whatever else keeps it from starting one; no plan is left."""
    async with connected() as connection:
        fake.refuses = ValueError("no such strategy")
        with pytest.raises(ConfigurationError, match="with these options: no such strategy"):
            async with open_group([spec("a")], scheduling_strategy="ODD"):
                raise AssertionError
        fake.refuses = error = ClusterError("no cluster")
        with pytest.raises(ClusterError) as caught:
            async with open_group([spec("a")]):
                raise AssertionError
        assert caught.value is error
        plans = connection.life.plans
    assert plans == {}


async def test_what_the_block_raises_leaves_as_it_is(fake: FakeRay) -> None:
    """The very object, after the actors have ended."""
    error = ValueError("mine")
    with pytest.raises(ValueError, match="mine") as caught:
        async with group_of(fake, spec("a", says())):
            raise error
    assert caught.value is error


# ---- how it starts -------------------------------------------------------------------------------


async def test_a_first_start_that_fails(fake: FakeRay) -> None:
    """Is raised as it was; the other actors end, too."""
    specs = [spec("a", says()), spec("b", ScriptedBackend(on_open=not_today))]
    with pytest.raises(ValueError, match="not today"):
        async with group_of(fake, *specs, replicas=2):
            raise AssertionError


async def test_a_name_that_is_taken(fake: FakeRay) -> None:
    """Is said by entering."""
    async with other_process(spec(A)):
        with pytest.raises(SessionExists, match="is taken in the cluster, by a session in process"):
            async with connected(), open_group([spec(A, says())]):
                raise AssertionError


async def test_a_group_that_is_not_placed_says_so(
    fake: FakeRay, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """In the log, and waits on; it goes on once there is room."""
    monkeypatch.setattr(_group, "_PATIENCE_SECONDS", 0)
    fake.places = False
    async with connected() as connection, trio.open_nursery() as nursery:
        opened = trio.Event()

        async def run() -> None:
            async with open_group([spec("a", says())]) as group:
                assert str(await group.get_session("a").query("Hi")) == "yes"
                opened.set()

        nursery.start_soon(run)
        with trio.fail_after(5):
            while not hosts(fake, connection) or "a group waits for Ray" not in caplog.text:
                await wait_all_tasks_blocked(0.001)
        fake.start_again(hosts(fake, connection)[0])
        await opened.wait()


async def test_who_is_cancelled_before_there_is_room_leaves_at_once(fake: FakeRay) -> None:
    """An actor that is nowhere answers nothing."""
    fake.places = False
    with trio.CancelScope() as scope:
        async with connected() as connection, trio.open_nursery() as nursery:

            async def run() -> None:
                async with open_group([spec("a", says())]):
                    raise AssertionError

            nursery.start_soon(run)
            with trio.fail_after(5):
                while not hosts(fake, connection):
                    await wait_all_tasks_blocked(0.001)
            scope.cancel()
    assert scope.cancelled_caught
    assert fake.doors() == []


async def test_who_is_cancelled_while_its_sessions_start_leaves_at_once(fake: FakeRay) -> None:
    """Though one of them never is ready."""

    async def slow(options: object) -> None:
        await trio.sleep_forever()

    with trio.CancelScope() as scope:
        async with connected(), trio.open_nursery() as nursery:

            async def run() -> None:
                async with open_group([spec("a", ScriptedBackend(on_open=slow))]):
                    raise AssertionError

            gate = fake.hold("settle")
            nursery.start_soon(run)
            with trio.fail_after(5):
                while not fake.hosts:
                    await wait_all_tasks_blocked(0.001)
            await wait_all_tasks_blocked(0.01)
            scope.cancel()
            gate.drop()
    assert scope.cancelled_caught
    assert fake.doors() == []


async def test_an_actor_that_dies_before_it_is_ready(
    fake: FakeRay, caplog: pytest.LogCaptureFixture
) -> None:
    """Is waited for again, where Ray starts it again: it asks for its plan once more."""
    caplog.set_level(logging.WARNING)
    gate = fake.hold("settle")
    async with connected() as connection, trio.open_nursery() as nursery:
        opened = trio.Event()

        async def run() -> None:
            async with open_group([spec("a", says())]) as group:
                assert str(await group.get_session("a").query("Hi")) == "yes"
                opened.set()

        nursery.start_soon(run)
        await gate.reached()
        (door,) = hosts(fake, connection)
        gate.drop()
        fake.kill(door, returns=True)
        await opened.wait()
        assert len(fake.hosts[door]) == 2
    assert "an actor of a group has died; Ray starts it again" in caplog.text


async def test_an_actor_that_is_gone_before_it_is_ready(fake: FakeRay) -> None:
    """Is said by entering."""
    gate = fake.hold("settle")
    async with connected() as connection, trio.open_nursery() as nursery:

        async def run() -> None:
            with pytest.raises(ClusterError, match="gone for good: The actor died: no room"):
                async with open_group([spec("a", says())]):
                    raise AssertionError

        nursery.start_soon(run)
        await gate.reached()
        gate.drop()
        fake.kill(hosts(fake, connection)[0], why="no room")


# ---- how it ends ---------------------------------------------------------------------------------


async def test_a_supervisor_that_gives_up_ends_the_block(fake: FakeRay) -> None:
    """With its own error; the body's, if it has one, is the cause."""
    backend = ScriptedBackend(lambda turn: ValueError("bad"))
    with pytest.raises(RestartIntensityExceeded) as caught:
        async with group_of(fake, spec("a", backend), max_restarts=0) as (group, _):
            with pytest.raises(SessionCrashed):
                await group.get_session("a").query("Hi")
            await trio.sleep_forever()
    assert caught.value.max_restarts == 0
    with pytest.raises(RestartIntensityExceeded) as caught:
        async with group_of(fake, spec("a", backend), max_restarts=0) as (group, _):
            with pytest.raises(SessionCrashed):
                await group.get_session("a").query("Hi")
            try:
                await trio.sleep_forever()
            finally:
                raise KeyError("mine")
    assert isinstance(caught.value.__cause__, KeyError)


async def test_a_supervisor_that_is_done_ends_the_block(fake: FakeRay) -> None:
    """Without an error."""
    child = spec("a", says(), restart="transient", significant=True)
    async with group_of(fake, child, auto_shutdown="any_significant") as (group, _):
        await group.get_session("a").stop()
        await trio.sleep_forever()


async def test_an_actor_that_ray_starts_again(
    fake: FakeRay, caplog: pytest.LogCaptureFixture
) -> None:
    """It begins as at first, under the same names; a turn in it is lost, and those in line are asked
    again. What was started later is gone."""
    backend = ScriptedBackend(lambda turn: ["Well", 1000.0] if turn.prompt == "long" else "yes")
    async with group_of(fake, spec(A, backend), spec("b", says())) as (group, connection):
        handle = group.get_session(A)
        extra = await group.start_session(spec("extra", says()))
        async with trio.open_nursery() as nursery:
            async with handle.stream("long") as events:
                await events.receive()

                async def waits() -> None:
                    assert str(await handle.query("short")) == "yes"

                nursery.start_soon(waits)
                await wait_all_tasks_blocked(0.01)
                (door,) = hosts(fake, connection)
                fake.kill(door, returns=True, why="out of memory")
                with pytest.raises(SessionCrashed, match="is gone"):
                    async for _ in events:
                        pass
        assert group.get_session(A) is handle
        assert str(await handle.query("Hi")) == str(await query(A, "Hi")) == "yes"
        assert str(await group.get_session("b").query("Hi")) == "yes"
        assert "Ray starts it again" in caplog.text
        with pytest.raises((SessionTerminated, SessionNotFound)):
            await extra.query("Hi")


async def test_a_session_that_was_started_later_is_not_there_after_a_restart(fake: FakeRay) -> None:
    """The group knows it no more, or at least that it is stopped."""
    async with group_of(fake, spec(A, says())) as (group, connection):
        await group.start_session(spec(B, says()))
        (door,) = hosts(fake, connection)
        fake.kill(door, returns=True)
        await until_stands(connection, B, None)
        for _ in range(2):
            try:
                status = group.get_session(B).status
            except SessionNotFound:
                status = "stopped"
            assert status == "stopped"
        assert whereis(B) is None


async def test_a_session_that_has_finished_is_stopped(fake: FakeRay) -> None:
    """Each time that it is looked for, and in the list of sessions."""
    child = spec("a", says(), restart="transient")
    async with group_of(fake, child, spec("b", says())) as (group, connection):
        name = next(name for name, entry in group._known.items() if entry.id == "a")
        await group.get_session("a").stop()
        await until_stands(connection, name, None)
        assert group.get_session("a").status == "stopped"
        infos = await group.list_sessions()
        assert [(info.id, info.status) for info in infos] == [("a", "stopped"), ("b", "running")]


async def test_an_actor_that_is_gone_for_good(fake: FakeRay) -> None:
    """The block is cancelled, and says so."""
    with pytest.raises(
        ClusterError, match="an actor of a group is gone for good: The actor died: x"
    ):
        async with group_of(fake, spec("a", says())) as (_, connection):
            fake.kill(hosts(fake, connection)[0], why="x")
            await trio.sleep_forever()


async def test_an_actor_that_is_started_again_is_waited_for(fake: FakeRay) -> None:
    """By whoever asks; one that is cancelled meanwhile has asked for nothing."""
    async with group_of(fake, spec("a", says())) as (group, connection):
        (door,) = hosts(fake, connection)
        await connection.peers.reach(door)  # so that it is noticed before that is heard
        fake.kill(door, returns=True, stays_down=True)
        await until_stands(connection, next(iter(group._known)), "restarting")
        with trio.move_on_after(0.05) as patience:
            await group.start_session(spec("b", says()))
        assert patience.cancelled_caught
        assert [group._count(actor) for actor in group._actors] == [1]
        async with trio.open_nursery() as nursery:

            async def list_them() -> None:
                assert [info.id for info in await group.list_sessions()] == ["a"]

            nursery.start_soon(list_them)
            for _ in range(20):  # until it waits; others try to reach the actor all the time
                await trio.lowlevel.checkpoint()
            fake.start_again(door)
        await until_stands(connection, next(iter(group._known)), "running")


async def test_a_frozen_actor_is_killed(
    fake: FakeRay, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """When its sessions have had their grace, and it some seconds more."""
    monkeypatch.setattr(_opening, "_ENDING_SECONDS", 0.01)
    async with group_of(fake, spec("a", says(), shutdown=0.01)) as (group, connection):
        (door,) = hosts(fake, connection)
        gate = fake.hold("close", door)
        assert [0.02] == [actor.grace for actor in group._actors]
    gate.drop()
    assert "an actor of a group has not ended in 0.02 seconds, and is killed" in caplog.text


def test_a_supervisor_below_has_no_more_grace_than_its_own() -> None:
    """Else that of its children, one after the other."""
    children = [spec("a", shutdown=2.0), spec("b", shutdown=3.0)]
    assert 5.0 == _opening._grace(SupervisorSpec(specs=children))
    assert 1.0 == _opening._grace(SupervisorSpec(specs=children, shutdown=1.0))


async def test_ids_are_those_of_the_whole_group(fake: FakeRay) -> None:
    """Whichever actor has the session; one that has stopped doesn't count."""
    async with group_of(fake, spec("a", says()), replicas=2) as (group, _):
        with pytest.raises(SessionExists, match="this group has a session with the id 'a'"):
            await group.start_session(spec("a", says()))
        with pytest.raises(ConfigurationError, match="must be hashable"):
            group.get_session([])  # type: ignore[arg-type]


async def test_an_actor_that_dies_while_it_is_asked(fake: FakeRay) -> None:
    """Nobody knows what it has done: so it is said, and nothing is counted."""
    async with group_of(fake, spec("a", says())) as (group, connection):
        (door,) = hosts(fake, connection)
        gate = fake.hold("ask", door)
        async with trio.open_nursery() as nursery:

            async def lose(call: Awaitable[object]) -> None:
                with pytest.raises(ClusterError, match="an actor can't be reached: The actor"):
                    await call

            nursery.start_soon(lose, group.list_sessions())
            nursery.start_soon(lose, group.start_session(spec("b", says())))
            await gate.reached()
            await wait_all_tasks_blocked(0.001)
            gate.drop()
            fake.kill(door, returns=True)
        assert [group._count(actor) for actor in group._actors] == [1]
        await until_stands(connection, next(iter(group._known)), "running")


async def test_a_session_that_two_terminate_is_counted_once(fake: FakeRay) -> None:
    """For where the next one is started."""
    async with group_of(fake, spec("a", ScriptedBackend(hang)), spec("b", says())) as it:
        group, connection = it
        (door,) = hosts(fake, connection)
        async with trio.open_nursery() as nursery:
            async with group.get_session("a").stream("Hi") as events:
                await events.receive()
                for _ in range(2):
                    nursery.start_soon(group.terminate_session, "a")
                jobs = fake.instance(door)._connection.service._askers[connection.life.door].jobs
                with trio.fail_after(5):  # both wait for the turn
                    while [job._begun for job in list(jobs.values())] != [True] * 3:
                        await wait_all_tasks_blocked(0.001)
        assert [group._count(actor) for actor in group._actors] == [1]


SERVED: list[str] = []


def _record(turn: ScriptedTurn) -> Any:
    SERVED.append(turn.prompt)
    return hang(turn) if turn.prompt == "first" else "yes"


async def test_who_waits_in_line_keeps_its_place_when_the_actor_dies(fake: FakeRay) -> None:
    """And those who come while it is started again come behind."""
    SERVED.clear()
    async with group_of(fake, spec("a", ScriptedBackend(_record))) as (group, connection):
        handle = group.get_session("a")
        (door,) = hosts(fake, connection)
        async with trio.open_nursery() as nursery:

            async def crash() -> None:
                with pytest.raises(SessionCrashed):
                    await handle.query("first")

            async def ask(numbers: range) -> None:
                for number in numbers:
                    nursery.start_soon(handle.query, f"{number}")
                    await wait_all_tasks_blocked()

            nursery.start_soon(crash)
            await wait_all_tasks_blocked()
            await ask(range(7))
            questions = handle._target.questions  # type: ignore[attr-defined]
            while [one._state for one in questions].count("waiting") < 7:
                await wait_all_tasks_blocked(0.001)  # until they were told that they wait
            gate = fake.hold("up", door)
            fake.kill(door, returns=True)
            await gate.reached()
            await ask(range(7, 12))
            gate.open()
        assert SERVED == ["first", *map(str, range(12))]


async def test_a_session_that_opens_a_group_while_it_starts(fake: FakeRay) -> None:
    """In an actor: the other actor asks this one what it is to do, which is not open yet."""
    async with group_of(fake, SessionSpec(id="a", backend=Opening())) as (group, _):
        assert str(await group.get_session("a").query("Hi")) == "1 below"


async def test_an_actor_that_stays_down_is_not_asked_all_the_time(
    fake: FakeRay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two tries there is a pause."""
    called: list[str] = []
    call = fake.call

    def count(actor: Any, method: str, args: Any, caller: str) -> Any:
        if method == "ask" and caller == "main":
            called.append(method)
        return call(actor, method, args, caller)

    async with group_of(fake, spec("a", says())) as (group, connection):
        handle = group.get_session("a")
        await handle.query("Hi")
        (door,) = hosts(fake, connection)
        gate = fake.hold("ask", door)
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:

                async def lose() -> None:
                    with pytest.raises(SessionCrashed):
                        await handle.query("Hi")

                nursery.start_soon(lose)
                await gate.reached()
                gate.drop()
                fake.kill(door, returns=True, stays_down=True)
                monkeypatch.setattr(fake, "call", count)
                monkeypatch.setattr(_doors, "AGAIN_SECONDS", 0.05)
                with trio.move_on_after(0.1):
                    await trio.sleep_forever()
                scope.cancel()
        fake.start_again(door)
        await until_stands(connection, next(iter(group._known)), "running")
    assert len(called) < 5


async def test_the_end_of_a_group_is_not_its_failure(fake: FakeRay) -> None:
    """Though the answer that says how it ended is lost with its process."""
    gate = fake.hold("ended", answers=True)
    async with group_of(fake, spec("a", says()), replicas=2):
        await wait_all_tasks_blocked(0.001)
    gate.drop()


async def test_who_is_cancelled_in_the_block_stops_its_sessions(fake: FakeRay) -> None:
    """And waits until they are."""
    with trio.CancelScope() as scope:
        async with group_of(fake, spec("a", says())):
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught


async def test_what_is_not_listed_is_not_there(fake: FakeRay) -> None:
    """Though its end was not heard of yet; what was started meanwhile is."""
    async with group_of(fake, spec("a", says())) as (group, connection):
        gate = fake.hold("changes", answers=True)
        other = await group.start_session(spec("b", says()))
        (door,) = hosts(fake, connection)
        await connection.peers.ask(door, "terminate_session", "b")
        assert group.get_session("b") is other
        with pytest.raises(SessionExists):
            await group.start_session(spec("b", says()))
        assert [info.id for info in await group.list_sessions()] == ["a"]
        await group.start_session(spec("b", says()))
        gate.open()
        await group.terminate_session("b")


async def test_who_is_cancelled_while_a_session_starts_has_started_none(fake: FakeRay) -> None:
    """The actor was heard: it has called it off."""
    async with group_of(fake, spec("a", says())) as (group, _):
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(group.start_session, SessionSpec(id="b", backend=Endless()))
                while not Endless.begun.is_set():
                    await wait_all_tasks_blocked(0.001)
                scope.cancel()
        assert scope.cancelled_caught
        while [info.id for info in await group.list_sessions()] != ["a"]:
            await wait_all_tasks_blocked(0.001)  # until the supervisor there has stopped it


@pytest.mark.parametrize("method", ["start", "terminate", "restart", "list"])
async def test_calls_of_a_group_may_be_cancelled(
    method: str, fake: FakeRay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The group goes on; what was asked for is called off."""
    monkeypatch.setattr(_lines, "PARTING_SECONDS", 0.001)
    async with group_of(fake, spec("a", says())) as (group, connection):
        (door,) = hosts(fake, connection)
        calls = {
            "start": lambda: group.start_session(spec("b", says())),
            "terminate": lambda: group.terminate_session("a"),
            "restart": lambda: group.restart_session("a"),
            "list": group.list_sessions,
        }
        gate = fake.hold("ask", door)
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(calls[method])
                await gate.reached()
                scope.cancel()
        assert scope.cancelled_caught
        gate.open()
        if method != "terminate":
            assert str(await group.get_session("a").query("Hi")) == "yes"
        assert group._count(group._actors[0]) == 1


async def test_a_supervisor_below_has_sessions_without_names(fake: FakeRay) -> None:
    """As anywhere else."""
    below = SupervisorSpec(specs=[SessionSpec(backend=says())])
    async with group_of(fake, below, spec(A, says())) as (group, _):
        assert str(await group.get_session(A).query("Hi")) == "yes"


async def test_supervisors_below_may_use_the_same_ids(fake: FakeRay) -> None:
    """An id belongs to its supervisor."""
    below = [SupervisorSpec(specs=[SessionSpec(backend=says(), id=1)]) for _ in range(2)]
    async with group_of(fake, *below, spec(A, says())) as (group, _):
        assert str(await group.get_session(A).query("Hi")) == "yes"


async def test_a_name_may_move_from_one_actor_to_another(fake: FakeRay) -> None:
    """The handle is the new one's, though the news of that is still under way."""
    async with group_of(fake, spec(A, says("old")), spec("x", says()), replicas=2) as (group, _):
        gate = fake.hold("changes", answers=True)
        await group.terminate_session(A)
        handle = await group.start_session(spec(A, says("new")))
        assert str(await handle.query("Hi")) == "new"
        assert str(await query(A, "Hi")) == "new"
        gate.open()


async def test_a_session_of_the_same_name_is_another(fake: FakeRay) -> None:
    """How it stands is heard, whatever was heard of the one before."""
    async with group_of(fake, spec(A, says("old"))) as (group, connection):
        old = group.get_session(A)
        for _ in range(3):
            await old.query("Hi")
            await old.clear()
        gate = fake.hold("changes", answers=True)
        await group.terminate_session(A)
        new = await group.start_session(spec(A, says("new")))
        assert str(await new.query("Hi")) == "new"
        gate.open()
        await until(connection, lambda: new.session_id is not None)
        assert new.status == "running"


async def test_a_group_may_be_asked_by_another_process(fake: FakeRay) -> None:
    """And its sessions may ask others."""

    async def answer(turn: ScriptedTurn) -> str:
        return f"{await query(B, turn.prompt)} at second hand"

    async with group_of(fake, spec(A, ScriptedBackend(answer))):
        async with open_supervisor([spec(B, says("mine"))]):
            async with other_process() as other:

                async def ask() -> str:
                    return str(await query(A, "Hi"))

                with trio.fail_after(5):
                    assert await other.do(ask) == "mine at second hand"
