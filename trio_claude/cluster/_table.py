"""The registry's table: who in the cluster holds which name, and what has changed since.

Every connected process has a copy of it, and asks for what has changed since the version that it
has. The table remembers, for each name, at which version it last changed, in that order: so the
answer is as long as what the asker missed, and has each name once, however often it changed. A name
that is held is remembered anyway, and of those that were freed the last :data:`FREED_KEPT`; who
missed more than that gets the whole table.

A door is one process. When Ray restarts it, its names stay its own while its new life starts its
sessions again; what that life has not claimed when it is done is free.

No clock, no I/O, no event loop. A call takes the same time however big the table is; or, where it is
about many names, as long as these are many. (Only :meth:`Copy.life_of` looks at all; it is asked once.)
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, TypeAlias, final

import attrs

if TYPE_CHECKING:
    from collections.abc import Collection, Hashable, Mapping

    from ._wire import Entry

Version: TypeAlias = tuple[str, int]
"""A life of the registry, and how many changes there were in it."""

FREED_KEPT = 10_000
"""How many names that are free again the table can still tell of."""


@attrs.frozen
class News:
    """What brings a copy of the table up to date."""

    version: Version
    """What the copy has then; to be asked with, the next time."""

    whole: bool
    """Whether these are all entries, and the copy is to forget what it has."""

    changes: Mapping[Hashable, Entry | None]
    """The entry of each name that has changed, in the order of their last changes; None for one
    that is free."""


@final
class Copy:
    """What a process has heard of the table."""

    def __init__(self) -> None:
        self.version: Version | None = None
        """Up to where it was heard; None to hear it all."""
        self.entries: dict[Hashable, Entry] = {}

    def take_in(self, news: News) -> Mapping[Hashable, Entry | None]:
        """Bring it up to date; gives what was heard, and None for each name that is free now."""
        changes = dict(news.changes)
        if news.whole:
            changes |= dict.fromkeys(self.entries.keys() - changes.keys())
        for name, entry in changes.items():
            self.put(name, entry)
        self.version = news.version
        return changes

    def put(self, name: Hashable, entry: Entry | None) -> None:
        """What was heard of a name; None: that it is free."""
        if entry is None:
            self.entries.pop(name, None)
        else:
            self.entries[name] = entry

    def life_of(self, door: str) -> int | None:
        """In which life a door's process is: the latest that was heard of."""
        return max((held.life for held in self.entries.values() if held.door == door), default=None)


@final
class Table:
    """Who holds which name.

    Args:
      epoch: a text that no other life of the registry has: a version of another life says nothing
        about this table.
    """

    def __init__(self, epoch: str) -> None:
        self._epoch = epoch
        self._number = 0
        self._entries: dict[Hashable, Entry] = {}
        self._doors: dict[str, dict[Hashable, Entry]] = {}  # the same entries, by who holds them
        # At which number each name changed last, in this order; and those of them that are free.
        self._changed: OrderedDict[Hashable, int] = OrderedDict()
        self._freed: OrderedDict[Hashable, None] = OrderedDict()
        self._forgotten = 0  # the last change that the table can't tell of any more

    def __repr__(self) -> str:
        return f"<Table of {len(self._entries)} at {self._epoch}/{self._number}>"

    @property
    def version(self) -> Version:
        """This life, and a number that is one more after each change."""
        return self._epoch, self._number

    # ---- the doors' side -------------------------------------------------------------------------

    def claim(self, name: Hashable, entry: Entry) -> Entry | None:
        """Let the entry's door hold the name.

        Also where it does so already, but for a life of it that has a later one by now: that is
        over, and its word comes late. What is older than what is known changes nothing.

        Returns:
          None if it is granted; else who holds it.
        """
        held = self._entries.get(name)
        if held is not None and (held.door != entry.door or held.life > entry.life):
            return held
        if held is None or not _is_older(entry, held):
            self._put(name, entry)
        return None

    def release(self, door: str, name: Hashable, life: int, serial: int) -> bool:
        """Free the name, if this door holds it, and what it said last of it is not newer than that;
        say whether it is free now."""
        held = self._entries.get(name)
        if held is None or held.door != door or (held.life, held.serial) > (life, serial):
            return False
        self._free(door, name)
        return True

    def update(self, door: str, name: Hashable, entry: Entry) -> bool:
        """Replace the entry of a name, if this door holds it, in this life; say whether it does."""
        assert door == entry.door
        if not self._holds(door, name) or self._entries[name].life > entry.life:
            return False
        if not _is_older(entry, self._entries[name]):
            self._put(name, entry)
        return True

    def lose(self, door: str) -> list[Hashable]:
        """The door is gone for good: free all that it holds, and say what that was."""
        return self._free_all(door, self.held_by(door))

    def suspend(self, door: str) -> None:
        """The door's process has died and is being started again: its sessions are restarting."""
        for name, entry in self.held_by(door).items():
            self._put(name, attrs.evolve(entry, status="restarting", session_id=None))

    def settle(self, door: str, life: int) -> list[Hashable]:
        """This life of the door has started all that it starts: what it holds from an earlier one
        is free.

        Returns:
          what has become free.
        """
        held = self.held_by(door)
        return self._free_all(door, [name for name in held if held[name].life < life])

    # ---- the askers' side ------------------------------------------------------------------------

    def find(self, name: Hashable) -> Entry | None:
        """Who holds the name, or None."""
        return self._entries.get(name)

    def held_by(self, door: str) -> dict[Hashable, Entry]:
        """What this door holds."""
        return dict(self._doors.get(door, ()))

    def since(self, version: Version | None) -> News:
        """What has changed after this version; all there is, if the table can't tell."""
        epoch, number = (None, 0) if version is None else version
        if epoch != self._epoch or not self._forgotten <= number <= self._number:
            return News(self.version, whole=True, changes=dict(self._entries))
        missed = []
        for name in reversed(self._changed):
            if self._changed[name] <= number:
                break
            missed.append(name)
        changes = {name: self._entries.get(name) for name in reversed(missed)}
        return News(self.version, whole=False, changes=changes)

    # ---- the changes -----------------------------------------------------------------------------

    def _holds(self, door: str, name: Hashable) -> bool:
        held = self._entries.get(name)
        return held is not None and held.door == door

    def _put(self, name: Hashable, entry: Entry) -> None:
        if self._entries.get(name) == entry:
            return
        self._entries[name] = entry
        self._doors.setdefault(entry.door, {})[name] = entry
        self._freed.pop(name, None)
        self._record(name)

    def _free_all(self, door: str, names: Collection[Hashable]) -> list[Hashable]:
        for name in names:
            self._free(door, name)
        return list(names)

    def _free(self, door: str, name: Hashable) -> None:
        del self._entries[name]
        del self._doors[door][name]
        if not self._doors[door]:
            del self._doors[door]
        self._freed[name] = None
        self._record(name)
        if len(self._freed) > FREED_KEPT:
            # The one that was freed first: it has not changed since, so of all that are free it
            # has the lowest number.
            forgotten, _ = self._freed.popitem(last=False)
            self._forgotten = self._changed.pop(forgotten)

    def _record(self, name: Hashable) -> None:
        self._number += 1
        self._changed[name] = self._number
        self._changed.move_to_end(name)


def _is_older(entry: Entry, known: Entry) -> bool:
    """Calls overtake each other, so that a later one may be there already."""
    return entry.life == known.life and entry.serial < known.serial
