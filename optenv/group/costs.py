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
    setup: Setup, task: Task, before: ControlState, after: ControlState, decision: Decision
) -> Tensor:
    """Compute the mean cost ``[B]`` of the updates of runs so far, relative to SGD's.

    Where actions set the batch size, it is the cost of all updates divided by the number of
    updates that the same examples would make with the task's own batch size.

    Args:
        setup: setup of the group.
        task: structure of the runs.
        before, after: states before and after the control step.
        decision: decoded actions of the step.
    """
    size, work, updates = task.num_params, task.work, after.run.updates
    made = (updates - before.run.updates).to(before.cost)
    if decision.batch_factor is not None:
        costs = [
            rules.relative_cost(setup.rule.name, size, work, factor)
            for factor in decision.batch_factor.tolist()
        ]
        spent = before.cost * before.planned + before.cost.new_tensor(costs) * made
        return spent / after.planned.clamp(min=1)
    if decision.rule is None:
        latest: Tensor | float = rules.relative_cost(setup.rule.name, size, work)
    else:
        costs = [rules.relative_cost(name, size, work) for name in switching.NAMES]
        latest = before.cost.new_tensor(costs)[decision.rule]
    return before.cost + (latest - before.cost) * (made / updates.clamp(min=1))
