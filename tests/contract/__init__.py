"""What every handle keeps to, whichever way it was got: the same tests for here and for afar.

The tests are in `handle.py`; what runs them gives them a place for their sessions: `test_local.py`,
and `tests/ray_cluster/test_contract.py`.
"""

import pytest

pytest.register_assert_rewrite("tests.contract.handle")
