"""What goes over the wire in a cluster: values, events and errors come back as they went."""

import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from enum import Enum, IntEnum
from typing import Any, NamedTuple, Self

import attrs
import pytest
import trio
from hypothesis import given, strategies as st

import trio_claude
from trio_claude import (
    APIStatusError,
    AssistantMessage,
    Event,
    Global,
    InputJSONDelta,
    OverloadedError,
    ProcessError,
    QueryError,
    RateLimitError,
    ResultMessage,
    SessionCrashed,
    SystemMessage,
    TextBlock,
    TextDelta,
    ThinkingBlock,
    ThinkingDelta,
    ToolResultBlock,
    ToolUseBlock,
    TrioClaudeError,
    UnknownMessage,
    Usage,
    UserMessage,
)
from trio_claude.cluster._wire import BATCH_SIZE, Entry, Member, dumps, is_plain, loads, size_of
from trio_claude.cluster._wire_errors import FarError, dumps_error, loads_error

HERE = __name__
PARTIAL = AssistantMessage((TextBlock("Well, "),), model="opus", usage=Usage(1, 2))


def there_and_back(error: BaseException) -> Exception:
    """As it arrives in another process."""
    return loads_error(dumps_error(error))


def raised(error: BaseException) -> BaseException:
    """With a traceback."""
    try:
        raise error
    except BaseException as caught:
        return caught


# ---- values --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        Member("door", ("a", 1)),
        Entry("door", 1, "process 12 on 10.0.0.3", "a", Global("a"), "running", "s1"),
        Entry("door", 2, "process 13", Member("door", 3), None, "stopped", None),
    ],
)
def test_values_come_back_equal(value: Any) -> None:
    """And can be keys of a table; nothing can be set on them, and they have no dict."""
    again = loads(dumps(value))
    assert value == again
    assert hash(value) == hash(again)
    assert not hasattr(value, "__dict__")
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        value.door = "other"


class Colour(Enum):
    """No plain data."""

    RED = "red"


class Number(IntEnum):
    """An int, but of a subclass."""

    ONE = 1


class Pair(NamedTuple):
    """A tuple, but of a subclass."""

    one: int


class Word(str):
    """A str, but of a subclass."""

    __slots__ = ()


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary(),
    lambda inner: st.lists(inner, max_size=3).map(tuple) | st.frozensets(inner, max_size=3),
    max_leaves=8,
)
NOT_PLAIN: list[Any] = [
    Colour.RED,
    Number.ONE,
    Pair(1),
    Word("a"),
    object(),
    Global("a"),
    [],
    {},
    set(),
    int,
    1j,
    float("nan"),
    bytearray(),
]


@given(PLAIN)
def test_plain_data_is_plain(value: object) -> None:
    """However deep."""
    assert is_plain(value)


def hashable(value: object) -> bool:
    """Whether it can be in a set."""
    try:
        hash(value)
    except TypeError:
        return False
    return True


@given(st.sampled_from(NOT_PLAIN), st.lists(PLAIN, max_size=3), st.lists(st.booleans(), max_size=4))
def test_what_holds_anything_else_is_not(
    value: object, beside: list[object], around: list[bool]
) -> None:
    """However deep it is hidden."""
    for as_set in around:
        outside = (value, *beside)
        value = frozenset(outside) if as_set and hashable(outside) else outside
    assert not is_plain(value)


def test_plain_data_may_be_deeper_than_the_stack() -> None:
    """Nothing recurses."""
    value: object = ()
    for _ in range(20_000):
        value = (value,)
    assert is_plain(value)


# ---- events --------------------------------------------------------------------------------------

_JSON = st.dictionaries(st.text(max_size=3), st.none() | st.integers() | st.text(max_size=5))
_INDEXES = st.integers(0, 3)
_TEXTS = st.text(max_size=9)
_BLOCKS = st.one_of(
    st.builds(TextBlock, _TEXTS, _JSON),
    st.builds(ThinkingBlock, _TEXTS, _TEXTS),
    st.builds(ToolUseBlock, _TEXTS, _TEXTS, _JSON),
    st.builds(ToolResultBlock, _TEXTS, st.lists(_JSON, max_size=2).map(tuple)),
)
_CONTENTS = st.lists(_BLOCKS, max_size=3).map(tuple)
EVENTS: st.SearchStrategy[Event] = st.one_of(
    st.builds(TextDelta, _INDEXES, _TEXTS),
    st.builds(ThinkingDelta, _INDEXES, _TEXTS),
    st.builds(InputJSONDelta, _INDEXES, _TEXTS),
    st.builds(SystemMessage, _TEXTS, _JSON),
    st.builds(AssistantMessage, _CONTENTS, usage=st.builds(Usage, _INDEXES, extra=_JSON)),
    st.builds(UserMessage, _CONTENTS, extra=_JSON),
    st.builds(UnknownMessage, _JSON),
    st.builds(ResultMessage, _TEXTS, total_cost_usd=st.none() | st.floats(0, 9)),
)


