"""One cluster of three nodes for all tests, and that none of them leaves anything on it."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster

from .support import (
    KEY_OF_THE_CLUSTER,
    Nodes,
    Process,
    environment,
    open_process,
)


@pytest.fixture(scope="session")
def short_tmp() -> Iterator[Path]:
    """A directory with a short name: Ray has sockets in it, whose paths are bounded."""
    tmp = Path(tempfile.mkdtemp(prefix="ray-"))
    yield tmp
    shutil.rmtree(tmp, ignore_errors=True)


@pytest.fixture(scope="session")
def nodes(short_tmp: Path) -> Iterator[Nodes]:
    """A head, and the nodes "north" and "south", which have one resource each of that name."""
    env = environment(short_tmp, ANTHROPIC_API_KEY=KEY_OF_THE_CLUSTER)
    with pytest.MonkeyPatch.context() as patch:
        for name in os.environ.keys() - env.keys():
            patch.delenv(name)
        for name, value in env.items():
            patch.setenv(name, value)
        cluster = Cluster(
            initialize_head=True, head_node_args={"include_dashboard": False, "num_cpus": 16}
        )
        del env["ANTHROPIC_API_KEY"]  # it is the nodes' own
        patch.delenv("ANTHROPIC_API_KEY")
        nodes = Nodes(cluster, short_tmp, env)
        try:
            for name in ("north", "south"):
                nodes.add(resources={name: 16}, env_vars={"ANTHROPIC_API_KEY": KEY_OF_THE_CLUSTER})
            yield nodes
            _wait(lambda: not nodes.actors(), "actors are left: {}", nodes.actors)
        finally:
            cluster.shutdown()  # type: ignore[no-untyped-call]


@pytest.fixture
def namespace(nodes: Nodes) -> Iterator[str]:
    """A namespace of the test's own; afterwards it may have no doors: no process, and no names.

    Its registry goes a second later, which no test waits for, but the last one.
    """
    namespace = f"test-{uuid.uuid4().hex[:8]}"
    yield namespace
    _wait(lambda: not nodes.doors(namespace), "actors are left: {}", lambda: nodes.doors(namespace))


def _wait(check: Callable[[], bool], message: str, what: Callable[[], object]) -> None:
    deadline = time.monotonic() + 10
    while not check():
        if time.monotonic() > deadline:
            pytest.fail(message.format(what()))
        time.sleep(0.05)


@pytest.fixture
async def process(nodes: Nodes) -> AsyncIterator[Process]:
    """Another process, not connected."""
    async with open_process(nodes.env) as process:
        yield process


@pytest.fixture
async def another(nodes: Nodes) -> AsyncIterator[Process]:
    """One more process, not connected."""
    async with open_process(nodes.env) as process:
        yield process
