"""Server-sent events, whole, byte by byte and cut anywhere."""

import itertools
import time

import pytest
from hypothesis import given, strategies as st

from trio_claude._wire.sse import ServerSentEvent, SSEDecoder

LARGE = 1024 * 1024


def decode(*pieces: bytes, max_size: int = LARGE) -> list[ServerSentEvent]:
    """All events of a stream, its end too."""
    decoder = SSEDecoder(max_size)
    events = [event for piece in pieces for event in decoder.feed(piece)]
    return events + decoder.finish()


def bytewise(data: bytes) -> list[bytes]:
    """The data, cut after every byte."""
    return [data[index : index + 1] for index in range(len(data))]


EXAMPLES: list[tuple[bytes, list[ServerSentEvent]]] = [
    (b"", []),
    (b"\n\n\n", []),
    (b"data: a\n\n", [ServerSentEvent("message", b"a")]),
    (b"data:a\n\n", [ServerSentEvent("message", b"a")]),
    (b"data:  a \n\n", [ServerSentEvent("message", b" a ")]),
    (b"data: a: b\n\n", [ServerSentEvent("message", b"a: b")]),
    (b"event: e\ndata: a\n\n", [ServerSentEvent("e", b"a")]),
    (b"data: a\nevent: e\n\n", [ServerSentEvent("e", b"a")]),
    (b"event: e\r\ndata: a\r\n\r\n", [ServerSentEvent("e", b"a")]),
    (b"event: e\rdata: a\r\r", [ServerSentEvent("e", b"a")]),
    (b"data: a\r\n\ndata: b\r\r\n", [ServerSentEvent("message", b"a"), ServerSentEvent("message", b"b")]),
    (b"data: a\ndata: b\ndata\n\n", [ServerSentEvent("message", b"a\nb\n")]),
    (b": comment\ndata: a\n:\n\n", [ServerSentEvent("message", b"a")]),
    (b"other: x\ndata: a\nother\n\n", [ServerSentEvent("message", b"a")]),
    (b"event: e\n\ndata: a\n\n", [ServerSentEvent("message", b"a")]),
    (b"data\n\n", [ServerSentEvent("message", b"")]),
    (b"\xef\xbb\xbfdata: a\n\n", [ServerSentEvent("message", b"a")]),
    (b"data: a\n\n\xef\xbb\xbfdata: b\n\n", [ServerSentEvent("message", b"a")]),
    ("data: a\u2028b\u0085c\x0bd\n\n".encode(), [ServerSentEvent("message", "a\u2028b\u0085c\x0bd".encode())]),
    (b"data: \xff\xfe\n\n", [ServerSentEvent("message", b"\xff\xfe")]),
    (b"event: \xff\ndata: a\n\n", [ServerSentEvent("\ufffd", b"a")]),
    (
        b"id: 1\ndata: a\n\ndata: b\n\nid: 2\0\ndata: c\n\nid\ndata: d\n\n",
        [
            ServerSentEvent("message", b"a", "1"),
            ServerSentEvent("message", b"b", "1"),
            ServerSentEvent("message", b"c", "1"),
            ServerSentEvent("message", b"d", ""),
        ],
    ),
    (
        b"retry: 50\ndata: a\n\nretry: x\ndata: b\n\nretry: 99999999999999999999\ndata: c\n\n",
        [
            ServerSentEvent("message", b"a", "", 50),
            ServerSentEvent("message", b"b"),
            ServerSentEvent("message", b"c"),
        ],
    ),
    # Left open by the end of the stream:
    (b"data: a\n\nevent: e\ndata: b\n", [ServerSentEvent("message", b"a"), ServerSentEvent("e", b"b")]),
    (b"event: e\ndata: b", [ServerSentEvent("e", b"b")]),
    (b"event: e\ndata: b\r", [ServerSentEvent("e", b"b")]),
    (b"event: e", []),
]  # fmt: skip


@pytest.mark.parametrize(("stream", "expected"), EXAMPLES)
def test_whole(stream: bytes, expected: list[ServerSentEvent]) -> None:
    """A stream that comes in one piece gives its events."""
    assert decode(stream) == expected