@given(st.lists(EVENTS))
def test_events_come_back_equal(events: list[Event]) -> None:
    """Any list of them, in its order, each of its class."""
    again = loads(dumps(events))
    assert events == again
    assert [type(event) for event in events] == [type(event) for event in again]


@pytest.mark.parametrize("delta", [TextDelta, ThinkingDelta, InputJSONDelta])
def test_a_delta_is_as_large_as_its_text(delta: Callable[[int, str], Event]) -> None:
    """And a little more, so that many empty ones fill a batch too."""
    assert size_of(delta(0, "")) + 100 == size_of(delta(0, "x" * 100))
    assert 0 < size_of(delta(0, "")) < 50


@given(EVENTS)
def test_a_size_is_roughly_that_of_its_bytes(event: Event) -> None:
    """Not far below, nor far above; a class and its fields have names, which a list has once."""
    assert len(dumps(event)) / 15 <= size_of(event) <= 10 * len(dumps(event))


@pytest.mark.parametrize(
    "event",
    [
        AssistantMessage((TextBlock("x" * 1000),)),
        UserMessage((ToolResultBlock("1", ({"type": "text", "text": "x" * 1000},)),)),
        SystemMessage("init", {"tools": ["x" * 500, "y" * 500]}),
        UnknownMessage({"x" * 1000: 1}),
        ResultMessage("x" * 1000),
        ResultMessage(structured_output={"data": b"x" * 1000}),
    ],
)
def test_the_size_of_an_event_has_all_its_texts(event: Event) -> None:
    """Wherever in it they are."""
    assert 1000 < size_of(event) < 1600


def test_a_size_is_not_counted_beyond_a_batch() -> None:
    """Nor for ever, in what holds itself."""
    data: dict[str, object] = {}
    data["itself"] = [data, data]
    assert BATCH_SIZE <= size_of(UnknownMessage(data)) < 2 * BATCH_SIZE


# ---- errors: what comes through ------------------------------------------------------------------


def below(cls: type[TrioClaudeError]) -> list[type[TrioClaudeError]]:
    """It and all classes of ours below it."""
    ours = cls.__module__.partition(".")[0] == "trio_claude"
    return [cls] * ours + [found for child in cls.__subclasses__() for found in below(child)]


OURS = sorted(set(below(TrioClaudeError)), key=lambda cls: cls.__name__)
# A value for every attribute that one of them can have.
CARRIED: dict[str, Any] = {
    "partial": PARTIAL,
    "result": ResultMessage("no", subtype="error", is_error=True),
    "status_code": 529,
    "type": "overloaded_error",
    "request_id": "req_1",
    "retry_after": 2.5,
    "body": {"error": {"message": "busy"}},
    "refused": True,
    "name": Global(("a", 1)),
    "max_restarts": 3,
    "max_seconds": 5.0,
    "exit_code": -9,
    "stderr": "no memory",
}
every_class = pytest.mark.parametrize("cls", OURS, ids=lambda cls: cls.__name__)


def filled(cls: type[TrioClaudeError]) -> TrioClaudeError:
    """One with everything set that it can carry."""
    error = cls("it went wrong")
    vars(error).update({name: CARRIED[name] for name in vars(error)})
    return error


def test_these_are_ours() -> None:
    """Every public class of the tree, and all that they carry."""
    public = {
        value
        for value in vars(trio_claude).values()
        if isinstance(value, type) and issubclass(value, TrioClaudeError)
    }
    assert public <= set(OURS)
    assert len(public) > 30
    assert {*CARRIED} == {name for cls in OURS for name in vars(cls())}


@every_class
def test_our_own_come_through(cls: type[TrioClaudeError]) -> None:
    """With class, message, attributes and notes; and to be pickled by what pickles."""
    error = filled(cls)
    error.add_note("in session 'a'")
    again = there_and_back(error)
    assert cls is type(again)
    assert ("it went wrong",) == again.args
    assert vars(error) == vars(again)
    assert ["in session 'a'"] == again.__notes__
    assert vars(error) == vars(pickle.loads(pickle.dumps(again)))


