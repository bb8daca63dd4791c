"""The options that only the Claude CLI has: part of :class:`trio_claude.SessionOptions`.

What they become is in ``_wire/cli_arguments.py``. Here they are refused by name where they cannot
be right, before any program is started.
"""

# Without "from __future__ import annotations", here and in _messages: so that what looks at the
# fields of our values (cattrs, inspect, the docs) finds types and not texts.
import json
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeAlias, TypedDict, get_args

import attrs

from ._callbacks import HOOK_EVENTS, CanUseTool, HookEvent, HookMatcher
from ._errors import ConfigurationError
from ._validation import (
    as_path,
    as_paths,
    as_tuple,
    checked,
    did_you_mean,
    is_async,
    is_count,
    is_flag,
    is_list,
    is_mapping,
    is_name,
    is_number,
    is_path,
    is_paths,
    is_plain_function,
    is_strings,
)

StrPath: TypeAlias = str | os.PathLike[str]

PermissionMode: TypeAlias = Literal[
    "default", "acceptEdits", "plan", "bypassPermissions", "dontAsk", "auto"
]
SettingSource: TypeAlias = Literal["user", "project", "local"]

PERMISSION_MODES: tuple[PermissionMode, ...] = get_args(PermissionMode)
_SETTING_SOURCES: tuple[SettingSource, ...] = get_args(SettingSource)

# What has an option is said by that: else two places would say it, and one of them in vain.
OPTION_OF_VARIABLE: Mapping[str, str] = {
    "ANTHROPIC_API_KEY": "api_key",
    "ANTHROPIC_AUTH_TOKEN": "auth_token",
    "ANTHROPIC_BASE_URL": "base_url",
    "ANTHROPIC_BETAS": "extra_headers",
    "ANTHROPIC_CUSTOM_HEADERS": "extra_headers",
    "ANTHROPIC_MODEL": "model",
    "CLAUDE_CODE_ENABLE_SDK_FILE_CHECKPOINTING": "enable_file_checkpointing",
    "CLAUDE_CODE_EXTRA_BODY": "extra_body",
    "CLAUDE_CODE_MAX_OUTPUT_TOKENS": "max_tokens",
    "CLAUDE_CODE_MAX_RETRIES": "max_retries",
    "CLAUDE_CONFIG_DIR": "config_dir",
}
OPTION_OF_FLAG: Mapping[str, str] = {
    "add-dir": "add_dir",
    "agents": "agents",
    "allowed-tools": "allowed_tools",
    "allowedTools": "allowed_tools",
    "append-system-prompt": "append_system_prompt",
    "continue": "continue_conversation",
    "disallowed-tools": "disallowed_tools",
    "disallowedTools": "disallowed_tools",
    "effort": "effort",
    "fallback-model": "fallback_model",
    "fork-session": "fork_session",
    "include-hook-events": "include_hook_events",
    "json-schema": "output_format",
    "max-budget-usd": "max_budget_usd",
    "max-thinking-tokens": "thinking",
    "max-turns": "max_turns",
    "mcp-config": "mcp_servers or mcp_config",
    "model": "model",
    "permission-mode": "permission_mode",
    "permission-prompt-tool": "can_use_tool or permission_prompt_tool",
    "plugin-dir": "plugins",
    "resume": "resume",
    "setting-sources": "setting_sources",
    "settings": "settings",
    "strict-mcp-config": "strict_mcp_config",
    "system-prompt": "system_prompt",
    "thinking": "thinking",
    "thinking-display": "thinking",
    "tools": "tools",
}
# How we talk with it.
_OURS = (
    "include-partial-messages",
    "input-format",
    "output-format",
    "print",
    "replay-user-messages",
    "verbose",
)
_FLAG = re.compile(r"(--)?[a-zA-Z][a-zA-Z0-9-]+")

_TRUE_OR_FALSE = checked(is_flag, "True or False")
_PATH = checked(is_path, "a path")
_PATHS = checked(is_paths, "a list of paths")
_STRINGS = checked(is_strings, "a list of texts that are not empty")


# Of a mapping it is said which item is wrong: the whole of it may be long, and have keys in it.


