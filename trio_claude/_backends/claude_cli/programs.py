"""The ``claude`` programs of one conversation: one process at a time, another one when it is replaced.

A program is started when it is needed, introduced to the session, and seen to its end. If it ends by
itself, the conversation is told at once, before what it leaves behind has been stopped.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any, final

import attrs
import trio

from ..._errors import ControlError
from ..._wire.cli_arguments import arguments, environment, files, initialize
from ..._wire.results import CostLedger
from ..._wire.stream_json import control_request
from .callbacks import Callbacks
from .link import Link, Refused
from .process import open_program

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ..._options import SessionOptions
    from ..._wire.jsonlines import JSONLine
    from .backend import CLIConnection
    from .ends import End
    from .mcp_bridge import InProcessServer

DEFAULT_MAX_BUFFER_SIZE = 32 * 1024 * 1024


@final
class Program:
    """One process: being started, running, or over."""

    def __init__(self, settings: Mapping[str, Any], control_timeout: float) -> None:
        self.given = dict(settings)
        """The model and the permission mode that it was given; none while that is not known."""
        self.info: Mapping[str, Any] = {}
        """What it says of itself."""
        self.failure: Exception | None = None
        """What it ended with by itself."""
        self.scope = trio.CancelScope()
        self.settled = trio.Event()  # ready, or over
        self.over = trio.Event()
        self.link: Link | None = None
        self._control_timeout = control_timeout

    def send(self, line: bytes) -> None:
        """Say something. Never waits."""
        assert self.link is not None
        self.link.send(line)

    async def ask(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """Ask for something beside the turn.

        Raises:
          ControlError: it was refused, or not answered.
          trio.ClosedResourceError: it was stopped.
        """
        assert self.link is not None
        return await self.link.request(request, self._control_timeout)

    async def give(self, name: str, value: str | None) -> Mapping[str, Any]:
        """Let it have another ``model`` or ``permission_mode``; None is what it has by itself.

        Raises:
          ControlError: it was refused, or not answered.
        """
        if name == "model":
            request = {"subtype": "set_model", "model": value}
        else:
            first = self.info.get("current_permission_mode", "default")
            request = {"subtype": "set_permission_mode", "mode": value or first}
        had = {key: known for key, known in self.given.items() if key == name}
        self.given.pop(name, None)
        try:
            response = await self.ask(request)
        except ControlError as exc:
            if exc.refused:
                self.given.update(had)
            raise
        self.given[name] = value
        return response

    async def rewind(self, prompt_id: str) -> bool:
        """Whether a prompt, and what came of it, was taken out of the conversation.

        Raises:
          ControlError: an older program cannot do that.
        """
        request = {
            "subtype": "rewind_conversation",
            "target_message_uuid": prompt_id,
            "last_seen_user_message_uuid": prompt_id,
        }
        return (await self.ask(request)).get("rewound") is True


@final
class Programs:
    """The programs of one conversation.

    Args:
      connection: where the program is, and how long it is waited for.
      options: those of the session.
      servers: the tools of our own, by their names.
      on_lines: called with the lines that are not for the link.
      on_failure: called with what a callback raised.
      on_death: called with what a program ended with by itself.
      is_unfinished: whether there is a turn in it that has not ended.
    """

    settings: dict[str, Any]
    """The session's model and permission mode, with which the next one is started."""

    resume: str | None
    """The conversation that the next one goes on with, if it is not to begin as the session did."""

    costs: CostLedger

    def __init__(
        self,
        connection: CLIConnection,
        options: SessionOptions,
        servers: Mapping[str, InProcessServer],
        *,
        on_lines: Callable[[list[JSONLine]], None],
        on_failure: Callable[[Exception], None],
        on_death: Callable[[Exception], None],
        is_unfinished: Callable[[], bool],
    ) -> None:
        self.settings = {"model": options.model, "permission_mode": options.permission_mode}
        self.resume = None
        self.costs = CostLedger()
        self._connection = connection
        self._backend = connection.backend
        self._options = options
        self._servers = servers
        self._on_lines = on_lines
        self._on_failure = on_failure
        self._on_death = on_death
        self._is_unfinished = is_unfinished
        self._current: Program | None = None
        self._needed = trio.Event()
        self._closed = False

    async def ready(self) -> Program:
        """The one that runs, or else another one, once that is ready.

        Raises:
          trio.ClosedResourceError: the conversation is over.
          Exception: what the program ended with by itself.
        """
        if self._current is None and not self._closed:
            self._current = Program(self.settings, self._backend.control_timeout)
            self._needed.set()
        if self._current is not None:
            program = self._current
            await program.settled.wait()
            if program.failure is not None:
                raise program.failure
            if not self._closed:
                return program
        raise trio.ClosedResourceError("the conversation is over")

    async def stop(self, program: Program) -> None:
        """Stop it; another one is started when it is needed."""
        self._current = None
        program.scope.cancel(reason="the program did not let go of a turn")
        await program.over.wait()

    def close(self) -> None:
        """Let nobody wait for one any more."""
        self._closed = True
        if self._current is not None:
            self._current.settled.set()

    async def run(self) -> None:
        """Start each one that is needed, and see it to its end; until cancelled."""
        # One task for all of them, the conversation's own: what the program asks for is answered
        # in its context, so that a callback is known to be inside of the session.
        while True:
            await self._needed.wait()
            self._needed = trio.Event()
            assert self._current is not None
            program = self._current
            try:
                with program.scope:
                    await self._run(program)
            except Exception as exc:
                self._died(program, exc)
            finally:
                program.over.set()

    async def _run(self, program: Program) -> None:
        self.costs.restart()
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
                self._on_failure(exc)
                return callbacks.stop(request)

        async with open_program(
            [self._connection.program, *arguments(options, resume_at=end.last_id)],
            files=files(options),
            env=environment(options, self._connection.variables()),
            cwd=None if options.cwd is None else os.fspath(options.cwd),
            guard=self._connection.guard,
            close_timeout=self._backend.close_timeout,
        ) as process:
            program.link = link = Link(
                process,
                max_size=options.max_buffer_size or DEFAULT_MAX_BUFFER_SIZE,
                on_lines=self._on_lines,
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
                if self._is_unfinished():
                    # Else it would go on with the turn, though its input has ended.
                    await link.say_last(control_request("last", {"subtype": "interrupt"}))

    def _options_now(self) -> SessionOptions:
        options = attrs.evolve(self._options, **self.settings)
        if self.resume is None:
            return options
        return attrs.evolve(
            options, resume=self.resume, continue_conversation=None, fork_session=None
        )

    async def _introduce(
        self, program: Program, link: Link, introduction: Mapping[str, Any], end: End
    ) -> None:
        """Say what the session is like; then the program is ready."""
        try:
            program.info = await link.request(introduction, self._backend.initialize_timeout)
        except ControlError as exc:
            link.end(link.died(str(exc)))
            return
        if end.last_id is None and end.left is not None:
            with suppress(ControlError):
                await program.rewind(end.left)
        program.settled.set()

    def _died(self, program: Program, failure: Exception) -> None:
        program.failure = failure
        program.settled.set()
        if program is self._current:
            self._on_death(failure)
