"""The faults: each a place in the package, what is there, and what is put there instead.

The first ones are those that ports of OTP's supervisor are known to have made. Not in the list is
what would change nothing that anybody can see.
"""

from __future__ import annotations

import attrs


@attrs.frozen
class Mutation:
    """One fault."""

    name: str
    file: str
    """Below the package."""
    old: str
    """In the file exactly once."""
    new: str
    why: str
    """What is wrong with it."""


_POLICY = "_supervision/policy.py"
_ROSTER = "_supervision/roster.py"
_CHILD = "_supervision/child.py"
_CONTROL = "_supervision/control.py"
_OPENING = "_supervision/opening.py"
_CONNECTIONS = "_supervision/connections.py"
_SUPERVISOR = "_supervision/supervisor.py"
_NAMES = "_supervision/names.py"
_SPEC = "_supervision/spec.py"
_CONTEXT = "_session/context.py"
_HANDLE = "_session/handle.py"
_INBOX = "_session/inbox.py"
_LINE = "_session/line.py"
_INCARNATION = "_session/incarnation.py"
_SESSION = "_session/session.py"
_QUESTION = "_session/question.py"
_TURN = "_session/turn.py"
_JSON_LINES = "_wire/jsonlines.py"
_STREAM_JSON = "_wire/stream_json.py"
_RESULTS = "_wire/results.py"
_CLI = "_backends/claude_cli/"
_CONVERSATION = _CLI + "conversation.py"
_PROGRAMS = _CLI + "programs.py"
_LINK = _CLI + "link.py"
_PROCESS = _CLI + "process.py"
_REGISTRY = "cluster/_registry.py"
_TABLE = "cluster/_table.py"
_SERVICE = "cluster/_service.py"
_JOBS = "cluster/_jobs.py"
_TURNS = "cluster/_turns.py"
_FAR = "cluster/_far.py"
_FAR_QUESTION = "cluster/_far_question.py"
_LINES = "cluster/_lines.py"
_HELD = "cluster/_held.py"
_PEERS = "cluster/_peers.py"
_GROUP_OPENING = "cluster/_opening.py"
_GROUP = "cluster/_group.py"
_POOL = "cluster/_pool.py"

