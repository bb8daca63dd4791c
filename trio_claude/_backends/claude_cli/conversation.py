"""A conversation with the ``claude`` program, which keeps it: one process, replaced at need.

The program remembers whatever it was asked. A turn that did not succeed is taken out again, so that
the conversation is what its callers know of it: the program is interrupted, its result awaited, for
no later turn may be given that one's answer, and then it rewinds to before the prompt. All of it
has a few seconds. A program that doesn't get there (it hangs, or is too old to rewind) is stopped,
and another one resumes the conversation where the last good turn ended, when it is next needed.

This happens behind the turn that was left, by a task of the conversation's own; the next turn waits
for it. If the session is stopped meanwhile, the program is stopped, and nothing of it matters.

A program that ends by itself has crashed: in a turn, that turn raises it; between turns, the
conversation's block is cancelled, and raises it.
"""

from __future__ import annotations

import uuid
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, final

import trio

from ..._errors import ConfigurationError, ControlError, ProcessError, ProtocolError
from ..._nurseries import open_hidden_nursery
from ..._wire.cli_arguments import changes, in_process_servers
from ..._wire.stream_json import prompt_line
from ..base import Controllable, Conversation
from .mcp_bridge import InProcessServer
from .programs import Program, Programs
from .turn import CLIAnswer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from ..._messages import Event
    from ..._options import SessionOptions
    from ..._wire.jsonlines import JSONLine
    from .backend import CLIConnection

# A program that is interrupted before it has begun doesn't notice, so it is told again.
_INTERRUPT_AGAIN_SECONDS = 0.2


@asynccontextmanager
async def open_conversation(
    connection: CLIConnection, options: SessionOptions
) -> AsyncIterator[CLIConversation]:
    """Run the program for one conversation.

    Raises:
      ConfigurationError: an option cannot be honoured.
      ProcessError, ProtocolError: the program did not start, or ended while there was no turn.
    """
    servers = {
        name: InProcessServer(name, server) for name, server in in_process_servers(options).items()
    }
    conversation = CLIConversation(connection, options, servers)
    with conversation.scope:
        async with open_hidden_nursery() as nursery:
            conversation.begin(nursery)
            try:
                await conversation.start()
                yield conversation
            finally:
                conversation.close()
    if conversation.failure is not None:
        raise conversation.failure


