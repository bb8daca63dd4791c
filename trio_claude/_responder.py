"""The answers of a Claude that is not there: deterministic, and made from the conversation alone.

The simulator and the scripted backend answer with :func:`answer` where nobody told them what to
say. It learns "My <thing> is <value>" from what the user wrote, answers "What's my <thing>?" with
it, and repeats the gist of anything else. It keeps nothing: what it knows is what it is sent, so
a conversation that was forgotten is seen to be forgotten.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

# The lengths are bounded so that no text, however long, makes the search slow.
_FACT = re.compile(
    r"\bmy\s+(?P<thing>[\w'\u2019 -]{1,60}?)\s+is\s+(?P<value>[^\n]{1,200}?)"
    r"(?=[,;]?\s+(?:and|but)\s+my\b|[.,;!?]+(?:\s|\Z)|\n|\Z)",
    re.IGNORECASE,
)
_QUESTION = re.compile(
    r"\bwhat(?:['\u2019]?s|\s+is|\s+was)\s+my\s+(?P<thing>[\w'\u2019 -]{1,60})", re.IGNORECASE
)
_ROLE = re.compile(r"\s*you\s+are\s+(?P<role>an?\s[^.,;:!?\n]{1,100})", re.IGNORECASE)
_GIST_WORDS = 12


def answer(messages: Sequence[Mapping[str, object]], system: str | None = None) -> str:
    """Answer the last user message of a conversation, from that conversation alone.

    Pure and deterministic: the same conversation gets the same answer.

    Args:
        messages: the conversation, oldest first: mappings with a ``role`` and a ``content`` that
            is text or a list of content blocks.
        system: the system prompt; the answer says that it was heard.

    Returns:
        One to three sentences. A fact asked for is in the first one, or that it is not known.
    """
    turns = [list(_texts(m.get("content"))) for m in messages if m.get("role") == "user"]
    # Programs put their own remarks in blocks before the prompt: the last block is the prompt.
    prompt = turns[-1][-1] if turns and turns[-1] else ""

    asked = _QUESTION.search(prompt)
    if asked:
        thing = _plain(asked["thing"])
        known = {_plain(name): value for turn in turns for name, value in _facts(turn)}
        if thing in known:
            return f"Your {thing} is {known[thing]}. You told me so in this conversation."
        return f"I don't know your {thing}. You have not told me in this conversation."

    told = list(_facts([prompt]))
    if told:
        noted = " ".join(f"Your {_plain(name)} is {value}: noted." for name, value in told)
        return f"{noted} I will know it for as long as this conversation lasts."

    return (
        f"{_greeting(system)} {_heard(prompt)} "
        f"This is answer {len(turns)} of our conversation, and it comes from a simulator."
    )


def _texts(content: object) -> Iterator[str]:
    """The texts that stand in a message's content, those of tool results included."""
    if isinstance(content, str):
        yield content
    elif isinstance(content, list | tuple):
        for block in content:
            if block.get("type") == "text":
                yield block["text"]
            elif block.get("type") == "tool_result":
                yield from _texts(block.get("content"))


def _facts(texts: Sequence[str]) -> Iterator[tuple[str, str]]:
    for text in texts:
        for match in _FACT.finditer(text):
            yield match["thing"], match["value"].strip()


def _plain(thing: str) -> str:
    return " ".join(thing.lower().split())


def _greeting(system: str | None) -> str:
    role = _ROLE.match(system or "")
    if role:
        return f"As {_first_lower(role['role'].strip())}, I have read what you wrote."
    if system:
        return f'I keep to my instructions, "{_gist(system)}".'
    return "I have read what you wrote."


def _heard(prompt: str) -> str:
    return f'You said: "{_gist(prompt)}".' if prompt.strip() else "There were no words in it."


def _gist(text: str) -> str:
    words = text.split()
    more = " ..." if len(words) > _GIST_WORDS else ""
    return " ".join(words[:_GIST_WORDS]).rstrip(".") + more


def _first_lower(text: str) -> str:
    return text[:1].lower() + text[1:]
