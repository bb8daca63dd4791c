"""Random lives of a supervisor, each compared with the model after every command."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
)

import trio_claude

from ..support import tasks
from . import laws
from .live import Live, entry, state
from .model import FOREVER, Flags, Model, Op, Spec, Start

# What is drawn is in quarters of a second, so that ages meet the window's edge exactly. What ends
# by itself ends at a moment of its own, for no rule says which of two things at once is the first.
RESTARTS = st.sampled_from(["permanent", "permanent", "transient", "temporary"])
SHUTDOWNS = st.sampled_from([5.0, 0.0, 1.0])
STRATEGIES = st.sampled_from(["one_for_one", "one_for_all", "rest_for_one"])
MAX_RESTARTS = st.sampled_from([3, 2, 1, 0, 6])
BACKOFFS = st.none() | st.builds(
    lambda reset_after, most: (1.0, 3.0, 0.5, reset_after, most),
    st.sampled_from([2.0, 20.0]),
    st.sampled_from([None, None, 2]),
)
AUTO = st.sampled_from(["never", "never", "any_significant", "all_significant"])
PLANS = st.lists(
    st.sampled_from(["ok", "fail", "fail", "fail", "hang", "slow"]), min_size=1, max_size=3
)
KINDS = st.sampled_from(["answer", "answer", "crash", "fail", "inside_start"])
STREAM_KINDS = st.sampled_from(["answer", "crash"])
CHILDREN = st.sampled_from([("S", "a"), ("S", "b"), ("S", "c"), ("S", "d"), ("N", "x"), ("N", "y")])
SUPERVISORS = st.sampled_from(["S", "S", "N"])
MOMENTS = st.sampled_from([0.0, 0.25, 1.0, 3.0])


@st.composite
def specs(draw: st.DrawFn, name: str, auto_shutdown: str) -> Spec:
    """A session."""
    restart = draw(RESTARTS)
    significant = auto_shutdown != "never" and restart != "permanent" and draw(st.booleans())
    return Spec(name, restart, draw(SHUTDOWNS), significant)


@st.composite
def flags(draw: st.DrawFn, name: str, auto_shutdown: str) -> Flags:
    """A supervisor's."""
    return Flags(
        name,
        draw(STRATEGIES),
        draw(MAX_RESTARTS),
        draw(st.sampled_from([5.0, 2.0])),
        auto_shutdown,
        draw(st.sampled_from([None, None, 4])),
        draw(BACKOFFS),
    )


@st.composite
def trees(draw: st.DrawFn) -> tuple[Flags, tuple[Spec, ...]]:
    """A supervisor with up to three sessions, and one below it now and then."""
    auto = draw(AUTO)
    children = [draw(specs(name, auto)) for name in draw(st.sampled_from(["abc", "ab", "a", ""]))]
    if draw(st.integers(0, 2)) == 0:
        below_auto = draw(AUTO)
        below = tuple(draw(specs(name, below_auto)) for name in draw(st.sampled_from(["x", "xy"])))
        restart = draw(RESTARTS)
        nested = Spec(
            "N",
            restart,
            draw(st.sampled_from([FOREVER, 1.0])),
            auto != "never" and restart != "permanent" and draw(st.booleans()),
            draw(flags("N", below_auto)),
            below,
        )
        children.insert(draw(st.integers(0, len(children))), nested)
    return draw(flags("S", auto)), tuple(children)


def _going_on(self: Any) -> bool:
    return self.live is not None and self.model.outcome is None


def _some_call(self: Any) -> bool:
    return self.live is not None and any(op.outcome is None for op in self.model.ops)


def _some_stream(self: Any) -> bool:
    return self.live is not None and bool(self.streams())


