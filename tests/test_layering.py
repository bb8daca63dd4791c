"""Who may import whom: the tables, the checker that reads them, and proof that it bites.

The imports of every module are read from its source, wherever they stand: at the top, in a function,
in an `if TYPE_CHECKING`. A room is a module or folder right under the package; `""` is the package's
own `__init__.py`. A module's place is written without the package's name: `_supervision.policy`. A
row about a place is also about all that lies inside it.
"""

import ast
import sys
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

import trio_claude

PACKAGE = "trio_claude"

# A room may import itself and what stands below it.
ROOMS = (
    "__main__",
    "_app",
    "testing",
    "simulator",
    "cluster",
    "",
    "_supervision",
    "_session",
    "_backends",
    "_nurseries",
    "streams",
    "_wire",
    "_options",
    "_cli_options",
    "_callbacks",
    "_messages",
    "_validation",
    "_errors",
    "_responder",
)

# What users give and get.
_VALUES = {"_options", "_cli_options", "_callbacks", "_messages"}

# Places that may import less than that: all they may import beside the standard library and themselves.
NO_MORE_THAN: Mapping[str, Collection[str]] = {
    "streams": {"_messages", "_errors", "attrs", "trio"},
    "_wire": {"_options", "_cli_options", "_callbacks", "_messages", "_errors", "attrs"},
    # It is run as a script, by a Python that is told to look for nothing else.
    "_backends.claude_cli.guardian": {},
    "_supervision.policy": {"_options", "_validation", "_errors", "attrs"},
    "_responder": {},
}

# Libraries, and where each may be imported. What has no row here may be imported nowhere.
LIBRARIES: Mapping[str, Collection[str]] = {
    "attrs": ROOMS,
    "click": {"_app"},
    "httpcore": {"_backends.messages_api"},
    "httpx": {"_backends.messages_api"},
    "hypercorn": {"simulator"},
    "hypothesis": {"testing"},
    "mcp": {"_backends.claude_cli.mcp_bridge"},
    "pytest": {"testing"},
    "ray": {"cluster._ray"},
    "rich": {"_app"},
    "trio": set(ROOMS) - {"_wire", *_VALUES, "_validation", "_responder"},
}

# Standard modules, and where none of them may be imported: what is pure is handed its time and chance.
NOT_IN: Mapping[str, Collection[str]] = {
    # Ray's actors are asyncio's. What is Trio's of the cluster has nothing to do with that.
    "asyncio": set(ROOMS) - {"cluster"}
    | {
        f"cluster.{module}"
        for module in (
            *("_connection", "_driver", "_far", "_far_question", "_group", "_held", "_jobs"),
            *("_life", "_lines", "_names", "_opening", "_peers", "_pool", "_service", "_turns"),
        )
    },
    "random": {"_wire", "_supervision.policy", *_VALUES},
    "time": {"_wire", "_supervision.policy", *_VALUES},
}

# Upward imports that only type checkers see (importer, imported): each needs a reason.
TYPES_ONLY: Collection[tuple[str, str]] = {
    ("_errors", "_messages"),  # an error's .partial and .result are messages; it never makes one
}


class Import(NamedTuple):
    """One imported module, by its absolute name, and whether only type checkers import it."""

    line: int
    target: str
    types_only: bool


def within(place: str, row: str) -> bool:
    """Whether a row about `row` is also about `place`."""
    return place == row or (row != "" and place.startswith(f"{row}."))


def among(place: str, rows: Collection[str]) -> bool:
    """Whether any of the rows is about `place`."""
    return any(within(place, row) for row in rows)


def place_of(module: str) -> str:
    """The module's name without the package's."""
    return module.removeprefix(PACKAGE).removeprefix(".")


def is_type_checking(node: ast.AST) -> bool:
    """Whether this is an `if TYPE_CHECKING:` or `if typing.TYPE_CHECKING:`."""
    return isinstance(node, ast.If) and ast.unparse(node.test).split(".")[-1] == "TYPE_CHECKING"


