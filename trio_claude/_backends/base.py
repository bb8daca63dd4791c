"""The edge where turns are answered: what every backend is, and what it must keep to.

A backend is three context managers, one inside the other::

    async with backend.connect() as connection:              # once per supervisor
        async with connection.open(options) as conversation: # once per incarnation of a session
            async with conversation.turn(prompt, options) as events:
                async for event in events: ...

What a session relies on (:func:`trio_claude.testing.check_backend` shows it of any backend):

* A turn's channel gives the events in order and a :class:`~trio_claude.ResultMessage` last. A
  turn that fails raises: a :class:`~trio_claude.QueryError` where the conversation is fine
  afterwards, a :class:`~trio_claude.ConfigurationError` where the call's options cannot be
  honoured; anything else where the conversation is broken, and the session crashes of it.
* The turn belongs to the conversation's memory only if its block is left without an exception
  and after the result was received. That is decided last: no checkpoint after it.
* Leaving the block early, or by cancellation, ends the turn at its source, and leaves the
  conversation as it was before the turn, where the other side lets it.
* Turns of one conversation come one at a time; conversations of one connection come at once.
* What must be awaited while leaving is shielded and bounded.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractAsyncContextManager

    import trio

    from .._messages import AssistantMessage, Event
    from .._options import SessionOptions


class Answer(ABC):
    """A turn's channel that another task than the one in the turn's block may read.

    A session lends it to its caller, so that events needn't be handed from task to task. Meanwhile
    the session's own task is in :meth:`attend`, for what must not end when a reader is cancelled.
    """

    @abstractmethod
    async def receive_some(self) -> list[Event]:
        """The next events that have come together: some ten, at least one, a result by itself.

        If cancelled, none is lost. Other tasks get their turn at least once in two calls.

        Raises:
          trio.ClosedResourceError: the turn's block is being left, or has been; also meanwhile.
          trio.EndOfChannel: there is nothing more, and there was no result.
          Exception: as from ``receive``.
        """

    @abstractmethod
    async def attend(self) -> None:
        """Do what the reading needs, until cancelled; by the task that is in the block.

        Raises:
          Exception: as from ``receive``.
        """

    @abstractmethod
    def partial(self) -> AssistantMessage | None:
        """What has come so far of the last message, without tools' input; None: no text at all."""


class Conversation(ABC):
    """One conversation: it remembers the turns that succeeded."""

    @abstractmethod
    def turn(
        self, prompt: str, options: SessionOptions
    ) -> AbstractAsyncContextManager[trio.abc.ReceiveChannel[Event]]:
        """Ask, and receive the answer's events.

        Args:
          prompt: what the user says; never empty.
          options: everything that holds for this turn, already merged.

        Raises:
          QueryError: the turn failed, from entering, receiving or leaving; the conversation is
            as it was before.
        """


class Controllable(ABC):
    """What a conversation is besides, if it can be asked for more than turns while it runs."""

    @abstractmethod
    async def control(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """Ask for something beside the turns, also during one.

        Args:
          request: as the ``claude`` program takes it, with its ``subtype``.

        Raises:
          ControlError: it was refused, or not answered in time.
          trio.ClosedResourceError: the conversation is over.
        """

    @abstractmethod
    async def info(self) -> Mapping[str, Any]:
        """What the other side says of itself; errors are those of `control`."""


class Connection(ABC):
    """What the conversations of one supervisor share, such as an HTTP client and its pool."""

    @abstractmethod
    def open(self, options: SessionOptions) -> AbstractAsyncContextManager[Conversation]:
        """Begin a conversation that remembers nothing.

        Args:
          options: those of the session, already merged.

        Raises:
          ConfigurationError: an option that this backend cannot honour, or one that it misses.
        """


class Backend(ABC):
    """Where turns are answered: configured, not connected; may be shared by many sessions.

    A supervisor connects once for all of its sessions whose backends are equal.
    """

    @abstractmethod
    def connect(self) -> AbstractAsyncContextManager[Connection]:
        """Open what the conversations share; it is closed when the block is left."""