def _check_hooks(_instance: object, _attribute: Any, value: Any) -> None:
    if value is None:
        return
    if not isinstance(value, Mapping):
        raise ConfigurationError(
            f"hooks must be a mapping of events to lists of HookMatcher, not this "
            f"{type(value).__name__}"
        )
    for event, matchers in value.items():
        if event not in HOOK_EVENTS:
            hint = did_you_mean(str(event), HOOK_EVENTS)
            raise ConfigurationError(f"hooks: there is no event {event!r}: {hint}")
        if not is_list(matchers) or not all(isinstance(item, HookMatcher) for item in matchers):
            raise ConfigurationError(
                f"hooks[{event!r}] must be a list of HookMatcher, such as "
                f"[HookMatcher([my_hook])], not {matchers!r}"
            )


def _check_servers(_instance: object, _attribute: Any, value: Any) -> None:
    if value is None:
        return
    if not isinstance(value, Mapping) or not all(map(is_name, value)):
        raise ConfigurationError(
            f"mcp_servers must be a mapping of names to MCP servers, not this "
            f"{type(value).__name__} (not shown)"
        )
    for name, server in value.items():
        if not _is_server(server):
            raise ConfigurationError(
                f"mcp_servers[{name!r}] must be a mapping with a 'command' or a 'url', or a server "
                f"object of the mcp package, not this {type(server).__name__} (not shown)"
            )


def _is_server(value: object) -> bool:
    if isinstance(value, Mapping):
        return is_mapping(value) and (is_name(value.get("command")) or is_name(value.get("url")))
    # One of ours, in this process: an object of a package that is not imported for asking.
    return not (isinstance(value, type) or value is None or is_list(value)) and not isinstance(
        value, str | bytes | int | float
    )


def _are_agents(value: object) -> bool:
    return is_mapping(value) and all(is_mapping(agent) for agent in value.values())  # type: ignore[attr-defined]  # is_mapping says so


def _is_text_or_none(value: object) -> bool:
    """What a program can be given, or nothing."""
    return value is None or (isinstance(value, str) and "\0" not in value)


def _check_flags(_instance: object, _attribute: Any, value: Any) -> None:
    if value is None:
        return
    if not isinstance(value, Mapping):
        raise ConfigurationError(
            f"extra_args must be a mapping of flags to texts, or to None, not this "
            f"{type(value).__name__} (not shown)"
        )
    for flag, said in value.items():
        if not isinstance(flag, str) or not _FLAG.fullmatch(flag):
            shown = (
                repr(flag) if "=" not in str(flag) else repr(str(flag).partition("=")[0] + "=...")
            )
            raise ConfigurationError(
                f"extra_args: {shown} is no long flag, such as '--name' or 'name'; its value is the "
                "other half of the item"
            )
        if not _is_text_or_none(said):
            raise ConfigurationError(
                f"extra_args[{flag!r}] must be text, or None for a flag without a value, not this "
                f"{type(said).__name__} (not shown)"
            )


def _no_flag_of_an_option(_instance: object, _attribute: Any, value: Any) -> None:
    for flag in value or ():
        name = flag.removeprefix("--")
        if name in OPTION_OF_FLAG:
            raise ConfigurationError(
                f"extra_args must not set {flag!r}: use the option {OPTION_OF_FLAG[name]}"
            )
        if name in _OURS:
            raise ConfigurationError(f"extra_args must not set {flag!r}: the session does")


def _as_settings(value: Any) -> Any:
    """Settings, from JSON too; a path becomes text; anything else is left to the check."""
    if isinstance(value, str) and value.lstrip().startswith("{"):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            raise ConfigurationError("settings begin like JSON, and are none (not shown)") from None
    return as_path(value)


def _is_variable(value: object) -> bool:
    return isinstance(value, str) and value != "" and "=" not in value and "\0" not in value


def _check_variables(_instance: object, _attribute: Any, value: Any) -> None:
    if value is None:
        return
    if not isinstance(value, Mapping) or not all(map(_is_variable, value)):
        raise ConfigurationError(
            f"env must be a mapping of variables' names to texts, or to None, not this "
            f"{type(value).__name__} (not shown)"
        )
    for name, said in value.items():
        if not _is_text_or_none(said):
            raise ConfigurationError(
                f"env[{name!r}] must be text, or None to unset it, not this "
                f"{type(said).__name__} (not shown)"
            )


def _no_variable_of_an_option(_instance: object, _attribute: Any, value: Any) -> None:
    for variable, said in (value or {}).items():
        if said is not None and variable in OPTION_OF_VARIABLE:
            raise ConfigurationError(
                f"env must not set {variable!r}: use the option {OPTION_OF_VARIABLE[variable]}"
            )


