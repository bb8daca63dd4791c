"""Show that the tests bite: ``python -m tests.mutants.run [--short | NAME...]``.

Each mutation is applied to a copy of its own, and the tests of supervision and of sessions, with
the conformance suite, are run there until the first one fails; a test that hangs has noticed too.
Prints a line per mutation; exits 1 if one survived, or if the tests fail without any.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import trio

import trio_claude

from .mutations import MUTATIONS, SHORT, Mutation

PACKAGE = Path(trio_claude.__file__).parent
HERE = Path(__file__).parents[2]

# Those that can see a mutation, in memory and on virtual time; quick ones first.
TESTS = [
    *("policy", "roster", "supervisor", "opening", "control", "child", "connections", "handle"),
    *("turn", "lending", "line", "names", "spec", "asking", "context", "info", "events"),
    "claude_code_supervisor",
    "controls",
    "resume",
]
# And those that can see one in what is said to the claude program, with scripted ones.
CLI_TESTS = [
    *("jsonlines", "stream_json", "cli_turn", "cli_link", "cli_callbacks", "cli_process"),
]
# And those that can see one in the cluster, without Ray.
CLUSTER_TESTS = [
    *("cluster_table", "cluster_lines", "cluster_far", "cluster_service", "cluster_registry"),
    *("cluster_doors", "cluster_pool", "cluster_connection", "cluster_names", "cluster_peers"),
    *("cluster_driver", "cluster_group", "cluster_host", "cluster_wire"),
]
AT_ONCE = 2
SECONDS_A_TEST = 15
SECONDS = 240


def apply(mutation: Mutation, package: Path) -> None:
    """Put the fault into this copy of the package."""
    file = package / mutation.file
    text = file.read_text(encoding="utf-8")
    if text.count(mutation.old) != 1:
        raise ValueError(f"{mutation.name}: its old text is not in {mutation.file} exactly once")
    file.write_text(text.replace(mutation.old, mutation.new), encoding="utf-8")


def snapshot(place: Path) -> None:
    """Copy what the tests need: once, so that all are run on the same, whoever edits meanwhile."""
    no_bytecode = shutil.ignore_patterns("__pycache__")
    shutil.copytree(PACKAGE, place / PACKAGE.name, ignore=no_bytecode)
    shutil.copytree(HERE / "tests", place / "tests", ignore=no_bytecode)
    shutil.copy(HERE / "pyproject.toml", place)


def command(mutation: Mutation | None) -> list[str]:
    """Run the tests, those of the mutated file first."""
    modules, others = list(TESTS), "tests/conformance"
    if mutation is not None and (
        "claude_cli" in mutation.file
        or mutation.file in ("_wire/jsonlines.py", "_wire/stream_json.py", "_wire/results.py")
    ):
        modules, others = list(CLI_TESTS), "tests/claude"
    own = "" if mutation is None else Path(mutation.file).stem
    if mutation is not None and mutation.file.startswith("cluster/"):
        modules, others, own = list(CLUSTER_TESTS), "tests/test_names.py", f"cluster{own}"
    modules.sort(key=lambda module: module != own)
    return [
        *(sys.executable, "-B", "-m", "pytest", "-x", "-v", "-p", "no:cacheprovider"),
        *("-o", f"faulthandler_timeout={SECONDS_A_TEST}"),
        *("-o", "faulthandler_exit_on_timeout=true"),
        *(f"tests/test_{module}.py" for module in modules),
        others,
    ]


async def outcome(origin: Path, mutation: Mutation | None) -> tuple[bool, str]:
    """Whether all tests pass in a copy, and which one does not (or why)."""
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory) / "copy"
        shutil.copytree(origin, place)
        if mutation is not None:
            apply(mutation, place / PACKAGE.name)
        output = place / "output"
        with output.open("wb") as stdout, trio.move_on_after(SECONDS) as limit:
            done = await trio.run_process(
                command(mutation),
                check=False,
                stdout=stdout,
                stderr=subprocess.STDOUT,
                cwd=place,
                env=os.environ | {"CI": "1", "COLUMNS": "200", "PYTHONPATH": str(place)},
            )
            if done.returncode == 0:
                return True, ""
        lines = output.read_text(encoding="utf-8", errors="replace").splitlines()
    if limit.cancelled_caught:
        return False, f"more than {SECONDS} seconds in all"
    for line in lines:
        if "::" in line and " FAILED" in line:
            return False, line.split(" FAILED")[0]
    if any("Timeout (" in line for line in lines):
        begun = [line for line in lines if line.startswith("tests/") and "::" in line]
        test = begun[-1].split(" Timeout (")[0].strip() if begun else "?"
        return False, f"{test} (hangs)"
    return False, "\n".join(["no test, but this:", *lines[-15:]])


async def try_all(origin: Path, mutations: Sequence[Mutation]) -> int:
    """Try them, some at a time; how many survived."""
    survivors = 0
    limiter = trio.CapacityLimiter(AT_ONCE)

    async def attempt(mutation: Mutation) -> None:
        nonlocal survivors
        async with limiter:
            survived, test = await outcome(origin, mutation)
        survivors += survived
        said = f"SURVIVED: {mutation.why}" if survived else f"killed by {test}"
        print(f"{mutation.name}: {said}", flush=True)

    async with trio.open_nursery() as nursery:
        for mutation in mutations:
            nursery.start_soon(attempt, mutation)
    return survivors


async def main(arguments: Sequence[str]) -> int:
    """Run what was asked for; the exit code."""
    names = SHORT if list(arguments) == ["--short"] else arguments
    known = {mutation.name: mutation for mutation in MUTATIONS}
    unknown = [name for name in names if name not in known]
    if unknown:
        print(f"no such mutations: {', '.join(unknown)}; there are {', '.join(known)}")
        return 1
    chosen = [known[name] for name in names] if names else MUTATIONS
    with tempfile.TemporaryDirectory() as directory:
        origin = Path(directory) / "origin"
        snapshot(origin)
        healthy, test = await outcome(origin, None)
        if not healthy:
            print(f"without any mutation: {test}")
            return 1
        survivors = await try_all(origin, chosen)
    print(f"{len(chosen)} mutations, {survivors} survivors")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(trio.run(main, sys.argv[1:]))