@pytest.mark.parametrize(("stream", "expected"), EXAMPLES)
def test_byte_by_byte(stream: bytes, expected: list[ServerSentEvent]) -> None:
    """A stream that comes byte by byte gives the same events."""
    assert decode(*bytewise(stream)) == expected


LINES = st.sampled_from(
    [b"data: a", b"data: b\xc3\xa9", b"data", b"event: e", b"id: 7", b"retry: 3", b": c", b"", b"x"]
)
ENDS = st.sampled_from([b"\n", b"\r", b"\r\n"])
STREAMS = st.lists(st.tuples(LINES, ENDS).map(b"".join)).map(b"".join)


@given(STREAMS, st.lists(st.integers(0, 200)), st.sampled_from([0, 1, 5, 12, LARGE]))
def test_cut_anywhere(stream: bytes, cuts: list[int], max_size: int) -> None:
    """However a stream is cut, its events are the same, and so is whether it overflows."""
    bounds = [0, *sorted(cut for cut in cuts if cut < len(stream)), len(stream)]
    decoders = [SSEDecoder(max_size), SSEDecoder(max_size)]
    whole = decoders[0].feed(stream)
    pieces = [
        event
        for start, end in itertools.pairwise(bounds)
        for event in decoders[1].feed(stream[start:end])
    ]

    assert pieces == whole
    assert decoders[0].overflowed == decoders[1].overflowed
    assert decoders[0].finish() == decoders[1].finish()


@given(st.binary())
def test_any_bytes(data: bytes) -> None:
    """No bytes make the decoder fail, and it does not matter how they are cut."""
    assert decode(data) == decode(*bytewise(data))


def test_events_come_as_soon_as_they_are_whole() -> None:
    """An event is given out with its blank line, also where a carriage return ends it."""
    decoder = SSEDecoder(LARGE)
    assert decoder.feed(b"data: a\r\r") == [ServerSentEvent("message", b"a")]
    assert decoder.feed(b"\n") == []
    assert decoder.feed(b"data: b\n\ndata") == [ServerSentEvent("message", b"b")]


@pytest.mark.parametrize(
    "stream",
    [
        b"data: 12345\n\n",  # a line of 11
        b"data: 12345",
        b"data:1234\ndata:1234\ndata:1\n\n",  # data of 11, joined
        b":comment...\n",
        b"data:12345678901234567890",
    ],
)
@pytest.mark.parametrize("cut", [bytewise, lambda data: [data]])
def test_too_large(stream: bytes, cut: object) -> None:
    """A line or an event over the limit stops the decoder, after the events before it."""
    decoder = SSEDecoder(10)
    pieces = [b"data: ok\n\n", *cut(stream), b"\n\ndata: no\n\n"]  # type: ignore[operator]
    assert [event for piece in pieces for event in decoder.feed(piece)] == [
        ServerSentEvent("message", b"ok")
    ]
    assert decoder.overflowed
    assert decoder.finish() == []


def test_just_large_enough() -> None:
    """A line and an event that are exactly at the limit pass."""
    assert decode(b"data: 1234\n\n", max_size=10) == [ServerSentEvent("message", b"1234")]
    data = b"data:12345\ndata:1234\n\n"
    assert decode(data, max_size=10) == [ServerSentEvent("message", b"12345\n1234")]


def seconds_to_decode(size: int, piece: int) -> float:
    """How long an event of this size takes when it comes in such pieces."""
    stream = b"data: " + b"x" * size + b"\n\n"
    decoder = SSEDecoder(size + 10)
    began = time.process_time()
    events = [
        event
        for start in range(0, len(stream), piece)
        for event in decoder.feed(stream[start : start + piece])
    ]
    took = time.process_time() - began
    assert [len(event.data) for event in events] == [size]
    return took


@pytest.mark.parametrize(("size", "piece"), [(32 * LARGE, 4096), (LARGE // 2, 1)])
def test_linear(size: int, piece: int) -> None:
    """Looking at a large event again with each piece would move 128 GiB; this is far from it."""
    assert seconds_to_decode(size, piece) < 10
