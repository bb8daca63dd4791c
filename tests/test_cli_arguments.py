"""What the Claude CLI is started with, and told first."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import attrs
import pytest
from hypothesis import given, strategies as st

from tests.test_cli_options import Server, hook, may_use, not_async
from trio_claude import ConfigurationError, HookMatcher, SessionOptions
from trio_claude._cli_options import OPTION_OF_FLAG, OPTION_OF_VARIABLE
from trio_claude._options import EVERY_BACKEND, OPTION_NAMES
from trio_claude._wire.cli_arguments import (
    CLI_OPTIONS,
    arguments,
    changes,
    environment,
    files,
    in_process_servers,
    initialize,
    refuse_unsupported,
)
from trio_claude._wire.requests import MESSAGES_OPTIONS
from trio_claude.testing import strategies

ALWAYS = [
    "--output-format=stream-json",
    "--verbose",
    "--input-format=stream-json",
    "--include-partial-messages",
]
SERVER = Server()
STDIO = {"command": "server", "args": ["-v"], "env": {"TOKEN": "hunter2", "EMPTY": ""}}
HTTP = {"type": "http", "url": "http://h", "headers": {"x-token": "hunter3", "x-home": "${HOME}"}}

any_options = strategies.session_options(cli=True)


# ---- flags --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "flags"),
    [
        ({}, []),
        ({"model": "opus"}, ["--model=opus"]),
        ({"fallback_model": "haiku"}, ["--fallback-model=haiku"]),
        ({"effort": "max"}, ["--effort=max"]),
        ({"permission_mode": "plan"}, ["--permission-mode=plan"]),
        ({"permission_prompt_tool": "mcp__a__b"}, ["--permission-prompt-tool=mcp__a__b"]),
        ({"can_use_tool": may_use}, ["--permission-prompt-tool=stdio"]),
        ({"max_turns": 3}, ["--max-turns=3"]),
        ({"max_budget_usd": 0.5}, ["--max-budget-usd=0.5"]),
        ({"resume": "--model=evil"}, ["--resume=--model=evil"]),
        ({"resume": "a", "fork_session": True}, ["--resume=a", "--fork-session"]),
        ({"continue_conversation": True}, ["--continue"]),
        (
            {"continue_conversation": True, "fork_session": True},
            ["--continue", "--fork-session"],
        ),
        ({"continue_conversation": False, "fork_session": False}, []),
        ({"tools": []}, ["--tools="]),
        ({"tools": ["Read", "Bash"]}, ["--tools=Read,Bash"]),
        ({"allowed_tools": [], "disallowed_tools": ()}, []),
        (
            {"allowed_tools": ["Read", "Bash(git log:*)"], "disallowed_tools": ["Write"]},
            ["--allowedTools=Read,Bash(git log:*)", "--disallowedTools=Write"],
        ),
        ({"setting_sources": []}, ["--setting-sources="]),
        ({"setting_sources": ["user", "local"]}, ["--setting-sources=user,local"]),
        ({"add_dir": [Path("/a"), "-b"]}, ["--add-dir=/a", "--add-dir=-b"]),
        ({"plugins": ["a", "b"]}, ["--plugin-dir=a", "--plugin-dir=b"]),
        ({"strict_mcp_config": True}, ["--strict-mcp-config"]),
        ({"strict_mcp_config": False, "include_hook_events": False}, []),
        ({"include_hook_events": True}, ["--include-hook-events"]),
        ({"mcp_config": Path("-m.json")}, ["--mcp-config=-m.json"]),
        ({"mcp_servers": {}}, []),
        ({"settings": Path("-s.json")}, ["--settings=-s.json"]),
        ({"thinking": {"type": "adaptive"}}, ["--thinking=adaptive"]),
        ({"thinking": {"type": "disabled"}}, ["--thinking=disabled"]),
        (
            {"thinking": {"type": "enabled", "budget_tokens": 2048, "display": "omitted"}},
            ["--max-thinking-tokens=2048", "--thinking-display=omitted"],
        ),
        ({"thinking": {}}, []),
        (
            {"extra_args": {"--name": "-a=b", "bare": None, "debug": ""}},
            ["--name=-a=b", "--bare", "--debug="],
        ),
    ],
)
def test_flags(options: dict[str, Any], flags: list[str]) -> None:
    """Each option is one flag or some, behind those that are always there."""
    assert arguments(SessionOptions(**options)) == ALWAYS + flags


def test_resuming_at_a_message() -> None:
    """What comes after that message is forgotten."""
    assert arguments(SessionOptions(resume="a"), resume_at="b")[-2:] == [
        "--resume=a",
        "--resume-session-at=b",
    ]


def test_mcp_servers() -> None:
    """As the program reads them, in a file; of those in this process their names."""
    options = SessionOptions(mcp_servers={"a": STDIO, "b": HTTP, "c": SERVER})
    assert arguments(options) == ALWAYS
    assert {flag: json.loads(text) for flag, text in files(options).items()} == {
        "--mcp-config": {"mcpServers": {"a": STDIO, "b": HTTP, "c": {"type": "sdk", "name": "c"}}}
    }
    assert in_process_servers(options) == {"c": SERVER}
    assert initialize(options)[0]["sdkMcpServers"] == ["c"]


def test_settings() -> None:
    """Their path is a flag; they themselves go in a file."""
    assert files(SessionOptions(settings="a.json")) == {}
    options = SessionOptions(settings=MappingProxyType({"a": ["é"]}))
    assert arguments(options) == ALWAYS
    assert files(options) == {"--settings": '{"a":["\\u00e9"]}'}
    said = SessionOptions(settings=' {"a": ["é"]}')
    assert (ALWAYS, files(options)) == (arguments(said), files(said))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"fork_session": True}, "fork_session is about a conversation that goes on"),
        ({"thinking": {"type": "sometimes"}}, "thinking must be .* on the Claude CLI"),
        ({"thinking": {"type": "enabled"}}, "thinking must be .* on the Claude CLI"),
        ({"thinking": {"budget_tokens": 7}}, "thinking must be .* on the Claude CLI"),
        ({"thinking": {"type": "adaptive", "x": 1}}, "thinking must be .* on the Claude CLI"),
        ({"model": "a\0b"}, "model has a character that cannot be passed"),
        ({"resume": "\ud800"}, "resume has a character that cannot be passed"),
        ({"extra_args": {"name": "\ud800"}}, "extra_args has a character"),
    ],
)
def test_what_cannot_be_an_argument(options: dict[str, Any], said: str) -> None:
    """It is refused before the program is started, by the option's name."""
    with pytest.raises(ConfigurationError, match=said):
        arguments(SessionOptions(**options))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"settings": {"a": {1, 2}}}, "settings must be JSON, and this is not: a set"),
        ({"settings": '{"a": NaN}'}, "settings must be JSON, and this is not: "),
        ({"mcp_servers": {"a": {"command": "a", "b": b""}}}, "mcp_servers must be JSON"),
    ],
)
def test_what_cannot_be_in_a_file(options: dict[str, Any], said: str) -> None:
    """It is refused before the program is started, by the option's name."""
    with pytest.raises(ConfigurationError, match=said):
        files(SessionOptions(**options))


