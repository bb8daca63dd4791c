"""The registry's table: one holder for each name, and copies that never differ from it."""

from __future__ import annotations

from collections.abc import Hashable
from unittest import mock

import attrs
import pytest
from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from trio_claude import Global
from trio_claude.cluster import _table
from trio_claude.cluster._table import Copy, News, Table, Version
from trio_claude.cluster._wire import Entry

A, B = Global("a"), Global("b")


def entry(door: str, life: int = 1, session_id: str | None = None) -> Entry:
    """A session that runs."""
    return Entry(
        door=door,
        life=life,
        where=f"process of {door}",
        id="id",
        called="called",
        status="running",
        session_id=session_id,
    )


# ---- a copy --------------------------------------------------------------------------------------


def test_a_copy_knows_in_which_life_a_door_is() -> None:
    """The latest that it has heard of: of the one before, some names may be known still."""
    copy = Copy()
    assert copy.life_of("one") is None
    copy.put(A, entry("one", life=2))
    copy.put(B, entry("one", life=1))
    assert (copy.life_of("one"), copy.life_of("two")) == (2, None)
    copy.put(A, None)
    assert (copy.life_of("one"), copy.entries) == (1, {B: entry("one", life=1)})


# ---- who holds a name ----------------------------------------------------------------------------


def test_the_first_to_claim_a_name_holds_it() -> None:
    """The second is told who does; it is found under the first's entry."""
    table = Table("e")
    assert table.claim(A, entry("one")) is None
    assert table.claim(A, entry("two")) == entry("one")
    assert table.find(A) == entry("one")
    assert table.held_by("one") == {A: entry("one")}
    assert table.held_by("two") == {}
    assert repr(table) == "<Table of 1 at e/1>"


def test_what_is_said_later_is_not_released() -> None:
    """Ray repeats calls: a release may come when the name has been claimed once more."""
    table = Table("e")
    known = attrs.evolve(entry("one", life=2), serial=5)
    table.claim(A, known)
    assert not table.release("one", A, 2, 4)
    assert not table.release("one", A, 1, 9)
    assert table.find(A) == known
    assert table.release("one", A, 2, 5)
    assert table.find(A) is None


def test_a_door_may_claim_what_it_holds() -> None:
    """Its entry is replaced; but a life that is over replaces none of the life after it."""
    table = Table("e")
    table.claim(A, entry("one"))
    assert table.claim(A, entry("one", life=2)) is None
    assert table.find(A) == entry("one", life=2)
    assert table.claim(A, entry("one", life=1)) == entry("one", life=2)
    assert not table.update("one", A, entry("one", life=1))
    assert table.find(A) == entry("one", life=2)


def test_a_claim_that_comes_late_takes_nothing_back() -> None:
    """Calls overtake each other: what the same life has said since of its session stays."""
    table = Table("e")
    table.claim(A, attrs.evolve(entry("one"), status="starting", serial=1))
    now = attrs.evolve(entry("one"), serial=4)
    assert table.update("one", A, now)
    assert table.claim(A, attrs.evolve(entry("one"), status="starting", serial=3)) is None
    assert table.update("one", A, attrs.evolve(entry("one"), status="starting", serial=2))
    assert table.find(A) == now


def test_only_the_holder_releases_and_updates() -> None:
    """What others say of a name is ignored, also of one that nobody holds."""
    table = Table("e")
    assert not table.release("one", A, 1, 0)
    assert not table.update("one", A, entry("one"))
    table.claim(A, entry("one"))
    before = table.version
    assert not table.release("two", A, 1, 0)
    assert not table.update("two", A, entry("two"))
    assert (table.version, table.find(A)) == (before, entry("one"))

    assert table.update("one", A, entry("one", session_id="s"))
    assert table.find(A) == entry("one", session_id="s")
    assert table.release("one", A, 1, 0)
    assert table.find(A) is None
    assert table.held_by("one") == {}


def test_a_door_that_is_lost_frees_its_names() -> None:
    """And no other's."""
    table = Table("e")
    table.claim(A, entry("one"))
    table.claim(B, entry("two"))
    assert table.lose("one") == [A]
    assert table.lose("one") == []
    assert (table.find(A), table.find(B)) == (None, entry("two"))


