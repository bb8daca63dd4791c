"""Names in a cluster: who has one, who sees it, and when it is free again."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any

import pytest
import trio

import trio_claude
from trio_claude import (
    ClusterError,
    Global,
    RestartIntensityExceeded,
    SessionExists,
    SessionNotFound,
    SessionSpec,
    Supervisor,
    cluster,
    open_supervisor,
    whereis,
)
from trio_claude.cluster import _ray
from trio_claude.testing import ScriptedBackend, crash

from .client import claim, connect, find, give_back, query, start, supervise, wait_for
from .support import (
    CRASH_SECONDS,
    PATIENCE,
    Nodes,
    Process,
    There,
    connected,
    far,
    open_process,
)

PROCESSES = 4
NAMES = [f"name {number}" for number in range(50)]
ROUNDS = 20  # so these are 1,000 tries, of four processes each


def scripted(key: str, **options: Any) -> SessionSpec:
    """A session in memory."""
    return far(key, backend=ScriptedBackend(), **options)


# ---- who sees it ------------------------------------------------------------------------------------


async def test_found_from_every_connected_process(
    nodes: Nodes, namespace: str, process: Process, another: Process
) -> None:
    """Both ways: what this process holds is found there, and what that holds is found here."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(process.do, connect, nodes.address, namespace)
        nursery.start_soon(another.do, connect, nodes.address, namespace)
    async with connected(nodes, namespace):
        async with open_supervisor([scripted("here")]):
            await process.do(start, scripted("there"))
            for asker in (process, another):
                assert "simulator" in await asker.do(query, "here", "Hello")  # at once
                await asker.do(wait_for, "here", "running")  # and soon
            assert "simulator" in str(await trio_claude.query(Global("there"), "Hello"))
            assert "simulator" in await another.do(query, "there", "Hello")
            handle = whereis(Global("there"))
            assert handle is not None
            assert handle.name == Global("there")
    await process.close()
    await another.close()


async def test_found_from_no_other_process(
    nodes: Nodes, namespace: str, process: Process, another: Process
) -> None:
    """Not from one that is connected to another namespace, and not from one that is not at all:
    they don't see it, and may have the name for themselves."""
    await process.do(connect, nodes.address, f"{namespace}-another")
    await another.do(supervise)
    async with connected(nodes, namespace), open_supervisor([scripted("a")]):
        for stranger in (process, another):
            assert await stranger.do(find, "a") is None
            with pytest.raises(There, match=r"^SessionNotFound: .*'a'"):
                await stranger.do(query, "a", "Hello")
            await stranger.do(start, scripted("a"))
            await stranger.do(query, "a", "My favorite language is Python")
        # And theirs are three sessions, not one.
        assert "I don't know" in str(
            await trio_claude.query(Global("a"), "What's my favorite language?")
        )
    await process.close()
    await another.close()


async def test_the_second_is_refused_in_its_own_process(nodes: Nodes, namespace: str) -> None:
    """By the same supervisor and by another one; the first goes on, and is the one that is found."""
    words = r"the name Global\(key='a'\) is taken"
    async with connected(nodes, namespace), open_supervisor([scripted("a")]) as supervisor:
        await trio_claude.query(Global("a"), "My favorite language is Python")
        with pytest.raises(SessionExists, match=words):
            await supervisor.start_session(scripted("a"), id="another")
        with pytest.raises(SessionExists, match=words):
            async with open_supervisor([scripted("a")]):
                raise AssertionError("it has been opened")
        answer = await trio_claude.query(Global("a"), "What's my favorite language?")
        assert "is Python" in str(answer)


async def test_two_of_one_process_at_the_same_moment(nodes: Nodes, namespace: str) -> None:
    """One of them gets the name."""
    async with connected(nodes, namespace), open_supervisor() as supervisor:
        refused = []

        async def claim_it(number: int) -> None:
            try:
                await supervisor.start_session(scripted("a"), id=number)
            except SessionExists as exc:
                refused.append(exc)

        async with trio.open_nursery() as nursery:
            for number in range(5):
                nursery.start_soon(claim_it, number)
        assert 4 == len(refused)
        assert 1 == len(supervisor.list_sessions())


async def test_the_second_is_refused_wherever_it_is(
    nodes: Nodes, namespace: str, process: Process
) -> None:
    """In another process, and in a group's actor; the message says who has the name, and nothing
    is changed by trying."""
    await process.do(connect, nodes.address, namespace)
    async with connected(nodes, namespace), open_supervisor([scripted("a")]) as supervisor:
        words = r"the name Global\(key='a'\) is taken"
        with pytest.raises(
            There, match=rf"^SessionExists: {words} in the cluster, by a session in "
        ):
            await process.do(start, scripted("a"))
        with pytest.raises(SessionExists, match=words):
            async with cluster.open_group([scripted("a")]):
                raise AssertionError("it has been opened")
        await process.do(start, scripted("b"))
        with pytest.raises(SessionExists, match=rf"by a session in process {process.pid} on "):
            await supervisor.start_session(scripted("b"))
        assert "simulator" in str(await trio_claude.query(Global("a"), "Hello"))
    await process.close()