MUTATIONS = (
    # ---- the classic ones ----
    Mutation(
        "window-edge",
        _POLICY,
        "self._times[0] < now - self.max_seconds",
        "self._times[0] <= now - self.max_seconds",
        "an age of exactly max_seconds must still count",
    ),
    Mutation(
        "window-per-child",
        _ROSTER,
        "if not self.intensity.record(trio.current_time()):",
        "if not [window.record(trio.current_time()) for window in (self.intensity, vars(self)"
        ".setdefault('windows', {}).setdefault(child.id, RestartIntensity("
        "self._spec.max_restarts, self._spec.max_seconds)))][1]:",
        "there is one window for all children",
    ),
    Mutation(
        "entry-per-member",
        _ROSTER,
        "if not self.intensity.record(trio.current_time()):",
        "if not all([self.intensity.record(trio.current_time()) for _ in restart_group("
        "self._spec.strategy, self.children.values(), child)]):",
        "a group's restart is one entry, however many are restarted",
    ),
    Mutation(
        "retries-not-counted",
        _ROSTER,
        "        if child.retry is retry:\n            await self._restart(child)",
        "        if child.retry is retry:\n            await self._start_group(retry.group)",
        "a retry of a failed start is an entry too",
    ),
    Mutation(
        "restart-after-stop",
        _ROSTER,
        "        child.incarnation = None\n        if intent ==",
        "        if intent ==",
        "the end of what was stopped must not lead to a restart",
    ),
    Mutation(
        "success-clears-window",
        _ROSTER,
        "            self._report(SessionReady, child, resumed=child.resumed)\n",
        "            self._report(SessionReady, child, resumed=child.resumed)\n"
        "            self.intensity._times.clear()\n",
        "a successful start must not clear the window",
    ),
    Mutation(
        "stale-exits",
        _ROSTER,
        "if child.incarnation is not incarnation:",
        "if not incarnation.ready or child.id not in self.children:",
        "the end of an earlier incarnation says nothing about this one",
    ),
    Mutation(
        "start-order",
        _ROSTER,
        "for place, child in enumerate(group):",
        "for place, child in enumerate(reversed(group)):",
        "a group is started in start order",
    ),
    Mutation(
        "block-swallows-cancelled",
        _OPENING,
        "    if body is not None:\n        raise body\n    if nursery is not None:",
        "    if own is not None:\n        raise body\n    if foreign is not None:",
        "Cancelled must get to the scope around the block",
    ),
    Mutation(
        "call-swallows-cancelled",
        _CONTROL,
        "                abandon()\n            raise\n",
        "                abandon()\n",
        "a cancelled call must raise Cancelled",
    ),
    Mutation(
        "turn-swallows-cancelled",
        _TURN,
        "            self.end(lost(exc))\n            raise\n",
        "            self.end(lost(exc))\n            return\n",
        "a session that is cut off in a turn must not go on",
    ),
    Mutation(
        "line-swallows-cancelled",
        _INBOX,
        "                raise self.gone() from self._cause\n            raise\n",
        "                raise self.gone() from self._cause\n",
        "a caller that is cancelled in line must not go on",
    ),
    Mutation(
        "line-closed-with-its-taker",
        _LINE,
        "        self._closed = True\n        if self._line._idle is self:\n",
        "        self._line.close()\n        if self._line._idle is self:\n",
        "the line must stay open between two incarnations",
    ),
    # ---- policy ----
    Mutation(
        "look-edge",
        _POLICY,
        "if then >= now - self.max_seconds",
        "if then > now - self.max_seconds",
        "statistics must count what the window counts",
    ),
    Mutation(
        "one-restart-fewer",
        _POLICY,
        "len(self._times) <= self.max_restarts",
        "len(self._times) < self.max_restarts",
        "max_restarts are allowed, not one fewer",
    ),
    Mutation(
        "transient-always",
        _POLICY,
        "            return crashed",
        "            return True",
        "a transient child that finished stays down",
    ),
    Mutation(
        "permanent-after-crash-only",
        _POLICY,
        "return True  # after a normal end",
        "return crashed  # after a normal end",
        "a permanent child that finished is restarted",
    ),
    Mutation(
        "rest-without-the-failed",
        _POLICY,
        "in_order[in_order.index(failed) :]",
        "in_order[in_order.index(failed) + 1 :]",
        "the one that failed is in its group",
    ),
    Mutation(
        "all-significant-is-any",
        _POLICY,
        "return not others_active",
        "return True",
        "all_significant waits for the last one",
    ),
    Mutation(
        "backoff-begins-later",
        _POLICY,
        "self.factor ** (consecutive - 1)",
        "self.factor**consecutive",
        "the first delay is the initial one",
    ),
    Mutation(
        "backoff-ends-sooner",
        _POLICY,
        "consecutive > self.max_consecutive",
        "consecutive >= self.max_consecutive",
        "max_consecutive restarts are tried",
    ),
    Mutation(
        "backoff-overflow",
        _POLICY,
        "self.maximum if self.initial else 0.0",
        "self.maximum",
        "nothing grows from an initial delay of 0",
    ),
    # ---- roster ----
    Mutation(
        "no-breath-between-retries",
        _ROSTER,
        "self._boss.post(partial(self._try_again, child, retry))",
        "await self._try_again(child, retry)",
        "calls and exits are served between two tries",
    ),
    Mutation(
        "retry-overtaken",
        _ROSTER,
        "        if child.retry is retry:\n            await self._restart(child)",
        "        if child.incarnation is None:\n            await self._restart(child)",
        "a retry that somebody has called off must not be done",
    ),
    Mutation(
        "delay-overtaken",
        _ROSTER,
        "        if child.retry is retry:\n            await self._start_group(retry.group)",
        "        if child.incarnation is None:\n            await self._start_group(retry.group)",
        "a delay that was replaced starts nobody",
    ),
    Mutation(
        "delay-not-called-off",
        _ROSTER,
        "with retry.delay:",
        "with trio.CancelScope():",
        "a delay nobody needs must not hold up the block",
    ),
    Mutation(
        "forgotten-comes-back",
        _ROSTER,
        "if self.children.get(child.id) is not child or child.incarnation is not None:",
        "if child.incarnation is not None:",
        "one that was terminated is not started with its group",
    ),
    Mutation(
        "followers-forgotten",
        _ROSTER,
        "Retry(group[place:])",
        "Retry([child])",
        "those behind a start that failed wait for it, and come up in the end",
    ),
    Mutation(
        "room-for-one-more",
        _ROSTER,
        'self.count(status="stopped") >= limit',
        'self.count(status="stopped") > limit',
        "max_sessions is the most",
    ),
    Mutation(
        "no-room-needed-to-come-back",
        _ROSTER,
        'if child.status == "stopped":\n            self._check_room()',
        "if False:\n            self._check_room()",
        "max_sessions holds for one that comes back",
    ),
    Mutation(
        "abandoned-start-stays",
        _ROSTER,
        "if error is None and abandoned():",
        "if error is None and False:",
        "a start whose caller was cancelled is undone",
    ),
    Mutation(
        "taken-back-too-late",
        _ROSTER,
        'if child.status == "running":',
        "if False:",
        "a start whose caller was cancelled when it was just done is undone",
    ),
    Mutation(
        "terminate-another",
        _ROSTER,
        "        if self.children.get(child.id) is not child:\n            return",
        "        if child.id not in self.children:\n            return",
        "a call for one that is gone must not hit the next one with its id",
    ),
    Mutation(
        "restart-one-that-is-gone",
        _ROSTER,
        "        if self.children.get(child.id) is not child:\n            raise",
        "        if child.id not in self.children:\n            raise",
        "a call for one that is gone must not bring it back beside the next one",
    ),
    Mutation(
        "restart-keeps-count",
        _ROSTER,
        '        await self._stop(child, "restart", child.spec.shutdown)\n'
        "        child.consecutive = 0\n",
        '        await self._stop(child, "restart", child.spec.shutdown)\n',
        "a restart on request begins the backoff anew",
    ),
    Mutation(
        "first-start-called-off",
        _ROSTER,
        "if for_ever or child.number > 1:",
        "if True:",
        "a restart must not take a first start from who waits for it",
    ),
    Mutation(
        "start-before-waiting-call",
        _ROSTER,
        "        if child.terminates_waiting or child.restarts_waiting:\n"
        "            return _CalledOff(child)\n",
        "",
        "what somebody is about to stop is not started first",
    ),
    Mutation(
        "dead-marked-running",
        _ROSTER,
        "if not incarnation.ended:  # else",
        "if True:  # else",
        "one that crashed as soon as it was up does not run",
    ),
    Mutation(
        "called-off-is-failed",
        _ROSTER,
        "        if incarnation.intent is not None:\n            return _CalledOff(child)\n",
        "",
        "a start that was called off has not failed",
    ),
    Mutation(
        "end-seen-late",
        _ROSTER,
        'self._mark(child, "restarting" if again else "stopped")',
        "pass",
        "a crash is seen in the status at once",
    ),
    Mutation(
        "temporary-kept",
        _ROSTER,
        'for_ever=child.spec.restart == "temporary", cause',
        "for_ever=False, cause",
        "a temporary child that ended is forgotten",
    ),
    Mutation(
        "temporary-revived",
        _ROSTER,
        'if member.spec.restart == "temporary":',
        "if False:",
        "a group's restart forgets temporary children",
    ),
    Mutation(
        "stopped-are-active",
        _ROSTER,
        'other.spec.significant and other.status != "stopped"',
        "other.spec.significant and other is not child",
        "a significant child that is stopped holds up nothing",
    ),
    Mutation(
        "everybody-is-significant",
        _ROSTER,
        "if child.spec.significant and shuts_down(",
        "if shuts_down(",
        "only significant children end the supervisor",
    ),
    Mutation(
        "forgiven-later",
        _ROSTER,
        "incarnation.started_at >= backoff.reset_after",
        "incarnation.started_at > backoff.reset_after",
        "reset_after seconds are enough",
    ),
    Mutation(
        "given-up-for-stays-open",
        _ROSTER,
        "            await self._close_unasked(child, cause=child.last_error)\n"
        "            self._boss.give_up",
        "            self._boss.give_up",
        "those who wait for the one given up for are told at once",
    ),
    Mutation(
        "group-stopped-in-start-order",
        _ROSTER,
        "for member in reversed(group):",
        "for member in group:",
        "a group is stopped in reverse",
    ),
    Mutation(
        "shortest-delay",
        _ROSTER,
        "delay = max(",
        "delay = min(",
        "a group waits as long as its slowest",
    ),
    Mutation(
        "end-not-absorbed",
        _ROSTER,
        "if incarnation.ended and incarnation.intent is None:",
        "if False:",
        "one that dies just before its stop has ended by itself",
    ),
    Mutation(
        "grace-for-the-cancelled",
        _ROSTER,
        "child.spec.shutdown if graceful else 0.0",
        "child.spec.shutdown",
        "where the surroundings are cancelled there is no grace",
    ),
    Mutation(
        "no-grace",
        _ROSTER,
        "with trio.move_on_after(grace):",
        "with trio.move_on_after(0):",
        "a turn in flight has its grace",
    ),
    Mutation(
        "stop-in-start-order",
        _ROSTER,
        "for child in reversed(list(self.children.values())):",
        "for child in list(self.children.values()):",
        "the last started is stopped first",
    ),
    Mutation(
        "raises-between-two-stops",
        _ROSTER,
        "            self._boss.fail_fatally(exc)  # not raised here: others",
        "            raise  # not raised here: others",
        "what a registry raises must not keep the others from being stopped",
    ),
    Mutation(
        "stopped-marked-restarting",
        _ROSTER,
        'if child.status != "stopped":  # nobody',
        "if True:  # nobody",
        "one that is stopped is not waited for",
    ),
    Mutation(
        "start-goes-on-after-a-failure",
        _ROSTER,
        "                await self._close_unasked(child, for_ever=True)\n                return error\n",
        "                await self._close_unasked(child, for_ever=True)\n",
        "the first start that fails is the last",
    ),
    # ---- child ----
    Mutation(
        "connection-not-left",
        _CHILD,
        "            self._connections.leave(shared)",
        "            pass",
        "a connection is closed when nobody needs it",
    ),
    Mutation(
        "frees-a-name-of-another",
        _CHILD,
        "        if self._named:\n",
        "        if self.spec.name is not None:\n",
        "who could not take a name must not free it",
    ),
    Mutation(
        "old-options",
        _CHILD,
        "if self.number > 1:",
        "if False:",
        "a restart reads the options again",
    ),
    Mutation(
        "its-own-follower",
        _CHILD,
        "[child for child in retry.group if child is not self]",
        "list(retry.group)",
        "one whose restart failed on request stays stopped",
    ),
    Mutation(
        "delay-not-cancelled",
        _CHILD,
        'retry.delay.cancel(reason="restart called off")',
        "pass",
        "a delay nobody needs ends at once",
    ),
    # ---- control ----
    Mutation(
        "reason-left-for-cancelled",
        _CONTROL,
        'if self.accepting or self._reason == "left":',
        "if self.accepting:",
        "a block that is cancelled while it is left has been cancelled",
    ),
    Mutation(
        "stop-unshielded",
        _CONTROL,
        "            self._refuse_calls()\n            with trio.CancelScope(shield=True):",
        "            self._refuse_calls()\n            with trio.CancelScope(shield=False):",
        "a cancelled supervisor stops its children in order all the same",
    ),
    Mutation(
        "stop-after-defect-unshielded",
        _CONTROL,
        'itself failed: {exc!r}"), exc)\n            with trio.CancelScope(shield=True):',
        'itself failed: {exc!r}"), exc)\n            with trio.CancelScope(shield=False):',
        "nobody is left behind, even if a cancellation follows a defect",
    ),
    Mutation(
        "calls-refused-late",
        _CONTROL,
        "            self._reason = reason\n        self._refuse_calls()\n",
        "            self._reason = reason\n        self.accepting = False\n",
        "a session in its grace may wait for such a call",
    ),
    Mutation(
        "calls-accepted-late",
        _CONTROL,
        "        if not self.accepting:\n",
        "        if self.ended:\n",
        "a call that comes too late is refused, and does not wait",
    ),
    Mutation(
        "last-failure-counts",
        _CONTROL,
        "        if self.failure is None:\n",
        "        if True:\n",
        "the first failure is the one",
    ),
    Mutation(
        "last-fatal-counts",
        _CONTROL,
        "        if self.fatal is None:\n",
        "        if True:\n",
        "the first of what only a program can answer is the one",
    ),
    Mutation(
        "last-reason-counts",
        _CONTROL,
        "        if self.accepting:\n            self._reason = reason\n",
        "        self._reason = reason\n",
        "the first reason to end is the one",
    ),
    Mutation(
        "block-not-cancelled",
        _CONTROL,
        '        self.body.cancel(reason=f"the supervisor ended ({reason})")\n',
        "",
        "a supervisor that ends by itself cancels its block",
    ),
    Mutation(
        "abandoned-call-done",
        _CONTROL,
        "        if self.abandoned:\n            return\n",
        "",
        "a start that was taken back is not begun",
    ),
    Mutation(
        "last-outcome-counts",
        _CONTROL,
        "        if not self.done.is_set():\n",
        "        if True:\n",
        "a call has one outcome",
    ),
    Mutation(
        "calls-never-forgotten",
        _CONTROL,
        "            self._calls.discard(call)",
        "            pass",
        "a call that is over must not be kept",
    ),
    Mutation(
        "event-handler-stops-the-stopping",
        _CONTROL,
        "            self.fail_fatally(exc)  # not raised here: the children",
        "            raise  # not raised here: the children",
        "what on_event raises must not keep the children from being stopped",
    ),
    # ---- opening ----
    Mutation(
        "body-after-a-failed-start",
        _OPENING,
        "if not control.has_failed:",
        "if True:",
        "the body is not entered if a start failed",
    ),
    Mutation(
        "frees-a-supervisors-name",
        _OPENING,
        "        if named:\n",
        "        if spec.name is not None:\n",
        "who could not take a name must not free it",
    ),
    Mutation(
        "crash-untold",
        _OPENING,
        "        inbox.raise_untold_crash()\n",
        "",
        "a crash that nobody was told of is raised at the block's end",
    ),
    Mutation(
        "body-interrupt-hidden",
        _OPENING,
        "if own is not None and not isinstance(own, Exception):",
        "if False:",
        "a KeyboardInterrupt in the body is more than a failure of ours",
    ),
    Mutation(
        "group-below-never-finishes",
        _OPENING,
        "        incarnation.on_finish(asked.set)\n",
        "",
        "a supervisor below ends when it is asked to",
    ),
    Mutation(
        "cancelled-in-groups-kept",
        _OPENING,
        "return error.split(trio.Cancelled)[1]",
        "return error",
        "Cancelled beside an error is no error",
    ),
    # ---- connections ----
    Mutation(
        "connection-unshielded",
        _CONNECTIONS,
        "trio.CancelScope(shield=True)",
        "trio.CancelScope()",
        "a connection is closed after its conversations",
    ),
    Mutation(
        "failed-connection-shared",
        _CONNECTIONS,
        "if shared is None or shared.failed:",
        "if shared is None:",
        "a connection that failed is not given to the next",
    ),
    Mutation(
        "leaves-the-next-connection",
        _CONNECTIONS,
        "if self._shared.get(_key(shared.backend)) is shared:",
        "if _key(shared.backend) in self._shared:",
        "who leaves a failed connection must not forget its successor",
    ),
    Mutation(
        "breakdown-unnoticed",
        _CONNECTIONS,
        "if isinstance(exc, Exception) and not self._settled.is_set():",
        "if isinstance(exc, Exception):",
        "a connection that breaks down fails the supervisor",
    ),
    # ---- supervisor, spec, names, context ----
    Mutation(
        "calls-from-a-start",
        _SUPERVISOR,
        "if not child.incarnation.settled:",
        "if False:",
        "a call from inside a start would wait for ever",
    ),
    Mutation(
        "terminates-itself",
        _SUPERVISOR,
        "if child is target:",
        "if False:",
        "a call for oneself would wait for ever",
    ),
    Mutation(
        "unnamed-specs-are-equal",
        _SPEC,
        "if id is not None and id in seen:",
        "if id in seen:",
        "specs without a name have ids of their own",
    ),
    Mutation(
        "as-many-as-allowed-refused",
        _SPEC,
        "len(self.specs) > self.max_sessions",
        "len(self.specs) >= self.max_sessions",
        "max_sessions specs are allowed",
    ),
    Mutation(
        "equal-registries-are-one",
        _NAMES,
        "        eq=id,\n",
        "",
        "a registry is told by identity",
    ),
    Mutation(
        "taken-name-is-a-broken-registry",
        _NAMES,
        "        except TrioClaudeError:\n            raise\n",
        "",
        "a name that is taken is SessionExists",
    ),
    Mutation(
        "refused-and-named-all-the-same",
        _NAMES,
        "            _unregister_here(name, handle)\n            raise\n",
        "            raise\n",
        "whom the cluster refuses has no name here",
    ),
    Mutation(
        "frees-whoever-has-the-name",
        _NAMES,
        "elif registry.lookup(key) is handle:",
        "else:",
        "who had the name in a cluster must not free it for another one here",
    ),
    Mutation(
        "globals-are-the-run-s",
        _NAMES,
        "if name is not None and not (cluster is not None and isinstance(name, Global)):",
        "if name is not None:",
        "a cluster keeps its names itself",
    ),
    Mutation(
        "asks-only-whom-it-has-heard-of",
        _NAMES,
        "        return cluster.asked(name)\n",
        "        return get_session(name)\n",
        "a session of which nobody has heard here yet can be asked",
    ),
    Mutation(
        "two-clusters",
        _NAMES,
        "if directory.cluster is not None:\n            raise",
        "if directory.cluster is cluster:\n            raise",
        "a run is in one cluster",
    ),
    Mutation(
        "any-run-will-do",
        _CONTEXT,
        "if current_run() is not token:",
        "if current_run() is None:",
        "a handle belongs to its run",
    ),
    # ---- handle ----
    Mutation(
        "stop-waits-for-its-reader",
        _INBOX,
        "if waits and not self.waits_for_caller():",
        "if waits and not self.is_inside():",
        "stop by the reader of a stream would wait for ever",
    ),
    Mutation(
        "interrupt-waits-for-itself",
        _INBOX,
        "if not self.is_inside():",
        "if True:",
        "interrupt from inside the turn would wait for ever",
    ),
    Mutation(
        "left-stream-goes-on",
        _HANDLE,
        "        await stream.aclose()",
        "        pass",
        "leaving a stream ends its turn",
    ),
    # ---- inbox ----
    Mutation(
        "withdrawn-still-in-line",
        _LINE,
        "            del waiting[request]\n",
        "            pass\n",
        "a caller that was cancelled in line was never in it",
    ),
    Mutation(
        "turned-away-is-taken",
        _LINE,
        "if request in waiting:",
        "if False:",
        "who is turned away was not taken",
    ),
    Mutation(
        "last-come-first-taken",
        _LINE,
        "next(iter(waiting))",
        "next(reversed(waiting))",
        "the line keeps its order",
    ),
    Mutation(
        "one-more-in-line",
        _INBOX,
        "self._present >= max_queue",
        "self._present > max_queue",
        "max_queue is the most that may wait",
    ),
    Mutation(
        "busy-before-gone",
        _INBOX,
        "        if self._closed:\n            raise self.gone()\n",
        "",
        "a stopped session is gone, not busy",
    ),
    Mutation(
        "withdrawn-still-counted",
        _INBOX,
        "            self._left()\n            if isinstance",
        "            if isinstance",
        "who was cancelled in line makes room",
    ),
    Mutation(
        "ended-turn-in-flight",
        _INBOX,
        "if not question.ended:",
        "if True:",
        "a turn that has ended already is not in flight",
    ),
    Mutation(
        "conversation-outlives-session",
        _INBOX,
        "        self._cause = cause\n        self.session_id = None\n",
        "        self._cause = cause\n",
        "a stopped session has no conversation",
    ),
    Mutation(
        "told-crash-told-again",
        _INBOX,
        "if error is not None and not (self.lost is not None and self.lost.told):",
        "if error is not None:",
        "a crash that a caller was told of is not raised again",
    ),
    Mutation(
        "asks-its-own-reader",
        _INBOX,
        "if waits and self.waits_for_caller():",
        "if False:",
        "a question by a task that reads this session would wait for ever",
    ),
    # ---- incarnation ----
    Mutation(
        "life-unshielded",
        _INCARNATION,
        "trio.CancelScope(shield=True)",
        "trio.CancelScope()",
        "the supervisor stops its children, not what is around it",
    ),
    Mutation(
        "last-intent-counts",
        _INCARNATION,
        "        if self.intent is None:\n            self.intent = intent",
        "        if True:\n            self.intent = intent",
        "what it is stopped for first is why it ends",
    ),
    Mutation(
        "crash-after-the-end",
        _INCARNATION,
        "if self._fault is None and not self.ended:",
        "if self._fault is None:",
        "what has ended can't crash",
    ),
    Mutation(
        "asked-too-early",
        _INCARNATION,
        "        if self._asked_to_finish:\n            finish()\n",
        "",
        "one that is asked to finish before it can still does",
    ),
    Mutation(
        "only-the-innermost-life",
        _INCARNATION,
        "lives.set((*lives.get(), self))",
        "lives.set((self,))",
        "a session of a supervisor below is inside of that supervisor",
    ),
    # ---- session ----
    Mutation(
        "ends-are-crashes",
        _SESSION,
        "elif incarnation.cancelled or not isinstance(cause, Exception):",
        "elif not isinstance(cause, Exception):",
        "one that is stopped says so, whatever its backend makes of it",
    ),
    Mutation(
        "turn-stays-in-flight",
        _SESSION,
        "                self.inbox.turn = None",
        "                pass",
        "a turn that is over is not in flight",
    ),
    Mutation(
        "conversation-id-kept",
        _INBOX,
        "        self.resumed = False\n        self.session_id = None\n",
        "        self.resumed = False\n",
        "a new conversation has no id yet",
    ),
    Mutation(
        "clear-swallows-its-failure",
        _SESSION,
        "                        clear.end(self._lost(exc))\n                    raise\n",
        "                        clear.end(self._lost(exc))\n                        return\n"
        "                    raise\n",
        "a session whose new conversation can't be opened has crashed",
    ),
    # ---- turn ----
    Mutation(
        "last-end-counts",
        _QUESTION,
        "        if not self._ended.is_set():\n            self._error = error",
        "        if True:\n            self._error = error",
        "a request has one outcome",
    ),
    Mutation(
        "verdict-unshielded",
        _TURN,
        "with trio.CancelScope(shield=isinstance(self._found, ResultMessage)):",
        "with trio.CancelScope(shield=False):",
        "a turn is remembered if and only if its caller has the result",
    ),
    Mutation(
        "outcome-hidden-by-a-cancellation",
        _QUESTION,
        "        if not self._ended.is_set():\n            await self._ended.wait()\n"
        "        self.raise_error()",
        "        await self._ended.wait()\n        self.raise_error()",
        "an outcome that is there is not lost to a cancellation",
    ),
    Mutation(
        "last-end-meant-counts",
        _TURN,
        "if not self.ended and self._intent is None:",
        "if not self.ended:",
        "how a turn is ended first is how it ends",
    ),
    Mutation(
        "fault-forgotten",
        _TURN,
        "if not self._reading.cancel_called:",
        "if True:",
        "what ended the reading is not read past, also by one who was cancelled",
    ),
    Mutation(
        "events-for-a-closed-stream",
        _TURN,
        'elif events and self._intent != "abandoned":',
        "elif events:",
        "a stream that was closed gives nothing more",
    ),
    Mutation(
        "error-result-as-an-answer",
        _TURN,
        "if self._found.is_error:",
        "if False:",
        "an error that the agent reports is no answer",
    ),
    Mutation(
        "two-readers-at-once",
        _QUESTION,
        "await self._lock.acquire()\n",
        "self._lock = trio.Lock()\n            await self._lock.acquire()\n",
        "two tasks that read one stream take turns",
    ),
    Mutation(
        "result-before-it-is-whole",
        _TURN,
        "            result = self._result()\n",
        "            result = self.result = self._result()\n",
        "a turn whose block fails after the result has failed",
    ),
    Mutation(
        "buffered-stream",
        _TURN,
        "open_memory_channel[Event](0)",
        "open_memory_channel[Event](1)",
        "the reader sets the pace",
    ),
    Mutation(
        "read-here-for-ever",
        _QUESTION,
        "if self.ended or self._intent is not None:",
        "if False:",
        "a turn that is over waits for nobody",
    ),
    Mutation(
        "read-where-it-was-made",
        _QUESTION,
        "                self._reader = trio.lowlevel.current_task()\n",
        "",
        "who reads a stream is who read it last",
    ),
    Mutation(
        "timeout-before-intent",
        _TURN,
        "        if self._intent is not None:\n            failure = Interrupted",
        "        if self._intent is not None and not self._scope.cancel_called:\n"
        "            failure = Interrupted",
        "a turn that was interrupted has not timed out",
    ),
    # ---- the claude program ----
    Mutation(
        "noise-is-an-error",
        _JSON_LINES,
        'if not line.startswith(b"{"):',
        "if not line:",
        "what is no object is a remark, and is skipped",
    ),
    Mutation(
        "line-without-a-limit",
        _JSON_LINES,
        "            if len(line) > self._max_size:\n                raise self._too_large()\n",
        "",
        "a line that came whole has the same limit as one that did not",
    ),
    Mutation(
        "remarks-before-init",
        _STREAM_JSON,
        "            self._held.append(message)\n",
        "            events.append(message)\n",
        "the first event of a turn is its init",
    ),
    Mutation(
        "any-result-ends-the-turn",
        _STREAM_JSON,
        "return self._prompt_id in answered",
        "return True",
        "a result of another prompt is not this turn's",
    ),
    Mutation(
        "running-totals",
        _RESULTS,
        "return total - before if total >= before else total",
        "return total",
        "the cost is this turn's, not that of all until now",
    ),
    Mutation(
        "success-by-subtype",
        _RESULTS,
        'is_error=is_error if isinstance(is_error, bool) else subtype != "success"',
        'is_error=subtype != "success"',
        "an API's refusal has the subtype success",
    ),
    Mutation(
        "left-turn-is-kept",
        _CONVERSATION,
        "taken_out = await program.rewind(answer.prompt_id)",
        "taken_out = True",
        "what was left is in nobody's conversation",
    ),
    Mutation(
        "no-drain",
        _CONVERSATION,
        "while not answer.ended:",
        "while False:",
        "the turn that was left ends before the next one begins",
    ),
    Mutation(
        "stuck-program-stays",
        _CONVERSATION,
        "if not taken_out and program.failure is None:",
        "if False:",
        "a program that doesn't let go is replaced",
    ),
    Mutation(
        "death-between-turns",
        _CONVERSATION,
        "        elif not self._in_turn:\n",
        "        elif False:\n",
        "a program that ends while nobody asks has crashed, too",
    ),
    Mutation(
        "resumed-with-the-lost-turn",
        _PROGRAMS,
        "end = self._connection.ends.of(options.resume)",
        "end = self._connection.ends.of(None)",
        "a conversation is resumed where its last good turn ended",
    ),
    Mutation(
        "nobody-is-told",
        _LINK,
        "        for asked in self._asked.values():\n            asked.answered.set()\n",
        "",
        "whoever waits for an answer is told when the program ends",
    ),
    Mutation(
        "stopped-without-a-word",
        _LINK,
        "                await self._write_whole(line)\n",
        "                await trio.lowlevel.checkpoint()\n",
        "a program that is stopped in a turn is told to leave it",
    ),
    Mutation(
        "never-killed",
        _PROCESS,
        "        for number in (None, signal.SIGTERM, signal.SIGKILL):\n",
        "        for number in (None, signal.SIGTERM):\n",
        "who ignores SIGTERM is killed",
    ),
    Mutation(
        "unguarded",
        _PROCESS,
        "            await guard.add(process.pid, mark, folder)\n",
        "",
        "no program outlives this one, however it ends",
    ),
    Mutation(
        "others-stay",
        _PROCESS,
        "        await _stop_others(process.pid, mark, patience)\n",
        "",
        "what the program has started goes with it",
    ),
    Mutation(
        "changed-input-is-lost",
        _CLI + "callbacks.py",
        '                    allowed["updatedInput"] = updated_input\n',
        "                    pass\n",
        "a tool gets the input that it was allowed",
    ),
    Mutation(
        "result-with-others",
        _CLI + "turn.py",
        "before_result = len(self._ready) - isinstance(self._ready[-1], ResultMessage)",
        "before_result = len(self._ready)",
        "a result is lent by itself",
    ),
    Mutation(
        "mode-of-one-turn-stays",
        _PROGRAMS,
        "        self.given.pop(name, None)\n",
        "",
        "what a cancelled turn was given is not known, and said again",
    ),
    Mutation(
        "failed-hook-lets-pass",
        _PROGRAMS,
        "                return callbacks.stop(request)\n",
        '                raise Refused("it failed") from None\n',
        "what a callback failed to decide on doesn't happen",
    ),
    Mutation(
        "resumed-for-ever",
        _INBOX,
        "self.session_id, self._last_id = self._last_id, None",
        "self.session_id = self._last_id",
        "a conversation is resumed once",
    ),
    Mutation(
        "restart-remembers",
        _ROSTER,
        "        child.forget_conversation()\n",
        "",
        "a restart that was asked for is a fresh conversation",
    ),
    # ---- the cluster ----
    Mutation(
        "two-winners",
        _REGISTRY,
        "if holder is not None and holder.door != entry.door:  # its door has just",
        "if False:  # its door has just",
        "of two processes that want a name one gets it",
    ),
    Mutation(
        "name-outlives-its-process",
        _REGISTRY,
        "        self._table.lose(door)\n",
        "",
        "the names of a process that is gone are free",
    ),
    Mutation(
        "claim-forgotten-by-the-next-registry",
        _REGISTRY,
        '                await _until_reached(self._call, entry.door, "hold", name, entry)\n',
        "                pass\n",
        "what a registry grants outlives it",
    ),
    Mutation(
        "news-of-an-earlier-life",
        _TABLE,
        "if not self._holds(door, name) or self._entries[name].life > entry.life:",
        "if not self._holds(door, name):",
        "what a process said that has died says nothing about the next one",
    ),
    Mutation(
        "names-of-an-earlier-life",
        _TABLE,
        "if held[name].life < life]",
        "if held[name].life > life]",
        "what a process has not started again is free",
    ),
    Mutation(
        "order-of-arrival",
        _LINES,
        "self._early[number] = item",
        "self._early[self._next] = item",
        "callers are served in their order, however Ray delivers their calls",
    ),
    Mutation(
        "lost-call-alone",
        _LINES,
        "            except DoorLost as exc:\n                self.cut(exc)\n                return\n"
        "            except ClusterError:\n",
        "            except (DoorLost, ClusterError):\n",
        "where one call is lost, those beside it may be, too",
    ),
    Mutation(
        "line-broken-by-the-past",
        _LINES,
        "life > self._life:",
        "life != self._life:",
        "what is known of a life that is over ends nothing of the one that goes on",
    ),
    Mutation(
        "overtaken-at-the-session",
        _JOBS,
        "if before is not None and not before.in_line.is_set():",
        "if False:",
        "a question gets into the line behind those that were asked before",
    ),
    Mutation(
        "asker-s-death-unnoticed",
        _SERVICE,
        "            del self._askers[name]\n        asker.cut()\n",
        "            del self._askers[name]\n",
        "what nobody waits for any more must not hold up others",
    ),
    Mutation(
        "batch-without-a-limit",
        _TURNS,
        "while len(events) < _BATCH and size < BATCH_SIZE and not self._unasked:",
        "while not self._unasked:",
        "the reader sets the pace from afar, too",
    ),
    Mutation(
        "result-read-ahead",
        _TURNS,
        "        if not self._had_delta:\n            await self._asked.wait()\n",
        "",
        "a turn whose result nobody has asked for can still be left",
    ),
    Mutation(
        "result-asked-ahead",
        _FAR_QUESTION,
        "if isinstance(said.events[-1], Delta):",
        "if said.events:",
        "who leaves a stream before its result has not had the turn",
    ),
    Mutation(
        "in-line-is-begun",
        _FAR_QUESTION,
        'self._state = "waiting" if said.state == "waiting" else "taken"',
        'self._state = "taken"',
        "what waited in line when its process died is asked again",
    ),
    Mutation(
        "asked-twice",
        _FAR_QUESTION,
        'return self._state == "taken" or (self._state == "asked" and lost.begun)',
        'return self._state == "taken"',
        "what may have been begun is not asked again",
    ),
    Mutation(
        "withdrawn-in-silence",
        _FAR_QUESTION,
        "            if not await self._withdraw():\n                raise\n",
        "            raise\n",
        "the question of a caller that was cancelled is not answered to nobody",
    ),
    Mutation(
        "stale-news",
        _FAR,
        "if standing[0] != life or standing[1] >= serial:",
        "if True:",
        "what was heard last is not what is true last",
    ),
    Mutation(
        "refused-is-begun",
        _LINES,
        "begun=said == BROKEN",
        "begun=True",
        "what was refused was not begun, and is asked again",
    ),
    Mutation(
        "done-twice",
        _TURNS,
        "        self._taken = True\n        if self._waits:\n",
        "        self._taken = True\n        if False:\n",
        "no turn is done twice, whatever its asker has heard of it",
    ),
    Mutation(
        "left-in-line-overtaken",
        _JOBS,
        "            before, self._before = self._before, None\n"
        "            if before is not None and not before.in_line.is_set():\n",
        "            before, self._before = self._before, None\n"
        "            if before is not None and not self._ended and not before.in_line.is_set():\n",
        "who leaves lets nobody overtake",
    ),
    Mutation(
        "cancelled-start-unheard",
        _PEERS,
        "                if said.error is None:\n                    return said\n",
        "",
        "what was cancelled was not done",
    ),
    Mutation(
        "late-release",
        _TABLE,
        " or (held.life, held.serial) > (life, serial):",
        ":",
        "a name is not freed by what was said of it earlier",
    ),
    Mutation(
        "connected-behind-its-back",
        "cluster/_driver.py",
        "self._has_succeeded = not self._is_abandoned",
        "self._has_succeeded = True",
        "a process that gave up on a cluster is not connected to it later",
    ),
    Mutation(
        "name-outlives-its-session",
        _HELD,
        "                await self._release(name, next(self._serials))\n",
        "                await trio.lowlevel.checkpoint()\n",
        "the name of a session that has stopped is free",
    ),
    Mutation(
        "cut-line-not-told",
        _PEERS,
        "if lost.returns:  # perhaps",
        "if False:  # perhaps",
        "what came by a line that was cut is left, though its asker asks for nothing more",
    ),
    Mutation(
        "key-outlives-its-actor",
        _GROUP_OPENING,
        "del names.life.plans[actor.door]",
        "pass",
        "what may have a key in it is kept no longer than its actor lives",
    ),
    Mutation(
        "failure-of-a-group-swallowed",
        _GROUP,
        "        self._failure = failure\n",
        "",
        "who has a group is told why it ended",
    ),
    Mutation(
        "used-member-handed-out",
        _POOL,
        "            del self._free[found[0]]\n",
        "",
        "a session of a pool has one turn at a time",
    ),
    Mutation(
        "given-back-in-silence",
        _POOL,
        "        self._free[member] = None\n        self._news.unpark_all()\n",
        "        self._free[member] = None\n",
        "who waits for a session of a pool gets the next one that is free",
    ),
)

# For CI: none that hangs, so that it takes less than a minute.
SHORT = (
    "window-edge",
    "entry-per-member",
    "retries-not-counted",
    "restart-after-stop",
    "success-clears-window",
    "stale-exits",
    "start-order",
    "block-swallows-cancelled",
    "last-come-first-taken",
    "two-winners",
    "in-line-is-begun",
)
