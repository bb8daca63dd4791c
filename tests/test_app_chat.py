"""The chat: lines, commands, Ctrl-C, and a terminal that is left as it was found."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import termios
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import pytest
import trio

import trio_claude
from tests.app_support import PATIENCE, Service, Terminal, use
from tests.support import hang, nothing_left
from trio_claude import NotFoundError, SessionSpec, open_supervisor
from trio_claude._app import main
from trio_claude._app.chat import Chat
from trio_claude.testing import ScriptedBackend, ScriptedTurn

Capture = pytest.CaptureFixture[str]


class Typist:
    """Somebody at the keyboard: what is typed is read by the chat's thread."""

    def __init__(self) -> None:
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self.asked = trio.Event()
        """Set when the chat wants a line."""
        self.ended = trio.Event()
        """Set when the chat has ended by itself."""
        self.scope = trio.CancelScope()
        """What the chat is in."""
        self._token = trio.lowlevel.current_trio_token()

    def type(self, *lines: str | None) -> None:
        """Type lines; None is Ctrl-D."""
        for line in lines:
            self._lines.put(line)

    def read_line(self) -> str:
        """What the chat calls."""
        trio.from_thread.run_sync(self.asked.set, trio_token=self._token)
        line = self._lines.get()
        if line is None:
            raise EOFError
        return line


@asynccontextmanager
async def chatting(backend: ScriptedBackend, *, forgiving: bool = True) -> AsyncIterator[Typist]:
    """A chat under way, and who types; leaving the block waits for its end."""
    typist = Typist()
    spec = SessionSpec(name="chat", backend=backend)

    async def run() -> None:
        with typist.scope:
            async with open_supervisor([spec], name="chat", on_event=lambda _: None) as supervisor:
                session = supervisor.get_session("chat")
                await Chat(session, typist.read_line, forgiving=forgiving).run()
            typist.ended.set()

    async with nothing_left(backend):
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(run)
                yield typist


def waiting() -> bool:
    """Whether somebody waits for the chat's session."""
    (info,) = trio_claude.get_supervisor("chat").list_sessions()
    return info.waiting > 0


async def chat(
    backend: ScriptedBackend, *lines: str | None, forgiving: bool = True
) -> list[tuple[str, int]]:
    """Have these lines answered; gives what the session was asked, and after how many turns."""
    async with chatting(backend, forgiving=forgiving) as typist:
        typist.type(*lines)
    return [(turn.prompt, len(turn.history)) for turn in backend.turns]


async def test_a_conversation_goes_on(capsys: Capture) -> None:
    """What was said is known later, and the end of the input ends the chat."""
    asked = await chat(ScriptedBackend(), "My name is Bob\n", " \n", "What is my name?\n", None)
    assert asked == [("My name is Bob", 0), ("What is my name?", 1)]
    out, err = capsys.readouterr()
    assert "Your name is Bob. You told me so in this conversation.\n" in out
    assert err == ""


async def test_clear(capsys: Capture) -> None:
    """/clear forgets what was said."""
    asked = await chat(ScriptedBackend(), "My name is Bob", "/clear", "What is my name?", None)
    assert asked == [("My name is Bob", 0), ("What is my name?", 0)]
    out = capsys.readouterr().out
    assert "(the conversation is forgotten)\nI don't know your name." in out


async def test_quit_and_help(capsys: Capture) -> None:
    """/help lists the commands, another word is no command, and /quit reads nothing more."""
    assert await chat(ScriptedBackend(), "/help", "/foo", "/quit", "Hello") == []
    out = capsys.readouterr().out
    for word in ("/clear", "/help", "/quit", "Ctrl-C"):
        assert f"\n{word} " in f"\n{out}"
    assert "there is no /foo; /help says what there is\n" in out


async def test_a_path_is_no_command() -> None:
    """A question may begin with a slash."""
    assert await chat(ScriptedBackend(), "/etc/hosts: what is it?", "/quit") == [
        ("/etc/hosts: what is it?", 0)
    ]


