"""From the figures of a run to what it says: ratios, verdicts, a table, a file."""

from __future__ import annotations

import json
import os
import platform
import re
import statistics
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import attrs

from .rows import UNITS, Row

Verdict = Literal["met", "missed", "unclear", "reported"]

# Of a sample's figures, those of each round.
Rounds = Sequence[Mapping[str, float]]

# Below this, so many packets ran together that a figure is not of what its row says.
_ALONE = 0.97

_LIBRARIES = (
    "trio",
    "httpx",
    "httpcore",
    "h11",
    "attrs",
    "anthropic",
    "msgspec",
    "claude-agent-sdk",
    "ray",
)

_BEGIN, _END = "<!-- results -->\n", "<!-- end of results -->\n"


@attrs.frozen(kw_only=True)
class Result:
    """What came out for a row; times are seconds and sizes bytes."""

    name: str
    says: str
    peer: str
    unit: str
    ours: float
    """The median over the rounds; so is what follows."""

    beside: float
    ratio: float
    """The median of the rounds' ratios, which need not be the ratio of the medians."""

    lowest: float
    """The smallest ratio of a round."""

    highest: float
    goal: float | None
    reads: float | None
    """Reads of a socket for each packet, for streams: less than 1 where packets ran together."""

    verdict: Verdict


def judge(ratio: float, goal: float | None, reads: float | None = None) -> Verdict:
    """Whether the goal is met; nothing can be said where packets ran together that should not."""
    if reads is not None and reads < _ALONE:
        return "unclear"
    if goal is None:
        return "reported"
    return "met" if ratio <= goal else "missed"


def result(row: Row, ours: Rounds, beside: Rounds = (), *, reads: float | None = None) -> Result:
    """What the figures of all rounds say of this row; ``beside`` is left out where it is fixed."""
    mine = [figures[row.ours.name] for figures in ours]
    if isinstance(row.beside, float):
        others = [row.beside] * len(mine)
    else:
        others = [figures[row.beside.name] for figures in beside]
    ratios = [one / other for one, other in zip(mine, others, strict=True)]
    ratio = statistics.median(ratios)
    return Result(
        name=row.name,
        says=row.says,
        peer=row.peer,
        unit=row.unit,
        ours=statistics.median(mine),
        beside=statistics.median(others),
        ratio=ratio,
        lowest=min(ratios),
        highest=max(ratios),
        goal=row.goal,
        reads=reads,
        verdict=judge(ratio, row.goal, reads),
    )


# ---- shown --------------------------------------------------------------------------------------


def machine(rounds: int) -> dict[str, str | int]:
    """What one should know of the run, and nothing of the place where it was."""
    facts: dict[str, str | int] = {
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "system": f"{platform.system()} {platform.machine()}",
        "cpus": os.cpu_count() or 1,
        "rounds": rounds,
    }
    for library in _LIBRARIES:
        try:
            facts[library] = version(library)
        except PackageNotFoundError:
            continue  # a peer that is not in this environment, nor in what was measured
    return facts


def cells(one: Result) -> tuple[str, ...]:
    """A line of the table."""
    return (
        one.name,
        one.says,
        _shown(one.ours, one.unit),
        f"{_shown(one.beside, one.unit)} ({one.peer})",
        f"{one.ratio:.2f}",
        "" if one.goal is None else f"{one.goal:g}",
        one.verdict,
    )


_HEADER = ("row", "what", "ours", "beside", "ratio", "goal", "verdict")


def _shown(value: float, unit: str) -> str:
    """Three digits that count, and never an exponent."""
    number = value / UNITS[unit]
    return f"{number:.3g} {unit}" if number < 1000 else f"{number:.0f} {unit}"


def table(results: Sequence[Result]) -> str:
    """The table for a terminal."""
    lines = [_HEADER, *map(cells, results)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def markdown(results: Sequence[Result], facts: Mapping[str, str | int]) -> str:
    """The table for the docs, and where it comes from."""
    lines = [_HEADER, ("---",) * len(_HEADER)]
    lines += [(f"`{one.name}`", *cells(one)[1:]) for one in results]
    rows = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"{rows}\n\nTaken with {said(facts)}.\n"


def said(facts: Mapping[str, str | int]) -> str:
    """The facts of a run in a line."""
    libraries = ", ".join(f"{name} {facts[name]}" for name in _LIBRARIES if name in facts)
    return (
        f"{facts['python']} on {facts['system']} with {facts['cpus']} CPUs, "
        f"{facts['rounds']} rounds; {libraries}"
    )


# ---- kept ---------------------------------------------------------------------------------------


def as_json(
    results: Sequence[Result], facts: Mapping[str, str | int], samples: Mapping[str, Rounds]
) -> str:
    """Everything, with each figure of each round."""
    whole = {
        "machine": dict(facts),
        "rows": [attrs.asdict(one) for one in results],
        "samples": {name: list(map(dict, rounds)) for name, rounds in samples.items()},
    }
    return json.dumps(whole, indent=1, ensure_ascii=False) + "\n"


def from_json(text: str) -> tuple[list[Result], dict[str, str | int]]:
    """The results and the facts of a run that was written down."""
    whole: dict[str, Any] = json.loads(text)
    return [Result(**row) for row in whole["rows"]], whole["machine"]


def on_page(page: str, part: str) -> str:
    """The page with this as its part about the results."""
    pattern = re.compile(f"{re.escape(_BEGIN)}.*{re.escape(_END)}", re.DOTALL)
    changed, times = pattern.subn(lambda _: f"{_BEGIN}\n{part}\n{_END}", page)
    if times != 1:
        raise ValueError(f"the page has {times} places for the results, not one")
    return changed


def write(
    place: Path,
    results: Sequence[Result],
    facts: Mapping[str, str | int],
    samples: Mapping[str, Rounds],
) -> None:
    """Write the results down in this folder of the docs, and into its page; without the plot."""
    (place / "results.json").write_text(as_json(results, facts, samples), encoding="utf-8")
    index = place / "index.md"
    page = on_page(index.read_text(encoding="utf-8"), markdown(results, facts))
    index.write_text(page, encoding="utf-8")
