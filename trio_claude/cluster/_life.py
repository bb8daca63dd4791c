"""One life of a process in the cluster: from its connection to the end of that, and why it ended."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, final

import trio

from .._errors import ClusterError
from .._session.context import current_run
from ._doors import DoorLost

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


@final
class Life:
    """That of this process.

    Args:
      namespace: Ray's.
      door: the name of the actor that takes calls for it.
      nursery: of the connection's tasks.
    """

    def __init__(self, namespace: str, door: str, nursery: trio.Nursery) -> None:
        self.namespace = namespace
        self.door = door
        self.run = current_run()
        self.number = time.time_ns()
        """Greater than that of the life before, if Ray has started this process again."""
        self.body = trio.CancelScope()
        """Of the user's block, which is cancelled when the connection is lost."""
        self.closing = False
        """Whether it ends soon, so that names needn't be freed one by one."""
        self.ended = False
        self.plans: dict[str, bytes] = {}
        """What the actors of this process's groups are to do, by their doors."""
        self.failure: ClusterError | None = None
        self._nursery = nursery

    def check(self) -> None:
        """Raise ClusterError if it has ended."""
        if self.ended:
            raise self.end_error()

    def end_error(self) -> ClusterError:
        """What is raised once it has ended."""
        if self.failure is None:
            return ClusterError("the connection to the cluster has ended: its block was left")
        error = ClusterError(str(self.failure))  # one for each who is told
        error.__cause__ = self.failure.__cause__
        return error

    def start_soon(self, function: Callable[..., Awaitable[object]], *args: Any) -> None:
        """Have something done beside; nothing any more once it has ended."""
        if not self.ended:
            self._nursery.start_soon(function, *args)

    async def keep(self, task: Callable[..., Awaitable[None]], *args: Any, **kwargs: Any) -> None:
        """Do what it can't go on without."""
        try:
            await task(*args, **kwargs)
        except Exception as exc:
            self.fail(exc)

    def fail(self, cause: Exception) -> None:
        """The connection is lost, unless it ends anyway; the first cause is the one."""
        if self.failure is not None or self.ended:
            return
        if isinstance(cause, ClusterError):
            self.failure = cause
        else:
            self.failure = ClusterError(f"the connection to the cluster is lost: {why(cause)}")
            self.failure.__cause__ = cause
        self.closing = True
        self.body.cancel(reason="the connection to the cluster is lost")


def why(exc: BaseException) -> str:
    """What an error says, in a line."""
    if isinstance(exc, DoorLost):
        return exc.why
    return str(exc).strip().partition("\n")[0] or type(exc).__name__
