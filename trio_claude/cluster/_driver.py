"""A process that Ray can't call: it is connected to Ray here, and gets a mailbox for a door."""

from __future__ import annotations

import threading
import uuid
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, final

import trio

from .._errors import ClusterError
from . import _ray
from ._connection import open_connection
from ._doors import DoorLost
from ._life import why

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from ._connection import Connection
    from ._service import Service

# How long an address has to answer at all, and then Ray to connect (a wrong token takes it 25 s).
_PROBE_SECONDS = 5.0
_CONNECTING_SECONDS = 40.0


@asynccontextmanager
async def open_driver_connection(address: str, namespace: str) -> AsyncIterator[Connection]:
    """Connect this process and this run for the length of a block."""
    await _connect(address, namespace)
    try:
        door = f"{_ray.DOOR}{uuid.uuid4().hex}"
        mailbox = await trio.to_thread.run_sync(_ray.start_mailbox, door, namespace)
        try:
            try:
                await mailbox.call("held").wait()
            except DoorLost as exc:
                raise ClusterError(f"Ray could not start an actor here: {exc.why}") from exc
            async with open_connection(namespace, door) as connection:
                life = connection.life
                life.start_soon(life.keep, _take_calls, mailbox, connection.service)
                yield connection
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(mailbox.kill)
    finally:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(_ray.disconnect)


async def _connect(address: str, namespace: str) -> None:
    """Connect this process to Ray, which would try for minutes where nobody answers."""
    host, _, port = address.rpartition(":")
    if host and port.isdecimal():
        try:
            with trio.fail_after(_PROBE_SECONDS):
                await (await trio.open_tcp_stream(host.strip("[]"), int(port))).aclose()
        except (OSError, trio.TooSlowError) as exc:
            raise ClusterError(
                f"nobody answers at address={address!r}, so there is no Ray cluster: "
                f"{why(exc)}; `ray start --head` starts one"
            ) from exc
    attempt = _Attempt()
    connected = False
    try:
        with trio.move_on_after(_CONNECTING_SECONDS):
            connect = partial(_ray.connect, address, namespace, attempt.succeed)
            await trio.to_thread.run_sync(connect, abandon_on_cancel=True)
            connected = True
    finally:
        if not connected and attempt.abandon():
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(_ray.disconnect)
    if not connected:
        raise ClusterError(
            f"no Ray cluster answered at address={address!r} in {_CONNECTING_SECONDS:g} seconds; it "
            "may be one that has ended: `ray start --head` starts one, and `address`, or RAY_ADDRESS, "
            "says which one is meant"
        )


@final
class _Attempt:
    """To connect, in a thread that can't be cancelled: whoever comes last undoes what nobody wants."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._has_succeeded = False
        self._is_abandoned = False

    def succeed(self) -> bool:
        """The thread is connected; gives whether that is still wanted."""
        with self._lock:
            self._has_succeeded = not self._is_abandoned
            return self._has_succeeded

    def abandon(self) -> bool:
        """Nobody waits for it any more; gives whether it is connected, which is to be undone."""
        with self._lock:
            self._is_abandoned = True
            return self._has_succeeded


async def _take_calls(mailbox: _ray.Peer, service: Service) -> None:
    while True:
        for number, call in await mailbox.call("next").wait():

            def answer(data: bytes, number: int = number) -> None:
                with suppress(DoorLost):  # then nobody waits for it
                    mailbox.call("answer", [(number, data)])

            service.receive(call, answer)
