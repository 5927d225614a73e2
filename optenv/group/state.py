"""Values of a group: the state of its runs, and the result of a control step."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from torch import Tensor

from .. import actions, changes, core
from ..telemetry import History, ValidationHistory

__all__ = ["ControlState", "StepResult"]


class ControlState(NamedTuple):
    """State of ``B`` runs and of their controllers.

    Attributes:
        run: parameters, gradients and optimizer states of the runs.
        history: summary of the earlier windows.
        log_multiplier: log-multiplier of the learning rate, ``[B]``.
        previous_action: requested change of the log-multiplier at the last action, ``[B]``.
        observed_action: part of the last action that is observed after the telemetry,
            ``[B, observed]``.
        base_lr: base learning rate, ``[B]``.
        sees_loss: whether losses are observed, ``[B]`` bool.
        initial_loss: losses of the reward before the first update, ``[B, S]`` for ``S``
            sources.
        loss: losses of the reward now, ``[B, S]``.
        potential: potential that the reward is computed from, ``[B]``.
        diverged: whether the run has diverged, ``[B]`` bool.
        part_multipliers: log-multipliers of parts of the parameters (roles, or tensors),
            ``[B, K]``, or ``[B, 0]`` if the action does not distinguish parts.
        part_shifts: requested changes of these at the last action, ``[B, K]``.
        tensor_history: summary of the earlier windows of each parameter tensor,
            ``[B, T, H]``, or ``[B, 0, H]`` if the action is not on tensors.
        stage_losses: losses in each stage of a run whose task changes.
        cost: mean cost of the updates so far, relative to updates of SGD, ``[B]``; 1 if
            there are none, or the reward needs no cost.
        baseline: final potential of the reward's baseline, ``[B]``; 0 if the reward needs
            none.
        memory: memory of the action, see :meth:`optenv.actions.Action.observe_run`,
            ``[B, memory]``.
        planned: number of updates of the control steps so far if all batches had the task's
            own size, ``[B]`` int64.
        validation: validation losses given so far; empty if they are not observed.
    """

    run: core.RunState
    history: History
    log_multiplier: Tensor
    previous_action: Tensor
    observed_action: Tensor
    base_lr: Tensor
    sees_loss: Tensor
    initial_loss: Tensor
    loss: Tensor
    potential: Tensor
    diverged: Tensor
    part_multipliers: Tensor
    part_shifts: Tensor
    tensor_history: Tensor
    stage_losses: changes.StageLosses
    cost: Tensor
    baseline: Tensor
    memory: Tensor
    planned: Tensor
    validation: ValidationHistory | tuple[()]


class StepResult(NamedTuple):
    """Result of a control step.

    Attributes:
        observation: observations, ``[B, F]``.
        reward: rewards, ``[B]``.
        terminated: whether the run has ended, ``[B]`` bool.
        diverged: whether the run has diverged, ``[B]`` bool.
        lr: learning rate ``[B]`` of the first update of the step.
        estimated_reward: see :func:`optenv.group.estimated_reward`, ``[B]``.
        decision: the decoded actions.
        batch_size: size of the batches that were drawn in the step, ``[B]``.
    """

    observation: Tensor
    reward: Tensor
    terminated: Tensor
    diverged: Tensor
    lr: Tensor
    estimated_reward: Tensor
    decision: actions.Decision
    batch_size: np.ndarray
