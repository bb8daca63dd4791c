"""A session that crashes comes back under its name, and has forgotten what it was told."""

import trio

import trio_claude
from trio_claude import SessionSpec
from trio_claude.testing import crash


async def main() -> None:
    """Tell it something, let it crash, and ask for it."""
    team = [SessionSpec(name="helper"), SessionSpec(name="other")]
    async with trio_claude.open_supervisor(team) as supervisor:
        for name in ("helper", "other"):
            await trio_claude.query(name, "My favorite language is Python")

        await crash(trio_claude.get_session("helper"))

        for name in ("helper", "other"):
            print(f"{name}: {await trio_claude.query(name, 'What is my favorite language?')}")
        for info in supervisor.list_sessions():
            print(f"{info.name}: {info.status}, incarnation {info.incarnation}")


trio.run(main)
