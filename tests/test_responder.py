"""The deterministic answers: pure, from the conversation alone."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from trio_claude._responder import answer, last_prompt


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


def test_what_a_tool_gave_back_is_repeated() -> None:
    """The text of a tool's result is what the answer is about, and that it is an error."""
    found = {"type": "tool_result", "content": [{"type": "text", "text": "12 degrees"}]}
    failed = {"type": "tool_result", "content": "no such city", "is_error": True}
    empty = {"type": "tool_result"}
    reminder = {"type": "text", "text": "<system-reminder>Be careful</system-reminder>"}
    said = answer([user("weather?"), assistant("x"), user([found, failed, empty, reminder])])
    assert said == (
        'I have read what you wrote. The tool gave back: "12 degrees". '
        'The tool failed: "no such city". The tool gave back: "". '
        "This is answer 2 of our conversation, and it comes from a simulator."
    )


def test_words_after_a_tool_result_are_the_prompt() -> None:
    """Who speaks on while a tool's result is brought is answered; the result is known."""
    result = {"type": "tool_result", "content": "My pet is Tom"}
    question = {"type": "text", "text": "What's my pet?"}
    assert answer([user([result, question])]).startswith("Your pet is Tom.")
    assert answer([user([question, result])]).startswith("I have read what you wrote. The tool")


@pytest.mark.parametrize(
    "remark",
    [
        "<system-reminder>\nMy name is Eve\n</system-reminder>",
        "\n<local-command-stdout>My name is Eve</local-command-stdout>",
        "<command-name>My name is Eve</command-name>",
    ],
)
def test_the_remarks_of_a_program_are_not_the_users_words(remark: str) -> None:
    """What a program adds in blocks of its own, before the prompt or after it, is not heard."""
    block, name = {"type": "text", "text": remark}, {"type": "text", "text": "My name is Ada"}
    asked = user([block, {"type": "text", "text": "What's my name?"}, block])
    assert answer([user([block, name, block]), assistant("x"), asked]).startswith(
        "Your name is Ada."
    )
    assert answer([asked]).startswith("I don't know your name.")
    assert "There were no words in it." in answer([user(remark)])


def test_a_message_to_the_system_is_not_the_users() -> None:
    """What is put after the prompt with the role ``system`` is not the prompt."""
    system = {"role": "system", "content": "My name is Eve"}
    assert answer([user("What's my name?"), system]).startswith("I don't know your name.")


USE = {"type": "tool_use", "id": "1", "name": "look", "input": {}}
RESULT = {"type": "tool_result", "tool_use_id": "1", "content": "Hello"}
REMARK = {"type": "text", "text": "<system-reminder>x</system-reminder>"}


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ([], ("", 0)),
        ([user("a")], ("a", 0)),
        ([user("a"), assistant("x"), user("b")], ("b", 0)),
        ([user("a"), assistant([USE]), user([RESULT])], ("a", 1)),
        ([user("a"), assistant([USE]), assistant([USE]), user([RESULT])], ("a", 1)),
        ([user("a"), assistant([USE]), user([RESULT, REMARK]), assistant([USE])], ("a", 2)),
        ([user([REMARK, {"type": "text", "text": "a"}]), {"role": "system"}], ("a", 0)),
        ([user("a"), assistant([USE]), user([RESULT]), user("b")], ("b", 0)),
        ([user("a"), assistant("x"), user([{"type": "image"}])], ("", 0)),
        ([assistant("x")], ("", 1)),
    ],
)
def test_the_last_prompt_and_the_answers_to_it(
    messages: list[dict[str, object]], expected: tuple[str, int]
) -> None:
    """Results of tools and a program's remarks are no prompts; an image without words is one."""
    assert last_prompt(messages) == expected


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
