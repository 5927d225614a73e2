"""Groups: runs of one structure that step together.

A group connects the core to actions, observations and rewards. Everything that changes from
step to step is one value, :class:`ControlState`, which can be kept as a snapshot. The
length of a window is known on the host, so that no step waits for the device.
"""

from . import footprint
from .group import Group
from .identity import IDENTITY
from .observation import estimated_reward
from .state import ControlState, StepResult

__all__ = [
    "IDENTITY",
    "ControlState",
    "Group",
    "StepResult",
    "estimated_reward",
    "footprint",
]
