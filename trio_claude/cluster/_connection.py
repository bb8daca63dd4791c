"""A run that is connected: its door, what it has heard of the others, and what it tells them.

Four tasks, which all wait for an answer of Ray's that comes when there is something: one follows the
registry's table, one tells it how our sessions stand, one does what others ask (``_service.py``), and
where this process has a mailbox, one takes the calls from it. What goes wrong with them ends the
connection: the block is cancelled, and raises :class:`ClusterError`.
"""

from __future__ import annotations

import itertools
import time
import uuid
from collections import defaultdict
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, final
from weakref import WeakKeyDictionary, WeakValueDictionary

import attrs
import trio

from .._errors import ClusterError, ConfigurationError, SessionExists
from .._nurseries import open_hidden_nursery
from .._session.context import current_run, lives
from .._session.inbox import Inbox
from .._supervision.events import logger
from .._supervision.names import Global, set_cluster
from . import _ray
from ._actors import DoorLost
from ._far import ByName, FarSession
from ._lines import Line, leave_unheard
from ._service import NotHere, Service
from ._wire import Entry, Member, is_plain
from ._wire_errors import loads_error

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Hashable

    from .._session.handle import SessionHandle
    from .._session.target import Askable
    from ._table import News
    from ._wire import Name, Standing

# How long an address has to answer at all, and then Ray to connect (a wrong token takes it 25 s).
_PROBE_SECONDS = 5.0
_CONNECTING_SECONDS = 40.0
# Who leaves waits for the registry no longer than this.
_LEAVING_SECONDS = 10.0
# How often a registry that is gone is started anew for one call.
_REGISTRIES = 5


@final
class _Mine:
    """A session of this run that the cluster knows."""

    def __init__(self, entry: Entry, inbox: Inbox, handle: SessionHandle) -> None:
        self.inbox = inbox
        self.handle = handle
        self.serial = entry.serial
        self.born = entry.born
        self._entry = entry

    @property
    def standing(self) -> Standing:
        return self._entry.life, self.serial, self.inbox.status, self.inbox.session_id

    @property
    def entry(self) -> Entry:
        """What the registry is to have."""
        _, serial, status, session_id = self.standing
        return attrs.evolve(self._entry, serial=serial, status=status, session_id=session_id)


