"""Answers what other processes ask of the sessions of this run.

Calls come in any order, by lines that number them (``_lines.py``); each thing that is asked for is a job
(``_jobs.py``), and what is asked about it later finds that by its number.

An asker that dies can't leave what it has begun. So for each asker there is one call that never
ends while it lives; when it fails, everything of that asker's is left, and its line is broken.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, final

import trio

from .._errors import Interrupted, ProtocolError
from ._jobs import Job, NotHere, Turn, refusal
from ._lines import BROKEN, InOrder
from ._wire import Request, Said, dumps, loads

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ._jobs import Find
    from ._lines import LineId


@final
class Service:
    """What this process does for others."""

    def __init__(
        self,
        find: Find,
        until_lost: Callable[[str], Awaitable[bool]],
        do: Callable[[str, tuple[Any, ...]], Awaitable[Any]],
    ) -> None:
        self._find = find
        self._until_lost = until_lost
        self._do = do
        self._askers: dict[str, _Asker] = {}
        self._nursery: trio.Nursery | None = None
        self._before: Job | None = None

    async def run(self, task_status: trio.TaskStatus[None]) -> None:
        """Do what is asked, until cancelled."""
        try:
            async with trio.open_nursery() as self._nursery:
                task_status.started()
                await trio.sleep_forever()
        finally:
            self._nursery = None

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
            if known is not None:
                known.leave()  # nobody waits for what came by a line that is broken
            known = self._askers[asker] = _Asker(line)
            self._nursery.start_soon(self._wait_for_its_end, asker, known)
        if known.broken or known.line > line:
            answer(BROKEN)
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
        if request.kind not in ("more", "unask", "leave"):
            kind = Turn if request.kind == "ask" else Job
            job = kind(request, asker.jobs, self._find, self._do, self._before)
            job.more(answer)
            asker.jobs[request.number] = self._before = job
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
            asker.broken = True
            asker.leave()
        if self._askers.get(name) is asker:
            del self._askers[name]
        asker.leave()


@final
class _Asker:
    """Another process, as far as it asks by one line."""

    def __init__(self, line: LineId) -> None:
        self.line = line
        self.broken = False
        self.calls: InOrder[tuple[bytes, Callable[[bytes], None]]] = InOrder()
        self.jobs: dict[int, Job] = {}

    def leave(self) -> None:
        """Nobody is there any more who wants anything of it."""
        for job in list(self.jobs.values()):
            job.leave(_to_nobody)


def _to_nobody(_: bytes) -> None:
    """The answer to one who is gone."""
