"""Who is restarted when `b` of `a`, `b`, `c` crashes."""

import trio

import trio_claude
from trio_claude import SessionReady, SessionSpec, SupervisorEvent, SupervisorSpec
from trio_claude.testing import crash

TEAM = [SessionSpec(name="a"), SessionSpec(name="b"), SessionSpec(name="c")]


async def restarted(spec: SupervisorSpec) -> list[object]:
    """Let `b` crash; the names of those that were started again, in order."""
    names: list[object] = []

    def on_event(event: SupervisorEvent) -> None:
        if isinstance(event, SessionReady) and event.incarnation > 1:
            names.append(event.session)

    async with trio_claude.open_supervisor(
        spec.specs, strategy=spec.strategy, on_event=on_event
    ) as supervisor:
        await crash(supervisor.get_session("b"))
        await trio_claude.query("b", "Are you back?")  # waits until it is
        await trio_claude.query("c", "And you?")
    return names


async def main() -> None:
    """Try all three."""
    print("one_for_one: ", *await restarted(SupervisorSpec(specs=TEAM, strategy="one_for_one")))
    print("one_for_all: ", *await restarted(SupervisorSpec(specs=TEAM, strategy="one_for_all")))
    print("rest_for_one:", *await restarted(SupervisorSpec(specs=TEAM, strategy="rest_for_one")))


trio.run(main)
