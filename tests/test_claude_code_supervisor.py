"""What the page of ClaudeCode.Supervisor promises, one test each, over real HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

import trio_claude
from trio_claude import (
    Global,
    LocalRegistry,
    SessionCrashed,
    SessionNotFound,
    SessionOptions,
    SessionSpec,
    SessionTerminated,
    Supervisor,
    TextDelta,
    Via,
    open_supervisor,
)
from trio_claude.simulator import Simulator, open_simulator
from trio_claude.testing import crash

LEARN = "My favorite language is Python"
ASK = "What's my favorite language?"


@asynccontextmanager
async def _service() -> AsyncIterator[Simulator]:
    """A simulator that the application is configured for."""
    with trio.fail_after(30):
        async with open_simulator() as simulator:
            trio_claude.configure(base_url=simulator.base_url, api_key="a dummy")
            try:
                yield simulator
            finally:
                trio_claude.configure()


def _names(supervisor: Supervisor) -> list[object]:
    return [info.name for info in supervisor.list_sessions()]


async def test_predefined_sessions() -> None:
    """Sessions given at the start are there, under their names, with their options."""
    async with (
        _service() as simulator,
        open_supervisor(
            [
                SessionSpec(name="code_reviewer", system_prompt="You are an expert reviewer"),
                SessionSpec(name="test_writer", system_prompt="You write tests"),
            ]
        ) as supervisor,
    ):
        assert ["code_reviewer", "test_writer"] == _names(supervisor)
        for name in ("code_reviewer", "test_writer"):
            assert str(await trio_claude.query(name, "Hello"))
        systems = [request.body["system"] for request in simulator.requests if request.body]
    assert ["You are an expert reviewer", "You write tests"] == systems


async def test_global_and_via_names() -> None:
    """A session is found by a global name, and by a registry of the user's."""
    registry = LocalRegistry()
    reviewer = Via(registry, "reviewer")
    async with (
        _service(),
        open_supervisor([SessionSpec(name=Global("main")), SessionSpec(name=reviewer)]),
    ):
        await trio_claude.query(Global("main"), LEARN)
        assert "Python" in str(await trio_claude.query(Global("main"), ASK))
        assert "don't know" in str(await trio_claude.query(reviewer, ASK))
        assert ("reviewer",) == registry.keys()
        for unknown in ("main", "reviewer", Via(LocalRegistry(), "reviewer")):
            with pytest.raises(SessionNotFound):
                await trio_claude.query(unknown, ASK)
    assert () == registry.keys()


async def test_an_empty_supervisor_filled_dynamically_and_emptied_again() -> None:
    """It begins with nothing, has what is started, and is empty once all is terminated."""
    async with _service(), open_supervisor() as supervisor:
        assert () == supervisor.list_sessions()
        for number in range(3):
            session = await supervisor.start_session(SessionSpec(name=f"user {number}"))
            await session.query("Hello")
        assert 3 == supervisor.count_sessions()
        for number in range(3):
            await supervisor.terminate_session(f"user {number}")
        assert (0, ()) == (supervisor.count_sessions(), supervisor.list_sessions())
        assert trio_claude.whereis("user 0") is None


async def test_query_and_stream_by_name() -> None:
    """Both ways to ask, by nothing but the name, give the same kind of answer."""
    async with _service(), open_supervisor([SessionSpec(name="a")]):
        await trio_claude.query("a", LEARN)
        async with trio_claude.stream("a", ASK) as events:
            pieces = [event.text async for event in events if isinstance(event, TextDelta)]
        assert "Python" in "".join(pieces)
        assert len(pieces) > 1


async def test_crash_restart_same_name_empty_conversation_others_untouched() -> None:
    """A session that crashes in a turn comes back by itself; the others don't notice."""
    async with (
        _service() as simulator,
        open_supervisor([SessionSpec(name="a"), SessionSpec(name="b")]) as supervisor,
    ):
        before = trio_claude.get_session("a")
        for name in "ab":
            await trio_claude.query(name, LEARN)
        hold = simulator.hold_next()
        async with trio.open_nursery() as nursery:

            async def ask() -> None:
                with pytest.raises(SessionCrashed):
                    await trio_claude.query("a", "Tell me more")

            nursery.start_soon(ask)
            await hold.started.wait()
            await crash(before)
        await hold.ended.wait()  # the turn has ended at its source

        assert "don't know" in str(await trio_claude.query("a", ASK))
        assert "Python" in str(await trio_claude.query("b", ASK))
        assert before is trio_claude.get_session("a")
        assert [(2, 1), (1, 0)] == [
            (info.incarnation, info.restarts) for info in supervisor.list_sessions()
        ]


