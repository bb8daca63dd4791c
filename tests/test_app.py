"""The command: what it says, what it refuses, and with which exit status."""

from __future__ import annotations

import importlib
import io
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import metadata
from typing import Any

import pytest

import trio_claude._app
from tests.app_support import PATIENCE, Service, new_terminal, use
from trio_claude import ResultMessage, SupervisorError, open_session
from trio_claude._app import ask, cli, main, terminal
from trio_claude.simulator import Reply, Simulator
from trio_claude.testing import ScriptedBackend

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[Simulator]:
    """A service that the commands of the test use."""
    with Service() as simulator:
        use(monkeypatch, simulator)
        yield simulator


@pytest.fixture
def pipe_in(monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes], None]:
    """Sets what is piped in; at first, nothing."""

    def piped(data: bytes) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))

    piped(b"")
    return piped


def command(*args: str, **options: Any) -> subprocess.Popen[bytes]:
    """The command as a process of its own, its output piped to the test."""
    return subprocess.Popen(
        [sys.executable, "-m", "trio_claude", *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **options,
    )


def one_line(capture: Capture) -> str:
    """What was said on standard error, which must be one line, while nothing else was said."""
    out, err = capture.readouterr()
    assert out == ""
    assert err.startswith("trio-claude: ")
    assert err.count("\n") == 1
    assert err.endswith("\n")
    return err.removeprefix("trio-claude: ").rstrip()


# ---- the command itself -------------------------------------------------------------------------


def test_version(capsys: Capture) -> None:
    """--version says the version of the package that is installed."""
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"trio-claude {metadata.version('trio-claude')}\n"


@pytest.mark.parametrize("args", [[], ["--help"], ["-h"]])
def test_help(args: list[str], capsys: Capture) -> None:
    """Without a command, as with --help, the commands are listed, and that is no failure."""
    assert main(args) == 0
    listed = capsys.readouterr().out
    for name in ("ask", "chat", "demo", "simulate"):
        assert f"\n  {name} " in listed


@pytest.mark.parametrize(
    ("args", "why"),
    [
        (["bogus"], "No such command 'bogus'"),
        (["ask", "a", "b"], "unexpected extra argument (b)"),
        (["ask", "--nope"], "--nope"),
        (["simulate", "--port", "70000"], "70000 is not in the range"),
        (["simulate", "--port", "x"], "'x' is not a valid"),
    ],
)
def test_a_command_line_without_sense(args: list[str], why: str, capsys: Capture) -> None:
    """What the command line gets wrong is said in one line, with the status 2."""
    assert main(args) == 2
    assert why in one_line(capsys)


def test_the_installed_command_is_main() -> None:
    """The command that pip installs is the function that is tested here."""
    (script,) = metadata.entry_points(group="console_scripts", name="trio-claude")
    assert script.load() is main


def test_python_m() -> None:
    """python -m trio_claude is the command too, and its status is the process's."""
    process = command("bogus")
    out, err = process.communicate(timeout=PATIENCE)
    assert (out, process.returncode) == (b"", 2)
    assert err.startswith(b"trio-claude: No such command 'bogus'.")
    assert err.count(b"\n") == 1


def test_what_fails_is_said_once() -> None:
    """What the library also logs is not shown a second time, with its traceback."""
    keys = ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN")
    environment = {name: value for name, value in os.environ.items() if name not in keys}
    process = command("ask", "Hello", stdin=subprocess.DEVNULL, env=environment)
    out, err = process.communicate(timeout=PATIENCE)
    assert (out, process.returncode) == (b"", 1)
    assert err.startswith(b"trio-claude: no API key")
    assert err.count(b"\n") == 1


def test_importing_it_runs_nothing() -> None:
    """Tools that import every module don't start the command."""
    assert importlib.import_module("trio_claude.__main__").main is main


def test_the_library_needs_nothing_of_the_command() -> None:
    """import trio_claude works without the extra's libraries, and brings in no command."""
    code = """if True:
        import sys
        sys.modules.update(dict.fromkeys(["click", "rich", "hypercorn"]))
        import trio_claude
        print([name for name in sys.modules if "_app" in name and "trio_claude" in name])
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert done.stdout == b"[]\n"


@pytest.mark.parametrize(
    ("library", "args", "ours"),
    [
        ("click", ["--version"], ["cli"]),
        ("rich", ["demo"], ["demo", "view"]),
        ("hypercorn", ["simulate"], []),
    ],
)
def test_a_missing_extra(
    library: str,
    args: list[str],
    ours: list[str],
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without the libraries of the extra, the command says what to install."""
    for name in [*sys.modules]:
        if name.split(".")[0] == library:
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, library, None)
    for name in ours:
        monkeypatch.delitem(sys.modules, f"trio_claude._app.{name}", raising=False)
        monkeypatch.delattr(trio_claude._app, name, raising=False)
    monkeypatch.delitem(sys.modules, "trio_claude.simulator.connection", raising=False)
    assert main(args) == 1
    said = one_line(capsys)
    assert said == f"the command needs {library}: pip install 'trio-claude[demo]'"


