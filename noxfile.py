"""Every check of this project, each in a virtual environment of its own.

`nox` runs what CI runs, `nox -s tests` the tests, `nox -s tests -- tests/test_x.py -k name` some.
"""

import shutil
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"  # nox.project.dependency_groups
nox.options.default_venv_backend = "venv"  # the standard library's, wherever nox runs
nox.options.sessions = ["tests", "lint", "typing", "docs", "package"]

PYPROJECT = nox.project.load_toml("pyproject.toml")
VERSIONS = nox.project.python_versions(PYPROJECT)  # from the classifiers

# What the tests read, which is all but the package itself.
READ_BY_TESTS = ["tests", "docs", "README.md", "pyproject.toml"]

# Run in an environment that has the wheel: says where the package came from, and that it is typed.
CHECK_INSTALLED = """
import sys, pathlib, trio_claude, trio_claude.streams
found = pathlib.Path(trio_claude.__file__).resolve()
print("trio_claude is", found)
if not found.is_relative_to(pathlib.Path(sys.prefix).resolve()):
    sys.exit(f"not the installed package: {found}")
if not found.with_name("py.typed").is_file():
    sys.exit("the wheel has no py.typed")
"""


def group(name: str) -> tuple[str, ...]:
    """The requirements of one of pyproject.toml's dependency groups."""
    return nox.project.dependency_groups(PYPROJECT, name)


@nox.session
def tests(session: nox.Session) -> None:
    """Run the tests, with coverage of lines and branches when all of them run."""
    session.install("-e", ".[demo,mcp,ray]", *group("tests"))
    if session.posargs:
        session.run("pytest", *session.posargs)
        return
    session.run("coverage", "erase")
    # Not pytest-cov: it starts to measure after pytest's plugins are in, and one of ours may be.
    session.run("coverage", "run", "-m", "pytest", "-m", "not slow")
    session.run("coverage", "combine", "--quiet")
    session.run("coverage", "report")
    session.run("pytest", "-m", "slow")  # scale and storms: measuring would only slow them down


@nox.session(python=VERSIONS)
def tests_all(session: nox.Session) -> None:
    """Run the tests on every Python we name in the classifiers."""
    session.install("-e", ".[demo,mcp,ray]", *group("tests"))
    session.run("pytest", *session.posargs)


@nox.session
def tests_cli(session: nox.Session) -> None:
    """Run the tests that need the real claude program; the simulator answers it."""
    session.install("-e", ".[demo,mcp]", *group("claude"))
    session.run("pytest", "tests/claude_program", *session.posargs)


@nox.session
def tests_ray(session: nox.Session) -> None:
    """Run the tests that need Ray's processes: clusters of several nodes, and several clients."""
    session.install("-e", ".[demo,ray]", *group("tests"))
    session.run("pytest", "tests/ray_cluster", *session.posargs)


@nox.session
def mutants(session: nox.Session) -> None:
    """Show that the tests notice faults put into a copy; `-- --short` for a few, or their names."""
    session.install("-e", ".[demo,mcp,ray]", *group("tests"))
    session.run("python", "-m", "tests.mutants.run", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """Measure us beside our peers; `-- --short` shows that it works, `-- --write docs/benchmarks`."""
    session.install("-e", ".", *group("bench"))  # no extra: they change what `import httpx` imports
    session.run("python", "-m", "tests.benchmarks.run", *session.posargs)
    if "--short" in session.posargs:  # which writes nothing: draw what is written
        picture = Path(session.create_tmp()).resolve() / "results.svg"
        results = "docs/benchmarks/results.json"
        session.run("python", "-m", "tests.benchmarks.plot", results, str(picture))


@nox.session
def model(session: nox.Session) -> None:
    """Compare the supervisor with its model over many more lives than the tests do."""
    session.install("-e", ".[demo,mcp,ray]", *group("tests"))
    session.run("pytest", "tests/model", *session.posargs, env={"HYPOTHESIS_PROFILE": "long"})


@nox.session
def lint(session: nox.Session) -> None:
    """Check the code's rules and its format."""
    session.install(*group("lint"))
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def typing(session: nox.Session) -> None:
    """Check the types of the package, the tests (with tests/typing_api.py) and the examples."""
    session.install("-e", ".[demo,mcp,ray]", *group("typing"))
    session.run("mypy", *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """Build the docs; an unknown name or a warning is an error."""
    session.install("-e", ".[demo,mcp]", *group("docs"))
    target = session.create_tmp()
    session.run(
        *("sphinx-build", "-q", "-n", "-W", "--keep-going", "-E", "-b", "html"),
        *("-d", f"{target}/doctrees", "docs", "docs/_build/html"),
    )


@nox.session
def package(session: nox.Session) -> None:
    """Build the wheel, install it where there is no checkout, and test what was installed."""
    root = Path.cwd()
    empty = Path(session.create_tmp()).resolve() / "empty"
    shutil.rmtree(empty, ignore_errors=True)
    empty.mkdir()

    session.install("build")
    # From the sdist, as `build` does when it is asked for both: so the sdist is whole too.
    session.run("python", "-m", "build", "--outdir", str(empty / "dist"), silent=True)
    (wheel,) = (empty / "dist").glob("*.whl")

    session.chdir(empty)  # Python looks into the working directory first: no checkout is here
    session.install(str(wheel))
    session.run("python", "-c", CHECK_INSTALLED)  # with the runtime dependencies and no extra

    for name in READ_BY_TESTS:
        copy = shutil.copytree if (root / name).is_dir() else shutil.copy2
        copy(root / name, empty / name)
    session.install(f"{wheel}[demo,mcp,ray]", *group("tests"))
    session.run("python", "-c", CHECK_INSTALLED)
    # Not those with scripted claude programs: nothing of them depends on how we were installed.
    session.run(
        *("python", "-m", "pytest", "-m", "not slow", "--ignore=tests/claude"), *session.posargs
    )
