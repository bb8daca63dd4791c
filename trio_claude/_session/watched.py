"""Something whose state others wait for."""

from __future__ import annotations

import trio


class Watched:
    """The base of what changes and is watched."""

    _change: trio.Event | None = None  # made when somebody waits: thousands live idly

    async def _wait(self) -> None:
        """Wait until it has changed."""
        if self._change is None:
            self._change = trio.Event()
        await self._change.wait()

    def _tell(self) -> None:
        """It has changed."""
        change, self._change = self._change, None
        if change is not None:
            change.set()
