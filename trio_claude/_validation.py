"""Refusing bad input at the door, by name: the checks that options and calls share."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import attrs

from ._errors import ConfigurationError


def is_count(value: object, least: int = 0) -> bool:
    """A whole number of at least ``least``; True and False are none."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def is_number(value: object) -> bool:
    """A number that is not nan; True and False are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)


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
    # What can stand in an HTTP header: anything else would fail deep inside the client.
    return isinstance(value, str) and value.isascii() and value.isprintable() and value != ""


def is_url(value: object) -> bool:
    return (
        isinstance(value, str)
        and value.startswith(("http://", "https://"))
        and not any(char.isspace() for char in value)
        and value.partition("://")[2].strip("/") != ""
    )


def is_text(value: object) -> bool:
    return isinstance(value, str)


def is_name(value: object) -> bool:
    return isinstance(value, str) and value.strip() != ""


def is_strings(value: object) -> bool:
    return (
        isinstance(value, Sequence)
        and not isinstance(value, str)
        and all(isinstance(item, str) and item for item in value)
    )


def is_mapping(value: object) -> bool:
    return isinstance(value, Mapping) and all(isinstance(key, str) for key in value)


def is_headers(value: object) -> bool:
    return isinstance(value, Mapping) and all(
        is_token(key) and isinstance(item, str) and item.isascii() and item.isprintable()
        for key, item in value.items()
    )


def is_queue(value: object) -> bool:
    return is_count(value) or value == math.inf


def checked(
    check: Callable[[Any], bool], valid: str, *, secret: bool = False
) -> Callable[[Any, Any, Any], None]:
    """An attrs validator that refuses by name, and says what is valid; None is "not set"."""

    def validate(_instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
        if value is not None and not check(value):
            shown = f"a {type(value).__name__}" if secret else repr(value)
            raise ConfigurationError(f"{attribute.name} must be {valid}, not {shown}")

    return validate


def refuse_unknown(cls: type, given: Iterable[str]) -> None:
    """Raise ConfigurationError for the first of the names that is no option of ``cls``."""
    valid = [field.name for field in attrs.fields(cls) if field.init]
    for name in given:
        if name not in valid:
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
