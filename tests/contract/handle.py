"""What every :class:`~trio_claude.SessionHandle` keeps to, whichever way it was got: all its tests.

Each test is given a `place`, which opens a session somewhere and gives its handle. The service that
the session asks is always in the test's own run, so that a test can hold an answer back, let it fail,
and see what was asked, also where the session is in another process. So all is in real time here, and
nobody sleeps: tests wait for what happens.
"""

from __future__ import annotations

from .answers import *  # noqa: F403
from .calls import *  # noqa: F403
from .errors import *  # noqa: F403
from .going_away import *  # noqa: F403
from .turns_left import *  # noqa: F403
