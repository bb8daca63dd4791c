"""The conversation of the scripted `claude` program, in a file."""

from __future__ import annotations

import json
import os
import uuid
from pathlib import Path
from typing import Any


class Memory:
    """One conversation; its file is never in anybody's home."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.session_id = str(uuid.uuid4())
        self.messages: list[dict[str, Any]] = []
        self.cost = 0.0  # US dollars, of all turns

    def add(self, role: str, content: Any, message_id: str | None = None) -> str:
        """Add a message; its id."""
        message_id = message_id or str(uuid.uuid4())
        self.messages.append({"role": role, "content": content, "uuid": message_id})
        self.save()
        return message_id

    def save(self) -> None:
        """Write the conversation to its file."""
        with open(self._file(self.session_id), "w") as file:
            json.dump({"messages": self.messages, "cost": self.cost}, file)

    def load(self, session_id: str, last_id: str | None) -> None:
        """Become an earlier conversation, up to this message.

        Raises:
          LookupError: there is no such one; the text is the program's own.
        """
        if not os.path.exists(self._file(session_id)):
            raise LookupError(f"No conversation found with session ID: {session_id}")
        with open(self._file(session_id)) as file:
            saved = json.load(file)
        self.session_id, self.messages, self.cost = session_id, saved["messages"], saved["cost"]
        if last_id is not None:
            index = self._index(last_id)
            if index is None:
                raise LookupError(f"No message found with message.uuid of: {last_id}")
            del self.messages[index + 1 :]

    def latest(self) -> str | None:
        """The id of the conversation that was written last, if there is any."""
        files = sorted(Path(self.folder).glob("*.json"), key=lambda file: file.stat().st_mtime_ns)
        return files[-1].stem if files else None

    def fork(self) -> None:
        """Become another conversation, with all that was said in this one."""
        self.session_id = str(uuid.uuid4())
        self.save()

    def rewind(self, message_id: str) -> str | None:
        """Forget this message and all after it; the id of the one before.

        Raises:
          LookupError: there is no such message.
        """
        index = self._index(message_id)
        if index is None:
            raise LookupError("Cannot rewind: there is no such message")
        del self.messages[index:]
        self.save()
        return self.messages[-1]["uuid"] if self.messages else None

    def _index(self, message_id: str) -> int | None:
        known = [message["uuid"] for message in self.messages]
        return known.index(message_id) if message_id in known else None

    def _file(self, session_id: str) -> str:
        return os.path.join(self.folder, session_id + ".json")
