"""A supervisor on the cluster, for the length of a block: what it takes, and its actors' beginning."""

from __future__ import annotations

import math
import uuid
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import attrs
import trio

from .._errors import ConfigurationError, UsageError
from .._nurseries import open_hidden_nursery
from .._supervision.names import connected_cluster
from .._supervision.spec import SupervisorSpec
from .._validation import is_count, is_seconds
from ._group import Actor, Group, refuse_unplain_spec

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Hashable, Iterable, Sequence

    from .._options import SessionOptions, SessionSpec
    from .._supervision.policy import AutoShutdown, Backoff, Strategy
    from ._names import Names

# What an actor has to end, beside the grace of its sessions.
_ENDING_SECONDS = 10.0


def open_group(
    specs: Iterable[SessionSpec | SupervisorSpec] = (),
    *,
    replicas: int = 1,
    num_cpus: float = 1.0,
    num_gpus: float = 0.0,
    resources: Mapping[str, float] | None = None,
    scheduling_strategy: Any = None,
    max_actor_restarts: int = 3,
    name: Hashable | None = None,
    strategy: Strategy = "one_for_one",
    max_restarts: int = 3,
    max_seconds: float = 5.0,
    auto_shutdown: AutoShutdown = "never",
    max_sessions: int | None = None,
    backoff: Backoff | None = None,
    defaults: SessionOptions | None = None,
) -> AbstractAsyncContextManager[Group]:
    """Run a supervisor on the cluster for the length of a block: in an actor of Ray's.

    The sessions live in other processes, on whichever nodes Ray chooses; their options come from
    their specs, ``defaults``, and the environment of *those* processes, so that an API key is read
    where it is used. What ``configure`` was told here does not count there.

    Two things start again what has died, each with limits of its own. In the actor, the supervisor
    restarts its sessions, at most ``max_restarts`` times within ``max_seconds``, as everywhere. When
    the actor's process or its node dies, Ray starts the actor anew, at most ``max_actor_restarts``
    times in all; it then begins as at first, with the specs given here and empty conversations.

    Entering waits until Ray has placed the actors, and all sessions are ready. Leaving stops them,
    with their grace, and ends the actors. If this process dies, they end, too.

    Args:
      specs: the children, in start order. With more than one replica they are dealt out, one after
        the other; what they share (``strategy``, restarts) holds within each actor.
      replicas: how many actors, each with its own supervisor.
      num_cpus: CPUs that Ray sets aside for each actor; it limits nothing, it places.
      num_gpus: GPUs, likewise.
      resources: of Ray's own or of yours, for each actor, such as ``{"big_memory": 1}``.
      scheduling_strategy: Ray's: ``"SPREAD"``, a ``NodeAffinitySchedulingStrategy``, a
        ``PlacementGroupSchedulingStrategy``; default: Ray's.
      max_actor_restarts: how often Ray starts each actor again after its process or node has died;
        -1 for no limit. (Ray calls it ``max_restarts``.)
      name, strategy, max_restarts, max_seconds, auto_shutdown, max_sessions, backoff, defaults: as
        in :func:`trio_claude.open_supervisor`, for the supervisor in each actor. They report to the
        log of their own process.

    Raises:
      ConfigurationError: an argument is not valid, or cannot be sent to another process; raised by
        the call, before the block.
      UsageError: entered outside of the block of :func:`connect`.
      SessionExists: a Global name is taken.
      RestartIntensityExceeded: a supervisor gave up; the block is cancelled.
      ClusterError: an actor is gone for good; the block is cancelled.
      Exception: what a session's first start failed of, or the body's own, as it was raised.
    """
    require_ray()
    _check_counts(replicas, max_actor_restarts)
    _check_amounts({"num_cpus": num_cpus, "num_gpus": num_gpus})
    if resources is not None:
        _check_amounts(resources)
    spec = SupervisorSpec(
        specs=specs,
        name=name,
        strategy=strategy,
        max_restarts=max_restarts,
        max_seconds=max_seconds,
        auto_shutdown=auto_shutdown,
        max_sessions=max_sessions,
        backoff=backoff,
        defaults=defaults,
    )
    options = {
        "num_cpus": num_cpus,
        "num_gpus": num_gpus,
        "resources": dict(resources) if resources else None,
        "scheduling_strategy": scheduling_strategy,
        "max_restarts": max_actor_restarts,
    }
    given = {option: value for option, value in options.items() if value is not None}
    return _open_group([attrs.evolve(spec, specs=share) for share in _deal(spec, replicas)], given)


