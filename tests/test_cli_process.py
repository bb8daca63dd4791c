"""Processes: how they are started, that they may finish, and that nothing of them is left."""

from __future__ import annotations

import io
import json
import logging
import os
import runpy
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import trio

from trio_claude import ConfigurationError, ProcessError
from trio_claude._backends.claude_cli import guardian, process as module
from trio_claude._backends.claude_cli.private import private_files
from trio_claude._backends.claude_cli.process import Guard, open_guard, open_program

from .claude.support import alive

ENV = dict(os.environ)

# Says its process id, and ends with its input.
PATIENT = """
import os, sys
print(os.getpid(), flush=True)
sys.stdin.read()
sys.exit(4)
"""
# Goes on whatever happens to its input.
DEAF = """
import os, time
print(os.getpid(), flush=True)
time.sleep(600)
"""
# Not even told to end does it end.
STUBBORN = """
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print(os.getpid(), flush=True)
while True:
    time.sleep(600)
"""
# Starts one of these, and ends with its input.
PARENT = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdin=subprocess.DEVNULL)
sys.stdin.read()
"""


@asynccontextmanager
async def running(
    code: str,
    *arguments: str,
    guard: Guard | None = None,
    env: dict[str, str] = ENV,
    cwd: str | None = None,
    files: Mapping[str, str] | None = None,
    close_timeout: float = 20.0,
) -> AsyncIterator[trio.Process]:
    """A Python program that runs this code."""
    command = [sys.executable, "-c", code, *arguments]
    with trio.fail_after(60):
        async with open_guard() as own:
            async with open_program(
                command,
                files=files or {},
                env=env,
                cwd=cwd,
                guard=own if guard is None else guard,
                close_timeout=close_timeout,
            ) as process:
                yield process


async def said_by(process: trio.Process) -> bytes:
    """The next line that it writes."""
    assert process.stdout is not None
    return await line_of(process.stdout)


async def line_of(stream: trio.abc.ReceiveStream) -> bytes:
    """The next line, which may come in pieces."""
    line = b""
    while not line.endswith(b"\n"):
        line += await stream.receive_some(10_000)
    return line


async def pid_of(process: trio.Process) -> int:
    """The process id that it says."""
    return int(await said_by(process))


@pytest.fixture
def groups() -> Iterator[list[int]]:
    """Groups of processes that a failed test must not leave behind."""
    left: list[int] = []
    yield left
    for group in left:
        with suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)


def started(code: str, groups: list[int]) -> subprocess.Popen[bytes]:
    """A process in a group of its own, once it runs."""
    popen = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    groups.append(popen.pid)
    assert popen.stdout is not None
    assert int(popen.stdout.readline()) == popen.pid
    return popen


def ended(popen: subprocess.Popen[bytes]) -> int:
    """The exit code of a process that has ended, or does when its input ends."""
    popen.communicate(timeout=10)
    return popen.returncode


# ---- how it is started ----


async def test_its_three_streams_are_connected() -> None:
    """What it is told it reads; what it says can be read, and what it warns of."""
    code = "import sys; x = sys.stdin.readline(); print(x, end=''); print('hm', file=sys.stderr)"
    async with running(code) as process:
        assert process.stdin is not None
        assert process.stderr is not None
        await process.stdin.send_all(b"hello\n")
        assert b"hello\n" == await said_by(process)
        assert b"hm\n" == await line_of(process.stderr)
        assert 0 == await process.wait()


async def test_its_environment_and_folder(tmp_path: Path) -> None:
    """Exactly those that are given; without a folder, ours."""
    code = "import os; print(os.environ.get('MINE'), os.environ.get('HOME'), os.getcwd())"
    folder = str(await trio.Path(tmp_path).resolve())
    async with running(code, env={"MINE": "é"}, cwd=folder) as process:
        assert ["é", "None", folder] == (await said_by(process)).decode().split()
    async with running("import os; print(os.getcwd())") as process:
        assert os.getcwd() == (await said_by(process)).decode().strip()


async def test_it_is_the_first_of_its_own_group() -> None:
    """So that a Ctrl-C at the terminal is not told to it, too."""
    async with running(PATIENT) as process:
        pid = await pid_of(process)
        assert pid == os.getpgid(pid) == os.getsid(pid) != os.getpgid(0)


async def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    """It is named before anything is started; a file is no folder."""
    file = tmp_path / "file"
    file.touch()
    for wrong in (tmp_path / "missing", file):
        with pytest.raises(
            ConfigurationError, match="cwd must be a folder that there is"
        ) as caught:
            async with running(PATIENT, cwd=str(wrong)):
                raise AssertionError("it must not start")
        assert repr(str(wrong)) in str(caught.value)


async def test_a_program_that_cannot_be_run(tmp_path: Path) -> None:
    """The error says which, and why."""
    text = tmp_path / "text"
    text.write_text("no program")
    async with open_guard() as guard:
        for command in ([str(tmp_path / "missing")], [str(text)], [sys.executable, "-c", "\0"]):
            with pytest.raises(ProcessError, match=f"cannot run {command[0]}: ") as caught:
                async with open_program(
                    command, files={}, env=ENV, cwd=None, guard=guard, close_timeout=1.0
                ):
                    raise AssertionError("it must not start")
            assert caught.value.exit_code is None
            assert isinstance(caught.value.__cause__, OSError | ValueError)


# ---- how it is stopped ----


async def test_a_program_may_finish(tmp_path: Path) -> None:
    """Its input ends, and it has its time, for it has a conversation to save."""
    code = f"""
