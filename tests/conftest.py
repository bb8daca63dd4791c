"""Hypothesis profiles, `default`, `ci` (where CI is set) and `long` (HYPOTHESIS_PROFILE=long), and
what tests with sockets share."""

import os

import pytest
from hypothesis import HealthCheck, settings

from trio_claude._wire import retries

# No deadline: how long one example takes says more about the machine than about the code.
settings.register_profile("default", deadline=None)
settings.register_profile(
    "ci",
    deadline=None,
    derandomize=True,  # a red run is red again when it is repeated
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],  # two cores, shared
)
settings.register_profile("long", deadline=None, max_examples=5_000)

settings.load_profile(
    os.environ.get("HYPOTHESIS_PROFILE", "ci" if "CI" in os.environ else "default")
)

# What needs the claude program, or Ray's processes, is left out but where it is named:
# `nox -s tests_cli` and `nox -s tests_ray` do that.
collect_ignore = ["claude_program", "ray_cluster"]


@pytest.fixture
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask the servers of these tests directly, whatever the environment says."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the pauses before retries too short to be noticed."""
    monkeypatch.setattr(retries, "_FIRST_DELAY", 0.001)
