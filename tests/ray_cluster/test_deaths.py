"""Deaths in mid-turn: of a group's actor, of a node, of who asks, of who is asked, and of doors."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import trio

import trio_claude
from trio_claude import (
    ClusterError,
    Global,
    ResultMessage,
    SessionCrashed,
    SessionHandle,
    SessionTerminated,
    cluster,
    open_supervisor,
    whereis,
)
from trio_claude.cluster import Group
from trio_claude.simulator import Simulator, open_simulator

from .client import connect, open_group, read, read_on, start
from .support import (
    CRASH_SECONDS,
    PATIENCE,
    Nodes,
    Process,
    There,
    another_life,
    connected,
    eventually,
    far,
    read_all,
    read_to_text,
    until,
)

pytestmark = pytest.mark.usefixtures("no_proxies")

LEARN = "My favorite language is Python"
ASK = "What's my favorite language?"
DONT_KNOW = "I don't know your favorite language"


async def in_line(group: Group, callers: int) -> None:
    """Wait until so many callers wait for the group's only session."""
    while True:
        [info] = await group.list_sessions()
        if info.waiting == callers:
            return
        await trio.sleep(0.01)  # the line of a session tells nobody


class Caller:
    """A question in a task of its own."""

    def __init__(self, nursery: trio.Nursery, handle: SessionHandle, prompt: str) -> None:
        self.ended = trio.Event()
        self.result: ResultMessage | None = None
        self.error: Exception | None = None
        nursery.start_soon(self._ask, handle, prompt)

    async def _ask(self, handle: SessionHandle, prompt: str) -> None:
        try:
            self.result = await handle.query(prompt)
        except Exception as exc:
            self.error = exc
        self.ended.set()


async def lose_in_mid_stream(
    handle: SessionHandle,
    simulator: Simulator,
    kill: Callable[[], object],
    within: float = CRASH_SECONDS,
) -> float:
    """Kill whoever answers while the answer comes: the reader hears of it; gives after how long."""
    hold = simulator.hold_next()
    async with handle.stream("Tell me") as events:
        await read_to_text(events)
        await hold.started.wait()
        kill()
        began = trio.current_time()
        with trio.fail_after(within):
            with pytest.raises(SessionCrashed) as caught:
                await read_all(events)
    took = trio.current_time() - began
    assert isinstance(caught.value.__cause__, ClusterError)
    assert handle.name == caught.value.name
    assert "is gone" in str(caught.value)
    with trio.fail_after(PATIENCE):
        await hold.ended.wait()  # nobody goes on with that answer
    print(f"\nthe turn itself ended after {trio.current_time() - began:.2f} s")
    return took


# ---- a group's actor --------------------------------------------------------------------------------


async def test_an_actor_dies(nodes: Nodes, namespace: str) -> None:
    """Its reader gets SessionCrashed; who waited in line is asked again and gets an answer; the same
    handle answers, out of an empty conversation."""
    async with open_simulator() as simulator, connected(nodes, namespace):
        async with cluster.open_group([far("a", simulator)]) as group:
            handle = group.get_session(Global("a"))
            await handle.query(LEARN)
            assert "is Python" in str(await handle.query(ASK))
            actor = await nodes.the("Host", namespace)
            async with trio.open_nursery() as nursery:
                hold = simulator.hold_next()
                async with handle.stream("Tell me") as events:
                    await read_to_text(events)
                    await hold.started.wait()
                    caller = Caller(nursery, handle, ASK)
                    await in_line(group, 1)
                    actor.kill()
                    began = trio.current_time()
                    with trio.fail_after(CRASH_SECONDS):
                        with pytest.raises(SessionCrashed) as caught:
                            await read_all(events)
                    heard = trio.current_time() - began
                    assert isinstance(caught.value.__cause__, ClusterError)
                    assert f"process {actor.pid} on" in str(caught.value)
                    assert Global("a") == caught.value.name
                await caller.ended.wait()
            print(
                f"\nheard after {heard:.2f} s, answered after {trio.current_time() - began:.2f} s"
            )
            assert caller.error is None
            assert DONT_KNOW in str(caller.result)
            await until(handle, "running")
            assert handle is whereis(Global("a")) is group.get_session(Global("a"))
            assert "noted" in str(await handle.query(LEARN))
            assert "is Python" in str(await handle.query(ASK))
            assert actor.pid != (await nodes.the("Host", namespace)).pid


async def test_an_idle_actor_dies(nodes: Nodes, namespace: str) -> None:
    """No turn is lost; once its sessions are up again, whoever asked it before may ask it again."""
    async with open_simulator() as simulator, connected(nodes, namespace):
        async with cluster.open_group([far("a", simulator)]) as group:
            handle = group.get_session(Global("a"))
            await handle.query(LEARN)
            actor = await nodes.the("Host", namespace)
            async with another_life(handle):
                actor.kill()
            with trio.fail_after(2 * CRASH_SECONDS):
                assert DONT_KNOW in str(await handle.query(ASK))
                [info] = await group.list_sessions()
            assert "running" == info.status


