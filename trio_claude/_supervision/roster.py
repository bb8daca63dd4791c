"""The children of one supervisor: started, stopped and started again by OTP's rules.

Every method here that waits is called by the control's task only, one at a time, so that between
two of them nothing changes but by a child that ends. Numbers such as "1.6" are the sections of
OTP's behaviour in docs/otp.md. Beyond OTP:

* A start can be called off while it is waited for: by whoever wants to stop that child.
* Nobody waits for ever for a child that will not come: if a group's start has stopped at a child
  that is then terminated, those behind it are started.
"""

from __future__ import annotations

import random
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Protocol

import trio

from .._errors import (
    SessionExists,
    SessionNotFound,
    SessionTerminated,
    SupervisorError,
    TooManySessions,
)
from .child import Child, Retry
from .events import (
    RestartScheduled,
    SessionEvent,
    SessionExited,
    SessionReady,
    SessionStarting,
    SessionStopped,
    SupervisorEvent,
    logger,
)
from .policy import RestartIntensity, is_restarted, restart_group, shuts_down

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable, Sequence

    from .._session.incarnation import Incarnation, Intent
    from .._session.target import Status
    from .spec import SupervisorSpec

# How long a child that was cancelled may take before the log says so, again and again.
_STUBBORN_SECONDS = 10.0


class Boss(Protocol):
    """What the children's ends may come to: the whole supervisor."""

    def post(self, message: Callable[[], Awaitable[None]]) -> None: ...
    def hears(self, kind: type[SupervisorEvent]) -> bool: ...
    def emit(self, event: SupervisorEvent) -> None: ...
    def shut_down(self) -> None: ...
    def give_up(self, child: Child, too_many: str) -> None: ...
    def fail(self, failure: SupervisorError, cause: BaseException | None) -> None: ...
    def fail_fatally(self, cause: BaseException) -> None: ...


class _CalledOff(Exception):
    """A start ended because somebody stopped the child meanwhile; never seen by users."""

    def __init__(self, child: Child) -> None:
        self.child = child

    def told(self) -> SessionTerminated:
        """What whoever waits for the start is told."""
        name = self.child.called
        return SessionTerminated(f"{name!r} was stopped while it was being started", name=name)


