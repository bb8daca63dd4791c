"""Lines of JSON out of bytes: however these are cut, whatever else stands between, how large they are."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, strategies as st

from trio_claude import ProtocolError
from trio_claude._wire.jsonlines import JSONLine, LineDecoder

LIMIT = 100


def decode(*pieces: bytes, limit: int = LIMIT) -> list[JSONLine]:
    """All lines of a stream that comes in these pieces."""
    decoder = LineDecoder(limit)
    lines: list[JSONLine] = []
    for piece in pieces:
        decoder.feed(piece, lines)
    decoder.finish(lines)
    return lines


def failure_of(*pieces: bytes, limit: int = LIMIT) -> tuple[str, list[JSONLine]]:
    """What a stream with an unreadable line fails of, and the lines before it."""
    decoder = LineDecoder(limit)
    lines: list[JSONLine] = []
    with pytest.raises(ProtocolError) as caught:
        for piece in pieces:
            decoder.feed(piece, lines)
    return str(caught.value), lines


# Texts with everything that some decoder takes for the end of a line, and not UTF-8 in one byte.
_TEXTS = st.text(st.sampled_from('a \r\n\t\x0b\x0c\x1c\x85\u2028\u2029"\\é€😀{}'), max_size=8)
_OBJECTS = st.dictionaries(_TEXTS, _TEXTS | st.integers() | st.none(), max_size=3)
_NOISE = st.sampled_from(["", " ", "\r", "[Debug] {}", "null", '"text"', " {}", "é", "\ufeff{}"])


@st.composite
def _streams(draw: st.DrawFn) -> tuple[list[JSONLine], list[bytes]]:
    """Objects, and a stream of them with noise between, cut anywhere."""
    lines: list[JSONLine] = []
    written = b""
    for thing in draw(st.lists(_OBJECTS | _NOISE, max_size=6)):
        if isinstance(thing, str):
            written += thing.encode()
        else:
            lines.append(thing)
            written += json.dumps(thing, ensure_ascii=draw(st.booleans())).encode()
        written += draw(st.sampled_from([b"\n", b"\r\n", b"\n\n"]))
    cuts = sorted(draw(st.sets(st.integers(0, len(written)))))
    ends = [*cuts, len(written)]
    return lines, [written[start:end] for start, end in zip([0, *cuts], ends, strict=True)]


@given(_streams())
def test_any_cut_gives_the_same_lines(stream: tuple[list[JSONLine], list[bytes]]) -> None:
    """Neither cuts, not even inside a character, nor noise between them changes the objects."""
    expected, pieces = stream
    assert expected == decode(*pieces, limit=1000)
    assert expected == decode(*(bytes([byte]) for byte in b"".join(pieces)), limit=1000)


@given(st.lists(st.binary(max_size=30), max_size=5))
def test_nothing_but_a_protocol_error_is_raised(pieces: list[bytes]) -> None:
    """Whatever the bytes are, there are objects, or the error that says there are none."""
    decoder = LineDecoder(LIMIT)
    lines: list[Any] = []
    try:
        for piece in pieces:
            decoder.feed(piece, lines)
    except ProtocolError:
        pass
    else:
        decoder.finish(lines)
    assert all(isinstance(line, dict) for line in lines)


def test_lines_are_given_as_soon_as_they_are_whole() -> None:
    """With their line feed, and not before."""
    decoder = LineDecoder(LIMIT)
    lines: list[JSONLine] = []
    decoder.feed(b'{"a":1', lines)
    assert [] == lines
    decoder.feed(b"}", lines)
    assert [] == lines
    decoder.feed(b'\n{"b":2}\n{"c"', lines)
    assert [{"a": 1}, {"b": 2}] == lines
    decoder.feed(b"", lines)
    decoder.feed(b":3}\n", lines)
    assert [{"a": 1}, {"b": 2}, {"c": 3}] == lines


@pytest.mark.parametrize(
    "noise",
    [
        b"",
        b"\r",
        b"[SandboxDebug] starting",
        b'["a list"]',
        b"null",
        b" {}",
        b"\xff\xfe",
        "\u2028{}".encode(),
    ],
)
def test_noise_is_skipped(noise: bytes) -> None:
    """A line that doesn't begin like an object is none."""
    assert [{"a": 1}, {"b": 2}] == decode(b'{"a":1}\n' + noise + b'\n{"b":2}\n')


