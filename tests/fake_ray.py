"""What ``trio_claude.cluster._ray`` gives, without Ray: actors in an asyncio loop in a thread.

It is for faults that a real Ray can't be made to have at will: a call or an answer that is held back,
an actor that dies at this very moment, a registry that is started anew. The actors are the real ones, and
so are the replies and Ray's exceptions; what is called and answered is pickled, as it is by Ray.

A *process* is a Trio run with a name in :data:`process`: the tests' own is ``"main"``, and each
actor of a group is one. Real Ray is asked about all this by the tests in ``tests/cluster``.
"""

from __future__ import annotations

import asyncio
import contextvars
import itertools
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from functools import partial
from typing import Any

import attrs
import pytest
import ray
import ray.cloudpickle
import ray.exceptions
import trio

from trio_claude._errors import ClusterError
from trio_claude.cluster import _doors, _ray, _registry
from trio_claude.cluster._doors import DoorLost, Mailbox
from trio_claude.cluster._host import Host
from trio_claude.cluster._registry import Registry

process: contextvars.ContextVar[str] = contextvars.ContextVar("process", default="main")
"""In which process this is."""

_incarnation: contextvars.ContextVar[_Incarnation | None] = contextvars.ContextVar(
    "incarnation", default=None
)
"""Of which actor's this task is."""

_SECONDS = 10.0
"""After which something hangs."""


def died(why: str = "it was killed") -> ray.exceptions.ActorDiedError:
    """What calls of an actor raise that is gone for good."""
    error = ray.exceptions.ActorDiedError()
    error.error_msg = f"The actor died: {why}\n\tand more that nobody wants to read"
    return error


def unavailable() -> ray.exceptions.ActorUnavailableError:
    """What calls of an actor raise that is being started again, or can't be reached for a moment."""
    return ray.exceptions.ActorUnavailableError("it was killed", None)


def failed(method: str, exc: BaseException) -> ray.exceptions.RayTaskError:
    """What calls raise whose method raised."""
    return ray.exceptions.RayTaskError(method, repr(exc), exc, "fake", 1, "10.0.0.1")  # type: ignore[no-untyped-call]


@attrs.define(eq=False)
class _Call:
    """One call of an actor."""

    actor: _Actor
    method: str
    data: bytes  # its arguments
    caller: str  # in which process
    future: Future[Any] = attrs.field(factory=Future)

    def settle(self, data: bytes) -> None:
        """Answer it, unless that was done."""
        self.actor.pending.discard(self)
        if not self.future.done():
            self.future.set_result(ray.cloudpickle.loads(data))

    def fail(self, exc: BaseException) -> None:
        """Let it fail, unless it is done."""
        self.actor.pending.discard(self)
        if not self.future.done():
            self.future.set_exception(exc)


class _Incarnation:
    """One life of an actor: its object, and the tasks that are its."""

    def __init__(self, instance: Any) -> None:
        self.instance = instance
        self.tasks: set[asyncio.Task[Any]] = set()
        self.context = contextvars.Context()
        self.context.run(_incarnation.set, self)


@attrs.define(eq=False)
class _Actor:
    """An actor, in all its lives. All this is the loop's."""

    name: str
    namespace: str
    cls: type
    make: Callable[[], Any]
    owner: str | None  # the process that it goes with
    retries: bool = False  # its calls are made again after it was started again
    placed: bool = True
    gone: bool = False
    life: _Incarnation | None = None
    pending: set[_Call] = attrs.field(factory=set)
    waiting: list[_Call] = attrs.field(factory=list)
    why: str = "it was killed"


class Gate:
    """Holds calls back, or their answers."""

    def __init__(self, fake: FakeRay, method: str, door: str | None, *, answers: bool) -> None:
        self._fake = fake
        self._method = method
        self._door = door
        self.answers = answers
        self._held: list[Callable[[], None]] = []
        self._reached = trio.Event()
        self._token = trio.lowlevel.current_trio_token()

    def holds(self, call: _Call) -> bool:
        """Whether it is for this call."""
        return call.method == self._method and self._door in (None, call.actor.name)

    def hold(self, go_on: Callable[[], None]) -> None:
        """Keep it."""
        self._held.append(go_on)
        self._token.run_sync_soon(self._reached.set)

    async def reached(self) -> None:
        """Wait until something has been held back."""
        with trio.fail_after(_SECONDS):
            await self._reached.wait()

    def open(self) -> None:
        """Let all go on that was held back, and what comes."""
        self._fake.do(self._open)

    def _open(self) -> None:
        self._fake.gates.remove(self)
        for go_on in self._held:
            go_on()

    def drop(self) -> None:
        """Forget what was held back; hold nothing any more."""
        self._fake.do(partial(self._fake.gates.remove, self))


