"""The names of a cluster, as one process has them: found, claimed, told, and claimed again."""

from __future__ import annotations

import signal
from collections.abc import Hashable
from typing import Any

import attrs
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from trio_claude import (
    ClusterError,
    ConfigurationError,
    Global,
    LocalRegistry,
    SessionExists,
    SessionHandle,
    SessionNotFound,
    SessionTerminated,
    TextDelta,
    UsageError,
    Via,
    get_session,
    open_supervisor,
    query,
    stream,
    whereis,
)
from trio_claude.cluster import _ray
from trio_claude.cluster._doors import DoorLost
from trio_claude.cluster._far import FarSession
from trio_claude.cluster._wire import Entry

from .cluster_support import A, B, connected, other_process, scripted, until, until_stands
from .fake_ray import FakeRay, fake
from .support import spec

__all__ = ["fake"]


async def _start(name: Hashable) -> None:
    async with open_supervisor([spec(name)]):
        raise AssertionError


def _inbox() -> Any:
    from trio_claude._options import LIBRARY_DEFAULTS
    from trio_claude._session.inbox import Inbox

    return Inbox(A, A, LIBRARY_DEFAULTS)


# ---- names ---------------------------------------------------------------------------------------


async def test_a_session_elsewhere_is_found_and_asked(fake: FakeRay) -> None:
    """By name or handle; how it stands is heard; what it has answered, too."""
    async with other_process(spec(A, scripted(["one ", "two"]))), connected() as connection:
        handle = get_session(A)
        assert whereis(A) is handle
        assert (handle.name, handle.id, handle.status) == (A, A, "running")
        assert isinstance(handle._target, FarSession)
        for answer in (await handle.query("Hi"), await query(A, "Hi")):
            assert str(answer) == "one two"
        assert handle.session_id is not None
        async with stream(A, "Hi") as events:
            words = [event.text async for event in events if isinstance(event, TextDelta)]
        assert words == ["one ", "two"]
        await handle.clear()
        assert handle.session_id is None
        await handle.interrupt()
        with pytest.raises(UsageError, match="has no mcp_status"):
            await handle.mcp_status()
        assert connection.names.names() == [A]
        with pytest.raises(SessionNotFound, match=r"there are Global\(key='a'\)"):
            get_session(B)


async def test_a_name_is_one_in_the_whole_cluster(fake: FakeRay) -> None:
    """Who comes second hears where the first one is; own names stay found at home, and free again."""
    async with other_process(spec(A)), connected() as connection:
        with pytest.raises(SessionExists) as caught:
            async with open_supervisor([spec(A)]):
                raise AssertionError
        assert str(caught.value) == (
            "the name Global(key='a') is taken in the cluster, by a session in process other"
        )
        async with open_supervisor([spec(B, scripted("mine"))]) as supervisor:
            mine = supervisor.get_session(B)
            assert whereis(B) is get_session(B) is mine
            assert str(await query(B, "Hi")) == "mine"
            with pytest.raises(SessionExists):
                await supervisor.start_session(spec(B), id="another")
            assert whereis(B) is mine
        assert whereis(B) is None
        await until_stands(connection, B, None)


async def test_only_global_names_are_the_clusters(fake: FakeRay) -> None:
    """Others, and sessions without one, are nobody else's business."""
    registry = LocalRegistry()
    async with connected() as connection:
        async with open_supervisor([spec("a"), spec(Via(registry, "b")), spec(None)]):
            assert connection.names.held.entries() == []
            assert registry.keys() == ("b",)
            assert str(await query("a", "Hi"))


async def test_a_name_that_is_not_plain_data_is_refused(fake: FakeRay) -> None:
    """Two processes could take it for different things; nothing is taken by it."""
    odd = Global(object())
    async with connected() as connection:
        with pytest.raises(ConfigurationError, match="can't be known in a cluster: names and ids"):
            async with open_supervisor([spec(odd)]):
                raise AssertionError
        with pytest.raises(ConfigurationError, match="can't be known in a cluster"):
            await query(odd, "Hi")
        assert connection.names.held._mine == {}


