"""What is sent to the Messages API: headers, bodies, and the conversation so far.

A conversation is kept as the service's own JSON, block by block as it came, so that it gets back
what it said even where this version has no name for it. What it is known to refuse is left out,
for a history that holds it would be refused for ever:

* text that is empty or blank; ``thinking`` without its signature; a message that ends in thinking;
* the call of a tool whose input is no JSON, because the answer was cut off in it;
* the call of a tool that the service itself runs, if its result never came.

The calls of the user's tools are kept, and since nobody answers them here, the next user message
begins by saying so. A refused turn is forgotten whole: the service goes on refusing while it sees
it. Of a turn that was answered by nothing, the question stays: the service takes two user messages
in a row as one.

Source: https://docs.claude.com/en/api/messages
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from .._errors import ConfigurationError
from .._options import EVERY_BACKEND, SessionOptions, refuse_options

Raw: TypeAlias = dict[str, Any]
"""A message, or a block of one, as the service's JSON."""

MESSAGES_OPTIONS = EVERY_BACKEND | {
    "api_key",
    "auth_token",
    "base_url",
    "model",
    "system_prompt",
    "append_system_prompt",
    "max_tokens",
    "temperature",
    "top_p",
    "top_k",
    "stop_sequences",
    "thinking",
    "effort",
    "output_format",
    "metadata",
    "max_retries",
    "extra_headers",
    "extra_body",
}
"""The options that the Messages API has."""

# What holds where nobody has said anything.
DEFAULT_BASE_URL = "https://api.anthropic.com"
DEFAULT_MODEL = "sonnet"
DEFAULT_MAX_TOKENS = 8192
DEFAULT_MAX_RETRIES = 2

API_VERSION = "2023-06-01"
NO_RESULT = "No result was given for this tool call."

# Tools that the service runs itself: their results come in the same message.
_SERVER_TOOLS = ("server_tool_use", "mcp_tool_use")
_THINKING = ("thinking", "redacted_thinking")

# They say where a request ends: another value than the true one breaks the connection.
_OF_HTTP_ITSELF = ("content-length", "transfer-encoding")


def refuse_unsupported(options: SessionOptions) -> None:
    """Raise ConfigurationError for an option that is set and that the Messages API does not have."""
    refuse_options(options, MESSAGES_OPTIONS, "the Messages API", "cli")


# ---- addresses, headers and bodies -------------------------------------------------------------------------


def endpoint(options: SessionOptions, path: str) -> str:
    """The address of a request."""
    return (options.base_url or DEFAULT_BASE_URL).rstrip("/") + path


def max_retries(options: SessionOptions) -> int:
    """How often a request may be sent again."""
    return DEFAULT_MAX_RETRIES if options.max_retries is None else options.max_retries


def request_headers(options: SessionOptions, user_agent: str) -> dict[str, str]:
    """The headers of a request, their names in lower case.

    Raises:
      ConfigurationError: there is no key and no token, or a header cannot be sent.
    """
    headers = {
        "anthropic-version": API_VERSION,
        "accept": "text/event-stream, application/json",
        # Events are to be seen as they come, and a small body must not swell to a large one.
        "accept-encoding": "identity",
        "content-type": "application/json",
        "user-agent": user_agent,
    }
    if options.api_key is not None:
        headers["x-api-key"] = options.api_key
    elif options.auth_token is not None:
        headers["authorization"] = f"Bearer {options.auth_token}"
    for name, value in (options.extra_headers or {}).items():
        if name.lower() in _OF_HTTP_ITSELF:
            raise ConfigurationError(f"extra_headers must not set {name!r}: the client does")
        headers[name.lower()] = value
    if "x-api-key" not in headers and "authorization" not in headers:
        raise ConfigurationError(
            "no API key: set the environment variable ANTHROPIC_API_KEY, or give api_key=... "
            "(or auth_token=..., or ANTHROPIC_AUTH_TOKEN, for a bearer token)"
        )
    return headers


