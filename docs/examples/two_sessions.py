"""Two supervised sessions, asked at once by their names."""

import trio

import trio_claude
from trio_claude import SessionSpec

TEAM = [
    SessionSpec(name="reviewer", system_prompt="You are a code reviewer"),
    SessionSpec(name="tester", system_prompt="You are a writer of tests"),
]


async def ask(name: str, prompt: str) -> None:
    """Ask a session by its name: no handle is passed around."""
    answer = await trio_claude.query(name, prompt)
    print(f"{name}: {answer}\n")


async def main() -> None:
    """Ask both; the nursery's block ends when both have answered."""
    async with trio_claude.open_supervisor(TEAM), trio.open_nursery() as nursery:
        nursery.start_soon(ask, "reviewer", "Review my function")
        nursery.start_soon(ask, "tester", "Test my function")


trio.run(main)