async def test_an_id_that_is_not_plain_data_is_sent_as_text(fake: FakeRay) -> None:
    """A Global name is enough to be found by."""

    class Odd:
        def __repr__(self) -> str:
            return "odd"

    async with connected() as connection:
        async with open_supervisor([spec(A, id=Odd())]):
            ((name, entry),) = connection.names.held.entries()
            assert (name, entry.id, entry.called) == (A, "odd", A)


async def test_a_question_by_name_asks_the_registry(fake: FakeRay) -> None:
    """Where this process hasn't heard of it yet; `whereis` knows only what was heard."""
    async with connected() as connection:
        gate = fake.hold("changes")
        async with open_supervisor([spec("wakes")]):
            pass
        async with other_process(spec(A, scripted("yes"))):
            connection.names.copy.entries.pop(A, None)
            if whereis(A) is None:
                assert str(await query(A, "Hi")) == "yes"
            assert whereis(A) is not None
            with pytest.raises(SessionNotFound, match="no session is named"):
                await query(B, "Hi")
            gate.open()


async def test_a_session_that_is_gone_is_stopped(fake: FakeRay) -> None:
    """Once that is heard; its handle stays one, and is good again if its process starts it again."""
    async with other_process(spec(A, restart="temporary")) as other, connected() as connection:
        handle = get_session(A)
        await handle.stop()
        await until_stands(connection, A, None)
        assert (handle.status, whereis(A)) == ("stopped", None)
        with pytest.raises(SessionTerminated, match="it was terminated, has finished"):
            await handle.query("Hi")
        with pytest.raises(SessionNotFound):
            await query(A, "Hi")
        assert other.error is None


async def test_a_name_that_changes_hands(fake: FakeRay) -> None:
    """The old handle is stopped for good, and the name leads to the new one."""
    async with connected() as connection:
        gate = fake.hold("changes", answers=True)
        async with other_process(spec(A, scripted("old"))):
            await query(A, "Hi")
            old = get_session(A)
        door = connection.names.copy.entries[A].door
        async with other_process(spec(A, scripted("new"))):
            assert get_session(A) is old  # as far as it has heard
            gate.open()
            await until(connection, lambda: connection.names.copy.entries[A].door != door)
            assert old.status == "stopped"
            assert get_session(A) is not old
            assert str(await query(A, "Hi")) == "new"


async def test_a_name_that_has_changed_hands_unheard(fake: FakeRay) -> None:
    """A question by name finds the one that has it now."""
    async with connected() as connection:
        async with other_process(spec(A, scripted("old"), restart="temporary")) as other:
            handle = get_session(A) if whereis(A) else None
            await query(A, "Hi")
            handle = get_session(A)
            gate = fake.hold("changes", answers=True)
            await handle.stop()
            entry = connection.names.copy.entries.get(A)
            async with open_supervisor():
                pass
            if entry is not None:
                with pytest.raises(SessionNotFound):
                    await query(A, "Hi")
            gate.open()
            assert other.error is None


async def test_who_is_cancelled_while_a_name_is_claimed_gives_it_back(fake: FakeRay) -> None:
    """Once that has been decided; nobody is in its way then."""
    gate = fake.hold("hold")
    async with connected() as connection:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:

                async def start() -> None:
                    async with open_supervisor([spec(A)]):
                        raise AssertionError

                nursery.start_soon(start)
                await gate.reached()
                scope.cancel()
        assert scope.cancelled_caught
        assert connection.names.held._mine == {}
        gate.open()
        async with other_process(spec(A)):
            assert str(await query(A, "Hi", model=None))


async def test_who_starts_again_after_a_cancelled_start_waits_for_the_name(fake: FakeRay) -> None:
    """Nobody has it, so nobody is refused it."""
    gate = fake.hold("hold")
    async with connected(), open_supervisor() as supervisor:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(supervisor.start_session, spec(A))
                await gate.reached()
                scope.cancel()
        assert scope.cancelled_caught
        async with trio.open_nursery() as nursery:
            nursery.start_soon(supervisor.start_session, spec(A))
            for _ in range(20):  # until it waits
                await trio.lowlevel.checkpoint()
            gate.open()
        assert whereis(A) is supervisor.get_session(A)


