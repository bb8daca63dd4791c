"""Histories of the real OTP supervisor, replayed against ours."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .otp_replay import OTP_25, main, read, replay, without_unrecorded_stops


def test_a_thousand_histories(capsys: pytest.CaptureFixture[str]) -> None:
    """Events, running, known and fate are OTP's after every step of 1,000 histories."""
    assert 0 == main([str(OTP_25)])
    assert "1000 traces, 2956 steps, 0 mismatches" == capsys.readouterr().out.strip()


@pytest.mark.parametrize("key", ["events", "running", "known", "supervisor", "start"])
def test_an_altered_expectation_is_noticed(
    key: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever is changed in a history is one mismatch, and the exit code 1."""
    trace = json.loads(OTP_25.read_text(encoding="utf-8").splitlines()[0])
    assert not replay(trace)
    step = trace["steps"][0]
    match key:
        case "supervisor":
            step[key] = "exited"
        case "start":
            trace["start"]["result"] = "failed"
        case _:
            step[key] = [*step[key], "z"]
    file = tmp_path / "altered.jsonl"
    file.write_text(json.dumps(trace) + "\n\n", encoding="utf-8")

    assert 1 == main([str(file)])
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("trace 1: step ")
    assert "1 traces, 3 steps, 1 mismatches" == said[-1]


def test_nothing_to_replay_is_a_failure(tmp_path: Path) -> None:
    """No file, and an empty one, prove nothing."""
    empty = tmp_path / "empty.jsonl"
    empty.touch()
    assert 1 == main([])
    assert 1 == main([str(empty)])
    assert [] == list(read(empty))


def test_only_stops_that_no_recorder_could_see_are_left_out() -> None:
    """The stop of a child that was just started, because the next one failed: that one only."""
    a, b = ["started", "a"], ["started", "b"]
    failed, stop_a, stop_b = ["start_failed", "c"], ["stopped", "a"], ["stopped", "b"]
    assert [a, b, failed, stop_a] == without_unrecorded_stops([a, b, failed, stop_b, stop_a])
    assert [a, b, stop_b, stop_a] == without_unrecorded_stops([a, b, stop_b, stop_a])
    assert [a, failed, b, stop_a] == without_unrecorded_stops([a, failed, b, stop_a])
