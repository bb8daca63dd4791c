"""What a supervisor does, in plain Python: no Trio, no task, no clock but a number.

Each supervisor is a generator that does one message after the other, and yields what it waits for.
A session is a record with the turn it is in; what befalls it comes from outside or at its time.
``Model.settle`` lets everybody go on until all wait, as a run does between two commands. Numbers
such as "1.6" are the sections of OTP's behaviour in docs/otp.md, which this is written from.

Two things are chance, and are taken from what was seen: the jitter of a delay, and which of
several sessions that crashed at once was the first.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from functools import partial
from typing import Literal, TypeAlias

import attrs

Status: TypeAlias = Literal["starting", "running", "restarting", "stopped"]
Intent: TypeAlias = Literal["restart", "terminate"]
Start: TypeAlias = str | float  # "ok", "fail", "hang", or after so many seconds
Wait: TypeAlias = tuple[Callable[[], bool], float]
Process: TypeAlias = Generator[Wait, None, None]
Entry: TypeAlias = tuple[object, ...]

CALLED_OFF = "SessionTerminated"
FOREVER = float("inf")


class LoopEndedError(Exception):
    """The supervisor ends, and stops its children with their grace."""


class CancelledError(Exception):
    """The supervisor's surroundings are cancelled."""


@attrs.frozen
class Flags:
    """What a supervisor is told."""

    name: str
    strategy: str = "one_for_one"
    max_restarts: int = 3
    max_seconds: float = 5.0
    auto_shutdown: str = "never"
    max_sessions: int | None = None
    backoff: tuple[float, float, float, float, int | None] | None = None
    """initial, maximum, jitter, reset_after, max_consecutive"""


@attrs.frozen
class Spec:
    """What a child is told; one with flags is a supervisor."""

    name: str
    restart: str = "permanent"
    shutdown: float = 5.0
    significant: bool = False
    flags: Flags | None = None
    specs: tuple[Spec, ...] = ()


@attrs.define(eq=False)
class Op:
    """A call of a user's, and what came of it."""

    number: int
    kind: str
    target: str = ""
    seconds: float = 0.0
    """How long the answer takes."""
    outcome: str | None = None
    reading: bool = True
    """Whether a stream's reader reads."""
    told: str | None = None
    """What a stream's reader will find when it reads."""
    child: Child | None = None
    taken: bool = False
    abandoned: bool = False
    ends_at: float = FOREVER
    inside: Op | None = None
    """The call that the answer waits for."""
    life: Life | None = None


@attrs.define(eq=False)
class Life:
    """One incarnation."""

    child: Child
    ready_at: float = FOREVER
    started_at: float | None = None
    ended: bool = False
    crashed: bool = False
    intent: Intent | None = None
    finishing: bool = False
    turn: Op | None = None
    below: Supervisor | None = None

    @property
    def settled(self) -> bool:
        """Whether its start is over."""
        return self.started_at is not None or self.ended


class Retry:
    """That a child is to be started again, with those of its group."""

    def __init__(self, group: Sequence[Child], due: float = FOREVER) -> None:
        self.group = group
        self.due = due


@attrs.define(eq=False)
class Child:
    """One child's place."""

    spec: Spec
    status: Status = "starting"
    number: int = 0
    restarts: int = 0
    consecutive: int = 0
    failed: bool = False
    life: Life | None = None
    last_life: Life | None = None
    retry: Retry | None = None
    terminates_waiting: int = 0
    restarts_waiting: int = 0
    line: deque[Op] = attrs.field(factory=deque)
    open: bool = True


