"""The benchmark works, and its page is true. How fast anything is is not for a test to say."""

from __future__ import annotations

import importlib.util
import itertools
import json
import re
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
import trio

import trio_claude
from trio_claude import SessionSpec

from .benchmarks import cli, imports, program, results
from .benchmarks.results import Result, judge, on_page
from .benchmarks.rows import ROWS, UNITS, Figure, Row, Sample
from .benchmarks.run import in_turn, main, samples_of, take
from .benchmarks.server import serving
from .benchmarks.wire import NO_PAUSE, Plan

PLACE = Path(__file__).parent.parent / "docs" / "benchmarks"
PAGE = (PLACE / "index.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """A server in a process of its own, as the benchmark has it."""
    with serving() as address:
        yield address


# ---- the server and the samples -----------------------------------------------------------------


@pytest.mark.parametrize("a_packet", [1, 8, 32])
async def test_what_the_server_sends_is_an_answer(server: str, a_packet: int) -> None:
    """A session reads it, turn after turn, whatever the packets; its text is the one that is meant."""
    plan = Plan(20, a_packet)
    spec = SessionSpec(
        name="reader", base_url=f"http://{server}{plan.path()}", api_key="x", model="claude-x"
    )
    with trio.fail_after(30):
        async with trio_claude.open_supervisor([spec]):
            for _ in range(2):
                result = await trio_claude.query("reader", "Hi")
                assert plan.text() == result.result
                assert 21 == result.usage.output_tokens


def test_a_plan_travels_in_the_path() -> None:
    """What an address says is read back, and what says nothing is refused."""
    plan = Plan(2000, 8, 1500)
    assert plan == Plan.of(f"{plan.path()}/v1/messages?beta=true")
    assert 250 == len(plan.packets())
    with pytest.raises(ValueError, match="holds no plan"):
        Plan.of("/v1/messages")


def test_a_stream_is_held_until_all_are_open(server: str) -> None:
    """It gets its first word, and nothing more before somebody says so."""
    plan = Plan(3, 2, NO_PAUSE)
    host, port = server.split(":")
    request = f"POST {plan.path()}/v1/messages HTTP/1.1\r\nContent-Length: 2\r\n\r\n{{}}".encode()
    rest = b"".join([*plan.packets(), plan.closing()])
    with (
        socket.create_connection((host, int(port)), timeout=30) as stream,
        socket.create_connection((host, int(port)), timeout=30) as control,
    ):
        stream.sendall(request[:20])
        stream.sendall(request[20:])  # a request that comes in pieces is one
        assert plan.opening() == received(stream, len(plan.opening()))
        stream.setblocking(False)
        with pytest.raises(BlockingIOError):
            stream.recv(1)
        stream.settimeout(30)
        control.sendall(b"POST /go HTTP/1.1\r\n\r\n")
        assert rest == received(stream, len(rest))


def received(stream: socket.socket, size: int) -> bytes:
    """So many bytes of what comes."""
    data = b""
    while len(data) < size and (piece := stream.recv(size - len(data))):
        data += piece
    return data


@pytest.mark.parametrize(
    ("sample", "figure"),
    [
        (
            Sample(
                "streaming.ours",
                {"streams": 3, "events": 40, "a_packet": 8, "tick": NO_PAUSE, "times": 2},
                needs_server=True,
            ),
            "cpu",
        ),
        (Sample("turns.ours", {"turns": 3, "events": 5}, needs_server=True), "cpu"),
        (Sample("sessions.recover", {"crashes": 9}, short={"crashes": 3}), "seconds"),
        (Sample("cli.ours", {"turns": 2, "events": 300}), "cpu"),
        pytest.param(
            Sample("cli.official", {"turns": 2, "events": 300}),
            "cpu",
            marks=pytest.mark.skipif(
                importlib.util.find_spec("claude_agent_sdk") is None, reason="needs its SDK"
            ),
        ),
        # Not "cluster.across": no Ray is started here. `nox -s bench -- --short` takes it.
        (Sample("cli.turn", {"turns": 3, "events": 5}), "beyond"),
        (Sample("cli.floor", {"turns": 3, "events": 5}), "beyond"),
    ],
    ids=lambda value: value.kind if isinstance(value, Sample) else value,
)
def test_a_sample_is_taken(server: str, sample: Sample, figure: str) -> None:
    """By a process of its own, which checks what it read and gives its figures."""
    assert 0 < take(sample, server, short=True)[figure]


@pytest.mark.parametrize("events", [3, program.ONE_WRITE + 1])
async def test_what_the_program_writes_is_an_answer(tmp_path: Path, events: int) -> None:
    """A session reads it, turn after turn, and takes each result for that of its own prompt."""
    with trio.fail_after(30), cli.installed(events) as path:
        async with trio_claude.open_session(
            backend=trio_claude.CLIBackend(cli_path=path), cwd=tmp_path
        ) as session:
            results = [await session.query("Hi") for _ in range(2)]
    assert [program.text(events)] * 2 == [result.result for result in results]
    assert [events] * 2 == [result.usage.output_tokens for result in results]
    assert all(0 < result.extra["own_ms"] < 30_000 for result in results)
    prompts = {result.extra["user_message_uuid"] for result in results}
    assert 2 == len(prompts)
    assert prompts == {result.extra["user_message_uuids"][0] for result in results}


def test_the_lines_of_the_program() -> None:
    """Its lines are one JSON object each, with an id of their own, in the order of the real one."""
    turn = program.Turn(3)
    whole = b"".join([turn.before, *turn.words, turn.after])
    lines = [json.loads(line) for line in whole.splitlines()]
    kinds = [
        line["event"]["type"] if line["type"] == "stream_event" else line["type"] for line in lines
    ]
    assert kinds == [
        *("command_lifecycle", "command_lifecycle", "system", "system"),
        *("message_start", "content_block_start", *["content_block_delta"] * 3),
        *("assistant", "content_block_stop", "message_delta", "message_stop", "result"),
    ]
    assert len(lines) == len({line["uuid"] for line in lines})
    assert program.text(3) == "".join(
        json.loads(word)["event"]["delta"]["text"] for word in turn.words
    )


def test_a_sample_that_fails_says_so(server: str, capfd: pytest.CaptureFixture[str]) -> None:
    """A figure of something else than what was meant is none."""
    with pytest.raises(subprocess.CalledProcessError):
        take(Sample("turns.ours", {"turns": 3, "events": -1}, needs_server=True), server)
    assert "Traceback" in capfd.readouterr().err


def test_an_import_is_looked_into() -> None:
    """All modules that it brings are there to be looked at, and which of them nobody wants."""
    modules = imports.run("import xml.dom.minidom").modules
    assert {"xml.dom", "xml.dom.minidom"} <= set(modules)
    assert not any(map(imports.is_unwanted, modules))
    assert imports.is_unwanted("trio_claude.simulator.app")
    assert imports.is_unwanted("ray")
    assert not imports.is_unwanted("trio_claude._application")


# ---- the rows -----------------------------------------------------------------------------------


def test_rows_and_samples_have_names_of_their_own() -> None:
    """Rows of a group stand together; a name of a sample stands for one way to take it."""
    names = [row.name for row in ROWS]
    assert sorted(set(names)) == sorted(names)
    groups = [row.group for row in ROWS]
    assert len(set(groups)) == 1 + sum(a != b for a, b in itertools.pairwise(groups))
    arguments = {
        (figure.sample.name, json.dumps(dict(figure.sample.arguments)))
        for row in ROWS
        for figure in row.measured
    }
    assert len(arguments) == len({name for name, _ in arguments})
    assert {row.unit for row in ROWS} <= set(UNITS)


def test_samples_take_turns() -> None:
    """Each round has each sample once, and begins with another one."""
    a, b, c = (Sample(kind, {}) for kind in "abc")
    rows = [
        attrs.evolve(ROWS[0], ours=Figure(a, "x"), beside=Figure(b, "x")),
        attrs.evolve(ROWS[0], ours=Figure(a, "x"), beside=Figure(c, "x")),
    ]
    samples = samples_of(rows)
    assert [a, b, c] == samples
    assert "abc bca cab abc".replace(" ", "") == "".join(one.kind for one in in_turn(samples, 4))


def test_the_page_explains_every_row() -> None:
    """Each row's name, and its goal, are on the page, outside of the table."""
    explained = on_page(PAGE, "")
    for row in ROWS:
        assert f"`{row.name}`" in explained, row.name
        assert row.goal is None or re.search(rf"\b{row.goal:g}0?\b", explained), row.name


# ---- what is said of figures --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ratio", "goal", "reads", "verdict"),
    [
        (0.44, 0.45, None, "met"),
        (0.45, 0.45, None, "met"),
        (0.46, 0.45, None, "missed"),
        (0.44, 0.45, 1.0, "met"),
        (0.44, 0.45, 0.6, "unclear"),
        (9.0, None, None, "reported"),
        (9.0, None, 0.6, "unclear"),
    ],
)
def test_the_verdict(ratio: float, goal: float | None, reads: float | None, verdict: str) -> None:
    """The goal is met up to and including it, and only by packets that were what they should be."""
    assert verdict == judge(ratio, goal, reads)


