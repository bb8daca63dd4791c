"""What `connect` and `open_group` take, and what is said where there is no Ray."""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Callable, Hashable
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest

import trio_claude
from trio_claude import (
    ConfigurationError,
    Global,
    SessionSpec,
    SupervisorSpec,
    UsageError,
    Via,
    cluster,
)
from trio_claude.cluster import _opening
from trio_claude.testing import ScriptedBackend

from .support import spec


@pytest.mark.parametrize("address", [None, "", 5, b"auto", "ray://10.0.0.1:10001"])
def test_an_address_that_is_none_is_refused_by_the_call(address: Any) -> None:
    """Also that of Ray's client, which is no node of the cluster."""
    with pytest.raises(ConfigurationError, match=r"address must be 'auto', 'local' or 'host:port'"):
        cluster.connect(address)


@pytest.mark.parametrize("namespace", [None, "", 5])
def test_a_namespace_that_is_none_is_refused_by_the_call(namespace: Any) -> None:
    """It is text."""
    with pytest.raises(ConfigurationError, match="namespace must be text that is not empty"):
        cluster.connect(namespace=namespace)


def test_what_is_missing_is_said_where_there_is_no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the call, with the command that installs it."""
    a_folder = types.SimpleNamespace(origin=None)  # one of that name, in the working directory
    for found in (None, a_folder):
        monkeypatch.setattr(_opening, "find_spec", lambda name, found=found: found)
        for call in (cluster.connect, cluster.open_group):
            with pytest.raises(ConfigurationError, match=r"pip install 'trio-claude\[ray\]'"):
                call()


def test_the_module_is_there_without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """To import it, and to call what has no need of it, imports no Ray."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "ray"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "ray", None)
    for name in [name for name in sys.modules if name.startswith("trio_claude.cluster")]:
        monkeypatch.delitem(sys.modules, name)
    again = importlib.import_module("trio_claude.cluster")
    assert again is not cluster
    assert again.Pool(["a"]).free == 1
    monkeypatch.setattr(trio_claude, "cluster", cluster)


async def test_a_group_needs_a_cluster() -> None:
    """It is said where the block is entered."""
    with pytest.raises(UsageError, match=r"open it inside `async with cluster\.connect\(\)`"):
        async with cluster.open_group([spec("a")]):
            raise AssertionError


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"replicas": 0}, "replicas must be a whole number, 1 or more, not 0"),
        ({"replicas": True}, "replicas must be"),
        ({"replicas": 1.5}, "replicas must be"),
        ({"max_actor_restarts": -2}, "max_actor_restarts must be a whole number, 0 or more, or -1"),
        ({"max_actor_restarts": "3"}, "max_actor_restarts must be"),
        ({"num_cpus": -1}, "'num_cpus' must be a number, 0 or more, not -1"),
        ({"num_cpus": "1"}, "'num_cpus' must be"),
        ({"num_gpus": float("inf")}, "'num_gpus' must be a number, 0 or more, not inf"),
        ({"num_gpus": float("nan")}, "'num_gpus' must be"),
        ({"specs": 5}, "specs must be a list of specs"),
        ({"strategy": "both"}, "strategy must be one of"),
        ({"resources": 5}, "resources must be amounts by their names, not 5"),
        ({"resources": {"big": -1}}, "'big' must be a number, 0 or more"),
        ({"resources": {5: 1}}, "the name of a resource must be text, not 5"),
        ({"specs": [spec(object())]}, "can't be known in a cluster: names and ids there are"),
        ({"specs": [spec(Global(object()))]}, "can't be known in a cluster"),
        ({"specs": [spec("a", id=object())]}, "can't be known in a cluster"),
    ],
)
def test_what_a_group_cannot_have_is_refused_by_the_call(options: dict[str, Any], why: str) -> None:
    """Before the block, and by name."""
    with pytest.raises(ConfigurationError, match=why):
        cluster.open_group(**options)


def opened(function: Callable[..., Any]) -> Callable[..., tuple[Any, ...]]:
    """What is given to the block."""

    def call(*args: Any, **options: Any) -> tuple[Any, ...]:
        seen: list[tuple[Any, ...]] = []

        def take(*args: Any) -> None:
            seen.append(args)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(_opening, "_open_group", take)
            function(*args, **options)
        return seen[0]

    return call


def test_what_ray_is_given() -> None:
    """Only what was said, and the defaults."""
    _, options = opened(cluster.open_group)([])
    assert options == {"num_cpus": 1.0, "num_gpus": 0.0, "max_restarts": 3}
    _, options = opened(cluster.open_group)(
        [],
        num_cpus=2,
        num_gpus=0.5,
        resources={"big": 1},
        scheduling_strategy="SPREAD",
        max_actor_restarts=-1,
    )
    assert options == {
        "num_cpus": 2,
        "num_gpus": 0.5,
        "max_restarts": -1,
        "resources": {"big": 1},
        "scheduling_strategy": "SPREAD",
    }


def test_children_are_dealt_out_one_after_the_other() -> None:
    """Each with an id that is the same in every process; what the group was told holds in each."""
    backend = ScriptedBackend()
    children = [
        spec("a"),
        SessionSpec(backend=backend),
        spec(None, id=7),
        SupervisorSpec(specs=[spec("below")]),
        spec(Global("e")),
    ]
    specs, _ = opened(cluster.open_group)(children, replicas=2, strategy="rest_for_one", name="n")
    dealt: list[list[tuple[Hashable, Hashable]]] = [
        [(child.id, child.name) for child in each.specs] for each in specs
    ]
    assert dealt == [
        [(None, "a"), (7, None), (None, Global("e"))],
        [("unnamed-2", None), ("unnamed-4", None)],
    ]
    assert {(each.strategy, each.name) for each in specs} == {("rest_for_one", "n")}


def test_more_replicas_than_children_are_empty() -> None:
    """They wait for sessions that are started later."""
    specs, _ = opened(cluster.open_group)([spec("a")], replicas=3)
    assert [len(each.specs) for each in specs] == [1, 0, 0]


def test_a_name_of_a_registry_of_the_users_is_not_sent() -> None:
    """That registry is in this process: a session in another one could not be found by it."""
    with pytest.raises(ConfigurationError, match="can't be known in a cluster"):
        cluster.open_group([spec(Via(trio_claude.LocalRegistry(), "a"))])


def test_connect_gives_a_block() -> None:
    """Nothing is done before it is entered."""
    assert isinstance(cluster.connect("local"), AbstractAsyncContextManager)
