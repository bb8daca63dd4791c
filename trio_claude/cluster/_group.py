"""A supervisor on the cluster: in an actor, or in several, which Ray places and starts again."""

from __future__ import annotations

import math
import uuid
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, final

import attrs
import trio

from .._errors import (
    ClusterError,
    ConfigurationError,
    SessionExists,
    SessionNotFound,
    UsageError,
)
from .._nurseries import open_hidden_nursery
from .._options import SessionOptions, SessionSpec
from .._session.context import require_run
from .._supervision.events import logger
from .._supervision.info import SessionInfo
from .._supervision.names import Global, connected_cluster, there_are
from .._supervision.spec import SupervisorSpec
from .._validation import is_count, is_hashable, is_seconds
from ._actors import DoorLost
from ._wire import Member, loads
from ._wire_errors import loads_error

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Hashable, Iterable, Sequence

    from .._session.handle import SessionHandle
    from .._supervision.policy import AutoShutdown, Backoff, Strategy
    from ._connection import Connection
    from ._far import FarSession
    from ._ray import Peer
    from ._wire import Entry, Name, Said

# What an actor has to end, beside the grace of its sessions.
_ENDING_SECONDS = 10.0
# After so many seconds in which Ray has not started an actor, the log says so.
_PATIENCE_SECONDS = 10.0


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
        _refuse_unplain(child)
        if child.id is None and child.name is None:
            child = attrs.evolve(child, id=f"unnamed-{number}")
        known.append(child)
    return [known[start::replicas] for start in range(replicas)]


def _refuse_unplain(spec: SessionSpec | SupervisorSpec) -> None:
    from ._connection import refuse_unplain

    for value in (spec.id, spec.name):
        if isinstance(spec, SessionSpec) and value is not None:
            refuse_unplain(value.key if isinstance(value, Global) else value, value)


@asynccontextmanager
async def _open_group(
    specs: Sequence[SupervisorSpec], options: Mapping[str, Any]
) -> AsyncIterator[Group]:
    from ._connection import Connection

    connection = connected_cluster()
    if not isinstance(connection, Connection):
        raise UsageError("a group needs a cluster: open it inside `async with cluster.connect()`")
    plans = [(_plan(connection, spec), _grace(spec)) for spec in specs]
    hosts: list[_Actor] = []
    group = Group(connection, hosts)
    async with open_hidden_nursery() as nursery:
        try:
            for plan, grace in plans:
                host = await _start(connection, plan, options)
                host.grace = grace + _ENDING_SECONDS
                hosts.append(host)
            for host in hosts:
                group._know(host, await host.opened())
            for host in hosts:
                nursery.start_soon(host.watch, group)
            with group._body:
                yield group
        except Exception as exc:
            if group._failure is None:
                raise
            raise group._failure from exc
        finally:
            group._closed = True
            with trio.CancelScope(shield=True):
                for host in reversed(hosts):
                    await host.close(connection)
    if group._failure is not None:
        raise group._failure


def _plan(connection: Connection, spec: SupervisorSpec) -> bytes:
    try:
        return connection.dumps(spec)
    except Exception as exc:
        for child in spec.specs:
            try:
                connection.dumps(child)
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


async def _start(connection: Connection, plan: bytes, options: Mapping[str, Any]) -> _Actor:
    """Have Ray start an actor. The plan, which may have a key in it, is not among its arguments, which
    Ray's control store would keep: the actor asks for it, each time that it is started."""
    from . import _ray
    from ._host import Host

    door = f"{_ray.DOOR}{uuid.uuid4().hex}"
    connection.plans[door] = plan  # for as long as the actor lives: it may have a key in it
    start = partial(
        _ray.start_host, Host, door, connection.namespace, connection.door, dict(options)
    )
    try:
        return _Actor(door, await trio.to_thread.run_sync(start))
    except BaseException as exc:
        del connection.plans[door]
        if isinstance(exc, (TypeError, ValueError)):
            raise ConfigurationError(f"Ray takes no actor with these options: {exc}") from exc
        raise


