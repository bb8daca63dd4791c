"""Who is found under which name: the table of this run, and registries that users bring.

A name is any hashable and belongs to this ``trio.run``. ``Global(key)`` belongs to the whole
cluster, which without one is this run. ``Via(registry, key)`` is kept by a registry of the user's.
All three end at the same three methods: those of a :class:`Registry`.

The name is its session's, not its incarnation's: it is taken before the first start, stays while
the session is being restarted, and is free once the session is stopped.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable
from itertools import islice
from typing import TYPE_CHECKING, Protocol, TypeVar

import attrs
import trio

from .._errors import (
    ConfigurationError,
    SessionExists,
    SessionNotFound,
    SupervisorError,
    TrioClaudeError,
    UsageError,
)
from .._validation import checked, is_hashable, refuse_none

if TYPE_CHECKING:
    from .._session.handle import SessionHandle
    from .supervisor import Supervisor

_Value = TypeVar("_Value")


class Registry(Protocol):
    """What :class:`Via` needs of a registry. Its methods are called in the Trio thread and must
    not block."""

    def register(self, key: Hashable, handle: SessionHandle) -> None:
        """Keep the handle under the key; raise :class:`SessionExists` if the key is taken."""

    def unregister(self, key: Hashable) -> None:
        """Forget the key; nothing happens if it is not there."""

    def lookup(self, key: Hashable) -> SessionHandle | None:
        """The handle under the key, or None."""


class _Table(dict[Hashable, _Value]):
    def register(self, key: Hashable, value: _Value) -> None:
        if key in self:
            raise SessionExists(f"the name {key!r} is taken")
        self[key] = value

    def unregister(self, key: Hashable) -> None:
        self.pop(key, None)

    def lookup(self, key: Hashable) -> _Value | None:
        return self.get(key)


class LocalRegistry:
    """A registry in memory, for names that :class:`Via` keeps apart from those of the run."""

    def __init__(self) -> None:
        self._table: _Table[SessionHandle] = _Table()

    def __repr__(self) -> str:
        return f"<LocalRegistry of {len(self._table)} at {id(self):#x}>"

    def register(self, key: Hashable, handle: SessionHandle) -> None:
        """Keep the handle under the key.

        Raises:
          SessionExists: the key is taken.
        """
        self._table.register(key, handle)

    def unregister(self, key: Hashable) -> None:
        """Forget the key; nothing happens if it is not there."""
        self._table.unregister(key)

    def lookup(self, key: Hashable) -> SessionHandle | None:
        """The handle under the key, or None."""
        return self._table.lookup(key)

    def keys(self) -> tuple[Hashable, ...]:
        """The keys that are taken, oldest first."""
        return tuple(self._table)


def _is_registry(value: object) -> bool:
    return all(
        callable(getattr(value, method, None)) for method in ("register", "unregister", "lookup")
    )


@attrs.frozen
class Global:
    """A name that is unique in the cluster; in this run, where there is no cluster."""

    key: Hashable = attrs.field(validator=checked(is_hashable, "hashable"))

    def __attrs_post_init__(self) -> None:
        refuse_none(self, "key")


@attrs.frozen
class Via:
    """A name that a registry of yours keeps: found by the same registry and key again."""

    registry: Registry = attrs.field(
        eq=id,
        validator=checked(_is_registry, "an object with register(), unregister() and lookup()"),
    )
    key: Hashable = attrs.field(validator=checked(is_hashable, "hashable"))

    def __attrs_post_init__(self) -> None:
        refuse_none(self, "registry", "key")


@attrs.frozen
class _Directory:
    """The names of one run."""

    sessions: _Table[SessionHandle] = attrs.field(factory=_Table)
    supervisors: _Table[Supervisor] = attrs.field(factory=_Table)


_directory: trio.lowlevel.RunVar[_Directory] = trio.lowlevel.RunVar("trio_claude names")


def _run_directory() -> _Directory:
    try:
        try:
            return _directory.get()
        except LookupError:
            directory = _Directory()
            _directory.set(directory)
            return directory
    except RuntimeError as exc:  # Trio's own word for "not in a run"
        raise UsageError(
            "names are known inside a Trio run only: call this from a task of "
            "trio.run(), in its thread"
        ) from exc


def _resolve(name: Hashable) -> tuple[Registry, Hashable]:
    """The registry that keeps this name, and its key there."""
    if name is None or not is_hashable(name):
        raise ConfigurationError(f"a name must be hashable and not None, not {name!r}")
    if isinstance(name, Via):
        return name.registry, name.key
    # A Global keeps its class in the key, so Global("a") and "a" are two names. A connected
    # cluster will put its own registry here.
    return _run_directory().sessions, name


def register_session(name: Hashable, handle: SessionHandle) -> None:
    """Take the name.

    Raises:
      SessionExists: it is taken.
      SupervisorError: the user's registry raised.
    """
    registry, key = _resolve(name)
    try:
        registry.register(key, handle)
    except TrioClaudeError:
        raise
    except Exception as exc:
        raise SupervisorError(f"the registry of {name!r} could not register it") from exc


def unregister_session(name: Hashable) -> None:
    """Free the name.

    Raises:
      SupervisorError: the user's registry raised.
    """
    registry, key = _resolve(name)
    try:
        registry.unregister(key)
    except Exception as exc:
        raise SupervisorError(f"the registry of {name!r} could not unregister it") from exc


def whereis(name: Hashable) -> SessionHandle | None:
    """The session with this name, or None. Never blocks.

    Raises:
      UsageError: called outside of a Trio run.
      SupervisorError: the user's registry raised.
    """
    registry, key = _resolve(name)
    try:
        return registry.lookup(key)
    except Exception as exc:
        raise SupervisorError(f"the registry of {name!r} could not look it up") from exc


def get_session(name: Hashable) -> SessionHandle:
    """The session with this name. Never blocks.

    Raises:
      SessionNotFound: there is none; the message names those that there are.
      UsageError: called outside of a Trio run.
      SupervisorError: the user's registry raised.
    """
    handle = whereis(name)
    if handle is None:
        raise SessionNotFound(f"no session is named {name!r}; {there_are(_known_beside(name))}")
    return handle


def _known_beside(name: Hashable) -> Collection[Hashable]:
    """The names that could have been meant."""
    if isinstance(name, Via):
        return name.registry.keys() if isinstance(name.registry, LocalRegistry) else ()
    return _run_directory().sessions


def there_are(names: Collection[Hashable]) -> str:
    """The names, for an error's message; the first twenty of many."""
    if not names:
        return "there are none: is the supervisor's block open, and in this run?"
    more = f" and {len(names) - 20} more" if len(names) > 20 else ""
    return "there are " + ", ".join(repr(name) for name in islice(names, 20)) + more


def register_supervisor(name: Hashable, supervisor: Supervisor) -> None:
    """Take the name among the supervisors of this run.

    Raises:
      SessionExists: it is taken.
    """
    try:
        _run_directory().supervisors.register(name, supervisor)
    except SessionExists as exc:
        raise SessionExists(f"a supervisor named {name!r} is running already") from exc


def unregister_supervisor(name: Hashable) -> None:
    """Free the name."""
    _run_directory().supervisors.unregister(name)


def get_supervisor(name: Hashable) -> Supervisor:
    """The supervisor with this name in this run. Never blocks.

    Raises:
      SessionNotFound: there is none; the message names those that there are.
      UsageError: called outside of a Trio run.
    """
    if name is None or not is_hashable(name):
        raise ConfigurationError(f"a name must be hashable and not None, not {name!r}")
    supervisors = _run_directory().supervisors
    supervisor = supervisors.lookup(name)
    if supervisor is None:
        raise SessionNotFound(f"no supervisor is named {name!r}; {there_are(supervisors)}")
    return supervisor
