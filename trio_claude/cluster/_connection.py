"""A run that is connected: what it has of the cluster, and the block for which it has it.

Its tasks all wait for an answer of Ray's that comes when there is something. What goes wrong with them
ends the connection: the block is cancelled, and raises :class:`ClusterError`.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, final

from .._nurseries import open_hidden_nursery
from .._supervision.names import set_cluster
from ._jobs import NotHere
from ._life import Life
from ._names import Names
from ._service import Service

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable


@final
class Connection:
    """What a run has of the cluster."""

    def __init__(
        self, life: Life, supervise: Callable[[str, tuple[Any, ...]], Awaitable[Any]] | None
    ) -> None:
        self.life = life
        self.names = Names(life, whole=supervise is not None)
        self.peers = self.names.peers
        self.service = Service(
            self.names.held.find, self.names.held.arrival, self.peers.until_lost, self._do
        )
        self._supervise = supervise

    async def _do(self, kind: str, args: tuple[Any, ...]) -> Any:
        if kind == "renew":
            return None
        if kind == "plan":
            (door,) = args
            return self.life.plans[door]
        if self._supervise is None:
            raise NotHere("this process has no group")
        return await self._supervise(kind, args)


@asynccontextmanager
async def open_connection(
    namespace: str,
    door: str,
    *,
    supervise: Callable[[str, tuple[Any, ...]], Awaitable[Any]] | None = None,
) -> AsyncIterator[Connection]:
    """Connect this run for the length of a block; Ray and the door must be up.

    Args:
      supervise: does what is asked of a group; None where there is none.
    """
    async with open_hidden_nursery() as nursery:
        life = Life(namespace, door, nursery)
        connection = Connection(life, supervise)
        names = connection.names
        set_cluster(names)
        try:
            await names.join()
            await nursery.start(life.keep, connection.service.run)
            life.start_soon(life.keep, names.follow)
            life.start_soon(life.keep, names.held.tell)
            with life.body:
                yield connection
        except Exception as exc:
            if life.failure is None:
                raise
            raise life.failure from exc
        finally:
            set_cluster(None)
            life.ended = True
            names.end(life.end_error())
            if life.failure is None:
                await names.leave()
    if life.failure is not None:
        raise life.failure