class CLIOverrides(TypedDict, total=False):
    """The options by name and type, for calls that take them as keywords."""

    cwd: StrPath | None
    add_dir: Sequence[StrPath] | None
    tools: Sequence[str] | None
    allowed_tools: Sequence[str] | None
    disallowed_tools: Sequence[str] | None
    permission_mode: PermissionMode | None
    can_use_tool: CanUseTool | None
    permission_prompt_tool: str | None
    hooks: Mapping[HookEvent, Sequence[HookMatcher]] | None
    mcp_servers: Mapping[str, Any] | None
    mcp_config: StrPath | None
    strict_mcp_config: bool | None
    agents: Mapping[str, Mapping[str, Any]] | None
    plugins: Sequence[StrPath] | None
    settings: Mapping[str, Any] | StrPath | None
    setting_sources: Sequence[SettingSource] | None
    max_turns: int | None
    max_budget_usd: float | None
    fallback_model: str | None
    resume: str | None
    continue_conversation: bool | None
    fork_session: bool | None
    enable_file_checkpointing: bool | None
    include_hook_events: bool | None
    config_dir: StrPath | None
    env: Mapping[str, str | None] | None
    inherit_env: bool | Sequence[str] | None
    extra_args: Mapping[str, str | None] | None
    max_buffer_size: int | None
    stderr: Callable[[str], object] | None