def test_a_door_that_is_restarted_keeps_its_names_until_it_has_settled() -> None:
    """They are restarting, and nobody else's; then what the new life has not claimed is free."""
    table = Table("e")
    for name in (A, B):
        table.claim(name, entry("one", session_id="s"))
    table.suspend("one")
    table.suspend("nobody")

    restarting = attrs.evolve(entry("one"), status="restarting")
    assert table.held_by("one") == {A: restarting, B: restarting}
    assert table.claim(A, entry("two")) == restarting

    table.claim(B, entry("one", life=2))
    assert table.settle("one", 2) == [A]
    assert table.held_by("one") == {B: entry("one", life=2)}
    assert table.settle("one", 2) == []


# ---- what has changed ----------------------------------------------------------------------------


def test_news_have_each_name_once_in_the_order_of_the_last_changes() -> None:
    """Whatever it has been through meanwhile."""
    table = Table("e")
    before = table.version
    assert before == ("e", 0)
    table.claim(A, entry("one"))
    table.claim(B, entry("one"))
    table.update("one", A, entry("one", session_id="s"))
    table.release("one", B, 1, 0)

    news = table.since(before)
    assert news == News(("e", 4), whole=False, changes={A: entry("one", session_id="s"), B: None})
    assert list(news.changes) == [A, B]
    assert table.since(("e", 3)) == News(("e", 4), whole=False, changes={B: None})
    assert table.since(news.version) == News(("e", 4), whole=False, changes={})


def test_what_changes_nothing_is_no_news() -> None:
    """An entry that is equal, a second suspension, a door without names."""
    table = Table("e")
    table.claim(A, entry("one"))
    table.suspend("one")
    before = table.version
    held = table.find(A)
    assert held is not None
    assert table.update("one", A, held)
    assert table.claim(A, held) is None
    table.suspend("one")
    table.lose("two")
    table.settle("one", 1)
    assert table.version == before


@pytest.mark.parametrize("version", [None, ("another", 1), ("e", 3), ("e", -1)])
def test_who_has_no_version_of_this_life_gets_the_whole(version: Version | None) -> None:
    """None, one of another life of the registry, one that is still to come, one that never was."""
    table = Table("e")
    table.claim(A, entry("one"))
    table.claim(B, entry("one"))
    both: dict[Hashable, Entry | None] = {A: entry("one"), B: entry("one")}
    assert table.since(version) == News(("e", 2), whole=True, changes=both)


def test_news_stay_what_they_were() -> None:
    """The table goes on; neither news nor what a door held go with it."""
    table = Table("e")
    table.claim(A, entry("one"))
    whole, changes, held = table.since(None), table.since(("e", 0)), table.held_by("one")
    table.release("one", A, 1, 0)
    assert whole.changes == changes.changes == held == {A: entry("one")}


def test_only_so_many_freed_names_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who missed one that is forgotten gets the whole; who knows of it doesn't."""
    monkeypatch.setattr(_table, "FREED_KEPT", 2)
    table = Table("e")
    for name in "abcd":
        table.claim(name, entry("one"))
    for name in "abc":
        table.release("one", name, 1, 0)
    # Changes 1 to 4 were claims, 5 freed "a", and 7 made the table forget that.
    assert table.since(("e", 4)) == News(("e", 7), whole=True, changes={"d": entry("one")})
    assert table.since(("e", 5)) == News(("e", 7), whole=False, changes={"b": None, "c": None})

    table.claim("b", entry("one"))  # so there is room for another one
    table.release("one", "d", 1, 0)
    assert table.since(("e", 5)).changes == {"c": None, "b": entry("one"), "d": None}
    assert not table.since(("e", 5)).whole


# ---- any life ------------------------------------------------------------------------------------

DOORS = st.sampled_from(["one", "two", "three"])
NAMES = st.sampled_from("abcde")
KEPT = 2


