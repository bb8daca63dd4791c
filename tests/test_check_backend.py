"""The checks for backends: ours pass, and each promise that is broken is found, and named."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock

from trio_claude import (
    AssistantMessage,
    AuthenticationError,
    Backend,
    ConfigurationError,
    Connection,
    Conversation,
    Event,
    MessagesBackend,
    ResultMessage,
    SessionOptions,
    SystemMessage,
    TextBlock,
    TextDelta,
)
from trio_claude.simulator import open_simulator
from trio_claude.testing import ScriptedBackend, check_backend

Events = trio.abc.ReceiveChannel[Event]
INIT = SystemMessage("init")
OPTIONS = SessionOptions(timeout=20.0)


# ---- those that keep their promises -------------------------------------------------------------


async def test_the_scripted_backend_passes(autojump_clock: MockClock) -> None:
    """In virtual time, and with nothing left open."""
    backend = ScriptedBackend()
    await check_backend(backend)
    assert backend.connections == backend.conversations == 0
    assert len(backend.turns) > 20


async def test_a_slow_backend_passes(autojump_clock: MockClock) -> None:
    """One that takes its time before it opens, and between two words."""
    told = ScriptedBackend()

    async def slowly(turn: Any) -> list[Any]:
        answer = told._respond(turn)
        return [step for word in str(answer).split() for step in (0.25, word + " ")]

    async def open_slowly(_: SessionOptions) -> None:
        await trio.sleep(1)

    await check_backend(ScriptedBackend(slowly, on_open=open_slowly))
    assert trio.current_time() > 100


async def test_the_messages_backend_passes() -> None:
    """Over a real socket, against the simulator."""
    async with open_simulator(api_key="key") as simulator:
        await check_backend(
            MessagesBackend(), SessionOptions(base_url=simulator.base_url, api_key="key")
        )


async def test_it_can_be_cancelled(autojump_clock: MockClock) -> None:
    """The check is given up, and nothing of it is left."""

    async def open_slowly(_: SessionOptions) -> None:
        await trio.sleep(1)

    backend = ScriptedBackend(on_open=open_slowly)
    with trio.move_on_after(5) as scope:
        await check_backend(backend)
    assert scope.cancelled_caught
    assert backend.connections == backend.conversations == 0


# ---- those that don't ---------------------------------------------------------------------------


class Wrapped(Backend):
    """A scripted backend that can be broken in any of its three blocks."""

    def __init__(self) -> None:
        self.inner = ScriptedBackend()

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[Connection]:
        """Connect."""
        async with self.inner.connect() as connection:
            yield WrappedConnection(self, connection)

    @asynccontextmanager
    async def opened(
        self, connection: Connection, options: SessionOptions
    ) -> AsyncIterator[Conversation]:
        """Open a conversation."""
        async with connection.open(options) as conversation:
            yield WrappedConversation(self, conversation)

    @asynccontextmanager
    async def asked(
        self, conversation: Conversation, prompt: str, options: SessionOptions
    ) -> AsyncIterator[Events]:
        """Ask."""
        async with conversation.turn(prompt, options) as events:
            yield events


@attrs.frozen
class WrappedConnection(Connection):
    """What the wrapped backend makes of a connection."""

    backend: Wrapped
    inner: Connection

    def open(self, options: SessionOptions) -> AbstractAsyncContextManager[Conversation]:
        """Open a conversation."""
        return self.backend.opened(self.inner, options)


@attrs.frozen
class WrappedConversation(Conversation):
    """What the wrapped backend makes of a conversation."""

    backend: Wrapped
    inner: Conversation

    def turn(self, prompt: str, options: SessionOptions) -> AbstractAsyncContextManager[Events]:
        """Ask."""
        return self.backend.asked(self.inner, prompt, options)


class Listed(trio.abc.ReceiveChannel[Event]):
    """Events out of a list."""

    def __init__(self, events: Sequence[Event], *, for_ever: bool = False) -> None:
        self.left = list(events)
        self.for_ever = for_ever

    async def receive(self) -> Event:
        """The next one."""
        await trio.lowlevel.checkpoint()
        if not self.left:
            raise trio.EndOfChannel
        return self.left[0] if self.for_ever and len(self.left) == 1 else self.left.pop(0)

    async def aclose(self) -> None:
        """Nothing to close."""
        raise AssertionError


def without(*types: type) -> Callable[[list[Any]], list[Any]]:
    """Leave out the events of these types."""
    return lambda events: [event for event in events if not isinstance(event, types)]


def with_result(**changes: object) -> Callable[[list[Any]], list[Any]]:
    """Change the result."""
    return lambda events: [*events[:-1], attrs.evolve(events[-1], **changes)]


@pytest.mark.parametrize(
    ("edit", "found"),
    [
        (without(ResultMessage), "a turn has one ResultMessage, not 0"),
        (lambda events: [*events, events[-1]], "a turn has one ResultMessage, not 2"),
        (lambda events: [*events, TextDelta(0, "x")], "the ResultMessage is not the last event"),
        (with_result(is_error=True), "a ResultMessage with is_error is no answer"),
        (lambda events: [*events[:-1], "end", events[-1]], r"no events: \['end'\]"),
        (without(SystemMessage), "the first event is not SystemMessage"),
        (lambda events: [SystemMessage("hm"), *events], "the first event is not SystemMessage"),
        (without(TextDelta), "there is no TextDelta in the answer"),
        (lambda events: [*events[:2], *events[3:]], "the deltas join to "),
        (without(AssistantMessage), "the deltas join to "),
        (with_result(result="42"), "the result is '42', and the messages are "),
        (
            lambda events: [
                *events[:-1],
                TextDelta(0, "more"),
                AssistantMessage((TextBlock("more"),)),
                events[-1],
            ],
            "the result is ",
        ),
        (lambda events: [], "a turn has one ResultMessage, not 0"),
    ],
)
async def test_events_out_of_order_are_found(
    edit: Callable[[list[Event]], list[Event]], found: str, autojump_clock: MockClock
) -> None:
    """Whatever is missing, doubled or misplaced in an answer."""

    class Broken(Wrapped):
        @asynccontextmanager
        async def asked(self, *args: Any) -> AsyncIterator[Events]:
            async with super().asked(*args) as events:
                yield Listed(edit([event async for event in events]))

    with pytest.raises(AssertionError, match=f"^events_in_order: .*{found}"):
        await check_backend(Broken(), OPTIONS)


async def test_an_answer_without_an_end_is_found(autojump_clock: MockClock) -> None:
    """One that gives something for ever."""

    class Broken(Wrapped):
        @asynccontextmanager
        async def asked(self, *args: Any) -> AsyncIterator[Events]:
            async with super().asked(*args) as events:
                yield Listed([event async for event in events], for_ever=True)

    with pytest.raises(AssertionError, match=r"^events_in_order: there is no EndOfChannel"):
        await check_backend(Broken(), OPTIONS)


class Forgetful(Wrapped):
    """Each turn is the first one of its conversation."""

    @asynccontextmanager
    async def asked(
        self, conversation: Conversation, prompt: str, options: SessionOptions
    ) -> AsyncIterator[Events]:
        """Ask."""
        async with (
            self.inner.connect() as connection,
            connection.open(options) as fresh,
            fresh.turn(prompt, options) as events,
        ):
            yield events


class Breaking(Wrapped):
    """A failed turn is the end of all memory."""

    def __init__(self) -> None:
        super().__init__()
        self.broken = False

    @asynccontextmanager
    async def asked(
        self, conversation: Conversation, prompt: str, options: SessionOptions
    ) -> AsyncIterator[Events]:
        """Ask."""
        if self.broken:
            conversation._history.clear()  # type: ignore[attr-defined]
        self.broken = True
        async with super().asked(conversation, prompt, options) as events:
            yield events
            async for _ in events:
                return
        self.broken = False


class SharedByConnection(Wrapped):
    """All conversations of a connection are one."""

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[Connection]:
        """Connect."""
        async with super().connect() as connection, connection.open(OPTIONS) as only:

            class Sharing(Connection):
                @asynccontextmanager
                async def open(self, _: SessionOptions) -> AsyncIterator[Conversation]:
                    yield only

            yield Sharing()


class SharedByAll(Wrapped):
    """The first conversation of each connection is an old one."""

    only: Any = None

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[Connection]:
        """Connect."""
        fresh = True

        class Sharing(Connection):
            @asynccontextmanager
            async def open(_, options: SessionOptions) -> AsyncIterator[Conversation]:
                nonlocal fresh
                async with connection.open(options) as conversation:
                    if fresh and self.only is not None:
                        conversation.inner._history += self.only.inner._history  # type: ignore[attr-defined]
                    if fresh:
                        self.only = conversation
                    fresh = False
                    yield conversation

        async with super().connect() as connection:
            yield Sharing()


class RememberingThe(Wrapped):
    """A turn is remembered for a wrong reason."""

    def __init__(self, reason: str) -> None:
        super().__init__()
        self.reason = reason

    @asynccontextmanager
    async def asked(
        self, conversation: Any, prompt: str, options: SessionOptions
    ) -> AsyncIterator[Events]:
        """Ask."""
        seen: list[Event] = []
        ended: BaseException | None = None
        try:
            async with conversation.turn(prompt, options) as events:
                yield Seen(events, seen)
        except BaseException as exc:
            ended = exc
            raise
        finally:
            has_result = any(isinstance(event, ResultMessage) for event in seen)
            kind = (
                "success"
                if has_result and ended is None
                else "failed after the result"
                if has_result and not isinstance(ended, trio.Cancelled)
                else "cancelled after the result"
                if has_result
                else "failed"
                if isinstance(ended, Exception)
                else "cancelled at the door"
                if isinstance(ended, trio.Cancelled) and not seen
                else "cancelled"
                if isinstance(ended, trio.Cancelled)
                else "left early"
                if seen
                else "unread"
            )
            if kind == self.reason:
                conversation._history.append((prompt, "Noted."))


@attrs.frozen
class Seen(trio.abc.ReceiveChannel[Event]):
    """A channel, and what was received of it."""

    inner: Events
    seen: list[Event]

    async def receive(self) -> Event:
        """The next one."""
        self.seen.append(await self.inner.receive())
        return self.seen[-1]

    async def aclose(self) -> None:
        """Not called."""
        raise AssertionError


class LateCheckpoint(Wrapped):
    """A cancellation gets in after the turn was remembered."""

    @asynccontextmanager
    async def asked(self, *args: Any) -> AsyncIterator[Events]:
        """Ask."""
        async with super().asked(*args) as events:
            yield events
        await trio.lowlevel.checkpoint()


class SwallowingCancel(Wrapped):
    """A cancelled turn ends as if it had only been left."""

    @asynccontextmanager
    async def asked(self, *args: Any) -> AsyncIterator[Events]:
        """Ask."""
        with trio.CancelScope(shield=True):
            async with super().asked(*args) as events:
                yield events


class Tiring(Wrapped):
    """The first answer has an end, the others have none."""

    tired = False

    @asynccontextmanager
    async def asked(self, *args: Any) -> AsyncIterator[Events]:
        """Ask."""
        async with super().asked(*args) as events:
            yield Listed([INIT]) if self.tired else events
        self.tired = True


class Grouping(Wrapped):
    """What is raised in a turn's block comes out in a group."""

    @asynccontextmanager
    async def asked(self, *args: Any) -> AsyncIterator[Events]:
        """Ask."""
        async with trio.open_nursery(), super().asked(*args) as events:
            yield events


