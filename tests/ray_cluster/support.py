"""What these tests are made of: a cluster's nodes, other processes, and words for sessions afar."""

from __future__ import annotations

import base64
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar, final

import attrs
import trio
from ray.core.generated import gcs_pb2

from trio_claude import Global, ResponseStream, SessionHandle, SessionSpec, TextDelta, cluster
from trio_claude.cluster._far import FarSession
from trio_claude.simulator import Simulator
from trio_claude.testing._leftovers import all_tasks, wait_no_task_beside

from .client import Here

_ActorTableData: Any = vars(gcs_pb2)["ActorTableData"]  # made when it is imported

P = ParamSpec("P")
T = TypeVar("T")

ROOT = Path(__file__).parents[2]

PATIENCE = 60.0
"""Every wait in these tests is for something that happens; this is for when it does not."""

CRASH_SECONDS = 5.0
"""Within these, whoever reads hears that a process is gone."""

KEY_OF_THE_CLUSTER = "key-of-the-cluster-8d1f"
"""What the processes on its nodes have for a key, and nobody else."""

# How soon Ray takes a node for dead whose processes don't answer: after some 1.5 s, where its own
# figures make it 15, or 65 for one that is frozen.
HEALTH_CHECKS = {
    "RAY_health_check_initial_delay_ms": "0",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
}

_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")


def environment(tmp: Path, **more: str) -> dict[str, str]:
    """What the processes of a test's cluster, and those that connect to it, have for environment."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name.upper() not in _PROXIES and not name.startswith(("RAY_", "ANTHROPIC_"))
    }
    return {
        **kept,
        "PYTHONPATH": str(ROOT),  # the actors' processes import tests, too
        "RAY_TMPDIR": str(tmp),  # where it keeps which cluster is this machine's, as well
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "disabled",  # else it is as the machine's user has it; see test_token.py
        **HEALTH_CHECKS,
        **more,
    }


# ---- nodes ------------------------------------------------------------------------------------------


@attrs.frozen
class Actor:
    """What Ray's control store knows of an actor."""

    name: str
    namespace: str
    kind: str
    state: str
    pid: int
    node: str

    def kill(self) -> None:
        """Kill its process, as the system does when it needs the memory."""
        os.kill(self.pid, signal.SIGKILL)


@attrs.frozen
class Nodes:
    """A cluster on this machine."""

    cluster: Any
    tmp: Path
    env: Mapping[str, str]

    @property
    def address(self) -> str:
        """Of its control store."""
        address: str = self.cluster.address
        return address

    @property
    def control_store(self) -> int:
        """The process that has it."""
        [info] = self.cluster.head_node.all_processes["gcs_server"]
        pid: int = info.process.pid
        return pid

    def named(self, resource: str) -> str:
        """The id of the node that has this resource."""
        [found] = [
            node["NodeID"]
            for node in self.cluster.global_state.node_table()
            if node["Alive"] and resource in node["Resources"]
        ]
        return str(found)

    def add(self, **options: Any) -> Any:
        """Start one more node."""
        return self.cluster.add_node(num_cpus=16, **options)

    def kill(self, node: Any) -> None:
        """Kill a node's processes; those of its actors end when they notice that."""
        for processes in node.all_processes.values():
            for process in processes:
                process.process.kill()
                process.process.wait()  # as a zombie it would be taken for alive

    def remove(self, node: Any) -> None:
        """Forget a node, and end what is left of it."""
        self.cluster.remove_node(node, allow_graceful=False)

    def records(self) -> list[bytes]:
        """What its control store keeps of all actors, dead ones too."""
        found: list[bytes] = self.cluster.global_state._connect_and_get_accessor().get_actor_table(
            None, None
        )
        return found

    def actors(self) -> list[Actor]:
        """All its actors that are not dead."""
        found = []
        for record in self.records():
            info = _ActorTableData.FromString(record)
            state = _ActorTableData.ActorState.Name(info.state)
            if state != "DEAD":
                found.append(
                    Actor(
                        info.name,
                        info.ray_namespace,
                        info.class_name,
                        state,
                        info.pid,
                        info.address.node_id.hex(),
                    )
                )
        return found

    def of(self, kind: str, namespace: str) -> list[Actor]:
        """Those that run and are a ``Mailbox``, a ``Host``, or a ``RayRegistry``."""
        return [
            actor
            for actor in self.actors()
            if (actor.kind, actor.namespace, actor.state) == (kind, namespace, "ALIVE")
        ]

    async def the(self, kind: str, namespace: str, *, but: Actor | None = None) -> Actor:
        """The only one of this kind that lives, once there is one; another one than ``but``."""
        with trio.fail_after(PATIENCE):
            while True:
                actors = await trio.to_thread.run_sync(self.of, kind, namespace)
                found = [actor for actor in actors if but is None or actor.pid != but.pid]
                if found:
                    [actor] = found
                    return actor
                await trio.sleep(_LOOK_SECONDS)

    async def gone(self, namespace: str, kind: str | None = None) -> None:
        """Wait until no actor of this namespace is there any more; or none of a kind."""
        await eventually(
            lambda: (
                not any(
                    actor.namespace == namespace and kind in (None, actor.kind)
                    for actor in self.actors()
                )
            )
        )

    def doors(self, namespace: str) -> list[Actor]:
        """What no process of a test may leave behind, in its namespace or one with a longer name."""
        return [
            actor
            for actor in self.actors()
            if actor.namespace.startswith(namespace) and actor.kind != "RayRegistry"
        ]


