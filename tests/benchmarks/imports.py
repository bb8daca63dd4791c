"""CPU of an import, each in an interpreter of its own."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from typing import NamedTuple

Figures = dict[str, float]

OURS = "import trio_claude"
BARE = "import trio, httpx, attrs"

# What somebody who imports trio_claude has not asked for. What httpx itself brings is not ours: it
# imports click and rich where they are installed, for its command.
UNWANTED = (
    *("trio_claude.simulator", "trio_claude.testing", "trio_claude._app"),
    *("anthropic", "click", "hypercorn", "hypothesis", "pytest", "ray", "rich"),
)

_PROGRAM = """
import time
began = time.process_time()
{statement}
cpu = time.process_time() - began
import json, sys
print(json.dumps([cpu, sorted(sys.modules)]))
"""


class Imported(NamedTuple):
    """What an import did."""

    cpu: float
    modules: list[str]


def both(times: int) -> Figures:
    """Seconds of CPU for `import trio_claude`, and for an import of what it stands on.

    The middle ones of so many, taken in turn; first ones, which may have to compile, do not count.
    """
    extra = set(run(OURS).modules) - set(run(BARE).modules)
    unwanted = [name for name in sorted(extra) if is_unwanted(name)]
    assert not unwanted, f"{OURS!r} imports {', '.join(unwanted)}"
    pairs = [(run(OURS).cpu, run(BARE).cpu) for _ in range(times)]
    ours, bare = (statistics.median(column) for column in zip(*pairs, strict=True))
    return {"ours": ours, "bare": bare, "extra_modules": len(extra)}


def is_unwanted(module: str) -> bool:
    """Whether this module is one of, or in one of, the unwanted."""
    return any(module == name or module.startswith(f"{name}.") for name in UNWANTED)


def run(statement: str) -> Imported:
    """Import in a fresh interpreter."""
    command = [sys.executable, "-c", _PROGRAM.format(statement=statement)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    return Imported(*json.loads(done.stdout))
