"""The hidden nursery: what leaves its block is what was raised in it, and its tasks end with it."""

from __future__ import annotations

import gc
import weakref

import pytest
import trio
import trio.testing

from trio_claude._nurseries import open_hidden_nursery


async def test_tasks_end_with_the_block() -> None:
    """They are cancelled, and waited for."""
    ended = []

    async def task(task_status: trio.TaskStatus[None]) -> None:
        try:
            task_status.started()
            await trio.sleep_forever()
        finally:
            ended.append("task")

    async with open_hidden_nursery() as nursery:
        await nursery.start(task)
    assert ended == ["task"]


async def test_what_the_block_raises_leaves_as_it_is() -> None:
    """The very object, in no group, with its own cause; its frames are not kept alive."""
    error = ValueError("mine")
    with pytest.raises(ValueError, match="mine") as caught:
        async with open_hidden_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            raise error
    assert caught.value is error
    assert (error.__cause__, error.__context__) == (None, None)


@pytest.mark.parametrize("cls", [KeyboardInterrupt, SystemExit])
async def test_so_does_what_is_no_exception(cls: type[BaseException]) -> None:
    """And a group of the user's own is not taken apart."""
    with pytest.raises(cls):
        async with open_hidden_nursery():
            raise cls
    group = ExceptionGroup("mine", [ValueError(), KeyError()])
    with pytest.raises(ExceptionGroup) as caught:
        async with open_hidden_nursery():
            raise group
    assert caught.value is group


async def test_a_cancelled_block_is_cancelled() -> None:
    """By its surroundings, whose scope takes it."""
    with trio.CancelScope() as scope:
        async with open_hidden_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught


async def test_what_a_task_raises_cancels_the_block() -> None:
    """And leaves in a group."""

    async def fail() -> None:
        raise ValueError("task")

    with pytest.RaisesGroup(ValueError):
        async with open_hidden_nursery() as nursery:
            nursery.start_soon(fail)
            await trio.sleep_forever()


async def test_what_the_block_raises_comes_before_what_a_task_does() -> None:
    """Both at once: the block's own, with the other one for its context."""

    async def fail() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError("task")

    with pytest.raises(KeyError) as caught:
        async with open_hidden_nursery() as nursery:
            nursery.start_soon(fail)
            await trio.testing.wait_all_tasks_blocked()
            raise KeyError("mine")
    assert isinstance(caught.value.__context__, ExceptionGroup)


async def test_an_error_is_kept_by_nobody() -> None:
    """Without the cyclic collector: no frame of the block holds what was raised in it."""

    class Mine(Exception):
        """Can be referred to weakly."""

    async def fail() -> weakref.ref[Mine]:
        error = Mine()
        ref = weakref.ref(error)
        try:
            async with open_hidden_nursery():
                raise error
        except Mine:
            pass
        finally:
            del error
        return ref

    gc.collect()
    gc.disable()
    try:
        assert (await fail())() is None
    finally:
        gc.enable()
