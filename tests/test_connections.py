"""One connection for each backend, shared by a supervisor's sessions."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_claude import (
    SessionTerminated,
    SupervisorError,
    SupervisorSpec,
    TrioClaudeError,
    get_session,
    open_supervisor,
    query,
)
from trio_claude._backends.base import Backend, Connection
from trio_claude._options import SessionOptions
from trio_claude._supervision.connections import Connections
from trio_claude.testing import ScriptedBackend, crash

from .support import nothing_left, spec

seen_by: ContextVar[str] = ContextVar("seen_by", default="nobody")


@attrs.define(eq=False)
class Wire(ScriptedBackend):
    """A backend whose connecting can hang, fail, and break down."""

    connecting: Callable[[], object] = attrs.field(default=lambda: None)
    """Called when it connects; what it returns is awaited, if it can be."""

    broken: Exception | KeyboardInterrupt | None = None
    """What its background task dies of when ``breaking`` is set."""

    failing_to_close: Exception | None = None

    def __attrs_post_init__(self) -> None:
        super().__init__()
        self.begun = 0
        self.breaking = trio.Event()

    @asynccontextmanager
    async def _connect(self) -> AsyncIterator[Connection]:
        self.begun += 1
        begin = self.connecting()
        if begin is not None:
            await begin  # type: ignore[misc]
        async with super()._connect() as connection, trio.open_nursery() as nursery:
            nursery.start_soon(self._background)
            try:
                yield connection
            finally:
                if self.failing_to_close is not None:
                    raise self.failing_to_close

    async def _background(self) -> None:
        await self.breaking.wait()
        assert self.broken is not None
        raise self.broken


# ---- shared -----------------------------------------------------------------------------------


async def test_sessions_share_a_connection() -> None:
    """One for all sessions of one backend, however often they are started again."""
    backend = Wire()
    async with nothing_left(backend), open_supervisor([spec(n, backend) for n in "abc"]) as s:
        assert (backend.begun, backend.connections, backend.conversations) == (1, 1, 3)
        await crash(get_session("a"))
        await wait_all_tasks_blocked()
        await s.restart_session("b")
        await s.start_session(spec("d", backend))
        assert (backend.begun, backend.connections, backend.conversations) == (1, 1, 4)


async def test_equal_backends_share_a_connection() -> None:
    """Equal, not only the same: the first one of them is connected."""

    @attrs.frozen
    class Valued(Backend):
        host: str
        under: ScriptedBackend = attrs.field(eq=False, factory=ScriptedBackend)

        def connect(self) -> object:  # type: ignore[override]  # what it gives is all that counts
            return self.under.connect()

    one, same, other = Valued("h"), Valued("h"), Valued("i")
    async with open_supervisor([spec("a", one), spec("b", same), spec("c", other)]):  # type: ignore[arg-type]
        connected = [backend.under.connections for backend in (one, same, other)]
        assert connected == [1, 0, 1]
        assert one.under.conversations == 2


async def test_backends_that_have_no_hash() -> None:
    """They are told apart by identity, even if they say that they are equal."""

    class Unhashable(ScriptedBackend):
        __hash__ = None  # type: ignore[assignment]

        def __eq__(self, other: object) -> bool:
            return isinstance(other, Unhashable)

    first, second = Unhashable(), Unhashable()
    specs = [spec("a", first), spec("b", first), spec("c", second)]
    async with nothing_left(first, second), open_supervisor(specs) as supervisor:
        assert (first.connections, first.conversations) == (1, 2)
        assert (second.connections, second.conversations) == (1, 1)
        await supervisor.terminate_session("c")
        await wait_all_tasks_blocked()
        assert (first.connections, second.connections) == (1, 0)


async def test_supervisors_do_not_share() -> None:
    """Each has its own, the one below another too."""
    backend = Wire()
    below = SupervisorSpec(specs=[spec("b", backend)])
    async with nothing_left(backend), open_supervisor([spec("a", backend), below]):
        assert backend.connections == 2


async def test_it_is_closed_when_nobody_needs_it(autojump_clock: MockClock) -> None:
    """Not before the last session that does is forgotten; one that is only stopped may need it."""
    backend = Wire()
    specs = [spec("a", backend), spec("b", backend, restart="transient")]
    async with nothing_left(backend), open_supervisor(specs) as supervisor:
        await supervisor.terminate_session("a")
        await wait_all_tasks_blocked()
        assert backend.connections == 1

        await get_session("b").stop()
        await wait_all_tasks_blocked()
        assert (backend.connections, backend.conversations) == (1, 0)
        await supervisor.restart_session("b")
        assert backend.begun == 1

        await supervisor.terminate_session("b")
        await wait_all_tasks_blocked()
        assert backend.connections == 0

        await supervisor.start_session(spec("c", backend))
        assert (backend.begun, backend.connections) == (2, 1)


async def test_it_is_closed_when_a_temporary_session_ends() -> None:
    """That one is forgotten by itself."""
    backend = Wire()
    async with open_supervisor([spec("a", backend, restart="temporary")]):
        await crash(get_session("a"))
        await wait_all_tasks_blocked()
        assert backend.connections == 0


async def test_it_is_closed_after_the_last_conversation() -> None:
    """When the block is left, the sessions are stopped first; cancelled or not."""
    closed = []

    class Watched(Wire):
        @asynccontextmanager
        async def _connect(self) -> AsyncIterator[Connection]:
            async with super()._connect() as connection:
                try:
                    yield connection
                finally:
                    closed.append(self.conversations)

    backend = Watched()
    async with open_supervisor([spec(n, backend) for n in "ab"]):
        pass
    with trio.CancelScope() as scope:
        async with open_supervisor([spec(n, backend) for n in "ab"]):
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert closed == [0, 0]


# ---- when connecting fails --------------------------------------------------------------------


async def test_a_connection_that_fails() -> None:
    """The start fails with that very error and leaves nothing; a later start tries again."""
    error = OSError("no route")
    fails = True

    def connecting() -> None:
        if fails:
            raise error

    backend = Wire(connecting)
    async with nothing_left(backend), open_supervisor() as supervisor:
        with pytest.raises(OSError, match="no route") as raised:
            await supervisor.start_session(spec("a", backend))
        assert raised.value is error
        assert raised.value.__notes__ == ["while the supervisor was starting 'a'"]
        assert supervisor.list_sessions() == ()

        fails = False
        await supervisor.start_session(spec("a", backend))
        assert str(await query("a", "hello"))
        assert backend.begun == 2


async def test_a_connection_that_fails_at_first() -> None:
    """The supervisor doesn't begin, and the error leaves it as it was."""
    error = OSError("no route")

    def connecting() -> None:
        raise error

    backend = Wire(connecting)
    async with nothing_left(backend):
        with pytest.raises(OSError, match="no route") as raised:
            async with open_supervisor([spec("b"), spec("a", backend)]):
                raise AssertionError("it must not open")
    assert raised.value is error


