"""A run that is connected, on a cluster that is none: the block, its loss, and what is left."""

from __future__ import annotations

import socket
from contextlib import AsyncExitStack
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import trio_claude
from trio_claude import ClusterError, UsageError, cluster, get_session, open_supervisor, stream
from trio_claude._supervision.names import connected_cluster
from trio_claude.cluster import _held, _ray
from trio_claude.cluster._doors import DoorLost
from trio_claude.cluster._names import Names
from trio_claude.testing import ScriptedBackend

from .cluster_support import A, connected, other_process, scripted
from .fake_ray import FakeRay, fake
from .support import hang, spec

__all__ = ["fake"]


# ---- the block -----------------------------------------------------------------------------------


async def test_a_block_leaves_nothing_behind(fake: FakeRay) -> None:
    """It connects, has a door, and starts the registry; which ends itself when the last has left."""
    with trio.fail_after(5):
        async with cluster.connect("local", namespace="tests") as given:
            assert given is None
            names = connected_cluster()
            assert isinstance(names, Names)
            assert fake.doors() == [names.life.door]
            assert fake.connected == [("main", "local")]
            assert fake.do(lambda: len(fake.actors)) == 2
        assert connected_cluster() is None
    assert fake.connected == []
    for _ in range(10):
        fake.do(lambda: None)
    assert (fake.ended, fake.actors) == (["tests"], {})


async def test_a_cluster_that_is_not_there(fake: FakeRay) -> None:
    """Is said by the block."""
    with pytest.raises(ClusterError, match="could not connect"):
        async with cluster.connect("nowhere"):
            raise AssertionError
    assert connected_cluster() is None


async def test_an_address_where_nobody_answers(fake: FakeRay) -> None:
    """Ray isn't even asked: it would try for minutes."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{listener.getsockname()[1]}"
    with pytest.raises(ClusterError, match=f"nobody answers at address='{address}'"):
        async with cluster.connect(address):
            raise AssertionError


async def test_an_address_where_somebody_answers(fake: FakeRay) -> None:
    """Then Ray is asked."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        async with cluster.connect(f"127.0.0.1:{listener.getsockname()[1]}"):
            assert connected_cluster() is not None


async def test_a_door_that_cannot_be_started(fake: FakeRay) -> None:
    """Is said, with Ray's reason; nothing is left."""
    gate = fake.hold("held")
    async with trio.open_nursery() as nursery:

        async def connect() -> None:
            with pytest.raises(
                ClusterError, match="could not start an actor here: The actor died: no"
            ):
                async with connected():
                    raise AssertionError

        nursery.start_soon(connect)
        await gate.reached()
        fake.kill(fake.doors()[0], why="no room")
        gate.open()
    assert fake.connected == []


async def test_who_is_connected_cannot_connect_again(fake: FakeRay) -> None:
    """In the same run; and what it has stays as it is. After the block it can."""
    async with connected() as connection:
        with pytest.raises(UsageError, match="connected to a cluster already"):
            async with connected():
                raise AssertionError
        assert connected_cluster() is connection.names
        assert (fake.connected, fake.doors()) == ([("main", "local")], [connection.life.door])
    async with connected():
        pass


async def test_sessions_with_global_names_belong_into_the_block(fake: FakeRay) -> None:
    """Those that were started before are this run's only."""
    async with open_supervisor([spec(A)]):
        with pytest.raises(UsageError, match="connect to the cluster before"):
            async with connected():
                raise AssertionError


@pytest.mark.parametrize("method", ["held", "join"])
async def test_who_is_cancelled_while_it_connects_leaves_nothing(
    method: str, fake: FakeRay
) -> None:
    """At each step that waits."""
    gate = fake.hold(method)
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:

            async def connect() -> None:
                async with connected():
                    raise AssertionError

            nursery.start_soon(connect)
            await gate.reached()
            scope.cancel()
    assert scope.cancelled_caught
    gate.open()
    assert (fake.connected, fake.doors(), connected_cluster()) == ([], [], None)


async def test_what_the_block_raises_leaves_as_it_is(fake: FakeRay) -> None:
    """The very object; and who is cancelled in it is cancelled."""
    error = ValueError("mine")
    with pytest.raises(ValueError, match="mine") as caught:
        async with connected():
            raise error
    assert caught.value is error
    with trio.CancelScope() as scope:
        async with connected():
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert fake.doors() == []


# ---- a connection that is lost -------------------------------------------------------------------


async def test_the_block_ends_when_its_door_is_lost(fake: FakeRay) -> None:
    """It is cancelled and says why; its sessions are stopped first."""
    backend = scripted()
    with pytest.raises(ClusterError) as caught:
        async with connected() as connection:
            async with open_supervisor([spec(A, backend)]):
                fake.kill(connection.life.door, why="killed on purpose")
                await trio.sleep_forever()
    assert str(caught.value) == (
        "the connection to the cluster is lost: The actor died: killed on purpose"
    )
    assert isinstance(caught.value.__cause__, DoorLost)
    assert backend.connections == 0
    assert connected_cluster() is None


