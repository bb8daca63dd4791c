"""Whether a backend keeps its promises: one check after the other, and nothing left behind."""

import trio

from .._backends.base import Backend
from .._errors import ConfigurationError
from .._options import SessionOptions, session_options
from ._backend_checks import CHECKS, expect
from ._leftovers import all_tasks, wait_no_task_beside


async def check_backend(backend: Backend, options: SessionOptions | None = None) -> None:
    """Raise AssertionError for the first promise of :class:`~trio_claude.Backend` that is broken.

    Takes some twenty turns, one after the other. Call it in a run of its own or in a test: tasks
    that others start meanwhile are taken for the backend's. If cancelled, the check is given up.

    Args:
      backend: it must answer from the conversation, as models and the simulator do.
      options: those of the sessions, above the application's and the environment's. A check that
        takes longer than their ``timeout`` has failed.

    Raises:
      AssertionError: a promise is broken; the message begins with the name of the check.
      ConfigurationError: ``backend`` is none, or the options don't suit it.
      Exception: whatever else the backend raises, with a note that names the check.
    """
    if not isinstance(backend, Backend):
        raise ConfigurationError(f"backend must be a Backend, not {backend!r}")
    merged = session_options(options or SessionOptions())
    assert merged.timeout is not None
    for check in CHECKS:
        before = all_tasks()
        try:
            with trio.move_on_after(merged.timeout) as scope:
                await check(backend, merged)
            expect(not scope.cancelled_caught, f"has not ended after {merged.timeout:g} seconds")
            left = await wait_no_task_beside(before)
            expect(not left, f"the connection is closed, and these tasks are left: {left}")
        except AssertionError as exc:
            raise AssertionError(f"{check.__name__}: {exc}") from exc
        except Exception as exc:
            exc.add_note(f"in the check {check.__name__} of {backend!r}")
            raise
