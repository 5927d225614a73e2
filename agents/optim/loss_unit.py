r"""Unit of the losses, for policies that observe logarithms of losses.

It serves policies that observe the features of positive losses
(:data:`optenv.telemetry.POSITIVE_LOSS_FEATURES`), as those of version 0.1 do: those with
``policy.needs_positive_losses``. All other policies observe features that do not depend on
the unit, or no losses, and nothing is corrected for them.

One of these features, ``predicted_decrease``, sets the slope of the loss, which comes from
the gradients, against the loss itself. A loss in another unit than the gradients (a sum in
place of a mean, a value that a ``GradScaler`` has scaled, a large constant added) shifts it
out of the range that the policy was trained on, and the policy may then raise the learning
rate until training diverges. At the first decision with a step and a loss, this module
finds out whether the unit is plausible, and if not, how far to shift the feature.

A first loss of 0, or far below all later ones, does the same harm: the run then looks
diverged. First losses that neither gradients nor parameters account for are forgotten
(:func:`is_outgrown`), and another of these features, ``loss_vs_initial``, is bounded.

The test is on the elasticity of the loss, the relative change of the loss by the relative
change of the parameters,

.. math:: \log \frac{|g \cdot d|\, \lVert\theta\rVert}{L\, \lVert d\rVert} ,

with the step :math:`d`, which depends neither on the learning rate nor on the scale of the
parameters.
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

#: Elasticities, in nats, at the first decision of 192 runs of the training tasks: all lie
#: in [-2.5, 4.5], with a median of 1.4.
PLAUSIBLE, TYPICAL = (-3.5, 5.5), 1.4

#: Range of the feature in those runs, rounded outward.
OBSERVED = (-3.3, 2.5)


#: Largest value of ``loss_vs_initial``: beyond it, runs of the training had diverged.
MOST = MAX_POTENTIAL / 2

#: Rise of the loss over its first value, in nats, that gradients and parameters have to
#: account for. In training, a run had diverged after a rise of 3 nats.
RISE = 4.0


def is_outgrown(probe: Probe, losses: Losses, history: History) -> bool:
    """Return whether the first losses of a run were of another kind than the present ones.

    A loss that is reported as 0 or close to it at first makes all later ones look diverged.
    A loss that really rises does so along with gradients or parameters: it grows no faster
    than their product.

    Args:
        probe: of the previous update and the current gradient.
        losses: of this window, ``[1]``.
        history: of the windows before, ``[1]``.
    """
    if not losses.seen or not history.loss_windows:
        return False
    squares = torch.stack([probe.grad_sq, probe.param_sq])
    logs = 0.5 * squares.clamp(min=torch.finfo(squares.dtype).tiny).log()
    growth = logs - torch.stack([history.grad_initial, history.param_initial])
    rise = log_loss(losses.mean) - history.loss_initial
    return bool(rise - growth.clamp(min=0.0).sum(0) > RISE)


def without_losses(history: History) -> History:
    """Return a history that has seen no losses, so that the next window has the first."""
    zero = torch.zeros_like(history.loss_windows)
    names = [name for name in History._fields if name.startswith("loss_")]
    return history._replace(**dict.fromkeys(names, zero))


def correct(features: Tensor, shift: float | None) -> tuple[Tensor, float | None]:
    """Bring the features that depend on the unit of the loss into their usual ranges.

    Args:
        features: telemetry features ``[1, F]``.
        shift: what to add to the feature; None before the first decision with a step and
            a loss.

    Returns:
        The features, the same tensor if nothing changes, and the shift from now on.
    """
    decrease = float(features[0, _DECREASE])
    if decrease == 0.0:  # there is no step or no loss
        return features, shift
    if shift is None:
        # The features are (x + 5) / 3 and (x + 7) / 2 of the logarithms x.
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