def imports_of(
    source: str, module: str, is_package: bool, modules: Collection[str]
) -> Iterator[Import]:
    """Every import in the source; `modules` tells a submodule from a name inside a module."""
    tree = ast.parse(source)
    types_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and is_type_checking(node)
        for statement in node.body
        for inner in ast.walk(statement)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(node.lineno, alias.name, id(node) in types_only)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                up = node.level - is_package
                here = module.split(".")
                base = ".".join([*here[: len(here) - up], *filter(None, [node.module])])
            for alias in node.names:
                submodule = f"{base}.{alias.name}"
                target = submodule if submodule in modules else base
                yield Import(node.lineno, target, id(node) in types_only)


def objection(place: str, found: Import) -> str | None:
    """What is wrong with this import in this place, if anything."""
    library = found.target.split(".")[0]
    limits = [row for row in NO_MORE_THAN if within(place, row)]

    if library != PACKAGE:
        if library in sys.stdlib_module_names:
            forbidden = among(place, NOT_IN.get(library, ()))
            return f"{library} may not be imported here" if forbidden else None
        if library not in LIBRARIES:
            return f"{library} is no dependency of this package"
        if not among(place, LIBRARIES[library]) or any(
            library not in NO_MORE_THAN[row] for row in limits
        ):
            return f"{library} may not be imported here"
        return None

    target = place_of(found.target)
    room, target_room = place.split(".")[0], target.split(".")[0]
    if found.types_only and (room, target_room) in TYPES_ONLY:
        return None
    for name in (room, target_room):
        if name not in ROOMS:
            return f"{name} has no place in ROOMS"
    if ROOMS.index(target_room) < ROOMS.index(room):
        return f"{target or PACKAGE} stands above {room}"
    for row in limits:
        if not within(target, row) and not among(target, NO_MORE_THAN[row]):
            return f"{target} is not among what {row} may import"
    return None


def objections(
    source: str, module: str, *, is_package: bool = False, modules: Collection[str] = ()
) -> list[str]:
    """Every import of the module that breaks a rule, as `module:line: why`."""
    return [
        f"{module}:{found.line}: {why}"
        for found in imports_of(source, module, is_package, modules)
        if (why := objection(place_of(module), found)) is not None
    ]


def module_files() -> dict[str, Path]:
    """Every module of the package under test, by its name."""
    (root,) = map(Path, trio_claude.__path__)
    files = {}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root.parent).with_suffix("").parts
        files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return files


MODULES = module_files()


@pytest.mark.parametrize("module", MODULES)
def test_every_module_keeps_to_the_tables(module: str) -> None:
    """No module of the package imports what its place may not."""
    path = MODULES[module]
    source = path.read_text(encoding="utf-8")
    is_package = path.name == "__init__.py"
    assert objections(source, module, is_package=is_package, modules=MODULES) == []


def test_every_place_in_the_tables_is_there() -> None:
    """A row about a place that does not exist guards nothing, so there is none."""
    named = {*ROOMS, *NO_MORE_THAN, *(place for pair in TYPES_ONLY for place in pair)}
    named |= {place for row in (*LIBRARIES.values(), *NOT_IN.values()) for place in row}
    named |= {place for row in NO_MORE_THAN.values() for place in row if place not in LIBRARIES}
    assert named - {place_of(module) for module in MODULES} == set()


KNOWN = {
    "trio_claude._errors",
    "trio_claude._messages",
    "trio_claude._session",
    "trio_claude._session.turn",
    "trio_claude._supervision.child",
    "trio_claude._wire",
    "trio_claude._wire.sse",
}


