"""Fixtures for pytest, with pytest-trio: ``pytest_plugins = ["trio_claude.testing.fixtures"]``."""

from collections.abc import AsyncIterator

import attrs
import pytest

from .. import _options
from ..simulator.server import Simulator, open_simulator


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    """A server that speaks the Messages API, and that every session of the test talks to.

    For that it is what the application is configured with (:func:`~trio_claude.configure`), with a
    key that it accepts; afterwards the application has its own options back. It needs real time:
    a mock clock that jumps would time the requests out.
    """
    before = _options._application
    async with open_simulator(api_key="simulated") as server:
        _options.configure(base_url=server.base_url, api_key="simulated")
        try:
            yield server
        finally:
            _options.configure(
                **attrs.asdict(before, recurse=False, filter=lambda _, value: value is not None)
            )
