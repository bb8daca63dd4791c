"""Replay histories of the real OTP supervisor against ours: ``python -m tests.conformance.otp_replay FILE...``.

A trace is one JSON object a line: a supervisor's flags and children, and what happened to them, step
by step, at which second, with what OTP did. Here the same happens to a supervisor of ours, through
its public API, on virtual time.

In one place the recording is not OTP's behaviour but the recorder's: a child logs its own stop, and
one that is stopped in the very moment after its start has not run yet, so it logs nothing. That is
so wherever the next child's start fails and this one is stopped for that: in all 89 such places of
the 1,000 traces the stop is missing. Such stops of ours are left out before comparing; that they
happen, and in order, is shown in ``test_supervisor.py``.

Prints a line per mismatch and a summary; exits 1 on a mismatch, and
if there was nothing to replay.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import trio
import trio.testing

import trio_claude
from trio_claude import SessionOptions, SessionSpec, SupervisorEvent
from trio_claude.testing import ScriptedBackend, crash

Trace = Mapping[str, Any]
OTP_25 = Path(__file__).with_name("otp25.jsonl")


@attrs.frozen
class Mismatch:
    """One thing that ours did otherwise."""

    step: int | str
    what: str
    expected: object
    got: object

    def __str__(self) -> str:
        return f"step {self.step}: {self.what}: expected {self.expected!r}, got {self.got!r}"


class _Replay:
    """One trace against one supervisor."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.mismatches: list[Mismatch] = []
        self._failing: dict[str, int] = {}
        self._events: list[list[str]] = []
        # A conversation knows its session by nothing but its options: the model is the child's id.
        self._backend = ScriptedBackend(on_open=self._open)

    def _open(self, options: SessionOptions) -> None:
        child = options.model
        assert child is not None
        if self._failing.get(child, 0) > 0:
            self._failing[child] -= 1
            raise OSError(f"{child} fails to start")

    def _seen(self, event: SupervisorEvent) -> None:
        match event:
            case trio_claude.SessionReady(session=child):
                self._events.append(["started", str(child)])
            case trio_claude.SessionExited(session=child, uptime=None):
                self._events.append(["start_failed", str(child)])
            case trio_claude.SessionStopped(session=child):
                self._events.append(["stopped", str(child)])
            case _:
                pass

    def _compare(self, step: int | str, what: str, expected: object, got: object) -> None:
        if expected != got:
            self.mismatches.append(Mismatch(step, what, expected, got))

    def _take_events(self) -> list[list[str]]:
        events, self._events = self._events, []
        return without_unrecorded_stops(events)

    async def run(self) -> None:
        """Replay it all."""
        trace, start = self.trace, self.trace["start"]
        self._failing = dict(start["failing_starts"])
        specs = [
            SessionSpec(
                name=child["id"],
                model=child["id"],
                restart=child["restart"],
                significant=child["significant"],
                backend=self._backend,
            )
            for child in trace["children"]
        ]
        result = "ok"
        try:
            async with trio_claude.open_supervisor(
                specs,
                strategy=trace["strategy"],
                max_restarts=trace["max_restarts"],
                max_seconds=trace["max_seconds"],
                auto_shutdown=trace["auto_shutdown"],
                on_event=self._seen,
            ) as supervisor:
                self._compare("start", "events", start["events"], self._take_events())
                # The block is cancelled when the supervisor exits: the steps are not.
                with trio.CancelScope(shield=True):
                    for number, step in enumerate(trace["steps"], 1):
                        await self._step(number, step, supervisor)
        except OSError:
            result = "failed"
            self._compare("start", "events", start["events"], self._take_events())
        except trio_claude.RestartIntensityExceeded:
            pass  # the last step says so
        self._compare("start", "result", start["result"], result)

    async def _step(
        self, number: int, step: Mapping[str, Any], supervisor: trio_claude.Supervisor
    ) -> None:
        await trio.sleep_until(step["at"])
        self._failing = dict(step["failing_starts"])
        child = step["child"]
        match step["op"]:
            case "crash":
                await crash(supervisor.get_session(child))
            case "normal" | "shutdown":
                await supervisor.get_session(child).stop()
            case "terminate":
                await supervisor.terminate_session(child)
            case op:
                raise ValueError(f"unknown op {op!r}")
        await trio.testing.wait_all_tasks_blocked()
        try:
            sessions = supervisor.list_sessions()
        except trio.ClosedResourceError:
            sessions, fate = (), "exited"
        else:
            fate = "alive"
        self._compare(number, "events", step["events"], self._take_events())
        running = sorted(str(info.id) for info in sessions if info.status == "running")
        self._compare(number, "running", step["running"], running)
        known = sorted(str(info.id) for info in sessions)
        self._compare(number, "known", step["known"], known)
        self._compare(number, "supervisor", step["supervisor"], fate)


def without_unrecorded_stops(events: Sequence[list[str]]) -> list[list[str]]:
    """What the recorder would have seen: see the top of this file."""
    recorded: list[list[str]] = []
    newest: str | None = None
    failed = False
    for event in events:
        kind, child = event
        if kind == "started":
            newest, failed = child, False
        elif kind == "start_failed":
            failed = True
        elif failed and child == newest:
            newest = None
            continue
        recorded.append(event)
    return recorded


def replay(trace: Trace) -> Sequence[Mismatch]:
    """Replay one trace in a run of its own."""
    this = _Replay(trace)
    trio.run(this.run, clock=trio.testing.MockClock(autojump_threshold=0))
    return this.mismatches


def read(path: Path) -> Iterable[Trace]:
    """The traces of a file."""
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            if line.strip():
                yield json.loads(line)


def main(paths: Sequence[str]) -> int:
    """Replay all traces of the files; 0 if all of them, and at least one, were as OTP's."""
    traces = steps = mismatches = 0
    for path in paths:
        for trace in read(Path(path)):
            traces += 1
            steps += len(trace.get("steps", ()))
            for mismatch in replay(trace):
                mismatches += 1
                print(f"trace {traces}: {mismatch}")
    print(f"{traces} traces, {steps} steps, {mismatches} mismatches")
    return 1 if mismatches or not traces else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