@attrs.frozen(kw_only=True, repr=False, slots=False)
class CLIOptions:
    """The base of :class:`trio_claude.SessionOptions`, and nothing by itself."""

    cwd: StrPath | None = attrs.field(default=None, converter=as_path, validator=_PATH)
    """The folder that the agent works in. Default: that of this process."""

    add_dir: Sequence[StrPath] | None = attrs.field(
        default=None, converter=as_paths, validator=_PATHS
    )
    """More folders that its tools may reach."""

    tools: Sequence[str] | None = attrs.field(default=None, converter=as_tuple, validator=_STRINGS)
    """Which of its own tools there are; an empty list is none. Default: all of them."""

    allowed_tools: Sequence[str] | None = attrs.field(
        default=None, converter=as_tuple, validator=_STRINGS
    )
    """Tools that run without being asked about, such as ``"Read"`` or ``"Bash(git log:*)"``."""

    disallowed_tools: Sequence[str] | None = attrs.field(
        default=None, converter=as_tuple, validator=_STRINGS
    )
    """Tools that never run."""

    permission_mode: PermissionMode | None = attrs.field(
        default=None,
        validator=checked(
            lambda value: value in PERMISSION_MODES, f"one of {', '.join(PERMISSION_MODES)}"
        ),
    )
    """What becomes of tools that nothing else allows or denies. Default: as the agent's settings
    say, else ``"default"``."""

    can_use_tool: CanUseTool | None = attrs.field(
        default=None, validator=checked(is_async, "an async function")
    )
    """Asked about each tool that would ask a person: an async function that gives a
    :class:`PermissionResultAllow` or :class:`PermissionResultDeny`."""

    permission_prompt_tool: str | None = attrs.field(
        default=None, validator=checked(is_name, "the name of a tool")
    )
    """An MCP tool to ask, instead of ``can_use_tool``."""

    hooks: Mapping[HookEvent, Sequence[HookMatcher]] | None = attrs.field(
        default=None,
        hash=False,
        validator=_check_hooks,
    )
    """What is called at events of the agent: ``{"PreToolUse": [HookMatcher([my_hook])]}``."""

    mcp_servers: Mapping[str, Any] | None = attrs.field(
        default=None,
        hash=False,
        repr=False,
        validator=_check_servers,
    )
    """MCP servers by name: ``{"command": ..., "args": [...], "env": {...}}`` is started,
    ``{"type": "http", "url": ..., "headers": {...}}`` (or ``"sse"``) is called, and a server
    object of the ``mcp`` package runs in this process."""

    mcp_config: StrPath | None = attrs.field(default=None, converter=as_path, validator=_PATH)
    """A file of more MCP servers, as the agent reads it."""

    strict_mcp_config: bool | None = attrs.field(default=None, validator=_TRUE_OR_FALSE)
    """Whether there are no MCP servers but those of ``mcp_servers`` and ``mcp_config``."""

    agents: Mapping[str, Mapping[str, Any]] | None = attrs.field(
        default=None,
        hash=False,
        repr=False,
        validator=checked(_are_agents, "a mapping of names to mappings", secret=True),
    )
    """Subagents by name: ``{"reviewer": {"description": ..., "prompt": ...}}``."""

    plugins: Sequence[StrPath] | None = attrs.field(
        default=None, converter=as_paths, validator=_PATHS
    )
    """Folders of plugins."""

    settings: Mapping[str, Any] | StrPath | None = attrs.field(
        default=None,
        hash=False,
        repr=False,
        converter=_as_settings,
        validator=checked(
            lambda value: is_mapping(value) or is_path(value),
            "a path or a mapping with text keys",
            secret=True,
        ),
    )
    """The agent's settings, also as JSON, or the path of a file of them; above those of its own
    files."""

    setting_sources: Sequence[SettingSource] | None = attrs.field(
        default=None,
        converter=as_tuple,
        validator=checked(
            lambda value: is_list(value) and all(item in _SETTING_SOURCES for item in value),
            f"a list of {', '.join(_SETTING_SOURCES)}",
        ),
    )
    """Whose files of settings are read; an empty list is nobody's. Default: all."""

    max_turns: int | None = attrs.field(
        default=None,
        validator=checked(lambda value: is_count(value, 1), "a whole number, 1 or more"),
    )
    """How many messages the model may write for one answer."""

    max_budget_usd: float | None = attrs.field(
        default=None,
        validator=checked(
            lambda value: is_number(value) and 0 < value < math.inf, "a number of dollars above 0"
        ),
    )
    """The most US dollars that the conversation may cost."""

    fallback_model: str | None = attrs.field(
        default=None, validator=checked(is_name, "the name of a model")
    )
    """Which model answers while the first one cannot."""

    resume: str | None = attrs.field(
        default=None, validator=checked(is_name, "the id of a conversation, or 'last'")
    )
    """The id of a conversation to go on with, each time that the session starts. ``"last"``: a
    restart goes on with the conversation that it broke off."""

    continue_conversation: bool | None = attrs.field(default=None, validator=_TRUE_OR_FALSE)
    """Whether it goes on with the last conversation that was had in this folder."""

    fork_session: bool | None = attrs.field(default=None, validator=_TRUE_OR_FALSE)
    """Whether what goes on is a copy, under an id of its own."""

    enable_file_checkpointing: bool | None = attrs.field(default=None, validator=_TRUE_OR_FALSE)
    """Whether what its tools change in files can be taken back with
    :meth:`SessionHandle.rewind_files`."""

    include_hook_events: bool | None = attrs.field(default=None, validator=_TRUE_OR_FALSE)
    """Whether the events of a turn say which hooks ran."""

    config_dir: StrPath | None = attrs.field(default=None, converter=as_path, validator=_PATH)
    """Where the agent keeps its settings, conversations and log-in, instead of ``~/.claude``."""

    env: Mapping[str, str | None] | None = attrs.field(
        default=None,
        hash=False,
        repr=False,
        validator=[
            _check_variables,
            _no_variable_of_an_option,
        ],
    )
    """Variables of the program's environment, above all others. None unsets one, also where there
    is an option: without ``ANTHROPIC_API_KEY``, the program is whoever is logged in with it."""

    inherit_env: bool | Sequence[str] | None = attrs.field(
        default=None,
        converter=as_tuple,
        validator=checked(
            lambda value: is_flag(value) or (is_list(value) and all(map(_is_variable, value))),
            "True, False, or a list of variables' names",
        ),
    )
    """Which variables of this process's environment the program gets: all (the default), none,
    or these. What says that this process itself runs below the Claude CLI is never passed on."""

    extra_args: Mapping[str, str | None] | None = attrs.field(
        default=None,
        hash=False,
        repr=False,
        validator=[
            _check_flags,
            _no_flag_of_an_option,
        ],
    )
    """More flags of the program, for what has no option: ``{"--name": "reviewer", "bare": None}``."""

    max_buffer_size: int | None = attrs.field(
        default=None,
        validator=checked(lambda value: is_count(value, 1), "a whole number of bytes, 1 or more"),
    )
    """The most bytes that one message of the program may have; a larger one crashes the session.
    Default 32 MiB."""

    stderr: Callable[[str], object] | None = attrs.field(
        default=None, validator=checked(is_plain_function, "a function, not an async one")
    )
    """Called with each line that the program writes to its standard error."""

    def __attrs_post_init__(self) -> None:
        if self.can_use_tool is not None and self.permission_prompt_tool is not None:
            raise ConfigurationError(
                "can_use_tool and permission_prompt_tool are two ways to answer the same question: "
                "give one of them"
            )
        if self.resume is not None and self.continue_conversation:
            raise ConfigurationError(
                "resume and continue_conversation are two conversations to go on with: give one of "
                "them"
            )
