"""What may be said of a conversation, and who wins over whom.

An option that is None is not set: it is inherited. The layers, highest first: the call, the spec,
the supervisor's ``defaults`` (the nearest supervisor first), the application's (`configure`), the
environment, the library's own.
"""

# Without "from __future__ import annotations", here and in _messages: so that what looks at the
# fields of our values (cattrs, inspect, the docs) finds types and not texts.
import math
import os
from collections.abc import Hashable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, Unpack, get_args

import attrs

from ._cli_options import CLIOptions, CLIOverrides
from ._errors import ConfigurationError
from ._validation import (
    as_tuple,
    checked,
    is_count,
    is_hashable,
    is_headers,
    is_mapping,
    is_name,
    is_number,
    is_queue,
    is_seconds,
    is_strings,
    is_text,
    is_token,
    is_url,
    refuse_none,
    refuse_significant,
    set_options,
    show_options,
    sparse,
)

Effort: TypeAlias = Literal["low", "medium", "high", "xhigh", "max"]
EFFORTS: tuple[Effort, ...] = get_args(Effort)

RestartType: TypeAlias = Literal["permanent", "transient", "temporary"]


class BackendLike(Protocol):
    """Anything that sessions can be connected through; :class:`trio_claude.Backend` is the base."""

    def connect(self) -> AbstractAsyncContextManager[Any]: ...


def _is_backend(value: object) -> bool:
    if isinstance(value, str):
        return value in ("messages", "cli")
    return not isinstance(value, type) and callable(getattr(value, "connect", None))


def _is_format(value: object) -> bool:
    return (
        is_mapping(value)
        and isinstance(value, Mapping)
        and value.get("type") == "json_schema"
        and is_mapping(value.get("schema"))
    )


# ---- the options --------------------------------------------------------------------------------


class Overrides(CLIOverrides, total=False):
    """The options by name and type, for calls that take them as keywords."""

    api_key: str | None
    auth_token: str | None
    base_url: str | None
    model: str | None
    system_prompt: str | None
    append_system_prompt: str | None
    max_tokens: int | None
    temperature: float | None
    top_p: float | None
    top_k: int | None
    stop_sequences: Sequence[str] | None
    thinking: Mapping[str, Any] | None
    effort: Effort | None
    output_format: Mapping[str, Any] | None
    metadata: Mapping[str, Any] | None
    timeout: float | None
    max_retries: int | None
    max_queue: float | None
    extra_headers: Mapping[str, str] | None
    extra_body: Mapping[str, Any] | None


