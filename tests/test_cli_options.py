"""The options that only the Claude CLI has: what is taken, and what is refused at the door."""

import functools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st

from trio_claude import (
    ConfigurationError,
    HookMatcher,
    PermissionResult,
    PermissionResultAllow,
    SessionOptions,
    SessionSpec,
    ToolPermissionContext,
    configure,
)
from trio_claude._callbacks import HOOK_EVENTS
from trio_claude._cli_options import OPTION_OF_FLAG, OPTION_OF_VARIABLE


async def may_use(
    tool: str, tool_input: Mapping[str, Any], context: ToolPermissionContext
) -> PermissionResult:
    """Whatever it is."""
    return PermissionResultAllow()


async def hook(given_input: Mapping[str, Any], tool_use_id: str | None) -> None:
    """Nothing to say."""


class MayUse:
    """Called like the function."""

    async def __call__(self, *about: object) -> PermissionResult:
        """Whatever it is."""
        return PermissionResultAllow()


class Server:
    """An MCP server object is anything that is no mapping."""


def not_async(*about: object) -> None:
    """What cannot be awaited."""


SERVER = Server()
STDIO = {"command": "server", "args": ["-v"], "env": {"TOKEN": "hunter2"}}

_BOOLS: tuple[list[Any], list[Any], str] = ([True, False], [0, 1, "yes"], "True or False")
_PATH: tuple[list[Any], list[Any], str] = (["/srv", "a/b"], ["", "a\0b", b"/srv", 1], "a path")
_PATHS: tuple[list[Any], list[Any], str] = (
    [(), ["/a", "b"]],
    ["/a", [""], [b"a"], Path("/a"), {"/a"}],
    "a list of paths",
)
_STRINGS: tuple[list[Any], list[Any], str] = (
    [(), ["Read", "Bash(git log:*)"]],
    ["Read", [""], [1], {"Read"}],
    "a list of texts that are not empty",
)

# Each option: values that are valid, values that are not, and how that is said.
CLI_TABLE: dict[str, tuple[list[Any], list[Any], str]] = {
    "cwd": _PATH,
    "add_dir": _PATHS,
    "tools": _STRINGS,
    "allowed_tools": _STRINGS,
    "disallowed_tools": _STRINGS,
    "permission_mode": (
        ["default", "acceptEdits", "plan", "bypassPermissions", "dontAsk", "auto"],
        ["", "accept_edits", 1, ["plan"]],
        "one of default, acceptEdits, plan, bypassPermissions, dontAsk, auto",
    ),
    "can_use_tool": (
        [may_use, MayUse(), functools.partial(may_use), functools.partial(MayUse())],
        [not_async, MayUse, "allow", True, functools.partial(not_async)],
        "an async function",
    ),
    "permission_prompt_tool": (["mcp__a__ask"], ["", " ", may_use], "the name of a tool"),
    "hooks": (
        [{}, {"PreToolUse": [HookMatcher([hook], "Bash")], "Stop": (HookMatcher([hook]),)}],
        [
            {"PreToolUs": []},
            {"Stop": HookMatcher([hook])},
            {"Stop": [hook]},
            {1: []},
            [HookMatcher([hook])],
        ],
        "a mapping of events (PreToolUse, PostToolUse,",
    ),
    "mcp_servers": (
        [{}, {"a": STDIO, "b": {"type": "http", "url": "http://h"}, "c": SERVER}],
        [
            {"": STDIO},
            {1: STDIO},
            {"a": {}},
            {"a": {"type": "sdk"}},
            {"a": {"command": "a", 1: 2}},
            {"a": "server"},
            {"a": None},
            {"a": Server},
            {"a": [STDIO]},
            "a",
            [SERVER],
        ],
        "a mapping of names to MCP servers",
    ),
    "mcp_config": _PATH,
    "strict_mcp_config": _BOOLS,
    "agents": (
        [{}, {"reviewer": {"description": "Reviews.", "prompt": "Review."}}],
        [{"a": "Review."}, {1: {}}, ["a"], "a"],
        "a mapping of names to mappings",
    ),
    "plugins": _PATHS,
    "settings": (
        [{}, {"cleanupPeriodDays": 3}, "settings.json"],
        ["", {1: 2}, [("a", 1)], b"a", "a\0"],
        "a path or a mapping with text keys",
    ),
    "setting_sources": (
        [(), ["user", "project", "local"]],
        ["user", ["users"], [1], {"user"}, [["user"]]],
        "a list of user, project, local",
    ),
    "max_turns": ([1, 7], [0, -1, True, 1.5, "1", math.inf], "a whole number, 1 or more"),
    "max_budget_usd": (
        [0.01, 5],
        [0, -1, math.inf, math.nan, True, "1"],
        "a number of dollars above 0",
    ),
    "fallback_model": (["haiku"], ["", " ", 1], "the name of a model"),
    "resume": (["last", "some-id"], ["", " ", True], "the id of a conversation, or 'last'"),
    "continue_conversation": _BOOLS,
    "fork_session": _BOOLS,
    "enable_file_checkpointing": _BOOLS,
    "include_hook_events": _BOOLS,
    "config_dir": _PATH,
    "env": (
        [{}, {"A": "", "B": "hunter2", "C": None}],
        [{"": "a"}, {"A=B": "a"}, {"A\0": "a"}, {"A": "a\0"}, {"A": 1}, {1: "a"}, ["A"], "A=1"],
        "a mapping of variables' names to texts, or to None",
    ),
    "inherit_env": (
        [True, False, (), ["PATH"]],
        [1, 0, "PATH", [""], ["A=B"], [1]],
        "True, False, or a list of variables' names",
    ),
    "extra_args": (
        [{}, {"--name": "reviewer", "bare": None, "debug": "-api"}],
        [{"-p": None}, {"": None}, {"a b": None}, {"--a=b": None}, {"name": 1}, {1: "a"}, ["bare"]],
        "a mapping of flags to texts, or to None",
    ),
    "max_buffer_size": ([1, 2**25], [0, -1, True, 1.5, math.inf], "a whole number of bytes, 1 or"),
    "stderr": ([not_async, [].append], [hook, MayUse(), Server, "a", 1], "a function, not an asyn"),
}


