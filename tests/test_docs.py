"""Every example of the README and the docs, run; and what the docs list, compared with the package.

A page is run from top to bottom, with a simulator on a real socket that the environment names, and
with the stand-in of ``tests/claude`` as the program ``claude`` in PATH:

* a ``python`` block is run in one namespace with the others of its page, and may ``await``;
* one that calls ``trio.run`` is a program, and is run by an interpreter of its own; so is a file
  of docs/examples that the page includes, or by pytest where its name begins with ``test_``;
* a ``text`` block right after one of these is what that printed, where ``...`` stands for anything;
* a file of docs/examples that waits with `sleep_forever()` is left running for the rest of the page,
  once it has printed a line;
* a page with `<!-- test: ray -->` is run on Ray instead, by tests/ray_cluster/test_guide.py;
* what an example needs and a reader does not want to see stands before it, in a comment that begins
  with ``<!-- test:``. It has the `simulator`, and `enter`, which enters an asynchronous context
  manager for the rest of the page; `claude`, which writes the program anew, with what it is to do
  by itself, and `fault`, which says what that is;
* the folder in which all of it runs is empty, and the home, too.
"""

from __future__ import annotations

import ast
import contextlib
import doctest
import importlib
import inspect
import io
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path
from types import CodeType
from typing import Any, Literal

import attrs
import pytest
import trio

