import trio

import trio_claude
from trio_claude import Global, SessionSpec, cluster


async def main() -> None:
    """Keep an assistant for whoever asks, until Control-C."""
    assistant = SessionSpec(name=Global("main_assistant"), system_prompt="You help with bugs")
    async with cluster.connect(), trio_claude.open_supervisor([assistant]):
        print("ready", flush=True)
        await trio.sleep_forever()


trio.run(main)
