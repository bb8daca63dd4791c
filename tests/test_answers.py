"""The short way of an answer gives what the long one would, however the stream is written and cut."""

import itertools
import json
from collections.abc import Iterable
from typing import Any, TypeAlias

import pytest
from hypothesis import assume, example, given, strategies as st

from tests.faulty_server import payloads, sse
from trio_claude._errors import APIError
from trio_claude._messages import Event, TextDelta
from trio_claude._wire import answers
from trio_claude._wire.answers import AnswerDecoder
from trio_claude._wire.api_errors import unreadable
from trio_claude._wire.messages_api import MessageDecoder
from trio_claude._wire.sse import SSEDecoder

LARGE = 1024 * 1024
Outcome: TypeAlias = tuple[list[Event], str | None, int, object]


class LongWay:
    """An answer's decoder without the short way: each event by itself."""

    def __init__(self, max_event_size: int) -> None:
        self.message = MessageDecoder("host", "session")
        self._sse = SSEDecoder(max_event_size)
        self._max_event_size = max_event_size

    def feed(self, data: bytes, events: list[Event]) -> None:
        """Take the next bytes."""
        for event in self._sse.feed(data):
            events += self.message.feed(event)
        if self._sse.overflowed and not self.message.done:
            why = f"an event is larger than max_event_size, {self._max_event_size} bytes"
            raise unreadable("host", why)

    def finish(self, events: list[Event]) -> None:
        """Take the end of the stream."""
        events += self.message.finish(self._sse.finish())


def outcome(decoder: AnswerDecoder | LongWay, packets: Iterable[bytes]) -> Outcome:
    """The events, the error, what was heard, and the message; the end of the stream, too."""
    events: list[Event] = []
    error = None
    try:
        for packet in packets:
            decoder.feed(packet, events)
        decoder.finish(events)
    except APIError as exc:
        error = f"{type(exc).__name__}: {exc}"
    message = decoder.message
    whole = None
    if message.done:
        # As text, for values that are not equal to themselves, and to tell 1 from True.
        whole = repr((message.message, message.content, message.usage, message.stop_reason))
    return events, error, message.heard, whole


def assert_same(packets: list[bytes], max_event_size: int = LARGE) -> Outcome:
    """Both ways give the same; gives that."""
    short = outcome(AnswerDecoder("host", "session", max_event_size), packets)
    long = outcome(LongWay(max_event_size), packets)
    assert repr(short) == repr(long)
    return short


def cut(stream: bytes, cuts: Iterable[int]) -> list[bytes]:
    """The stream in packets."""
    bounds = [0, *sorted({cut % (len(stream) + 1) for cut in cuts}), len(stream)]
    return [stream[start:end] for start, end in itertools.pairwise(bounds)]


# ---- any stream ---------------------------------------------------------------------------------

TEXTS = st.one_of(
    st.sampled_from(
        [
            "",
            "word ",
            '"text":',
            '"text":"x"}}\n\n',
            '"thinking":"',
            '\\"',
            "\\",
            "\u2028\u0085\x0b\x0c\x1c\x7f",
            "\ud83d",
            "\ude00",
            "\U0001f600",
            "data: {}\n\n",
            "\r\n\r\n",
            "\x00",
            "é" * 20,
        ]
    ),
    st.text(alphabet=st.characters(exclude_categories=()), max_size=8),
)
NAMES = {"text": "text_delta", "thinking": "thinking_delta", "partial_json": "input_json_delta"}


@st.composite
def deltas(draw: st.DrawFn) -> dict[str, Any]:
    """A delta of one of three blocks, as a rule a proper one."""
    index: Any = draw(st.sampled_from([0, 0, 0, 1, 1, 2]))
    field = draw(st.sampled_from([("text", "text", "text"), ("text", "thinking", "partial_json")]))
    name = field[index]
    inner: dict[str, Any] = {"type": NAMES[name], name: draw(TEXTS)}
    odd = draw(st.integers(0, 40))
    if odd == 0:
        inner["note"] = {name: draw(TEXTS)}
    elif odd == 1:
        inner[name] = 7
    elif odd == 2:
        inner = {"type": "future_delta", name: "x"}
    elif odd == 3:
        inner["extra"] = [None, True, 1.5, float("nan")]
    elif odd == 4:
        index = draw(st.sampled_from([True, 1.0, 9, "0", None]))
    elif odd == 5:
        inner = {"type": "signature_delta", "signature": "s"}
    payload = {"type": "content_block_delta", "index": index, "delta": inner}
    if draw(st.booleans()):
        payload["delta"] = dict(reversed(inner.items()))
    if draw(st.integers(0, 4)) == 0:
        payload = dict(reversed(payload.items()))
    if odd == 6:
        payload[name] = draw(TEXTS)
    return payload


