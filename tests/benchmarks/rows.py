"""What is measured, beside what, and the goal. A new row needs a line here and one in the docs.

Rows of one group stand together and share their samples: in a round each of them is taken once, in
turn, so that what is compared was measured within the same seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from .wire import NO_PAUSE


@attrs.frozen
class Sample:
    """Something that is measured, in a process of its own."""

    kind: str
    """The function that takes it, such as ``streaming.ours``."""

    arguments: Mapping[str, Any] = attrs.field(eq=False)
    short: Mapping[str, Any] = attrs.field(factory=dict, eq=False)
    """Arguments that are smaller in a short run."""

    name: str = attrs.field()
    """Under which the figures are written down."""

    needs_server: bool = False

    @name.default
    def _name(self) -> str:
        return self.kind


@attrs.frozen
class Figure:
    """One of the figures of a sample."""

    sample: Sample
    name: str


@attrs.frozen(kw_only=True)
class Row:
    """A line of the table."""

    name: str
    group: str
    says: str
    ours: Figure
    beside: Figure | float
    """Another figure; or a fixed one, seconds or bytes, where the goal is no comparison."""

    peer: str
    """What stands beside ours, in words."""

    goal: float | None
    """The most that ours may be of what is beside it; None: it is only reported."""

    unit: str
    check: Sample | None = None
    """Taken once, before the first round: its figure ``reads`` says whether packets came alone,
    where that is what the row is about."""

    @property
    def measured(self) -> tuple[Figure, ...]:
        """Ours and, unless it is fixed, the one beside."""
        return (self.ours,) if isinstance(self.beside, float) else (self.ours, self.beside)


UNITS = {"µs": 1e-6, "ms": 1e-3, "KiB": 1024.0}
"""Seconds or bytes in a unit."""


# ---- streams ------------------------------------------------------------------------------------


def _streams(kind: str, streams: int, plan: Mapping[str, int], **more: Any) -> Sample:
    return Sample(
        f"streaming.{kind}",
        {"streams": streams, **plan, **more},
        short={"events": plan["events"] // 20},
        name=f"{kind}: {streams} streams, {plan['events']} events, {plan['a_packet']} a packet, "
        + ("no pause" if plan["tick"] == NO_PAUSE else f"{plan['tick']} µs a tick"),
        needs_server=True,
    )


def _beside(
    group: str, says: str, plan: Mapping[str, int], goals: tuple[float | None, float | None]
) -> list[Row]:
    """Ten streams, read by us, beside the official client and beside the floor."""
    paced = plan["tick"] > NO_PAUSE
    return [
        Row(
            name=f"{group}-{kind}",
            group=group,
            says=f"CPU an event, 10 streams, {says}",
            ours=Figure(_streams("ours", 10, plan), "cpu"),
            beside=Figure(_streams(kind, 10, plan), "cpu"),
            peer=peer,
            goal=goal,
            unit="µs",
            check=_streams("official", 10, plan, count_reads=True) if paced else None,
        )
        for (kind, peer), goal in zip(
            (("official", "anthropic"), ("floor", "bare httpx")), goals, strict=True
        )
    ]


def _fast(events: int, a_packet: int = 1) -> dict[str, int]:
    return {"events": events, "a_packet": a_packet, "tick": NO_PAUSE}


# The tick is about three times what the slowest peer needs for what comes with it, so that it has
# read a packet before the next one is there.
_PACED = {"events": 400, "a_packet": 1, "tick": 4_000}


# ---- all of them --------------------------------------------------------------------------------


def _own(kind: str, short: int, **argument: int) -> Sample:
    (name,) = argument
    return Sample(kind, argument, short={name: short})


_LOOK = Sample(
    "sessions.look",
    {"sessions": 10_000, "calls": 20_000},
    short={"sessions": 1_000, "calls": 2_000},
)
_IMPORT = _own("imports.both", 2, times=9)
_TURN = {"turns": 500, "events": 20}

# One sample for all of them, so that Ray is started once a round.
_RAY = Sample(
    "cluster.across",
    {"turns": 500, "streams": 15, "events": 2000},
    short={"turns": 20, "streams": 2, "events": 200},
)

_CLI_EVENTS = {"turns": 30, "events": 2000}
_CLI_TURN = Sample("cli.turn", {"turns": 500, "events": 20}, short={"turns": 20})

ROWS: tuple[Row, ...] = (
    *_beside("stream-1", "1 event a packet", _fast(2000), (0.45, 1.35)),
    *_beside("stream-8", "8 events a packet", _fast(8000, 8), (0.20, 1.6)),
    *_beside("stream-32", "32 events a packet", _fast(16000, 32), (0.15, 1.6)),
    *_beside("paced-1", "1 event a packet, each alone", _PACED, (None, None)),
    Row(
        name="streams-1000",
        group="streams-1000",
        says="CPU an event, 1,000 streams, 1 event a packet",
        ours=Figure(_streams("ours", 1000, _fast(200)), "cpu"),
        beside=Figure(_streams("ours", 10, _fast(200), times=20), "cpu"),
        peer="itself, 10 streams",
        goal=1.2,
        unit="µs",
    ),
    Row(
        name="turn",
        group="turn",
        says="CPU of a turn of 20 events",
        ours=Figure(Sample("turns.ours", _TURN, short={"turns": 50}, needs_server=True), "cpu"),
        beside=Figure(Sample("turns.floor", _TURN, short={"turns": 50}, needs_server=True), "cpu"),
        peer="bare httpx",
        goal=1.35,
        unit="µs",
    ),
    Row(
        name="cli-stream",
        group="cli-stream",
        says="CPU an event, from the `claude` program",
        ours=Figure(Sample("cli.ours", _CLI_EVENTS, short={"turns": 2}), "cpu"),
        beside=Figure(Sample("cli.official", _CLI_EVENTS, short={"turns": 2}), "cpu"),
        peer="claude-agent-sdk",
        goal=0.35,
        unit="µs",
    ),
    Row(
        name="cli-turn",
        group="cli-turn",
        says="time of a turn of 20 events beyond the `claude` program's own",
        ours=Figure(_CLI_TURN, "beyond"),
        beside=1e-3,
        peer="the most that it may be",
        goal=1.0,
        unit="ms",
    ),
    Row(
        name="cli-turn-floor",
        group="cli-turn",
        says="time of a turn of 20 events beyond the `claude` program's own",
        ours=Figure(_CLI_TURN, "beyond"),
        beside=Figure(Sample("cli.floor", _CLI_TURN.arguments, short={"turns": 20}), "beyond"),
        peer="bare Trio",
        goal=None,
        unit="ms",
    ),
    *(
        Row(
            name=f"ray-turn{suffix}",
            group="ray",
            says=f"time of a turn without events, {where}",
            ours=Figure(_RAY, ours),
            beside=Figure(_RAY, beside),
            peer=peer,
            goal=goal,
            unit="ms",
        )
        for suffix, where, ours, beside, peer, goal in (
            ("", "in a group's actor", "turn_group", "turn_bare", "a call of a bare actor", 1.3),
            ("-one", "in a group's actor", "turn_group", "turn_bare_one", "one call at once", None),
            ("-local", "in a group's actor", "turn_group", "turn_local", "in this run", None),
            (
                "-process",
                "in another driver",
                "turn_process",
                "turn_bare",
                "a call of a bare actor",
                None,
            ),
        )
    ),
    *(
        Row(
            name=f"ray-events{suffix}",
            group="ray",
            says="time an event, of a stream from a group's actor",
            ours=Figure(_RAY, "event"),
            beside=Figure(_RAY, beside),
            peer=peer,
            goal=goal,
            unit="µs",
        )
        for suffix, beside, peer, goal in (
            ("", "event_bare", "a bare stream, an object an event", 0.2),
            ("-batches", "event_batches", "a bare stream, an object for 20 events", None),
        )
    ),
    Row(
        name="memory",
        group="memory",
        says="memory of an idle session, 10,000 of them",
        ours=Figure(_own("sessions.keep", 1_000, sessions=10_000), "bytes"),
        beside=Figure(_own("bare.keep", 1_000, tasks=10_000), "bytes"),
        peer="a task with a channel",
        goal=2.0,
        unit="KiB",
    ),
    Row(
        name="start",
        group="start",
        says="CPU to start a session, 10,000 one by one",
        ours=Figure(_own("sessions.start", 1_000, sessions=10_000), "cpu"),
        beside=Figure(_own("bare.start", 1_000, tasks=10_000), "cpu"),
        peer="a task with a channel",
        goal=4.0,
        unit="µs",
    ),
    Row(
        name="start-listed",
        group="start",
        says="CPU to start a session, 10,000 in one list",
        ours=Figure(_own("sessions.start_listed", 1_000, sessions=10_000), "cpu"),
        beside=Figure(_own("bare.start", 1_000, tasks=10_000), "cpu"),
        peer="a task with a channel",
        goal=4.0,
        unit="µs",
    ),
    Row(
        name="crash",
        group="crash",
        says="CPU from a crash to ready again",
        ours=Figure(_own("sessions.recover", 300, crashes=5_000), "cpu"),
        beside=Figure(_own("bare.recover", 300, crashes=5_000), "cpu"),
        peer="a nursery, crashed and caught",
        goal=3.0,
        unit="µs",
    ),
    *(
        Row(
            name=name,
            group="look",
            says=f"time of `{call}`, 10,000 sessions",
            ours=Figure(_LOOK, f"{name}_many"),
            beside=Figure(_LOOK, f"{name}_few"),
            peer="itself, 1,000 sessions",
            goal=goal,
            unit="µs",
        )
        for name, call, goal in (
            ("count", "count_sessions", 1.5),
            ("whereis", "whereis", 1.5),
            ("list", "list_sessions", None),
        )
    ),
    Row(
        name="import",
        group="import",
        says="CPU of `import trio_claude`",
        ours=Figure(_IMPORT, "ours"),
        beside=Figure(_IMPORT, "bare"),
        peer="`import trio, httpx, attrs`",
        goal=1.15,
        unit="ms",
    ),
)