import trio_claude
from tests.claude.support import fault, scripted_claude
from trio_claude._app.cli import command
from trio_claude.simulator import Simulator, open_simulator

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = {
    str(path.relative_to(ROOT)): path
    for path in [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
    if not {"changelog.d", "_build"} & set(path.relative_to(ROOT).parts)
}
NEEDS_RAY = "<!-- test: ray -->"
PAGES_ON_RAY = {name for name, page in PAGES.items() if NEEDS_RAY in page.read_text("utf-8")}
PUBLIC_MODULES = (
    "trio_claude",
    "trio_claude.cluster",
    "trio_claude.streams",
    "trio_claude.testing",
    "trio_claude.testing.fixtures",
    "trio_claude.testing.strategies",
    "trio_claude.simulator",
)


# ---- reading a page -----------------------------------------------------------------------------


@attrs.define
class Example:
    """Something on a page that is run, and what the page says that it prints."""

    line: int
    kind: Literal["block", "program", "file"]
    source: str
    prints: str | None = None


class BadPageError(Exception):
    """Something on a page would look like an example and not be run, or not be compared."""


def examples_of(page: str) -> Iterator[Example]:
    """What is to be run of a page, in order."""
    example: Example | None = None
    lines = enumerate(page.splitlines(), 1)
    for number, line in lines:
        if not line.strip() or line == NEEDS_RAY:
            continue
        fence = re.fullmatch(r"(```+|:::+)\s*(.*)", line)
        if fence is None:
            if re.match(r"\s+(```|:::)", line):
                raise BadPageError(f"line {number}: an indented block is not run")
            if example is not None:
                yield example
                example = None
            if line.startswith("<!-- test:"):
                hidden = [line.removeprefix("<!-- test:")]
                while not hidden[-1].endswith("-->"):
                    hidden.append(next(lines)[1])
                source = "\n".join(hidden).removesuffix("-->").strip()
                yield Example(number, "block", source)
            continue
        marks, info = fence.groups()
        body = []
        for _, inner in lines:
            if inner == marks:
                break
            body.append(inner)
        source = "\n".join(body) + "\n"
        if info == "text":
            if example is None:
                raise BadPageError(f"line {number}: this output is of nothing right before it")
            example.prints = source
            continue
        if example is not None:
            yield example
            example = None
        included = re.fullmatch(r"\{literalinclude\} (\S+\.py)", info)
        if included is not None:
            example = Example(number, "file", included[1])
        elif info == "python":
            kind: Literal["block", "program"] = "program" if "trio.run(" in source else "block"
            example = Example(number + 1, kind, source)
        elif "```" in source or re.search(r"python|\bpy\b", info):
            raise BadPageError(f"line {number}: what is in {info!r} is not run")
    if example is not None:
        yield example


def test_a_page_is_read_whole() -> None:
    """Blocks, outputs, programs, files and hidden lines, each where it stands."""
    page = (
        "# Title\n\n```python\nprint(1)\n```\n\n```text\n1\n```\n\nWords\n\n"
        "<!-- test: x = 1 -->\n<!-- test:\ny = 2\n-->\n```{literalinclude} a/b.py\n```\n"
        "```python\ntrio.run(main)\n```\n```text\n2\n```\n```console\n$ python\n```\n"
    )
    assert list(examples_of(page)) == [
        Example(4, "block", "print(1)\n", "1\n"),
        Example(13, "block", "x = 1"),
        Example(14, "block", "y = 2"),
        Example(17, "file", "a/b.py"),
        Example(20, "program", "trio.run(main)\n", "2\n"),
    ]


@pytest.mark.parametrize(
    "page",
    [
        "* list\n\n  ```python\n  1 / 0\n  ```\n",
        "```text\nof nothing\n```\n",
        "```python\n1\n```\nWords between\n```text\n1\n```\n",
        "````{note}\n```python\n1 / 0\n```\n````\n",
        "```{code-block} python\n1 / 0\n```\n",
        "```py\n1 / 0\n```\n",
    ],
)
def test_nothing_only_looks_like_an_example(page: str) -> None:
    """What would be shown and not run is an error of the page."""
    with pytest.raises(BadPageError):
        list(examples_of(page))


# ---- running it ---------------------------------------------------------------------------------


def compiled(path: Path, example: Example) -> CodeType:
    """The code of a block; its tracebacks show the line of the page."""
    source = "\n" * (example.line - 1) + example.source
    code = compile(source, str(path), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    assert isinstance(code, CodeType)
    return code


async def run_block(path: Path, example: Example, namespace: dict[str, Any]) -> str:
    """Run a block of a page; what it printed."""
    printed = io.StringIO()
    code = compiled(path, example)
    with contextlib.redirect_stdout(printed):
        awaited = eval(code, namespace)
        if code.co_flags & inspect.CO_COROUTINE:
            await awaited
    return printed.getvalue()


async def run_program(*arguments: str | Path, cwd: Path) -> str:
    """Run a program with an interpreter of its own; what it printed."""
    done = await trio.run_process(
        [sys.executable, *arguments],
        cwd=cwd,
        capture_stdout=True,
        capture_stderr=True,  # logs: not what a page shows
        check=False,
    )
    if done.returncode != 0:
        raise AssertionError((done.stdout + done.stderr).decode())
    return done.stdout.decode()


async def leave_running(
    *arguments: str | Path, cwd: Path, task_status: trio.TaskStatus[str]
) -> None:
    """Run a program with an interpreter of its own, until cancelled; what it printed first."""
    process = await trio.lowlevel.open_process(
        [sys.executable, *arguments], cwd=cwd, stdout=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        line = b""
        while not line.endswith(b"\n"):
            line += await process.stdout.receive_some(1) or b"\n"
        task_status.started(line.decode())
        await process.wait()
        raise AssertionError(f"{arguments} has ended, with {process.returncode}")
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()


@contextlib.asynccontextmanager
async def open_cancelled_nursery() -> AsyncIterator[trio.Nursery]:
    """A nursery whose tasks are cancelled at the end of its block."""
    async with trio.open_nursery() as nursery:
        yield nursery
        nursery.cancel_scope.cancel()


def write_claude(home: Path, *script: dict[str, Any], **how: Any) -> None:
    """Write the program, and let it count its starts from 1."""
    scripted_claude(home, *script, **how)
    (home / "claude.log").unlink(missing_ok=True)


def is_shown(shown: str, printed: str) -> bool:
    """Whether a page shows what was printed; space at the end of a line does not count."""
    shown, printed = (re.sub(r"[ \t]+$", "", text, flags=re.MULTILINE) for text in (shown, printed))
    return doctest.OutputChecker().check_output(shown, printed, doctest.ELLIPSIS)


async def run_page(path: Path, page: str, simulator: Simulator, home: Path) -> int:
    """Run the examples of a page; how many of its outputs were compared."""
    compared = 0
    write_claude(home)
    async with contextlib.AsyncExitStack() as stack:
        namespace: dict[str, Any] = {
            "__name__": "page",
            "claude": partial(write_claude, home),
            "enter": stack.enter_async_context,
            "fault": fault,
            "simulator": simulator,
        }
        for example in examples_of(page):
            if example.kind == "block":
                printed = await run_block(path, example, namespace)
            elif example.kind == "program":
                printed = await run_program("-c", example.source, cwd=home)
            else:
                file = path.parent / example.source
                pytest_first = ("-m", "pytest", "-q", "-p", "no:cacheprovider")
                how = pytest_first if file.name.startswith("test_") else ()
                if "sleep_forever()" in file.read_text(encoding="utf-8"):
                    nursery = await stack.enter_async_context(open_cancelled_nursery())
                    printed = await nursery.start(partial(leave_running, file, cwd=home))
                else:
                    printed = await run_program(*how, file, cwd=ROOT if how else home)
            if example.prints is not None:
                compared += 1
                if not is_shown(example.prints, printed):
                    raise AssertionError(f"{path}:{example.line} printed:\n{printed}")
    return compared


@pytest.fixture
async def served(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> AsyncIterator[Simulator]:
    """A simulator and a program that the environment names, as a newcomer's shell does."""
    for name in ("ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_MODEL", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    async with open_simulator(api_key="simulated") as simulator:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", simulator.base_url)
        monkeypatch.setenv("ANTHROPIC_API_KEY", "simulated")
        try:
            yield simulator
        finally:
            trio_claude.configure()


@pytest.mark.parametrize("name", sorted(PAGES.keys() - PAGES_ON_RAY))
async def test_page(name: str, served: Simulator, tmp_path: Path) -> None:
    """The examples of this page run, and print what it says."""
    with trio.fail_after(60):
        await run_page(PAGES[name], PAGES[name].read_text(encoding="utf-8"), served, tmp_path)


async def test_a_wrong_output_is_seen(served: Simulator, tmp_path: Path) -> None:
    """A page that shows what its examples do not print, or whose example raises, fails."""
    path = tmp_path / "page.md"
    right = "```python\nimport trio\nawait trio.sleep(0)\nprint('one')\n```\n```text\no...e\n```\n"
    assert await run_page(path, right, served, tmp_path) == 1
    with pytest.raises(AssertionError, match=r"page\.md:2 printed:\none"):
        await run_page(path, right.replace("o...e", "two"), served, tmp_path)
    with pytest.raises(ZeroDivisionError):
        await run_page(path, "```python\n1 / 0\n```\n", served, tmp_path)
    with pytest.raises(AssertionError, match="NameError"):
        await run_page(path, "```python\ntrio.run(main)\n```\n", served, tmp_path)


async def test_a_file_that_waits_is_left_running(served: Simulator, tmp_path: Path) -> None:
    """Until the end of the page; one that ends before that fails the page."""
    page = tmp_path / "page.md"
    waits = tmp_path / "waits.py"
    include = "```{literalinclude} waits.py\n```\n```text\nready\n```\n"
    source = "import os, time\nprint('ready', flush=True)\nsleep_forever = lambda: time.sleep(60)\n"
    waits.write_text(f"{source}open('pid', 'w').write(str(os.getpid()))\nsleep_forever()\n")
    there = "```python\nimport trio\nwhile not await trio.Path('pid').exists():\n    ...\n```\n"
    assert await run_page(page, include + there, served, tmp_path) == 1
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
    waits.write_text(f"{source}# not sleep_forever()\n")
    with pytest.RaisesGroup(
        pytest.RaisesExc(AssertionError, match="has ended"), flatten_subgroups=True
    ):
        await run_page(
            page, f"{include}```python\nimport trio\nawait trio.sleep(30)\n```\n", served, tmp_path
        )


def test_every_example_file_is_on_a_page() -> None:
    """A file of docs/examples that no page includes would not be run."""
    included = {
        (path.parent / example.source).resolve()
        for path in PAGES.values()
        for example in examples_of(path.read_text(encoding="utf-8"))
        if example.kind == "file"
    }
    assert included == set((DOCS / "examples").resolve().glob("*.py"))


# ---- what the docs list -------------------------------------------------------------------------


def public_names(module: str) -> set[str]:
    """What a public module defines, or imports as itself, with the module's name before it."""
    file = importlib.import_module(module).__file__
    assert file is not None
    names = set()
    for node in ast.parse(Path(file).read_text(encoding="utf-8")).body:
        match node:
            case ast.ImportFrom(names=imported):
                names |= {one.name for one in imported if one.asname == one.name}
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                names.add(name)
            case ast.ClassDef(name=name) | ast.AnnAssign(target=ast.Name(id=name)):
                names.add(name)
            case _:
                pass
    return {f"{module}.{name}" for name in names if not name.startswith("_")}


def test_the_reference_is_complete() -> None:
    """It has every public name, and no other, and each is documented where it is defined."""
    directive = re.compile(r"^\.\. (?:auto|py:)(\w+):: ([\w.]+)", re.MULTILINE)
    found = [
        (kind, name)
        for path in sorted((DOCS / "reference").glob("*.md"))
        for kind, name in directive.findall(path.read_text(encoding="utf-8"))
        if kind != "currentmodule"
    ]
    documented = [name for _, name in found]
    assert sorted(documented) == sorted(set(documented)), "something is there twice"
    public = set().union(*map(public_names, PUBLIC_MODULES))
    assert set(documented) - set(PUBLIC_MODULES) == public - set(PUBLIC_MODULES)
    for kind, name in found:
        if kind not in ("data", "module"):
            module, _, attribute = name.rpartition(".")
            value = getattr(importlib.import_module(module), attribute)
            assert inspect.getdoc(value), name


def first_column(path: Path) -> set[str]:
    """The names in the first column of a page's tables."""
    return set(re.findall(r"^\| `([a-z_]+)`", path.read_text(encoding="utf-8"), re.MULTILINE))


def test_the_table_of_options_is_complete() -> None:
    """The guide to the configuration has every option of a session and of the backends.

    Those of a conversation are in a table that is made from the code when the docs are built.
    """
    page = DOCS / "guides/configuration.md"
    classes = (trio_claude.MessagesBackend, trio_claude.CLIBackend)
    options = {field.name for one in classes for field in attrs.fields(one)}
    options |= set(trio_claude.SessionSpec.__annotations__)
    assert first_column(page) == options
    assert page.read_text(encoding="utf-8").count("\n.. options-table::\n") == 1


def test_commands_are_there() -> None:
    """Each `trio-claude` command that a page shows is one, with these options."""
    shown = set()
    for path in PAGES.values():
        text = path.read_text(encoding="utf-8").replace("\n", " ")
        shown |= set(re.findall(r"[`$|&] ?trio-claude ([a-z]+)((?: --[a-z]+)*)", text))
    assert {name for name, _ in shown} == set(command.commands)
    for name, options in shown:
        known = {option for each in command.commands[name].params for option in each.opts}
        assert set(options.split()) <= known


def test_the_guide_to_the_errors_names_them_all() -> None:
    """Each class of errors is in the tree of the guide."""
    text = (DOCS / "guides/errors.md").read_text(encoding="utf-8")
    errors = {
        name
        for name, value in vars(trio_claude).items()
        if isinstance(value, type) and issubclass(value, Exception)
    }
    assert {name for name in errors if not re.search(rf"\b{name}\b", text)} == set()


def test_the_picture_of_the_house_is_true() -> None:
    """The picture in architecture.md has every module and folder of the package, and no other."""
    text = (DOCS / "architecture.md").read_text(encoding="utf-8")
    picture = re.search(r"^```\ntrio_claude/\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert picture is not None
    place: list[str] = []
    shown = set()
    for line in picture[1].splitlines():
        row = re.match(r"((?:[│ ]   )*)[├└]── (\S+)", line)
        if row is not None:
            depth = len(row[1]) // 4
            place[depth:] = [row[2].rstrip("/")]
            shown.add("/".join(place))
    (root,) = map(Path, trio_claude.__path__)
    there = {
        str(path.relative_to(root)) for path in root.rglob("*.py") if path.name != "__init__.py"
    }
    there |= {str(Path(module).parent) for module in there} - {"."}
    assert shown == there | {"__init__.py", "py.typed"}


def test_otp_sections_are_there() -> None:
    """The sections of docs/otp.md that comments in the source name exist, in order."""
    text = (DOCS / "otp.md").read_text(encoding="utf-8")
    sections = re.findall(r"^## (1\.\d+) ", text, re.MULTILINE)
    assert sections == [f"1.{number}" for number in range(1, 11)]
    (root,) = map(Path, trio_claude.__path__)
    roster = (root / "_supervision" / "roster.py").read_text(encoding="utf-8")
    assert set(re.findall(r"\((1\.\d+)\b", roster)) <= set(sections)
