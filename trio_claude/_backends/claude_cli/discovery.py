"""Where the ``claude`` program is, and which version of it."""

from __future__ import annotations

import logging
import os
import re
import shutil
import subprocess

import trio

from ..._errors import CLINotFound, ConfigurationError

logger = logging.getLogger("trio_claude")

OLDEST = (2, 0, 0)
"""The first version that speaks the protocol as it is spoken here."""

_PLACES = (
    "~/.claude/local/claude",
    "~/.local/bin/claude",
    "/usr/local/bin/claude",
    "/opt/homebrew/bin/claude",
    "~/.npm-global/bin/claude",
    "~/node_modules/.bin/claude",
    "~/.yarn/bin/claude",
)

# It prints its version within a tenth of a second, as a rule.
_VERSION_SECONDS = 5.0


def find_program(cli_path: str | None) -> str:
    """The path of the program: what was given, else what PATH has, else where it is as a rule.

    Raises:
      CLINotFound: it is in none of these places.
    """
    if os.name != "posix":
        raise ConfigurationError(
            "backend='cli' needs a POSIX system, for it stops groups of processes; "
            "on Windows, use it inside WSL"
        )
    if cli_path is not None:
        path = os.path.expanduser(cli_path)
        found = shutil.which(path)
        if found is None:
            raise CLINotFound(f"cli_path is {cli_path!r}, and {_what_is_wrong(path)}")
        return os.path.abspath(found)  # a session may work in another folder
    for place in ("claude", *_PLACES):
        found = shutil.which(os.path.expanduser(place))
        if found is not None:
            return os.path.abspath(found)
    raise CLINotFound(
        "there is no program 'claude' in PATH, nor in its usual places: install it with "
        "'npm install -g @anthropic-ai/claude-code' (or see https://claude.com/claude-code), "
        "or say where it is with CLIBackend(cli_path=...)"
    )


def _what_is_wrong(path: str) -> str:
    if os.path.basename(path) == path:
        return f"PATH has no such program; one in this folder would be './{path}'"
    if os.path.isdir(path):
        return "that is a folder: name the program in it"
    if os.path.exists(path):
        return "that is not executable"
    return "there is no such file"


async def check_version(path: str) -> None:
    """Log a warning if the program is older than what is known to work, or doesn't say."""
    said = ""
    with trio.move_on_after(_VERSION_SECONDS):
        try:
            done = await trio.run_process(
                [path, "-v"], capture_stdout=True, stderr=subprocess.DEVNULL, check=False
            )
            said = done.stdout.decode("utf-8", "replace")
        except OSError:
            return  # whoever starts it will say so
    match = re.search(r"(\d+)\.(\d+)\.(\d+)", said)
    if match is None:
        logger.warning("%s doesn't say its version within %g s", path, _VERSION_SECONDS)
    elif tuple(map(int, match.groups())) < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        logger.warning(
            "%s is version %s, older than %s: sessions on it may not work; update it with "
            "'claude update'",
            path,
            match[0],
            oldest,
        )
