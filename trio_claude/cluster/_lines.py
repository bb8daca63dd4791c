"""Calls in their order: a line from one process to another's door.

Ray begins the calls of an async actor in any order, and when the way there is cut for a moment, some
of those under way are lost. So the calls to a door are numbered, and done by number; and a line
breaks as a whole, as a connection does: when one of its calls is lost, so are all that have not been
answered. The next call goes by a new line, and to the door that says that whatever came by the old
one has nobody any more who waits for it.
"""

from __future__ import annotations

from contextlib import suppress
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar, final

import trio

from .._errors import ClusterError
from ._doors import DoorLost
from ._wire import Request, dumps, loads

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from ._far import FarSession
    from ._ray import Peer
    from ._wire import Said

_Item = TypeVar("_Item")

PARTING_SECONDS = 2.0
"""How long a caller that is cancelled waits for the other side, at most."""

BROKEN = b"broken"
"""Answered where the line is broken, as its other end doesn't know yet."""
REFUSED = b"refused"
"""The same, where what was asked was certainly not begun."""
_CUT = "the way to it was cut for a moment"

LineId: TypeAlias = tuple[int, int]
"""The life of the asking process, and which of its lines it is: of two, the greater is the newer."""


@final
class Answer:
    """What another process answers, once it is there."""

    def __init__(self) -> None:
        self._there = trio.Event()
        self._outcome: Callable[[], bytes] | None = None

    def give(self, outcome: Callable[[], bytes]) -> None:
        """What it is: a function that returns it, or raises."""
        if self._outcome is None:
            self._outcome = outcome
            self._there.set()

    def lose(self, lost: DoorLost) -> None:
        """There will be none."""

        def lose() -> bytes:
            raise lost.again()

        self.give(lose)

    async def wait(self) -> Said:
        """Wait for it. If cancelled, it can be waited for again.

        Raises:
          DoorLost: the line is broken.
          ClusterError: what this library runs there has failed.
        """
        await self._there.wait()
        assert self._outcome is not None
        said: Said = loads(self._outcome())
        return said


@final
class Line:
    """The asking end."""

    def __init__(
        self,
        peer: Peer,
        asker: str,
        number: LineId,
        life: int | None,
        on_break: Callable[[DoorLost], None],
    ) -> None:
        self.peer = peer
        self._asker = asker
        self._number = number
        self._on_break = on_break
        self._life = life
        self._count = 0
        self._unanswered: set[Answer] = set()
        self._lost: DoorLost | None = None
        # Never answered: so it breaks when the process ends, however idle it is. A new one that Ray
        # starts in its place would wait for the calls that the old one had.
        peer.send(self._ended, "alive", asker)

    def _ended(self, outcome: Callable[[], object]) -> None:
        try:
            outcome()
        except DoorLost as exc:
            self.cut(exc)
        except ClusterError as exc:
            lost = DoorLost()
            lost.__cause__ = exc
            self.cut(lost)

    def ask(self, kind: str, number: int, session: FarSession | None = None, *args: Any) -> Answer:
        """Ask, for a session or for what is none's; never blocks.

        Raises:
          DoorLost: the line is broken.
        """
        if self._lost is not None:
            raise self._lost.again()
        answer = Answer()

        def answered(outcome: Callable[[], bytes]) -> None:
            try:
                said = outcome()
            except DoorLost as exc:
                self.cut(exc)
                return
            except ClusterError:
                said = None  # who waits for it is told
            self._unanswered.discard(answer)
            if said in (BROKEN, REFUSED):
                answer.lose(DoorLost(returns=True, said=_CUT, begun=said == BROKEN))
                self.cut(DoorLost(returns=True, said=_CUT))
            else:
                answer.give(outcome)

        name, born = (None, None) if session is None else (session.key, session.born)
        data = dumps(Request(kind, number, name, born, args))
        call = dumps((self._asker, self._number, self._count + 1, data))
        self.peer.send(answered, "ask", call)
        self._count += 1  # only now: a number that is never sent would hold up all behind it
        self._unanswered.add(answer)
        return answer

    def heard(self, life: int) -> None:
        """The other end is in this life: if it is a later one than that which this line goes to, that
        may be known before Ray tells of its end."""
        if self._life is not None and life > self._life:
            self.cut(DoorLost(returns=True, said="its process was started again"))

    def cut(self, lost: DoorLost) -> None:
        """Break: what was asked is lost, and nothing more can be asked by it."""
        if self._lost is not None:
            return
        self._lost = lost
        unanswered, self._unanswered = self._unanswered, set()
        for answer in unanswered:
            answer.lose(lost)
        self._on_break(lost)


def leave_unheard(line: Line, number: int) -> None:
    """Leave what was asked, and don't wait for that."""
    with suppress(DoorLost):
        line.ask("leave", number)


@final
class Askers:
    """Who is about to ask at one place, a door or a name: the lowest number goes first.

    Numbers grow with the time at which something was asked for. So what has to be asked once more
    comes before what is new, and in its old order, however Trio wakes those who ask.
    """

    def __init__(self) -> None:
        self._waiting: dict[int, trio.Event] = {}
        self._lowest: list[int] = []  # a heap; with some that have left

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def enter(self, number: int) -> None:
        """Be one of them; twice is as once."""
        if number not in self._waiting:
            self._waiting[number] = trio.Event()
            heappush(self._lowest, number)

    def is_first(self, number: int) -> bool:
        """Whether nobody is there with a lower number."""
        return not self._waiting or number <= self._least()

    def _least(self) -> int:
        while self._lowest[0] not in self._waiting:
            heappop(self._lowest)
        return self._lowest[0]

    async def first(self, number: int) -> None:
        """Wait until it is, or has left."""
        while number in self._waiting and not self.is_first(number):
            self._waiting[number] = trio.Event()
            await self._waiting[number].wait()

    def leave(self, number: int) -> None:
        """Be none of them any more, if it was one; the next one goes on."""
        left = self._waiting.pop(number, None)
        if left is not None:
            left.set()
            if self._waiting:
                self._waiting[self._least()].set()


@final
class InOrder(Generic[_Item]):
    """The other end: gives out by number what comes in any order. The numbers begin at 1."""

    def __init__(self) -> None:
        self._next = 1
        self._early: dict[int, _Item] = {}

    def drain(self) -> Collection[_Item]:
        """Give out what has come before its time, in any order."""
        early, self._early = self._early, {}
        return early.values()

    def put(self, number: int, item: _Item) -> list[_Item]:
        """Take what has come; gives what is next, and all behind it that is there."""
        self._early[number] = item
        ready = []
        while self._next in self._early:
            ready.append(self._early.pop(self._next))
            self._next += 1
        return ready
