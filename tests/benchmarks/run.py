"""Run the benchmark: ``python -m tests.benchmarks.run [--short] [--only ROW ...] [--write FOLDER]``.

Prints a table. In each round every sample is taken once, in turn, beginning with another one each
time, so that whatever the machine does meanwhile is done to all of them.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from . import plot
from .results import Result, machine, result, said, table, write
from .rows import ROWS, Row, Sample
from .server import ROOT, serving

ROUNDS = 5
_SECONDS = 180.0

Figures = dict[str, float]


def take(sample: Sample, server: str, *, short: bool = False) -> Figures:
    """Take a sample, in a process of its own.

    Raises:
      subprocess.CalledProcessError: it failed; its own error output says why.
      subprocess.TimeoutExpired: it hangs.
    """
    arguments = {**sample.arguments, **(sample.short if short else {})}
    if sample.needs_server:
        arguments["server"] = server
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.sample", sample.kind, json.dumps(arguments)],
        check=True,
        cwd=ROOT,
        env=_environment(),
        stdout=subprocess.PIPE,
        timeout=_SECONDS,
    )
    figures: Figures = json.loads(done.stdout)
    return figures


def _environment() -> dict[str, str]:
    """Ours, without what would change where requests go or what they say, or have every import
    compile."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.lower().endswith("_proxy")
        and not name.startswith("ANTHROPIC_")
        and name != "PYTHONDONTWRITEBYTECODE"
    }


def samples_of(rows: Sequence[Row]) -> list[Sample]:
    """The samples that these rows need, each once."""
    return list(dict.fromkeys(figure.sample for row in rows for figure in row.measured))


def in_turn(samples: Sequence[Sample], rounds: int) -> Iterator[Sample]:
    """All samples so often, beginning with another one in each round."""
    for first in range(rounds):
        first %= len(samples)
        yield from (*samples[first:], *samples[:first])


def measure(
    rows: Sequence[Row], server: str, *, rounds: int, short: bool
) -> tuple[list[Result], dict[str, list[Figures]]]:
    """Measure these rows; the figures of each sample stand beside what they say."""
    results: list[Result] = []
    taken: dict[str, list[Figures]] = {}
    for group, members in itertools.groupby(rows, key=lambda row: row.group):
        of_group = list(members)
        print(f"{group} ...", file=sys.stderr, flush=True)
        check = of_group[0].check
        reads = None if check is None else take(check, server, short=short)["reads"]
        samples = samples_of(of_group)
        for sample in in_turn(samples, rounds):
            taken.setdefault(sample.name, []).append(take(sample, server, short=short))
        for row in of_group:
            rounds_of = [taken[figure.sample.name] for figure in row.measured]
            results.append(result(row, *rounds_of, reads=reads))
    return results, taken


def main(arguments: Sequence[str]) -> int:
    """Run what was asked for; the exit code, which says nothing of the verdicts."""
    names = [row.name for row in ROWS]
    parser = argparse.ArgumentParser(prog="tests.benchmarks.run", description=__doc__)
    parser.add_argument("--short", action="store_true", help="only show that it works")
    parser.add_argument("--only", nargs="+", choices=names, metavar="ROW", help=", ".join(names))
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="default: %(default)s")
    parser.add_argument("--write", type=Path, metavar="FOLDER", help="such as docs/benchmarks")
    asked = parser.parse_args(arguments)
    if asked.write is not None and (asked.short or asked.only):
        parser.error("--write is for a whole run: not with --short or --only")
    if asked.rounds < 1:
        parser.error("--rounds must be 1 or more")
    rounds = 1 if asked.short else asked.rounds

    rows = [row for row in ROWS if asked.only is None or row.name in asked.only]
    with serving() as server:
        results, taken = measure(rows, server, rounds=rounds, short=asked.short)
    facts = machine(rounds)
    print(table(results))
    print(f"\n{said(facts)}")
    if asked.short:
        print("A short run shows that the benchmark works: its figures say nothing.")
    if asked.write is not None:
        write(asked.write, results, facts, taken)
        plot.draw(results, asked.write / "results.svg")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
