"""The deltas of one block, decoded without parsing what they have in common.

A service writes the deltas of a block all alike: the same bytes before the text, and the same bytes
behind it. So the first one is parsed, and what it begins and ends with is remembered as a
:class:`Shape`; of those that follow only the texts are decoded, all that came together at once. That
takes as long as a parser in C would need for each of them, and no such parser is needed.

Nothing is assumed of the service. A shape is taken only when parsing shows that what stands between
its ends is the delta's text, and nothing else; and what doesn't fit it is parsed like any other event.
"""

from __future__ import annotations

import functools
import json
import re
from itertools import repeat
from typing import TYPE_CHECKING, Any, TypeAlias

from .._messages import InputJSONDelta, TextDelta, ThinkingDelta
from .sse import SSEDecoder

if TYPE_CHECKING:
    from collections.abc import Iterable

Delta: TypeAlias = TextDelta | ThinkingDelta | InputJSONDelta

_KINDS: dict[str, type[Delta]] = {
    "text": TextDelta,
    "thinking": ThinkingDelta,
    "partial_json": InputJSONDelta,
}
# The field that has the text of each kind.
FIELDS: dict[type, str] = {kind: name for name, kind in _KINDS.items()}

# What stands between the quotation marks of a JSON string. It never has to be tried another way, so
# nothing is kept for that (the + behind each repetition).
_STRING = r'[^"\\\x00-\x1f]*+(?:\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})[^"\\\x00-\x1f]*+)*+'

# So many characters of what is not a delta's text are kept; a service's are a tenth of that.
_LONGEST = 1000

_decode_at = json.JSONDecoder().raw_decode


class Shape:
    """What all deltas of a block have in common.

    Args:
      head: what each begins with, up to and with the quotation mark before its text.
      tail: what each ends with, from the quotation mark behind its text to the end of the
        blank line.
      kind: what it becomes.
      index: the block's.
    """

    def __init__(self, head: str, tail: str, kind: type[Delta], index: int) -> None:
        self.kind = kind
        self.index = index
        self._run = re.compile(f"(?:{re.escape(head)}{_STRING}{re.escape(tail)})++")
        self._first = len(head)
        self._tail = tail

    def take(self, events: str, start: int) -> tuple[list[str], int]:
        """The texts of the deltas that come next, and where what is behind them begins."""
        run = self._run.match(events, start)
        if run is None:
            return [], start
        ends = run[0].split(self._tail)
        texts = [event[self._first :] for event in ends[:-1]]
        if events.find("\\", start, run.end()) != -1:
            texts = json.loads('["' + '","'.join(texts) + '"]')
        return texts, run.end()

    def deltas(self, texts: Iterable[str]) -> Iterable[Delta]:
        """Deltas with these texts."""
        return map(self.kind, repeat(self.index), texts)


def shape_of(event: str, delta: Delta) -> Shape | None:
    """The shape of a delta, or None.

    Args:
      event: how it stands in the stream, with the blank line at its end.
      delta: what it was decoded to.
    """
    name = FIELDS[type(delta)]
    key = f'"{name}":'
    start = event.rfind(key) + len(key)
    start += len(event[start:]) - len(event[start:].lstrip(" "))
    try:
        text, end = _decode_at(event, start)
    except (ValueError, RecursionError):
        return None
    head, tail = event[: start + 1], event[end - 1 :]
    if not isinstance(text, str) or len(head) + len(tail) > _LONGEST:
        return None
    return _shape(head, tail, name, delta.index)


# Remembered, for one service writes all answers alike: a search is 0.3 ms, as long as 300 deltas.
@functools.lru_cache(maxsize=64)
def _shape(head: str, tail: str, name: str, index: int) -> Shape | None:
    # With one text between them, and with another: is the delta's text all that changes? Then any
    # text can stand there, for none ever changes what a parser makes of the rest.
    one, other = _payload(f"{head}one{tail}"), _payload(f"{head}other{tail}")
    match one, other:
        case (
            {"type": "content_block_delta", "index": number, "delta": dict(delta)},
            dict(),
        ) if number == index and delta.get(name) == "one":
            delta[name] = "other"
            return Shape(head, tail, _KINDS[name], index) if one == other else None
    return None


def _payload(event: str) -> Any:
    data = event.encode()
    decoded = SSEDecoder(len(data)).feed(data)
    try:
        return json.loads(decoded[0].data) if len(decoded) == 1 else None
    except (ValueError, RecursionError):  # half an event, whose beginning came before
        return None
