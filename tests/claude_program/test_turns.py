"""Turns on the real program: one after the other, many at once, and left in the middle."""

from __future__ import annotations

import os

import attrs
import pytest
import trio

from trio_claude import (
    AssistantMessage,
    AuthenticationError,
    Interrupted,
    OverloadedError,
    QueryTimeout,
    ResultMessage,
    SessionHandle,
    SystemMessage,
    TextDelta,
    open_supervisor,
)
from trio_claude.simulator import Simulator, open_simulator, script
from trio_claude.testing import check_backend

from .support import (
    ASK,
    LEARN,
    LEARN_IN_VAIN,
    PATIENCE,
    Claude,
    conversations,
    read_to_text,
    read_to_tool,
    results,
    use,
)


def expect_forgotten(simulator: Simulator) -> None:
    """The last conversation that was sent has nothing of the turn that was not to be."""
    said = str(conversations(simulator)[-1].body["messages"])
    assert "Rebmuno" not in said
    assert "[Request interrupted" not in said


async def test_two_turns_of_one_conversation(claude: Claude) -> None:
    """The second one knows of the first, in the same process; what is streamed is the answer."""
    async with claude.session() as (session, simulator):
        assert session.session_id is None
        told = await session.query(LEARN)
        pid = (await session.server_info())["pid"]
        async with session.stream(ASK) as stream:
            events = [event async for event in stream]
        assert pid == (await session.server_info())["pid"]
        assert session.session_id == told.session_id
    assert isinstance(events[0], SystemMessage)
    assert (events[0].subtype, events[0].data["cwd"]) == ("init", str(claude.cwd))
    [result] = [event for event in events if isinstance(event, ResultMessage)]
    assert result is events[-1]
    assert str(result).startswith("Your favorite language is Python.")
    assert "".join(e.text for e in events if isinstance(e, TextDelta)) == str(result)
    assert result.session_id == told.session_id
    assert len(conversations(simulator)) == 2


async def test_three_sessions_at_once(claude: Claude) -> None:
    """Each keeps to its own conversation, though all are answered at the same time."""
    names = ("Ada", "Bob", "Eve")
    said: dict[str, str] = {}
    with trio.fail_after(PATIENCE):
        async with open_simulator() as simulator:
            specs = [claude.spec(simulator, name=name) for name in names]
            async with open_supervisor(specs) as supervisor:

                async def talk(name: str) -> None:
                    session = supervisor.get_session(name)
                    await session.query(f"My name is {name}")
                    said[name] = str(await session.query("What's my name?"))

                async with trio.open_nursery() as nursery:
                    for name in names:
                        nursery.start_soon(talk, name)
    for name in names:
        assert said[name].startswith(f"Your name is {name}.")


async def test_an_answer_is_interrupted(claude: Claude) -> None:
    """In mid-answer: its caller gets Interrupted, and the turn is not in the conversation."""
    async with claude.session() as (session, simulator):
        await session.query(LEARN)
        pid = (await session.server_info())["pid"]
        hold = simulator.hold_next()
        async with trio.open_nursery() as nursery:
            with pytest.raises(Interrupted) as caught:
                async with session.stream(LEARN_IN_VAIN) as stream:
                    await read_to_text(stream)
                    nursery.start_soon(session.interrupt)
                    async for _ in stream:
                        pass
        await hold.ended.wait()  # the program has hung up
        assert caught.value.partial is not None
        assert str(await session.query(ASK)).startswith("Your favorite language is Python.")
        expect_forgotten(simulator)
        assert pid == (await session.server_info())["pid"]


async def test_an_answer_that_has_not_begun_is_interrupted(claude: Claude) -> None:
    """Before the program has said a word, in the very first turn of its conversation."""
    async with claude.session() as (session, simulator):
        hold = simulator.hold_next(after_events=0)
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def _ask() -> None:
                with pytest.raises(Interrupted):
                    await session.query(LEARN_IN_VAIN)

            await hold.started.wait()
            await session.interrupt()
        assert str(await session.query(ASK)).startswith("I don't know your favorite language.")
        expect_forgotten(simulator)


async def test_a_stream_is_left_early(claude: Claude) -> None:
    """The next answer is the next answer, and what was left is not in the conversation."""
    async with claude.session() as (session, simulator):
        await session.query(LEARN)
        hold = simulator.hold_next()
        async with session.stream(LEARN_IN_VAIN) as stream:
            await read_to_text(stream)
        await hold.ended.wait()
        assert str(await session.query(ASK)).startswith("Your favorite language is Python.")
        expect_forgotten(simulator)


async def test_a_turn_is_cancelled_at_any_moment(claude: Claude) -> None:
    """Wherever the answer has come to, it is taken back, by the same process, and nothing is mixed up."""
    async with claude.session() as (session, simulator):
        await session.query(LEARN)
        pid = (await session.server_info())["pid"]
        for after_events in (0, 1, 2, 3, 10, 1000):
            hold = simulator.hold_next(after_events=after_events)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(session.query, LEARN_IN_VAIN)
                await hold.started.wait()
                nursery.cancel_scope.cancel(reason="nobody wants to know")
            assert str(await session.query(ASK)).startswith("Your favorite language is Python.")
            expect_forgotten(simulator)
        assert pid == (await session.server_info())["pid"]


