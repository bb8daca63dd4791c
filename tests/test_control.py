"""The control's own ends: what it does when it fails itself."""

from __future__ import annotations

import pytest
import trio

from trio_claude import Backoff, SupervisorError, open_supervisor
from trio_claude._supervision.control import Call
from trio_claude.testing import ScriptedBackend

from .support import Record, nothing_left, spec


async def test_a_defect_of_the_control_leaves_nobody_behind() -> None:
    """An unexpected error in the deciding task stops all sessions and fails the supervisor."""
    backend, record = ScriptedBackend(), Record()

    async def defect() -> None:
        raise ZeroDivisionError

    async with nothing_left(backend):
        with pytest.raises(SupervisorError, match="itself failed") as caught:
            async with open_supervisor(
                [spec("a", backend), spec("b", backend)], on_event=record
            ) as supervisor:
                record.moves()
                supervisor._control.post(defect)
                await trio.sleep_forever()
        assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert ["Stopped b", "Stopped a"] == record.moves()


async def test_a_call_has_one_outcome() -> None:
    """What is said of a call after its outcome changes nothing."""

    async def act(call: Call) -> None:
        raise KeyError

    call = Call(act)
    await call.run()
    call.end(None)
    assert isinstance(call.error, KeyError)


async def test_a_backoff_that_makes_the_limit_meaningless_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """With it a single session could crash for ever; the log says so, and what to do."""
    for backoff, said in (
        (Backoff(10, 60), True),
        (Backoff(10, 60, max_consecutive=5), False),
        (Backoff(0.1, 0.1), False),
        (None, False),
    ):
        caplog.clear()
        async with open_supervisor(name="group", backoff=backoff):
            pass
        warnings = [record.getMessage() for record in caplog.records]
        assert said == any("max_consecutive" in message for message in warnings)
