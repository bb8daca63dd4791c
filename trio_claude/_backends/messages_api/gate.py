"""What one refusal means for all others: a rate limit belongs to a key, not to a session."""

from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING, final

import trio

if TYPE_CHECKING:
    from collections.abc import Hashable

# Those who were held back together do not come back together: up to a tenth of the pause later, but
# no more than a second.
_SPREAD = 0.1
_LONGEST_SPREAD = 1.0


@final
class Gate:
    """Holds back the requests with one key while the service has asked to wait.

    Asking on meanwhile would be refused as well, and use up the retries of every session.
    """

    def __init__(self) -> None:
        self._closed_until: dict[Hashable, float] = {}

    def close(self, key: Hashable, seconds: float) -> None:
        """Hold back the requests with this key for so long."""
        until = trio.current_time() + seconds
        self._closed_until[key] = max(until, self._closed_until.get(key, -math.inf))

    async def wait(self, key: Hashable) -> None:
        """Wait until requests with this key may be sent."""
        # It may be closed for longer meanwhile. No event is waited for here, but a time.
        while (left := self._closed_until.get(key, -math.inf) - trio.current_time()) > 0:  # noqa: ASYNC110
            await trio.sleep(left + min(left * _SPREAD, _LONGEST_SPREAD) * random.random())