ROW = Row(
    name="row",
    group="row",
    says="CPU of it",
    ours=Figure(Sample("ours", {}), "cpu"),
    beside=Figure(Sample("other", {}), "cpu"),
    peer="another",
    goal=2.0,
    unit="µs",
)
FACTS: dict[str, str | int] = {
    "python": "CPython 3.11.0",
    "system": "Linux x86_64",
    "cpus": 2,
    "rounds": 3,
    "trio": "0.35.0",
}


def made_up(goal: float | None = 2.0) -> Result:
    """A result whose medians are in other rounds than its median ratio."""
    ours = [{"cpu": 10e-6}, {"cpu": 30e-6}, {"cpu": 20e-6}]
    beside = [{"cpu": 10e-6}, {"cpu": 10e-6}, {"cpu": 11e-6}]
    return results.result(attrs.evolve(ROW, goal=goal), ours, beside)


def test_a_result_is_of_medians() -> None:
    """Each side's, and that of the rounds' ratios."""
    one = made_up()
    assert (20e-6, 10e-6) == (one.ours, one.beside)
    assert (1.0, 3.0) == (one.lowest, one.highest)
    assert pytest.approx(20 / 11) == one.ratio
    assert "met" == one.verdict


def test_a_result_beside_what_is_fixed() -> None:
    """Its ratio says how much of that ours was."""
    row = attrs.evolve(ROW, beside=1e-3, goal=1.0)
    assert [row.ours.sample] == samples_of([row])
    one = results.result(row, [{"cpu": 2e-3}, {"cpu": 0.25e-3}, {"cpu": 0.5e-3}])
    assert (0.5e-3, 1e-3) == (one.ours, one.beside)
    assert (0.25, 0.5, 2.0) == (one.lowest, one.ratio, one.highest)
    assert "met" == one.verdict