def request_body(messages: list[Raw], model: str | None, options: SessionOptions) -> bytes:
    """The JSON of a request for a streamed answer.

    Raises:
      ConfigurationError: ``extra_body`` sets what is not its to set, or an option is no JSON.
    """
    system = "\n\n".join(
        text for text in (options.system_prompt, options.append_system_prompt) if text
    )
    body: Raw = {
        "model": model,
        "max_tokens": options.max_tokens or DEFAULT_MAX_TOKENS,
        "system": system or None,
        "temperature": options.temperature,
        "top_p": options.top_p,
        "top_k": options.top_k,
        "stop_sequences": list(options.stop_sequences or ()) or None,
        "thinking": options.thinking,
        "metadata": options.metadata,
        "output_config": _output_config(options),
    }
    body = {name: value for name, value in body.items() if value is not None}
    extra = options.extra_body or {}
    for name in ("messages", "stream"):
        if name in extra:
            raise ConfigurationError(f"extra_body must not set {name!r}: the session does")
    return _json({**body, **extra, "messages": messages, "stream": True})


def _output_config(options: SessionOptions) -> Raw | None:
    config = {"effort": options.effort, "format": options.output_format}
    return {name: value for name, value in config.items() if value is not None} or None


def _json(body: Raw) -> bytes:
    try:
        try:
            return dumps(body, ascii_only=False).encode()
        except UnicodeEncodeError:  # half of a surrogate pair, which only an escape can say
            return dumps(body, ascii_only=True).encode()
    except (TypeError, ValueError, RecursionError) as exc:
        raise ConfigurationError(
            f"extra_body, output_format, thinking and metadata must be JSON, and this is not: {exc}"
        ) from exc


def dumps(body: object, *, ascii_only: bool) -> str:
    """The JSON of it, which may also have mappings of other kinds than dict.

    Raises:
      TypeError, ValueError, RecursionError: it is no JSON.
    """
    return json.dumps(
        body, ensure_ascii=ascii_only, allow_nan=False, separators=(",", ":"), default=_plain
    )


def _plain(value: object) -> Raw:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"a {type(value).__name__} is no JSON")


# ---- the conversation ---------------------------------------------------------------------------


def ask(history: Sequence[Raw], prompt: str) -> list[Raw]:
    """The messages of a request that asks ``prompt`` after all that was said before."""
    unanswered = _unanswered(history[-1]["content"]) if history else []
    if not unanswered:
        return [*history, {"role": "user", "content": prompt}]
    results = [
        {"type": "tool_result", "tool_use_id": id_, "content": NO_RESULT, "is_error": True}
        for id_ in unanswered
    ]
    content = [*results, {"type": "text", "text": prompt}]
    return [*history, {"role": "user", "content": content}]


def _unanswered(content: str | list[Raw]) -> list[str]:
    if isinstance(content, str):
        return []
    return [block["id"] for block in content if block.get("type") == "tool_use"]


def carry_on(question: list[Raw], content: list[Raw]) -> list[Raw]:
    """The messages of a request to go on with an answer that the service paused.

    Args:
      question: the messages that began the turn.
      content: all blocks of the answer so far.
    """
    if not content:
        return question
    last = content[-1]
    if last.get("type") == "text":
        # The service refuses to go on after trailing white space.
        content = [*content[:-1], {**last, "text": last["text"].rstrip()}]
    return [*question, {"role": "assistant", "content": content}]


def remember(
    history: Sequence[Raw], question: list[Raw], content: list[Raw], stop_reason: str | None
) -> Sequence[Raw]:
    """The history after a turn that succeeded.

    Args:
      history: what it was before.
      question: the messages that began the turn.
      content: all blocks of the answer.
      stop_reason: why it ended.
    """
    if stop_reason == "refusal":
        return history
    results = {block.get("tool_use_id") for block in content}
    kept = [
        block
        for block in content
        if block.get("type") not in _SERVER_TOOLS or block.get("id") in results
    ]
    while kept and kept[-1].get("type") in _THINKING:
        kept.pop()
    if not kept:
        return question
    return [*question, {"role": "assistant", "content": kept}]


def can_be_sent(block: Raw) -> bool:
    """Whether the service takes this block back."""
    match block:
        case {"type": "text"}:
            return bool(str(block.get("text", "")).strip())
        case {"type": "thinking"}:
            return bool(block.get("signature"))
        case _:
            return True
