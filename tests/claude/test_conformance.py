"""A backend of `claude` programs keeps the promises that all backends keep."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import trio

from tests.claude.support import backend, children_of, scripted_claude, wait_gone
from trio_claude import SessionOptions
from trio_claude.testing import check_backend


@pytest.mark.parametrize(("older", "pace"), [(False, 0.0), (False, 0.001), (True, 0.001)])
async def test_the_backend_keeps_its_promises(tmp_path: Path, older: bool, pace: float) -> None:
    """With a program of today and with an older one; with one that has said everything before
    anybody can tell it to stop, and with one that hasn't."""
    before = children_of(os.getpid())
    claude = scripted_claude(tmp_path, older=older, pace=pace)
    with trio.fail_after(60):
        await check_backend(backend(claude), SessionOptions(timeout=20))
    await wait_gone(claude)
    assert before == children_of(os.getpid())