async def test_a_failed_connection_is_not_used_again_by_a_known_session() -> None:
    """A session that is restarted on request after its connection failed gets a new one."""
    fails = False

    def connecting() -> None:
        if fails:
            raise OSError("no route")

    backend = Wire(connecting)
    async with open_supervisor(max_restarts=10) as supervisor:
        await supervisor.start_session(spec("a", backend, restart="transient"))
        await supervisor.terminate_session("a")
        await wait_all_tasks_blocked()
        fails = True
        with pytest.raises(OSError, match="no route"):
            await supervisor.start_session(spec("a", backend))
        fails = False
        await supervisor.start_session(spec("a", backend))
        assert (backend.begun, backend.connections) == (3, 1)


async def test_a_start_that_waits_for_a_connection_can_be_terminated(
    autojump_clock: MockClock,
) -> None:
    """Connecting hangs: terminate calls the start off, and the connecting with it."""
    backend = Wire(trio.sleep_forever)
    async with nothing_left(backend), open_supervisor() as supervisor:
        async with trio.open_nursery() as nursery:

            async def start() -> None:
                with pytest.raises(SessionTerminated, match="was stopped while it was being st"):
                    await supervisor.start_session(spec("a", backend))

            nursery.start_soon(start)
            await wait_all_tasks_blocked()
            await supervisor.terminate_session("a")
        assert supervisor.list_sessions() == ()
        backend.connecting = lambda: None
        await supervisor.start_session(spec("a", backend))
        assert backend.connections == 1


async def test_a_start_that_waits_for_a_connection_can_be_cancelled(
    autojump_clock: MockClock,
) -> None:
    """Its caller gives up: nothing is left of it, and others can start."""
    backend = Wire(trio.sleep_forever)
    async with nothing_left(backend), open_supervisor() as supervisor:
        with trio.move_on_after(3) as scope:
            await supervisor.start_session(spec("a", backend))
        assert scope.cancelled_caught
        await supervisor.start_session(spec("b"))
        assert [info.name for info in supervisor.list_sessions()] == ["b"]


async def test_a_supervisor_that_waits_for_a_connection_can_be_cancelled(
    autojump_clock: MockClock,
) -> None:
    """Around its block, while it begins."""
    backend = Wire(trio.sleep_forever)
    async with nothing_left(backend):
        with trio.move_on_after(3) as scope:
            async with open_supervisor([spec("b"), spec("a", backend)]):
                raise AssertionError("it must not open")
        assert scope.cancelled_caught
        assert trio.current_time() == 3


