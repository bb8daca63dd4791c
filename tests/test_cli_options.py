"""The options that only the Claude CLI has: what is taken, and what is refused at the door."""

import functools
import json
import math
import traceback
from pathlib import Path
from types import MappingProxyType
from typing import Any

import attrs
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
    tool: str, tool_input: dict[str, Any], context: ToolPermissionContext
) -> PermissionResult:
    """Whatever it is."""
    return PermissionResultAllow()


async def hook(given_input: dict[str, Any], tool_use_id: str | None) -> None:
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
        [[HookMatcher([hook])], HookMatcher([hook]), hook, "Stop", True],
        "a mapping of events to lists of HookMatcher, not ",
    ),
    "mcp_servers": (
        [{}, {"a": STDIO, "b": {"type": "http", "url": "http://h"}, "c": SERVER}],
        [{"": STDIO}, {" ": STDIO}, {1: STDIO}, "a", [SERVER], SERVER],
        "a mapping of names to MCP servers, not this ",
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
        ["", {1: 2}, [("a", 1)], b"{}", "a\0"],
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
        [{"": "a"}, {"A=B": "a"}, {"A\0": "a"}, {1: "a"}, ["A"], "A=1"],
        "a mapping of variables' names to texts, or to None, not this ",
    ),
    "inherit_env": (
        [True, False, (), ["PATH"]],
        [1, 0, "PATH", [""], ["A=B"], [1]],
        "True, False, or a list of variables' names",
    ),
    "extra_args": (
        [{}, {"--name": "reviewer", "bare": None, "debug": "-api"}],
        [["bare"], "bare", ("--name", "a"), 1],
        "a mapping of flags to texts, or to None, not this ",
    ),
    "max_buffer_size": ([1, 2**25], [0, -1, True, 1.5, math.inf], "a whole number of bytes, 1 or"),
    "stderr": ([not_async, [].append], [hook, MayUse(), Server, "a", 1], "a function, not an asyn"),
}


SERVER_WORDS = (
    "must be a mapping with a 'command' or a 'url', or a server object of the mcp package, not "
)
FLAG_WORDS = "is no long flag, such as '--name' or 'name'; its value is the other half of the item"

# Each option that has items: one that is wrong, where it is, and how that is said.
WRONG_ITEMS: list[tuple[str, Any, Any, str]] = [
    ("hooks", "PreToolUs", [], "hooks: there is no event 'PreToolUs': did you mean 'PreToolUse'?"),
    (
        "hooks",
        "Ended",
        [],
        f"hooks: there is no event 'Ended': valid are: {', '.join(HOOK_EVENTS)}",
    ),
    ("hooks", 1, [], f"hooks: there is no event 1: valid are: {', '.join(HOOK_EVENTS)}"),
    *(
        (
            "hooks",
            "Stop",
            value,
            "hooks['Stop'] must be a list of HookMatcher, such as [HookMatcher([my_hook])], not "
            f"{value!r}",
        )
        for value in (HookMatcher([hook]), [hook], [HookMatcher([hook]), hook], "Bash", None)
    ),
    *(
        ("mcp_servers", "a", value, f"mcp_servers['a'] {SERVER_WORDS}this {of} (not shown)")
        for value, of in (
            ({}, "dict"),
            ({"type": "sdk"}, "dict"),
            ({"command": " "}, "dict"),
            ({"url": 1}, "dict"),
            ({"command": "a", 1: 2}, "dict"),
            ("server", "str"),
            (b"server", "bytes"),
            (1, "int"),
            (None, "NoneType"),
            (Server, "type"),
            ([STDIO], "list"),
        )
    ),
    *(
        (
            "env",
            "A",
            value,
            f"env['A'] must be text, or None to unset it, not this {of} (not shown)",
        )
        for value, of in ((1, "int"), (True, "bool"), (b"a", "bytes"), (["a"], "list"))
    ),
    *(
        ("extra_args", flag, None, f"extra_args: {flag!r} {FLAG_WORDS}")
        for flag in ("-p", "--p", "", "--", "a b", "name\n", "---name", 1)
    ),
    *(
        ("extra_args", flag, None, f"extra_args: {shown} {FLAG_WORDS}")
        for flag, shown in (
            ("--name=hunter2", "'--name=...'"),
            ("name=a=hunter2", "'name=...'"),
            ("=hunter2", "'=...'"),
            ("a b=hunter2\n", "'a b=...'"),
            (("=", "hunter2"), '"(\'=..."'),
        )
    ),
    *(
        (
            "extra_args",
            "--name",
            value,
            "extra_args['--name'] must be text, or None for a flag without a value, not this "
            f"{of} (not shown)",
        )
        for value, of in ((1, "int"), (True, "bool"), (b"a", "bytes"), (["a"], "list"))
    ),
]
# One that is right, and may stand before it.
RIGHT_ITEMS: dict[str, dict[str, Any]] = {
    "hooks": {"SessionEnd": [HookMatcher([hook])]},
    "mcp_servers": {"right": STDIO},
    "env": {"RIGHT": "a", "UNSET": None},
    "extra_args": {"right": "a", "--bare": None},
}


