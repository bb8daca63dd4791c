"""What a supervisor reports: frozen values, and how they look in the log."""

from __future__ import annotations

import logging

import attrs
import pytest

import trio_claude
from trio_claude import (
    IntensityExceeded,
    RestartScheduled,
    SessionExited,
    SessionReady,
    SessionStarting,
    SessionStopped,
    SupervisorEvent,
    SupervisorStarted,
    SupervisorStopped,
)
from trio_claude._supervision.events import log_event

from .support import spec

CAUSE = ValueError("the cause")


@pytest.mark.parametrize(
    ("event", "level", "text", "cause"),
    [
        (
            SessionExited(
                supervisor="s", time=1.0, session="a", incarnation=1, cause=None, uptime=1.0
            ),
            "INFO",
            "supervisor 's': session 'a' finished",
            None,
        ),
        (
            SessionExited(
                supervisor="s", time=1.0, session="a", incarnation=1, cause=CAUSE, uptime=None
            ),
            "WARNING",
            "supervisor 's': session 'a' failed to start",
            CAUSE,
        ),
        (
            SessionExited(
                supervisor=None, time=1.0, session="a", incarnation=2, cause=CAUSE, uptime=1.0
            ),
            "WARNING",
            "session 'a' crashed",
            CAUSE,
        ),
        (
            SessionStopped(supervisor=None, time=1.0, session="a", incarnation=1, cause=CAUSE),
            "WARNING",
            "session 'a' failed while stopping",
            CAUSE,
        ),
        (
            IntensityExceeded(supervisor="s", time=1.0, session="a", cause=CAUSE),
            "ERROR",
            "supervisor 's': gives up: too many restarts, last of session 'a'",
            None,
        ),
        (
            SessionStopped(supervisor=None, time=1.0, session="a", incarnation=1, cause=None),
            "INFO",
            "SessionStopped(supervisor=None, time=1.0, session='a', incarnation=1, cause=None)",
            None,
        ),
        (
            SupervisorStopped(supervisor="s", time=2.0, reason="left"),
            "INFO",
            "supervisor 's': SupervisorStopped(supervisor='s', time=2.0, reason='left')",
            None,
        ),
    ],
)
def test_how_an_event_is_logged(
    event: SupervisorEvent,
    level: str,
    text: str,
    cause: Exception | None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Trouble is a warning or an error, with what it came from; the rest is information."""
    with caplog.at_level(logging.INFO, logger="trio_claude"):
        log_event(event)

    (record,) = caplog.records
    assert (record.levelname, record.getMessage()) == (level, text)
    assert (record.exc_info[1] if record.exc_info else None) is cause


async def test_events_go_to_the_log_by_default(caplog: pytest.LogCaptureFixture) -> None:
    """Who gives no ``on_event`` finds them under ``trio_claude``."""
    with caplog.at_level(logging.INFO, logger="trio_claude"):
        async with trio_claude.open_supervisor([spec("a")], name="s"):
            pass

    assert {record.name for record in caplog.records} == {"trio_claude"}
    words = [record.getMessage().split("(")[0] for record in caplog.records]
    assert words == [
        "supervisor 's': SessionStarting",
        "supervisor 's': SessionReady",
        "supervisor 's': SupervisorStarted",
        "supervisor 's': SessionStopped",
        "supervisor 's': SupervisorStopped",
    ]


@pytest.mark.parametrize(
    "kind",
    [
        SupervisorStarted,
        SupervisorStopped,
        IntensityExceeded,
        SessionStarting,
        SessionReady,
        SessionExited,
        RestartScheduled,
        SessionStopped,
    ],
)
def test_events_are_frozen_values(kind: type[SupervisorEvent]) -> None:
    """Equal by value, unchangeable, with the supervisor and the time, by keyword only."""
    fields = {field.name: 1 for field in attrs.fields(kind)}
    event = kind(**fields)

    assert event == kind(**fields)
    assert {"supervisor", "time"} <= set(fields)
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        event.time = 2.0  # type: ignore[misc]
    with pytest.raises(TypeError):
        kind(*fields.values())  # type: ignore[call-arg]
