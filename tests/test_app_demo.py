"""The demo: what it shows, that its summary can say no, and how it is seen."""

from __future__ import annotations

import errno
import io
import os
import re
import sys
import threading
from typing import Any

import pytest
import trio
from rich.cells import cell_len
from rich.console import Console

from tests.app_support import PATIENCE, Service, new_terminal, use
from tests.support import nothing_left
from trio_claude import (
    AuthenticationError,
    IntensityExceeded,
    ResultMessage,
    SessionExited,
    SessionOptions,
    SessionReady,
    SessionStarting,
    SessionStopped,
    SupervisorStarted,
    Usage,
)
from trio_claude._app import demo as demo_module, main
from trio_claude._app.board import Board
from trio_claude._app.story import Claim, Story
from trio_claude._app.view import LastWords, LiveView, PlainView, choose_view, table
from trio_claude.simulator import Simulator, open_simulator
from trio_claude.simulator.app import Responder

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo as fast as it can be."""
    monkeypatch.setattr(demo_module, "PACE", 0.0)
    monkeypatch.setattr(demo_module, "PAUSE", 0.0)
    # The demo sets them; so they are put back.
    monkeypatch.setenv("NO_PROXY", "")
    monkeypatch.setenv("no_proxy", "")


class Silent:
    """A listener that says nothing."""

    def note(self, seconds: float, text: str) -> None:
        """Say nothing."""

    def answered(self, seconds: float, name: str, text: str) -> None:
        """Say nothing."""


# ---- the whole of it ----------------------------------------------------------------------------


def test_the_demo(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends by itself with the status 0, and shows everything that it is there for; a proxy or
    a key in the environment is not used."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ANTHROPIC_API_KEY", "somebody's own")
    monkeypatch.setenv("ANTHROPIC_MODEL", "nobody's")
    assert main(["demo"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    lines = out[: out.index("\nWhat was shown:\n")].splitlines()
    assert all(re.match(r" *\d+\.\d s  \S", line) for line in lines)
    told = [line.partition(" s  ")[2] for line in lines]
    order = [
        "code_reviewer: answered: Your code word is marmalade-73.",
        "code_reviewer: crashed: a fault, on purpose",
        "code_reviewer: up again, incarnation 2",
        "code_reviewer: answered: I don't know your code word.",
        "translator is started",
        "scout: crashed: gust 1",
        "scout: up again, incarnation 3",
        "scout: crashed: gust 3",
        "expedition: too many restarts, the group gives up",
        "expedition: up again, incarnation 2",
        "all is shown",
    ]
    at = -1
    for beginning in order:
        at = next(n for n, line in enumerate(told) if n > at and line.startswith(beginning))
    for name, times in {
        "code_reviewer": 4,
        "test_writer": 3,
        "doc_writer": 3,
        "translator": 2,
    }.items():
        assert sum(line.startswith(f"{name}: answered: ") for line in told) == times
    shown = [line for line in out.splitlines() if line.startswith(("  ok  ", "  NO  "))]
    assert [re.sub(r"\d+\.\d m?s|tokens: \d+", "...", line) for line in shown] == [
        "  ok  answering at the same time: 3 sessions",
        "  ok  crashed in mid-answer, and the caller told: 1",
        "  ok  up again by itself: 1, after ..., as incarnation 2, under its old name",
        "  ok  the code word: known before the crash, unknown after it",
        "  ok  under way elsewhere at the crash: 2 answers, come whole: 2",
        "  ok  started meanwhile: 1 (translator), answers of it: 2",
        "  ok  terminated: 1 (doc_writer); its answer finished first, its name free",
        "  ok  a storm in expedition: 3 crashes, 2 restarts, given up: 1",
        "  ok  expedition restarted by its parent: 1; of its sessions answer again: 2",
        "  ok  under way elsewhere at the storm: 3 answers, come whole: 3",
        "  ok  asked: 15, requests over HTTP: 15, answered whole: 14, ...",
        "  ok  left behind: 0 of 7 names",
        "  ok  ended by itself: yes, after ...",
    ]


@pytest.mark.parametrize("word", ["asked at once", "answered:", "crashed:", "What was shown"])
def test_the_demo_into_a_pipe_that_breaks(
    word: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`trio-claude demo | head` ends in silence, whichever line it is that nobody reads."""

    class Pipe(io.StringIO):  # a real one would break at a line that nobody can choose
        def write(self, text: str) -> int:
            if word in text:
                raise BrokenPipeError(errno.EPIPE, "Broken pipe")
            return len(text)

    monkeypatch.setattr(sys, "stdout", Pipe())
    monkeypatch.setattr(sys, "stderr", sys.stderr)  # click replaces both
    with pytest.raises(SystemExit) as raised:
        main(["demo"])
    assert raised.value.code == 1
    assert capsys.readouterr().err == ""


