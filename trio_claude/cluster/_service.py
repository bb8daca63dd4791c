"""Answers what other processes ask of the sessions of this run.

Each call is done by a task of its own, for Trio starts tasks in an order of its own; but a question
waits until those before it are in the lines of their sessions, so that callers are served in their
order. All that is done is done through what a handle of this run does, so that a session behaves the
same from afar.

An asker that dies can't leave what it has begun. So for each asker there is one call that never
ends while it lives; when it fails, everything of that asker's is left, and its line is broken.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, final

import trio

from .._errors import Interrupted, ProtocolError, SessionTerminated
from .._messages import InputJSONDelta, ResultMessage, TextDelta, ThinkingDelta
from .._session.stream import ResponseStream
from ._lines import BROKEN, InOrder
from ._wire import BATCH_SIZE, Request, Said, dumps, loads, size_of
from ._wire_errors import dumps_error

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable, Sequence

    from .._messages import Event
    from .._session.inbox import Inbox
    from .._session.question import Question
    from ._lines import LineId
    from ._wire import Standing

# So many small events travel together, at most.
_BATCH = 256


Find: TypeAlias = "Callable[[Hashable, tuple[int, int] | None], Published | None]"
"""Gives the session with this name in the cluster, if it is the one that was born then."""


class NotHere(SessionTerminated):
    """The process has no such session, or no longer; nothing was begun."""


class Published(Protocol):
    """A session of this run that others may ask."""

    @property
    def inbox(self) -> Inbox: ...
    @property
    def standing(self) -> Standing: ...


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
        self._before: _Job | None = None

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
            answer(_refusal(NotHere("the process ends")))
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
            answer(_refusal(exc))
            return
        job = asker.jobs.get(request.number)
        if request.kind not in ("more", "unask", "leave"):
            kind = _Turn if request.kind == "ask" else _Job
            job = kind(request, asker.jobs, self._find, self._do, self._before)
            job.more(answer)
            asker.jobs[request.number] = self._before = job
            nursery.start_soon(job.run)
        elif job is None:
            answer(_refusal(Interrupted("it was left")))
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
        self.jobs: dict[int, _Job] = {}

    def leave(self) -> None:
        """Nobody is there any more who wants anything of it."""
        for job in list(self.jobs.values()):
            job.leave(_to_nobody)


def _to_nobody(_: bytes) -> None:
    """The answer to one who is gone."""


class _Job:
    """Something that was asked for: done by one task, told by the calls that come for it."""

    def __init__(
        self,
        request: Request,
        jobs: dict[int, _Job],
        find: Find,
        do: Callable[[str, tuple[Any, ...]], Awaitable[Any]],
        before: _Job | None,
    ) -> None:
        self._before = before
        self.in_line = trio.Event()
        """Set once whatever is asked after it can't overtake it."""
        self._request = request
        self._jobs = jobs
        self._find = find
        self._other = do
        self._scope = trio.CancelScope()
        self._session: Published | None = None
        self._unsaid: deque[bytes] = deque()
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

    # ---- the asker's side -----------------------------------------------------------------------

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
        self._forget_if_done()

    # ---- its own side ---------------------------------------------------------------------------

    async def run(self) -> None:
        """Do it. Raises nothing but Cancelled."""
        said = None
        before, self._before = self._before, None
        try:
            with self._scope:
                if before is not None and not before.in_line.is_set():
                    await before.in_line.wait()
                said = await self._do()
        except Exception as exc:
            said = Said("end", error=dumps_error(exc), taken=self._taken)
        finally:
            self.in_line.set()
        self.say(said or Said("end", error=dumps_error(Interrupted("the asker has left"))))
        self._forget_if_done()

    async def _do(self) -> Said:
        kind, args = self._request.kind, self._request.args
        if self._request.name is None:
            self.in_line.set()
            return Said("end", value=await self._other(kind, args))
        inbox = self._inbox()
        self.in_line.set()  # before it is: nobody else runs until it waits there
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

    def _inbox(self) -> Inbox:
        name = self._request.name
        self._session = self._find(name, self._request.born)
        if self._session is None:
            raise NotHere(f"session {name!r} is not there any more", name=name)
        return self._session.inbox

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
            self._jobs.pop(self._request.number, None)
            standing = None if self._session is None else self._session.standing
            end = dumps(Said("end", standing))
            if self._unsaid and self._succeeded:  # who leaves is to have it: the conversation has
                end = self._unsaid[-1]
            for answer in self._leavers:
                answer(end)
            self._leavers.clear()


@final
class _Turn(_Job):
    """A question, and the reading of its answer."""

    _had_delta = False
    """Whether a delta was the last event that was read."""

    async def _do(self) -> Said:
        prompt, overrides, whole = self._request.args
        inbox = self._inbox()
        options = {} if overrides is None else loads(overrides)
        question = inbox.new_question(prompt, options, whole=whole)
        self.in_line.set()  # as above
        waits = not inbox.is_free()
        if waits:  # said now, so that it can be asked again should this process die
            self.say(Said("waiting"))
        await inbox.put(question)
        self._taken = True
        stream = ResponseStream(question)
        try:
            if whole:
                if waits:
                    self.say(Said("taken"))
                return Said("end", events=[await _result(stream)])
            self.say(Said("taken"))
            while True:
                events = await self._fill(stream, question)
                if events and isinstance(events[-1], ResultMessage):
                    return Said("end", events=events)
                if events:
                    await self._asked.wait()
                if events or self._unasked:
                    self._unasked = False
                    self.say(Said("events", events=events))
        finally:
            with trio.CancelScope(shield=True):  # the backends see to it that this doesn't last
                await stream.aclose()

    async def _fill(self, stream: ResponseStream, question: Question) -> Sequence[Event]:
        """The next events: those that have come until they are asked for, or are a batch.

        Nothing is read behind what is no delta before it is asked for: the result may be next, and
        with that the conversation has the turn, which its reader may still leave. Gives none where
        the reading was interrupted: it is asked for just now, or not any more.
        """
        if not self._had_delta:
            await self._asked.wait()
        events: list[Event] = []
        size = 0
        while len(events) < _BATCH and size < BATCH_SIZE and not self._unasked:
            if not question.ready:
                if events and (self._asked.is_set() or not _is_delta(events[-1])):
                    break
                try:
                    with trio.CancelScope() as self._reading:
                        question.ready.appendleft(await stream.receive())
                except Exception:
                    if not events:
                        raise
                    break  # it comes behind these: the stream raises it each time
                if self._reading.cancelled_caught:
                    break
            events.append(question.ready.popleft())
            size += size_of(events[-1])
        if events:
            self._had_delta = _is_delta(events[-1])
        return events


def _is_delta(event: Event) -> bool:
    return isinstance(event, TextDelta | ThinkingDelta | InputJSONDelta)


async def _result(stream: ResponseStream) -> Event:
    async for event in stream:
        if isinstance(event, ResultMessage):
            return event
    raise AssertionError("a stream ends with a result or raises")


def _refusal(error: Exception) -> bytes:
    return dumps(Said("end", error=dumps_error(error), taken=False))
