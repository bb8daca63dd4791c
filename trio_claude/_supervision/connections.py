"""What the sessions of one supervisor share: one connection for each backend.

A connection is held open by a task of its own in the supervisor's nursery, for whatever the
backend opens (nurseries and cancel scopes among it) must be entered and left in one task. It is
opened when a first session needs it, and closed when no child is left that does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio

from .._validation import is_hashable

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from .._backends.base import Connection
    from .._options import BackendLike


class Shared:
    """One backend's connection, or what kept it from being one."""

    def __init__(self, backend: BackendLike) -> None:
        self.backend = backend
        self.users = 0
        self.scope = trio.CancelScope(shield=True)  # the sessions on it are stopped first
        self.failed = False
        self._settled = trio.Event()
        self._connection: Connection | None = None
        self._error: Exception | None = None

    async def connection(self) -> Connection:
        """Wait until it is open.

        Raises:
          Exception: what it could not be opened for.
        """
        if self._settled.is_set():
            await trio.lowlevel.checkpoint_if_cancelled()
        else:
            await self._settled.wait()
        if self._error is not None:
            raise self._error
        assert self._connection is not None
        return self._connection

    async def hold(self, broke_down: Callable[[BaseException], None]) -> None:
        """Keep it open until its scope is cancelled. Raises nothing."""
        try:
            with self.scope:
                async with self.backend.connect() as connection:
                    self._connection = connection
                    self._settled.set()
                    await trio.sleep_forever()
        except BaseException as exc:
            self.failed = True
            if isinstance(exc, Exception) and not self._settled.is_set():
                self._error = exc  # those who wait for it get it
                self._settled.set()
            else:
                broke_down(exc)


class Connections:
    """The connections of one supervisor."""

    def __init__(self, nursery: trio.Nursery, broke_down: Callable[[BaseException], None]) -> None:
        self._nursery = nursery
        self._broke_down = broke_down
        self._shared: dict[Hashable, Shared] = {}

    def use(self, backend: BackendLike) -> Shared:
        """The connection of this backend, which is being opened if need be; never blocks."""
        key = _key(backend)
        shared = self._shared.get(key)
        if shared is None or shared.failed:
            shared = self._shared[key] = Shared(backend)
            self._nursery.start_soon(shared.hold, self._broke_down)
        shared.users += 1
        return shared

    def leave(self, shared: Shared) -> None:
        """Say that a child does not need it any more; the last one closes it."""
        shared.users -= 1
        if shared.users == 0:
            shared.scope.cancel(reason="no session needs this connection any more")
            if self._shared.get(_key(shared.backend)) is shared:
                del self._shared[_key(shared.backend)]


def _key(backend: Any) -> Hashable:
    return backend if is_hashable(backend) else id(backend)
