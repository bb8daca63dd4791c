"""What a conversation is made of: frozen values, sums of usage, and what a turn amounts to."""

import copy
import inspect
import pickle
from typing import Any, get_args

import attrs
import pytest
from hypothesis import given, strategies as st

import trio_claude
from trio_claude import (
    AssistantMessage,
    ContentBlock,
    Event,
    InputJSONDelta,
    RedactedThinkingBlock,
    ResultMessage,
    SystemMessage,
    TextBlock,
    TextDelta,
    ThinkingBlock,
    ThinkingDelta,
    ToolResultBlock,
    ToolUseBlock,
    UnknownBlock,
    UnknownMessage,
    Usage,
    UserMessage,
    _messages,
)
from trio_claude._messages import partial_message

EXTRA = {"new": [1, {"deep": True}]}

# One of each, with everything set.
VALUES: tuple[Any, ...] = (
    Usage(1, 2, 3, 4, EXTRA),
    TextBlock("text", EXTRA),
    ThinkingBlock("thought", "signature", EXTRA),
    RedactedThinkingBlock("data", EXTRA),
    ToolUseBlock("id", "name", {"a": [1]}, EXTRA),
    ToolResultBlock("id", ({"type": "text", "text": "it"},), True, EXTRA),
    UnknownBlock(EXTRA),
    SystemMessage("init", EXTRA),
    TextDelta(0, "text"),
    ThinkingDelta(0, "thought"),
    InputJSONDelta(0, "{"),
    AssistantMessage((TextBlock("text"),), "opus", "id", "end_turn", Usage(1), "tool", EXTRA),
    UserMessage((ToolResultBlock("id", "it"),), "tool", EXTRA),
    UnknownMessage(EXTRA),
    ResultMessage(
        "text", "success", False, "end_turn", 2, "id", Usage(1), 0.5, 7, 6, {"a": [1]}, EXTRA
    ),
)
every_value = pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)


# ---- values -------------------------------------------------------------------------------------


def test_these_are_all() -> None:
    """Every class of the module is above, is in a union if it is a block or an event, and public."""
    classes = {value for value in vars(_messages).values() if attrs.has(value)}
    assert classes == {type(value) for value in VALUES}
    assert {*get_args(ContentBlock), *get_args(Event), Usage} == classes
    assert {cls.__name__ for cls in classes} <= vars(trio_claude).keys()


@every_value
def test_a_value_is_frozen(value: Any) -> None:
    """No field can be set, and no other either."""
    for name in [field.name for field in attrs.fields(type(value))] + ["other"]:
        with pytest.raises((attrs.exceptions.FrozenInstanceError, AttributeError)):
            setattr(value, name, None)


@every_value
def test_values_are_equal_by_what_they_hold(value: Any) -> None:
    """A copy is equal, has the same hash, and can go through pickle; a change makes another."""
    for again in (
        attrs.evolve(value),
        copy.deepcopy(value),
        pickle.loads(pickle.dumps(value)),
    ):
        assert again == value
        assert hash(again) == hash(value)
    for field in attrs.fields(type(value)):
        assert attrs.evolve(value, **{field.name: object()}) != value


@every_value
def test_a_value_has_a_docstring(value: Any) -> None:
    """A sentence."""
    assert (inspect.getdoc(type(value)) or "").endswith(".")


def test_defaults_are_not_shared() -> None:
    """An empty mapping is each value's own."""
    assert TextBlock("a").extra is not TextBlock("a").extra
    assert TextBlock("a").extra == {}


def test_the_text_of_a_message_is_that_of_its_text_blocks() -> None:
    """Joined; what else is in it is no text."""
    blocks = (ThinkingBlock("hm"), TextBlock("a"), ToolUseBlock("1", "b"), TextBlock("c"))
    assert AssistantMessage(blocks).text == "ac"
    assert AssistantMessage(()).text == ""


def test_a_result_is_its_text() -> None:
    """As `.result`, `.text`, and `str()`."""
    result = ResultMessage("It works.")
    assert (result.result, result.text, str(result)) == ("It works.",) * 3
    assert f"{result}" == "It works."
    assert (result.subtype, result.is_error, result.num_turns) == ("success", False, 1)
    assert (result.usage, result.total_cost_usd) == (Usage(), None)


# ---- usage --------------------------------------------------------------------------------------