def test_the_demo_live(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """--live asks the service that the environment names, with short answers, and no simulator."""
    with Service() as service:
        use(monkeypatch, service)
        assert main(["demo", "--live"]) == 0
    asked = [request for request in service.requests if request.path == "/v1/messages"]
    assert len(asked) == 15
    assert {request.body["max_tokens"] for request in asked} == {300}
    assert "  ok  asked: 15, answered whole: 14, tokens: " in capsys.readouterr().out


def test_the_demo_live_without_a_key(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a key, --live is one line on standard error."""
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    monkeypatch.delenv("ANTHROPIC_AUTH_TOKEN", raising=False)
    assert main(["demo", "--live"]) == 1
    out, err = capsys.readouterr()
    assert err.startswith("trio-claude: no API key")
    assert err.count("\n") == 1
    assert "code_reviewer: failed to start: no API key" in out
    assert "What was shown" not in out


def test_the_demo_in_its_own_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pauses and the pace that users see make about ten seconds."""
    monkeypatch.undo()
    words = 40  # of an answer, or a few more
    answers_in_a_row = 6
    assert 5 < demo_module.PACE * words * answers_in_a_row + demo_module.PAUSE * 6 < 15
    assert demo_module.LIMIT < 20


def test_a_demo_that_takes_too_long(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """When its time is over it ends, says what it has not shown, and fails."""
    monkeypatch.setattr(demo_module, "LIMIT", 0.0)
    assert main(["demo"]) == 1
    out, err = capsys.readouterr()
    assert err.startswith("trio-claude: not everything was shown: answering at the same time: 0")
    assert "ended by itself: no, after" in err
    assert err.count("\n") == 1
    assert "  NO  ended by itself: no, after" in out


# ---- what the summary says ----------------------------------------------------------------------


async def missing(responder: Responder | None = None, *, strange_requests: int = 0) -> list[str]:
    """What a demo does not show whose service answers like this."""
    async with nothing_left(), open_simulator(responder, api_key="simulated") as simulator:
        story = Story(Board("demo", Silent()), defaults=at(simulator), pause=0.0)
        with trio.fail_after(PATIENCE):
            await story.tell()
        requests = [request for request in simulator.requests if request.path == "/v1/messages"]
        claims = story.claims(len(requests) + strange_requests)
        return [claim.text for claim in claims if not claim.holds]


def at(simulator: Simulator) -> SessionOptions:
    """Options for sessions that talk to this simulator."""
    return SessionOptions(base_url=simulator.base_url, api_key="simulated", model="sonnet")


async def test_nothing_is_missing() -> None:
    """Told on a simulator, nothing is missing, and nothing is left behind."""
    assert await missing() == []


async def test_a_memory_that_should_be_empty() -> None:
    """If the code word is known after the crash, the summary says so."""
    always = "I always know about marmalade-73, whatever you ask."
    (said,) = await missing(lambda _body: always)
    assert said == "the code word: known before the crash, known after it"


async def test_a_memory_that_should_not_be_empty() -> None:
    """If the code word is not known before the crash, the summary says so."""
    (said,) = await missing(lambda _body: "What did you say just now?")
    assert said == "the code word: unknown before the crash, unknown after it"


async def test_answers_that_are_too_short() -> None:
    """Where answers are over before their middle, nothing hangs, and the summary says what was
    not shown."""
    said = {claim.partition(":")[0] for claim in await missing(lambda _body: "marmalade-73")}
    assert said - {"answering at the same time"} == {  # which they may have been
        "crashed in mid-answer, and the caller told",
        "the code word",
        "under way elsewhere at the crash",
        "terminated",
        "expedition restarted by its parent",
        "under way elsewhere at the storm",
        "asked",
    }


async def test_requests_that_are_not_ours() -> None:
    """The questions asked and the requests that came must be as many."""
    (said,) = await missing(strange_requests=1)
    assert said.startswith("asked: 15, requests over HTTP: 16, answered whole: 14, tokens: ")


async def test_nothing_happened() -> None:
    """Before anything has happened, no claim holds but that nothing is left."""
    story = Story(Board("demo", Silent()), defaults=SessionOptions(), pause=0.0)
    assert [claim.text for claim in story.claims(0) if claim.holds] == ["left behind: 0 of 0 names"]


async def test_the_first_failure_ends_the_story() -> None:
    """A question that fails for a reason of its own is not swallowed."""
    async with nothing_left(), open_simulator(api_key="simulated") as simulator:
        simulator.fail_next(401)
        story = Story(Board("demo", Silent()), defaults=at(simulator), pause=0.0)
        with pytest.RaisesGroup(AuthenticationError):
            await story.tell()


@pytest.mark.parametrize("events", [10, 60, 200])
async def test_cancelling_the_story(events: int) -> None:
    """Cancelled at any moment, it leaves nothing behind."""

    class Impatient(Board):
        def _change(self) -> None:
            super()._change()
            nonlocal events
            events -= 1
            if not events:
                scope.cancel()

    async with nothing_left(), open_simulator(api_key="simulated") as simulator:
        story = Story(Impatient("demo", Silent()), defaults=at(simulator), pause=0.0)
        with trio.CancelScope() as scope:
            await story.tell()
        assert scope.cancelled_caught


# ---- the board ----------------------------------------------------------------------------------


class Notes(Silent):
    """A listener that remembers."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, seconds: float, text: str) -> None:
        """Remember it."""
        self.notes.append(text)


async def test_the_board_follows_the_events() -> None:
    """Each event moves the row of its session, and a crash and a give-up are worth a line."""
    notes = Notes()
    board = Board("top", notes)
    about: dict[str, Any] = {"supervisor": "group", "time": 0.0}
    one = {**about, "session": "one", "incarnation": 1}
    board.on_event(SessionStarting(**one))
    row = board.rows["one"]
    assert (row.group, row.status, row.restarts) == ("group", "starting", -1)
    board.on_event(SessionReady(**one))
    board.on_event(SupervisorStarted(**about))
    assert (row.status, row.restarts) == ("running", 0)
    board.on_event(SessionExited(**one, cause=ValueError("no"), uptime=1.0))
    assert (row.status, row.words) == ("crashed", "no")
    board.on_event(SessionReady(**{**one, "incarnation": 2}))
    assert (row.status, row.restarts, row.incarnation) == ("running", 1, 2)
    board.on_event(IntensityExceeded(**about, session="one", cause=None))
    board.on_event(SessionStopped(**one, cause=None))
    assert row.status == "stopped"
    assert notes.notes == [
        "one: crashed: no",
        "one: up again, incarnation 2",
        "group: too many restarts, the group gives up",
    ]
    assert len(board.seen(SessionReady, "one")) == 2
    assert len(board.seen(IntensityExceeded, "group")) == 1
    assert board.seen(IntensityExceeded, "one") == []


# ---- how it is seen -----------------------------------------------------------------------------


@pytest.fixture
async def busy_board() -> Board:
    """A board with much on it."""
    board = Board("demo", Silent())
    one: dict[str, Any] = {}
    for name, group in [("code_reviewer", "demo"), ("expedition", "demo"), ("scout", "expedition")]:
        one = {"supervisor": group, "time": 0.0, "session": name, "incarnation": 1}
        board.on_event(SessionStarting(**one))
        board.on_event(SessionReady(**one))
    answer = board.begin("code_reviewer")
    board.piece(answer, "An answer of many words, \x1b[2Jon\nlines, 漢字漢字, and the end of it")
    board.finish(answer, ResultMessage(usage=Usage(1200, 34)))
    board.on_event(SessionExited(**one, cause=ValueError("boom"), uptime=1.0))
    return board


def drawn(board: Board, width: int) -> list[str]:
    """The table as lines of text."""
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=True, color_system=None)
    console.print(table(board))
    return out.getvalue().splitlines()


@pytest.mark.parametrize("width", [60, 70, 80, 120])
async def test_the_table_fits(width: int, busy_board: Board) -> None:
    """At any width its columns are aligned, and no line is too long."""
    lines = drawn(busy_board, width)
    assert max(map(cell_len, lines)) <= width
    heads, rows = lines[:3], lines[3:]
    assert heads[1].split()[:7] == [
        "session",
        "status",
        "nation",
        "turns",
        "tokens",
        "starts",
        "last",
    ]
    edge = heads[1].index("last")
    assert [row[:edge].split() for row in rows] == [
        ["code_reviewer", "answering", "1", "1", "1234", "0"],
        ["expedition", "running", "1", "0", "0", "0"],
        ["scout", "crashed", "1", "0", "0", "0"],
    ]
    assert rows[0].rstrip().endswith("of it")
    assert rows[2].startswith("  scout")
    assert rows[2].rstrip().endswith("boom")
    assert "\x1b" not in "".join(lines)


@pytest.mark.parametrize("width", [1, 5, 9, 10, 20])
async def test_last_words_are_the_last(width: int) -> None:
    """As much of a text's end as there is room for, counted in columns."""
    console = Console(file=io.StringIO(), width=width)
    for text in ("", "short", "漢字漢字漢字漢字漢字", "a long text of words"):
        console.file = io.StringIO()
        console.print(LastWords(text))
        (line,) = console.file.getvalue().splitlines()
        assert cell_len(line) <= width
        if cell_len(text) <= width:
            assert line == text
        else:
            assert line.startswith("…")
            assert text.endswith(line[1:])
            assert cell_len(line) >= width - 1


def test_a_terminal_gets_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal the whole demo is one table that is drawn in place, notes, and a summary."""
    screen = bytearray()
    with new_terminal() as (user, program), open(program, "w", closefd=False) as stdout:

        def read() -> None:
            while not screen.endswith(b"bye"):
                screen.extend(os.read(user, 65536))

        reader = threading.Thread(target=read)
        reader.start()
        monkeypatch.setattr(sys, "stdout", stdout)
        for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("TERM", "xterm-256color")
        monkeypatch.setenv("COLUMNS", "80")
        monkeypatch.setenv("LINES", "24")
        assert isinstance(choose_view(), LiveView)
        status = main(["demo"])
        stdout.write("bye")
        stdout.flush()
        reader.join(PATIENCE)
    assert status == 0
    shown = screen.decode()
    assert shown.count("\x1b[?25l") == shown.count("\x1b[?25h") == 1  # the cursor is back
    assert "\x1b[2J" not in shown  # a cleared screen would flicker
    last = shown[shown.rindex("\x1b[2K") :]  # all before it was drawn over
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", last).replace("\r", "")
    assert max(cell_len(line) for line in text.splitlines()) <= 80
    assert re.search(r"^  scout +stopped +1 +1 +\d+ +3 …", text, re.MULTILINE)
    assert re.search(r"^translator +stopped +1 +2 +\d+ +0 …", text, re.MULTILINE)
    summary = text[text.index("What was shown:\n") :]
    assert summary.count("\n  ok  ") == 13
    assert "\n  NO  " not in summary


@pytest.mark.parametrize("variable", ["TERM=dumb", "TTY_COMPATIBLE=0"])
def test_a_dumb_terminal_gets_lines(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal that cannot draw a table gets lines."""
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    monkeypatch.setenv(*variable.split("="))
    with new_terminal() as (_user, program), open(program, "w", closefd=False) as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        assert isinstance(choose_view(), PlainView)


def test_a_pipe_gets_lines_whatever_is_forced(monkeypatch: pytest.MonkeyPatch) -> None:
    """FORCE_COLOR, which many machines for tests set, makes no terminal of a pipe."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert isinstance(choose_view(), PlainView)


def test_a_summary_in_colours() -> None:
    """What was not shown stands out in the summary of a terminal, too."""
    out = io.StringIO()
    view = LiveView(Console(file=out, width=80, force_terminal=True))
    view.summary([Claim("all is well", True), Claim("[not] so well", False)])
    lines = re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue()).splitlines()
    assert lines == ["", "What was shown:", "  ok  all is well", "  NO  [not] so well"]
    assert "\x1b[1;31mNO" in out.getvalue()
