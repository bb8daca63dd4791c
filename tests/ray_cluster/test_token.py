"""A cluster that asks for a token: who has it is let in, and nobody else."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
import trio

from trio_claude.testing import ScriptedBackend

from .client import connect, query, start
from .support import PATIENCE, ROOT, There, environment, far, open_process

TOKEN = "a-token-9b7e6f5d4c3b2a19081726354453627180"
ANOTHER = "another-00112233445566778899aabbccddeeff"

START = """
import sys
from ray.cluster_utils import Cluster
cluster = Cluster(
    initialize_head=True, head_node_args={"include_dashboard": False, "num_cpus": 16}
)
print(cluster.address, flush=True)
sys.stdin.read()
cluster.shutdown()
"""


@attrs.frozen
class Guarded:
    """A cluster that asks for a token."""

    address: str
    env: dict[str, str]
    """That of a process that has none."""


@pytest.fixture(scope="module")
def guarded(short_tmp: Path) -> Iterator[Guarded]:
    """One node, in processes of its own: what Ray makes of the token is the whole process's."""
    tmp = short_tmp / "t"
    tmp.mkdir()
    home = tmp / "home"
    home.mkdir()
    # Ray asks twenty times, once a second, before it takes the answer for one.
    env = environment(tmp, HOME=str(home), RAY_AUTH_MODE="token", RAY_NUM_REDIS_GET_RETRIES="2")
    with subprocess.Popen(
        [sys.executable, "-c", START],
        env={**env, "RAY_AUTH_TOKEN": TOKEN},
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        yield Guarded(process.stdout.readline().strip(), env)
        process.stdin.close()
        assert 0 == process.wait(PATIENCE)


async def test_with_the_token(guarded: Guarded) -> None:
    """It connects, and so does a group's actor; by the environment, or by a file."""
    env = {**guarded.env, "RAY_AUTH_TOKEN": TOKEN}
    token_file = Path(guarded.env["HOME"]) / "token"
    token_file.write_text(TOKEN)
    by_file = {**guarded.env, "RAY_AUTH_TOKEN_PATH": str(token_file)}
    with trio.fail_after(PATIENCE):
        async with open_process(env) as one, open_process(by_file) as two:
            await one.do(connect, guarded.address, "guarded")
            await one.do(start, far("a", backend=ScriptedBackend()))
            await two.do(connect, guarded.address, "guarded")
            assert "simulator" in await two.do(query, "a", "Hello")
            await one.close()
            await two.close()


@pytest.mark.parametrize(
    "given",
    [
        {"RAY_AUTH_TOKEN": ANOTHER},
        {},
        {"RAY_AUTH_MODE": "disabled"},
    ],
    ids=["another", "none", "disabled"],
)
async def test_without_the_token(guarded: Guarded, given: dict[str, str]) -> None:
    """It is refused soon, with a ClusterError that says why, and has no token in it."""
    with trio.fail_after(PATIENCE):
        async with open_process({**guarded.env, **given}) as process:
            began = trio.current_time()
            with pytest.raises(There, match=r"^ClusterError: .*(?i:token|auth)") as caught:
                await process.do(connect, guarded.address, "guarded")
            print(f"\n{trio.current_time() - began:.1f} s: {caught.value}\n{caught.value.cause}")
            assert trio.current_time() - began < 15
            for token in (TOKEN, ANOTHER):
                assert token not in caught.value.text + caught.value.cause
            await process.close()
