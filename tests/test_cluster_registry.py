"""The registry of names, in an asyncio loop without Ray: who has one, and what doors are told."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Any

import pytest

from trio_claude import Global
from trio_claude.cluster import _doors, _registry
from trio_claude.cluster._doors import Door, DoorLost
from trio_claude.cluster._registry import Registry

from .cluster_support import A, B, entry, run, settled

C = Global("c")
ENDED = asyncio.CancelledError


class Doors(Registry):
    """A registry, and doors that do what they are told."""

    def __init__(self, *doors: str) -> None:
        super().__init__()
        self.doors = {door: Door() for door in doors}
        self.listed = list(doors)
        self.said: list[tuple[str, str]] = []
        self.lost: dict[str, asyncio.Future[None]] = {}
        self.before: Callable[[str, str], Awaitable[None]] | None = None
        self.after: Callable[[str, str], Awaitable[None]] | None = None
        self.ended = 0
        self.forgotten: list[str] = []

    async def _list_doors(self) -> list[str]:
        return self.listed

    def _forget(self, door: str) -> None:
        self.forgotten.append(door)

    async def _call(self, door: str, method: str, *args: Any) -> Any:
        self.said.append((door, method))
        if self.before is not None:
            await self.before(door, method)
        if door not in self.doors:
            raise DoorLost(returns=False)
        if method == "alive":
            lost = self.lost[door] = asyncio.get_running_loop().create_future()
            await lost
        value = await getattr(self.doors[door], method)(*args)
        if self.after is not None:
            await self.after(door, method)
        return value

    async def _end(self) -> None:
        self.ended += 1

    def lose(self, door: str, *, returns: bool = False) -> None:
        """Let the process of a door die."""
        if not returns:
            del self.doors[door]
        self.lost[door].set_exception(DoorLost(returns=returns))

    async def names(self) -> dict[Hashable, str]:
        """Who holds what."""
        return {
            name: entry.door
            for name, entry in self._table.since(None).changes.items()
            if entry is not None
        }


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nothing sleep for real."""
    monkeypatch.setattr(_doors, "AGAIN_SECONDS", 0)
    monkeypatch.setattr(_registry, "_ENDING_SECONDS", 0)


# ---- names ---------------------------------------------------------------------------------------


def test_a_name_is_granted_once_its_door_was_told() -> None:
    """Who comes second hears who has it; twice is the same as once, for each method."""

    async def main() -> None:
        names = Doors()
        names.doors = {"one": Door(), "two": Door()}
        for _ in range(2):
            for door in names.doors:
                news = await names.join(door)
                assert news.whole
            assert await names.claim(A, entry("one")) is None
            assert await names.claim(A, entry("two")) == entry("one")
            assert await names.doors["one"].held() == {A: entry("one")}
            assert await names.doors["two"].held() == {}
            await names.update("one", {A: entry("one", serial=1), B: entry("one")})
            assert await names.find(A) == entry("one", serial=1)
            assert await names.find(B) is None
            await names.settle("one", 1)
            assert await names.names() == {A: "one"}
            await names.release("two", A, 1, 0)
            assert await names.names() == {A: "one"}
            for _ in range(2):
                await names.release("one", A, 1, 1)
            assert await names.names() == {}
            assert await names.doors["one"].held() == {}
        for _ in range(2):
            await names.leave("one", 1)
        assert set(names._watches) == {"two"}

    run(main)


@pytest.mark.parametrize("when", ["before", "after"])
def test_of_two_claims_the_first_wins_while_its_door_is_told(when: str) -> None:
    """The second need not wait for that."""

    async def main() -> None:
        names = Doors("one", "two")
        go = asyncio.Event()
        told = asyncio.Event()

        async def hold(door: str, method: str) -> None:
            if method == "hold":
                told.set()
                await go.wait()

        setattr(names, when, hold)
        first = asyncio.create_task(names.claim(A, entry("one")))
        await told.wait()
        assert await names.claim(A, entry("two")) == entry("one")
        assert await names.find(A) is None  # not granted yet
        go.set()
        assert await first is None
        assert await names.find(A) == entry("one")

    run(main)


def test_a_release_comes_behind_the_claim_that_it_takes_back() -> None:
    """Whoever was cancelled in claiming a name has it no longer than that."""

    async def main() -> None:
        names = Doors("one")
        go = asyncio.Event()

        async def hold(door: str, method: str) -> None:
            if method == "hold":
                await go.wait()

        names.after = hold
        claim = asyncio.create_task(names.claim(A, entry("one")))
        await settled()
        releases = [asyncio.create_task(names.release("one", A, 1, 1)) for _ in range(2)]
        await settled()
        assert not any(release.done() for release in releases)
        go.set()
        await asyncio.gather(claim, *releases)
        assert await names.names() == {}
        assert await names.doors["one"].held() == {}

    run(main)


