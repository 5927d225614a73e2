"""Observation of a group of runs, and the estimate of the reward that it allows."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..telemetry import (
    OBSERVATION_BOUND,
    Control,
    History,
    Losses,
    log_loss,
    relative_fall,
)
from ..telemetry import observe as observe_features
from ..tensor_telemetry import observe_tensors, of_run
from .setup import Setup
from .state import ControlState

__all__ = ["estimated_reward", "observe"]


def observe(
    setup: Setup, total_updates: int, state: ControlState
) -> tuple[Tensor, ControlState]:
    """Compute observations ``[B, F]``, and the state with the history after them.

    Args:
        setup: setup of the group.
        total_updates: length of each run in updates.
        state: state of the runs.
    """
    action, settings = setup.action, setup.settings
    # 1. The features of the runs.
    losses = state.run.losses
    if settings.loss_dropout > 0:
        losses = Losses(*(part * state.sees_loss for part in losses))
    progress = state.planned.to(setup.dtype) / total_updates
    control = Control(
        progress=None if settings.anytime else progress,
        length=None if settings.anytime else total_updates,
        log_multiplier=state.log_multiplier,
        log_lr=(state.base_lr / setup.rule.default_lr).log() + state.log_multiplier,
        previous_action=state.previous_action,
    )
    probe = of_run(state.run.probe) if action.per_tensor else state.run.probe
    observation, history = observe_features(
        probe, losses, state.history, control, settings.features,
        settings.observed, state.validation or None,
    )  # fmt: skip
    # 2. Entries that the action adds.
    shown = state.observed_action
    if action.memory:
        run, latest = state.run, state.run.latest * state.sees_loss
        is_first = state.history.windows == 0
        seen, memory = action.observe_run(
            state.memory, run.params, run.grad, latest, is_first
        )
        bound = OBSERVATION_BOUND
        shown = seen.nan_to_num(0.0, bound, -bound).clamp(-bound, bound)
        state = state._replace(memory=memory)
    if action.per_tensor:
        relative = state.part_multipliers - state.log_multiplier.unsqueeze(1)
        seen, tensor_history = observe_tensors(
            state.run.probe,
            losses,
            state.tensor_history,
            control._replace(
                log_multiplier=state.part_multipliers,
                log_lr=control.log_lr.unsqueeze(1) + relative,
                previous_action=state.part_shifts,
            ),
        )
        state, shown = state._replace(tensor_history=tensor_history), seen.flatten(1)
    if action.observed:
        observation = torch.cat([observation, shown], dim=1)
    return observation, state._replace(history=history)


def estimated_reward(
    before: History, after: ControlState, at_end: np.ndarray, invariant: bool = False
) -> Tensor:
    """Estimate the reward of a control step from the losses of the batches alone.

    An optimizer, which has no examples apart from its batches, can compute this estimate:
    the decrease of the logarithm of their mean loss since the previous window, or of the
    mean loss itself in units of its range (:func:`optenv.telemetry.relative_fall`); 0 where
    losses are not observed. The loss after the last update of a run is left out, as an
    optimizer never computes it.

    Args:
        before: history at the beginning of the window.
        after: state at its end.
        at_end: whether the run ends there, ``[B]`` bool on the host.
        invariant: whether to use the loss in units of its range, not its logarithm.

    Returns:
        Estimates ``[B]``, in nats or in units of the range.
    """
    if invariant:
        seen = after.run.losses
        without_last = (seen.mean * seen.seen - after.run.latest) / (seen.seen - 1)
        known = torch.where(seen.seen > 1, without_last, before.loss_mean)
        ended = torch.from_numpy(at_end).to(known.device)
        mean = torch.where(ended, known, after.history.loss_mean)
        return relative_fall(before, mean) * after.sees_loss
    if not at_end.any():
        return before.loss_previous - after.history.loss_previous
    losses, first = after.run.losses, before.loss_previous
    without_last = (losses.mean * losses.seen - after.run.latest) / (losses.seen - 1)
    # If the last loss is far larger, rounding leaves nothing of the others.
    is_sound = without_last > 1e-5 * after.run.latest
    is_known = (losses.seen > 1) & after.sees_loss & is_sound
    last = torch.where(is_known, first - log_loss(without_last), 0.0)
    ended = torch.from_numpy(at_end).to(last.device)
    return torch.where(ended, last, first - after.history.loss_previous)
