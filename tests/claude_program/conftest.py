"""The program, a place of its own for each test, and that nothing of it is left afterwards."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest

from trio_claude import CLIBackend

from .support import Claude, children, processes_in


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
    left = [*processes_in(home), *children()]
    assert not left, f"processes are left: {left}"
