"""A run that is connected, on a cluster that is none: what it knows, tells, and loses."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Hashable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any, TypeVar

import attrs
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import trio_claude
from trio_claude import (
    ClusterError,
    ConfigurationError,
    Global,
    LocalRegistry,
    SessionCrashed,
    SessionExists,
    SessionHandle,
    SessionNotFound,
    SessionSpec,
    SessionTerminated,
    TextDelta,
    TrioClaudeError,
    UsageError,
    Via,
    cluster,
    get_session,
    open_supervisor,
    query,
    stream,
    whereis,
)
from trio_claude._supervision.names import connected_cluster
from trio_claude.cluster import _driver, _names, _ray
from trio_claude.cluster._connection import Connection
from trio_claude.cluster._doors import DoorLost
from trio_claude.cluster._driver import open_driver_connection
from trio_claude.cluster._far import FarSession
from trio_claude.cluster._jobs import NotHere
from trio_claude.cluster._names import Names
from trio_claude.cluster._table import News
from trio_claude.cluster._wire import Entry
from trio_claude.testing import ScriptedBackend, ScriptedTurn

from .fake_ray import FakeRay, fake, process
from .support import hang, spec

__all__ = ["fake"]

A, B = Global("a"), Global("b")
_T = TypeVar("_T")


@asynccontextmanager
async def connected(seconds: float = 10) -> AsyncIterator[Connection]:
    """This run, connected; nothing in it takes as long."""
    with trio.fail_after(seconds):
        async with open_driver_connection("local", "tests") as connection:
            yield connection


async def until(connection: Connection, condition: Callable[[], object]) -> None:
    """Wait for news after which it holds."""
    take_in = Names._take_in
    while not condition():
        heard = trio.Event()

        def hear(news: News, heard: trio.Event = heard) -> None:
            take_in(connection.names, news)
            heard.set()

        vars(connection.names)["_take_in"] = hear
        try:
            with trio.fail_after(5):
                await heard.wait()
        finally:
            del vars(connection.names)["_take_in"]


async def until_stands(connection: Connection, name: Hashable, status: str | None) -> None:
    """Wait for the news that it stands so; None: that it is gone."""

    def stands() -> bool:
        entry = connection.names.copy.entries.get(name)
        return entry is None if status is None else entry is not None and entry.status == status

    await until(connection, stands)


class Other:
    """Another process: a Trio run in a thread."""

    def __init__(self) -> None:
        self.name = "other"
        self.token: trio.lowlevel.TrioToken | None = None
        self.error: Exception | None = None
        self.ended = trio.Event()
        self._stop = trio.Event()

    async def do(self, function: Callable[..., Awaitable[_T]], *args: Any) -> _T:
        """Have it done there."""
        call = partial(trio.from_thread.run, function, *args, trio_token=self.token)
        return await trio.to_thread.run_sync(call)

    def stop(self) -> None:
        """Let it leave."""
        if self.token is not None:
            with contextlib.suppress(trio.RunFinishedError):
                self.token.run_sync_soon(self._stop.set)

    def run(self, specs: Sequence[SessionSpec], ready: Callable[[], None]) -> None:
        """What its thread does."""
        process.set(self.name)

        async def main() -> None:
            self.token = trio.lowlevel.current_trio_token()
            async with connected(), open_supervisor(specs, max_restarts=0):
                ready()
                await self._stop.wait()

        try:
            trio.run(main)
        except Exception as exc:
            self.error = exc


@asynccontextmanager
async def other_process(*specs: SessionSpec) -> AsyncIterator[Other]:
    """Another process, with these sessions."""
    other = Other()
    async with AsyncExitStack() as stack:
        nursery = await stack.enter_async_context(trio.open_nursery())
        stack.callback(other.stop)
        ready = trio.Event()
        here = trio.lowlevel.current_trio_token()

        async def run() -> None:
            await trio.to_thread.run_sync(other.run, specs, partial(here.run_sync_soon, ready.set))
            ready.set()
            other.ended.set()

        nursery.start_soon(run)
        with trio.fail_after(5):
            await ready.wait()
        yield other


def scripted(answer: Any = "yes") -> ScriptedBackend:
    """A backend that says this."""
    return ScriptedBackend(lambda turn: answer)


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


async def test_what_is_heard_otherwise_than_by_news_is_known_at_once(fake: FakeRay) -> None:
    """Such as what a group's actor has started."""
    async with connected() as connection:
        session = connection.names.learn(A, Entry("there", 1, "somewhere", A, A, "running", None))
        assert whereis(A) is session.handle
        assert connection.names.learn(A, connection.names.copy.entries[A]) is session


