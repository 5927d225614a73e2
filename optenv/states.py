"""What a group of runs is at a control step, and what such a step returns."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from . import core
from .telemetry import log_loss
from .telemetry import History


class ControlState(NamedTuple):
    """State of ``B`` runs and of their controllers; ``[B]`` tensors unless stated.

    ``loss`` and ``initial_loss`` are those of the reward, ``[B, S]`` for ``S`` sources;
    ``shown`` is what is observed of the last action, ``[B, observed]``.
    """

    run: core.RunState
    history: History
    log_multiplier: Tensor
    previous_action: Tensor
    shown: Tensor
    base_lr: Tensor
    sees_loss: Tensor
    initial_loss: Tensor
    loss: Tensor
    potential: Tensor


class StepResult(NamedTuple):
    """What a control step returns: ``observation [B, F]``, the rest ``[B]``.

    ``told`` is that of :func:`told`.
    """

    observation: Tensor
    reward: Tensor
    terminated: Tensor
    diverged: Tensor
    lr: Tensor
    told: Tensor


def told(before: History, after: ControlState, at_end: Tensor) -> Tensor:
    """What an optimizer, which knows the losses of its batches alone, knows of a reward.

    It is the decrease of the log of their mean against the window before, ``[B]``; 0 where
    losses are not observed. Of a run's last window, an optimizer does not know the loss
    behind the last update.

    Args:
        before: what is remembered at the beginning of the window.
        after: state at its end.
        at_end: ``[B]`` bool, whether that is the end of the run.
    """
    losses, first = after.run.losses, before.loss_previous
    earlier = (losses.mean * losses.seen - after.run.latest) / (losses.seen - 1)
    # Beside a last loss that is far larger, nothing is left of the others.
    left = earlier > 1e-5 * after.run.latest
    known = (losses.seen > 1) & after.sees_loss & left
    last = torch.where(known, first - log_loss(earlier), 0.0)
    return torch.where(at_end, last, first - after.history.loss_previous)