def test_only_a_line_feed_ends_a_line() -> None:
    """What else is taken for an end of a line may stand in a text, raw."""
    text = "one\u2028two\u2029three\x85four\x7ffive"
    assert [{"text": text}] == decode(json.dumps({"text": text}, ensure_ascii=False).encode())


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n", b" "])
def test_the_last_line_needs_no_end(end: bytes) -> None:
    """A whole object at the end of the stream counts, whatever follows it."""
    assert [{"a": 1}, {"b": 2}] == decode(b'{"a":1}\n{"b"', b":2}" + end)


@pytest.mark.parametrize("cut", [b'{"b":', b'{"b":"\xe2\x82', b"{", b"deb"])
def test_half_a_line_at_the_end_is_nothing(cut: bytes) -> None:
    """Who waits for more than what came before finds that out by the end."""
    assert [{"a": 1}] == decode(b'{"a":1}\n' + cut)


def test_after_the_end_there_is_nothing_left() -> None:
    """The end is taken once."""
    decoder = LineDecoder(LIMIT)
    lines: list[JSONLine] = []
    decoder.feed(b'{"a":1}', lines)
    decoder.finish(lines)
    decoder.finish(lines)
    assert [{"a": 1}] == lines


@pytest.mark.parametrize(
    "line",
    [
        b"{nonsense}",
        b'{"a":1} {"b":2}',
        b'{"text":"\xff"}',
        b'{"a":' + b"[" * 100_000,
    ],
    ids=["no JSON", "two", "no UTF-8", "too deep"],
)
def test_an_object_that_is_none_is_an_error(line: bytes) -> None:
    """It may have been what somebody waits for; the lines before it were given."""
    said, lines = failure_of(b'{"a":1}\n' + line + b"\n", limit=200_000)
    assert said.startswith("the claude program wrote a line that is no JSON: {")
    assert [{"a": 1}] == lines


def test_how_much_of_a_line_is_shown() -> None:
    """So much that one sees what it is; what can't be read is escaped."""
    said, _lines = failure_of(b"{" + b"x" * 199 + b"\n", limit=1000)
    assert said.endswith(": {" + "x" * 199)
    said, _lines = failure_of(b"{" + b"\xff" * 200 + b"\n", limit=1000)
    assert said.endswith(r": {" + r"\xff" * 199 + " ...")


def _line_of(size: int) -> bytes:
    return b'{"a":"' + b"x" * (size - 8) + b'"}'


@pytest.mark.parametrize(
    "cut",
    [
        lambda line: [line + b"\n"],
        lambda line: [line, b"\n"],
        lambda line: [bytes([byte]) for byte in line + b"\n"],
        lambda line: [b"{}\n{}\n" + line + b"\n{}\n"],
        lambda line: [b"{}\n" + line[:50], line[50:] + b"\n{}\n"],
        lambda line: [line],
    ],
    ids=["whole", "end apart", "bytes", "among others", "cut", "without an end"],
)
def test_the_largest_line(cut: Any) -> None:
    """A line of exactly `max_size` bytes, its end not counted, is read; one more is an error."""
    pieces: Sequence[bytes] = cut(_line_of(LIMIT))
    assert {"a": "x" * (LIMIT - 8)} in decode(*pieces)

    said, lines = failure_of(*cut(_line_of(LIMIT + 1)))
    assert said == (
        "the claude program wrote a line of more than 100 bytes, which is max_buffer_size; "
        "set that option higher if such lines are meant to be"
    )
    assert all(line == {} for line in lines)


def test_a_line_that_is_too_large_is_not_waited_for() -> None:
    """The error comes with the byte that is too much, and noise counts like any other line."""
    said, lines = failure_of(b"{}\n" + b"x" * LIMIT, b"x")
    assert "more than 100 bytes" in said
    assert [{}] == lines


def test_small_lines_are_never_too_large_together() -> None:
    """The limit is one line's, not that of what came at once."""
    assert [{"a": 1}] * 1000 == decode(b'{"a":1}\n' * 1000)
    assert [{"a": 1}] * 1000 == decode(b'{"a":1}', *[b'\n{"a":1}'] * 999)


def test_the_limit_of_a_line_behind_others() -> None:
    """It holds at once, not with the next bytes only."""
    lines: list[JSONLine] = []
    with pytest.raises(ProtocolError, match="more than 100 bytes"):
        LineDecoder(100).feed(b'{}\n{"a":"' + b"x" * 200 + b'"}', lines)
    assert [{}] == lines