class Handle:
    """An actor, as Ray gives it: for a :class:`_ray.Peer`, which calls ``handle.method.remote()``."""

    def __init__(self, fake: FakeRay, actor: _Actor) -> None:
        self._fake = fake
        self._actor = actor

    def __getattr__(self, method: str) -> Any:
        getattr(self._actor.cls, method)  # as Ray does: what it doesn't have can't be called
        return _Method(self._fake, self._actor, method)


@attrs.frozen
class _Method:
    fake: FakeRay
    actor: _Actor
    method: str

    def remote(self, *args: Any) -> _Reference:
        """Call it."""
        return _Reference(self.fake.call(self.actor, self.method, args, process.get()))


@attrs.frozen
class _Reference:
    value: Future[Any]

    def future(self) -> Future[Any]:
        """What it answers."""
        return self.value


class FakeRegistry(Registry):
    """The registry, on actors that are none of Ray's."""

    def __init__(self, fake: FakeRay, namespace: str) -> None:
        super().__init__()
        self._fake = fake
        self._namespace = namespace

    async def _list_doors(self) -> list[str]:
        return [
            actor.name
            for actor in self._fake.actors.values()
            if actor.name.startswith(_ray.DOOR) and actor.namespace == self._namespace
        ]

    def _forget(self, door: str) -> None:
        """Nothing is kept of it."""

    async def _call(self, door: str, method: str, *args: Any) -> Any:
        actor = self._fake.actors.get(door)
        if actor is None:
            raise DoorLost(returns=False)
        try:
            return await asyncio.wrap_future(self._fake.call(actor, method, args, "registry"))
        except ray.exceptions.ActorUnavailableError as exc:
            raise DoorLost(returns=True) from exc
        except ray.exceptions.RayActorError as exc:
            raise DoorLost(returns=False) from exc

    async def _end(self) -> None:
        self._fake.ended.append(self._namespace)
        self._fake._kill(_registry_name(self._namespace), returns=False)


def _registry_name(namespace: str) -> str:
    return f"registry of {namespace}"


