"""Groups on the cluster: where they are placed, how they start and end, and what they are told."""

from __future__ import annotations

import threading
from pathlib import Path

import attrs
import pytest
import trio
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

import trio_claude
from trio_claude import (
    AuthenticationError,
    ConfigurationError,
    Global,
    RestartIntensityExceeded,
    SessionExists,
    SessionHandle,
    SessionNotFound,
    SessionSpec,
    UsageError,
    cluster,
    open_supervisor,
)
from trio_claude.cluster import Pool
from trio_claude.simulator import open_simulator
from trio_claude.testing import ScriptedBackend, ScriptedTurn

from .client import connect, query, start
from .support import (
    CRASH_SECONDS,
    KEY_OF_THE_CLUSTER,
    Nodes,
    Process,
    another_life,
    connected,
    far,
    read_to_text,
    until,
)

pytestmark = pytest.mark.usefixtures("no_proxies")

KEY = "sk-far-4f1c7a90be"  # nobody else has it, so wherever it is found it has leaked


def on_which_node(turn: ScriptedTurn) -> str:
    """The node that answers."""
    import ray

    return str(ray.get_runtime_context().get_node_id())


def fail(turn: ScriptedTurn) -> str:
    """Crash the session."""
    raise RuntimeError("it fails there")


def dont_open(options: trio_claude.SessionOptions) -> None:
    """Crash a session's start."""
    raise LookupError("it can't be opened there")


def located(key: str) -> SessionSpec:
    """A session that says on which node it is."""
    return far(key, backend=ScriptedBackend(on_which_node))


async def where_is(handle: SessionHandle) -> str:
    """On which node it is."""
    return str(await handle.query("Where are you?"))


# ---- placement --------------------------------------------------------------------------------------


async def test_placed_by_resources(nodes: Nodes, namespace: str) -> None:
    """Each group is on the node that has what it asks for."""
    north, south = nodes.named("north"), nodes.named("south")
    async with connected(nodes, namespace):
        async with (
            cluster.open_group([located("a")], resources={"south": 1}) as one,
            cluster.open_group([located("b")], resources={"north": 1}) as two,
        ):
            assert south == await where_is(one.get_session(Global("a")))
            assert north == await where_is(two.get_session(Global("b")))
            assert {north, south} == {actor.node for actor in nodes.of("Host", namespace)}


async def test_placed_by_a_strategy(nodes: Nodes, namespace: str) -> None:
    """Ray's own strategies are handed on."""
    south = nodes.named("south")
    async with connected(nodes, namespace):
        strategy = NodeAffinitySchedulingStrategy(south, soft=False)
        async with cluster.open_group([located("a")], scheduling_strategy=strategy) as group:
            assert south == await where_is(group.get_session(Global("a")))


async def test_replicas(nodes: Nodes, namespace: str) -> None:
    """The children are dealt out to the actors, in turn; each actor has a process of its own. More
    go where the fewest are."""
    async with connected(nodes, namespace):
        async with cluster.open_group(
            [located(f"s{number}") for number in range(5)],
            replicas=2,
            num_cpus=0,
            resources={"south": 1},
        ) as group:
            infos = await group.list_sessions()
            names = [info.name for info in infos]
            assert [Global(f"s{number}") for number in (0, 2, 4, 1, 3)] == names
            assert 2 == len({actor.pid for actor in nodes.of("Host", namespace)})
            await group.start_session(located("more"))
            names = [info.name for info in await group.list_sessions()]
            assert Global("more") == names[-1]
            assert {nodes.named("south")} == {await where_is(info.handle) for info in infos}


async def test_options_that_ray_refuses(nodes: Nodes, namespace: str) -> None:
    """Are refused by name of what Ray says, and nothing is left of it."""
    async with connected(nodes, namespace):
        with pytest.raises(ConfigurationError, match="Ray takes no actor with these options"):
            async with cluster.open_group([located("a")], scheduling_strategy="NOWHERE"):
                raise AssertionError("it has been opened")
        assert [] == nodes.of("Host", namespace)