class Overhearing(Wrapped):
    """A conversation hears what is asked in another one."""

    def __init__(self) -> None:
        super().__init__()
        self.in_flight: list[tuple[str, str]] = []

    @asynccontextmanager
    async def asked(
        self, conversation: Any, prompt: str, options: SessionOptions
    ) -> AsyncIterator[Events]:
        """Ask."""
        conversation._history += self.in_flight
        self.in_flight.append((prompt, "Noted."))
        try:
            async with super().asked(conversation, prompt, options) as events:
                yield events
        finally:
            self.in_flight.pop()


class Refusing(Wrapped):
    """No turn may begin while another is in flight."""

    in_flight = False

    @asynccontextmanager
    async def asked(self, *args: Any) -> AsyncIterator[Events]:
        """Ask."""
        if self.in_flight:
            raise RuntimeError("one at a time, please")
        self.in_flight = True
        try:
            async with super().asked(*args) as events:
                yield events
        finally:
            self.in_flight = False


class OneAtATime(Wrapped):
    """No turn begins while another is in flight."""

    def __init__(self) -> None:
        super().__init__()
        self.lock = trio.Lock()

    @asynccontextmanager
    async def asked(self, *args: Any) -> AsyncIterator[Events]:
        """Ask."""
        async with self.lock, super().asked(*args) as events:
            yield events