def require_ray() -> None:
    """Raise ConfigurationError, with what to install, where there is no Ray."""
    found = find_spec("ray")
    if found is None or found.origin is None:  # a mere folder of that name has none
        raise ConfigurationError("trio_claude.cluster needs Ray: pip install 'trio-claude[ray]'")


def _check_counts(replicas: object, max_actor_restarts: object) -> None:
    if not is_count(replicas) or replicas == 0:
        raise ConfigurationError(f"replicas must be a whole number, 1 or more, not {replicas!r}")
    if not is_count(max_actor_restarts) and max_actor_restarts != -1:
        raise ConfigurationError(
            "max_actor_restarts must be a whole number, 0 or more, or -1 for no limit, "
            f"not {max_actor_restarts!r}"
        )


def _check_amounts(amounts: object) -> None:
    if not isinstance(amounts, Mapping):
        raise ConfigurationError(f"resources must be amounts by their names, not {amounts!r}")
    for option, amount in amounts.items():
        if not isinstance(option, str):
            raise ConfigurationError(f"the name of a resource must be text, not {option!r}")
        if not is_seconds(amount) or amount == math.inf:
            raise ConfigurationError(
                f"the amount of {option!r} must be a number, 0 or more, not {amount!r}"
            )


def _deal(spec: SupervisorSpec, replicas: int) -> list[Sequence[SessionSpec | SupervisorSpec]]:
    """The children of each replica; each with an id that is the same in every process."""
    known: list[SessionSpec | SupervisorSpec] = []
    for number, child in enumerate(spec.specs, 1):
        refuse_unplain_spec(child)
        if child.id is None and child.name is None:
            child = attrs.evolve(child, id=f"unnamed-{number}")
        known.append(child)
    return [known[start::replicas] for start in range(replicas)]


@asynccontextmanager
async def _open_group(
    specs: Sequence[SupervisorSpec], options: Mapping[str, Any]
) -> AsyncIterator[Group]:
    from ._names import Names

    names = connected_cluster()
    if not isinstance(names, Names):
        raise UsageError("a group needs a cluster: open it inside `async with cluster.connect()`")
    plans = [(_plan(names, spec), _grace(spec)) for spec in specs]
    actors: list[Actor] = []
    group = Group(names, actors)
    async with open_hidden_nursery() as nursery:
        try:
            for plan, grace in plans:
                actor = await _start(names, plan, options)
                actor.grace = grace + _ENDING_SECONDS
                actors.append(actor)
            for actor in actors:
                group._know(actor, await actor.opened())
            for actor in actors:
                nursery.start_soon(actor.watch, group)
            with group._body:
                yield group
        except Exception as exc:
            if group._failure is None:
                raise
            raise group._failure from exc
        finally:
            group._closed = True
            with trio.CancelScope(shield=True):
                for actor in reversed(actors):
                    await actor.close(names)
                    del names.life.plans[actor.door]
    if group._failure is not None:
        raise group._failure


def _plan(names: Names, spec: SupervisorSpec) -> bytes:
    try:
        return names.peers.dumps(spec)
    except Exception as exc:
        for child in spec.specs:
            try:
                names.peers.dumps(child)
            except Exception:
                called = child.name if child.id is None else child.id
                raise ConfigurationError(
                    f"the spec of {called!r} cannot be sent to another process: {exc}"
                ) from exc
        raise ConfigurationError(f"the group cannot be sent to another process: {exc}") from exc


def _grace(spec: SessionSpec | SupervisorSpec) -> float:
    """How many seconds stopping it may take."""
    if isinstance(spec, SupervisorSpec):
        return min(spec.shutdown, sum(map(_grace, spec.specs)))
    return spec.shutdown


async def _start(names: Names, plan: bytes, options: Mapping[str, Any]) -> Actor:
    """Have Ray start an actor. The plan, which may have a key in it, is not among its arguments, which
    Ray's control store would keep: the actor asks for it, each time that it is started."""
    from . import _ray
    from ._host import Host

    door = f"{_ray.DOOR}{uuid.uuid4().hex}"
    life = names.life
    life.plans[door] = plan  # for as long as the actor lives: it may have a key in it
    start = partial(_ray.start_host, Host, door, life.namespace, life.door, dict(options))
    try:
        return Actor(door, await trio.to_thread.run_sync(start))
    except BaseException as exc:
        del life.plans[door]
        if isinstance(exc, (TypeError, ValueError)):
            raise ConfigurationError(f"Ray takes no actor with these options: {exc}") from exc
        raise