async def test_application_configuration_inherited_and_overridden() -> None:
    """What the application says holds where the spec and the call say nothing."""
    async with _service() as simulator:
        trio_claude.configure(
            base_url=simulator.base_url, api_key="a dummy", max_tokens=11, model="claude-haiku-4-5"
        )
        async with open_supervisor(
            [SessionSpec(name="a"), SessionSpec(name="b", max_tokens=22)],
            defaults=SessionOptions(temperature=0.5),
        ):
            await trio_claude.query("a", "Hello")
            await trio_claude.query("b", "Hello")
            await trio_claude.query("b", "Hello", max_tokens=33, temperature=0.25)
        bodies = [request.body for request in simulator.requests if request.body]
    assert [(11, 0.5), (22, 0.5), (33, 0.25)] == [
        (body["max_tokens"], body["temperature"]) for body in bodies
    ]
    assert {"claude-haiku-4-5"} == {body["model"] for body in bodies}


async def test_count() -> None:
    """Sessions that run are counted; one that was stopped is known and not counted."""
    specs = [SessionSpec(name="a"), SessionSpec(name="b", restart="transient")]
    async with _service(), open_supervisor(specs) as supervisor:
        assert 2 == supervisor.count_sessions()
        await trio_claude.get_session("b").stop()
        await trio.testing.wait_all_tasks_blocked()
        assert 1 == supervisor.count_sessions()
        assert 2 == len(supervisor.list_sessions())


async def test_list() -> None:
    """The list has every session with its name, state and handle, in start order."""
    async with _service(), open_supervisor([SessionSpec(name="a")]) as supervisor:
        await supervisor.start_session(SessionSpec(name="b"))
        listed = supervisor.list_sessions()
        assert ["a", "b"] == [info.name for info in listed]
        assert {"running"} == {info.status for info in listed}
        assert str(await listed[1].handle.query("Hello"))


async def test_restart() -> None:
    """A running session is restarted: the same name, an empty conversation."""
    async with _service(), open_supervisor([SessionSpec(name="a")]) as supervisor:
        await trio_claude.query("a", LEARN)
        await supervisor.restart_session("a")
        assert "don't know" in str(await trio_claude.query("a", ASK))
        assert 1 == supervisor.count_sessions()


async def test_start_with_options() -> None:
    """A session that is started later has the options of its spec."""
    async with _service() as simulator, open_supervisor() as supervisor:
        session = await supervisor.start_session(
            SessionSpec(
                name="a",
                model="claude-opus-4-5",
                system_prompt="Be brief.",
                append_system_prompt="Be kind.",
                stop_sequences=["END"],
            )
        )
        await session.query("Hello")
        body = simulator.requests[-1].body
    assert body is not None
    assert "Be brief.\n\nBe kind." == body["system"]
    assert ("claude-opus-4-5", ["END"]) == (body["model"], body["stop_sequences"])


async def test_start_with_a_custom_child_id() -> None:
    """The supervisor knows it by the id, the run by the name."""
    async with _service(), open_supervisor() as supervisor:
        await supervisor.start_session(SessionSpec(name="a"), id="child 1")
        assert "child 1" == supervisor.list_sessions()[0].id
        await supervisor.restart_session("child 1")
        assert str(await trio_claude.query("a", "Hello"))
        await supervisor.terminate_session("child 1")
        assert 0 == supervisor.count_sessions()


async def test_terminate() -> None:
    """A session that is terminated is gone: its handle says so, and its name is unknown."""
    async with _service(), open_supervisor([SessionSpec(name="a")]) as supervisor:
        session = trio_claude.get_session("a")
        await supervisor.terminate_session("a")
        with pytest.raises(SessionTerminated):
            await session.query("Hello")
        with pytest.raises(SessionNotFound, match="no session is named 'a'"):
            await trio_claude.query("a", "Hello")
        with pytest.raises(SessionNotFound):
            await supervisor.terminate_session("a")
