"""Answers what other processes ask of the sessions of this run.

Calls come in any order, by lines that number them (``_lines.py``); each thing that is asked for is a job
(``_jobs.py``), and what is asked about it later finds that by its number.

An asker that dies can't leave what it has begun. So for each asker there is one call that never
ends while it lives; when it fails, everything of that asker's is left, and its line is broken.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import trio

from .._errors import Interrupted, ProtocolError
from ._jobs import Job, NotHere, Ours, begun_unheard, refusal
from ._lines import REFUSED, InOrder
from ._turns import Turn
from ._wire import Request, Said, dumps, loads

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ._jobs import Arrival, Do, Find
    from ._lines import LineId

# Of each asker. So many turns are not begun in the seconds in which it notices that its line is broken.
_BEGUN_KEPT = 10_000


@final
class Service:
    """What this process does for others.

    Args:
      find: gives a session of ours.
      arrival: tells of sessions of ours that are yet to come.
      until_lost: waits until another process can't be reached; gives whether it may still live.
      do: does what is no session's.
    """

    def __init__(
        self,
        find: Find,
        arrival: Arrival,
        until_lost: Callable[[str], Awaitable[bool]],
        do: Do,
    ) -> None:
        self._ours = Ours(find, arrival, do)
        self._until_lost = until_lost
        self._askers: dict[str, _Asker] = {}
        self._nursery: trio.Nursery | None = None

    async def run(self, task_status: trio.TaskStatus[None]) -> None:
        """Do what is asked, until cancelled."""
        async with trio.open_nursery() as self._nursery:
            task_status.started()
            try:
                await trio.sleep_forever()
            finally:
                self._nursery = None  # nothing is begun any more
                for asker in self._askers.values():
                    asker.cut()

    def receive(self, call: bytes, answer: Callable[[bytes], None]) -> None:
        """Take a call, in whichever order they come; never blocks, never raises.

        Args:
          call: the asker's door, which of its lines it came by, which call of that line it is, and a
            request, which is bytes of its own: one that can't be read leaves no gap.
          answer: to be called once, with what is answered.
        """
        if self._nursery is None:
            answer(refusal(NotHere("the process ends")))
            return
        asker: str
        line: LineId
        asker, line, place, data = loads(call)
        known = self._askers.get(asker)
        if known is None or known.line < line:
            begun: dict[int, None] = {}
            if known is not None:
                known.cut()
                if known.line[0] == line[0]:
                    begun = known.begun
            known = self._askers[asker] = _Asker(line, begun)
            self._nursery.start_soon(self._wait_for_its_end, asker, known)
        if known.broken or known.line > line:
            answer(REFUSED)
            return
        for due in known.calls.put(place, (data, answer)):
            self._begin(self._nursery, known, *due)

    def _begin(
        self,
        nursery: trio.Nursery,
        asker: _Asker,
        data: bytes,
        answer: Callable[[bytes], None],
    ) -> None:
        try:
            request = loads(data)
            if not isinstance(request, Request):
                raise ProtocolError("what was asked is no request: is it another version?")
        except Exception as exc:
            answer(refusal(exc))
            return
        job = asker.jobs.get(request.number)
        if request.kind == "ask" and request.number in asker.begun:
            answer(begun_unheard(request))
        elif request.kind not in ("more", "unask", "leave"):
            kind = Turn if request.kind == "ask" else Job
            job = kind(request, asker, self._ours)
            job.more(answer)
            nursery.start_soon(job.run)
        elif job is None:
            answer(refusal(Interrupted("it was left")))
        elif request.kind == "more":
            job.more(answer)
        elif request.kind == "unask":
            job.unask()
            answer(dumps(Said("taken")))
        else:
            job.leave(answer)

    async def _wait_for_its_end(self, name: str, asker: _Asker) -> None:
        # One that only could not be reached for a moment may still ask by this line, where it was
        # left: it is told then that the line is broken.
        while await self._until_lost(name):
            asker.cut()
            if self._askers.get(name) is not asker:  # another task waits for its end
                return
        if self._askers.get(name) is asker:
            del self._askers[name]
        asker.cut()


@final
class _Asker:
    """Another process, as far as it asks by one line."""

    def __init__(self, line: LineId, begun: dict[int, None]) -> None:
        self.line = line
        self.begun = begun
        """Questions that were said to wait and then begun, the latest ones. When a line breaks, their
        asker may not know that yet, and ask again."""
        self.broken = False
        self.calls: InOrder[tuple[bytes, Callable[[bytes], None]]] = InOrder()
        self.jobs: dict[int, Job] = {}

    def take(self, number: int) -> None:
        """Remember that it is begun."""
        self.begun[number] = None
        if len(self.begun) > _BEGUN_KEPT:
            del self.begun[next(iter(self.begun))]

    def cut(self) -> None:
        """Break the line: what came by it is left, and not answered any more."""
        self.broken = True
        for _, answer in self.calls.drain():
            answer(REFUSED)
        for job in list(self.jobs.values()):
            job.cut()
