"""What is said to a program and what it says: both ways at once, and neither ever waits."""

from __future__ import annotations

import json
import subprocess
import sys
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, cast

import attrs
import pytest
import trio
import trio.testing
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_claude import ControlError, ProcessError, ProtocolError
from trio_claude._backends.claude_cli.link import Link, Refused

Line = dict[str, Any]
OVER = OSError("told to end")


class Program:
    """A process in memory: the ends of its streams that it has itself, and how it ends.

    Args:
      reads: whether it takes what is written to it without being asked to; else it takes
        nothing but what is received from `stdin_there`.
    """

    def __init__(self, *, reads: bool = True) -> None:
        pair = (
            trio.testing.memory_stream_one_way_pair
            if reads
            else trio.testing.lockstep_stream_one_way_pair
        )
        self.stdin: trio.abc.SendStream
        self.stdin_there: trio.abc.ReceiveStream
        self.stdin, self.stdin_there = pair()
        self.stdout_there, self.stdout = trio.testing.memory_stream_one_way_pair()
        self.stderr_there, self.stderr = trio.testing.memory_stream_one_way_pair()
        self.returncode: int | None = None
        self._ended = trio.Event()
        self._heard = b""

    async def wait(self) -> int | None:
        """As of a process."""
        await self._ended.wait()
        return self.returncode

    def exit(self, code: int) -> None:
        """End, but leave the streams as they are, as a child of its own could hold them open."""
        self.returncode = code
        self._ended.set()

    async def die(self, code: int, last_words: bytes = b"") -> None:
        """End with everything."""
        await self.stderr_there.send_all(last_words)
        await self.stdout_there.aclose()
        await self.stderr_there.aclose()
        self.exit(code)

    async def write(self, *lines: Line | bytes) -> None:
        """Write these lines at once."""
        data = [
            line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n" for line in lines
        ]
        await self.stdout_there.send_all(b"".join(data))

    async def hear(self) -> Line:
        """The next line that was said to it."""
        while b"\n" not in self._heard:
            data = await self.stdin_there.receive_some(1000)
            assert data
            self._heard += data
        line, _, self._heard = self._heard.partition(b"\n")
        heard: Line = json.loads(line)
        return heard


@attrs.define
class Ends:
    """Both ends of a link that runs, and what it handed on."""

    link: Link
    program: Program
    nursery: trio.Nursery
    batches: list[list[Line]] = attrs.field(factory=list)
    stderr: list[str] = attrs.field(factory=list)
    told: list[Exception] = attrs.field(factory=list)
    over: trio.Event = attrs.field(factory=trio.Event)

    @property
    def lines(self) -> list[Line]:
        """The lines that belong to no request."""
        return [line for batch in self.batches for line in batch]

    async def failure(self) -> Exception:
        """What the link ended with, once it has."""
        await self.over.wait()
        assert self.link.failure is not None
        return self.link.failure

    def ask(self, subtype: str, answers: list[object], within: float = 60.0) -> None:
        """Ask the program, in a task of its own; the answer or the error is appended."""

        async def ask() -> None:
            try:
                answers.append(await self.link.request({"subtype": subtype}, within))
            except ControlError as exc:
                answers.append(exc)

        self.nursery.start_soon(ask)


async def _refuse(request: Mapping[str, Any]) -> Mapping[str, Any]:
    raise Refused(f"no {request.get('subtype')}")


Answering = Callable[[Mapping[str, Any]], Awaitable[Mapping[str, Any]]]


@asynccontextmanager
async def linked(
    program: Program | trio.Process,
    *,
    max_size: int = 1_000_000,
    on_request: Answering = _refuse,
    on_stderr: Callable[[str], object] | None = None,
) -> AsyncIterator[Ends]:
    """A link that runs; it is told to end with the block."""
    batches: list[list[Line]] = []
    stderr: list[str] = []
    told: list[Exception] = []
    link = Link(
        cast("trio.Process", program),
        max_size=max_size,
        on_lines=batches.append,
        on_request=on_request,
        on_stderr=stderr.append if on_stderr is None else on_stderr,
        on_end=told.append,
    )
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            ends = Ends(link, cast("Program", program), nursery, batches, stderr, told)

            async def run() -> None:
                await link.run()
                ends.over.set()

            nursery.start_soon(run)
            yield ends
            link.end(OVER)


