"""Hypothesis profiles: `default`, `ci` (where CI is set) and `long` (HYPOTHESIS_PROFILE=long)."""

import os

from hypothesis import HealthCheck, settings

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
