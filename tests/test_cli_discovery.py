"""Where the claude program is found, what is said where it is not, and its version."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest
import trio

from trio_claude import CLINotFound, ConfigurationError
from trio_claude._backends.claude_cli import discovery as module
from trio_claude._backends.claude_cli.discovery import OLDEST, check_version, find_program


def script(path: Path, body: str = "echo '2.1.330 (Claude Code)'") -> Path:
    """A program of this shell code."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without a claude, whose other places are below it too; gives that home."""
    home = tmp_path / "home"
    (home / "bin").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("PATH", str(home / "bin"))
    places = [place for place in module._PLACES if place.startswith("~")]
    assert len(places) < len(module._PLACES)
    monkeypatch.setattr(module, "_PLACES", (*places, str(home / "system" / "claude")))
    return home


# ---- where it is ----


def test_what_path_has_comes_first(nowhere: Path) -> None:
    """Then the places where it is installed as a rule."""
    usual = script(nowhere / ".local/bin/claude")
    assert str(usual) == find_program(None)
    first = script(nowhere / "bin/claude")
    assert str(first) == find_program(None)


@pytest.mark.parametrize(
    "place",
    [
        ".claude/local/claude",
        ".local/bin/claude",
        ".npm-global/bin/claude",
        "node_modules/.bin/claude",
        ".yarn/bin/claude",
        "system/claude",
    ],
)
def test_the_usual_places(place: str, nowhere: Path) -> None:
    """Each is looked into, and only what can be run is a program."""
    there = script(nowhere / place)
    assert str(there) == find_program(None)
    there.chmod(0o644)
    with pytest.raises(CLINotFound):
        find_program(None)


def test_a_program_that_is_nowhere(nowhere: Path) -> None:
    """The error says how to install it, and how to say where it is."""
    (nowhere / "bin/claude").mkdir()
    with pytest.raises(CLINotFound) as caught:
        find_program(None)
    assert isinstance(caught.value, ConfigurationError)
    said = str(caught.value)
    assert "npm install -g @anthropic-ai/claude-code" in said
    assert "CLIBackend(cli_path=...)" in said


def test_a_program_that_is_named(nowhere: Path) -> None:
    """By its path, with `~` for home, or by its name in PATH; nothing else is looked for."""
    mine = script(nowhere / "mine/claude-2")
    assert str(mine) == find_program(str(mine))
    assert str(mine) == find_program("~/mine/claude-2")
    on_path = script(nowhere / "bin/other")
    assert str(on_path) == find_program("other")