async def test_a_turn_that_fails(capsys: Capture) -> None:
    """At a terminal, a failed turn is one line, and the chat goes on; elsewhere it is the end."""
    error = NotFoundError("no such model")
    backend = ScriptedBackend([[error], "Hi!"])
    assert len(await chat(backend, "Hello", "Hello again", "/quit")) == 2
    assert capsys.readouterr() == ("Hi!\n", "trio-claude: no such model\n")
    with pytest.RaisesGroup(pytest.RaisesGroup(NotFoundError)):
        await chat(ScriptedBackend([[error], "Hi!"]), "Hello", "Hello again", forgiving=False)


async def test_a_session_that_crashes(capsys: Capture) -> None:
    """After a crash the chat goes on with an empty conversation, and says so."""
    backend = ScriptedBackend(["Hi!", [RuntimeError("boom")], "Hi!"])
    asked = await chat(backend, "One", "Two", "Three", None)
    assert asked == [("One", 0), ("Two", 1), ("Three", 0)]
    assert capsys.readouterr().err == (
        "trio-claude: session 'chat' crashed in this turn: RuntimeError('boom'); "
        "it remembers nothing now\n"
    )


async def test_ctrl_c_interrupts_a_turn(capsys: Capture) -> None:
    """Ctrl-C ends the answer that is under way, and nothing else."""
    begun = trio.Event()

    async def first_hangs(turn: ScriptedTurn) -> AsyncGenerator[str, None]:
        yield "Well"
        if len(backend.turns) == 1:
            begun.set()
            await trio.sleep_forever()

    backend = ScriptedBackend(first_hangs)
    async with chatting(backend) as typist:
        typist.type("Hello")
        await begun.wait()
        signal.raise_signal(signal.SIGINT)
        typist.type("Are you there?", "/quit")
    assert [len(turn.history) for turn in backend.turns] == [0, 0]
    assert capsys.readouterr().out == (
        "Well\n(interrupted; this question and its answer are not remembered)\nWell\n"
    )


async def test_ctrl_c_interrupts_a_command(capsys: Capture) -> None:
    """A /clear that has to wait for somebody else's answer can be interrupted as well."""
    async with chatting(ScriptedBackend(hang)) as typist:
        await typist.asked.wait()
        async with trio_claude.stream("chat", "Somebody else asks") as events:
            await events.receive()
            typist.asked = trio.Event()
            typist.type("/clear")
            while not waiting():
                await trio.lowlevel.checkpoint()
            signal.raise_signal(signal.SIGINT)
            await typist.asked.wait()  # for the next line
        typist.type("/quit")
        await typist.ended.wait()
    assert capsys.readouterr().out == (
        "(interrupted; this question and its answer are not remembered)\n"
    )


async def test_ctrl_c_at_the_prompt(capsys: Capture) -> None:
    """With nothing under way, Ctrl-C ends the chat, though its thread still waits for a line."""
    async with chatting(ScriptedBackend()) as typist:
        await typist.asked.wait()
        signal.raise_signal(signal.SIGINT)
        await typist.ended.wait()
        typist.type(None)  # lets the thread go
    assert capsys.readouterr() == ("\n", "")


async def test_cancelling_a_chat_at_the_prompt() -> None:
    """A chat that is cancelled while somebody types leaves nothing behind."""
    async with chatting(ScriptedBackend()) as typist:
        await typist.asked.wait()
        typist.scope.cancel()
    assert not typist.ended.is_set()
    typist.type(None)  # lets the thread go


async def test_cancelling_a_chat_in_an_answer() -> None:
    """A chat that is cancelled while it answers leaves nothing behind."""
    begun = trio.Event()

    async def hang_on(_turn: ScriptedTurn) -> AsyncGenerator[str, None]:
        begun.set()
        yield "Well"
        await trio.sleep_forever()

    async with chatting(ScriptedBackend(hang_on)) as typist:
        typist.type("Hello")
        await begun.wait()
        typist.scope.cancel()
    assert not typist.ended.is_set()


# ---- the whole command --------------------------------------------------------------------------


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    """A service that the commands of the test use."""
    server = Service()
    with server as simulator:
        use(monkeypatch, simulator)
        yield server


