"""The program, a place of its own for each test, and that nothing of it is left afterwards."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from trio_claude import CLIBackend

from .support import Claude


@pytest.fixture(scope="session")
def cli_path() -> str:
    """The program that the package ``claude-agent-sdk`` carries; the package is not imported."""
    spec = importlib.util.find_spec("claude_agent_sdk")
    if spec is None or spec.origin is None:
        raise pytest.UsageError(
            "these tests need the claude program: nox -s tests_cli, or pip install claude-agent-sdk"
        )
    return str(Path(spec.origin).parent / "_bundled" / "claude")


@pytest.fixture
def claude(cli_path: str, tmp_path: Path) -> Iterator[Claude]:
    """The program in a place of the test's own; afterwards, no process of it may be left."""
    home, cwd = tmp_path / "home", tmp_path / "cwd"
    home.mkdir()
    cwd.mkdir()
    yield Claude(CLIBackend(cli_path=cli_path), home, cwd)
    left = list(_processes_left(home))
    assert not left, f"processes are left: {left}"


def _processes_left(home: Path) -> Iterator[str]:
    """Our children, zombies too, and whoever lives in that home."""
    for place in Path("/proc").glob("[0-9]*"):
        try:
            # The name may hold anything; what follows it is the state and the parent.
            state, parent = (place / "stat").read_text().rpartition(")")[2].split()[:2]
            ours = int(parent) == os.getpid()
            if ours or f"HOME={home}".encode() in (place / "environ").read_bytes().split(b"\0"):
                command = (place / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                yield f"{place.name} ({state}) {command}"
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue  # it has gone meanwhile, or is somebody else's
