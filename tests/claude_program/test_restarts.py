"""The real program killed, restarted, and resumed."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import trio

from trio_claude import (
    ProcessError,
    SessionCrashed,
    SessionHandle,
    SessionReady,
    SupervisorEvent,
    open_session,
    open_supervisor,
)
from trio_claude.simulator import Simulator, open_simulator

from .support import (
    ASK,
    LEARN,
    LEARN_IN_VAIN,
    PATIENCE,
    Claude,
    conversations,
    kill,
    processes_in,
    read_to_text,
)


async def test_killed_in_mid_answer(claude: Claude) -> None:
    """The caller is told, the supervisor starts another one, and that one is fresh."""
    with trio.fail_after(PATIENCE):
        async with open_simulator() as simulator:
            async with open_supervisor([claude.spec(simulator, name="it")]) as supervisor:
                session = supervisor.get_session("it")
                await session.query(LEARN)
                simulator.hold_next()
                with pytest.raises(SessionCrashed) as caught:
                    async with session.stream(LEARN_IN_VAIN) as stream:
                        await read_to_text(stream)
                        await kill(session)
                        async for _ in stream:
                            pass
                cause = caught.value.__cause__
                assert isinstance(cause, ProcessError)
                assert cause.exit_code == -9
                assert str(await session.query(ASK)).startswith("I don't know")
                assert session.session_id is not None
                assert len(conversations(simulator)[-1].body["messages"][0]["content"]) > 0
            assert "Rebmuno" not in str(conversations(simulator)[-1].body)


async def test_killed_between_turns(claude: Claude) -> None:
    """Nobody asks, and it is started again all the same."""
    ready: list[SessionReady] = []
    started_again = trio.Event()

    def note(event: SupervisorEvent) -> None:
        if isinstance(event, SessionReady):
            ready.append(event)
            if event.incarnation == 2:
                started_again.set()

    with trio.fail_after(PATIENCE):
        async with open_simulator() as simulator:
            spec = claude.spec(simulator, name="it")
            async with open_supervisor([spec], on_event=note) as supervisor:
                session = supervisor.get_session("it")
                await session.query(LEARN)
                await kill(session)
                await started_again.wait()
                assert str(await session.query(ASK)).startswith("I don't know")
    assert [event.resumed for event in ready] == [False, False]


async def test_the_last_conversation_is_resumed(claude: Claude) -> None:
    """With ``resume="last"`` the killed one's conversation goes on, without what it died in."""
    ready: list[bool] = []

    def note(event: SupervisorEvent) -> None:
        if isinstance(event, SessionReady):
            ready.append(event.resumed)

    with trio.fail_after(PATIENCE):
        async with open_simulator() as simulator:
            spec = claude.spec(simulator, name="it", resume="last")
            async with open_supervisor([spec], on_event=note) as supervisor:
                session = supervisor.get_session("it")
                told = await session.query(LEARN)
                await kill_in_turn(claude, session, simulator)
                known = await session.query(ASK)
                assert str(known).startswith("Your favorite language is Python.")
                assert known.session_id == told.session_id
                assert ready == [False, True]
                # The cost goes on where the killed process was, and is of the turn all the same.
                assert known.total_cost_usd is not None
                assert told.total_cost_usd is not None
                assert 0 < known.total_cost_usd < 1.5 * told.total_cost_usd
                # Fresh, when it is asked for.
                await session.clear()
                assert str(await session.query(ASK)).startswith("I don't know")


async def kill_in_turn(claude: Claude, session: SessionHandle, simulator: Simulator) -> None:
    """Kill the program in the middle of an answer that is in vain, and of which it kept a note."""
    simulator.hold_next()
    with pytest.raises(SessionCrashed):
        async with session.stream(LEARN_IN_VAIN) as stream:
            await read_to_text(stream)
            # It writes behind its answers, and whoever waits for that can only look.
            while LEARN_IN_VAIN not in claude.transcripts():  # noqa: ASYNC110
                await trio.sleep(0.01)
            await kill(session)
            async for _ in stream:
                pass


async def test_a_conversation_goes_on_in_another_session(claude: Claude) -> None:
    """The last one of the directory, or one by its id; a fork of it is another one."""
    with trio.fail_after(PATIENCE):
        async with open_simulator() as simulator:
            async with open_session(**claude.options(simulator)) as session:
                first = await session.query(LEARN)
            last = claude.options(simulator, continue_conversation=True)
            async with open_session(**last) as session:
                again = await session.query(ASK)
            fork = claude.options(simulator, resume=first.session_id, fork_session=True)
            async with open_session(**fork) as session:
                forked = await session.query(ASK)
    for answer in (again, forked):
        assert str(answer).startswith("Your favorite language is Python.")
    assert again.session_id == first.session_id
    assert forked.session_id not in {first.session_id, None}


async def test_an_id_that_is_not_there(claude: Claude) -> None:
    """The start fails at once, with what the program said."""
    nobody = "00000000-0000-4000-8000-000000000000"
    with trio.fail_after(PATIENCE):
        async with open_simulator() as simulator:
            with pytest.raises(ProcessError) as caught:
                async with open_session(**claude.options(simulator, resume=nobody)):
                    raise AssertionError("it has started")
    assert caught.value.exit_code == 1
    assert f"No conversation found with session ID: {nobody}" in caught.value.stderr
    assert nobody in str(caught.value)


PARENT = """
import json, os, sys
import trio, trio_claude

async def main(cli_path, options):
    backend = trio_claude.CLIBackend(cli_path=cli_path)
    async with trio_claude.open_session(backend=backend, **json.loads(options)) as session:
        await session.query("Hello")
        print((await session.server_info())["pid"], flush=True)
        await trio.sleep_forever()

trio.run(main, *sys.argv[1:])
"""


async def test_it_does_not_outlive_us(claude: Claude) -> None:
    """Whoever kills the program that has the session outright kills claude, too."""
    with trio.fail_after(PATIENCE):
        async with open_simulator() as simulator:
            options = claude.options(simulator, cwd=str(claude.cwd))
            del options["backend"]
            parent = await trio.lowlevel.open_process(
                [sys.executable, "-c", PARENT, str(claude.backend.cli_path), json.dumps(options)],
                stdout=subprocess.PIPE,
            )
            assert parent.stdout is not None
            async with parent.stdout:
                pid = int(await parent.stdout.receive_some())
                gone = os.pidfd_open(pid)
                parent.kill()
                await parent.wait()
                await trio.lowlevel.wait_readable(gone)
                os.close(gone)
                await all_gone(claude)


async def all_gone(claude: Claude) -> None:
    """Wait until the guardian has done its work; there is nobody left to say so."""
    while any(processes_in(claude.home)):  # noqa: ASYNC110
        await trio.sleep(0.01)
