"""The service's refusals, as our errors.

Source: https://docs.claude.com/en/api/errors
"""

from __future__ import annotations

import email.utils
import json
import math
import re
from typing import TYPE_CHECKING, Any

from .._errors import (
    APIError,
    APIStatusError,
    AuthenticationError,
    BadRequestError,
    BillingError,
    ConflictError,
    InternalServerError,
    NotFoundError,
    OverloadedError,
    PermissionDeniedError,
    RateLimitError,
    RequestTooLargeError,
    StreamInterrupted,
    UnprocessableEntityError,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

_BY_STATUS: dict[int, type[APIStatusError]] = {
    400: BadRequestError,
    401: AuthenticationError,
    402: BillingError,
    403: PermissionDeniedError,
    404: NotFoundError,
    409: ConflictError,
    413: RequestTooLargeError,
    422: UnprocessableEntityError,
    429: RateLimitError,
    529: OverloadedError,
}

# For errors that come as events, behind a status of 200.
_BY_TYPE: dict[str | None, type[APIStatusError]] = {
    "invalid_request_error": BadRequestError,
    "authentication_error": AuthenticationError,
    "billing_error": BillingError,
    "permission_error": PermissionDeniedError,
    "not_found_error": NotFoundError,
    "conflict_error": ConflictError,
    "request_too_large": RequestTooLargeError,
    "rate_limit_error": RateLimitError,
    "api_error": InternalServerError,
    "timeout_error": InternalServerError,
    "overloaded_error": OverloadedError,
}

_ADVICE: dict[type[APIStatusError], str] = {
    AuthenticationError: "check ANTHROPIC_API_KEY, or the api_key or auth_token that is given",
    BillingError: "check the account's billing",
    PermissionDeniedError: "this key may not use the model or resource that was asked for",
    NotFoundError: "check the model's name and base_url",
    RequestTooLargeError: "the conversation has become too long to be sent",
}

_TRANSIENT_TYPES = ("overloaded_error", "rate_limit_error", "api_error", "timeout_error")
_LONGEST_SHOWN = 500


def status_error(
    host: str, status: int, headers: Mapping[str, str], body: bytes, *, now: float
) -> APIStatusError:
    """The error that an answer with this status is.

    Args:
      host: whose answer it is, for the message.
      status: any status but that of a success.
      headers: the answer's, their names in lower case.
      body: the answer's, or its beginning.
      now: seconds since 1970, to read a ``retry-after`` that is a date.
    """
    decoded = _decode(body)
    error = _error_in(decoded)
    kind = _text(error.get("type"))
    request_id = headers.get("request-id") or _text(_field(decoded, "request_id"))
    cls = _BY_STATUS.get(status, InternalServerError if status >= 500 else APIStatusError)
    said = _text(error.get("message")) or _shown(decoded)
    advice = _ADVICE.get(cls)
    if 300 <= status < 400:
        # Following it would give the key to an address that nobody named.
        advice = f"redirects are not followed; base_url must say where {host} has moved to"
        said = said or headers.get("location")
    return cls(
        _message(host, str(status), kind, said, advice, request_id),
        status_code=status,
        type=kind,
        request_id=request_id,
        retry_after=retry_after(headers, now),
        body=decoded,
    )


def event_error(host: str, payload: Mapping[str, Any]) -> APIStatusError:
    """The error that an ``error`` event in a stream is."""
    error = _error_in(payload)
    kind = _text(error.get("type"))
    request_id = _text(payload.get("request_id"))
    cls = _BY_TYPE.get(kind, APIStatusError)
    said = _text(error.get("message"))
    return cls(
        _message(host, "in mid-stream", kind, said, _ADVICE.get(cls), request_id),
        status_code=200,
        type=kind,
        request_id=request_id,
        body=payload,
    )


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds after which the service allows another try, or None if it doesn't say.

    Args:
      headers: the answer's, their names in lower case.
      now: seconds since 1970.
    """
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            seconds = float(headers.get(name, "")) * unit
        except ValueError:
            continue
        if math.isfinite(seconds):
            return max(seconds, 0.0)
    try:
        date = email.utils.parsedate_to_datetime(headers.get("retry-after", ""))
        return max(date.timestamp() - now, 0.0)
    except (ValueError, OverflowError):
        return None


def is_transient(failure: APIError, headers: Mapping[str, str]) -> bool:
    """Whether the same request may fare better another time.

    Args:
      failure: how it failed.
      headers: the answer's, their names in lower case; empty where there was none.
    """
    if not isinstance(failure, APIStatusError):
        # An answer that came whole and cannot be read would be no better the next time.
        return type(failure) is not APIError
    match headers.get("x-should-retry"):
        case "true":
            return True
        case "false":
            return False
    if failure.status_code == 200:
        return failure.type in _TRANSIENT_TYPES
    return failure.status_code in (408, 409, 429) or failure.status_code >= 500


def cut_short(host: str, why: str) -> StreamInterrupted:
    """The error for an answer that ended before it was whole."""
    return StreamInterrupted(f"the answer of {host} broke off: {why}")


def unreadable(host: str, why: str) -> APIError:
    """The error for an answer that nobody can make sense of."""
    return APIError(f"cannot read the answer of {host}: {why}")


def _decode(body: bytes) -> Any:
    text = body.decode("utf-8", "replace")
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text or None


def _field(decoded: object, name: str) -> object:
    return decoded.get(name) if isinstance(decoded, dict) else None


def _error_in(decoded: object) -> dict[str, Any]:
    error = _field(decoded, "error")
    return error if isinstance(error, dict) else {}


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _shown(decoded: object) -> str | None:
    """A body that is not the service's own, as one short line."""
    if decoded is None:
        return None
    text = decoded if isinstance(decoded, str) else json.dumps(decoded)
    title = re.search(r"<title[^>]*>(.*?)</title>", text, re.IGNORECASE | re.DOTALL)
    text = " ".join((title.group(1) if title else text).split())
    printable = "".join(char if char.isprintable() else "?" for char in text[:_LONGEST_SHOWN])
    return printable + ("..." if len(text) > _LONGEST_SHOWN else "")


def _message(
    host: str,
    status: str,
    kind: str | None,
    said: str | None,
    advice: str | None,
    request_id: str | None,
) -> str:
    words = [f"{host} answered with an error, {status}" + (f" {kind}" if kind else "")]
    words[0] += f": {said}" if said else ""
    if advice:
        words.append(advice)
    if request_id:
        words.append(f"request id {request_id}")
    return words[0] + (f" ({'; '.join(words[1:])})" if words[1:] else "")