class SupervisorMachine(RuleBasedStateMachine):
    """A live supervisor, and the model of it."""

    live: Live | None = None
    model: Model
    history: laws.History

    def __init__(self) -> None:
        super().__init__()
        self._moments = 0

    def _moment(self, seconds: float) -> float:
        """So many seconds, and a little that nothing else has."""
        self._moments += 1
        return seconds + ((self._moments * 0x9E3779B1) % 2**32 // 4 + 1) / 2**32

    def _plan(self, plan: list[str]) -> list[Start]:
        return [self._moment(0.5) if how == "slow" else how for how in plan]

    @initialize(tree=trees(), plans=st.dictionaries(st.sampled_from("abxy"), PLANS, max_size=1))
    def begin(self, tree: tuple[Flags, tuple[Spec, ...]], plans: dict[str, list[str]]) -> None:
        """Open the supervisor; some starts fail, or hang."""
        top, children = tree
        starts = {name: self._plan(plan) for name, plan in plans.items()}
        self.model = Model(top, children, starts)
        self.history = laws.History(top, children)
        self.live = Live(top, children, starts)
        self.do(lambda: None)

    def teardown(self) -> None:
        """End the run, whatever has happened."""
        if self.live is not None:
            self.live.close()

    # ---- comparing ------------------------------------------------------------------------------

    def heard(self) -> list[Any]:
        """Tell the model what is chance; gives what was reported since."""
        assert self.live is not None
        events = [entry(event) for event in self.live.events]
        new = events[len(self.history.log) :]
        for event in new:
            if event[1] == "RestartScheduled" and self.history.flags[str(event[0])].backoff:
                delay = event[5]
                assert isinstance(delay, float)
                self.model.delays[str(event[0])].append(delay)
        return new

    def do(self, act: Callable[[], object]) -> None:
        """Let the model do it too, knowing what was chance, and compare."""
        new = self.heard()
        act()
        self.model.settle()
        self.compare(new)

    def compare(self, new: list[Any]) -> None:
        """Compare everything that can be seen."""
        assert self.live is not None
        model, live, history = self.model, self.live, self.history
        expected = model.log[len(history.log) :]
        for name in ("S", "N"):  # in which order two supervisors do things at once is chance
            assert [one for one in expected if one[0] == name] == [
                one for one in new if one[0] == name
            ], "what was reported (model, supervisor)"
        # The model's log has the supervisors' in another order: the laws look at the real one.
        model.log[len(history.log) :] = new
        history.log += new
        history.state = state(live)
        assert seen_by(model) == history.state, "what can be seen (model, supervisor)"
        assert {op.number: op.outcome for op in model.ops if op.number} == {
            number: call.outcome for number, call in live.calls.items()
        }, "outcomes of calls (model, supervisor)"
        assert model.outcome == live.outcome, "how the block ended (model, supervisor)"
        history.now = model.now
        history.outcome = live.outcome
        history.served = live.served
        history.ops = model.ops
        assert [] == live.problems
        for law in laws.ALWAYS:
            law(history)
        if model.outcome is not None:
            self.nothing_left()

    def nothing_left(self) -> None:
        """invariant_17: no task, connection, conversation or name is left; and _19: no caller."""
        live = self.live
        assert live is not None

        readers = len(self.streams())  # they wait for their own user, not for the supervisor
        assert live.tasks_before + readers == live.look(tasks)
        assert (0, 0) == (live.backend.connections, live.backend.conversations)
        assert not +live.alive
        names = live.look(lambda: [name for name in "abcdxyN" if trio_claude.whereis(name)])
        assert [] == names
        waiting = [op for op in self.model.ops if op.outcome is None and op.reading]
        assert [] == waiting

    def streams(self) -> list[Op]:
        """Streams that are open, and not being read."""
        return [op for op in self.model.ops if not op.reading and op.taken and op.outcome is None]

    # ---- commands -------------------------------------------------------------------------------

    @rule(name=st.sampled_from("abcdxy"), plan=PLANS)
    def plan(self, name: str, plan: list[str]) -> None:
        """Let the next starts of a session fail, or hang."""
        assert self.live is not None
        starts = self._plan(plan)
        self.live.plans[name] = list(starts)
        self.model.plans[name] = deque(starts)

    @precondition(_going_on)
    @rule(child=CHILDREN, data=st.data())
    def start(self, child: tuple[str, str], data: st.DataObject) -> None:
        """start_session"""
        supervisor, name = child
        auto = self.history.flags.get(supervisor, Flags(supervisor)).auto_shutdown
        spec = data.draw(specs(name, auto))
        assert self.live is not None
        self.live.start(len(self.model.ops) + 1, supervisor, spec)
        self.do(lambda: self.model.call_start(supervisor, spec))

    @precondition(_going_on)
    @rule(kind=st.sampled_from(["terminate", "restart", "stop"]), child=CHILDREN)
    def call(self, kind: str, child: tuple[str, str]) -> None:
        """terminate_session, restart_session, and stop of a handle"""
        assert self.live is not None
        model = self.model
        self.live.call(len(model.ops) + 1, kind, *child)
        self.do(lambda: model.stop(*child) if kind == "stop" else model.call(kind, *child))

    @precondition(_going_on)
    @rule(kind=st.sampled_from(["terminate", "restart"]))
    def call_below(self, kind: str) -> None:
        """terminate_session and restart_session of the supervisor below"""
        assert self.live is not None
        self.live.call(len(self.model.ops) + 1, kind, "S", "N")
        self.do(lambda: self.model.call(kind, "S", "N"))

    @precondition(_going_on)
    @rule(child=CHILDREN)
    def crash(self, child: tuple[str, str]) -> None:
        """Crash one: running, or before it is up."""
        self.crash_one(*child)

    def crash_one(self, supervisor: str, name: str) -> None:
        """Crash it, and look who is restarted with it."""
        assert self.live is not None
        quiet = self.model.idle
        before, old = self.history.state, len(self.history.log)
        outcomes = self.live.crash(supervisor, (name,))
        self.do(lambda: outcomes.append(self.model.crash(supervisor, name)))
        assert outcomes[0] == outcomes[1]
        if quiet and self.model.idle and outcomes[0] == "ok":
            new = self.history.log[old:]
            laws.group_restart(self.history, before, supervisor, name, new)

    @precondition(_going_on)
    @rule(supervisor=SUPERVISORS)
    def crash_all(self, supervisor: str) -> None:
        """invariant_33: crash all sessions of a supervisor in the same moment."""
        assert self.live is not None
        sessions = self.history.state.get(supervisor, {"sessions": []})["sessions"]
        names = tuple(one[0] for one in sessions if one[1] == "running")
        quiet, before, old = self.model.idle, self.history.state, len(self.history.log)
        outcomes = self.live.crash(supervisor, names)
        new = self.heard()
        # Which of them was the first is chance.
        seen = [str(one[3]) for one in new if one[:2] == (supervisor, "SessionExited")]
        order = sorted(names, key=lambda name: seen.index(name) if name in seen else len(seen))
        expected = [self.model.crash(supervisor, name) for name in order]
        assert sorted(expected) == sorted(outcomes)
        self.model.settle()
        self.compare(new)
        if quiet and self.model.idle and names:
            laws.invariant_33(self.history, before, supervisor, names, self.history.log[old:])

    @precondition(_going_on)
    @rule(kind=KINDS, child=CHILDREN, seconds=MOMENTS)
    def query(self, kind: str, child: tuple[str, str], seconds: float) -> None:
        """query: answered, failing, fatal for the session, or calling its own supervisor"""
        assert self.live is not None
        seconds = self._moment(seconds)
        self.live.ask(len(self.model.ops) + 1, kind, *child, seconds)
        self.do(lambda: self.model.ask(kind, *child, seconds, False))

    @precondition(_going_on)
    @rule(kind=STREAM_KINDS, child=CHILDREN, seconds=MOMENTS)
    def stream(self, kind: str, child: tuple[str, str], seconds: float) -> None:
        """stream: its reader lets the session wait"""
        assert self.live is not None
        seconds = self._moment(seconds)
        self.live.stream(len(self.model.ops) + 1, kind, *child, seconds)
        self.do(lambda: self.model.ask(kind, *child, seconds, True))

    @precondition(_some_stream)
    @rule(data=st.data(), read_on=st.booleans())
    def go(self, data: st.DataObject, read_on: bool) -> None:
        """Read a stream to its end, or leave it."""
        assert self.live is not None
        op = data.draw(st.sampled_from(self.streams()))
        self.live.go(op.number, read_on=read_on)
        act = self.model.read_on if read_on else self.model.close_stream
        self.do(lambda: act(op))

    @precondition(_some_call)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        """Cancel a caller."""
        assert self.live is not None
        op = data.draw(st.sampled_from([one for one in self.model.ops if one.outcome is None]))
        self.live.cancel(op.number)
        self.do(lambda: self.model.cancel(op))

    @precondition(_going_on)
    @rule(child=CHILDREN)
    def interrupt(self, child: tuple[str, str]) -> None:
        """Interrupt a turn."""
        assert self.live is not None
        known = self.history.state.get(child[0], {"sessions": []})["sessions"]
        if child[1] in [one[0] for one in known]:
            self.live.interrupt(*child)
            self.do(lambda: self.model.interrupt(*child))

    @rule(seconds=st.sampled_from([0.25, 1.0, 2.0, 5.0, 8.0]))
    def pass_time(self, seconds: float) -> None:
        """Let some time pass."""
        self.wait_until(self.model.now + seconds)

    @precondition(_going_on)
    @rule(supervisor=SUPERVISORS, name=st.sampled_from("abx"))
    def crash_at_the_edge(self, supervisor: str, name: str) -> None:
        """Crash one when the oldest restart is exactly as old as the window is long."""
        one = self.model.supervisors.get(supervisor)
        if one is not None and one.window:
            self.wait_until(one.window[0] + one.flags.max_seconds)
            if self.model.outcome is None:
                self.crash_one(supervisor, name)

    def wait_until(self, until: float) -> None:
        """Let time pass, from one thing that happens by itself to the next."""
        assert self.live is not None
        while self.model.now < until:
            now = self.live.jump(min(self.model.next_time(), until))
            self.do(lambda now=now: self.model.reach(now))  # type: ignore[misc]

    @precondition(lambda self: _going_on(self) and self.model.top.entered)
    @rule(error=st.booleans(), chance=st.integers(0, 5))
    def leave(self, error: bool, chance: int) -> None:
        """Leave the block, or let its body raise."""
        assert self.live is not None
        if chance == 0 and self.model.top.accepting:
            self.history.left_at = self.model.now
            children = self.model.top.children.values()
            self.history.grace = sum(child.spec.shutdown for child in children)
            self.live.leave(error=error)
            self.do(lambda: self.model.leave(error=error))

    @precondition(_going_on)
    @rule(chance=st.integers(0, 7))
    def cancel_outer(self, chance: int) -> None:
        """Cancel the surroundings."""
        assert self.live is not None
        if chance == 0:
            self.live.cancel_outer()
            self.do(self.model.cancel_outer)


def seen_by(model: Model) -> dict[str, Any]:
    """What can be seen of all supervisors, by the model."""
    seen: dict[str, Any] = {}
    for name, one in model.supervisors.items():
        if one.ended:
            continue
        children = list(one.children.values())
        sessions = [child for child in children if child.spec.flags is None]
        seen[name] = {
            "sessions": [
                (
                    *(child.spec.name, child.status, child.number, child.restarts),
                    *(len(child.line), child.spec.restart),
                )
                for child in sessions
            ],
            "names": [child.open for child in sessions],
            "running": sum(child.status == "running" for child in sessions),
            "specs": len(children),
            "active": sum(child.status == "running" for child in children),
            "restarting": sum(child.status == "restarting" for child in children),
            "restarts": one.restarts,
            "recent": sum(model.now - then <= one.flags.max_seconds for then in one.window),
            "gave_up": one.gave_up,
        }
    return seen