import sys, time
sys.stdin.read()
time.sleep(0.3)
open({str(tmp_path / "saved")!r}, "w").close()
sys.exit(4)
"""
    async with running(code) as process:
        pass
    assert 4 == process.returncode
    assert (tmp_path / "saved").exists()


async def test_what_it_still_says_is_read() -> None:
    """Much, at its end, to both streams: who can't write can't end."""
    code = """
import sys
sys.stdin.read()
for stream in (sys.stdout, sys.stderr):
    stream.write("x" * 1_000_000)
"""
    async with running(code) as process:
        pass
    assert 0 == process.returncode


async def test_a_program_that_has_ended() -> None:
    """There is nothing to wait for."""
    began = trio.current_time()
    async with running("raise SystemExit(3)", close_timeout=20.0) as process:
        assert 3 == await process.wait()
    assert trio.current_time() - began < 15
    assert 3 == process.returncode


@pytest.mark.parametrize(
    ("code", "number"),
    [(DEAF, signal.SIGTERM), (STUBBORN, signal.SIGKILL)],
    ids=["deaf", "stubborn"],
)
async def test_a_program_that_does_not_end(code: str, number: signal.Signals) -> None:
    """It is terminated, and killed if that doesn't help, each after its time."""
    async with running(code, close_timeout=0.2) as process:
        pid = await pid_of(process)
        began = trio.current_time()
    assert -number == process.returncode
    assert trio.current_time() - began >= (0.2 if number is signal.SIGTERM else 0.4)
    assert not alive(pid)


async def test_no_patience_at_all() -> None:
    """A `close_timeout` of 0 is allowed: all steps come at once."""
    async with running(STUBBORN, close_timeout=0.0) as process:
        pid = await pid_of(process)
    assert process.returncode is not None
    assert process.returncode < 0
    assert not alive(pid)


async def test_a_process_that_cannot_be_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system hangs, it doesn't keep us for ever."""
    numbers = []

    def do_nothing(group: int, mark: str, number: int) -> bool:
        numbers.append(number)
        return True

    async with open_guard() as guard:
        async with running(DEAF, guard=guard, close_timeout=0.0) as process:
            pid = await pid_of(process)
            monkeypatch.setattr(module, "_REAP_SECONDS", 0.0)
            monkeypatch.setattr(module, "send_signal", do_nothing)
        monkeypatch.undo()
        assert alive(pid)
        assert [signal.SIGTERM, signal.SIGKILL] * 2 == [number for number in numbers if number]
        process.kill()
        with trio.fail_after(30):
            await process.wait()


@pytest.mark.parametrize("child", [DEAF, STUBBORN], ids=["deaf", "stubborn"])
async def test_what_it_started_goes_with_it(child: str) -> None:
    """Its whole group, though it ends well itself."""
    async with running(PARENT, child, close_timeout=0.5) as process:
        pid = await pid_of(process)
        assert alive(pid)
        assert process.pid == os.getpgid(pid)
    assert 0 == process.returncode
    assert not alive(pid)


@pytest.mark.parametrize("how", ["cancelled", "raises"])
async def test_a_block_that_is_left_in_haste(how: str) -> None:
    """It is stopped all the same, and has its time."""
    with trio.CancelScope() as scope:
        with pytest.raises(OSError if how == "raises" else trio.Cancelled):
            async with running(PATIENT) as process:
                pid = await pid_of(process)
                if how == "raises":
                    raise OSError("no")
                scope.cancel()
                await trio.sleep_forever()
        assert 4 == process.returncode
        assert not alive(pid)
        await trio.lowlevel.checkpoint_if_cancelled()
    assert scope.cancelled_caught is (how == "cancelled")


