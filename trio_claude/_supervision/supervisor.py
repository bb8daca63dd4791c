"""What users hold of a supervisor."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import attrs
import trio

from .._errors import ConfigurationError, SessionNotFound, UsageError
from .._options import SessionSpec
from .._session.context import current_run, lives, require_run
from .child import Child, SessionChild
from .control import Control, closed_error
from .info import SessionInfo, SupervisorStatistics

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from .._session.handle import SessionHandle


@final
class Supervisor:
    """A group of sessions that are started, watched, and started again by OTP's rules.

    Made by :func:`open_supervisor` and :func:`run_supervisor`, never by hand. All methods belong
    to the run that the supervisor is in; elsewhere they raise :class:`UsageError`. After its block
    every method raises :class:`trio.ClosedResourceError`, at once.
    """

    def __init__(self, control: Control, make: Callable[[SessionSpec], SessionChild]) -> None:
        self._control = control
        self._make = make
        self._run = current_run()

    def __repr__(self) -> str:
        name = "" if self.name is None else f" {self.name!r}"
        state = "ended" if self._control.ended else f"of {len(self._control.roster.children)}"
        return f"<Supervisor{name} {state}>"

    @property
    def name(self) -> Hashable | None:
        """Its name, or None."""
        return self._control.spec.name

    # ---- what changes something -----------------------------------------------------------------

    async def start_session(
        self,
        spec: SessionSpec,
        *,
        id: Hashable | None = None,  # noqa: A002 - OTP's word
    ) -> SessionHandle:
        """Start one more session, last in order, and wait until it is ready.

        Blocks also while the supervisor waits for another session to get up or to go down. If
        cancelled, nothing was started. A start that fails counts for nothing and leaves no trace.

        Args:
          spec: the session.
          id: its id; default: that of the spec, else its name, else a unique object.

        Raises:
          ConfigurationError: the spec is none, or this supervisor can't have such a session.
          SessionExists: the id or the name is taken.
          TooManySessions: there are ``max_sessions`` already.
          SessionTerminated: somebody terminated it while it was starting.
          Exception: whatever its start failed of, as it was raised.
          UsageError: called while a session of this supervisor starts, from inside of that start.
          trio.ClosedResourceError: the supervisor has ended.
        """
        self._check_call(None)
        if not isinstance(spec, SessionSpec):
            raise ConfigurationError(
                f"start_session takes a SessionSpec, not {spec!r}; supervisors below this one "
                "are given at its own start"
            )
        if id is not None:
            spec = attrs.evolve(spec, id=id)
        self._control.spec.check_child(spec)
        child = self._make(spec)
        roster = self._control.roster
        await self._control.call(
            lambda call: roster.start(child, lambda: call.abandoned),
            abandon=lambda: roster.take_back(child),
        )
        return child.handle

    async def terminate_session(self, id: Hashable) -> None:  # noqa: A002
        """Stop a session and forget it; its name and its id are free again.

        The turn in flight has the session's ``shutdown`` seconds to finish; then its caller, and
        all who wait in line, get :class:`SessionTerminated`. If cancelled, it is still terminated.

        Args:
          id: the session's id or name.

        Raises:
          SessionNotFound: there is no such session.
          UsageError: called from inside the session, which would wait for itself.
          trio.ClosedResourceError: the supervisor has ended.
        """
        child = self._child(id)
        roster = self._control.roster
        roster.call_off(child, for_ever=True)
        await self._control.call(lambda _: roster.terminate(child))

    async def restart_session(self, id: Hashable) -> None:  # noqa: A002
        """Start a session again, running or not: the same name, an empty conversation.

        The turn in flight has the session's ``shutdown`` seconds to finish; then its caller gets
        :class:`SessionRestarted`. Those who wait in line are served afterwards. It does not count
        for the restart intensity. If cancelled, the session is still restarted. If the start
        fails, the session is known and stopped.

        Args:
          id: the session's id or name.

        Raises:
          SessionNotFound: there is no such session.
          TooManySessions: it is stopped, and there are ``max_sessions`` others.
          Exception: whatever its start failed of, as it was raised.
          UsageError: called from inside the session, which would wait for itself.
          trio.ClosedResourceError: the supervisor has ended.
        """
        child = self._child(id)
        roster = self._control.roster
        roster.call_off(child, for_ever=False)
        await self._control.call(lambda _: roster.restart(child))

    # ---- what only looks ------------------------------------------------------------------------

    def get_session(self, id: Hashable) -> SessionHandle:  # noqa: A002
        """The session with this id or name. Never blocks.

        Raises:
          SessionNotFound: there is none; the message names those that there are.
        """
        self._check_open()
        child = self._control.find(id)
        if not isinstance(child, SessionChild):
            raise SessionNotFound(f"{id!r} is a supervisor, no session: see get_supervisor()")
        return child.handle

    def list_sessions(self) -> tuple[SessionInfo, ...]:
        """All sessions that it knows itself, in start order. Never blocks.

        Those of the supervisors below are listed by these: see :func:`get_supervisor`.
        """
        self._check_open()
        return tuple(
            _info(child)
            for child in self._control.roster.children.values()
            if isinstance(child, SessionChild)
        )

    def count_sessions(self) -> int:
        """How many of its own sessions run now. Never blocks."""
        self._check_open()
        return self._control.roster.count("session", "running")

    def statistics(self) -> SupervisorStatistics:
        """Its counters. Never blocks."""
        self._check_open()
        roster = self._control.roster
        return SupervisorStatistics(
            specs=len(roster.children),
            supervisors=roster.count("supervisor"),
            active=roster.count(status="running"),
            restarting=roster.count(status="restarting"),
            restarts=roster.restarts,
            recent_restarts=len(roster.intensity.within(trio.current_time())),
            gave_up=self._control.gave_up,
        )

    # ---- the door -------------------------------------------------------------------------------

    def _check_open(self) -> None:
        require_run(self._run, self)
        if self._control.ended:
            raise closed_error()

    def _child(self, id: Hashable) -> Child:  # noqa: A002
        self._check_open()
        child = self._control.find(id)
        self._check_call(child)
        return child

    def _check_call(self, target: Child | None) -> None:
        """Refuse a call that would wait for the very task that makes it."""
        self._check_open()
        inside = lives.get()
        for child in self._control.roster.children.values() if inside else ():
            if child.incarnation is None or child.incarnation not in inside:
                continue
            if child is target:
                raise UsageError(
                    f"{child.called!r} asked its supervisor to stop it and wait for that, from "
                    "inside: it would wait for itself; call stop() of its handle instead"
                )
            if not child.incarnation.settled:
                raise UsageError(
                    f"{child.called!r} called its supervisor while that waits for it to start"
                )


def _info(child: SessionChild) -> SessionInfo:
    incarnation = child.incarnation
    return SessionInfo(
        id=child.id,
        name=child.spec.name,
        status=child.status,
        restart=child.spec.restart,
        incarnation=child.number,
        restarts=child.restarts,
        started_at=None if incarnation is None else incarnation.started_at,
        last_error=child.last_error,
        waiting=child.inbox.waiting,
        handle=child.handle,
    )