class Roster:
    """The children, in start order, and what is done with them."""

    def __init__(self, spec: SupervisorSpec, nursery: trio.Nursery, boss: Boss) -> None:
        self.children: dict[Hashable, Child] = {}
        self._counts: Counter[tuple[str, Status]] = Counter()
        self.intensity = RestartIntensity(spec.max_restarts, spec.max_seconds)
        self.restarts = 0
        """How many automatic restarts succeeded so far."""
        self._spec = spec
        self._nursery = nursery
        self._boss = boss

    # ---- on request -----------------------------------------------------------------------------

    async def start(self, child: Child, abandoned: Callable[[], bool]) -> None:
        """Add a child, and wait until it is ready. A failure leaves no trace of it."""
        if child.id in self.children:
            raise SessionExists(f"this supervisor has a session with the id {child.id!r}")
        self._check_room()
        self._add(child)
        error = await self._start(child)
        if error is None and abandoned():
            await self._stop(child, "terminate", 0.0)
            error = _CalledOff(child)
        if error is not None:
            await self._close_unasked(child, for_ever=True)
            raise error.told() if isinstance(error, _CalledOff) else error

    def _check_room(self) -> None:
        limit = self._spec.max_sessions
        if limit is not None and len(self.children) - self.count(status="stopped") >= limit:
            raise TooManySessions(f"this supervisor is full: its max_sessions is {limit}")

    async def terminate(self, child: Child) -> None:
        """Stop a child and forget it (1.10: terminate and delete in one step)."""
        child.terminates_waiting -= 1
        if self.children.get(child.id) is not child:
            return  # it is gone already: its end, or another call, came first
        followers = child.cancel_retry()
        await self._stop(child, "terminate", child.spec.shutdown)
        try:
            await self._close(child, for_ever=True)
        finally:
            await self._start_group(followers)

    async def restart(self, child: Child) -> None:
        """Stop a child, if it is up, and start it; counts for nothing (1.4)."""
        child.restarts_waiting -= 1
        if self.children.get(child.id) is not child:
            raise SessionNotFound(f"session {child.called!r} has ended meanwhile")
        if child.status == "stopped":
            self._check_room()
        followers = child.cancel_retry()
        self._mark_restarting(child)
        await self._stop(child, "restart", child.spec.shutdown)
        child.consecutive = 0
        child.forget_conversation()
        error = await self._start(child)
        if error is None:
            child.restarts += 1
        elif not isinstance(error, _CalledOff):  # else somebody else is about to deal with it
            await self._close_unasked(child, cause=error)
        await self._start_group(followers)
        if isinstance(error, _CalledOff):
            if child.terminates_waiting:
                raise error.told()
            return  # another restart comes right behind, and does what this one was to do
        if error is not None:
            raise error

    def call_off(self, child: Child, *, for_ever: bool) -> None:
        """Let a start that is under way fail at once, and every one until the call is served that
        comes with this: to terminate the child, or to restart it.

        Its very first start is not called off for a restart: it would fail for whoever asked for
        the child, and be forgotten.
        """
        if for_ever:
            child.terminates_waiting += 1
        else:
            child.restarts_waiting += 1
        if for_ever or child.number > 1:
            self._cut_start(child)

    def take_back(self, child: Child) -> None:
        """Undo a start whose caller was cancelled, whether it is under way or just done."""
        self._cut_start(child)
        if child.status == "running":
            child.terminates_waiting += 1
            self._boss.post(partial(self.terminate, child))

    def _cut_start(self, child: Child) -> None:
        if child.incarnation is not None and not child.incarnation.settled:
            child.incarnation.stop("terminate")

    # ---- starting -------------------------------------------------------------------------------

    async def start_first(self, children: Sequence[Child]) -> Exception | None:
        """Start the first children in order (1.2); gives what the first failure was."""
        for child in children:
            self._add(child)
            error = await self._start(child)
            if error is not None and not isinstance(error, _CalledOff):
                await self._close_unasked(child, for_ever=True)
                return error
        return None

    async def _start(self, child: Child) -> Exception | None:
        """Start the next incarnation, and wait until it is ready; gives what that failed of."""
        if child.terminates_waiting or child.restarts_waiting:
            return _CalledOff(child)
        if child.status == "stopped":
            self._mark(child, "starting")
        child.number += 1
        self._report(SessionStarting, child)
        try:
            incarnation = await child.begin()
        except Exception as exc:
            return self._start_failed(child, exc)
        self._nursery.start_soon(self._live, child, incarnation)
        await incarnation.wait_settled()
        if incarnation.ready:
            if not incarnation.ended:  # else its end has said already how it stands
                self._mark(child, "running")
            self._report(SessionReady, child, resumed=child.resumed)
            return None
        child.incarnation = None
        if incarnation.intent is not None:
            return _CalledOff(child)
        error = incarnation.error
        if error is None:
            name = child.called
            error = SessionTerminated(f"{name!r} ended before it was ready", name=name)
        return self._start_failed(child, error)

    def _start_failed(self, child: Child, error: Exception) -> Exception:
        child.last_error = error
        error.add_note(f"while the supervisor was starting {child.called!r}")
        self._report(SessionExited, child, cause=error, uptime=None)
        return error

    @trio.lowlevel.enable_ki_protection
    async def _live(self, child: Child, incarnation: Incarnation) -> None:
        """The task of one incarnation; reports its end."""
        await incarnation.run(child.main)
        if incarnation.fatal is not None:
            self._boss.fail_fatally(incarnation.fatal)
        elif incarnation.ready and not child.stopping:
            # Seen at once, even if the control comes to it only later.
            again = is_restarted(child.spec.restart, crashed=incarnation.error is not None)
            self._mark(child, "restarting" if again else "stopped")
        self._boss.post(partial(self._exited, child, incarnation))

    async def _start_group(self, group: Sequence[Child]) -> None:
        """Start those of a group that are not up, in order, up to the first that fails (1.6)."""
        for place, child in enumerate(group):
            if self.children.get(child.id) is not child or child.incarnation is not None:
                continue
            child.cancel_retry()
            error = await self._start(child)
            if error is None:
                child.restarts += 1
                self.restarts += 1
            elif not isinstance(error, _CalledOff):
                # Through the mailbox, so that calls and exits are seen to before the next try.
                self._mark(child, "restarting")
                retry = child.retry = Retry(group[place:])
                self._boss.post(partial(self._try_again, child, retry))
                return

    # ---- ends and restarts ----------------------------------------------------------------------

    async def _exited(self, child: Child, incarnation: Incarnation) -> None:
        """A child has ended by itself (1.3), unless it was stopped, or never got up."""
        if child.incarnation is not incarnation:
            return
        self._report_exit(child, incarnation)
        if is_restarted(child.spec.restart, crashed=incarnation.error is not None):
            await self._restart(child)
            return
        await self._close_unasked(
            child, for_ever=child.spec.restart == "temporary", cause=child.last_error
        )
        if child.spec.significant and shuts_down(
            self._spec.auto_shutdown,
            any(
                other.spec.significant and other.status != "stopped"
                for other in self.children.values()
            ),
        ):
            self._boss.shut_down()

    def _report_exit(self, child: Child, incarnation: Incarnation) -> None:
        assert incarnation.started_at is not None
        uptime = trio.current_time() - incarnation.started_at
        self._forgive(child)
        child.incarnation = None
        child.last_error = incarnation.error
        self._report(SessionExited, child, cause=incarnation.error, uptime=uptime)

    def _forgive(self, child: Child) -> None:
        """Begin to count its failures anew, if it has been up for long enough."""
        incarnation, backoff = child.incarnation, self._spec.backoff
        if backoff is None or incarnation is None or incarnation.started_at is None:
            return
        if trio.current_time() - incarnation.started_at >= backoff.reset_after:
            child.consecutive = 0

    async def _try_again(self, child: Child, retry: Retry) -> None:
        """A start has failed before: that is one more restart (1.6), unless somebody has dealt
        with the child meanwhile."""
        if child.retry is retry:
            await self._restart(child)

    async def _restart(self, child: Child) -> None:
        """Start a child again, and whoever has to be with it, if the window allows (1.4, 1.5)."""
        child.consecutive += 1
        backoff = self._spec.backoff
        too_many = None
        if not self.intensity.record(trio.current_time()):
            too_many = (
                f"one more than the {self._spec.max_restarts} allowed within "
                f"{self._spec.max_seconds:g} seconds"
            )
        elif backoff is not None and backoff.exhausted(child.consecutive):
            too_many = f"more than {backoff.max_consecutive} in a row"
        if too_many is not None:
            await self._close_unasked(child, cause=child.last_error)
            self._boss.give_up(child, too_many)
            return
        self._mark_restarting(child)
        group = restart_group(self._spec.strategy, self.children.values(), child)
        delay = 0.0
        if backoff is not None:
            for member in group:
                self._forgive(member)
            delay = max(
                backoff.delay(member.consecutive, random.random())
                for member in group
                if member.consecutive
            )
        self._report(RestartScheduled, child, delay=delay)
        for member in reversed(group):
            member.cancel_retry()
            if member is not child:
                await self._stop(member, "restart", member.spec.shutdown)
                if member.spec.restart == "temporary":
                    await self._close_unasked(member, for_ever=True)
                else:
                    self._mark_restarting(member)
        if delay == 0:
            await self._start_group(group)
        else:
            retry = child.retry = Retry(group)
            self._nursery.start_soon(self._later, child, retry, delay)

    async def _later(self, child: Child, retry: Retry, delay: float) -> None:
        with retry.delay:
            await trio.sleep(delay)
            self._boss.post(partial(self._due, child, retry))

    async def _due(self, child: Child, retry: Retry) -> None:
        """A restart's delay is over."""
        if child.retry is retry:
            await self._start_group(retry.group)

    # ---- stopping -------------------------------------------------------------------------------

    async def _stop(self, child: Child, intent: Intent, grace: float) -> None:
        """Ask a child to finish, cut it off when its grace is over, and wait for its end (1.7)."""
        incarnation = child.incarnation
        if incarnation is None:
            return
        if incarnation.ended and incarnation.intent is None:
            # It went down by itself just before: that end counts as this stop.
            child.incarnation = None
            if incarnation.ready:
                self._report_exit(child, incarnation)
            return
        child.stopping = True
        try:
            if incarnation.ready:
                incarnation.finish()
                with trio.move_on_after(grace):
                    await incarnation.wait_ended()
            if not incarnation.ended:
                incarnation.stop(intent)
                await self._wait_ended(child, incarnation)
        finally:
            child.stopping = False
        child.incarnation = None
        if intent == "restart" and incarnation.error is None:
            child.keep_conversation()
        self._report(SessionStopped, child, cause=incarnation.error)

    async def _wait_ended(self, child: Child, incarnation: Incarnation) -> None:
        """Nothing kills a task: wait as long as it takes, and say so."""
        while not incarnation.ended:
            with trio.move_on_after(_STUBBORN_SECONDS) as patience:
                await incarnation.wait_ended()
            if patience.cancelled_caught:
                logger.warning(
                    "session %r was cancelled and has not ended in %g seconds: something in it "
                    "blocks, or swallows the cancellation",
                    child.called,
                    _STUBBORN_SECONDS,
                )

    async def stop_all(self, *, graceful: bool) -> None:
        """Stop and forget all children in reverse order. Goes on where it was interrupted."""
        for child in reversed(list(self.children.values())):
            child.cancel_retry()
            await self._stop(child, "terminate", child.spec.shutdown if graceful else 0.0)
            await self._close_unasked(child, for_ever=True)

    # ---- bookkeeping ----------------------------------------------------------------------------

    def _report(self, kind: type[SessionEvent], child: Child, **details: object) -> None:
        if self._boss.hears(kind):
            self._boss.emit(
                kind(
                    supervisor=self._spec.name,
                    time=trio.current_time(),
                    session=child.called,
                    incarnation=child.number,
                    **details,
                )
            )

    def count(self, kind: str | None = None, status: Status | None = None) -> int:
        """How many children are of this kind and in this state; costs the same for any number."""
        return sum(
            number
            for (one_kind, one_status), number in self._counts.items()
            if kind in (None, one_kind) and status in (None, one_status)
        )

    def _add(self, child: Child) -> None:
        self.children[child.id] = child
        self._counts[child.kind, child.status] += 1

    def _mark(self, child: Child, status: Status) -> None:
        self._counts[child.kind, child.status] -= 1
        self._counts[child.kind, status] += 1
        child.set_status(status)

    def _mark_restarting(self, child: Child) -> None:
        if child.status != "stopped":  # nobody waits for one that is
            self._mark(child, "restarting")

    async def _close(
        self, child: Child, *, for_ever: bool = False, cause: Exception | None = None
    ) -> None:
        """Free its name, and turn its callers away: it was stopped, or ended of ``cause``.

        Raises:
          SupervisorError: a registry raised; all is done but for what the registry holds.
        """
        self._mark(child, "stopped")
        if for_ever:
            del self.children[child.id]
            self._counts[child.kind, "stopped"] -= 1
            await child.forget(cause)
        else:
            await child.close(cause)

    async def _close_unasked(
        self, child: Child, *, for_ever: bool = False, cause: Exception | None = None
    ) -> None:
        """As :meth:`_close`, where nobody is there to be told that a registry raised."""
        try:
            await self._close(child, for_ever=for_ever, cause=cause)
        except SupervisorError as exc:
            self._boss.fail(exc, exc.__cause__)
        except BaseException as exc:
            self._boss.fail_fatally(exc)  # not raised here: others still have to be stopped