class FakeRay:
    """A cluster."""

    def __init__(self) -> None:
        self.actors: dict[str, _Actor] = {}
        self.gates: list[Gate] = []
        self.cut_off: set[str] = set()
        """Processes whose calls reach nobody."""
        self.connected: list[tuple[str, str]] = []
        """What processes have connected to, and not disconnected from."""
        self.ended: list[str] = []
        """Namespaces whose registry has ended itself."""
        self.started: list[dict[str, Any]] = []
        """With which options actors of groups were started."""
        self.places = True
        """Whether it has room for actors of groups."""
        self.refuses: Exception | None = None
        """What starting an actor of a group, or connecting, raises."""
        self.hosts: dict[str, list[Host]] = {}
        """The actors of groups, in all their lives."""
        self._threads: list[threading.Thread] = []
        self._numbers = itertools.count(1)
        self._loop = asyncio.new_event_loop()
        self._loop.set_task_factory(self._make_task)  # type: ignore[arg-type]
        self._thread = threading.Thread(target=self._loop.run_forever, name="fake Ray")
        self._thread.start()

    # ---- the loop -------------------------------------------------------------------------------

    def _make_task(
        self, loop: asyncio.AbstractEventLoop, coro: Coroutine[Any, Any, Any], **options: Any
    ) -> asyncio.Task[Any]:
        task = asyncio.Task(coro, loop=loop, **options)
        context = options.get("context")
        life = _incarnation.get() if context is None else context.get(_incarnation)
        if life is not None:
            life.tasks.add(task)
            task.add_done_callback(life.tasks.discard)
        return task

    def do(self, function: Callable[[], Any]) -> Any:
        """Have it done in the loop, and wait for that: the loop never waits for anybody."""

        async def run() -> Any:
            return function()

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(_SECONDS)

    def call(self, actor: _Actor, method: str, args: Any, caller: str) -> Future[Any]:
        """Call it, from any thread; calls of one thread arrive in their order."""
        call = _Call(actor, method, _ray.dumps(args), caller)
        self._loop.call_soon_threadsafe(self._take, call)
        return call.future

    def _take(self, call: _Call) -> None:
        for gate in self.gates:
            if not gate.answers and gate.holds(call):
                gate.hold(partial(self._arrive, call))
                return
        self._arrive(call)

    def _arrive(self, call: _Call) -> None:
        actor = call.actor
        if actor.gone:
            call.fail(died(actor.why))
        elif actor.life is not None:
            actor.pending.add(call)
            run = self._run(actor.life, call)
            _ = self._loop.create_task(run, context=actor.life.context.copy())
        elif actor.placed and not actor.retries:
            call.fail(unavailable())
        else:
            actor.pending.add(call)
            actor.waiting.append(call)

    async def _run(self, life: _Incarnation, call: _Call) -> None:
        try:
            args = ray.cloudpickle.loads(call.data)
            value = await getattr(life.instance, call.method)(*args)
        except Exception as exc:
            end = partial(call.fail, failed(call.method, exc))
        else:
            end = partial(call.settle, _ray.dumps(value))
        for gate in self.gates:
            if gate.answers and gate.holds(call):
                gate.hold(end)
                return
        end()

    # ---- actors ---------------------------------------------------------------------------------

    def _start(self, actor: _Actor) -> None:
        actor.placed = True
        actor.life = life = _Incarnation(actor.make())
        waiting, actor.waiting = actor.waiting, []
        for call in waiting:
            actor.pending.discard(call)
            self._arrive(call)
        assert actor.life is life

    def _kill(self, name: str, *, returns: bool, stays_down: bool = False, why: str = "") -> None:
        actor = self.actors[name]
        actor.why = why or actor.why
        life, actor.life = actor.life, None
        if life is not None:
            for task in list(life.tasks):
                if task is not asyncio.current_task():
                    task.cancel()
        if not returns:
            actor.gone = True
            del self.actors[name]
        pending, actor.pending, actor.waiting = actor.pending, set(), []
        for call in pending:
            if returns and actor.retries:
                actor.pending.add(call)
                actor.waiting.append(call)
            else:
                call.fail(unavailable() if returns else died(actor.why))
        if life is not None and isinstance(life.instance, Host):
            self._die(life.instance.process)  # type: ignore[attr-defined]
        if returns and not stays_down:
            self._start(actor)

    def _die(self, dead: str) -> None:
        self.cut_off.add(dead)
        for actor in list(self.actors.values()):
            for call in list(actor.pending):
                if call.caller == dead:
                    call.fail(died("this process is dead"))
            if actor.owner == dead and not actor.gone:
                self._kill(actor.name, returns=False)

    def kill(
        self, name: str, *, returns: bool = False, stays_down: bool = False, why: str = ""
    ) -> None:
        """Let the actor with this name die, if it lives.

        Args:
          name: its name.
          returns: it is started again.
          stays_down: not before :meth:`start_again`.
          why: what Ray says.
        """

        def kill() -> None:
            if name in self.actors:
                self._kill(name, returns=returns, stays_down=stays_down, why=why)

        self.do(kill)

    def kill_actor(self, handle: Handle, *, no_restart: bool) -> None:
        """What ``ray.kill`` does."""
        assert no_restart
        self.kill(handle._actor.name)

    def start_again(self, name: str) -> None:
        """Start an actor that stayed down, or that there was no room for."""
        self.do(lambda: self._start(self.actors[name]))

    def kill_registry(self, namespace: str = "tests", *, returns: bool = False) -> None:
        """Let the registry die."""
        self.kill(_registry_name(namespace), returns=returns)

    def blink(self, door: str, *methods: str) -> None:
        """Cut the way to an actor for a moment: its calls, or those of these methods, fail, and are
        done all the same."""

        def blink() -> None:
            for call in list(self.actors[door].pending):
                if not methods or call.method in methods:
                    call.fail(unavailable())

        self.do(blink)

    def die(self, dead: str) -> None:
        """Let a process die, with the actors that it owns."""
        self.do(partial(self._die, dead))

    def hold(self, method: str, door: str | None = None, *, answers: bool = False) -> Gate:
        """Hold back calls of this method, or their answers; of this actor, or of all."""
        gate = Gate(self, method, door, answers=answers)
        self.do(partial(self.gates.append, gate))
        return gate

    def doors(self) -> list[str]:
        """The doors that there are, oldest first."""
        return self.do(lambda: [name for name in self.actors if name.startswith(_ray.DOOR)])  # type: ignore[no-any-return]

    def peer(self, name: str) -> _ray.Peer:
        """An actor that there is."""
        return self._peer(self.actors[name])

    def _peer(self, actor: _Actor) -> _ray.Peer:
        return _ray.Peer(Handle(self, actor))

    def instance(self, name: str) -> Any:
        """The object of an actor that lives."""
        life = self.actors[name].life
        assert life is not None
        return life.instance

    def close(self) -> None:
        """End all."""
        for name in list(self.actors):
            self.kill(name)
        for thread in self._threads:
            thread.join(_SECONDS)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_SECONDS)
        self._loop.close()
        assert [thread.name for thread in self._threads if thread.is_alive()] == []

    # ---- what _ray.py gives ---------------------------------------------------------------------

    def connect(self, address: str, namespace: str, is_wanted: Callable[[], bool]) -> None:
        """Connect this process."""
        if address == "nowhere":
            raise ClusterError("could not connect")
        self.connected.append((process.get(), address))
        if not is_wanted():
            self.disconnect()

    def disconnect(self) -> None:
        """Undo one of these."""
        self.connected.pop()

    def where(self) -> str:
        """This process, for people."""
        return f"process {process.get().removeprefix(_ray.DOOR)[:8]}"

    def find_actor(self, name: str, namespace: str) -> _ray.Peer:
        """The actor with this name."""
        actor = self.actors.get(name)
        if actor is None or process.get() in self.cut_off:
            raise DoorLost(returns=False) from ValueError("Failed to look up actor")
        assert actor.namespace == namespace
        return self._peer(actor)

    def start_mailbox(self, door: str, namespace: str) -> _ray.Peer:
        """A door for this process."""
        return self._begin(_Actor(door, namespace, Mailbox, Mailbox, owner=process.get()))

    def registry(self, namespace: str) -> _ray.Peer:
        """The registry of the namespace, which is started if there is none."""
        name = _registry_name(namespace)
        make = partial(FakeRegistry, self, namespace)
        return self._begin(_Actor(name, namespace, Registry, make, owner=None, retries=True))

    def start_host(
        self, host: type, door: str, namespace: str, opener: str, options: dict[str, Any]
    ) -> _ray.Peer:
        """A process for a group."""
        assert host is Host
        if self.refuses is not None:
            raise self.refuses
        self.started.append(options)
        make = partial(self._host, door, namespace, opener)
        actor = _Actor(door, namespace, Host, make, owner=process.get(), placed=self.places)
        return self._begin(actor)

    def _begin(self, actor: _Actor) -> _ray.Peer:
        def begin() -> _Actor:
            there = self.actors.setdefault(actor.name, actor)
            if there is actor and actor.placed:
                self._start(actor)
            return there

        return self._peer(self.do(begin))

    def _host(self, door: str, namespace: str, opener: str) -> Host:
        fake, name = self, f"{door}/{next(self._numbers)}"

        class Process(Host):
            process = name

            def _run(self, opener: str) -> None:
                process.set(name)
                fake._threads.append(threading.current_thread())
                super()._run(opener)

        host = Process(door, namespace, opener)
        self.hosts.setdefault(door, []).append(host)
        return host


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeRay]:
    """A cluster that is none, in the place of Ray, without the pauses of the real one."""
    cluster = FakeRay()
    for name in ("connect", "disconnect", "where", "find_actor", "start_mailbox", "start_host"):
        monkeypatch.setattr(_ray, name, getattr(cluster, name))
    monkeypatch.setattr(_ray, "registry", cluster.registry)
    monkeypatch.setattr(ray, "is_initialized", lambda: process.get() not in cluster.cut_off)
    monkeypatch.setattr(ray, "kill", cluster.kill_actor)
    monkeypatch.setattr(_doors, "AGAIN_SECONDS", 0.001)
    monkeypatch.setattr(_registry, "_ENDING_SECONDS", 0.0)
    yield cluster
    cluster.close()
