"""Sessions that come and go in the middle of real HTTP answers, at random."""

from __future__ import annotations

import contextlib
import random
from collections import defaultdict

import pytest
import trio
import trio.testing

import trio_claude
from trio_claude import (
    MessagesBackend,
    ResultMessage,
    SessionCrashed,
    SessionSpec,
    TrioClaudeError,
    open_supervisor,
)
from trio_claude.simulator import open_simulator
from trio_claude.testing import crash

from .support import nothing_left

NAMES = [f"s{number}" for number in range(12)]
EXPECTED = (TrioClaudeError, trio.ClosedResourceError)


@pytest.mark.parametrize("seed", range(3))
async def test_twelve_sessions_on_four_connections(seed: int) -> None:
    """Crashed, restarted, interrupted, cleared, cancelled and left at random moments: afterwards every
    connection can be used, and no conversation has a turn in it whose caller got no result."""
    chance = random.Random(seed)
    answered: dict[str, str] = {}
    counts: dict[str, int] = defaultdict(int)

    async def ask(name: str) -> None:
        for _ in range(12):
            counts[name] += 1
            prompt = f"question {counts[name]} of {name}"
            with contextlib.suppress(*EXPECTED), trio.move_on_after(chance.choice([0.02, 5, 5])):
                leave_after = chance.choice([3, 1000, 1000])
                async with trio_claude.stream(name, prompt) as events:
                    async for event in events:
                        if isinstance(event, ResultMessage):
                            answered[prompt] = event.result
                        leave_after -= 1
                        if leave_after == 0:
                            break

    async def disturb(supervisor: trio_claude.Supervisor) -> None:
        for _ in range(60):
            await trio.sleep(0.005)
            with contextlib.suppress(*EXPECTED), trio.move_on_after(chance.choice([0.01, 5])):
                session = supervisor.get_session(chance.choice(NAMES))
                match chance.choice(["crash", "restart", "interrupt", "clear"]):
                    case "crash":
                        await crash(session, SessionCrashed("on purpose"))
                    case "restart":
                        await supervisor.restart_session(session)
                    case "interrupt":
                        await session.interrupt()
                    case "clear":
                        await session.clear()

    with trio.fail_after(60):
        async with open_simulator(pace=0.001) as simulator, nothing_left():
            backend = MessagesBackend(max_connections=4)
            specs = [
                SessionSpec(
                    name=name,
                    backend=backend,
                    base_url=simulator.base_url,
                    api_key="any",
                    model="claude-haiku-4-5",
                    shutdown=chance.choice([0, 0.05, 1]),
                )
                for name in NAMES
            ]
            async with open_supervisor(specs, max_restarts=1000) as supervisor:
                async with trio.open_nursery() as nursery:
                    for name in NAMES:
                        nursery.start_soon(ask, name)
                    nursery.start_soon(disturb, supervisor)

                for name in NAMES:  # one that was crashed while it was being restarted stays down
                    if trio_claude.whereis(name) is None:
                        await supervisor.restart_session(name)
                holds = [simulator.hold_next() for _ in range(4)]
                async with trio.open_nursery() as nursery:
                    for name in NAMES[:4]:
                        nursery.start_soon(trio_claude.query, name, "the last one")
                    for hold in holds:
                        await hold.started.wait()  # four at once: no slot is lost
                    for hold in holds:
                        hold.release()
        bodies = [request.body for request in simulator.requests if request.path == "/v1/messages"]

    assert len(answered) > 10
    assert len(bodies) > len(answered)
    for body in bodies:
        assert body is not None
        *history, question = body["messages"]
        assert "user" == question["role"]
        for asked, answer in zip(history[::2], history[1::2], strict=True):
            assert ("user", "assistant") == (asked["role"], answer["role"])
            assert answered[_text(asked["content"])] == _text(answer["content"])


def _text(content: str | list[dict[str, str]]) -> str:
    return content if isinstance(content, str) else "".join(block["text"] for block in content)