@pytest.mark.parametrize(("name", "key", "value", "said"), WRONG_ITEMS)
@pytest.mark.parametrize("cls", [SessionOptions, SessionSpec, configure])
def test_an_item_that_is_wrong_is_named(
    cls: Any, name: str, key: Any, value: object, said: str
) -> None:
    """At each door: which one it is, and what is valid; not those beside it."""
    for items in ({key: value}, {**RIGHT_ITEMS[name], key: value}, MappingProxyType({key: value})):
        with pytest.raises(ConfigurationError) as caught:
            cls(**{name: items})
        assert said == str(caught.value)


@pytest.mark.parametrize("name", ["env", "extra_args"])
def test_a_value_that_ends_too_early_is_refused(name: str) -> None:
    """What the system would cut at a NUL is not passed on, nor shown."""
    with pytest.raises(ConfigurationError, match=rf"^{name}\['WHO'\] must be text") as caught:
        SessionOptions(**{name: {"WHO": "hunter2\0"}})  # type: ignore[arg-type]
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "text", ['{"env": {"A": "1"}, "n": [null]}', ' \n{"env": {"A": "1"}, "n": [null]}\t']
)
def test_settings_can_be_json(text: str) -> None:
    """They are the same as the mapping that the text says, and as hidden."""
    options = SessionOptions(settings=text)
    assert {"env": {"A": "1"}, "n": [None]} == options.settings
    assert SessionOptions(settings={"env": {"A": "1"}, "n": [None]}) == options
    assert "SessionOptions(settings='***')" == repr(options)
    assert options == attrs.evolve(options)


@given(st.dictionaries(st.text(), st.none() | st.booleans() | st.integers() | st.text()))
def test_any_settings_can_be_json(settings: dict[str, Any]) -> None:
    """Written as text and read again, they are what they were."""
    assert SessionOptions(settings=settings) == SessionOptions(settings=json.dumps(settings))


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "{'hunter2': 1}",
        '{"hunter2": 1} hunter2',
        '{"hunter2": 1,}',
        pytest.param('{"hunter2": ' + "[" * 100_000, id="too deep"),
        pytest.param('{"hunter2": ' + "1" * 5_000 + "}", id="too large a number"),
    ],
)
def test_settings_that_begin_like_json_and_are_none(text: str) -> None:
    """They are no path either; and what they are is not shown, nor by what went before."""
    with pytest.raises(ConfigurationError) as caught:
        SessionOptions(settings=text)
    assert "settings begin like JSON, and are none (not shown)" == str(caught.value)
    assert caught.value.__suppress_context__
    assert "hunter2" not in "".join(traceback.format_exception_only(caught.value))


def test_settings_that_do_not_begin_like_json_are_a_path() -> None:
    """Whatever they end like: a list is none of settings."""
    assert "[{}]" == SessionOptions(settings="[{}]").settings
    assert "a/{b}" == SessionOptions(settings=Path("a/{b}")).settings


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


_SECRETS = st.builds("hunter2{}".format, st.text())
# What is neither a text nor a mapping as JSON can have it, with a secret in it.
_WRONG = st.one_of(
    _SECRETS.map(lambda text: [text]),
    _SECRETS.map(lambda text: (text, {"a": text})),
    _SECRETS.map(str.encode),
    st.builds(lambda text, key: {key: text}, _SECRETS, st.integers()),
)
_JSON_THAT_IS_NONE = st.builds(
    "{}{}{}".format,
    st.sampled_from(["{", " {", '{"a": ', "{'a': 1} "]),
    _SECRETS,
    st.sampled_from(["", "'}", "}"]),
)
_WITH_A_SECRET = st.one_of(
    st.tuples(st.sampled_from(["env", "mcp_servers", "agents", "settings", "extra_args"]), _WRONG),
    st.tuples(st.sampled_from(["env", "mcp_servers", "agents", "extra_args"]), _SECRETS),
    st.tuples(st.just("settings"), _JSON_THAT_IS_NONE),
    st.tuples(st.just("settings"), _SECRETS.map("{}\0".format)),
    st.tuples(
        st.sampled_from(["env", "mcp_servers", "agents", "extra_args"]),
        st.builds(
            lambda right, wrong: {"right": right, "wrong": wrong},
            _SECRETS | st.fixed_dictionaries({"command": st.just("a"), "env": _SECRETS}),
            _WRONG | _SECRETS.map("{}\0".format),
        ),
    ),
    # A variable's name may be one and its value: "TOKEN=hunter2".
    st.tuples(st.just("env"), st.builds(lambda text: {f"TOKEN={text}": "a"}, _SECRETS)),
    st.tuples(
        st.just("env"),
        st.builds(
            lambda name, text: {name: text}, st.sampled_from(sorted(OPTION_OF_VARIABLE)), _SECRETS
        ),
    ),
    st.tuples(
        st.just("extra_args"),
        st.builds(
            lambda flag, text: {"right": text, flag: text},
            st.sampled_from([*OPTION_OF_FLAG, "--verbose", "-p", "a b", ""]),
            _SECRETS,
        ),
    ),
)


@given(_WITH_A_SECRET, st.sampled_from([SessionOptions, SessionSpec, configure]))
def test_no_error_shows_a_secret(wrong: tuple[str, Any], door: Any) -> None:
    """Whatever is wrong with what may have one in it, and at whichever door."""
    name, value = wrong
    with pytest.raises(ConfigurationError, match=rf"^{name}\b") as caught:
        door(**{name: value})
    shown = "".join(traceback.format_exception_only(caught.value))
    assert "hunter2" not in f"{shown} {caught.value!r} {caught.value.__context__!r}"