_TOKENS = st.integers(0, 1_000_000)
_EXTRAS = st.dictionaries(st.sampled_from("ab"), _TOKENS)
usages = st.builds(Usage, _TOKENS, _TOKENS, _TOKENS, _TOKENS, _EXTRAS)


def test_usage_adds_up() -> None:
    """Field by field; of the rest, the later one counts."""
    one = Usage(1, 2, 3, 4, {"tier": "standard", "a": 1})
    assert one + Usage(10, 20, 30, 40, {"tier": "batch"}) == Usage(
        input_tokens=11,
        output_tokens=22,
        cache_creation_input_tokens=33,
        cache_read_input_tokens=44,
        extra={"tier": "batch", "a": 1},
    )


@given(usages, usages, usages)
def test_sums_of_usage_are_sums(one: Usage, two: Usage, three: Usage) -> None:
    """Nothing added is nothing changed, and the brackets don't matter."""
    assert one + Usage() == one == Usage() + one
    assert (one + two) + three == one + (two + three)


@given(usages, usages)
def test_a_sum_leaves_its_parts_alone(one: Usage, two: Usage) -> None:
    """Nor does the sum share a mapping with them."""
    before = copy.deepcopy((one, two))
    total = one + two
    assert (one, two) == before
    assert total.extra is not one.extra
    assert total.extra is not two.extra


# ---- what a turn amounts to ---------------------------------------------------------------------

INIT = SystemMessage("init", {"model": "opus"})
WHOLE = AssistantMessage((TextBlock("whole"),), model="haiku")


@pytest.mark.parametrize(
    ("events", "partial"),
    [
        ([], None),
        ([INIT], None),
        ([INIT, InputJSONDelta(0, '{"a'), UnknownMessage(), UserMessage(())], None),
        (
            [INIT, TextDelta(0, "Hel"), TextDelta(0, "lo")],
            AssistantMessage((TextBlock("Hello"),), model="opus"),
        ),
        ([TextDelta(0, "Hello")], AssistantMessage((TextBlock("Hello"),))),
        (
            [TextDelta(1, "a"), ThinkingDelta(0, "h"), TextDelta(3, "c"), ThinkingDelta(0, "m")],
            AssistantMessage((ThinkingBlock("hm"), TextBlock("a"), TextBlock("c"))),
        ),
        (
            [TextDelta(10, "b"), TextDelta(9, "a")],
            AssistantMessage((TextBlock("a"), TextBlock("b"))),
        ),
        ([INIT, TextDelta(0, "who"), WHOLE], WHOLE),
        ([WHOLE, UserMessage(()), ResultMessage("whole")], WHOLE),
        (
            [INIT, WHOLE, UserMessage(()), TextDelta(0, "next")],
            AssistantMessage((TextBlock("next"),), model="opus"),
        ),
        (
            [INIT, SystemMessage("status", {"model": "other"}), TextDelta(0, "a")],
            AssistantMessage((TextBlock("a"),), model="opus"),
        ),
        (
            [SystemMessage("init"), TextDelta(0, "a")],
            AssistantMessage((TextBlock("a"),)),
        ),
    ],
)
def test_what_a_turn_amounts_to(events: list[Event], partial: AssistantMessage | None) -> None:
    """Deltas by their blocks, a whole message in their place, the next one after it."""
    assert partial_message(events) == partial


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans(), st.text(min_size=1)), max_size=12))
def test_nothing_of_the_deltas_is_lost(deltas: list[tuple[int, bool, str]]) -> None:
    """Each block has all of its pieces, in their order; even and odd are text and thinking."""
    events: list[Event] = [
        TextDelta(2 * index, piece) if is_text else ThinkingDelta(2 * index + 1, piece)
        for index, is_text, piece in deltas
    ]
    partial = partial_message(iter(events))
    by_block: dict[int, str] = {}
    for event in events:
        piece = event.text if isinstance(event, TextDelta) else vars_of(event)["thinking"]
        index = vars_of(event)["index"]
        by_block[index] = by_block.get(index, "") + piece
    expected = tuple(
        ThinkingBlock(by_block[index]) if index % 2 else TextBlock(by_block[index])
        for index in sorted(by_block)
    )
    assert (partial.content if partial else ()) == expected


def vars_of(event: Event) -> dict[str, Any]:
    """Its fields."""
    return attrs.asdict(event, recurse=False)