class TableMachine(RuleBasedStateMachine):
    """The table beside one that is as simple as can be, and copies that are behind."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = mock.patch.object(_table, "FREED_KEPT", KEPT)
        self.patch.start()
        self.table = Table("e")
        self.model: dict[str, Entry] = {}
        self.lives = {"one": 1, "two": 1, "three": 1}
        self.history: list[set[str]] = [set()]  # which names each version changed
        self.freed: list[set[str]] = [set()]  # which of them it freed; always one, in the table
        self.copies = [Copy(), Copy(), Copy()]

    def teardown(self) -> None:
        """Let the next one have its own."""
        self.patch.stop()

    def step(self, **after: Entry | None) -> None:
        """What the model is after one call, and the history with it."""
        for name, new in after.items():
            if self.model.get(name) != new:
                self.history.append({name})
                self.freed.append({name} if new is None else set())
            if new is None:
                self.model.pop(name, None)
            else:
                self.model[name] = new

    def held(self, door: str) -> dict[str, Entry]:
        """What the model says that the door holds."""
        return {name: held for name, held in self.model.items() if held.door == door}

    @rule(door=DOORS, name=NAMES, session_id=st.sampled_from([None, "s"]))
    def claim(self, door: str, name: str, session_id: str | None) -> None:
        """A door wants a name."""
        new = entry(door, self.lives[door], session_id)
        held = self.model.get(name)
        granted = held is None or held.door == door
        assert self.table.claim(name, new) == (None if granted else held)
        if granted:
            self.step(**{name: new})

    @rule(door=DOORS, name=NAMES, session_id=st.sampled_from([None, "s"]))
    def update(self, door: str, name: str, session_id: str | None) -> None:
        """A door says how its session is."""
        new = entry(door, self.lives[door], session_id)
        holds = name in self.held(door)
        assert self.table.update(door, name, new) == holds
        if holds:
            self.step(**{name: new})

    @rule(door=DOORS, name=NAMES, late=st.booleans())
    def release(self, door: str, name: str, late: bool) -> None:
        """A door gives a name back; or the life of it that was before, whose word comes late."""
        life = self.lives[door] - late
        holds = name in self.held(door) and self.model[name].life <= life
        assert self.table.release(door, name, life, 0) == holds
        if holds:
            self.step(**{name: None})

    @rule(door=DOORS)
    def lose(self, door: str) -> None:
        """A process dies for good."""
        held = self.held(door)
        assert set(self.table.lose(door)) == set(held)
        self.step(**dict.fromkeys(held))

    @rule(door=DOORS)
    def restart(self, door: str) -> None:
        """A process dies, and Ray starts it again."""
        self.table.suspend(door)
        self.lives[door] += 1
        for name, held in self.held(door).items():
            self.step(**{name: attrs.evolve(held, status="restarting", session_id=None)})

    @rule(door=DOORS)
    def settle(self, door: str) -> None:
        """It has started all that it starts."""
        life = self.lives[door]
        late = {name: None for name, held in self.held(door).items() if held.life < life}
        assert set(self.table.settle(door, life)) == set(late)
        self.step(**late)

    @rule(which=st.integers(0, 2))
    def follow(self, which: int) -> None:
        """A copy asks for the news: it has what the model has, and was told no more than needed."""
        copy = self.copies[which]
        news = self.table.since(copy.version)
        if copy.version is None:
            assert news.whole
        else:
            missed = slice(copy.version[1] + 1, None)
            changed = set().union(*self.history[missed])
            if news.whole:
                assert len(set().union(*self.freed[missed])) > KEPT
            else:
                assert set(news.changes) == changed
        before = dict(copy.entries)
        changes = copy.take_in(news)
        assert copy.entries == self.model
        for name, known in changes.items():
            assert known == copy.entries.get(name)
            before.pop(name, None)
        assert before.items() <= copy.entries.items()  # nothing else is another

    @invariant()
    def is_the_model(self) -> None:
        """Every name has the holder that it has in the model, and each door holds just those."""
        assert self.table.version == ("e", len(self.history) - 1)
        assert {name: self.table.find(name) for name in self.model} == self.model
        assert self.table.since(None).changes == self.model
        for door in self.lives:
            assert self.table.held_by(door) == self.held(door)


def test_the_table_does_what_the_model_says() -> None:
    """Whatever the doors do, one door holds a name, and copies that skip versions catch up."""
    run_state_machine_as_test(TableMachine, settings=settings(stateful_step_count=50))
