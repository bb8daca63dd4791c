"""Errors over the wire: as they were raised, with their attributes, notes and causes.

Errors need more than pickle. It drops causes, fails on what cannot be made there, and one such
exception takes along all that hangs together with it. So each exception is pickled by itself and
may fail by itself: what cannot be had on the other side arrives as a :class:`FarError`, with its
notes and its cause. Our own errors, and exception groups, are taken apart and put together again
without their constructor, so that no more is lost than the one attribute that cannot be pickled.
"""

from __future__ import annotations

import io
import pickle
import traceback
from typing import TYPE_CHECKING, Any

import attrs

from .._errors import TrioClaudeError

if TYPE_CHECKING:
    from collections.abc import Mapping

_PROTOCOL = 5
_DEPTH = 20  # more causes of causes than anybody reads
_RAISED_THERE = "raised there:\n"


class FarError(Exception):
    """Stands for an exception, raised in another process, of a class that cannot be had in this one.

    Its message names the class, and has the exception's own message. What Python does not count
    among the exceptions, such as ``KeyboardInterrupt``, comes as one of these too.
    """

    type_name: str
    """The module and the name of the class."""

    def __init__(self, message: str = "", *, type_name: str = "") -> None:
        super().__init__(message)
        self.type_name = type_name


@attrs.frozen(kw_only=True, eq=False)
class _Packed:
    """An exception on the wire: pickled whole, or in parts, or neither where that failed."""

    type_name: str
    text: str
    notes: list[str]
    cause: _Packed | None
    context: _Packed | None
    suppress_context: bool
    whole: bytes | None = None
    cls: bytes | None = None
    args: bytes | None = None
    attributes: Mapping[str, bytes | None] = attrs.field(factory=dict)
    members: tuple[_Packed, ...] = ()


def dumps_error(error: BaseException) -> bytes:
    """An exception as bytes, with its notes, its attributes, its members if it is a group, and its
    cause or else its context.

    Never raises for what it is given. Cycles, and what is more than 20 deep, are left out. Where
    a cause, context or member was raised is told by a note; the error itself will be raised anew.
    """
    return pickle.dumps(_pack(error, {}, 0), _PROTOCOL)


def loads_error(data: bytes) -> Exception:
    """The exception again, or a :class:`FarError` in the place of what cannot be had here."""
    return _unpack(pickle.loads(data), {})


def _pack(
    error: BaseException | None, packed: dict[int, _Packed | None], depth: int
) -> _Packed | None:
    if error is None or id(error) in packed:
        return packed.get(id(error))  # None where it is still being packed, further up: a cycle
    if depth == _DEPTH:
        return None
    packed[id(error)] = None
    cause, suppress = error.__cause__, error.__suppress_context__
    context = error.__context__ if cause is None and not suppress else None
    common: dict[str, Any] = {
        "type_name": _type_name(error),
        "text": _text(error),
        "notes": _notes(error, outermost=depth == 0),
        "cause": _pack(cause, packed, depth + 1),
        "context": _pack(context, packed, depth + 1),
        "suppress_context": suppress,
    }
    if isinstance(error, BaseExceptionGroup):
        members = [_pack(member, packed, depth + 1) for member in error.exceptions]
        common |= _parts(error) | {
            "text": _text(error.message),
            "members": tuple(member for member in members if member is not None),
        }
        if not isinstance(error, Exception):  # but its members will be: these are
            common |= {"type_name": "builtins.ExceptionGroup", "cls": _pickled(ExceptionGroup)}
    elif isinstance(error, TrioClaudeError):
        common |= _parts(error) | {"args": _pickled(error.args)}
    elif isinstance(error, Exception):
        common["whole"] = _pickled(error)
    packed[id(error)] = done = _Packed(**common)
    return done


def _parts(error: BaseException) -> dict[str, Any]:
    own = {name: value for name, value in vars(error).items() if not name.startswith("__")}
    attributes = {name: _pickled(value) for name, value in own.items()}
    return {"cls": _pickled(type(error)), "attributes": attributes}


def _unpack(packed: _Packed, made: dict[_Packed, Exception]) -> Exception:
    if packed in made:
        return made[packed]
    made[packed] = error = _make(packed, [_unpack(member, made) for member in packed.members])
    attributes: dict[str, object] = {
        "__cause__": packed.cause and _unpack(packed.cause, made),
        "__context__": packed.context and _unpack(packed.context, made),
        "__suppress_context__": packed.suppress_context,  # to set a cause sets it
    }
    if packed.notes:
        attributes["__notes__"] = packed.notes
    for name, value in attributes.items():
        BaseException.__setattr__(error, name, value)  # a frozen class has another one
    return error


def _make(packed: _Packed, members: list[Exception]) -> Exception:
    error = _unpickled(packed.whole)
    cls = _unpickled(packed.cls)
    try:
        if cls is not None:
            args = (packed.text, members) if members else _unpickled(packed.args, (packed.text,))
            error = cls.__new__(cls, *args)
            vars(error).update(
                {name: _unpickled(value) for name, value in packed.attributes.items()}
            )
    except Exception:
        error = None
    if isinstance(error, Exception) and _type_name(error) == packed.type_name:
        return error
    message = f"{packed.type_name}: {packed.text}" if packed.text else packed.type_name
    if members:
        return ExceptionGroup(message, members)
    return FarError(message, type_name=packed.type_name)


class _Pickler(pickle.Pickler):
    """Leaves out what others keep on an exception for themselves."""

    def reducer_override(self, obj: Any) -> Any:
        if not isinstance(obj, BaseException):
            return NotImplemented
        reduced = obj.__reduce_ex__(_PROTOCOL)
        match reduced:
            case (make, args, dict() as state, *more):
                own = {
                    name: value
                    for name, value in state.items()
                    if name == "__notes__" or not name.startswith("__")
                }
                return make, args, own, *more
            case _:
                return reduced


def _pickled(value: object) -> bytes | None:
    data = io.BytesIO()
    try:
        _Pickler(data, _PROTOCOL).dump(value)
    except Exception:  # pickle has no one error for what it cannot do
        return None
    return data.getvalue()


def _unpickled(data: bytes | None, otherwise: Any = None) -> Any:
    try:
        return otherwise if data is None else pickle.loads(data)
    except Exception:
        return otherwise


def _type_name(error: BaseException) -> str:
    return f"{type(error).__module__}.{type(error).__qualname__}"


def _text(value: object) -> str:
    try:
        return "" + str(value)  # a plain str, also where that gave one of a subclass
    except Exception:
        return "<str() failed>"


def _notes(error: BaseException, *, outermost: bool) -> list[str]:
    given = vars(error).get("__notes__")
    notes = [_text(note) for note in given] if isinstance(given, (list, tuple)) else []
    told = any(note.startswith(_RAISED_THERE) for note in notes)
    if not (outermost or told or error.__traceback__ is None):
        notes.append(_RAISED_THERE + "".join(traceback.format_tb(error.__traceback__)).rstrip())
    return notes
