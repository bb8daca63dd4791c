"""What a supervisor is told: every flag, what is refused, and by which words."""

from __future__ import annotations

import math
from collections.abc import Callable

import attrs
import pytest

import trio_claude
from trio_claude import (
    Backoff,
    ConfigurationError,
    Global,
    LocalRegistry,
    SessionOptions,
    SessionSpec,
    SupervisorSpec,
    Via,
)


def test_the_defaults() -> None:
    """They are OTP's; a supervisor below another has all the time to stop that it needs."""
    assert attrs.asdict(SupervisorSpec(), recurse=False) == {
        "name": None,
        "specs": (),
        "strategy": "one_for_one",
        "max_restarts": 3,
        "max_seconds": 5.0,
        "auto_shutdown": "never",
        "max_sessions": None,
        "backoff": None,
        "defaults": None,
        "on_event": None,
        "id": None,
        "restart": "permanent",
        "shutdown": math.inf,
        "significant": False,
    }


BAD: list[tuple[dict[str, object], str]] = [
    ({"name": []}, "name must be hashable, and no Via: those are for sessions, not []"),
    ({"name": Via(LocalRegistry(), "a")}, "name must be hashable, and no Via"),
    ({"strategy": "all"}, "strategy must be one of one_for_one, one_for_all, rest_for_one, not"),
    ({"strategy": None}, "strategy must not be None"),
    ({"strategy": []}, "strategy must be one of one_for_one"),
    ({"max_restarts": -1}, "max_restarts must be a whole number, 0 or more, not -1"),
    ({"max_restarts": 2.5}, "max_restarts must be a whole number, 0 or more, not 2.5"),
    ({"max_restarts": None}, "max_restarts must not be None"),
    ({"max_seconds": 0}, "max_seconds must be a finite number of seconds above 0, not 0"),
    ({"max_seconds": math.inf}, "max_seconds must be a finite number of seconds above 0, not inf"),
    ({"max_seconds": None}, "max_seconds must not be None"),
    ({"auto_shutdown": "yes"}, "auto_shutdown must be one of never, any_significant, all_signif"),
    ({"auto_shutdown": None}, "auto_shutdown must not be None"),
    ({"max_sessions": -1}, "max_sessions must be a whole number, 0 or more, or None, not -1"),
    ({"backoff": 1.0}, "backoff must be a Backoff, not 1.0"),
    ({"defaults": {"model": "opus"}}, "defaults must be SessionOptions, not {'model': 'opus'}"),
    ({"defaults": SessionSpec()}, "defaults must be SessionOptions, not SessionSpec()"),
    (
        {"on_event": "print"},
        "on_event must be a function that is not async: nobody would await it, not 'print'",
    ),
    ({"specs": SessionSpec()}, "specs must be a list of specs, not SessionSpec()"),
    ({"specs": SupervisorSpec()}, "specs must be a list of specs, not SupervisorSpec()"),
    ({"specs": 3}, "specs must be a list of specs, not 3"),
    ({"specs": ["a"]}, "specs must hold SessionSpec and SupervisorSpec only, not 'a'"),
]
BAD_AS_CHILD: list[tuple[dict[str, object], str]] = [
    ({"id": []}, "id must be hashable, not []"),
    ({"restart": "always"}, "restart must be 'permanent', 'transient' or 'temporary', not"),
    ({"restart": None}, "restart must not be None"),
    ({"shutdown": -1}, "shutdown must be a number of seconds, 0 or more, not -1"),
    ({"shutdown": None}, "shutdown must not be None"),
    ({"significant": 1}, "significant must be True or False, not 1"),
    ({"significant": None}, "significant must not be None"),
    ({"restarts": 3}, "SupervisorSpec has no option 'restarts': did you mean 'restart'?"),
    ({"zzz": 3}, "SupervisorSpec has no option 'zzz': valid are: name, specs, strategy, "),
]


@pytest.mark.parametrize(("options", "message"), BAD + BAD_AS_CHILD)
def test_a_bad_option_is_refused(options: dict[str, object], message: str) -> None:
    """By the option's name, with what is valid."""
    with pytest.raises(ConfigurationError) as raised:
        SupervisorSpec(**options)  # type: ignore[arg-type]

    assert str(raised.value).startswith(message)


@pytest.mark.parametrize("make", [trio_claude.open_supervisor, trio_claude.run_supervisor])
@pytest.mark.parametrize(("options", "message"), BAD)
async def test_a_bad_option_is_refused_at_the_door(
    make: Callable[..., object], options: dict[str, object], message: str
) -> None:
    """``open_supervisor`` refuses at the call, before its block; the other when it is awaited."""
    with pytest.raises(ConfigurationError) as raised:
        if make is trio_claude.run_supervisor:
            await trio_claude.run_supervisor(**options)  # type: ignore[arg-type]
        else:
            make(**options)

    assert str(raised.value).startswith(message)


def test_what_contradicts_itself_is_refused() -> None:
    """The combinations that OTP calls bad."""
    child = SessionSpec(name="a", restart="transient", significant=True)

    with pytest.raises(ConfigurationError, match="its supervisor's auto_shutdown is 'never'"):
        SupervisorSpec(specs=[child])
    with pytest.raises(ConfigurationError, match="its supervisor's auto_shutdown is 'never'"):
        SupervisorSpec(specs=[SupervisorSpec(restart="temporary", significant=True)])
    with pytest.raises(ConfigurationError, match="permanent is always started again"):
        SupervisorSpec(significant=True)
    assert SupervisorSpec(specs=[child], auto_shutdown="any_significant").specs == (child,)


def test_an_id_is_given_once() -> None:
    """Ids, and names that stand for them, are unique; those without either don't collide."""
    with pytest.raises(ConfigurationError, match="two of the specs have the id 'a'"):
        SupervisorSpec(specs=[SessionSpec(name="a"), SupervisorSpec(id="a")])
    SupervisorSpec(specs=[SessionSpec(name="a", id=1), SessionSpec(id="a"), *[SessionSpec()] * 2])


def test_more_specs_than_sessions_are_refused() -> None:
    """Who allows two sessions can't begin with three."""
    specs = [SessionSpec() for _ in range(3)]

    with pytest.raises(ConfigurationError, match="max_sessions is 2, and there are 3 specs"):
        SupervisorSpec(specs=specs, max_sessions=2)
    assert SupervisorSpec(specs=specs, max_sessions=3).max_sessions == 3


def test_specs_may_be_any_iterable() -> None:
    """They are kept as a tuple, so a generator is read once."""
    specs = SupervisorSpec(specs=(SessionSpec(name=name) for name in "ab")).specs

    assert [spec.name for spec in specs] == ["a", "b"]


def test_a_spec_shows_what_is_set() -> None:
    """And keeps secrets, those of the specs inside it too."""
    spec = SupervisorSpec(
        name=Global("s"),
        specs=[SessionSpec(name="a", api_key="sk-secret")],
        defaults=SessionOptions(auth_token="tok-secret"),
        backoff=Backoff(1.0),
    )

    assert repr(spec).startswith("SupervisorSpec(name=Global(key='s'), specs=(SessionSpec(")
    assert "secret" not in repr(spec)
    assert repr(SupervisorSpec()) == "SupervisorSpec()"


def test_a_spec_can_be_varied() -> None:
    """``attrs.evolve`` makes another, checked like the first."""
    spec = SupervisorSpec(name="s", max_restarts=1)

    assert attrs.evolve(spec, max_restarts=2) == SupervisorSpec(name="s", max_restarts=2)
    with pytest.raises(ConfigurationError, match="max_restarts"):
        attrs.evolve(spec, max_restarts=-2)
