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

import os
import uuid
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, final

import attrs
import trio

from ..._errors import ConfigurationError, ControlError, ProcessError, ProtocolError
from ..._wire.cli_arguments import (
    arguments,
    changes,
    environment,
    files,
    in_process_servers,
    initialize,
)
from ..._wire.stream_json import CostLedger, control_request, prompt_line
from ..base import Controllable, Conversation
from .callbacks import Callbacks
from .link import Link, Refused
from .mcp_bridge import InProcessServer
from .process import open_program
from .turn import CLIAnswer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from ..._messages import Event
    from ..._options import SessionOptions
    from ..._wire.jsonlines import JSONLine
    from .backend import CLIConnection
    from .ends import End

DEFAULT_MAX_BUFFER_SIZE = 32 * 1024 * 1024

# A program that is interrupted before it has begun doesn't notice, so it is told again.
_INTERRUPT_AGAIN_SECONDS = 0.2


class _Program:
    """One process of the conversation: being started, running, or over."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.given = dict(settings)
        """The model and the permission mode that it was given; none while that is not known."""
        self.scope = trio.CancelScope()
        self.link: Link | None = None
        self.info: Mapping[str, Any] = {}
        self.failure: Exception | None = None
        self.settled = trio.Event()  # ready, or over
        self.over = trio.Event()


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
    raised: BaseException | None = None
    conversation = CLIConversation(connection, options, servers)
    try:
        with conversation.scope:
            async with trio.open_nursery() as nursery:
                conversation.begin(nursery)
                try:
                    await conversation.start()
                    yield conversation
                except trio.Cancelled:
                    raise
                except BaseException as exc:
                    raised = exc  # around the nursery, which would put it into a group
                finally:
                    conversation.close()
                    nursery.cancel_scope.cancel(reason="the conversation is over")
    finally:
        try:
            if raised is not None:
                raise raised
        finally:
            del raised  # its traceback holds this frame: no cycle for the collector
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
        self._backend = connection.backend
        self._connection = connection
        self._options = options
        self._servers = servers
        self._settings: dict[str, Any] = {
            "model": options.model,
            "permission_mode": options.permission_mode,
        }
        self._costs = CostLedger()
        self._program: _Program | None = None
        self._needed = trio.Event()  # a program
        self._closed = False
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
        nursery.start_soon(self._run_programs)
        for server in self._servers.values():
            nursery.start_soon(self._serve, server)

    async def start(self) -> None:
        """Wait until its program is ready.

        Raises:
          ConfigurationError, ProcessError, ProtocolError: what that failed of.
        """
        await self._ready_program()

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
            program, link = await self._ready_program()
            await self._give(program, link, overrides)
            self._check()
            answer = self._ask_turn(link, prompt)
            try:
                yield answer
                self._remember(answer)
            finally:
                self._current = None
                answer.hang_up()
                if not answer.remembered:
                    self._recovered = trio.Event()
                    self._nursery.start_soon(self._recover, program, link, answer)
        finally:
            self._in_turn = False
            if self.failure is not None:
                self.scope.cancel(reason="the conversation has failed")

    def _check(self) -> None:
        # Raised by the turn, although its scope may be cancelled: the failure is why.
        if self.failure is not None:
            raise self.failure

    def _ask_turn(self, link: Link, prompt: str) -> CLIAnswer:
        answer = CLIAnswer(str(uuid.uuid4()), self._costs)
        self._current = self._listening = answer
        if self._session_id is not None:
            self._connection.ends.asked(self._session_id, answer.prompt_id)
        link.send(prompt_line(prompt, answer.prompt_id))
        return answer

    def _remember(self, answer: CLIAnswer) -> None:
        """Take the turn for good, if its result was received."""
        if answer.given is not None:
            answer.remembered = self._has_past = True
            self._session_id = answer.given.session_id or self._session_id
            if self._session_id is not None:
                self._connection.ends.answered(self._session_id, answer.last_id)

    async def _give(self, program: _Program, link: Link, overrides: Mapping[str, Any]) -> None:
        """Let the program have the model and the permission mode that this turn is to have."""
        for name, value in {**self._settings, **overrides}.items():
            # The agent's own rules may have changed the mode, so one that a call wants is said.
            said_anyway = name == "permission_mode" and name in overrides
            if name in program.given and program.given[name] == value and not said_anyway:
                continue
            if name == "model":
                request = {"subtype": "set_model", "model": value}
            else:
                first = program.info.get("current_permission_mode", "default")
                request = {"subtype": "set_permission_mode", "mode": value or first}
            program.given.pop(name, None)
            try:
                await self._ask(link, request)
            except ControlError as exc:
                if link.failure is not None:
                    raise link.failure from None
                raise ConfigurationError(
                    f"{name} cannot be {value!r} for this turn: {exc}"
                ) from exc
            program.given[name] = value

    # ---- what was left ----

    async def _recover(self, program: _Program, link: Link, answer: CLIAnswer) -> None:
        """Take a turn that was left out of the conversation, or stop the program."""
        taken_out = False
        with suppress(ControlError), trio.move_on_after(self._backend.interrupt_timeout):
            while not answer.ended:
                await self._ask(link, {"subtype": "interrupt"})
                with trio.move_on_after(_INTERRUPT_AGAIN_SECONDS):
                    await answer.wait_ended()
            taken_out = await self._rewind(link, answer.prompt_id)
        if not taken_out and link.failure is None:  # else it has ended by itself
            self._program = None
            program.scope.cancel(reason="the program did not let go of a turn")
            await program.over.wait()
        self._recovered.set()

    async def _rewind(self, link: Link, prompt_id: str) -> bool:
        """Whether a prompt, and what came of it, was taken out of the conversation."""
        request = {
            "subtype": "rewind_conversation",
            "target_message_uuid": prompt_id,
            "last_seen_user_message_uuid": prompt_id,
        }
        return (await self._ask(link, request)).get("rewound") is True

    # ---- beside turns ----

    async def control(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """Ask the program for something beside the turns."""
        program, link = await self._program_for_others()
        match request:
            case {"subtype": "set_model", "model": value}:
                name = "model"
            case {"subtype": "set_permission_mode", "mode": value}:
                name = "permission_mode"
            case _:
                return await self._ask(link, request)
        program.given.pop(name, None)
        response = await self._ask(link, request)
        self._settings[name] = program.given[name] = value
        return response

    async def info(self) -> Mapping[str, Any]:
        """What the program says of itself when it is started."""
        program, _link = await self._program_for_others()
        return program.info

    async def _program_for_others(self) -> tuple[_Program, Link]:
        # What it died of is the session's to raise; who asks from beside has only not been answered.
        try:
            return await self._ready_program()
        except (ConfigurationError, ProcessError, ProtocolError) as exc:
            raise ControlError(f"the claude program is not there to be asked: {exc}") from exc

    async def _ask(self, link: Link, request: Mapping[str, Any]) -> Mapping[str, Any]:
        return await link.request(request, self._backend.control_timeout)

    # ---- the program ----

    async def _ready_program(self) -> tuple[_Program, Link]:
        """The one that runs, with no turn left in it; or else another one, once that is ready."""
        await self._recovered.wait()
        if self._program is None and not self._closed:
            self._program = _Program(self._settings)
            self._needed.set()
        if self._program is not None:
            program = self._program
            await program.settled.wait()
            if program.failure is not None:
                raise program.failure
            if program.link is not None and not self._closed:
                return program, program.link
        raise ControlError("the session's program was stopped")

    async def _run_programs(self) -> None:
        # One task for all of them, the conversation's own: what the program asks for is answered
        # in its context, so that a callback is known to be inside of the session.
        while True:
            await self._needed.wait()
            self._needed = trio.Event()
            assert self._program is not None
            program = self._program
            try:
                with program.scope:
                    await self._run(program)
            except Exception as exc:
                self._died(program, exc)
            finally:
                program.over.set()

    async def _run(self, program: _Program) -> None:
        self._costs.restart()
        options = self._options_now()
        end = self._connection.ends.of(options.resume)
        introduction, hooks = initialize(options)
        callbacks = Callbacks(options.can_use_tool, hooks, self._servers)

        async def respond(request: Mapping[str, Any]) -> Mapping[str, Any]:
            try:
                return await callbacks.answer(request)
            except Refused:
                raise
            except Exception as exc:
                self._fail(exc)
                return callbacks.stop(request)

        async with open_program(
            [self._connection.program, *arguments(options, resume_at=end.last_id)],
            files=files(options),
            env=environment(options, self._connection.variables()),
            cwd=None if options.cwd is None else os.fspath(options.cwd),
            guard=self._connection.guard,
            close_timeout=self._backend.close_timeout,
        ) as process:
            link = Link(
                process,
                max_size=options.max_buffer_size or DEFAULT_MAX_BUFFER_SIZE,
                on_lines=self._take,
                on_request=respond,
                on_stderr=options.stderr,
                on_end=lambda failure: self._died(program, failure),
            )
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._introduce, program, link, introduction, end)
                    await link.run()
            finally:
                link.close(trio.ClosedResourceError("the program was stopped"))
                if self._listening is not None and not self._listening.ended:
                    # Else it would go on with the turn, though its input has ended.
                    await link.say_last(control_request("last", {"subtype": "interrupt"}))

    def _options_now(self) -> SessionOptions:
        """What the next program is started with."""
        options = attrs.evolve(self._options, **self._settings)
        if self._session_id is None or not self._has_past:
            return options
        return attrs.evolve(
            options, resume=self._session_id, continue_conversation=None, fork_session=None
        )

    async def _introduce(
        self, program: _Program, link: Link, introduction: Mapping[str, Any], end: End
    ) -> None:
        """Say what the session is like; then the program is ready."""
        try:
            program.info = await link.request(introduction, self._backend.initialize_timeout)
        except ControlError as exc:
            link.end(link.died(str(exc)))
            return
        if end.last_id is None and end.left is not None:
            with suppress(ControlError):  # an older program cannot
                await self._rewind(link, end.left)
        program.link = link
        program.settled.set()

    def _take(self, lines: list[JSONLine]) -> None:
        answer = self._listening
        if answer is not None:
            answer.take(lines)
            if answer.session_id not in (None, self._session_id) and not answer.ended:
                self._session_id = answer.session_id
                self._connection.ends.asked(answer.session_id, answer.prompt_id)

    async def _serve(self, server: InProcessServer) -> None:
        try:
            await server.serve()
        except Exception as exc:
            self._fail(exc)

    # ---- its end ----

    def close(self) -> None:
        """Let nobody wait for it any more."""
        self._closed = True
        self._recovered.set()
        if self._program is not None:
            self._program.settled.set()

    def _died(self, program: _Program, failure: Exception) -> None:
        program.failure = failure
        program.settled.set()
        if program is self._program:
            self._end(failure)

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
