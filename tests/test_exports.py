"""What users can import, by name: a name that comes or goes is meant to."""

from __future__ import annotations

import types

import trio_claude
from trio_claude import _errors, cluster, simulator, testing

EXPORTS = """
APIConnectionError APIError APIStatusError AssistantMessage AuthenticationError Backend Backoff
BadRequestError BillingError CLIBackend CLINotFound CanUseTool ClusterError ConfigurationError
ConflictError Connection ContentBlock ControlError Conversation Event Global HookCallback HookEvent HookMatcher
InputJSONDelta IntensityExceeded InternalServerError Interrupted LocalRegistry MessagesBackend
NotFoundError OverloadedError PermissionDeniedError PermissionResult PermissionResultAllow
PermissionResultDeny ProcessError ProtocolError QueryError QueryTimeout RateLimitError
RedactedThinkingBlock Registry RequestTooLargeError ResponseStream RestartIntensity
RestartIntensityExceeded RestartScheduled ResultError ResultMessage SessionBusy SessionCrashed
SessionEvent SessionExists SessionExited SessionHandle SessionInfo SessionNotFound SessionOptions
SessionReady SessionRestarted SessionSpec SessionStarting SessionStopped SessionTerminated
StreamInterrupted Supervisor SupervisorError SupervisorEvent SupervisorSpec SupervisorStarted
SupervisorStatistics SupervisorStopped SystemMessage TextBlock TextDelta ThinkingBlock
ThinkingDelta TooManySessions ToolPermissionContext ToolResultBlock ToolUseBlock TrioClaudeError
UnknownBlock UnknownMessage UnprocessableEntityError Usage UsageError UserMessage Via configure
get_session get_supervisor open_session open_supervisor query run_supervisor stream streams whereis
"""


def _public(module: types.ModuleType) -> list[str]:
    return sorted(
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and (not isinstance(value, types.ModuleType) or name == "streams")
    )


def test_the_public_names() -> None:
    """`trio_claude` has exactly these."""
    assert sorted(EXPORTS.split()) == _public(trio_claude)


def test_every_error_is_public() -> None:
    """Whatever can be raised can be caught by name."""
    raised = {
        name
        for name, value in vars(_errors).items()
        if isinstance(value, type)
        and issubclass(value, _errors.TrioClaudeError)
        and not name.startswith("_")
    }
    assert raised <= set(EXPORTS.split())


def test_the_other_modules() -> None:
    """The test kit, the simulator and the cluster have what the reference says."""
    kit = {"ScriptedBackend", "ScriptedTurn", "check_backend", "crash"}
    assert kit <= set(_public(testing))
    assert {"Reply", "Simulator", "open_simulator"} <= set(_public(simulator))
    assert {"Group", "Pool", "connect", "open_group"} <= set(_public(cluster))


def test_public_names_say_where_they_are_public() -> None:
    """Tracebacks and reprs name the module to import from, and each class has a docstring."""
    for name in EXPORTS.split():
        value = getattr(trio_claude, name)
        if isinstance(value, type | types.FunctionType):
            assert "trio_claude" == value.__module__, name
            assert value.__doc__, name