def test_a_claim_that_is_made_again_while_it_is_decided_is_granted_twice() -> None:
    """As Ray does where the way to the registry was cut for a moment."""

    async def main() -> None:
        names = Doors("one")
        go = asyncio.Event()

        async def hold(door: str, method: str) -> None:
            if method == "hold":
                await go.wait()

        names.after = hold
        claims = [asyncio.create_task(names.claim(A, entry("one"))) for _ in range(2)]
        await settled()
        go.set()
        assert await asyncio.gather(*claims) == [None, None]
        assert await names.names() == {A: "one"}

    run(main)


def test_a_name_that_was_given_back_can_be_claimed_at_once() -> None:
    """Calls that overtake nobody: claim, release, claim; the name is held in the end."""

    async def main() -> None:
        names = Doors("one")
        go = asyncio.Event()

        async def hold(door: str, method: str) -> None:
            if method == "hold":
                await go.wait()

        names.after = hold
        first = asyncio.create_task(names.claim(A, entry("one", id=1)))
        await settled()
        release = asyncio.create_task(names.release("one", A, 1, 1))
        await settled()
        second = asyncio.create_task(names.claim(A, entry("one", id=2)))
        await settled()
        go.set()
        assert list(await asyncio.gather(first, release, second)) == [None] * 3
        assert await names.find(A) == entry("one", id=2)
        assert await names.doors["one"].held() == {A: entry("one", id=2)}

    run(main)


def test_a_door_that_is_lost_while_it_claims_holds_nothing() -> None:
    """Whether that is noticed by its claim or by its watch."""

    async def main() -> None:
        names = Doors("one", "two")
        await names.find(A)
        await settled()

        async def lose(door: str, method: str) -> None:
            if method == "hold":
                names.lose(door)
                await settled()

        names.after = lose
        assert await names.claim(A, entry("one")) is None
        assert await names.names() == {}
        names.after, names.before = None, lose
        assert await names.claim(A, entry("two")) is not None  # nobody is there to hear it
        assert await names.names() == {}
        assert names._deciding == {}

    run(main)


def test_of_two_that_a_new_registry_hears_of_late_one_has_the_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The one that had it answers while the other claims it: that one is told, and its door drops it."""
    monkeypatch.setattr(_registry, "_REBUILDING_SECONDS", 0)

    async def main() -> None:
        names = Doors("one", "two")
        await names.doors["one"].hold(A, entry("one"))
        gates = {"held": asyncio.Event(), "hold": asyncio.Event()}
        claiming = asyncio.Event()

        async def wait(door: str, method: str) -> None:
            if (door, method) == ("two", "hold"):
                claiming.set()
            if (door, method) in {("one", "held"), ("two", "hold")}:
                await gates[method].wait()

        names.before = wait
        claim = asyncio.create_task(names.claim(A, entry("two")))
        await claiming.wait()
        gates["held"].set()
        await settled()
        assert await names.find(A) == entry("one")
        gates["hold"].set()
        assert await claim == entry("one")
        assert await names.names() == {A: "one"}
        assert await names.doors["two"].held() == {}

    run(main)


def test_a_door_that_returns_is_told_then() -> None:
    """The claim waits for it, and is granted; meanwhile the name is nobody else's."""

    async def main() -> None:
        names = Doors("one", "two")
        await names.find(A)
        down = True

        async def fail(door: str, method: str) -> None:
            if method == "hold" and down:
                raise DoorLost(returns=True)

        names.before = fail
        claim = asyncio.create_task(names.claim(A, entry("one")))
        await settled()
        assert not claim.done()
        assert await names.claim(A, entry("two")) == entry("one")
        down = False
        assert await claim is None
        assert await names.names() == {A: "one"}
        assert await names.doors["one"].held() == {A: entry("one")}

    run(main)


def test_what_an_earlier_life_held_is_free_once_the_next_is_settled() -> None:
    """The names that this one has claimed again stay; the door forgets the others."""

    async def main() -> None:
        names = Doors("one")
        for name in (A, B):
            await names.claim(name, entry("one"))
        await names.claim(A, entry("one", life=2))
        version = names._table.version
        await names.settle("one", 2)
        news = await names.changes(version)
        assert news.changes == {B: None}
        assert await names.doors["one"].held() == {A: entry("one", life=2)}

    run(main)


