"""What type checkers make of the public API. Checked by mypy, never run."""

from __future__ import annotations

from collections.abc import AsyncIterator, Hashable
from contextlib import AbstractAsyncContextManager
from typing import Any, Literal, assert_type

import trio

import trio_claude
from trio_claude import (
    AssistantMessage,
    Backend,
    Connection,
    ContentBlock,
    Conversation,
    Event,
    MessagesBackend,
    ResponseStream,
    ResultMessage,
    SessionHandle,
    SessionInfo,
    SessionOptions,
    SessionSpec,
    Supervisor,
    SupervisorSpec,
    SupervisorStatistics,
    TextDelta,
    ToolResultBlock,
    ToolUseBlock,
    Usage,
    streams,
)
from trio_claude.simulator import Hold, Reply, SimulatedRequest, Simulator, open_simulator
from trio_claude.testing import ScriptedBackend, ScriptedTurn, check_backend, crash

# ---- supervisors --------------------------------------------------------------------------------


async def supervisors() -> None:
    """What a supervisor takes and gives."""
    workers = SupervisorSpec(name="workers", specs=[SessionSpec(name="a")], strategy="one_for_all")
    opened = trio_claude.open_supervisor(
        [SessionSpec(name="a", restart="transient", shutdown=1), workers],
        name=("team", 1),
        strategy="rest_for_one",
        max_restarts=1,
        max_seconds=1,
        auto_shutdown="any_significant",
        max_sessions=None,
        backoff=trio_claude.Backoff(1, 10, factor=3),
        defaults=SessionOptions(model="opus"),
        on_event=print,
    )
    assert_type(opened, AbstractAsyncContextManager[Supervisor])
    async with opened as supervisor:
        assert_type(supervisor, Supervisor)
        assert_type(supervisor.name, Hashable | None)
        assert_type(await supervisor.start_session(SessionSpec(), id=7), SessionHandle)
        assert_type(supervisor.get_session(7), SessionHandle)
        assert_type(supervisor.list_sessions(), tuple[SessionInfo, ...])
        assert_type(supervisor.count_sessions(), int)
        assert_type(supervisor.statistics(), SupervisorStatistics)
        await supervisor.restart_session(7)
        await supervisor.terminate_session(7)
        # Checked as arguments are: a typo is found before it runs.
        await supervisor.start_session(workers)  # type: ignore[arg-type]
    trio_claude.open_supervisor(strategy="one_for_two")  # type: ignore[arg-type]
    assert_type(trio_claude.get_supervisor("team"), Supervisor)
    async with trio.open_nursery() as nursery:
        started: Supervisor = await nursery.start(trio_claude.run_supervisor, [SessionSpec()])
        started.count_sessions()


def snapshots(info: SessionInfo, numbers: SupervisorStatistics) -> None:
    """The fields of what a supervisor tells."""
    assert_type(info.status, Literal["starting", "running", "restarting", "stopped"])
    assert_type(info.restart, Literal["permanent", "transient", "temporary"])
    assert_type(info.started_at, float | None)
    assert_type(info.last_error, Exception | None)
    assert_type(info.handle, SessionHandle)
    assert_type(numbers.recent_restarts, int)
    assert_type(numbers.gave_up, bool)


def restarts() -> None:
    """The window and the delays."""
    assert_type(trio_claude.RestartIntensity(3, 5).record(0.0), bool)
    assert_type(trio_claude.Backoff().delay(1), float)


# ---- sessions -----------------------------------------------------------------------------------


def options() -> None:
    """A typo in an option is found by the checker too."""
    SessionSpec(name="a", modle="opus")  # type: ignore[call-arg]
    SessionSpec(name="a", restart="sometimes")  # type: ignore[arg-type]
    SessionSpec(name=trio_claude.Global("a"), backend="messages", timeout=1)
    SessionSpec(name=trio_claude.Via(trio_claude.LocalRegistry(), 1), backend=MessagesBackend())
    assert_type(SessionOptions(model="opus").model, str | None)
    assert_type(SessionSpec().shutdown, float)
    trio_claude.configure(model="opus", timeout=None)
    trio_claude.configure(modle="opus")  # type: ignore[call-arg]


async def sessions() -> None:
    """Asking, by name and by handle."""
    opened = trio_claude.open_session(name="a", model="opus", shutdown=0)
    assert_type(opened, AbstractAsyncContextManager[SessionHandle])
    async with opened as handle:
        assert_type(handle.name, Hashable | None)
        assert_type(handle.id, Hashable)
        assert_type(handle.status, Literal["starting", "running", "restarting", "stopped"])
        assert_type(handle.session_id, str | None)
        assert_type(handle.is_alive(), bool)
        assert_type(await handle.query("Hello", max_tokens=1), ResultMessage)
        assert_type(handle.stream("Hello"), AbstractAsyncContextManager[ResponseStream])
        await handle.query("Hello", max_token=1)  # type: ignore[call-arg]
        await handle.query("Hello", timeout="long")  # type: ignore[arg-type]
        await handle.clear()
        await handle.interrupt()
        await handle.stop()
        assert_type(await trio_claude.query(handle, "Hello"), ResultMessage)
    assert_type(await trio_claude.query("a", "Hello", temperature=0.5), ResultMessage)
    assert_type(trio_claude.stream(("a", 1), "Hello"), AbstractAsyncContextManager[ResponseStream])
    assert_type(trio_claude.get_session("a"), SessionHandle)
    assert_type(trio_claude.whereis("a"), SessionHandle | None)