async def test_groups_of_others_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A number that belongs to somebody else by now is nobody of ours."""

    def refuse(group: int, number: int) -> None:
        raise PermissionError

    async with running("raise SystemExit(0)") as process:
        await process.wait()
        monkeypatch.setattr(os, "killpg", refuse)
        monkeypatch.setattr(os, "kill", refuse)
    monkeypatch.undo()
    assert 0 == process.returncode


# ---- what is private ----


def test_what_is_private_is_in_files() -> None:
    """That only this user can read, that are named by flags, and that are gone afterwards."""
    given = {"--mcp-config": '{"key":"secret"}', "--settings": "{}"}
    with private_files(given) as (flags, folder):
        assert folder is not None
        assert "secret" not in " ".join(flags)
        assert 0 == stat.S_IMODE(os.stat(folder).st_mode) & 0o077
        paths = {flag: Path(path) for flag, _, path in (flag.partition("=") for flag in flags)}
        assert given == {flag: path.read_text() for flag, path in paths.items()}
        assert {Path(folder)} == {path.parent for path in paths.values()}
    assert not os.path.exists(folder)


def test_where_nothing_is_private_there_are_no_files() -> None:
    """Nor a folder."""
    with private_files({}) as (flags, folder):
        assert ([], None) == (flags, folder)


def test_files_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That is the program's failure to start, and says why; what is private is not shown."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    with pytest.raises(ProcessError, match="cannot write the files for the claude program") as no:
        with private_files({"--settings": "secret"}):
            raise AssertionError("there are none")
    assert isinstance(no.value.__cause__, FileNotFoundError)
    assert "secret" not in str(no.value)


async def test_a_program_is_given_its_files() -> None:
    """As long as it runs."""
    code = "import sys; print(sys.argv[1], open(sys.argv[1].partition('=')[2]).read(), flush=True)"
    async with running(f"{code}; sys.stdin.read()", files={"--settings": '{"a":1}'}) as process:
        flag, said = (await said_by(process)).decode().split()
        assert flag.startswith("--settings=/")
        assert '{"a":1}' == said
    assert not await trio.Path(flag.partition("=")[2]).exists()


# ---- the guardian ----


async def test_the_guardian_stops_what_is_left(groups: list[int], tmp_path: Path) -> None:
    """Who was begun and not reported as gone; who was reported is none of its business."""
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "secret").touch()
    first, second, third = processes = [
        await trio.lowlevel.open_process([sys.executable, "-c", DEAF], start_new_session=True)
        for _ in range(3)
    ]
    groups += [process.pid for process in processes]
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            for process in processes:
                nursery.start_soon(process.wait)
            async with open_guard() as guard:
                await guard.add(first.pid, "mark-1", str(tmp_path / "files"))
                await guard.add(second.pid, "mark-2", None)
                await guard.add(third.pid, "mark-3", None)
                await guard.remove(third.pid)
                assert [None] * 3 == [process.returncode for process in processes]
            assert [-signal.SIGTERM] * 2 == [await first.wait(), await second.wait()]
            assert third.returncode is None
            assert not (tmp_path / "files").exists()
            third.kill()


async def test_a_guardian_is_gone_with_its_block() -> None:
    """At once, when there is nobody left to look after; also where everything is cancelled."""
    began = trio.current_time()
    with trio.fail_after(30), trio.CancelScope() as scope:
        async with open_guard():
            scope.cancel()
            await trio.lowlevel.checkpoint()
    assert scope.cancelled_caught
    assert trio.current_time() - began < 10


async def test_a_guardian_that_somebody_stopped(caplog: pytest.LogCaptureFixture) -> None:
    """That is a warning, and no reason to end a session."""
    with trio.fail_after(60), caplog.at_level(logging.WARNING, logger="trio_claude"):
        async with open_guard() as guard:
            guard._process.kill()
            await guard._process.wait()
            async with running(PATIENT, guard=guard) as process:
                await pid_of(process)
    assert 4 == process.returncode
    messages = {record.getMessage() for record in caplog.records}
    (message,) = messages
    assert f"somebody stopped process {guard._process.pid}" in message


KILLED = """
import sys
import trio
from trio_claude._backends.claude_cli.process import open_guard, open_program