def test_a_program_in_this_folder(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its path is absolute, for a session may work in another folder; so it is by a relative PATH."""
    mine = script(nowhere / "mine/claude")
    monkeypatch.chdir(nowhere)
    assert str(mine) == find_program("mine/claude")
    assert str(mine) == find_program("./mine/../mine/claude")
    monkeypatch.setenv("PATH", "mine")
    assert str(mine) == find_program(None)
    assert str(mine) == find_program("claude")


@pytest.mark.parametrize(
    ("cli_path", "wrong"),
    [
        ("~/missing", "there is no such file"),
        ("~/mine", "that is a folder: name the program in it"),
        ("~/mine/", "that is a folder: name the program in it"),
        ("~/mine/claude", "that is not executable"),
        ("~/mine/claude/x", "there is no such file"),
        ("~/dangling", "there is no such file"),
    ],
)
def test_a_program_that_is_named_wrong(cli_path: str, wrong: str, nowhere: Path) -> None:
    """As it was given, and what is wrong with it, though there is one that was not asked for."""
    script(nowhere / "bin/claude")
    script(nowhere / "mine/claude").chmod(0o644)
    (nowhere / "dangling").symlink_to("missing")
    for given in (cli_path, os.path.expanduser(cli_path)):
        with pytest.raises(CLINotFound) as caught:
            find_program(given)
        assert f"cli_path is {given!r}, and {wrong}" == str(caught.value)


def test_a_name_that_path_has_not(nowhere: Path) -> None:
    """Another claude in PATH is not what was asked for."""
    script(nowhere / "bin/claude")
    with pytest.raises(CLINotFound) as caught:
        find_program("claude-2")
    assert (
        "cli_path is 'claude-2', and PATH has no such program; one in this folder would be "
        "'./claude-2'" == str(caught.value)
    )


@pytest.mark.parametrize("kind", ["folder", "program"])
def test_a_name_in_this_folder(kind: str, nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is looked for in PATH alone, as a shell does; how it is found here is said."""
    monkeypatch.chdir(nowhere)
    if kind == "folder":
        (nowhere / "other").mkdir()
    else:
        script(nowhere / "other")
    with pytest.raises(CLINotFound, match=r"one in this folder would be '\./other'$"):
        find_program("other")
    if kind == "folder":
        with pytest.raises(CLINotFound, match="that is a folder"):
            find_program("./other")
    else:
        assert str(nowhere / "other") == find_program("./other")


def test_a_system_that_is_not_posix(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is refused with a reason, whether or not there is a program."""
    mine = str(script(nowhere / "bin/claude"))
    monkeypatch.setattr(os, "name", "nt")
    for cli_path in (None, mine):
        with pytest.raises(ConfigurationError, match="needs a POSIX system") as caught:
            find_program(cli_path)
        assert not isinstance(caught.value, CLINotFound)


# ---- which version it is ----


async def warnings_for(path: Path, caplog: pytest.LogCaptureFixture) -> list[str]:
    """What is logged about the version of this program."""
    with trio.fail_after(20), caplog.at_level(logging.DEBUG, logger="trio_claude"):
        await check_version(str(path))
    assert {("trio_claude", "WARNING")} >= {(r.name, r.levelname) for r in caplog.records}
    return [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize("said", ["2.1.330 (Claude Code)", "2.0.0", "10.0.0", "claude 3.1.4-beta"])
async def test_a_version_that_will_do(
    said: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is said about it; what it writes to standard error is not shown."""
    path = script(tmp_path / "claude", f"echo noise >&2; echo '{said}'")
    assert [] == await warnings_for(path, caplog)


async def test_the_program_is_asked_for_its_version_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is run once, with `-v` and nothing to read."""
    path = script(tmp_path / "claude", f"echo \"$@\" >> '{tmp_path}/args'; cat; echo 2.1.0")
    assert [] == await warnings_for(path, caplog)
    assert "-v\n" == (tmp_path / "args").read_text()


@pytest.mark.parametrize("said", ["1.0.128 (Claude Code)", "0.2.9", "1.99.99"])
async def test_a_version_that_is_too_old(
    said: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A warning that names both versions, and what to do."""
    path = script(tmp_path / "claude", f"echo '{said}'")
    (warning,) = await warnings_for(path, caplog)
    number = said.partition(" ")[0]
    oldest = ".".join(map(str, OLDEST))
    assert f"{path} is version {number}, older than {oldest}" in warning
    assert "claude update" in warning


@pytest.mark.parametrize("body", ["echo hello", "exit 1", "printf '\\377'"])
async def test_a_program_that_does_not_say(
    body: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A warning; what it is will turn out."""
    path = script(tmp_path / "claude", body)
    (warning,) = await warnings_for(path, caplog)
    assert f"{path} doesn't say its version" in warning


async def test_a_program_that_hangs(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is waited for some seconds, then stopped, with a warning."""
    monkeypatch.setattr(module, "_VERSION_SECONDS", 1.0)
    path = script(tmp_path / "claude", f"echo $$ > '{tmp_path}/pid'; exec sleep 60")
    began = trio.current_time()
    (warning,) = await warnings_for(path, caplog)
    assert 1 <= trio.current_time() - began < 15
    assert "doesn't say its version within 1 s" in warning
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


async def test_a_file_that_cannot_be_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing is said here: whoever starts it says so."""
    path = tmp_path / "claude"
    path.write_bytes(b"\0\1\2")
    path.chmod(0o755)
    assert [] == await warnings_for(path, caplog)
    assert [] == await warnings_for(tmp_path / "missing", caplog)
