"""One sample, in a process of its own, so that no peer's imports or garbage are in another's way.

``python -m tests.benchmarks.sample KIND ARGUMENTS`` calls the function KIND, such as
``streaming.ours``, with ARGUMENTS, a JSON object, and prints its figures as a line of JSON. Nothing
is imported that the function does not need.
"""

from __future__ import annotations

import importlib
import json
import sys

from .limits import raise_file_limit


def main(kind: str, arguments: str) -> None:
    """Take the sample and print it."""
    raise_file_limit()
    module, _, function = kind.partition(".")
    take = getattr(importlib.import_module(f"tests.benchmarks.{module}"), function)
    print(json.dumps(take(**json.loads(arguments))))


if __name__ == "__main__":
    main(*sys.argv[1:])