@pytest.mark.parametrize("restarts", [0, 1])
async def test_an_actor_is_gone_for_good(nodes: Nodes, namespace: str, restarts: int) -> None:
    """When Ray has started it as often as it may: callers in line get SessionTerminated, the block
    is cancelled and raises ClusterError."""
    async with (
        open_simulator() as simulator,
        connected(nodes, namespace),
        trio.open_nursery() as nursery,  # its tasks are not in the block that is cancelled
    ):
        with pytest.raises(ClusterError, match="an actor of a group is gone for good"):
            async with cluster.open_group(
                [far("a", simulator)], max_actor_restarts=restarts
            ) as group:
                handle = group.get_session(Global("a"))
                actor = await nodes.the("Host", namespace)
                for _ in range(restarts):
                    async with another_life(handle):
                        actor.kill()
                    actor = await nodes.the("Host", namespace, but=actor)
                    await handle.query("Hello")
                hold = simulator.hold_next()
                running = Caller(nursery, handle, "Tell me")
                await hold.started.wait()
                waiting = Caller(nursery, handle, ASK)
                await in_line(group, 1)
                actor.kill()
                began = trio.current_time()
                await trio.sleep_forever()
        assert trio.current_time() - began < CRASH_SECONDS
        with trio.fail_after(CRASH_SECONDS):
            await running.ended.wait()
            await waiting.ended.wait()
        assert isinstance(running.error, SessionCrashed)
        assert isinstance(waiting.error, SessionTerminated)
        assert isinstance(waiting.error.__cause__, ClusterError)
        assert "stopped" == handle.status
        with pytest.raises(SessionTerminated):
            await handle.query("Hello")


async def test_a_node_dies(nodes: Nodes, namespace: str) -> None:
    """With a group on it: as when its actor dies; Ray starts that again where there is room."""
    node = nodes.add(resources={"room": 1})
    more = None
    try:
        async with open_simulator() as simulator, connected(nodes, namespace):
            async with cluster.open_group([far("a", simulator)], resources={"room": 1}) as group:
                handle = group.get_session(Global("a"))
                await handle.query(LEARN)
                actor = await nodes.the("Host", namespace)
                assert node.node_id == actor.node
                more = nodes.add(resources={"room": 1})
                began = trio.current_time()
                heard = await lose_in_mid_stream(handle, simulator, lambda: nodes.kill(node))
                await nodes.the("Host", namespace, but=actor)
                assert DONT_KNOW in str(await handle.query(ASK))
                print(f"\nheard after {heard:.2f} s, up after {trio.current_time() - began:.2f} s")
                actor = await nodes.the("Host", namespace)
                assert more.node_id == actor.node
    finally:
        nodes.remove(node)
        if more is not None:
            nodes.remove(more)


# ---- who asks ---------------------------------------------------------------------------------------


async def test_a_cancelled_caller_cancels_the_turn(
    nodes: Nodes, namespace: str, process: Process
) -> None:
    """On the other node: the service sees its client go, and the session is free when the caller
    is out; a question in line leaves it."""
    await process.do(connect, nodes.address, namespace)
    async with open_simulator() as simulator, connected(nodes, namespace):
        await process.do(start, far("a", simulator))
        async with cluster.open_group([far("b", simulator)]) as group:
            await until(group.get_session(Global("b")), "running")
            for key in ("a", "b"):
                hold = simulator.hold_next()
                with trio.CancelScope() as scope:
                    async with trio_claude.stream(Global(key), "Tell me") as events:
                        await read_to_text(events)
                        scope.cancel()
                        await trio.sleep_forever()
                assert scope.cancelled_caught
                with trio.fail_after(CRASH_SECONDS):
                    await hold.ended.wait()
                    await trio_claude.query(Global(key), "Hello")

            async with trio.open_nursery() as nursery:
                hold = simulator.hold_next()
                caller = Caller(nursery, group.get_session(Global("b")), "Tell me")
                await hold.started.wait()
                with trio.CancelScope() as scope:
                    async with trio.open_nursery() as waiters:
                        Caller(waiters, group.get_session(Global("b")), "In vain")
                        await in_line(group, 1)
                        scope.cancel()
                await in_line(group, 0)
                hold.release()
                await caller.ended.wait()
                assert caller.error is None
    assert "In vain" not in str([request.body for request in simulator.requests])
    await process.close()


async def test_who_reads_dies(nodes: Nodes, namespace: str, process: Process) -> None:
    """In mid-stream: its turn ends, the service sees the client go, and the session is free soon;
    wherever that is, in a process or in a group."""
    async with open_simulator() as simulator, connected(nodes, namespace):
        async with (
            open_supervisor([far("a", simulator)]),
            cluster.open_group([far("b", simulator)]),
        ):
            await process.do(connect, nodes.address, namespace)
            hold = simulator.hold_next()
            await process.do(read, "a", "Tell me")
            await process.kill()
            began = trio.current_time()
            with trio.fail_after(CRASH_SECONDS):
                await hold.ended.wait()
                await trio_claude.query(Global("a"), "Hello")
            print(f"\nfree {trio.current_time() - began:.2f} s after the reader's death")


