"""One request to the service, and its retries."""

from __future__ import annotations

import contextlib
import random
import time
from typing import TYPE_CHECKING, NoReturn, final

import trio

from ..._errors import APIError, APIStatusError
from ..._wire.api_errors import status_error, unreadable
from ..._wire.retries import explain, retry_delay

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .http_client import HTTPClient, Response

# Enough for any error body of the service, and for the beginning of a proxy's page.
_ERROR_BODY_SIZE = 64 * 1024
_ERROR_BODY_SECONDS = 5.0


@final
class Attempts:
    """The attempts at one request.

    Args:
      client: through which it is sent.
      max_retries: how often it may be sent again.
      max_retry_after: the longest wait, in seconds, that the service may ask for.
    """

    def __init__(self, client: HTTPClient, *, max_retries: int, max_retry_after: float) -> None:
        self._client = client
        self._max_retries = max_retries
        self._max_retry_after = max_retry_after
        self._attempt = 0
        self._headers: Mapping[str, str] = {}

    async def send(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes = b""
    ) -> Response:
        """Send it once, after whatever the service has asked all requests with this key to wait.

        Without retries, nobody wants to wait, and it is sent at once.

        Raises:
          APIStatusError: the service refused it.
          APIConnectionError: there was no answer.
          APIError: the answer cannot be read.
        """
        self._attempt += 1
        self._headers = {}
        key = (headers.get("x-api-key"), headers.get("authorization"))
        if self._max_retries:
            await self._client.gate.wait(key)
        response = await self._client.send(method, url, headers, body)
        encoding = response.headers.get("content-encoding", "identity")
        if 200 <= response.status < 300 and encoding == "identity":
            return response
        try:
            if 200 <= response.status < 300:
                raise unreadable(
                    response.host, f"it is encoded ({encoding}), which was not asked for"
                )
            self._headers = response.headers
            refusal = await _refusal(response)
            pause = refusal.retry_after
            if response.status == 429 and pause is not None and pause <= self._max_retry_after:
                self._client.gate.close(key, pause)
            raise refusal
        finally:
            await response.aclose()

    async def wait_for_next(self, failure: APIError) -> None:
        """Wait until it may be sent again, or raise ``failure`` if it may not."""
        delay = retry_delay(
            failure,
            self._headers,
            attempt=self._attempt,
            max_retries=self._max_retries,
            max_retry_after=self._max_retry_after,
            chance=random.random(),
        )
        if delay is None:
            self.give_up(failure)
        await trio.sleep(delay)

    def give_up(self, failure: APIError) -> NoReturn:
        """Raise ``failure``, which says then what was tried."""
        note = explain(
            failure,
            self._headers,
            attempt=self._attempt,
            max_retry_after=self._max_retry_after,
        )
        if note:
            failure.args = (f"{failure} ({note})",)
        raise failure


async def _refusal(response: Response) -> APIStatusError:
    body = bytearray()
    with contextlib.suppress(APIError), trio.move_on_after(_ERROR_BODY_SECONDS):
        await response.receive_into(body, _ERROR_BODY_SIZE)
    return status_error(
        response.host,
        response.status,
        response.headers,
        bytes(body[:_ERROR_BODY_SIZE]),
        now=time.time(),  # the wall clock, for a date in retry-after
    )
