"""What happens in the demo, and when: told on the public API alone.

Nothing waits for a time to pass where it can wait for something to happen; the pauses are for
whoever looks on. To crash a session in mid-answer, its answer is read so far and no further: the
reader sets the pace.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import attrs
import trio

from .. import (
    IntensityExceeded,
    ResultMessage,
    SessionCrashed,
    SessionExited,
    SessionOptions,
    SessionReady,
    SessionSpec,
    SessionStopped,
    Supervisor,
    SupervisorSpec,
    TextDelta,
    get_session,
    open_supervisor,
    stream,
    whereis,
)
from ..testing import crash

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from .board import Answer, Board

TOP = "demo"
CRASHED, GOING, COMING = "code_reviewer", "doc_writer", "translator"
FIRST = (CRASHED, "test_writer", GOING)
GROUP, STORMED, SPARED = "expedition", "scout", "ranger"

SPECS = (
    SessionSpec(name=CRASHED, system_prompt="You are an expert code reviewer."),
    SessionSpec(name="test_writer", system_prompt="You are a writer of comprehensive tests."),
    SessionSpec(
        name=GOING, system_prompt="You are a writer of clear documentation.", shutdown=15.0
    ),
    SupervisorSpec(
        name=GROUP,
        max_restarts=2,
        max_seconds=60.0,
        specs=[
            SessionSpec(name=STORMED, system_prompt="You are a scout who goes ahead."),
            SessionSpec(name=SPARED, system_prompt="You are a ranger who knows the way."),
        ],
    ),
)
_NEWCOMER = SessionSpec(name=COMING, system_prompt="You are a translator.")

_CODE_WORD = "marmalade-73"
_TELL = f"My code word is {_CODE_WORD}. Say it back to me in one sentence."
_ASK = "What's my code word? If you were not told, just say that you don't know it."
_PROMPTS = {
    CRASHED: "Review `def add(a, b): return a - b` in two or three sentences.",
    "test_writer": "Which tests does a UserController need? Two or three sentences.",
    GOING: "Describe what a supervisor is for, in two or three sentences.",
    COMING: "Say that all is well in French, German and Italian, and explain it.",
    STORMED: "Describe what lies behind the next hill, in two or three sentences.",
    SPARED: "Describe the way home from here, in two or three sentences.",
}

# An answer of which so many pieces came is in its middle.
_MIDWAY = 3
# One more than the group answers with a restart.
_GUSTS = 3


@attrs.frozen
class Claim:
    """One line of the summary: what was shown, and whether it was."""

    text: str
    holds: bool


class Story:
    """The demo from its beginning to its end.

    Args:
      board: where all that happens is written.
      defaults: options for all sessions: which service they ask.
      pause: seconds to look at what happened.
    """

    def __init__(self, board: Board, *, defaults: SessionOptions, pause: float) -> None:
        self._board = board
        self._defaults = defaults
        self._pause = pause
        self.known_before = False
        """Whether the session knew the code word before its crash ..."""
        self.known_after = True
        """... and after it."""
        self.same_handle = False
        """Whether its name still led to the same handle."""
        self.beside_crash: list[Answer] = []
        """The answers of others that were under way when it crashed ..."""
        self.beside_storm: list[Answer] = []
        """... and when the storm broke."""
        self.last: list[Answer] = []
        """What a session was answering when it was terminated."""
        self.name_was_free = False
        """Whether its name was free then."""
        self.after_storm: list[Answer] = []
        """What the sessions of the group answered when it was up again."""

    async def tell(self) -> None:
        """Let it all happen."""
        async with open_supervisor(
            SPECS, name=TOP, defaults=self._defaults, on_event=self._board.on_event
        ) as supervisor:
            await self._meet()
            await self._crash()
            await self._come_and_go(supervisor)
            await self._storm()
            self._board.note("all is shown: the supervisor stops its sessions, last one first")

    # ---- the acts -------------------------------------------------------------------------------

    async def _meet(self) -> None:
        self._board.note(f"{len(FIRST)} sessions are asked at once, by name")
        async with self._answering(*FIRST, prompts={**_PROMPTS, CRASHED: _TELL}):
            pass
        self._board.note(f"{CRASHED} was told a code word; does it know it?")
        self.known_before = _CODE_WORD in (await self._ask(CRASHED, _ASK)).text
        await trio.sleep(self._pause)

    async def _crash(self) -> None:
        self._board.note(f"{len(FIRST)} are asked again, and one crashes in mid-answer")
        handle = get_session(CRASHED)
        async with self._answering(*FIRST) as go_on:
            self.beside_crash = self._streaming_beside(CRASHED)
            await crash(handle, RuntimeError("a fault, on purpose"))
            await self._up(CRASHED, 2)
            self.same_handle = get_session(CRASHED) is handle
            go_on.set()
            self._board.note(f"{CRASHED} is back, the others go on; does it know the code word?")
            self.known_after = _CODE_WORD in (await self._ask(CRASHED, _ASK)).text
        await trio.sleep(self._pause)

    async def _come_and_go(self, supervisor: Supervisor) -> None:
        self._board.note(f"{COMING} is started, {GOING} terminated once its answer is whole")
        await supervisor.start_session(_NEWCOMER)
        async with self._answering(COMING, GOING) as go_on:
            self.last = self._streaming_beside(COMING)
            go_on.set()
            await supervisor.terminate_session(GOING)
            self.name_was_free = whereis(GOING) is None
        await trio.sleep(self._pause)

    async def _storm(self) -> None:
        self._board.note(f"a storm: {STORMED} crashes {_GUSTS} times, while others answer")
        async with self._answering(*FIRST[:2], COMING) as go_on:
            self.beside_storm = self._streaming_beside(STORMED)
            for gust in range(1, _GUSTS + 1):
                await crash(get_session(STORMED), RuntimeError(f"gust {gust}"))
                go_on.set()
                await self._up(STORMED, gust + 1)
                await trio.sleep(self._pause)
        await self._up(GROUP, 2)
        self._board.note(f"{GROUP} is up again, all of it; its sessions are asked by name")
        async with self._answering(STORMED, SPARED):
            self.after_storm = self._board.streaming()

    # ---- asking ---------------------------------------------------------------------------------

    @asynccontextmanager
    async def _answering(
        self, *names: str, prompts: Mapping[str, str] = _PROMPTS
    ) -> AsyncIterator[trio.Event]:
        """Ask sessions at once. In the block all are in mid-answer, and stay there; but for one
        whose answer was over before.

        They go on when the event that it gives is set, or the block is left; which waits for the
        end of all answers.
        """
        answers = [self._board.begin(name) for name in names]
        go_on = trio.Event()
        async with trio.open_nursery() as nursery:
            for answer in answers:
                nursery.start_soon(self._receive, answer, prompts[answer.row.name], go_on)
            await self._board.until(
                lambda: all(a.pieces >= _MIDWAY or not a.under_way for a in answers)
            )
            yield go_on
            go_on.set()

    async def _ask(self, name: str, prompt: str) -> Answer:
        """Ask by name, and wait for the whole answer."""
        answer = self._board.begin(name)
        await self._receive(answer, prompt)
        return answer

    async def _receive(self, answer: Answer, prompt: str, go_on: trio.Event | None = None) -> None:
        """Ask by name, and write down what comes; in mid-answer, wait for ``go_on``."""
        try:
            async with stream(answer.row.name, prompt) as events:
                async for event in events:
                    if isinstance(event, TextDelta):
                        self._board.piece(answer, event.text)
                        if go_on is not None and answer.pieces == _MIDWAY:
                            await go_on.wait()
                    elif isinstance(event, ResultMessage):
                        self._board.finish(answer, event)
        except SessionCrashed as exc:
            answer.lost = exc
        finally:
            self._board.end(answer)

    async def _up(self, name: str, times: int) -> None:
        """Wait until a session has been up so often."""
        await self._board.until(lambda: len(self._board.seen(SessionReady, name)) == times)

    def _streaming_beside(self, name: str) -> list[Answer]:
        return [answer for answer in self._board.streaming() if answer.row.name != name]

    # ---- the summary ----------------------------------------------------------------------------

    def claims(self, requests: int | None) -> list[Claim]:
        """What was shown, counted from what happened.

        Args:
          requests: how many questions the simulator received, if there is one.
        """
        board = self._board
        crashes = board.seen(SessionExited, CRASHED)
        ups = board.seen(SessionReady, CRASHED)
        lost = [answer for answer in board.answers if answer.lost is not None and answer.pieces]
        took = ups[-1].time - crashes[-1].time if crashes and ups else float("nan")
        gusts = board.seen(SessionExited, STORMED)
        gave_up = board.seen(IntensityExceeded, GROUP)
        group_ups = board.seen(SessionReady, GROUP)
        restarts = len(board.seen(SessionReady, STORMED)) - len(group_ups)
        started = [a for a in board.answers if a.row.name == COMING and a.whole]
        stopped = [e for e in board.seen(SessionStopped, GOING) if e.supervisor == TOP]
        whole = [answer for answer in board.answers if answer.whole]
        tokens = sum(row.tokens for row in board.rows.values())
        left = [name for name in board.rows if whereis(name) is not None]
        finished = [answer.whole for answer in self.last] == [True]
        again = [answer for answer in self.after_storm if answer.whole]
        over_http = "" if requests is None else f", requests over HTTP: {requests}"
        return [
            Claim(
                f"answering at the same time: {board.most_at_once} sessions",
                board.most_at_once >= len(FIRST),
            ),
            Claim(
                f"crashed in mid-answer, and the caller told: {len(lost)}",
                len(lost) == len(crashes) == 1,
            ),
            Claim(
                f"up again by itself: {len(ups) - 1}, after {took * 1000:.1f} ms, as incarnation "
                f"{ups[-1].incarnation if ups else 0}, under {_said(self.same_handle, 'its', 'no')}"
                " old name",
                self.same_handle and [up.incarnation for up in ups] == [1, 2],
            ),
            Claim(
                f"the code word: {_said(self.known_before, 'known', 'unknown')} before the crash, "
                f"{_said(self.known_after, 'known', 'unknown')} after it",
                self.known_before and not self.known_after,
            ),
            _beside("the crash", self.beside_crash, len(FIRST) - 1),
            Claim(
                f"started meanwhile: {len(board.seen(SessionReady, COMING))} ({COMING}), "
                f"answers of it: {len(started)}",
                len(board.seen(SessionReady, COMING)) == 1 and len(started) == 2,
            ),
            Claim(
                f"terminated: {len(stopped)} ({GOING}); its answer "
                f"{_said(finished, 'finished first', 'lost')}, its name "
                f"{_said(self.name_was_free, 'free', 'taken')}",
                len(stopped) == 1 and finished and self.name_was_free,
            ),
            Claim(
                f"a storm in {GROUP}: {len(gusts)} crashes, {restarts} restarts, given up: "
                f"{len(gave_up)}",
                (len(gusts), restarts, len(gave_up)) == (_GUSTS, _GUSTS - 1, 1),
            ),
            Claim(
                f"{GROUP} restarted by its parent: {len(group_ups) - 1}; of its sessions answer "
                f"again: {len(again)}",
                len(group_ups) == 2 == len(again),
            ),
            _beside("the storm", self.beside_storm, 3),
            Claim(
                f"asked: {len(board.answers)}{over_http}, answered whole: {len(whole)}, "
                f"tokens: {tokens}",
                len(whole) == len(board.answers) - 1 and requests in (None, len(board.answers)),
            ),
            Claim(f"left behind: {len(left)} of {len(board.rows)} names", not left),
        ]


def _said(holds: bool, yes: str, no: str) -> str:
    return yes if holds else no


def _beside(what: str, answers: list[Answer], expected: int) -> Claim:
    whole = sum(answer.whole for answer in answers)
    return Claim(
        f"under way elsewhere at {what}: {len(answers)} answers, come whole: {whole}",
        whole == len(answers) == expected,
    )
