"""The supervisor that the model is compared with: alive in a thread, on a clock moved by hand.

Rules of a hypothesis machine are plain functions, so the run has a thread of its own, and each
command is handed to it and waited for, for a bounded time. Between two commands every task waits.
"""

from __future__ import annotations

import queue
import threading
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from contextvars import ContextVar
from typing import Any

import attrs
import trio
import trio.testing

import trio_claude
from trio_claude import (
    Backoff,
    QueryError,
    SessionOptions,
    SessionSpec,
    SupervisorEvent,
    SupervisorSpec,
    UsageError,
)
from trio_claude._backends.base import Connection, Conversation
from trio_claude._supervision.events import SessionEvent
from trio_claude.testing import ScriptedBackend, ScriptedTurn, crash

from ..support import tasks
from .model import Entry, Flags, Spec, Start

# Longer than any command takes, and short enough for a run that hangs.
PATIENCE = 20.0

asker: ContextVar[str] = ContextVar("asker", default="nobody")


class Mishap(Exception):
    """What sessions of these tests die of."""


class BodyError(Exception):
    """What the block's body raises."""


@attrs.define(eq=False)
class Call:
    """A call under way."""

    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    go: trio.Event = attrs.field(factory=trio.Event)
    read_on: bool = False
    outcome: str | None = None


class Watched(ScriptedBackend):
    """Says how many conversations each session has, and how long."""

    def __init__(self, live: Live) -> None:
        super().__init__(live.answer, on_open=live.opening)
        self._live = live

    @asynccontextmanager
    async def _watched(self) -> AsyncIterator[Connection]:
        async with super().connect() as connection:
            yield WatchedConnection(connection, self._live)

    def connect(self) -> AbstractAsyncContextManager[Connection]:
        """Connect to nothing."""
        return self._watched()


class WatchedConnection(Connection):
    """One whose conversations are counted."""

    def __init__(self, connection: Connection, live: Live) -> None:
        self._connection, self._live = connection, live

    @asynccontextmanager
    async def _open(self, options: SessionOptions) -> AsyncIterator[Conversation]:
        name = str(options.model)
        self._live.alive[name] += 1
        if self._live.alive[name] > 1:
            self._live.problems.append(f"invariant 11: two incarnations of {name}")
        try:
            async with self._connection.open(options) as conversation:
                yield conversation
        finally:
            self._live.alive[name] -= 1

    def open(self, options: SessionOptions) -> AbstractAsyncContextManager[Conversation]:
        """Begin a conversation."""
        return self._open(options)