@pytest.fixture
def program() -> Program:
    """A program that takes what is written to it."""
    return Program()


def answer(request: Line, **response: Any) -> Line:
    """The program's answer to a request."""
    fields = {"subtype": "success", **response, "request_id": request["request_id"]}
    return {"type": "control_response", "response": fields}


def asks(request_id: str, subtype: str = "can_use_tool") -> Line:
    """A request of the program's."""
    request = {"subtype": subtype, "id": request_id}
    return {"type": "control_request", "request_id": request_id, "request": request}


# ---- lines ----


async def test_lines_are_handed_on_as_they_come(program: Program) -> None:
    """Those that come together together, without what belongs to no turn."""
    async with linked(program) as ends:
        await program.write({"type": "a"}, {"type": "keep_alive"}, {"n": 1}, b"noise\n", b'{"type"')
        await wait_all_tasks_blocked()
        assert [[{"type": "a"}, {"n": 1}]] == ends.batches
        await program.write(b':"b"}\n')
        await program.write({"type": "keep_alive"})
        await wait_all_tasks_blocked()
        assert [{"type": "b"}] == ends.batches[-1]
        assert 2 == len(ends.batches)


async def test_what_is_said_arrives_in_order(program: Program) -> None:
    """Whether it is said at once or bit by bit."""
    async with linked(program) as ends:
        for number in range(5):
            ends.link.send(b'{"n":%d}\n' % number)
        assert [0, 1, 2, 3, 4] == [(await program.hear())["n"] for _ in range(5)]
        ends.link.send(b'{"n":5}\n')
        assert {"n": 5} == await program.hear()


async def test_nothing_that_is_said_is_cut(autojump_clock: MockClock) -> None:
    """A request that is cancelled while it is written is written to its end."""
    program = Program(reads=False)
    async with linked(program) as ends:
        for _ in range(3):
            with trio.move_on_after(1) as scope:
                await ends.link.request({"subtype": "interrupt", "x": "y" * 100}, within=10)
            assert scope.cancelled_caught
        ends.link.send(b'{"n":1}\n')
        heard = b""
        while not heard.endswith(b'{"n":1}\n'):
            heard += await program.stdin_there.receive_some(7)
            await wait_all_tasks_blocked()
        *requests, last = map(json.loads, heard.splitlines())
        assert {"n": 1} == last
        assert ["y" * 100] * 3 == [request["request"]["x"] for request in requests]


async def test_a_program_that_does_not_read_is_read(autojump_clock: MockClock) -> None:
    """Its output, its requests and our answers: nothing waits for what can't be written."""

    async def respond(request: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"id": request["id"]}

    program = Program(reads=False)
    async with linked(program, on_request=respond) as ends:
        for _ in range(10_000):
            ends.link.send(b'{"x":"y"}\n')
        answers: list[object] = []
        ends.ask("mcp_status", answers, within=5)
        await program.write(asks("r1"))
        for number in range(100):
            await program.write(*[{"n": number}] * 1000)
        await trio.sleep(10)
        assert 100_000 == len(ends.lines)
        (failure,) = answers
        assert isinstance(failure, ControlError)

        assert [{"x": "y"}] * 10_000 == [await program.hear() for _ in range(10_000)]
        said = {(await program.hear())["type"] for _ in range(2)}
        assert {"control_request", "control_response"} == said


async def test_a_program_that_has_closed_its_input(
    program: Program, autojump_clock: MockClock
) -> None:
    """What it still says is read; it is its end that counts."""
    async with linked(program) as ends:
        await program.stdin_there.aclose()
        ends.link.send(b"{}\n")
        await wait_all_tasks_blocked()
        ends.link.send(b"{}\n")
        await program.write({"n": 1})
        await wait_all_tasks_blocked()
        assert [{"n": 1}] == ends.lines
        assert ends.link.failure is None
        await program.die(7)
        failure = await ends.failure()
        assert isinstance(failure, ProcessError)
        assert 7 == failure.exit_code


# ---- requests to the program ----


