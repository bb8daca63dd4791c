"""A server that speaks the Messages API on a real socket, for trying and testing.

Needs the extra: ``pip install 'trio-claude[simulator]'``.
"""

from .app import Responder as Responder
from .faults import Hold as Hold
from .replies import Reply as Reply
from .requests import SimulatedRequest as SimulatedRequest
from .scripts import Step as Step, script as script
from .server import Simulator as Simulator, open_simulator as open_simulator
