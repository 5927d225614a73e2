"""Stages of runs whose task changes, in the state of a group.

Each stage measures progress from a reference of its own, and a run that diverges is charged
for the later stages.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ..tasks import Data
from ..tasks.stages import NEVER
from .setup import Setup
from .state import ControlState

__all__ = [
    "changes_so_far",
    "enter",
    "later_charge",
    "scheduled",
    "task_ended",
    "with_losses",
]

#: Function from stages ``[B]`` to the losses ``[B, S]`` of the runs in these stages.
LossesIn = Callable[[Tensor], Tensor]


def changes_so_far(change_steps: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Count the changes before the next control step, ``[B]``.

    Args:
        change_steps: control steps before which tasks change, ``[B, K]``.
        steps: control steps done, ``[B]``.
    """
    return (change_steps <= steps[:, None]).sum(1)


def _change_now(change_steps: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Return which tasks change right before the next control step, ``[B]`` bool."""
    return (change_steps == steps[:, None]).any(1)


def enter(
    state: ControlState, change_steps: np.ndarray, steps: np.ndarray, losses_in: LossesIn
) -> ControlState:
    """Return the state at the beginning of a control step.

    Where the task changes right before the step, progress is measured from a new reference,
    the losses of the initial parameters on the new task
    (:meth:`~optenv.changes.StageLosses.reference`), and the potential restarts at 0.

    Args:
        state: state after the previous control step.
        change_steps, steps: see :func:`changes_so_far`.
        losses_in: computes the losses of the present runs in given stages.
    """
    begins = _change_now(change_steps, steps)
    if not begins.any():
        return state
    device = state.potential.device
    count = torch.from_numpy(changes_so_far(change_steps, steps)).to(device)
    reference = state.stage_losses.reference(count, losses_in(count))
    begin = torch.from_numpy(begins).to(device)
    return state._replace(
        initial_loss=torch.where(begin.unsqueeze(1), reference, state.initial_loss),
        potential=torch.where(begin & ~state.diverged, 0.0, state.potential),
    )


def with_losses(
    state: ControlState, count: np.ndarray, losses_in: LossesIn
) -> ControlState:
    """Return the state with the present losses on the tasks so far.

    Args:
        state: state after a control step.
        count: number of changes before the step, ``[B]``.
        losses_in: computes the losses of the present runs in given stages.
    """
    losses = state.stage_losses.update(count, state.loss, losses_in)
    return state._replace(stage_losses=losses)


def task_ended(
    before: ControlState,
    after: ControlState,
    terminated: Tensor,
    change_steps: np.ndarray,
    steps: np.ndarray,
) -> Tensor:
    """Return whether a step ends the present task of a run, ``[B]`` bool.

    A run that diverges ends all of its tasks at once.

    Args:
        before, after: states before and after the step.
        terminated: whether the run ends.
        change_steps, steps: see :func:`changes_so_far`; ``steps`` includes this step.
    """
    changes_next = torch.from_numpy(_change_now(change_steps, steps))
    ended = terminated | changes_next.to(terminated.device)
    return (ended | after.diverged) & ~before.diverged


def later_charge(
    setup: Setup, before: ControlState, after: ControlState, remaining: np.ndarray
) -> Tensor:
    """Compute the charge ``[B]`` for the later stages of runs that diverge in a step.

    Args:
        setup: setup of the group.
        before, after: states before and after the control step.
        remaining: number of changes that are left after the step, ``[B]``.
    """
    later = torch.from_numpy(remaining).to(setup.device, setup.dtype)
    new = after.diverged & ~before.diverged
    return torch.where(new, later * setup.reward.diverged_potential, 0.0)


def scheduled(
    data: Data,
    state: ControlState,
    counts: np.ndarray,
    change_steps: np.ndarray,
    steps: np.ndarray,
    active: np.ndarray | None,
) -> Data:
    """Set the updates at which tasks change next, where actions set the batch size.

    The number of updates of a control step is only known when it begins. A change after it
    starts at the next update, whose gradient is computed at the end of this control step.
    When later changes start is not known yet.

    Args:
        data: examples of the runs.
        state: state before the control step.
        counts: number of its updates, ``[B]``.
        change_steps, steps: see :func:`changes_so_far`.
        active: runs that take part, ``[B]`` bool; None for all.
    """
    stages = data.stages
    assert stages is not None
    ends = (state.run.updates.cpu().numpy() + counts)[:, None]
    following = steps[:, None] + 1
    starts = stages.starts.cpu().numpy()
    found = np.where(change_steps > following, NEVER, starts)
    found = np.where(change_steps == following, ends, found)
    if active is not None:
        found = np.where(active[:, None], found, starts)
    moved = torch.from_numpy(found).to(stages.starts.device)
    return data._replace(stages=stages._replace(starts=moved))
