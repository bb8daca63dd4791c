"""What a handle asks of a program beside its turns: by which request, when, and of whom."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_claude import (
    Backend,
    Backoff,
    ConfigurationError,
    Connection,
    ControlError,
    Conversation,
    Event,
    SessionHandle,
    SessionOptions,
    SessionSpec,
    SessionTerminated,
    UsageError,
    get_session,
    open_session,
    open_supervisor,
)
from trio_claude._backends.base import Controllable
from trio_claude.testing import ScriptedBackend, ScriptedTurn, crash

from .support import hang, nothing_left, spec

JSON = Mapping[str, Any]


class ControllableBackend(Backend):
    """Answers turns as a script says, and keeps what it is asked besides.

    Args:
      script: for the turns.
      control: answers the requests; default: each with its conversation's number.
    """

    def __init__(
        self,
        script: ScriptedBackend | None = None,
        control: Callable[[JSON], Awaitable[JSON]] | None = None,
    ) -> None:
        self.script = ScriptedBackend() if script is None else script
        self.requests: list[JSON] = []
        self._control = control

    def connect(self) -> AbstractAsyncContextManager[Connection]:
        """Connect to the script."""
        return self._connect()

    @asynccontextmanager
    async def _connect(self) -> AsyncIterator[Connection]:
        async with self.script.connect() as connection:
            yield _Connection(self, connection)

    async def answer(self, request: JSON, number: int) -> JSON:
        """The answer to a request."""
        await trio.lowlevel.checkpoint()
        self.requests.append(request)
        return {"of": number} if self._control is None else await self._control(request)


class _Connection(Connection):
    def __init__(self, backend: ControllableBackend, scripted: Connection) -> None:
        self._backend = backend
        self._scripted = scripted

    @asynccontextmanager
    async def _open(self, options: SessionOptions) -> AsyncIterator[Conversation]:
        async with self._scripted.open(options) as conversation:
            yield _Conversation(self._backend, conversation)

    def open(self, options: SessionOptions) -> AbstractAsyncContextManager[Conversation]:
        return self._open(options)


class _Conversation(Conversation, Controllable):
    def __init__(self, backend: ControllableBackend, scripted: Conversation) -> None:
        self._backend = backend
        self._scripted = scripted
        self._number = backend.script.conversations_begun

    def turn(
        self, prompt: str, options: SessionOptions
    ) -> AbstractAsyncContextManager[trio.abc.ReceiveChannel[Event]]:
        return self._scripted.turn(prompt, options)

    async def control(self, request: JSON) -> JSON:
        return await self._backend.answer(request, self._number)

    async def info(self) -> JSON:
        return await self._backend.answer({"subtype": "info"}, self._number)


async def _slowly(options: SessionOptions) -> None:
    await trio.sleep(5)


Call = Callable[[SessionHandle], Awaitable[Any]]

CALLS: dict[str, tuple[Call, JSON]] = {
    "set_model": (
        lambda session: session.set_model("opus"),
        {"subtype": "set_model", "model": "opus"},
    ),
    "set_permission_mode": (
        lambda session: session.set_permission_mode("plan"),
        {"subtype": "set_permission_mode", "mode": "plan"},
    ),
    "mcp_status": (lambda session: session.mcp_status(), {"subtype": "mcp_status"}),
    "server_info": (lambda session: session.server_info(), {"subtype": "info"}),
    "context_usage": (lambda session: session.context_usage(), {"subtype": "get_context_usage"}),
    "rewind_files": (
        lambda session: session.rewind_files("u1"),
        {"subtype": "rewind_files", "user_message_id": "u1"},
    ),
}

every_call = pytest.mark.parametrize("name", CALLS)


# ---- what is asked ----


@every_call
async def test_what_the_program_is_asked(name: str) -> None:
    """One request, as the program takes it; what it answers is given as it is."""
    call, request = CALLS[name]
    backend = ControllableBackend()
    async with nothing_left(backend.script), open_session(backend=backend) as session:
        answer = await call(session)
        assert [request] == backend.requests
        assert (None if name.startswith("set_") else {"of": 1}) == answer


async def test_the_default_model() -> None:
    """None is the program's own."""
    backend = ControllableBackend()
    async with open_session(backend=backend) as session:
        await session.set_model(None)
    assert [{"subtype": "set_model", "model": None}] == backend.requests