@sparse
@attrs.frozen(kw_only=True, repr=False, slots=False)
class SessionOptions(CLIOptions):
    """What may be said of a conversation; what is left out is inherited.

    Not every option works on every backend; one that does not is refused when the session starts.

    Raises:
      ConfigurationError: an option is unknown or invalid; the message names it and says what is
        valid.
    """

    if not TYPE_CHECKING:

        def __init__(self, **options: Any) -> None:
            # Written by hand, so that a typo is a ConfigurationError with a hint.
            set_options(self, options)

    api_key: str | None = attrs.field(
        default=None,
        repr=False,
        validator=checked(is_token, "printable ASCII text without spaces around it", secret=True),
    )
    """The API key. Else ``ANTHROPIC_API_KEY``."""

    auth_token: str | None = attrs.field(
        default=None,
        repr=False,
        validator=checked(is_token, "printable ASCII text without spaces around it", secret=True),
    )
    """A bearer token, instead of a key. Else ``ANTHROPIC_AUTH_TOKEN``."""

    base_url: str | None = attrs.field(
        default=None,
        validator=checked(is_url, "an http:// or https:// address without a user name or password"),
    )
    """Where the service is. Else ``ANTHROPIC_BASE_URL``, else the public service."""

    model: str | None = attrs.field(default=None, validator=checked(is_name, "the name of a model"))
    """A model's name as the service knows it, or ``"opus"``, ``"sonnet"``, ``"haiku"`` for the
    newest of that family. Else ``ANTHROPIC_MODEL``, else the backend's own: ``"sonnet"`` over the
    Messages API."""

    system_prompt: str | None = attrs.field(default=None, validator=checked(is_text, "text"))
    """What the model is told about its part; on the Claude CLI instead of what the agent itself
    says. ``""`` is none."""

    append_system_prompt: str | None = attrs.field(default=None, validator=checked(is_text, "text"))
    """Added behind the system prompt, after an empty line."""

    max_tokens: int | None = attrs.field(
        default=None,
        validator=checked(lambda value: is_count(value, 1), "a whole number of tokens, 1 or more"),
    )
    """The longest answer, in tokens. Default: the backend's own, 8192 over the Messages API."""

    temperature: float | None = attrs.field(
        default=None,
        validator=checked(
            lambda value: is_number(value) and 0 <= value <= 1, "a number from 0 to 1"
        ),
    )
    """How much chance there is in the answer. Else the service's own default."""

    top_p: float | None = attrs.field(
        default=None,
        validator=checked(
            lambda value: is_number(value) and 0 <= value <= 1, "a number from 0 to 1"
        ),
    )
    """Only tokens out of this share of probability. Else the service's own default."""

    top_k: int | None = attrs.field(
        default=None, validator=checked(is_count, "a whole number, 0 or more")
    )
    """Only so many of the likeliest tokens. Else the service's own default."""

    stop_sequences: Sequence[str] | None = attrs.field(
        default=None,
        converter=as_tuple,
        validator=checked(is_strings, "a list of texts that are not empty"),
    )
    """Texts at which the answer ends."""

    thinking: Mapping[str, Any] | None = attrs.field(
        default=None, hash=False, validator=checked(is_mapping, "a mapping with text keys")
    )
    """Extended thinking, as the service takes it: ``{"type": "enabled", "budget_tokens": 2048}``."""

    effort: Effort | None = attrs.field(
        default=None,
        validator=checked(lambda value: value in EFFORTS, f"one of {', '.join(EFFORTS)}"),
    )
    """How much the model thinks and writes. Else the service's own default."""

    output_format: Mapping[str, Any] | None = attrs.field(
        default=None,
        hash=False,
        validator=checked(_is_format, "{'type': 'json_schema', 'schema': {...}}"),
    )
    """The form of the answer: ``{"type": "json_schema", "schema": {...}}``. What was answered in
    it is the result's ``structured_output``."""

    metadata: Mapping[str, Any] | None = attrs.field(
        default=None, hash=False, validator=checked(is_mapping, "a mapping with text keys")
    )
    """About the request, as the service takes it: ``{"user_id": "..."}``."""

    timeout: float | None = attrs.field(
        default=None,
        validator=checked(
            lambda value: is_seconds(value) and value > 0, "a number of seconds above 0"
        ),
    )
    """Seconds for a whole turn, from when the session takes it up; ``math.inf`` is no limit.
    Default 300. Waiting in line does not count."""

    max_retries: int | None = attrs.field(
        default=None, validator=checked(is_count, "a whole number, 0 or more")
    )
    """How often a request is sent again that failed before anything was answered. Default: the
    backend's own, 2 over the Messages API."""

    max_queue: float | None = attrs.field(
        default=None, validator=checked(is_queue, "a whole number, 0 or more, or math.inf")
    )
    """The most callers that may wait for the session; one more gets
    :class:`~trio_claude.SessionBusy`. Default no limit."""

    extra_headers: Mapping[str, str] | None = attrs.field(
        default=None,
        hash=False,
        repr=False,
        validator=checked(
            is_headers, "a mapping of HTTP header names to printable ASCII texts", secret=True
        ),
    )
    """More HTTP headers, such as ``{"anthropic-beta": "..."}``."""

    extra_body: Mapping[str, Any] | None = attrs.field(
        default=None, hash=False, validator=checked(is_mapping, "a mapping with text keys")
    )
    """More fields of the request's body, for what has no option of its own, such as
    ``{"service_tier": "standard_only"}``."""

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        if self.api_key is not None and self.auth_token is not None:
            raise ConfigurationError(
                "api_key and auth_token are two ways to say who you are: give one of them"
            )

    def __repr__(self) -> str:
        return show_options(self)


@sparse
@attrs.frozen(kw_only=True, repr=False, slots=False)
class SessionSpec(SessionOptions):
    """One session for a supervisor to run: its options, and OTP's child specification."""

    if not TYPE_CHECKING:

        def __init__(self, **options: Any) -> None:
            set_options(self, options)

    name: Hashable | None = attrs.field(default=None, validator=checked(is_hashable, "hashable"))
    """Under which it is found from anywhere in the run: any hashable, a :class:`Global` or a
    :class:`Via`. None: it has no name."""

    id: Hashable | None = attrs.field(default=None, validator=checked(is_hashable, "hashable"))
    """Under which its supervisor knows it. Default: its name, else a unique object."""

    restart: RestartType = attrs.field(
        default="permanent",
        validator=checked(
            lambda value: value in ("permanent", "transient", "temporary"),
            "'permanent', 'transient' or 'temporary'",
        ),
    )
    """When it is started again: always, after a crash only, or never."""

    shutdown: float = attrs.field(
        default=5.0, validator=checked(is_seconds, "a number of seconds, 0 or more")
    )
    """Seconds that a turn in flight has to finish when the session is stopped; ``0`` is no grace,
    ``math.inf`` no limit."""

    significant: bool = attrs.field(
        default=False, validator=checked(lambda value: isinstance(value, bool), "True or False")
    )
    """Whether its end counts for the supervisor's ``auto_shutdown``."""

    backend: BackendLike | Literal["messages", "cli"] | None = attrs.field(
        default=None, validator=checked(_is_backend, "a Backend, 'messages' or 'cli'")
    )
    """What answers its turns. Default ``"messages"``."""

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        refuse_none(self, "restart", "shutdown", "significant")
        refuse_significant(self)

    def __repr__(self) -> str:
        return show_options(self)


