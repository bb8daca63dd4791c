"""Where Trio and Ray meet: the only module that imports Ray.

Ray calls back from a thread of its own when an answer is there (:meth:`ObjectRef.future`), and that
thread wakes the Trio run: so nobody polls, and no thread waits. What blocks for a moment in Ray (to
connect, to find an actor by its name) is done in a worker thread, once for each actor that is talked
to.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, final

import ray
import ray.cloudpickle
import ray.exceptions
import ray.util
import trio
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from .._errors import ClusterError
from ._doors import DoorLost, Mailbox
from ._registry import Registry

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

DOOR = "trio_claude door "
_REGISTRY = "trio_claude names"

# For all actors. How many calls one may have before it: each waits for its answer, so they are many.
# And Ray's control store is not told of each call: with what is asked, they are nobody's business.
_OPTIONS = {"max_concurrency": 1_000_000, "enable_task_events": False}

# ---- this process and the cluster ----------------------------------------------------------------


class _Shared:
    """Ray in this process: who came first connects, and who goes last disconnects."""

    lock: ClassVar = threading.Lock()
    users: ClassVar = 0
    ours: ClassVar = False


def connect(address: str, namespace: str, is_wanted: Callable[[], bool]) -> None:
    """Connect this process; blocks. A process that is connected stays so, as it is.

    Args:
      address: as for :func:`trio_claude.cluster.connect`.
      namespace: of the names of actors.
      is_wanted: asked once it is connected, and undone if it is not: Ray takes minutes where a
        cluster has ended, and nobody may wait that long.

    Raises:
      ClusterError: there is no cluster, or it lets nobody in with this token.
    """
    with _Shared.lock:
        if not ray.is_initialized():
            log = logging.getLogger("ray._private.worker")
            log.addFilter(_is_news)
            try:
                ray.init(address=address, namespace=namespace, logging_level=logging.WARNING)
            except Exception as exc:
                raise ClusterError(
                    f"could not connect to a Ray cluster at address={address!r}: "
                    f"{_first_line(exc)}; {_advice(exc)}"
                ) from exc
            finally:
                log.removeFilter(_is_news)
            _Shared.ours = True
        _Shared.users += 1
        if not is_wanted():
            _disconnect()


def _is_news(record: logging.LogRecord) -> bool:
    """Ray warns of being started in a thread, which is on purpose."""
    return not record.getMessage().startswith("SIGTERM handler is not set")


def _advice(exc: BaseException) -> str:
    error: BaseException | None = exc
    while error is not None:
        if "AuthenticationError" in repr(error) or "InvalidAuthToken" in str(error):
            return (
                "it wants another token, or one: set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN, or "
                "RAY_AUTH_TOKEN_PATH, or have it in ~/.ray/auth_token"
            )
        error = error.__cause__ or error.__context__
    return "`ray start --head` starts one"


def disconnect() -> None:
    """Undo one :func:`connect`; blocks."""
    with _Shared.lock:
        _disconnect()


def _disconnect() -> None:
    _Shared.users -= 1
    if _Shared.users == 0 and _Shared.ours:
        _Shared.ours = False
        ray.shutdown()


def where() -> str:
    """This process, for people."""
    address = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
    return f"process {os.getpid()} on {address}"


def _first_line(exc: BaseException) -> str:
    return str(exc).strip().partition("\n")[0] or type(exc).__name__


# ---- calls ---------------------------------------------------------------------------------------


@final
class Reply:
    """What an actor answers to one call, once it is there."""

    def __init__(self) -> None:
        self._there = trio.Event()
        self._outcome: Callable[[], Any] | None = None

    def give(self, outcome: Callable[[], Any]) -> None:
        """What it is: a function that returns it, or raises."""
        self._outcome = outcome
        self._there.set()

    @property
    def is_there(self) -> bool:
        """Whether it is there."""
        return self._outcome is not None

    async def settled(self) -> None:
        """Wait until it is there."""
        await self._there.wait()

    async def wait(self) -> Any:
        """Wait for it. If cancelled, it can be waited for again.

        Raises:
          DoorLost: the actor is gone, or its process is, or this process is cut off.
          ClusterError: what this library runs there has failed.
        """
        await self._there.wait()
        assert self._outcome is not None
        return self._outcome()


@final
class Peer:
    """An actor, as Trio tasks call it. Calls arrive there in any order."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor
        self._methods: dict[str, Any] = {}  # Ray makes one anew each time, which takes 10 µs

    def send(self, then: Callable[[Callable[[], Any]], None], method: str, *args: Any) -> None:
        """Call a method of it; never blocks.

        Args:
          then: called in this run when the answer is there, with a function that returns it, or
            raises what :meth:`Reply.wait` does.
          method: of the actor.
          args: for it.

        Raises:
          DoorLost: this process is not connected any more.
        """
        if not ray.is_initialized():  # Ray would start a cluster of its own
            raise DoorLost(returns=False)
        bound = self._methods.get(method)
        if bound is None:
            bound = self._methods[method] = getattr(self._actor, method)
        future = bound.remote(*args).future()
        token = trio.lowlevel.current_trio_token()

        def settled(_: Future[Any]) -> None:  # in a thread of Ray's
            with suppress(trio.RunFinishedError):  # then nobody waits any more
                token.run_sync_soon(then, partial(_result, future))

        future.add_done_callback(settled)

    def call(self, method: str, *args: Any) -> Reply:
        """Call a method of it, to wait for what it answers; never blocks.

        Raises:
          DoorLost: this process is not connected any more.
        """
        reply = Reply()
        self.send(reply.give, method, *args)
        return reply

    def kill(self) -> None:
        """End it, for good."""
        if ray.is_initialized():
            ray.kill(self._actor, no_restart=True)


