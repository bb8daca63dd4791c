"""The pages of the docs that need Ray: run as tests/test_docs.py runs the others, on a cluster."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import ray
import trio

from tests.test_docs import PAGES, PAGES_ON_RAY, run_page, served
from trio_claude.simulator import Simulator

__all__ = ["served"]


@pytest.fixture
async def on_ray(
    served: Simulator, monkeypatch: pytest.MonkeyPatch, short_tmp: Path
) -> AsyncIterator[Simulator]:
    """A cluster of one node with the environment of `served`; ``"auto"`` finds it.

    This process is connected to it already, and `connect` takes that; programs are told by the
    environment.
    """
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_TMPDIR", str(short_tmp))
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False)
    try:
        monkeypatch.setenv("RAY_ADDRESS", ray.get_runtime_context().gcs_address)
        yield served
    finally:
        ray.shutdown()


@pytest.mark.parametrize("name", sorted(PAGES_ON_RAY))
async def test_page(name: str, on_ray: Simulator, tmp_path: Path) -> None:
    """The examples of this page run, and print what it says."""
    with trio.fail_after(120):
        assert await run_page(PAGES[name], PAGES[name].read_text("utf-8"), on_ray, tmp_path)
