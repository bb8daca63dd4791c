"""One session, and two questions of one conversation."""

import trio

import trio_claude


async def main() -> None:
    """Tell it something, and ask for it."""
    async with trio_claude.open_session() as session:
        print(await session.query("My favorite language is Python"))
        print(await session.query("What's my favorite language?"))


trio.run(main)