async def test_requests_are_answered_in_any_order(program: Program) -> None:
    """Each has an id of its own, and gets its own answer."""
    async with linked(program) as ends:
        first: list[object] = []
        second: list[object] = []
        ends.ask("one", first)
        ends.ask("two", second)
        heard = [await program.hear() for _ in range(2)]
        assert {"one", "two"} == {request["request"]["subtype"] for request in heard}
        assert {"control_request"} == {request["type"] for request in heard}
        assert heard[0]["request_id"] != heard[1]["request_id"]
        by_name = {request["request"]["subtype"]: request for request in heard}
        await program.write(answer(by_name["two"], response={"n": 2}))
        await wait_all_tasks_blocked()
        assert ([], [{"n": 2}]) == (first, second)
        await program.write(answer(by_name["one"], response={"n": 1}))
        await wait_all_tasks_blocked()
        assert [{"n": 1}] == first


@pytest.mark.parametrize("response", [{}, {"response": None}, {"response": "odd"}])
async def test_an_answer_that_says_nothing(program: Program, response: Line) -> None:
    """That is success."""
    async with linked(program) as ends:
        answers: list[object] = []
        ends.ask("interrupt", answers)
        await program.write(answer(await program.hear(), **response))
        await wait_all_tasks_blocked()
        assert [{}] == answers


@pytest.mark.parametrize(
    ("response", "why"),
    [
        ({"error": "Unsupported"}, "Unsupported"),
        ({}, "it doesn't say why"),
        ({"error": {"a": 1}}, "{'a': 1}"),
    ],
)
async def test_a_refusal(program: Program, response: Line, why: str) -> None:
    """With the program's own words."""
    async with linked(program) as ends:
        answers: list[object] = []
        ends.ask("bogus", answers)
        await program.write(answer(await program.hear(), subtype="error", **response))
        await wait_all_tasks_blocked()
        (refusal,) = answers
        assert isinstance(refusal, ControlError)
        assert f"the claude program refused 'bogus': {why}" == str(refusal)


async def test_a_late_answer_goes_nowhere(program: Program, autojump_clock: MockClock) -> None:
    """Who asked has been told that there is none; the next request gets its own."""
    async with linked(program) as ends:
        began = trio.current_time()
        answers: list[object] = []
        ends.ask("slow", answers, within=2.5)
        await trio.sleep(3)
        (late,) = answers
        assert isinstance(late, ControlError)
        assert "the claude program did not answer 'slow' within 2.5 s" == str(late)
        assert 3 == trio.current_time() - began

        slow = await program.hear()
        ends.ask("next", answers)
        following = await program.hear()
        await program.write(answer(slow, response={"n": 1}), answer(following, response={"n": 2}))
        await wait_all_tasks_blocked()
        assert [{"n": 2}] == answers[1:]
        assert [] == ends.lines


async def test_answers_that_nobody_can_use(program: Program) -> None:
    """To nobody, or none at all: they are no lines of a turn, and do no harm."""
    async with linked(program) as ends:
        await program.write(
            {"type": "control_response"},
            {"type": "control_response", "response": "odd"},
            {"type": "control_response", "response": {}},
            {"type": "control_response", "response": {"request_id": ["odd"]}},
            {"n": 1},
        )
        await wait_all_tasks_blocked()
        assert [{"n": 1}] == ends.lines


async def test_who_asks_for_something_can_be_cancelled(program: Program) -> None:
    """The answer that comes afterwards does no harm."""
    async with linked(program) as ends:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ends.link.request, {"subtype": "x"}, 60)
                request = await program.hear()
                scope.cancel()
        assert scope.cancelled_caught
        await program.write(answer(request), {"n": 1})
        await wait_all_tasks_blocked()
        assert [{"n": 1}] == ends.lines


async def test_a_request_to_a_program_that_ends(
    program: Program, autojump_clock: MockClock
) -> None:
    """It fails at once, from what the program ended with; so does one that comes too late."""
    async with linked(program) as ends:
        answers: list[object] = []
        ends.ask("initialize", answers)
        await program.hear()
        await program.die(1, b"No conversation found\n")
        failure = await ends.failure()
        ends.ask("initialize", answers)
        await wait_all_tasks_blocked()
        assert trio.current_time() == 0
        assert 2 == len(answers)
        for error in answers:
            assert isinstance(error, ControlError)
            assert "the claude program ended before it answered 'initialize'" == str(error)
            assert failure is error.__cause__


# ---- requests of the program ----


