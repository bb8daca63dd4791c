"""The laws: what holds for every life of a supervisor, read off what it reported.

They are the invariants of our research on OTP, under its numbers. Those that are no function here:

=====  ============================================================================================
   02  The decisions are OTP's: ``tests/conformance`` replays OTP's own; ``test_model.py`` compares
       the window with OTP's fold.
   12  What each restart type does: the model says, and every event and status is compared with it.
   13  Nothing of a temporary session is kept: ``test_model.py``, for it needs the garbage collector.
   14  A transient session that ended stays known: the model, in what is known and in the outcomes.
   15  What calls answer: the model. OTP's answers where ours are exceptions, see docs/otp.md, 1.10.
   16  Terminating cancels a retry: the model; every start is compared.
   27  Nobody is starved: ``Live.opening`` looks whether another task had its turn meanwhile.
   29  ``Cancelled`` is never swallowed: ``Live._block`` looks at its scope, the model at the outcome.
   32  ``auto_shutdown`` ends it iff the model says so: events and outcome are compared.
   33  Several crashes at once: ``SupervisorMachine.crash_all``.
   34  What a session's context has: ``Live.opening`` looks.
   36  The same again gives the same: ``test_model.py``.
=====  ============================================================================================

A start function that gives ``ignore`` is not here, nor is ``brutal_kill``: we have neither.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import attrs

from .model import Entry, Flags, Op, Spec

STARTING, READY, EXITED = "SessionStarting", "SessionReady", "SessionExited"
STOPPED, SCHEDULED = "SessionStopped", "RestartScheduled"
GAVE_UP, ENDED = "IntensityExceeded", "SupervisorStopped"


@attrs.define
class History:
    """What has happened so far."""

    top: Flags
    children: tuple[Spec, ...]
    log: list[Entry] = attrs.field(factory=list)
    """Supervisor, what, when, and then: session, incarnation, and what else is to say."""
    state: dict[str, Any] = attrs.field(factory=dict)
    now: float = 0.0
    outcome: str | None = None
    served: list[str] = attrs.field(factory=list)
    ops: Sequence[Op] = ()
    left_at: float | None = None
    """When the block was left, and ..."""
    grace: float = 0.0
    """... how many seconds its children had, all in all."""

    @property
    def flags(self) -> dict[str, Flags]:
        """Those of each supervisor."""
        every = [self.top, *(one.flags for one in self.children if one.flags is not None)]
        return {flags.name: flags for flags in every}

    def lives(self) -> Iterator[tuple[Flags, list[Entry]]]:
        """What each supervisor reported, from its start to its end."""
        for name, flags in self.flags.items():
            life: list[Entry] = []
            for one in self.log:
                if one[0] == name:
                    life.append(one)
                    if one[1] == ENDED:
                        yield flags, life
                        life = []
            if life:
                yield flags, life


def _times(life: Sequence[Entry], *kinds: str) -> list[float]:
    return [float(str(one[2])) for one in life if one[1] in kinds]


def invariant_01(history: History) -> None:
    """No window of max_seconds has more than max_restarts restarts."""
    for flags, life in history.lives():
        times = _times(life, SCHEDULED)
        for now in times:
            recent = [then for then in times if now - flags.max_seconds <= then <= now]
            assert len(recent) <= flags.max_restarts


def invariant_03(history: History) -> None:
    """OTP, which counts whole seconds, gives up at the same restart or before."""
    for flags, life in history.lives():
        whole = [math.floor(then) for then in _times(life, SCHEDULED, GAVE_UP)]
        if any(one[1] == GAVE_UP for one in life) and flags.backoff is None:
            recent = [then for then in whole if whole[-1] - math.floor(flags.max_seconds) <= then]
            assert len(recent) > flags.max_restarts


def invariant_04(history: History) -> None:
    """It gives up at restart max_restarts + 1 of a window, and does not do that one."""
    for flags, life in history.lives():
        for place, one in enumerate(life):
            if one[1] == GAVE_UP:
                now = float(str(one[2]))
                times = _times(life[:place], SCHEDULED)
                recent = [then for then in times if now - then <= flags.max_seconds]
                if flags.backoff is None:
                    assert len(recent) == flags.max_restarts
                assert STARTING not in [later[1] for later in life[place:]]


def invariant_05(history: History) -> None:
    """Calls never change the window: it has one entry for each restart that was decided."""
    for name, state in history.state.items():
        flags, life = [pair for pair in history.lives() if pair[0].name == name][-1]
        times = _times(life, SCHEDULED, GAVE_UP)
        assert state["recent"] == sum(history.now - then <= flags.max_seconds for then in times)


def invariant_06(history: History) -> None:
    """Each restart that was decided follows one exit, or one failed start, of that session."""
    for _, life in history.lives():
        last: dict[object, str] = {}
        for one in life:
            if len(one) > 3 and one[1] != ENDED:
                if one[1] in (SCHEDULED, GAVE_UP):
                    assert last[one[3]] == EXITED
                last[one[3]] = str(one[1])


def group_restart(
    history: History, before: dict[str, Any], supervisor: str, name: str, new: Sequence[Entry]
) -> None:
    """invariant_07, _08, _09, _10: who is restarted with one that crashed, and in which order.

    For a crash that was seen to at once, of a supervisor that was doing nothing else.
    """
    own = [one for one in new if one[0] == supervisor]
    kinds = [one[1] for one in own]
    if supervisor not in before or supervisor not in history.state:
        return
    if SCHEDULED not in kinds or kinds.count(SCHEDULED) > 1 or GAVE_UP in kinds or ENDED in kinds:
        return
    flags = history.flags[supervisor]
    was = [one[0] for one in before[supervisor]["sessions"]]
    place = was.index(name)
    first = {"one_for_one": place, "rest_for_one": place, "one_for_all": 0}[flags.strategy]
    last = place + 1 if flags.strategy == "one_for_one" else len(was)
    group = was[first:last]
    incarnation = {one[0]: one[2] for one in history.state[supervisor]["sessions"]}
    for one in before[supervisor]["sessions"]:
        if one[0] not in group:
            assert incarnation[one[0]] == one[2]
        elif one[0] in incarnation and flags.backoff is None:
            assert incarnation[one[0]] > one[2]
    started = [one[3] for one in own if one[1] == STARTING and one[3] in was]
    stopped = [one[3] for one in own if one[1] == STOPPED and one[3] in was]
    assert started == [one for one in was if one in started]
    assert stopped == [one for one in reversed(was) if one in stopped]


def invariant_10(history: History) -> None:
    """No start before the one before it is over, or was called off."""
    for _, life in history.lives():
        under_way: object = None
        for one in life:
            if one[1] == STARTING:
                under_way = one[3]
            elif one[1] == READY:
                assert one[3] == under_way
                under_way = None


def invariant_11(history: History) -> None:
    """No incarnation starts before the one before it has ended. (And see ``WatchedConnection``.)"""
    for _, life in history.lives():
        up: set[object] = set()
        for one in life:
            if one[1] == STARTING:
                assert one[3] not in up
            elif one[1] == READY:
                up.add(one[3])
            elif one[1] in (EXITED, STOPPED):
                up.discard(one[3])


def invariant_18(history: History) -> None:
    """Leaving takes no longer than the children's grace, one after the other."""
    if history.left_at is not None and history.outcome is None:
        assert history.now - history.left_at <= history.grace