def _result(future: Future[Any]) -> Any:
    try:
        return future.result()
    except ray.exceptions.ActorUnavailableError as exc:
        raise DoorLost(returns=True) from exc
    except ray.exceptions.RayTaskError as exc:
        raise ClusterError(f"an actor of trio_claude failed: {_first_line(exc)}") from exc
    except ray.exceptions.RayError as exc:
        raise DoorLost(returns=False) from exc


# ---- actors; these block -------------------------------------------------------------------------


def find_actor(name: str, namespace: str) -> Peer:
    """The actor with this name.

    Raises:
      DoorLost: there is none.
    """
    return Peer(_find_actor(name, namespace))


def _find_actor(name: str, namespace: str) -> Any:
    if not ray.is_initialized():  # Ray would start a cluster of its own
        raise DoorLost(returns=False)
    try:
        return ray.get_actor(name, namespace=namespace)
    except ValueError as exc:
        raise DoorLost(returns=False) from exc
    except ray.exceptions.RayError as exc:  # its control store is busy, or being restarted
        raise DoorLost(returns=True) from exc


def start_mailbox(door: str, namespace: str) -> Peer:
    """A door for this process, on its own node."""
    node = ray.get_runtime_context().get_node_id()
    options = {
        "name": door,
        "namespace": namespace,
        "num_cpus": 0,
        **_OPTIONS,
        "scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=False),
    }
    return Peer(ray.remote(Mailbox).options(**options).remote())


def start_host(host: type, door: str, namespace: str, opener: str, options: dict[str, Any]) -> Peer:
    """A process for a group, which gets its plan from the door of who opens it."""
    options = {**options, "name": door, "namespace": namespace, **_OPTIONS}
    return Peer(ray.remote(host).options(**options).remote(door, namespace, opener))


def registry(namespace: str) -> Peer:
    """The registry of the namespace, which is started if there is none.

    Raises:
      DoorLost: this process is cut off.
    """
    if not ray.is_initialized():  # Ray would start a cluster of its own
        raise DoorLost(returns=False)
    options = {
        "name": _REGISTRY,
        "namespace": namespace,
        "lifetime": "detached",
        "get_if_exists": True,
        "num_cpus": 0,
        "resources": {"node:__internal_head__": 0.001},  # if the head is gone, so is the cluster
        **_OPTIONS,
        "max_restarts": -1,
        "max_task_retries": -1,
    }
    try:
        actor = ray.remote(RayRegistry).options(**options).remote(namespace)
    except ray.exceptions.RayError as exc:
        raise DoorLost(returns=True) from exc
    # So that it ends by itself, should this process die before it joins.
    actor.begin.remote()  # type: ignore[attr-defined]
    return Peer(actor)


class RayRegistry(Registry):
    """The registry, on Ray."""

    def __init__(self, namespace: str) -> None:
        super().__init__()
        self._namespace = namespace
        self._doors: dict[str, Any] = {}

    async def _list_doors(self) -> list[str]:
        find = partial(ray.util.list_named_actors, all_namespaces=True)
        try:
            named = await asyncio.to_thread(find)
        except ray.exceptions.RayError as exc:  # its control store is busy, or being restarted
            raise DoorLost(returns=True) from exc
        return [
            actor["name"]
            for actor in named
            if actor["namespace"] == self._namespace and actor["name"].startswith(DOOR)
        ]

    async def _call(self, door: str, method: str, *args: Any) -> Any:
        try:
            if door not in self._doors:
                self._doors[door] = await asyncio.to_thread(_find_actor, door, self._namespace)
            return await getattr(self._doors[door], method).remote(*args)
        except ray.exceptions.ActorUnavailableError as exc:
            raise DoorLost(returns=True) from exc
        except ray.exceptions.RayActorError as exc:
            raise DoorLost(returns=False) from exc
        except ray.exceptions.RayTaskError:
            raise  # a fault of ours
        except ray.exceptions.RayError as exc:
            raise DoorLost(returns=True) from exc

    def _forget(self, door: str) -> None:
        self._doors.pop(door, None)

    async def _end(self) -> None:
        # Not exit_actor(), which waits for all calls to end: those of the dead never do.
        ray.kill(ray.get_runtime_context().current_actor, no_restart=True)


# ---- what users wrote ----------------------------------------------------------------------------

dumps: Callable[[Any], bytes] = ray.cloudpickle.dumps
"""Functions and classes of the main program too, by value."""