@final
class _Actor:
    """One actor of a group, from outside."""

    def __init__(self, door: str, peer: Peer) -> None:
        self.grace = math.inf
        """How many seconds it has to end in order."""
        self.door = door
        self.peer = peer
        self.sessions = 0
        self._up = False
        """Whether it has started its sessions, and its process was not lost since."""
        self._missed = False
        """Whether its process was lost, and it is not up again."""

    async def opened(self) -> Sequence[tuple[Name, Entry]]:
        """Wait until its sessions are started; gives them, or raises what kept them from it."""
        impatient = trio.current_time() + _PATIENCE_SECONDS
        while True:
            reply = self.peer.call("opened")
            with trio.move_on_at(impatient):
                await reply.settled()
            if not reply.is_there:
                impatient = math.inf
                logger.warning(
                    "a group waits for Ray to start an actor, or for its sessions to start: has any "
                    "node the resources that it asks for? `ray status` tells"
                )
            try:
                entries: Sequence[tuple[Name, Entry]] = _value(await reply.wait())
            except DoorLost as exc:
                await self._lost(exc)
            else:
                self._up, self._missed = True, False
                self.sessions = len(entries)
                return entries

    async def watch(self, group: Group) -> None:
        """Wait until it has ended, which ends the group."""
        try:
            while True:
                try:
                    _value(await self.peer.call("ended").wait())
                    break
                except DoorLost as exc:
                    await self._lost(exc)
                    group._know(self, await self.opened())
        except Exception as exc:
            group._end(exc)
        else:
            group._end(None)

    async def _lost(self, lost: DoorLost) -> None:
        if not lost.returns:
            raise ClusterError(f"an actor of a group is gone for good: {lost.why}") from lost
        if not self._missed:  # each try to reach it comes here
            logger.warning("an actor of a group has died; Ray starts it again: %s", lost.why)
        self._up, self._missed = False, True
        await trio.sleep(_AGAIN_SECONDS)

    async def close(self, connection: Connection) -> None:
        """Let its sessions stop, and end it."""
        if self._up:  # else it may never be there to answer
            with trio.move_on_after(self.grace) as patience, suppress(DoorLost, ClusterError):
                await self.peer.call("close").wait()
            if patience.cancelled_caught:
                logger.warning(
                    "an actor of a group has not ended in %g seconds, and is killed", self.grace
                )
        connection.forget_door(self.door)
        await trio.to_thread.run_sync(self.peer.kill)
        del connection.plans[self.door]


def _value(data: bytes) -> Any:
    said: Said = loads(data)
    if said.error is not None:
        raise loads_error(said.error)
    return said.value


# After an actor could not be reached that is to return: before it is tried again.
_AGAIN_SECONDS = 0.1


