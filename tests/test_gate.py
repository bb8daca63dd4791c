"""One rate limit, many sessions: who is held back, and for how long."""

from __future__ import annotations

import trio
import trio.testing
from trio.testing import MockClock

import trio_claude
from trio_claude import MessagesBackend, SessionSpec, open_supervisor
from trio_claude._backends.messages_api.gate import Gate
from trio_claude.simulator import open_simulator


async def test_requests_with_the_key_wait_and_others_do_not(autojump_clock: MockClock) -> None:
    """As long as was asked, and a little spread; the longest pause holds; then it is open."""
    gate = Gate()
    gate.close("a", 10)
    gate.close("a", 3)
    began = trio.current_time()
    await gate.wait("b")
    assert began == trio.current_time()

    back: list[float] = []

    async def wait() -> None:
        await gate.wait("a")
        back.append(trio.current_time() - began)

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(wait)
    assert 10 <= min(back) < max(back) <= 11
    later = trio.current_time()
    await gate.wait("a")
    assert later == trio.current_time()


async def test_a_pause_that_is_prolonged_meanwhile(autojump_clock: MockClock) -> None:
    """Whoever waits waits on, if the service asks for more."""
    gate = Gate()
    gate.close("a", 1)
    async with trio.open_nursery() as nursery:

        async def prolong() -> None:
            await trio.sleep(0.5)
            gate.close("a", 10)

        nursery.start_soon(prolong)
        await gate.wait("a")
    assert 10.5 <= trio.current_time()


async def test_one_refusal_holds_back_all_sessions_of_the_key() -> None:
    """After a 429 with retry-after, no other session with that key asks before it is over; one
    with another key, or without retries, does."""
    with trio.fail_after(20):
        async with open_simulator() as simulator:
            backend = MessagesBackend()
            model = "claude-haiku-4-5"
            specs = [
                SessionSpec(
                    name=name,
                    api_key=key,
                    base_url=simulator.base_url,
                    backend=backend,
                    model=model,
                )
                for name, key in (("a", "one"), ("b", "one"), ("c", "two"))
            ]
            times: dict[str, float] = {}

            async def ask(name: str, **options: object) -> None:
                await trio_claude.query(name, "Hi", **options)  # type: ignore[arg-type]
                times[name] = trio.current_time() - began

            async with open_supervisor(specs):
                simulator.fail_next(429, retry_after=0.4)
                began = trio.current_time()
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(ask, "a")
                    while not simulator.requests:
                        await trio.lowlevel.checkpoint()
                    await trio.sleep(0.1)  # its answer is on its way
                    nursery.start_soon(ask, "b")
                    nursery.start_soon(ask, "c")
            assert times["a"] >= 0.4
            assert times["b"] >= 0.4
            assert times["c"] < 0.4
            assert 4 == len(simulator.requests)


async def test_without_retries_nobody_waits() -> None:
    """max_retries=0 means an answer or an error now."""
    with trio.fail_after(20):
        async with open_simulator() as simulator:
            async with trio_claude.open_session(
                base_url=simulator.base_url, api_key="any", model="claude-haiku-4-5", max_retries=0
            ) as session:
                simulator.fail_next(429, retry_after=100)
                try:
                    await session.query("Hi")
                except trio_claude.RateLimitError as exc:
                    assert 100 == exc.retry_after  # noqa: PT017
                await session.query("Hi")
