"""How much memory this process has."""

from __future__ import annotations

import gc
import tracemalloc
from pathlib import Path

_STATM = Path("/proc/self/statm")


class Memory:
    """Measures how much memory is taken from here on: resident, where the system tells.

    Else it is what Python has allocated, which is less, for ours and for others alike.
    """

    def __init__(self) -> None:
        if not _STATM.exists():
            tracemalloc.start()
        self._before = self._now()

    def grown(self) -> int:
        """Bytes taken since the beginning."""
        return self._now() - self._before

    def _now(self) -> int:
        gc.collect()
        if _STATM.exists():
            import resource

            return int(_STATM.read_text().split()[1]) * resource.getpagesize()
        return tracemalloc.get_traced_memory()[0]
