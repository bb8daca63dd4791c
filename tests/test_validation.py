"""The checks that options and calls share: what each takes, and how each refuses."""

import math
from collections import UserDict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import pytest
from hypothesis import given, strategies as st

from trio_claude import ConfigurationError, _validation as v

NAN = float("nan")
INF = math.inf


async def coroutine(*about: object) -> None:
    """To be awaited."""


def plain(*about: object) -> None:
    """Not to be awaited."""


class Called:
    """Called like the first of them."""

    async def __call__(self, *about: object) -> None:
        """To be awaited."""


# Each check, what it takes, and what it doesn't.
TABLE: list[tuple[Callable[[Any], bool], list[Any], list[Any]]] = [
    (v.is_count, [0, 1, 10**30], [-1, True, False, 1.0, "1", None, INF]),
    (lambda value: v.is_count(value, 2), [2, 3], [1, 0, -2, True]),
    (v.is_number, [0, -1, 0.5, INF, -INF], [NAN, True, False, "1", None, 1j, [1]]),
    (v.is_seconds, [0, 0.0, 0.25, 7, INF], [-1, -0.25, -INF, NAN, True, "1", None]),
    (v.is_hashable, [None, "a", 0, (1, "a"), object()], [[], {}, ([],), set()]),
    (
        v.is_token,
        ["k", "sk-ant_1.2/3+="],
        ["", "k\n", "k\r\nx: y", "\t", "schl\u00fcssel", b"k", 1, None],
    ),
    (
        v.is_url,
        ["http://h", "https://h:1/p?q=1", "http://[::1]:80", "http://127.0.0.1:49152/"],
        [
            *["", "h", "h:80", "ftp://h", "http:h", "http://", "https:///", "http://h /"],
            *["http://h\n", "HTTP", b"http://h", None, 80],
        ],
    ),
    (v.is_text, ["", "text", "\n"], [None, b"", 1, ["a"]]),
    (v.is_name, ["a", " a "], ["", " ", "\n", None, b"a", 1]),
    (v.is_strings, [[], (), ["a"], ("a", "b")], ["a", [""], [1], ["a", None], {"a"}, None, 1]),
    (v.is_mapping, [{}, {"a": 1}, UserDict({"a": []})], [{1: "a"}, [("a", 1)], "a", None]),
    (
        v.is_headers,
        [{}, {"a": "b"}, {"anthropic-beta": ""}, UserDict(a="b")],
        [{"": "b"}, {"a": 1}, {"a\n": "b"}, {"a": "b\r\nc: d"}, {"a": "\u00e4"}, {1: "b"}, "a: b"],
    ),
    (v.is_list, [[], (), ["a"], range(2)], ["a", b"a", bytearray(b"a"), {"a"}, {}, None, 1]),
    (v.is_mappings, [[], [{}], ({"a": 1}, UserDict())], [{}, [[]], [{1: 2}], "a", None]),
    (v.is_flag, [True, False], [0, 1, None, "", "yes"]),
    (v.is_path, ["a", "/a b", "-"], ["", "a\0", b"a", Path("a"), None, 1]),
    (v.is_paths, [[], ["a"], ("a", "b")], ["a", [""], [Path("a")], {"a"}, None]),
    (
        v.is_async,
        [coroutine, partial(coroutine, 1), Called(), Called().__call__, partial(Called())],
        [plain, partial(plain), Called, partial(Called), None, "a", [coroutine]],
    ),
    (v.are_async, [[coroutine], (Called(), coroutine)], [[], [plain], coroutine, None, "a"]),
    (
        v.is_plain_function,
        [plain, partial(plain), [].append, print],
        [coroutine, Called(), Called, int, None, "a"],
    ),
    (v.is_queue, [0, 5, INF], [-1, 1.5, -INF, NAN, True, "1", None]),
]


@pytest.mark.parametrize(
    ("check", "value", "valid"),
    [
        pytest.param(check, value, valid, id=f"{number}-{value!r}"[:40])
        for number, (check, good, bad) in enumerate(TABLE)
        for values, valid in ((good, True), (bad, False))
        for value in values
    ],
)
def test_each_check_takes_what_it_should(
    check: Callable[[Any], bool], value: object, valid: bool
) -> None:
    """By table."""
    assert check(value) is valid


@given(st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.binary()))
def test_the_checks_of_numbers_agree(value: object) -> None:
    """A count is a number, and a duration; infinite is a duration and a queue."""
    if v.is_count(value):
        assert v.is_number(value)
        assert v.is_seconds(value)
        assert v.is_queue(value)
    if v.is_queue(value):
        assert v.is_seconds(value)
    if v.is_seconds(value):
        assert v.is_number(value)


@given(st.text())
def test_a_token_fits_into_a_line(value: str) -> None:
    """Nothing that could begin another line, or that is not in ASCII."""
    if v.is_token(value):
        assert value.splitlines() == [value]
        assert value.encode("ascii")


# ---- as validators ------------------------------------------------------------------------------


@attrs.frozen(kw_only=True, repr=False)
class Options:
    """Some options."""

    colour: str | None = attrs.field(default=None, validator=v.checked(v.is_name, "a colour"))
    secret: str | None = attrs.field(
        default=None, repr=False, validator=v.checked(v.is_token, "a token", secret=True)
    )
    size: int = attrs.field(default=3, validator=v.checked(v.is_count, "a count"))
    derived: int = attrs.field(default=1, init=False)
    restart: str = "permanent"
    significant: bool = False

    def __repr__(self) -> str:
        return v.show_options(self)