async def test_errors_name_what_there_is(nodes: Nodes, namespace: str, process: Process) -> None:
    """Who asks for a name that nobody has is told which ones there are, also those of others."""
    await process.do(connect, nodes.address, namespace)
    await process.do(start, scripted("assistant"))
    async with connected(nodes, namespace):
        with pytest.raises(SessionNotFound, match=r"Global\(key='asistant'\).*key='assistant'"):
            await trio_claude.query(Global("asistant"), "Hello")
    await process.close()


# ---- when it is free again --------------------------------------------------------------------------


async def take(supervisor: Supervisor, key: str) -> None:
    """Start a session of that name as soon as it is to be had; then stop it again."""
    with trio.fail_after(PATIENCE):
        while True:
            try:
                await supervisor.start_session(scripted(key))
            except SessionExists:
                await trio.sleep(0.02)
            else:
                return await supervisor.terminate_session(Global(key))


async def test_free_at_once_after_a_stop(nodes: Nodes, namespace: str, process: Process) -> None:
    """After terminate_session, a temporary session's exit, a give-up, and the end of a block: the
    very next call, in another process, gets the name."""
    await process.do(connect, nodes.address, namespace)
    async with connected(nodes, namespace):
        async with open_supervisor(
            [scripted("a"), scripted("b", restart="temporary")]
        ) as supervisor:
            with pytest.raises(There, match=r"^SessionExists"):
                await process.do(start, scripted("a"))
            await supervisor.terminate_session(Global("a"))
            await process.do(start, scripted("a"))

            with pytest.raises(There, match=r"^SessionExists"):
                await process.do(start, scripted("b"))
            await supervisor.get_session(Global("b")).stop()
            await process.do(wait_for, "b", None)
            await process.do(start, scripted("b"))

        with pytest.raises(RestartIntensityExceeded):
            async with open_supervisor([scripted("c")], max_restarts=0) as supervisor:
                await crash(supervisor.get_session(Global("c")))
                await trio.sleep_forever()
        await process.do(start, scripted("c"))

        async with open_supervisor([scripted("d")]):
            pass
        await process.do(start, scripted("d"))

        async with cluster.open_group([scripted("e")]):
            with pytest.raises(There, match=r"^SessionExists"):
                await process.do(start, scripted("e"))
        await process.do(start, scripted("e"))
    await process.close()


async def test_free_after_the_death_of_a_process(
    nodes: Nodes, namespace: str, process: Process
) -> None:
    """Of one that was killed, with two names; without a word of its own."""
    async with connected(nodes, namespace), open_supervisor() as supervisor:
        await process.do(connect, nodes.address, namespace)
        await process.do(start, scripted("a"))
        await process.do(start, scripted("b"))
        with pytest.raises(SessionExists, match=f"in process {process.pid} on"):
            await supervisor.start_session(scripted("a"))
        await process.kill()
        began = trio.current_time()
        await take(supervisor, "a")
        await take(supervisor, "b")
        print(f"\nfree {trio.current_time() - began:.2f} s after the death of a process")


async def test_free_after_the_death_of_a_node(
    nodes: Nodes, namespace: str, process: Process
) -> None:
    """A process that was on it keeps running, and is told; the names are others' to take, those of
    a group's actor on that node, too."""
    node = nodes.add(resources={"doomed": 1}, node_ip_address="127.0.0.2")
    try:
        async with connected(nodes, namespace), open_supervisor() as supervisor:
            await process.do(connect, nodes.address, namespace, "127.0.0.2")
            await process.do(start, scripted("a"))
            with pytest.raises(ClusterError, match="an actor of a group is gone for good"):
                async with cluster.open_group(
                    [scripted("b")], resources={"doomed": 1}, max_actor_restarts=0
                ):
                    with pytest.raises(SessionExists):
                        await supervisor.start_session(scripted("a"))
                    with pytest.raises(SessionExists):
                        await supervisor.start_session(scripted("b"))
                    nodes.kill(node)
                    began = trio.current_time()
                    await trio.sleep_forever()
            await take(supervisor, "a")
            await take(supervisor, "b")
            print(f"\nfree {trio.current_time() - began:.2f} s after the death of a node")
            with pytest.raises(
                There, match=r"^ClusterError: the connection to the cluster is lost"
            ):
                await process.ended()
    finally:
        nodes.remove(node)


# ---- races ------------------------------------------------------------------------------------------


