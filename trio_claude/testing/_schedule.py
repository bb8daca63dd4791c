"""Trying a restart policy out: a schedule of crashes against a supervisor, on virtual time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

import attrs
import trio

from .._backends.scripted import ScriptedBackend
from .._errors import ConfigurationError, UsageError
from .._supervision.events import SessionReady, SupervisorEvent, log_event
from .._supervision.names import get_supervisor, whereis
from .._supervision.opening import open_from_spec
from .._supervision.spec import SupervisorSpec
from .._validation import checked
from ._crash import crash

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable

    from .._options import SessionSpec

Mishap: TypeAlias = Literal["crash", "stop", "restart", "terminate"]


@attrs.frozen
class Crash:
    """Something that befalls one session at one time."""

    time: float
    """Seconds from the start."""

    which: int
    """Which session, counted from 0: in start order, those of supervisors below among them."""

    how: Mishap = attrs.field(
        default="crash",
        validator=checked(
            lambda value: value in get_args(Mishap), f"one of {', '.join(get_args(Mishap))}"
        ),
    )
    """``"crash"``: :func:`~trio_claude.testing.crash`; ``"stop"``: it is asked to finish; or its
    supervisor is asked to ``"restart"`` or ``"terminate"`` it."""


@attrs.frozen(kw_only=True)
class ScheduleOutcome:
    """What became of a supervisor: the answer of :func:`run_schedule`."""

    events: tuple[SupervisorEvent, ...]
    """What it and the supervisors below reported, in order."""

    error: Exception | None
    """What its block ended with, such as :class:`~trio_claude.RestartIntensityExceeded`; None if
    it was left, or ended by ``auto_shutdown``."""

    seconds: float
    """How long it was up."""

    running: tuple[Hashable, ...]
    """The names of the sessions that ran at the end, before they were stopped."""

    missed: tuple[Crash, ...]
    """What befell nobody: its session was not up at that time."""

    def starts(self, name: Hashable) -> int:
        """How often the session got up."""
        return sum(
            isinstance(event, SessionReady) and event.session == name for event in self.events
        )


def run_schedule(
    supervisor: SupervisorSpec, schedule: Iterable[Crash], *, seconds: float | None = None
) -> ScheduleOutcome:
    """Let a schedule of crashes befall a supervisor, on virtual time, and see what it makes of it.

    It runs in a Trio run of its own, which takes no time and needs no service: the sessions are
    those of the spec, but with a :class:`ScriptedBackend`. Names are given to those that have
    none: ``("session", 0)`` for the first of all.

    Args:
      supervisor: the supervisor to be tried.
      schedule: what happens, in the order of time.
      seconds: how long it goes on; default: until ten seconds after the last crash.

    Raises:
      ConfigurationError: an argument is not valid.
      UsageError: called from inside a Trio run.
    """
    crashes = tuple(schedule)
    if not isinstance(supervisor, SupervisorSpec):
        raise ConfigurationError(f"supervisor must be a SupervisorSpec, not {supervisor!r}")
    if not all(isinstance(one, Crash) for one in crashes):
        raise ConfigurationError(f"schedule must hold Crash values only, not {crashes!r}")
    try:
        trio.lowlevel.current_task()
    except RuntimeError:
        pass
    else:
        raise UsageError("run_schedule starts a Trio run of its own: call it outside of one")
    end = max((one.time for one in crashes), default=0.0) + 10 if seconds is None else seconds
    from trio.testing import MockClock  # which brings pytest along, if it is installed

    trial = _Trial(supervisor)
    for one in crashes:
        if not 0 <= one.which < len(trial.sessions):
            raise ConfigurationError(f"{one!r}: there are {len(trial.sessions)} sessions")
    trio.run(trial.run, crashes, end, clock=MockClock(autojump_threshold=0))
    return trial.outcome()


class _Trial:
    """One supervisor and one schedule."""

    def __init__(self, supervisor: SupervisorSpec) -> None:
        self._backend = ScriptedBackend()
        self.sessions: list[tuple[Hashable, Hashable]] = []
        """Of each its name, and its supervisor's."""
        self._supervisors = 0
        self._events: list[SupervisorEvent] = []
        self._spec = self._prepared(supervisor)
        self._missed: list[Crash] = []
        self._running: tuple[Hashable, ...] = ()
        self._error: Exception | None = None
        self._seconds = 0.0

    def _prepared(self, spec: SupervisorSpec) -> SupervisorSpec:
        """The same, with a name for each, and sessions that need no service."""
        name = spec.name
        if name is None:
            name = ("supervisor", self._supervisors)
        self._supervisors += 1
        children: list[SessionSpec | SupervisorSpec] = []
        for child in spec.specs:
            if isinstance(child, SupervisorSpec):
                children.append(self._prepared(child))
                continue
            own = ("session", len(self.sessions)) if child.name is None else child.name
            self.sessions.append((own, name))
            children.append(attrs.evolve(child, name=own, backend=self._backend))
        on_event = self._recording(log_event if spec.on_event is None else spec.on_event)
        return attrs.evolve(spec, name=name, specs=children, on_event=on_event)

    def _recording(
        self, on_event: Callable[[SupervisorEvent], None]
    ) -> Callable[[SupervisorEvent], None]:
        def record(event: SupervisorEvent) -> None:
            self._events.append(event)
            on_event(event)

        return record

    async def run(self, crashes: Iterable[Crash], end: float) -> None:
        try:
            async with open_from_spec(self._spec, (), log_event):
                for one in crashes:
                    await trio.sleep_until(one.time)
                    await self._befall(one)
                await trio.sleep_until(end)
                self._running = tuple(
                    name
                    for name, _ in self.sessions
                    if (handle := whereis(name)) is not None and handle.is_alive()
                )
        except Exception as exc:
            self._error = exc
        self._seconds = trio.current_time()

    async def _befall(self, one: Crash) -> None:
        """Do it, if somebody is there."""
        name, supervisor = self.sessions[one.which]
        handle = whereis(name)
        if handle is None or not handle.is_alive():
            self._missed.append(one)
            return
        match one.how:
            case "crash":
                await crash(handle)
            case "stop":
                await handle.stop()
            case "restart":
                await get_supervisor(supervisor).restart_session(name)
            case _:  # there are no more: Crash refuses them
                await get_supervisor(supervisor).terminate_session(name)

    def outcome(self) -> ScheduleOutcome:
        return ScheduleOutcome(
            events=tuple(self._events),
            error=self._error,
            seconds=self._seconds,
            running=self._running,
            missed=tuple(self._missed),
        )