class Live:
    """One run of Trio in a thread, with one supervisor in it."""

    def __init__(
        self, flags: Flags, specs: tuple[Spec, ...], plans: Mapping[str, Sequence[Start]]
    ) -> None:
        self.flags, self.specs = flags, specs
        self.clock = trio.testing.MockClock()
        self.events: list[SupervisorEvent] = []
        self.calls: dict[int, Call] = {}
        self.plans = {name: list(plan) for name, plan in plans.items()}
        self.problems: list[str] = []
        self.alive: Counter[str] = Counter()
        """Whose conversations are open."""
        self.served: list[str] = []
        self.outcome: str | None = None
        self.body_error = BodyError("the body's own")
        self.tasks_before = 0
        self.scope = trio.CancelScope()
        self._raise_in_body = False
        self._leave = trio.Event()
        self._ticked = True
        self.backend = Watched(self)
        self._ready: queue.SimpleQueue[trio.lowlevel.TrioToken] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self._token = self._ready.get(timeout=PATIENCE)
        self.do(self._begin)

    # ---- the thread -----------------------------------------------------------------------------

    def _run(self) -> None:
        trio.run(self._main, clock=self.clock)

    async def _main(self) -> None:
        async with trio.open_nursery() as self._nursery:
            self._ready.put(trio.lowlevel.current_trio_token())
            await trio.sleep_forever()

    def do(self, command: Callable[[], Awaitable[None]]) -> None:
        """Do it in the run, and wait until all of its tasks wait."""
        done: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()

        async def task() -> None:
            try:
                await command()
                await trio.testing.wait_all_tasks_blocked()
            except Exception as exc:
                done.put(exc)
            else:
                done.put(None)

        self._token.run_sync_soon(self._nursery.start_soon, task)
        try:
            error = done.get(timeout=PATIENCE)
        except queue.Empty:
            raise AssertionError("the run hangs") from None
        if error is not None:
            raise error

    def close(self) -> None:
        """End the run, whatever it does."""
        self._token.run_sync_soon(self._nursery.cancel_scope.cancel)
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive(), "the run does not end"

    # ---- the block ------------------------------------------------------------------------------

    async def _begin(self) -> None:
        self.tasks_before = tasks()
        self._nursery.start_soon(self._block)

    async def _block(self) -> None:
        asker.set("the block")
        flags = self.flags
        try:
            with self.scope:
                async with trio_claude.open_supervisor(
                    [self.spec(one) for one in self.specs],
                    on_event=self.events.append,
                    **_options(flags),
                ):
                    await self._leave.wait()
                    if self._raise_in_body:
                        raise self.body_error
            self.outcome = "cancelled" if self.scope.cancelled_caught else "left"
        except trio_claude.RestartIntensityExceeded as exc:
            self.outcome = "gave up"
            if not isinstance(exc.__cause__, ExceptionGroup):
                self.problems.append(f"the cause is {exc.__cause__!r}")
        except BodyError as exc:
            self.outcome = "body" if exc is self.body_error else "another error"
        except Mishap:
            self.outcome = "start failed"

    def spec(self, spec: Spec) -> SessionSpec | SupervisorSpec:
        """The real thing."""
        child: dict[str, Any] = {
            "name": spec.name,
            "restart": spec.restart,
            "shutdown": spec.shutdown,
            "significant": spec.significant,
        }
        if spec.flags is not None:
            specs = [self.spec(one) for one in spec.specs]
            return SupervisorSpec(**{**_options(spec.flags), **child, "specs": specs})
        return SessionSpec(**child, model=spec.name, backend=self.backend, timeout=1e9)

    # ---- the backend ----------------------------------------------------------------------------

    async def opening(self, options: SessionOptions) -> None:
        """Begin a conversation, as it is planned; and look at who is there."""
        name = str(options.model)
        if asker.get() != "the block":
            self.problems.append(f"{name} was started in the context of {asker.get()}")
        if not self._ticked:
            self.problems.append(f"no other task had its turn before {name} was started")
        self._ticked = False
        self._nursery.start_soon(self._tick)
        plan = self.plans.get(name)
        how = plan.pop(0) if plan else "ok"
        if how == "fail":
            raise Mishap(f"{name} fails to start")
        if how == "hang":
            await trio.sleep_forever()
        elif isinstance(how, float):
            await trio.sleep(how)

    async def _tick(self) -> None:
        self._ticked = True

    async def answer(self, turn: ScriptedTurn) -> list[str | float | BaseException]:
        """Answer as the prompt says, from inside the session; it can't stop itself."""
        number, kind, seconds = turn.prompt.split()
        name = str(turn.options.model)
        self.served.append(f"{name} {number}")
        me = next((one for one in map(_supervisor, ("S", "N")) if one and _knows(one, name)), None)
        if me is not None:
            for call in (me.terminate_session, me.restart_session):
                try:
                    await call(name)
                except UsageError:
                    pass
                except trio.ClosedResourceError:
                    pass
                else:
                    self.problems.append(f"{name} could stop itself")
            me.list_sessions()
        if kind == "inside_start":
            # The model says whether it worked, by what is there afterwards.
            with suppress(trio_claude.TrioClaudeError, trio.ClosedResourceError, Mishap):
                await trio_claude.get_supervisor("S").start_session(self._session(Spec("d")))
        error = {"crash": Mishap("in a turn"), "fail": QueryError("this one")}.get(kind)
        return [float(seconds), f"answer {number}" if error is None else error]

    def _session(self, spec: Spec) -> SessionSpec:
        made = self.spec(spec)
        assert isinstance(made, SessionSpec)
        return made

    # ---- commands -------------------------------------------------------------------------------

    async def _call(self, call: Call, act: Callable[[], Awaitable[str | None]]) -> None:
        asker.set("a caller")
        with call.scope:
            try:
                call.outcome = await act() or "ok"
            except Mishap:
                call.outcome = "StartError"
            except Exception as exc:
                call.outcome = type(exc).__name__
        if call.scope.cancelled_caught:
            call.outcome = "cancelled"

    def start_call(self, number: int, act: Callable[[], Awaitable[str | None]]) -> None:
        """Begin a call, and let it be."""
        call = self.calls[number] = Call()

        async def begin() -> None:
            self._nursery.start_soon(self._call, call, act)

        self.do(begin)

    def start(self, number: int, supervisor: str, spec: Spec) -> None:
        """start_session"""

        async def act() -> None:
            await trio_claude.get_supervisor(supervisor).start_session(self._session(spec))

        self.start_call(number, act)

    def call(self, number: int, kind: str, supervisor: str, name: str) -> None:
        """terminate_session, restart_session or stop"""

        async def act() -> None:
            found = trio_claude.get_supervisor(supervisor)
            if kind == "terminate":
                await found.terminate_session(name)
            elif kind == "restart":
                await found.restart_session(name)
            else:
                await found.get_session(name).stop()

        self.start_call(number, act)

    def ask(self, number: int, kind: str, supervisor: str, name: str, seconds: float) -> None:
        """query"""

        async def act() -> None:
            handle = trio_claude.get_supervisor(supervisor).get_session(name)
            result = await handle.query(f"{number} {kind.replace(' ', '_')} {seconds!r}")
            assert f"answer {number}" == result.text

        self.start_call(number, act)

    def stream(self, number: int, kind: str, supervisor: str, name: str, seconds: float) -> None:
        """stream: its reader reads when it is told to"""

        async def act() -> str | None:
            handle = trio_claude.get_supervisor(supervisor).get_session(name)
            call = self.calls[number]
            async with handle.stream(f"{number} {kind} {seconds!r}") as events:
                await call.go.wait()
                if not call.read_on:
                    return "closed"
                last = [event async for event in events][-1]
            assert isinstance(last, trio_claude.ResultMessage)
            assert f"answer {number}" == last.text
            return None

        self.start_call(number, act)

    def go(self, number: int, *, read_on: bool) -> None:
        """Let a stream's reader read to the end, or leave the block."""

        async def act() -> None:
            self.calls[number].read_on = read_on
            self.calls[number].go.set()

        self.do(act)

    def cancel(self, number: int) -> None:
        """Cancel a caller."""

        async def act() -> None:
            self.calls[number].scope.cancel()

        self.do(act)

    def crash(self, supervisor: str, names: tuple[str, ...]) -> list[str]:
        """Crash some at once."""
        outcomes: list[str] = []

        async def one(name: str) -> None:
            try:
                await crash(
                    trio_claude.get_supervisor(supervisor).get_session(name), Mishap("crashed")
                )
            except Exception as exc:
                outcomes.append(type(exc).__name__)
            else:
                outcomes.append("ok")

        async def act() -> None:
            async with trio.open_nursery() as nursery:
                for name in names:
                    nursery.start_soon(one, name)

        self.do(act)
        return outcomes

    def interrupt(self, supervisor: str, name: str) -> None:
        """Interrupt."""

        async def act() -> None:
            await trio_claude.get_supervisor(supervisor).get_session(name).interrupt()

        self.do(act)

    def leave(self, *, error: bool) -> None:
        """End the body."""

        async def act() -> None:
            self._raise_in_body = error
            self._leave.set()

        self.do(act)

    def cancel_outer(self) -> None:
        """Cancel the surroundings."""

        async def act() -> None:
            self.scope.cancel()

        self.do(act)

    def jump(self, when: float) -> float:
        """Let it be this time; gives which time it is, to the last bit."""

        async def act() -> None:
            while (now := self.clock.current_time()) < when:
                self.clock.jump(when - now)

        self.do(act)
        return self.clock.current_time()

    # ---- what is there --------------------------------------------------------------------------

    def look(self, what: Callable[[], Any]) -> Any:
        """Ask something that never waits, in the run."""
        found: list[Any] = []

        async def act() -> None:
            found.append(what())

        self.do(act)
        return found[0]