async def test_who_is_cancelled_with_no_registry_has_claimed_nothing(fake: FakeRay) -> None:
    """There is none to give anything back to."""
    async with connected() as connection:
        connection.names._registry = None
        with trio.CancelScope() as scope:
            scope.cancel()
            await connection.names.register(SessionHandle(_inbox()))
        assert scope.cancelled_caught


async def test_a_session_that_outlives_the_block_has_no_name_in_it(fake: FakeRay) -> None:
    """Nothing is taken once it ends, and nothing is freed twice."""
    async with connected() as connection:
        pass
    handle = SessionHandle(_inbox())
    await connection.names.register(handle)
    await connection.names.unregister(handle)
    assert connection.names.held._mine == {}
    with pytest.raises(ClusterError, match="the connection to the cluster has ended"):
        await connection.names.held.settle()


async def test_a_name_that_cannot_be_given_back_ends_the_connection(
    fake: FakeRay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be taken for ever."""

    class Gone:
        def call(self, method: str, *args: object) -> _ray.Reply:
            raise DoorLost(returns=False)

    with pytest.raises(ClusterError, match="the registry of names can't be reached"):
        async with connected() as connection:
            async with open_supervisor([spec(A)]) as supervisor:
                connection.names._registry = Gone()  # type: ignore[assignment]
                monkeypatch.setattr(_ray, "registry", lambda namespace: Gone())
                await supervisor.terminate_session(A)
                await trio.sleep_forever()


async def test_a_session_may_outlive_the_block(fake: FakeRay) -> None:
    """It is this run's alone then, and its changes are told nobody."""
    async with open_supervisor() as supervisor:
        async with connected() as connection:
            handle = await supervisor.start_session(spec(A, scripted()))
            await until_stands(connection, A, "running")
        assert str(await handle.query("Hi")) == "yes"
        assert connection.names.held._mine == {}


async def test_a_name_that_cannot_be_claimed(
    fake: FakeRay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Is claimed no more; the error is the caller's."""
    async with connected() as connection, open_supervisor() as supervisor:
        ask_registry = connection.names.held._ask

        async def ask(method: str, *args: Any) -> Any:
            if method == "claim":
                raise ClusterError("no")
            return await ask_registry(method, *args)

        with monkeypatch.context() as patch:
            patch.setattr(connection.names.held, "_ask", ask)
            with pytest.raises(ClusterError, match="no"):
                await supervisor.start_session(spec(A))
        await supervisor.start_session(spec(A))


async def test_who_is_cancelled_gives_back_only_what_is_its_own(fake: FakeRay) -> None:
    """Not what another has."""
    async with other_process(spec(A, scripted("other"))), connected() as connection:
        gate = fake.hold("claim")
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_start, A)
                await gate.reached()
                scope.cancel()
        assert scope.cancelled_caught
        gate.open()
        with trio.fail_after(5):
            while connection.names.held._freeing:
                await wait_all_tasks_blocked(0.001)
        assert str(await query(A, "Hi")) == "other"


async def test_only_the_session_that_was_not_there_is_forgotten(fake: FakeRay) -> None:
    """Another that has its name by now is known on."""
    async with other_process(spec(A, scripted())), connected() as connection:
        known = connection.names.copy.entries[A]
        connection.names.forget(
            FarSession(
                connection.peers, A, attrs.evolve(known, door="another"), connection.names.forget
            )
        )
        assert connection.names.copy.entries[A] is known


async def test_what_is_heard_otherwise_than_by_news_is_known_at_once(fake: FakeRay) -> None:
    """Such as what a group's actor has started."""
    async with connected() as connection:
        session = connection.names.learn(A, Entry("there", 1, "somewhere", A, A, "running", None))
        assert whereis(A) is session.handle
        assert connection.names.learn(A, connection.names.copy.entries[A]) is session


async def test_a_name_that_is_being_freed_is_waited_for(fake: FakeRay) -> None:
    """By who wants it in the same process: what is released late must not be theirs."""
    async with connected(), open_supervisor([spec(A)]) as supervisor, open_supervisor() as another:
        gate = fake.hold("release")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(supervisor.terminate_session, A)
            await gate.reached()
            nursery.start_soon(another.start_session, spec(A))
            for _ in range(20):  # until it waits
                await trio.lowlevel.checkpoint()
            assert whereis(A) is None
            gate.open()
        assert str(await query(A, "Hi"))


async def test_of_two_sessions_in_a_process_the_one_that_is_gone_is_forgotten(
    fake: FakeRay,
) -> None:
    """Whoever kept the handle of the one, and asks it, must not hide the other from anybody."""
    async with connected() as connection:
        names = connection.names
        old = names.learn(A, Entry("there", 1, "w", A, A, "running", None, born=3))
        names._hear(A, Entry("there", 1, "w", A, A, "running", None, serial=4, born=7))
        assert old.status == "stopped"
        names.forget(old)
        handle = whereis(A)
        assert handle is not None
        assert handle._target is not old
        names.forget(handle._target)  # type: ignore[arg-type]
        assert whereis(A) is None
        names.forget(old)


async def test_what_was_heard_while_the_registry_was_asked_is_newer(fake: FakeRay) -> None:
    """Than its answer, which was under way."""
    async with other_process(spec(A)), connected() as connection:
        names = connection.names
        known = names.copy.entries.pop(A)
        gate = fake.hold("find", answers=True)
        found: list[FarSession | None] = []

        async def resolve() -> None:
            found.append(await names.resolve(A))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(resolve)
            await gate.reached()
            names._hear(A, attrs.evolve(known, serial=known.serial + 5, status="restarting"))
            gate.open()
        (session,) = found
        assert session is not None
        assert session.status == "restarting"


@pytest.mark.parametrize("held", ["claim", "release"])
async def test_who_waits_for_a_name_when_the_connection_ends(held: str, fake: FakeRay) -> None:
    """Is told so: it must not run under a name that nobody knows."""

    async def start() -> None:
        with pytest.raises(ClusterError, match="the connection to the cluster has ended"):
            await second.start_session(spec(A))

    async with open_supervisor() as first, open_supervisor() as second:
        async with trio.open_nursery() as nursery:
            async with connected() as connection:
                gate = fake.hold(held)
                if held == "release":
                    await first.start_session(spec(A))
                    nursery.start_soon(first.terminate_session, A)
                    await gate.reached()
                    nursery.start_soon(start)
                    for _ in range(20):  # until it waits
                        await trio.lowlevel.checkpoint()
                else:
                    nursery.start_soon(start)
                    await gate.reached()
                    gate.drop()
            if held == "release":
                gate.open()
        assert connection.names.held._mine == {}


async def test_a_claim_that_can_neither_be_heard_nor_given_back_ends_the_connection(
    fake: FakeRay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody is there any more to be told of it."""
    begun, go = trio.Event(), trio.Event()

    async def ask(method: str, *args: Any) -> Any:
        begun.set()
        await go.wait()
        raise ClusterError("no registry")

    with pytest.raises(ClusterError, match="no registry"):
        async with connected() as connection:
            with monkeypatch.context() as patch:
                patch.setattr(connection.names.held, "_ask", ask)
                with trio.CancelScope() as scope:
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(connection.names.register, SessionHandle(_inbox()))
                        await begun.wait()
                        scope.cancel()
                go.set()
                await trio.sleep_forever()


async def test_a_ctrl_c_while_a_name_is_claimed_gives_it_back(fake: FakeRay) -> None:
    """As a cancellation does."""
    async with connected() as connection:
        gate = fake.hold("claim")

        async def interrupt() -> None:
            await gate.reached()
            signal.raise_signal(signal.SIGINT)

        handle = SessionHandle(_inbox())
        with pytest.raises(BaseExceptionGroup) as caught:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(interrupt)
                await connection.names.register(handle)
        assert caught.group_contains(KeyboardInterrupt)
        gate.open()
        await connection.names.register(handle)
        assert whereis(A) is handle
        await connection.names.unregister(handle)


# ---- what is told --------------------------------------------------------------------------------


async def test_how_sessions_stand_is_told(fake: FakeRay) -> None:
    """Each time that one has changed; several changes at once in one call."""
    async with other_process(spec(A, scripted())) as other, connected() as connection:
        handle = get_session(A)
        assert handle.session_id is None

        async def ask() -> str | None:
            await query(A, "Hi")
            return get_session(A).session_id

        session_id = await other.do(ask)
        await until(connection, lambda: handle.session_id == session_id)
        assert connection.names.copy.entries[A].session_id == session_id


async def test_a_change_of_what_is_gone_is_told_nobody(fake: FakeRay) -> None:
    """Of a name that is free again, or never was ours."""
    async with connected() as connection:
        connection.names.held._changed(A)
        assert not connection.names.held._to_tell.is_set()
        connection.names.held._untold.add(A)
        connection.names.held._to_tell.set()
        await wait_all_tasks_blocked()
        assert connection.names.held._untold == set()


async def test_a_registry_that_takes_us_for_restarting_is_told_better(fake: FakeRay) -> None:
    """It could not reach us for a moment."""
    async with connected() as connection, open_supervisor([spec(A)]) as supervisor:
        await until_stands(connection, A, "running")
        gate = fake.hold("update")
        fake.blink(connection.life.door, "alive")
        await until_stands(connection, A, "restarting")
        assert supervisor.get_session(A).status == "running"
        gate.open()
        await until_stands(connection, A, "running")


async def test_what_changes_while_a_name_is_claimed_is_told(fake: FakeRay) -> None:
    """The registry may have had nothing to change."""
    async with connected() as connection:
        gate = fake.hold("hold")
        inbox = _inbox()
        handle = SessionHandle(inbox)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connection.names.register, handle)
            await gate.reached()
            inbox.status = "restarting"
            gate.open()
        await until_stands(connection, A, "restarting")
        await connection.names.unregister(handle)


# ---- a registry that is lost ---------------------------------------------------------------------


@pytest.mark.parametrize("returns", [True, False])
async def test_a_new_registry_has_all_names(returns: bool, fake: FakeRay) -> None:
    """Whether Ray has started it again, or we have; those that were taken stay taken, and how the
    sessions stand is told again."""
    async with other_process(spec(A, scripted())) as other, connected() as connection:
        async with open_supervisor([spec(B, scripted())]) as supervisor:
            mine = supervisor.get_session(B)
            handle = get_session(A)
            await mine.query("Hi")
            assert connection.names.copy.version is not None
            life, _ = connection.names.copy.version
            fake.kill_registry(returns=returns)

            def is_new() -> bool:
                version = connection.names.copy.version
                entry = connection.names.copy.entries.get(B)
                return (
                    version is not None
                    and version[0] != life
                    and entry is not None
                    and entry.session_id == mine.session_id
                )

            await until(connection, is_new)
            assert get_session(A) is handle
            assert str(await query(A, "Hi")) == "yes"
            with pytest.raises(SessionExists):
                await supervisor.start_session(spec(A))
            with pytest.raises(SessionExists):
                await other.do(_start, B)
        assert other.error is None


async def test_a_registry_that_is_lost_again_while_it_is_joined(fake: FakeRay) -> None:
    """Is joined once more; all names are there."""
    async with other_process(spec(A, scripted())), connected() as connection:
        async with open_supervisor([spec(B)]):
            gate = fake.hold("join")
            fake.kill_registry()
            await gate.reached()
            fake.kill_registry()
            gate.open()
            fake.kill_registry()
            version = connection.names.copy.version

            def is_new() -> bool:
                return (
                    connection.names.copy.version != version
                    and {A, B} <= connection.names.copy.entries.keys()
                )

            await until(connection, is_new)
            with pytest.raises(SessionExists):
                await _start(A)


async def test_a_name_that_a_new_registry_gave_to_another(
    fake: FakeRay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then two have it: the one that was not heard loses its connection, and with it the name."""
    with pytest.raises(ClusterError) as caught:
        async with connected() as connection, open_supervisor([spec(A)]):
            ask_registry = connection.names.held._ask

            async def ask(method: str, *args: Any) -> Any:
                if method == "claim":
                    return Entry("d", 1, "process x", A, A, "running", None)
                return await ask_registry(method, *args)

            monkeypatch.setattr(connection.names.held, "_ask", ask)
            fake.kill_registry(returns=True)
            await trio.sleep_forever()
    assert str(caught.value) == (
        "the name Global(key='a') was given to a session in process x, while the registry of names "
        "could not reach this process"
    )


async def test_a_name_that_is_given_back_while_all_are_claimed_again(
    fake: FakeRay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not claimed any more."""
    async with connected() as connection, open_supervisor([spec(A), spec(B)]) as supervisor:
        claimed: list[Hashable] = []
        done = trio.Event()
        ask_registry = connection.names.held._ask

        async def ask(method: str, *args: Any) -> Any:
            if method == "claim":
                claimed.append(args[0])
                await supervisor.terminate_session(B if args[0] == A else A)
                done.set()
            return await ask_registry(method, *args)

        monkeypatch.setattr(connection.names.held, "_ask", ask)
        fake.kill_registry(returns=True)
        await done.wait()
        await wait_all_tasks_blocked()
        assert len(claimed) == 1


async def test_a_name_that_is_given_back_while_it_is_claimed_again(
    fake: FakeRay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is free, though its claim came behind that."""
    async with connected() as connection, open_supervisor([spec(A)]) as supervisor:
        freed = trio.Event()
        ask_registry = connection.names.held._ask

        async def ask(method: str, *args: Any) -> Any:
            if method == "claim":
                await supervisor.terminate_session(A)
                assert await ask_registry(method, *args) is None
                assert await ask_registry("find", A) is not None
                return None
            value = await ask_registry(method, *args)
            if method == "release" and await ask_registry("find", A) is None:
                freed.set()
            return value

        monkeypatch.setattr(connection.names.held, "_ask", ask)
        fake.kill_registry(returns=True)
        while not freed.is_set() or await ask_registry("find", A) is not None:
            await wait_all_tasks_blocked(0.001)
        assert fake.do(lambda: dict(fake.instance(connection.life.door)._held)) == {}


async def test_a_name_that_a_registry_left_with_us_is_freed(fake: FakeRay) -> None:
    """It died between two calls, and our door believed its last word."""
    async with connected() as connection, open_supervisor([spec(A)]) as supervisor:
        await until_stands(connection, A, "running")
        names = connection.names
        mine = names.copy.entries[A]
        door = fake.instance(connection.life.door)
        stale = attrs.evolve(mine, id=B, called=B, status="running")
        fake.do(lambda: door._held.__setitem__(B, stale))
        version = names.copy.version
        assert version is not None
        fake.kill_registry(returns=True)

        def is_new() -> bool:
            now = names.copy.version
            return now is not None and now[0] != version[0] and names.copy.entries.keys() == {A}

        await until(connection, is_new)
        assert whereis(A) is supervisor.get_session(A)
        assert set(fake.do(lambda: dict(door._held))) == {A}


async def test_a_registry_that_two_calls_find_gone(fake: FakeRay) -> None:
    """Both ask the one that one of them starts."""
    async with connected() as connection:
        await wait_all_tasks_blocked()  # one waits for news
        gate = fake.hold("find", answers=True)
        found: list[FarSession | None] = []
        async with trio.open_nursery() as nursery:

            async def find() -> None:
                found.append(await connection.names.resolve(A))

            nursery.start_soon(find)
            await gate.reached()
            gate.drop()
            fake.kill_registry()
        assert found == [None]
