"""The other processes, as far as one asks them: how they are lost, found, and asked."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from trio_claude import (
    ClusterError,
    SessionCrashed,
    TrioClaudeError,
    cluster,
    get_session,
    open_supervisor,
    query,
    stream,
    whereis,
)
from trio_claude.cluster import _lines, _ray
from trio_claude.cluster._doors import DoorLost
from trio_claude.cluster._jobs import NotHere
from trio_claude.testing import ScriptedBackend, ScriptedTurn

from .cluster_support import A, connected, other_process, scripted, until_stands
from .fake_ray import FakeRay, fake
from .support import hang, spec

__all__ = ["fake"]


# ---- another process that is lost ----------------------------------------------------------------


async def test_a_process_that_dies_takes_its_sessions_along(fake: FakeRay) -> None:
    """A turn in flight is crashed, and says why; the name is free once that is heard."""
    async with other_process(spec(A, ScriptedBackend(hang))) as other, connected() as connection:
        handle = get_session(A)
        async with handle.stream("Hi") as events:
            await events.receive()
            fake.die("other")
            with pytest.raises(SessionCrashed, match="process other, in which it ran, is gone"):
                async for _ in events:
                    pass
        await until_stands(connection, A, None)
        assert handle.status == "stopped"
        await other.ended.wait()
        assert isinstance(other.error, ClusterError)
        async with open_supervisor([spec(A)]):
            pass


async def test_what_an_asker_has_begun_ends_with_it(fake: FakeRay) -> None:
    """Its turn is left, and the next one is served."""
    ended = trio.Event()

    async def answer(turn: ScriptedTurn) -> Any:
        if turn.prompt == "other":
            try:
                yield "Well"
                await trio.sleep_forever()
            finally:
                ended.set()
        yield "yes"

    async with connected(), open_supervisor([spec(A, ScriptedBackend(answer))]):
        async with other_process() as other:
            begun = trio.Event()
            here = trio.lowlevel.current_trio_token()

            async def ask() -> None:
                async with stream(A, "other") as events:
                    for _ in range(2):
                        await events.receive()
                    here.run_sync_soon(begun.set)
                    async for _ in events:
                        pass

            async with trio.open_nursery() as nursery:

                async def lose() -> None:
                    with pytest.raises(TrioClaudeError):  # it is dead: whatever it hears last
                        await other.do(ask)

                nursery.start_soon(lose)
                await begun.wait()
                fake.die("other")
                await ended.wait()
            assert str(await query(A, "mine")) == "yes"


async def test_a_turn_whose_way_was_cut_is_left(fake: FakeRay) -> None:
    """Though its asker, who is told so when it reads on, asks for nothing more."""
    ended = trio.Event()
    here = trio.lowlevel.current_trio_token()

    async def answer(turn: ScriptedTurn) -> AsyncGenerator[str, None]:
        try:
            yield "Well"
            await trio.sleep_forever()
        finally:
            here.run_sync_soon(ended.set)

    async with other_process(spec(A, ScriptedBackend(answer))), connected() as connection:
        async with stream(A, "Hi") as events:
            for _ in range(2):
                await events.receive()
            fake.blink(connection.names.copy.entries[A].door, "alive", "ask")
            await ended.wait()
            with pytest.raises(SessionCrashed):
                await events.receive()


async def test_a_door_that_is_asked_when_the_connection_has_ended(fake: FakeRay) -> None:
    """Whoever waits for its end is told that it is there, and nobody calls Ray any more."""
    async with connected() as connection:
        pass
    assert not await connection.peers.until_lost("there")


# ---- calls of a process --------------------------------------------------------------------------


async def test_what_a_process_has_not_is_refused(fake: FakeRay) -> None:
    """It has no group, and no plan of anybody's."""
    async with other_process() as other, connected() as connection:
        del other
        (door,) = [door for door in fake.doors() if door != connection.life.door]
        with pytest.raises(NotHere, match="this process has no group"):
            await connection.peers.ask(door, "list_sessions")
        with pytest.raises(KeyError):
            await connection.peers.ask(door, "plan", "nobody's")


async def test_an_actor_that_is_not_there_cannot_be_asked(fake: FakeRay) -> None:
    """Whether it isn't found, or dies meanwhile."""
    async with connected() as connection:
        with pytest.raises(ClusterError, match="an actor can't be reached: Failed to look up"):
            await connection.peers.ask("nobody", "plan", "x")
        await connection.peers.until_lost("nobody")
        with pytest.raises(DoorLost):
            await connection.peers.reach("nobody")


