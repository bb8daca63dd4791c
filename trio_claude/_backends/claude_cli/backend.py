"""The ``claude`` program as a backend."""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, final

import attrs

from ..._validation import as_path, checked, is_path, is_seconds, refuse_none, refuse_unknown
from ..base import Backend, Connection
from .ends import Ends

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from contextlib import AbstractAsyncContextManager

    from ..._options import SessionOptions
    from .conversation import CLIConversation
    from .process import Guard

_TIMEOUT = checked(lambda value: is_seconds(value) and value > 0, "a number of seconds above 0")


@final
@attrs.frozen(kw_only=True)
class CLIBackend(Backend):
    """The ``claude`` program: one process for each session, with its tools and its own memory.

    It needs a POSIX system. The program is looked for once in a supervisor's life.

    Raises:
      ConfigurationError: a setting is unknown or invalid; the message names it.
    """

    if not TYPE_CHECKING:

        def __init__(self, **settings: Any) -> None:
            # Written by hand, so that a typo is a ConfigurationError with a hint.
            refuse_unknown(type(self), settings)
            self.__attrs_init__(**settings)

    cli_path: str | None = attrs.field(
        default=None,
        converter=as_path,
        validator=checked(is_path, "the path of the program"),
    )
    """Where the program is. None: what ``PATH`` has, else where it is installed as a rule."""

    initialize_timeout: float = attrs.field(default=60.0, validator=_TIMEOUT)
    """Seconds for the program to be ready for turns. It starts its MCP servers in them."""

    control_timeout: float = attrs.field(default=60.0, validator=_TIMEOUT)
    """Seconds for an answer to what is asked beside turns, such as
    :meth:`~trio_claude.SessionHandle.set_model`."""

    interrupt_timeout: float = attrs.field(default=5.0, validator=_TIMEOUT)
    """Seconds for a turn that was left to be over in the program too, before the program is
    replaced."""

    close_timeout: float = attrs.field(
        default=5.0, validator=checked(is_seconds, "a number of seconds, 0 or more")
    )
    """Seconds for the program to end when its input has, for it has a conversation to save; then
    it is terminated, and after as many seconds more it is killed."""

    def __attrs_post_init__(self) -> None:
        refuse_none(
            self, "initialize_timeout", "control_timeout", "interrupt_timeout", "close_timeout"
        )

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[CLIConnection]:
        """Find the program, and have somebody see to it that none of them outlives this one.

        Raises:
          CLINotFound: there is no such program.
        """
        # Here, like all of this folder but what configures it: who only imports the library doesn't
        # need it.
        from .discovery import check_version, find_program
        from .process import open_guard

        program = find_program(self.cli_path)
        async with open_guard() as guard:
            await check_version(program)
            yield CLIConnection(self, program, guard)


@final
class CLIConnection(Connection):
    """The program that was found, who looks after its processes, and where conversations end."""

    def __init__(self, backend: CLIBackend, program: str, guard: Guard) -> None:
        self.backend = backend
        self.program = program
        self.guard = guard
        self.ends = Ends()

    def open(self, options: SessionOptions) -> AbstractAsyncContextManager[CLIConversation]:
        """Start the program, and begin a conversation.

        Raises:
          ConfigurationError: an option cannot be honoured.
          ProcessError: the program did not start, or ended while there was no turn.
        """
        from ..._wire.cli_arguments import refuse_unsupported
        from .conversation import open_conversation

        refuse_unsupported(options)
        return open_conversation(self, options)

    def variables(self) -> Mapping[str, str]:
        """This process's own environment."""
        return os.environ