async def test_no_node_has_it(
    nodes: Nodes, namespace: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then a group waits, says so in the log, and is called off by a cancel; no actor stays."""
    monkeypatch.setattr("trio_claude.cluster._group._PATIENCE_SECONDS", 0.1)
    async with connected(nodes, namespace):
        with trio.move_on_after(1) as scope:
            async with cluster.open_group([located("a")], resources={"nowhere": 1}):
                raise AssertionError("it has been opened")
        assert scope.cancelled_caught
    assert "has any node the resources" in caplog.text


# ---- beginning and end ------------------------------------------------------------------------------


async def test_outside_of_a_connection() -> None:
    """A group needs a cluster."""
    with pytest.raises(UsageError, match="a group needs a cluster"):
        async with cluster.open_group([far("a")]):
            raise AssertionError("it has been opened")


async def test_a_first_start_that_fails(nodes: Nodes, namespace: str) -> None:
    """Its error leaves the block as it was; what had started is stopped, and no name is taken."""
    backend = ScriptedBackend(on_open=dont_open)
    async with connected(nodes, namespace):
        with pytest.raises(LookupError, match=r"^it can't be opened there") as caught:
            async with cluster.open_group([located("a"), far("b", backend=backend)]):
                raise AssertionError("it has been opened")
        assert LookupError is type(caught.value)
        with trio.fail_after(CRASH_SECONDS):
            await nodes.gone(namespace, "Host")
        async with cluster.open_group([located("a"), located("b")]):
            pass


async def test_it_gives_up(nodes: Nodes, namespace: str) -> None:
    """RestartIntensityExceeded leaves the opener's block, with the crash for its cause; the names
    are free."""
    async with connected(nodes, namespace), open_supervisor() as supervisor:
        with pytest.raises(RestartIntensityExceeded) as caught:
            async with cluster.open_group(
                [far("a", backend=ScriptedBackend(fail)), located("b")],
                max_restarts=0,
                max_seconds=7,
            ) as group:
                with pytest.raises(trio_claude.SessionCrashed) as crashed:
                    await group.get_session(Global("a")).query("Hello")
                await trio.sleep_forever()
        assert "it fails there" in repr(crashed.value.__cause__)
        assert (0, 7) == (caught.value.max_restarts, caught.value.max_seconds)
        assert isinstance(caught.value.__cause__, ExceptionGroup)
        assert "it fails there" in repr(caught.value.__cause__.exceptions)
        for key in ("a", "b"):
            await supervisor.start_session(located(key))


async def test_auto_shutdown(nodes: Nodes, namespace: str) -> None:
    """When its significant session has ended, the block ends, without an error."""
    async with connected(nodes, namespace):
        spec = attrs.evolve(located("a"), restart="temporary", significant=True)
        with trio.CancelScope():
            async with cluster.open_group(
                [spec, located("b")], auto_shutdown="any_significant"
            ) as g:
                handle = g.get_session(Global("b"))
                await g.get_session(Global("a")).stop()
                await trio.sleep_forever()
        assert "stopped" == handle.status
        with pytest.raises(trio.ClosedResourceError):
            await g.list_sessions()


async def test_its_body_raises(nodes: Nodes, namespace: str) -> None:
    """The very exception leaves; the actor ends."""
    mine = KeyError("mine")
    async with connected(nodes, namespace):
        with pytest.raises(KeyError) as caught:
            async with cluster.open_group([located("a")]):
                raise mine
        assert mine is caught.value
        with trio.fail_after(CRASH_SECONDS):
            await nodes.gone(namespace, "Host")


# ---- its methods ------------------------------------------------------------------------------------


async def test_sessions_come_and_go(nodes: Nodes, namespace: str, process: Process) -> None:
    """start_session, restart_session, terminate_session and list_sessions do there what they do
    here; others find what was started."""
    await process.do(connect, nodes.address, namespace)
    async with connected(nodes, namespace):
        async with cluster.open_group(
            [far("a", backend=ScriptedBackend())], max_sessions=3
        ) as group:
            b = await group.start_session(far("b", backend=ScriptedBackend()))
            plain = await group.start_session(SessionSpec(backend=ScriptedBackend()), id=("c", 1))
            assert plain is group.get_session(("c", 1))
            assert "simulator" in str(await plain.query("Hello"))
            assert "noted" in await process.do(query, "b", "My favorite language is Python")
            with pytest.raises(trio_claude.TooManySessions):
                await group.start_session(SessionSpec(name="d", backend=ScriptedBackend()))
            assert [
                (Global("a"), "running", 1, 0),
                (Global("b"), "running", 1, 0),
                (("c", 1), "running", 1, 0),
            ] == [
                (info.id, info.status, info.incarnation, info.restarts)
                for info in await group.list_sessions()
            ]
            await group.restart_session(Global("b"))
            assert "I don't know" in str(await b.query("What's my favorite language?"))
            info = (await group.list_sessions())[1]
            assert (2, b) == (info.incarnation, info.handle)

            await group.terminate_session(Global("b"))
            await process.do(start, far("b", backend=ScriptedBackend()))
            with pytest.raises(SessionNotFound, match=r"no session Global\(key='b'\)"):
                group.get_session(Global("b"))
            with pytest.raises(SessionExists, match=f"process {process.pid}"):
                await group.start_session(far("b", backend=ScriptedBackend()))
            with pytest.raises(LookupError, match="it can't be opened there"):
                await group.start_session(far("e", backend=ScriptedBackend(on_open=dont_open)))
            assert 2 == len(await group.list_sessions())
            await process.do(start, far("e", backend=ScriptedBackend()))
    await process.close()


async def test_what_cannot_be_sent(nodes: Nodes, namespace: str) -> None:
    """Is refused by the name of its session, before anything is started."""
    backend = ScriptedBackend([threading.Lock()])  # type: ignore[list-item]
    async with connected(nodes, namespace):
        with pytest.raises(
            ConfigurationError, match=r"the spec of Global\(key='b'\) cannot be sent"
        ):
            async with cluster.open_group([located("a"), far("b", backend=backend)]):
                raise AssertionError("it has been opened")
        assert [] == nodes.of("Host", namespace)
        async with cluster.open_group([located("a")]) as group:
            with pytest.raises(ConfigurationError, match=r"key='b'.* cannot be sent"):
                await group.start_session(far("b", backend=backend))
            with pytest.raises(ConfigurationError, match="can't be known in a cluster"):
                await group.start_session(located("b"), id=object())


async def test_a_pool_over_a_group(nodes: Nodes, namespace: str) -> None:
    """Each question goes to a session that is free, on whichever actor."""
    async with open_simulator() as simulator, connected(nodes, namespace):
        specs = [far(f"s{number}", simulator) for number in range(3)]
        async with cluster.open_group(specs, replicas=3, num_cpus=0):
            pool = Pool([spec.name for spec in specs])
            hold = simulator.hold_next()
            async with pool.stream("Tell me") as events:
                await read_to_text(events)
                assert 2 == pool.free
                async with trio.open_nursery() as nursery:
                    for number in range(6):
                        nursery.start_soon(pool.query, f"Hello {number}")
                hold.release()
            assert 3 == pool.free
        asked = [request for request in simulator.requests if request.path == "/v1/messages"]
        assert 7 == len(asked)


# ---- secrets and options ----------------------------------------------------------------------------


async def test_options_come_from_the_actors_environment(nodes: Nodes, namespace: str) -> None:
    """The key is that of the node's environment, which this process doesn't have; and what
    `configure` was told here doesn't count there."""
    async with open_simulator(api_key=KEY_OF_THE_CLUSTER) as simulator, connected(nodes, namespace):
        async with cluster.open_group(
            [far("a", base_url=simulator.base_url)], resources={"south": 1}
        ):
            await trio_claude.query(Global("a"), "Hello")
        async with open_supervisor([far("b", simulator)]):
            with pytest.raises(AuthenticationError):
                await trio_claude.query(Global("b"), "Hello")
    assert KEY_OF_THE_CLUSTER == simulator.requests[0].headers["x-api-key"]


async def test_a_key_is_nowhere(nodes: Nodes, namespace: str) -> None:
    """A key of a spec arrives where it is used, also after a restart by Ray; it is neither in what
    Ray's control store has of the actors, nor in that process's memory, nor in any log."""
    async with open_simulator(api_key=KEY) as simulator, connected(nodes, namespace):
        specs = [far("a", simulator, api_key=KEY), far("b", simulator, api_key=KEY)]
        async with cluster.open_group(specs, defaults=trio_claude.SessionOptions()) as group:
            await trio_claude.query(Global("a"), "Hello")
            actor = await nodes.the("Host", namespace)
            async with another_life(group.get_session(Global("b"))):
                actor.kill()
            await trio_claude.query(Global("b"), "Hello")
            await group.start_session(far("c", simulator, api_key=KEY))
            with pytest.raises(SessionExists):
                await group.start_session(far("c", simulator, api_key=KEY))
            await until(group.get_session(Global("c")), "running")
            assert KEY not in repr(await group.list_sessions())
            assert not any(KEY.encode() in record for record in nodes.records())
            assert KEY.encode() not in memory_of(nodes.control_store)
            assert namespace.encode() in memory_of(nodes.control_store)  # it can be read at all
    assert_not_in_files(nodes.tmp, KEY)


def assert_not_in_files(directory: Path, secret: str) -> None:
    """None of the files below has it; and there are some."""
    files = [path for path in directory.rglob("*") if path.is_file()]
    assert [path for path in files if path.suffix == ".log"]
    assert [] == [path for path in files if secret.encode() in path.read_bytes()]


def memory_of(pid: int) -> bytes:
    """All memory of a process that is its own."""
    found = []
    with (
        open(f"/proc/{pid}/maps") as maps,
        open(f"/proc/{pid}/mem", "rb", buffering=0) as memory,
    ):
        for line in maps:
            place, rights, *_ = line.split()
            if rights.startswith("rw"):
                start, end = (int(address, 16) for address in place.split("-"))
                memory.seek(start)
                try:
                    found.append(memory.read(end - start))
                except OSError:  # what a device has there
                    continue
    return b"".join(found)
