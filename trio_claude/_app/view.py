"""How the demo is seen: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections import deque
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING

import trio
from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.live import Live
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from .terminal import one_line, write

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from .board import Board, Row
    from .story import Claim

# Often enough to be seen as movement.
_REFRESH_SECONDS = 0.1
# How many lines of what happened stand below the table: with it, they fit 24 lines.
_NOTES = 8
# For how long a row shows that its session crashed, which is over sooner than one can see.
_STRUCK_SECONDS = 1.0

_STYLES = {
    "answering": "green",
    "crashed": "bold red",
    "restarting": "yellow",
    "starting": "yellow",
    "stopped": "dim",
}


class View(ABC):
    """Somebody who looks on."""

    @abstractmethod
    def note(self, seconds: float, text: str) -> None:
        """Something happened that is worth a line."""

    @abstractmethod
    def answered(self, seconds: float, name: str, text: str) -> None:
        """A whole answer came."""

    @abstractmethod
    def showing(self, board: Board) -> AbstractAsyncContextManager[None]:
        """Look on for the length of a block."""

    @abstractmethod
    def summary(self, claims: Sequence[Claim]) -> None:
        """Say what was shown."""


def choose_view() -> View:
    """A live table, if standard output can show one."""
    console = Console(highlight=False)
    # Asked of the file too: FORCE_COLOR, for one, makes rich believe in a terminal.
    if sys.stdout.isatty() and console.is_terminal and not console.is_dumb_terminal:
        return LiveView(console)
    return PlainView()


class PlainView(View):
    """Lines, as things happen."""

    def note(self, seconds: float, text: str) -> None:
        write(f"{seconds:5.1f} s  {one_line(text)}\n")

    def answered(self, seconds: float, name: str, text: str) -> None:
        self.note(seconds, f"{name}: answered: {text}")

    @asynccontextmanager
    async def showing(self, board: Board) -> AsyncIterator[None]:
        yield

    def summary(self, claims: Sequence[Claim]) -> None:
        write("\nWhat was shown:\n")
        for claim in claims:
            write(f"  {'ok' if claim.holds else 'NO'}  {claim.text}\n")


class LiveView(View):
    """A table that follows the board, with the last notes below it."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._notes: deque[Text] = deque(maxlen=_NOTES)

    def note(self, seconds: float, text: str) -> None:
        self._notes.append(Text.assemble((f"{seconds:5.1f} s  ", "dim"), one_line(text)))

    def answered(self, seconds: float, name: str, text: str) -> None:
        """The table shows it."""

    @asynccontextmanager
    async def showing(self, board: Board) -> AsyncIterator[None]:
        # It is refreshed by a task of ours, and not by a thread that reads what we write.
        live = Live(console=self._console, auto_refresh=False)
        async with trio.open_nursery() as nursery:
            with live:
                nursery.start_soon(self._follow, live, board)
                try:
                    yield
                finally:
                    nursery.cancel_scope.cancel(reason="the demo has ended")
                    live.update(self._picture(board), refresh=True)

    async def _follow(self, live: Live, board: Board) -> None:
        while True:
            live.update(self._picture(board), refresh=True)
            await trio.sleep(_REFRESH_SECONDS)

    def _picture(self, board: Board) -> RenderableType:
        # As many lines from the first moment on: nothing jumps.
        notes = [*self._notes, *[Text()] * (_NOTES - len(self._notes))]
        for note in notes:
            note.no_wrap, note.overflow = True, "ellipsis"
        return Group(table(board), Text(), *notes)

    def summary(self, claims: Sequence[Claim]) -> None:
        self._console.print("\n[bold]What was shown:[/]")
        for claim in claims:
            mark = ("ok", "green") if claim.holds else ("NO", "bold red")
            line = Text.assemble("  ", mark, f"  {claim.text}")
            self._console.print(line, soft_wrap=True)


def table(board: Board) -> Table:
    """The board as a table that fits any width from 70 columns on."""
    shown = Table(box=box.SIMPLE_HEAD, expand=True, show_edge=False, padding=0)
    shown.add_column("\nsession", no_wrap=True, min_width=13)
    shown.add_column("\nstatus", no_wrap=True, min_width=10)
    shown.add_column("incar-\nnation", justify="right", no_wrap=True)
    shown.add_column("\nturns", justify="right", no_wrap=True)
    shown.add_column("\ntokens", justify="right", no_wrap=True)
    shown.add_column("re-\nstarts", justify="right", no_wrap=True)
    shown.add_column("\nlast words", no_wrap=True, ratio=1)
    for row in board.rows.values():
        shown.add_row(*_cells(row, board.seconds))
    return shown


def _cells(row: Row, seconds: float) -> list[RenderableType]:
    struck = row.crashed_at is not None and seconds - row.crashed_at < _STRUCK_SECONDS
    restarts = max(row.restarts, 0)
    return [
        Text(f"{'  ' if row.group else ''}{row.name}", "bold red" if struck else "bold"),
        Text(row.status, _STYLES.get(row.status, "")),
        str(row.incarnation),
        str(row.turns),
        str(row.tokens),
        Text(str(restarts), "yellow" if restarts else ""),
        LastWords(one_line(row.words), "red" if struck else ""),
    ]


class LastWords:
    """The end of a text: as much of it as there is room for."""

    def __init__(self, text: str, style: str = "") -> None:
        self._text = text
        self._style = style

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = options.max_width
        end = self._text[-width:]
        if cell_len(self._text[-width - 1 :]) > width:
            while cell_len(end) > width - 1:
                end = end[1:]
            end = f"…{end}"
        yield Text(end, self._style, no_wrap=True)

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(1, options.max_width)
