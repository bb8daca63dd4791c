"""One child's place: what it takes and gives back, and what an incarnation runs on."""

from __future__ import annotations

from collections.abc import Hashable

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import trio_claude
from trio_claude import (
    CLIBackend,
    ConfigurationError,
    LocalRegistry,
    MessagesBackend,
    SessionExists,
    SessionOptions,
    SessionSpec,
    SupervisorSpec,
    Via,
    configure,
    get_session,
    open_supervisor,
    whereis,
)
from trio_claude._session.incarnation import Incarnation
from trio_claude._supervision.child import Child, SessionChild, SupervisorChild
from trio_claude._supervision.connections import Connections
from trio_claude.testing import ScriptedBackend, crash

from .support import nothing_left, spec


async def test_the_backend_of_a_session() -> None:
    """One of the user's own, or one by name, by default the Messages API; sessions share them."""
    async with trio.open_nursery() as nursery:
        connections = Connections(nursery, lambda _: None)

        def backend(spec: SessionSpec) -> object:
            return SessionChild(spec, 1, (), connections)._backend

        mine = ScriptedBackend()
        assert backend(SessionSpec(backend=mine)) is mine
        assert backend(SessionSpec()) == backend(SessionSpec(backend="messages"))
        assert isinstance(backend(SessionSpec()), MessagesBackend)
        assert CLIBackend() == backend(SessionSpec(backend="cli"))


async def test_how_a_child_is_called() -> None:
    """By its name, else by its id; one that has neither by something unique."""
    async with open_supervisor([spec("a", id=1), spec(None, id=2)]) as supervisor:
        first = await supervisor.start_session(spec(None))
        second = await supervisor.start_session(spec(None))

        roster = supervisor._control.roster.children
        assert [child.called for child in roster.values()][:2] == ["a", 2]
        assert first.id != second.id
        assert repr(first.id).startswith("unnamed-")
        assert repr(first) == f"<SessionHandle {first.id!r} running>"
        await supervisor.terminate_session(first.id)
        assert supervisor.get_session(second.id) is second


async def test_options_are_read_at_each_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """A restart takes up what the application's options and the environment say by then."""
    backend = ScriptedBackend()
    try:
        async with open_supervisor(
            [spec("a", backend)], defaults=SessionOptions(max_tokens=7)
        ) as supervisor:
            await trio_claude.query("a", "hello")
            configure(temperature=0.5, max_tokens=9)
            monkeypatch.setenv("ANTHROPIC_MODEL", "opus")
            await trio_claude.query("a", "hello")
            await supervisor.restart_session("a")
            await trio_claude.query("a", "hello")
    finally:
        configure()
    assert [
        (t.options.model, t.options.temperature, t.options.max_tokens) for t in backend.turns
    ] == [
        (None, None, 7),
        (None, None, 7),
        ("opus", 0.5, 7),
    ]


async def test_the_nearest_defaults_win() -> None:
    """A supervisor's own before those of the one above, the spec's before both."""
    backend = ScriptedBackend()
    below = SupervisorSpec(
        specs=[spec("a", backend, max_tokens=1), spec("b", backend)],
        defaults=SessionOptions(max_tokens=2, temperature=0.2),
    )
    above = SessionOptions(max_tokens=3, temperature=0.3, top_k=3)
    async with open_supervisor([below, spec("c", backend)], defaults=above):
        for name in "abc":
            await trio_claude.query(name, "hello")
    said = [(t.options.max_tokens, t.options.temperature, t.options.top_k) for t in backend.turns]
    assert said == [(1, 0.2, 3), (2, 0.2, 3), (3, 0.3, 3)]


async def test_an_option_that_became_invalid_fails_the_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The environment is read again for a restart: what is wrong with it is that restart's error."""
    async with open_supervisor([spec("a")]) as supervisor:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", "nonsense")
        with pytest.raises(ConfigurationError, match="base_url must be an http:// or https://"):
            await supervisor.restart_session("a")
        assert supervisor.get_session("a").status == "stopped"

        monkeypatch.delenv("ANTHROPIC_BASE_URL")
        await supervisor.restart_session("a")
        assert get_session("a").is_alive()


