"""The short way for deltas: which shapes are taken, which never, and what they give."""

import json
from typing import Any

import pytest
from hypothesis import given, strategies as st

from trio_claude._messages import InputJSONDelta, TextDelta, ThinkingDelta
from trio_claude._wire.deltas import Delta, Shape, shape_of

# What a service writes, compact and not.
USUAL = (
    "event: content_block_delta\n"
    'data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"Hi"}}\n\n'
)


def event_of(payload: dict[str, Any], **how: Any) -> str:
    """A payload as it stands in a stream."""
    return f"data: {json.dumps(payload, **how)}\n\n"


def delta_event(text: str = "Hi", **how: Any) -> str:
    """A text delta, in one of the ways to write JSON."""
    delta = {"type": "text_delta", "text": text}
    return event_of({"type": "content_block_delta", "index": 0, "delta": delta}, **how)


def shape(event: str = USUAL, delta: Delta | None = None) -> Shape:
    """The shape of what certainly has one."""
    found = shape_of(event, TextDelta(0, "Hi") if delta is None else delta)
    assert found is not None
    return found


# ---- which shapes there are ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("payload", "delta"),
    [
        ({"type": "text_delta", "text": "a"}, TextDelta(3, "a")),
        ({"text": "a", "type": "text_delta"}, TextDelta(3, "a")),
        ({"type": "thinking_delta", "thinking": "a"}, ThinkingDelta(3, "a")),
        ({"type": "thinking_delta", "text": "b", "thinking": "a"}, ThinkingDelta(3, "a")),
        ({"type": "input_json_delta", "partial_json": "{"}, InputJSONDelta(3, "{")),
        ({"type": "text_delta", "text": 'with "text": and \\ in it'}, TextDelta(3, "…")),
    ],
)
@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": "), (" , ", ":   ")])
@pytest.mark.parametrize("delta_first", [True, False])
def test_deltas_have_a_shape(
    payload: dict[str, Any], delta: Delta, separators: tuple[str, str], delta_first: bool
) -> None:
    """Each kind has a shape, with any spaces and any order of the fields; it gives the kind."""
    fields: dict[str, Any] = {"type": "content_block_delta", "index": 3}
    fields = {"delta": payload, **fields} if delta_first else {**fields, "delta": payload}
    event = event_of(fields, separators=separators)

    found = shape_of(event, delta)

    assert found is not None
    assert (found.kind, found.index) == (type(delta), 3)
    texts, end = found.take(event + event + "more", 0)
    name = {TextDelta: "text", ThinkingDelta: "thinking", InputJSONDelta: "partial_json"}
    assert texts == [payload[name[type(delta)]]] * 2
    assert end == 2 * len(event)
    assert list(found.deltas(["x", "y"])) == [type(delta)(3, "x"), type(delta)(3, "y")]


@pytest.mark.parametrize(
    "event",
    [
        pytest.param(
            'data: {"type":"content_block_delta","index":0,'
            '"delta":{"type":"text_delta","text":"Hi"},"note":{"text":"Hi"}}\n\n',
            id="the field is elsewhere, too, and last",
        ),
        pytest.param(
            'data: {"type":"content_block_delta","index":0,"text":"Hi",'
            '"delta":{"type":"text_delta","text" :"Hi"}}\n\n',
            id="the field is elsewhere, and its own is written another way",
        ),
        pytest.param(
            'data: {"type":"content_block_delta","index":0,'
            '"delta":{"type":"text_delta","text":"Hi"},"text":7}\n\n',
            id="what is found is a number",
        ),
        pytest.param(
            'data: {"type":"content_block_delta","index":0,'
            '"delta":{"type":"text_delta","text":"Hi"},"text":nonsense}\n\n',
            id="what is found is nothing",
        ),
        pytest.param(
            'data: {"type":"content_block_delta","index":0,'
            '"delta":{"type":"text_delta","text":"no"},'
            '"delta":{"type":"text_delta","text" :"Hi"}}\n\n',
            id="what is found is replaced by a duplicate",
        ),
        pytest.param(
            'data: {"type":"content_block_delta","index":0,'
            '"delta":{"type":"text_delta","\\u0074ext":"Hi"}}\n\n',
            id="its name is escaped",
        ),
        pytest.param(
            'data: {"type":"content_block_delta","index":0,'
            '"delta":{"type":"text_delta","text":"Hi"}}\n: "text":"Hi"\n\n',
            id="what is found is in a comment",
        ),
        pytest.param(
            'data: {"type":"content_block_delta","index":1,'
            '"delta":{"type":"text_delta","text":"Hi"}}\n\n',
            id="another index",
        ),
        pytest.param(
            'data: {"type":"content_block_start","index":0,'
            '"delta":{"type":"text_delta","text":"Hi"}}\n\n',
            id="another type",
        ),
        pytest.param(
            'data: {"index":0,"delta":{"type":"text_delta","text":"Hi"}}\n\n', id="no type"
        ),
        pytest.param(
            'data: {"type":"content_block_delta","index":0,"delta":["text",{"text":"Hi"}]}\n\n',
            id="its delta is a list",
        ),
        pytest.param('data: [{"text":"Hi"}]\n\n', id="no object"),
        pytest.param(
            USUAL.replace("\n\n", "\r\r") + USUAL, id="two events, cut apart by carriage returns"
        ),
        pytest.param(
            'id: {"text":"Hi"}\n\n',
            id="no event",
        ),
        pytest.param(
            'data: "index":0,"delta":{"type":"text_delta","text":"Hi"}}\n\n',
            id="half of an event, whose first lines came before",
        ),
        pytest.param(
            'data: {"type":"content_block_delta","index":0,'
            '"delta":{"type":"text_delta","text":"Hi"}}\n: "text":' + "[" * 100_000 + "\n\n",
            id="what is found is nested too deep to be read",
        ),
        pytest.param(
            'data: {"type":"content_block_delta","index":0,"note":"' + "x" * 1000 + '",'
            '"delta":{"type":"text_delta","text":"Hi"}}\n\n',
            id="more than is to be kept stands around it",
        ),
    ],
)
def test_no_shape(event: str) -> None:
    """Where anything but the delta's text stands between the ends, or may, there is no shape."""
    assert shape_of(event, TextDelta(0, "Hi")) is None