STARTS = [
    payloads()[0],
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {"type": "content_block_start", "index": 1, "content_block": {"type": "thinking"}},
    {
        "type": "content_block_start",
        "index": 2,
        "content_block": {"type": "tool_use", "id": "t", "name": "n", "input": {}},
    },
]
ENDS = [*({"type": "content_block_stop", "index": index} for index in range(3)), *payloads()[-2:]]
OTHERS = st.sampled_from(
    [
        {"type": "ping"},
        {"type": "ping"},
        {"type": "content_block_stop", "index": 0},
        {"type": "future", "text": "x"},
        {"delta": 1},
        STARTS[1],
        {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}},
        {"type": "message_stop"},
    ]
)
# Whatever else a stream may have.
NOISE = st.sampled_from(
    [
        b": comment\n\n",
        b': "text":"x"\n',
        b"id: 7\n",
        b"id: 7\n\n",
        b"retry: 5\n",
        b"retry: 5\n\n",
        b"event: content_block_delta\n",
        b"\n\n\n",
        b"\r",
        b"data\n\n",
        b"data: [1]\n\n",
        b"data: \xff\n\n",
        b"\xef\xbb\xbf",
        b"junk",
        b"junk\n",
    ]
)


@st.composite
def writers(draw: st.DrawFn) -> dict[str, Any]:
    """One way to write events."""
    return {
        "separators": draw(st.sampled_from([(",", ":"), (", ", ": "), (",", " : ")])),
        "ensure_ascii": draw(st.booleans()),
        "end": draw(st.sampled_from(["\n", "\n", "\n", "\r\n", "\r"])),
        "named": draw(st.booleans()),
        "before": draw(st.sampled_from(["", "", "", "id: 1", ": c", "retry: 9"])),
        "after": draw(st.sampled_from(["", "", "", "id: 1", ': "text":"x"'])),
        "split": draw(st.sampled_from([False, False, False, True])),
    }


def write(payload: dict[str, Any], how: dict[str, Any]) -> bytes:
    """An event in the stream."""
    data = json.dumps(payload, separators=how["separators"], ensure_ascii=how["ensure_ascii"])
    lines = [how["before"]] if how["before"] else []
    if how["named"]:
        lines.append(f"event: {payload.get('type')}")
    if how["split"]:  # into two data lines, between two fields, as JSON allows
        head, comma, tail = data.partition(how["separators"][0])
        lines += [f"data: {head}{comma}", f"data: {tail}"] if tail else [f"data: {data}"]
    else:
        lines.append(f"data: {data}")
    if how["after"]:
        lines.append(how["after"])
    text = "".join(line + how["end"] for line in [*lines, ""])
    # A surrogate cannot be written as it is.
    return text.encode("utf-8", "replace")


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    """The bytes of an answer, most of it deltas, mostly proper and mostly whole."""
    how = draw(writers())
    middle = st.one_of(
        *[st.lists(deltas(), min_size=1, max_size=6)] * 6,
        OTHERS.map(lambda payload: [payload]),
        NOISE,
    )
    parts: list[bytes] = [draw(st.sampled_from([b"", b"", b"", b"\xef\xbb\xbf"]))]
    for part in [STARTS, *draw(st.lists(middle, max_size=8)), ENDS]:
        if draw(st.integers(0, 9)) == 0:
            how = draw(writers())
        parts += [part] if isinstance(part, bytes) else [write(payload, how) for payload in part]
    return b"".join(parts)


CUTS = st.lists(st.integers(0, 2**20), max_size=25)


@given(streams(), CUTS)
def test_the_short_way_gives_what_the_long_one_does(stream: bytes, cuts: list[int]) -> None:
    """The same events, the same message, and the same error after the same events."""
    assert_same(cut(stream, cuts))


@given(streams(), CUTS, st.integers(1, 400))
def test_the_same_with_a_limit(stream: bytes, cuts: list[int], max_event_size: int) -> None:
    """However small the limit is, too, it is the same events that pass."""
    assert_same(cut(stream, cuts), max_event_size)


@given(streams(), st.data())
def test_the_same_at_the_limit(stream: bytes, data: st.DataObject) -> None:
    """At exactly the size of a line of the stream, and one byte beside it, too."""
    sizes = sorted({len(line) for line in stream.splitlines() if line})
    assume(sizes)
    size = data.draw(st.sampled_from(sizes)) + data.draw(st.sampled_from([-1, 0, 1]))
    assert_same(cut(stream, data.draw(CUTS)), max(1, size))


@given(streams())
def test_the_same_byte_by_byte(stream: bytes) -> None:
    """Cut after every byte, too."""
    assert_same(cut(stream, range(len(stream))))


