"""The names of a cluster, as one process has them: those that it holds, and what it has heard of all.

Two tasks: one follows the registry's table, by a call that is answered when there is news; one tells
it how our sessions stand, when one has changed. Besides, a task for each name that is claimed, for what
the registry was asked can't be taken back: who is cancelled leaves it to that task to free the name.

Calls to the registry may overtake each other, and Ray repeats those that a registry that died has not
answered. So whatever is said of a name has a serial number, and what is older than what is known
changes nothing.
"""

from __future__ import annotations

import itertools
from functools import partial
from typing import TYPE_CHECKING, Any, final
from weakref import WeakKeyDictionary, WeakValueDictionary

import attrs
import trio

from .._errors import ClusterError, SessionExists
from .._session.context import lives
from .._session.inbox import Inbox
from .._supervision.events import logger
from .._supervision.names import Global
from . import _ray
from ._doors import DoorLost
from ._far import ByName, FarSession
from ._peers import Peers
from ._table import Copy
from ._wire import Entry, Member, is_plain, refuse_unplain

if TYPE_CHECKING:
    from collections.abc import Collection, Hashable

    from .._session.handle import SessionHandle
    from .._session.target import Askable
    from ._life import Life
    from ._table import News
    from ._wire import Name, Standing

# Who frees a name, or leaves, waits for the registry no longer than this.
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
class _Claim:
    """A name that the registry is asked for."""

    def __init__(self, mine: _Mine) -> None:
        self.mine = mine
        self.is_wanted = True
        """Whether somebody waits for it: else it is freed once it is got."""
        self.decided = trio.Event()
        self.error: BaseException | None = None
        """Why it was not got."""