def test_a_validator_refuses_by_name() -> None:
    """And says what is valid, and what it got."""
    with pytest.raises(ConfigurationError, match=r"^colour must be a colour, not 7$"):
        Options(colour=7)  # type: ignore[arg-type]
    assert Options(colour="red").colour == "red"
    assert Options(colour=None).colour is None


def test_a_validator_keeps_a_secret() -> None:
    """Of a bad one it says only of which type it was."""
    with pytest.raises(
        ConfigurationError, match=r"^secret must be a token, not this str \(not shown\)$"
    ):
        Options(secret="hunter2\n")
    with pytest.raises(
        ConfigurationError, match=r"^secret must be a token, not this bytes \(not shown\)$"
    ):
        Options(secret=b"hunter2")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("color", "did you mean 'colour'?"),
        ("sizes", "did you mean 'size'?"),
        ("xyz", "valid are: colour, secret, size, restart, significant"),
        ("derived", "valid are: colour, secret, size, restart, significant"),
    ],
)
def test_an_unknown_option_is_refused_with_a_hint(name: str, hint: str) -> None:
    """The closest one, or all; never one that can't be given."""
    with pytest.raises(ConfigurationError) as caught:
        v.refuse_unknown(Options, ["size", name, "other"])
    assert str(caught.value) == f"Options has no option {name!r}: {hint}"
    v.refuse_unknown(Options, ["size", "colour"])


def test_options_show_what_is_set() -> None:
    """What differs from its default; of a secret only that there is one."""
    assert repr(Options()) == "Options()"
    assert repr(Options(colour="red", size=3)) == "Options(colour='red')"
    assert repr(Options(secret="hunter2", size=4)) == "Options(secret='***', size=4)"


def test_none_is_refused_where_nothing_is_inherited() -> None:
    """The first of the fields that is None."""
    options = Options(size=None)  # type: ignore[arg-type]
    v.refuse_none(options, "restart")
    with pytest.raises(ConfigurationError, match=r"^size must not be None$"):
        v.refuse_none(options, "restart", "size", "colour")


def test_what_is_permanent_cannot_be_significant() -> None:
    """It never ends for good."""
    with pytest.raises(ConfigurationError, match=r"^Options\(significant=True\): what is perm"):
        v.refuse_significant(Options(significant=True))
    v.refuse_significant(Options(significant=True, restart="transient"))
    v.refuse_significant(Options(significant=False))


@pytest.mark.parametrize(
    ("url", "valid"),
    [
        ("https://api.example", True),
        ("http://127.0.0.1:8000/base", True),
        ("http://[::1]:80", True),
        ("http://:80", False),
        ("http://host:port", False),
        ("http://host:0", False),
        ("http://[::1", False),
        ("https://user:secret@host", False),
        ("https://a b", False),
        ("host", False),
        ("ftp://host", False),
        (None, False),
    ],
)
def test_where_a_service_can_be(url: object, valid: bool) -> None:
    """http or https, a host, a port that is a number, and no password."""
    assert valid == v.is_url(url)


# ---- what a value becomes -----------------------------------------------------------------------


def test_lists_become_tuples_and_paths_become_texts() -> None:
    """What is neither is left to the check to refuse."""
    assert v.as_tuple(["a"]) == ("a",)
    assert v.as_tuple("a") == "a"
    assert v.as_path(Path("/a")) == "/a"
    assert v.as_path(b"/a") == b"/a"
    assert v.as_paths([Path("/a"), "b", 1]) == ("/a", "b", 1)
    assert v.as_paths(Path("/a")) == Path("/a")


# ---- classes of which most is not set -----------------------------------------------------------


@v.sparse
@attrs.frozen(kw_only=True, slots=False)
class Sparse:
    """Three fields, and a memory of how it was made."""

    if not TYPE_CHECKING:

        def __init__(self, **fields: Any) -> None:
            v.set_options(self, fields)

    a: int | None = attrs.field(default=None, validator=v.checked(v.is_count, "a count"))
    b: int | None = attrs.field(default=None, converter=v.as_tuple)
    c: str = "c"

    def __attrs_post_init__(self) -> None:
        v.refuse_none(self, "c")


def test_an_instance_has_only_what_is_set() -> None:
    """What is not, it says all the same; and it is an attrs class like others."""
    one = Sparse(a=1)
    assert vars(one) == {"a": 1}
    assert (one.a, one.b, one.c) == (1, None, "c")
    assert one == Sparse(a=1, b=None, c="c")
    assert hash(one) == hash(Sparse(a=1, b=None, c="c"))
    assert one != Sparse()
    assert repr(one) == "Sparse(a=1, b=None, c='c')"
    assert attrs.asdict(attrs.evolve(one, b=[2])) == {"a": 1, "b": (2,), "c": "c"}
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        one.a = 2  # type: ignore[misc]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"a": -1}, "a must be a count, not -1"),
        ({"d": 1}, "Sparse has no option 'd'"),
        ({"c": None}, "c must not be None"),
    ],
)
def test_a_sparse_class_refuses_by_name(fields: dict[str, Any], said: str) -> None:
    """As attrs' own constructor would with these checks."""
    with pytest.raises(ConfigurationError, match=said):
        Sparse(**fields)