async def test_files_can_be_rewound_on_trial() -> None:
    """Only said what would be done."""
    backend = ControllableBackend()
    async with open_session(backend=backend) as session:
        await session.rewind_files("u1", dry_run=True)
        await session.rewind_files("u1", dry_run=False)
    request = {"subtype": "rewind_files", "user_message_id": "u1"}
    assert [{**request, "dry_run": True}, request] == backend.requests


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (
            lambda session: session.set_model(""),
            "model must be the name of a model or None, not ''",
        ),
        (lambda session: session.set_model(" "), "model must be"),
        (lambda session: session.set_model(5), "model must be the name of a model or None, not 5"),
        (
            lambda session: session.set_permission_mode("all"),
            "mode must be one of .*plan.*, not 'all'",
        ),
        (lambda session: session.set_permission_mode(None), "mode must be one of"),
        (lambda session: session.rewind_files(""), "user_message_id must be the id of a prompt"),
        (
            lambda session: session.rewind_files(7),
            "user_message_id must be the id of a prompt, not 7",
        ),
    ],
)
async def test_arguments_are_checked(call: Call, match: str) -> None:
    """Before anybody is asked."""
    backend = ControllableBackend()
    async with open_session(backend=backend) as session:
        with pytest.raises(ConfigurationError, match=match):
            await call(session)
    assert [] == backend.requests


async def test_a_refusal_is_the_callers_alone() -> None:
    """The session goes on."""

    async def control(request: JSON) -> JSON:
        raise ControlError(f"refused {request['subtype']}")

    backend = ControllableBackend(ScriptedBackend(["hello"]), control)
    async with open_session(backend=backend) as session:
        with pytest.raises(ControlError, match="refused set_model"):
            await session.set_model("opus")
        assert "hello" == str(await session.query("hi"))
    assert 1 == backend.script.conversations_begun


# ---- of whom ----


@every_call
async def test_a_backend_without_it(name: str) -> None:
    """The error names what it has not, and who has it."""
    async with open_session(backend=ScriptedBackend()) as session:
        with pytest.raises(UsageError, match=f"has no {name}: its backend has none.*backend='cli'"):
            await CALLS[name][0](session)
        await session.query("hi")


@every_call
async def test_from_another_run(name: str) -> None:
    """It is refused, whatever the session is at."""
    backend = ControllableBackend()
    async with open_session(backend=backend) as session:

        async def ask() -> None:
            await CALLS[name][0](session)

        with pytest.raises(UsageError, match="belongs to another Trio run"):
            await trio.to_thread.run_sync(trio.run, ask)
    assert [] == backend.requests


# ---- when ----


async def test_during_a_turn(autojump_clock: MockClock) -> None:
    """It doesn't wait in line, and the turn goes on."""
    backend = ControllableBackend(ScriptedBackend([["one ", 5.0, "two"]]))
    async with open_session(backend=backend) as session:
        async with session.stream("hi") as events:
            async for _ in events:
                await session.set_model("opus")
                assert trio.current_time() in (0, 5)
        assert 5 == trio.current_time()
    assert len(backend.requests) > 3


async def test_from_inside_a_turn() -> None:
    """A callback may ask its own session for this: nothing waits for the turn's end."""
    statuses = []

    async def respond(turn: ScriptedTurn) -> str:
        statuses.append(await get_session("a").mcp_status())
        return "done"

    backend = ControllableBackend(ScriptedBackend(respond))
    with trio.fail_after(5):
        async with open_supervisor([SessionSpec(name="a", backend=backend)]):
            assert "done" == str(await get_session("a").query("hi"))
    assert [{"of": 1}] == statuses


async def test_while_a_session_starts(autojump_clock: MockClock) -> None:
    """It is asked once it is there."""
    script = ScriptedBackend(on_open=_slowly)
    backend = ControllableBackend(script)
    async with open_supervisor() as supervisor, trio.open_nursery() as nursery:
        nursery.start_soon(supervisor.start_session, SessionSpec(name="a", backend=backend))
        await wait_all_tasks_blocked()
        session = get_session("a")
        assert "starting" == session.status
        for _ in range(2):
            nursery.start_soon(session.set_model, "opus")
        await session.set_model("opus")
        assert 5 == trio.current_time()
    assert 3 == len(backend.requests)


