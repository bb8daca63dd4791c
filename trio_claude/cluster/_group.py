"""A supervisor on the cluster, from outside: its actors, and the sessions in them."""

from __future__ import annotations

import math
import uuid
from contextlib import suppress
from typing import TYPE_CHECKING, Any, final

import attrs
import trio

from .._errors import ClusterError, ConfigurationError, SessionExists, SessionNotFound
from .._options import SessionSpec
from .._session.context import require_run
from .._supervision.events import logger
from .._supervision.info import SessionInfo
from .._supervision.names import Global, there_are
from .._validation import is_hashable
from . import _doors
from ._doors import DoorLost
from ._wire import Member, loads, refuse_unplain
from ._wire_errors import loads_error

if TYPE_CHECKING:
    from collections.abc import Collection, Hashable, Iterable, Sequence

    from .._session.handle import SessionHandle
    from .._supervision.spec import SupervisorSpec
    from ._far import FarSession
    from ._names import Names
    from ._ray import Peer
    from ._wire import Entry, Name, Said

# After so many seconds in which Ray has not started an actor, the log says so.
_PATIENCE_SECONDS = 10.0


def refuse_unplain_spec(spec: SessionSpec | SupervisorSpec) -> None:
    """Raise ConfigurationError for a name or an id that can't be known in a cluster."""
    for value in (spec.id, spec.name):
        if isinstance(spec, SessionSpec) and value is not None:
            refuse_unplain(value.key if isinstance(value, Global) else value, value)


@final
class Actor:
    """One actor of a group, from outside."""

    def __init__(self, door: str, peer: Peer) -> None:
        self.grace = math.inf
        """How many seconds it has to end in order."""
        self.door = door
        self.peer = peer
        self.starting = 0
        """How many further sessions are being started in it."""
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
        await trio.sleep(_doors.AGAIN_SECONDS)

    async def close(self, names: Names) -> None:
        """Let its sessions stop, and end it."""
        if self._up:  # else it may never be there to answer
            with trio.move_on_after(self.grace) as patience, suppress(DoorLost, ClusterError):
                await self.peer.call("close").wait()
            if patience.cancelled_caught:
                logger.warning(
                    "an actor of a group has not ended in %g seconds, and is killed", self.grace
                )
        names.forget_door(self.door)
        await trio.to_thread.run_sync(self.peer.kill)


def _value(data: bytes) -> Any:
    said: Said = loads(data)
    if said.error is not None:
        raise loads_error(said.error)
    return said.value


@final
class Group:
    """A supervisor on the cluster, or several: what :func:`open_group` gives.

    Its methods are those of a :class:`trio_claude.Supervisor`, but for what has to be asked of
    another process, which is awaited. After its block, and after its end, all of them raise
    :class:`trio.ClosedResourceError`.
    """

    def __init__(self, names: Names, actors: Sequence[Actor]) -> None:
        self._names = names
        self._actors = actors
        self._body = trio.CancelScope()
        self._failure: Exception | None = None
        self._closed = False
        self._known: dict[Hashable, FarSession] = {}

    def __repr__(self) -> str:
        if self._closed:
            return "<Group ended>"
        return f"<Group in {len(self._actors)} actor{'s' * (len(self._actors) > 1)}>"

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
        nothing was started, unless the actor says nothing to that for two seconds. It is not started
        again when Ray restarts the actor: that begins with the specs that the group was opened with.

        Raises:
          ConfigurationError: the spec is none, or cannot be sent to another process.
          ClusterError: the actor has died meanwhile, or is gone for good; or the way to it was cut, and
            nobody knows whether the session was started: :meth:`list_sessions` tells.
        """
        self._check_open()
        if not isinstance(spec, SessionSpec):
            raise ConfigurationError(f"start_session takes a SessionSpec, not {spec!r}")
        if id is not None:
            spec = attrs.evolve(spec, id=id)
        elif spec.id is None and spec.name is None:
            spec = attrs.evolve(spec, id=f"unnamed-{uuid.uuid4().hex[:8]}")
        refuse_unplain_spec(spec)
        wanted = spec.name if spec.id is None else spec.id
        if any(
            session.id == wanted and session.status != "stopped" for session in self._known.values()
        ):
            raise SessionExists(f"this group has a session with the id {wanted!r}")
        try:
            data = self._names.peers.dumps(spec)
        except Exception as exc:
            raise ConfigurationError(f"{spec!r} cannot be sent to another process: {exc}") from exc
        actor = min(self._actors, key=self._count)
        actor.starting += 1
        try:
            entry = await self._names.peers.ask(actor.door, "start_session", data, None)
        finally:
            actor.starting -= 1
        actor.grace += spec.shutdown
        name, _ = entry
        session = self._known[name] = self._names.learn(*entry)
        return session.handle

    async def terminate_session(self, id: Hashable) -> None:  # noqa: A002
        """Stop a session and forget it: :meth:`trio_claude.Supervisor.terminate_session`."""
        session = self._find(id)
        await self._names.peers.ask(session.door, "terminate_session", session.id)
        self._known.pop(session.key, None)

    async def restart_session(self, id: Hashable) -> None:  # noqa: A002
        """Start a session again: :meth:`trio_claude.Supervisor.restart_session`."""
        session = self._find(id)
        await self._names.peers.ask(session.door, "restart_session", session.id)

    async def list_sessions(self) -> tuple[SessionInfo, ...]:
        """All sessions of its actors, each actor's in start order; ``started_at`` is on the clock
        of the run that the session is in. Waits for an actor that Ray is starting again.

        Raises:
          ClusterError: an actor is gone for good.
        """
        self._check_open()
        infos: list[SessionInfo] = []
        for actor in self._actors:
            before = set(self._known)
            listed = await self._names.peers.ask(actor.door, "list_sessions")
            self._forget(actor, before - {name for (name, _), _, _ in listed})
            for entry, fields, error in listed:
                name, known = entry
                session = self._known[name] = self._names.far(name, known)
                session.hear(known)
                last_error = None if error is None else loads_error(error)
                infos.append(SessionInfo(**fields, last_error=last_error, handle=session.handle))
        return tuple(infos)

    # ---- its own ---------------------------------------------------------------------------------

    def _know(self, actor: Actor, entries: Iterable[tuple[Name, Entry]]) -> None:
        """What the actor has started; of an earlier life, it has nothing any more."""
        sessions: dict[Hashable, FarSession] = {
            name: self._names.learn(name, entry) for name, entry in entries
        }
        self._forget(actor, self._known.keys() - sessions.keys())
        self._known |= sessions

    def _forget(self, actor: Actor, names: Collection[Hashable]) -> None:
        """The actor has nothing with one of these names."""
        for name in names:
            if name in self._known and self._known[name].door == actor.door:
                del self._known[name]

    def _count(self, actor: Actor) -> int:
        """How many sessions it has, or is about to have, as far as was heard."""
        return actor.starting + sum(
            session.door == actor.door and session.status != "stopped"
            for session in self._known.values()
        )

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
        require_run(self._names.life.run, self)
        if self._closed:
            raise trio.ClosedResourceError("this group has ended: its block was left")