async def test_each_life_has_its_number(autojump_clock: MockClock) -> None:
    """Failed starts count as lives too: no two of them have the same number."""
    fails = False

    def opening(_: object) -> None:
        if fails:
            raise OSError("no")

    backend = ScriptedBackend(on_open=opening)
    async with open_supervisor([spec("a", backend)]) as supervisor:
        numbers = [supervisor.list_sessions()[0].incarnation]
        await crash(get_session("a"))
        await wait_all_tasks_blocked()
        numbers.append(supervisor.list_sessions()[0].incarnation)
        fails = True
        with pytest.raises(OSError, match="no"):
            await supervisor.restart_session("a")
        fails = False
        await supervisor.restart_session("a")
        numbers.append(supervisor.list_sessions()[0].incarnation)
    assert numbers == [1, 2, 4]


async def test_a_child_can_be_closed_twice() -> None:
    """What it took is given back once."""
    backend = ScriptedBackend()
    async with nothing_left(backend), trio.open_nursery() as nursery:
        child = SessionChild(spec("a", backend), "a", (), Connections(nursery, lambda _: None))
        await child.begin()
        assert whereis("a") is child.handle
        await child.close(None)
        assert whereis("a") is None
        await child.forget(None)
        await child.forget(None)


@pytest.mark.parametrize("name", ["a", Via(LocalRegistry(), "a")], ids=["local", "via"])
async def test_a_child_that_could_not_begin_has_no_name(name: Hashable) -> None:
    """The name stays with whom it belongs to, also when the one that failed is forgotten."""
    async with open_supervisor([spec(name)]), trio.open_nursery() as nursery:
        handle = get_session(name)
        child = SessionChild(spec(name), "a", (), Connections(nursery, lambda _: None))
        with pytest.raises(SessionExists):
            await child.begin()
        await child.forget(None)
        assert get_session(name) is handle


async def test_a_supervisor_below_is_a_child_too() -> None:
    """It has a status, and nothing to give back."""

    async def main(*_: object) -> None:
        raise AssertionError("it is not run here")

    child: Child = SupervisorChild(SupervisorSpec(name="s"), "s", main)
    assert (child.kind, child.called, child.status) == ("supervisor", "s", "starting")
    child.set_status("running")
    assert child.status == "running"
    await child.begin()
    await child.close(None)
    await child.forget(None)
    assert child.cancel_retry() == ()


async def test_a_restart_can_be_called_off(autojump_clock: MockClock) -> None:
    """While its delay lasts: whoever deals with the child otherwise makes the delay end."""
    backend = ScriptedBackend()
    async with open_supervisor(
        [spec("a", backend), spec("b", backend)],
        strategy="rest_for_one",
        backoff=trio_claude.Backoff(10.0, jitter=0.0),
    ) as supervisor:
        await crash(get_session("a"))
        await wait_all_tasks_blocked()
        assert [info.status for info in supervisor.list_sessions()] == ["restarting"] * 2
        await supervisor.terminate_session("a")
        assert get_session("b").is_alive()
        assert trio.current_time() == 0
        await trio.sleep(100)
        assert [info.incarnation for info in supervisor.list_sessions()] == [2]


async def test_what_an_incarnation_ends_of_is_what_was_meant_first() -> None:
    """A second reason to stop it, and a fault after its end, change nothing."""

    async def wait(incarnation: Incarnation) -> None:
        incarnation.stop("restart")
        incarnation.stop("terminate")
        await trio.sleep_forever()

    incarnation = Incarnation(1)
    await incarnation.run(wait)
    incarnation.crash(OSError("too late"))
    assert "restart" == incarnation.intent
    assert incarnation.fault is None
    assert incarnation.error is None