async def test_who_reads_from_a_group_dies(nodes: Nodes, namespace: str, process: Process) -> None:
    """The same, where the session is in an actor."""
    async with open_simulator() as simulator, connected(nodes, namespace):
        async with cluster.open_group([far("a", simulator)]):
            await process.do(connect, nodes.address, namespace)
            hold = simulator.hold_next()
            await process.do(read, "a", "Tell me")
            await process.kill()
            with trio.fail_after(CRASH_SECONDS):
                await hold.ended.wait()
                await trio_claude.query(Global("a"), "Hello")


async def test_who_opened_a_group_dies(nodes: Nodes, namespace: str, process: Process) -> None:
    """Its actors end with it, in mid-turn, and the names are free."""
    async with open_simulator() as simulator, connected(nodes, namespace):
        await process.do(connect, nodes.address, namespace)
        await process.do(open_group, [far("a", simulator), far("b", simulator)], {"replicas": 2})
        hold = simulator.hold_next()
        async with trio_claude.stream(Global("a"), "Tell me") as events:
            await read_to_text(events)
            await hold.started.wait()
            assert 2 == len(nodes.of("Host", namespace))
            await process.kill()
            with trio.fail_after(CRASH_SECONDS):
                with pytest.raises(SessionCrashed):
                    await read_all(events)
        with trio.fail_after(2 * CRASH_SECONDS):
            await nodes.gone(namespace, "Host")
            await eventually(lambda: whereis(Global("b")) is None)
        async with open_supervisor([far("a", simulator), far("b", simulator)]):
            await trio_claude.query(Global("a"), "Hello")


# ---- who is asked -----------------------------------------------------------------------------------


async def test_who_answers_dies(nodes: Nodes, namespace: str, process: Process) -> None:
    """A process with a session of its own, in mid-turn: nobody starts it again."""
    await process.do(connect, nodes.address, namespace)
    async with open_simulator() as simulator, connected(nodes, namespace):
        await process.do(start, far("a", simulator))
        await trio_claude.query(Global("a"), "Hello")
        handle = whereis(Global("a"))
        assert handle is not None
        hold = simulator.hold_next()
        async with trio.open_nursery() as nursery:
            async with handle.stream("Tell me") as events:
                await read_to_text(events)
                waiting = Caller(nursery, handle, "In line")
                await trio.sleep(0.2)  # for it to be there: nobody here can ask that process
                await process.kill()
                began = trio.current_time()
                with trio.fail_after(CRASH_SECONDS):
                    with pytest.raises(SessionCrashed, match=f"process {process.pid} on") as caught:
                        await read_all(events)
                    await waiting.ended.wait()
        print(f"\nheard after {trio.current_time() - began:.2f} s")
        assert isinstance(caught.value.__cause__, ClusterError)
        assert isinstance(waiting.error, SessionTerminated)
        with trio.fail_after(CRASH_SECONDS):
            await hold.ended.wait()
            await eventually(lambda: whereis(Global("a")) is None)
        assert "stopped" == handle.status


# ---- doors ------------------------------------------------------------------------------------------


async def test_the_door_dies(nodes: Nodes, namespace: str, process: Process) -> None:
    """Of this process: its connection is lost, all inside of the block is stopped, and the block
    raises ClusterError; what it asked, and was asked, has ended."""
    await process.do(connect, nodes.address, namespace)
    async with open_simulator() as simulator:
        await process.do(start, far("there", simulator))
        handles = []
        with pytest.raises(ClusterError, match="the connection to the cluster is lost"):
            async with connected(nodes, namespace):
                [mine] = [
                    actor for actor in nodes.of("Mailbox", namespace) if actor.name == _my_door()
                ]
                async with open_supervisor([far("here", simulator)]) as supervisor:
                    handles.append(supervisor.get_session(Global("here")))
                    asked, asks = simulator.hold_next(), simulator.hold_next()
                    await process.do(read, "here", "Tell me")
                    async with trio_claude.stream(Global("there"), "Tell me") as events:
                        await read_to_text(events)
                        mine.kill()
                        began = trio.current_time()
                        await trio.sleep_forever()
        print(f"\nlost after {trio.current_time() - began:.2f} s")
        assert trio.current_time() - began < 2 * CRASH_SECONDS
        assert ["stopped"] == [handle.status for handle in handles]
        assert trio_claude.whereis(Global("here")) is None
        with pytest.raises(There, match=r"^Session(Crashed|Terminated)"):
            await process.do(read_on)
        with trio.fail_after(CRASH_SECONDS):
            await asked.ended.wait()
            await asks.ended.wait()
        async with connected(nodes, namespace):  # and once more
            await trio_claude.query(Global("there"), "Hello")
    await process.close()


def _my_door() -> str:
    from trio_claude._supervision.names import connected_cluster
    from trio_claude.cluster._names import Names

    names = connected_cluster()
    assert isinstance(names, Names)
    return names.life.door
