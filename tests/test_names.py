"""Who is found under which name, for how long, and what a registry of the user's may do."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Hashable, Iterator
from contextlib import contextmanager

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import trio_claude
from trio_claude import (
    ConfigurationError,
    Global,
    LocalRegistry,
    RestartIntensityExceeded,
    SessionExists,
    SessionHandle,
    SessionNotFound,
    SessionTerminated,
    SupervisorError,
    SupervisorSpec,
    TrioClaudeError,
    UsageError,
    Via,
    get_session,
    get_supervisor,
    open_session,
    open_supervisor,
    whereis,
)
from trio_claude._session.target import Askable
from trio_claude._supervision.names import connected_cluster, set_cluster, there_are
from trio_claude.testing import ScriptedBackend, crash

from .support import nothing_left, spec


class Registry:
    """A registry of a user's: one that has no ``keys``, and whose methods fail when told to."""

    def __init__(self) -> None:
        self.failing: set[str] = set()
        self.handles: dict[Hashable, SessionHandle] = {}

    def _fail(self, method: str) -> None:
        if method in self.failing:
            raise OSError(f"the registry's {method} failed")

    def register(self, key: Hashable, handle: SessionHandle) -> None:
        """Keep it."""
        self._fail("register")
        if key in self.handles:
            raise SessionExists(f"{key!r} is ours")
        self.handles[key] = handle

    def unregister(self, key: Hashable) -> None:
        """Forget it."""
        self._fail("unregister")
        self.handles.pop(key, None)

    def lookup(self, key: Hashable) -> SessionHandle | None:
        """Find it."""
        self._fail("lookup")
        return self.handles.get(key)


_REGISTRY = LocalRegistry()
NAMES = ["a", 1, ("shard", 2), "", frozenset("ab"), Global("a"), Via(_REGISTRY, "a")]


# ---- the three kinds --------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES, ids=repr)
async def test_a_name_finds_its_session(name: Hashable) -> None:
    """Any hashable, a Global and a Via: found while the session is there, and not afterwards."""
    async with nothing_left(), open_supervisor([spec(name)]) as supervisor:
        handle = supervisor.get_session(name)

        assert get_session(name) is whereis(name) is handle
        assert handle.name == name
        assert (await trio_claude.query(name, "hello")).session_id == handle.session_id
    assert whereis(name) is None


async def test_kinds_of_names_are_kept_apart() -> None:
    """The same key is another name as a Global, and in each registry."""
    first, second = LocalRegistry(), LocalRegistry()
    names = ["a", Global("a"), Via(first, "a"), Via(second, "a")]
    async with open_supervisor([spec(name) for name in names]):
        assert len({get_session(name) for name in names}) == len(names)


def test_names_are_values() -> None:
    """Equal by what they say; a Via by the very registry."""
    registry = LocalRegistry()

    assert Global("a") == Global("a") != Global("b")
    assert Via(registry, "a") == Via(registry, "a") != Via(LocalRegistry(), "a")
    assert len({Global("a"), Global("a"), Via(registry, 1), Via(registry, 1)}) == 2


def test_a_bad_name_is_refused() -> None:
    """At the door, by the name of what is wrong."""
    with pytest.raises(ConfigurationError, match=r"key must be hashable, not \[\]"):
        Global([])  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match=r"key must be hashable, not \{\}"):
        Via(LocalRegistry(), {})  # type: ignore[arg-type]
    with pytest.raises(
        ConfigurationError, match=r"registry must be an object with register\(\), unregister\(\)"
    ):
        Via({}, "a")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", [None, [], {}])
@pytest.mark.parametrize("find", [get_session, whereis, get_supervisor])
async def test_what_is_no_name_is_refused(find: Callable[[object], object], name: object) -> None:
    """Looking for it is an error of the caller's, not "not found"."""
    with pytest.raises(ConfigurationError, match="a name must be hashable and not None, not"):
        find(name)


# ---- taken and unknown ------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES, ids=repr)
async def test_a_name_is_taken_once(name: Hashable) -> None:
    """Another session under it is refused, in any supervisor, and leaves the first as it was."""
    async with nothing_left():
        async with open_supervisor([spec(name)]) as first, open_supervisor() as second:
            handle = first.get_session(name)
            with pytest.raises(SessionExists, match=r"the name .* is taken"):
                await second.start_session(spec(name, id="other"))
            assert second.list_sessions() == ()
            with pytest.raises(SessionExists):
                async with open_session(name=name, backend=ScriptedBackend()):
                    raise AssertionError("it must not open")
            assert get_session(name) is handle
            assert (await handle.query("hello")).text