async def test_the_program_is_answered_in_any_order(program: Program) -> None:
    """Each request by a task of its own, while lines come and a request of ours waits."""
    gates: dict[str, trio.Event] = {"r1": trio.Event(), "r2": trio.Event()}

    async def respond(request: Mapping[str, Any]) -> Mapping[str, Any]:
        await gates[request["id"]].wait()
        return {"answered": request["id"]}

    async with linked(program, on_request=respond) as ends:
        answers: list[object] = []
        ends.ask("mcp_status", answers)
        request = await program.hear()
        await program.write(asks("r1"), {"n": 1}, asks("r2"))
        await wait_all_tasks_blocked()
        for request_id in ("r2", "r1"):
            gates[request_id].set()
            assert {
                "type": "control_response",
                "response": {
                    "subtype": "success",
                    "request_id": request_id,
                    "response": {"answered": request_id},
                },
            } == await program.hear()
        assert [] == answers
        await program.write(answer(request))
        await wait_all_tasks_blocked()
        assert [{}] == answers
        assert [{"n": 1}] == ends.lines


async def test_what_is_not_to_be_had_is_refused(program: Program) -> None:
    """With the reason, as the protocol says it."""
    async with linked(program):
        await program.write(asks("r1", "bogus"))
        assert {
            "type": "control_response",
            "response": {"subtype": "error", "request_id": "r1", "error": "no bogus"},
        } == await program.hear()


async def test_a_request_that_is_taken_back(program: Program) -> None:
    """Its callback is cancelled, and it gets no answer; the others do."""
    gate = trio.Event()
    cancelled = []

    async def respond(request: Mapping[str, Any]) -> Mapping[str, Any]:
        try:
            await gate.wait()
        except trio.Cancelled:
            cancelled.append(request["id"])
            raise
        return {}

    async with linked(program, on_request=respond):
        await program.write(asks("r1"), asks("r2"))
        await wait_all_tasks_blocked()
        for request_id in ("r1", "r1", "unknown", ["odd"]):
            await program.write({"type": "control_cancel_request", "request_id": request_id})
            await wait_all_tasks_blocked()
        assert ["r1"] == cancelled
        gate.set()
        assert "r2" == (await program.hear())["response"]["request_id"]
        await program.write({"type": "control_cancel_request", "request_id": "r2"})
        await wait_all_tasks_blocked()
        await program.write(asks("r1"))
        assert "r1" == (await program.hear())["response"]["request_id"]


@pytest.mark.parametrize(
    "odd",
    [
        {},
        {"request_id": "r0"},
        {"request_id": 3, "request": {"subtype": "x"}},
        {"request_id": "r0", "request": "odd"},
    ],
)
async def test_requests_that_nobody_can_answer(program: Program, odd: Line) -> None:
    """Without an id, or without a request: nothing is said to them."""
    async with linked(program) as ends:
        await program.write({"type": "control_request", **odd}, asks("r1"), {"n": 1})
        assert "r1" == (await program.hear())["response"]["request_id"]
        assert [{"n": 1}] == ends.lines


async def test_callbacks_end_with_the_link(program: Program) -> None:
    """Nobody is left to be answered."""
    cancelled = []

    async def respond(request: Mapping[str, Any]) -> Mapping[str, Any]:
        try:
            return cast("Line", await trio.sleep_forever())
        finally:
            cancelled.append(request["id"])

    async with linked(program, on_request=respond) as ends:
        await program.write(asks("r1"))
        await wait_all_tasks_blocked()
        ends.link.end(OVER)
        assert OVER is await ends.failure()
        assert ["r1"] == cancelled


# ---- its end ----


async def test_a_program_that_ends(program: Program, autojump_clock: MockClock) -> None:
    """Its exit code and its last words are in the error, and its last line was handed on."""
    async with linked(program) as ends:
        await program.write({"n": 1}, b'{"n":2}')
        await program.die(3, b"out of\r\nmemory\n")
        failure = await ends.failure()
        assert [{"n": 1}, {"n": 2}] == ends.lines
        assert isinstance(failure, ProcessError)
        assert (3, "out of\nmemory") == (failure.exit_code, failure.stderr)
        assert (
            "the claude program ended with exit code 3; the last that it wrote to standard error: "
            "out of\nmemory" == str(failure)
        )
        assert trio.current_time() == 0


