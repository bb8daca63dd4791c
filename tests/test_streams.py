"""Helpers over a stream of events: what each picks, how each ends, what each refuses."""

import gc
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Any, Self, assert_type

import pytest
import trio
from hypothesis import given, strategies as st
from trio.testing import assert_checkpoints, wait_all_tasks_blocked

import trio_claude
from trio_claude import (
    AssistantMessage,
    ConfigurationError,
    Event,
    InputJSONDelta,
    ResultError,
    ResultMessage,
    StreamInterrupted,
    SystemMessage,
    TextBlock,
    TextDelta,
    ThinkingBlock,
    ThinkingDelta,
    ToolResultBlock,
    ToolUseBlock,
    UnknownMessage,
    Usage,
    UserMessage,
    streams,
)
from trio_claude.streams._sentences import Sentences
from trio_claude.testing import ScriptedBackend

USAGE = Usage(input_tokens=3, output_tokens=4)
RESULT = ResultMessage(
    "Five.", stop_reason="end_turn", num_turns=2, usage=USAGE, total_cost_usd=0.5
)
LOOK = ToolUseBlock("t1", "look", {"at": "it"})
COUNT = ToolUseBlock("t2", "count")
FOUND = ToolResultBlock("t1", "found")

INIT = SystemMessage("init", {"model": "opus"})
FIRST = AssistantMessage(
    (ThinkingBlock("Hm."), TextBlock("Let me "), TextBlock("look."), LOOK, COUNT)
)
ANSWERED = UserMessage((FOUND, ToolResultBlock("t3", "nobody asked"), TextBlock("a remark")))
LAST = AssistantMessage((TextBlock("Five."),))
STRANGE = UnknownMessage({"type": "strange"})

TURN: tuple[Event, ...] = (
    INIT,
    ThinkingDelta(0, "Hm"),
    ThinkingDelta(0, "."),
    TextDelta(1, "Let me "),
    TextDelta(2, "look."),
    InputJSONDelta(3, '{"at": "it"}'),
    FIRST,
    ANSWERED,
    STRANGE,
    TextDelta(0, "Fi"),
    TextDelta(0, "ve."),
    LAST,
    RESULT,
)

STREAMS: dict[str, Callable[[Any], trio.abc.ReceiveChannel[Any]]] = {
    "text_deltas": streams.text_deltas,
    "thinking_deltas": streams.thinking_deltas,
    "text_content": streams.text_content,
    "tool_uses": streams.tool_uses,
    "messages": streams.messages,
    "filter_type": lambda events: streams.filter_type(events, TextDelta),
    "until_result": streams.until_result,
    "buffered_text": streams.buffered_text,
}
VALUES: dict[str, Callable[[Any], Awaitable[Any]]] = {
    "final_text": streams.final_text,
    "final_result": streams.final_result,
    "collect": streams.collect,
}


async def read(events: AsyncIterator[Any]) -> list[Any]:
    """All that a stream gives."""
    return [event async for event in events]


async def use(helper: str, events: Any) -> Any:
    """All that comes of any of the helpers."""
    if helper in STREAMS:
        return await read(STREAMS[helper](events))
    return await VALUES[helper](events)


every_helper = pytest.mark.parametrize("helper", [*STREAMS, *VALUES])
every_stream = pytest.mark.parametrize("helper", STREAMS)


class Source(trio.abc.ReceiveChannel[Event]):
    """Events that are there, then an error or the end; as a channel, which a cancel can't harm."""

    def __init__(self, *events: Any, error: Exception | None = None) -> None:
        self.left = list(events)
        self.error = error
        self.closed = 0

    async def receive(self) -> Event:
        """The next one."""
        await trio.lowlevel.checkpoint()
        if self.left:
            event: Event = self.left.pop(0)
            return event
        raise self.error or trio.EndOfChannel

    async def aclose(self) -> None:
        """Count it."""
        self.closed += 1
        await trio.lowlevel.checkpoint()


