"""Supervised Claude sessions for Trio: named, streamed, and started again when they crash.

Begin with :func:`open_supervisor`, :class:`SessionSpec`, :func:`query` and :func:`stream`.
"""

from . import streams as streams
from ._backends.base import (
    Backend as Backend,
    Connection as Connection,
    Conversation as Conversation,
)
from ._backends.claude_cli import CLIBackend as CLIBackend
from ._backends.messages_api import MessagesBackend as MessagesBackend
from ._callbacks import (
    CanUseTool as CanUseTool,
    HookCallback as HookCallback,
    HookEvent as HookEvent,
    HookMatcher as HookMatcher,
    PermissionResult as PermissionResult,
    PermissionResultAllow as PermissionResultAllow,
    PermissionResultDeny as PermissionResultDeny,
    ToolPermissionContext as ToolPermissionContext,
)
from ._errors import (
    APIConnectionError as APIConnectionError,
    APIError as APIError,
    APIStatusError as APIStatusError,
    AuthenticationError as AuthenticationError,
    BadRequestError as BadRequestError,
    BillingError as BillingError,
    CLINotFound as CLINotFound,
    ClusterError as ClusterError,
    ConfigurationError as ConfigurationError,
    ConflictError as ConflictError,
    ControlError as ControlError,
    InternalServerError as InternalServerError,
    Interrupted as Interrupted,
    NotFoundError as NotFoundError,
    OverloadedError as OverloadedError,
    PermissionDeniedError as PermissionDeniedError,
    ProcessError as ProcessError,
    ProtocolError as ProtocolError,
    QueryError as QueryError,
    QueryTimeout as QueryTimeout,
    RateLimitError as RateLimitError,
    RequestTooLargeError as RequestTooLargeError,
    RestartIntensityExceeded as RestartIntensityExceeded,
    ResultError as ResultError,
    SessionBusy as SessionBusy,
    SessionCrashed as SessionCrashed,
    SessionExists as SessionExists,
    SessionNotFound as SessionNotFound,
    SessionRestarted as SessionRestarted,
    SessionTerminated as SessionTerminated,
    StreamInterrupted as StreamInterrupted,
    SupervisorError as SupervisorError,
    TooManySessions as TooManySessions,
    TrioClaudeError as TrioClaudeError,
    UnprocessableEntityError as UnprocessableEntityError,
    UsageError as UsageError,
)
from ._messages import (
    AssistantMessage as AssistantMessage,
    ContentBlock as ContentBlock,
    Event as Event,
    InputJSONDelta as InputJSONDelta,
    RedactedThinkingBlock as RedactedThinkingBlock,
    ResultMessage as ResultMessage,
    SystemMessage as SystemMessage,
    TextBlock as TextBlock,
    TextDelta as TextDelta,
    ThinkingBlock as ThinkingBlock,
    ThinkingDelta as ThinkingDelta,
    ToolResultBlock as ToolResultBlock,
    ToolUseBlock as ToolUseBlock,
    UnknownBlock as UnknownBlock,
    UnknownMessage as UnknownMessage,
    Usage as Usage,
    UserMessage as UserMessage,
)
from ._options import (
    SessionOptions as SessionOptions,
    SessionSpec as SessionSpec,
    configure as configure,
)
from ._session.handle import SessionHandle as SessionHandle
from ._session.stream import ResponseStream as ResponseStream
from ._supervision.asking import query as query, stream as stream
from ._supervision.events import (
    IntensityExceeded as IntensityExceeded,
    RestartScheduled as RestartScheduled,
    SessionEvent as SessionEvent,
    SessionExited as SessionExited,
    SessionReady as SessionReady,
    SessionStarting as SessionStarting,
    SessionStopped as SessionStopped,
    SupervisorEvent as SupervisorEvent,
    SupervisorStarted as SupervisorStarted,
    SupervisorStopped as SupervisorStopped,
)
from ._supervision.info import (
    SessionInfo as SessionInfo,
    SupervisorStatistics as SupervisorStatistics,
)
from ._supervision.names import (
    Global as Global,
    LocalRegistry as LocalRegistry,
    Registry as Registry,
    Via as Via,
    get_session as get_session,
    get_supervisor as get_supervisor,
    whereis as whereis,
)
from ._supervision.opening import (
    open_session as open_session,
    open_supervisor as open_supervisor,
    run_supervisor as run_supervisor,
)
from ._supervision.policy import Backoff as Backoff, RestartIntensity as RestartIntensity
from ._supervision.spec import SupervisorSpec as SupervisorSpec
from ._supervision.supervisor import Supervisor as Supervisor

# Users see where to import a name from, not the private file that it is written in: in tracebacks,
# in a repr, in the reference.
for _value in list(vars().values()):
    if getattr(_value, "__module__", "").startswith("trio_claude._"):
        _value.__module__ = "trio_claude"
del _value