async def main():
    async with open_guard() as guard:
        async with open_program(
            [sys.executable, "-c", sys.argv[1], *sys.argv[2:]],
            files={}, env={}, cwd=None, guard=guard, close_timeout=5,
        ) as process:
            print((await process.stdout.receive_some(100)).decode(), flush=True)
            await trio.sleep_forever()

trio.run(main)
"""


@pytest.mark.parametrize("code", [DEAF, STUBBORN], ids=["deaf", "stubborn"])
async def test_a_program_does_not_outlive_us(code: str) -> None:
    """Not even if this program is killed outright: it is gone within seconds."""
    process = await trio.lowlevel.open_process(
        [sys.executable, "-c", KILLED, PARENT, code], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    with trio.fail_after(60):
        async with process.stdout:
            pid = await pid_of(process)
            group = os.getpgid(pid)
            assert alive(pid)
            process.kill()
            await process.wait()
        with trio.fail_after(15):
            while alive(pid) or alive(group):  # noqa: ASYNC110 - nobody tells us of its end
                await trio.sleep(0.05)


Entry = tuple[int, str | None, str | None]


def guarded(monkeypatch: pytest.MonkeyPatch, *entries: Entry) -> None:
    """Run the guardian in this process, told of this."""
    said = "".join(json.dumps(entry) + "\n" for entry in entries)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(said.encode())))
    before = signal.getsignal(signal.SIGTERM)
    try:
        guardian.main()
    finally:
        signal.signal(signal.SIGTERM, before)


def test_the_guardian_waits_before_it_kills(
    groups: list[int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """First for what ends by itself, then for what ends when it is told to."""
    folder = tmp_path / "a\nfolder \u00e9"
    folder.mkdir()
    monkeypatch.setattr(guardian, "PATIENCE", 0.5)
    stubborn, deaf = started(STUBBORN, groups), started(DEAF, groups)
    began = time.monotonic()
    guarded(monkeypatch, (stubborn.pid, "m1", None), (deaf.pid, "m2", str(folder)))
    assert time.monotonic() - began >= 1.0
    assert -signal.SIGKILL == ended(stubborn)
    assert -signal.SIGTERM == ended(deaf)
    assert not folder.exists()


def test_the_guardian_has_nobody_left(groups: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends at once: its list is empty, or those on it are gone."""
    popen = started(DEAF, groups)
    popen.kill()
    assert -signal.SIGKILL == ended(popen)
    began = time.monotonic()
    monkeypatch.setattr(guardian, "PATIENCE", 60.0)
    guarded(monkeypatch)
    guarded(monkeypatch, (popen.pid, "m1", "/missing"))
    living = started(PATIENT, groups)
    gone = (living.pid, None, None)
    guarded(monkeypatch, (popen.pid, "m1", None), (living.pid, "m2", "/missing"), gone)
    guarded(monkeypatch, gone, (popen.pid, "m1", None))
    assert 4 == ended(living)
    assert time.monotonic() - began < 30