def test_who_claims_what_another_is_about_to_get_does_not_hold_it() -> None:
    """Though the registry before may have told that door otherwise."""

    async def main() -> None:
        names = Doors("one", "two")
        await names.doors["two"].hold(A, entry("two"))
        names.listed = []
        go = asyncio.Event()

        async def wait(door: str, method: str) -> None:
            if (door, method) == ("one", "hold"):
                await go.wait()

        names.before = wait
        first = asyncio.create_task(names.claim(A, entry("one")))
        await settled()
        assert await names.claim(A, entry("two")) == entry("one")
        assert await names.doors["two"].held() == {}
        go.set()
        assert await first is None

    run(main)


def test_what_a_life_that_is_over_says_is_not_believed() -> None:
    """Ray had given it up, and started the next one: that holds what it holds."""

    async def main() -> None:
        names = Doors("one")
        await names.claim(A, entry("one", life=1))
        await names.claim(A, entry("one", life=2))
        await names.leave("one", 1)
        await names.release("one", A, 1, 9)
        assert await names.names() == {A: "one"}
        assert list(names._watches) == ["one"]
        await names.leave("one", 2)
        assert await names.names() == {}
        assert names.forgotten == ["one"]

    run(main)


@pytest.mark.parametrize("returns", [True, False])
def test_a_door_that_cannot_be_told_that_it_has_lost_a_name(returns: bool) -> None:
    """Is told as soon as it can: else the next registry would believe it."""

    async def main() -> None:
        names = Doors("one")
        await names.claim(A, entry("one"))
        tries = 0

        async def fail(door: str, method: str) -> None:
            nonlocal tries
            if method == "drop":
                tries += 1
                if not returns or tries < 3:
                    raise DoorLost(returns=returns)

        names.before = fail
        await names.release("one", A, 1, 0)
        assert await names.names() == {}
        assert (await names.doors["one"].held() == {}) == returns
        assert tries == (3 if returns else 1)

    run(main)


def test_doors_that_cannot_be_listed_are_listed_later() -> None:
    """Ray's control store may be busy for a moment; nobody is told wrong meanwhile."""

    async def main() -> None:
        names = Doors("one")
        await names.doors["one"].hold(A, entry("one"))
        tries = 0
        list_doors = names._list_doors

        async def fail() -> list[str]:
            nonlocal tries
            tries += 1
            if tries < 3:
                raise DoorLost(returns=True)
            return await list_doors()

        names._list_doors = fail  # type: ignore[method-assign]
        assert await names.find(A) == entry("one")
        assert tries == 3

    run(main)


# ---- news ----------------------------------------------------------------------------------------


def test_who_follows_waits_for_the_next_change() -> None:
    """Nothing is told that changed nothing."""

    async def main() -> None:
        names = Doors("one")
        version = (await names.join("one")).version
        following = asyncio.create_task(names.changes(version))
        await settled()
        await names.update("one", {A: entry("one")})  # which it does not hold
        await settled()
        assert not following.done()
        await names.claim(A, entry("one"))
        news = await following
        assert (news.whole, news.changes) == (False, {A: entry("one")})
        assert (await names.changes(("another registry", 3))).whole

    run(main)


# ---- a new registry ------------------------------------------------------------------------------


def test_a_new_registry_has_what_the_doors_hold() -> None:
    """It asks each once, before it answers anything; doors that are gone hold nothing."""

    async def main() -> None:
        names = Doors("one", "two")
        names.listed.append("gone")
        await names.doors["one"].hold(A, entry("one"))
        await names.doors["two"].hold(B, entry("two"))
        found = [*await asyncio.gather(names.find(A), names.find(B), names.find(C))]
        assert found == [entry("one"), entry("two"), None]
        assert names.said[:3] == [("one", "held"), ("two", "held"), ("gone", "held")]
        await settled()
        assert set(names._watches) == {"one", "two"}

    run(main)


def test_who_asks_a_new_registry_and_is_cancelled_cancels_nobody_else() -> None:
    """The doors are asked all the same, for the others."""

    async def main() -> None:
        names = Doors("one")
        await names.doors["one"].hold(A, entry("one"))
        go = asyncio.Event()

        async def wait(door: str, method: str) -> None:
            await go.wait()

        names.before = wait
        first, second = (asyncio.create_task(names.find(A)) for _ in range(2))
        await settled()
        first.cancel()
        go.set()
        with pytest.raises(ENDED):
            await first
        assert await second == entry("one")

    run(main)