class Model:
    """The whole world: the supervisors, and the calls."""

    def __init__(
        self, flags: Flags, specs: Sequence[Spec], plans: Mapping[str, Sequence[Start]]
    ) -> None:
        self.now = 0.0
        self.plans = {name: deque(plan) for name, plan in plans.items()}
        self.delays: dict[str, deque[float]] = {"S": deque(), "N": deque()}
        """Delays that were seen, for those to come."""
        self.log: list[Entry] = []
        self.ops: list[Op] = []
        self.supervisors: dict[str, Supervisor] = {}
        self.everybody: list[Supervisor] = []
        self.body_error = self.cancelled = False
        self.top = Supervisor(self, flags, specs)
        self.add(self.top)

    def add(self, supervisor: Supervisor) -> None:
        """Let one more supervisor begin."""
        self.everybody.append(supervisor)
        self.supervisors[supervisor.flags.name] = supervisor

    @property
    def outcome(self) -> str | None:
        """How the block ended."""
        if not self.top.ended:
            return None
        if self.top.start_failed:
            return "start failed"
        if self.top.gave_up:
            return "gave up"
        if self.body_error:
            return "body"
        return "cancelled" if self.cancelled else "left"

    # ---- time -----------------------------------------------------------------------------------

    def _lives(self) -> list[Life]:
        return [
            child.last_life
            for one in self.everybody
            for child in one.children.values()
            if child.last_life is not None and not child.last_life.ended
        ]

    def next_time(self) -> float:
        """When something happens by itself next."""
        times = [one.deadline for one in self.everybody]
        for life in self._lives():
            times.append(FOREVER if life.settled else life.ready_at)
            if life.turn is not None:
                times.append(life.turn.ends_at)
        times += [
            child.retry.due
            for one in self.everybody
            for child in one.children.values()
            if child.retry is not None
        ]
        return min((when for when in times if when > self.now), default=FOREVER)

    def reach(self, now: float) -> None:
        """It is this time now, and all that was to happen by itself before has."""
        self.now = now
        for life in self._lives():
            if not life.settled and life.ready_at <= now:
                self.ready(life)
            elif life.turn is not None and life.turn.ends_at <= now:
                self._answered(life, life.turn)
        for one in self.everybody:
            for child in one.children.values():
                retry = child.retry
                if retry is not None and retry.due <= now:
                    retry.due = FOREVER
                    one.mailbox.append(partial(one.due, child, retry))
        self.settle()

    @property
    def idle(self) -> bool:
        """Whether no supervisor is in the middle of something."""
        return all(one.deadline == FOREVER and one.at_mailbox for one in self.everybody)

    def settle(self) -> None:
        """Let everybody go on until all wait."""
        while sum(one.step() for one in list(self.everybody)):
            pass
        self.everybody = [one for one in self.everybody if not one.ended]

    # ---- sessions -------------------------------------------------------------------------------

    def ready(self, life: Life) -> None:
        """A session has got up."""
        life.started_at = self.now
        if life.finishing:
            self.end(life, crashed=False)
        else:
            self.take(life)

    def take(self, life: Life) -> None:
        """Take the next question from the line."""
        line = life.child.line
        if life.turn is None and line:
            op = life.turn = line.popleft()
            op.taken = True
            if op.kind == "inside_start":
                op.inside = self.call_start("S", Spec("d"), inside=True)
                self._inside_done(op)
            elif op.reading:
                op.ends_at = self.now + op.seconds

    def _inside_done(self, op: Op) -> None:
        if op.inside is not None and op.inside.outcome is not None:
            op.inside, op.ends_at = None, self.now + op.seconds

    def _answered(self, life: Life, op: Op) -> None:
        if op.kind == "crash":
            self.end(life, crashed=True)
        else:
            self.turn_over(life, "QueryError" if op.kind == "fail" else "ok")

    def turn_over(self, life: Life, outcome: str) -> None:
        """The turn in flight has ended, and the session goes on."""
        op, life.turn = life.turn, None
        assert op is not None
        self.tell(op, outcome)
        if life.finishing:
            self.end(life, crashed=False)
        else:
            self.take(life)

    def tell(self, op: Op, outcome: str) -> None:
        """A caller gets the outcome; a stream's when it reads."""
        if op.inside is not None:
            inside, op.inside = op.inside, None
            self.cancel(inside)
        op.ends_at = FOREVER
        if op.outcome is None and op.told is None:
            if op.reading:
                self.done(op, outcome)
            else:
                op.told = outcome

    def done(self, op: Op, outcome: str) -> None:
        """A call has its outcome; only the first one counts."""
        if op.outcome is None:
            op.outcome = outcome
            for life in self._lives():
                if life.turn is not None and life.turn.inside is op:
                    self._inside_done(life.turn)

    def finish(self, life: Life) -> None:
        """Ask a child to finish what it does, and to end normally."""
        life.finishing = True
        if life.below is not None:
            if life.started_at is not None:
                life.below.end("left")
        elif life.started_at is not None and life.turn is None and not life.ended:
            self.end(life, crashed=False)

    def cut(self, life: Life, intent: Intent) -> None:
        """Cancel a child."""
        life.intent = life.intent or intent
        if life.below is not None:
            life.below.cancel()
        else:
            self.end(life, crashed=False)

    def end(self, life: Life, *, crashed: bool) -> None:
        """An incarnation has ended."""
        if life.ended:
            return
        life.ended, life.crashed = True, crashed
        if life.turn is not None:
            words = {None: "SessionTerminated", "restart": "SessionRestarted"}
            outcome = words.get(life.intent, "SessionTerminated")
            op, life.turn = life.turn, None
            self.tell(op, "SessionCrashed" if crashed else outcome)
        for op in self.ops:
            if op.kind == "stop" and op.life is life:
                self.done(op, "ok")
        owner = self._owner(life.child)
        if owner is not None:
            owner.saw_end(life)

    def _owner(self, child: Child) -> Supervisor | None:
        for one in self.everybody:
            if one.children.get(child.spec.name) is child:
                return one
        return None

    # ---- what users do --------------------------------------------------------------------------

    def _new(self, kind: str, target: str = "", seconds: float = 0.0) -> Op:
        op = Op(len(self.ops) + 1, kind, target, seconds)
        self.ops.append(op)
        return op

    def _find(self, supervisor: str, name: str) -> tuple[Supervisor | None, Child | None]:
        found = self.supervisors.get(supervisor)
        if found is None or found.ended:
            return None, None
        return found, found.children.get(name)

    def call_start(self, supervisor: str, spec: Spec, *, inside: bool = False) -> Op:
        """start_session"""
        op = Op(0, "start", spec.name) if inside else self._new("start", spec.name)
        found = self._find(supervisor, "")[0]
        if found is None:
            self.done(op, "SessionNotFound")
            return op
        op.child = Child(spec)
        found.call(op, partial(found.start_call, op, op.child))
        return op

    def call(self, kind: str, supervisor: str, name: str) -> Op:
        """terminate_session or restart_session"""
        op = self._new(kind, name)
        found, child = self._find(supervisor, name)
        if found is None or child is None:
            self.done(op, "SessionNotFound")
            return op
        if kind == "terminate":
            child.terminates_waiting += 1
        else:
            child.restarts_waiting += 1
        life = child.life
        if life is not None and not life.settled and (kind == "terminate" or child.number > 1):
            self.cut(life, "terminate")
        act = found.terminate if kind == "terminate" else found.restart_call
        found.call(op, partial(act, child))
        return op

    def ask(self, kind: str, supervisor: str, name: str, seconds: float, stream: bool) -> Op:
        """query and stream"""
        op = self._new(kind, name, seconds)
        op.reading = not stream
        child = self._find(supervisor, name)[1]
        if child is None or not child.open:
            self.done(op, "SessionNotFound" if child is None else "SessionTerminated")
            return op
        op.child = child
        child.line.append(op)
        life = child.last_life
        if life is None or life.started_at is None or life.ended or life.finishing:
            return op
        self.take(life)
        return op

    def cancel(self, op: Op) -> None:
        """The caller is cancelled."""
        if op.outcome is not None:
            return
        self.done(op, "cancelled")
        if op.kind == "start":
            op.abandoned = True
            assert op.child is not None
            life = op.child.life
            if life is not None and not life.settled:
                self.cut(life, "terminate")
        elif op.child is not None:
            if op in op.child.line:
                op.child.line.remove(op)
            life = op.child.last_life
            if life is not None and life.turn is op:
                self.turn_over(life, "cancelled")

    def read_on(self, op: Op) -> None:
        """A stream's reader reads on to the end."""
        op.reading = True
        if op.told is not None:
            self.done(op, op.told)
        elif op.taken:
            op.ends_at = self.now + op.seconds

    def close_stream(self, op: Op) -> None:
        """A stream's block is left."""
        self.done(op, "closed")
        life = None if op.child is None else op.child.last_life
        if life is not None and life.turn is op:
            self.turn_over(life, "closed")

    def stop(self, supervisor: str, name: str) -> Op:
        """stop of a handle"""
        op = self._new("stop", name)
        child = self._find(supervisor, name)[1]
        if child is None:
            self.done(op, "SessionNotFound")
        elif child.last_life is None or child.last_life.ended:
            self.done(op, "ok")
        else:
            op.life = child.last_life
            self.finish(child.last_life)
        return op

    def crash(self, supervisor: str, name: str) -> str:
        """trio_claude.testing.crash"""
        child = self._find(supervisor, name)[1]
        if child is None:
            return "SessionNotFound"
        if child.status == "stopped":
            return "SessionTerminated"
        if child.last_life is None or child.last_life.ended:
            return "UsageError"
        self.end(child.last_life, crashed=True)
        return "ok"

    def interrupt(self, supervisor: str, name: str) -> None:
        """interrupt of a handle"""
        child = self._find(supervisor, name)[1]
        life = None if child is None else child.last_life
        if life is not None and life.turn is not None:
            self.turn_over(life, "Interrupted")

    def leave(self, *, error: bool) -> None:
        """The body ends."""
        self.body_error = error
        self.top.end("left")

    def cancel_outer(self) -> None:
        """The scope around the block is cancelled."""
        if not self.top.ended:
            self.cancelled = True
            self.top.cancel()


