"""The tree of errors: its shape, what each carries, and that each can be copied and pickled."""

import copy
import inspect
import pickle

import pytest
import trio

import trio_claude
from trio_claude import (
    APIStatusError,
    AssistantMessage,
    ProcessError,
    QueryError,
    RestartIntensityExceeded,
    ResultError,
    ResultMessage,
    TextBlock,
    TrioClaudeError,
    Usage,
    _errors,
)

# Each class and what it is made of, as docs/guides/errors.md draws it.
TREE: dict[str, tuple[type | str, ...]] = {
    "TrioClaudeError": (Exception,),
    "ConfigurationError": ("TrioClaudeError", ValueError),
    "UsageError": ("TrioClaudeError", RuntimeError),
    "SessionNotFound": ("TrioClaudeError", LookupError),
    "SessionExists": ("TrioClaudeError", ValueError),
    "SessionBusy": ("TrioClaudeError",),
    "TooManySessions": ("TrioClaudeError",),
    "QueryError": ("TrioClaudeError",),
    "APIError": ("QueryError",),
    "APIConnectionError": ("APIError",),
    "StreamInterrupted": ("APIError",),
    "APIStatusError": ("APIError",),
    "BadRequestError": ("APIStatusError",),
    "AuthenticationError": ("APIStatusError",),
    "BillingError": ("APIStatusError",),
    "PermissionDeniedError": ("APIStatusError",),
    "NotFoundError": ("APIStatusError",),
    "ConflictError": ("APIStatusError",),
    "RequestTooLargeError": ("APIStatusError",),
    "UnprocessableEntityError": ("APIStatusError",),
    "RateLimitError": ("APIStatusError",),
    "InternalServerError": ("APIStatusError",),
    "OverloadedError": ("APIStatusError",),
    "ResultError": ("QueryError",),
    "QueryTimeout": ("QueryError", trio.TooSlowError),
    "Interrupted": ("QueryError",),
    "SessionCrashed": ("TrioClaudeError", trio.BrokenResourceError),
    "SessionRestarted": ("TrioClaudeError", trio.BrokenResourceError),
    "SessionTerminated": ("TrioClaudeError", trio.BrokenResourceError),
    "CLINotFound": ("ConfigurationError",),
    "ProcessError": ("TrioClaudeError",),
    "ProtocolError": ("TrioClaudeError",),
    "ControlError": ("TrioClaudeError",),
    "ClusterError": ("TrioClaudeError",),
    "SupervisorError": ("TrioClaudeError",),
    "RestartIntensityExceeded": ("SupervisorError",),
}
PARTIAL = AssistantMessage((TextBlock("Well, "),), model="opus", usage=Usage(1, 2))
RESULT = ResultMessage("no", subtype="error", is_error=True)


def error_class(name: str) -> type[TrioClaudeError]:
    """The public class of this name."""
    found: type[TrioClaudeError] = getattr(trio_claude, name)
    return found


def filled(name: str) -> TrioClaudeError:
    """One with everything set that it can carry."""
    cls = error_class(name)
    values: dict[str, object] = {
        "partial": PARTIAL,
        "result": RESULT,
        "status_code": 529,
        "type": "overloaded_error",
        "request_id": "req_1",
        "retry_after": 2.5,
        "refused": True,
        "body": {"error": {"message": "busy"}},
        "name": ("a", 1),
        "max_restarts": 3,
        "max_seconds": 5.0,
        "exit_code": -9,
        "stderr": "no memory",
    }
    parameters = inspect.signature(cls.__init__).parameters.values()
    given = {p.name: values[p.name] for p in parameters if p.kind is p.KEYWORD_ONLY}
    return cls("it went wrong", **given)


every_error = pytest.mark.parametrize("name", TREE)


