"""The test kit: sessions without a service, faults on demand, and checks for a backend of yours.

Two more modules need what this one doesn't: :mod:`trio_claude.testing.strategies` (hypothesis)
and :mod:`trio_claude.testing.fixtures` (pytest, pytest-trio, and the simulator's hypercorn).
"""

from .._backends.scripted import ScriptedBackend as ScriptedBackend, ScriptedTurn as ScriptedTurn
from ._check_backend import check_backend as check_backend
from ._crash import crash as crash
from ._schedule import (
    Crash as Crash,
    Mishap as Mishap,
    ScheduleOutcome as ScheduleOutcome,
    run_schedule as run_schedule,
)

for _value in (
    *(ScriptedBackend, ScriptedTurn, check_backend, crash),
    *(Crash, ScheduleOutcome, run_schedule),
):
    _value.__module__ = "trio_claude.testing"
del _value
