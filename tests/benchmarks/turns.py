"""CPU of a short turn: one question and its whole answer, one after the other."""

from __future__ import annotations

import gc
import time
from collections.abc import Awaitable, Callable

import trio

from .wire import Plan

Figures = dict[str, float]

_WARM_UP = 20


async def _repeat(turns: int, ask: Callable[[int], Awaitable[None]]) -> Figures:
    """Ask so often, each time with another number; seconds of CPU a turn."""
    for number in range(_WARM_UP):
        await ask(number)
    gc.collect()
    began = time.process_time()
    for number in range(_WARM_UP, _WARM_UP + turns):
        await ask(number)
    return {"cpu": (time.process_time() - began) / turns}


def ours(server: str, turns: int, events: int) -> Figures:
    """`query`, each time of another session, so that all requests are the same."""
    import trio_claude
    from trio_claude import SessionSpec

    plan = Plan(events - 1)
    text = plan.text()
    specs = [
        SessionSpec(
            name=number,
            base_url=f"http://{server}{plan.path()}",
            api_key="x",
            model="claude-benchmark",
            max_retries=0,
        )
        for number in range(_WARM_UP + turns)
    ]

    async def ask(number: int) -> None:
        result = await trio_claude.query(number, "Hi")
        assert result.result == text

    async def main() -> Figures:
        async with trio_claude.open_supervisor(specs):
            return await _repeat(turns, ask)

    return trio.run(main)


def floor(server: str, turns: int, events: int) -> Figures:
    """The same request by bare httpx, streamed and decoded."""
    from .floor import asking, count_words, open_client

    base_url = f"http://{server}{Plan(events - 1).path()}"

    async def main() -> Figures:
        async with open_client() as client:

            async def ask(_number: int) -> None:
                async with asking(client, base_url) as response:
                    assert await count_words(response.aiter_raw()) == events

            return await _repeat(turns, ask)

    return trio.run(main)
