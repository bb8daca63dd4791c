"""Who is found under which name: the table of this run, and registries that users bring.

A name is any hashable and belongs to this ``trio.run``. ``Global(key)`` belongs to the whole
cluster, which without one is this run. ``Via(registry, key)`` is kept by a registry of the user's.
All of them end at the same three methods, those of a :class:`Registry`; but for the names of a
cluster that this run is connected to. To take one of these is to ask others, so it waits, and what
the cluster needs for that is a :class:`Cluster`.

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
    from .._session.target import Askable
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


class Cluster(Protocol):
    """What a run that is connected to a cluster has besides its own names."""

    async def register(self, handle: SessionHandle) -> None:
        """Take the session's name in the cluster, if it is one of the cluster's.

        Raises:
          SessionExists: it is taken.
          ClusterError: the cluster is lost.
        """

    async def unregister(self, handle: SessionHandle) -> None:
        """Free what :meth:`register` took, if it took anything. Doesn't take long, and raises
        nothing."""

    def lookup(self, name: Global) -> SessionHandle | None:
        """The session with this name, as far as this process has heard. Never blocks."""

    def asked(self, name: Global) -> Askable:
        """What to ask for a session that may be on another node: found when it is asked."""

    def names(self) -> Collection[Hashable]:
        """The names of the cluster, as far as this process has heard."""


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


@attrs.define
class _Directory:
    """The names of one run."""

    sessions: _Table[SessionHandle] = attrs.field(factory=_Table)
    supervisors: _Table[Supervisor] = attrs.field(factory=_Table)
    cluster: Cluster | None = None


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


def connected_cluster() -> Cluster | None:
    """The cluster that this run is connected to, or None."""
    return _run_directory().cluster


def set_cluster(cluster: Cluster | None) -> None:
    """Say which cluster this run is connected to from now on; None for no longer to any.

    Raises:
      UsageError: it is connected already, or has sessions whose Global names are this run's only.
    """
    directory = _run_directory()
    if cluster is not None:
        if directory.cluster is not None:
            raise UsageError("this run is connected to a cluster already")
        mine = [name for name in directory.sessions if isinstance(name, Global)]
        if mine:
            raise UsageError(
                f"connect to the cluster before the sessions are started that are to be known in "
                f"it: {there_are(mine)}, known in this run only"
            )
    directory.cluster = cluster


def _checked(name: Hashable) -> Hashable:
    if name is None or not is_hashable(name):
        raise ConfigurationError(f"a name must be hashable and not None, not {name!r}")
    return name


def _resolve(name: Hashable) -> tuple[Registry, Hashable]:
    """The registry that keeps this name, and its key there."""
    if isinstance(name, Via):
        return name.registry, name.key
    # A Global keeps its class in the key, so Global("a") and "a" are two names.
    return _run_directory().sessions, name


async def register_session(handle: SessionHandle) -> None:
    """Take the session's name, if it has one. Waits only where others are to be asked.

    Raises:
      SessionExists: it is taken.
      SupervisorError: the user's registry raised.
      ClusterError: the cluster is lost.
    """
    name, cluster = handle.name, connected_cluster()
    if name is not None and not (cluster is not None and isinstance(name, Global)):
        registry, key = _resolve(name)
        try:
            registry.register(key, handle)
        except TrioClaudeError:
            raise
        except Exception as exc:
            raise SupervisorError(f"the registry of {name!r} could not register it") from exc
    if cluster is not None:
        try:
            await cluster.register(handle)
        except BaseException:
            _unregister_here(name, handle)
            raise


async def unregister_session(handle: SessionHandle) -> None:
    """Free the session's name. Waits only where others are to be told, not for ever.

    Raises:
      SupervisorError: the user's registry raised.
    """
    try:
        cluster = connected_cluster()
        if cluster is not None:
            with trio.CancelScope(shield=True):
                await cluster.unregister(handle)
    finally:
        _unregister_here(handle.name, handle)


def _unregister_here(name: Hashable, handle: SessionHandle) -> None:
    registry, key = _resolve(name)
    if isinstance(name, Via):
        try:
            registry.unregister(key)
        except Exception as exc:
            raise SupervisorError(f"the registry of {name!r} could not unregister it") from exc
    elif registry.lookup(key) is handle:
        registry.unregister(key)


def whereis(name: Hashable) -> SessionHandle | None:
    """The session with this name, or None. Never blocks.

    A :class:`Global` name is looked up in what this process has heard of the cluster, which is a
    moment old; ``query`` and ``stream`` by name ask the cluster.

    Raises:
      UsageError: called outside of a Trio run.
      SupervisorError: the user's registry raised.
    """
    registry, key = _resolve(_checked(name))
    cluster = connected_cluster()
    if cluster is not None and isinstance(name, Global):
        return cluster.lookup(name)
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
        raise not_found(name)
    return handle


def asked_session(name: Hashable) -> Askable:
    """What to ask for the session with this name. Never blocks.

    Raises:
      SessionNotFound: there is none. In a cluster, that is found out when it is asked.
      UsageError: called outside of a Trio run.
      SupervisorError: the user's registry raised.
    """
    cluster = connected_cluster()
    if cluster is not None and isinstance(name, Global):
        return cluster.asked(name)
    return get_session(name)._target


def not_found(name: Hashable) -> SessionNotFound:
    """The error that says so, with the names that there are."""
    known, hint = there_are(_known_beside(name)), ""
    if isinstance(name, Global) and connected_cluster() is None:
        hint = "; this run is not connected to a cluster: see trio_claude.cluster.connect()"
    elif isinstance(name, Global):
        hint = ", in this namespace of the cluster"
    elif connected_cluster() is not None and not isinstance(name, Via):
        hint = "; in a cluster, a session elsewhere is asked by its Global name or by a handle"
    return SessionNotFound(f"no session is named {name!r}; {known}{hint}")


def _known_beside(name: Hashable) -> Collection[Hashable]:
    """The names that could have been meant."""
    if isinstance(name, Via):
        return name.registry.keys() if isinstance(name.registry, LocalRegistry) else ()
    directory = _run_directory()
    if directory.cluster is not None:
        return [*directory.cluster.names(), *directory.sessions]
    return directory.sessions


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
    supervisors = _run_directory().supervisors
    supervisor = supervisors.lookup(_checked(name))
    if supervisor is None:
        raise SessionNotFound(f"no supervisor is named {name!r}; {there_are(supervisors)}")
    return supervisor