async def test_an_unknown_name_names_the_others() -> None:
    """The message says which there are, in start order."""
    with pytest.raises(SessionNotFound, match="no session is named 'x'; there are none"):
        get_session("x")
    async with open_supervisor([spec("b"), spec("a"), spec(Global("g"))]):
        with pytest.raises(SessionNotFound) as raised:
            get_session("x")
    assert str(raised.value) == ("no session is named 'x'; there are 'b', 'a', Global(key='g')")


async def test_an_unknown_name_names_twenty_at_most() -> None:
    """Of many names the first twenty, and how many more."""
    names = list(range(25))
    async with open_supervisor([spec(name) for name in names]):
        with pytest.raises(SessionNotFound) as raised:
            get_session("x")
    listed = ", ".join(str(name) for name in names[:20])
    assert str(raised.value) == f"no session is named 'x'; there are {listed} and 5 more"
    assert there_are(range(20)).endswith(", 19")


async def test_an_unknown_key_names_those_of_its_registry() -> None:
    """Where the registry can tell them; it may have no ``keys``."""
    local, own = LocalRegistry(), Registry()
    async with open_supervisor([spec(Via(local, "a")), spec(Via(own, "b")), spec("c")]):
        with pytest.raises(SessionNotFound, match=r"; there are 'a'$"):
            get_session(Via(local, "x"))
        with pytest.raises(
            SessionNotFound, match=r"; there are none: is the supervisor.s block open"
        ):
            get_session(Via(own, "x"))


async def test_a_local_registry_tells_its_keys() -> None:
    """Oldest first; unregistering what is not there does nothing."""
    registry = LocalRegistry()
    assert registry.keys() == ()
    async with open_supervisor([spec(Via(registry, key)) for key in "ba"]):
        assert registry.keys() == ("b", "a")
        assert registry.lookup("a") is get_session(Via(registry, "a"))
        assert repr(registry).startswith("<LocalRegistry of 2 at 0x")
    assert registry.keys() == ()
    registry.unregister("b")


# ---- for how long -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES, ids=repr)
async def test_a_name_stays_through_restarts(name: Hashable, autojump_clock: MockClock) -> None:
    """The same handle before a crash, while the session is down, and after it; and on request."""
    async with open_supervisor(
        [spec(name)], backoff=trio_claude.Backoff(10.0, jitter=0.0)
    ) as supervisor:
        handle = get_session(name)
        await crash(handle)
        await wait_all_tasks_blocked()
        assert not handle.is_alive()
        assert supervisor.statistics().restarting == 1
        assert get_session(name) is handle
        with pytest.raises(SessionExists):
            await supervisor.start_session(spec(name, id="other"))
        await trio.sleep(11)
        assert handle.is_alive()
        assert get_session(name) is handle

        await supervisor.restart_session(name)
        assert get_session(name) is handle


async def test_a_name_is_found_while_its_session_starts(autojump_clock: MockClock) -> None:
    """Who asks early waits in line."""

    async def slowly(_: object) -> None:
        await trio.sleep(5)

    backend = ScriptedBackend(on_open=slowly)
    async with open_supervisor() as supervisor, trio.open_nursery() as nursery:
        nursery.start_soon(supervisor.start_session, spec("a", backend))
        await wait_all_tasks_blocked()

        assert get_session("a").status == "starting"
        await trio_claude.query("a", "hello")
        assert trio.current_time() == 5


@pytest.mark.parametrize("name", NAMES, ids=repr)
async def test_a_name_is_free_after_terminate(name: Hashable) -> None:
    """And another session can have it at once, with another handle."""
    async with open_supervisor([spec(name)]) as supervisor:
        old = get_session(name)
        await supervisor.terminate_session(name)
        assert whereis(name) is None
        new = await supervisor.start_session(spec(name))
        assert get_session(name) is new is not old


async def test_a_name_is_free_after_giving_up() -> None:
    """Too many restarts: all names are gone, that of the supervisor too."""
    async with nothing_left():
        with pytest.raises(RestartIntensityExceeded):
            async with open_supervisor([spec("a"), spec("b")], name="s", max_restarts=0):
                await crash(get_session("a"))
                await trio.sleep_forever()
        assert whereis("a") is whereis("b") is None
        with pytest.raises(SessionNotFound, match="no supervisor is named 's'; there are none"):
            get_supervisor("s")