@pytest.fixture
def pipe_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[bytes], None]]:
    """Sets what is piped in, through a real pipe."""
    opened = []

    def piped(data: bytes) -> None:
        read, write = os.pipe()
        os.write(write, data)
        os.close(write)
        opened.append(stdin := open(read))  # noqa: SIM115 - closed below
        monkeypatch.setattr(sys, "stdin", stdin)

    yield piped
    for stdin in opened:
        stdin.close()


@pytest.mark.usefixtures("service")
def test_chat_from_a_pipe(pipe_in: Callable[[bytes], None], capsys: Capture) -> None:
    """Lines from a pipe are answered without a prompt; the last one needs no end."""
    pipe_in("My name is Zoë\n/clear\nMy name is Bob\nWhat is my name?".encode())
    assert main(["chat", "--system", "You are a pirate."]) == 0
    out, err = capsys.readouterr()
    assert [line.split(":")[0].split(".")[0] for line in out.splitlines()] == [
        "Your name is Zoë",
        "(the conversation is forgotten)",
        "Your name is Bob",
        "Your name is Bob",
    ]
    assert err == ""


@pytest.mark.usefixtures("service")
@pytest.mark.parametrize(
    ("args", "piped", "said"),
    [
        (["--model", "nope"], b"Hello\nHello\n", "model: nope"),
        ([], b"\xff\n", "standard input is no text in UTF-8"),
    ],
)
def test_chat_from_a_pipe_fails(
    args: list[str],
    piped: bytes,
    said: str,
    pipe_in: Callable[[bytes], None],
    capsys: Capture,
) -> None:
    """In a pipe, the first failure is the end, with one line and a status that says so."""
    pipe_in(piped)
    assert main(["chat", *args]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
    assert err.count("\n") == 1


@pytest.mark.usefixtures("service")
def test_ctrl_c_where_a_pipe_is_waited_for() -> None:
    """Ctrl-C ends a chat that waits for a pipe, quietly, though a thread is still reading it."""
    with subprocess.Popen(
        [sys.executable, "-m", "trio_claude", "chat"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write(b"My name is Bob\n")
        process.stdin.flush()
        assert process.stdout.readline().startswith(b"Your name is Bob")
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 0
        assert process.stdout.read() == b""
        assert process.stderr.read() == b""


def test_chat_without_standard_input(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """There must be somebody to chat with."""
    monkeypatch.setattr(sys, "stdin", None)
    assert main(["chat"]) == 2
    assert capsys.readouterr().err.startswith("trio-claude: there is no standard input")


def test_chat_on_a_terminal(service: Service) -> None:
    """At a terminal: a line is edited and answered as it streams, Ctrl-C interrupts, Ctrl-C at
    the prompt ends, and the terminal is as before."""
    with Terminal("chat") as terminal:
        before = termios.tcgetattr(terminal.program)
        terminal.wait_for("> ")
        terminal.type("My name is Bobb\x7f\r")
        terminal.wait_for("Your name is Bob: noted.")
        terminal.wait_for("> ")
        hold = service.simulator.hold_next()
        terminal.type("Tell me a story\r")
        terminal.wait_for("\nI")
        terminal.type("\x03")
        terminal.wait_for("(interrupted")
        service.call(hold.release)
        terminal.wait_for("> ")
        terminal.type("What is my name?\r")
        terminal.wait_for("Your name is Bob. You told me so")
        terminal.wait_for("> ")
        terminal.type("half a line\x03")
        assert terminal.wait_ended() == 0
        assert termios.tcgetattr(terminal.program) == before
    histories = [len(r.body["messages"]) for r in service.simulator.requests[1:]]
    assert histories == [1, 3, 3]


@pytest.mark.usefixtures("service")
def test_chat_ends_with_ctrl_d() -> None:
    """Ctrl-D at the prompt ends the chat, as success."""
    with Terminal("chat") as terminal:
        terminal.wait_for("> ")
        terminal.type("\x04")
        assert terminal.wait_ended() == 0


def test_a_chat_that_cannot_begin(capsys: Capture, pipe_in: Callable[[bytes], None]) -> None:
    """A bad option is said before anything is read."""
    pipe_in(b"")
    assert main(["chat", "--model", " "]) == 1
    assert "model must be the name of a model" in capsys.readouterr().err