def invariant_19(history: History) -> None:
    """Every question has one outcome, and it is one of these."""
    allowed = {"ok", "cancelled", "closed", "QueryError", "Interrupted", "SessionNotFound"}
    allowed |= {"SessionCrashed", "SessionRestarted", "SessionTerminated"}
    for op in history.ops:
        if op.kind in ("answer", "crash", "fail", "inside_start"):
            assert op.outcome is None or op.outcome in allowed


def invariant_20(history: History) -> None:
    """Each session answers in the order in which it was asked."""
    for name in {one.split()[0] for one in history.served}:
        numbers = [int(one.split()[1]) for one in history.served if one.split()[0] == name]
        assert numbers == sorted(set(numbers))


def invariant_21(history: History) -> None:
    """A stream that is fatal for its session never ends as if all were well."""
    for op in history.ops:
        assert not (op.kind in ("crash", "fail") and op.outcome == "ok")


def invariant_22(history: History) -> None:
    """A name is its session's through all restarts: the handle is the same, or the name is free."""
    for state in history.state.values():
        for session, named in zip(state["sessions"], state["names"], strict=True):
            assert named or session[1] == "stopped"


def invariant_23(history: History) -> None:
    """The counters are what the list says."""
    for state in history.state.values():
        assert state["running"] == sum(one[1] == "running" for one in state["sessions"])
        assert state["running"] <= state["active"] <= state["specs"]