async def generated(*events: Event) -> AsyncGenerator[Event, None]:
    """Events from a generator."""
    for event in events:
        yield event


# ---- what each picks ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("helper", "picked"),
    [
        ("text_deltas", ["Let me ", "look.", "Fi", "ve."]),
        ("thinking_deltas", ["Hm", "."]),
        ("text_content", ["Let me look.", "Five."]),
        ("tool_uses", [LOOK, COUNT]),
        ("messages", [INIT, FIRST, ANSWERED, LAST, RESULT]),
        ("filter_type", [event for event in TURN if isinstance(event, TextDelta)]),
        ("until_result", list(TURN)),
        ("buffered_text", ["Let me ", "look.", "Five."]),
        ("final_text", "Five."),
        ("final_result", RESULT),
    ],
)
@pytest.mark.parametrize("source", [Source, generated])
async def test_each_helper_gives_its_part_of_the_turn(
    helper: str, picked: object, source: Callable[..., Any]
) -> None:
    """Of one turn with everything in it: from a channel, and from a generator."""
    async with aclosing(source(*TURN)) as events:
        assert await use(helper, events) == picked


async def test_collect_gives_all_of_it() -> None:
    """Text, thinking, tool calls with their results, usage, cost, stop reason."""
    assert await streams.collect(Source(*TURN)) == streams.Collected(
        text="Let me look.Five.",
        thinking="Hm.",
        tool_calls=(streams.ToolCall(LOOK, FOUND), streams.ToolCall(COUNT, None)),
        usage=USAGE,
        total_cost_usd=0.5,
        stop_reason="end_turn",
        result=RESULT,
    )


async def test_the_deltas_join_to_what_is_collected() -> None:
    """The pieces, the sentences and the whole messages are one text."""
    collected = await streams.collect(Source(*TURN))
    for helper in ("text_deltas", "text_content", "buffered_text"):
        assert "".join(await use(helper, Source(*TURN))) == collected.text


async def test_a_message_without_text_has_no_text_content() -> None:
    """A message that only asks for tools gives no empty text."""
    events = Source(AssistantMessage((LOOK,)), RESULT)
    assert await read(streams.text_content(events)) == []


async def test_filter_type_takes_several_types() -> None:
    """What is of any of them."""
    picked = streams.filter_type(Source(*TURN), ThinkingDelta, ResultMessage)
    assert await read(picked) == [TURN[1], TURN[2], RESULT]


def test_filter_type_knows_its_types() -> None:
    """What is received has the types that were asked for; checked by mypy."""
    one = streams.filter_type(Source(), TextDelta)
    assert_type(one, trio.abc.ReceiveChannel[TextDelta])
    two = streams.filter_type(Source(), TextDelta, ThinkingDelta)
    assert_type(two, trio.abc.ReceiveChannel[TextDelta | ThinkingDelta])
    three = streams.filter_type(Source(), TextDelta, ThinkingDelta, ResultMessage)
    assert_type(three, trio.abc.ReceiveChannel[TextDelta | ThinkingDelta | ResultMessage])
    types: list[type[Event]] = [TextDelta, ThinkingDelta]
    assert_type(streams.filter_type(Source(), *types), trio.abc.ReceiveChannel[Event])


async def test_until_result_reads_no_further() -> None:
    """What a source has behind the result stays there, for the next one."""
    source = Source(*TURN, INIT, RESULT)
    first = streams.until_result(source)
    assert await read(first) == list(TURN)
    with pytest.raises(trio.EndOfChannel):
        await first.receive()
    assert await read(streams.until_result(source)) == [INIT, RESULT]


async def test_helpers_can_be_stacked() -> None:
    """One helper's stream is another's source, though it has no result any more."""
    whole = streams.filter_type(streams.until_result(Source(*TURN)), AssistantMessage)
    assert await read(streams.text_content(whole)) == ["Let me look.", "Five."]


