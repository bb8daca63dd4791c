"""CPU per streamed event: many streams at once, read by us, the official client and the floor."""

from __future__ import annotations

import gc
import socket
import time
from collections.abc import Awaitable, Callable

import trio

from .server import GO
from .wire import Plan

Figures = dict[str, float]


class Watch:
    """Measures the CPU time from when all streams are open to when all have ended.

    Args:
      times: how often all streams are opened and read, one time after the other.
    """

    def __init__(self, server: str, streams: int, times: int, plan: Plan) -> None:
        host, port = server.split(":")
        self.base_url = f"http://{server}{plan.path()}"
        self.plan = plan
        self.streams = streams
        self._times = times
        self._closed = 0
        self._began = 0.0
        self._server = socket.create_connection((host, int(port)))

    def opened(self) -> None:
        """Say that one more stream has its first word; the last one lets the server go on."""
        self._closed -= 1
        if self._closed == 0:
            gc.collect()
            self._began = time.process_time()
            self._server.sendall(GO)

    async def read(self, reader: Callable[[int], Awaitable[int]]) -> Figures:
        """Have all streams read, each by a task; seconds of CPU an event.

        Args:
          reader: reads the stream of this number, and gives how many words it had after the first.
        """

        async def read_one(number: int) -> None:
            words = await reader(number)
            assert words == self.plan.events, f"{words} of {self.plan.events} words"

        spent = 0.0
        for _ in range(self._times):
            self._closed = self.streams
            async with trio.open_nursery() as nursery:
                for number in range(self.streams):
                    nursery.start_soon(read_one, number)
            spent += time.process_time() - self._began
        self._server.close()
        return {"cpu": spent / (self._times * self.streams * self.plan.events)}


def ours(server: str, streams: int, times: int = 1, **plan: int) -> Figures:
    """Named sessions of a supervisor, asked with `stream`."""
    import trio_claude
    from trio_claude import ResultMessage, SessionSpec, TextDelta

    watch = Watch(server, streams, times, Plan(**plan))
    specs = [
        SessionSpec(
            name=number,
            base_url=watch.base_url,
            api_key="x",
            model="claude-benchmark",
            max_retries=0,
        )
        for number in range(streams)
    ]
    text = watch.plan.text()

    async def read(number: int) -> int:
        words = 0
        async with trio_claude.stream(number, "Hi") as answer:
            event = await answer.receive()
            while not isinstance(event, TextDelta):
                event = await answer.receive()
            watch.opened()
            async for event in answer:
                if isinstance(event, TextDelta):
                    words += 1
        assert isinstance(event, ResultMessage)
        assert event.result == text
        return words

    async def main() -> Figures:
        async with trio_claude.open_supervisor(specs):
            return await watch.read(read)

    return trio.run(main)


def official(
    server: str, streams: int, times: int = 1, *, count_reads: bool = False, **plan: int
) -> Figures:
    """The official client, `messages.create(stream=True)`.

    Args:
      count_reads: count what the sockets gave, too, as `reads` for each packet: were it less than
        1, packets would have run together. It costs time, so it is not for a measurement.
    """
    from anthropic import AsyncAnthropic

    watch = Watch(server, streams, times, Plan(**plan))
    reads = _count_reads() if count_reads else []

    async def main() -> Figures:
        async with AsyncAnthropic(base_url=watch.base_url, api_key="x", max_retries=0) as client:

            async def read(_number: int) -> int:
                words = 0
                answer = await client.messages.create(
                    model="claude-benchmark",
                    max_tokens=8192,
                    messages=[{"role": "user", "content": "Hi"}],
                    stream=True,
                )
                while (await anext(answer)).type != "content_block_delta":
                    pass
                watch.opened()
                async for event in answer:
                    if event.type == "content_block_delta" and event.delta.type == "text_delta":
                        words += 1
                return words

            return await watch.read(read)

    figures = trio.run(main)
    if count_reads:
        packets = (
            times * streams * (len(watch.plan.packets()) + 2)
        )  # with the opening and the closing
        figures["reads"] = len(reads) / packets
    return figures


def _count_reads() -> list[int]:
    """Have every read of a socket put its size into this list."""
    reads: list[int] = []
    receive_some = trio.SocketStream.receive_some

    async def counted(self: trio.SocketStream, max_bytes: int | None = None) -> bytes:
        data = await receive_some(self, max_bytes)
        reads.append(len(data))
        return data

    trio.SocketStream.receive_some = counted  # type: ignore[method-assign]
    return reads


def floor(server: str, streams: int, times: int = 1, **plan: int) -> Figures:
    """A bare loop over httpx."""
    from .floor import asking, count_words, open_client

    watch = Watch(server, streams, times, Plan(**plan))

    async def main() -> Figures:
        async with open_client() as client:

            async def read(_number: int) -> int:
                async with asking(client, watch.base_url) as response:
                    pieces = response.aiter_raw()
                    first = await anext(pieces)
                    assert first.endswith(b"\n\n")
                    watch.opened()
                    return await count_words(pieces)

            return await watch.read(read)

    return trio.run(main)
