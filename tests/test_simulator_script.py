"""Answers from a script: which step belongs to which request, read from the request alone."""

from __future__ import annotations

import inspect
import re
from typing import Any

import anthropic
import pytest
import trio
from anthropic.types import MessageParam, TextBlock, ToolParam, ToolUseBlock

from trio_claude import ConfigurationError
from trio_claude.simulator import Reply, open_simulator, script

Block = dict[str, Any]

LOOK: Block = {"type": "tool_use", "name": "look", "input": {"at": "it"}}
TOOL: ToolParam = {"name": "look", "input_schema": {"type": "object"}}


def user(*content: object) -> Block:
    """What the user says."""
    return {"role": "user", "content": list(content)}


def assistant(*content: object) -> Block:
    """What the assistant says."""
    return {"role": "assistant", "content": list(content)}


def text(words: str) -> Block:
    """A text block."""
    return {"type": "text", "text": words}


def result(words: str = "seen") -> Block:
    """A tool's result."""
    return {"type": "tool_result", "tool_use_id": "1", "content": words}


def body(*messages: Block, tools: bool = True) -> Block:
    """A request's body, as far as a script looks at it."""
    return {"messages": [*messages], **({"tools": [TOOL]} if tools else {})}


def text_of(said: Any) -> str:
    """The text of an answer that is one text block."""
    [block] = said
    return str(block["text"])


def test_steps_follow_as_the_results_come() -> None:
    """Each request after a tool's result gets the prompt's next step, and then it is over."""
    respond = script({"Look": [[LOOK], [text("Again:"), LOOK], "It is there."]})
    conversation = [user(text("Look"))]
    assert respond(body(*conversation)) == [LOOK]
    conversation += [assistant(LOOK), user(result())]
    assert respond(body(*conversation)) == [text("Again:"), LOOK]
    # The claude program sends each block of an answer in a message of its own.
    conversation += [assistant(text("Again:")), assistant(LOOK), user(result())]
    assert respond(body(*conversation)) == "It is there."
    conversation += [assistant(text("It is there.")), user(text("Look"))]
    assert respond(body(*conversation)) == [LOOK]


def test_the_same_request_gets_the_same_answer() -> None:
    """Nothing is used up: a retry is answered as before, and so is another conversation."""
    respond = script({"Look": [[LOOK], "There."]})
    first = body(user(text("Look")))
    second = body(user(text("Look")), assistant(LOOK), user(result()))
    answers = [respond(sent) for sent in (first, second, second, first)]
    assert answers == [[LOOK], "There.", "There.", [LOOK]]


@pytest.mark.parametrize("prompt", ["Look", " Look\n"])
def test_a_prompt_is_known_by_its_text(prompt: str) -> None:
    """Spaces around it don't count, remarks of a program don't, and the last text is the prompt."""
    respond = script({"  Look ": ["There."]})
    assert respond(body(user(text(prompt)))) == "There."
    assert respond(body({"role": "user", "content": prompt})) == "There."
    remark = text("<system-reminder>Be careful</system-reminder>")
    system = {"role": "system", "content": "Be brief"}
    assert respond(body(user(remark, text("Hm"), text(prompt), remark), system)) == "There."


def test_other_prompts_are_answered_otherwise() -> None:
    """From the conversation, or by the responder that was given."""
    said = script({"Look": ["There."]})(body(user(text("Look there"))))
    assert 'You said: "Look there".' in text_of(said)
    respond = script({"Look": []}, otherwise=lambda body: "What?")
    assert respond(body(user(text("Look there")))) == "What?"
    assert respond(body(user(text("Look")))) == "What?"


def test_after_the_last_step_the_tool_is_heard() -> None:
    """A script may end with a tool: then the simulator says what it gave back."""
    sent = body(user(text("Look")), assistant(LOOK), user(result("a cat")))
    assert 'The tool gave back: "a cat".' in text_of(script({"Look": [[LOOK]]})(sent))


