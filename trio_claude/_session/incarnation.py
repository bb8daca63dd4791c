"""One life of a child: from its start to its end, and why it ended.

Why a child ended is what was *meant*, stored before the cancellation, never what its cancel scope
says afterwards: a child may have turned the cancellation into an error, or into a return.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

import trio

from .context import lives
from .watched import Watched

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

Intent: TypeAlias = Literal["restart", "terminate"]


class Incarnation(Watched):
    """One life of a child of a supervisor."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.started_at: float | None = None
        """When it was ready, on Trio's clock."""
        self.ended = False
        self.intent: Intent | None = None
        """What it is being stopped for; None while nobody stops it."""
        self.error: Exception | None = None
        """What it ended with; None for a normal end."""
        self.fatal: BaseException | None = None
        """What no supervisor may answer with a restart, such as KeyboardInterrupt."""
        self._fault: Exception | None = None
        self._asked_to_finish = False
        self._finish: Callable[[], None] | None = None
        # Shielded: when the supervisor's surroundings are cancelled, it is the supervisor that
        # stops its children, one after the other, in its order.
        self._scope = trio.CancelScope(shield=True)

    @property
    def ready(self) -> bool:
        """Whether it got up."""
        return self.started_at is not None

    @property
    def settled(self) -> bool:
        """Whether it got up, or has ended without."""
        return self.ready or self.ended

    @property
    def cancelled(self) -> bool:
        """Whether somebody has cut it off."""
        return self._scope.cancel_called

    @property
    def fault(self) -> Exception | None:
        """What :meth:`crash` was called with."""
        return self._fault

    def set_ready(self) -> None:
        """Called by the child once it is up."""
        self.started_at = trio.current_time()
        self._tell()

    async def wait_settled(self) -> None:
        """Wait until it is ready, or has ended without ever being so."""
        while not self.settled:
            await self._wait()

    async def wait_ended(self) -> None:
        """Wait until it has ended."""
        while not self.ended:
            await self._wait()

    def finish(self) -> None:
        """Ask it to finish what it does, and to end normally."""
        self._asked_to_finish = True
        if self._finish is not None:
            self._finish()

    def on_finish(self, finish: Callable[[], None]) -> None:
        """Called by the child: what to do when it is asked to finish, or has been already."""
        self._finish = finish
        if self._asked_to_finish:
            finish()

    def stop(self, intent: Intent) -> None:
        """Cancel it, for this reason."""
        if self.intent is None:
            self.intent = intent
        self._scope.cancel(reason=f"session stopped ({self.intent})")

    def crash(self, fault: Exception) -> None:
        """Let it end as if ``fault`` had been raised inside."""
        if self._fault is None and not self.ended:
            self._fault = fault
            self._scope.cancel(reason="session crashed")

    @trio.lowlevel.enable_ki_protection  # nobody would know that it has ended
    async def run(self, main: Callable[[Incarnation], Awaitable[None]]) -> None:
        """Live. Raises nothing: what ``main`` ends with is in ``error`` or ``fatal``."""
        lives.set((*lives.get(), self))
        try:
            # The scope is inside of the try: what it lets out has its own cancellation stripped.
            with self._scope:
                await main(self)
        except Exception as exc:
            self.error = exc
        except BaseException as exc:
            self.fatal = exc
        if self._fault is not None:
            self.error = self._fault
        self.ended = True
        self._tell()