class Leaky(Wrapped):
    """A task stays behind."""

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[Connection]:
        """Connect."""
        trio.lowlevel.spawn_system_task(trio.sleep, 60, name="watchdog")
        async with super().connect() as connection:
            yield connection


class SwallowingAtConnect(Wrapped):
    """A connection that is cancelled while it opens is just not there."""

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[Connection]:
        """Connect."""
        async with super().connect() as connection:
            with suppress(trio.Cancelled):
                yield connection


class SwallowingAtOpen(Wrapped):
    """Likewise a conversation."""

    @asynccontextmanager
    async def opened(self, *args: Any) -> AsyncIterator[Conversation]:
        """Open a conversation."""
        async with super().opened(*args) as conversation:
            with suppress(trio.Cancelled):
                yield conversation


@pytest.mark.parametrize(
    ("broken", "found"),
    [
        (Forgetful, "conversation_remembers: a turn that succeeded is forgotten: "),
        (Tiring, "conversation_remembers: the answer ended without a ResultMessage"),
        (SharedByConnection, "fresh_conversation_knows_nothing: a fresh conversation knows "),
        (SharedByAll, "fresh_conversation_knows_nothing: a fresh connection knows "),
        (lambda: RememberingThe("unread"), "turn_left_unread: a turn that did not succeed is rem"),
        (Breaking, "turn_left_unread: a turn that succeeded is forgotten: "),
        (lambda: RememberingThe("left early"), "turn_left_early: a turn that did not succeed is "),
        (SwallowingCancel, "turn_cancelled: the turn swallows its cancellation"),
        (lambda: RememberingThe("cancelled at the door"), "turn_cancelled: a turn that did not "),
        (lambda: RememberingThe("cancelled"), "turn_cancelled: a turn that did not succeed is "),
        (LateCheckpoint, "turn_cancelled_after_its_result: a turn was cancelled, and then "),
        (Grouping, r"turn_left_with_an_exception: an exception in the block comes out as Exce"),
        (lambda: RememberingThe("failed"), "turn_left_with_an_exception: a turn that did not "),
        (
            lambda: RememberingThe("failed after the result"),
            "turn_left_with_an_exception: a turn that did not ",
        ),
        (Overhearing, "conversations_at_once: a conversation knows of another one: "),
        (OneAtATime, "conversations_at_once: has not ended after 20 seconds"),
        (SwallowingAtConnect, r"opening_cancelled: connect\(\) swallows cancellation"),
        (SwallowingAtOpen, r"opening_cancelled: open\(\) swallows cancellation"),
        (Leaky, r"events_in_order: .* tasks are left: \['watchdog'\]"),
    ],
)
async def test_a_broken_promise_is_found(
    broken: Callable[[], Backend], found: str, autojump_clock: MockClock
) -> None:
    """By the check that is about it, in its words."""
    with pytest.raises(AssertionError, match=f"^{found}"):
        await check_backend(broken(), OPTIONS)


