"""What every handle keeps to, for a session of this run."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from trio_claude import SessionHandle, SessionSpec, Supervisor, open_supervisor

from .handle import *  # noqa: F403 - the tests

pytestmark = pytest.mark.usefixtures("no_proxies")


class Here:
    """A session of a supervisor of this run."""

    name = "reviewer"
    ahead = 0

    def __init__(self) -> None:
        self._supervisor: Supervisor | None = None

    @asynccontextmanager
    async def __call__(self, spec: SessionSpec) -> AsyncIterator[SessionHandle]:
        """Open it."""
        async with open_supervisor([spec], max_restarts=100) as self._supervisor:
            yield self.find()

    def find(self) -> SessionHandle:
        """Its handle."""
        return self._open().get_session(self.name)

    async def restart(self) -> None:
        """Restart it."""
        await self._open().restart_session(self.name)

    async def terminate(self) -> None:
        """Terminate it."""
        await self._open().terminate_session(self.name)

    def _open(self) -> Supervisor:
        assert self._supervisor is not None
        return self._supervisor


@pytest.fixture
def place() -> Here:
    """Where the sessions are."""
    return Here()
