"""What the demo saw: the events of its supervisors, the answers of its sessions.

The story writes it, the views show it, and the summary is counted from it. Nothing in here is
written because it was planned, only because it happened.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar

import attrs
import trio

from .._supervision.events import (
    IntensityExceeded,
    RestartScheduled,
    SessionEvent,
    SessionExited,
    SessionReady,
    SessionStarting,
    SessionStopped,
    SupervisorEvent,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from .._errors import SessionCrashed
    from .._messages import ResultMessage

_E = TypeVar("_E", bound=SupervisorEvent)

_STATUS: dict[type[SessionEvent], str] = {
    SessionStarting: "starting",
    SessionReady: "running",
    SessionExited: "crashed",
    RestartScheduled: "restarting",
    SessionStopped: "stopped",
}


@attrs.define(eq=False)
class Row:
    """One session, or one group of them, as it is now."""

    name: str
    group: str | None
    """The group that it is in, below the demo's own supervisor."""
    status: str = "starting"
    incarnation: int = 1
    turns: int = 0
    """Answers that came whole."""
    tokens: int = 0
    """Read and written, in those."""
    restarts: int = -1
    """How often it was up again; -1 before it was up at all."""
    words: str = ""
    """What it said last, or what it crashed of."""
    crashed_at: float | None = None
    """When it crashed last, in seconds since the demo began."""


@attrs.define(eq=False)
class Answer:
    """One answer, under way or over."""

    row: Row
    pieces: int = 0
    """Pieces of text that came so far."""
    text: str = ""
    under_way: bool = True
    whole: bool = False
    lost: SessionCrashed | None = None
    """What its caller got because its session crashed."""


class Listener(Protocol):
    """Who is told at once, in seconds since the demo began."""

    def note(self, seconds: float, text: str) -> None:
        """Something happened that is worth a line."""

    def answered(self, seconds: float, name: str, text: str) -> None:
        """A whole answer came."""


class Board:
    """All that happened so far.

    Args:
      top: the name of the demo's own supervisor.
      listener: is told what happens.
    """

    def __init__(self, top: str, listener: Listener) -> None:
        self.rows: dict[Hashable, Row] = {}
        self.events: list[SupervisorEvent] = []
        self.answers: list[Answer] = []
        self.most_at_once = 0
        """The most answers that were streaming at the same moment."""
        self._top = top
        self._listener = listener
        self._began = trio.current_time()
        self._changed = trio.Event()

    @property
    def seconds(self) -> float:
        """How long the demo has been running."""
        return trio.current_time() - self._began

    def note(self, text: str) -> None:
        """Say something that is worth a line."""
        self._listener.note(self.seconds, text)

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait until something that is seen here holds."""
        while not holds():
            await self._changed.wait()

    def _change(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    # ---- what supervisors report ----------------------------------------------------------------

    def seen(self, kind: type[_E], name: str) -> list[_E]:
        """The events of one kind about one session or, for what is about a supervisor itself,
        about that."""
        return [
            event
            for event in self.events
            if isinstance(event, kind)
            and name == (event.session if isinstance(event, SessionEvent) else event.supervisor)
        ]

    def on_event(self, event: SupervisorEvent) -> None:
        """Take an event down."""
        self.events.append(event)
        if isinstance(event, SessionEvent):
            row = self.rows.get(event.session)
            if row is None:
                group = None if event.supervisor == self._top else str(event.supervisor)
                row = self.rows[event.session] = Row(str(event.session), group)
            self._update(row, event)
        elif isinstance(event, IntensityExceeded):
            self.note(f"{event.supervisor}: too many restarts, the group gives up")
        self._change()

    def _update(self, row: Row, event: SessionEvent) -> None:
        row.incarnation = event.incarnation
        row.status = _STATUS[type(event)]
        if isinstance(event, SessionReady):
            row.restarts += 1
            if row.restarts:
                self.note(f"{row.name}: up again, incarnation {row.incarnation}")
        elif isinstance(event, SessionExited):
            row.words = str(event.cause)
            row.crashed_at = self.seconds
            what = "failed to start" if event.uptime is None else "crashed"
            self.note(f"{row.name}: {what}: {event.cause}")

    # ---- what sessions answer -------------------------------------------------------------------

    def begin(self, name: str) -> Answer:
        """A session has been asked."""
        answer = Answer(self.rows[name])
        self.answers.append(answer)
        self._change()
        return answer

    def piece(self, answer: Answer, text: str) -> None:
        """A piece of its answer came."""
        answer.pieces += 1
        answer.text += text
        answer.row.words = answer.text
        answer.row.status = "answering"
        self.most_at_once = max(self.most_at_once, len(self.streaming()))
        self._change()

    def finish(self, answer: Answer, result: ResultMessage) -> None:
        """The whole answer came."""
        answer.whole = True
        answer.row.turns += 1
        answer.row.tokens += result.usage.input_tokens + result.usage.output_tokens
        self._listener.answered(self.seconds, answer.row.name, answer.text)

    def end(self, answer: Answer) -> None:
        """The answer is over, however."""
        answer.under_way = False
        if answer.row.status == "answering":
            answer.row.status = "running"
        self._change()

    def streaming(self) -> list[Answer]:
        """The answers of which something came, and that are not over."""
        return [answer for answer in self.answers if answer.under_way and answer.pieces]
