"""What is asked over the wire, and what is said.

A process asks another one's door, and each call has one answer. What takes long has a number of the
asker's, under which it can be asked on (``more``) or left (``leave``)::

    ask      a question: taken, or still in line, or answered already
    more     what has come since: the next events, or the end
    unask    answer the `more` that is under way now: its reader was cancelled
    leave    nobody wants it any more; answered once it is off the session
    clear · interrupt · stop · control      the handle's other methods
    start_session · terminate_session · restart_session · list_sessions   a group's
    plan     what an actor of a group is to do
    renew    nothing: it goes by a new line, so that what came by the one before is left

So nobody is sent what they did not ask for: an answer whose reader doesn't read waits at its source,
but for the one batch that was asked for ahead.

All of it is pickled. Who reaches a Ray cluster may run any code in it anyway, so that pickle gives
nobody a power that they did not have. To pickle a list of deltas takes 1.0 µs a delta, and 0.7 to
get it back (256 of them, Python 3.11): next to the Ray call that carries them, nothing.
"""

from __future__ import annotations

import pickle
from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

import attrs

from .._errors import ConfigurationError
from .._messages import InputJSONDelta, TextDelta, ThinkingDelta
from .._supervision.names import Global

if TYPE_CHECKING:
    from .._messages import Event
    from .._session.target import Status

BATCH_SIZE = 64 * 1024
"""Bytes of events, as :func:`size_of` counts them, after which a batch is full."""

_PROTOCOL = 5
_PER_VALUE = 16  # bytes; a delta was measured to take 19 besides its text
_PLAIN = frozenset({str, bytes, int, float, bool, type(None)})

# ---- sessions ------------------------------------------------------------------------------------

Standing: TypeAlias = "tuple[int, int, Status, str | None]"
"""How a session stands: the life of its process, a number that grows with each change in it, and
what handles show. Of two of one life, the greater one is the newer."""


@attrs.frozen
class Member:
    """What a session of a group is found by that has no :class:`Global` name: the name of the
    group's actor, and the session's id in the group."""

    door: str
    id: Hashable


Name: TypeAlias = Global | Member


@attrs.frozen
class Entry:
    """A session that others may ask, as the process that it runs in tells of it."""

    door: str  # the name of the actor that takes calls for it
    life: int  # which life of the door's process
    where: str  # the process, for people: "process 12 on 10.0.0.3"
    id: Hashable
    called: Hashable | None  # its name, or None
    status: Status
    session_id: str | None
    serial: int = 0  # grows with each change of these two, in one life
    born: int = 0  # which session of that life it is

    @property
    def standing(self) -> Standing:
        """How the session stands."""
        return self.life, self.serial, self.status, self.session_id


def is_plain(value: object) -> bool:
    """Whether it is plain data, that is equal to itself in every process: text, bytes, numbers,
    bools, None, and tuples and frozensets of these; none of a subclass."""
    todo = [value]
    while todo:
        value = todo.pop()
        if isinstance(value, (tuple, frozenset)) and type(value) in (tuple, frozenset):
            todo += value
        elif type(value) not in _PLAIN or value != value:  # NaN is not even equal to itself
            return False
    return True


def refuse_unplain(key: Hashable, whose: object) -> None:
    """Raise ConfigurationError for what two processes could take for different things."""
    if not is_plain(key):
        raise ConfigurationError(
            f"{whose!r} can't be known in a cluster: names and ids there are made of text, bytes, "
            "numbers, bools, None, and tuples and frozensets of these"
        )


# ---- calls ---------------------------------------------------------------------------------------


class Request(NamedTuple):
    """What one process asks of another."""

    kind: str
    number: int
    """Among the asker's."""

    name: Name | None = None
    """The session that it is about."""

    born: tuple[int, int] | None = None
    """Of the session: the life and the number of its entry. Another one may have its name by now."""

    args: tuple[Any, ...] = ()


class Said(NamedTuple):
    """What is answered."""

    state: Literal["waiting", "taken", "events", "end"]
    """Of a question: in line; taken by its session; some events; the end. Of all else: the end."""

    standing: Standing | None = None
    """That of the session, if it was found."""

    events: Sequence[Event] = ()

    error: bytes | None = None
    """At the end, if it is a bad one."""

    taken: bool = True
    """At the end, whether the session has taken the question at all."""

    value: Any = None
    """What the asked-for has returned."""


# ---- bytes ---------------------------------------------------------------------------------------


def dumps(value: object) -> bytes:
    """A request, a reply, or a list of events as bytes. Raises whatever pickling it raises."""
    return pickle.dumps(value, _PROTOCOL)


def loads(data: bytes) -> Any:
    """The value again. Raises whatever unpickling it raises."""
    return pickle.loads(data)


def size_of(event: Event) -> int:
    """Roughly how many bytes an event takes; of one that fills a batch, only that it does."""
    match event:
        case TextDelta(_, text) | ThinkingDelta(_, text) | InputJSONDelta(_, text):
            return _PER_VALUE + len(text)
        case _:
            pass
    size = 0
    todo: list[object] = [event]
    while todo and size < BATCH_SIZE:
        value = todo.pop()
        size += _PER_VALUE
        if isinstance(value, (str, bytes)):
            size += len(value)
        elif isinstance(value, Mapping):
            todo += value.keys()
            todo += value.values()
        elif isinstance(value, (tuple, list)):
            todo += value
        elif attrs.has(kind := type(value)):
            todo += [getattr(value, field.name) for field in attrs.fields(kind)]
    return size