async def test_while_a_session_restarts(autojump_clock: MockClock) -> None:
    """The next incarnation is asked, also if it takes two starts."""
    opened = []

    def on_open(_: object) -> None:
        opened.append(trio.current_time())
        if len(opened) == 2:
            raise OSError("not yet")

    backend = ControllableBackend(ScriptedBackend(on_open=on_open))
    async with open_supervisor(
        [SessionSpec(name="a", backend=backend)], backoff=Backoff(10.0, factor=1.0, jitter=0.0)
    ):
        session = get_session("a")
        await crash(session)
        await wait_all_tasks_blocked()
        assert "restarting" == session.status
        assert {"of": 2} == await session.mcp_status()
        assert [0, 10, 20] == opened
        assert 20 == trio.current_time()


async def test_after_the_conversation_was_forgotten() -> None:
    """The new one is asked."""
    backend = ControllableBackend()
    async with open_session(backend=backend) as session:
        assert {"of": 1} == await session.mcp_status()
        await session.clear()
        assert {"of": 2} == await session.mcp_status()


async def test_while_the_conversation_is_forgotten(autojump_clock: MockClock) -> None:
    """The new one is waited for."""
    script = ScriptedBackend(on_open=_slowly)
    backend = ControllableBackend(script)
    async with open_session(backend=backend) as session, trio.open_nursery() as nursery:
        nursery.start_soon(session.clear)
        await wait_all_tasks_blocked()
        assert {"of": 2} == await session.mcp_status()
        assert 10 == trio.current_time()


# ---- a conversation that goes away while it is asked ----


