"""What another process does when a test tells it to: ``python -m tests.ray_cluster.client``.

A line on its stdin is a function of this module with its arguments, a line on its stdout what that
gave or raised. What these functions open stays open until ``leave``, or the end of stdin.
"""

from __future__ import annotations

import base64
import logging
import os
import pickle
import random
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any

import attrs
import ray
import trio

import trio_claude
from trio_claude import Global, SessionExists, SessionSpec, Supervisor, TextDelta, cluster
from trio_claude.testing import ScriptedBackend


@attrs.define
class Here:
    """What this process has open."""

    stack: AsyncExitStack = attrs.field(factory=AsyncExitStack)
    nursery: trio.Nursery | None = None
    supervisor: Supervisor | None = None
    group: cluster.Group | None = None
    turn_ended: trio.Event = attrs.field(factory=trio.Event)
    ended_with: Exception | None = None

    def the_supervisor(self) -> Supervisor:
        """That of this process."""
        assert self.supervisor is not None
        return self.supervisor


# ---- what tests call --------------------------------------------------------------------------------


async def connect(
    here: Here,
    address: str = "auto",
    namespace: str = "trio_claude",
    node_address: str | None = None,
) -> None:
    """Connect, on a certain node if it says so, and open a supervisor."""
    if node_address is not None:
        ray.init(address=address, namespace=namespace, _node_ip_address=node_address)
    await here.stack.enter_async_context(cluster.connect(address, namespace=namespace))
    here.nursery = await here.stack.enter_async_context(trio.open_nursery())
    await supervise(here)


async def supervise(here: Here) -> None:
    """Open a supervisor."""
    here.supervisor = await here.stack.enter_async_context(trio_claude.open_supervisor())


async def leave(here: Here) -> None:
    """Close everything again."""
    if here.nursery is not None:
        here.nursery.cancel_scope.cancel()
    await here.stack.aclose()
    here.__init__()  # type: ignore[misc]


async def start(here: Here, spec: SessionSpec) -> None:
    """Start a session."""
    await here.the_supervisor().start_session(spec)


async def terminate(here: Here, key: str) -> None:
    """Stop a session."""
    await here.the_supervisor().terminate_session(Global(key))


async def find(here: Here, key: str) -> str | None:
    """How a session stands, as far as this process has heard."""
    handle = trio_claude.whereis(Global(key))
    return None if handle is None else handle.status


async def wait_for(here: Here, key: str, status: str | None) -> None:
    """Wait until this process has heard that a session stands so; None: that there is none."""
    while await find(here, key) != status:  # noqa: ASYNC110 - a handle has no event for it
        await trio.sleep(0.02)


async def query(here: Here, key: str, prompt: str) -> str:
    """Ask a session."""
    return str(await trio_claude.query(Global(key), prompt))


async def read(here: Here, key: str, prompt: str) -> str:
    """Open a stream and keep it open; gives the first piece of text."""
    assert here.nursery is not None
    first: str = await here.nursery.start(_read, here, key, prompt)
    return first


async def _read(
    here: Here, key: str, prompt: str, task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED
) -> None:
    told = False
    try:
        async with trio_claude.stream(Global(key), prompt) as events:
            async for event in events:
                if isinstance(event, TextDelta) and not told:
                    told = True
                    task_status.started(event.text)
    except Exception as exc:
        if not told:
            raise
        here.ended_with = exc
    here.turn_ended.set()


async def read_on(here: Here) -> None:
    """Wait for the end of that stream, and raise what it raised."""
    await here.turn_ended.wait()
    if here.ended_with is not None:
        raise here.ended_with


async def open_group(here: Here, specs: Sequence[SessionSpec], options: dict[str, Any]) -> None:
    """Open a group."""
    here.group = await here.stack.enter_async_context(cluster.open_group(specs, **options))


async def claim(here: Here, keys: Sequence[str], at: float, seed: int) -> list[str]:
    """At that time, on the machine's clock, start a session for each of these names, all at once
    and in an order of this process's own; gives the names that it got."""
    got: list[str] = []
    backend = ScriptedBackend()
    keys = random.Random(seed).sample(keys, len(keys))

    async def take(key: str) -> None:
        try:
            await here.the_supervisor().start_session(
                SessionSpec(name=Global(key), backend=backend)
            )
        except SessionExists as exc:
            assert f"the name Global(key={key!r}) is taken in the cluster" in str(exc), exc  # noqa: PT017
        else:
            got.append(key)

    await trio.sleep(max(0.0, at - time.time()))
    async with trio.open_nursery() as nursery:
        for key in keys:
            nursery.start_soon(take, key)
    return got


async def give_back(here: Here, keys: Sequence[str]) -> None:
    """Stop the sessions of these names."""
    async with trio.open_nursery() as nursery:
        for key in keys:
            nursery.start_soon(terminate, here, key)


# ---- the process ------------------------------------------------------------------------------------


async def main() -> None:
    """Do what comes, one after the other; say at the end how all that was open has ended."""
    # Ray prints what actors print to stdout: that is for people, who read stderr.
    out = trio.lowlevel.FdStream(os.dup(1))
    os.dup2(2, 1)
    logging.getLogger("trio_claude").addHandler(logging.NullHandler())  # tests hear of it by errors
    here = Here()

    async def say(kind: str, value: object) -> None:
        await out.send_all(base64.b64encode(pickle.dumps((kind, value))) + b"\n")

    try:
        try:
            await _serve(here, trio.lowlevel.FdStream(os.dup(0)), say)
        except BaseException as exc:
            if not await here.stack.__aexit__(type(exc), exc, exc.__traceback__):
                raise
        else:
            await leave(here)
    except Exception as exc:
        await say("ended", _told(exc))
    else:
        await say("ended", None)


async def _serve(
    here: Here, stdin: trio.lowlevel.FdStream, say: Callable[[str, object], Awaitable[None]]
) -> None:
    buffer = b""
    async for chunk in stdin:
        *lines, buffer = (buffer + chunk).split(b"\n")
        for line in lines:
            function, args = pickle.loads(base64.b64decode(line))
            try:
                value = await function(here, *args)
            except Exception as exc:
                await say("raised", _told(exc))
            else:
                await say("gave", value)


def _told(exc: BaseException) -> tuple[str, str, str]:
    cause = exc.__cause__
    return type(exc).__name__, str(exc), "" if cause is None else f"{type(cause).__name__}: {cause}"


if __name__ == "__main__":
    from tests.ray_cluster import client  # whose functions are told by name: not those of __main__

    trio.run(client.main)
    sys.exit()