def test_a_new_registry_does_not_wait_for_a_door_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that Ray is restarting may never be up; when it is, it is known what it holds."""
    monkeypatch.setattr(_registry, "_REBUILDING_SECONDS", 0)

    async def main() -> None:
        names = Doors("one", "two")
        for door, name in (("one", A), ("two", B)):
            await names.doors[door].hold(name, entry(door))
        go = asyncio.Event()

        async def wait(door: str, method: str) -> None:
            if (door, method) == ("one", "held"):
                await go.wait()

        names.before = wait
        assert await names.find(A) is None
        await settled()
        assert set(names._watches) == {"one", "two"}
        assert await names.names() == {B: "two"}
        news = asyncio.create_task(names.changes(names._table.version))
        await settled()
        go.set()
        assert (await news).changes.keys() == {A}
        assert await names.names() == {A: "one", B: "two"}

    run(main)


def test_a_door_that_a_new_registry_cannot_reach_is_watched() -> None:
    """Its process claims what it has when it sees that the registry is another one."""

    async def main() -> None:
        names = Doors("one")
        await names.doors["one"].hold(A, entry("one"))

        async def fail(door: str, method: str) -> None:
            if method == "held":
                raise DoorLost(returns=True)

        names.before = fail
        assert await names.find(A) is None
        await settled()
        assert set(names._watches) == {"one"}
        assert await names.claim(A, entry("one")) is None
        assert await names.names() == {A: "one"}

    run(main)


def test_a_door_that_has_not_joined_a_new_registry_is_granted_names_all_the_same() -> None:
    """Its process follows the registry on, and is never told to join again."""

    async def main() -> None:
        names = Doors("one", "two")
        failures = [DoorLost(returns=True)]

        async def fail(door: str, method: str) -> None:
            if (door, method) == ("one", "held") and failures:
                raise failures.pop()

        names.before = fail
        assert await names.claim(A, entry("one")) is None
        assert await names.claim(A, entry("two")) == entry("one")

    run(main)


# ---- the end of a door ---------------------------------------------------------------------------


def test_a_door_that_is_started_again_keeps_its_names() -> None:
    """Its sessions are restarting until it says otherwise, and its end is noticed again."""

    async def main() -> None:
        names = Doors("one")
        await names.claim(A, entry("one"))
        await settled()
        names.lose("one", returns=True)
        await settled()
        assert await names.find(A) == entry("one", status="restarting", session_id=None)
        await names.update("one", {A: entry("one", serial=1)})
        assert await names.find(A) == entry("one", serial=1)
        assert names.ended == 0
        names.lose("one")
        await settled()
        assert await names.find(A) is None

    run(main)


def test_a_door_whose_watch_ends_without_a_word_is_watched_again() -> None:
    """It never does; but should it, its sessions are taken for restarting, not for gone."""

    async def main() -> None:
        names = Doors("one")
        await names.claim(A, entry("one"))
        await settled()

        class Odd(Door):
            async def alive(self, watcher: str) -> None:
                pass

        names.doors["one"] = Odd()
        names.lost["one"].set_result(None)
        await settled()
        assert (await names.find(A)) == entry("one", status="restarting", session_id=None)
        assert "one" in names._watches

    run(main)


def test_the_registry_ends_when_the_last_door_is_gone() -> None:
    """Whether it was lost or has left; not while there is another."""

    async def main() -> None:
        names = Doors("one", "two")
        for name, door in ((A, "one"), (B, "two")):
            await names.claim(name, entry(door))
        await settled()
        names.lose("one")
        await settled()
        assert (await names.names(), names.ended) == ({B: "two"}, 0)
        await names.leave("two", 1)
        assert names.ended == 0  # so that this call is answered
        await settled()
        assert (await names.names(), names.ended) == ({}, 1)

    run(main)


def test_a_registry_that_nobody_joins_ends() -> None:
    """Whoever started it has died meanwhile."""

    async def main() -> None:
        names = Doors()
        await names.begin()
        await settled()
        assert names.ended == 1

    run(main)


def test_the_registry_stays_if_somebody_joins_before_it_ends() -> None:
    """The call of one who comes at that moment is not lost."""

    async def main() -> None:
        names = Doors("one")
        await names.join("one")
        await names.leave("one", 1)
        await names.join("one")
        await settled()
        assert names.ended == 0
        assert await names.claim(A, entry("one")) is None
        assert await names.names() == {A: "one"}

    run(main)
