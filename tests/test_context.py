"""From where a call comes: the run, and the sessions whose code it is."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from trio_claude import UsageError, get_session, open_session, open_supervisor, query
from trio_claude._session.context import current_run, lives, require_run
from trio_claude._session.incarnation import Incarnation
from trio_claude.testing import ScriptedBackend, ScriptedTurn

from .support import inbox_of, spec


def test_outside_of_trio_there_is_no_run() -> None:
    """The message says how to get into one."""
    with pytest.raises(UsageError, match=r"inside a Trio run only: call it from a task") as raised:
        current_run()
    assert isinstance(raised.value.__cause__, RuntimeError)


async def test_each_run_is_another() -> None:
    """The same run passes, another one does not, and the message names whose it is."""
    token = current_run()
    require_run(token, "session 'a'")

    async def other() -> None:
        require_run(token, "session 'a'")

    with pytest.raises(UsageError, match="session 'a' belongs to another Trio run: call it there"):
        await trio.to_thread.run_sync(trio.run, other)


async def test_a_task_knows_whose_code_it_is() -> None:
    """Of a session, and of the tasks that it starts; not of its callers."""
    seen: list[tuple[Incarnation, ...]] = []

    async def answer(_: ScriptedTurn) -> str:
        async def look() -> None:
            seen.append(lives.get())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(look)
        seen.append(lives.get())
        return "done"

    async with open_session(backend=ScriptedBackend(answer)) as session:
        await session.query("hello")
        incarnation = inbox_of(session).incarnation
        assert lives.get() == ()
    assert seen == [(incarnation,), (incarnation,)]


async def test_a_session_inside_a_session_knows_both() -> None:
    """One that is opened in a turn of another one is inside of it, and can't ask it."""
    depth = []

    async def inner(_: ScriptedTurn) -> str:
        depth.append(len(lives.get()))
        with pytest.raises(UsageError, match="'outer' was asked from inside its own turn"):
            await query("outer", "hello")
        return "in"

    async def outer(_: ScriptedTurn) -> str:
        depth.append(len(lives.get()))
        async with open_session(backend=ScriptedBackend(inner)) as session:
            return str(await session.query("hello"))

    async with open_session(name="outer", backend=ScriptedBackend(outer)) as session:
        assert str(await session.query("hello")) == "in"
    assert depth == [1, 2]


async def test_a_session_cannot_wait_for_itself() -> None:
    """Asking, streaming and clearing would wait for ever; what does not wait is fine."""
    refused = []

    async def answer(_: ScriptedTurn) -> str:
        me = get_session("a")
        for ask in (lambda: me.query("hello"), me.clear):
            with pytest.raises(UsageError, match="was asked from inside its own turn"):
                await ask()
            refused.append(ask)
        with pytest.raises(UsageError, match="was asked from inside its own turn"):
            me.stream("hello")
        await me.stop()
        return "done"

    async with open_supervisor([spec("a", ScriptedBackend(answer), restart="transient")]):
        session = get_session("a")
        assert str(await session.query("hello")) == "done"
        await inbox_of(session).incarnation.wait_ended()  # type: ignore[union-attr]
    assert len(refused) == 2


async def test_a_task_of_an_earlier_life_may_ask(autojump_clock: MockClock) -> None:
    """What was started inside a session that has ended since is a caller like any other."""
    answers = []

    async with trio.open_nursery() as nursery:

        async def later() -> None:
            await trio.sleep(10)
            answers.append(str(await query("a", "from an earlier life")))

        async def answer(turn: ScriptedTurn) -> str:
            if turn.prompt == "first":
                nursery.start_soon(later)
            return turn.prompt

        async with open_supervisor([spec("a", ScriptedBackend(answer))]) as supervisor:
            await query("a", "first")
            await supervisor.restart_session("a")
            await trio.sleep(20)

    assert answers == ["from an earlier life"]