@pytest.mark.parametrize("restart", ["transient", "temporary"])
async def test_a_name_is_free_after_a_normal_end(restart: str) -> None:
    """One that has finished and stays down needs no name."""
    async with open_supervisor([spec("a", restart=restart)]):
        await get_session("a").stop()
        assert whereis("a") is None
        async with open_session(name="a", backend=ScriptedBackend()) as other:
            assert get_session("a") is other


async def test_a_name_is_free_after_a_start_that_failed() -> None:
    """A start that fails leaves no name, and the next one works."""

    def fail(_: object) -> None:
        raise OSError("no")

    async with open_supervisor() as supervisor:
        with pytest.raises(OSError, match="no"):
            await supervisor.start_session(spec("a", ScriptedBackend(on_open=fail)))
        assert whereis("a") is None
        handle = await supervisor.start_session(spec("a"))
        assert get_session("a") is handle


async def test_a_stopped_session_takes_its_name_again() -> None:
    """Restarted on request, it is found again under the same handle."""
    async with open_supervisor([spec("a", restart="transient")]) as supervisor:
        handle = get_session("a")
        await handle.stop()
        assert whereis("a") is None

        await supervisor.restart_session("a")
        assert get_session("a") is handle


async def test_a_stopped_session_whose_name_was_taken_stays_down() -> None:
    """It can't start, says so, leaves the name to the other, and can start once it is free."""
    async with (
        open_supervisor([spec("a", restart="transient")]) as first,
        open_supervisor() as second,
    ):
        handle = get_session("a")
        await handle.stop()
        other = await second.start_session(spec("a"))

        with pytest.raises(SessionExists, match="the name 'a' is taken"):
            await first.restart_session("a")
        assert handle.status == "stopped"
        assert get_session("a") is other
        assert first.statistics().specs == 1

        await second.terminate_session("a")
        await first.restart_session("a")
        assert get_session("a") is handle
        assert (await handle.query("hello")).text


# ---- registries that fail ---------------------------------------------------------------------


async def test_a_registry_that_cannot_register() -> None:
    """The start fails and leaves nothing behind; when the registry is well again it works."""
    registry, backend = Registry(), ScriptedBackend()
    name = Via(registry, "a")
    async with nothing_left(backend), open_supervisor() as supervisor:
        registry.failing.add("register")
        with pytest.raises(SupervisorError, match="could not register it") as raised:
            await supervisor.start_session(spec(name, backend))
        assert isinstance(raised.value.__cause__, OSError)
        assert supervisor.list_sessions() == ()
        assert (backend.connections, backend.conversations_begun) == (0, 0)

        registry.failing.clear()
        handle = await supervisor.start_session(spec(name, backend))
        assert get_session(name) is handle
    assert registry.handles == {}


async def test_a_registry_that_cannot_register_at_first() -> None:
    """The supervisor doesn't begin: those before it are stopped, and the error is raised."""
    registry = Registry()
    registry.failing.add("register")
    async with nothing_left():
        with pytest.raises(SupervisorError, match="could not register it") as raised:
            async with open_supervisor([spec("b"), spec(Via(registry, "a"))]):
                raise AssertionError("it must not open")
    assert isinstance(raised.value.__cause__, OSError)
    assert any("Via(" in note for note in raised.value.__notes__)


async def test_what_a_registry_says_itself_is_passed_on() -> None:
    """An error of this library's from a registry is no failure of the registry."""
    registry = Registry()
    async with open_supervisor([spec(Via(registry, "a"))]) as supervisor:
        with pytest.raises(SessionExists, match="'a' is ours"):
            await supervisor.start_session(spec(Via(registry, "a"), id="other"))


async def test_a_registry_that_cannot_unregister_on_terminate() -> None:
    """The caller learns it; the session is gone all the same, and the supervisor goes on."""
    registry, backend = Registry(), ScriptedBackend()
    async with open_supervisor([spec(Via(registry, "a"), backend, id="a")]) as supervisor:
        handle = supervisor.get_session("a")
        registry.failing.add("unregister")
        with pytest.raises(SupervisorError, match="could not unregister it") as raised:
            await supervisor.terminate_session("a")
        assert isinstance(raised.value.__cause__, OSError)
        assert handle.status == "stopped"
        assert supervisor.list_sessions() == ()
        await wait_all_tasks_blocked()
        assert (backend.connections, backend.conversations) == (0, 0)

        assert (await supervisor.start_session(spec("b"))).is_alive()


