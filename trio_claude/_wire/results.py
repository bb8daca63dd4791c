"""How a turn on the ``claude`` program ended, and what it cost: the program's ``result`` line."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING

from .._errors import (
    APIConnectionError,
    AuthenticationError,
    Interrupted,
    QueryError,
    ResultError,
)
from .._messages import ResultMessage
from .api_errors import status_error
from .blocks import beyond, usage

if TYPE_CHECKING:
    from .jsonlines import JSONLine

PROGRAM = "the claude program"

_RESULT = (
    "type",
    "subtype",
    "is_error",
    "result",
    "stop_reason",
    "num_turns",
    "session_id",
    "usage",
    "duration_ms",
    "duration_api_ms",
    "structured_output",
    "total_cost_usd",  # of all turns, beside this one's
)

# The turn's end, where it was neither the model's nor a failure.
_ABORTED = ("aborted_streaming", "aborted_tools")


class CostLedger:
    """What each turn cost, out of running totals.

    An older program counts from its start. A newer one goes on counting where it resumes a
    conversation, but says what came since the last result, too.
    """

    def __init__(self) -> None:
        self._total = 0.0

    def restart(self) -> None:
        """Another process counts from here on."""
        self._total = 0.0

    def take(self, line: JSONLine) -> float | None:
        """The US dollars since the last result, by this one; None where it doesn't say."""
        before, total = self._total, _number(line.get("total_cost_usd"))
        if total is not None:
            self._total = total
        models = line.get("model_usage_since_last_result")
        if isinstance(models, dict):
            costs = [model.get("costUSD") for model in models.values() if isinstance(model, dict)]
            return sum(cost for cost in map(_number, costs) if cost is not None)
        if total is None:
            return None
        return total - before if total >= before else total  # less: it counts from 0 again


def result_message(
    line: JSONLine, prompt_id: str, cost: float | None, said_last: str
) -> ResultMessage:
    """The result that this line is.

    Args:
      line: with the type ``result``.
      prompt_id: of the prompt that it answers.
      cost: of this turn, in US dollars.
      said_last: the text of the last message, for a result that has none.
    """
    subtype = as_text(line.get("subtype")) or "success"
    is_error = line.get("is_error")
    counts = line.get("usage")
    said = as_text(line.get("result"))
    return ResultMessage(
        said_last if said is None else said,
        subtype=subtype,
        is_error=is_error if isinstance(is_error, bool) else subtype != "success",
        stop_reason=as_text(line.get("stop_reason")),
        num_turns=_count(line.get("num_turns"), 1),
        session_id=as_text(line.get("session_id")),
        usage=usage(counts if isinstance(counts, dict) else {}),
        total_cost_usd=cost,
        duration_ms=_count(line.get("duration_ms"), 0),
        duration_api_ms=_count(line.get("duration_api_ms"), 0),
        structured_output=line.get("structured_output"),
        extra={"user_message_uuid": prompt_id, **beyond(line, *_RESULT)},
    )


def failure_of(result: ResultMessage, line: JSONLine, refusal: JSONLine) -> QueryError:
    """What a turn failed of whose result is an error.

    An API's refusal is reported with the subtype "success", and its status beside it; what kept the
    program from asking, without a status.
    """
    status = line.get("api_error_status")
    if type(status) is int and status >= 300:
        error = {"type": as_text(refusal.get("api_error_type")), "message": result.result}
        body = json.dumps({"error": error}).encode()
        return status_error("the service that the claude program asks", status, {}, body, now=0.0)
    if line.get("api_error") == "connection_failed":
        return APIConnectionError(f"{PROGRAM} could not reach the service: {result.result}")
    if refusal.get("error") == "authentication_failed":
        return AuthenticationError(
            f"{PROGRAM} has nothing to log in with ({result.result}): give the option api_key, set "
            "ANTHROPIC_API_KEY, or log in with the program itself"
        )
    reason = as_text(line.get("terminal_reason")) or result.subtype
    if reason in _ABORTED:
        return Interrupted("the agent's turn was interrupted from inside: a tool was denied so")
    errors = line.get("errors")
    told = [error for error in (errors if isinstance(errors, list) else ()) if as_text(error)]
    said = "; ".join(told) or result.result or "it says no more"
    return ResultError(f"the agent reported {reason!r}: {said}", result=result)


def as_text(value: object) -> str | None:
    """The value, if it is text."""
    return value if isinstance(value, str) else None


def _number(value: object) -> float | None:
    try:
        number = float(value) if isinstance(value, int | float) else math.nan
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _count(value: object, otherwise: int) -> int:
    number = _number(value)
    return otherwise if number is None else round(number)
