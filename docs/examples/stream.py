"""An answer that is printed while it comes."""

import trio

import trio_claude


async def main() -> None:
    """Print the pieces of the text, each as soon as it is there."""
    async with (
        trio_claude.open_session(name="writer"),
        trio_claude.stream("writer", "Tell me a story") as events,
    ):
        async for text in trio_claude.streams.text_deltas(events):
            print(text, end="", flush=True)
    print()


trio.run(main)
