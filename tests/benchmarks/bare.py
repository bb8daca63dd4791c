"""The same as in `sessions` with nothing but Trio: a task that waits at its channel."""

from __future__ import annotations

import gc
import time

import trio
import trio.testing

from .memory import Memory

Figures = dict[str, float]


async def worker(receive: trio.MemoryReceiveChannel[str]) -> None:
    """Wait for something to do."""
    async for _ in receive:
        pass


def spawn(nursery: trio.Nursery, tasks: int) -> list[trio.MemorySendChannel[str]]:
    """Start so many workers; what each is reached by."""
    reached = []
    for _ in range(tasks):
        send, receive = trio.open_memory_channel[str](0)
        nursery.start_soon(worker, receive)
        reached.append(send)
    return reached


def start(tasks: int) -> Figures:
    """Seconds of CPU to start a task, until it waits at its channel."""

    async def main() -> Figures:
        async with trio.open_nursery() as nursery:
            gc.collect()
            began = time.process_time()
            reached = spawn(nursery, tasks)
            await trio.testing.wait_all_tasks_blocked()
            cpu = time.process_time() - began
            assert all(send.statistics().tasks_waiting_receive for send in reached)
            nursery.cancel_scope.cancel()
            return {"cpu": cpu / tasks}
        raise AssertionError("the block returns")

    return trio.run(main)


def keep(tasks: int) -> Figures:
    """Bytes for a task that waits at its channel."""

    async def main() -> Figures:
        async with trio.open_nursery() as nursery:
            reached = spawn(nursery, 1)
            await trio.testing.wait_all_tasks_blocked()
            memory = Memory()
            reached += spawn(nursery, tasks)
            await trio.testing.wait_all_tasks_blocked()
            grown = memory.grown()
            nursery.cancel_scope.cancel()
            return {"bytes": grown / tasks}
        raise AssertionError("the block returns")

    return trio.run(main)


async def _fail() -> None:
    raise RuntimeError("a fault")


def recover(crashes: int) -> Figures:
    """Seconds, of CPU and by the clock, for a nursery whose only task crashes, and is caught."""

    async def main() -> Figures:
        caught = 0
        gc.collect()
        began, began_cpu = time.perf_counter(), time.process_time()
        for _ in range(crashes):
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_fail)
            except* RuntimeError:
                caught += 1
        cpu, seconds = time.process_time() - began_cpu, time.perf_counter() - began
        assert caught == crashes
        return {"cpu": cpu / crashes, "seconds": seconds / crashes}

    return trio.run(main)