async def test_a_program_that_says_nothing_and_ends(
    program: Program, autojump_clock: MockClock
) -> None:
    """Exit code 0 is no success."""
    async with linked(program) as ends:
        await program.write(b'{"cut')
        await program.die(0)
        failure = await ends.failure()
        assert [] == ends.lines
        assert isinstance(failure, ProcessError)
        assert (0, "") == (failure.exit_code, failure.stderr)
        assert "the claude program ended with exit code 0" == str(failure)


async def test_last_words_are_waited_for_a_second(
    program: Program, autojump_clock: MockClock
) -> None:
    """Standard error may end later than standard output, or be held open by somebody else."""
    async with linked(program) as ends:
        await program.stdout_there.aclose()
        await trio.sleep(0.5)
        await program.stderr_there.send_all(b"because")
        program.exit(1)
        failure = await ends.failure()
        assert 1 == trio.current_time()
        assert isinstance(failure, ProcessError)
        assert 1 == failure.exit_code


async def test_a_program_that_ends_without_its_output(
    program: Program, autojump_clock: MockClock
) -> None:
    """Somebody that it has started may keep it open: what comes within a second counts."""
    async with linked(program) as ends:
        await program.stderr_there.send_all(b"why\n")
        program.exit(-9)
        await trio.sleep(0.5)
        await program.write({"n": 1})
        failure = await ends.failure()
        assert 1 == trio.current_time()
        assert [{"n": 1}] == ends.lines
        assert isinstance(failure, ProcessError)
        assert (-9, "why") == (failure.exit_code, failure.stderr)


async def test_a_program_that_closes_its_output_and_goes_on(
    program: Program, autojump_clock: MockClock
) -> None:
    """It is of no use any more, and has no exit code."""
    async with linked(program) as ends:
        await program.stderr_there.send_all(b"goodbye\n")
        await program.stdout_there.aclose()
        failure = await ends.failure()
        assert isinstance(failure, ProcessError)
        assert (None, "goodbye") == (failure.exit_code, failure.stderr)
        assert str(failure).startswith("the claude program ended; the last")


class _Broken(trio.abc.ReceiveStream):
    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await trio.lowlevel.checkpoint()
        raise trio.BrokenResourceError

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


async def test_streams_that_break(program: Program, autojump_clock: MockClock) -> None:
    """That is their end."""
    program.stdout = program.stderr = _Broken()  # type: ignore[assignment]
    program.exit(2)
    async with linked(program) as ends:
        failure = await ends.failure()
        assert isinstance(failure, ProcessError)
        assert 2 == failure.exit_code


async def test_a_line_that_cannot_be_read(program: Program, autojump_clock: MockClock) -> None:
    """It ends the link; the lines before it, and who waits, have not come for nothing."""
    async with linked(program, max_size=100) as ends:
        answers: list[object] = []
        ends.ask("mcp_status", answers)
        await program.hear()
        await program.write({"n": 1}, b"{nonsense\n", {"n": 2})
        failure = await ends.failure()
        assert isinstance(failure, ProtocolError)
        assert [{"n": 1}] == ends.lines
        await wait_all_tasks_blocked()
        (error,) = answers
        assert isinstance(error, ControlError)
        assert failure is error.__cause__

    program = Program()
    async with linked(program, max_size=100) as ends:
        await program.write({"n": "x" * 100})
        assert "max_buffer_size" in str(await ends.failure())


async def test_the_first_failure_counts(program: Program) -> None:
    """What comes of it afterwards says less."""
    async with linked(program) as ends:
        ends.link.end(OVER)
        ends.link.end(OSError("later"))
        ends.link.close(OSError("later"))
        assert OVER is await ends.failure()
        assert [OVER] == ends.told


async def test_its_end_is_told_at_once(program: Program, autojump_clock: MockClock) -> None:
    """What is asked of us may take its time to be left; nobody waits for that."""

    async def respond(request: Mapping[str, Any]) -> Mapping[str, Any]:
        with trio.CancelScope(shield=True):
            await trio.sleep(20)
        return {}

    async with linked(program, on_request=respond) as ends:
        await program.write(asks("r1"), b"{nonsense\n")
        await wait_all_tasks_blocked()
        assert not ends.over.is_set()
        assert isinstance(ends.link.failure, ProtocolError)
        assert [ends.link.failure] == ends.told
        assert ends.told == [await ends.failure()]
        assert 20 == trio.current_time()