@pytest.mark.parametrize(
    ("name", "value", "kept"),
    [
        ("cwd", Path("/srv"), "/srv"),
        ("mcp_config", Path("/srv"), "/srv"),
        ("config_dir", Path("/srv"), "/srv"),
        ("settings", Path("/srv"), "/srv"),
        ("add_dir", [Path("/srv"), "a"], ("/srv", "a")),
        ("plugins", (Path("/srv"), "a"), ("/srv", "a")),
    ],
)
def test_paths_become_texts(name: str, value: object, kept: object) -> None:
    """So that options are equal where they mean the same, and can be hashed."""
    options = SessionOptions(**{name: value})  # type: ignore[arg-type]
    assert getattr(options, name) == kept
    again = SessionOptions(**{name: kept})  # type: ignore[arg-type]
    assert options == again
    assert hash(options) == hash(again)


def test_options_with_mappings_and_functions_can_be_hashed() -> None:
    """As names of the others' layers are, and as specs are kept in sets."""
    options = SessionOptions(
        hooks={"Stop": [HookMatcher([hook])]},
        mcp_servers={"a": SERVER},
        agents={},
        settings={"a": []},
        env={"A": "1"},
        extra_args={},
        can_use_tool=may_use,
        stderr=not_async,
        inherit_env=["PATH"],
    )
    assert len({options, SessionOptions()}) == 2


@pytest.mark.parametrize("cls", [SessionOptions, SessionSpec, configure])
def test_what_excludes_each_other_is_refused(cls: Any) -> None:
    """Two ways to answer one question, and two conversations to go on with."""
    with pytest.raises(ConfigurationError, match="can_use_tool and permission_prompt_tool are"):
        cls(can_use_tool=may_use, permission_prompt_tool="mcp__a__ask")
    with pytest.raises(ConfigurationError, match="resume and continue_conversation are two"):
        cls(resume="last", continue_conversation=True)
    cls(resume="last", continue_conversation=False)
    configure()


@pytest.mark.parametrize("dashes", ["", "--"])
@pytest.mark.parametrize("flag", OPTION_OF_FLAG)
def test_a_flag_that_is_an_option_is_refused(flag: str, dashes: str) -> None:
    """By the option's name: else two places would say it."""
    with pytest.raises(ConfigurationError) as caught:
        SessionOptions(extra_args={dashes + flag: "hunter2"})
    assert str(caught.value) == (
        f"extra_args must not set '{dashes}{flag}': use the option {OPTION_OF_FLAG[flag]}"
    )


def test_a_flag_that_is_ours_is_refused() -> None:
    """How we talk with the program is not the user's to say."""
    with pytest.raises(ConfigurationError, match=r"'--output-format': the session does$"):
        SessionOptions(extra_args={"--output-format": "text"})


@pytest.mark.parametrize("variable", OPTION_OF_VARIABLE)
def test_a_variable_that_is_an_option_is_refused(variable: str) -> None:
    """By the option's name, and its value is not shown. To unset one is another thing."""
    with pytest.raises(ConfigurationError) as caught:
        SessionOptions(env={variable: "hunter2"})
    assert str(caught.value) == (
        f"env must not set {variable!r}: use the option {OPTION_OF_VARIABLE[variable]}"
    )
    assert SessionOptions(env={variable: None}).env == {variable: None}


def test_what_the_tables_name_are_options() -> None:
    """An error that names an option names one that there is."""
    options = {*SessionOptions.__annotations__, *CLI_TABLE}
    for names in (*OPTION_OF_FLAG.values(), *OPTION_OF_VARIABLE.values()):
        assert set(names.split(" or ")) <= options


@pytest.mark.parametrize(
    "secret",
    [
        {"env": {"TOKEN": "hunter2"}},
        {"mcp_servers": {"a": STDIO}},
        {"agents": {"a": {"mcpServers": [STDIO]}}},
        {"settings": {"env": {"TOKEN": "hunter2"}}},
    ],
)
def test_what_may_hold_secrets_is_not_shown(secret: dict[str, Any]) -> None:
    """Only that it is there."""
    (name,) = secret
    assert repr(SessionOptions(**secret)) == f"SessionOptions({name}='***')"


@given(st.text(min_size=1), st.sampled_from(["env", "mcp_servers", "agents", "settings"]))
def test_no_error_shows_a_secret(text: str, name: str) -> None:
    """Whatever is wrong with it."""
    secret = f"hunter2{text}"
    with pytest.raises(ConfigurationError) as caught:
        SessionOptions(**{name: [secret]})  # type: ignore[arg-type]
    assert "hunter2" not in str(caught.value)


def test_a_typo_in_the_name_of_an_event_is_refused() -> None:
    """It would never be called; the message has those that there are."""
    with pytest.raises(ConfigurationError) as caught:
        SessionOptions(hooks={"PreToolUs": []})  # type: ignore[dict-item]
    assert all(event in str(caught.value) for event in HOOK_EVENTS)