@given(any_options)
def test_no_argument_is_a_value(options: SessionOptions) -> None:
    """Each begins with two dashes and a flag's name, so none can be taken for another flag."""
    for argument in arguments(options):
        assert argument.startswith("--")
        assert argument[2:3].isalpha()


@given(any_options)
def test_the_flags_are_refused_in_extra_args(options: SessionOptions) -> None:
    """What we say ourselves, nobody says a second time."""
    ours = {argument.split("=")[0] for argument in arguments(attrs.evolve(options, extra_args={}))}
    for flag in ours:
        with pytest.raises(ConfigurationError, match="extra_args must not set"):
            SessionOptions(extra_args={flag: None})


_SECRETS = st.builds("hunter2{}".format, st.text("abc", max_size=5))
_HIDDEN = st.dictionaries(st.sampled_from(["A", "B"]), _SECRETS, max_size=2)


@given(
    strategies.session_options(
        cli=True,
        api_key=st.none() | _SECRETS,
        env=_HIDDEN,
        extra_headers=_HIDDEN,
        extra_body=_HIDDEN,
        agents=st.dictionaries(st.just("a"), _HIDDEN),
        settings=_HIDDEN,
        mcp_servers=st.dictionaries(
            st.sampled_from(["a", "b"]),
            st.fixed_dictionaries({"command": st.just("a"), "env": _HIDDEN})
            | st.fixed_dictionaries({"url": st.just("http://h"), "headers": _HIDDEN}),
        ),
    )
)
def test_no_secret_is_an_argument(options: SessionOptions) -> None:
    """Nor is it in a repr: a key, a variable, a header, what an MCP server or the settings know."""
    assert "hunter2" not in " ".join(arguments(options))
    assert "hunter2" not in repr(attrs.evolve(options, extra_body=None))


# ---- the environment ----------------------------------------------------------------------------

OURS = {"PATH": "/bin", "HOME": "/root", "CLAUDECODE": "1", "CLAUDE_CODE_SESSION_ID": "s"}
ENTRYPOINT = {"CLAUDE_CODE_ENTRYPOINT": "sdk-py"}


