"""Where the good part of each conversation ends.

The program writes down whatever it is asked. Who resumes a conversation of it wants the turns that
succeeded, and not the one that it died in: so what is behind the last good turn is left out. Where
no turn has succeeded yet since the conversation was resumed, it is the prompt that was asked last
that is to be taken out.
"""

from __future__ import annotations

from typing import final

import attrs

# An end is needed when a session that has crashed is resumed, which is soon if ever.
_KEPT = 10_000


@attrs.frozen
class End:
    """Where the good part of a conversation ends, as far as it is known."""

    last_id: str | None = None
    """Of the last message of the last good turn."""

    left: str | None = None
    """Of a prompt that was asked, and not answered since."""


@final
class Ends:
    """The ends of conversations, by the program's ids of these."""

    def __init__(self) -> None:
        self._ends: dict[str, End] = {}

    def of(self, session_id: str | None) -> End:
        """The end of this conversation."""
        return End() if session_id is None else self._ends.get(session_id, End())

    def asked(self, session_id: str, prompt_id: str) -> None:
        """A prompt was asked."""
        self._put(session_id, attrs.evolve(self.of(session_id), left=prompt_id))

    def answered(self, session_id: str, last_id: str | None) -> None:
        """It was answered, up to this message; None: the program has told of none."""
        self._put(session_id, End(last_id))

    def _put(self, session_id: str, end: End) -> None:
        self._ends.pop(session_id, None)
        self._ends[session_id] = end
        if len(self._ends) > _KEPT:
            del self._ends[next(iter(self._ends))]