@every_class
def test_only_what_cannot_be_pickled_is_lost_of_our_own(cls: type[TrioClaudeError]) -> None:
    """The one attribute becomes None; what can't be pickled of the message becomes its text."""
    for name in vars(cls()):
        error = filled(cls)
        vars(error)[name] = threading.Lock()
        assert vars(filled(cls)) | {name: None} == vars(there_and_back(error))
    lock = threading.Lock()
    unusual: Any = cls
    again = there_and_back(unusual(lock))
    assert cls is type(again)
    assert (str(lock),) == again.args


def fail() -> object:
    """What unpickling calls of :class:`Bomb`."""
    raise RuntimeError("no such thing here")


class Bomb:
    """Can be pickled, but not unpickled."""

    def __reduce__(self) -> Any:
        return fail, ()


def test_only_what_cannot_be_unpickled_is_lost_of_our_own() -> None:
    """In the same way."""
    error = RateLimitError("busy", status_code=429, body={"a": Bomb()}, partial=PARTIAL)
    again = there_and_back(error)
    assert RateLimitError is type(again)
    assert vars(error) | {"body": None} == vars(again)
    assert ("?",) == there_and_back(QueryError(Said("?"))).args  # type: ignore[arg-type]


class Said(Bomb):
    """One that says something."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __str__(self) -> str:
        return self.text


class Plain(Exception):
    """Like most."""


class OfOurs(QueryError):
    """A subclass of one of ours that wants keywords."""

    def __init__(self, *, code: int) -> None:
        super().__init__(f"code {code}")
        self.code = code


class Frozen(Exception):
    """Refuses to be changed, were it for a cause."""

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(name)


@pytest.mark.parametrize(
    "error",
    [
        Plain("a", 1),
        KeyError("a"),
        OSError(2, "No such file", "/nowhere"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
        trio.ClosedResourceError("closed"),
        OfOurs(code=7),
    ],
    ids=lambda error: type(error).__name__,
)
def test_other_exceptions_come_through(error: Exception) -> None:
    """Those of Python, of a library, of the user; with what hangs on them."""
    vars(error)["extra"] = {"a": 1}
    error.add_note("note")
    again = there_and_back(error)
    assert type(error) is type(again)
    assert (error.args, str(error), vars(error)) == (again.args, str(again), vars(again))


def test_a_frozen_one_comes_through() -> None:
    """Though it would let nobody set its cause."""
    error = Frozen(1)
    BaseException.__setattr__(error, "__cause__", ValueError("why"))
    again = there_and_back(error)
    assert isinstance(again, Frozen)
    assert "ValueError('why')" == repr(again.__cause__)


@pytest.mark.parametrize("cls", [Plain, QueryError])
def test_what_others_hide_on_an_exception_stays_here(cls: type[Exception]) -> None:
    """Attributes that begin with two underscores, even where they could not be pickled."""
    error = cls("a")
    vars(error).update({"__lock__": threading.Lock(), "__hidden": 1, "_mine": 2})
    error.add_note("note")
    assert vars(cls("a")) | {"_mine": 2, "__notes__": ["note"]} == vars(there_and_back(error))


def test_an_exception_in_an_attribute_keeps_its_notes() -> None:
    """It is no cause, but a value."""
    error, inner = Plain("a"), Plain("b")
    inner.add_note("inner")
    vars(error)["last_error"] = inner
    again = there_and_back(error)
    assert ["inner"] == vars(again)["last_error"].__notes__


# ---- errors: what cannot be had ------------------------------------------------------------------


class WantsKeywords(Exception):
    """Pickle calls it with its message."""

    def __init__(self, *, code: int) -> None:
        super().__init__(f"code {code}")


class Explodes(Exception):
    """Raises when it is unpickled."""

    def __reduce__(self) -> Any:
        return fail, ()


class ComesAsAnother(Exception):
    """Is another one when it is unpickled."""

    def __reduce__(self) -> Any:
        return ValueError, self.args


class ComesAsNone(Exception):
    """Is no exception at all when it is unpickled."""

    def __reduce__(self) -> Any:
        return str, ("a",)


def local(base: type[Exception]) -> Exception:
    """One of a class that only this call knows."""

    class Local(base):  # type: ignore[valid-type,misc]
        pass

    return Local("it went wrong")


def holding_a_lock() -> Exception:
    """One whose attribute can't be pickled, and not of ours."""
    error = Plain("locked")
    vars(error)["lock"] = threading.Lock()
    return error


