"""The test kit: killing a session as a fault would, and what may be imported without what."""

import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import trio_claude
from trio_claude import (
    Backoff,
    ConfigurationError,
    SessionCrashed,
    SessionHandle,
    SessionSpec,
    SessionTerminated,
    Supervisor,
    UsageError,
)
from trio_claude.testing import ScriptedBackend, ScriptedTurn, crash


@asynccontextmanager
async def one_session(
    backend: ScriptedBackend, *, backoff: Backoff | None = None, **options: Any
) -> AsyncIterator[tuple[Supervisor, SessionHandle]]:
    """A supervisor of one session, and that."""
    spec = SessionSpec(name="it", backend=backend, **options)
    async with trio_claude.open_supervisor([spec], backoff=backoff) as supervisor:
        yield supervisor, supervisor.get_session("it")


async def test_a_crash_looks_like_a_fault(autojump_clock: MockClock) -> None:
    """The turn in flight fails from it, and the session comes back with an empty conversation."""
    fault = ValueError("out of luck")
    async with one_session(ScriptedBackend()) as (supervisor, session):
        await session.query("My name is Ada")
        async with session.stream("What's my name?") as events:
            await events.receive()
            await crash(session, fault)
            with pytest.raises(SessionCrashed) as caught:
                async for _ in events:
                    pass
        assert caught.value.__cause__ is fault
        assert "I don't know your name" in str(await session.query("What's my name?"))
        (info,) = supervisor.list_sessions()
        assert (info.restarts, info.last_error) == (1, fault)


async def test_a_crash_without_a_cause_says_that_it_was_on_purpose(
    autojump_clock: MockClock,
) -> None:
    """Whoever meets it in a log knows where it came from."""
    async with one_session(ScriptedBackend()) as (supervisor, session):
        await crash(session)
        await session.query("Hello")
        (info,) = supervisor.list_sessions()
        assert isinstance(info.last_error, RuntimeError)
        assert str(info.last_error) == "session 'it' was crashed on purpose"


async def test_it_returns_once_the_incarnation_has_ended(autojump_clock: MockClock) -> None:
    """Its conversation is closed by then."""
    backend = ScriptedBackend()
    async with one_session(backend, backoff=Backoff(1.0)) as (_, session):
        await crash(session)
        assert backend.conversations == 0
        await session.query("Hello")
        assert backend.conversations == 1


async def test_a_session_can_crash_itself(autojump_clock: MockClock) -> None:
    """From inside its own turn it does not wait for itself: the fault comes at once."""
    reached = False

    async def answer(turn: ScriptedTurn) -> str:
        nonlocal reached
        if turn.prompt == "die":
            await crash(trio_claude.get_session("it"))
            reached = True
        return "alive"

    async with one_session(ScriptedBackend(answer)) as (_, session):
        with pytest.raises(SessionCrashed, match="on purpose"):
            await session.query("die")
        assert not reached
        assert str(await session.query("and?")) == "alive"


async def test_a_session_can_crash_itself_inside_of_a_shield(autojump_clock: MockClock) -> None:
    """Not even there does it wait for its own end: the fault comes where the shield ends."""
    reached: list[str] = []

    async def answer(_: ScriptedTurn) -> str:
        with trio.CancelScope(shield=True):
            await crash(trio_claude.get_session("it"))
            reached.append("the end of the shield")
        await trio.lowlevel.checkpoint()
        raise AssertionError

    async with one_session(ScriptedBackend(answer)) as (_, session):
        with trio.fail_after(5), pytest.raises(SessionCrashed, match="on purpose"):
            await session.query("die")
        assert reached == ["the end of the shield"]


async def test_a_session_can_crash_while_it_starts_again(autojump_clock: MockClock) -> None:
    """A start that fails is a fault like another."""
    opened = 0

    async def open_slowly(_: object) -> None:
        nonlocal opened
        opened += 1
        await trio.sleep(1 if opened == 2 else 0)

    async with one_session(ScriptedBackend(on_open=open_slowly)) as (_, session):
        await crash(session)
        await wait_all_tasks_blocked()
        assert session.status == "restarting"
        await crash(session)
        await session.query("Hello")
        assert opened == 3


async def test_what_is_not_there_cannot_crash(autojump_clock: MockClock) -> None:
    """While a delay passes before its restart, and after it was terminated."""
    async with one_session(ScriptedBackend(), backoff=Backoff(5.0)) as (supervisor, session):
        await crash(session)
        with pytest.raises(UsageError, match="session 'it' has ended, and is not up again yet"):
            await crash(session)
        await wait_all_tasks_blocked()
        with pytest.raises(UsageError, match="session 'it' has ended, and is not up again yet"):
            await crash(session)
        await supervisor.terminate_session("it")
        with pytest.raises(SessionTerminated, match="session 'it' is stopped"):
            await crash(session)


