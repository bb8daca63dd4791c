"""The line of callers before a session: who waits in it, and who takes from it.

It is what a memory channel of size 0 is: a caller waits until its request is taken, so one that is
cancelled is withdrawn without a trace, and no request is ever in between. It is not one, because
a channel, and a clone of its end for each incarnation, are ten objects of Trio's: a third of the
memory of an idle session, and a quarter of what it costs to start one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import trio

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from .question import Request


@final
class Line:
    """Those who wait, in the order in which they came."""

    __slots__ = ("_closed", "_idle", "_waiting")

    def __init__(self) -> None:
        self._waiting: dict[Request, trio.lowlevel.Task] = {}
        self._idle: Taker | None = None
        self._closed = False

    def __len__(self) -> int:
        return len(self._waiting)

    def is_awaited(self) -> bool:
        """Whether somebody waits for a request: then the next one is taken at once."""
        return self._idle is not None

    @trio.lowlevel.enable_ki_protection
    async def put(self, request: Request) -> None:
        """Wait until the request is taken.

        Raises:
          trio.ClosedResourceError: the line is closed, or was meanwhile.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._closed:
            raise trio.ClosedResourceError
        if self._idle is not None:
            self._idle.give(request)
            await trio.lowlevel.cancel_shielded_checkpoint()
            return

        waiting = self._waiting
        waiting[request] = trio.lowlevel.current_task()

        def withdraw(_: object) -> trio.lowlevel.Abort:
            del waiting[request]
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(withdraw)
        if request in waiting:  # so it was not taken
            raise trio.ClosedResourceError

    @trio.lowlevel.enable_ki_protection
    def close(self) -> None:
        """Turn away all who wait, and all who come."""
        self._closed = True
        turned_away, self._waiting = self._waiting, {}
        for task in turned_away.values():
            trio.lowlevel.reschedule(task)


@final
class Taker:
    """The end from which one incarnation takes; to be closed by it, which leaves the line open."""

    __slots__ = ("_closed", "_given", "_line", "_task")

    def __init__(self, line: Line) -> None:
        self._line = line
        self._task: trio.lowlevel.Task | None = None
        self._given: Request | None = None
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @trio.lowlevel.enable_ki_protection
    async def receive(self) -> Request:
        """Take the request of the one who waits first, or wait for one.

        Raises:
          trio.ClosedResourceError: this end is closed, or was meanwhile.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._closed:
            raise trio.ClosedResourceError
        waiting = self._line._waiting
        if waiting:
            request = next(iter(waiting))
            request.is_taken = True
            trio.lowlevel.reschedule(waiting.pop(request))
            await trio.lowlevel.cancel_shielded_checkpoint()
            return request
        self._line._idle = self
        self._task = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(self._give_up)
        given, self._given = self._given, None
        if given is None:
            raise trio.ClosedResourceError
        return given

    def give(self, request: Request) -> None:
        """What it waits for."""
        request.is_taken = True
        self._given = request
        self._wake()

    @trio.lowlevel.enable_ki_protection
    def close(self) -> None:
        """Take nothing any more; wakes the task that waits."""
        self._closed = True
        if self._line._idle is self:
            self._wake()

    def _wake(self) -> None:
        assert self._task is not None
        self._line._idle = None
        trio.lowlevel.reschedule(self._task)

    def _give_up(self, _: object) -> trio.lowlevel.Abort:
        self._line._idle = None
        return trio.lowlevel.Abort.SUCCEEDED
