"""A backend of `claude` programs keeps the promises that all backends keep."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.claude.support import backend, children_of, scripted_claude, wait_gone
from trio_claude import SessionOptions
from trio_claude.testing import check_backend


@pytest.mark.parametrize(
    "program",
    [
        pytest.param({}, id="today's"),
        pytest.param({"pace": 0.001}, id="one that hasn't said it all before it can be stopped"),
        pytest.param({"older": True, "pace": 0.001}, id="an older one"),
        pytest.param({"older": True, "streams": False}, id="one that streams nothing"),
    ],
)
async def test_the_backend_keeps_its_promises(tmp_path: Path, program: dict[str, Any]) -> None:
    """Whatever the program is like."""
    before = children_of(os.getpid())
    claude = scripted_claude(tmp_path, **program)
    with trio.fail_after(60):
        await check_backend(backend(claude), SessionOptions(timeout=20))
    await wait_gone(claude)
    assert before == children_of(os.getpid())
