"""Faults on demand: what the next requests are to suffer.

A `Refusal` meets the next request to its path, before anything else is looked at. The others meet
the next streamed answer, and say by the number of events how far it comes. Pings are not counted,
and none of the answers reaches its ``message_stop``, but for one that is held and released.
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING, Any, TypeAlias

import attrs
import trio

from .._errors import ConfigurationError
from .._validation import is_count, is_number, is_text

if TYPE_CHECKING:
    from collections.abc import Sequence


@attrs.frozen
class Refusal:
    """The next request to ``path`` is answered with an error status."""

    status: int
    retry_after: float | None
    path: str


@attrs.frozen
class StreamError:
    """After that many events an ``error`` event comes, and the stream ends."""

    after_events: int
    status: int


@attrs.frozen
class Cut:
    """After that many events the stream ends, or its connection breaks."""

    after_events: int
    abruptly: bool


class Hold:
    """A streamed answer that stops in the middle until it is released.

    Made by :meth:`Simulator.hold_next`, never by hand.
    """

    def __init__(self, after_events: int | None, ping_every: float) -> None:
        self.after_events = after_events
        self.ping_every = ping_every
        self.started = trio.Event()
        """Set when the answer has come to where it is held; the client may not have read it."""
        self.ended = trio.Event()
        """Set when the answer is over: sent, or given up because its client has gone."""
        self._released = trio.Event()

    @property
    def released(self) -> bool:
        """Whether the answer may go on."""
        return self._released.is_set()

    def release(self) -> None:
        """Let the answer go on; before it has started, it will not stop at all."""
        self._released.set()

    async def wait_released(self) -> bool:
        """Wait for the release, or until the next ping is due; True when it is released."""
        with trio.move_on_after(self.ping_every):
            await self._released.wait()
        return self.released

    def __repr__(self) -> str:
        states = {"ended": self.ended, "released": self._released, "started": self.started}
        state = next((name for name, event in states.items() if event.is_set()), "waiting")
        return f"<trio_claude.simulator.Hold {state}>"


StreamFault: TypeAlias = StreamError | Cut | Hold


class Faults:
    """The faults in line, each list in the order in which they were asked for."""

    def __init__(self) -> None:
        self._refusals: deque[Refusal] = deque()
        self._stream_faults: deque[StreamFault] = deque()

    def fail(
        self,
        status: int,
        retry_after: float | None,
        times: int,
        after_events: int | None,
        path: str,
    ) -> None:
        """Put failures in line; see `Simulator.fail_next`."""
        if not (is_count(status, 400) and status <= 599):
            raise ConfigurationError(f"status must be a number from 400 to 599, not {status!r}")
        if retry_after is not None and not (is_number(retry_after) and 0 <= retry_after < math.inf):
            raise ConfigurationError(
                f"retry_after must be a number of seconds, at least 0, not {retry_after!r}"
            )
        _check_count("times", times, 1)
        if not (is_text(path) and path.startswith("/")):
            raise ConfigurationError(f"path must be a path like '/v1/models', not {path!r}")
        if after_events is None:
            self._refusals.extend([Refusal(status, retry_after, path)] * times)
            return
        _check_count("after_events", after_events, 0)
        if retry_after is not None:
            raise ConfigurationError(
                "retry_after is a header, and with after_events the headers say 200: give one of them"
            )
        self._stream_faults.extend([StreamError(after_events, status)] * times)

    def cut(self, after_events: int, times: int, *, abruptly: bool) -> None:
        """Put cuts in line; see `Simulator.cut_next`."""
        _check_count("after_events", after_events, 0)
        _check_count("times", times, 1)
        self._stream_faults.extend([Cut(after_events, abruptly)] * times)

    def hold(self, after_events: int | None, ping_every: float | None) -> Hold:
        """Put a hold in line; see `Simulator.hold_next`."""
        if after_events is not None:
            _check_count("after_events", after_events, 0)
        if ping_every is not None and not (is_number(ping_every) and ping_every > 0):
            raise ConfigurationError(
                f"ping_every must be a number of seconds over 0, not {ping_every!r}"
            )
        hold = Hold(after_events, math.inf if ping_every is None else ping_every)
        self._stream_faults.append(hold)
        return hold

    def take_refusal(self, path: str) -> Refusal | None:
        """The next failure for a request to this path; it is out of the line then."""
        for refusal in self._refusals:
            if refusal.path == path:
                self._refusals.remove(refusal)  # the first that is equal: this one
                return refusal
        return None

    def take_stream_fault(self) -> StreamFault | None:
        """The next fault for a streamed answer; it is out of the line then."""
        return self._stream_faults.popleft() if self._stream_faults else None


def position_of(fault: StreamFault | None, events: Sequence[dict[str, Any]]) -> int | None:
    """Before which of the events the fault comes; before ``message_stop`` at the latest."""
    if fault is None:
        return None
    last = len(events) - 1
    if fault.after_events is not None:
        return min(fault.after_events, last)
    for position, event in enumerate(events):
        if event.get("delta", {}).get("type") == "text_delta":
            return position + 1
    return last


def _check_count(name: str, value: object, least: int) -> None:
    if not is_count(value, least):
        raise ConfigurationError(
            f"{name} must be a whole number of at least {least}, not {value!r}"
        )