@final
class Names:
    """What a run that is connected holds, and has heard; for ``_supervision/names.py``, a Cluster.

    Args:
      life: that of this run's connection.
      whole: whether sessions without a :class:`Global` name are known, too: all of a group are.
    """

    def __init__(self, life: Life, *, whole: bool) -> None:
        self.copy = Copy()
        self.peers = Peers(life)
        self._arrival = trio.Event()
        self._is_settled = not whole
        self.life = life
        self._whole = whole
        self._where = _ray.where()
        self._serials = itertools.count(1)
        self._registry: _ray.Peer | None = None
        self._mine: dict[Hashable, _Mine] = {}
        self._born: WeakKeyDictionary[Inbox, int] = WeakKeyDictionary()
        self._claiming: dict[Hashable, _Claim] = {}
        self._freeing: dict[Hashable, trio.Event] = {}
        self._untold: set[Hashable] = set()
        self._to_tell = trio.Event()
        self._far: WeakValueDictionary[Hashable, FarSession] = WeakValueDictionary()

    # ---- the registry ---------------------------------------------------------------------------

    async def join(self) -> None:
        """Be known, and know."""
        self._take_in(await self._ask_registry("join", self.life.door))
        # Later than the one before, whatever the clock of this node says.
        self.life.number = max(self.life.number, (self.copy.life_of(self.life.door) or 0) + 1)

    async def settle(self) -> None:
        """All that this process starts by itself is started."""
        await self._ask_registry("settle", self.life.door, self.life.number)
        self._is_settled = True
        self._arrive()

    async def leave(self) -> None:
        """Be known no longer."""
        with trio.move_on_after(_LEAVING_SECONDS, shield=True):
            try:
                await self._ask_registry("leave", self.life.door, self.life.number)
            except ClusterError as exc:
                logger.warning("could not leave the cluster in order: %s", exc)

    async def _ask_registry(self, method: str, *args: Any) -> Any:
        """Call the registry; Ray does so again if it dies, and it is started anew if it is gone."""
        lost: DoorLost | None = None
        for _ in range(_REGISTRIES):
            if method != "leave":
                self.life.check()
            registry = self._registry
            try:
                if registry is None:
                    registry = await trio.to_thread.run_sync(_ray.registry, self.life.namespace)
                    self._registry = registry
                return await registry.call(method, *args).wait()
            except DoorLost as exc:
                lost = exc
                if self._registry is registry:
                    self._registry = None
                self.copy.version = None  # a new one has another table
        assert lost is not None
        raise ClusterError(f"the registry of names can't be reached: {lost.why}") from lost

    # ---- what is heard --------------------------------------------------------------------------

    async def follow(self) -> None:
        """Hear what changes, all the time."""
        while True:
            version = self.copy.version
            if version is None:
                news = await self._ask_registry("join", self.life.door)
            else:
                news = await self._ask_registry("changes", version)
            version = self.copy.version  # None, if the registry was lost meanwhile
            self._take_in(news)
            if version is None or news.version[0] != version[0]:
                await self._claim_again()

    async def _claim_again(self) -> None:
        """Have a new registry know our names, which it may not have been able to ask us for."""
        await self._ask_registry("join", self.life.door)
        for name, entry in list(self.copy.entries.items()):
            if (entry.door, entry.life) == (
                self.life.door,
                self.life.number,
            ) and name not in self._mine.keys() | self._claiming.keys() | self._freeing.keys():
                await self._release(name, entry.serial)  # the registry before had not said so
        for name in list(self._mine):
            mine = self._mine.get(name)
            if mine is None:
                continue
            mine.serial = next(self._serials)
            entry = mine.entry
            holder = await self._ask_registry("claim", name, entry)
            if self._mine.get(name) is not mine:  # it was freed meanwhile, and perhaps before that
                await self._release(name, entry.serial)
                continue
            if holder is not None and holder.door != self.life.door:
                raise ClusterError(
                    f"the name {name!r} was given to a session in {holder.where}, while the registry "
                    "of names could not reach this process"
                )

    def _take_in(self, news: News) -> None:
        for name, entry in self.copy.take_in(news).items():
            self._heard(name, entry)
            # A registry that could not reach us for a moment takes us for restarting.
            mine = self._mine.get(name)
            if mine is None or entry is None:
                continue
            if entry.serial >= mine.serial and entry.status != mine.inbox.status:
                self._changed(name)

    def _hear(self, name: Hashable, entry: Entry | None) -> None:
        self.copy.put(name, entry)
        self._heard(name, entry)

    def _heard(self, name: Hashable, entry: Entry | None) -> None:
        if entry is not None:
            self.peers.heard(entry.door, entry.life)
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

    # ---- what is told ---------------------------------------------------------------------------

    def _changed(self, name: Hashable) -> None:
        mine = self._mine.get(name)
        if mine is not None:
            mine.serial = next(self._serials)
            self._untold.add(name)
            self._to_tell.set()

    async def tell(self) -> None:
        """Tell how our sessions stand, each time that one has changed."""
        while True:
            await self._to_tell.wait()
            self._to_tell = trio.Event()
            names, self._untold = self._untold, set()
            entries = {name: self._mine[name].entry for name in names if name in self._mine}
            if entries:
                await self._ask_registry("update", self.life.door, entries)

    # ---- ours: a Cluster ------------------------------------------------------------------------

    @trio.lowlevel.enable_ki_protection
    async def register(self, handle: SessionHandle) -> None:
        name = self._name_of(handle)
        if name is None or self.life.ended:
            return
        while name in self._freeing:
            await self._freeing[name].wait()
            self.life.check()
        if name in self._mine or name in self._claiming:
            raise SessionExists(f"the name {name!r} is taken, by another session of this run")
        inbox = _inbox_of(handle)
        claim = self._claiming[name] = _Claim(_Mine(self._entry(inbox), inbox, handle))
        self.life.start_soon(self._claim, name, claim)
        try:
            await claim.decided.wait()
        except BaseException:
            claim.is_wanted = False
            self._freeing[name] = trio.Event()  # who wants it next waits for that
            raise
        if claim.error is not None:
            raise claim.error

    async def _claim(self, name: Name, claim: _Claim) -> None:
        """Ask for a name, and give it back if nobody wants it any more."""
        try:
            holder = await self._ask_registry("claim", name, claim.mine.entry)
            if holder is not None:
                claim.error = SessionExists(
                    f"the name {name!r} is taken in the cluster, by a session in {holder.where}"
                )
            elif claim.is_wanted:
                self._mine[name] = claim.mine
                claim.mine.inbox.on_change = partial(self._changed, name)
                self._arrive()
            else:
                await self._release(name, claim.mine.serial)
        except ClusterError as exc:
            claim.error = exc
            if not claim.is_wanted:
                self.life.fail(exc)
        except trio.Cancelled:
            claim.error = self.life.end_error()
            raise
        finally:
            del self._claiming[name]
            claim.decided.set()
            self._freed(name)

    async def unregister(self, handle: SessionHandle) -> None:
        name = self._name_of(handle)
        mine = self._mine.get(name)
        if mine is None or mine.handle is not handle:
            return
        del self._mine[name]
        mine.inbox.on_change = None
        if self.life.closing:
            return  # all of them are freed at once
        self._freeing[name] = trio.Event()
        try:
            with trio.move_on_after(_LEAVING_SECONDS, shield=True):
                await self._release(name, next(self._serials))
        except ClusterError as exc:
            self.life.fail(exc)
        finally:
            self._freed(name)

    async def _release(self, name: Hashable, serial: int) -> None:
        """Free a name, as far as it was said to be ours up to then."""
        await self._ask_registry("release", self.life.door, name, self.life.number, serial)

    def _freed(self, name: Hashable) -> None:
        freed = self._freeing.pop(name, None)
        if freed is not None:
            freed.set()

    def lookup(self, name: Global) -> SessionHandle | None:
        mine = self._mine.get(name)
        if mine is not None:
            return mine.handle
        entry = self.copy.entries.get(name)
        if entry is None or entry.door == self.life.door:  # no longer ours: that news is under way
            return None
        return self.far(name, entry).handle

    def asked(self, name: Global) -> Askable:
        refuse_unplain(name.key, name)
        mine = self._mine.get(name)
        return ByName(self.peers, name, self.resolve) if mine is None else mine.inbox

    def names(self) -> Collection[Hashable]:
        return [name for name in self.copy.entries if isinstance(name, Global)]

    def _name_of(self, handle: SessionHandle) -> Name | None:
        """Under which name the cluster is to know it, if at all."""
        name: Name
        if isinstance(handle.name, Global):
            name, key = handle.name, handle.name.key
        elif self._whole and not lives.get():  # of the group's own supervisor
            name, key = Member(self.life.door, handle.id), handle.id
        else:
            return None
        refuse_unplain(key, handle.name)
        return name

    # ---- ours: for others -----------------------------------------------------------------------

    def find(self, name: Hashable, born: tuple[int, int] | None) -> _Mine | None:
        """The session of ours with this name, if it is the one that was born then."""
        mine = self._mine.get(name)
        if mine is None or born is None:
            return mine
        life, number = born  # of an earlier life of ours: the one that this life has in its place
        return mine if life != self.life.number or number == mine.born else None

    def arrival(self) -> trio.Event | None:
        """What is set when the next session of ours is there; None where all are there that this
        process starts by itself."""
        return None if self._is_settled else self._arrival

    def _arrive(self) -> None:
        arrived, self._arrival = self._arrival, trio.Event()
        arrived.set()

    def entries(self) -> list[tuple[Hashable, Entry]]:
        """Our sessions, by their names in the cluster."""
        return [(name, mine.entry) for name, mine in self._mine.items()]

    def entry_of(self, handle: SessionHandle) -> tuple[Hashable, Entry]:
        """One of our sessions, whether the cluster knows it now or not."""
        name = self._name_of(handle)
        mine = self._mine.get(name)
        return name, self._entry(_inbox_of(handle)) if mine is None else mine.entry

    def _entry(self, inbox: Inbox) -> Entry:
        return Entry(
            door=self.life.door,
            life=self.life.number,
            where=self._where,
            id=inbox.id if isinstance(inbox.id, Global) or is_plain(inbox.id) else repr(inbox.id),
            called=inbox.name,
            status=inbox.status,
            session_id=inbox.session_id,
            serial=next(self._serials),
            born=self._born.setdefault(inbox, next(self._serials)),
        )

    # ---- theirs ---------------------------------------------------------------------------------

    def far(self, name: Name, entry: Entry) -> FarSession:
        """A session elsewhere: one object for each, as long as somebody has it."""
        session = self._far.get(name)
        if session is None or not session.is_one_of(entry):
            session = self._far[name] = FarSession(self.peers, name, entry, self.forget)
        return session

    def learn(self, name: Name, entry: Entry) -> FarSession:
        """A session elsewhere that was heard of otherwise than by the registry's news."""
        if name not in self.copy.entries:
            self._hear(name, entry)
        return self.far(name, entry)

    async def resolve(self, name: Global) -> FarSession | None:
        """The session elsewhere with this name; the registry is asked where it was not heard of."""
        entry = self.copy.entries.get(name)
        if entry is None:
            found = await self._ask_registry("find", name)
            entry = self.copy.entries.get(name)  # newer, if there is one by now
            if entry is None:
                if found is None:
                    return None
                entry = found
                self._hear(name, found)
        return self.far(name, entry)

    def forget(self, session: FarSession) -> None:
        """It is not there; another one that has its name by now is."""
        entry = self.copy.entries.get(session.key)
        if entry is not None and session.is_one_of(entry):
            self._hear(session.key, None)

    def forget_door(self, door: str) -> None:
        """It has been closed: nothing is there any more, though Ray may not have told yet."""
        self.peers.cut(door)
        for session in list(self._far.values()):
            if session.door == door:
                session.gone()

    # ---- the end --------------------------------------------------------------------------------

    def end(self, error: ClusterError) -> None:
        """Nothing is ours any more in the eyes of others, and nobody can be asked."""
        for mine in self._mine.values():
            mine.inbox.on_change = None
        self._mine.clear()
        for name in list(self._freeing):
            self._freed(name)
        for session in list(self._far.values()):
            session.gone()
            for question in list(session.questions):
                question.end(error)
        self.peers.cut_all()


def _inbox_of(handle: SessionHandle) -> Inbox:
    assert isinstance(handle._target, Inbox)  # it is a session of this run
    return handle._target
