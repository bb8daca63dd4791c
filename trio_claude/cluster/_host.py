"""The actor that a group runs in: a Trio run of its own, and the door to it.

Ray calls the actor's methods in an asyncio loop; the Trio run is in a thread beside it, for as long
as the actor lives. A call goes over to it and its answer comes back without waiting for anything
else, which is one wake-up of a thread each.
"""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

import attrs
import trio

from .._supervision.events import log_event
from .._supervision.opening import open_from_spec
from ._connection import Connection, open_connection
from ._doors import Door, soon
from ._jobs import NotHere, refusal
from ._wire import Said, dumps, loads
from ._wire_errors import dumps_error

if TYPE_CHECKING:
    from .._supervision.spec import SupervisorSpec
    from .._supervision.supervisor import Supervisor


_T = TypeVar("_T")


class Host(Door):
    """One actor of a group."""

    def __init__(self, door: str, namespace: str, opener: str) -> None:
        super().__init__()
        self._door = door
        self._namespace = namespace
        self._up: Future[int | None] = Future()  # its life, once it takes calls
        self._opened: Future[bytes] = Future()  # the entries of its sessions, or an error
        self._ended: Future[bytes] = Future()
        self._connection: Connection | None = None
        self._supervisor: Supervisor | None = None
        self._token: trio.lowlevel.TrioToken | None = None
        self._close = trio.Event()
        threading.Thread(target=self._run, args=(opener,), name="trio", daemon=True).start()

    # ---- called by Ray, in the loop --------------------------------------------------------------

    async def ask(self, call: bytes) -> bytes:
        """What a :class:`Mailbox` does, without one. Waits until the Trio run takes calls."""
        if not self._up.done():
            await _settled(self._up)
        connection, token = self._connection, self._token
        if connection is None or token is None:
            return await self._refuse()
        loop = asyncio.get_running_loop()
        future: asyncio.Future[bytes] = loop.create_future()
        try:
            token.run_sync_soon(connection.service.receive, call, soon(loop, future))
        except trio.RunFinishedError:
            return await self._refuse()
        return await future

    async def _refuse(self) -> bytes:
        ended = await _settled(self._ended)
        said: Said = loads(ended)
        return refusal(NotHere("the group has ended")) if said.error is None else ended

    async def up(self) -> int | None:
        return await _settled(self._up)

    async def opened(self) -> bytes:
        """Waits until the group's sessions are started; gives them, or why they could not be."""
        return await _settled(self._opened)

    async def ended(self) -> bytes:
        """Waits until the group has ended; gives why, if it is an error."""
        return await _settled(self._ended)

    async def close(self) -> bytes:
        """Let the group end, and wait for that."""
        await _settled(self._opened)
        with suppress(trio.RunFinishedError):
            assert self._token is not None
            self._token.run_sync_soon(self._close.set)
        return await _settled(self._ended)

    # ---- in the thread ---------------------------------------------------------------------------

    def _run(self, opener: str) -> None:
        ended = dumps(Said("end", value=()))  # it has no sessions
        try:
            trio.run(self._main, opener)
        except BaseException as exc:
            ended = refusal(exc)
        if not self._up.done():
            self._up.set_result(None)
        if not self._opened.done():
            self._opened.set_result(ended)
        self._ended.set_result(ended)

    async def _main(self, opener: str) -> None:
        self._token = trio.lowlevel.current_trio_token()
        async with open_connection(
            self._namespace, self._door, supervise=self._supervise
        ) as connection:
            self._connection = connection
            self._up.set_result(connection.life.number)
            spec: SupervisorSpec = loads(await connection.peers.ask(opener, "plan", self._door))
            async with open_from_spec(spec, (), log_event) as supervisor:
                self._supervisor = supervisor
                await connection.names.held.settle()
                self._opened.set_result(dumps(Said("end", value=connection.names.held.entries())))
                await self._close.wait()
                connection.life.closing = True

    async def _supervise(self, kind: str, args: tuple[Any, ...]) -> Any:
        connection = self._connection
        assert connection is not None
        while (arrival := connection.names.held.arrival()) is not None:
            await arrival.wait()
        supervisor = self._supervisor
        assert supervisor is not None
        match kind, args:
            case "start_session", (spec, id):
                handle = await supervisor.start_session(loads(spec), id=id)
                return connection.names.held.entry_of(handle)
            case "terminate_session", (id,):
                return await supervisor.terminate_session(id)
            case "restart_session", (id,):
                return await supervisor.restart_session(id)
            case "list_sessions", ():
                return [
                    (
                        connection.names.held.entry_of(info.handle),
                        attrs.asdict(info, recurse=False, filter=_is_sent),
                        None if info.last_error is None else dumps_error(info.last_error),
                    )
                    for info in supervisor.list_sessions()
                ]
            case _:
                raise AssertionError(kind)


async def _settled(future: Future[_T]) -> _T:
    return await asyncio.shield(asyncio.wrap_future(future))


def _is_sent(field: attrs.Attribute[Any], _: object) -> bool:
    return field.name not in ("handle", "last_error")
