"""Doors, in an asyncio loop without Ray: what they remember, and what goes by them."""

from __future__ import annotations

import asyncio
import pickle

import pytest

from trio_claude.cluster._doors import Door, DoorLost, Mailbox, soon

from .cluster_support import A, B, entry, run, settled

ENDED = asyncio.CancelledError


def test_a_door_remembers_what_its_process_holds() -> None:
    """Each name once, as it was told last; what is dropped twice is gone once."""

    async def main() -> None:
        door = Door()
        for _ in range(2):
            await door.hold(A, entry("one"))
            await door.hold(B, entry("one"))
        assert await door.held() == {A: entry("one"), B: entry("one")}
        for _ in range(2):
            await door.drop(A, 1, 0)
        assert await door.held() == {B: entry("one")}

    run(main)


def test_a_door_believes_what_is_newer() -> None:
    """Calls overtake each other, and Ray repeats some; a later life is newer than whatever was said."""

    async def main() -> None:
        door = Door()
        await door.hold(A, entry("one", serial=5))
        await door.hold(A, entry("one", serial=4))
        await door.drop(A, 1, 4)
        assert await door.held() == {A: entry("one", serial=5)}
        await door.hold(A, entry("one", life=2))
        await door.drop(A, 1, 9)
        assert await door.held() == {A: entry("one", life=2)}
        await door.drop(A, 2, 0)
        await door.drop(B, 2, 0)
        assert await door.held() == {}

    run(main)


def test_a_door_never_says_that_it_is_alive() -> None:
    """The call is there to fail."""

    async def main() -> None:
        call = asyncio.create_task(Door().alive("me"))
        await settled()
        assert not call.done()
        call.cancel()

    run(main)


def test_a_mailbox_gives_the_calls_in_order_and_each_its_answer() -> None:
    """Those that came while the process was busy come together; `next` waits for at least one."""

    async def main() -> None:
        mailbox = Mailbox()
        following = asyncio.create_task(mailbox.next())
        await settled()
        assert not following.done()
        first = asyncio.create_task(mailbox.ask(b"1"))
        assert await following == [(1, b"1")]

        more = [asyncio.create_task(mailbox.ask(b"%d" % n)) for n in (2, 3)]
        await settled()
        assert await mailbox.next() == [(2, b"2"), (3, b"3")]
        await mailbox.answer([(3, b"c"), (1, b"a")])
        await mailbox.answer([(2, b"b"), (2, b"again"), (9, b"nobody's")])
        assert [await call for call in (first, *more)] == [b"a", b"b", b"c"]
        await mailbox.answer([(1, b"late")])
        assert await mailbox.up() is None
        assert mailbox._answers == {}

    run(main)


def test_a_call_that_is_cancelled_leaves_nothing_in_the_mailbox() -> None:
    """An answer to it is nobody's."""

    async def main() -> None:
        mailbox = Mailbox()
        call = asyncio.create_task(mailbox.ask(b"1"))
        await settled()
        call.cancel()
        with pytest.raises(ENDED):
            await call
        await mailbox.answer([(1, b"a")])
        assert mailbox._answers == {}

    run(main)


def test_an_answer_comes_from_any_thread_and_only_the_first_counts() -> None:
    """Also where nobody waits for it any more."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[bytes] = loop.create_future()
        answer = soon(loop, future)
        await asyncio.to_thread(answer, b"one")
        assert await future == b"one"
        answer(b"two")
        cancelled: asyncio.Future[bytes] = loop.create_future()
        cancelled.cancel()
        soon(loop, cancelled)(b"one")
        await settled()
        assert future.result() == b"one"

    run(main)


def test_what_a_door_is_lost_for_can_be_sent() -> None:
    """Ray pickles what a method of an actor raises; one that cannot be had is another error."""
    error = pickle.loads(pickle.dumps(DoorLost(returns=True)))
    assert isinstance(error, DoorLost)
    assert error.returns
