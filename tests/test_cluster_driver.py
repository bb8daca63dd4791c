"""How a process gets connected to Ray, and that it is not where nobody wants that any more."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from trio_claude import ClusterError, cluster
from trio_claude.cluster import _driver, _ray

from .fake_ray import FakeRay, fake

__all__ = ["fake"]


class Slow:
    """Connects, but not before it may; and doesn't return before it may."""

    def __init__(self, fake: FakeRay, monkeypatch: pytest.MonkeyPatch) -> None:
        self.connect_now = threading.Event()
        self.is_connected = threading.Event()
        self.return_now = threading.Event()
        self.has_returned = threading.Event()
        self._connect = fake.connect
        monkeypatch.setattr(_ray, "connect", self.connect)

    def connect(self, address: str, namespace: str, is_wanted: Callable[[], bool]) -> None:
        """In a thread."""
        assert self.connect_now.wait(10)
        self._connect(address, namespace, is_wanted)
        self.is_connected.set()
        assert self.return_now.wait(10)
        self.has_returned.set()


async def until(event: threading.Event) -> None:
    """Wait for what a thread does."""
    assert await trio.to_thread.run_sync(event.wait, 10)


async def test_a_cluster_that_answers_too_late(
    fake: FakeRay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This process is not connected to it then: the next one that it asks for may be another."""
    slow = Slow(fake, monkeypatch)
    slow.return_now.set()
    monkeypatch.setattr(_driver, "_CONNECTING_SECONDS", 0.01)
    with pytest.raises(ClusterError, match="no Ray cluster answered at address='auto' in 0"):
        async with cluster.connect():
            raise AssertionError
    slow.connect_now.set()
    await until(slow.has_returned)
    assert fake.connected == []


@pytest.mark.parametrize("is_there", [False, True])
async def test_who_is_cancelled_while_it_connects_is_not_connected(
    is_there: bool, fake: FakeRay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether Ray answers afterwards, or has just done so."""
    slow = Slow(fake, monkeypatch)
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:

            async def connect() -> None:
                async with cluster.connect():
                    raise AssertionError

            nursery.start_soon(connect)
            if is_there:
                slow.connect_now.set()
                await until(slow.is_connected)
                assert len(fake.connected) == 1
            else:
                await wait_all_tasks_blocked()
            scope.cancel()
    assert scope.cancelled_caught
    slow.connect_now.set()
    slow.return_now.set()
    await until(slow.has_returned)
    assert fake.connected == []