async def test_so_it_does_when_this_process_is_cut_off(fake: FakeRay) -> None:
    """No call reaches anybody any more."""
    with pytest.raises(ClusterError, match="the connection to the cluster is lost"):
        async with connected():
            fake.die("main")
            await trio.sleep_forever()
    assert fake.connected == []


async def test_what_the_body_raises_is_told_beside(fake: FakeRay) -> None:
    """The connection is what failed; the body's own error is its cause."""
    with pytest.raises(ClusterError, match="is lost") as caught:
        async with connected() as connection:
            try:
                fake.kill(connection.life.door)
                await trio.sleep_forever()
            finally:
                raise ValueError("mine")
    assert isinstance(caught.value.__cause__, ValueError)


async def test_only_the_first_cause_counts(fake: FakeRay) -> None:
    """What fails afterwards fails of it; and none where the block has been left."""
    with pytest.raises(ClusterError, match="one"):
        async with connected() as connection:
            connection.life.fail(ClusterError("one"))
            connection.life.fail(ValueError("two"))
            await trio.sleep_forever()
    async with connected() as connection:
        pass
    connection.life.fail(ValueError("late"))
    assert connection.life.failure is None


async def test_a_registry_that_cannot_be_started_is_given_up(
    fake: FakeRay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After some tries; who cannot say good-bye leaves all the same."""
    started: list[str] = []

    class Gone:
        def call(self, method: str, *args: object) -> _ray.Reply:
            raise DoorLost(returns=False) from OSError("no room\nmore")

    def registry(namespace: str) -> Any:
        started.append(namespace)
        return Gone()

    monkeypatch.setattr(_ray, "registry", registry)
    with pytest.raises(ClusterError) as caught:
        async with connected():
            raise AssertionError
    assert str(caught.value) == "the registry of names can't be reached: no room"
    assert set(started) == {"tests"}
    assert fake.connected == []


async def test_who_cannot_leave_in_order_says_so(
    fake: FakeRay, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """In the log, and leaves all the same: its door goes with it, and that frees all."""

    class Gone:
        def call(self, method: str, *args: object) -> _ray.Reply:
            raise DoorLost(returns=False) from OSError("cut off\nmore")

    async with connected() as connection:
        await wait_all_tasks_blocked()
        connection.names._registry = Gone()  # type: ignore[assignment]
        monkeypatch.setattr(_ray, "registry", lambda namespace: Gone())
    assert [record.getMessage() for record in caplog.records] == [
        "could not leave the cluster in order: the registry of names can't be reached: cut off"
    ]


async def test_who_leaves_does_not_wait_for_ever(
    fake: FakeRay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For a registry that doesn't answer."""
    monkeypatch.setattr(_held, "LEAVING_SECONDS", 0.01)
    gate = fake.hold("leave")
    async with connected():
        pass
    await gate.reached()
    assert fake.connected == []
    gate.drop()


# ---- after the block -----------------------------------------------------------------------------


async def test_nothing_is_begun_after_the_block(fake: FakeRay) -> None:
    """What would be done beside isn't."""
    async with connected() as connection:
        pass
    begun: list[str] = []

    async def begin() -> None:
        begun.append("it")

    connection.life.start_soon(begin)
    await wait_all_tasks_blocked()
    assert begun == []


async def test_a_handle_of_a_session_elsewhere_ends_with_the_block(fake: FakeRay) -> None:
    """It is stopped; to ask it says so."""
    async with other_process(spec(A)):
        async with connected():
            handle = get_session(A)
        assert handle.status == "stopped"
        for call in (handle.query("Hi"), handle.interrupt()):
            with pytest.raises(ClusterError, match="has ended: its block was left"):
                await call


async def test_a_stream_that_is_open_when_the_block_ends(fake: FakeRay) -> None:
    """It says that its session is gone, to whoever reads it, and can be left."""
    async with other_process(spec(A, ScriptedBackend(hang))):
        async with AsyncExitStack() as stack:
            async with connected():
                events = await stack.enter_async_context(stream(A, "Hi"))
                await events.receive()
            with trio.fail_after(0.5):
                with pytest.raises(trio_claude.TrioClaudeError):
                    async for _ in events:
                        pass


async def test_a_stream_may_be_left_after_the_block(fake: FakeRay) -> None:
    """Without being read any more."""
    async with other_process(spec(A, ScriptedBackend(hang))):
        async with AsyncExitStack() as stack:
            async with connected():
                await stack.enter_async_context(stream(A, "Hi"))
            with trio.fail_after(5):
                await stack.aclose()
