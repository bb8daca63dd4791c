"""What a supervisor is told: its flags, and the children that it begins with."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import attrs

from .._errors import ConfigurationError
from .._options import RestartType, SessionOptions, SessionSpec
from .._validation import (
    checked,
    is_count,
    is_hashable,
    is_seconds,
    refuse_none,
    refuse_significant,
    refuse_unknown,
    show_options,
)
from .names import Via
from .policy import AUTO_SHUTDOWNS, STRATEGIES, AutoShutdown, Backoff, RestartIntensity, Strategy

if TYPE_CHECKING:
    from .events import SupervisorEvent


def _as_specs(specs: object) -> tuple[SessionSpec | SupervisorSpec, ...]:
    if isinstance(specs, SessionSpec | SupervisorSpec) or not isinstance(specs, Iterable):
        raise ConfigurationError(f"specs must be a list of specs, not {specs!r}")
    given = tuple(specs)
    for spec in given:
        if not isinstance(spec, SessionSpec | SupervisorSpec):
            raise ConfigurationError(
                f"specs must hold SessionSpec and SupervisorSpec only, not {spec!r}"
            )
    return given


@attrs.frozen(kw_only=True, repr=False)
class SupervisorSpec:
    """A supervisor: its flags, its first children and, where it is a child itself, how so.

    Raises:
      ConfigurationError: a field is unknown or invalid, or two of them contradict each other.
    """

    if not TYPE_CHECKING:

        def __init__(self, **options: Any) -> None:
            refuse_unknown(type(self), options)
            self.__attrs_init__(**options)

    name: Hashable | None = attrs.field(
        default=None,
        validator=checked(
            lambda value: is_hashable(value) and not isinstance(value, Via),
            "hashable, and no Via: those are for sessions",
        ),
    )
    """Under which :func:`get_supervisor` finds it in this run."""

    specs: Sequence[SessionSpec | SupervisorSpec] = attrs.field(default=(), converter=_as_specs)
    """The first children, in start order."""

    strategy: Strategy = attrs.field(
        default="one_for_one",
        validator=checked(lambda value: value in STRATEGIES, f"one of {', '.join(STRATEGIES)}"),
    )
    """Who is restarted with a child that crashed: nobody else, all, or those started after it."""

    max_restarts: int = attrs.field(
        default=3, validator=checked(is_count, "a whole number, 0 or more")
    )
    """How many restarts are done ..."""

    max_seconds: float = 5.0
    """... within so many seconds before the supervisor gives up."""

    auto_shutdown: AutoShutdown = attrs.field(
        default="never",
        validator=checked(
            lambda value: value in AUTO_SHUTDOWNS, f"one of {', '.join(AUTO_SHUTDOWNS)}"
        ),
    )
    """Whether it ends by itself when any, or all, of its significant children have."""

    max_sessions: int | None = attrs.field(
        default=None, validator=checked(is_count, "a whole number, 0 or more, or None")
    )
    """The most children that may run or be restarting; None for no limit. It holds for starts and
    restarts that are asked for; a group that is restarted comes back whole."""

    backoff: Backoff | None = attrs.field(
        default=None, validator=checked(lambda value: isinstance(value, Backoff), "a Backoff")
    )
    """Delays before restarts; None for none, as in OTP."""

    defaults: SessionOptions | None = attrs.field(
        default=None,
        validator=checked(
            lambda value: isinstance(value, SessionOptions) and not isinstance(value, SessionSpec),
            "SessionOptions",
        ),
    )
    """Options for all sessions below, where their specs say nothing."""

    on_event: Callable[[SupervisorEvent], None] | None = attrs.field(
        default=None,
        validator=checked(
            lambda value: callable(value) and not inspect.iscoroutinefunction(value),
            "a function that is not async: nobody would await it",
        ),
    )
    """Called with each :class:`SupervisorEvent`, in the run, and must not block; None is the
    supervisor's above, or else the log."""

    id: Hashable | None = attrs.field(default=None, validator=checked(is_hashable, "hashable"))
    """As a child: under which the supervisor above knows it. Default: its name, else a unique
    object."""

    restart: RestartType = attrs.field(
        default="permanent",
        validator=checked(
            lambda value: value in ("permanent", "transient", "temporary"),
            "'permanent', 'transient' or 'temporary'",
        ),
    )
    """As a child: when it is started again. Giving up counts as a crash."""

    shutdown: float = attrs.field(
        default=float("inf"), validator=checked(is_seconds, "a number of seconds, 0 or more")
    )
    """As a child: seconds that it has to stop its own children in order."""

    significant: bool = attrs.field(
        default=False, validator=checked(lambda value: isinstance(value, bool), "True or False")
    )
    """As a child: whether its end counts for the ``auto_shutdown`` above."""

    def __attrs_post_init__(self) -> None:
        refuse_none(
            self,
            "strategy",
            "max_restarts",
            "max_seconds",
            "auto_shutdown",
            "restart",
            "shutdown",
            "significant",
        )
        RestartIntensity(self.max_restarts, self.max_seconds)  # refuses what is no window
        refuse_significant(self)
        seen: set[Hashable] = set()
        for spec in self.specs:
            self.check_child(spec)
            id = spec.name if spec.id is None else spec.id  # noqa: A001
            if id is not None and id in seen:
                raise ConfigurationError(f"two of the specs have the id {id!r}")
            seen.add(id)
        if self.max_sessions is not None and len(self.specs) > self.max_sessions:
            raise ConfigurationError(
                f"max_sessions is {self.max_sessions}, and there are {len(self.specs)} specs"
            )

    def __repr__(self) -> str:
        return show_options(self)

    def check_child(self, spec: SessionSpec | SupervisorSpec) -> None:
        """Raise ConfigurationError if this supervisor cannot have such a child."""
        if spec.significant and self.auto_shutdown == "never":
            raise ConfigurationError(
                f"{spec!r} is significant, and its supervisor's auto_shutdown is 'never'"
            )
