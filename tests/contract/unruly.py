"""A backend that breaks where the answer says so, for sessions in other processes too.

An answer of the Messages API fails its turn, and never its session; and it is never the report of a
failure. Here a piece of text that is `CRASH` is something that can't be read, and one that is
`FAIL` makes the result an error.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs
import trio

from trio_claude import (
    Backend,
    Connection,
    Conversation,
    Event,
    MessagesBackend,
    ProtocolError,
    ResultMessage,
    SessionOptions,
    TextDelta,
)

CRASH = " CRASH"
FAIL = " FAIL"


@attrs.frozen
class Unruly(Backend):
    """The Messages API, and more that can go wrong with it."""

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[Connection]:
        """As it does."""
        async with MessagesBackend().connect() as connection:
            yield _Connection(connection)


@attrs.frozen
class _Connection(Connection):
    _inner: Connection

    @asynccontextmanager
    async def open(self, options: SessionOptions) -> AsyncIterator[Conversation]:
        """As it does."""
        async with self._inner.open(options) as conversation:
            yield _Conversation(conversation)


@attrs.frozen
class _Conversation(Conversation):
    _inner: Conversation

    @asynccontextmanager
    async def turn(
        self, prompt: str, options: SessionOptions
    ) -> AsyncIterator[trio.abc.ReceiveChannel[Event]]:
        """As it does, but for what is received."""
        async with self._inner.turn(prompt, options) as channel:
            yield _Channel(channel)


@attrs.define
class _Channel(trio.abc.ReceiveChannel[Event]):
    _inner: trio.abc.ReceiveChannel[Event]
    _fails: bool = False

    async def receive(self) -> Event:
        """The next event, if it can be read."""
        event = await self._inner.receive()
        match event:
            case TextDelta(_, text) if text == CRASH:
                raise ProtocolError("no such word") from ValueError(text.strip())
            case TextDelta(_, text) if text == FAIL:
                self._fails = True
            case ResultMessage() if self._fails:
                return attrs.evolve(event, is_error=True, subtype="error_max_turns")
        return event

    async def aclose(self) -> None:
        """As it does."""
        await self._inner.aclose()
