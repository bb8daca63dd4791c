"""Refusing bad input at the door, by name: the checks that options and calls share."""

from __future__ import annotations

import functools
import inspect
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeGuard, TypeVar
from urllib.parse import urlsplit

import attrs

from ._errors import ConfigurationError

_T = TypeVar("_T", bound=attrs.AttrsInstance)

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
    return is_list(value) and all(isinstance(item, str) and item for item in value)


def is_mapping(value: object) -> bool:
    """A mapping as JSON can have it."""
    return isinstance(value, Mapping) and all(isinstance(key, str) for key in value)


def is_headers(value: object) -> bool:
    """A mapping of HTTP headers that can be sent as they are."""
    return isinstance(value, Mapping) and all(
        isinstance(key, str) and _HEADER_NAME.fullmatch(key) and _is_header_value(item)
        for key, item in value.items()
    )


def is_mappings(value: object) -> bool:
    """A list of mappings as JSON can have them."""
    return is_list(value) and all(is_mapping(item) for item in value)


def is_list(value: object) -> TypeGuard[Sequence[Any]]:
    """A list, a tuple or the like; a text is none."""
    return isinstance(value, Sequence) and not isinstance(value, str | bytes | bytearray)


def is_path(value: object) -> bool:
    """Where a file or a folder can be, as text (which :func:`as_path` makes of what is none)."""
    return isinstance(value, str) and value != "" and "\0" not in value


def is_paths(value: object) -> bool:
    """A list of paths."""
    return is_list(value) and all(is_path(item) for item in value)


def is_async(value: object) -> bool:
    """A function whose call is to be awaited; also an object that is called like one."""
    while isinstance(value, functools.partial):
        value = value.func
    if isinstance(value, type):
        return False
    return inspect.iscoroutinefunction(value) or inspect.iscoroutinefunction(
        getattr(value, "__call__", None)  # noqa: B004  # not whether it is there, but what
    )


def are_async(value: object) -> bool:
    """A list of such functions, at least one."""
    return is_list(value) and len(value) > 0 and all(is_async(item) for item in value)


def is_plain_function(value: object) -> bool:
    """What can be called, and gives its value at once."""
    return callable(value) and not isinstance(value, type) and not is_async(value)


def is_queue(value: object) -> bool:
    """How many may wait: a count, or infinitely many."""
    return is_count(value) or value == math.inf


def is_flag(value: object) -> bool:
    """True or False, and nothing that only counts as one of them."""
    return isinstance(value, bool)


# ---- what a value becomes -----------------------------------------------------------------------


def as_tuple(value: Any) -> Any:
    """A list becomes a tuple, so that it can be hashed; anything else is left to the check."""
    return tuple(value) if isinstance(value, list) else value


def as_path(value: Any) -> Any:
    """A path becomes text; anything else is left to the check."""
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def as_paths(value: Any) -> Any:
    """A list of paths becomes a tuple of texts; anything else is left to the check."""
    return tuple(map(as_path, value)) if is_list(value) else value


# ---- refusing -----------------------------------------------------------------------------------


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
def _option_fields(cls: type) -> dict[str, Any]:
    return {field.name: field for field in attrs.fields(cls) if field.init}


def set_options(options: Any, given: Mapping[str, Any]) -> None:
    """Do the work of attrs' own constructor, for a class of :func:`sparse` instances.

    Raises:
      ConfigurationError: an option is unknown or invalid.
    """
    cls: type = type(options)
    fields = _option_fields(cls)
    if not given.keys() <= fields.keys():
        refuse_unknown(cls, given)
    values = options.__dict__
    for name, value in given.items():
        field = fields[name]
        if value is None and field.default is None:
            continue
        said = value if field.converter is None else field.converter(value)
        if field.validator is not None:
            field.validator(options, field, said)
        values[name] = said
    options.__attrs_post_init__()


def sparse(cls: type[_T]) -> type[_T]:
    """Let instances of an attrs class have only what is set; the class has the rest.

    With fifty options of which five are set, all that is done with them is faster and smaller by
    as much: they are made, merged and kept for every session. ``attrs`` itself takes the defaults
    off the class, so this comes after it.
    """
    for field in attrs.fields(cls):
        setattr(cls, field.name, field.default)
    return cls


def refuse_unknown(cls: type, given: Iterable[str]) -> None:
    """Raise ConfigurationError for the first of the names that is no option of ``cls``."""
    valid = tuple(_option_fields(cls))
    for name in given:
        if name not in valid:
            raise ConfigurationError(
                f"{cls.__name__} has no option {name!r}: {did_you_mean(name, valid)}"
            )


def did_you_mean(name: str, valid: Sequence[str]) -> str:
    """What an error says of a name that is none of the valid ones."""
    import difflib  # here, for hardly a program ever needs it

    close = difflib.get_close_matches(name, valid, n=1)
    return f"did you mean {close[0]!r}?" if close else f"valid are: {', '.join(valid)}"


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