async def test_a_registry_that_cannot_unregister_at_the_end() -> None:
    """The block ends with a SupervisorError, and all else is stopped and freed."""
    registry, backend = Registry(), ScriptedBackend()
    registry.failing.add("unregister")
    async with nothing_left(backend):
        with pytest.raises(SupervisorError, match="could not unregister it") as raised:
            async with open_supervisor(
                [spec("b", backend), spec(Via(registry, "a"), backend), spec("c", backend)]
            ):
                pass
        assert isinstance(raised.value.__cause__, OSError)


async def test_a_registry_that_cannot_unregister_and_a_body_that_fails() -> None:
    """Both errors are in the cause."""
    registry = Registry()
    registry.failing.add("unregister")
    error = KeyError("mine")
    with pytest.raises(SupervisorError) as raised:
        async with open_supervisor([spec(Via(registry, "a"))]):
            raise error
    group = raised.value.__cause__
    assert isinstance(group, ExceptionGroup)
    assert [type(cause) for cause in group.exceptions] == [OSError, KeyError]
    assert group.exceptions[1] is error


async def test_a_registry_that_cannot_unregister_one_that_finished() -> None:
    """Nobody asked for it, so the supervisor fails: its block is cancelled."""
    registry = Registry()
    registry.failing.add("unregister")
    async with nothing_left():
        with pytest.raises(SupervisorError, match="could not unregister it"):
            async with open_supervisor(
                [spec(Via(registry, "a"), restart="transient", id="a")]
            ) as s:
                await s.get_session("a").stop()
                await trio.sleep_forever()


async def test_a_registry_that_cannot_look_up() -> None:
    """Asking by name fails; the session itself is fine."""
    registry = Registry()
    name = Via(registry, "a")
    async with open_supervisor([spec(name, id="a")]) as supervisor:
        registry.failing.add("lookup")
        for ask in (whereis, get_session):
            with pytest.raises(SupervisorError, match="could not look it up") as raised:
                ask(name)
            assert isinstance(raised.value.__cause__, OSError)
        with pytest.raises(SupervisorError, match="could not look it up"):
            await trio_claude.query(name, "hello")
        assert (await supervisor.get_session("a").query("hello")).text


# ---- names of a cluster -----------------------------------------------------------------------


class Cluster:
    """A cluster in memory: it knows the Globals, and has heard of all of them unless told not to."""

    def __init__(self) -> None:
        self.handles: dict[Global, SessionHandle] = {}
        self.here: list[SessionHandle] = []  # everybody who is registered, named or not
        self.told_of: list[SessionHandle] = []  # everybody who has left
        self.unheard: set[Global] = set()
        self.failure: Exception | None = None
        self.asked_to_register = 0
        self.gate = trio.Event()
        self.gate.set()

    def shut(self) -> None:
        """Let whoever registers, or unregisters, wait."""
        self.gate = trio.Event()

    async def register(self, handle: SessionHandle) -> None:
        """Take it, unless told to fail."""
        self.asked_to_register += 1
        await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        if isinstance(handle.name, Global):
            if handle.name in self.handles:
                raise SessionExists(f"the name {handle.name!r} is taken in the cluster")
            self.handles[handle.name] = handle
        self.here.append(handle)

    async def unregister(self, handle: SessionHandle) -> None:
        """Free it, whatever is cancelled."""
        with trio.CancelScope(shield=True):
            await self.gate.wait()
        self.told_of.append(handle)
        if handle in self.here:
            self.here.remove(handle)
            if isinstance(handle.name, Global):
                del self.handles[handle.name]

    def lookup(self, name: Global) -> SessionHandle | None:
        """What was heard of."""
        return None if name in self.unheard else self.handles.get(name)

    def asked(self, name: Global) -> Askable:
        """What there is."""
        return self.handles[name]._target

    def names(self) -> Collection[Hashable]:
        """What was heard of."""
        return [name for name in self.handles if name not in self.unheard]


class Lost(TrioClaudeError):
    """The cluster can't be reached."""


@contextmanager
def connected() -> Iterator[Cluster]:
    """A run that is connected to a cluster of its own; nobody is left in it at the end."""
    cluster = Cluster()
    set_cluster(cluster)
    try:
        yield cluster
        assert cluster.here == []
        assert cluster.handles == {}
    finally:
        set_cluster(None)


async def test_a_global_is_kept_by_the_cluster_that_the_run_is_connected_to() -> None:
    """It, and no other kind of name; but the cluster is told of every session, named or not."""
    own = LocalRegistry()
    specs = [spec("a"), spec(Global("g")), spec(Via(own, "v")), spec(None)]
    with connected() as cluster:
        async with nothing_left(), open_supervisor(specs) as supervisor:
            handles = [info.handle for info in supervisor.list_sessions()]
            assert cluster.here == handles
            assert cluster.handles == {Global("g"): handles[1]}
            assert get_session(Global("g")) is whereis(Global("g")) is handles[1]
            assert get_session("a") is handles[0]
            assert own.lookup("v") is get_session(Via(own, "v")) is handles[2]

            set_cluster(None)  # what is left is what the run knows itself
            assert whereis(Global("g")) is None
            assert get_session("a") is handles[0]
            set_cluster(cluster)
        assert own.keys() == ()


