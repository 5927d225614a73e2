r"""Unit of the losses, for policies that observe logarithms of losses.

This only concerns policies that observe the features of positive losses
(:data:`optenv.telemetry.POSITIVE_LOSS_FEATURES`), such as the policies of version 0.1; they
have ``policy.needs_positive_losses``. All other policies observe features that do not
depend on the unit, or no losses.

One of these features, ``predicted_decrease``, compares the slope of the loss, which comes
from the gradients, with the loss itself. If the loss is in another unit than the gradients
(a sum instead of a mean, a value scaled by a ``GradScaler``, a large constant added), the
feature is shifted out of the range of the policy's training, and the policy may raise the
learning rate until training diverges. At the first decision with a step and a loss, this
module tests whether the unit is plausible, and if not, computes a correction of the
feature.

A first loss of 0, or far below all later ones, has the same effect, because the run then
looks diverged. First losses that are not consistent with gradients and parameters are
dropped (:func:`is_outgrown`), and another of these features, ``loss_vs_initial``, is
bounded.

The test uses the elasticity of the loss, its relative change divided by the relative change
of the parameters,

.. math:: \log \frac{|g \cdot d|\, \lVert\theta\rVert}{L\, \lVert d\rVert} ,

for the gradient :math:`g`, the step :math:`d`, the parameters :math:`\theta` and the loss
:math:`L`. It depends neither on the learning rate nor on the scale of the parameters.
"""

from __future__ import annotations

import torch
from torch import Tensor

from optenv.rewards import MAX_POTENTIAL
from optenv.telemetry import History, Losses, Probe, log_loss, observed_features

__all__ = ["PLAUSIBLE", "TYPICAL", "correct", "is_outgrown", "without_losses"]

_NAMES = observed_features("positive")
_DECREASE, _STEP = _NAMES.index("predicted_decrease"), _NAMES.index("step_size")
_INITIAL = _NAMES.index("loss_vs_initial")

#: Plausible range and typical value of the log elasticity, in nats. At the first decision
#: of 192 runs of the training tasks, all lie in [-2.5, 4.5], with a median of 1.4.
PLAUSIBLE, TYPICAL = (-3.5, 5.5), 1.4

#: Range of ``predicted_decrease`` in those runs, rounded outward.
OBSERVED = (-3.3, 2.5)


#: Largest value of ``loss_vs_initial``; beyond it, runs in training had diverged.
MOST = MAX_POTENTIAL / 2

#: Largest rise of the loss over its first value, in nats, beyond the growth of gradients
#: and parameters. In training, a run had diverged after a rise of 3 nats.
RISE = 4.0


def is_outgrown(probe: Probe, losses: Losses, history: History) -> bool:
    """Return whether the first losses of a run are not comparable with the current ones.

    If the first losses are reported as 0 or close to it, all later ones look diverged. A
    loss that really rises does not grow faster than the product of the norms of gradient
    and parameters.

    Args:
        probe: inner products of the previous update and the current gradient, ``[1]``.
        losses: statistics of this window's losses, ``[1]``.
        history: summary of the earlier windows, ``[1]``.
    """
    if not losses.seen or not history.loss_windows:
        return False
    squares = torch.stack([probe.grad_sq, probe.param_sq])
    logs = 0.5 * squares.clamp(min=torch.finfo(squares.dtype).tiny).log()
    growth = logs - torch.stack([history.grad_initial, history.param_initial])
    rise = log_loss(losses.mean) - history.loss_initial
    return bool(rise - growth.clamp(min=0.0).sum(0) > RISE)


def without_losses(history: History) -> History:
    """Return a history without losses, so that the next window's loss is the first."""
    zero = torch.zeros_like(history.loss_windows)
    names = [name for name in History._fields if name.startswith("loss_")]
    return history._replace(**dict.fromkeys(names, zero))


def correct(features: Tensor, shift: float | None) -> tuple[Tensor, float | None]:
    """Bring the features that depend on the unit of the loss into their usual ranges.

    Args:
        features: telemetry features ``[1, F]``.
        shift: number to add to ``predicted_decrease``; None before the first decision with
            a step and a loss.

    Returns:
        The features (the same tensor if nothing changes), and the shift from now on.
    """
    decrease = float(features[0, _DECREASE])
    if decrease == 0.0:  # no step, or no loss
        return features, shift
    if shift is None:
        # For logarithms x, the two features are (x + 5) / 3 and (x + 7) / 2.
        elasticity = (3 * decrease - 5) - (2 * float(features[0, _STEP]) - 7)
        low, high = PLAUSIBLE
        shift = 0.0 if low <= elasticity <= high else (TYPICAL - elasticity) / 3
    corrected = min(max(decrease + shift, OBSERVED[0]), OBSERVED[1])
    initial = float(features[0, _INITIAL])
    if corrected != decrease or initial > MOST:
        features = features.clone()
        features[0, _DECREASE] = corrected
        features[0, _INITIAL] = min(initial, MOST)
    return features, shift
