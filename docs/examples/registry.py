"""A registry of one's own: names in which upper and lower case are the same."""

from collections.abc import Hashable

import trio

import trio_claude
from trio_claude import SessionExists, SessionHandle, SessionSpec, Via


class CaselessRegistry:
    """Names in which upper and lower case are the same."""

    def __init__(self) -> None:
        self._handles: dict[str, SessionHandle] = {}

    def register(self, key: Hashable, handle: SessionHandle) -> None:
        """Keep the handle under the key."""
        if self.lookup(key) is not None:
            raise SessionExists(f"the key {key!r} is taken")
        self._handles[str(key).lower()] = handle

    def unregister(self, key: Hashable) -> None:
        """Forget the key, if it is there."""
        self._handles.pop(str(key).lower(), None)

    def lookup(self, key: Hashable) -> SessionHandle | None:
        """The handle under the key, or None."""
        return self._handles.get(str(key).lower())


async def main() -> None:
    """Ask for a customer's session in another case, and try to take its name."""
    customers = CaselessRegistry()
    async with trio_claude.open_supervisor(
        [SessionSpec(name=Via(customers, "Acme"))]
    ) as supervisor:
        print(await trio_claude.query(Via(customers, "acme"), "My plan is gold"))
        try:
            await supervisor.start_session(SessionSpec(name=Via(customers, "ACME")))
        except SessionExists as exc:
            print(exc)


trio.run(main)
