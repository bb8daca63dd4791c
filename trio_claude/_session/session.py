"""The work of one incarnation of a session: turns from the inbox, one at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import trio

from .._errors import SessionCrashed, SessionRestarted, SessionTerminated, TrioClaudeError
from .question import Clear
from .turn import Turn

if TYPE_CHECKING:
    from .._backends.base import Connection, Conversation
    from .._options import SessionOptions
    from .inbox import Inbox
    from .incarnation import Incarnation
    from .line import Taker


@attrs.frozen
class Session:
    """One incarnation's work: a conversation, and the turns that are taken from the inbox."""

    inbox: Inbox
    incarnation: Incarnation
    connection: Connection

    async def run(self) -> None:
        """Serve turns until asked to finish. Ready once the first conversation is open.

        Raises:
          Exception: what the conversation could not be opened for, or what it crashed of.
        """
        clear: Clear | None = None
        with self.inbox.line() as line:
            # Closing the end that is waited on wakes the task, and takes nothing from the line.
            self.incarnation.on_finish(line.close)
            while True:
                try:
                    options = self.inbox.begin_conversation(afresh=clear is not None)
                    async with self.connection.open(options) as conversation:
                        if clear is None:
                            self.incarnation.set_ready()
                        else:
                            clear.end(None)
                        clear = await self._serve_conversation(line, conversation, options)
                except BaseException as exc:
                    if clear is not None and not clear.ended:
                        self.inbox.lost = clear
                        clear.end(self._lost(exc))
                    raise
                if clear is None:
                    return

    async def _serve_conversation(
        self, line: Taker, conversation: Conversation, options: SessionOptions
    ) -> Clear | None:
        self.inbox.set_conversation(conversation)
        try:
            return await self._serve(line, conversation, options)
        finally:
            # Before it is closed: who asks it for something then is to ask the next one.
            self.inbox.set_conversation(None)

    async def _serve(
        self, line: Taker, conversation: Conversation, options: SessionOptions
    ) -> Clear | None:
        """Answer until somebody wants the conversation forgotten (that request), or the session
        is to finish (None)."""
        while True:
            try:
                request = await line.receive()
            except trio.ClosedResourceError:
                return None
            if not isinstance(request, Turn):
                assert isinstance(request, Clear)
                return request
            self.inbox.turn = self.inbox.lost = request
            try:
                await request.serve(conversation, options, self.inbox.called, self._lost)
                self.inbox.lost = None
                if request.result is not None:
                    self.inbox.confirm(request.result.session_id)
            finally:
                self.inbox.turn = None

    def _lost(self, cause: BaseException) -> TrioClaudeError:
        """What the request in flight gets when this incarnation ends in the middle of it."""
        name = self.inbox.called
        incarnation = self.incarnation
        if incarnation.fault is not None:
            cause = incarnation.fault
        elif incarnation.cancelled or not isinstance(cause, Exception):
            if incarnation.intent == "restart":
                return SessionRestarted(f"session {name!r} was restarted in this turn", name=name)
            return SessionTerminated(f"session {name!r} was stopped in this turn", name=name)
        error = SessionCrashed(f"session {name!r} crashed in this turn: {cause!r}", name=name)
        error.__cause__ = cause
        return error
