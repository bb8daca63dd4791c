"""Refusing bad input at the door, by name: the checks that options and calls share."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import attrs

from ._errors import ConfigurationError

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, 5.6.2: a token
_CREDENTIALS = re.compile(r"://[^/?#\s]*@")


def is_count(value: object, least: int = 0) -> bool:
    """A whole number of at least ``least``; True and False are none."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def is_number(value: object) -> bool:
    """A number that is not nan; True and False are none."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    try:
        return not math.isnan(value)
    except OverflowError:  # an int that no clock can count with
        return False


def is_seconds(value: object) -> bool:
    """A duration of 0 or more; infinite is one."""
    return is_number(value) and value >= 0  # type: ignore[operator]  # is_number says so


def is_hashable(value: object) -> bool:
    """Fit to be a name or an id."""
    try:
        hash(value)
    except TypeError:
        return False
    return True


def is_token(value: object) -> bool:
    """What can stand in an HTTP header; anything else would fail deep inside the client."""
    return _is_header_value(value) and value != ""


def _is_header_value(value: object) -> bool:
    return (
        isinstance(value, str)
        and value.isascii()
        and value.isprintable()
        and value == value.strip()
    )


def is_url(value: object) -> bool:
    """Where a service can be: http or https, a host, and neither a name nor a password."""
    if not isinstance(value, str) or any(char.isspace() for char in value):
        return False
    try:
        url = urlsplit(value)
        return (
            url.scheme in ("http", "https")
            and bool(url.hostname)
            and url.port != 0  # which also raises for one that is no number
            and "@" not in url.netloc
        )
    except ValueError:
        return False


def is_text(value: object) -> bool:
    """Any text, also an empty one."""
    return isinstance(value, str)


def is_name(value: object) -> bool:
    """Text that is not blank."""
    return isinstance(value, str) and value.strip() != ""


def is_strings(value: object) -> bool:
    """A list of texts that are not empty."""
    return (
        isinstance(value, Sequence)
        and not isinstance(value, str | bytes)
        and all(isinstance(item, str) and item for item in value)
    )


def is_mapping(value: object) -> bool:
    """A mapping as JSON can have it."""
    return isinstance(value, Mapping) and all(isinstance(key, str) for key in value)


def is_headers(value: object) -> bool:
    """A mapping of HTTP headers that can be sent as they are."""
    return isinstance(value, Mapping) and all(
        isinstance(key, str) and _HEADER_NAME.fullmatch(key) and _is_header_value(item)
        for key, item in value.items()
    )


def is_queue(value: object) -> bool:
    """How many may wait: a count, or infinitely many."""
    return is_count(value) or value == math.inf


def checked(
    check: Callable[[Any], bool], valid: str, *, secret: bool = False
) -> Callable[[Any, Any, Any], None]:
    """An attrs validator that refuses by name, and says what is valid; None is "not set"."""

    def validate(_instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
        if value is not None and not check(value):
            shown = f"this {type(value).__name__} (not shown)" if secret else _shown(value)
            raise ConfigurationError(f"{attribute.name} must be {valid}, not {shown}")

    return validate


def _shown(value: object) -> str:
    """The value as it can stand in an error: without the password that a URL may have."""
    return _CREDENTIALS.sub("://***@", repr(value))


@functools.cache
def _option_names(cls: type) -> tuple[str, ...]:
    return tuple(field.name for field in attrs.fields(cls) if field.init)


def refuse_unknown(cls: type, given: Iterable[str]) -> None:
    """Raise ConfigurationError for the first of the names that is no option of ``cls``."""
    valid = _option_names(cls)
    for name in given:
        if name not in valid:
            import difflib  # here, for hardly a program ever needs it

            close = difflib.get_close_matches(name, valid, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"valid are: {', '.join(valid)}"
            raise ConfigurationError(f"{cls.__name__} has no option {name!r}: {hint}")


def show_options(options: Any) -> str:
    """A repr that has only what is set, and of secrets only that they are."""
    shown = []
    for field in attrs.fields(type(options)):
        value = getattr(options, field.name)
        if value is not None and value != field.default:
            shown.append(f"{field.name}={value!r}" if field.repr else f"{field.name}='***'")
    return f"{type(options).__name__}({', '.join(shown)})"


def refuse_none(spec: Any, *names: str) -> None:
    """Raise ConfigurationError for the first of the fields that is None: these inherit nothing."""
    for name in names:
        if getattr(spec, name) is None:
            raise ConfigurationError(f"{name} must not be None")


def refuse_significant(spec: Any) -> None:
    """Raise ConfigurationError for a child that is permanent and significant."""
    if spec.significant and spec.restart == "permanent":
        raise ConfigurationError(
            f"{spec!r}: what is permanent is always started again, so it cannot be significant; "
            "make it transient or temporary"
        )
