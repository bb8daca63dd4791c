"""A program with a conversation in mid-answer, which says so and waits to be killed."""

import sys

import trio

from trio_claude import CLIBackend, SessionOptions, TextDelta


async def main(path: str, cancelled_starts: int) -> None:
    """Be in the middle of an answer of this `claude` program, after starts that were cancelled."""
    options = SessionOptions()
    async with CLIBackend(cli_path=path).connect() as connection:
        for checkpoints in range(cancelled_starts):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(cancel, nursery.cancel_scope, checkpoints)
                async with connection.open(options):
                    await trio.sleep_forever()
        async with (
            connection.open(options) as conversation,
            conversation.turn("Hello", options) as events,
        ):
            async for event in events:
                if isinstance(event, TextDelta):
                    break
            print("in mid-answer", flush=True)
            await trio.sleep_forever()


async def cancel(scope: trio.CancelScope, checkpoints: int) -> None:
    """Cancel after so many checkpoints."""
    for _ in range(checkpoints):
        await trio.lowlevel.checkpoint()
    scope.cancel(reason="to see what is left")


if __name__ == "__main__":
    trio.run(main, sys.argv[1], int(sys.argv[2]))
