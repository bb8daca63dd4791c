"""A program with a session in mid-answer, which says so and waits to be killed."""

import sys

import trio

from trio_claude import CLIBackend, TextDelta, open_session


async def main(path: str) -> None:
    """Be in the middle of an answer of this `claude` program."""
    async with open_session(backend=CLIBackend(cli_path=path)) as session:
        async with session.stream("Hello") as stream:
            async for event in stream:
                if isinstance(event, TextDelta):
                    break
            print("in mid-answer", flush=True)
            await trio.sleep_forever()


if __name__ == "__main__":
    trio.run(main, sys.argv[1])
