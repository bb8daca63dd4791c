"""What a handle needs of its session. It belongs to the child, not to its incarnations.

So nobody is lost when an incarnation ends: its callers wait in line for the next one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs
import trio

from .._backends.base import Controllable
from .._errors import (
    ControlError,
    SessionBusy,
    SessionCrashed,
    SessionTerminated,
    UsageError,
)
from .._options import SessionOptions
from .context import current_run, lives, require_run
from .line import Line, Taker
from .question import Clear, Question, Request
from .target import Status, Target, checked_prompt
from .turn import Turn
from .watched import Watched

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping

    from .._backends.base import Conversation
    from .incarnation import Incarnation


class Inbox(Target, Watched):
    """Everything that a handle needs of its session, whichever incarnation it is in."""

    def __init__(self, name: Hashable | None, id: Hashable, options: SessionOptions) -> None:  # noqa: A002
        self.name = name
        self.id = id
        self.options = options
        """What holds for the session, below what a call says."""
        self.on_change: Callable[[], None] | None = None
        """Called when the status or the conversation's id has become another, in the same breath."""
        self._status: Status = "starting"
        self._session_id: str | None = None
        self.resumed = False
        """Whether the conversation continues that of the incarnation before."""
        self.incarnation: Incarnation | None = None
        self.turn: Turn | None = None
        """The one in flight."""
        self._run = current_run()
        self._present = 0  # requests that wait or are in flight
        self._cause: Exception | None = None
        self.lost: Request | None = None
        """What the last incarnation was at when it ended."""
        self._last_id: str | None = None  # a conversation that has not been resumed yet
        self._conversation: Conversation | None = None
        self._closed = True
        self.open()

    @property
    def status(self) -> Status:
        return self._status

    @status.setter
    def status(self, status: Status) -> None:
        if status != self._status:
            self._status = status
            if self.on_change is not None:
                self.on_change()

    @property
    def session_id(self) -> str | None:
        return self._session_id

    @session_id.setter
    def session_id(self, session_id: str | None) -> None:
        if session_id != self._session_id:
            self._session_id = session_id
            if self.on_change is not None:
                self.on_change()

    @property
    def waiting(self) -> int:
        """How many callers wait in line."""
        return len(self._line)

    # ---- the supervisor's side ----

    def open(self) -> None:
        """Let callers in; nothing happens if they are."""
        if self._closed:
            self._closed = False
            self._cause = None
            self._line = Line()

    def close(self, cause: Exception | None = None) -> None:
        """Turn away everybody who waits, and all who come; because of ``cause``, if it crashed."""
        self._closed = True
        self._cause = cause
        self.session_id = None
        self._line.close()
        self._tell()

    def raise_untold_crash(self) -> None:
        """Raise SessionCrashed if the last incarnation crashed, and no caller knows."""
        error = None if self.incarnation is None else self.incarnation.error
        if error is not None and not (self.lost is not None and self.lost.told):
            raise SessionCrashed(
                f"{self} crashed while nobody asked it: {error!r}",
                name=self.called,
            ) from error

    # ---- the session's side ----

    def line(self) -> Taker:
        """The end from which one incarnation takes the requests; to be closed by it."""
        return Taker(self._line)

    def set_conversation(self, conversation: Conversation | None) -> None:
        """Say which one is open."""
        self._conversation = conversation
        self._tell()

    def begin_conversation(self, *, afresh: bool) -> SessionOptions:
        """The options that the next conversation is opened with.

        Args:
          afresh: it is to know of none before it.
        """
        options = self.options
        self.resumed = False
        self.session_id = None
        if afresh:
            self.forget_conversation()
            if options.resume or options.continue_conversation:
                options = attrs.evolve(
                    options, resume=None, continue_conversation=None, fork_session=None
                )
        elif options.resume == "last":
            # Once for each id that was confirmed: one that cannot be resumed, or that is crashed
            # of, would be tried for ever.
            self.session_id, self._last_id = self._last_id, None
            self.resumed = self.session_id is not None
            options = attrs.evolve(options, resume=self.session_id)
        return options

    def confirm(self, session_id: str | None) -> None:
        """A turn of this conversation has succeeded."""
        self.session_id = self._last_id = session_id

    def keep_conversation(self) -> None:
        """It ends with its group, for no fault of its own: it may be resumed once more."""
        if self.resumed and self._last_id is None:
            self._last_id = self.session_id

    def forget_conversation(self) -> None:
        """The next conversation is not to continue any."""
        self._last_id = None

    # ---- the callers' side ----

    def check_call(self, *, waits: bool) -> None:
        """Refuse a call from the wrong run, and one that would wait for itself."""
        require_run(self._run, self)
        if waits and self.is_inside():
            raise UsageError(
                f"{self} was asked from inside its own turn: it would wait for "
                "itself; ask another session, or ask after the turn"
            )
        if waits and self.waits_for_caller():
            raise UsageError(
                f"{self} was asked by a task that has a stream of it open: that "
                "turn waits for its reader, and this one for that turn; leave the stream first"
            )

    def is_inside(self) -> bool:
        """Whether this is called from inside the current incarnation."""
        return self.incarnation is not None and self.incarnation in lives.get()

    def waits_for_caller(self) -> bool:
        """Whether the turn in flight can only go on when the calling task does."""
        return self.is_inside() or (self.turn is not None and self.turn.is_read_here())

    def new_question(
        self, prompt: object, overrides: Mapping[str, Any], *, whole: bool = False
    ) -> Question:
        self.check_call(waits=True)
        return Turn(checked_prompt(prompt), SessionOptions(**overrides) if overrides else None)

    async def put(self, question: Question) -> None:
        assert isinstance(question, Turn)
        self.check_call(waits=True)  # once more: much may have happened since the call
        self._check_room(question)
        await self._put(question)
        if not question.ended:
            self.turn = question  # the session may come to it only after its caller

    def _check_room(self, turn: Turn) -> None:
        """Raise SessionBusy if the turn would have to wait now, and may not."""
        if self._closed:
            raise self.gone()
        max_queue = turn.options(self.options).max_queue
        assert max_queue is not None
        # Not counted by who waits in `send`: between there and here is a moment in which a request
        # has been handed over, and isn't known as the turn in flight yet.
        if self._present >= max_queue + (self.status == "running"):
            raise SessionBusy(
                f"{self} is busy, and no more than max_queue={max_queue:g} "
                f"may wait for it (waiting now: {self.waiting})"
            )

    def is_free(self) -> bool:
        """Whether a request that is put now is taken at once."""
        return self._line.is_awaited()

    async def _put(self, request: Request) -> None:
        """Wait in line until an incarnation has taken the request.

        Raises:
          SessionTerminated: the session is stopped, or is being stopped meanwhile.
        """
        request.on_end = self._left
        self._present += 1
        try:
            await self._line.put(request)
        except BaseException as exc:
            self._left()
            if isinstance(exc, trio.ClosedResourceError):
                raise self.gone() from self._cause
            raise

    def _left(self) -> None:
        self._present -= 1

    def gone(self) -> SessionTerminated:
        """What callers of a stopped session get."""
        if self._cause is None:
            why = "it was terminated, has finished, or its supervisor ended"
        else:
            why = f"it ended with {self._cause!r} and was not started again"
        error = SessionTerminated(f"{self} is stopped: {why}", name=self.called)
        error.__cause__ = self._cause
        return error

    async def control(self, what: str, request: Mapping[str, Any] | None) -> Mapping[str, Any]:
        self.check_call(waits=False)
        while True:
            conversation = await self._open_conversation()
            if not isinstance(conversation, Controllable):
                raise UsageError(
                    f"{self} has no {what}: its backend has none; sessions with backend='cli' have "
                    "it"
                )
            try:
                if request is None:
                    return await conversation.info()
                return await conversation.control(request)
            except ControlError as exc:
                exc.add_note(f"in {what} of {self}")
                raise
            except trio.ClosedResourceError:
                # It has gone meanwhile; the next one is asked, if there is to be one.
                await trio.lowlevel.checkpoint()

    async def _open_conversation(self) -> Conversation:
        while self._conversation is None:
            if self._closed:
                raise self.gone()
            await self._wait()
        return self._conversation

    async def clear(self) -> None:
        self.check_call(waits=True)
        clear = Clear()
        await self._put(clear)
        await clear.wait()

    async def interrupt(self) -> None:
        self.check_call(waits=False)
        await trio.lowlevel.checkpoint_if_cancelled()
        turn = self.turn
        if turn is not None:
            turn.interrupt()
            if not self.is_inside():
                await turn.wait_ended()
                return
        await trio.lowlevel.cancel_shielded_checkpoint()

    async def stop(self, *, waits: bool = True) -> None:
        self.check_call(waits=False)
        await trio.lowlevel.checkpoint_if_cancelled()
        incarnation = self.incarnation
        if incarnation is not None:
            incarnation.finish()
            if waits and not self.waits_for_caller():
                await incarnation.wait_ended()
        await trio.lowlevel.cancel_shielded_checkpoint()