@final
class Group:
    """A supervisor on the cluster, or several: what :func:`open_group` gives.

    Its methods are those of a :class:`trio_claude.Supervisor`, but for what has to be asked of
    another process, which is awaited. After its block, and after its end, all of them raise
    :class:`trio.ClosedResourceError`.
    """

    def __init__(self, connection: Connection, actors: Sequence[_Actor]) -> None:
        self._connection = connection
        self._actors = actors
        self._body = trio.CancelScope()
        self._failure: Exception | None = None
        self._closed = False
        self._known: dict[Hashable, FarSession] = {}

    def __repr__(self) -> str:
        return f"<Group {'ended' if self._closed else f'in {len(self._actors)} actors'}>"

    def get_session(self, id: Hashable) -> SessionHandle:  # noqa: A002
        """The session with this id or name. Never blocks.

        Raises:
          SessionNotFound: there is none; the message names those that there are.
        """
        return self._find(id).handle

    async def start_session(
        self,
        spec: SessionSpec,
        *,
        id: Hashable | None = None,  # noqa: A002
    ) -> SessionHandle:
        """Start one more session, in the actor that has the fewest, and wait until it is ready.

        Arguments and errors are those of :meth:`trio_claude.Supervisor.start_session`. If cancelled,
        nothing was started. It is not started again when Ray restarts the actor: that begins with
        the specs that the group was opened with.

        Raises:
          ConfigurationError: the spec is none, or cannot be sent to another process.
          ClusterError: the actor has died meanwhile, or is gone for good.
        """
        self._check_open()
        if not isinstance(spec, SessionSpec):
            raise ConfigurationError(f"start_session takes a SessionSpec, not {spec!r}")
        if id is not None:
            spec = attrs.evolve(spec, id=id)
        elif spec.id is None and spec.name is None:
            spec = attrs.evolve(spec, id=f"unnamed-{uuid.uuid4().hex[:8]}")
        _refuse_unplain(spec)
        wanted = spec.name if spec.id is None else spec.id
        if any(
            session.id == wanted and session.status != "stopped" for session in self._known.values()
        ):
            raise SessionExists(f"this group has a session with the id {wanted!r}")
        try:
            data = self._connection.dumps(spec)
        except Exception as exc:
            raise ConfigurationError(f"{spec!r} cannot be sent to another process: {exc}") from exc
        actor = min(self._actors, key=lambda actor: actor.sessions)
        actor.sessions += 1
        try:
            entry = await self._connection.ask(actor.door, "start_session", data, None)
        except BaseException:
            actor.sessions -= 1
            raise
        actor.grace += spec.shutdown
        name, _ = entry
        session = self._known[name] = self._connection.learn(*entry)
        return session.handle

    async def terminate_session(self, id: Hashable) -> None:  # noqa: A002
        """Stop a session and forget it: :meth:`trio_claude.Supervisor.terminate_session`."""
        session = self._find(id)
        await self._connection.ask(session.door, "terminate_session", session.id)
        if self._known.pop(session.key, None) is not None:
            for actor in self._actors:
                actor.sessions -= actor.door == session.door

    async def restart_session(self, id: Hashable) -> None:  # noqa: A002
        """Start a session again: :meth:`trio_claude.Supervisor.restart_session`."""
        session = self._find(id)
        await self._connection.ask(session.door, "restart_session", session.id)

    async def list_sessions(self) -> tuple[SessionInfo, ...]:
        """All sessions of its actors, each actor's in start order; ``started_at`` is on the clock
        of the run that the session is in. Waits for an actor that Ray is starting again.

        Raises:
          ClusterError: an actor is gone for good.
        """
        self._check_open()
        infos: list[SessionInfo] = []
        for actor in self._actors:
            for entry, fields, error in await self._connection.ask(actor.door, "list_sessions"):
                name, known = entry
                session = self._known[name] = self._connection.far(name, known)
                session.hear(known)
                last_error = None if error is None else loads_error(error)
                infos.append(SessionInfo(**fields, last_error=last_error, handle=session.handle))
        return tuple(infos)

    # ---- its own --------------------------------------------------------------------------------

    def _know(self, actor: _Actor, entries: Iterable[tuple[Name, Entry]]) -> None:
        """What the actor has started; of an earlier life, it has nothing any more."""
        sessions: dict[Hashable, FarSession] = {
            name: self._connection.learn(name, entry) for name, entry in entries
        }
        for name, session in list(self._known.items()):
            if session.door == actor.door and name not in sessions:
                del self._known[name]
        self._known |= sessions

    def _find(self, id: Hashable) -> FarSession:  # noqa: A002
        self._check_open()
        if not is_hashable(id):
            raise ConfigurationError(f"an id or name must be hashable, not {id!r}")
        for name in (id, *(Member(actor.door, id) for actor in self._actors)):  # there may be many
            if name in self._known:
                return self._known[name]
        for session in self._known.values():
            if id in (session.id, session.name, session.handle):
                return session
        known = there_are([session.called for session in self._known.values()])
        raise SessionNotFound(f"this group has no session {id!r}; {known}")

    def _end(self, failure: Exception | None) -> None:
        if self._closed:
            return  # it is being left, or another actor's end came first
        self._failure = failure
        self._closed = True
        self._body.cancel(reason="the group has ended")

    def _check_open(self) -> None:
        require_run(self._connection.run, self)
        if self._closed:
            raise trio.ClosedResourceError("this group has ended: its block was left")
