"""The actor that a group runs in: its calls, at each moment of its life."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio

from trio_claude import ClusterError, Global, SupervisorSpec
from trio_claude._supervision.names import connected_cluster
from trio_claude.cluster import _host
from trio_claude.cluster._host import Host
from trio_claude.cluster._jobs import NotHere
from trio_claude.cluster._names import Names
from trio_claude.cluster._wire import Member, Request, Said, dumps, loads
from trio_claude.cluster._wire_errors import loads_error
from trio_claude.testing import ScriptedBackend

from .cluster_support import connected
from .fake_ray import FakeRay, fake
from .support import spec

__all__ = ["fake"]

DOOR = "trio_claude door of a group"


class Opener:
    """A process that starts an actor, as `open_group` does."""

    def __init__(self, fake: FakeRay, plan: SupervisorSpec | None) -> None:
        self.fake = fake
        self.plan = plan

    async def run(self, then: Callable[[Any], Awaitable[None]], hold: str = "") -> None:
        """Start it, and go on with its peer; hold back its calls of a method until it has none."""
        async with connected() as connection:
            self.gate = self.fake.hold(hold)
            if self.plan is not None:
                connection.life.plans[DOOR] = connection.peers.dumps(self.plan)
            peer = await trio.to_thread.run_sync(
                self.fake.start_host, Host, DOOR, "tests", connection.life.door, {}
            )
            try:
                await then(peer)
            finally:
                self.fake.kill(DOOR)


def plan(**options: Any) -> SupervisorSpec:
    """One session."""
    return SupervisorSpec(specs=[spec("a", ScriptedBackend(lambda turn: "yes"), **options)])


async def said(peer: Any, method: str, *args: Any) -> Said:
    """What it answers."""
    value: Said = loads(await peer.call(method, *args).wait())
    return value


def request(kind: str, *args: Any, name: Any = None, place: int = 1) -> tuple[Any, ...]:
    """What a call of `ask` takes."""
    names = connected_cluster()
    assert isinstance(names, Names)
    return (dumps((names.life.door, (1, 1), place, dumps(Request(kind, 1, name, args=args)))),)


async def test_an_actor_from_its_start_to_its_end(fake: FakeRay) -> None:
    """It tells of its sessions, answers, and ends when it is told to; twice is as once."""

    async def main(peer: Any) -> None:
        opened = await said(peer, "opened")
        ((name, entry),) = opened.value
        assert (entry.id, entry.called, entry.status, entry.door) == ("a", "a", "running", DOOR)
        answer = await said(peer, "ask", *request("ask", "Hi", None, True, name=name))
        assert [str(event) for event in answer.events] == ["yes"]
        assert await said(peer, "opened") == opened
        for _ in range(2):
            assert await said(peer, "close") == Said("end", value=())
        assert await said(peer, "ended") == Said("end", value=())

    await Opener(fake, plan()).run(main)


async def test_who_asks_an_actor_that_has_ended_is_told_so(fake: FakeRay) -> None:
    """Its door may be there for a moment longer."""

    async def main(peer: Any) -> None:
        await said(peer, "opened")
        await said(peer, "close")
        answer = await said(peer, "ask", *request("ask", "Hi", None, True, name=Global("a")))
        assert answer.state == "end"
        assert answer.error is not None
        assert isinstance(loads_error(answer.error), NotHere)

    await Opener(fake, plan()).run(main)


async def test_an_actor_that_cannot_start(fake: FakeRay) -> None:
    """Says why to whoever asks for anything."""

    async def main(peer: Any) -> None:
        for call in (("opened",), ("ended",), ("close",), ("ask", *request("list_sessions"))):
            answer = await said(peer, *call)
            assert answer.error is not None
            assert isinstance(loads_error(answer.error), KeyError)  # there is no plan

    await Opener(fake, None).run(main)


async def test_who_asks_before_it_is_open_waits(fake: FakeRay) -> None:
    """For its sessions are not there yet."""
    gate = fake.hold("settle")

    async def main(peer: Any) -> None:
        await gate.reached()
        reply = peer.call("ask", *request("list_sessions"))
        gate.open()
        answer = loads(await reply.wait())
        ((_, fields, error),) = answer.value
        assert (fields["id"], error) == ("a", None)

    await Opener(fake, plan()).run(main)


async def test_what_it_is_asked_for_that_it_has_not(fake: FakeRay) -> None:
    """The other side is told; the actor goes on."""

    async def main(peer: Any) -> None:
        await said(peer, "opened")
        answer = await said(peer, "ask", *request("dance"))
        assert answer.error is not None
        assert "dance" in str(loads_error(answer.error))

    await Opener(fake, plan()).run(main)


def test_who_closes_an_actor_that_has_ended_is_told_how(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no run any more that it could be told."""

    def run(self: Host, opener: str) -> None:
        async def nothing() -> None:
            self._token = trio.lowlevel.current_trio_token()

        trio.run(nothing)
        self._opened.set_result(b"opened")
        self._ended.set_result(b"ended")

    async def main() -> None:
        host = Host("door", "tests", "opener")
        async with asyncio.timeout(5):
            assert await host.close() == b"ended"

    monkeypatch.setattr(Host, "_run", run)
    asyncio.run(main())


async def test_who_asks_what_is_there_does_not_wait_for_the_rest(fake: FakeRay) -> None:
    """Of a group whose sessions are being started; it is told that it waits, should that be lost."""
    opener, settle = Opener(fake, plan()), fake.hold("settle")
    name = Member(DOOR, "a")

    async def main(peer: Any) -> None:
        ask = peer.call("ask", *request("ask", "Hi", None, True, name=name))
        await opener.gate.reached()
        opener.gate.open()
        assert (loads(await ask.wait())).state == "waiting"
        assert (await said(peer, "ask", *request("more", place=2))).state == "taken"
        await settle.reached()
        answer = await said(peer, "ask", *request("more", place=3))
        assert [str(event) for event in answer.events] == ["yes"]
        assert isinstance(await peer.call("up").wait(), int)
        settle.open()
        assert len((await said(peer, "opened")).value) == 1

    await opener.run(main, hold="join")


async def test_a_group_that_ends_while_it_is_started(fake: FakeRay) -> None:
    """Has no sessions, and has not failed."""
    settle = fake.hold("settle")
    name = Member(DOOR, "a")

    async def main(peer: Any) -> None:
        await settle.reached()
        await said(peer, "ask", *request("stop", False, name=name))
        assert await said(peer, "ended") == await said(peer, "opened") == Said("end", value=())

    one = spec("a", restart="transient", significant=True)
    ends = SupervisorSpec(specs=[one], auto_shutdown="any_significant")
    await Opener(fake, ends).run(main)


async def test_an_actor_that_cannot_connect(fake: FakeRay, monkeypatch: pytest.MonkeyPatch) -> None:
    """Takes no calls, and says why; nobody waits for it."""

    def fail(*args: Any, **options: Any) -> Any:
        raise ClusterError("no")

    monkeypatch.setattr(_host, "open_connection", fail)

    async def main(peer: Any) -> None:
        assert await peer.call("up").wait() is None
        answer = await said(peer, "ask", *request("list_sessions"))
        assert answer.error is not None
        assert str(loads_error(answer.error)) == "no"

    await Opener(fake, plan()).run(main)