@final
class CLIConversation(Conversation, Controllable):
    """A conversation that the program keeps. Made by `open_conversation`."""

    failure: Exception | None
    """What it ended with by itself."""

    scope: trio.CancelScope
    """Cancelled when it ends while there is no turn to raise that."""

    def __init__(
        self,
        connection: CLIConnection,
        options: SessionOptions,
        servers: Mapping[str, InProcessServer],
    ) -> None:
        self.failure = None
        self.scope = trio.CancelScope()
        self._interrupt_timeout = connection.backend.interrupt_timeout
        self._ends = connection.ends
        self._options = options
        self._servers = servers
        self._programs = Programs(
            connection,
            options,
            servers,
            on_lines=self._take,
            on_failure=self._fail,
            on_death=self._end,
            is_unfinished=lambda: self._listening is not None and not self._listening.ended,
        )
        self._in_turn = False
        self._current: CLIAnswer | None = None  # the turn's, while its block is open
        self._listening: CLIAnswer | None = None  # whose lines they are
        self._session_id = None if options.fork_session else options.resume
        self._has_past = bool(options.resume or options.continue_conversation)
        self._recovered = trio.Event()
        self._recovered.set()

    def begin(self, nursery: trio.Nursery) -> None:
        """Start its tasks."""
        self._nursery = nursery
        nursery.start_soon(self._programs.run)
        for server in self._servers.values():
            nursery.start_soon(self._serve, server)

    async def start(self) -> None:
        """Wait until its program is ready.

        Raises:
          ConfigurationError, ProcessError, ProtocolError: what that failed of.
        """
        await self._programs.ready()

    def close(self) -> None:
        """Let nobody wait for it any more."""
        self._programs.close()
        self._recovered.set()

    # ---- turns ----

    @asynccontextmanager
    async def turn(
        self, prompt: str, options: SessionOptions
    ) -> AsyncIterator[trio.abc.ReceiveChannel[Event]]:
        """Ask, and receive the answer's events.

        What the program says is read and kept whether or not the events are received. Leaving the
        block early interrupts the program and takes the turn out of the conversation, which the
        next turn waits for.

        Raises:
          ConfigurationError: an option cannot be had for one turn.
          QueryError: the turn failed; the conversation is as it was before.
          ProcessError, ProtocolError: the program died, or wrote what cannot be read.
        """
        overrides = changes(self._options, options)
        self._in_turn = True
        try:
            self._check()
            program = await self._ready_program()
            await self._give(program, overrides)
            self._check()
            answer = self._ask_turn(program, prompt)
            try:
                yield answer
                self._remember(answer)
            finally:
                self._current = None
                answer.hang_up()
                if not answer.remembered:
                    self._recovered = trio.Event()
                    self._nursery.start_soon(self._recover, program, answer)
        finally:
            self._in_turn = False
            if self.failure is not None:
                self.scope.cancel(reason="the conversation has failed")

    def _check(self) -> None:
        # Raised by the turn, although its scope may be cancelled: the failure is why.
        if self.failure is not None:
            raise self.failure

    async def _ready_program(self) -> Program:
        """One that has no turn left in it."""
        await self._recovered.wait()
        return await self._programs.ready()

    def _ask_turn(self, program: Program, prompt: str) -> CLIAnswer:
        answer = CLIAnswer(str(uuid.uuid4()), self._programs.costs)
        self._current = self._listening = answer
        if self._session_id is not None:
            self._ends.asked(self._session_id, answer.prompt_id)
        program.send(prompt_line(prompt, answer.prompt_id))
        return answer

    def _take(self, lines: list[JSONLine]) -> None:
        answer = self._listening
        if answer is not None:
            answer.take(lines)
            if answer.session_id not in (None, self._session_id) and not answer.ended:
                self._ends.asked(answer.session_id, answer.prompt_id)
                self._is_called(answer.session_id)

    def _is_called(self, session_id: str) -> None:
        """The program says how the conversation is called."""
        self._session_id = session_id
        if self._has_past:
            self._programs.resume = session_id

    def _remember(self, answer: CLIAnswer) -> None:
        """Take the turn for good, if its result was received."""
        if answer.given is not None:
            answer.remembered = self._has_past = True
            session_id = answer.given.session_id or self._session_id
            if session_id is not None:
                self._ends.answered(session_id, answer.last_id)
                self._is_called(session_id)

    async def _give(self, program: Program, overrides: Mapping[str, Any]) -> None:
        """Let the program have the model and the permission mode that this turn is to have."""
        for name, value in {**self._programs.settings, **overrides}.items():
            # The agent's own rules may have changed the mode, so one that a call wants is said.
            said_anyway = name == "permission_mode" and name in overrides
            if name in program.given and program.given[name] == value and not said_anyway:
                continue
            try:
                await program.give(name, value)
            except ControlError as exc:
                if program.failure is not None:
                    raise program.failure from None
                raise ConfigurationError(
                    f"{name} cannot be {value!r} for this turn: {exc}"
                ) from exc

    # ---- what was left ----

    async def _recover(self, program: Program, answer: CLIAnswer) -> None:
        """Take a turn that was left out of the conversation, or stop the program."""
        taken_out = False
        with (
            suppress(ControlError, trio.ClosedResourceError),
            trio.move_on_after(self._interrupt_timeout),
        ):
            while not answer.ended:
                await program.ask({"subtype": "interrupt"})
                with trio.move_on_after(_INTERRUPT_AGAIN_SECONDS):
                    await answer.wait_ended()
            taken_out = await program.rewind(answer.prompt_id)
        if not taken_out and program.failure is None:  # else it has ended by itself
            await self._programs.stop(program)
        self._recovered.set()

    # ---- beside turns ----

    async def control(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """Ask the program for something beside the turns."""
        program = await self._program_for_others()
        match request:
            case {"subtype": "set_model", "model": value}:
                name = "model"
            case {"subtype": "set_permission_mode", "mode": value}:
                name = "permission_mode"
            case _:
                return await program.ask(request)
        response = await program.give(name, value)
        self._programs.settings[name] = value
        return response

    async def info(self) -> Mapping[str, Any]:
        """What the program says of itself when it is started."""
        return (await self._program_for_others()).info

    async def _program_for_others(self) -> Program:
        # What it died of is the session's to raise; who asks from beside has only not been answered.
        try:
            return await self._ready_program()
        except (ConfigurationError, ProcessError, ProtocolError) as exc:
            raise ControlError(f"the claude program is not there to be asked: {exc}") from exc

    # ---- its end ----

    async def _serve(self, server: InProcessServer) -> None:
        try:
            await server.serve()
        except Exception as exc:
            self._fail(exc)

    def _fail(self, failure: Exception) -> None:
        """End the turn with this; or the conversation, if there is none."""
        if self._current is not None and not self._current.ended:
            self._current.fail(failure)
        else:
            self._end(failure)

    def _end(self, failure: Exception) -> None:
        if self.failure is None:
            self.failure = failure
        if self._current is not None:
            self._current.fail(failure)
        elif not self._in_turn:
            self.scope.cancel(reason="the conversation has failed")
