"""What the agent asks of the program that runs it: permissions and hooks.

The names and fields are those that users of Claude's other SDKs know. Decisions go out as the
agent's JSON, which is made where it is sent.
"""

# Without "from __future__ import annotations", here and in _messages: so that what looks at the
# fields of our values (cattrs, inspect, the docs) finds types and not texts.
import math
import re
import warnings
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import attrs

from ._validation import (
    are_async,
    as_tuple,
    checked,
    is_flag,
    is_mapping,
    is_mappings,
    is_name,
    is_seconds,
    is_text,
    refuse_none,
    refuse_unknown,
)

# ---- permissions --------------------------------------------------------------------------------


@attrs.frozen
class PermissionResultAllow:
    """The tool may run."""

    if not TYPE_CHECKING:

        def __init__(self, *arguments: Any, **fields: Any) -> None:
            # Written by hand, so that a typo is a ConfigurationError with a hint.
            refuse_unknown(type(self), fields)
            self.__attrs_init__(*arguments, **fields)

    updated_input: Mapping[str, Any] | None = attrs.field(
        default=None, hash=False, validator=checked(is_mapping, "a mapping with text keys")
    )
    """The input that it gets instead of the one that was asked about. None: that one."""

    updated_permissions: Sequence[Mapping[str, Any]] | None = attrs.field(
        default=None,
        hash=False,
        converter=as_tuple,
        validator=checked(is_mappings, "a list of mappings with text keys"),
    )
    """Rules that hold from now on, as the agent takes them: often one of the ``suggestions`` of
    the :class:`ToolPermissionContext`."""


@attrs.frozen
class PermissionResultDeny:
    """The tool does not run; the agent is told why, and goes on."""

    if not TYPE_CHECKING:

        def __init__(self, *arguments: Any, **fields: Any) -> None:
            refuse_unknown(type(self), fields)
            self.__attrs_init__(*arguments, **fields)

    message: str = attrs.field(default="", validator=checked(is_text, "text"))
    """Why not, for the agent to read."""

    interrupt: bool = attrs.field(default=False, validator=checked(is_flag, "True or False"))
    """Whether the turn ends with this."""

    def __attrs_post_init__(self) -> None:
        refuse_none(self, "message", "interrupt")


PermissionResult: TypeAlias = PermissionResultAllow | PermissionResultDeny


@attrs.frozen(kw_only=True)
class ToolPermissionContext:
    """What the agent says about a tool that it wants to use. What it did not say is None."""

    tool_use_id: str
    """Of the :class:`ToolUseBlock` that it is about."""

    agent_id: str | None = None
    """Of the subagent that wants it; None: the session's own agent."""

    suggestions: tuple[Mapping[str, Any], ...] = attrs.field(default=(), hash=False)
    """Rules that would allow it from now on, fit for ``updated_permissions``."""

    blocked_path: str | None = None
    """The path that it may not reach without being allowed to."""

    decision_reason: str | None = None
    """Why it asks."""

    title: str | None = None
    """The question, as a person can be asked it."""

    display_name: str | None = None
    """The tool, as a person knows it."""

    description: str | None = None
    """What the tool would do."""

    extra: Mapping[str, Any] = attrs.field(factory=dict, hash=False)
    """What else the agent said."""


CanUseTool: TypeAlias = Callable[
    [str, dict[str, Any], ToolPermissionContext], Awaitable[PermissionResult]
]
"""``async def can_use_tool(tool_name, tool_input, context)``."""


# ---- hooks --------------------------------------------------------------------------------------

HookEvent: TypeAlias = Literal[
    "PreToolUse",
    "PostToolUse",
    "PostToolUseFailure",
    "PostToolBatch",
    "Notification",
    "UserPromptSubmit",
    "UserPromptExpansion",
    "SessionStart",
    "SessionEnd",
    "Stop",
    "StopFailure",
    "SubagentStart",
    "SubagentStop",
    "PreCompact",
    "PostCompact",
    "PreModelSwitch",
    "PostModelSwitch",
    "PermissionRequest",
    "PermissionDenied",
    "Setup",
    "TeammateIdle",
    "TaskCreated",
    "TaskCompleted",
    "Elicitation",
    "ElicitationResult",
    "ConfigChange",
    "WorktreeCreate",
    "WorktreeRemove",
    "InstructionsLoaded",
    "CwdChanged",
    "FileChanged",
    "DirectoryAdded",
    "MessageDisplay",
]
"""When a hook is called; what each event's input holds is in the agent's own documentation."""

# https://code.claude.com/docs/en/hooks, and what version 2.1.330 of the program lists.
HOOK_EVENTS: tuple[HookEvent, ...] = get_args(HookEvent)

HookCallback: TypeAlias = Callable[
    [dict[str, Any], str | None], Awaitable[Mapping[str, Any] | None]
]
"""``async def hook(input, tool_use_id)``; gives the hook's output as the agent takes it, or None
for nothing to say."""


# What the program's regular expressions have, which are JavaScript's, and Python's don't: nobody here
# can tell whether such a one is right.
_JAVASCRIPT = re.compile(r"\(\?<[A-Za-z_$][^>]*>|\\[pP]\{[^}]+\}|\\u\{|\\k<|\\c[A-Za-z]|\[\^?\]")


def _is_pattern(value: object) -> bool:
    # One that is none would match nothing, and whatever the hook was to keep from would happen.
    if not isinstance(value, str) or not is_name(value):
        return False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what may change in Python some day
            re.compile(value)
    except re.error:
        return value == "*" or _JAVASCRIPT.search(value) is not None
    except (OverflowError, RecursionError):
        return False
    return True


@attrs.frozen
class HookMatcher:
    """The hooks of one event, and which tools they are for.

    Raises:
      ConfigurationError: a field is unknown or invalid; the message names it.
    """

    if not TYPE_CHECKING:

        def __init__(self, *arguments: Any, **fields: Any) -> None:
            refuse_unknown(type(self), fields)
            self.__attrs_init__(*arguments, **fields)

    hooks: Sequence[HookCallback] = attrs.field(
        converter=as_tuple, validator=checked(are_async, "a list of async functions")
    )
    """Async functions; they are called at once, not one after the other."""

    matcher: str | None = attrs.field(
        default=None, validator=checked(_is_pattern, "the name of a tool, or a regular expression")
    )
    """The tools that they are for, such as ``"Bash"`` or ``"Write|Edit"``. None: all."""

    timeout: float | None = attrs.field(
        default=None,
        validator=checked(
            lambda value: is_seconds(value) and 0 < value < math.inf,
            "a finite number of seconds above 0",
        ),
    )
    """Seconds that each of them has. None: as long as the agent gives it."""

    def __attrs_post_init__(self) -> None:
        refuse_none(self, "hooks")