def test_the_guardian_spares_those_of_others(
    groups: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A number that it may not signal is somebody else's by now."""
    popen = started(PATIENT, groups)

    def refuse(group: int, number: int) -> None:
        raise PermissionError

    monkeypatch.setattr(guardian, "PATIENCE", 0.1)
    with monkeypatch.context() as patch:
        patch.setattr(os, "killpg", refuse)
        patch.setattr(os, "kill", refuse)
        guarded(patch, (popen.pid, "m1", None))
    assert popen.poll() is None
    assert 4 == ended(popen)


on_linux = pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell")


@on_linux
def test_those_who_left_the_group_are_known_by_their_mark(
    groups: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is in their environment; nobody else's is the same."""
    monkeypatch.setenv(guardian.MARK, "m1")
    one, two = started(DEAF, groups), started(PATIENT, groups)
    monkeypatch.setenv(guardian.MARK, "m10")
    other = started(PATIENT, groups)
    monkeypatch.delenv(guardian.MARK)
    nobody = started(PATIENT, groups)
    nobody.kill()
    assert -signal.SIGKILL == ended(nobody)

    assert guardian.send_signal(nobody.pid, "m1", 0)
    monkeypatch.setattr(guardian, "PATIENCE", 0.5)
    with monkeypatch.context() as patch:
        guarded(patch, (nobody.pid, "m1", None))
    assert [-signal.SIGTERM] * 2 == [ended(one), ended(two)]
    assert not guardian.send_signal(nobody.pid, "m1", 0)
    assert 4 == ended(other)


def test_where_no_process_tells_its_environment(
    groups: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The group is still known."""
    popen = started(DEAF, groups)
    with monkeypatch.context() as patch:
        patch.setattr(os.path, "isdir", lambda _: False)
        assert guardian.send_signal(popen.pid, "m1", signal.SIGTERM)
    assert -signal.SIGTERM == ended(popen)
    with monkeypatch.context() as patch:
        patch.setattr(os.path, "isdir", lambda _: False)
        assert not guardian.send_signal(popen.pid, "m1", 0)


@on_linux
def test_the_dead_do_not_count(groups: list[int]) -> None:
    """They stay in their group until somebody asks how they ended, which may be never."""
    popen = started(DEAF, groups)
    popen.kill()
    os.waitid(os.P_PID, popen.pid, os.WEXITED | os.WNOWAIT)
    os.killpg(popen.pid, 0)
    assert not guardian.send_signal(popen.pid, "m1", 0)
    assert -signal.SIGKILL == ended(popen)


@on_linux
async def test_who_left_the_group_goes_with_the_program() -> None:
    """A session of its own is no way out, nor is a parent that has ended."""
    code = """
import subprocess, sys
child = [sys.executable, "-c", sys.argv[1]]
subprocess.Popen(child, stdin=subprocess.DEVNULL, start_new_session=True)
sys.stdin.read()
"""
    async with running(code, DEAF, close_timeout=2.0) as process:
        pid = await pid_of(process)
        assert process.pid != os.getpgid(pid)
        assert alive(pid)
    assert 0 == process.returncode
    assert not alive(pid)


@on_linux
@pytest.mark.parametrize("number", [0, signal.SIGTERM])
def test_each_is_signalled_once(
    number: int, groups: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those in the group with it, and by themselves only those who left it."""
    monkeypatch.setenv(guardian.MARK, "m1")
    first, outside = started(DEAF, groups), started(DEAF, groups)
    sent: list[tuple[str, int, int]] = []
    with monkeypatch.context() as patch:
        patch.setattr(os, "killpg", lambda group, given: sent.append(("group", group, given)))
        patch.setattr(os, "kill", lambda pid, given: sent.append(("one", pid, given)))
        assert guardian.send_signal(first.pid, "m1", number)
    assert [("group", first.pid, number), ("one", outside.pid, number)] == sent
    for popen in (first, outside):
        popen.kill()
        assert -signal.SIGKILL == ended(popen)


def test_the_guardian_is_a_script(monkeypatch: pytest.MonkeyPatch) -> None:
    """It runs by itself, without this package."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO()))
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert "__main__" == runpy.run_path(guardian.__file__, run_name="__main__")["__name__"]
    finally:
        signal.signal(signal.SIGTERM, before)


@on_linux
async def test_the_guardian_does_not_mind_sigterm(groups: list[int]) -> None:
    """Whoever stops all processes that there are doesn't keep it from its work."""
    program = await trio.lowlevel.open_process([sys.executable, "-c", DEAF], start_new_session=True)
    groups.append(program.pid)
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(program.wait)
            async with open_guard() as guard:
                await guard.add(program.pid, "mark", None)
                while not _ignores_sigterm(guard._process.pid):  # noqa: ASYNC110 - nobody tells
                    await trio.sleep(0.01)
                guard._process.terminate()
            assert 0 == guard._process.returncode
            assert -signal.SIGTERM == await program.wait()


def _ignores_sigterm(pid: int) -> bool:
    """Whether it has come so far."""
    status = Path(f"/proc/{pid}/status").read_text()
    (mask,) = (line.split()[1] for line in status.splitlines() if line.startswith("SigIgn:"))
    return bool(int(mask, 16) >> (signal.SIGTERM - 1) & 1)


async def test_a_program_is_told_once_to_end(tmp_path: Path) -> None:
    """A second SIGTERM might cut short what it does at the first."""
    code = """
import signal, sys, time

told = 0


def take(*_):
    global told
    told += 1


signal.signal(signal.SIGTERM, take)
print("up", flush=True)
while not told:
    time.sleep(0.01)
time.sleep(0.3)
open(sys.argv[1], "w").write(str(told))
"""
    async with running(code, str(tmp_path / "told"), close_timeout=2.0) as process:
        await said_by(process)
    assert "1" == (tmp_path / "told").read_text()
