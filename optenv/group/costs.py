"""Costs of the updates of runs, for rewards per unit of time."""

from __future__ import annotations

from torch import Tensor

from .. import rules
from ..actions import Decision
from ..rules import switching
from ..tasks import Task
from .setup import Setup
from .state import ControlState

__all__ = ["mean_cost"]


def mean_cost(
    setup: Setup, task: Task, before: ControlState, decision: Decision, updates: Tensor
) -> Tensor:
    """Compute the mean cost ``[B]`` of the updates of runs, if the reward needs it.

    Args:
        setup: setup of the group.
        task: structure of the runs.
        before: state before the control step.
        decision: decision of the step.
        updates: updates of the runs after the step, ``[B]``.
    """
    if not setup.reward.needs_cost:
        return before.cost
    size, work = task.num_params, task.work
    if decision.rule is None:
        latest: Tensor | float = rules.relative_cost(setup.rule.name, size, work)
    else:
        costs = [rules.relative_cost(name, size, work) for name in switching.NAMES]
        latest = before.cost.new_tensor(costs)[decision.rule]
    made = (updates - before.run.updates).to(before.cost)
    return before.cost + (latest - before.cost) * (made / updates.clamp(min=1))
