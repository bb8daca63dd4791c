"""The names of a cluster, as one process has them: those that it holds, and what it has heard of all.

A task follows the registry's table, by a call that is answered when there is news; another one tells it
how our sessions stand, when one has changed (``_held.py``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, final
from weakref import WeakValueDictionary

import trio

from .._errors import ClusterError
from .._supervision.events import logger
from .._supervision.names import Global
from . import _held, _ray
from ._doors import DoorLost
from ._far import ByName, FarSession
from ._held import Held
from ._peers import Peers
from ._table import Copy
from ._wire import Entry, refuse_unplain

if TYPE_CHECKING:
    from collections.abc import Collection, Hashable

    from .._session.handle import SessionHandle
    from .._session.target import Askable
    from ._life import Life
    from ._table import News
    from ._wire import Name

# How often a registry that is gone is started anew for one call.
_REGISTRIES = 5


@final
class Names:
    """What a run that is connected holds, and has heard; for ``_supervision/names.py``, a Cluster.

    Args:
      life: that of this run's connection.
      whole: whether sessions without a :class:`Global` name are known, too: all of a group are.
    """

    def __init__(self, life: Life, *, whole: bool) -> None:
        self.life = life
        self.copy = Copy()
        self.peers = Peers(life)
        self.held = Held(life, self._ask_registry, whole=whole)
        self._registry: _ray.Peer | None = None
        self._far: WeakValueDictionary[Hashable, FarSession] = WeakValueDictionary()

    # ---- the registry ----------------------------------------------------------------------------

    async def join(self) -> None:
        """Be known, and know."""
        self._take_in(await self._ask_registry("join", self.life.door))
        # Later than the one before, whatever the clock of this node says.
        self.life.number = max(self.life.number, (self.copy.life_of(self.life.door) or 0) + 1)

    async def leave(self) -> None:
        """Be known no longer."""
        with trio.move_on_after(_held.LEAVING_SECONDS, shield=True):
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

    # ---- what is heard ---------------------------------------------------------------------------

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
                await self._ask_registry("join", self.life.door)
                await self.held.claim_again(dict(self.copy.entries))

    def _take_in(self, news: News) -> None:
        for name, entry in self.copy.take_in(news).items():
            self._heard(name, entry)
            if entry is not None:
                self.held.misheard(name, entry)

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

    # ---- a Cluster -------------------------------------------------------------------------------

    async def register(self, handle: SessionHandle) -> None:
        await self.held.register(handle)

    async def unregister(self, handle: SessionHandle) -> None:
        await self.held.unregister(handle)

    def lookup(self, name: Global) -> SessionHandle | None:
        mine = self.held.find(name)
        if mine is not None:
            return mine.handle
        entry = self.copy.entries.get(name)
        if entry is None or entry.door == self.life.door:  # no longer ours: that news is under way
            return None
        return self.far(name, entry).handle

    def asked(self, name: Global) -> Askable:
        refuse_unplain(name.key, name)
        mine = self.held.find(name)
        return ByName(self.peers, name, self.resolve) if mine is None else mine.inbox

    def names(self) -> Collection[Hashable]:
        return [name for name in self.copy.entries if isinstance(name, Global)]

    # ---- sessions elsewhere ----------------------------------------------------------------------

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

    # ---- the end ---------------------------------------------------------------------------------

    def end(self, error: ClusterError) -> None:
        """Nothing is ours any more in the eyes of others, and nobody can be asked."""
        self.held.end()
        for session in list(self._far.values()):
            session.gone()
            for question in list(session.questions):
                question.end(error)
        self.peers.cut_all()