async def test_a_link_that_is_closed(program: Program, autojump_clock: MockClock) -> None:
    """Whoever waits gets that failure, and nobody is told; what it ends with later says less."""
    async with linked(program) as ends:
        answers: list[object] = []
        ends.ask("mcp_status", answers)
        await program.hear()
        ends.link.close(OVER)
        assert OVER is await ends.failure()
        ends.ask("mcp_status", answers)
        await wait_all_tasks_blocked()
        ends.link.end(OSError("later"))
        assert OVER is ends.link.failure
        assert [] == ends.told
        assert [OVER, OVER] == [
            error.__cause__ for error in answers if isinstance(error, ControlError)
        ]
        assert 0 == trio.current_time()


async def test_who_still_waits_when_a_link_that_failed_is_closed(program: Program) -> None:
    """They are told, too, with what it failed of."""
    async with linked(program) as ends:
        answers: list[object] = []
        ends.link.end(OVER)
        ends.ask("mcp_status", answers)
        ends.link.close(OSError("later"))
        await wait_all_tasks_blocked()
        (error,) = answers
        assert isinstance(error, ControlError)
        assert OVER is error.__cause__


async def test_a_link_can_be_cancelled(program: Program) -> None:
    """It has not ended by itself then."""
    told: list[Exception] = []
    link = Link(
        cast("trio.Process", program),
        max_size=100,
        on_lines=lambda _: None,
        on_request=_refuse,
        on_stderr=None,
        on_end=told.append,
    )
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(link.run)
            await wait_all_tasks_blocked()
            scope.cancel()
    assert scope.cancelled_caught
    assert link.failure is None
    assert [] == told


# ---- standard error ----


async def test_the_callback_gets_each_line_of_standard_error(
    program: Program, autojump_clock: MockClock
) -> None:
    """Whole, however it comes, without its end; what is no UTF-8 is replaced."""
    async with linked(program) as ends:
        for data in (
            b"on",
            b"e\ntwo\r\n\nth\xff",
            "ré".encode()[:2],
            "é".encode()[1:] + b"e\nlast",
        ):
            await program.stderr_there.send_all(data)
            await wait_all_tasks_blocked()
        assert ["one", "two", "", "th\ufffdrée"] == ends.stderr
        await program.die(0)
        await ends.failure()
        assert "last" == ends.stderr[-1]


async def test_only_the_last_of_standard_error_is_kept(
    program: Program, autojump_clock: MockClock
) -> None:
    """Eight KiB of it, however much there was; the callback gets it all."""
    async with linked(program) as ends:
        for number in range(100):
            await program.stderr_there.send_all(b"x" * 1000 + b"\n")
            await program.stderr_there.send_all(b"%d\n" % number)
        await program.die(1)
        failure = await ends.failure()
        assert isinstance(failure, ProcessError)
        assert failure.stderr.endswith("x\n99")
        assert 7000 < len(failure.stderr) <= 8192
        assert 200 == len(ends.stderr)


async def test_standard_error_takes_no_memory(program: Program) -> None:
    """However long the session is, and however much its program remarks."""
    async with linked(program, on_stderr=lambda _: None):
        remarks = b"It is as it should be.\n" * 1000

        async def remark(times: int) -> int:
            for _ in range(times):
                await program.stderr_there.send_all(remarks)
                await wait_all_tasks_blocked()
            return tracemalloc.get_traced_memory()[0]

        tracemalloc.start()
        try:
            before = await remark(2)
            assert await remark(50) - before < 100_000
        finally:
            tracemalloc.stop()


async def test_standard_error_without_line_ends(
    program: Program, autojump_clock: MockClock
) -> None:
    """It is cut into pieces, so that it isn't kept for ever."""
    async with linked(program) as ends:
        for _ in range(100):
            await program.stderr_there.send_all(b"y" * 1000)
            await wait_all_tasks_blocked()
        await program.die(1, b"z")
        failure = await ends.failure()
        assert isinstance(failure, ProcessError)
        assert failure.stderr.endswith("yz")
        assert len(failure.stderr) <= 8192
        assert "y" * 100_000 + "z" == "".join(ends.stderr)
        assert max(map(len, ends.stderr)) < 10_000