def test_a_defect_is_one_line(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """What nobody has thought of is one line too, that says how to see more."""
    monkeypatch.setattr(cli, "ask", lambda *_, **__: 1 / 0)
    monkeypatch.setattr(sys, "stdin", None)
    assert main(["ask", "Hello"]) == 1
    said = one_line(capsys)
    assert "ZeroDivisionError" in said
    assert "python -X dev" in said


def test_a_defect_for_developers() -> None:
    """python -X dev shows where a defect is."""
    code = (
        "import sys; from trio_claude._app import cli; cli.ask = lambda *_, **__: 1 / 0;"
        "sys.exit(cli.run(['ask', 'Hello']))"
    )
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-c", code], capture_output=True, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 1
    assert b"Traceback" in done.stderr
    assert done.stderr.rstrip().endswith(b"ZeroDivisionError: division by zero")


def failed(cause: Exception) -> SupervisorError:
    """A supervisor's failure that came from this."""
    error = SupervisorError("it failed")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (failed(ValueError("why")), 1, "it failed"),
        (KeyboardInterrupt(), 130, None),
        (BaseExceptionGroup("", [OSError("no"), KeyboardInterrupt()]), 130, None),
        (
            ExceptionGroup("", [ExceptionGroup("", [OSError("a\n\x1b[2Jb")]), OSError()]),
            1,
            "a ?[2Jb",
        ),
    ],
)
def test_errors_in_groups(
    error: BaseException,
    status: int,
    said: str | None,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of a group, an interrupt counts first, then its first error; no escape sequence is shown."""

    async def fail(*_args: object, **_options: object) -> None:
        raise error

    monkeypatch.setattr(cli, "ask", fail)
    monkeypatch.setattr(sys, "stdin", None)
    assert main(["ask", "Hello"]) == status
    if said is None:
        assert capsys.readouterr() == ("", "\n")
    else:
        assert one_line(capsys) == said


# ---- ask ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "piped", "heard"),
    [
        (["Hello there"], b"", "Hello there"),
        (["Review this:"], b"x = 1\n", "Review this:\n\nx = 1\n"),
        ([], b"Hello\nthere", "Hello\nthere"),
        (["-"], b"Hello", "Hello"),
    ],
)
def test_ask(
    args: list[str],
    piped: bytes,
    heard: str,
    service: Simulator,
    pipe_in: Callable[[bytes], None],
    capsys: Capture,
) -> None:
    """The prompt is the argument, what is piped in, or both; the answer is all that is printed."""
    pipe_in(piped)
    assert main(["ask", *args]) == 0
    (request,) = (r for r in service.requests if r.path == "/v1/messages")
    assert request.body["messages"][0]["content"] in (heard, [{"type": "text", "text": heard}])
    out, err = capsys.readouterr()
    assert out.startswith("I have read what you wrote.")
    assert out.endswith("it comes from a simulator.\n")
    assert out.count("\n") == 1
    assert err == ""


@pytest.mark.usefixtures("pipe_in")
def test_ask_with_options(service: Simulator, capsys: Capture) -> None:
    """--model and --system go into the request."""
    assert main(["ask", "Hi", "--model", "claude-opus-5", "--system", "You are a pirate."]) == 0
    assert service.requests[-1].body["model"] == "claude-opus-5"
    assert capsys.readouterr().out.startswith("As a pirate")


@pytest.mark.parametrize("piped", [b"", b" \n"])
def test_ask_without_a_prompt(
    piped: bytes, pipe_in: Callable[[bytes], None], capsys: Capture
) -> None:
    """No prompt is the user's mistake, and is said before anything is asked."""
    pipe_in(piped)
    assert main(["ask"]) == 2
    assert one_line(capsys).startswith("there is no prompt: give one, or pipe it in")


def test_ask_without_standard_input(
    service: Simulator, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process without a standard input can ask all the same."""
    monkeypatch.setattr(sys, "stdin", None)
    assert main(["ask"]) == 2
    assert "there is no prompt" in one_line(capsys)
    assert main(["ask", "Hello"]) == 0
    assert len(service.requests) == 2  # the models, and the question


def test_ask_on_a_terminal(
    service: Simulator, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At a terminal nobody is waited for, but with "-"."""
    with new_terminal() as (user, program), open(program, closefd=False) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        assert main(["ask"]) == 2
        assert "there is no prompt" in one_line(capsys)
        os.write(user, b"My name is Bob\n\x04")
        assert main(["ask", "-"]) == 0
    assert capsys.readouterr().out.startswith("Your name is Bob")
    assert len(service.requests) == 2


def test_ask_what_is_no_text(pipe_in: Callable[[bytes], None], capsys: Capture) -> None:
    """Bytes that are no text are refused, not guessed at."""
    pipe_in(b"\xff\xfe")
    assert main(["ask"]) == 1
    assert one_line(capsys).startswith("standard input is no text in UTF-8")


@pytest.mark.usefixtures("pipe_in")
def test_ask_without_a_key(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """No key: what to do is said, once."""
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    monkeypatch.delenv("ANTHROPIC_AUTH_TOKEN", raising=False)
    assert main(["ask", "Hello"]) == 1
    assert one_line(capsys).startswith("no API key: set the environment variable ANTHROPIC_API_KEY")


@pytest.mark.usefixtures("pipe_in")
def test_ask_where_nobody_listens(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Connection refused: the line says who did not answer."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # bound, so that nobody else takes it, but not listening
        host = f"127.0.0.1:{nobody.getsockname()[1]}"
        monkeypatch.setenv("ANTHROPIC_BASE_URL", f"http://{host}")
        monkeypatch.setenv("ANTHROPIC_API_KEY", "simulated")
        trio_claude.configure(max_retries=0)
        try:
            assert main(["ask", "Hello"]) == 1
        finally:
            trio_claude.configure()
    assert one_line(capsys).startswith(f"no answer from {host}: ")


@pytest.mark.usefixtures("pipe_in", "service")
@pytest.mark.parametrize(
    ("model", "why"), [("nope", "404 not_found_error: model: nope"), ("", "model must be the name")]
)
def test_ask_the_wrong_model(model: str, why: str, capsys: Capture) -> None:
    """A model that is not there, or none, is one line that names it."""
    assert main(["ask", "Hello", "--model", model]) == 1
    assert why in one_line(capsys)


@pytest.mark.usefixtures("pipe_in")
def test_ask_is_cut_short(service: Simulator, capsys: Capture) -> None:
    """What came of an answer is printed, its line is ended, and the status says that it failed."""
    service.cut_next(4)
    assert main(["ask", "Hello"]) == 1
    out, err = capsys.readouterr()
    assert out == "I have\n"
    assert "broke off" in err


@pytest.mark.usefixtures("pipe_in")
def test_ask_is_refused(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer that the model itself ended early is said to be one."""
    with Service(lambda _body: Reply("I would rather\n", stop_reason="refusal")) as simulator:
        use(monkeypatch, simulator)
        assert main(["ask", "Hello"]) == 0
    assert capsys.readouterr() == (
        "I would rather\n",
        "trio-claude: the answer stopped before its end: refusal\n",
    )


def test_ask_into_a_pipe_that_breaks(monkeypatch: pytest.MonkeyPatch) -> None:
    """`trio-claude ask | head` ends in silence when head has had enough."""
    service = Service()
    with service as simulator:
        use(monkeypatch, simulator)
        hold = simulator.hold_next()
        process = command("ask", "Hello", stdin=subprocess.DEVNULL)
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(1) == b"I"  # it streams: the rest is not there yet
        process.stdout.close()
        service.call(hold.release)
        assert process.stderr.read() == b""
        process.stderr.close()
        assert process.wait(PATIENCE) == 1


def test_ask_is_interrupted(service: Simulator) -> None:
    """Ctrl-C ends it, with the status that shells know, and without a traceback."""
    service.hold_next()
    process = command("ask", "Hello", stdin=subprocess.DEVNULL)
    assert process.stdout is not None
    assert process.stdout.read(1) == b"I"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=PATIENCE)
    assert (out, err, process.returncode) == (b"\n", b"\n", 130)


# ---- what is written ----------------------------------------------------------------------------


def test_a_terminal_gets_no_escape_sequences(monkeypatch: pytest.MonkeyPatch) -> None:
    """What could move a terminal's cursor is not written to one; a pipe gets all as it is."""
    text = "Grüße\t\x1b[2Jand\x07\n"
    with new_terminal() as (user, program), open(program, "w", closefd=False) as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        terminal.write(text)
        assert os.read(user, 1000).decode() == "Grüße\t?[2Jand?\r\n"
    monkeypatch.setattr(sys, "stdout", piped := io.StringIO())
    terminal.write(text)
    assert piped.getvalue() == text


@pytest.mark.usefixtures("pipe_in")
def test_letters_that_the_output_does_not_have(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the output has no such letter, the answer comes with a ? in its place."""
    out = io.BytesIO()
    with Service(lambda _body: "Grüße!") as simulator:
        use(monkeypatch, simulator)
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(out, encoding="ascii"))
        assert main(["ask", "Hello"]) == 0
    assert out.getvalue() == b"Gr??e!\n"


def test_an_output_of_another_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    """An output that somebody has put in its place is taken as it is."""
    monkeypatch.setattr(sys, "stdout", out := io.StringIO())
    assert main(["--version"]) == 0
    assert out.getvalue().startswith("trio-claude ")


async def test_an_answer_without_text(capsys: Capture) -> None:
    """An answer of no words prints nothing, not even an empty line."""
    backend = ScriptedBackend([[ResultMessage()]])
    async with open_session(backend=backend) as session:
        await ask.print_answer(session, "Hello")
    assert capsys.readouterr() == ("", "")


# ---- simulate -----------------------------------------------------------------------------------


def test_simulate() -> None:
    """It says where it is and what to set; who sets that is answered; Ctrl-C is its normal end."""
    process = command("simulate")
    assert process.stdout is not None
    said = b"".join(iter(process.stdout.readline, b'  trio-claude ask "What can you do?"\n'))
    settings = dict(
        line.removeprefix("  export ").split("=", 1)
        for line in said.decode().splitlines()
        if line.startswith("  export ")
    )
    assert settings.keys() == {"ANTHROPIC_BASE_URL", "ANTHROPIC_API_KEY", "NO_PROXY"}
    asked = command("ask", "Hello", stdin=subprocess.DEVNULL, env={**os.environ, **settings})
    out, err = asked.communicate(timeout=PATIENCE)
    assert (asked.returncode, err) == (0, b"")
    assert b"it comes from a simulator." in out
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, err) == (0, b"")
    assert out.endswith(b"\nEnded after 2 requests.\n")


def test_simulate_where_somebody_is(capsys: Capture) -> None:
    """A port that is taken is one line that says what to do."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert main(["simulate", "--port", str(port)]) == 1
    said = one_line(capsys)
    assert said == (
        f"cannot listen on port {port}: Address already in use; choose another one with --port"
    )


def test_simulate_into_a_broken_pipe() -> None:
    """An output that nobody reads ends it in silence, not with a word about ports."""
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "trio_claude", "simulate"],
        stdout=write,
        stderr=subprocess.PIPE,
        timeout=PATIENCE,
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (1, b"")
