"""What others have asked for, each thing done by a task of its own, and told by calls.

Trio starts tasks in an order of its own; but a question waits until those before it are in the line of
its session, so that callers are served in their order. All that is done is done through what a
handle of this run does, so that a session behaves the same from afar.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import trio

from .._errors import Interrupted, ProtocolError, SessionCrashed, SessionTerminated
from ._lines import BROKEN, REFUSED
from ._wire import Member, Said, dumps
from ._wire_errors import dumps_error

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable

    from .._session.inbox import Inbox
    from ._wire import Name, Request, Standing

Do: TypeAlias = "Callable[[str, tuple[Any, ...]], Awaitable[Any]]"
"""Does what is no session's: its kind, and its arguments."""

Find: TypeAlias = "Callable[[Hashable, tuple[int, int] | None], Published | None]"
"""Gives the session with this name in the cluster, if it is the one that was born then."""

Arrival: TypeAlias = "Callable[[], trio.Event | None]"
"""Gives what is set when the next session is there; None where none is to come by itself."""


class NotHere(SessionTerminated):
    """The process has no such session, or no longer; nothing was begun."""


class Asker(Protocol):
    """Another process, as far as it asks by one line."""

    jobs: dict[int, Job]

    def take(self, number: int) -> None:
        """A question that was said to wait is begun, which its asker doesn't know yet."""


class Published(Protocol):
    """A session of this run that others may ask."""

    @property
    def inbox(self) -> Inbox: ...
    @property
    def standing(self) -> Standing: ...


_LEFT = Said("end", error=dumps_error(Interrupted("the asker has left")))


def _to_nobody(_: bytes) -> None:
    """The answer to one who is gone."""


def refusal(error: BaseException) -> bytes:
    """The answer where nothing was begun."""
    return dumps(Said("end", error=dumps_error(error), taken=False))


def begun_unheard(request: Request) -> bytes:
    """The answer to a question that was begun when it was asked before: it is not begun twice."""
    name = request.name.id if isinstance(request.name, Member) else request.name
    error = SessionCrashed(
        f"the way to session {name!r} was cut for a moment, and what became of this turn meanwhile "
        "was not heard",
        name=name,
    )
    return dumps(Said("end", error=dumps_error(error)))


class Ours:
    """What this process has to do jobs with, and in which order they are."""

    def __init__(self, find: Find, arrival: Arrival, do: Do) -> None:
        self.find = find
        self.arrival = arrival
        self.do = do
        self.last: dict[Name, Job] = {}
        """What came last for a session and is not in its line yet."""


