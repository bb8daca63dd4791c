"""When a request that failed is sent again, as a pure decision."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._errors import APIError, APIStatusError
from .api_errors import is_transient

if TYPE_CHECKING:
    from collections.abc import Mapping

# Those of the official client: 0.5 s, doubling to 8 s, each shortened by up to a quarter, so that
# callers who failed together do not come back together.
_FIRST_DELAY = 0.5
_LONGEST_DELAY = 8.0
_JITTER = 0.25


def retry_delay(
    failure: APIError,
    headers: Mapping[str, str],
    *,
    attempt: int,
    max_retries: int,
    max_retry_after: float,
    chance: float,
) -> float | None:
    """Seconds to wait before the request is sent again, or None if it is not.

    Args:
      failure: how it failed.
      headers: the answer's, their names in lower case; empty where there was none.
      attempt: how often it was sent, this time too.
      max_retries: how often it may be sent again.
      max_retry_after: the longest wait, in seconds, that the service may ask for.
      chance: a random number from 0 to 1.
    """
    if attempt > max_retries or not is_transient(failure, headers):
        return None
    asked = failure.retry_after if isinstance(failure, APIStatusError) else None
    if asked is None:
        delay = min(_FIRST_DELAY * 2.0 ** min(attempt - 1, 10), _LONGEST_DELAY)
        return delay * (1 - _JITTER * chance)
    return asked if asked <= max_retry_after else None


def explain(
    failure: APIError, headers: Mapping[str, str], *, attempt: int, max_retry_after: float
) -> str:
    """Why a request that failed is not sent again, where the failure itself does not say it."""
    words = []
    if attempt > 1:
        words.append(f"it was tried {attempt} times")
    asked = failure.retry_after if isinstance(failure, APIStatusError) else None
    if asked is not None and asked > max_retry_after and is_transient(failure, headers):
        words.append(
            f"the service asks to wait {asked:g} seconds, which is more than the backend's "
            f"max_retry_after of {max_retry_after:g}"
        )
    return "; ".join(words)
