"""Where the good part of each conversation ends."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from trio_claude._backends.claude_cli import ends as module
from trio_claude._backends.claude_cli.ends import End, Ends


def test_of_a_conversation_nothing_is_known() -> None:
    """At first; nor of one that has no id yet."""
    ends = Ends()
    assert End() == End(last_id=None, left=None) == ends.of("s1") == ends.of(None)


def test_a_prompt_is_left_until_it_is_answered() -> None:
    """It is behind the last good turn; the one that was asked last counts."""
    ends = Ends()
    ends.asked("s1", "p1")
    assert End(None, left="p1") == ends.of("s1")
    ends.answered("s1", "m1")
    assert End("m1") == ends.of("s1")
    ends.asked("s1", "p2")
    ends.asked("s1", "p3")
    assert End("m1", left="p3") == ends.of("s1")
    ends.answered("s1", "m3")
    assert End("m3") == ends.of("s1")


def test_an_answer_without_a_message() -> None:
    """Where the last good turn ends is not known then: not where the one before did."""
    ends = Ends()
    ends.answered("s1", "m1")
    ends.asked("s1", "p2")
    ends.answered("s1", None)
    assert End() == ends.of("s1")


def test_each_conversation_has_its_own() -> None:
    """Whichever is asked in between."""
    ends = Ends()
    ends.asked("s1", "p1")
    ends.answered("s2", "m2")
    ends.asked("s3", "p3")
    assert [End(None, "p1"), End("m2"), End(None, "p3")] == [ends.of(f"s{n}") for n in (1, 2, 3)]


def test_the_oldest_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """A supervisor that runs for months doesn't keep them all; what is used is kept."""
    monkeypatch.setattr(module, "_KEPT", 3)
    ends = Ends()
    for number in (1, 2, 3):
        ends.answered(f"s{number}", f"m{number}")
    ends.asked("s1", "p1")
    assert ends.of("s2") == End("m2")  # to be looked at is no use
    ends.answered("s4", "m4")
    expected = [End("m1", "p1"), End(), End("m3"), End("m4")]
    assert expected == [ends.of(f"s{number}") for number in (1, 2, 3, 4)]


@given(
    st.lists(
        st.tuples(st.sampled_from("abcde"), st.booleans(), st.none() | st.integers(0, 99).map(str)),
        max_size=40,
    )
)
def test_what_is_kept_is_what_was_used_last(told: list[tuple[str, bool, str | None]]) -> None:
    """However they come: of the last few that were used all is known, of the others nothing."""
    expected: dict[str, End] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_KEPT", 3)
        ends = Ends()
        for session_id, is_asked, message_id in told:
            before = expected.pop(session_id, End())
            if is_asked:
                ends.asked(session_id, f"p{message_id}")
                expected[session_id] = End(before.last_id, f"p{message_id}")
            else:
                ends.answered(session_id, message_id)
                expected[session_id] = End(message_id)
            expected = dict(list(expected.items())[-3:])
            for each in "abcde":
                assert expected.get(each, End()) == ends.of(each)
