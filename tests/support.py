"""What many tests need: sessions in memory, a record of events, and a count of what is left."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Hashable
from contextlib import asynccontextmanager

import attrs
import pytest
import trio
import trio.testing

import trio_claude
from trio_claude import SessionExited, SessionHandle, SessionSpec, SupervisorEvent
from trio_claude._session.inbox import Inbox
from trio_claude._supervision.events import SessionEvent
from trio_claude.testing import ScriptedBackend, ScriptedTurn


def spec(name: Hashable, backend: ScriptedBackend | None = None, **options: object) -> SessionSpec:
    """A session in memory."""
    return SessionSpec(
        name=name,
        backend=ScriptedBackend() if backend is None else backend,
        **options,  # type: ignore[arg-type]
    )


async def hang(turn: ScriptedTurn) -> AsyncGenerator[str, None]:
    """Answer one word, and never the rest."""
    yield "Well, "
    await trio.sleep_forever()


@attrs.define
class Record:
    """What a supervisor reported, in words."""

    events: list[SupervisorEvent] = attrs.field(factory=list)

    def __call__(self, event: SupervisorEvent) -> None:
        """Take an event."""
        self.events.append(event)

    def words(self, *kinds: str) -> list[str]:
        """Such as ``"Ready a"``; a start that failed is ``"Failed a"``."""
        said = []
        for event in self.events:
            kind = type(event).__name__.removeprefix("Session")
            if isinstance(event, SessionExited) and event.uptime is None:
                kind = "Failed"
            if isinstance(event, SessionEvent):
                kind = f"{kind} {event.session}"
            if not kinds or kind.split()[0] in kinds:
                said.append(kind)
        self.events.clear()
        return said

    def moves(self) -> list[str]:
        """Who got up and who was stopped, in order."""
        return self.words("Ready", "Stopped", "Failed")


def tasks() -> int:
    """How many tasks this run has, Trio's own not counted."""

    def below(task: trio.lowlevel.Task) -> int:
        return 1 + sum(
            below(child) for nursery in task.child_nurseries for child in nursery.child_tasks
        )

    task = trio.lowlevel.current_task()
    while task.parent_nursery is not None:
        above = task.parent_nursery.parent_task
        if above.parent_nursery is None:  # Trio's own first task
            break
        task = above
    return below(task)


@asynccontextmanager
async def nothing_left(*backends: ScriptedBackend) -> AsyncIterator[None]:
    """Check that the block leaves no task, connection, conversation or name behind."""
    before = tasks()
    with pytest.raises(trio_claude.SessionNotFound) as caught:
        trio_claude.get_supervisor("no such name")
    supervisors = str(caught.value).partition("; ")[2]
    try:
        yield
    finally:
        # Tasks that were told to end need their turn.
        with trio.CancelScope(shield=True):
            await trio.testing.wait_all_tasks_blocked()
        assert tasks() == before
        for backend in backends:
            assert (backend.connections, backend.conversations) == (0, 0)
        try:
            trio_claude.get_session("no such name")
        except trio_claude.SessionNotFound as exc:
            assert "; there are none" in str(exc)  # noqa: PT017 - its only word about names
        try:
            trio_claude.get_supervisor("no such name")
        except trio_claude.SessionNotFound as exc:
            assert str(exc).endswith(supervisors)  # noqa: PT017


def inbox_of(handle: SessionHandle) -> Inbox:
    """The insides of a session of this run."""
    inbox = handle._target
    assert isinstance(inbox, Inbox)
    return inbox