async def turns(stream: ResponseStream) -> None:
    """What a stream and its events give."""
    channel: trio.abc.ReceiveChannel[Event] = stream
    assert_type(await channel.receive(), Event)
    async for event in stream:
        match event:
            case TextDelta(index, text):
                assert_type(index, int)
                assert_type(text, str)
            case AssistantMessage():
                assert_type(event.content, tuple[ContentBlock, ...])
                assert_type(event.text, str)
                assert_type(event.usage, Usage | None)
            case ResultMessage():
                assert_type(event.result, str)
                assert_type(event.usage + event.usage, Usage)
                assert_type(event.total_cost_usd, float | None)
            case _:
                pass


async def errors() -> None:
    """What errors carry."""
    try:
        await trio_claude.query("a", "Hello")
    except trio_claude.APIStatusError as exc:
        assert_type(exc.status_code, int)
        assert_type(exc.retry_after, float | None)
        assert_type(exc.request_id, str | None)
        assert_type(exc.partial, AssistantMessage | None)
    except trio_claude.ResultError as exc:
        assert_type(exc.result, ResultMessage | None)
    except trio_claude.SessionCrashed as exc:
        assert_type(exc.name, Hashable)
    except trio_claude.RestartIntensityExceeded as exc:
        assert_type(exc.max_restarts, int)


def events(event: trio_claude.SupervisorEvent) -> None:
    """What a supervisor reports."""
    assert_type(event.supervisor, Hashable | None)
    assert_type(event.time, float)
    match event:
        case trio_claude.SessionExited():
            assert_type(event.cause, Exception | None)
            assert_type(event.uptime, float | None)
            assert_type(event.incarnation, int)
        case trio_claude.RestartScheduled():
            assert_type(event.delay, float)
        case trio_claude.SupervisorStopped():
            assert_type(event.reason, str)


# ---- names --------------------------------------------------------------------------------------


class MyRegistry:
    """A registry needs no base class."""

    def register(self, key: Hashable, handle: SessionHandle) -> None:
        """Keep the handle."""

    def unregister(self, key: Hashable) -> None:
        """Forget the key."""

    def lookup(self, key: Hashable) -> SessionHandle | None:
        """The handle, or None."""


def names() -> None:
    """What is a registry, and what is none."""
    registry: trio_claude.Registry = MyRegistry()
    trio_claude.Via(registry, "a")
    trio_claude.Via({}, "a")  # type: ignore[arg-type]
    assert_type(trio_claude.LocalRegistry().keys(), tuple[Hashable, ...])
    assert_type(trio_claude.LocalRegistry().lookup("a"), SessionHandle | None)


# ---- streams ------------------------------------------------------------------------------------


async def helpers(stream: ResponseStream, mine: AsyncIterator[Event]) -> None:
    """What the helpers take and give."""
    assert_type(streams.text_deltas(stream), trio.abc.ReceiveChannel[str])
    assert_type(streams.thinking_deltas(mine), trio.abc.ReceiveChannel[str])
    assert_type(streams.buffered_text(stream), trio.abc.ReceiveChannel[str])
    assert_type(streams.text_content(stream), trio.abc.ReceiveChannel[str])
    assert_type(streams.tool_uses(stream), trio.abc.ReceiveChannel[ToolUseBlock])
    assert_type(streams.until_result(stream), trio.abc.ReceiveChannel[Event])
    assert_type(streams.filter_type(stream, TextDelta), trio.abc.ReceiveChannel[TextDelta])
    assert_type(
        streams.filter_type(stream, TextDelta, ResultMessage),
        trio.abc.ReceiveChannel[TextDelta | ResultMessage],
    )
    assert_type(await streams.final_text(stream), str)
    assert_type(await streams.final_result(streams.until_result(stream)), ResultMessage)
    collected = await streams.collect(stream)
    assert_type(collected, streams.Collected)
    assert_type(collected.tool_calls[0].result, ToolResultBlock | None)
    streams.text_deltas(trio_claude.stream("a", "Hello"))  # type: ignore[arg-type]  # not entered


# ---- backends, test kit, simulator --------------------------------------------------------------


class MyBackend(Backend):
    """A backend of somebody's own."""

    def connect(self) -> AbstractAsyncContextManager[Connection]:
        """Open it."""
        raise NotImplementedError


class MyConversation(Conversation):
    """A conversation of somebody's own."""

    def turn(
        self, prompt: str, options: SessionOptions
    ) -> AbstractAsyncContextManager[trio.abc.ReceiveChannel[Event]]:
        """Ask."""
        raise NotImplementedError


def answer(turn: ScriptedTurn) -> str:
    """A scripted answer."""
    assert_type(turn.history, tuple[tuple[str, str], ...])
    assert_type(turn.options, SessionOptions)
    return turn.prompt


async def kit(handle: SessionHandle) -> None:
    """The test kit."""
    SessionSpec(backend=MyBackend())
    backend = ScriptedBackend(["a", ["b", 1.5, ValueError()], ValueError()])
    assert_type(backend.turns, list[ScriptedTurn])
    await check_backend(ScriptedBackend(answer), SessionOptions(timeout=1))
    await crash(handle, ValueError())
    await crash("a name")  # type: ignore[arg-type]


async def simulators() -> None:
    """The simulator."""

    async def later(body: dict[str, Any]) -> Reply:
        return Reply("Hello", stop_reason="max_tokens")

    opened = open_simulator(later, api_key="key", port=0)
    assert_type(opened, AbstractAsyncContextManager[Simulator])
    async with opened as simulator:
        assert_type(simulator.base_url, str)
        assert_type(simulator.requests, tuple[SimulatedRequest, ...])
        simulator.fail_next(529, retry_after=0.5, times=2)
        assert_type(simulator.hold_next(), Hold)
    open_simulator(lambda body: "Hello")
