"""Permissions and hooks: what users' functions are given, and what they may answer."""

from typing import Any

import attrs
import pytest

from trio_claude import (
    ConfigurationError,
    HookMatcher,
    PermissionResultAllow,
    PermissionResultDeny,
    ToolPermissionContext,
)
from trio_claude._callbacks import HOOK_EVENTS


async def hook(given: dict[str, Any], tool_use_id: str | None) -> None:
    """Nothing to say."""


def not_async(given: dict[str, Any], tool_use_id: str | None) -> None:
    """What cannot be awaited."""


class Hook:
    """Called like the function."""

    async def __call__(self, given: dict[str, Any], tool_use_id: str | None) -> None:
        """Nothing to say."""


def test_they_are_values() -> None:
    """With few fields, the first of which needn't be named; frozen, equal, with a hash."""
    rule = {"type": "setMode", "mode": "plan", "destination": "session"}
    allow = PermissionResultAllow({"a": 1}, [rule])
    assert allow == PermissionResultAllow(updated_input={"a": 1}, updated_permissions=(rule,))
    assert PermissionResultAllow() == PermissionResultAllow(None, None)
    deny = PermissionResultDeny("No.", interrupt=True)
    assert (deny.message, deny.interrupt) == ("No.", True)
    assert PermissionResultDeny() == PermissionResultDeny(message="", interrupt=False)
    matcher = HookMatcher([hook], "Bash", 5)
    assert matcher == HookMatcher(hooks=(hook,), matcher="Bash", timeout=5.0)
    context = ToolPermissionContext(tool_use_id="toolu_1")
    assert (context.agent_id, context.suggestions, context.extra) == (None, (), {})
    for value in (allow, deny, matcher, context):
        assert len({value, attrs.evolve(value)}) == 1
        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            value.x = 1  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("cls", "name", "bad", "valid"),
    [
        (PermissionResultAllow, "updated_input", [["a"], "a", {1: 2}], "a mapping with text keys"),
        (
            PermissionResultAllow,
            "updated_permissions",
            [{"type": "setMode"}, ["setMode"], "a", [{1: 2}]],
            "a list of mappings with text keys",
        ),
        (PermissionResultDeny, "message", [b"", 1], "text"),
        (PermissionResultDeny, "interrupt", [1, "yes"], "True or False"),
        (
            HookMatcher,
            "hooks",
            [[], (), hook, [not_async], [hook, not_async], "a", [Hook]],
            "a list of async functions",
        ),
        (
            HookMatcher,
            "matcher",
            [
                "",
                " ",
                ["Bash"],
                b"Bash",
                1,
                "Bash(",
                "[Write",
                "Write|Edit)",
                "Bash\\",
                "**",
                "*Bash",
                "(?<tool",
                "(?<1>Bash)",
                "\\p{",
                "x{99999999999999999999}",
                "(" * 10_000 + ")" * 10_000,
            ],
            "the name of a tool, or a regular expression",
        ),
        (
            HookMatcher,
            "timeout",
            [0, -1, True, "1", float("inf"), float("nan")],
            "a finite number of seconds above 0",
        ),
    ],
)
def test_what_is_not_valid_is_refused_by_name(
    cls: type, name: str, bad: list[Any], valid: str
) -> None:
    """What it is called, and what is valid."""
    others: dict[str, Any] = {"hooks": [hook]} if cls is HookMatcher else {}
    for value in bad:
        with pytest.raises(ConfigurationError) as caught:
            cls(**{**others, name: value})
        assert str(caught.value).startswith(f"{name} must be {valid}, not ")


@pytest.mark.parametrize(
    ("cls", "name"),
    [
        (PermissionResultDeny, "message"),
        (PermissionResultDeny, "interrupt"),
        (HookMatcher, "hooks"),
    ],
)
def test_what_is_needed_cannot_be_none(cls: type, name: str) -> None:
    """There is nothing that it would stand for."""
    with pytest.raises(ConfigurationError, match=f"^{name} must not be None$"):
        cls(**{name: None})


@pytest.mark.parametrize("cls", [PermissionResultAllow, PermissionResultDeny, HookMatcher])
def test_a_typo_is_refused(cls: type) -> None:
    """With a hint."""
    (name, *_) = (field.name for field in attrs.fields(cls))
    with pytest.raises(ConfigurationError, match=f"has no option '{name}x': did you mean '{name}'"):
        cls(**{f"{name}x": 1})


def test_a_hook_may_be_any_async_callable() -> None:
    """An object, and a method."""
    called = Hook()
    assert HookMatcher([called, called.__call__]).hooks == (called, called.__call__)


@pytest.mark.parametrize(
    "matcher",
    [
        "Bash",
        "Write|Edit",
        "mcp__.*",
        "^Notebook",
        "mcp__memory__(create|delete)_.+",
        "*",
        # JavaScript's.
        "(?<tool>Write|Edit)",
        "(?<!mcp__)(?<=x)Bash",
        "\\p{L}+",
        "\\P{Script=Greek}",
        "Bash[^]",
        "Bash|[]",
        # Python warns of it.
        "[[a]",
        "[a&&b]",
    ],
)
def test_a_matcher_is_a_name_or_an_expression(matcher: str) -> None:
    """It is kept as it was given, for it is the agent that matches with it."""
    assert matcher == HookMatcher([hook], matcher).matcher


def test_events_are_named_once() -> None:
    """And as the agent names them."""
    assert len(set(HOOK_EVENTS)) == len(HOOK_EVENTS)
    assert {"PreToolUse", "Stop", "SessionStart"} < set(HOOK_EVENTS)