def test_the_table() -> None:
    """What is measured, in its unit, beside what, the goal and the verdict."""
    lines = results.table([made_up(), made_up(1.5), made_up(None)]).splitlines()
    assert ["row", "what", "ours", "beside", "ratio", "goal", "verdict"] == lines[0].split()
    assert "row  CPU of it  20 µs  10 µs (another)  1.82   2     met" == lines[1]
    assert lines[2].endswith("1.82   1.5   missed")
    assert lines[3].endswith("1.82         reported")


def test_what_is_written_down_can_be_read(tmp_path: Path) -> None:
    """The file has all figures, and the page the table, once, however often it is written."""
    page = "# Title\n\n<!-- results -->\nold\n<!-- end of results -->\n\nMore\n"
    (tmp_path / "index.md").write_text(page, encoding="utf-8")
    for _ in range(2):
        results.write(tmp_path, [made_up()], FACTS, {"ours": [{"cpu": 1.5}]})
    text = (tmp_path / "results.json").read_text(encoding="utf-8")
    assert ([made_up()], FACTS) == results.from_json(text)
    assert [{"cpu": 1.5}] == json.loads(text)["samples"]["ours"]
    written = (tmp_path / "index.md").read_text(encoding="utf-8")
    assert 1 == written.count("| `row` | CPU of it | 20 µs | 10 µs (another) | 1.82 | 2 | met |")
    assert (
        "Taken with CPython 3.11.0 on Linux x86_64 with 2 CPUs, 3 rounds; trio 0.35.0." in written
    )
    assert "old" not in written
    assert written.endswith("\n\nMore\n")
    with pytest.raises(ValueError, match="0 places"):
        on_page("# Title\n", "")


def test_the_picture(tmp_path: Path) -> None:
    """Equal results give an equal picture, with the names of what is judged."""
    pytest.importorskip("matplotlib")
    from .benchmarks import plot

    judged = attrs.evolve(made_up(), name="judged")
    for file in ("a.svg", "b.svg"):
        plot.draw([judged, attrs.evolve(made_up(None), name="reported")], tmp_path / file)
    picture = (tmp_path / "a.svg").read_text(encoding="utf-8")
    assert picture == (tmp_path / "b.svg").read_text(encoding="utf-8")
    assert "judged" in picture
    assert "reported" not in picture


def test_the_page_shows_the_results_of_the_file() -> None:
    """The figures that stand in the docs are those of one run, none of them by hand."""
    found, facts = results.from_json((PLACE / "results.json").read_text(encoding="utf-8"))
    assert PAGE == on_page(PAGE, results.markdown(found, facts))
    assert [row.name for row in ROWS] == [one.name for one in found]
    for row, one in zip(ROWS, found, strict=True):
        assert (row.says, row.peer, row.goal) == (one.says, one.peer, one.goal)
        assert one.verdict == judge(one.ratio, one.goal, one.reads)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--only", "warp"], "invalid choice: 'warp'"),
        (["--short", "--write", "docs"], "--write is for a whole run"),
        (["--rounds", "0"], "--rounds must be 1 or more"),
    ],
)
def test_a_run_that_makes_no_sense_is_refused(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before anything is measured, with what is wrong."""
    with pytest.raises(SystemExit):
        main(arguments)
    assert said in capsys.readouterr().err


def test_a_run_prints_its_table(capsys: pytest.CaptureFixture[str]) -> None:
    """A short one of one row."""
    assert 0 == main(["--short", "--only", "crash"])
    said = capsys.readouterr().out.splitlines()
    assert said[1].startswith("crash  CPU from a crash to ready again")
    assert "1 rounds" in said[3]
    assert "its figures say nothing" in said[4]
