"""Who is started again, with whom, in which order, how often, how soon: OTP's rules, pure.

No clock, no event loop and no randomness in here: time and chance are arguments. The rules are
those of ``supervisor.erl``; its manual is https://www.erlang.org/doc/apps/stdlib/supervisor.html.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Literal, TypeAlias, TypeVar

import attrs

from .._validation import checked, is_count, is_number, is_seconds

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from .._options import RestartType

Strategy: TypeAlias = Literal["one_for_one", "one_for_all", "rest_for_one"]
AutoShutdown: TypeAlias = Literal["never", "any_significant", "all_significant"]

STRATEGIES: tuple[Strategy, ...] = ("one_for_one", "one_for_all", "rest_for_one")
AUTO_SHUTDOWNS: tuple[AutoShutdown, ...] = ("never", "any_significant", "all_significant")

_Child = TypeVar("_Child")


def is_restarted(restart: RestartType, crashed: bool) -> bool:
    """Whether a child is started again after it ended by itself."""
    match restart:
        case "permanent":
            return True  # after a normal end too, and that counts as well
        case "transient":
            return crashed
    return False


def restart_group(
    strategy: Strategy, children: Collection[_Child], failed: _Child
) -> Sequence[_Child]:
    """Who is started again when ``failed`` is: in start order; they are stopped in reverse.

    The group has also those that were stopped before: a group's restart brings them back.
    """
    match strategy:
        case "one_for_one":
            return [failed]
        case "one_for_all":
            return list(children)
    in_order = list(children)
    return in_order[in_order.index(failed) :]


def shuts_down(auto_shutdown: AutoShutdown, others_active: bool) -> bool:
    """Whether the supervisor ends, now that a significant child has ended by itself for good.

    Args:
      others_active: whether another significant child runs, or is about to be started again.
    """
    match auto_shutdown:
        case "never":
            return False
        case "any_significant":
            return True
    return not others_active


@attrs.define
class RestartIntensity:
    """The sliding window of restarts that a supervisor may do.

    One window counts for all children of a supervisor: every crash that leads to a restart, and
    every retry of a start that failed, is one entry, however many children are restarted with it.

    Args:
      max_restarts: how many restarts are allowed ...
      max_seconds: ... within so many seconds; an age of exactly so many still counts.
    """

    max_restarts: int = attrs.field(
        default=3, validator=checked(is_count, "a whole number, 0 or more")
    )
    max_seconds: float = attrs.field(
        default=5.0,
        validator=checked(
            lambda value: is_number(value) and 0 < value < float("inf"),
            "a finite number of seconds above 0",
        ),
    )
    _times: deque[float] = attrs.field(factory=deque, init=False)

    def record(self, now: float) -> bool:
        """Enter a restart at the time ``now``; False if that is one too many.

        One too many is entered too, and not to be done. Times must not go backwards.
        """
        while self._times and self._times[0] < now - self.max_seconds:
            self._times.popleft()
        self._times.append(now)
        return len(self._times) <= self.max_restarts

    @property
    def recent(self) -> tuple[float, ...]:
        """The entries that counted at the time of the last one, oldest first."""
        return tuple(self._times)

    def within(self, now: float) -> tuple[float, ...]:
        """The entries that count at the time ``now``, oldest first."""
        return tuple(then for then in self._times if then >= now - self.max_seconds)


@attrs.frozen
class Backoff:
    """An opt-in delay before restarts, that grows while a session keeps failing. OTP has none.

    The first restart in a row waits ``initial`` seconds, each further one ``factor`` times as
    long, at most ``maximum``; chance moves each by up to ``jitter`` of it, either way. A group
    waits as long as the one of it that has to wait longest.
    """

    initial: float = attrs.field(
        default=0.5, validator=checked(is_seconds, "a number of seconds, 0 or more")
    )
    """Seconds before the first restart."""

    maximum: float = attrs.field(
        default=30.0, validator=checked(is_seconds, "a number of seconds, 0 or more")
    )
    """Seconds that no delay exceeds, but for the jitter."""

    factor: float = attrs.field(
        default=2.0,
        kw_only=True,
        validator=checked(lambda value: is_number(value) and value >= 1, "a number, 1 or more"),
    )
    """How much longer each delay is than the one before."""

    jitter: float = attrs.field(
        default=0.1,
        kw_only=True,
        validator=checked(lambda value: is_number(value) and 0 <= value <= 1, "from 0 to 1"),
    )
    """The share of a delay that chance may add or take away."""

    reset_after: float = attrs.field(
        default=60.0,
        kw_only=True,
        validator=checked(is_seconds, "a number of seconds, 0 or more"),
    )
    """A session that ran for so many seconds starts again from ``initial``."""

    max_consecutive: int | None = attrs.field(
        default=None,
        kw_only=True,
        validator=checked(lambda value: is_count(value, 1), "a whole number, 1 or more, or None"),
    )
    """How many restarts in a row are tried before the supervisor gives up; None for no limit
    beyond the intensity."""

    def delay(self, consecutive: int, chance: float = 0.5) -> float:
        """Seconds before restart number ``consecutive`` in a row, counted from 1.

        Args:
          chance: from 0 to 1, where 0.5 is no jitter.
        """
        try:
            delay = min(self.maximum, self.initial * self.factor ** (consecutive - 1))
        except OverflowError:  # long past the maximum, unless there is nothing to grow
            delay = self.maximum if self.initial else 0.0
        return delay * (1 + self.jitter * (2 * chance - 1))

    def exhausted(self, consecutive: int) -> bool:
        """Whether restart number ``consecutive`` in a row is one too many."""
        return self.max_consecutive is not None and consecutive > self.max_consecutive

    def outlasts(self, intensity: RestartIntensity) -> bool:
        """Whether one session alone can never be restarted too often for this window.

        Its crashes are then so far apart that the older ones have left the window: a supervisor of
        such a session never gives up, unless ``max_consecutive`` says when.
        """
        seconds = 0.0
        for consecutive in range(1, min(intensity.max_restarts, _SURELY_REACHED) + 1):
            seconds += self.delay(consecutive, chance=0.0)
            if seconds > intensity.max_seconds:
                return True
        return False


# Nobody counts further than this; it keeps the sum finite for a window without a real limit.
_SURELY_REACHED = 10_000
