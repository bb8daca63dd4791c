"""Hypothesis strategies for what a supervisor is told, and for what befalls its sessions.

All that is drawn is valid by itself. Names are drawn from a few, so that two supervisors may well
want the same one. Most of them take strategies for single fields as keywords, which replace its
own: ``session_specs(name=st.none(), backend=st.just(my_backend))``.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

try:
    from hypothesis import strategies as st
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "trio_claude.testing.strategies needs hypothesis: pip install hypothesis", name=error.name
    ) from error

from .._callbacks import (
    HOOK_EVENTS,
    HookMatcher,
    PermissionResult,
    PermissionResultAllow,
    ToolPermissionContext,
)
from .._cli_options import PERMISSION_MODES
from .._options import EFFORTS, SessionOptions, SessionSpec
from .._supervision.policy import (
    AUTO_SHUTDOWNS,
    STRATEGIES,
    AutoShutdown,
    Backoff,
    RestartIntensity,
    Strategy,
)
from .._supervision.spec import SupervisorSpec
from ._schedule import Crash, Mishap

# Short enough to collide, and what has made trouble elsewhere: other types, other alphabets.
_NAMES = st.sampled_from(["a", "b", "reviewer", "naïve", "two words", 0, 1, ("shard", 1), ""])
_TEXTS = st.text(max_size=20)
_WORDS = st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=10)
_SHARES = st.floats(0, 1)


def _seconds(least: float = 0.0, most: float = 60.0) -> st.SearchStrategy[float]:
    # Steps of a quarter: exact as floats, so that sums and equal times are met.
    return st.integers(math.ceil(least * 4), int(most * 4)).map(lambda quarters: quarters / 4)


def _fields(
    own: Mapping[str, st.SearchStrategy[Any]], given: Mapping[str, st.SearchStrategy[Any]]
) -> st.SearchStrategy[dict[str, Any]]:
    """All that are given, and any of our own."""
    others = {name: own[name] for name in own if name not in given}
    return st.fixed_dictionaries(given, optional=others)


_JSON_TEXTS = st.dictionaries(_WORDS, _TEXTS, max_size=2)
_JSON = st.dictionaries(_WORDS, st.none() | st.booleans() | st.integers() | _TEXTS, max_size=2)


async def _may_use(
    _tool: str, _input: Mapping[str, Any], _context: ToolPermissionContext
) -> PermissionResult:
    return PermissionResultAllow()


async def _hook(_input: Mapping[str, Any], _tool_use_id: str | None) -> None:
    return None


_WORD_LISTS = st.lists(_WORDS, max_size=3).map(tuple)
_PATHS = _WORDS.map("/{}".format)
_PATH_LISTS = st.lists(_PATHS, max_size=2).map(tuple)
_MCP_SERVERS = st.one_of(
    st.fixed_dictionaries({"command": _WORDS}, optional={"env": _JSON_TEXTS}),
    st.fixed_dictionaries(
        {"type": st.sampled_from(["http", "sse"]), "url": st.just("http://h.example")},
        optional={"headers": _JSON_TEXTS},
    ),
)
_HOOK_MATCHERS = st.builds(
    HookMatcher,
    st.lists(st.just(_hook), min_size=1, max_size=2),
    matcher=st.none() | _WORDS,
    timeout=st.none() | _seconds(0.25),
)

_OF_BOTH: dict[str, st.SearchStrategy[Any]] = {
    "base_url": st.builds("http://{}.example:{}".format, _WORDS, st.integers(1, 65535)),
    "model": st.sampled_from(["opus", "sonnet", "haiku"]) | _WORDS,
    "system_prompt": _TEXTS,
    "append_system_prompt": _TEXTS,
    "max_tokens": st.integers(1, 100_000),
    "thinking": st.just({"type": "enabled", "budget_tokens": 2048}),
    "effort": st.sampled_from(EFFORTS),
    "output_format": st.just({"type": "json_schema", "schema": {"type": "object"}}),
    "timeout": _seconds(0.25) | st.just(math.inf),
    "max_retries": st.integers(0, 5),
    "max_queue": st.integers(0, 5) | st.just(math.inf),
    "extra_headers": st.dictionaries(_WORDS, _WORDS, max_size=2),
    "extra_body": _JSON,
}
_OF_MESSAGES: dict[str, st.SearchStrategy[Any]] = {
    "temperature": _SHARES,
    "top_p": _SHARES,
    "top_k": st.integers(0, 1_000),
    "stop_sequences": _WORD_LISTS,
    "metadata": st.builds(lambda user: {"user_id": user}, _WORDS),
}
_OF_CLI: dict[str, st.SearchStrategy[Any]] = {
    "cwd": _PATHS,
    "add_dir": _PATH_LISTS,
    "tools": _WORD_LISTS,
    "allowed_tools": _WORD_LISTS,
    "disallowed_tools": _WORD_LISTS,
    "permission_mode": st.sampled_from(PERMISSION_MODES),
    "hooks": st.dictionaries(
        st.sampled_from(HOOK_EVENTS), st.lists(_HOOK_MATCHERS, max_size=2), max_size=2
    ),
    "mcp_servers": st.dictionaries(_WORDS, _MCP_SERVERS, max_size=2),
    "mcp_config": _PATHS,
    "strict_mcp_config": st.booleans(),
    "agents": st.dictionaries(
        _WORDS, st.fixed_dictionaries({"description": _TEXTS, "prompt": _TEXTS}), max_size=2
    ),
    "plugins": _PATH_LISTS,
    "settings": _JSON | _PATHS,
    "setting_sources": st.lists(
        st.sampled_from(["user", "project", "local"]), unique=True, max_size=3
    ).map(tuple),
    "max_turns": st.integers(1, 100),
    "max_budget_usd": st.floats(0.01, 100),
    "fallback_model": _WORDS,
    "enable_file_checkpointing": st.booleans(),
    "include_hook_events": st.booleans(),
    "config_dir": _PATHS,
    "env": st.dictionaries(
        _WORDS,
        st.none() | st.text(st.characters(exclude_characters="\0", codec="utf-8")),
        max_size=2,
    ),
    "inherit_env": st.booleans() | _WORD_LISTS,
    "extra_args": st.dictionaries(_WORDS.map("x-{}".format), st.none() | _WORDS, max_size=2),
    "max_buffer_size": st.integers(1, 2**30),
    "stderr": st.just(lambda _line: None),
}
# Of each of these groups of options, any one is drawn, or none.
_CREDENTIALS: st.SearchStrategy[dict[str, Any]] = st.one_of(
    st.just({}),
    st.fixed_dictionaries({"api_key": _WORDS}),
    st.fixed_dictionaries({"auth_token": _WORDS}),
)
_PERMISSIONS: st.SearchStrategy[dict[str, Any]] = st.one_of(
    st.just({}),
    st.just({"can_use_tool": _may_use}),
    st.fixed_dictionaries({"permission_prompt_tool": _WORDS}),
)
_CONTINUED: st.SearchStrategy[dict[str, Any]] = st.one_of(
    st.just({}),
    st.fixed_dictionaries(
        {"resume": st.just("last") | _WORDS}, optional={"fork_session": st.booleans()}
    ),
    st.just({"continue_conversation": True}),
    st.just({"continue_conversation": True, "fork_session": True}),
)
_GROUPS: Mapping[bool, Sequence[tuple[set[str], st.SearchStrategy[dict[str, Any]]]]] = {
    False: [({"api_key", "auth_token"}, _CREDENTIALS)],
    True: [
        ({"api_key", "auth_token"}, _CREDENTIALS),
        ({"can_use_tool", "permission_prompt_tool"}, _PERMISSIONS),
        ({"resume", "continue_conversation", "fork_session"}, _CONTINUED),
    ],
}

_WINDOW: dict[str, st.SearchStrategy[Any]] = {
    "max_restarts": st.integers(0, 5),
    "max_seconds": _seconds(0.25, 10),
}
_AS_CHILD: dict[str, st.SearchStrategy[Any]] = {
    "name": _NAMES,
    "id": _NAMES,
    "restart": st.sampled_from(["permanent", "transient", "temporary"]),
    "shutdown": _seconds() | st.just(math.inf),
    "significant": st.booleans(),
}
_MISHAPS: st.SearchStrategy[Mishap] = st.sampled_from(["crash", "stop", "restart", "terminate"])


@st.composite
def _options(
    draw: st.DrawFn,
    own: dict[str, st.SearchStrategy[Any]],
    given: Mapping[str, st.SearchStrategy[Any]],
    cli: bool,
) -> dict[str, Any]:
    """Fields for a class of options. What excludes each other is never drawn both."""
    drawn = draw(_fields(_OF_BOTH | (_OF_CLI if cli else _OF_MESSAGES) | own, given))
    for names, group in _GROUPS[cli]:
        if not names & given.keys():
            drawn |= draw(group)
    return drawn


def session_options(
    *, cli: bool = False, **fields: st.SearchStrategy[Any]
) -> st.SearchStrategy[SessionOptions]:
    """:class:`~trio_claude.SessionOptions` in which anything, everything or nothing is set.

    Args:
      cli: draw the options of the Claude CLI; else those of the Messages API. Neither takes all
        of the other's.
      fields: strategies for single options.
    """
    return _options({}, fields, cli).map(lambda drawn: SessionOptions(**drawn))


def session_specs(
    *, cli: bool = False, **fields: st.SearchStrategy[Any]
) -> st.SearchStrategy[SessionSpec]:
    """:class:`~trio_claude.SessionSpec`, with every restart type, named and unnamed.

    What is drawn to be significant is never permanent. ``backend`` is never set by itself: give
    it, unless the sessions are to talk to the service.

    Args:
      cli: as for :func:`session_options`.
      fields: strategies for single fields.
    """
    return _options(_AS_CHILD, fields, cli).map(_consistent).map(lambda drawn: SessionSpec(**drawn))


def _consistent(drawn: dict[str, Any]) -> dict[str, Any]:
    if drawn.get("restart", "permanent") == "permanent":
        drawn["significant"] = False
    return drawn


def strategies() -> st.SearchStrategy[Strategy]:
    """The names of OTP's restart strategies."""
    return st.sampled_from(STRATEGIES)