def test_the_tree_has_these_and_no_others() -> None:
    """Every public class of the module is in it, and is exported."""
    classes = {
        name
        for name, value in vars(_errors).items()
        if inspect.isclass(value) and issubclass(value, Exception) and not name.startswith("_")
    }
    assert classes == TREE.keys()
    assert classes <= vars(trio_claude).keys()


@every_error
def test_each_class_stands_where_the_contract_says(name: str) -> None:
    """Below exactly these: no other class of the tree or of Python's or Trio's is above it."""
    cls = error_class(name)
    above = {parent if isinstance(parent, type) else error_class(parent) for parent in TREE[name]}
    expected = {cls}.union(*(parent.__mro__ for parent in above))
    assert {parent for parent in cls.__mro__ if not parent.__name__.startswith("_")} == expected


@every_error
def test_each_class_says_what_it_is(name: str) -> None:
    """It has a docstring of its own, and users see it where they import it from."""
    cls = error_class(name)
    assert cls.__dict__["__doc__"].splitlines()[0].endswith(".")
    assert cls.__module__ == "trio_claude"


@every_error
def test_each_error_has_its_message_first(name: str) -> None:
    """The message is its text; none at all is possible, and all else has a default."""
    cls = error_class(name)
    assert str(cls("it went wrong")) == "it went wrong"
    assert str(cls("")) == ""
    cls()


@every_error
@pytest.mark.parametrize(
    "how", [copy.copy, copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))]
)
def test_each_error_can_be_copied_and_pickled(name: str, how: object) -> None:
    """With all that it carries, and its notes."""
    error = filled(name)
    error.add_note("in session 'a'")
    assert callable(how)
    again = how(error)
    assert type(again) is type(error)
    assert again.args == error.args
    assert vars(again) == vars(error)
    assert vars(again)["__notes__"] == ["in session 'a'"]


def test_a_query_error_carries_what_was_answered() -> None:
    """All below it too."""
    assert QueryError().partial is None
    for name in TREE:
        if issubclass(error_class(name), QueryError):
            error = filled(name)
            assert isinstance(error, QueryError)
            assert error.partial is PARTIAL


def test_a_status_error_carries_what_the_service_said() -> None:
    """Each of the twelve; and nothing, where it said nothing."""
    silent = APIStatusError()
    assert (silent.status_code, silent.type, silent.request_id) == (0, None, None)
    assert (silent.retry_after, silent.body, silent.partial) == (None, None, None)
    for name in TREE:
        error = filled(name)
        if isinstance(error, APIStatusError):
            assert (error.status_code, error.type) == (529, "overloaded_error")
            assert (error.request_id, error.retry_after) == ("req_1", 2.5)
            assert error.body == {"error": {"message": "busy"}}


def test_a_result_error_carries_the_report() -> None:
    """The agent's own."""
    assert ResultError().result is None
    error = filled("ResultError")
    assert isinstance(error, ResultError)
    assert error.result is RESULT


@pytest.mark.parametrize("name", ["SessionCrashed", "SessionRestarted", "SessionTerminated"])
def test_a_lost_turn_names_its_session(name: str) -> None:
    """By any hashable."""
    assert vars(filled(name)) == {"name": ("a", 1)}
    assert vars(error_class(name)()) == {"name": None}


def test_a_process_error_carries_how_it_ended() -> None:
    """The exit code, and the last words; neither, where there is none."""
    assert vars(filled("ProcessError")) == {"exit_code": -9, "stderr": "no memory"}
    assert vars(ProcessError()) == {"exit_code": None, "stderr": ""}


def test_an_exceeded_intensity_carries_its_window() -> None:
    """Whose, and how much it allows."""
    error = filled("RestartIntensityExceeded")
    assert isinstance(error, RestartIntensityExceeded)
    assert (error.name, error.max_restarts, error.max_seconds) == (("a", 1), 3, 5.0)
    silent = RestartIntensityExceeded()
    assert (silent.name, silent.max_restarts, silent.max_seconds) == (None, 0, 0.0)