@pytest.mark.parametrize(
    ("options", "variables"),
    [
        ({}, {"PATH": "/bin", "HOME": "/root"}),
        ({"inherit_env": True}, {"PATH": "/bin", "HOME": "/root"}),
        ({"inherit_env": False}, {}),
        ({"inherit_env": ["PATH", "CLAUDECODE", "X"]}, {"PATH": "/bin"}),
        ({"inherit_env": [], "api_key": "k"}, {"ANTHROPIC_API_KEY": "k"}),
        ({"inherit_env": [], "auth_token": "t"}, {"ANTHROPIC_AUTH_TOKEN": "t"}),
        ({"inherit_env": [], "base_url": "http://h"}, {"ANTHROPIC_BASE_URL": "http://h"}),
        ({"inherit_env": [], "config_dir": Path("/c")}, {"CLAUDE_CONFIG_DIR": "/c"}),
        ({"inherit_env": [], "max_tokens": 7}, {"CLAUDE_CODE_MAX_OUTPUT_TOKENS": "7"}),
        ({"inherit_env": [], "max_retries": 0}, {"CLAUDE_CODE_MAX_RETRIES": "0"}),
        (
            {"inherit_env": [], "enable_file_checkpointing": True},
            {"CLAUDE_CODE_ENABLE_SDK_FILE_CHECKPOINTING": "true"},
        ),
        (
            {"inherit_env": [], "enable_file_checkpointing": False},
            {"CLAUDE_CODE_ENABLE_SDK_FILE_CHECKPOINTING": "false"},
        ),
        (
            {"inherit_env": [], "extra_headers": {"X-A": "a: b", "x-b": ""}},
            {"ANTHROPIC_CUSTOM_HEADERS": "X-A: a: b\nx-b: "},
        ),
        (
            {"inherit_env": [], "extra_headers": {"Anthropic-Beta": "a,b"}},
            {"ANTHROPIC_BETAS": "a,b"},
        ),
        ({"inherit_env": [], "extra_headers": {}, "extra_body": {}}, {}),
        (
            {"inherit_env": [], "extra_body": {"a": ["é"]}},
            {"CLAUDE_CODE_EXTRA_BODY": '{"a":["\\u00e9"]}'},
        ),
        ({"inherit_env": [], "env": {"A": "", "B": None}}, {"A": ""}),
        (
            {"env": {"PATH": None, "HOME": "/h", "CLAUDECODE": "1"}},
            {"HOME": "/h", "CLAUDECODE": "1"},
        ),
    ],
)
def test_variables(options: dict[str, Any], variables: dict[str, str]) -> None:
    """Those of this process that are inherited, then those of the options, then those of `env`."""
    assert environment(SessionOptions(**options), OURS) == ENTRYPOINT | variables


def test_the_entry_point_can_be_said_otherwise() -> None:
    """By `env`; that of another session is not inherited."""
    inherited = {"CLAUDE_CODE_ENTRYPOINT": "cli"}
    assert environment(SessionOptions(), inherited) == ENTRYPOINT
    options = SessionOptions(env={"CLAUDE_CODE_ENTRYPOINT": "mine"})
    assert environment(options, inherited) == {"CLAUDE_CODE_ENTRYPOINT": "mine"}


@pytest.mark.parametrize(
    ("cwd", "variables"), [("/srv", {"PWD": "/srv"}), ("srv", {}), (None, {"PWD": "/old"})]
)
def test_where_it_is(cwd: str | None, variables: dict[str, str]) -> None:
    """Shells believe PWD, so it is never that of another folder."""
    options = SessionOptions(cwd=cwd)
    assert environment(options, {"PWD": "/old"}) == ENTRYPOINT | variables


@pytest.mark.parametrize("given_option", ["api_key", "auth_token"])
def test_there_is_one_credential(given_option: str) -> None:
    """The one of the options: what this process has of its own is not beside it."""
    ours = {"ANTHROPIC_API_KEY": "old", "ANTHROPIC_AUTH_TOKEN": "old"}
    options = SessionOptions(**{given_option: "new"})  # type: ignore[arg-type]
    variable = f"ANTHROPIC_{given_option.upper()}"
    assert environment(options, ours) == ENTRYPOINT | {variable: "new"}
    unset = attrs.evolve(options, env={variable: None})
    assert environment(unset, ours) == ENTRYPOINT


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"extra_body": {"a": b""}}, "extra_body must be JSON"),
        ({"env": {"A": "\ud800"}}, "env has a character"),
        ({"env": {"\ud800": ""}}, "env has a character"),
        ({"base_url": "http://h/\0"}, "base_url has a character"),
    ],
)
def test_what_cannot_be_a_variable(options: dict[str, Any], said: str) -> None:
    """It is refused before the program is started, by the option's name."""
    with pytest.raises(ConfigurationError, match=said):
        environment(SessionOptions(**options), {})