def test_a_duplicate_that_counts() -> None:
    """Of two texts the last one counts, and that is the one that is found."""
    event = USUAL.replace('"text":"Hi"', '"text":"no","text":"Hi"')
    assert shape(event).take(event, 0) == (["Hi"], len(event))


def test_shapes_are_remembered() -> None:
    """Blocks whose deltas are written alike share one shape, whatever their texts."""
    assert shape(delta_event("one")) is shape(delta_event("two"))
    assert shape(delta_event()) is not shape(delta_event(separators=(",", ":")))


# ---- what they take -----------------------------------------------------------------------------


@given(
    st.lists(st.text(alphabet=st.characters(exclude_categories=()))),  # lone surrogates, too
    st.booleans(),
    st.sampled_from([(",", ":"), (", ", ": ")]),
)
def test_any_texts(texts: list[str], escaped: bool, separators: tuple[str, str]) -> None:
    """Any texts come out as they went in, and nothing of what is behind them is touched."""
    if not escaped:  # what cannot be written without escapes
        texts = [text.encode("utf-8", "replace").decode() for text in texts]
    how: dict[str, Any] = {"ensure_ascii": escaped, "separators": separators}
    stream = "".join(delta_event(text, **how) for text in texts)
    behind = 'data: {"type":"ping"}\n\n' + delta_event(**how)
    taken, end = shape(delta_event(**how)).take(f"before{stream}{behind}", len("before"))
    assert (taken, end) == (texts, len("before") + len(stream))


@pytest.mark.parametrize(
    "event",
    [
        USUAL.replace("0", "1"),
        USUAL.replace("Hi", "line\nfeed"),
        USUAL.replace("Hi", "\x00"),
        USUAL.replace("Hi", "\t"),
        USUAL.replace("Hi", "\\x"),
        USUAL.replace("Hi", "\\u12g4"),
        USUAL.replace("Hi", "\\u123"),
        USUAL.replace("Hi", "\\"),
        USUAL.replace("Hi", 'H"i'),
        USUAL.replace("Hi", '","text":"Hi'),
        USUAL.replace('"Hi"', '"Hi" '),
        USUAL.replace('"Hi"', "null"),
        USUAL.replace("\n\n", "\r\n\r\n"),
        USUAL[:-1],
        USUAL[1:],
    ],
)
def test_what_does_not_fit(event: str) -> None:
    """What is no string of JSON, or stands in another event, is not taken; what comes before is."""
    found = shape()
    assert found.take(event, 0) == ([], 0)
    assert found.take(USUAL + event + USUAL, 0) == (["Hi"], len(USUAL))


@pytest.mark.parametrize(
    ("written", "text"),
    [
        ('\\"', '"'),
        ("\\\\", "\\"),
        ("\\/\\b\\f\\n\\r\\t", "/\b\f\n\r\t"),
        ("\\ud83d\\ude00", "\U0001f600"),
        ("\\ud83d", "\ud83d"),
        ("\u2028\x85\x7f", "\u2028\x85\x7f"),
        ("\U0001f600", "\U0001f600"),
        ('\\"}}\\n\\n', '"}}\n\n'),
        ("", ""),
    ],
)
def test_escapes(written: str, text: str) -> None:
    """A text means what JSON says it means, beside texts without any escape, too."""
    event = USUAL.replace("Hi", written)
    assert shape().take(USUAL + event + USUAL, 0) == (
        ["Hi", text, "Hi"],
        2 * len(USUAL) + len(event),
    )


def test_the_halves_of_a_pair_stay_apart() -> None:
    """Two surrogates in two deltas are two texts, as they are for a parser."""
    events = USUAL.replace("Hi", "\\ud83d") + USUAL.replace("Hi", "\\ude00")
    assert shape().take(events, 0) == (["\ud83d", "\ude00"], len(events))