async def test_leaving_a_failed_connection_does_not_touch_the_next_one() -> None:
    """Who still has the one that failed gives it back; the new one stays open."""
    fails = True

    def connecting() -> None:
        if fails:
            raise OSError("no route")

    backend = Wire(connecting)
    broken: list[BaseException] = []
    async with nothing_left(backend), trio.open_nursery() as nursery:
        connections = Connections(nursery, broken.append)
        failed = connections.use(backend)
        with pytest.raises(OSError, match="no route"):
            await failed.connection()
        fails = False
        fresh = connections.use(backend)
        assert fresh is not failed
        await fresh.connection()

        try:
            connections.leave(failed)
            await wait_all_tasks_blocked()
            assert backend.connections == 1
            assert connections.use(backend) is fresh

            connections.leave(fresh)
            await wait_all_tasks_blocked()
            assert backend.connections == 1
        finally:
            connections.leave(fresh)
    assert broken == []


# ---- when it breaks down ----------------------------------------------------------------------


async def test_a_connection_that_breaks_down() -> None:
    """A task of it dies: the supervisor fails from that, and all sessions are stopped."""
    fault = OSError("the pool is gone")
    backend = Wire(broken=fault)
    async with nothing_left(backend):
        with pytest.raises(SupervisorError, match="a backend's connection broke down") as raised:
            async with open_supervisor([spec(n, backend) for n in "ab"]):
                backend.breaking.set()
                await trio.sleep_forever()
    cause = raised.value.__cause__
    assert isinstance(cause, ExceptionGroup)
    assert cause.exceptions == (fault,)


async def test_a_connection_that_fails_to_close() -> None:
    """That is no secret either."""
    backend = Wire(failing_to_close=OSError("half closed"))
    async with nothing_left(backend):
        with pytest.raises(SupervisorError, match="a backend's connection broke down"):
            async with open_supervisor([spec("a", backend)]) as supervisor:
                await supervisor.terminate_session("a")
                await trio.sleep_forever()


async def test_a_connection_of_a_supervisor_below_that_breaks_down() -> None:
    """For the one above that is one crash of one child."""
    backend = Wire(broken=OSError("the pool is gone"))
    below = SupervisorSpec(name="below", specs=[spec("a", backend)])
    async with nothing_left(backend), open_supervisor([below]) as supervisor:
        breaking, backend.breaking = backend.breaking, trio.Event()  # the next one is fine
        breaking.set()
        await wait_all_tasks_blocked()
        assert supervisor.statistics().recent_restarts == 1
        assert get_session("a").is_alive()
        assert (backend.begun, backend.connections) == (2, 1)


@pytest.mark.parametrize("when", ["connecting", "later"])
async def test_an_interrupt_in_a_connection(when: str) -> None:
    """KeyboardInterrupt is nothing that a supervisor answers: it leaves the block."""
    backend = Wire(broken=KeyboardInterrupt())

    def interrupt() -> None:
        raise KeyboardInterrupt

    if when == "connecting":
        backend.connecting = interrupt
    async with nothing_left(backend):
        with pytest.raises(KeyboardInterrupt):
            async with open_supervisor([spec("a", backend)]):
                backend.breaking.set()
                await trio.sleep_forever()


# ---- where it comes from ----------------------------------------------------------------------


async def test_the_context_of_a_caller_stays_with_the_caller() -> None:
    """Context variables of who starts, restarts or asks reach neither connection nor session."""
    seen = []

    class Curious(Wire):
        @asynccontextmanager
        async def _open(self, options: SessionOptions) -> AsyncIterator[object]:  # type: ignore[override]
            seen.append(("open", seen_by.get()))
            async with super()._open(options) as conversation:
                yield conversation

    backend = Curious(lambda: seen.append(("connect", seen_by.get())))
    seen_by.set("the block")
    async with open_supervisor() as supervisor:
        seen_by.set("a caller")
        await supervisor.start_session(spec("a", backend))
        await supervisor.restart_session("a")
        await crash(get_session("a"))
        await wait_all_tasks_blocked()
        await get_session("a").clear()
    assert seen == [("connect", "the block"), *[("open", "the block")] * 4]


async def test_errors_while_closing_are_found_by_their_base() -> None:
    """Whatever a connection does, the block ends with an error of this library's."""
    backend = Wire(failing_to_close=OSError("half closed"))
    with pytest.raises(TrioClaudeError):
        async with open_supervisor([spec("a", backend)]):
            pass
