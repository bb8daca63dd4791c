"""What the service checks in a body before it answers, in the order in which it is read.

Pure: each function raises :class:`ApiError` (400) with the path of the field and what is wrong
with it, in the service's words where they are known, or returns None. `conversation` has the
rules that bind one message to the next.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from .._validation import is_count, is_number
from . import models
from .conversation import check_conversation, check_text
from .errors import invalid

_COUNTED: Final = frozenset(
    {
        "cache_control",
        "messages",
        "model",
        "output_config",
        "speed",
        "system",
        "thinking",
        "tool_choice",
        "tools",
        "user_profile_id",
    }
)
_CREATED: Final = _COUNTED | {
    "container",
    "diagnostics",
    "inference_geo",
    "max_tokens",
    "metadata",
    "service_tier",
    "stop_sequences",
    "stream",
    "temperature",
    "top_k",
    "top_p",
    "workspace_id",
}

_MAX_TOKENS: Final = 128_000  # more than the least of the service's models can say
_MIN_THINKING: Final = 1024
_TOOL_NAME: Final = re.compile(r"[a-zA-Z0-9_-]{1,128}")
_TOOL_CHOICES: Final = ("auto", "any", "none", "tool")
_THINKING: Final = ("adaptive", "disabled", "enabled")

Body = Mapping[str, Any]
Check = tuple[str, Callable[[Any], bool], str]

_PARAMETERS: Final[Sequence[Check]] = (
    ("stream", lambda value: isinstance(value, bool), "Input should be a valid boolean"),
    (
        "temperature",
        lambda value: is_number(value) and 0 <= value <= 1,
        "Input should be a number from 0 to 1",
    ),
    (
        "top_p",
        lambda value: is_number(value) and 0 <= value <= 1,
        "Input should be a number from 0 to 1",
    ),
    ("top_k", is_count, "Input should be a whole number of at least 0"),
    ("metadata", lambda value: isinstance(value, dict), "Input should be a valid dictionary"),
    (
        "stop_sequences",
        lambda value: (
            isinstance(value, list)
            and all(isinstance(stop, str) and stop.strip() for stop in value)
        ),
        "each stop sequence must contain non-whitespace",
    ),
)


def check_create(body: Body, *, beta: bool = False) -> None:
    """Check the body of ``POST /v1/messages``; a beta request may have fields unknown here."""
    if not beta:
        _check_fields(body, _CREATED)
    _check_common(body)
    _check_max_tokens(body)
    for name, is_valid, wrong in _PARAMETERS:
        if body.get(name) is not None and not is_valid(body[name]):
            raise invalid(f"{name}: {wrong}")
    _check_thinking_budget(body)
    _check_messages(body, answered=True)


def check_count(body: Body, *, beta: bool = False) -> None:
    """Check the body of ``POST /v1/messages/count_tokens``: the same, without an answer."""
    if not beta:
        _check_fields(body, _COUNTED)
    _check_common(body)
    _check_messages(body, answered=False)


def _check_fields(body: Body, known: frozenset[str]) -> None:
    for name in body:
        if name not in known:
            raise invalid(f"{name}: Extra inputs are not permitted")


def _check_common(body: Body) -> None:
    for name in ("model", "messages"):
        if name not in body:
            raise invalid(f"{name}: Field required")
    if not isinstance(body["model"], str):
        raise invalid("model: Input should be a valid string")
    _check_system(body.get("system"))
    _check_tools(body.get("tools"))
    _check_thinking(body.get("thinking"))
    _check_tool_choice(body)


def _check_messages(body: Body, *, answered: bool) -> None:
    check_conversation(
        body["messages"],
        answered=answered,
        system_messages=models.takes_system_messages(body["model"]),
    )


def _check_max_tokens(body: Body) -> None:
    if "max_tokens" not in body:
        raise invalid("max_tokens: Field required")
    value = body["max_tokens"]
    if not is_count(value):
        raise invalid("max_tokens: Input should be a whole number of at least 0")
    if value > _MAX_TOKENS:
        raise invalid(
            f"max_tokens: {value} > {_MAX_TOKENS}, which is the maximum allowed number of "
            f"output tokens for {body['model']}"
        )


def _check_system(system: object) -> None:
    if system is None or isinstance(system, str):
        return
    if not isinstance(system, list):
        raise invalid("system: Input should be a valid string or a valid list")
    for number, block in enumerate(system):
        if not isinstance(block, dict) or block.get("type") != "text":
            raise invalid(f"system.{number}: Input should be a text block")
        check_text(f"system.{number}", "system", block)


def _check_tools(tools: object) -> None:
    if tools is None:
        return
    if not isinstance(tools, list):
        raise invalid("tools: Input should be a valid list")
    names = []
    for number, tool in enumerate(tools):
        where = f"tools.{number}"
        if not isinstance(tool, dict):
            raise invalid(f"{where}: Input should be a valid dictionary")
        if tool.get("type") in {None, "custom"}:
            _check_custom_tool(f"{where}.custom", tool)
        names.append(tool.get("name"))
    if len(set(map(str, names))) < len(names):
        raise invalid("tools: Tool names must be unique.")


def _check_custom_tool(where: str, tool: Body) -> None:
    for name in ("name", "input_schema"):
        if name not in tool:
            raise invalid(f"{where}.{name}: Field required")
    if not isinstance(tool["name"], str) or not _TOOL_NAME.fullmatch(tool["name"]):
        raise invalid(f"{where}.name: String should match pattern '^{_TOOL_NAME.pattern}$'")
    schema = tool["input_schema"]
    if not isinstance(schema, dict) or schema.get("type") != "object":
        raise invalid(f"{where}.input_schema.type: Input should be 'object'")


def _check_thinking(thinking: object) -> None:
    if thinking is not None and not (
        isinstance(thinking, dict) and thinking.get("type") in _THINKING
    ):
        raise invalid(f"thinking: type should be one of {', '.join(_THINKING)}")


def _check_thinking_budget(body: Body) -> None:
    thinking = body.get("thinking") or {}
    if thinking.get("type") == "enabled":
        budget = thinking.get("budget_tokens")
        if not is_count(budget, _MIN_THINKING):
            raise invalid(
                "thinking.enabled.budget_tokens: "
                f"Input should be greater than or equal to {_MIN_THINKING}"
            )
        if budget >= body["max_tokens"]:
            raise invalid("`max_tokens` must be greater than `thinking.budget_tokens`.")
        if body.get("temperature") not in {None, 1}:
            raise invalid("`temperature` may only be set to 1 when thinking is enabled.")


def _check_tool_choice(body: Body) -> None:
    choice = body.get("tool_choice")
    if choice is None:
        return
    if not isinstance(choice, dict) or choice.get("type") not in _TOOL_CHOICES:
        raise invalid(f"tool_choice: type should be one of {', '.join(_TOOL_CHOICES)}")
    tools = body.get("tools") or []
    if not tools:
        raise invalid("tool_choice may only be specified while providing tools.")
    if choice["type"] == "tool" and all(choice.get("name") != tool.get("name") for tool in tools):
        raise invalid(f"Tool {choice.get('name')!r} not found in provided tools")
    thinks = (body.get("thinking") or {}).get("type") in {"enabled", "adaptive"}
    if choice["type"] in {"any", "tool"} and thinks:
        raise invalid("Thinking may not be enabled when tool_choice forces tool use.")
