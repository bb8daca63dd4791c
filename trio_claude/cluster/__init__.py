"""One name across many machines: sessions on Ray.

:func:`connect` makes :class:`~trio_claude.Global` names those of a whole Ray cluster;
:func:`open_group` runs a supervisor on it; a :class:`Pool` asks whichever of some sessions is free.
Ray comes with the extra: ``pip install 'trio-claude[ray]'``.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING

from .._errors import ConfigurationError
from ._group import Group as Group
from ._opening import open_group as open_group, require_ray
from ._pool import Pool as Pool

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


def connect(
    address: str = "auto", *, namespace: str = "trio_claude"
) -> AbstractAsyncContextManager[None]:
    """Connect this run to a Ray cluster for the length of a block.

    Inside of it, :class:`~trio_claude.Global` names are the cluster's: sessions that are started here
    under such a name are found from every run that is connected with the same namespace, and theirs
    from here. Supervisors belong into the block: who connects has no Global sessions yet.

    Entering starts an actor of Ray's for this process, which takes about a second; leaving ends it,
    and disconnects from Ray, if it was this that connected. When the connection is lost (the node's
    Ray processes die, or those of the head), the block is cancelled and raises ClusterError. Where
    the cluster has token authentication, set ``RAY_AUTH_MODE=token`` before; Ray then takes the token
    from ``RAY_AUTH_TOKEN``, ``RAY_AUTH_TOKEN_PATH`` or ``~/.ray/auth_token``.

    Args:
      address: of the cluster: ``"auto"`` for that of this machine, ``"host:port"`` of its head, or
        ``"local"`` for one that is started for this process and ends with it. Where Ray is
        connected already (``ray.init()`` of yours, or inside an actor), it is used as it is.
      namespace: names of one namespace know nothing of those of another.

    Raises:
      ConfigurationError: Ray is not installed, or an argument is not valid.
      UsageError: this run is connected already, or has sessions with Global names.
      ClusterError: there is no cluster, or it lets nobody in with this token, or it is lost.
    """
    require_ray()
    _check(address, namespace)
    return _connect(address, namespace)


def _check(address: object, namespace: object) -> None:
    if not isinstance(address, str) or not address or address.startswith("ray://"):
        raise ConfigurationError(
            f"address must be 'auto', 'local' or 'host:port' of a head node, not {address!r}; this "
            "process must be on a node of the cluster itself, which Ray's client (ray://) is not"
        )
    if not isinstance(namespace, str) or not namespace:
        raise ConfigurationError(f"namespace must be text that is not empty, not {namespace!r}")


@asynccontextmanager
async def _connect(address: str, namespace: str) -> AsyncIterator[None]:
    from ._driver import open_driver_connection

    async with open_driver_connection(address, namespace):
        yield


# As in trio_claude: users see where to import a name from, not the file that it is written in.
for _value in (Group, open_group, Pool):
    _value.__module__ = "trio_claude.cluster"
del _value
