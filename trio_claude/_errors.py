"""What can go wrong, as one tree.

::

    TrioClaudeError
    ├─ ConfigurationError(ValueError)
    │  └─ CLINotFound
    ├─ UsageError(RuntimeError)
    ├─ SessionNotFound(LookupError) · SessionExists(ValueError)
    ├─ SessionBusy · TooManySessions
    ├─ QueryError                                  this turn failed; the session is fine
    │  ├─ APIError
    │  │  ├─ APIConnectionError
    │  │  ├─ StreamInterrupted
    │  │  └─ APIStatusError
    │  │     └─ BadRequestError 400 · AuthenticationError 401 · BillingError 402
    │  │        · PermissionDeniedError 403 · NotFoundError 404 · ConflictError 409
    │  │        · RequestTooLargeError 413 · UnprocessableEntityError 422
    │  │        · RateLimitError 429 · InternalServerError 5xx · OverloadedError 529
    │  ├─ ResultError
    │  ├─ QueryTimeout(trio.TooSlowError)
    │  └─ Interrupted
    ├─ SessionCrashed(trio.BrokenResourceError)
    ├─ SessionRestarted(trio.BrokenResourceError)
    ├─ SessionTerminated(trio.BrokenResourceError)
    ├─ ProcessError · ProtocolError
    ├─ ControlError
    ├─ ClusterError
    └─ SupervisorError
       └─ RestartIntensityExceeded

A :class:`QueryError` or :class:`ConfigurationError` of a turn goes to its caller and never crashes
the session; any other exception that escapes a turn does. Each class takes its message first and everything else as keywords with defaults, so that the errors
can be copied and pickled.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio

if TYPE_CHECKING:
    from collections.abc import Hashable

    from ._messages import AssistantMessage, ResultMessage


class TrioClaudeError(Exception):
    """The base of every error that this library raises of its own."""


class ConfigurationError(TrioClaudeError, ValueError):
    """A bad option, or a missing API key. Your code is at fault; the message names the option."""


class CLINotFound(ConfigurationError):
    """There is no ``claude`` program where it was looked for. The message says how to install it."""


class UsageError(TrioClaudeError, RuntimeError):
    """A call that cannot work from where it was made.

    From outside Trio, from another thread or another run than the session's own, or from inside
    the very session that it would have to wait for.
    """


class SessionNotFound(TrioClaudeError, LookupError):
    """No session, or no supervisor, has this name or id. The message names those that there are."""


class SessionExists(TrioClaudeError, ValueError):
    """The name or the id is taken."""


class SessionBusy(TrioClaudeError):
    """More callers than ``max_queue`` would wait for this session. Nothing was sent."""


class TooManySessions(TrioClaudeError):
    """The supervisor already has ``max_sessions`` sessions. Nothing was started."""


class QueryError(TrioClaudeError):
    """This turn failed; the session is fine, and its conversation is as it was before the turn."""

    partial: AssistantMessage | None
    """What had been answered so far, or None."""

    def __init__(self, message: str = "", *, partial: AssistantMessage | None = None) -> None:
        super().__init__(message)
        self.partial = partial


class APIError(QueryError):
    """The Messages API could not be reached, broke off, or refused the request."""


class APIConnectionError(APIError):
    """The service could not be reached, or the connection broke before the answer began."""


class StreamInterrupted(APIError):
    """The answer ended before it was whole."""


class APIStatusError(APIError):
    """The service answered with an error.

    Source: https://docs.claude.com/en/api/errors
    """

    status_code: int
    """The HTTP status; 200 when the error came as an event inside a stream."""

    type: str | None
    """The service's own word for it, such as ``"overloaded_error"``, or None."""

    request_id: str | None
    """The service's id of the request, to be quoted to its support, or None."""

    retry_after: float | None
    """Seconds after which the service allows another try, or None."""

    body: object
    """The body as decoded JSON, or as text where it is not JSON, or None where it was empty."""

    def __init__(
        self,
        message: str = "",
        *,
        status_code: int = 0,
        type: str | None = None,  # noqa: A002 - the API's own name for it
        request_id: str | None = None,
        retry_after: float | None = None,
        body: Any = None,
        partial: AssistantMessage | None = None,
    ) -> None:
        super().__init__(message, partial=partial)
        self.status_code = status_code
        self.type = type
        self.request_id = request_id
        self.retry_after = retry_after
        self.body = body