async def test_a_global_is_taken_once_in_the_cluster() -> None:
    """The cluster says so; the session that has it, and all that the other one had, are as before."""
    backend = ScriptedBackend()
    with connected() as cluster:
        async with nothing_left(backend), open_supervisor([spec(Global("g"))]) as supervisor:
            handle = get_session(Global("g"))
            with pytest.raises(SessionExists, match="is taken in the cluster"):
                await supervisor.start_session(spec(Global("g"), backend, id="other"))
            assert cluster.here == [handle]
            assert get_session(Global("g")) is handle
            assert backend.connections == 0


@pytest.mark.parametrize("name", [*NAMES, None], ids=repr)
async def test_a_cluster_that_cannot_register(name: Hashable) -> None:
    """The start fails with its error and leaves no name; when the cluster is back it works."""
    backend = ScriptedBackend()
    with connected() as cluster:
        async with nothing_left(backend), open_supervisor() as supervisor:
            cluster.failure = Lost("the cluster is lost")
            with pytest.raises(Lost, match="the cluster is lost"):
                await supervisor.start_session(spec(name, backend))
            assert supervisor.list_sessions() == ()
            assert name is None or whereis(name) is None
            assert backend.connections == 0

            cluster.failure = None
            handle = await supervisor.start_session(spec(name, backend))
            assert name is None or get_session(name) is handle


async def test_a_cluster_that_cannot_register_and_a_registry_that_cannot_unregister() -> None:
    """The error of the registry, for it still holds the name; how it came to that is behind it."""
    registry = Registry()
    with connected() as cluster:
        async with open_supervisor() as supervisor:
            registry.failing.add("unregister")
            cluster.failure = Lost("the cluster is lost")
            with pytest.raises(SupervisorError, match="could not unregister it") as raised:
                await supervisor.start_session(spec(Via(registry, "a")))
            assert isinstance(raised.value.__cause__, OSError)
            assert raised.value.__cause__.__context__ is cluster.failure
            assert supervisor.list_sessions() == ()


async def test_a_registry_fails_before_the_cluster_is_asked() -> None:
    """What the run can say itself is said first."""
    registry = Registry()
    with connected() as cluster:
        async with open_supervisor() as supervisor:
            registry.failing.add("register")
            with pytest.raises(SupervisorError, match="could not register it"):
                await supervisor.start_session(spec(Via(registry, "a")))
            assert cluster.asked_to_register == 0


async def test_the_cluster_is_asked_once_for_a_life_that_is_restarted() -> None:
    """The name stays through restarts; it is asked again for a session that was stopped."""
    with connected() as cluster:
        async with open_supervisor([spec(Global("g"), restart="transient")]) as supervisor:
            handle = get_session(Global("g"))
            await crash(handle)
            await wait_all_tasks_blocked()
            await supervisor.restart_session(Global("g"))
            assert get_session(Global("g")) is handle
            assert cluster.asked_to_register == 1

            await handle.stop()
            await wait_all_tasks_blocked()
            assert whereis(Global("g")) is None
            assert cluster.here == []

            await supervisor.restart_session(Global("g"))
            assert get_session(Global("g")) is handle
            assert cluster.asked_to_register == 2


async def test_asking_by_name_asks_the_cluster() -> None:
    """Also for a session of which this process has not heard yet; `whereis` knows what it heard."""
    there, here = ScriptedBackend(), ScriptedBackend()
    with connected() as cluster:
        async with open_supervisor([spec(Global("g"), there), spec("a", here)]):
            cluster.unheard.add(Global("g"))
            assert whereis(Global("g")) is None
            with pytest.raises(SessionNotFound, match=r"no session is named Global\(key='g'\)"):
                get_session(Global("g"))

            assert (await trio_claude.query(Global("g"), "hello")).text
            async with trio_claude.stream(Global("g"), "again") as events:
                assert [event async for event in events]
            assert (await trio_claude.query("a", "from here")).text
    assert [turn.prompt for turn in there.turns] == ["hello", "again"]
    assert [turn.prompt for turn in here.turns] == ["from here"]