@final
class Connection:
    """What this run has of the cluster; also what :mod:`names` and :mod:`_far` need of it."""

    def __init__(
        self,
        namespace: str,
        door: str,
        nursery: trio.Nursery,
        *,
        supervise: Callable[[str, tuple[Any, ...]], Awaitable[Any]] | None,
    ) -> None:
        self.namespace = namespace
        self.door = door
        self.run = current_run()
        self.where = _ray.where()
        self.service = Service(self._mine_named, self._until_lost, self._do)
        self.plans: dict[str, bytes] = {}
        """What the actors of our groups are to do, by their doors."""
        self.failure: ClusterError | None = None
        self.body = trio.CancelScope()
        self._nursery = nursery
        self.dumps = _ray.dumps
        self.closing = False
        """Whether it ends soon, so that names needn't be freed one by one."""
        self.closed = False
        self._life = time.time_ns()
        self._supervise = supervise
        self._numbers = itertools.count(1)
        self._serials = itertools.count(1)
        self._registry: _ray.Peer | None = None
        self._lines: dict[str, Line] = {}
        self._finding: defaultdict[str, trio.Lock] = defaultdict(trio.Lock)
        # What this process holds, and what it has heard of what all hold.
        self._mine: dict[Hashable, _Mine] = {}
        self._born: WeakKeyDictionary[Inbox, int] = WeakKeyDictionary()
        self._freeing: dict[Hashable, trio.Event] = {}
        self._claiming: set[Hashable] = set()
        self._untold: set[Hashable] = set()
        self._to_tell = trio.Event()
        self._version: tuple[str, int] | None = None
        self._table: dict[Hashable, Entry] = {}
        self._far: WeakValueDictionary[Hashable, FarSession] = WeakValueDictionary()

    # ---- its life -------------------------------------------------------------------------------

    async def begin(self) -> None:
        """Be known, and know."""
        self._take_in(await self._ask_registry("join", self.door))
        # Later than the one before, whatever the clock of this node says.
        before = [entry.life for entry in self._table.values() if entry.door == self.door]
        self._life = max([self._life, *(life + 1 for life in before)])
        await self._nursery.start(self._serve)
        for task in (self._follow, self._tell):
            self.start_soon(self._keep, task)

    async def settle(self) -> None:
        """All that this process starts by itself is started."""
        await self._ask_registry("settle", self.door, self._life)

    async def end(self) -> None:
        """Be known no longer."""
        self.closed = True
        for mine in self._mine.values():
            mine.inbox.on_change = None
        self._mine.clear()
        for session in list(self._far.values()):
            session.gone()
            for question in list(session.questions):
                question.end(self.failure or _ended_error())
        for line in list(self._lines.values()):
            line.cut(DoorLost())
        if self.failure is None:
            with trio.move_on_after(_LEAVING_SECONDS, shield=True):
                try:
                    await self._ask_registry("leave", self.door)
                except ClusterError as exc:
                    logger.warning("could not leave the cluster in order: %s", exc)

    def start_soon(self, function: Callable[..., Awaitable[object]], *args: Any) -> None:
        """Have something done beside; nothing any more once the connection ends."""
        if not self.closed:
            self._nursery.start_soon(function, *args)

    async def _serve(self, task_status: trio.TaskStatus[None]) -> None:
        await self._keep(partial(self.service.run, task_status))

    async def _keep(self, task: Callable[[], Awaitable[None]]) -> None:
        try:
            await task()
        except Exception as exc:
            self.fail(exc)

    def fail(self, cause: Exception) -> None:
        """The connection is lost, unless it ends anyway; the first cause is the one."""
        if self.failure is None and not self.closed:
            if isinstance(cause, ClusterError):
                self.failure = cause
            else:
                self.failure = ClusterError(f"the connection to the cluster is lost: {_why(cause)}")
                self.failure.__cause__ = cause
            self.body.cancel(reason="the connection to the cluster is lost")

    # ---- the registry ---------------------------------------------------------------------------

    async def _ask_registry(self, method: str, *args: Any) -> Any:
        """Call the registry; Ray does so again if it dies, and it is started anew if it is gone."""
        lost: DoorLost | None = None
        for _ in range(_REGISTRIES):
            if self.closed and method != "leave":
                raise _ended_error()
            if self._registry is None:
                self._registry = await trio.to_thread.run_sync(_ray.registry, self.namespace)
            registry = self._registry
            try:
                return await registry.call(method, *args).wait()
            except DoorLost as exc:
                lost = exc
                if self._registry is registry:
                    self._registry = None
                self._version = None  # a new one has another table
        raise ClusterError(
            f"the registry of names can't be reached: {lost and _why(lost)}"
        ) from lost

    async def _follow(self) -> None:
        """Hear what changes, all the time."""
        while True:
            if self._version is None:
                news = await self._ask_registry("join", self.door)
            else:
                news = await self._ask_registry("changes", self._version)
            another = self._version is None or news.version[0] != self._version[0]
            self._take_in(news)
            if another:
                await self._claim_again()

    async def _claim_again(self) -> None:
        """Have a new registry know our names, which it may not have been able to ask us for."""
        await self._ask_registry("join", self.door)
        for name in list(self._mine):
            mine = self._mine.get(name)
            if mine is None:
                continue
            mine.serial = next(self._serials)
            holder = await self._ask_registry("claim", name, mine.entry)
            if self._mine.get(name) is not mine:
                continue  # it was given back meanwhile
            if holder is not None and holder.door != self.door:
                raise ClusterError(
                    f"the name {name!r} was given to a session in {holder.where}, while the registry "
                    "of names could not reach this process"
                )

    def _take_in(self, news: News) -> None:
        self._version = news.version
        changes = dict(news.changes)
        if news.whole:
            changes |= dict.fromkeys(self._table.keys() - changes.keys())
        for name, entry in changes.items():
            self._hear(name, entry)
        # A registry that could not reach us for a moment takes us for restarting.
        for name in self._mine.keys() & changes.keys():
            heard, mine = self._table.get(name), self._mine[name]
            if (
                heard is not None
                and heard.serial >= mine.serial
                and heard.status != mine.inbox.status
            ):
                self._changed(name)

    def _hear(self, name: Hashable, entry: Entry | None) -> None:
        if entry is None:
            self._table.pop(name, None)
        else:
            self._table[name] = entry
            if entry.door in self._lines:
                self._lines[entry.door].heard(entry.life)
        session = self._far.get(name)
        if session is None:
            return
        if entry is None:
            session.gone()  # until the same process starts it again, if it does
        elif session.is_one_of(entry):
            session.hear(entry)
        else:
            session.gone()
            del self._far[name]

    def _changed(self, name: Hashable) -> None:
        mine = self._mine.get(name)
        if mine is not None:
            mine.serial = next(self._serials)
            self._untold.add(name)
            self._to_tell.set()

    async def _tell(self) -> None:
        """Tell how our sessions stand, each time that one has changed."""
        while True:
            await self._to_tell.wait()
            self._to_tell = trio.Event()
            names, self._untold = self._untold, set()
            entries = {name: self._mine[name].entry for name in names if name in self._mine}
            if entries:
                await self._ask_registry("update", self.door, entries)

    # ---- for names.py ---------------------------------------------------------------------------

    async def register(self, handle: SessionHandle) -> None:
        name = self._name_of(handle)
        if name is None or self.closed:
            return
        inbox = handle._target
        assert isinstance(inbox, Inbox)
        entry = self._entry(inbox)
        while name in self._freeing:
            await self._freeing[name].wait()
        if name in self._mine or name in self._claiming:
            raise SessionExists(f"the name {name!r} is taken, by another session of this run")
        self._claiming.add(name)
        try:
            holder = await self._ask_registry("claim", name, entry)
        except trio.Cancelled:
            self.start_soon(self._give_back, name, entry)
            raise
        except BaseException:
            self._claiming.discard(name)
            raise
        self._claiming.discard(name)
        if holder is not None:
            raise SessionExists(
                f"the name {name!r} is taken in the cluster, by a session in {holder.where}"
            )
        self._mine[name] = _Mine(entry, inbox, handle)
        inbox.on_change = partial(self._changed, name)

    async def _give_back(self, name: Name, entry: Entry) -> None:
        """Free a name that may just have been got. It is claimed once more for that, as calls may
        overtake each other: what is released before it is claimed would be kept."""
        try:
            if await self._ask_registry("claim", name, entry) is None:
                await self._ask_registry("release", self.door, name)
        except ClusterError as exc:
            self.fail(exc)
        finally:
            self._claiming.discard(name)

    def _name_of(self, handle: SessionHandle) -> Name | None:
        """Under which name the cluster is to know it, if at all."""
        name: Name
        if isinstance(handle.name, Global):
            name, key = handle.name, handle.name.key
        elif self._supervise is not None and not lives.get():  # of the group's own supervisor
            name, key = Member(self.door, handle.id), handle.id
        else:
            return None
        refuse_unplain(key, handle.name)
        return name

    async def unregister(self, handle: SessionHandle) -> None:
        name = self._name_of(handle)
        mine = self._mine.get(name)
        if mine is None or mine.handle is not handle:
            return
        del self._mine[name]
        mine.inbox.on_change = None
        if self.closing or self.failure is not None:
            return  # all of them are freed at once
        freed = self._freeing[name] = trio.Event()
        with trio.move_on_after(_LEAVING_SECONDS, shield=True):
            try:
                await self._ask_registry("release", self.door, name)
            except ClusterError as exc:
                self.fail(exc)
        del self._freeing[name]
        freed.set()

    def lookup(self, name: Global) -> SessionHandle | None:
        mine = self._mine.get(name)
        if mine is not None:
            return mine.handle
        entry = self._table.get(name)
        if entry is None or entry.door == self.door:  # ours, and no longer: that news is under way
            return None
        return self.far(name, entry).handle

    def asked(self, name: Global) -> Askable:
        refuse_unplain(name.key, name)
        mine = self._mine.get(name)
        return ByName(self, name) if mine is None else mine.inbox

    def entries(self) -> list[tuple[Hashable, Entry]]:
        """Our sessions, by their names in the cluster."""
        return [(name, mine.entry) for name, mine in self._mine.items()]

    def entry_of(self, handle: SessionHandle) -> tuple[Hashable, Entry]:
        """One of our sessions, whether the cluster knows it now or not."""
        name = self._name_of(handle)
        mine = self._mine.get(name)
        if mine is not None:
            return name, mine.entry
        inbox = handle._target
        assert isinstance(inbox, Inbox)
        return name, self._entry(inbox)

    def _entry(self, inbox: Inbox) -> Entry:
        return Entry(
            door=self.door,
            life=self._life,
            where=self.where,
            id=inbox.id if isinstance(inbox.id, Global) or is_plain(inbox.id) else repr(inbox.id),
            called=inbox.name,
            status=inbox.status,
            session_id=inbox.session_id,
            serial=next(self._serials),
            born=self._born.setdefault(inbox, next(self._serials)),
        )

    def names(self) -> Collection[Hashable]:
        return [name for name in self._table if isinstance(name, Global)]

    # ---- for sessions elsewhere -----------------------------------------------------------------

    def far(self, name: Name, entry: Entry) -> FarSession:
        """A session elsewhere: one object for each, as long as somebody has it."""
        session = self._far.get(name)
        if session is None or not session.is_one_of(entry):
            session = self._far[name] = FarSession(self, name, entry)
        return session

    def learn(self, name: Name, entry: Entry) -> FarSession:
        """A session elsewhere that was heard of otherwise than by the registry's news."""
        if name not in self._table:
            self._hear(name, entry)
        return self.far(name, entry)

    def forget_door(self, door: str) -> None:
        """It has been closed: nothing is there any more, though Ray may not have told yet."""
        if door in self._lines:
            self._lines[door].cut(DoorLost())
        for session in list(self._far.values()):
            if session.door == door:
                session.gone()

    def next_number(self) -> int:
        return next(self._numbers)

    async def resolve(self, name: Global) -> FarSession | None:
        entry = self._table.get(name)
        if entry is None:
            entry = await self._ask_registry("find", name)
            if entry is None:
                return None
            self._hear(name, entry)
        return self.far(name, entry)

    def forget(self, session: FarSession) -> None:
        if self._table.get(session.key, session).door == session.door:
            self._hear(session.key, None)

    async def reach(self, door: str) -> Line:
        if self.closed:
            raise _ended_error()
        line = self._lines.get(door)
        if line is None:
            async with self._finding[door]:  # so that callers stay in their order
                line = self._lines.get(door) or await self._new_line(door)
        return line

    async def _new_line(self, door: str) -> Line:
        peer = await trio.to_thread.run_sync(_ray.find_actor, door, self.namespace)
        await _wait_until_open(peer)
        number = (self._life, next(self._numbers))
        known = (entry.life for entry in self._table.values() if entry.door == door)
        broke = partial(self._line_broke, door)
        line = self._lines[door] = Line(peer, self.door, number, next(known, None), broke)
        return line

    def _line_broke(self, door: str, lost: DoorLost) -> None:
        del self._lines[door]
        if lost.returns and not self.closed:  # perhaps it only could not be reached for a moment
            self.start_soon(self._renew, door)

    async def _renew(self, door: str) -> None:
        """Let a door know that nobody waits for what came by the line before."""
        with suppress(DoorLost, ClusterError):
            await (await self.reach(door)).ask("renew", 0).wait()

    async def ask(self, door: str, kind: str, *args: Any) -> Any:
        """Ask another process for what is no session's."""
        number = self.next_number()
        try:
            line = await self.reach(door)
            answer = line.ask(kind, number, None, *args)
            try:
                said = await answer.wait()
            except trio.Cancelled:
                leave_unheard(line, number)
                raise
        except DoorLost as exc:
            raise ClusterError(f"an actor can't be reached: {_why(exc)}") from exc
        if said.error is not None:
            raise loads_error(said.error)
        return said.value

    # ---- for the service ------------------------------------------------------------------------

    async def _do(self, kind: str, args: tuple[Any, ...]) -> Any:
        if kind == "plan":
            (door,) = args
            return self.plans[door]
        if self._supervise is None:
            raise NotHere("this process has no group")
        return await self._supervise(kind, args)

    def _mine_named(self, name: Hashable, born: tuple[int, int] | None) -> _Mine | None:
        mine = self._mine.get(name)
        if mine is None or (born is not None and born[0] == self._life and born[1] != mine.born):
            return None
        return mine

    async def _until_lost(self, door: str) -> bool:
        """Wait until it can't be reached any more; gives whether its process may still live."""
        try:
            line = await self.reach(door)
            await line.peer.call("alive", self.door).wait()
        except DoorLost as exc:
            if exc.returns:
                await trio.sleep(_AGAIN_SECONDS)
                return True
        except ClusterError:
            return False  # the connection ends
        with suppress(DoorLost, ClusterError):
            await (await self.reach(self.door)).peer.call("forget", door).wait()
        return False


