"""What is said to one running program, and what it says: lines, and requests both ways.

Three tasks for one process, for neither side may ever wait for the other: one reads what it writes,
and hands each line on without waiting for anybody; one writes what is to be said, from a queue
without a limit, because a program that is busy writing doesn't read, and because a line that was cut by
a cancellation would spoil all that follow; one reads its remarks on standard error. What the
program asks of us is answered by a task of its own for each request, in any order.

A link ends once, with a failure (the process ended, or wrote what cannot be read), or because it
was told to. Whatever waits for an answer then gets that failure.
"""

from __future__ import annotations

import itertools
import signal
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any, final

import trio

from ..._errors import ControlError, ProcessError, ProtocolError
from ..._wire.jsonlines import JSONLine, LineDecoder
from ..._wire.stream_json import control_error, control_request, control_success

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

_READ_SIZE = 64 * 1024
_STDERR_BYTES = 8 * 1024

# Standard error may end a little after standard output, and what it says is why; and a program that
# is about to be stopped may be told to stop by itself, if it listens.
_LAST_WORDS_SECONDS = 1.0


class Refused(Exception):
    """What the program asks for is not to be had; it is told so."""


@final
class Link:
    """What is said to one process, and what it says.

    Args:
      process: it, with its three streams.
      max_size: the most bytes that one line may have.
      on_lines: called with the lines that came together and belong to no request.
      on_request: answers what the program asks for; raises `Refused`.
      on_stderr: called with each line of its standard error.
      on_end: called with what it ends with by itself, at once: what is asked of us by then may take
        its time to be left.
    """

    failure: Exception | None
    """What it ended with by itself."""

    def __init__(
        self,
        process: trio.Process,
        *,
        max_size: int,
        on_lines: Callable[[list[JSONLine]], None],
        on_request: Callable[[Mapping[str, Any]], Awaitable[Mapping[str, Any]]],
        on_stderr: Callable[[str], object] | None,
        on_end: Callable[[Exception], None],
    ) -> None:
        self.failure = None
        self._process = process
        self._decoder = LineDecoder(max_size)
        self._on_lines = on_lines
        self._on_request = on_request
        self._on_stderr = on_stderr
        self._on_end = on_end
        self._outgoing: deque[bytes] = deque()
        self._to_write = trio.Event()
        self._cut = False  # whether a line was written in part only
        self._ids = itertools.count(1)
        self._asked: dict[str, _Asked] = {}
        self._answering: dict[str, trio.CancelScope] = {}
        self._stderr: deque[str] = deque()
        self._stderr_size = 0
        self._stderr_ended = trio.Event()
        self._scope = trio.CancelScope()

    # ---- to the program ----

    def send(self, line: bytes) -> None:
        """Say something. Never waits."""
        self._outgoing.append(line)
        self._to_write.set()

    async def request(self, request: Mapping[str, Any], within: float) -> Mapping[str, Any]:
        """Ask for something beside the turn, and wait for the answer.

        Args:
          request: with its ``subtype``.
          within: seconds to wait.

        Raises:
          ControlError: it was refused, or not answered in time (a late answer goes nowhere), or
            the program ended by itself.
          trio.ClosedResourceError: the program was stopped.
        """
        what = request["subtype"]
        request_id = f"trio_claude_{next(self._ids)}"
        asked = self._asked[request_id] = _Asked()
        try:
            with trio.move_on_after(within) as scope:
                if self.failure is None:
                    self.send(control_request(request_id, request))
                    await asked.answered.wait()
        finally:
            del self._asked[request_id]
        if asked.response is not None:
            return asked.response
        if asked.error is not None:
            raise ControlError(f"the claude program refused {what!r}: {asked.error}", refused=True)
        if scope.cancelled_caught:
            raise ControlError(f"the claude program did not answer {what!r} within {within:g} s")
        if isinstance(self.failure, trio.ClosedResourceError):
            raise self.failure
        raise ControlError(
            f"the claude program ended before it answered {what!r}"
        ) from self.failure

    # ---- its tasks ----

    async def run(self) -> None:
        """Talk until the link ends, by itself or by `end`. Raises nothing but Cancelled."""
        with self._scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write)
                nursery.start_soon(self._read_stderr)
                nursery.start_soon(self._watch)
                try:
                    await self._read(nursery)
                except ProtocolError as exc:
                    self.end(exc)
                else:
                    with trio.move_on_after(_LAST_WORDS_SECONDS):
                        await self._process.wait()
                        await self._stderr_ended.wait()
                    self.end(self.died("the claude program ended"))

    def end(self, failure: Exception) -> None:
        """End it with this; the first one counts."""
        if self.failure is None:
            self.close(failure)
            self._on_end(failure)

    def close(self, failure: Exception) -> None:
        """Let nobody wait for it any more; they get this failure."""
        if self.failure is None:
            self.failure = failure
        for asked in self._asked.values():
            asked.answered.set()
        self._scope.cancel(reason="the program is no use any more")

    async def _read(self, nursery: trio.Nursery) -> None:
        assert self._process.stdout is not None
        ended = False
        while not ended:
            try:
                data = bytes(await self._process.stdout.receive_some(_READ_SIZE))
            except trio.BrokenResourceError:
                data = b""
            lines: list[JSONLine] = []
            try:
                if data:
                    self._decoder.feed(data, lines)
                else:
                    ended = True
                    self._decoder.finish(lines)
            finally:
                self._route(lines, nursery)

    def _route(self, lines: list[JSONLine], nursery: trio.Nursery) -> None:
        messages = []
        for line in lines:
            match line.get("type"):
                case "control_response":
                    self._take_response(line.get("response"))
                case "control_request":
                    self._take_request(line, nursery)
                case "control_cancel_request":
                    scope = self._answering.get(str(line.get("request_id")))
                    if scope is not None:
                        scope.cancel(reason="the program took its request back")
                case "keep_alive":
                    pass
                case _:
                    messages.append(line)
        if messages:
            self._on_lines(messages)

    def _take_response(self, response: object) -> None:
        if not isinstance(response, dict):
            return
        asked = self._asked.get(str(response.get("request_id")))
        if asked is None:
            return  # too late: nobody waits any more
        if response.get("subtype") == "error":
            asked.error = str(response.get("error") or "it doesn't say why")
        else:
            answer = response.get("response")
            asked.response = answer if isinstance(answer, dict) else {}
        asked.answered.set()

    def _take_request(self, line: JSONLine, nursery: trio.Nursery) -> None:
        request_id, request = line.get("request_id"), line.get("request")
        if isinstance(request_id, str) and isinstance(request, dict):
            scope = self._answering[request_id] = trio.CancelScope()
            nursery.start_soon(self._answer, request_id, request, scope)

    async def _answer(
        self, request_id: str, request: Mapping[str, Any], scope: trio.CancelScope
    ) -> None:
        try:
            with scope:
                self.send(control_success(request_id, await self._on_request(request)))
        except Refused as exc:
            self.send(control_error(request_id, str(exc)))
        finally:
            if self._answering.get(request_id) is scope:  # else it was used twice
                del self._answering[request_id]

    async def _write(self) -> None:
        while True:
            await self._to_write.wait()
            self._to_write = trio.Event()
            while self._outgoing:
                data = b"".join(self._outgoing)
                self._outgoing.clear()
                self._cut = True  # if it is cancelled now
                await self._write_whole(data)
                self._cut = False

    async def _write_whole(self, data: bytes) -> None:
        assert self._process.stdin is not None
        # If it is broken it has ended, or will: who reads its output finds out how.
        with suppress(trio.BrokenResourceError):
            await self._process.stdin.send_all(data)

    async def say_last(self, line: bytes) -> None:
        """Say one thing more when the tasks have ended. Shielded, and bounded by a second."""
        if not self._cut:
            with trio.move_on_after(_LAST_WORDS_SECONDS, shield=True):
                await self._write_whole(line)

    async def _read_stderr(self) -> None:
        assert self._process.stderr is not None
        left = b""
        try:
            async for data in self._process.stderr:
                *lines, left = (left + data).split(b"\n")
                for line in lines:
                    self._take_stderr(line)
                if len(left) > _STDERR_BYTES:
                    self._take_stderr(left)
                    left = b""
        except trio.BrokenResourceError:
            pass
        if left:
            self._take_stderr(left)
        self._stderr_ended.set()

    def _take_stderr(self, data: bytes) -> None:
        line = data.decode("utf-8", "replace").rstrip("\r")
        self._stderr.append(line)
        self._stderr_size += len(line) + 1
        while self._stderr_size > _STDERR_BYTES and len(self._stderr) > 1:
            self._stderr_size -= len(self._stderr.popleft()) + 1
        if self._on_stderr is not None:
            try:
                self._on_stderr(line)
            except Exception as exc:
                exc.add_note("in the callback that the option stderr gives")
                self.end(exc)

    # ---- its end ----

    async def _watch(self) -> None:
        """See the process's end, though somebody that it has started may keep its output open."""
        await self._process.wait()
        await trio.sleep(_LAST_WORDS_SECONDS)  # for what it has written to be read
        self.end(self.died("the claude program ended"))

    def died(self, what: str) -> ProcessError:
        """The error for a program that is no use any more, with what it said last."""
        stderr = "\n".join(self._stderr).encode()[-_STDERR_BYTES:].decode("utf-8", "ignore")
        code = self._process.returncode
        how = "" if code is None else f" with exit code {code}"
        if code is not None and code < 0:
            how += f" ({signal.Signals(-code).name})"
        said = f"; the last that it wrote to standard error: {stderr}" if stderr else ""
        return ProcessError(f"{what}{how}{said}", exit_code=code, stderr=stderr)


class _Asked:
    """A request that waits for its answer."""

    def __init__(self) -> None:
        self.answered = trio.Event()
        self.response: Mapping[str, Any] | None = None
        self.error: str | None = None