@given(streams(), st.data())
def test_the_same_with_broken_bytes(stream: bytes, data: st.DataObject) -> None:
    """Where bytes of the stream are others, or missing, too."""
    broken = bytearray(stream)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(broken) - 1))
        broken[at : at + data.draw(st.integers(0, 2))] = data.draw(
            st.sampled_from([b"", b"\n", b"\n\n", b"\r", b'"', b"\\", b"{", b"0", b"\xff", b"\0"])
        )
        assume(broken)
    assert_same(cut(bytes(broken), data.draw(CUTS)))


# ---- what must not be forgotten -----------------------------------------------------------------

DELTA = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hi"}}
BEGIN = sse(STARTS[0]) + sse(STARTS[1])
END = b"".join(map(sse, ENDS[-2:]))


def test_deltas_that_come_together() -> None:
    """A packet of deltas, whose first shows the shape, gives them all, and the message has them."""
    events, error, heard, whole = assert_same([BEGIN + sse(DELTA) * 40, sse(DELTA) * 2, END])
    assert events.count(TextDelta(0, "Hi")) == 42
    assert (error, heard) == (None, 46)
    assert repr("Hi" * 42) in str(whole)


def test_the_short_way_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of deltas that look alike the first of a block is parsed, and no other one."""
    fed: list[bytes] = []

    class Counted(MessageDecoder):
        def feed(self, event: Any) -> list[Event]:
            fed.append(event.data)
            return super().feed(event)

    monkeypatch.setattr(answers, "MessageDecoder", Counted)
    decoder = AnswerDecoder("host", None, LARGE)
    events: list[Event] = []
    decoder.feed(BEGIN + sse(DELTA) * 10, events)
    decoder.feed(sse(DELTA), events)
    decoder.feed(END, events)
    assert len(events) == 12
    assert len(fed) == 2 + 1 + 2


@pytest.mark.parametrize(
    "packets",
    [
        pytest.param(
            [
                b'data: {"type":"content_block_delta",\n',
                b'data: "index":0,"delta":{"type":"text_delta","text":"a"}}\n\n',
            ],
            id="an event of two data lines, in two packets",
        ),
        pytest.param(
            [
                b'data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta",'
                b'"text":"a"}}\n: "text":' + b"[" * 100_000 + b"\n\n",
            ],
            id="a comment nested too deep to be read",
        ),
        pytest.param([b": c", sse(DELTA), sse(DELTA) * 2], id="the end of a comment"),
        pytest.param([b"data:", b"\n" + sse(DELTA), sse(DELTA)], id="an empty line of data before"),
        pytest.param([sse(DELTA), b"retry: 5\n", sse(DELTA) * 2], id="a retry before"),
        pytest.param([sse(DELTA), b"event: x\n", sse(DELTA) * 2], id="an event's type before"),
        pytest.param([sse(DELTA) + b"\r", sse(DELTA) * 2], id="a carriage return before"),
        pytest.param([sse(DELTA) + b"\r", b"\n" + sse(DELTA) * 2], id="half a line end before"),
        pytest.param([sse(DELTA)[:-1], b"\n" + sse(DELTA) * 2], id="half a blank line"),
        pytest.param([sse(DELTA), sse(DELTA).replace(b"\n", b"\r\n") * 2], id="other line ends"),
        pytest.param([sse(DELTA) + END + sse(DELTA) * 2], id="more behind the end"),
    ],
)
def test_at_the_seams(packets: list[bytes]) -> None:
    """An event whose beginning came before, or that is written in two ways, is the same as ever."""
    assert_same([BEGIN, *packets, END])
    assert_same([BEGIN, sse(DELTA), *packets, END])
    assert_same([BEGIN + b"".join(packets) + END])


def test_an_error_comes_after_the_events_before_it() -> None:
    """Deltas of the short way that came in the same packet as an error are given first."""
    error = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
    events, said, _, _ = assert_same([BEGIN + sse(DELTA) * 5 + sse(error) + sse(DELTA)])
    assert events.count(TextDelta(0, "Hi")) == 5
    assert said is not None
    assert "Overloaded" in said


@example(0)
@example(1)
@given(st.integers(-3, 3))
def test_the_limit_counts_lines_not_packets(more: int) -> None:
    """A packet may be larger than the limit, if none of its lines is."""
    limit = max(len(line) for line in (BEGIN + END).splitlines()) + more
    events, error, _, _ = assert_same([BEGIN, sse(DELTA) * 20, END], limit)
    assert (error is None) == (more >= 0)
    assert events.count(TextDelta(0, "Hi")) == (20 if more >= 0 else 0)
