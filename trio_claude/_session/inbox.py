"""The line of callers before a session. It belongs to the child, not to its incarnations.

It is a memory channel of size 0: callers wait in ``send``, so one that is cancelled is withdrawn
without a trace, and nobody is lost when an incarnation ends. Each incarnation takes from a clone
of the receiving end; the inbox keeps one that nobody ever reads, which keeps the line open while
no incarnation is there. A buffer would take questions off their callers' hands, and drop them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import trio

from .._errors import ConfigurationError, SessionBusy, SessionTerminated, UsageError
from .._options import SessionOptions
from .context import current_run, lives, require_run
from .turn import Clear, Request, Turn

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping

    from .incarnation import Incarnation

Status: TypeAlias = Literal["starting", "running", "restarting", "stopped"]


class Inbox:
    """Everything that a handle needs of its session, whichever incarnation it is in."""

    def __init__(self, name: Hashable | None, id: Hashable, options: SessionOptions) -> None:  # noqa: A002
        self.name = name
        self.id = id
        self.options = options
        """What holds for the session, below what a call says."""
        self.status: Status = "starting"
        self.session_id: str | None = None
        self.incarnation: Incarnation | None = None
        self.turn: Turn | None = None
        """The one in flight."""
        self._run = current_run()
        self._present = 0  # requests that wait or are in flight
        self._closed = True
        self.open()

    @property
    def called(self) -> Hashable:
        """How the session is called in messages."""
        return self.id if self.name is None else self.name

    @property
    def waiting(self) -> int:
        """How many callers wait in line."""
        return self._send.statistics().tasks_waiting_send

    # ---- the supervisor's side ----

    def open(self) -> None:
        """Let callers in; nothing happens if they are."""
        if self._closed:
            self._closed = False
            self._send, self._keep_open = trio.open_memory_channel[Request](0)

    def close(self) -> None:
        """Turn away everybody who waits, and all who come."""
        self._closed = True
        self.session_id = None
        self._keep_open.close()
        self._send.close()

    # ---- the session's side ----

    def line(self) -> trio.MemoryReceiveChannel[Request]:
        """The end from which one incarnation takes the requests; to be closed by it."""
        return self._keep_open.clone()

    # ---- the callers' side ----

    def check_call(self, *, waits: bool) -> None:
        """Refuse a call from the wrong run, and one that would wait for itself."""
        require_run(self._run, f"session {self.called!r}")
        if waits and self.is_inside():
            raise UsageError(
                f"session {self.called!r} was asked from inside its own turn: it would wait for "
                "itself; ask another session, or ask after the turn"
            )

    def is_inside(self) -> bool:
        """Whether this is called from inside the current incarnation."""
        return self.incarnation is not None and self.incarnation in lives.get()

    def new_turn(self, prompt: object, overrides: Mapping[str, Any]) -> Turn:
        """A turn that can be put in line.

        Raises:
          ConfigurationError: the prompt is empty or no text, or an option is not valid.
          UsageError: the call cannot work from here.
        """
        self.check_call(waits=True)
        if not isinstance(prompt, str) or not prompt.strip():
            raise ConfigurationError(f"the prompt must be text that is not empty, not {prompt!r}")
        return Turn(prompt, SessionOptions(**overrides) if overrides else None)

    def check_room(self, turn: Turn) -> None:
        """Raise SessionBusy if the turn would have to wait now, and may not."""
        if self._closed:
            raise self.gone()
        max_queue = turn.options(self.options).max_queue
        assert max_queue is not None
        # Not counted by who waits in `send`: between there and here is a moment in which a request
        # has been handed over, and isn't known as the turn in flight yet.
        if self._present >= max_queue + (self.status == "running"):
            raise SessionBusy(
                f"{self.waiting} callers wait for session {self.called!r}, "
                f"and max_queue is {max_queue:g}"
            )

    async def put(self, request: Request) -> None:
        """Wait in line until an incarnation has taken the request.

        Raises:
          SessionTerminated: the session is stopped, or is being stopped meanwhile.
        """
        request.on_end = self._left
        self._present += 1
        try:
            await self._send.send(request)
        except BaseException as exc:
            self._left()
            if isinstance(exc, trio.BrokenResourceError | trio.ClosedResourceError):
                raise self.gone() from None
            raise
        if isinstance(request, Turn) and not request.ended:
            self.turn = request  # the session may come to it only after its caller

    def _left(self) -> None:
        self._present -= 1

    def gone(self) -> SessionTerminated:
        """What callers of a stopped session get."""
        return SessionTerminated(
            f"session {self.called!r} is stopped: it was terminated, has finished, or its "
            "supervisor ended",
            name=self.called,
        )

    async def clear(self) -> None:
        """Put the request to forget the conversation in line, and wait until that is done."""
        clear = Clear()
        await self.put(clear)
        await clear.wait()