class BadRequestError(APIStatusError):
    """400: the request is malformed. Asking again as it is will not help."""


class AuthenticationError(APIStatusError):
    """401: the API key or token is not accepted.

    On the ``claude`` program also, without a status, that it has none.
    """


class BillingError(APIStatusError):
    """402: there is a problem with billing or payment."""


class PermissionDeniedError(APIStatusError):
    """403: the key may not use this resource."""


class NotFoundError(APIStatusError):
    """404: no such model or resource."""


class ConflictError(APIStatusError):
    """409: the request conflicts with the state of the resource."""


class RequestTooLargeError(APIStatusError):
    """413: the request is larger than the service takes (32 MB)."""


class UnprocessableEntityError(APIStatusError):
    """422: the request is well formed but cannot be followed."""


class RateLimitError(APIStatusError):
    """429: a rate limit was hit, and the retries did not get past it."""


class InternalServerError(APIStatusError):
    """5xx: the service failed, and the retries did not help."""


class OverloadedError(APIStatusError):
    """529: the service is overloaded, and the retries did not help."""


class ResultError(QueryError):
    """The agent itself reported that the turn failed."""

    result: ResultMessage | None
    """The agent's own report."""

    def __init__(
        self,
        message: str = "",
        *,
        result: ResultMessage | None = None,
        partial: AssistantMessage | None = None,
    ) -> None:
        super().__init__(message, partial=partial)
        self.result = result


class QueryTimeout(QueryError, trio.TooSlowError):
    """The turn took longer than its ``timeout`` allows."""


class Interrupted(QueryError):
    """Somebody called ``interrupt`` during this turn, or left its stream, or denied a tool so."""


class _TurnLost(TrioClaudeError, trio.BrokenResourceError):
    """What the three ways to lose a turn with its session have in common."""

    name: Hashable
    """The session's name, or its id where it has no name."""

    def __init__(self, message: str = "", *, name: Hashable = None) -> None:
        super().__init__(message)
        self.name = name


class SessionCrashed(_TurnLost):
    """The session died during this turn; ``__cause__`` says why.

    Its supervisor starts it again, if its restart type says so, with an empty conversation. The
    question is not asked again by itself: nobody knows how much of it was done.
    """


class SessionRestarted(_TurnLost):
    """The session was restarted during this turn: on request, or along with its group."""


class SessionTerminated(_TurnLost):
    """The session is gone: terminated, finished, or its supervisor ended."""


class ProcessError(TrioClaudeError):
    """The ``claude`` program ended, or could not be started. It crashes the session."""

    exit_code: int | None
    """The exit code; negative for the signal that ended it; None while it has none."""

    stderr: str
    """The last lines that the program wrote to its standard error, 8 KiB at most."""

    def __init__(
        self, message: str = "", *, exit_code: int | None = None, stderr: str = ""
    ) -> None:
        super().__init__(message)
        self.exit_code = exit_code
        self.stderr = stderr


class ProtocolError(TrioClaudeError):
    """The other side sent what cannot be read. It crashes the session."""


class ControlError(TrioClaudeError):
    """The ``claude`` program refused what it was asked for by a handle's method, or didn't answer.

    The session is fine.
    """

    refused: bool
    """Whether it was refused; else nobody knows whether it was done."""

    def __init__(self, message: str = "", *, refused: bool = False) -> None:
        super().__init__(message)
        self.refused = refused


class ClusterError(TrioClaudeError):
    """The Ray cluster could not be reached, or this process or a group has lost it."""


class SupervisorError(TrioClaudeError):
    """The supervisor itself failed, from the exception in ``__cause__``.

    Its ``on_event`` raised, or a name registry did, or a backend's connection broke down.
    """


class RestartIntensityExceeded(SupervisorError):
    """Sessions crashed more often than the supervisor may restart them, so it gave up.

    ``__cause__`` is an exception group of the last crash and, if there was one, the error that
    the block under ``async with`` ended with.
    """

    name: Hashable
    """The supervisor's name, or None."""

    max_restarts: int
    """How many restarts it allows ..."""

    max_seconds: float
    """... within so many seconds."""

    def __init__(
        self,
        message: str = "",
        *,
        name: Hashable = None,
        max_restarts: int = 0,
        max_seconds: float = 0.0,
    ) -> None:
        super().__init__(message)
        self.name = name
        self.max_restarts = max_restarts
        self.max_seconds = max_seconds