def test_a_request_without_tools_is_not_given_one() -> None:
    """A program's own small request about the prompt gets words, and a step of words anyhow."""
    for step in ([LOOK], Reply([LOOK])):
        respond = script({"Look": [step]}, otherwise=lambda body: "A title")
        assert respond(body(user(text("Look")), tools=False)) == "A title"
        assert respond(body(user(text("Look")))) == step
    for words in ("There.", [text("There.")], Reply("There.")):
        respond = script({"Look": [words]}, otherwise=lambda body: "A title")
        assert respond(body(user(text("Look")), tools=False)) == words


async def test_a_step_may_be_a_responder() -> None:
    """It sees the body, with what the tool gave back, and may be async."""

    def tell(sent: Block) -> str:
        return f"It says {sent['messages'][-1]['content'][0]['content']}."

    async def wait(sent: Block) -> str:
        await trio.lowlevel.checkpoint()
        return tell(sent)

    respond = script({"Look": [[LOOK], tell], "Wait": [[LOOK], wait]})
    sent = body(user(text("Look")), assistant(LOOK), user(result("meow")))
    assert respond(sent) == "It says meow."
    sent["messages"][0] = user(text("Wait"))
    said = respond(sent)
    assert inspect.isawaitable(said)
    assert await said == "It says meow."


@pytest.mark.parametrize(
    ("turns", "message"),
    [
        ([("a", "b")], "turns must be a mapping of prompts to steps, not [('a', 'b')]"),
        ({1: ["x"]}, "a prompt must be text that is not blank, not 1"),
        ({" ": ["x"]}, "a prompt must be text that is not blank, not ' '"),
        ({"a": "x"}, "the steps of 'a' must be a list, not 'x'"),
        ({"a": LOOK}, "the steps of 'a' must be a list, not {"),
        ({"a": [LOOK]}, "a step of 'a' must be a text, a list of content blocks (dicts), a Reply"),
        ({"a": [None]}, "or a responder, not None"),
        ({"a": [["x"]]}, "or a responder, not ['x']"),
    ],
)
def test_a_wrong_script_is_refused(turns: Any, message: str) -> None:
    """Each mistake at the door, with the prompt that it is about."""
    with pytest.raises(ConfigurationError, match=re.escape(message)):
        script(turns)


def test_a_wrong_responder_for_the_rest_is_refused() -> None:
    """What answers other prompts must be callable."""
    with pytest.raises(ConfigurationError, match="otherwise must be callable, not 'x'"):
        script({}, otherwise="x")  # type: ignore[arg-type]


async def test_two_conversations_at_once_with_the_official_client() -> None:
    """Over HTTP, with ids that fit together, each conversation at its own step."""
    responder = script({"Look": [[LOOK], "There."]})
    with trio.fail_after(10):
        async with (
            open_simulator(responder) as simulator,
            anthropic.AsyncAnthropic(
                api_key="sk-test",
                base_url=simulator.base_url,
                max_retries=0,
                http_client=anthropic.DefaultAsyncHttpxClient(trust_env=False),
            ) as client,
        ):

            async def ask(messages: list[MessageParam]) -> Any:
                answer = await client.messages.create(
                    model="claude-haiku-4-5", max_tokens=99, messages=messages, tools=[TOOL]
                )
                messages.append({"role": "assistant", "content": answer.content})
                return answer.content[0]

            talks: list[list[MessageParam]] = [
                [{"role": "user", "content": "Look"}],
                [{"role": "user", "content": "Look"}],
            ]
            for talk in talks:
                use = await ask(talk)
                assert isinstance(use, ToolUseBlock)
                assert use.input == {"at": "it"}
                seen: Any = {"type": "tool_result", "tool_use_id": use.id, "content": "x"}
                talk.append({"role": "user", "content": [seen]})
            for talk in reversed(talks):
                said = await ask(talk)
                assert isinstance(said, TextBlock)
                assert said.text == "There."
