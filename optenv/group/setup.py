"""Setup of a group: the objects made from the arguments of an environment."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .. import actions, rewards, rules, tasks
from ..memory_limit import MemoryLimit, limit_of
from ..settings import DTYPES, Settings

__all__ = ["Setup"]


@dataclass(frozen=True)
class Setup:
    """Objects made from the arguments of an environment.

    Attributes:
        settings: arguments of the environment.
        rule: update rule.
        action: kind of the actions.
        reward: reward of the control steps.
        sources: sources of the examples that the losses of the reward are taken on.
        sampler: sampler of tasks.
        device: device of the runs.
        dtype: type of their parameters.
        limit: limit on the memory of the environment.
    """

    settings: Settings
    rule: rules.Rule
    action: actions.Action
    reward: rewards.Reward
    sources: tuple[str, ...]
    sampler: tasks.TaskSampler
    device: torch.device
    dtype: torch.dtype
    limit: MemoryLimit

    @classmethod
    def of(cls, settings: Settings) -> Setup:
        """Make the setup of an environment with these settings."""
        reward = rewards.get(settings.reward)
        device = torch.device(settings.device)
        return cls(
            settings=settings,
            rule=rules.get(settings.rule),
            action=actions.make(settings.action),
            reward=reward,
            sources=reward.sources or rewards.OBJECTIVES[settings.objective],
            sampler=tasks.make(settings.tasks),
            device=device,
            dtype=DTYPES[settings.dtype][0],
            limit=limit_of(settings.max_memory, device),
        )
