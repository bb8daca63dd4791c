"""The answers of a Claude that is not there: deterministic, and made from the conversation alone.

The simulator and the scripted backend answer with :func:`answer` where nobody told them what to
say. It learns "My <thing> is <value>" from what the user wrote and what tools gave back, answers
"What's my <thing>?" with it, and repeats the gist of anything else. It keeps nothing: what it knows
is what it is sent, so a conversation that was forgotten is seen to be forgotten.

A program between the user and the service puts texts of its own beside the user's, each in a block
that begins with a tag; they are no words of the user's.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

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
_REMARK = re.compile(r"\s*<(?:system-reminder|command-[a-z]{1,20}|local-command-[a-z]{1,20})>")
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
    turns = [list(_texts(m)) for m in messages if m.get("role") == "user"]
    results = list(_results(messages))
    if results:
        return f"{_greeting(system)} {' '.join(results)} {_numbered(turns)}"

    prompt, _answers = last_prompt(messages)
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

    return f"{_greeting(system)} {_heard(prompt)} {_numbered(turns)}"


def last_prompt(messages: Sequence[Mapping[str, object]]) -> tuple[str, int]:
    """What the user said last, and how many answers have come since.

    An answer that uses tools is followed by their results, and then by another answer: until the
    user speaks again, they are all answers to the same prompt. An answer may be spread over several
    messages in a row.
    """
    answers = 0
    role_after = None
    for message in reversed(messages):
        role = message.get("role")
        if role == "user":
            said = _said(message)
            if any(block["type"] != "tool_result" for block in said):
                texts = [block["text"] for block in said if block["type"] == "text"]
                return texts[-1] if texts else "", answers
        elif role == "assistant" and role_after != "assistant":
            answers += 1
        role_after = role
    return "", answers


def _results(messages: Sequence[Mapping[str, object]]) -> Iterator[str]:
    """What tools gave back, where that is what is to be answered."""
    asked = [message for message in messages if message.get("role") == "user"]
    blocks = _said(asked[-1]) if asked else []
    if blocks and blocks[-1]["type"] == "tool_result":
        for block in blocks:
            if block["type"] == "tool_result":
                gist = _gist(" ".join(_texts(block)))
                yield f'The tool {"failed" if block.get("is_error") else "gave back"}: "{gist}".'


def _texts(message: Mapping[str, object]) -> Iterator[str]:
    """The texts that stand in a message's content, those of tool results included."""
    for block in _said(message):
        if block["type"] == "text":
            yield block["text"]
        elif block["type"] == "tool_result":
            yield from _texts(block)


def _said(message: Mapping[str, object]) -> Sequence[Mapping[str, Any]]:
    """The blocks of a message, or of a tool's result, without a program's own remarks."""
    content = message.get("content")
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    if not isinstance(content, list | tuple):
        return []
    return [b for b in content if not (b["type"] == "text" and _REMARK.match(b["text"]))]


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


def _numbered(turns: Sequence[object]) -> str:
    return f"This is answer {len(turns)} of our conversation, and it comes from a simulator."


def _gist(text: str) -> str:
    words = text.split()
    more = " ..." if len(words) > _GIST_WORDS else ""
    return " ".join(words[:_GIST_WORDS]).rstrip(".") + more


def _first_lower(text: str) -> str:
    return text[:1].lower() + text[1:]