async def test_a_value_needs_the_result_itself() -> None:
    """Whether the answer is whole is not all that a value is made of."""
    filtered = streams.filter_type(Source(*TURN), AssistantMessage)
    with pytest.raises(StreamInterrupted, match="something before this has taken it out"):
        await streams.collect(filtered)


@every_helper
async def test_a_real_stream_is_a_source(helper: str, autojump_clock: object) -> None:
    """What a session streams goes through each of the helpers."""
    backend = ScriptedBackend(["Hello there. How are you?"])
    async with (
        trio_claude.open_session(backend=backend) as session,
        session.stream("Hello") as events,
    ):
        picked = await use(helper, events)
    assert picked or helper in ("thinking_deltas", "tool_uses")


# ---- how they end -------------------------------------------------------------------------------


@every_helper
async def test_the_end_without_a_result_is_an_error(helper: str) -> None:
    """However much was said: it says that it is not whole, and gives what there was."""
    with pytest.raises(StreamInterrupted, match="ended without a ResultMessage") as caught:
        await use(helper, Source(*TURN[:-2]))
    assert caught.value.partial == AssistantMessage((TextBlock("Five."),))


@every_helper
async def test_an_empty_stream_is_an_error(helper: str) -> None:
    """Nothing at all is no success either."""
    with pytest.raises(StreamInterrupted) as caught:
        await use(helper, Source())
    assert caught.value.partial is None


@every_helper
async def test_a_result_that_is_an_error_is_raised(helper: str) -> None:
    """What an agent reports as failed does not end like an answer."""
    result = ResultMessage("no more turns", subtype="error_max_turns", is_error=True)
    with pytest.raises(ResultError, match="'error_max_turns': no more turns") as caught:
        await use(helper, Source(TextDelta(0, "I"), result))
    assert caught.value.result is result
    assert caught.value.partial == AssistantMessage((TextBlock("I"),))


@every_helper
@pytest.mark.parametrize("after", [0, 4, len(TURN)])
async def test_an_error_of_the_source_comes_through(helper: str, after: int) -> None:
    """The very object, before, in and after the answer; only until_result doesn't read so far."""
    if helper == "until_result" and after == len(TURN):
        return
    error = trio_claude.OverloadedError("busy")
    with pytest.raises(trio_claude.OverloadedError) as caught:
        await use(helper, Source(*TURN[:after], error=error))
    assert caught.value is error


@every_stream
async def test_the_error_comes_again(helper: str) -> None:
    """Who goes on reading after an error doesn't see an end."""
    stream = STREAMS[helper](Source(error=trio_claude.OverloadedError("busy")))
    for _ in range(2):
        with pytest.raises(trio_claude.OverloadedError):
            await stream.receive()


@every_stream
async def test_the_end_comes_again(helper: str) -> None:
    """After the end there is only the end."""
    stream = STREAMS[helper](Source(*TURN))
    await read(stream)
    for _ in range(2):
        with pytest.raises(trio.EndOfChannel):
            await stream.receive()


@every_stream
async def test_closing_a_stream_closes_its_source(helper: str) -> None:
    """Once, and what it had ready is gone."""
    source = Source(*TURN)
    stream = STREAMS[helper](source)
    async with stream:
        await stream.receive()
    assert source.closed == 1
    with pytest.raises(trio.ClosedResourceError):
        await stream.receive()


async def test_closing_ends_a_generator() -> None:
    """The source's own cleanup is done."""
    ended = trio.Event()

    async def events() -> AsyncIterator[Event]:
        try:
            for event in TURN:
                yield event
        finally:
            ended.set()

    async with streams.text_deltas(events()) as texts:
        await texts.receive()
    assert ended.is_set()


async def test_closing_ends_the_generator_of_an_iterable() -> None:
    """A source that is no iterator itself: the one that it gave is closed."""
    ended = trio.Event()

    class Iterable:
        async def __aiter__(self) -> AsyncIterator[Event]:
            try:
                for event in TURN:
                    yield event
            finally:
                ended.set()

    async with streams.text_deltas(Iterable()) as texts:
        assert await texts.receive() == "Let me "
    assert ended.is_set()


