"""Several sessions that are equal to those who ask: whichever is free answers."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    asynccontextmanager,
    nullcontext,
)
from typing import TYPE_CHECKING, Any, Unpack, final

import trio

from .._errors import ConfigurationError, SessionNotFound, SessionTerminated
from .._messages import ResultMessage
from .._session.handle import SessionHandle, read
from .._supervision.names import there_are, whereis
from .._validation import is_hashable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Hashable, Mapping

    from .._options import Overrides
    from .._session.stream import ResponseStream


@final
class Pool:
    """Sessions that are equal to those who ask: each turn is asked of one that is free.

    That is one on which this pool has no turn in flight; of these, one that runs, and that was used
    longest ago. If none of them runs, the turn waits for one that is being started or restarted. If
    all that aren't stopped are in use, it waits until one is given back: first come, first served.

    It works with any sessions, near and far, and needs no cluster. Each turn may be answered by
    another session, so it is for questions that need no memory of the ones before. A task that
    asks the pool while it has streams of all its members open waits for itself.

    Args:
      targets: the sessions, by name or handle. A name is looked up whenever it is to be asked; one
        that nobody has counts as stopped for as long.

    Raises:
      ConfigurationError: there are none, or one is there twice, or is neither name nor handle.
    """

    def __init__(self, targets: Iterable[SessionHandle | Hashable]) -> None:
        self._free = dict.fromkeys(_members(targets))  # the one used longest ago first
        self._used: set[Hashable] = set()
        self._line = trio.StrictFIFOLock()  # who has it is the first in line
        self._news = trio.lowlevel.ParkingLot()  # where that one waits

    def __repr__(self) -> str:
        return f"<Pool of {len(self)}, {self.free} free>"

    def __len__(self) -> int:
        """How many sessions it has, whatever their state."""
        return len(self._free) + len(self._used)

    @property
    def free(self) -> int:
        """On how many of them it has no turn in flight; some may be stopped."""
        return len(self._free)

    async def query(self, prompt: str, **overrides: Unpack[Overrides]) -> ResultMessage:
        """Ask one of the sessions, and wait for the whole answer.

        Blocks until one is free, and then as :meth:`~trio_claude.SessionHandle.query`. If cancelled, the turn is
        ended at its source; a caller that waits for a session leaves the line without a trace.

        Raises:
          SessionTerminated: all are stopped; or the one that was asked was stopped in mid-turn.
          TrioClaudeError: as :meth:`~trio_claude.SessionHandle.query`.
        """
        async with self._ask(prompt, overrides, whole=True) as events:
            async for event in events:
                if isinstance(event, ResultMessage):
                    return event
        raise AssertionError("a stream ends with a result or raises")

    def stream(
        self, prompt: str, **overrides: Unpack[Overrides]
    ) -> AbstractAsyncContextManager[ResponseStream]:
        """Ask one of the sessions, and receive the answer's events as they come.

        Entering the block waits until a session is free and has taken the question; one that turns
        out to be gone before that is passed over. The session is free again when the block has
        been left, however that was. All else is as with :meth:`~trio_claude.SessionHandle.stream`; arguments and
        errors are those of :meth:`query`.
        """
        return self._ask(prompt, overrides, whole=False)

    @asynccontextmanager
    async def _ask(
        self, prompt: str, overrides: Mapping[str, Any], *, whole: bool
    ) -> AsyncIterator[ResponseStream]:
        gone: dict[Hashable, Exception] = {}
        while True:
            member, handle = await self._take(gone)
            try:
                async with AsyncExitStack() as stack:
                    try:
                        target = handle._target
                        question = target.new_question(prompt, overrides, whole=whole)
                        events = await stack.enter_async_context(read(target, question))
                    except (SessionTerminated, SessionNotFound) as exc:
                        gone[member] = exc
                        continue
                    yield events
                    return
            finally:
                self._give_back(member)

    @trio.lowlevel.enable_ki_protection
    async def _take(self, gone: Mapping[Hashable, Exception]) -> tuple[Hashable, SessionHandle]:
        """Wait for a member, which is to be given back; but for one that this call found gone.

        None is ever handed over: who waits looks again when there is news. So who is cancelled had
        nothing, and has nothing to pass on. Who found one gone was the first in line before, and
        does not line up again.
        """
        self._news.unpark_all()  # one that was stopped may be up again: that is the first one's
        async with nullcontext() if gone else self._line:
            while (found := self._choose(gone)) is None:
                if self._used <= gone.keys():
                    members = there_are([*self._free, *self._used])
                    raise SessionTerminated(
                        f"all sessions of this pool are stopped; {members}"
                    ) from [None, *gone.values()][-1]
                await self._news.park()
            del self._free[found[0]]
            self._used.add(found[0])
            return found

    def _choose(self, gone: Mapping[Hashable, Exception]) -> tuple[Hashable, SessionHandle] | None:
        found = None
        for member in self._free:
            handle = member if isinstance(member, SessionHandle) else whereis(member)
            if handle is None or handle.status == "stopped" or member in gone:
                continue
            if handle.is_alive():
                return member, handle
            if found is None:
                found = member, handle
        return found

    @trio.lowlevel.enable_ki_protection
    def _give_back(self, member: Hashable) -> None:
        self._used.remove(member)
        self._free[member] = None
        self._news.unpark_all()


def _members(targets: Any) -> list[Hashable]:
    if not isinstance(targets, Iterable) or isinstance(targets, str | bytes):
        raise ConfigurationError(f"targets must be a list of names or handles, not {targets!r}")
    members = list(targets)
    if not members:
        raise ConfigurationError("targets must have at least one session")
    names = set()
    for member in members:
        if member is None or not is_hashable(member):
            raise ConfigurationError(f"targets must be names or handles, and {member!r} is neither")
        # A session that is there by its name and by its handle would be asked twice at a time.
        name = member.name if isinstance(member, SessionHandle) else None
        name = member if name is None else name
        if name in names:
            raise ConfigurationError(f"targets must have each session once, but has {name!r} twice")
        names.add(name)
    return members
