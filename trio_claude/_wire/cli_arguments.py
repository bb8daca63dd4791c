"""What the Claude CLI is started with, and told first: flags, environment, ``initialize``.

Nothing secret is a flag: flags are for all users of the machine to see. What may have keys in it,
servers and settings, goes in files. And no value of a flag is an argument by itself: one that
begins with a dash would be taken for a flag, so that whoever gives an id could give any flag.

Prompts and schemas are told in ``initialize``: an argument has no more than 128 KiB on Linux.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .._cli_options import OPTION_OF_VARIABLE
from .._errors import ConfigurationError
from .._options import EVERY_BACKEND, OPTION_NAMES, SessionOptions, refuse_options
from .requests import dumps

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .._callbacks import HookCallback

CLI_OPTIONS = frozenset(OPTION_NAMES) - {
    "metadata",
    "stop_sequences",
    "temperature",
    "top_k",
    "top_p",
}
"""The options that the program has."""

# stream-json both ways, and the deltas of an answer as they come.
_ALWAYS = (
    "--output-format=stream-json",
    "--verbose",
    "--input-format=stream-json",
    "--include-partial-messages",
)

_TEXTS = {
    "model": "model",
    "fallback_model": "fallback-model",
    "effort": "effort",
    "permission_mode": "permission-mode",
    "permission_prompt_tool": "permission-prompt-tool",
    "max_turns": "max-turns",
    "max_budget_usd": "max-budget-usd",
    "resume": "resume",
}
_LISTS = {
    "tools": "tools",
    "allowed_tools": "allowedTools",
    "disallowed_tools": "disallowedTools",
    "setting_sources": "setting-sources",
}
_REPEATED = {"add_dir": "add-dir", "plugins": "plugin-dir"}
_SWITCHES = {
    "continue_conversation": "continue",
    "fork_session": "fork-session",
    "strict_mcp_config": "strict-mcp-config",
    "include_hook_events": "include-hook-events",
}

# Set by the program for what it starts itself. One that finds them takes itself for a part of
# another one's session.
_OF_ANOTHER_SESSION = frozenset(
    {
        "AI_AGENT",
        "CLAUDECODE",
        "CLAUDE_CODE_CHILD_SESSION",
        "CLAUDE_CODE_ENTRYPOINT",
        "CLAUDE_CODE_LAUNCHED_BY_SESSION_IDS",
        "CLAUDE_CODE_SESSION_ATTENDED",
        "CLAUDE_CODE_SESSION_ID",
        "CLAUDE_CODE_SSE_PORT",
        "CLAUDE_EFFORT",
        "CLAUDE_PID",
    }
)


def refuse_unsupported(options: SessionOptions) -> None:
    """Raise ConfigurationError for an option that is set and that the program does not have."""
    refuse_options(options, CLI_OPTIONS, "the Claude CLI", "messages")


# ---- flags --------------------------------------------------------------------------------------


def arguments(options: SessionOptions, *, resume_at: str | None = None) -> list[str]:
    """The program's arguments, without its own path.

    Args:
      options: those of the session.
      resume_at: the id of the message up to which the conversation of ``resume`` is kept.

    Raises:
      ConfigurationError: an option cannot be an argument, or makes no sense without another.
    """
    if options.fork_session and options.resume is None and not options.continue_conversation:
        raise ConfigurationError(
            "fork_session is about a conversation that goes on: give resume or "
            "continue_conversation, too"
        )
    argv = list(_ALWAYS)
    for option, flag in _flags(options):
        _refuse_unpassable(option, flag)
        argv.append(f"--{flag}")
    if resume_at is not None:
        argv.append(f"--resume-session-at={resume_at}")
    return argv


def _flags(options: SessionOptions) -> Iterator[tuple[str, str]]:
    """Each flag without its dashes, and the option that it is of."""
    for option, flag in _TEXTS.items():
        value = getattr(options, option)
        if value is not None:
            yield option, f"{flag}={value}"
    for option, flag in _LISTS.items():
        value = getattr(options, option)
        # No tool allowed is as if nothing was said; no tool at all, and no settings, is something.
        if value or (value is not None and option in ("tools", "setting_sources")):
            yield option, f"{flag}={','.join(value)}"
    for option, flag in _REPEATED.items():
        for value in getattr(options, option) or ():
            yield option, f"{flag}={value}"
    for option, flag in _SWITCHES.items():
        if getattr(options, option):
            yield option, flag
    if options.can_use_tool is not None:
        yield "can_use_tool", "permission-prompt-tool=stdio"
    if options.mcp_config is not None:
        yield "mcp_config", f"mcp-config={options.mcp_config}"
    if options.settings is not None and not isinstance(options.settings, Mapping):
        yield "settings", f"settings={options.settings}"
    if options.thinking:
        for flag in _thinking(options.thinking):
            yield "thinking", flag
    for name, value in (options.extra_args or {}).items():
        flag = name.removeprefix("--")
        yield "extra_args", flag if value is None else f"{flag}={value}"


def _thinking(thinking: Mapping[str, Any]) -> Iterator[str]:
    others = dict(thinking)
    display = others.pop("display", None)
    match others:
        case {"type": "adaptive" | "disabled" as kind} if len(others) == 1:
            yield f"thinking={kind}"
        case {"type": "enabled", "budget_tokens": int(tokens)} if len(others) == 2:
            yield f"max-thinking-tokens={tokens}"
        case _:
            raise ConfigurationError(
                "thinking must be {'type': 'adaptive'}, {'type': 'disabled'} or "
                "{'type': 'enabled', 'budget_tokens': ...} on the Claude CLI, with or without a "
                f"'display', not {dict(thinking)!r}"
            )
    if display is not None:
        yield f"thinking-display={display}"


def _json(option: str, value: object) -> str:
    try:
        return dumps(value, ascii_only=True)
    except (TypeError, ValueError, RecursionError) as exc:
        raise ConfigurationError(f"{option} must be JSON, and this is not: {exc}") from exc


def _refuse_unpassable(option: str, text: str) -> None:
    try:
        passable = b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        passable = False
    if not passable:
        raise ConfigurationError(
            f"{option} has a character that cannot be passed to a program (a NUL, or half of a "
            "surrogate pair)"
        )


def files(options: SessionOptions) -> dict[str, str]:
    """What the program is told in files: JSON, by the flags that name them.

    Raises:
      ConfigurationError: an option is no JSON.
    """
    given = {}
    if options.mcp_servers:
        servers = {
            name: server if isinstance(server, Mapping) else {"type": "sdk", "name": name}
            for name, server in options.mcp_servers.items()
        }
        given["--mcp-config"] = _json("mcp_servers", {"mcpServers": servers})
    if isinstance(options.settings, Mapping):
        given["--settings"] = _json("settings", options.settings)
    return given


# ---- the environment ----------------------------------------------------------------------------


def environment(options: SessionOptions, variables: Mapping[str, str]) -> dict[str, str]:
    """The program's environment.

    Args:
      options: those of the session.
      variables: this process's own environment.

    Raises:
      ConfigurationError: an option cannot be a variable.
    """
    own = {name: text for name, text in variables.items() if name not in _OF_ANOTHER_SESSION}
    wanted = options.inherit_env
    if wanted is None or isinstance(wanted, bool):
        given = {} if wanted is False else own
    else:
        given = {name: own[name] for name in wanted if name in own}
    for name in ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN"):
        given.pop(name, None)  # what is said of them here is said by the options, too
    given["CLAUDE_CODE_ENTRYPOINT"] = "sdk-py"
    if options.cwd is not None:
        # What a shell believes of where it is. A relative one is nothing to it.
        given.pop("PWD", None)
        if os.path.isabs(options.cwd):
            given["PWD"] = os.fspath(options.cwd)
    for variable, text in _variables(options):
        _refuse_unpassable(OPTION_OF_VARIABLE[variable], text)
        given[variable] = text
    for name, value in (options.env or {}).items():
        if value is None:
            given.pop(name, None)
        else:
            _refuse_unpassable("env", name + value)
            given[name] = value
    return given


def _variables(options: SessionOptions) -> Iterator[tuple[str, str]]:
    if options.api_key is not None:
        yield "ANTHROPIC_API_KEY", options.api_key
    if options.auth_token is not None:
        yield "ANTHROPIC_AUTH_TOKEN", options.auth_token
    if options.base_url is not None:
        yield "ANTHROPIC_BASE_URL", options.base_url
    if options.config_dir is not None:
        yield "CLAUDE_CONFIG_DIR", os.fspath(options.config_dir)
    if options.max_tokens is not None:
        yield "CLAUDE_CODE_MAX_OUTPUT_TOKENS", str(options.max_tokens)
    if options.max_retries is not None:
        yield "CLAUDE_CODE_MAX_RETRIES", str(options.max_retries)
    if options.enable_file_checkpointing is not None:
        said = "true" if options.enable_file_checkpointing else "false"
        yield "CLAUDE_CODE_ENABLE_SDK_FILE_CHECKPOINTING", said
    # The program has betas of its own, and takes more of them only here.
    headers = {name.lower(): (name, text) for name, text in (options.extra_headers or {}).items()}
    if "anthropic-beta" in headers:
        yield "ANTHROPIC_BETAS", headers.pop("anthropic-beta")[1]
    if headers:
        lines = (f"{name}: {text}" for name, text in headers.values())
        yield "ANTHROPIC_CUSTOM_HEADERS", "\n".join(lines)
    if options.extra_body:
        yield "CLAUDE_CODE_EXTRA_BODY", _json("extra_body", options.extra_body)


# ---- the first request --------------------------------------------------------------------------


def initialize(options: SessionOptions) -> tuple[dict[str, Any], dict[str, HookCallback]]:
    """The control request that comes first, and the hooks by the ids that it gives them.

    Raises:
      ConfigurationError: an option is no JSON.
    """
    callbacks: dict[str, HookCallback] = {}
    request: dict[str, Any] = {"subtype": "initialize"}
    hooks: dict[str, list[dict[str, Any]]] = {}
    for event, matchers in (options.hooks or {}).items():
        entries = hooks[event] = []
        for matcher in matchers:
            ids = [f"hook_{len(callbacks) + n}" for n in range(len(matcher.hooks))]
            callbacks.update(zip(ids, matcher.hooks, strict=True))
            entry: dict[str, Any] = {"hookCallbackIds": ids}
            if matcher.matcher is not None:
                entry["matcher"] = matcher.matcher
            if matcher.timeout is not None:
                entry["timeout"] = matcher.timeout
            entries.append(entry)
    if hooks:
        request["hooks"] = hooks
    if options.system_prompt is not None:
        request["systemPrompt"] = [options.system_prompt]
    if options.append_system_prompt is not None:
        request["appendSystemPrompt"] = options.append_system_prompt
    if options.output_format is not None:
        schema = _json("output_format", options.output_format["schema"])
        request["jsonSchema"] = json.loads(schema)
    if options.agents:
        request["agents"] = json.loads(_json("agents", options.agents))
    servers = in_process_servers(options)
    if servers:
        request["sdkMcpServers"] = list(servers)
    return request, callbacks


def in_process_servers(options: SessionOptions) -> dict[str, object]:
    """The MCP servers that run in this process, by their names."""
    servers = options.mcp_servers or {}
    return {name: server for name, server in servers.items() if not isinstance(server, Mapping)}


# ---- one turn -----------------------------------------------------------------------------------


def changes(session: SessionOptions, turn: SessionOptions) -> dict[str, Any]:
    """What a turn wants otherwise than its session, as far as the program is to be told of it.

    Args:
      session: the options of the session.
      turn: those of one of its turns.

    Returns:
      ``model`` and ``permission_mode``, where they differ.

    Raises:
      ConfigurationError: another option differs; the program takes it only when it is started.
    """
    if turn is session:
        return {}
    differing = {
        name: getattr(turn, name)
        for name in OPTION_NAMES
        if name not in EVERY_BACKEND and getattr(turn, name) != getattr(session, name)
    }
    for name in differing:
        if name not in ("model", "permission_mode"):
            raise ConfigurationError(
                f"{name} cannot be changed for one turn on the Claude CLI: set it in the "
                "session's spec"
            )
    return differing
