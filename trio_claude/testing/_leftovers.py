"""The tasks of a run, and those that should not be there any more."""

import trio

# For the other side of a socket to see that it was closed.
_PATIENCE_SECONDS = 5.0


def all_tasks() -> set[trio.lowlevel.Task]:
    """All tasks of the run, Trio's own among them."""
    tasks: set[trio.lowlevel.Task] = set()
    root = trio.lowlevel.current_root_task()
    assert root is not None  # it is there as long as the run is
    found = [root]
    while found:
        task = found.pop()
        tasks.add(task)
        found += [child for nursery in task.child_nurseries for child in nursery.child_tasks]
    return tasks


async def wait_no_task_beside(before: set[trio.lowlevel.Task]) -> list[str]:
    """Wait, not for long, until there are no tasks but these; the names of those that stay."""
    with trio.move_on_after(_PATIENCE_SECONDS):
        while all_tasks() - before:  # noqa: ASYNC110 - other people's tasks set no event of ours
            await trio.sleep(0.01)
    return sorted(task.name for task in all_tasks() - before)
