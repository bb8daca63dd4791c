import trio

import trio_claude
from trio_claude import Global, cluster


async def main() -> None:
    """Ask the assistant, wherever it is."""
    name = Global("main_assistant")
    async with cluster.connect():
        print(await trio_claude.query(name, "My favorite color is green"))
        async with trio_claude.stream(name, "What's my favorite color?") as events:
            async for text in trio_claude.streams.text_deltas(events):
                print(text, end="", flush=True)
            print()


trio.run(main)
