"""What may be said of a conversation, and who wins over whom."""

import ast
import inspect
import itertools
import math
import operator
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any, get_type_hints

import attrs
import pytest
from hypothesis import given, strategies as st
from trio.testing import MockClock

import trio_claude
from tests.test_cli_options import CLI_TABLE
from trio_claude import (
    ConfigurationError,
    Global,
    MessagesBackend,
    SessionOptions,
    SessionSpec,
    SupervisorSpec,
    _cli_options,
    _options,
    configure,
    open_supervisor,
)
from trio_claude._cli_options import CLIOptions, CLIOverrides
from trio_claude._options import (
    LIBRARY_DEFAULTS,
    Overrides,
    environment,
    merge,
    session_options,
)
from trio_claude.testing import ScriptedBackend, strategies

VARIABLES = ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_BASE_URL", "ANTHROPIC_MODEL")
OPTION_NAMES = [field.name for field in attrs.fields(SessionOptions)]
# Who gives one of these is not joined by its other from a lower layer.
PAIRS = (
    ("api_key", "auth_token"),
    ("can_use_tool", "permission_prompt_tool"),
    ("resume", "continue_conversation"),
)


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Neither the application nor the environment says anything."""
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    configure()
    yield
    configure()


# ---- one option ---------------------------------------------------------------------------------

TOO_LONG = "a text that is not to be seen"

# Each option: values that are valid, values that are not, and how that is said.
TABLE: dict[str, tuple[list[Any], list[Any], str]] = {
    **CLI_TABLE,
    "api_key": (["sk-ant-1"], ["", "a\nb", "\u00e4", 7], "printable ASCII text"),
    "auth_token": (["token"], ["", "a\rb", "\u00e4", b"token"], "printable ASCII text"),
    "base_url": (
        ["http://127.0.0.1:8000", "https://api.example/v2/"],
        ["", "api.example", "ftp://h", "https://", "http://a b", 80],
        "an http:// or https:// address",
    ),
    "model": (["opus", "claude-x-1"], ["", "  ", 4, b"opus"], "the name of a model"),
    "system_prompt": (["", "You are terse."], [b"", 1, ["a"]], "text"),
    "append_system_prompt": (["", "Be kind."], [b"", 1, ["a"]], "text"),
    "max_tokens": (
        [1, 64_000],
        [0, -1, 1.5, True, "9", math.inf],
        "a whole number of tokens, 1 or",
    ),
    "temperature": ([0, 0.5, 1], [-0.1, 1.1, math.nan, True, "1"], "a number from 0 to 1"),
    "top_p": ([0, 0.5, 1.0], [-1, 2, math.nan, False, "1"], "a number from 0 to 1"),
    "top_k": ([0, 40], [-1, 1.0, True, "1"], "a whole number, 0 or more"),
    "stop_sequences": (
        [(), ["END"], ("a", "b")],
        ["END", [""], [1], {"a"}],
        "a list of texts that are not empty",
    ),
    "thinking": (
        [{}, {"type": "enabled", "budget_tokens": 2048}],
        [True, "enabled", [("type", "enabled")], {1: 2}],
        "a mapping with text keys",
    ),
    "effort": (["low", "max"], ["", "lowest", 3, True, ["low"]], "one of low, medium, high"),
    "output_format": (
        [{"type": "json_schema", "schema": {}}],
        [{}, {"type": "json_schema"}, {"type": "text", "schema": {}}, "json", {1: 2}],
        "{'type': 'json_schema', 'schema': {...}}",
    ),
    "metadata": ([{"user_id": "u"}], ["u", {1: 2}], "a mapping with text keys"),
    "timeout": ([0.5, 300, math.inf], [0, -1, math.nan, True, "1"], "a number of seconds above 0"),
    "max_retries": ([0, 2], [-1, 1.0, True, math.inf], "a whole number, 0 or more"),
    "max_queue": (
        [0, 5, math.inf],
        [-1, 1.5, math.nan, True],
        "a whole number, 0 or more, or math",
    ),
    "extra_headers": (
        [{}, {"anthropic-beta": "a,b"}],
        [{"a": 1}, {"a": "b\n"}, {"": "b"}, "a: b", [("a", "b")]],
        "a mapping of HTTP header names to printable ASCII texts",
    ),
    "extra_body": ([{"service_tier": "standard_only"}], [[1], "a", {1: 2}], "a mapping with text"),
}
SPEC_TABLE: dict[str, tuple[list[Any], list[Any], str]] = {
    "name": (["a", 0, ("a", 1), "", Global("a")], [[], {}, ([],)], "hashable"),
    "id": (["a", 0, ("a", 1)], [[], set()], "hashable"),
    "restart": (
        ["permanent", "transient", "temporary"],
        ["always", "", 1, True, ["permanent"]],
        "'permanent', 'transient' or 'temporary'",
    ),
    "shutdown": ([0, 2.5, math.inf], [-1, math.nan, True, "5"], "a number of seconds, 0 or more"),
    "significant": ([False], [1, 0, "yes"], "True or False"),
    "backend": (
        ["messages", "cli", ScriptedBackend(), MessagesBackend()],
        ["http", "", ScriptedBackend, object(), 1],
        "a Backend, 'messages' or 'cli'",
    ),
}

every_class = pytest.mark.parametrize("cls", [SessionOptions, SessionSpec])


def rows(which: int, *tables: dict[str, tuple[list[Any], list[Any], str]]) -> list[Any]:
    """One row for each value in the tables."""
    return [
        pytest.param(name, value, row[2], id=f"{name}-{value!r}"[:60])
        for table in tables
        for name, row in table.items()
        for value in row[which]
    ]


def test_the_tables_have_every_option() -> None:
    """None was forgotten above."""
    assert list(TABLE) == OPTION_NAMES
    assert [*TABLE, *SPEC_TABLE] == [field.name for field in attrs.fields(SessionSpec)]


@pytest.mark.parametrize(("name", "value", "words"), rows(0, TABLE))
@every_class
def test_what_is_valid_is_taken(
    cls: type[SessionOptions], name: str, value: object, words: str
) -> None:
    """As it was given; by itself it is the only one that is set."""
    options = cls(**{name: value})  # type: ignore[arg-type]
    assert getattr(options, name) == (tuple(value) if isinstance(value, list) else value)
    assert [other for other in OPTION_NAMES if getattr(options, other) is not None] == [name]


@pytest.mark.parametrize(("name", "value", "words"), rows(0, SPEC_TABLE))
def test_what_is_valid_of_a_child_is_taken(name: str, value: object, words: str) -> None:
    """As it was given."""
    assert getattr(SessionSpec(**{name: value}), name) == value  # type: ignore[arg-type]


def refusals(name: str, value: Any) -> list[Callable[[], object]]:
    """All the doors at which a value can come in."""
    given_value: Any = {name: value}
    doors: list[Callable[[], object]] = [lambda: SessionSpec(**given_value)]
    if name in TABLE:
        doors += [lambda: SessionOptions(**given_value), lambda: configure(**given_value)]
    return doors


@pytest.mark.parametrize(("name", "value", "words"), rows(1, TABLE, SPEC_TABLE))
def test_what_is_not_valid_is_refused_by_name(name: str, value: object, words: str) -> None:
    """At each door: which option, and what is valid."""
    for door in refusals(name, value):
        with pytest.raises(ConfigurationError) as caught:
            door()
        assert str(caught.value).startswith(f"{name} must be {words}")
        assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize("name", ["restart", "shutdown", "significant"])
def test_what_has_no_layer_above_cannot_be_none(name: str) -> None:
    """None would be nothing."""
    with pytest.raises(ConfigurationError, match=f"^{name} must not be None$"):
        SessionSpec(**{name: None})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", OPTION_NAMES)
@every_class
def test_none_is_not_set(cls: type[SessionOptions], name: str) -> None:
    """An option that is None is as if it had not been given."""
    assert cls(**{name: None}) == cls()


@pytest.mark.parametrize(
    ("cls", "name", "hint"),
    [
        (SessionOptions, "modle", "did you mean 'model'?"),
        (SessionOptions, "systemprompt", "did you mean 'system_prompt'?"),
        (SessionOptions, "name", None),
        (SessionSpec, "naem", "did you mean 'name'?"),
        (SessionSpec, "zzz", None),
    ],
)
def test_an_unknown_option_is_refused(
    cls: type[SessionOptions], name: str, hint: str | None
) -> None:
    """With the one that was meant, or with all that there are; never with its value."""
    if hint is None:
        hint = f"valid are: {', '.join(field.name for field in attrs.fields(cls))}"
    with pytest.raises(ConfigurationError) as caught:
        cls(model="opus", **{name: TOO_LONG})  # type: ignore[arg-type]
    assert str(caught.value) == f"{cls.__name__} has no option {name!r}: {hint}"


@every_class
def test_a_key_and_a_token_are_one_too_many(cls: type[SessionOptions]) -> None:
    """Who are you, then? And neither is shown."""
    with pytest.raises(ConfigurationError, match="api_key and auth_token are two ways") as caught:
        cls(api_key="hunter2", auth_token="hunter3")
    assert "hunter" not in str(caught.value)


def test_what_is_permanent_cannot_be_significant() -> None:
    """It is always started again; the message names the session, and shows no secret."""
    with pytest.raises(ConfigurationError, match=r"SessionSpec.*name='a'.*permanent") as caught:
        SessionSpec(name="a", significant=True, api_key="hunter2")
    assert "hunter2" not in str(caught.value)
    assert SessionSpec(significant=True, restart="transient").significant


# ---- as values ----------------------------------------------------------------------------------


@every_class
def test_options_are_values(cls: type[SessionOptions]) -> None:
    """Frozen, equal by what they hold, with a hash, and changed by evolve()."""
    options = cls(model="opus", thinking={"type": "disabled"}, extra_headers={"a": "b"})
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        options.model = "haiku"  # type: ignore[misc]
    again = cls(model="opus", thinking={"type": "disabled"}, extra_headers={"a": "b"})
    assert options == again
    assert hash(options) == hash(again)
    changed = attrs.evolve(options, model="haiku")
    assert (changed.model, changed.thinking) == ("haiku", {"type": "disabled"})
    assert options != changed
    with pytest.raises(ConfigurationError, match="did you mean 'model'"):
        attrs.evolve(options, modell="haiku")  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        cls("opus")  # type: ignore[call-arg]


def test_a_repr_has_what_is_set_and_no_secrets() -> None:
    """What differs from the default; of keys, tokens and headers only that they are there."""
    assert repr(SessionOptions()) == "SessionOptions()"
    assert repr(SessionOptions(model="opus", api_key="hunter2")) == (
        "SessionOptions(api_key='***', model='opus')"
    )
    spec = SessionSpec(
        name="a", auth_token="hunter2", extra_headers={"x-secret": "hunter2"}, restart="transient"
    )
    assert repr(spec) == (
        "SessionSpec(auth_token='***', extra_headers='***', name='a', restart='transient')"
    )
    assert "hunter2" not in f"{spec} {spec!r} {SupervisorSpec(specs=[spec])!r}"


@pytest.mark.parametrize(
    "bad",
    [
        {"api_key": "hunter2\n"},
        {"auth_token": "hunter2\N{SNOWMAN}"},
        {"extra_headers": {"x-key": "hunter2\n"}},
        {"api_kye": "hunter2"},
        {"api_key": "hunter2", "max_tokens": 0},
    ],
)
def test_an_error_has_no_secrets(bad: dict[str, Any]) -> None:
    """Neither that of the bad option, nor those beside it."""
    for door in (SessionOptions, SessionSpec, configure):
        with pytest.raises(ConfigurationError) as caught:
            door(**bad)
        assert "hunter2" not in f"{caught.value} {caught.value!r}"


def test_overrides_are_the_options() -> None:
    """What calls take by keyword is what the class has, with the same types."""
    # As they are written, for what they name is imported for type checkers only.
    for overrides, options in ((CLIOverrides, CLIOptions), (Overrides, SessionOptions)):
        taken = {
            name: getattr(hint, "__forward_arg__", hint)
            for name, hint in overrides.__annotations__.items()
        }
        assert taken.items() >= options.__annotations__.items()
        assert overrides.__total__ is False
    assert list(Overrides.__annotations__) == OPTION_NAMES


@pytest.mark.parametrize(
    ("cls", "module"),
    [(CLIOptions, _cli_options), (SessionOptions, _options), (SessionSpec, _options)],
)
def test_every_option_says_what_it_is(cls: type, module: ModuleType) -> None:
    """A docstring stands under each field."""
    tree = ast.parse(inspect.getsource(module))
    (found,) = (node for node in tree.body if getattr(node, "name", "") == cls.__name__)
    assert isinstance(found, ast.ClassDef)
    fields = []
    for node, after in itertools.pairwise(found.body):
        if isinstance(node, ast.AnnAssign):
            fields.append(ast.unparse(node.target))
            assert isinstance(after, ast.Expr), fields[-1]
            assert isinstance(after.value, ast.Constant), fields[-1]
    assert fields == list(cls.__annotations__)


# ---- the layers ---------------------------------------------------------------------------------

any_options = strategies.session_options() | strategies.session_options(cli=True)


@given(any_options)
def test_what_was_taken_is_valid(options: SessionOptions) -> None:
    """As attrs can check again, each option also where it is not set."""
    attrs.validate(options)
    attrs.validate(SessionSpec(**vars(options)))


@given(any_options, any_options)
def test_the_first_layer_wins(first: SessionOptions, second: SessionOptions) -> None:
    """Option by option: what it says holds, and where it says nothing, the second one."""
    merged = merge(first, second)
    for name in set(OPTION_NAMES) - {name for pair in PAIRS for name in pair}:
        mine = getattr(first, name)
        assert getattr(merged, name) == (getattr(second, name) if mine is None else mine)


@given(any_options, any_options)
def test_options_that_exclude_each_other_come_from_one_layer(
    first: SessionOptions, second: SessionOptions
) -> None:
    """A pair is one option, such as the key and the token: the first layer with either has said it."""
    merged = merge(first, second)
    for pair in PAIRS:
        values = operator.attrgetter(*pair)
        said = values(first) if values(first) != (None, None) else values(second)
        assert values(merged) == said


@given(any_options, any_options, any_options)
def test_merging_is_associative(
    one: SessionOptions, two: SessionOptions, three: SessionOptions
) -> None:
    """However layers are put together before, the same holds; and one that is empty is none."""
    assert merge(one, merge(two, three)) == merge(merge(one, two), three) == merge(one, two, three)
    assert merge(one, one) == one == merge(one, SessionOptions()) == merge(SessionOptions(), one)
    assert merge() == SessionOptions()


@given(strategies.session_specs(), any_options)
def test_a_spec_is_a_layer(spec: SessionSpec, options: SessionOptions) -> None:
    """Of it only the options count; what comes out is no spec."""
    merged = merge(spec, options)
    assert type(merged) is SessionOptions
    assert merge(merge(spec), options) == merged


@pytest.mark.parametrize(
    ("variable", "name", "value"),
    [
        ("ANTHROPIC_API_KEY", "api_key", "key"),
        ("ANTHROPIC_AUTH_TOKEN", "auth_token", "token"),
        ("ANTHROPIC_BASE_URL", "base_url", "http://h:1"),
        ("ANTHROPIC_MODEL", "model", "opus"),
    ],
)
def test_the_environment(variable: str, name: str, value: str) -> None:
    """Each variable is one option; an empty one is none, and others are not looked at."""
    assert environment({variable: value}) == SessionOptions(**{name: value})  # type: ignore[arg-type]
    assert environment({variable: "", "HOME": "/", "ANTHROPIC_X": "1"}) == SessionOptions()


def test_of_key_and_token_in_the_environment_it_is_the_key() -> None:
    """Nobody chose between them, so it is no error."""
    variables = {"ANTHROPIC_API_KEY": "key", "ANTHROPIC_AUTH_TOKEN": "token"}
    assert environment(variables) == SessionOptions(api_key="key")
    variables["ANTHROPIC_API_KEY"] = ""
    assert environment(variables) == SessionOptions(auth_token="token")


def test_a_bad_variable_is_refused() -> None:
    """Like the option, by the variable's name, and no secret is shown."""
    with pytest.raises(ConfigurationError, match="ANTHROPIC_BASE_URL in the environment: base_url"):
        environment({"ANTHROPIC_BASE_URL": "api.example"})
    with pytest.raises(ConfigurationError, match="must be printable ASCII text") as caught:
        environment({"ANTHROPIC_API_KEY": "hunter2\nhunter3"})
    assert "hunter2" not in str(caught.value)


