"""How Sphinx builds these docs: `nox -s docs`."""

import builtins
import collections.abc
import contextlib
import re
import sys
from importlib.metadata import version as _version_of
from typing import Any, get_args

import attrs
from sphinx.application import Sphinx
from sphinx.pycode import ModuleAnalyzer
from sphinx.util.docutils import SphinxDirective

import trio_claude
import trio_claude.cluster
import trio_claude.testing
from trio_claude._cli_options import CLIOptions
from trio_claude._options import EVERY_BACKEND, BackendLike
from trio_claude._wire.cli_arguments import CLI_OPTIONS
from trio_claude._wire.requests import MESSAGES_OPTIONS

project = "trio-claude"
author = "The trio-claude authors"
copyright = "2026, The trio-claude authors"
release = version = _version_of("trio-claude")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinxcontrib_trio",
]
default_role = "code"  # `a name` in a docstring is code, as in Markdown
exclude_patterns = ["_build", "changelog.d", "examples"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

autodoc_default_options = {"members": True, "undoc-members": True, "show-inheritance": True}
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False

# The docs build without a network, so no other project's inventory is there to look a name up in:
# what is named in full, or is built in, is taken as it is. Our own names are all checked.
nitpick_ignore_regex = [
    ("py:.*", r"(trio|httpx|attrs?|hypercorn|hypothesis|pytest)\..*"),
    ("py:.*", r"(abc|collections|contextlib|typing|types|datetime|logging|os|pathlib)\..*"),
    ("py:.*", "|".join(dir(builtins))),
    ("py:class", r"trio_claude\.streams\._[ABC]"),  # type variables
]

html_theme = "furo"
html_title = "trio-claude"

# Private types in public signatures, and what users read there instead.
SHOWN_AS = {
    ": ~typing.Unpack[~trio_claude._options.Overrides]": "",
    **{
        " | ".join(f"~trio_claude.{kind.__name__}" for kind in get_args(union)): name
        for union, name in (
            (trio_claude.Event, "~trio_claude.Event"),
            (trio_claude.ContentBlock, "~trio_claude.ContentBlock"),
        )
    },
}


# A protocol so that _options need not know backends; to users it is a Backend.
BackendLike.__module__ = "trio_claude"
BackendLike.__name__ = BackendLike.__qualname__ = "Backend"


def setup(app: Sphinx) -> None:
    """Help autodoc where the package, or an extension, is not what it expects."""
    find_what_is_private()
    app.add_directive("options-table", OptionsTable)
    app.connect("autodoc-process-signature", process_signature)
    app.connect("autodoc-process-bases", process_bases)
    # Napoleon takes "Where it is: a path" under an attribute for a type and a description.
    kept: dict[str, list[str]] = {}

    def before_napoleon(_app: Any, what: str, name: str, *rest: Any) -> None:
        if what in ("attribute", "property"):
            kept[name] = list(rest[-1])

    def after_napoleon(_app: Any, _what: str, name: str, *rest: Any) -> None:
        if name in kept:
            rest[-1][:] = kept.pop(name)

    app.connect("autodoc-process-docstring", before_napoleon, priority=400)
    app.connect("autodoc-process-docstring", after_napoleon, priority=600)


def find_what_is_private() -> None:
    """Lead autodoc to the docstrings of attributes, and to what annotations mean.

    It looks for both in the module that something says it is from. Public classes name the module
    that they are imported from, and are written in private ones; and what only type checkers import
    is not there at all.
    """
    ours = {
        name: module for name, module in sys.modules.items() if name.split(".")[0] == "trio_claude"
    }
    meanings: dict[str, Any] = {}
    for module in (trio_claude, *ours.values(), collections.abc, contextlib):
        meanings = {**vars(module), **meanings}
    for module in ours.values():
        vars(module).update({**meanings, **vars(module)})
    for public in ("trio_claude", "trio_claude.cluster", "trio_claude.testing"):
        analyzer = ModuleAnalyzer.for_module(public)
        analyzer.analyze()
        for name in ours:
            private = ModuleAnalyzer.for_module(name)
            private.analyze()
            analyzer.attr_docs = {**private.attr_docs, **analyzer.attr_docs}
            analyzer.tagorder = {**private.tagorder, **analyzer.tagorder}


class OptionsTable(SphinxDirective):
    """All options of a conversation: on which backend each works, and what it is."""

    def run(self) -> list[Any]:
        """Make the table from what backends say that they have, and from the docstrings."""
        analyzer = ModuleAnalyzer.for_module("trio_claude")
        lines = [
            ".. py:currentmodule:: trio_claude",
            "",
            ".. list-table::",
            "   :header-rows: 1",
            "   :widths: 20 15 65",
            "",
            *("   * - option", "     - works on", "     - what it is"),
        ]
        for cls in (trio_claude.SessionOptions, CLIOptions):
            for name in cls.__annotations__:
                lines += [f"   * - ``{name}``", f"     - {works_on(name)}", "     -"]
                lines += [f"       {line}" for line in analyzer.attr_docs[cls.__name__, name]]
        return list(self.parse_text_to_nodes("\n".join(lines)))


def works_on(option: str) -> str:
    """The backends that take an option, for people to read."""
    if option in EVERY_BACKEND:
        return "every backend"
    names = {"Messages API": MESSAGES_OPTIONS, "Claude CLI": CLI_OPTIONS}
    return ", ".join(name for name, honoured in names.items() if option in honoured)


def process_signature(
    _app: Any, _what: str, _name: str, obj: Any, options: Any, signature: str, returns: str
) -> tuple[str, str]:
    """Show public types, the defaults of attrs' fields, and what ``async with`` gives."""
    for private, public in SHOWN_AS.items():
        signature = signature and signature.replace(private, public)
        returns = returns and returns.replace(private, public)
    if signature and attrs.has(obj):
        signature = re.sub(
            r"attr_dict\['(\w+)'\]\.default",
            lambda field: repr(attrs.fields_dict(obj)[field[1]].default),
            signature,
        ).replace("= NOTHING", "= {}")
    return signature, "" if options.get("async-with") else returns


def process_bases(_app: Any, _name: str, _obj: Any, _options: Any, bases: list[Any]) -> None:
    """Show of private bases what they are made from."""
    bases[:] = [
        shown for base in bases for shown in (base.__bases__ if is_private(base) else [base])
    ]


def is_private(base: Any) -> bool:
    """Whether users cannot import it from anywhere."""
    name, module = getattr(base, "__name__", ""), str(getattr(base, "__module__", ""))
    return name.startswith("_") or module.startswith("trio_claude._")
