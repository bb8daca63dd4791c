"""The names of model families, looked up in the service's own list."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, final
from urllib.parse import quote

import attrs
import trio

from ..._errors import APIError
from ..._wire.api_errors import unreadable
from ..._wire.models import FAMILIES, Model, models_page, newest
from ..._wire.requests import DEFAULT_MODEL, endpoint, max_retries, request_headers
from .attempts import Attempts

if TYPE_CHECKING:
    from ..._options import SessionOptions
    from .http_client import HTTPClient

# So that a list without an end has one.
_MAX_PAGES = 100


@attrs.define(eq=False)
class _Entry:
    """One service's list, as seen by one credential."""

    lock: trio.Lock = attrs.field(factory=trio.Lock)
    models: list[Model] | None = None
    failures: int = 0
    failure: APIError | None = None


@final
class ModelNames:
    """What the names of families stand for; remembered for as long as the connection lives.

    Args:
      client: through which the list is asked for.
      max_retry_after: the longest wait, in seconds, that the service may ask for.
      max_size: the most bytes that a page of the list may have.
    """

    def __init__(self, client: HTTPClient, *, max_retry_after: float, max_size: int) -> None:
        self._client = client
        self._max_retry_after = max_retry_after
        self._max_size = max_size
        self._entries: dict[tuple[object, ...], _Entry] = {}

    async def resolve(self, options: SessionOptions, user_agent: str) -> str:
        """The name of the model to ask for.

        The first to ask for a family asks the service; those who come meanwhile wait for the same
        answer, good or bad. If the first one is cancelled, the next one asks. A failure is not
        remembered.

        Raises:
          APIError: the list could not be had, or has no model of this family.
        """
        family = options.model or DEFAULT_MODEL
        if family not in FAMILIES:
            return family
        key = (options.base_url, options.api_key, options.auth_token)
        entry = self._entries.setdefault(key, _Entry())
        models = entry.models
        if models is None:
            failures = entry.failures
            async with entry.lock:
                if entry.failure is not None and entry.failures != failures:
                    raise copy.copy(entry.failure) from entry.failure
                if entry.models is None:
                    try:
                        entry.models = await self._ask(options, user_agent)
                    except APIError as exc:
                        entry.failures += 1
                        entry.failure = exc
                        raise
                models = entry.models
        model = newest(family, models)
        if model is None:
            raise APIError(
                f"{endpoint(options, '')} lists no model of the family {family!r}; it has: "
                f"{', '.join(model.id for model in models) or 'none'}"
            )
        return model

    async def _ask(self, options: SessionOptions, user_agent: str) -> list[Model]:
        base = endpoint(options, "/v1/models?limit=1000")
        headers = request_headers(options, user_agent)
        models: list[Model] = []
        url = base
        for _page in range(_MAX_PAGES):
            host, body = await self._page(options, url, headers)
            page, last = models_page(host, body)
            models += page
            if last is None:
                break
            url = f"{base}&after_id={quote(last, safe='')}"
        return models

    async def _page(
        self, options: SessionOptions, url: str, headers: dict[str, str]
    ) -> tuple[str, bytes]:
        attempts = Attempts(
            self._client,
            max_retries=max_retries(options),
            max_retry_after=self._max_retry_after,
        )
        while True:
            try:
                response = await attempts.send("GET", url, headers)
                try:
                    body = bytearray()
                    await response.receive_into(body, self._max_size)
                finally:
                    await response.aclose()
            except APIError as exc:
                failure = exc
            else:
                if len(body) > self._max_size:
                    raise unreadable(response.host, "its list of models is too large")
                return response.host, bytes(body)
            await attempts.wait_for_next(failure)