async def test_an_unknown_name_names_those_of_the_cluster_too() -> None:
    """Those of the cluster first, then those of this run; of a registry only its own."""
    own = LocalRegistry()
    with connected():
        async with open_supervisor([spec("a"), spec(Global("g")), spec(Via(own, "v"))]):
            for name in ("x", Global("x")):
                with pytest.raises(SessionNotFound) as raised:
                    get_session(name)
                said = f"no session is named {name!r}; there are Global(key='g'), 'a'"
                where = (
                    ", in this namespace of the cluster"
                    if isinstance(name, Global)
                    else "; in a cluster, a session elsewhere is asked by its Global name or by a handle"
                )
                assert str(raised.value) == said + where
            with pytest.raises(SessionNotFound, match=r"; there are 'v'$"):
                get_session(Via(own, "x"))


async def test_a_run_is_connected_once() -> None:
    """And to no other cluster meanwhile; afterwards to another one."""
    assert connected_cluster() is None
    with connected() as cluster:
        assert connected_cluster() is cluster
        with pytest.raises(UsageError, match="this run is connected to a cluster already"):
            set_cluster(Cluster())
        assert connected_cluster() is cluster
    assert connected_cluster() is None
    with connected() as other:
        assert connected_cluster() is other is not cluster


async def test_a_run_with_globals_of_its_own_is_not_connected() -> None:
    """Nobody else would know them; names of other kinds are in nobody's way."""
    own = LocalRegistry()
    async with open_supervisor([spec("a"), spec(Via(own, "v"))]) as supervisor:
        await supervisor.start_session(spec(Global("g")))
        with pytest.raises(UsageError, match=r"connect to the cluster before") as raised:
            set_cluster(Cluster())
        assert "there are Global(key='g'), known in this run only" in str(raised.value)
        assert connected_cluster() is None

        await supervisor.terminate_session(Global("g"))
        with connected():
            pass


async def test_a_session_that_was_there_before_the_cluster() -> None:
    """The cluster hears of its end only; its name is free then."""
    async with open_supervisor([spec("a")]) as supervisor:
        handle = get_session("a")
        with connected() as cluster:
            assert get_session("a") is handle
            assert cluster.asked_to_register == 0

            await supervisor.terminate_session("a")
            assert cluster.told_of == [handle]
            assert whereis("a") is None


def test_a_cluster_needs_a_run() -> None:
    """As all names do."""
    for use in (connected_cluster, lambda: set_cluster(Cluster())):
        with pytest.raises(UsageError, match="names are known inside a Trio run only"):
            use()


async def test_who_leaves_the_cluster_frees_no_name_of_another() -> None:
    """A session that had its Global in a cluster ends when that name is another's, in the run."""
    cluster = Cluster()
    set_cluster(cluster)
    async with nothing_left(), open_supervisor([spec(Global("g"), id=1)]) as supervisor:
        set_cluster(None)
        other = await supervisor.start_session(spec(Global("g"), id=2))
        assert get_session(Global("g")) is other

        await supervisor.terminate_session(1)
        assert get_session(Global("g")) is other


async def test_a_name_is_free_when_the_cluster_was_told(autojump_clock: MockClock) -> None:
    """Whoever terminates a session waits for that, and can use the name at once."""
    with connected() as cluster:
        async with (
            open_supervisor([spec("a"), spec(Global("g"))]) as supervisor,
            trio.open_nursery() as nursery,
        ):
            cluster.shut()
            nursery.start_soon(supervisor.terminate_session, "a")
            nursery.start_soon(supervisor.terminate_session, Global("g"))
            await wait_all_tasks_blocked()
            assert len(nursery.child_tasks) == 2
            assert len(cluster.here) == 2

            cluster.gate.set()
            await wait_all_tasks_blocked()
            assert len(nursery.child_tasks) == 0
            assert whereis("a") is whereis(Global("g")) is None
            for name in ("a", Global("g")):
                assert await supervisor.start_session(spec(name)) is get_session(name)


async def test_the_cluster_is_told_by_one_that_is_cancelled() -> None:
    """Cancelled while it waits for the cluster, the supervisor waits on, and raises Cancelled."""
    with connected() as cluster, trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:

            async def let_go() -> None:
                await wait_all_tasks_blocked()
                scope.cancel()
                with trio.CancelScope(shield=True):
                    await wait_all_tasks_blocked()
                    assert len(cluster.here) == 2
                    cluster.gate.set()

            async with open_supervisor([spec("a"), spec(Global("g"))]):
                cluster.shut()
                nursery.start_soon(let_go)
    assert scope.cancelled_caught
    assert whereis("a") is None