def invariant_24(history: History) -> None:
    """There are never more than max_sessions that run, or come back.

    With one_for_one: a group's restart brings back also those that had ended, and whose room
    somebody else has taken meanwhile.
    """
    for name, state in history.state.items():
        flags = history.flags[name]
        if flags.max_sessions is not None and flags.strategy == "one_for_one":
            assert state["active"] + state["restarting"] <= flags.max_sessions


def invariant_25(history: History) -> None:
    """Nothing starts, and nobody is restarted, once the supervisor has given up or ended."""
    for _, life in history.lives():
        kinds = [one[1] for one in life]
        if GAVE_UP in kinds:
            rest = set(kinds[kinds.index(GAVE_UP) + 1 :])
            assert rest <= {STOPPED, EXITED, ENDED}
    if history.outcome is not None:
        assert history.log[-1][:2] == ("S", ENDED)


def invariant_26(history: History) -> None:
    """A delay is at most the maximum and its jitter; the model knows the exact bounds."""
    for flags, life in history.lives():
        for one in life:
            if one[1] == SCHEDULED:
                delay = float(str(one[5]))
                assert (delay == 0) == (flags.backoff is None)
                if flags.backoff is not None:
                    assert delay <= flags.backoff[1] * (1 + flags.backoff[2])


def invariant_28(history: History) -> None:
    """What is said of one session is a word of: starting, ready or failed, ended, and again."""
    follows = {
        None: {STARTING},
        STARTING: {READY, EXITED, STARTING, STOPPED},
        READY: {EXITED, STOPPED},
        EXITED: {SCHEDULED, GAVE_UP, STARTING},
        STOPPED: {STARTING},
        SCHEDULED: {STARTING, SCHEDULED},
        GAVE_UP: set[str](),
    }
    for _, life in history.lives():
        last: dict[object, str] = {}
        numbers: Counter[object] = Counter()
        for one in life:
            if one[1] in follows and len(one) > 3:
                assert one[1] in follows[last.get(one[3])], (last.get(one[3]), one)
                last[one[3]] = str(one[1])
                if len(one) > 4:
                    assert one[4] in (numbers[one[3]], numbers[one[3]] + 1, 1)
                    numbers[one[3]] = int(str(one[4]))


def invariant_30(history: History) -> None:
    """Nothing leaves the block but the body's own error, and what a supervisor ends with."""
    assert history.outcome in (None, "left", "cancelled", "body", "gave up", "start failed")


def invariant_31(history: History) -> None:
    """If a first start fails, those before it are stopped in reverse, and none behind is started."""
    if history.outcome == "start failed":
        own = [one for one in history.log if one[0] == "S"]
        ready = [one[3] for one in own if one[1] == READY]
        down = [one[3] for one in own if one[1] in (STOPPED, EXITED) and one[3] in ready]
        assert SCHEDULED not in [one[1] for one in own]
        assert down == ready[::-1]


def invariant_35(history: History) -> None:
    """A supervisor below that ended by itself is one exit for the one above."""
    ends = [one for one in history.log if one[:2] == ("N", ENDED)]
    own = [one for one in ends if one[3] in ("intensity", "auto_shutdown", "start_failed")]
    exits = [one for one in history.log if one[:2] == ("S", EXITED) and one[3] == "N"]
    assert len(exits) <= len(own)


ALWAYS: tuple[Callable[[History], None], ...] = tuple(
    law for name, law in sorted(globals().items()) if name.startswith("invariant_")
)


def invariant_33(
    history: History,
    before: dict[str, Any],
    supervisor: str,
    names: Sequence[str],
    new: Sequence[Entry],
) -> None:
    """Of several crashes at once, one_for_one counts each, and one_for_all the first only.

    For a supervisor that was doing nothing else, and still is there.
    """
    own = [one for one in new if one[0] == supervisor]
    if supervisor not in history.state or ENDED in [one[1] for one in own]:
        return
    if any(one[1] == EXITED and one[6] is None for one in own):
        return  # a start failed, which counts too
    restarts = {one[0]: one[5] for one in before[supervisor]["sessions"]}
    count = sum(restarts[name] != "temporary" for name in names)
    entries = sum(one[1] == SCHEDULED for one in own)
    match history.flags[supervisor].strategy:
        case "one_for_one":
            assert entries == count
        case "one_for_all":
            assert entries == min(count, 1)
        case _:
            assert min(count, 1) <= entries <= count