class Asked:
    """Control that takes its time, and fails once it is told to: as a program's that is stopped."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.count = 0
        self.gone = trio.Event()
        self._failure = failure or trio.ClosedResourceError("the program was stopped")

    async def control(self, request: JSON) -> JSON:
        """Only the first request gets no answer."""
        self.count += 1
        if self.count == 1:
            with trio.CancelScope(shield=True):
                await self.gone.wait()
            raise self._failure
        return {"answered": self.count}


@every_call
async def test_a_conversation_that_goes_away(name: str, autojump_clock: MockClock) -> None:
    """The next one is asked, once it is there."""
    asked = Asked()
    backend = ControllableBackend(control=asked.control)
    call, request = CALLS[name]
    async with open_supervisor(
        [SessionSpec(name="a", backend=backend)], backoff=Backoff(10.0, jitter=0.0)
    ):
        session = get_session("a")
        answers = []

        async def ask() -> None:
            answers.append(await call(session))
            assert 10 == trio.current_time()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await wait_all_tasks_blocked()
            await crash(session)
            assert "restarting" == session.status
            asked.gone.set()
            await wait_all_tasks_blocked()
            assert [] == answers
    assert [None if name.startswith("set_") else {"answered": 2}] == answers
    assert [request] * 2 == backend.requests


@every_call
async def test_another_conversation_is_there_already(name: str) -> None:
    """It is asked at once, though the first one tells late that it is gone."""
    asked = Asked()
    backend = ControllableBackend(control=asked.control)
    call, request = CALLS[name]
    with trio.fail_after(5):
        async with open_session(backend=backend) as session, trio.open_nursery() as nursery:
            nursery.start_soon(call, session)
            await wait_all_tasks_blocked()
            await session.clear()
            asked.gone.set()
    assert [request] * 2 == backend.requests


@every_call
async def test_a_conversation_that_is_the_last(name: str) -> None:
    """There is nobody left to be asked: the session is stopped."""
    asked = Asked()
    backend = ControllableBackend(control=asked.control)
    with trio.fail_after(5):
        async with open_supervisor([SessionSpec(name="a", backend=backend)]) as supervisor:
            session = get_session("a")

            async def ask() -> None:
                with pytest.raises(SessionTerminated, match="session 'a' is stopped") as caught:
                    await CALLS[name][0](session)
                assert caught.value.__cause__ is None

            async with trio.open_nursery() as nursery:
                nursery.start_soon(ask)
                await wait_all_tasks_blocked()
                await supervisor.terminate_session("a")
                asked.gone.set()
    assert 1 == len(backend.requests)


async def test_a_refusal_of_the_conversation_that_is_there() -> None:
    """It is told, with a word on what was asked and of whom; nobody is asked again."""
    asked = Asked(ControlError("the program ended before it answered"))
    asked.gone.set()
    backend = ControllableBackend(control=asked.control)
    async with open_session(name="a", backend=backend) as session:
        with pytest.raises(ControlError, match="before it answered") as caught:
            await session.set_model("opus")
    assert ["in set_model of session 'a'"] == caught.value.__notes__
    assert 1 == len(backend.requests)


# ---- cancellation, and sessions that end ----


async def test_who_waits_for_a_session_can_be_cancelled(autojump_clock: MockClock) -> None:
    """Nothing is asked then, and others still are served."""
    backend = ControllableBackend()
    async with open_supervisor(
        [SessionSpec(name="a", backend=backend)], backoff=Backoff(10.0, jitter=0.0)
    ):
        session = get_session("a")
        await crash(session)
        with trio.move_on_after(5) as scope:
            await session.set_model("opus")
        assert scope.cancelled_caught
        assert [] == backend.requests
        assert {"of": 2} == await session.mcp_status()
        assert 10 == trio.current_time()
    assert [{"subtype": "mcp_status"}] == backend.requests


async def test_who_waits_for_an_answer_can_be_cancelled(autojump_clock: MockClock) -> None:
    """The session goes on."""

    async def control(request: JSON) -> JSON:
        await trio.sleep_forever()
        return {}

    backend = ControllableBackend(ScriptedBackend(["hello"]), control)
    async with nothing_left(backend.script), open_session(backend=backend) as session:
        with trio.move_on_after(5) as scope:
            await session.set_model("opus")
        assert scope.cancelled_caught
        assert "hello" == str(await session.query("hi"))


@every_call
async def test_a_session_that_is_stopped(name: str) -> None:
    """Nobody is there to be asked."""
    backend = ControllableBackend()
    async with open_supervisor([SessionSpec(name="a", backend=backend)]) as supervisor:
        session = get_session("a")
        await supervisor.terminate_session("a")
        with pytest.raises(SessionTerminated, match="session 'a' is stopped"):
            await CALLS[name][0](session)
    assert [] == backend.requests


@every_call
async def test_a_session_that_is_stopped_meanwhile(name: str, autojump_clock: MockClock) -> None:
    """Who waits for it to be up is told."""
    backend = ControllableBackend()
    async with open_supervisor(
        [SessionSpec(name="a", backend=backend)], backoff=Backoff(10.0, jitter=0.0)
    ) as supervisor:
        session = get_session("a")
        await crash(session)

        async def ask() -> None:
            with pytest.raises(SessionTerminated):
                await CALLS[name][0](session)
            assert 5 == trio.current_time()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await trio.sleep(5)
            await supervisor.terminate_session("a")
    assert [] == backend.requests


async def test_a_session_that_crashes_for_good(autojump_clock: MockClock) -> None:
    """The error says what it crashed of."""
    backend = ControllableBackend()
    async with open_supervisor([SessionSpec(name="a", backend=backend, restart="temporary")]):
        session = get_session("a")
        fault = OSError("disk full")
        await crash(session, fault)
        await wait_all_tasks_blocked()
        with pytest.raises(SessionTerminated, match="disk full") as caught:
            await session.set_model("opus")
        assert fault is caught.value.__cause__


async def test_a_turn_in_line_is_no_obstacle(autojump_clock: MockClock) -> None:
    """However long the line is."""
    backend = ControllableBackend(ScriptedBackend(hang))
    async with open_supervisor([SessionSpec(name="a", backend=backend)]):
        session = get_session("a")
        with trio.move_on_after(10):
            async with trio.open_nursery() as nursery:
                for _ in range(5):
                    nursery.start_soon(session.query, "hi")
                await wait_all_tasks_blocked()
                assert {"of": 1} == await session.context_usage()
                assert 0 == trio.current_time()
    assert 1 == len(backend.requests)


async def test_sessions_do_not_share_what_is_set() -> None:
    """Each has a conversation of its own."""
    backend = ControllableBackend()
    specs = [SessionSpec(name=name, backend=backend) for name in "ab"]
    async with open_supervisor([*specs, spec("c")]):
        assert [{"of": 1}, {"of": 2}] == [await get_session(n).mcp_status() for n in "ab"]
