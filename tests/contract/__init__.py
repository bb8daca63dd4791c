"""What every handle keeps to, whichever way it was got: the same tests for here and for afar.

The tests are in the modules that `handle.py` brings together; what runs them gives them a place for
their sessions: `test_local.py`, and `tests/ray_cluster/test_contract.py`.
"""

import pytest

for _module in ("kit", "answers", "calls", "errors", "going_away", "turns_left"):
    pytest.register_assert_rewrite(f"{__name__}.{_module}")