@pytest.mark.parametrize(
    ("error", "name", "text"),
    [
        (local(Exception), f"{HERE}.local.<locals>.Local", "it went wrong"),
        (local(QueryError), f"{HERE}.local.<locals>.Local", "it went wrong"),
        (WantsKeywords(code=7), f"{HERE}.WantsKeywords", "code 7"),
        (Explodes("a"), f"{HERE}.Explodes", "a"),
        (ComesAsAnother("a"), f"{HERE}.ComesAsAnother", "a"),
        (ComesAsNone("a"), f"{HERE}.ComesAsNone", "a"),
        (Plain(threading.Lock), f"{HERE}.Plain", None),
        (holding_a_lock(), f"{HERE}.Plain", "locked"),
        (KeyboardInterrupt("stop"), "builtins.KeyboardInterrupt", "stop"),
        (KeyboardInterrupt(), "builtins.KeyboardInterrupt", ""),
        (SystemExit(3), "builtins.SystemExit", "3"),
    ],
)
def test_what_cannot_be_had_becomes_a_far_error(
    error: BaseException, name: str, text: str | None
) -> None:
    """With its notes and its cause; and it may travel on as it is."""
    if text is None:
        error.args = (threading.Lock(),)
        text = str(error)
    message = f"{name}: {text}" if text else name
    error.add_note("note")
    error.__cause__ = OverloadedError("busy", status_code=529)
    for again in [once := there_and_back(error), there_and_back(once)]:
        assert FarError is type(again)
        assert message == str(again)
        assert {"type_name": name, "__notes__": ["note"]} == vars(again)
        assert isinstance(again.__cause__, OverloadedError)
        assert 529 == again.__cause__.status_code


def test_trios_cancelled_becomes_a_far_error() -> None:
    """As a cause too: nobody here was cancelled."""

    async def main() -> BaseException:
        with trio.CancelScope() as scope:
            scope.cancel()
            try:
                await trio.lowlevel.checkpoint()
            except trio.Cancelled as cancelled:
                error = Plain("a")
                error.__cause__ = cancelled
                return error
        raise AssertionError

    cause = there_and_back(trio.run(main)).__cause__
    assert isinstance(cause, FarError)
    assert "trio.Cancelled" == cause.type_name


