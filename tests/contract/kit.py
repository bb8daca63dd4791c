"""What the tests of the contract are made of: places for sessions, services, callers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Hashable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Protocol

import pytest
import trio
import trio.testing

from trio_claude import (
    Event,
    ResponseStream,
    ResultMessage,
    SessionHandle,
    SessionSpec,
    TextDelta,
    TrioClaudeError,
    UsageError,
)
from trio_claude.simulator import Responder, Simulator, open_simulator

PATIENCE = 30.0
"""Seconds; only what doesn't happen takes as long."""

MODEL = "claude-sonnet-5-5"
MINE = "My favorite language is Python"
RUST = "My favorite language is Rust"
WHICH = "What's my favorite language?"


class Place(Protocol):
    """Where a session is, and what can be done to it there. One at a time is open."""

    @property
    def name(self) -> Hashable:
        """The name of the session."""

    @property
    def ahead(self) -> int:
        """Bytes of an answer that may be taken beyond what a session of this run takes."""

    def __call__(self, spec: SessionSpec) -> AbstractAsyncContextManager[SessionHandle]:
        """Open a session for the length of a block, and give its handle."""

    def find(self) -> SessionHandle:
        """Give it once more."""

    async def restart(self) -> None:
        """Have its supervisor restart it."""

    async def terminate(self) -> None:
        """Have its supervisor terminate it."""


def spec(place: Place, base_url: str, **options: Any) -> SessionSpec:
    """A session that asks the service at this address, and no more than once."""
    settings = {"api_key": "sk-test", "model": MODEL, "max_retries": 0, **options}
    return SessionSpec(name=place.name, base_url=base_url, **settings)


@asynccontextmanager
async def opened(
    place: Place, responder: Responder | None = None, **options: Any
) -> AsyncIterator[tuple[Simulator, SessionHandle]]:
    """A session, and the service that it asks."""
    with trio.fail_after(PATIENCE):
        async with open_simulator(responder) as simulator:
            async with place(spec(place, simulator.base_url, **options)) as session:
                yield simulator, session


class Caller:
    """Somebody who asks, in a task of its own."""

    def __init__(self) -> None:
        self.scope = trio.CancelScope()
        self.ended = trio.Event()
        self.got: ResultMessage | TrioClaudeError | None = None

    async def ask(self, session: SessionHandle, prompt: str) -> None:
        """Ask, and keep what comes of it."""
        with self.scope:
            try:
                self.got = await session.query(prompt)
            except TrioClaudeError as exc:
                self.got = exc
        self.ended.set()

    async def outcome(self) -> ResultMessage | TrioClaudeError | None:
        """What came of it; None if it was cancelled."""
        await self.ended.wait()
        return self.got


async def call(nursery: trio.Nursery, session: SessionHandle, prompt: str) -> Caller:
    """A caller that has asked, and is in line or served."""
    caller = Caller()
    nursery.start_soon(caller.ask, session, prompt)
    await heard(session)
    return caller


async def heard(session: SessionHandle) -> None:
    """Wait until the session, wherever it is, has heard of all that was asked of it."""
    await trio.testing.wait_all_tasks_blocked()
    with pytest.raises(UsageError):  # what it says at once, but after it was asked for the others
        await session.server_info()


async def read_to(kind: type[Event], events: ResponseStream) -> list[Event]:
    """The events up to the first one of a kind."""
    seen: list[Event] = []
    while not (seen and isinstance(seen[-1], kind)):
        seen.append(await events.receive())
    return seen


async def fails(events: ResponseStream, error: type[BaseException]) -> list[Event]:
    """Read on to the error that is to come; it is raised again, each time."""
    seen: list[Event] = []
    with pytest.raises(error) as caught:
        while True:
            seen.append(await events.receive())
    for _ in range(2):
        with pytest.raises(error) as again:
            await events.receive()
        assert caught.value is again.value
    return seen


def prompts(simulator: Simulator) -> list[str]:
    """What was asked, in its order."""
    return [talk(request.body["messages"])[-1] for request in simulator.requests]


def talk(messages: Sequence[Any]) -> list[str]:
    """The texts of a conversation."""
    return [
        content if isinstance(content := message["content"], str) else content[-1]["text"]
        for message in messages
    ]


def texts(events: Sequence[Event]) -> str:
    """The text of the deltas."""
    return "".join(event.text for event in events if isinstance(event, TextDelta))


def notes(error: BaseException) -> list[str]:
    """Its notes."""
    return list(getattr(error, "__notes__", ()))


def last_prompt(body: dict[str, Any]) -> str:
    """What a request asks."""
    return talk(body["messages"])[-1]