async def race(processes: Sequence[Process], seed: int) -> list[list[str]]:
    """All these processes claim all names at the same moment; gives what each has got."""
    got: list[list[str]] = [[] for _ in processes]
    at = time.time() + 0.02

    async def one(number: int) -> None:
        got[number] = await processes[number].do(claim, NAMES, at, seed * PROCESSES + number)

    async with trio.open_nursery() as nursery:
        for number in range(len(processes)):
            nursery.start_soon(one, number)
    return got


async def all_give_back(processes: Sequence[Process], got: Sequence[Sequence[str]]) -> None:
    """Each of them stops what it has got."""
    async with trio.open_nursery() as nursery:
        for process, keys in zip(processes, got, strict=True):
            nursery.start_soon(process.do, give_back, keys)


async def test_a_thousand_races(nodes: Nodes, namespace: str) -> None:
    """Four processes claim the same fifty names at the same moment, twenty times: each time each
    name has exactly one winner, and is free again once that has stopped its session."""
    winners: Counter[int] = Counter()
    async with AsyncExitStack() as stack:
        processes = [
            await stack.enter_async_context(open_process(nodes.env)) for _ in range(PROCESSES)
        ]
        async with trio.open_nursery() as nursery:
            for process in processes:
                nursery.start_soon(process.do, connect, nodes.address, namespace)
        began = trio.current_time()
        for number in range(ROUNDS):
            got = await race(processes, number)
            assert sorted(NAMES) == sorted(key for keys in got for key in keys)
            winners.update({process: len(keys) for process, keys in enumerate(got)})
            await all_give_back(processes, got)
        took = trio.current_time() - began
        tries = ROUNDS * len(NAMES)
        print(f"\n{tries} tries of {PROCESSES} processes in {took:.1f} s; won: {dict(winners)}")
        assert tries == winners.total() == 1_000
        assert len([won for won in winners.values() if won]) > 1  # it has been a race
        for process in processes:
            await process.close()


# ---- the registry -----------------------------------------------------------------------------------


async def test_the_registry_dies(
    nodes: Nodes, namespace: str, process: Process, another: Process
) -> None:
    """Names survive it, and who connects meanwhile waits for the next one. Claims go on during its
    death, and each name has one winner: whoever has it by then."""
    for joined in (process, another):
        await joined.do(connect, nodes.address, namespace)
    await process.do(start, scripted("survivor"))
    first = await nodes.the("RayRegistry", namespace)
    async with trio.open_nursery() as nursery:
        claimed: list[list[list[str]]] = []

        async def claim_all() -> None:
            claimed.append(await race([process, another], 7))

        nursery.start_soon(claim_all)
        await trio.sleep(0.05)  # into the midst of these claims, if they take as long
        first.kill()
        async with connected(nodes, namespace), open_supervisor() as supervisor:
            with pytest.raises(SessionExists, match=f"in process {process.pid} on"):
                await supervisor.start_session(scripted("survivor"))
            handle = whereis(Global("survivor"))
            assert handle is not None
            assert "simulator" in str(await handle.query("Hello"))
    [got] = claimed
    assert sorted(NAMES) == sorted(key for keys in got for key in keys)

    # It dies once more: now the names are only where their holders remember them.
    second = await nodes.the("RayRegistry", namespace)
    assert first.pid != second.pid
    async with connected(nodes, namespace), open_supervisor() as supervisor:
        await supervisor.start_session(scripted("mine"))
        second.kill()
        began = trio.current_time()
        with pytest.raises(SessionExists):
            await supervisor.start_session(scripted("survivor"))
        print(f"\na claim took {trio.current_time() - began:.2f} s over the registry's death")
        for key in NAMES:
            with pytest.raises(SessionExists):
                await supervisor.start_session(scripted(key))
        with pytest.raises(There, match=r"^SessionExists"):
            await another.do(start, scripted("mine"))
        assert "simulator" in await another.do(query, "mine", "Hello")
        await all_give_back([process, another], got)
        for key in NAMES:  # and nothing that was refused or freed has stayed behind
            await supervisor.start_session(scripted(key))
    for joined in (process, another):
        await joined.close()


async def test_the_registry_ends_itself(nodes: Nodes, namespace: str, process: Process) -> None:
    """Some seconds after the last process has left, or has been killed: its actor is detached, so
    nobody else would end it."""
    await process.do(connect, nodes.address, namespace)
    async with connected(nodes, namespace):
        await nodes.the("RayRegistry", namespace)
    await nodes.the("RayRegistry", namespace)
    await process.kill()
    with trio.fail_after(15):
        await nodes.gone(namespace)


async def test_a_registry_that_nobody_joined_ends_itself(
    nodes: Nodes, namespace: str, process: Process
) -> None:
    """Whoever started it has died before it could join."""
    async with connected(nodes, f"{namespace}-another"):
        registry = await trio.to_thread.run_sync(_ray.registry, namespace)
        await nodes.the("RayRegistry", namespace)
        try:
            with trio.fail_after(CRASH_SECONDS):
                await nodes.gone(namespace)
        finally:
            registry.kill()
