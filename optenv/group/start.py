"""Start of runs: the state of a group before the first update."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import changes, core
from ..tasks import Data, Task
from ..telemetry import History, ValidationHistory
from ..tensor_telemetry import empty_history
from .losses import reward_losses
from .setup import Setup
from .state import ControlState

__all__ = ["start"]


def start(
    setup: Setup,
    task: Task,
    data: Data,
    params: Tensor,
    base_lr: Tensor,
    sees_loss: Tensor,
) -> ControlState:
    """Make the state before the first update.

    Args:
        setup: setup of the group.
        task: structure of the runs.
        data: examples of the runs.
        params: initial parameters, ``[B, P]``.
        base_lr: base learning rates, ``[B]``.
        sees_loss: whether losses are observed, ``[B]`` bool.
    """
    action, by_tensor = setup.action, setup.action.per_tensor
    averaged = "average" in action.sets
    run = core.start(task, setup.rule, data, params, averaged=averaged, by_tensor=by_tensor)
    like = run.losses.mean
    num_parts = len(task.shapes if by_tensor else action.roles)
    of_parts = like.unsqueeze(1).expand(-1, num_parts)
    loss = reward_losses(setup, task, data, run)
    return ControlState(
        run=run,
        history=History.empty(like),
        log_multiplier=torch.full_like(like, action.start),
        previous_action=torch.zeros_like(like),
        observed_action=like.new_zeros(
            len(like), 0 if by_tensor or action.memory else action.observed
        ),
        base_lr=base_lr.to(setup.device),
        sees_loss=sees_loss.to(setup.device),
        initial_loss=loss,
        loss=loss,
        potential=torch.zeros_like(like),
        diverged=torch.zeros_like(like, dtype=torch.bool),
        part_multipliers=torch.full_like(of_parts, action.start),
        part_shifts=torch.zeros_like(of_parts),
        tensor_history=empty_history(of_parts if by_tensor else of_parts[:, :0]),
        stage_losses=changes.StageLosses.start(
            loss,
            0 if data.stages is None else data.stages.starts.shape[1] + 1,
            lambda stage: reward_losses(setup, task, data, run, stage=stage),
        ),
        cost=torch.ones_like(like),
        baseline=torch.zeros_like(like),
        memory=like.new_zeros(len(like), action.memory),
        planned=torch.zeros_like(run.updates),
        validation=ValidationHistory.empty(like)
        if setup.settings.observe_validation
        else (),
    )