def test_a_variable_may_end_with_a_line_break() -> None:
    """As it does when it was read from a file."""
    assert environment({"ANTHROPIC_API_KEY": "hunter2\n"}) == SessionOptions(api_key="hunter2")


def test_no_password_of_an_address_is_shown() -> None:
    """An address with a user name is refused, and the error doesn't repeat it."""
    for scheme in ("https", "ftp"):
        with pytest.raises(ConfigurationError, match="without a user name") as caught:
            SessionOptions(base_url=f"{scheme}://user:hunter2@api.example")
        assert "hunter2" not in str(caught.value)
        assert "api.example" in str(caught.value)


def test_options_can_be_hashed_and_looked_into() -> None:
    """Lists become tuples, and the types of the fields are there for whoever asks."""
    assert hash(SessionOptions(stop_sequences=["a"])) == hash(SessionOptions(stop_sequences=("a",)))
    assert get_type_hints(SessionOptions)["max_tokens"] == int | None


@pytest.mark.parametrize("timeout", [10**400, float("nan"), True, 0])
def test_no_clock_counts_these(timeout: float) -> None:
    """A number of seconds is one that a clock can add."""
    with pytest.raises(ConfigurationError, match="timeout must be"):
        SessionOptions(timeout=timeout)


def test_the_library_has_the_last_word() -> None:
    """What holds where nobody has said anything."""
    assert session_options() == LIBRARY_DEFAULTS
    assert LIBRARY_DEFAULTS == SessionOptions(timeout=300.0, max_queue=math.inf)