def auto_shutdowns() -> st.SearchStrategy[AutoShutdown]:
    """When a supervisor ends with its significant children."""
    return st.sampled_from(AUTO_SHUTDOWNS)


def intensities(
    **fields: st.SearchStrategy[Any],
) -> st.SearchStrategy[RestartIntensity]:
    """Windows of :class:`~trio_claude.RestartIntensity`, in which nothing has happened yet."""
    return _fields(_WINDOW, fields).map(lambda drawn: RestartIntensity(**drawn))


def backoffs(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Backoff]:
    """:class:`~trio_claude.Backoff`, also one whose ``maximum`` is below its ``initial``."""
    own: dict[str, st.SearchStrategy[Any]] = {
        "initial": _seconds(0, 2),
        "maximum": _seconds(0, 10),
        "factor": _seconds(1, 4),
        "jitter": _SHARES,
        "reset_after": _seconds() | st.just(math.inf),
        "max_consecutive": st.none() | st.integers(1, 5),
    }
    return _fields(own, fields).map(lambda drawn: Backoff(**drawn))


def supervisor_flags(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Keywords for :func:`~trio_claude.open_supervisor`: the flags, and neither name nor specs."""
    own: dict[str, st.SearchStrategy[Any]] = {
        "strategy": strategies(),
        **_WINDOW,
        "auto_shutdown": auto_shutdowns(),
        "backoff": st.none() | backoffs(),
        "defaults": st.none() | session_options(),
    }
    return _fields(own, fields)


@st.composite
def supervisor_specs(
    draw: st.DrawFn,
    /,
    *,
    sessions: st.SearchStrategy[SessionSpec] | None = None,
    max_children: int = 4,
    depth: int = 1,
    **flags: st.SearchStrategy[Any],
) -> SupervisorSpec:
    """:class:`~trio_claude.SupervisorSpec` with unique ids, and supervisors below it.

    Args:
      sessions: what its sessions are drawn from; default :func:`session_specs`.
      max_children: how many children each has at most.
      depth: how many more levels of supervisors there may be below it.
      flags: for :func:`supervisor_flags`.
    """
    children: st.SearchStrategy[SessionSpec | SupervisorSpec] = (
        session_specs() if sessions is None else sessions
    )
    if depth > 0:
        children |= supervisor_specs(
            sessions=sessions, max_children=max_children, depth=depth - 1, **flags
        )
    drawn = _consistent(draw(supervisor_flags(**flags)) | draw(_fields(_AS_CHILD, {})))
    significant = drawn.get("auto_shutdown", "never") != "never"
    specs: list[SessionSpec | SupervisorSpec] = []
    ids = set()
    for spec in draw(st.lists(children, max_size=max_children)):
        spec_id = spec.name if spec.id is None else spec.id
        if spec_id is not None and spec_id in ids:
            continue
        ids.add(spec_id)
        specs.append(spec if significant else attrs.evolve(spec, significant=False))
    if draw(st.booleans()):
        drawn["max_sessions"] = len(specs) + draw(st.integers(0, 2))
    return SupervisorSpec(specs=specs, **drawn)


# ---- what befalls them --------------------------------------------------------------------------


def crash_schedules(
    *,
    sessions: int = 4,
    seconds: float = 20.0,
    max_size: int = 12,
    how: st.SearchStrategy[Mishap] = _MISHAPS,
) -> st.SearchStrategy[list[Crash]]:
    """Lists of :class:`~trio_claude.testing.Crash`, in the order of time; some at the very same time.

    Args:
      sessions: how many sessions there are.
      seconds: how long it goes on.
      max_size: how many crashes there are at most.
      how: what befalls them.
    """
    crash = st.builds(Crash, _seconds(0, seconds), st.integers(0, sessions - 1), how)
    return st.lists(crash, max_size=max_size).map(
        lambda crashes: sorted(crashes, key=lambda crash: crash.time)
    )