async def test_a_program_that_does_not_let_go_is_replaced(claude: Claude) -> None:
    """Where there is no time to interrupt it, another one takes over where the last good turn ended."""
    backend = attrs.evolve(claude.backend, interrupt_timeout=1e-9, close_timeout=0.5)
    async with claude.session(backend=backend) as (session, simulator):
        told = await session.query(LEARN)
        pid = (await session.server_info())["pid"]
        simulator.hold_next()
        async with session.stream(LEARN_IN_VAIN) as stream:
            await read_to_text(stream)
        asked = await session.query(ASK)
        assert str(asked).startswith("Your favorite language is Python.")
        expect_forgotten(simulator)
        assert asked.session_id == told.session_id
        assert pid != (await session.server_info())["pid"]
        # Its running total goes on where the other's was; what that turn cost is nobody's.
        assert asked.total_cost_usd is not None
        assert told.total_cost_usd is not None
        assert 0 < asked.total_cost_usd < 1.5 * told.total_cost_usd


async def test_a_stream_is_left_while_a_tool_runs(claude: Claude) -> None:
    """The tool is stopped with the turn, and the session goes on."""
    running = claude.cwd / "running"
    os.mkfifo(running)
    answers = script({"Sleep": [[use("Bash", command=f"echo > {running}; sleep 1000")]]})
    async with claude.session(answers, allowed_tools=["Bash"]) as (session, simulator):
        async with session.stream("Sleep") as stream:
            await read_to_tool(stream)
            # Opening it waits for the one who writes.
            await trio.to_thread.run_sync(running.read_bytes, abandon_on_cancel=True)
        assert str(await session.query(ASK)).startswith("I don't know")
        assert results(simulator) == []


async def test_a_turn_takes_too_long(claude: Claude) -> None:
    """Its caller gets QueryTimeout, and the turn is not in the conversation."""
    async with claude.session() as (session, simulator):
        await session.query(LEARN)
        simulator.hold_next()
        with pytest.raises(QueryTimeout):
            await session.query(LEARN_IN_VAIN, timeout=0.5)
        assert str(await session.query(ASK)).startswith("Your favorite language is Python.")
        expect_forgotten(simulator)


async def test_the_service_s_errors_are_the_same_as_over_http(claude: Claude) -> None:
    """A turn that the service refuses raises what it would without the program between."""
    async with claude.session() as (session, simulator):
        await session.query(LEARN)
        simulator.fail_next(529)
        with pytest.raises(OverloadedError):
            await session.query(LEARN_IN_VAIN)
        simulator.fail_next(401)
        with pytest.raises(AuthenticationError):
            await session.query(LEARN_IN_VAIN)
        assert str(await session.query(ASK)).startswith("Your favorite language is Python.")
        expect_forgotten(simulator)


async def test_an_answer_that_the_program_does_not_stream(claude: Claude) -> None:
    """It gets a whole answer where a stream broke, and makes one itself: both have pieces, too."""
    async with claude.session() as (session, simulator):
        simulator.cut_next(1)
        for prompt in ("Hello", "/context"):
            async with session.stream(prompt) as stream:
                events = [event async for event in stream]
            messages = [event for event in events if isinstance(event, AssistantMessage)]
            assert all(message.content for message in messages)
            assert len({message.id for message in messages}) == len(messages)
            pieces = "".join(event.text for event in events if isinstance(event, TextDelta))
            assert pieces == "".join(message.text for message in messages)
            assert pieces.strip() == str(events[-1]).strip()
        assert [r.body.get("stream") for r in conversations(simulator)] == [True, False]


async def test_cost_and_usage_are_of_the_turn(claude: Claude) -> None:
    """The program's running totals are taken apart; an interrupted turn counts for no other."""
    # As many words each time, so that the prices of what is said are much alike.
    responder = lambda _: " ".join(["word"] * 100)  # noqa: E731
    async with claude.session(responder, model="haiku") as (session, simulator):
        costs = [await cost_of_hello(session) for _ in range(3)]
        assert 0 < max(costs) < 1.5 * min(costs)
        simulator.hold_next()
        async with session.stream("Hello") as stream:
            await read_to_text(stream)
        assert await cost_of_hello(session) < 1.5 * min(costs)


async def cost_of_hello(session: SessionHandle) -> float:
    """What one more turn costs."""
    result = await session.query("Hello")
    assert result.usage.output_tokens == 100
    assert result.total_cost_usd is not None
    return result.total_cost_usd


async def test_an_answer_in_the_form_that_was_asked_for(claude: Claude) -> None:
    """With a JSON schema, the answer comes as a value that fits it."""
    schema = {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
    }
    wrong, right = use("StructuredOutput", city=7), use("StructuredOutput", city="Rome")
    async with claude.session(
        script({"Where?": [[wrong], [right]]}),
        output_format={"type": "json_schema", "schema": schema},
    ) as (session, _):
        result = await session.query("Where?")
    assert result.structured_output == {"city": "Rome"}
    assert result.num_turns == 3


async def test_it_keeps_a_backend_s_promises(claude: Claude) -> None:
    """All of those that `check_backend` knows, each with programs of its own."""
    with trio.fail_after(2 * PATIENCE):
        async with open_simulator() as simulator:
            options = claude.spec(simulator)
            await check_backend(claude.backend, options)