async def test_a_crash_that_is_cancelled(autojump_clock: MockClock) -> None:
    """At the door nothing happens; while it waits for the end, the session crashes all the same."""

    async def hold_on(_: ScriptedTurn) -> str:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(1)
        raise AssertionError

    async with one_session(ScriptedBackend(hold_on)) as (supervisor, session):
        with trio.CancelScope() as scope:
            scope.cancel()
            await crash(session)
        assert scope.cancelled_caught
        async with trio.open_nursery() as nursery:
            nursery.start_soon(expect_crash, session)
            await wait_all_tasks_blocked()
            with trio.move_on_after(0.5) as scope:
                await crash(session)
            assert scope.cancelled_caught
        await wait_all_tasks_blocked()
        (info,) = supervisor.list_sessions()
        assert info.restarts == 1


async def expect_crash(session: SessionHandle) -> None:
    """Ask, and lose the turn."""
    with pytest.raises(SessionCrashed):
        await session.query("Hello")


async def test_crash_refuses_what_it_cannot_use(autojump_clock: MockClock) -> None:
    """A name for a handle; a class, a text and a BaseException for an exception."""
    async with one_session(ScriptedBackend()) as (_, session):
        with pytest.raises(ConfigurationError, match="handle must be a SessionHandle, not 'it'"):
            await crash("it")  # type: ignore[arg-type]
        for bad in (ValueError, "boom", KeyboardInterrupt()):
            with pytest.raises(ConfigurationError, match="exc must be an Exception, not "):
                await crash(session, bad)  # type: ignore[arg-type]
        assert session.is_alive()


async def test_crash_refuses_another_run(autojump_clock: MockClock) -> None:
    """A handle belongs to its run."""
    async with one_session(ScriptedBackend()) as (_, session):

        async def elsewhere() -> None:
            with pytest.raises(UsageError, match="another Trio run"):
                await crash(session)

        await trio.to_thread.run_sync(trio.run, elsewhere)
        assert session.is_alive()


def python(program: str) -> str:
    """What a fresh interpreter prints."""
    return subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    ).stdout.strip()


def test_the_kit_needs_no_test_library() -> None:
    """Importing it imports neither pytest nor hypothesis nor hypercorn."""
    shown = python(
        "import sys, trio_claude.testing\n"
        "print({'pytest', 'hypothesis', 'hypercorn'} & sys.modules.keys())"
    )
    assert shown == "set()"


def test_strategies_without_hypothesis_say_what_to_install() -> None:
    """Where it is missing, the import says so, and how to get it."""
    shown = python(
        "import sys\n"
        "sys.modules['hypothesis'] = None\n"
        "try:\n"
        "    import trio_claude.testing.strategies\n"
        "except ModuleNotFoundError as error:\n"
        "    print(error.name, '|', error)\n"
    )
    assert shown == (
        "hypothesis | trio_claude.testing.strategies needs hypothesis: pip install hypothesis"
    )


def test_names_say_where_they_are_imported_from() -> None:
    """In a traceback and in the reference."""
    assert crash.__module__ == ScriptedBackend.__module__ == "trio_claude.testing"


TEST_OF_A_USER = """
import pytest
import trio_claude
from trio_claude import SessionSpec

pytest_plugins = ["trio_claude.testing.fixtures"]

async def test_first(simulator):
    async with trio_claude.open_supervisor([SessionSpec(name="a")]):
        await trio_claude.query("a", "My favorite language is Python")
        said = await trio_claude.query("a", "What's my favorite language?")
    assert "Python" in str(said)
    (path,) = {request.path for request in simulator.requests if request.method == "POST"}
    assert path == "/v1/messages"

@pytest.fixture
def configured():
    trio_claude.configure(api_key="my own", timeout=7.0)

async def test_second(configured, simulator):
    assert simulator.requests == ()
    simulator.fail_next(400)
    async with trio_claude.open_session() as session:
        with pytest.raises(trio_claude.BadRequestError):
            await session.query("Hello")

def test_afterwards():
    from trio_claude import _options
    assert _options._application == trio_claude.SessionOptions(api_key="my own", timeout=7.0)
"""


def test_the_fixture_gives_a_simulator_that_sessions_talk_to(tmp_path: Any) -> None:
    """In a test of a user's: no options needed, a fresh one each, and his own come back."""
    (tmp_path / "test_user.py").write_text(TEST_OF_A_USER)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-W", "error"]
    done = subprocess.run(
        [*command, "-o", "trio_mode=true", str(tmp_path)],
        check=False,
        capture_output=True,
        cwd=tmp_path,
        text=True,
    )
    assert "3 passed" in done.stdout, done.stdout + done.stderr
