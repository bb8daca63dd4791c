"""``trio-claude ask``: one question, and its answer as it comes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._messages import ResultMessage, TextDelta
from .._supervision.opening import open_session
from .terminal import complain, write

if TYPE_CHECKING:
    from .._session.handle import SessionHandle

# Why an answer ends when nothing has cut it short.
_FINISHED = (None, "end_turn", "stop_sequence")


async def ask(prompt: str, *, model: str | None, system: str | None) -> None:
    """Ask a session of its own, and print the answer as it comes."""
    async with open_session(model=model, system_prompt=system) as session:
        await print_answer(session, prompt)


async def print_answer(session: SessionHandle, prompt: str) -> None:
    """Ask, print the answer as it comes, and end its last line, whatever it ends with."""
    text = "\n"
    result = None
    try:
        async with session.stream(prompt) as events:
            async for event in events:
                if isinstance(event, TextDelta):
                    text = event.text
                    write(text)
                elif isinstance(event, ResultMessage):
                    result = event
    finally:
        if not text.endswith("\n"):
            write("\n")
    if result is not None and result.stop_reason not in _FINISHED:
        complain(f"the answer stopped before its end: {result.stop_reason}")
