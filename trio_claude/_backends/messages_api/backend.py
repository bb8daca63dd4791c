"""The Messages API as a backend."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from contextlib import asynccontextmanager, nullcontext
from typing import TYPE_CHECKING, Any, final

import attrs
import trio

from ..._validation import checked, is_count, is_seconds, refuse_none, refuse_unknown
from ..._wire.requests import (
    Raw,
    endpoint,
    refuse_unsupported,
    request_body,
    request_headers,
)
from ..base import Backend, Connection, Conversation
from .models import ModelNames
from .turn import StreamedAnswer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from contextlib import AbstractAsyncContextManager

    from ..._messages import Event
    from ..._options import SessionOptions
    from .http_client import HTTPClient


def _seconds_above_0(value: object) -> bool:
    return is_seconds(value) and value != 0


_TIMEOUT = checked(_seconds_above_0, "a number of seconds above 0")


@final
@attrs.frozen(kw_only=True)
class MessagesBackend(Backend):
    """The Messages API over HTTP; its answers are always streamed.

    Each supervisor has one pool of connections for all of its sessions with an equal backend. The
    environment's proxies are used, as by any client on httpx; redirects are not followed.

    A model named ``"opus"``, ``"sonnet"`` or ``"haiku"`` is the newest of that family in the
    service's own list, which is asked for once in a supervisor's life.

    Raises:
      ConfigurationError: a setting is unknown or invalid; the message names it.
    """

    if not TYPE_CHECKING:

        def __init__(self, **settings: Any) -> None:
            # Written by hand, so that a typo is a ConfigurationError with a hint.
            refuse_unknown(type(self), settings)
            self.__attrs_init__(**settings)

    connect_timeout: float = attrs.field(default=5.0, validator=_TIMEOUT)
    """Seconds for a connection to be made."""

    idle_timeout: float = attrs.field(default=60.0, validator=_TIMEOUT)
    """Seconds without a single byte from the service after which an answer is given up."""

    progress_timeout: float = attrs.field(default=180.0, validator=_TIMEOUT)
    """Seconds without anything but pings after which an answer is given up."""

    max_retry_after: float = attrs.field(
        default=300.0, validator=checked(is_seconds, "a number of seconds, 0 or more")
    )
    """The longest wait, in seconds, that the service may ask for before a retry. If it asks for
    more, the request is not sent again."""

    # The official client's default. The limit is there for the sockets, not for the service, which
    # has limits of its own: far above what one process asks at once, and at most systems' limit
    # of 1024 open files.
    max_connections: int = attrs.field(
        default=1000,
        validator=checked(lambda value: is_count(value, 1), "a whole number, 1 or more"),
    )
    """How many answers can be under way at once; further ones wait for their turn."""

    max_event_size: int = attrs.field(
        default=32 * 1024 * 1024,
        validator=checked(lambda value: is_count(value, 1), "a whole number of bytes, 1 or more"),
    )
    """The most bytes that one event of an answer may have. What is larger fails the turn."""

    def __attrs_post_init__(self) -> None:
        refuse_none(self, *(field.name for field in attrs.fields(type(self))))

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[MessagesConnection]:
        """Open a pool of connections; it is closed when the block is left.

        Raises:
          ConfigurationError: the environment's proxies or certificates cannot be used.
        """
        # Here, for it brings httpcore and what that brings, as much again as the rest of this library:
        # who only imports it doesn't need that.
        from .http_client import open_http_client

        async with open_http_client(
            connect_timeout=self.connect_timeout,
            idle_timeout=self.idle_timeout,
            progress_timeout=self.progress_timeout,
            max_connections=self.max_connections,
        ) as client:
            yield MessagesConnection(self, client)


@final
class MessagesConnection(Connection):
    """A pool of connections, and what the names of model families stand for."""

    def __init__(self, backend: MessagesBackend, client: HTTPClient) -> None:
        self.backend = backend
        self.client = client
        self.user_agent = f"trio-claude/{_version()}"
        self.models = ModelNames(
            client,
            max_retry_after=backend.max_retry_after,
            max_size=backend.max_event_size,
        )
        self._checked: Mapping[str, Any] | None = None

    def open(self, options: SessionOptions) -> AbstractAsyncContextManager[MessagesConversation]:
        """Begin a conversation that remembers nothing. Nothing is sent, and nothing kept open.

        Raises:
          ConfigurationError: there is no API key, or something cannot be sent, or an option is
            not one of this backend.
        """
        # Most sessions of a supervisor have equal options, and these checks cost a tenth of a start.
        if vars(options) != self._checked:
            refuse_unsupported(options)
            self.client.check_address(endpoint(options, ""))
            request_headers(options, self.user_agent)
            request_body([], options.model, options)
            self._checked = None if _can_change(options) else vars(options)
        return nullcontext(MessagesConversation(self))


@final
class MessagesConversation(Conversation):
    """A conversation, kept here and sent whole with each turn."""

    def __init__(self, connection: MessagesConnection) -> None:
        self._connection = connection
        self._session_id: str | None = None
        self._history: Sequence[Raw] = ()

    @asynccontextmanager
    async def turn(
        self, prompt: str, options: SessionOptions
    ) -> AsyncIterator[trio.abc.ReceiveChannel[Event]]:
        """Ask, and receive the answer's events.

        The question has been sent when the block is entered. The events are read from the socket
        as they are received; a ``receive`` that is cancelled may lose the turn.

        Raises:
          APIError: the turn failed; the conversation is as it was before.
          ConfigurationError: the options cannot be sent, or are not of this backend.
        """
        refuse_unsupported(options)
        if self._session_id is None:
            self._session_id = str(uuid.uuid4())
        started = trio.current_time()
        connection = self._connection
        answer = StreamedAnswer(
            client=connection.client,
            backend=connection.backend,
            options=options,
            model=await connection.models.resolve(options, connection.user_agent),
            user_agent=connection.user_agent,
            session_id=self._session_id,
            history=self._history,
            prompt=prompt,
            started=started,
        )
        try:
            await answer.ask()
            yield answer
        finally:
            await answer.hang_up()
        self._history = answer.history


def _can_change(options: SessionOptions) -> bool:
    """Whether there is a mapping in it, which may hold something else the next time."""
    return any(isinstance(value, Mapping) for value in vars(options).values())


def _version() -> str:
    from importlib import metadata  # here, for it would be a fifth of the whole package's import

    try:
        return metadata.version("trio-claude")
    except metadata.PackageNotFoundError:  # run from a checkout
        return "0"