async def test_what_is_asked_is_called_off_with_its_caller(
    fake: FakeRay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other process hears of it."""
    monkeypatch.setattr(_lines, "PARTING_SECONDS", 0.001)
    async with other_process(), connected() as connection:
        (door,) = [door for door in fake.doors() if door != connection.life.door]
        gate = fake.hold("answer", door)
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(connection.peers.ask, door, "plan", "x")
                await gate.reached()
                scope.cancel()
        assert scope.cancelled_caught
        gate.open()


# ---- a door that is looked for -------------------------------------------------------------------


async def test_an_actor_that_returns_is_waited_for(fake: FakeRay) -> None:
    """As often as it takes."""
    async with other_process(), connected() as connection:
        (door,) = [door for door in fake.doors() if door != connection.life.door]
        gate = fake.hold("up", door, answers=True)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connection.peers.reach, door)
            await gate.reached()
            gate.drop()
            fake.blink(door, "up")
        line = await connection.peers.reach(door)
        assert await connection.peers.reach(door) is line


async def test_a_door_is_looked_for_once(fake: FakeRay, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many want it; and those after a loss look again."""
    looked: list[str] = []
    find = _ray.find_actor

    def find_actor(name: str, namespace: str) -> Any:
        looked.append(name)
        return find(name, namespace)

    monkeypatch.setattr(_ray, "find_actor", find_actor)
    async with other_process(spec(A, scripted())), connected() as connection:
        looked.clear()
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(connection.peers.reach, connection.names.copy.entries[A].door)
        assert [name for name in looked if name != connection.life.door] == [
            connection.names.copy.entries[A].door
        ]


async def test_who_is_cancelled_has_what_was_done_by_then(fake: FakeRay) -> None:
    """So that what was cancelled was not done: nobody else knows of that session."""
    async with (
        connected() as connection,
        cluster.open_group([spec("a", scripted())]) as group,
    ):
        (door,) = (door for door in fake.doors() if door != connection.life.door)
        gate = fake.hold("ask", door, answers=True)
        scope = trio.CancelScope()
        async with trio.open_nursery() as nursery:

            async def start() -> None:
                with scope:
                    handle = await group.start_session(spec("b", scripted()))
                assert handle.id == "b"

            nursery.start_soon(start)
            await gate.reached()
            scope.cancel()
            await wait_all_tasks_blocked()
            gate.open()
        assert not scope.cancelled_caught
        assert str(await group.get_session("b").query("Hi")) == "yes"


async def test_who_is_cancelled_waits_for_no_more_than_some_moments(
    fake: FakeRay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the other side says nothing."""
    monkeypatch.setattr(_lines, "PARTING_SECONDS", 0.001)
    async with (
        connected() as connection,
        cluster.open_group([spec("a", scripted())]) as group,
    ):
        (door,) = (door for door in fake.doors() if door != connection.life.door)
        gate = fake.hold("ask", door)
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(group.start_session, spec("b"))
                await gate.reached()
                scope.cancel()
        assert scope.cancelled_caught
        gate.open()
        await group.list_sessions()


async def test_nobody_asks_by_a_connection_that_ended_meanwhile(fake: FakeRay) -> None:
    """Also who waited for a process to come up."""
    async with other_process(spec(A)), trio.open_nursery() as nursery:
        gate = fake.hold("up")
        async with connected() as connection:
            door = connection.names.copy.entries[A].door

            async def reach() -> None:
                with pytest.raises(ClusterError, match="the connection to the cluster has ended"):
                    await connection.peers.reach(door)

            for _ in range(2):
                nursery.start_soon(reach)
            await gate.reached()
            gate.drop()  # Ray never answers
    assert len(connection.peers._finding) == 0
    assert connection.peers._lines == {}


async def test_a_door_that_is_gone_when_it_is_called(fake: FakeRay) -> None:
    """It was found, and has ended meanwhile."""
    async with connected() as connection:
        async with other_process(spec(A)) as other:
            door = connection.names.copy.entries[A].door if whereis(A) else ""
            while not door:
                await until_stands(connection, A, "running")
                door = connection.names.copy.entries[A].door
            gate = fake.hold("up", door)
            async with trio.open_nursery() as nursery:

                async def reach() -> None:
                    with pytest.raises(DoorLost):
                        await connection.peers.reach(door)

                nursery.start_soon(reach)
                await gate.reached()
                fake.kill(door)
                gate.open()
            other.stop()
