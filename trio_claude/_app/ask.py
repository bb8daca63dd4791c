"""``trio-claude ask``: one question, and its answer as it comes."""

from __future__ import annotations

from .._session.handle import SessionHandle
from .._supervision.opening import open_session
from ..streams import text_deltas
from .terminal import write


async def ask(prompt: str, *, model: str | None, system: str | None) -> None:
    """Ask a session of its own, and print the answer as it comes."""
    async with open_session(model=model, system_prompt=system) as session:
        await print_answer(session, prompt)


async def print_answer(session: SessionHandle, prompt: str) -> None:
    """Ask, print the answer as it comes, and end its last line, whatever it ends with."""
    text = "\n"
    try:
        async with session.stream(prompt) as events:
            async for text in text_deltas(events):
                write(text)
    finally:
        if not text.endswith("\n"):
            write("\n")
