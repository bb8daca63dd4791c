"""The command ``trio-claude``; it needs the extra: ``pip install 'trio-claude[demo]'``."""

import sys
from collections.abc import Sequence


def main(args: Sequence[str] | None = None) -> int:
    """Run the command, and give the exit status of the process.

    0 is success, 1 a failure, 2 a command line that makes no sense, 130 an interrupt by Ctrl-C.
    Failures are one line on standard error.

    Args:
      args: the command line without the program's name; default: that of this process.
    """
    try:
        from .cli import run  # here, because its libraries are an extra
    except ModuleNotFoundError as exc:
        print(f"trio-claude: {missing(exc)}", file=sys.stderr)
        return 1
    return run(args)


def missing(error: ModuleNotFoundError) -> str:
    """What to do about a library that is not there."""
    library = (error.name or "a library").partition(".")[0]
    return f"the command needs {library}: pip install 'trio-claude[demo]'"
