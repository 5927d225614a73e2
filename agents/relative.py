"""Old path of :mod:`agents.rl.group_advantage`, to which models saved by 0.1 refer."""

from .rl.group_advantage import (
    GroupScaledBuffer,
    GroupScaledReplay,
    RelativeReward,
    scales_by_group,
    scaling_buffer,
)

__all__ = [
    "GroupScaledBuffer",
    "GroupScaledReplay",
    "RelativeReward",
    "scales_by_group",
    "scaling_buffer",
]
