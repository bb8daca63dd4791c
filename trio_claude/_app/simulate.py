"""``trio-claude simulate``: the simulator, for other programs to talk to."""

from __future__ import annotations

import errno
import os
import signal

import trio

from ..simulator import open_simulator
from .terminal import write

# Seconds between two events, so that one can see an answer come.
PACE = 0.02

_WELCOME = """\
The Messages API, simulated, is at {url} until Ctrl-C. To use it, in another terminal:

  export ANTHROPIC_BASE_URL={url}
  export ANTHROPIC_API_KEY=simulated
  export NO_PROXY={host}
  trio-claude ask "What can you do?"

"""


async def simulate(port: int) -> None:
    """Serve until SIGINT or SIGTERM.

    Raises:
      OSError: the port cannot be listened on; the message says why.
    """
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        try:
            async with open_simulator(port=port, pace=PACE) as simulator:
                write(_WELCOME.format(url=simulator.base_url, host="127.0.0.1"))
                await anext(signals)
                write(f"\nEnded after {len(simulator.requests)} requests.\n")
        except OSError as exc:
            if exc.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise
            raise OSError(
                f"cannot listen on port {port}: {os.strerror(exc.errno)}; "
                "choose another one with --port"
            ) from exc
