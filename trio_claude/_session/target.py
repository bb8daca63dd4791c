"""What a handle asks: a session of this run (its :class:`Inbox`), or one on another node."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from .._errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping

    from .question import Question

Status: TypeAlias = Literal["starting", "running", "restarting", "stopped"]


class Askable(ABC):
    """What a question can be put to."""

    @abstractmethod
    def new_question(
        self, prompt: object, overrides: Mapping[str, Any], *, whole: bool = False
    ) -> Question:
        """A question that can be put; refuses what is wrong with it. Never blocks.

        Args:
          prompt: what to ask.
          overrides: options that hold for this turn only.
          whole: nothing but the result will be read.
        """

    @abstractmethod
    async def put(self, question: Question) -> None:
        """Wait in line until the session has taken the question."""


class Target(Askable):
    """A session, as its handle knows it. Errors are those that the handle's methods document."""

    name: Hashable | None
    id: Hashable

    @property
    @abstractmethod
    def status(self) -> Status:
        """Where it stands."""

    @property
    @abstractmethod
    def session_id(self) -> str | None:
        """The conversation's id; None before the first turn that succeeded."""

    @property
    def called(self) -> Hashable:
        """How the session is called in messages."""
        return self.id if self.name is None else self.name

    def __str__(self) -> str:
        return f"session {self.called!r}"

    @abstractmethod
    async def clear(self) -> None:
        """Forget the conversation; waits in line."""

    @abstractmethod
    async def interrupt(self) -> None:
        """End the turn in flight, and wait until it is off the session."""

    @abstractmethod
    async def stop(self) -> None:
        """Let the session finish, and wait for that where the caller isn't waited for itself."""

    @abstractmethod
    async def control(self, what: str, request: Mapping[str, Any] | None) -> Mapping[str, Any]:
        """Ask for more than turns, once a conversation is open.

        Args:
          what: the handle's method that it is for.
          request: as the ``claude`` program takes it; None for what it says of itself.
        """


def checked_prompt(prompt: object) -> str:
    """The prompt, unless it is none."""
    if not isinstance(prompt, str) or not prompt.strip():
        raise ConfigurationError(f"the prompt must be text that is not empty, not {prompt!r}")
    return prompt