@pytest.mark.parametrize("name", [*NAMES, None], ids=repr)
async def test_a_supervisor_cancelled_while_the_cluster_is_asked(name: Hashable) -> None:
    """At its start: it doesn't begin, and leaves no name behind."""
    backend = ScriptedBackend()
    with connected() as cluster:
        async with nothing_left(backend):
            cluster.shut()
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:

                    async def cancel() -> None:
                        await wait_all_tasks_blocked()
                        assert cluster.asked_to_register == 1
                        scope.cancel()

                    nursery.start_soon(cancel)
                    async with open_supervisor([spec(name, backend)]):
                        raise AssertionError("it must not open")
            assert scope.cancelled_caught
            assert cluster.told_of == []
            assert name is None or whereis(name) is None


@pytest.mark.parametrize("name", [*NAMES, None], ids=repr)
async def test_a_start_cancelled_while_the_cluster_is_asked(name: Hashable) -> None:
    """Its caller is let go at once; when the cluster has answered, nothing is left of it."""
    backend = ScriptedBackend()
    with connected() as cluster:
        async with nothing_left(backend), open_supervisor() as supervisor:
            cluster.shut()
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(supervisor.start_session, spec(name, backend))
                    await wait_all_tasks_blocked()
                    assert cluster.asked_to_register == 1
                    scope.cancel()
            assert scope.cancelled_caught

            cluster.gate.set()
            await wait_all_tasks_blocked()
            assert supervisor.list_sessions() == ()
            assert cluster.here == []
            assert (backend.connections, backend.conversations) == (0, 0)
            handle = await supervisor.start_session(spec(name, backend))
            assert name is None or get_session(name) is handle


async def test_leaving_while_the_cluster_is_asked() -> None:
    """The block is left when somebody's start waits for the cluster: that start is called off."""
    backend = ScriptedBackend()
    with connected() as cluster:
        async with nothing_left(backend), trio.open_nursery() as nursery:
            refused: list[bool] = []

            async def start() -> None:
                with pytest.raises(trio.ClosedResourceError):
                    await supervisor.start_session(spec("a", backend))
                refused.append(True)

            async with open_supervisor() as supervisor:
                cluster.shut()
                nursery.start_soon(start)
                await wait_all_tasks_blocked()
                assert get_session("a").status == "starting"
        assert refused == [True]
        assert whereis("a") is None


async def _connects_for_ever(_: object) -> None:
    await trio.sleep_forever()


async def test_a_start_taken_back_while_the_cluster_is_asked_is_not_gone_on_with(
    autojump_clock: MockClock,
) -> None:
    """Nobody wants it any more: when the cluster has answered, nobody is connected to."""
    backend = ScriptedBackend(on_open=_connects_for_ever)
    with connected() as cluster:
        async with open_supervisor() as supervisor:
            cluster.shut()
            with trio.move_on_after(1):
                await supervisor.start_session(spec("a", backend))
            cluster.gate.set()
            with trio.fail_after(10):
                await supervisor.start_session(spec("b"))
            assert whereis("a") is None


async def test_a_start_terminated_while_the_cluster_is_asked_is_not_gone_on_with(
    autojump_clock: MockClock,
) -> None:
    """Both callers have their answer when the cluster has given its own."""
    backend = ScriptedBackend(on_open=_connects_for_ever)
    told = []
    with connected() as cluster:
        async with nothing_left(), open_supervisor() as supervisor:

            async def start() -> None:
                with pytest.raises(SessionTerminated, match="while it was being started"):
                    await supervisor.start_session(spec("a", backend))
                told.append("stopped")

            async with trio.open_nursery() as nursery:
                cluster.shut()
                nursery.start_soon(start)
                await wait_all_tasks_blocked()
                nursery.start_soon(supervisor.terminate_session, "a")
                await wait_all_tasks_blocked()
                cluster.gate.set()
                with trio.fail_after(10):
                    await supervisor.start_session(spec("b"))
            assert told == ["stopped"]
            assert whereis("a") is None


# ---- supervisors ------------------------------------------------------------------------------


async def test_a_supervisor_is_found_by_its_name() -> None:
    """From its start, by any task of the run, until its block has ended; sessions are apart."""
    async with open_supervisor([spec("s")], name="s") as supervisor:
        assert get_supervisor("s") is supervisor
        assert get_session("s") is supervisor.get_session("s")
        async with open_supervisor(name=Global("s")) as other:
            assert get_supervisor(Global("s")) is other
    with pytest.raises(SessionNotFound, match="no supervisor is named 's'; there are none"):
        get_supervisor("s")