async def test_a_source_without_a_close_is_let_be() -> None:
    """A plain asynchronous iterator has nothing to close."""

    class Plain:
        def __aiter__(self) -> Self:
            return self

        async def __anext__(self) -> Event:
            return RESULT

    stream = streams.until_result(Plain())
    assert await read(stream) == [RESULT]
    with assert_checkpoints():
        await stream.aclose()


async def test_a_stream_that_is_left_early_warns_of_nothing() -> None:
    """Breaking off leaves no generator behind that Trio has to warn of."""
    async for text in streams.text_deltas(Source(*TURN)):
        assert text == "Let me "
        break
    gc.collect()
    await trio.lowlevel.checkpoint()


# ---- cancellation -------------------------------------------------------------------------------


@every_stream
async def test_a_cancelled_receive_loses_nothing(helper: str) -> None:
    """Cancelled at every checkpoint that it has, a stream gives the same as without."""
    whole = await read(STREAMS[helper](Source(*TURN)))
    stream = STREAMS[helper](Source(*TURN))
    got = []
    cancelled = 0
    while True:
        with trio.CancelScope() as scope:
            scope.cancel()
            await stream.receive()
        cancelled += scope.cancelled_caught
        try:
            got.append(await stream.receive())
        except trio.EndOfChannel:
            break
    assert got == whole
    assert cancelled == len(whole) + 1


async def test_what_waits_can_be_cancelled() -> None:
    """A receive that waits for its source, and a value that is being collected."""
    send, receive = trio.open_memory_channel[Event](0)
    texts = streams.text_deltas(receive)
    with send, receive:
        for waiting in (texts.receive, lambda: streams.collect(receive)):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(waiting)
                await wait_all_tasks_blocked()
                nursery.cancel_scope.cancel()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send.send, TextDelta(0, "still there"))
            assert await texts.receive() == "still there"


async def test_every_receive_lets_others_run() -> None:
    """Also where a piece is ready already: many sentences in one delta."""
    sentences = streams.buffered_text(Source(TextDelta(0, "A b.\n" * 50), RESULT))
    others = 0

    async def count() -> None:
        nonlocal others
        while True:
            others += 1
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(count)
        assert len(await read(sentences)) == 50
        nursery.cancel_scope.cancel()
    assert others >= 50


# ---- bad input ----------------------------------------------------------------------------------


@every_helper
@pytest.mark.parametrize("bad", ["text", None, [RESULT], 3])
async def test_what_is_no_stream_is_refused(helper: str, bad: object) -> None:
    """A text, nothing, a list: at the call, and by name."""
    with pytest.raises(ConfigurationError, match=r"^events must be a stream of events, not "):
        await use(helper, bad)


async def test_a_block_that_was_not_entered_is_refused_with_a_hint(autojump_clock: object) -> None:
    """The likely slip: what stream() gives is a block, and its target the stream."""
    async with trio_claude.open_session(backend=ScriptedBackend()) as session:
        with pytest.raises(
            ConfigurationError, match=r"enter it first: async with \.\.\. as events"
        ):
            streams.text_deltas(session.stream("Hello"))  # type: ignore[arg-type]


async def test_a_stream_of_something_else_is_refused() -> None:
    """What is no event is not passed over as if it had nothing in it."""
    with pytest.raises(ConfigurationError, match="gave 'Let me '"):
        await read(streams.text_deltas(streams.text_deltas(Source(*TURN))))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "types", [(), (str,), (TextDelta, "TextDelta"), (TextDelta | RESULT.__class__,)]
)
def test_filter_type_refuses_what_is_no_event_class(types: Sequence[Any]) -> None:
    """No type, another type, a name: none of them would ever give anything."""
    with pytest.raises(ConfigurationError, match="types must be classes out of SystemMessage, "):
        streams.filter_type(Source(*TURN), *types)