async def test_the_wrapper_breaks_nothing_by_itself(autojump_clock: MockClock) -> None:
    """What is found above is what was broken there."""
    await check_backend(Wrapped(), OPTIONS)
    await check_backend(RememberingThe("nothing"), OPTIONS)


async def test_other_errors_come_out_as_they_are(autojump_clock: MockClock) -> None:
    """A wrong key is no broken promise; a note says where it was met."""
    error = AuthenticationError("invalid key")

    def refuse(_: SessionOptions) -> None:
        raise error

    with pytest.raises(AuthenticationError) as caught:
        await check_backend(ScriptedBackend(on_open=refuse))
    assert caught.value is error
    assert error.__notes__[0].startswith("in the check events_in_order of <")


async def test_the_error_of_a_conversation_beside_another_comes_out(
    autojump_clock: MockClock,
) -> None:
    """Ungrouped, though it was met in a task of its own."""
    with pytest.raises(RuntimeError, match="one at a time, please") as caught:
        await check_backend(Refusing(), OPTIONS)
    assert caught.value.__notes__[0].startswith("in the check conversations_at_once of <")


async def test_what_is_no_backend_is_refused() -> None:
    """By name; the class is none either."""
    for bad in ("messages", ScriptedBackend, None):
        with pytest.raises(ConfigurationError, match="backend must be a Backend, not "):
            await check_backend(bad)  # type: ignore[arg-type]