# ---- the layers ---------------------------------------------------------------------------------

# What a backend sends is the backend's own to say.
LIBRARY_DEFAULTS = SessionOptions(timeout=300.0, max_queue=math.inf)

EVERY_BACKEND = frozenset({"timeout", "max_queue"})
"""The options that are the session's own."""

OPTION_NAMES = tuple(field.name for field in attrs.fields(SessionOptions))

# Of each of these groups, who gives one is not joined by another from a lower layer.
_ONE_OPTION = (
    ("api_key", "auth_token"),
    ("can_use_tool", "permission_prompt_tool"),
    ("resume", "continue_conversation"),
)
_NAMES = frozenset(OPTION_NAMES)
_GROUP_OF = {name: group for group in _ONE_OPTION for name in group}
_GROUPED = frozenset(_GROUP_OF)

# What the whole application is configured with. It is set before any run begins, so it can't
# belong to one; it is only ever replaced whole.
_application = SessionOptions()


def configure(**options: Unpack[Overrides]) -> None:
    """Replace the application's options; without any, clear them.

    They hold for every session of the process that starts afterwards, below what its supervisor
    and its spec say, above the environment.

    Raises:
      ConfigurationError: an option is unknown or invalid; nothing was changed.
    """
    global _application
    _application = SessionOptions(**options)
    _inherited.cache_clear()


_VARIABLES = (
    ("api_key", "ANTHROPIC_API_KEY"),  # before the token: where both are set, it is the one
    ("auth_token", "ANTHROPIC_AUTH_TOKEN"),
    ("base_url", "ANTHROPIC_BASE_URL"),
    ("model", "ANTHROPIC_MODEL"),
)


def environment(variables: Mapping[str, str]) -> SessionOptions:
    """The options that the environment sets. An empty variable is not set.

    Raises:
      ConfigurationError: a variable holds what its option refuses.
    """
    return _environment(*_said_by(variables))


def _said_by(variables: Mapping[str, str]) -> list[str]:
    # A file read into a variable ends with a line break.
    return [variables.get(variable, "").strip() for _, variable in _VARIABLES]


def _environment(*values: str) -> SessionOptions:
    given = SessionOptions()
    for (name, variable), value in zip(_VARIABLES, values, strict=True):
        if value and not (name == "auth_token" and given.api_key is not None):
            try:
                change: dict[str, Any] = {name: value}
                given = attrs.evolve(given, **change)
            except ConfigurationError as exc:
                raise ConfigurationError(f"{variable} in the environment: {exc}") from None
    return given


def merge(*layers: SessionOptions) -> SessionOptions:
    """What holds, where the earlier layers win over the later ones.

    The key and the token count as one option, and so do other pairs that exclude each other: who
    gives one of them is not joined by the other from a lower layer.
    """
    values: dict[str, Any] = {}
    for layer in reversed(layers):
        said = layer.__dict__
        if type(layer) is not SessionOptions:  # a spec: of it only the options
            said = {
                name: said[name] for name in _NAMES.intersection(said) if said[name] is not None
            }
        for name in _GROUPED.intersection(said):
            for other in _GROUP_OF[name]:
                if other not in said:
                    values.pop(other, None)
        values.update(said)
    # Not checked again, for each value was where it was given: the checks cost as much as half of
    # a session's start.
    merged = SessionOptions.__new__(SessionOptions)
    merged.__dict__.update(values)
    return merged


def refuse_options(
    options: SessionOptions, honoured: frozenset[str], here: str, elsewhere: str
) -> None:
    """Raise ConfigurationError for options that are set and not among those that a backend has.

    Args:
      options: already merged.
      honoured: the names of those that it has.
      here: how the backend is called.
      elsewhere: how the one is chosen that has the others.
    """
    if not options.__dict__.keys() <= honoured:
        names = [name for name in OPTION_NAMES if getattr(options, name) is not None]
        others = [repr(name) for name in names if name not in honoured]
        raise ConfigurationError(
            f"{here} has no option {' or '.join(others)}; backend={elsewhere!r} has"
        )


def session_options(*layers: SessionOptions) -> SessionOptions:
    """What holds for a session, below what its calls say: ``layers`` are its spec and its
    supervisors' defaults, what it inherits comes behind."""
    return merge(*layers, inherited())


def inherited() -> SessionOptions:
    """What every session inherits from the application, the environment and the library; the same
    object again for as long as nothing of that has changed."""
    return _inherited(*_said_by(os.environ))


@lru_cache(maxsize=1)  # asked for by every start, and hardly ever another than the last one's
def _inherited(*variables: str) -> SessionOptions:
    return merge(_application, _environment(*variables), LIBRARY_DEFAULTS)
