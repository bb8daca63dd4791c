"""``trio-claude chat``: one session, line by line.

While somebody types, a thread waits for the line, which nobody can interrupt: Ctrl-C leaves it
behind, and the program ends. So the terminal is put back as it was found: the line editor in that
thread has no chance to do so.
"""

from __future__ import annotations

import contextlib
import re
import signal
import sys
import termios
from functools import partial
from typing import TYPE_CHECKING

import trio

from .._errors import SessionCrashed, TrioClaudeError
from .._options import SessionSpec
from .._supervision.opening import open_supervisor
from .ask import print_answer
from .terminal import complain, decoded, write

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from .._session.handle import SessionHandle

_COMMAND = re.compile(r"/\w*")
_HELP = """\
/clear  forget the conversation
/help   this list
/quit   end, as Ctrl-D does
Ctrl-C  interrupt an answer; where none is under way, end
"""


async def chat(*, model: str | None, system: str | None) -> None:
    """Answer the lines of standard input, until it ends.

    On a terminal, what goes wrong is said, and the chat goes on; otherwise it is raised.
    """
    spec = SessionSpec(name="chat", model=model, system_prompt=system)
    async with open_supervisor([spec]) as supervisor:
        session = supervisor.get_session("chat")
        if sys.stdin.isatty() and sys.stdout.isatty():
            write("/help says what there is beside asking.\n")
            with _terminal_put_back(sys.stdin.fileno()):
                await Chat(session, _edited_line, forgiving=True).run()
            return
        await Chat(session, partial(_plain_line, sys.stdin.fileno()), forgiving=False).run()


class Chat:
    """A conversation between somebody who writes lines and a session.

    Args:
      session: who answers.
      read_line: gives the next line, or raises EOFError; called in a thread, which is left behind
        in it at the end.
      forgiving: whether the chat goes on after a turn that failed.
    """

    def __init__(
        self, session: SessionHandle, read_line: Callable[[], str], *, forgiving: bool
    ) -> None:
        self._session = session
        self._read_line = read_line
        self._forgiving = forgiving
        self._scope = trio.CancelScope()
        """What Ctrl-C ends: the wait for a line, or the answer to it."""

    async def run(self) -> None:
        """Answer line after line. Ctrl-C ends what is under way; all, if that is nothing."""
        with trio.open_signal_receiver(signal.SIGINT) as signals:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._obey, signals)
                while (line := await self._next_line()) not in (None, "/quit"):
                    await self._act(line)
                nursery.cancel_scope.cancel(reason="the chat has ended")

    async def _obey(self, signals: AsyncIterator[int]) -> None:
        async for _signal in signals:
            self._scope.cancel(reason="Ctrl-C")

    async def _next_line(self) -> str | None:
        """The next line; None where there is none, or Ctrl-C came first."""
        with trio.CancelScope() as self._scope:
            try:
                line = await trio.to_thread.run_sync(self._read_line, abandon_on_cancel=True)
                return line.strip()
            except EOFError:
                pass
        if self._forgiving:
            write("\n")  # the prompt has not been answered
        return None

    async def _act(self, line: str) -> None:
        with trio.CancelScope() as self._scope:
            try:
                await self._answer(line)
            except TrioClaudeError as exc:
                if not self._forgiving:
                    raise
                lost = "; it remembers nothing now" if isinstance(exc, SessionCrashed) else ""
                complain(f"{exc}{lost}")
        if self._scope.cancelled_caught:
            write("(interrupted; this question and its answer are not remembered)\n")

    async def _answer(self, line: str) -> None:
        match line:
            case "":
                pass
            case "/clear":
                await self._session.clear()
                write("(the conversation is forgotten)\n")
            case "/help":
                write(_HELP)
            case _ if _COMMAND.fullmatch(line):
                write(f"there is no {line}; /help says what there is\n")
            case _:
                await print_answer(self._session, line)


@contextlib.contextmanager
def _terminal_put_back(terminal: int) -> Iterator[None]:
    """Leave a terminal in the mode in which it was."""
    mode = termios.tcgetattr(terminal)
    try:
        yield
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, mode)


def _edited_line() -> str:
    """A line from a terminal, with its editing and history, where Python was built with them."""
    with contextlib.suppress(ModuleNotFoundError):
        import readline  # noqa: F401 - input() uses it once it is there
    return input("> ")


def _plain_line(stdin: int) -> str:
    """A line from a pipe or a file, given by its number.

    It is not buffered, so that no lock is held in a thread that is left behind: the interpreter
    would stumble over it at its end.
    """
    with open(stdin, "rb", buffering=0, closefd=False) as pipe:
        line = pipe.readline()
    if not line:
        raise EOFError
    return decoded(line)