@pytest.mark.parametrize("base", [Exception, QueryError])
def test_a_class_that_the_other_side_does_not_know(
    base: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was known where it was raised."""
    cls = type("Known", (base,), {"__module__": HERE})
    monkeypatch.setitem(globals(), "Known", cls)
    data = dumps_error(cls("a"))
    assert cls is type(loads_error(data))
    monkeypatch.delitem(globals(), "Known")
    again = loads_error(data)
    assert FarError is type(again)
    assert f"{HERE}.Known: a" == str(again)


class Mute(Exception):
    """Cannot even be shown."""

    def __str__(self) -> str:
        raise RuntimeError("no")

    def __reduce__(self) -> Any:
        return fail, ()


class Verbose(Exception):
    """Shows itself in a str that only it knows."""

    def __str__(self) -> str:
        return local_word("long")

    def __reduce__(self) -> Any:
        return fail, ()


def local_word(text: str) -> str:
    """A str of a class that can't be pickled."""

    class LocalWord(str):
        __slots__ = ()

    return LocalWord(text)


@pytest.mark.parametrize(("cls", "text"), [(Mute, "<str() failed>"), (Verbose, "long")])
def test_the_text_of_any_exception_can_be_told(cls: type[Exception], text: str) -> None:
    """Though its own method fails, or gives what can't be pickled."""
    assert f"{HERE}.{cls.__name__}: {text}" == str(there_and_back(cls()))


def test_odd_notes_do_no_harm() -> None:
    """Each becomes a text; what is no list of notes is left out."""
    error = QueryError("a")
    vars(error)["__notes__"] = [1, local_word("two")]
    assert ["1", "two"] == there_and_back(error).__notes__
    vars(error)["__notes__"] = threading.Lock()
    assert not hasattr(there_and_back(error), "__notes__")


# ---- errors: their causes ------------------------------------------------------------------------


def chain(error: BaseException) -> list[str]:
    """It and what it was raised from or during, in words."""
    words = []
    found: BaseException | None = error
    while found is not None:
        words.append(repr(found))
        found = found.__cause__ or found.__context__
    return words


def test_a_cause_comes_through_and_hides_the_context() -> None:
    """Recursively; the context is not even sent."""
    error = SessionCrashed("lost", name="a")
    error.__cause__ = ProcessError("ended", exit_code=-9)
    error.__cause__.__cause__ = OSError("broken pipe")
    error.__context__ = ValueError("hidden")
    again = there_and_back(error)
    assert chain(error) == chain(again)
    assert (None, True) == (again.__context__, again.__suppress_context__)
    assert isinstance(again.__cause__, ProcessError)
    assert -9 == again.__cause__.exit_code
    error.__suppress_context__ = False  # as somebody may set it; the cause is shown all the same
    again = there_and_back(error)
    assert (None, False) == (again.__context__, again.__suppress_context__)


def test_a_context_comes_through_where_it_would_be_shown() -> None:
    """And not where it was suppressed, by `from None`."""
    error = Plain("a")
    error.__context__ = ValueError("b")
    again = there_and_back(error)
    assert ["Plain('a')", "ValueError('b')"] == chain(again)
    assert not again.__suppress_context__
    error.__suppress_context__ = True
    again = there_and_back(error)
    assert ["Plain('a')"] == chain(again)
    assert again.__suppress_context__


def test_a_cycle_is_cut() -> None:
    """Where it would come round again."""
    one, two = Plain("one"), Plain("two")
    one.__cause__, two.__cause__ = two, one
    assert ["Plain('one')", "Plain('two')"] == chain(there_and_back(one))
    one.__cause__ = one
    assert ["Plain('one')"] == chain(there_and_back(one))


def test_what_is_too_deep_is_left_out() -> None:
    """After twenty."""
    error = Plain("0")
    for number in range(1, 5_000):
        above = Plain(str(number))
        above.__cause__ = error
        error = above
    assert [f"Plain('{number}')" for number in range(4_999, 4_979, -1)] == chain(
        there_and_back(error)
    )


def test_where_it_was_raised_is_told_once() -> None:
    """By a note on each cause, not on the error itself; and not again when it travels on."""

    def crash() -> None:
        secret_value = "p" + "assword"
        try:
            raise Plain(len(secret_value))
        except Plain as exc:
            raise SessionCrashed("lost") from exc

    with pytest.raises(SessionCrashed) as caught:
        crash()
    caught.value.add_note("mine")
    again = there_and_back(caught.value)
    assert ["mine"] == again.__notes__
    assert again.__cause__ is not None
    (note,) = again.__cause__.__notes__
    first, *lines = note.splitlines()
    assert ("raised there:", "    raise Plain(len(secret_value))") == (first, lines[1])
    assert f'  File "{__file__}", line ' in lines[0]
    assert "password" not in note
    with pytest.raises(SessionCrashed) as caught:
        raise again from raised(again.__cause__)
    further = there_and_back(caught.value)
    assert further.__cause__ is not None
    assert [note] == further.__cause__.__notes__


def test_the_exception_itself_is_left_as_it_is() -> None:
    """It gets no note here, and keeps what hangs on it."""
    cause = raised(Plain("b"))
    error = QueryError("a")
    error.__cause__ = cause
    before = dict(vars(error)), dict(vars(cause)), cause.__traceback__
    dumps_error(error)
    assert before == (vars(error), vars(cause), cause.__traceback__)


# ---- errors: groups ------------------------------------------------------------------------------


class Crashes(ExceptionGroup[Exception]):
    """A group of the user's."""


class Strict(ExceptionGroup[Exception]):
    """One that is made in another way."""

    def __new__(cls, crashes: list[Exception]) -> Self:
        """Without a message."""
        return super().__new__(cls, "crashes", crashes)


@pytest.mark.parametrize("cls", [ExceptionGroup, Crashes])
def test_a_group_comes_through(cls: type[ExceptionGroup[Exception]]) -> None:
    """With its members, their causes and notes, groups in it, and attributes of its own."""
    first = RateLimitError("busy", status_code=429)
    first.__cause__ = raised(ValueError("why"))
    first.add_note("first")
    group = cls("two", [first, ExceptionGroup("inner", [local(Exception)])])
    vars(group).update({"code": 1, "lock": threading.Lock()})
    group.add_note("group")
    again = there_and_back(group)
    assert cls is type(again)
    assert isinstance(again, ExceptionGroup)
    assert ("two", ["group"]) == (again.message, again.__notes__)
    assert {"code": 1, "lock": None, "__notes__": ["group"]} == vars(again)
    one, two = again.exceptions
    assert isinstance(one, RateLimitError)
    assert (429, ["first"]) == (one.status_code, one.__notes__)
    assert one.__cause__ is not None
    assert "raised there:" == one.__cause__.__notes__[0].splitlines()[0]
    assert isinstance(two, ExceptionGroup)
    assert [FarError] == [type(inner) for inner in two.exceptions]


@pytest.mark.parametrize("cls", [Strict, "local"])
def test_a_group_of_a_class_that_cannot_be_had_is_a_plain_one(cls: Any) -> None:
    """Its message says which it was; its members are what they were."""
    if cls == "local":
        cls = type("Local", (ExceptionGroup,), {})
        group = cls("crashes", [Plain("a")])
    else:
        group = cls([Plain("a")])
    group.__cause__ = ValueError("why")
    again = there_and_back(group)
    assert ExceptionGroup is type(again)
    assert isinstance(again, ExceptionGroup)
    assert f"{HERE}.{cls.__name__}: crashes" == again.message
    assert ["Plain('a')"] == [repr(member) for member in again.exceptions]
    assert "ValueError('why')" == repr(again.__cause__)


def test_a_group_of_what_is_no_exception_is_one_of_far_errors() -> None:
    """The others in it are what they were."""
    group = BaseExceptionGroup("stopped", [KeyboardInterrupt(), Plain("a")])
    again = there_and_back(group)
    assert ExceptionGroup is type(again)
    assert isinstance(again, ExceptionGroup)
    assert "stopped" == again.message
    assert ["FarError('builtins.KeyboardInterrupt')", "Plain('a')"] == [
        repr(member) for member in again.exceptions
    ]


def test_what_two_members_share_stays_shared() -> None:
    """It travels once, however often it is met: this one has a million ways to its bottom."""
    group: Exception = Plain("bottom")
    for number in range(19):
        group = ExceptionGroup(str(number), [group, group])
    data = dumps_error(group)
    assert len(data) < 20_000
    again = loads_error(data)
    for number in range(18, -1, -1):
        assert isinstance(again, ExceptionGroup)
        assert str(number) == again.message
        one, again = again.exceptions
        assert one is again
    assert "Plain('bottom')" == repr(again)


def test_members_that_are_too_deep_or_in_a_cycle_are_left_out() -> None:
    """A group that has none left is a far error."""
    member, other = Plain("a"), Plain("b")
    member.__cause__ = ExceptionGroup("g", [member, other])
    cause = there_and_back(member).__cause__
    assert isinstance(cause, ExceptionGroup)
    assert ["Plain('b')"] == [repr(left) for left in cause.exceptions]
    member.__cause__ = ExceptionGroup("g", [member])
    assert "FarError('builtins.ExceptionGroup: g')" == repr(there_and_back(member).__cause__)
    group: Exception = member
    for number in range(30):
        group = ExceptionGroup(str(number), [group])
    group = there_and_back(group)
    for _ in range(19):
        assert isinstance(group, ExceptionGroup)
        (group,) = group.exceptions
    assert "FarError('builtins.ExceptionGroup: 10')" == repr(group)


# ---- errors: in another process ------------------------------------------------------------------


def test_errors_arrive_in_another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its `__main__` is another, as in a worker of Ray, and lacks what the user's program has."""
    mine = type("Mine", (Exception,), {"__module__": "__main__"})
    monkeypatch.setattr(sys.modules["__main__"], "Mine", mine, raising=False)
    assert mine is type(there_and_back(mine("a")))
    error = APIStatusError("busy", status_code=529, partial=PARTIAL)
    error.__cause__ = ExceptionGroup("two", [mine("a"), OSError(2, "No such file")])
    program = """
import sys
from trio_claude.cluster._wire_errors import loads_error

error = loads_error(sys.stdin.buffer.read())
print(repr(error), error.status_code, error.partial.text, sep="\\n")
print(*map(repr, error.__cause__.exceptions), sep="\\n")
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        input=dumps_error(error),
        capture_output=True,
        check=True,
        timeout=60,
    )
    assert [
        "APIStatusError('busy')",
        "529",
        "Well, ",
        "FarError('__main__.Mine: a')",
        "FileNotFoundError(2, 'No such file')",
    ] == done.stdout.decode().splitlines()
