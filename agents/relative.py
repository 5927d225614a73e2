"""Old path and names of :mod:`agents.rl.group_advantage`.

Models that version 0.1 saved name ``agents.relative.GroupScaledBuffer`` or
``agents.relative.GroupScaledReplay`` as the class of their buffer.
"""

from .rl.group_advantage import GroupNormalisedReplayBuffer as GroupScaledReplay
from .rl.group_advantage import GroupNormalisedRolloutBuffer as GroupScaledBuffer
from .rl.group_advantage import LeaveOneOutReward as RelativeReward

__all__ = ["GroupScaledBuffer", "GroupScaledReplay", "RelativeReward"]