@given(any_options, st.dictionaries(st.sampled_from(["A", "B", "CLAUDE_PID"]), st.text("ab")))
def test_the_environment_is_what_was_asked_for(
    options: SessionOptions, ours: dict[str, str]
) -> None:
    """Nothing of another session is in it, `env` has the last word, and what has an option is
    refused in `env`."""
    before = dict(ours)
    variables = environment(options, ours)
    assert ours == before
    said: Mapping[str, str | None] = options.env or {}
    for name, text in said.items():
        assert variables.get(name) == text
    assert "CLAUDE_PID" not in variables or "CLAUDE_PID" in said
    for name in variables.keys() - ours.keys() - said.keys():
        assert name in OPTION_OF_VARIABLE or name in ("CLAUDE_CODE_ENTRYPOINT", "PWD")


# ---- the first request --------------------------------------------------------------------------


def test_nothing_to_say_first() -> None:
    """Only that it begins."""
    assert initialize(SessionOptions(hooks={}, agents={}, mcp_servers={"a": STDIO})) == (
        {"subtype": "initialize"},
        {},
    )


def test_prompts_and_forms_are_told_first() -> None:
    """Not as arguments, which have a limit, and are for everybody to see."""
    long = "-x" * 200_000
    options = SessionOptions(
        system_prompt=long,
        append_system_prompt="Be kind.",
        output_format={"type": "json_schema", "schema": MappingProxyType({"type": "object"})},
        agents={"a": MappingProxyType({"description": "d", "prompt": "p"})},
    )
    request, callbacks = initialize(options)
    assert json.loads(json.dumps(request)) == {
        "subtype": "initialize",
        "systemPrompt": [long],
        "appendSystemPrompt": "Be kind.",
        "jsonSchema": {"type": "object"},
        "agents": {"a": {"description": "d", "prompt": "p"}},
    }
    assert callbacks == {}
    assert arguments(options) == ALWAYS
    assert initialize(SessionOptions(system_prompt=""))[0]["systemPrompt"] == [""]


def test_hooks() -> None:
    """Each has an id, by which the program calls it."""

    async def other(given_input: Mapping[str, Any], tool_use_id: str | None) -> None: ...

    request, callbacks = initialize(
        SessionOptions(
            hooks={
                "PreToolUse": [HookMatcher([hook, other], "Bash", 5), HookMatcher([hook])],
                "Stop": [HookMatcher([other])],
                "Setup": [],
            }
        )
    )
    assert request["hooks"] == {
        "PreToolUse": [
            {"hookCallbackIds": ["hook_0", "hook_1"], "matcher": "Bash", "timeout": 5},
            {"hookCallbackIds": ["hook_2"]},
        ],
        "Stop": [{"hookCallbackIds": ["hook_3"]}],
        "Setup": [],
    }
    assert callbacks == {"hook_0": hook, "hook_1": other, "hook_2": hook, "hook_3": other}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"agents": {"a": {"b": object()}}}, "agents must be JSON"),
        (
            {"output_format": {"type": "json_schema", "schema": {"a": float("nan")}}},
            "output_format must be JSON",
        ),
    ],
)
def test_what_cannot_be_told(options: dict[str, Any], said: str) -> None:
    """It is refused before the program is started, by the option's name."""
    with pytest.raises(ConfigurationError, match=said):
        initialize(SessionOptions(**options))


@given(any_options)
def test_the_first_request_is_json(options: SessionOptions) -> None:
    """Whatever the options are."""
    request, callbacks = initialize(options)
    assert json.loads(json.dumps(request)) == request
    told = [
        name
        for matchers in request.get("hooks", {}).values()
        for matcher in matchers
        for name in matcher["hookCallbackIds"]
    ]
    assert told == list(callbacks)


# ---- which options ------------------------------------------------------------------------------