def test_a_stream_shows_its_source() -> None:
    """A repr for debugging."""
    channel = Source()
    assert repr(streams.messages(channel)) == f"<stream over {channel!r}>"


# ---- sentences ----------------------------------------------------------------------------------


def cut(*pieces: str) -> list[str]:
    """The sentences of a text that comes in these pieces."""
    sentences = Sentences()
    return [*(got for piece in pieces for got in sentences.feed(piece)), *sentences.finish()]


@pytest.mark.parametrize(
    "sentences",
    [
        ["One. ", "Two! ", "Three? ", "Four\N{HORIZONTAL ELLIPSIS} ", "Five"],
        ["Pi is 3.14 or so. ", "See trio_claude.streams and example.com/a.b?c for more."],
        ["Dr. Smith and J. R. Doe of the U.S. Army came. ", "E.g. Tom, cf. Fig. 3 and al. Others."],
        ["Somebody (Dr. Smith, *cf. Fig. 3*) came. ", "(I. Newton too.) ", "They left."],
        ["He said etc. and so on. ", "Really? he asked. ", "Well... yes."],
        [
            '"Quoted." ',
            "(In brackets.) ",
            "**Bold!** ",
            "\N{LEFT DOUBLE QUOTATION MARK}Hm?\N{RIGHT DOUBLE QUOTATION MARK} ",
            "End.",
        ],
        ["A line\n", "# Title\n", "\n\nText after blank lines. ", "More"],
        ["1. First item. ", "Second sentence.\n", "2. Next item.\n", "It was 1999. ", "Then"],
        ["Spaces.   ", "Before the line's end.  \n", "A tab.\t", "Windows.\r\n", "Fin"],
        ["\u4f60\u597d\u3002", "\u300c\u4e16\u754c\u3002\u300d", "python\u3002\u3002 ", "x y"],
        ["  leading. ", "..."],
        ["\n \n"],
        [],
    ],
)
def test_sentences(sentences: list[str]) -> None:
    """What a piece is: in one go, and one character after the other."""
    text = "".join(sentences)
    assert cut(text) == sentences
    assert cut(*text) == sentences


@given(
    st.lists(st.text("ab J1.!? \n\t\"')\u3002\u300d") | st.text(), max_size=8),
)
def test_sentences_do_not_depend_on_the_pieces(pieces: list[str]) -> None:
    """However a text is cut when it comes: the same sentences, and joined they are the text."""
    text = "".join(pieces)
    sentences = cut(*pieces)
    assert sentences == cut(text) == cut(*text)
    assert "".join(sentences) == text
    assert all(sentence.strip() for sentence in sentences[:-1])


def test_a_sentence_is_given_as_soon_as_it_is_known_to_be_whole() -> None:
    """With the first letter of the next one; a line with its end."""
    sentences = Sentences()
    assert list(sentences.feed("One. ")) == []
    assert list(sentences.feed("T")) == ["One. "]
    assert list(sentences.feed("wo\n")) == ["Two\n"]


async def test_a_sentence_ends_with_its_block() -> None:
    """Text of two blocks, or of two messages, is never in one piece."""
    events = Source(
        TextDelta(0, "One"),
        TextDelta(2, "two"),
        AssistantMessage((TextBlock("One"), LOOK, TextBlock("two"))),
        TextDelta(0, "three"),
        RESULT,
    )
    assert await read(streams.buffered_text(events)) == ["One", "two", "three"]


@pytest.mark.parametrize("piece", ["word ", "a.", ". ", "\n", "\u3002", "x"])
def test_a_long_text_takes_linear_time(piece: str) -> None:
    """Four times the text takes about four times as long, not sixteen: measured as the work."""

    def seconds(pieces: int) -> float:
        best = float("inf")
        for _ in range(3):
            began = time.process_time()
            cut(*[piece] * pieces)
            best = min(best, time.process_time() - began)
        return best

    assert seconds(40_000) < 10 * max(seconds(10_000), 0.001)