class Supervisor:
    """One supervisor."""

    def __init__(
        self, model: Model, flags: Flags, specs: Sequence[Spec], life: Life | None = None
    ) -> None:
        self.model, self.flags, self.specs, self.life = model, flags, specs, life
        self.children: dict[str, Child] = {}
        self.mailbox: deque[Callable[[], Process | None]] = deque()
        self.window: list[float] = []
        self.restarts = 0
        self.accepting, self.ended, self.entered = True, False, False
        self.gave_up = self.start_failed = self.at_mailbox = False
        self.reason = "left"
        self.deadline = FOREVER
        self._calls: list[Op] = []
        self._pending: Exception | None = None
        self._stopping: str | None = None
        self._being_stopped: list[Life] = []
        self._process = self._run()
        self._waits_for: Callable[[], bool] = lambda: True

    # ---- its life -------------------------------------------------------------------------------

    def step(self) -> bool:
        """Go on, if there is something to go on with."""
        if self.ended:
            return False
        error, self._pending = self._pending, None
        if error is None and not self._waits_for() and self.deadline > self.model.now:
            return False
        try:
            if error is None:
                self._waits_for, self.deadline = next(self._process)
            else:
                self._waits_for, self.deadline = self._process.throw(error)
        except StopIteration:
            self.deadline = FOREVER
        return True

    def _run(self) -> Process:
        graceful = True
        try:
            yield from self._work()
        except LoopEndedError:
            pass
        except CancelledError:
            graceful = False
        self.at_mailbox = False
        self._stopping = "graceful" if graceful else "at once"
        while True:
            try:
                yield from self._stop_all(graceful)
                break
            except CancelledError:
                graceful, self._stopping = False, "at once"
        self.emit("SupervisorStopped", self.reason)
        self.ended = True
        if self.life is not None:
            self.model.end(self.life, crashed=self.gave_up or self.start_failed)

    def _work(self) -> Process:
        for spec in self.specs:  # 1.2
            child = self.children[spec.name] = Child(spec)
            error = yield from self._start(child)
            if error is not None and error != CALLED_OFF:
                self.start_failed = True
                self._close(child, for_ever=True)
                self.end("start_failed")
                self._end_now()
        self.emit("SupervisorStarted")
        self.entered = True
        if self.life is not None:
            self.life.started_at = self.model.now
        while True:
            self.at_mailbox = True
            yield (lambda: bool(self.mailbox), FOREVER)
            self.at_mailbox = False
            doing = self.mailbox.popleft()()
            if doing is not None:
                yield from doing
            self._end_now()

    def _end_now(self) -> None:
        error, self._pending = self._pending, None
        if error is not None:
            raise error

    def end(self, reason: str) -> None:
        """End: stop the children with their grace."""
        if self.accepting:
            self.reason = reason
        self._refuse()
        if self._stopping is None and self._pending is None:
            self._pending = LoopEndedError()

    def cancel(self) -> None:
        """The surroundings are cancelled."""
        if self.ended:
            return
        if self.accepting or self.reason == "left":
            self.reason = "cancelled"
        self._refuse()
        if self._stopping != "at once":
            self._pending = CancelledError()

    def _refuse(self) -> None:
        self.accepting = False
        for op in self._calls:
            self.model.done(op, "ClosedResourceError")

    def emit(self, kind: str, *details: object) -> None:
        """Report."""
        self.model.log.append((self.flags.name, kind, self.model.now, *details))

    # ---- calls (1.10) ---------------------------------------------------------------------------

    def call(self, op: Op, act: Callable[[], Generator[Wait, None, str | None]]) -> None:
        """Do it in its turn."""
        if not self.accepting:
            self.model.done(op, "ClosedResourceError")
            return
        self._calls.append(op)

        def message() -> Process:
            if not op.abandoned:
                error = yield from act()
                self.model.done(op, error or "ok")

        self.mailbox.append(message)

    def _full(self) -> bool:
        limit = self.flags.max_sessions
        up = sum(child.status != "stopped" for child in self.children.values())
        return limit is not None and up >= limit

    def start_call(self, op: Op, child: Child) -> Generator[Wait, None, str | None]:
        """Start one more child."""
        name = child.spec.name
        if name in self.children:
            return "SessionExists"
        if self._full():
            return "TooManySessions"
        self.children[name] = child
        error = yield from self._start(child)
        if error is not None:
            self._close(child, for_ever=True)
        return error

    def terminate(self, child: Child) -> Generator[Wait, None, str | None]:
        """Stop and forget."""
        child.terminates_waiting -= 1
        if self.children.get(child.spec.name) is not child:
            return None
        followers = self._cancel_retry(child)
        yield from self._stop(child, "terminate", child.spec.shutdown)
        self._close(child, for_ever=True)
        yield from self._start_group(followers)
        return None

    def restart_call(self, child: Child) -> Generator[Wait, None, str | None]:
        """Stop and start."""
        child.restarts_waiting -= 1
        if self.children.get(child.spec.name) is not child:
            return "SessionNotFound"
        if child.status == "stopped" and self._full():
            return "TooManySessions"
        followers = self._cancel_retry(child)
        if child.status != "stopped":
            child.status = "restarting"
        yield from self._stop(child, "restart", child.spec.shutdown)
        child.consecutive = 0
        error = yield from self._start(child)
        if error is None:
            child.restarts += 1
        elif error != CALLED_OFF:
            self._close(child)
        yield from self._start_group(followers)
        if error == CALLED_OFF and not child.terminates_waiting:
            return None  # another restart comes right behind, and does what this one was to do
        return error

    # ---- starts ---------------------------------------------------------------------------------

    def _start(self, child: Child) -> Generator[Wait, None, str | None]:
        if child.terminates_waiting or child.restarts_waiting:
            return CALLED_OFF
        if child.status == "stopped":
            child.status = "starting"
        child.number += 1
        child.open = True
        self.emit("SessionStarting", child.spec.name, child.number)
        life = child.life = child.last_life = Life(child)
        if child.spec.flags is not None:
            life.below = Supervisor(self.model, child.spec.flags, child.spec.specs, life)
            self.model.add(life.below)
        else:
            plan = self.model.plans.get(child.spec.name)
            how = plan.popleft() if plan else "ok"
            if how == "fail":
                life.ended = life.crashed = True
            elif how == "ok":
                self.model.ready(life)
            elif isinstance(how, float):
                life.ready_at = self.model.now + how
        if not life.settled:
            yield (lambda: life.settled, FOREVER)
        if life.started_at is not None:
            if not life.ended:
                child.status = "running"
            self.emit("SessionReady", child.spec.name, child.number)
            return None
        child.life = None
        if life.intent is not None:
            return CALLED_OFF
        child.failed = True
        # A session that is asked to finish before it is up gets up first, and then finishes.
        self.emit("SessionExited", child.spec.name, child.number, True, None)
        return "StartError"

    def _start_group(self, group: Sequence[Child]) -> Process:
        for place, child in enumerate(group):
            if self.children.get(child.spec.name) is not child or child.life is not None:
                continue
            self._cancel_retry(child)
            error = yield from self._start(child)
            if error is None:
                child.restarts += 1
                self.restarts += 1
            elif error != CALLED_OFF:  # 1.6: once more, when the mailbox is done
                child.status = "restarting"
                retry = child.retry = Retry(group[place:])
                self.mailbox.append(partial(self._try_again, child, retry))
                return

    def _cancel_retry(self, child: Child) -> Sequence[Child]:
        retry, child.retry = child.retry, None
        return () if retry is None else [one for one in retry.group if one is not child]

    # ---- ends and restarts ----------------------------------------------------------------------

    def saw_end(self, life: Life) -> None:
        """A child's incarnation has ended."""
        child = life.child
        if (
            life.started_at is not None
            and life.intent is None
            and child.life is life
            and life not in self._being_stopped
        ):
            child.status = "restarting" if self._again(life) else "stopped"
        self.mailbox.append(partial(self._exited, life))

    def _again(self, life: Life) -> bool:
        restart = life.child.spec.restart  # 1.3
        return restart == "permanent" or (restart == "transient" and life.crashed)

    def _exited(self, life: Life) -> Process | None:
        child = life.child
        if child.life is not life or life.started_at is None:
            return None
        self._report_exit(life)
        if self._again(life):
            return self._restart(child)
        self._close(child, for_ever=child.spec.restart == "temporary")
        if child.spec.significant:  # 1.9
            others = any(
                other.spec.significant and other.status != "stopped"
                for other in self.children.values()
            )
            if self.flags.auto_shutdown == "any_significant" or not others:
                self.end("auto_shutdown")
        return None

    def _report_exit(self, life: Life) -> None:
        child = life.child
        assert life.started_at is not None
        self._forgive(child)
        child.life = None
        child.failed = life.crashed
        uptime = self.model.now - life.started_at
        self.emit("SessionExited", child.spec.name, child.number, life.crashed, uptime)

    def _forgive(self, child: Child) -> None:
        life, backoff = child.life, self.flags.backoff
        if backoff is None or life is None or life.started_at is None:
            return
        if self.model.now - life.started_at >= backoff[3]:
            child.consecutive = 0

    def _try_again(self, child: Child, retry: Retry) -> Process | None:
        return self._restart(child) if child.retry is retry else None

    def due(self, child: Child, retry: Retry) -> Process | None:
        """A delay is over."""
        return self._start_group(retry.group) if child.retry is retry else None

    def _restart(self, child: Child) -> Process:
        child.consecutive += 1
        now, flags = self.model.now, self.flags
        self.window = [then for then in self.window if now - then <= flags.max_seconds] + [now]
        most = None if flags.backoff is None else flags.backoff[4]
        if len(self.window) > flags.max_restarts or (most is not None and child.consecutive > most):
            self._close(child)  # 1.8
            self.emit("IntensityExceeded", child.spec.name)
            self.gave_up = True
            self.end("intensity")
            return
        if child.status != "stopped":
            child.status = "restarting"
        everyone = list(self.children.values())  # 1.5
        first = {"one_for_all": 0}.get(flags.strategy, everyone.index(child))
        group = [child] if flags.strategy == "one_for_one" else everyone[first:]
        delay = self._delay(group)
        self.emit("RestartScheduled", child.spec.name, child.number, delay)
        for member in reversed(group):
            self._cancel_retry(member)
            if member is not child:
                yield from self._stop(member, "restart", member.spec.shutdown)
                if member.spec.restart == "temporary":
                    self._close(member, for_ever=True)
                elif member.status != "stopped":
                    member.status = "restarting"
        if delay == 0:
            yield from self._start_group(group)
        else:
            child.retry = Retry(group, self.model.now + delay)

    def _delay(self, group: Sequence[Child]) -> float:
        if self.flags.backoff is None:
            return 0.0
        initial, maximum, jitter, _, _ = self.flags.backoff
        for member in group:
            self._forgive(member)
        bases = [
            min(maximum, initial * 2.0 ** (member.consecutive - 1))
            for member in group
            if member.consecutive
        ]
        waiting = self.model.delays[self.flags.name]
        seen = waiting.popleft() if waiting else -1.0
        assert max(bases) * (1 - jitter) <= seen <= max(bases) * (1 + jitter), "invariant 26"
        return seen

    # ---- stopping (1.7) -------------------------------------------------------------------------

    def _stop(self, child: Child, intent: Intent, grace: float) -> Process:
        life = child.life
        if life is None:
            return
        if life.ended and life.intent is None:
            child.life = None
            if life.started_at is not None:
                self._report_exit(life)
            return
        self._being_stopped.append(life)
        if life.started_at is not None:
            self.model.finish(life)
            if not life.ended and grace > 0:
                yield (lambda: life.ended, self.model.now + grace)
        if not life.ended:
            self.model.cut(life, intent)
            if not life.ended:
                yield (lambda: life.ended, FOREVER)
        child.life = None
        self.emit("SessionStopped", child.spec.name, child.number, life.crashed)

    def _stop_all(self, graceful: bool) -> Process:
        for child in reversed(list(self.children.values())):
            self._cancel_retry(child)
            grace = child.spec.shutdown if graceful else 0.0
            yield from self._stop(child, "terminate", grace)
            self._close(child, for_ever=True)

    def _close(self, child: Child, *, for_ever: bool = False) -> None:
        child.status = "stopped"
        child.open = False
        while child.line:
            self.model.done(child.line.popleft(), "SessionTerminated")
        if for_ever:
            self.children.pop(child.spec.name)