def test_every_layer_wins_over_those_below(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the library up to the spec, each one that is added is the one that holds."""
    assert session_options().model is None
    monkeypatch.setenv("ANTHROPIC_MODEL", "of-the-environment")
    assert session_options().model == "of-the-environment"
    configure(model="of-the-application")
    assert session_options().model == "of-the-application"
    defaults = SessionOptions(model="of-the-supervisor")
    assert session_options(SessionSpec(), defaults).model == "of-the-supervisor"
    spec = SessionSpec(model="of-the-spec")
    assert session_options(spec, defaults).model == "of-the-spec"


@pytest.mark.parametrize("layers", [1, 2, 3, 4, 5, 6])
async def test_a_turn_is_told_by_the_highest_layer_that_speaks(
    layers: int, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    """For real: environment, application, outer and nearest supervisor, spec, call."""
    spoken: list[Any] = [SessionOptions(model=str(n)) if n <= layers else None for n in range(7)]
    monkeypatch.setenv("ANTHROPIC_MODEL", "1")
    if layers >= 2:
        configure(model="2")
    backend = ScriptedBackend()
    spec = SessionSpec(name="a", backend=backend, model="5" if layers >= 5 else None)
    inner = SupervisorSpec(specs=[spec], defaults=spoken[4])
    async with open_supervisor([inner], defaults=spoken[3]):
        if layers >= 6:
            await trio_claude.query("a", "Hello", model="6")
        else:
            await trio_claude.query("a", "Hello")
    (turn,) = backend.turns
    assert turn.options.model == str(layers)
    assert turn.options.timeout == 300


async def test_an_override_holds_for_one_turn(autojump_clock: MockClock) -> None:
    """The next one is as the session's options say, which the call did not change."""
    backend = ScriptedBackend()
    spec = SessionSpec(name="a", backend=backend, model="opus", auth_token="token")
    async with open_supervisor([spec]):
        await trio_claude.query("a", "Hello", model="haiku", api_key="key", temperature=0.5)
        await trio_claude.query("a", "Hello")
    first, second = (turn.options for turn in backend.turns)
    assert (first.model, first.api_key, first.auth_token) == ("haiku", "key", None)
    assert first.temperature == 0.5
    assert (second.model, second.api_key, second.auth_token) == ("opus", None, "token")
    assert second.temperature is None


def test_credentials_of_a_higher_layer_stand_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A token in the spec is not joined by the key that the environment has."""
    monkeypatch.setenv("ANTHROPIC_API_KEY", "of the environment")
    configure(auth_token="of the application")
    holds = session_options()
    assert (holds.api_key, holds.auth_token) == (None, "of the application")
    holds = session_options(SessionSpec(api_key="of the spec"))
    assert (holds.api_key, holds.auth_token) == ("of the spec", None)


# ---- configure ----------------------------------------------------------------------------------


def test_configure_replaces_all_of_it() -> None:
    """What was configured before and is not named again is gone; nothing named clears it."""
    configure(model="opus", temperature=0.5)
    assert session_options().temperature == 0.5
    configure(model="haiku")
    assert (session_options().model, session_options().temperature) == ("haiku", None)
    configure()
    assert session_options() == LIBRARY_DEFAULTS


@pytest.mark.parametrize(
    "bad",
    [
        {"model": ""},
        {"modle": "x"},
        {"temperature": 0.1, "top_p": 9},
        {"name": "a"},
        {"api_key": "a", "auth_token": "b"},
    ],
)
def test_configure_changes_nothing_on_an_error(bad: dict[str, Any]) -> None:
    """All or nothing."""
    configure(model="opus", temperature=0.5)
    before = session_options()
    with pytest.raises(ConfigurationError):
        configure(**bad)
    assert session_options() == before


async def test_configure_holds_for_sessions_that_start_afterwards(
    autojump_clock: MockClock,
) -> None:
    """Not for those that run."""
    backend = ScriptedBackend()
    configure(model="opus")
    async with open_supervisor([SessionSpec(name="a", backend=backend)]) as supervisor:
        configure(model="haiku")
        await supervisor.start_session(SessionSpec(name="b", backend=backend))
        await trio_claude.query("a", "Hello")
        await trio_claude.query("b", "Hello")
    assert [turn.options.model for turn in backend.turns] == ["opus", "haiku"]


@given(any_options)
def test_what_is_configured_holds(options: SessionOptions) -> None:
    """Everything that is set, above the library's own."""
    configure(**attrs.asdict(options, recurse=False))
    try:
        assert session_options() == merge(options, LIBRARY_DEFAULTS)
    finally:
        configure()


@given(st.dictionaries(st.sampled_from(VARIABLES), st.sampled_from(["", "http://h"])))
def test_the_environment_takes_any_of_its_variables(variables: dict[str, str]) -> None:
    """Set, empty or missing in any combination: never both credentials."""
    options = environment(variables)
    assert options.api_key is None or options.auth_token is None
    for name, variable in zip(("base_url", "model"), VARIABLES[2:], strict=True):
        assert getattr(options, name) == (variables.get(variable) or None)