# Ray's control store tells nobody here what has changed in it, so it is looked at as often as this.
_LOOK_SECONDS = 0.02


# ---- other processes --------------------------------------------------------------------------------


class There(Exception):
    """What another process raised: the name of its class, its message, and its cause."""

    def __init__(self, kind: str, text: str, cause: str) -> None:
        super().__init__(f"{kind}: {text}")
        self.kind = kind
        self.text = text
        self.cause = cause


@final
class Process:
    """Another process: it does what it is told, and is killed when it is no longer needed."""

    def __init__(self, process: trio.Process) -> None:
        self._process = process
        self._buffer = b""
        self._lock = trio.Lock()

    @property
    def pid(self) -> int:
        """Its number."""
        return self._process.pid

    async def do(
        self,
        function: Callable[Concatenate[Here, P], Awaitable[T]],
        *args: P.args,
        **_: P.kwargs,
    ) -> T:
        """Have it call a function of ``client``; gives what that gave, or raises There."""
        assert self._process.stdin is not None
        async with self._lock:
            line = base64.b64encode(pickle.dumps((function, args)))
            await self._process.stdin.send_all(line + b"\n")
            value: T = await self._hear("gave")
            return value

    async def ended(self) -> None:
        """Wait until what it had open has ended by itself; raises what it ended with, as There."""
        await self._hear("ended")

    async def close(self) -> None:
        """Have it leave in order, and end."""
        assert self._process.stdin is not None
        await self._process.stdin.aclose()
        await self._hear("ended")
        assert await self._process.wait() == 0

    async def kill(self) -> None:
        """Kill it, as the system does when it needs the memory."""
        self._process.kill()
        await self._process.wait()

    async def _hear(self, kind: str) -> Any:
        assert self._process.stdout is not None
        while b"\n" not in self._buffer:
            chunk = await self._process.stdout.receive_some()
            assert chunk, f"process {self.pid} has ended: {await self._process.wait()}"
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        said, value = pickle.loads(base64.b64decode(line))
        if said == "raised" or (said == "ended" and value is not None):
            raise There(*value)
        assert kind == said
        return value


@asynccontextmanager
async def open_process(env: Mapping[str, str]) -> AsyncIterator[Process]:
    """Start a process that does what it is told; it is killed at the end of the block."""
    process = await trio.lowlevel.open_process(
        [sys.executable, "-m", "tests.ray_cluster.client"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=env,
        cwd=ROOT,
    )
    try:
        yield Process(process)
    finally:
        with trio.CancelScope(shield=True):
            process.kill()
            await process.wait()
            for pipe in (process.stdin, process.stdout):
                assert pipe is not None
                await pipe.aclose()


# ---- this process -----------------------------------------------------------------------------------


_OF_SIMULATORS = ("trio_claude.simulator.", "hypercorn.", "trio._highlevel_serve_listeners.")


@asynccontextmanager
async def connected(nodes: Nodes, namespace: str) -> AsyncIterator[None]:
    """Connect this process, and check that its block leaves no task behind; nor takes for ever."""
    before = all_tasks()
    try:
        with trio.fail_after(PATIENCE):
            async with cluster.connect(nodes.address, namespace=namespace):
                yield
    finally:
        with trio.CancelScope(shield=True):
            left = await wait_no_task_beside(before)
        # A simulator that is still open has a task for each client, some of them elsewhere.
        left = [name for name in left if not name.startswith(_OF_SIMULATORS)]
        assert not left, left


def far(key: str, simulator: Simulator | None = None, **options: Any) -> SessionSpec:
    """A session with a Global name, which the simulator answers if there is one."""
    if simulator is not None:
        options = {"base_url": simulator.base_url, "api_key": "a-dummy", **options}
    return SessionSpec(name=Global(key), **options)


async def read_to_text(stream: ResponseStream) -> str:
    """Read an answer to its first piece of text."""
    async for event in stream:
        if isinstance(event, TextDelta):
            return event.text
    raise AssertionError("the answer has no text")


async def read_all(stream: ResponseStream) -> None:
    """Read an answer to its end."""
    async for _ in stream:
        pass


@asynccontextmanager
async def another_life(handle: SessionHandle) -> AsyncIterator[None]:
    """What ends the process of a session elsewhere; waits until the next one is heard of. Who asks
    before that may be told SessionCrashed: nobody knows whether a question had reached the old one."""
    session = handle._target
    assert isinstance(session, FarSession)
    before = session.born
    yield
    await eventually(lambda: session.born != before)
    await until(handle, "running")


async def until(handle: SessionHandle, status: str) -> None:
    """Wait until this process has heard that the session stands so."""
    await eventually(lambda: handle.status == status)


async def eventually(check: Callable[[], bool]) -> None:
    """Wait for what nobody tells."""
    while not check():  # noqa: ASYNC110 - there is no event for it
        await trio.sleep(_LOOK_SECONDS)
