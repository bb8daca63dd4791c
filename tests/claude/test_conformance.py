"""A backend of `claude` programs keeps the promises that all backends keep."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.claude.support import backend, children_of, fault, scripted_claude, wait_gone
from trio_claude import SessionOptions
from trio_claude.testing import check_backend


@pytest.mark.parametrize("pace", [0.0, 0.005])
@pytest.mark.parametrize("older", [False, True])
async def test_the_backend_keeps_its_promises(tmp_path: Path, older: bool, pace: float) -> None:
    """With a program of today and with an older one; with one that has said everything before
    anybody can tell it to stop, and with one that hasn't."""
    before = children_of(os.getpid())
    claude = scripted_claude(tmp_path, older=older, pace=pace)
    with trio.fail_after(60):
        await check_backend(backend(claude), SessionOptions(timeout=20))
    await wait_gone(claude)
    assert before == children_of(os.getpid())


@pytest.mark.parametrize(
    "script",
    [
        [fault("vain", at="interrupt", start=None), fault("hold", at="delta 3", turn=2)],
        [fault("silent", at="rewind_conversation", start=None)],
    ],
)
async def test_a_program_that_does_not_let_go_keeps_them_too(
    tmp_path: Path, script: list[dict[str, Any]]
) -> None:
    """The program is replaced wherever it can't be told to stop, or to forget."""
    claude = scripted_claude(tmp_path, *script)
    settings = {"interrupt_timeout": 0.2, "close_timeout": 5.0}
    with trio.fail_after(60):
        await check_backend(backend(claude, **settings), SessionOptions(timeout=20))
    await wait_gone(claude)