async def test_a_supervisors_name_is_taken_once() -> None:
    """The second one doesn't begin, and the first keeps the name."""
    async with nothing_left(), open_supervisor(name="s") as first:
        with pytest.raises(SessionExists, match="a supervisor named 's' is running already"):
            async with open_supervisor([spec("a")], name="s"):
                raise AssertionError("it must not open")
        assert get_supervisor("s") is first
        assert whereis("a") is None
        with pytest.raises(SessionNotFound, match=r"'x'; there are 's'$"):
            get_supervisor("x")


async def test_a_supervisor_below_is_found_again_after_its_restart() -> None:
    """Its name leads to the supervisor of now; the old one has ended."""
    below = SupervisorSpec(name="below", specs=[spec("a")], max_restarts=0)
    async with open_supervisor([below]):
        old = get_supervisor("below")
        await crash(get_session("a"))
        await wait_all_tasks_blocked()

        assert get_supervisor("below") is not old
        assert repr(old) == "<Supervisor 'below' ended>"
        assert get_session("a").is_alive()


# ---- runs and threads -------------------------------------------------------------------------


def test_runs_do_not_see_each_other() -> None:
    """Two threads, each with a run of its own: the same names, other sessions."""
    both_are_up, found = threading.Barrier(2, timeout=30), {}
    both_have_looked = threading.Barrier(2, timeout=30)

    async def main(me: str) -> None:
        backend = ScriptedBackend(lambda _: me)
        async with open_supervisor([spec("a", backend), spec(me, backend)], name="s") as supervisor:
            both_are_up.wait()
            found[me] = (
                str(await trio_claude.query("a", "who?")),
                get_supervisor("s") is supervisor,
                whereis("one" if me == "two" else "two"),
            )
            both_have_looked.wait()

    threads = [threading.Thread(target=trio.run, args=(main, me)) for me in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    assert found == {"one": ("one", True, None), "two": ("two", True, None)}


@pytest.mark.parametrize("find", [get_session, whereis, get_supervisor])
def test_names_are_known_inside_a_run_only(find: Callable[[Hashable], object]) -> None:
    """Outside of Trio there is no table to look into."""
    with pytest.raises(UsageError, match="names are known inside a Trio run only"):
        find("a")


async def test_names_are_not_known_in_another_thread() -> None:
    """A worker thread of this very run isn't in it; through ``trio.from_thread`` it is."""
    async with open_supervisor([spec("a")]):
        with pytest.raises(UsageError, match="names are known inside a Trio run only"):
            await trio.to_thread.run_sync(get_session, "a")
        handle = await trio.to_thread.run_sync(lambda: trio.from_thread.run_sync(get_session, "a"))
        assert handle is get_session("a")


async def test_a_handle_and_a_supervisor_belong_to_their_run() -> None:
    """Another run gets UsageError from every call, and does no harm."""
    async with open_supervisor([spec("a")]) as supervisor:
        handle = supervisor.get_session("a")
        refused = []

        async def other_run() -> None:
            def stream() -> object:
                return handle.stream("hello")

            sync: list[Callable[[], object]] = [
                stream,
                supervisor.list_sessions,
                supervisor.count_sessions,
                supervisor.statistics,
                lambda: supervisor.get_session("a"),
            ]
            for look in sync:
                with pytest.raises(UsageError, match="belongs to another Trio run"):
                    look()
                refused.append(look)
            for call in (
                lambda: handle.query("hello"),
                handle.clear,
                handle.interrupt,
                handle.stop,
                lambda: supervisor.start_session(spec("b")),
                lambda: supervisor.terminate_session("a"),
                lambda: supervisor.restart_session("a"),
            ):
                with pytest.raises(UsageError, match="belongs to another Trio run"):
                    await call()
                refused.append(call)

        await trio.to_thread.run_sync(trio.run, other_run)
        with pytest.raises(UsageError, match="this works inside a Trio run only"):
            await trio.to_thread.run_sync(supervisor.list_sessions)

        assert len(refused) == 12
        assert (await handle.query("hello")).text


def test_registries_are_told_apart_by_identity() -> None:
    """Even if they say that they are equal, or that they have no hash."""

    class Equal(LocalRegistry):
        __hash__ = None  # type: ignore[assignment]

        def __eq__(self, other: object) -> bool:
            return True

    one, other = Equal(), Equal()
    assert one == other
    assert Via(one, "a") != Via(other, "a")
    assert {Via(one, "a")} == {Via(one, "a"), Via(one, "a")}