# One value of each, and what it needs beside it.
_SET: dict[str, dict[str, Any]] = {
    "api_key": {"api_key": "k"},
    "auth_token": {"auth_token": "k"},
    "base_url": {"base_url": "http://h"},
    "add_dir": {"add_dir": ["a"]},
    "agents": {"agents": {"a": {}}},
    "plugins": {"plugins": ["a"]},
    "fork_session": {"fork_session": True, "resume": "a"},
    "continue_conversation": {"continue_conversation": True},
    "env": {"env": {"A": "a"}},
    "inherit_env": {"inherit_env": False},
    "extra_args": {"extra_args": {"bare": None}},
    "tools": {"tools": []},
    "allowed_tools": {"allowed_tools": ["Read"]},
    "disallowed_tools": {"disallowed_tools": ["Read"]},
    "permission_mode": {"permission_mode": "plan"},
    "can_use_tool": {"can_use_tool": may_use},
    "permission_prompt_tool": {"permission_prompt_tool": "a"},
    "hooks": {"hooks": {"Stop": [HookMatcher([hook])]}},
    "mcp_servers": {"mcp_servers": {"a": STDIO}},
    "mcp_config": {"mcp_config": "a"},
    "strict_mcp_config": {"strict_mcp_config": True},
    "settings": {"settings": "a"},
    "setting_sources": {"setting_sources": []},
    "max_turns": {"max_turns": 1},
    "max_budget_usd": {"max_budget_usd": 1},
    "fallback_model": {"fallback_model": "a"},
    "resume": {"resume": "a"},
    "enable_file_checkpointing": {"enable_file_checkpointing": True},
    "include_hook_events": {"include_hook_events": True},
    "config_dir": {"config_dir": "a"},
    "model": {"model": "a"},
    "system_prompt": {"system_prompt": ""},
    "append_system_prompt": {"append_system_prompt": "a"},
    "max_tokens": {"max_tokens": 1},
    "thinking": {"thinking": {"type": "adaptive"}},
    "effort": {"effort": "low"},
    "output_format": {"output_format": {"type": "json_schema", "schema": {}}},
    "max_retries": {"max_retries": 1},
    "extra_headers": {"extra_headers": {"a": "b"}},
    "extra_body": {"extra_body": {"a": "b"}},
}
# What the backend does itself.
_OF_THE_BACKEND = {"cwd", "max_buffer_size", "stderr"}


@pytest.mark.parametrize("name", sorted(CLI_OPTIONS - EVERY_BACKEND - _OF_THE_BACKEND))
def test_no_option_is_passed_over(name: str) -> None:
    """Each that the program has makes a difference to what it is told."""

    def told(options: SessionOptions) -> object:
        variables = environment(options, {"PATH": "/bin"})
        return arguments(options), files(options), variables, initialize(options)

    given_options = SessionOptions(**_SET[name])
    without = attrs.evolve(given_options, **{name: None})
    assert told(given_options) != told(without)


def test_every_option_is_somewhere() -> None:
    """No option is one that no backend takes; and ours are everybody's."""
    assert set(OPTION_NAMES) == MESSAGES_OPTIONS | CLI_OPTIONS
    assert EVERY_BACKEND <= MESSAGES_OPTIONS & CLI_OPTIONS
    said = {name for names in OPTION_OF_FLAG.values() for name in names.split(" or ")}
    assert said <= CLI_OPTIONS


@pytest.mark.parametrize("name", sorted(set(OPTION_NAMES) - CLI_OPTIONS))
def test_an_option_that_it_has_not_is_refused(name: str) -> None:
    """By name, with where it works."""
    value: Any = {"metadata": {}, "stop_sequences": ["a"]}.get(name, 0)
    with pytest.raises(ConfigurationError) as caught:
        refuse_unsupported(SessionOptions(**{"model": "opus", name: value}))
    assert str(caught.value) == (f"the Claude CLI has no option {name!r}; backend='messages' has")


# ---- one turn -----------------------------------------------------------------------------------


def test_what_a_turn_may_change() -> None:
    """The model and the mode of permissions; a timeout is ours; what is equal is no change."""
    session = SessionOptions(model="opus", stderr=not_async, timeout=5, tools=["Read"])
    assert changes(session, session) == {}
    assert changes(session, attrs.evolve(session, timeout=7, max_queue=0, tools=("Read",))) == {}
    assert changes(session, attrs.evolve(session, model="haiku")) == {"model": "haiku"}
    assert changes(session, attrs.evolve(session, model=None, permission_mode="plan")) == {
        "model": None,
        "permission_mode": "plan",
    }


@pytest.mark.parametrize("change", [{"max_tokens": 7}, {"tools": None}, {"temperature": 0.5}])
def test_what_a_turn_may_not_change(change: dict[str, Any]) -> None:
    """The program is told of it only when it is started."""
    session = SessionOptions(tools=["Read"])
    with pytest.raises(
        ConfigurationError, match=f"^{next(iter(change))} cannot be changed for one"
    ):
        changes(session, attrs.evolve(session, model="opus", **change))
