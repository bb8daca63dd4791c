"""How Sphinx builds these docs: `nox -s docs`."""

import builtins
from importlib.metadata import version as _version_of

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
exclude_patterns = ["_build", "changelog.d", "examples"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False

# The docs build without a network, so no other project's inventory is there to look a name up in:
# what is named in full, or is built in, is taken as it is. Our own names are all checked.
nitpick_ignore_regex = [
    ("py:.*", r"(trio|httpx|attrs?|hypercorn|hypothesis|pytest)\..*"),
    ("py:.*", r"(collections|contextlib|typing|types|datetime|logging|os|pathlib)\..*"),
    ("py:.*", "|".join(dir(builtins))),
]

html_theme = "furo"
html_title = "trio-claude"
