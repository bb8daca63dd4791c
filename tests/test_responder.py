"""The deterministic answers: pure, from the conversation alone."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from trio_claude._responder import answer


def user(content: object) -> dict[str, object]:
    """What the user says."""
    return {"role": "user", "content": content}


def assistant(content: object) -> dict[str, object]:
    """What the assistant says."""
    return {"role": "assistant", "content": content}


TOLD = [user("My favorite language is Python"), assistant("Noted.")]


@pytest.mark.parametrize(
    "question",
    [
        "What's my favorite language?",
        "What is my favorite language?",
        "whats my FAVORITE  language",
        "Tell me: what\N{RIGHT SINGLE QUOTATION MARK}s my favorite language?",
        [{"type": "text", "text": "What is my favorite language?"}],
    ],
)
def test_a_fact_is_known_later(question: object) -> None:
    """However it is asked, what the user said before is in the answer."""
    assert answer([*TOLD, user(question)]) == (
        "Your favorite language is Python. You told me so in this conversation."
    )


def test_a_fact_is_unknown_in_a_fresh_conversation() -> None:
    """Nothing is kept between two calls: what was not sent is not known."""
    said = answer([user("What's my favorite language?")])
    assert said.startswith("I don't know your favorite language.")
    assert "Python" not in said


def test_only_the_user_is_believed() -> None:
    """What the assistant said of "my" things is no fact about the user."""
    conversation = [user("Hello"), assistant("My name is Claude."), user("What is my name?")]
    assert answer(conversation).startswith("I don't know your name.")


def test_the_last_word_counts() -> None:
    """A fact that is told anew replaces the one before it."""
    conversation = [*TOLD, user("My favorite language is Elixir now."), user("What's my name?")]
    assert "don't know" in answer(conversation)
    conversation[-1] = user("What is my favorite language?")
    assert answer(conversation).startswith("Your favorite language is Elixir now.")


@pytest.mark.parametrize(
    ("text", "thing", "value"),
    [
        ("My name is Ada and my cat is Tom.", "name", "Ada"),
        ("My name is Ada, but my cat is Tom.", "cat", "Tom"),
        ("Hi! My Python version is 3.11. And yours?", "python version", "3.11"),
        ("my sister's name is Grace\nthanks", "sister's name", "Grace"),
    ],
)
def test_a_fact_ends_where_the_sentence_does(text: str, thing: str, value: str) -> None:
    """Several facts in one message, dots in a value, a line's end."""
    said = answer([user(text), assistant("Yes."), user(f"What's my {thing}?")])
    assert said.startswith(f"Your {thing} is {value}. ")


def test_a_fact_is_acknowledged_when_it_is_told() -> None:
    """The answer to a fact repeats it."""
    assert answer([user("My name is Ada and my cat is Tom.")]) == (
        "Your name is Ada: noted. Your cat is Tom: noted. "
        "I will know it for as long as this conversation lasts."
    )


def test_anything_else_is_repeated_in_short() -> None:
    """The gist of the prompt, and which answer of the conversation it is."""
    said = answer([user("one two"), assistant("x"), user(" ".join(map(str, range(20))) + ".")])
    assert said == (
        'I have read what you wrote. You said: "0 1 2 3 4 5 6 7 8 9 10 11 ...". '
        "This is answer 2 of our conversation, and it comes from a simulator."
    )


@pytest.mark.parametrize(
    ("system", "greeting"),
    [
        ("You are an Expert code reviewer. Be brief.", "As an Expert code reviewer, I have read"),
        ("Be brief.", 'I keep to my instructions, "Be brief".'),
        ("", "I have read what you wrote."),
    ],
)
def test_the_system_prompt_is_heard(system: str, greeting: str) -> None:
    """The answer shows that the system prompt has arrived."""
    assert answer([user("Hello.")], system).startswith(greeting)


def test_the_last_block_is_the_prompt() -> None:
    """Programs put remarks of their own before the prompt; facts in them count all the same."""
    blocks = [
        {"type": "text", "text": "My name is Ada"},
        {"type": "image", "source": {}},
        {"type": "text", "text": "What is my name?"},
    ]
    assert answer([user(blocks)]).startswith("Your name is Ada.")


def test_a_tool_result_is_read_like_a_prompt() -> None:
    """The text of a tool's result is what the answer repeats."""
    result = {"type": "tool_result", "content": [{"type": "text", "text": "12 degrees"}]}
    assert 'You said: "12 degrees".' in answer([user("weather?"), user([result])])


@pytest.mark.parametrize("conversation", [[], [user([{"type": "image"}])], [user(None)]])
def test_a_prompt_without_words_is_answered(conversation: list[dict[str, object]]) -> None:
    """No message, only an image, no content: still an answer."""
    assert "There were no words in it." in answer(conversation)


@given(st.lists(st.text(), min_size=1), st.none() | st.text())
def test_every_text_gets_the_same_answer_twice(texts: list[str], system: str | None) -> None:
    """Deterministic for whatever is sent, and never without words."""
    conversation = [user(text) for text in texts]
    said = answer(conversation, system)
    assert said == answer(conversation, system)
    assert len(said.split()) > 1


@given(st.from_regex(r"[A-Za-z]{1,20}( [A-Za-z0-9.+#]{1,9}[a-z0-9])?", fullmatch=True))
def test_every_value_comes_back(value: str) -> None:
    """Whatever is told is what is answered."""
    said = answer([user(f"My thing is {value}"), user("What's my thing?")])
    assert said.startswith(f"Your thing is {value}. ")
