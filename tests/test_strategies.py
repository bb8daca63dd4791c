"""What the hypothesis strategies draw: all of it valid, and the interesting corners among it."""

import math
from collections.abc import Callable
from typing import Any

import attrs
import pytest
from hypothesis import Phase, find, given, settings, strategies as st

from trio_claude import (
    Backoff,
    ConfigurationError,
    PermissionResultAllow,
    RestartIntensity,
    SessionOptions,
    SessionSpec,
    SupervisorSpec,
    ToolPermissionContext,
    open_supervisor,
)
from trio_claude._wire import cli_arguments, requests
from trio_claude._wire.cli_arguments import CLI_OPTIONS
from trio_claude._wire.requests import MESSAGES_OPTIONS
from trio_claude.testing import Crash, ScriptedBackend, strategies

BACKEND = ScriptedBackend()
_NO_SHRINKING = settings(max_examples=3_000, phases=[Phase.generate], database=None, deadline=None)


def all_specs(spec: SupervisorSpec) -> list[SessionSpec | SupervisorSpec]:
    """It and all below it."""
    found: list[SessionSpec | SupervisorSpec] = [spec]
    for child in spec.specs:
        found += all_specs(child) if isinstance(child, SupervisorSpec) else [child]
    return found


# ---- all of it is valid -------------------------------------------------------------------------


@given(strategies.session_options() | strategies.session_options(cli=True))
def test_session_options_are_valid(options: SessionOptions) -> None:
    """They are options, and as good as what they say of themselves."""
    assert type(options) is SessionOptions
    assert attrs.evolve(options) == options


@given(strategies.session_specs(backend=st.just(BACKEND), name=st.none()))
def test_session_specs_are_valid_and_can_be_fixed(spec: SessionSpec) -> None:
    """A field that was given is there in each of them."""
    assert type(spec) is SessionSpec
    assert spec.backend is BACKEND
    assert spec.name is None


@given(strategies.session_options(), strategies.session_options(cli=True))
def test_a_backend_takes_what_is_drawn_for_it(
    messages: SessionOptions, cli: SessionOptions
) -> None:
    """Nothing is drawn that it would refuse for its name alone."""
    requests.refuse_unsupported(messages)
    cli_arguments.refuse_unsupported(cli)


@pytest.mark.parametrize("cli", [False, True])
def test_every_option_is_drawn(cli: bool) -> None:
    """Each option that the backend has is set in some of them."""
    drawn: set[str] = set()

    @given(strategies.session_options(cli=cli))
    @settings(max_examples=300, database=None, derandomize=True)
    def draw(options: SessionOptions) -> None:
        drawn.update(name for name, value in vars(options).items() if value is not None)

    draw()
    assert drawn == (CLI_OPTIONS if cli else MESSAGES_OPTIONS)


async def test_functions_that_are_drawn_can_be_called() -> None:
    """The one allows, the other has nothing to say."""
    options = find(
        strategies.session_options(cli=True),
        lambda it: it.can_use_tool is not None and bool(it.hooks) and any(it.hooks.values()),
        settings=_NO_SHRINKING,
    )
    assert options.can_use_tool is not None
    context = ToolPermissionContext(tool_use_id="a")
    assert await options.can_use_tool("Read", {}, context) == PermissionResultAllow()
    assert options.hooks is not None
    for matcher in (one for matchers in options.hooks.values() for one in matchers):
        assert [await hook({}, None) for hook in matcher.hooks] == [None] * len(matcher.hooks)


@given(strategies.session_specs(cli=True, backend=st.just(BACKEND)))
def test_session_specs_of_the_cli(spec: SessionSpec) -> None:
    """They are specs as well."""
    assert spec.backend is BACKEND


@given(strategies.session_options(auth_token=st.just("token")))
def test_credentials_can_be_fixed(options: SessionOptions) -> None:
    """Who gives a token doesn't get a key beside it."""
    assert (options.api_key, options.auth_token) == (None, "token")


@given(strategies.supervisor_specs(depth=2))
@settings(max_examples=50)
def test_supervisor_specs_are_valid(spec: SupervisorSpec) -> None:
    """To any depth that was asked for, and no deeper."""
    assert type(spec) is SupervisorSpec
    for one in all_specs(spec):
        if isinstance(one, SupervisorSpec):
            assert len(one.specs) <= 4


@given(
    strategies.supervisor_specs(
        sessions=strategies.session_specs(backend=st.just(BACKEND)),
        depth=0,
        max_children=2,
        strategy=st.just("one_for_all"),
    )
)
def test_supervisor_specs_can_be_fixed(spec: SupervisorSpec) -> None:
    """Their sessions, their number, their flags."""
    assert spec.strategy == "one_for_all"
    assert len(spec.specs) <= 2
    for child in spec.specs:
        assert isinstance(child, SessionSpec)
        assert child.backend is BACKEND