class Job:
    """Something that was asked for: done by one task, told by the calls that come for it."""

    def __init__(self, request: Request, asker: Asker, ours: Ours) -> None:
        self.in_line = trio.Event()
        """Set once whatever is asked after it can't overtake it."""
        self._request = request
        self._asker = asker
        self._ours = ours
        self._scope = trio.CancelScope()
        self._session: Published | None = None
        self._unsaid: deque[bytes] = deque()
        self._begun = False
        self._ended = False
        """Whether its end was said, if perhaps not heard yet."""
        self._succeeded = False
        self._answer: Callable[[bytes], None] | None = None
        self._asked = trio.Event()
        self._unasked = False
        self._reading = trio.CancelScope()
        """What waits for more to send than there is, until it is asked for."""
        self._leavers: list[Callable[[bytes], None]] = []
        self._taken = False
        self._before: Job | None = None
        asker.jobs[request.number] = self
        if request.name is not None:
            self._before = ours.last.get(request.name)
            ours.last[request.name] = self

    # ---- the asker's side ------------------------------------------------------------------------

    def more(self, answer: Callable[[bytes], None]) -> None:
        """Answer what comes next."""
        self._answer = answer
        self._flush()
        if self._answer is not None:
            self._asked.set()
            self._reading.cancel(reason="what was read is asked for")

    def unask(self) -> None:
        """Answer now, with what there is, and read no further."""
        if self._answer is not None:
            self._unasked = True
            self._reading.cancel(reason="nobody waits for more now")

    def leave(self, answer: Callable[[bytes], None]) -> None:
        """End it, and answer when it has ended."""
        self._leavers.append(answer)
        self._scope.cancel(reason="the asker has left")
        if not self._begun:
            self.say(_LEFT)
        self._forget_if_done()

    def cut(self) -> None:
        """End it: the line that it came by is broken, and whoever waits for an answer is told."""
        waiting = [*self._leavers, *(() if self._answer is None else (self._answer,))]
        self._leavers.clear()
        self._answer = None
        said = BROKEN if self._may_be_done() else REFUSED
        for answer in waiting:
            answer(said)
        self.leave(_to_nobody)

    def _may_be_done(self) -> bool:
        """Whether it can't be said to be undone."""
        return self._begun and not self._ended

    # ---- its own side ----------------------------------------------------------------------------

    async def run(self) -> None:
        """Do it. Raises nothing but Cancelled."""
        said = _LEFT
        try:
            # Also if it is left meanwhile: else whoever is behind it might overtake who is before.
            before, self._before = self._before, None
            if before is not None and not before.in_line.is_set():
                self._wait_in_line()
                await before.in_line.wait()
            self._begun = True
            with self._scope:
                if not self._ended:
                    said = await self._do()
        except Exception as exc:
            said = Said("end", error=dumps_error(exc), taken=self._taken)
        finally:
            self._let_pass()
        self.say(said)
        self._forget_if_done()

    def _let_pass(self) -> None:
        """It is in the line of its session now, or will never be."""
        self.in_line.set()
        name = self._request.name
        if name is not None and self._ours.last.get(name) is self:
            del self._ours.last[name]

    async def _do(self) -> Said:
        kind, args = self._request.kind, self._request.args
        if self._request.name is None:
            return Said("end", value=await self._ours.do(kind, args))
        inbox = await self._inbox()
        self._let_pass()  # before it is: nobody else runs until it waits there
        if kind == "clear":
            await inbox.clear()
        elif kind == "interrupt":
            await inbox.interrupt()
        elif kind == "stop":
            await inbox.stop(waits=args[0])
        elif kind == "control":
            return Said("end", value=dict(await inbox.control(*args)))
        else:
            raise ProtocolError(f"nothing is known here of {kind!r}: is it another version?")
        return Said("end")

    async def _inbox(self) -> Inbox:
        """That of its session, if it is there; no checkpoint, unless it may be about to be started."""
        name, born = self._request.name, self._request.born
        while (session := self._ours.find(name, born)) is None:
            arrival = self._ours.arrival()
            if arrival is None:
                raise NotHere(f"session {name!r} is not there any more", name=name)
            self._wait_in_line()
            await arrival.wait()
        self._session = session
        return session.inbox

    def _wait_in_line(self) -> None:
        """Say that it waits, where that makes a difference to who has asked."""

    def say(self, said: Said) -> None:
        """Answer this with the next call that comes for it, or came already."""
        if self._ended:
            return
        standing = None if self._session is None else self._session.standing
        said = said._replace(standing=standing)
        try:
            data = dumps(said)
        except Exception as exc:  # pickle has no one error for what it cannot do
            error = ProtocolError(f"the answer can't be sent to another process: {exc!r}")
            said = Said("end", standing, error=dumps_error(error), taken=said.taken)
            data = dumps(said)
            self._scope.cancel(reason="the answer can't be sent")
        self._ended = said.state == "end"
        self._succeeded = self._ended and said.error is None
        self._unsaid.append(data)
        self._flush()

    def _flush(self) -> None:
        if self._answer is None or not self._unsaid:
            return
        answer, self._answer = self._answer, None
        if self._asked.is_set():
            self._asked = trio.Event()
        answer(self._unsaid.popleft())
        self._forget_if_done()

    def _forget_if_done(self) -> None:
        """Once it has ended, and there is nothing to tell of it any more, or nobody to."""
        if self._ended and (not self._unsaid or self._leavers):
            self._asker.jobs.pop(self._request.number, None)
            standing = None if self._session is None else self._session.standing
            end = dumps(Said("end", standing))
            if self._unsaid and self._succeeded:  # who leaves is to have it: the conversation has
                end = self._unsaid[-1]
            for answer in self._leavers:
                answer(end)
            self._leavers.clear()