async def _wait_until_open(peer: _ray.Peer) -> None:
    """Wait for a process that Ray is starting, or starting again, to be up. What is asked before may
    be lost with nobody knowing whether it was begun."""
    while True:
        try:
            await peer.call("opened").wait()
        except DoorLost as exc:
            if not exc.returns:
                raise
            await trio.sleep(_AGAIN_SECONDS)
        else:
            return


def _ended_error() -> ClusterError:
    return ClusterError("the connection to the cluster has ended: its block was left")


# After an actor could not be reached that is to return: before it is tried again.
_AGAIN_SECONDS = 0.1


def _why(exc: BaseException) -> str:
    if isinstance(exc, DoorLost):
        return exc.why
    return str(exc).strip().partition("\n")[0] or type(exc).__name__


def refuse_unplain(key: Hashable, whose: object) -> None:
    """Raise ConfigurationError for what two processes could take for different things."""
    if not is_plain(key):
        raise ConfigurationError(
            f"{whose!r} can't be known in a cluster: names and ids there are made of text, bytes, "
            "numbers, bools, None, and tuples and frozensets of these"
        )


@asynccontextmanager
async def open_connection(
    namespace: str,
    door: str,
    *,
    supervise: Callable[[str, tuple[Any, ...]], Awaitable[Any]] | None = None,
) -> AsyncIterator[Connection]:
    """Connect this run for the length of a block; Ray and the door must be up."""
    async with open_hidden_nursery() as nursery:
        connection = Connection(namespace, door, nursery, supervise=supervise)
        set_cluster(connection)
        try:
            await connection.begin()
            with connection.body:
                yield connection
        except Exception as exc:
            if connection.failure is None:
                raise
            raise connection.failure from exc
        finally:
            set_cluster(None)
            await connection.end()
    if connection.failure is not None:
        raise connection.failure


