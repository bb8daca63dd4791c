"""What the system lets a process have."""

from __future__ import annotations

import sys

_FILES = 4096  # a thousand sockets, and room


def raise_file_limit() -> None:
    """Allow this process a few thousand open files, where the system has such a limit."""
    if sys.platform == "win32":
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < _FILES:
        most = _FILES if hard == resource.RLIM_INFINITY else min(_FILES, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