@given(strategies.supervisor_flags(max_restarts=st.just(7)))
def test_supervisor_flags_are_what_open_supervisor_takes(flags: dict[str, Any]) -> None:
    """They are keywords for it."""
    open_supervisor(**flags)
    assert flags["max_restarts"] == 7


@given(strategies.intensities(max_seconds=st.just(2.0)), st.floats(0, 1e6))
def test_intensities_are_fresh(intensity: RestartIntensity, now: float) -> None:
    """Nothing has happened in them yet."""
    assert intensity.max_seconds == 2.0
    assert intensity.within(now) == ()


@given(strategies.backoffs(factor=st.just(1.0)), st.integers(1, 100), st.floats(0, 1))
def test_backoffs_give_delays(backoff: Backoff, consecutive: int, chance: float) -> None:
    """Finite, and not below nothing."""
    assert backoff.factor == 1.0
    assert 0 <= backoff.delay(consecutive, chance) < math.inf


@given(strategies.crash_schedules(sessions=3, seconds=10, max_size=5))
def test_crash_schedules_are_in_order(schedule: list[Crash]) -> None:
    """Within what was asked for."""
    assert len(schedule) <= 5
    assert [crash.time for crash in schedule] == sorted(crash.time for crash in schedule)
    for crash in schedule:
        assert 0 <= crash.time <= 10
        assert crash.which in range(3)
        assert crash.how in ("crash", "stop", "restart", "terminate")


def test_an_unknown_field_is_refused() -> None:
    """By name, like everywhere."""
    with pytest.raises(ConfigurationError, match="did you mean 'model'"):
        find(strategies.session_options(modle=st.just("x")), lambda _: True)


# ---- the corners --------------------------------------------------------------------------------

_SPEC = strategies.session_specs()
_CLI = strategies.session_options(cli=True)
_SUPERVISOR = strategies.supervisor_specs()
_SCHEDULE = strategies.crash_schedules()


@pytest.mark.parametrize(
    ("strategy", "corner"),
    [
        (strategies.session_options(), lambda it: it == SessionOptions()),
        (strategies.session_options(), lambda it: it.api_key is not None),
        (strategies.session_options(), lambda it: it.auth_token is not None),
        (strategies.session_options(), lambda it: it.timeout == math.inf),
        (strategies.session_options(), lambda it: it.max_queue == 0),
        (strategies.session_options(), lambda it: it.system_prompt == ""),
        (_CLI, lambda it: it.can_use_tool is not None),
        (_CLI, lambda it: it.permission_prompt_tool is not None),
        (_CLI, lambda it: it.resume == "last" and not it.fork_session),
        (_CLI, lambda it: bool(it.continue_conversation and it.fork_session)),
        (_CLI, lambda it: it.tools == ()),
        (_CLI, lambda it: None in (it.env or {}).values()),
        (_SPEC, lambda it: it.restart == "transient" and it.significant),
        (_SPEC, lambda it: it.shutdown == 0),
        (_SPEC, lambda it: it.shutdown == math.inf),
        (_SPEC, lambda it: it.name is not None and it.id is not None and it.id != it.name),
        (_SPEC, lambda it: it.name == 0),
        (_SUPERVISOR, lambda it: not it.specs),
        (_SUPERVISOR, lambda it: any(isinstance(spec, SupervisorSpec) for spec in it.specs)),
        (_SUPERVISOR, lambda it: any(spec.significant for spec in it.specs)),
        (_SUPERVISOR, lambda it: it.significant),
        (_SUPERVISOR, lambda it: it.max_sessions == len(it.specs) > 1),
        (_SUPERVISOR, lambda it: it.strategy == "rest_for_one" and len(it.specs) == 4),
        (_SUPERVISOR, lambda it: it.max_restarts == 0),
        (strategies.strategies(), lambda it: it == "rest_for_one"),
        (strategies.auto_shutdowns(), lambda it: it == "all_significant"),
        (strategies.intensities(), lambda it: it.max_restarts == 0 and it.max_seconds < 1),
        (strategies.backoffs(), lambda it: it.maximum < it.initial),
        (strategies.backoffs(), lambda it: it.max_consecutive == 1),
        (_SCHEDULE, lambda it: not it),
        (_SCHEDULE, lambda it: len(it) > 1 and it[0].time == it[1].time),
        (_SCHEDULE, lambda it: {crash.how for crash in it} >= {"crash", "terminate"}),
        (_SCHEDULE, lambda it: {crash.which for crash in it} >= {0, 3}),
    ],
)
def test_the_corners_are_reached(strategy: Any, corner: Callable[[Any], bool]) -> None:
    """What a property test wants to meet is met."""
    find(strategy, corner, settings=_NO_SHRINKING)