@pytest.mark.parametrize(
    ("module", "source", "why"),
    [
        ("_messages", "from trio_claude._session import turn", "_session.turn stands above"),
        ("_messages", "import trio_claude._session.turn as t", "_session.turn stands above"),
        ("_messages", "from ._session.turn import Turn", "_session.turn stands above"),
        ("_messages", "from . import _session", "_session stands above"),
        ("_messages", "from . import Session", "trio_claude stands above"),
        ("_messages", "import trio_claude", "trio_claude stands above"),
        ("_wire.sse", "from ..streams import text_deltas", "streams stands above"),
        ("_wire.sse", "from .. import _session", "_session stands above"),
        (
            "_session.turn",
            "def f():\n    from .._supervision import child",
            "_supervision.child st",
        ),
        (
            "_session.turn",
            "if TYPE_CHECKING:\n    from .._supervision import child",
            "_supervision",
        ),
        ("_errors", "from ._messages import Usage", "_messages stands above"),
        (
            "_errors",
            "if TYPE_CHECKING:\n    pass\nelse:\n    from . import _messages",
            "_messages st",
        ),
        ("_session.turn", "import os, httpx", "httpx may not be imported here"),
        ("_backends.claude_cli", "from httpx import Client", "httpx may not be imported here"),
        ("_session.turn", "try:\n    import rich.live\nexcept ImportError: ...", "rich may not be"),
        ("_app.demo", "from hypercorn.trio import serve", "hypercorn may not be imported here"),
        ("_app.demo", "import yaml", "yaml is no dependency"),
        ("_app.demo", "import asyncio", "asyncio may not be imported here"),
        ("_wire.sse", "import trio", "trio may not be imported here"),
        ("_cli_options", "import trio", "trio may not be imported here"),
        ("_callbacks", "from ._options import x", "_options stands above _callbacks"),
        ("_backends.claude_cli.link", "import mcp", "mcp may not be imported here"),
        ("_backends.claude_cli.guardian", "import trio", "trio may not be imported here"),
        (
            "_backends.claude_cli.guardian",
            "from ..._errors import ProcessError",
            "_errors is not among what",
        ),
        ("_wire.sse", "from time import monotonic", "time may not be imported here"),
        ("_wire.sse", "from .._validation import is_count", "_validation is not among what _wire"),
        ("_supervision.policy", "import trio", "trio may not be imported here"),
        ("_supervision.policy", "from . import child", "_supervision.child is not among what"),
        ("_responder", "import attrs", "attrs may not be imported here"),
        ("streams", "from ._session.turn import Turn", "_session.turn stands above streams"),
        ("_attic", "from ._errors import QueryError", "_attic has no place in ROOMS"),
        ("_app.demo", "from .._attic import x", "_attic has no place in ROOMS"),
    ],
)
def test_a_forbidden_import_is_reported(module: str, source: str, why: str) -> None:
    """Each kind of rule, broken once by a made-up module, gives exactly one objection that says so."""
    (said,) = objections(source, f"{PACKAGE}.{module}", modules=KNOWN)
    assert said.startswith(f"{PACKAGE}.{module}:")
    assert why in said


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("_session.turn", "import trio, math\nfrom .._wire import sse\nfrom . import handle"),
        ("_errors", "if typing.TYPE_CHECKING:\n    from ._messages import Usage"),
        ("_wire.sse", "import attrs\nfrom . import jsonlines\nfrom .._messages import Usage"),
        ("_backends.messages_api", "import httpx, random, time"),
        ("_backends.claude_cli.guardian", "import os, time"),
        ("_backends.claude_cli.mcp_bridge", "def f():\n    import mcp.server"),
        ("_app", "import trio_claude\nfrom trio_claude import simulator"),
    ],
)
def test_what_is_allowed_is_not_reported(module: str, source: str) -> None:
    """Imports that keep to the tables give no objection."""
    assert objections(source, f"{PACKAGE}.{module}", modules=KNOWN) == []


def test_a_package_counts_its_dots_from_itself() -> None:
    """In an `__init__.py` one dot is the package itself, in a module the package it lies in."""
    source = "from .turn import Turn"
    inside = imports_of(source, "trio_claude._session", True, KNOWN)
    beside = imports_of(source, "trio_claude._session.handle", False, KNOWN)
    assert list(inside) == list(beside) == [Import(1, "trio_claude._session.turn", False)]
