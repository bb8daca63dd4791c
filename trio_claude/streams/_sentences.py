"""Cutting a text that comes in pieces into sentences and lines. No trio, no clock."""

import re
from collections.abc import Iterator
from typing import Literal

# A line's end; other space; a mark that ends a sentence without a space; anything else.
_TOKEN = re.compile(r"\n|[^\S\n]+|[。！？｡]|[^\s。！？｡]+")  # noqa: RUF001 - these are meant

_OPENING = "\"'`*_([{<«“‘"  # noqa: RUF001
_CLOSING = "\"'`*_)]}>»”’"  # noqa: RUF001
_WIDE_CLOSING = "」』）】》”’"  # noqa: RUF001

# Names and numbers follow these: what begins with a capital or a digit behind them is no sentence.
_ABBREVIATIONS = re.compile(
    r"mrs?|ms|dr|prof|st|sr|jr|vs|cf|figs?|eqs?|vol|ch|sec|pp|ca|approx|al", re.IGNORECASE
)
_INITIALS = re.compile(r"(?:[^\W\d_]\.)*[^\W\d_]")  # J. and U.S. and e.g.


class Sentences:
    """Cuts a text that comes in pieces, wherever those end, into sentences and lines.

    Each character is looked at a bounded number of times, however long a sentence is.
    """

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self._piece: list[str] = []
        self._blank = True  # whether there is nothing but space in the piece
        self._word: list[str] = []  # the last word, while it may go on
        self._first = True  # whether that word is the first one of the piece
        self._end: Literal["no", "likely", "sure"] = "no"

    def feed(self, text: str) -> Iterator[str]:
        """The pieces that are whole now."""
        for match in _TOKEN.finditer(text):
            token = match[0]
            if token == "\n":
                self._piece.append(token)
                if not self._blank:
                    yield from self.finish()
            elif token.isspace():
                self._piece.append(token)
                if self._word:
                    self._end = "likely" if self._is_end("".join(self._word)) else "no"
                    self._word.clear()
            elif token in "。！？｡":  # noqa: RUF001
                self._piece.append(token)
                self._blank = False
                self._word.clear()
                self._end = "sure"
            else:
                yield from self._add_to_word(token)

    def _add_to_word(self, token: str) -> Iterator[str]:
        if self._end == "sure":
            word = token.lstrip(_WIDE_CLOSING)
            self._piece.append(token[: len(token) - len(word)])
            token = word
        if not token:
            return
        if self._end == "sure" or (self._end == "likely" and not token[0].islower()):
            yield from self.finish()
        if not self._word:
            self._end = "no"
            self._first = self._blank
        self._word.append(token)
        self._piece.append(token)
        self._blank = False

    def _is_end(self, word: str) -> bool:
        """Whether a sentence may end with this word, which has a space behind it."""
        word = word.rstrip(_CLOSING)
        if not word.endswith((".", "!", "?", "…")):
            return False
        stem = word[:-1].lstrip(_OPENING)
        if word[-1] != ".":
            return True
        if self._first and stem.isdecimal():
            return False  # the number of a list's item
        return not (_ABBREVIATIONS.fullmatch(stem) or _INITIALS.fullmatch(stem))

    def finish(self) -> Iterator[str]:
        """What is left, as a piece; then begin anew."""
        piece = "".join(self._piece)
        self._reset()
        if piece:
            yield piece