async def test_a_name_that_is_being_freed_is_waited_for(fake: FakeRay) -> None:
    """By who wants it in the same process: what is released late must not be theirs."""
    async with connected(), open_supervisor([spec(A)]) as supervisor, open_supervisor() as another:
        gate = fake.hold("release")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(supervisor.terminate_session, A)
            await gate.reached()
            nursery.start_soon(another.start_session, spec(A))
            for _ in range(20):  # until it waits
                await trio.lowlevel.checkpoint()
            assert whereis(A) is None
            gate.open()
        assert str(await query(A, "Hi"))


async def test_a_door_that_is_asked_when_the_connection_has_ended(fake: FakeRay) -> None:
    """Whoever waits for its end is told that it is there, and nobody calls Ray any more."""
    async with connected() as connection:
        pass
    assert not await connection.peers.until_lost("there")


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


async def test_a_cluster_that_does_not_answer(
    fake: FakeRay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not waited for longer than that, and who waits can be cancelled."""
    go = threading.Event()
    monkeypatch.setattr(_ray, "connect", lambda address, namespace: go.wait())
    monkeypatch.setattr(_driver, "_CONNECTING_SECONDS", 0.01)
    with pytest.raises(ClusterError, match="no Ray cluster answered at address='auto' in"):
        async with cluster.connect():
            raise AssertionError
    go.set()


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
    monkeypatch.setattr(_names, "_LEAVING_SECONDS", 0.01)
    gate = fake.hold("leave")
    async with connected():
        pass
    await gate.reached()
    assert fake.connected == []
    gate.drop()


# ---- names ---------------------------------------------------------------------------------------


async def test_a_session_elsewhere_is_found_and_asked(fake: FakeRay) -> None:
    """By name or handle; how it stands is heard; what it has answered, too."""
    async with other_process(spec(A, scripted(["one ", "two"]))), connected() as connection:
        handle = get_session(A)
        assert whereis(A) is handle
        assert (handle.name, handle.id, handle.status) == (A, A, "running")
        assert isinstance(handle._target, FarSession)
        for answer in (await handle.query("Hi"), await query(A, "Hi")):
            assert str(answer) == "one two"
        assert handle.session_id is not None
        async with stream(A, "Hi") as events:
            words = [event.text async for event in events if isinstance(event, TextDelta)]
        assert words == ["one ", "two"]
        await handle.clear()
        assert handle.session_id is None
        await handle.interrupt()
        with pytest.raises(UsageError, match="has no mcp_status"):
            await handle.mcp_status()
        assert connection.names.names() == [A]
        with pytest.raises(SessionNotFound, match=r"there are Global\(key='a'\)"):
            get_session(B)


async def test_a_name_is_one_in_the_whole_cluster(fake: FakeRay) -> None:
    """Who comes second hears where the first one is; own names stay found at home, and free again."""
    async with other_process(spec(A)), connected() as connection:
        with pytest.raises(SessionExists) as caught:
            async with open_supervisor([spec(A)]):
                raise AssertionError
        assert str(caught.value) == (
            "the name Global(key='a') is taken in the cluster, by a session in process other"
        )
        async with open_supervisor([spec(B, scripted("mine"))]) as supervisor:
            mine = supervisor.get_session(B)
            assert whereis(B) is get_session(B) is mine
            assert str(await query(B, "Hi")) == "mine"
            with pytest.raises(SessionExists):
                await supervisor.start_session(spec(B), id="another")
            assert whereis(B) is mine
        assert whereis(B) is None
        await until_stands(connection, B, None)


async def test_only_global_names_are_the_clusters(fake: FakeRay) -> None:
    """Others, and sessions without one, are nobody else's business."""
    registry = LocalRegistry()
    async with connected() as connection:
        async with open_supervisor([spec("a"), spec(Via(registry, "b")), spec(None)]):
            assert connection.names.entries() == []
            assert registry.keys() == ("b",)
            assert str(await query("a", "Hi"))


async def test_a_name_that_is_not_plain_data_is_refused(fake: FakeRay) -> None:
    """Two processes could take it for different things; nothing is taken by it."""
    odd = Global(object())
    async with connected() as connection:
        with pytest.raises(ConfigurationError, match="can't be known in a cluster: names and ids"):
            async with open_supervisor([spec(odd)]):
                raise AssertionError
        with pytest.raises(ConfigurationError, match="can't be known in a cluster"):
            await query(odd, "Hi")
        assert connection.names._mine == {}


async def test_an_id_that_is_not_plain_data_is_sent_as_text(fake: FakeRay) -> None:
    """A Global name is enough to be found by."""

    class Odd:
        def __repr__(self) -> str:
            return "odd"

    async with connected() as connection:
        async with open_supervisor([spec(A, id=Odd())]):
            ((name, entry),) = connection.names.entries()
            assert (name, entry.id, entry.called) == (A, "odd", A)


async def test_a_question_by_name_asks_the_registry(fake: FakeRay) -> None:
    """Where this process hasn't heard of it yet; `whereis` knows only what was heard."""
    async with connected() as connection:
        gate = fake.hold("changes")
        async with open_supervisor([spec("wakes")]):
            pass
        async with other_process(spec(A, scripted("yes"))):
            connection.names.copy.entries.pop(A, None)
            if whereis(A) is None:
                assert str(await query(A, "Hi")) == "yes"
            assert whereis(A) is not None
            with pytest.raises(SessionNotFound, match="no session is named"):
                await query(B, "Hi")
            gate.open()


async def test_a_session_that_is_gone_is_stopped(fake: FakeRay) -> None:
    """Once that is heard; its handle stays one, and is good again if its process starts it again."""
    async with other_process(spec(A, restart="temporary")) as other, connected() as connection:
        handle = get_session(A)
        await handle.stop()
        await until_stands(connection, A, None)
        assert (handle.status, whereis(A)) == ("stopped", None)
        with pytest.raises(SessionTerminated, match="it was terminated, has finished"):
            await handle.query("Hi")
        with pytest.raises(SessionNotFound):
            await query(A, "Hi")
        assert other.error is None


async def test_a_name_that_changes_hands(fake: FakeRay) -> None:
    """The old handle is stopped for good, and the name leads to the new one."""
    async with connected() as connection:
        gate = fake.hold("changes", answers=True)
        async with other_process(spec(A, scripted("old"))):
            await query(A, "Hi")
            old = get_session(A)
        door = connection.names.copy.entries[A].door
        async with other_process(spec(A, scripted("new"))):
            assert get_session(A) is old  # as far as it has heard
            gate.open()
            await until(connection, lambda: connection.names.copy.entries[A].door != door)
            assert old.status == "stopped"
            assert get_session(A) is not old
            assert str(await query(A, "Hi")) == "new"


async def test_a_name_that_has_changed_hands_unheard(fake: FakeRay) -> None:
    """A question by name finds the one that has it now."""
    async with connected() as connection:
        async with other_process(spec(A, scripted("old"), restart="temporary")) as other:
            handle = get_session(A) if whereis(A) else None
            await query(A, "Hi")
            handle = get_session(A)
            gate = fake.hold("changes", answers=True)
            await handle.stop()
            entry = connection.names.copy.entries.get(A)
            async with open_supervisor():
                pass
            if entry is not None:
                with pytest.raises(SessionNotFound):
                    await query(A, "Hi")
            gate.open()
            assert other.error is None


async def test_who_is_cancelled_while_a_name_is_claimed_gives_it_back(fake: FakeRay) -> None:
    """Once that has been decided; nobody is in its way then."""
    gate = fake.hold("hold")
    async with connected() as connection:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:

                async def start() -> None:
                    async with open_supervisor([spec(A)]):
                        raise AssertionError

                nursery.start_soon(start)
                await gate.reached()
                scope.cancel()
        assert scope.cancelled_caught
        assert connection.names._mine == {}
        gate.open()
        async with other_process(spec(A)):
            assert str(await query(A, "Hi", model=None))


async def test_who_starts_again_after_a_cancelled_start_waits_for_the_name(fake: FakeRay) -> None:
    """Nobody has it, so nobody is refused it."""
    gate = fake.hold("hold")
    async with connected(), open_supervisor() as supervisor:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(supervisor.start_session, spec(A))
                await gate.reached()
                scope.cancel()
        assert scope.cancelled_caught
        async with trio.open_nursery() as nursery:
            nursery.start_soon(supervisor.start_session, spec(A))
            for _ in range(20):  # until it waits
                await trio.lowlevel.checkpoint()
            gate.open()
        assert whereis(A) is supervisor.get_session(A)


async def test_who_is_cancelled_with_no_registry_has_claimed_nothing(fake: FakeRay) -> None:
    """There is none to give anything back to."""
    async with connected() as connection:
        connection.names._registry = None
        with trio.CancelScope() as scope:
            scope.cancel()
            await connection.names.register(SessionHandle(_inbox()))
        assert scope.cancelled_caught


def _inbox() -> Any:
    from trio_claude._options import LIBRARY_DEFAULTS
    from trio_claude._session.inbox import Inbox

    return Inbox(A, A, LIBRARY_DEFAULTS)


async def test_a_session_that_outlives_the_block_has_no_name_in_it(fake: FakeRay) -> None:
    """Nothing is taken once it ends, and nothing is freed twice."""
    async with connected() as connection:
        pass
    handle = SessionHandle(_inbox())
    await connection.names.register(handle)
    await connection.names.unregister(handle)
    assert connection.names._mine == {}
    with pytest.raises(ClusterError, match="the connection to the cluster has ended"):
        await connection.names.settle()


async def test_a_name_that_cannot_be_given_back_ends_the_connection(
    fake: FakeRay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be taken for ever."""

    class Gone:
        def call(self, method: str, *args: object) -> _ray.Reply:
            raise DoorLost(returns=False)

    with pytest.raises(ClusterError, match="the registry of names can't be reached"):
        async with connected() as connection:
            async with open_supervisor([spec(A)]) as supervisor:
                connection.names._registry = Gone()  # type: ignore[assignment]
                monkeypatch.setattr(_ray, "registry", lambda namespace: Gone())
                await supervisor.terminate_session(A)
                await trio.sleep_forever()


async def test_a_session_may_outlive_the_block(fake: FakeRay) -> None:
    """It is this run's alone then, and its changes are told nobody."""
    async with open_supervisor() as supervisor:
        async with connected() as connection:
            handle = await supervisor.start_session(spec(A, scripted()))
            await until_stands(connection, A, "running")
        assert str(await handle.query("Hi")) == "yes"
        assert connection.names._mine == {}


async def test_a_name_that_cannot_be_claimed(
    fake: FakeRay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Is claimed no more; the error is the caller's."""
    async with connected() as connection, open_supervisor() as supervisor:
        ask_registry = connection.names._ask_registry

        async def ask(method: str, *args: Any) -> Any:
            if method == "claim":
                raise ClusterError("no")
            return await ask_registry(method, *args)

        with monkeypatch.context() as patch:
            patch.setattr(connection.names, "_ask_registry", ask)
            with pytest.raises(ClusterError, match="no"):
                await supervisor.start_session(spec(A))
        await supervisor.start_session(spec(A))


async def test_who_is_cancelled_gives_back_only_what_is_its_own(fake: FakeRay) -> None:
    """Not what another has."""
    async with other_process(spec(A, scripted("other"))), connected() as connection:
        gate = fake.hold("claim")
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_start, A)
                await gate.reached()
                scope.cancel()
        assert scope.cancelled_caught
        gate.open()
        with trio.fail_after(5):
            while connection.names._claiming:
                await wait_all_tasks_blocked(0.001)
        assert str(await query(A, "Hi")) == "other"


async def test_only_the_session_that_was_not_there_is_forgotten(fake: FakeRay) -> None:
    """Another that has its name by now is known on."""
    async with other_process(spec(A, scripted())), connected() as connection:
        known = connection.names.copy.entries[A]
        connection.names.forget(
            FarSession(
                connection.peers, A, attrs.evolve(known, door="another"), connection.names.forget
            )
        )
        assert connection.names.copy.entries[A] is known


async def test_a_registry_that_is_lost_again_while_it_is_joined(fake: FakeRay) -> None:
    """Is joined once more; all names are there."""
    async with other_process(spec(A, scripted())), connected() as connection:
        async with open_supervisor([spec(B)]):
            gate = fake.hold("join")
            fake.kill_registry()
            await gate.reached()
            fake.kill_registry()
            gate.open()
            fake.kill_registry()
            version = connection.names.copy.version

            def is_new() -> bool:
                return (
                    connection.names.copy.version != version
                    and {A, B} <= connection.names.copy.entries.keys()
                )

            await until(connection, is_new)
            with pytest.raises(SessionExists):
                await _start(A)


# ---- what is told --------------------------------------------------------------------------------


async def test_how_sessions_stand_is_told(fake: FakeRay) -> None:
    """Each time that one has changed; several changes at once in one call."""
    async with other_process(spec(A, scripted())) as other, connected() as connection:
        handle = get_session(A)
        assert handle.session_id is None

        async def ask() -> str | None:
            await query(A, "Hi")
            return get_session(A).session_id

        session_id = await other.do(ask)
        await until(connection, lambda: handle.session_id == session_id)
        assert connection.names.copy.entries[A].session_id == session_id


async def test_a_change_of_what_is_gone_is_told_nobody(fake: FakeRay) -> None:
    """Of a name that is free again, or never was ours."""
    async with connected() as connection:
        connection.names._changed(A)
        assert not connection.names._to_tell.is_set()
        connection.names._untold.add(A)
        connection.names._to_tell.set()
        await wait_all_tasks_blocked()
        assert connection.names._untold == set()


async def test_a_registry_that_takes_us_for_restarting_is_told_better(fake: FakeRay) -> None:
    """It could not reach us for a moment."""
    async with connected() as connection, open_supervisor([spec(A)]) as supervisor:
        await until_stands(connection, A, "running")
        gate = fake.hold("update")
        fake.blink(connection.life.door, "alive")
        await until_stands(connection, A, "restarting")
        assert supervisor.get_session(A).status == "running"
        gate.open()
        await until_stands(connection, A, "running")


# ---- a registry that is lost ---------------------------------------------------------------------


@pytest.mark.parametrize("returns", [True, False])
async def test_a_new_registry_has_all_names(returns: bool, fake: FakeRay) -> None:
    """Whether Ray has started it again, or we have; those that were taken stay taken, and how the
    sessions stand is told again."""
    async with other_process(spec(A, scripted())) as other, connected() as connection:
        async with open_supervisor([spec(B, scripted())]) as supervisor:
            mine = supervisor.get_session(B)
            handle = get_session(A)
            await mine.query("Hi")
            assert connection.names.copy.version is not None
            life, _ = connection.names.copy.version
            fake.kill_registry(returns=returns)

            def is_new() -> bool:
                version = connection.names.copy.version
                entry = connection.names.copy.entries.get(B)
                return (
                    version is not None
                    and version[0] != life
                    and entry is not None
                    and entry.session_id == mine.session_id
                )

            await until(connection, is_new)
            assert get_session(A) is handle
            assert str(await query(A, "Hi")) == "yes"
            with pytest.raises(SessionExists):
                await supervisor.start_session(spec(A))
            with pytest.raises(SessionExists):
                await other.do(_start, B)
        assert other.error is None


async def _start(name: Hashable) -> None:
    async with open_supervisor([spec(name)]):
        raise AssertionError


async def test_a_name_that_a_new_registry_gave_to_another(
    fake: FakeRay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then two have it: the one that was not heard loses its connection, and with it the name."""
    with pytest.raises(ClusterError) as caught:
        async with connected() as connection, open_supervisor([spec(A)]):
            ask_registry = connection.names._ask_registry

            async def ask(method: str, *args: Any) -> Any:
                if method == "claim":
                    return Entry("d", 1, "process x", A, A, "running", None)
                return await ask_registry(method, *args)

            monkeypatch.setattr(connection.names, "_ask_registry", ask)
            fake.kill_registry(returns=True)
            await trio.sleep_forever()
    assert str(caught.value) == (
        "the name Global(key='a') was given to a session in process x, while the registry of names "
        "could not reach this process"
    )


async def test_a_name_that_is_given_back_while_all_are_claimed_again(
    fake: FakeRay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not claimed any more."""
    async with connected() as connection, open_supervisor([spec(A), spec(B)]) as supervisor:
        claimed: list[Hashable] = []
        done = trio.Event()
        ask_registry = connection.names._ask_registry

        async def ask(method: str, *args: Any) -> Any:
            if method == "claim":
                claimed.append(args[0])
                await supervisor.terminate_session(B if args[0] == A else A)
                done.set()
            return await ask_registry(method, *args)

        monkeypatch.setattr(connection.names, "_ask_registry", ask)
        fake.kill_registry(returns=True)
        await done.wait()
        await wait_all_tasks_blocked()
        assert len(claimed) == 1


async def test_a_registry_that_two_calls_find_gone(fake: FakeRay) -> None:
    """Both ask the one that one of them starts."""
    async with connected() as connection:
        await wait_all_tasks_blocked()  # one waits for news
        gate = fake.hold("find", answers=True)
        found: list[FarSession | None] = []
        async with trio.open_nursery() as nursery:

            async def find() -> None:
                found.append(await connection.names.resolve(A))

            nursery.start_soon(find)
            await gate.reached()
            gate.drop()
            fake.kill_registry()
        assert found == [None]


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


async def test_what_is_asked_is_called_off_with_its_caller(fake: FakeRay) -> None:
    """The other process hears of it."""
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


async def test_an_actor_that_returns_is_waited_for(fake: FakeRay) -> None:
    """As often as it takes."""
    async with other_process(), connected() as connection:
        (door,) = [door for door in fake.doors() if door != connection.life.door]
        gate = fake.hold("opened", door, answers=True)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connection.peers.reach, door)
            await gate.reached()
            gate.drop()
            fake.blink(door, "opened")
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
