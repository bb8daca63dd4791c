"""The results as a picture: for each row, how much of its goal was used up.

``python -m tests.benchmarks.plot RESULTS PICTURE`` draws that of a ``results.json`` again.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from .results import Result, from_json

_COLOURS = {"met": "#2f855a", "missed": "#c05621", "unclear": "#718096"}


def draw(results: Sequence[Result], file: Path) -> None:
    """Write the picture, as SVG; equal results give an equal file."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    judged = [(one, one.goal) for one in reversed(results) if one.goal is not None]
    with mpl.rc_context({"svg.hashsalt": "trio-claude", "font.size": 9}):
        figure = Figure(figsize=(8, 0.6 + 0.36 * len(judged)), layout="constrained")
        axes = figure.subplots()
        used = [one.ratio / goal for one, goal in judged]
        around = [
            [(one.ratio - one.lowest) / goal for one, goal in judged],
            [(one.highest - one.ratio) / goal for one, goal in judged],
        ]
        axes.barh(
            [one.name for one, _ in judged],
            used,
            xerr=around,
            error_kw={"elinewidth": 0.8, "ecolor": "#4a5568"},
            color=[_COLOURS[one.verdict] for one, _ in judged],
            height=0.6,
        )
        most = max([1.0, *(one.highest / goal for one, goal in judged)])
        for place, (one, goal) in enumerate(judged):
            axes.text(most * 1.03, place, f"{one.ratio:.2f} of {goal:g}", va="center")
        axes.set_xlim(0, most * 1.2)
        axes.axvline(1, color="black", linewidth=1)
        axes.set_title("Ratio of ours to what it is beside, as a part of the goal (line: the goal)")
        axes.set_xlabel("ratio / goal: left of the line it is met; thin lines: all rounds")
        axes.spines[["top", "right"]].set_visible(False)
        figure.savefig(file, format="svg", metadata={"Date": None})


if __name__ == "__main__":
    source, picture = map(Path, sys.argv[1:])
    draw(from_json(source.read_text(encoding="utf-8"))[0], picture)
