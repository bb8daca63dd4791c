"""A responder made from a script: what is answered to which prompt, tool call by tool call.

Stateless, like the service: which step of its prompt comes next is read from the conversation that
was sent. So one script serves many conversations at once, and a request that is sent again, or a
conversation that is resumed, gets the answer that belongs there.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from typing import Any, TypeAlias

from .._errors import ConfigurationError
from .._responder import last_prompt
from .._validation import is_name
from .app import Responder, Said
from .replies import Reply, default_responder

Step: TypeAlias = Said | Responder


def script(turns: Mapping[str, Sequence[Step]], *, otherwise: Responder | None = None) -> Responder:
    """Make a responder that answers known prompts step by step.

    An answer that uses tools is followed by a request that brings their results; that gets the next
    step. A prompt is known again when it is the whole last text of the user's, spaces around it
    aside.

    Args:
        turns: for each prompt its steps in order. A step is what a responder may return, or a
            responder itself, which finds the results of the step before it in the body.
        otherwise: the responder for other prompts, for what comes after a prompt's last step, and
            for a request without any tools when it is a tool's turn: those are the small ones that
            a program makes beside the conversation. The simulator's own where not given.

    Raises:
        ConfigurationError: an argument is not what it should be.
    """
    if otherwise is not None and not callable(otherwise):
        raise ConfigurationError(f"otherwise must be callable, not {otherwise!r}")
    if not isinstance(turns, Mapping):
        raise ConfigurationError(f"turns must be a mapping of prompts to steps, not {turns!r}")
    known: dict[str, tuple[Step, ...]] = {}
    for prompt, steps in turns.items():
        if not is_name(prompt):
            raise ConfigurationError(f"a prompt must be text that is not blank, not {prompt!r}")
        known[prompt.strip()] = _checked_steps(prompt, steps)

    def respond(body: dict[str, Any]) -> Said | Awaitable[Said]:
        prompt, answers = last_prompt(body["messages"])
        steps = known.get(prompt.strip(), ())
        step = steps[answers] if answers < len(steps) else None
        if step is None or (_uses_tools(step) and not body.get("tools")):
            return (otherwise or default_responder)(body)
        return step(body) if callable(step) else step

    return respond


def _checked_steps(prompt: str, steps: object) -> tuple[Step, ...]:
    if isinstance(steps, str) or not isinstance(steps, Sequence):
        raise ConfigurationError(f"the steps of {prompt!r} must be a list, not {steps!r}")
    for step in steps:
        is_content = isinstance(step, Sequence) and all(isinstance(b, Mapping) for b in step)
        if not (isinstance(step, str | Reply) or is_content or callable(step)):
            raise ConfigurationError(
                f"a step of {prompt!r} must be a text, a list of content blocks (dicts), a Reply "
                f"or a responder, not {step!r}"
            )
    return tuple(steps)


def _uses_tools(step: Step) -> bool:
    content = step.content if isinstance(step, Reply) else step
    return not (isinstance(content, str) or callable(content)) and any(
        block.get("type") == "tool_use" for block in content
    )