async def _connect(address: str, namespace: str) -> None:
    """Connect this process to Ray, which would try for minutes where nobody answers."""
    host, _, port = address.rpartition(":")
    if host and port.isdecimal():
        try:
            with trio.fail_after(_PROBE_SECONDS):
                await (await trio.open_tcp_stream(host.strip("[]"), int(port))).aclose()
        except (OSError, trio.TooSlowError) as exc:
            raise ClusterError(
                f"nobody answers at address={address!r}, so there is no Ray cluster: "
                f"{_why(exc)}; `ray start --head` starts one"
            ) from exc
    with trio.move_on_after(_CONNECTING_SECONDS) as patience:
        await trio.to_thread.run_sync(_ray.connect, address, namespace, abandon_on_cancel=True)
    if patience.cancelled_caught:
        raise ClusterError(
            f"no Ray cluster answered at address={address!r} in {_CONNECTING_SECONDS:g} seconds; it "
            "may be one that has ended: `ray start --head` starts one, and `address`, or RAY_ADDRESS, "
            "says which one is meant"
        )


@asynccontextmanager
async def open_mailbox_connection(address: str, namespace: str) -> AsyncIterator[Connection]:
    """Connect this process and this run, with a mailbox for a door."""
    await _connect(address, namespace)
    try:
        door = f"{_ray.DOOR}{uuid.uuid4().hex}"
        mailbox = await trio.to_thread.run_sync(_ray.start_mailbox, door, namespace)
        try:
            try:
                await mailbox.call("held").wait()
            except DoorLost as exc:
                raise ClusterError(f"Ray could not start an actor here: {_why(exc)}") from exc
            async with open_connection(namespace, door) as connection:
                connection.start_soon(connection._keep, partial(_take_calls, connection, mailbox))
                yield connection
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(mailbox.kill)
    finally:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(_ray.disconnect)


async def _take_calls(connection: Connection, mailbox: _ray.Peer) -> None:
    while True:
        for number, call in await mailbox.call("next").wait():

            def answer(data: bytes, number: int = number) -> None:
                with suppress(DoorLost):  # then nobody waits for it
                    mailbox.call("answer", [(number, data)])

            connection.service.receive(call, answer)
