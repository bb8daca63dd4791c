"""A session that may read and edit, and has to ask for everything else."""

from collections.abc import Mapping
from typing import Any

import trio

import trio_claude
from trio_claude import (
    PermissionResult,
    PermissionResultAllow,
    PermissionResultDeny,
    SessionSpec,
    ToolPermissionContext,
)


async def may_it(
    tool: str, given: Mapping[str, Any], _context: ToolPermissionContext
) -> PermissionResult:
    """Allow `git`, and nothing more."""
    if tool == "Bash" and given["command"].startswith("git "):
        print("yes:", given["command"])
        return PermissionResultAllow()
    print("no:", tool, given)
    return PermissionResultDeny("You may read and edit files, and use git. Go on without this.")


CODER = SessionSpec(
    name="coder", backend="cli", allowed_tools=["Read", "Edit"], can_use_tool=may_it
)


async def main() -> None:
    """Ask for more than it may do."""
    async with trio_claude.open_supervisor([CODER]):
        await trio_claude.query("coder", "Remove what was built, and commit the rest")


trio.run(main)
