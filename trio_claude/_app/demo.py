"""``trio-claude demo``: the story, a service to play it on, and somebody who looks on."""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

from .. import SessionOptions
from ..simulator import open_simulator
from .board import Board
from .story import TOP, Claim, Story
from .terminal import complain
from .view import choose_view

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

# Seconds between two words of a simulated answer, and between two acts; the rest is as fast as it
# can be. Together they make ten seconds.
PACE = 0.04
PAUSE = 0.4
# Seconds for all of it, on the simulator and on the service.
LIMIT, LIVE_LIMIT = 18.0, 120.0


async def demo(*, live: bool) -> int:
    """Play it, and give the exit status: 1 if anything of it did not happen."""
    view = choose_view()
    async with _service(live) as (options, count_requests):
        board = Board(TOP, view)
        story = Story(board, defaults=options, pause=PAUSE)
        with trio.move_on_after(LIVE_LIMIT if live else LIMIT) as scope:
            async with view.showing(board):
                await story.tell()
        claims = story.claims(count_requests())
        ended = f"ended by itself: {'no' if scope.cancelled_caught else 'yes'}"
        claims.append(Claim(f"{ended}, after {board.seconds:.1f} s", not scope.cancelled_caught))
    view.summary(claims)
    missing = [claim.text for claim in claims if not claim.holds]
    if missing:
        complain(f"not everything was shown: {'; '.join(missing)}")
        return 1
    return 0


@asynccontextmanager
async def _service(live: bool) -> AsyncIterator[tuple[SessionOptions, Callable[[], int | None]]]:
    """What answers: the options that say where, and how many questions came there."""
    if live:
        yield SessionOptions(max_tokens=300), lambda: None
        return
    # A proxy that the environment names knows nothing of this computer's own addresses.
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1"
    async with open_simulator(api_key="simulated", pace=PACE) as simulator:
        options = SessionOptions(base_url=simulator.base_url, api_key="simulated", model="sonnet")
        yield options, lambda: sum(r.path == "/v1/messages" for r in simulator.requests)
