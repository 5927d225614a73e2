"""What a group of runs is at a control step, and what such a step returns."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from . import core
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

    ``told`` is what an optimizer, which knows the losses of its batches alone, is told of
    the reward: the decrease of the log of their mean against the window before. Of the
    last window it does not know the loss behind its last update.
    """

    observation: Tensor
    reward: Tensor
    terminated: Tensor
    diverged: Tensor
    lr: Tensor
    told: Tensor
