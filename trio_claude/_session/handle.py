"""What users hold: a session by name, whichever incarnation it is in."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any, Unpack, final

from .._cli_options import PERMISSION_MODES, PermissionMode
from .._errors import ConfigurationError
from .._messages import ResultMessage
from .._validation import is_name
from .stream import ResponseStream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Hashable, Mapping

    from .._options import Overrides
    from .question import Question
    from .target import Askable, Status, Target


@final
class SessionHandle:
    """A session, from the outside; it stays good across restarts.

    Got from a supervisor or by name, never made by hand. Two handles of one session are the same
    object. All methods belong to the run that the session is in; elsewhere they raise
    :class:`UsageError`.
    """

    __slots__ = ("__weakref__", "_target")

    def __init__(self, target: Target) -> None:
        self._target = target

    def __repr__(self) -> str:
        return f"<SessionHandle {self._target.called!r} {self.status}>"

    @property
    def name(self) -> Hashable | None:
        """The session's name, or None."""
        return self._target.name

    @property
    def id(self) -> Hashable:
        """The session's id with its supervisor."""
        return self._target.id

    @property
    def status(self) -> Status:
        """``"starting"``, ``"running"``, ``"restarting"`` or ``"stopped"``; of a session on another
        node, as far as this process has heard."""
        return self._target.status

    @property
    def session_id(self) -> str | None:
        """The conversation's id; None before the first turn that succeeded and after ``clear``."""
        return self._target.session_id

    def is_alive(self) -> bool:
        """Whether the session runs. One that is being started or restarted does not."""
        return self.status == "running"

    async def query(self, prompt: str, **overrides: Unpack[Overrides]) -> ResultMessage:
        """Ask, and wait for the whole answer.

        Blocks while earlier callers are served, and while the session is being restarted. If
        cancelled, the turn is ended at its source, and the conversation is as it was before.

        Args:
          prompt: what to ask; text that is not empty.
          overrides: options that hold for this turn only.

        Raises:
          ConfigurationError: the prompt or an option is not valid.
          SessionBusy: more than ``max_queue`` callers would wait.
          QueryError: the turn failed; the session goes on.
          SessionCrashed, SessionRestarted, SessionTerminated: the session went away.
          UsageError: called from inside this session's own turn, by a task that has a stream of
            this session open, or from another run.
        """
        return await ask(self._target, prompt, overrides)

    def stream(
        self, prompt: str, **overrides: Unpack[Overrides]
    ) -> AbstractAsyncContextManager[ResponseStream]:
        """Ask, and receive the answer's events as they come.

        Entering the block waits until the session has taken the question; leaving it before the
        stream's end ends the turn at its source, waits until that is done, and leaves the
        conversation as it was before. Arguments and errors are those of :meth:`query`; what the
        turn fails of is raised from the stream.
        """
        return read(self._target, self._target.new_question(prompt, overrides))

    async def clear(self) -> None:
        """Forget the conversation. Waits in line like a question.

        If cancelled while it waits in line, nothing happens.

        Raises:
          SessionCrashed, SessionRestarted, SessionTerminated: the session went away.
          UsageError: called from inside this session's own turn, or from another run.
        """
        await self._target.clear()

    async def interrupt(self) -> None:
        """End the turn in flight: its caller gets :class:`Interrupted`, the session lives.

        Waits until the turn is off the session; those who wait in line are served next. Without
        a turn in flight nothing happens. If cancelled, the turn still ends.
        """
        await self._target.interrupt()

    async def set_model(self, model: str | None) -> None:
        """Let the agent use another model from now on, also in the turn in flight.

        It holds until the conversation ends: after a restart or ``clear`` it is that of the spec.
        For one turn there is ``query(..., model=...)``. Blocks until the program has answered; so
        do the five methods below, of which all this holds:

        Raises:
          ConfigurationError: the argument is not valid.
          ControlError: the program refused it, or didn't answer.
          SessionTerminated: the session is stopped.
          UsageError: the session's backend has no such thing, or called from another run.
        """
        if model is not None and not is_name(model):
            raise ConfigurationError(f"model must be the name of a model or None, not {model!r}")
        await self._target.control("set_model", {"subtype": "set_model", "model": model})

    async def set_permission_mode(self, mode: PermissionMode) -> None:
        """Let other permissions hold from now on, also in the turn in flight.

        It holds until the conversation ends. Errors are those of :meth:`set_model`.
        """
        if mode not in PERMISSION_MODES:
            valid = ", ".join(PERMISSION_MODES)
            raise ConfigurationError(f"mode must be one of {valid}, not {mode!r}")
        await self._target.control(
            "set_permission_mode", {"subtype": "set_permission_mode", "mode": mode}
        )

    async def mcp_status(self) -> Mapping[str, Any]:
        """Which MCP servers the agent has, and how they are, in the program's own words.

        Errors are those of :meth:`set_model`.
        """
        return await self._target.control("mcp_status", {"subtype": "mcp_status"})

    async def server_info(self) -> Mapping[str, Any]:
        """What the program said of itself when it was started: commands, agents, models, account.

        Errors are those of :meth:`set_model`.
        """
        return await self._target.control("server_info", None)

    async def context_usage(self) -> Mapping[str, Any]:
        """How much of the model's context the conversation takes, in tokens, by what they are for.

        Errors are those of :meth:`set_model`.
        """
        return await self._target.control("context_usage", {"subtype": "get_context_usage"})

    async def rewind_files(
        self, user_message_id: str, *, dry_run: bool = False
    ) -> Mapping[str, Any]:
        """Put the files back that the agent has changed since a prompt; the talk stays as it is.

        It needs the option ``enable_file_checkpointing``. Errors are those of :meth:`set_model`.

        Args:
          user_message_id: of the prompt: ``result.extra["user_message_uuid"]`` of its turn.
          dry_run: only say what would be done.
        """
        if not is_name(user_message_id):
            raise ConfigurationError(
                f"user_message_id must be the id of a prompt, not {user_message_id!r}"
            )
        request = {
            "subtype": "rewind_files",
            "user_message_id": user_message_id,
            **({"dry_run": True} if dry_run else {}),
        }
        return await self._target.control("rewind_files", request)

    async def stop(self) -> None:
        """Ask the session to finish normally, and wait until this incarnation has ended.

        The turn in flight is answered first. A transient session then stays down, and those who
        wait in line get :class:`SessionTerminated`; a permanent one is started again, by OTP's
        rules. If cancelled, the session still finishes. Called from inside the session's own turn,
        or by a task that has its stream open, this does not wait: the turn waits for that task.
        """
        await self._target.stop()


async def ask(target: Askable, prompt: str, overrides: Mapping[str, Any]) -> ResultMessage:
    """What :meth:`SessionHandle.query` does."""
    question = target.new_question(prompt, overrides, whole=True)
    async with read(target, question):
        while True:
            # Not from the stream, which would look for a cancellation before it gives the result.
            event = await question.receive()
            if isinstance(event, ResultMessage):
                return event


@asynccontextmanager
async def read(target: Askable, question: Question) -> AsyncIterator[ResponseStream]:
    """Put a question, and read what is answered."""
    await target.put(question)
    stream = ResponseStream(question)
    try:
        yield stream
    finally:
        await stream.aclose()