async def test_a_callback_for_standard_error_that_raises(program: Program) -> None:
    """The link ends with it, with a word on where it comes from."""

    def refuse(line: str) -> None:
        raise ValueError(line)

    async with linked(program, on_stderr=refuse) as ends:
        await program.stderr_there.send_all(b"one\ntwo\n")
        failure = await ends.failure()
        assert isinstance(failure, ValueError)
        assert ("one",) == failure.args
        assert ["in the callback that the option stderr gives"] == failure.__notes__


async def test_without_a_callback(program: Program, autojump_clock: MockClock) -> None:
    """It is read and kept all the same."""
    told: list[Exception] = []
    link = Link(
        cast("trio.Process", program),
        max_size=100,
        on_lines=lambda _: None,
        on_request=_refuse,
        on_stderr=None,
        on_end=told.append,
    )
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(link.run)
            await program.die(1, b"why")
    assert isinstance(link.failure, ProcessError)
    assert "why" == link.failure.stderr
    assert [link.failure] == told


# ---- last words of ours ----


async def test_one_thing_more_can_be_said(program: Program) -> None:
    """When the link has ended, also where everything is cancelled."""
    async with linked(program) as ends:
        ends.link.end(OVER)
        await ends.failure()
        with trio.CancelScope() as scope:
            scope.cancel()
            await ends.link.say_last(b'{"last":1}\n')
        assert {"last": 1} == await program.hear()


async def test_nobody_waits_long_for_last_words(autojump_clock: MockClock) -> None:
    """A program that doesn't read has a second; one that is gone needs none."""
    program = Program(reads=False)
    async with linked(program) as ends:
        ends.link.end(OVER)
        await ends.failure()
        with trio.CancelScope() as scope:
            scope.cancel()
            await ends.link.say_last(b"{}\n")
        assert 1 == trio.current_time()
        await program.stdin_there.aclose()
        await ends.link.say_last(b"{}\n")
        assert 1 == trio.current_time()


async def test_no_last_words_after_a_line_that_was_cut(autojump_clock: MockClock) -> None:
    """They would be the rest of that line."""
    program = Program(reads=False)
    async with linked(program) as ends:
        ends.link.send(b'{"half":1}\n')
        assert b'{"hal' == await program.stdin_there.receive_some(5)
        ends.link.end(OVER)
        await ends.failure()
        await ends.link.say_last(b"{}\n")
        assert 0 == trio.current_time()


# ---- over pipes ----

ECHO = """
import json, sys
for line in sys.stdin:
    request = json.loads(line)
    if request["type"] == "end":
        print("as told", file=sys.stderr)
        sys.exit(5)
    answer = {"subtype": "success", "request_id": request["request_id"], "response": request}
    print(json.dumps({"type": "control_response", "response": answer}), flush=True)
"""


async def test_a_real_process() -> None:
    """Over pipes of the system it is the same."""
    process = await trio.lowlevel.open_process(
        [sys.executable, "-c", ECHO],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    async with process.stdin, process.stdout, process.stderr, linked(process) as ends:
        large = "é" * 100_000  # more than a pipe holds
        answered = await ends.link.request({"subtype": "x", "text": large}, within=20)
        assert large == answered["request"]["text"]
        ends.link.send(b'{"type":"end"}\n')
        failure = await ends.failure()
        assert isinstance(failure, ProcessError)
        assert (5, "as told") == (failure.exit_code, failure.stderr)


async def test_the_program_uses_an_id_twice() -> None:
    """Both requests are answered."""
    gate = trio.Event()

    async def respond(request: Mapping[str, Any]) -> Mapping[str, Any]:
        await gate.wait()
        return {}

    program = Program()
    async with linked(program, on_request=respond):
        await program.write(asks("r1"), asks("r1"))
        await wait_all_tasks_blocked()
        gate.set()
        heard = [await program.hear() for _ in range(2)]
        assert ["r1", "r1"] == [line["response"]["request_id"] for line in heard]


async def test_a_request_to_a_program_that_is_stopped() -> None:
    """Whoever asked is told so, and may ask the next one."""
    program = Program()
    async with linked(program) as ends:

        async def ask() -> None:
            with pytest.raises(trio.ClosedResourceError, match="was stopped"):
                await ends.link.request({"subtype": "mcp_status"}, 60.0)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await wait_all_tasks_blocked()
            ends.link.close(trio.ClosedResourceError("the program was stopped"))
