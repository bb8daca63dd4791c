"""A nursery inside a block of ours that nobody is to see."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@asynccontextmanager
async def open_hidden_nursery() -> AsyncIterator[trio.Nursery]:
    """Run tasks for the length of a block, and cancel them at its end.

    What the block raises leaves as it was raised: the very object, and never in a group. What a task
    raises cancels the block, and leaves in a group: tasks in here are not to raise.
    """
    raised: BaseException | None = None
    try:
        async with trio.open_nursery() as nursery:
            try:
                yield nursery
            except trio.Cancelled:
                raise
            except BaseException as exc:
                raised = exc  # around the nursery, which would put it into a group
            finally:
                nursery.cancel_scope.cancel(reason="the block has ended")
    finally:
        try:
            if raised is not None:
                raise raised
        finally:
            del raised  # its traceback holds this frame: no cycle for the collector