def entry(event: SupervisorEvent) -> Entry:
    """An event, as the model says it."""
    head = (event.supervisor, type(event).__name__, event.time)
    match event:
        case trio_claude.SessionExited():
            tail: Entry = (event.cause is not None, event.uptime)
        case trio_claude.SessionStopped():
            tail = (event.cause is not None,)
        case trio_claude.RestartScheduled():
            tail = (event.delay,)
        case trio_claude.SupervisorStopped():
            return (*head, event.reason)
        case trio_claude.IntensityExceeded():
            return (*head, event.session)
        case _:
            tail = ()
    if isinstance(event, SessionEvent):
        return (*head, event.session, event.incarnation, *tail)
    return head


def _supervisor(name: str) -> trio_claude.Supervisor | None:
    try:
        return trio_claude.get_supervisor(name)
    except trio_claude.SessionNotFound:
        return None


def _knows(supervisor: trio_claude.Supervisor, name: str) -> bool:
    try:
        return any(info.name == name for info in supervisor.list_sessions())
    except trio.ClosedResourceError:
        return False


def _options(flags: Flags) -> dict[str, Any]:
    backoff = None
    if flags.backoff is not None:
        initial, maximum, jitter, reset_after, most = flags.backoff
        backoff = Backoff(
            initial, maximum, jitter=jitter, reset_after=reset_after, max_consecutive=most
        )
    return {
        "name": flags.name,
        "strategy": flags.strategy,
        "max_restarts": flags.max_restarts,
        "max_seconds": flags.max_seconds,
        "auto_shutdown": flags.auto_shutdown,
        "max_sessions": flags.max_sessions,
        "backoff": backoff,
    }


def state(live: Live) -> dict[str, Any]:
    """What can be seen of all supervisors."""

    def look() -> dict[str, Any]:
        seen: dict[str, Any] = {}
        for name in ("S", "N"):
            supervisor = _supervisor(name)
            if supervisor is None:
                continue
            infos, counters = supervisor.list_sessions(), supervisor.statistics()
            seen[name] = {
                "sessions": [
                    (
                        *(one.name, one.status, one.incarnation, one.restarts),
                        *(one.waiting, one.restart),
                    )
                    for one in infos
                ],
                "names": [trio_claude.whereis(one.name) is one.handle for one in infos],
                "running": supervisor.count_sessions(),
                "specs": counters.specs,
                "active": counters.active,
                "restarting": counters.restarting,
                "restarts": counters.restarts,
                "recent": counters.recent_restarts,
                "gave_up": counters.gave_up,
            }
        return seen

    return dict(live.look(look))
