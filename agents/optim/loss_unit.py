r"""Unit of the losses that an optimizer is given.

One feature, ``predicted_decrease``, sets the slope of the loss, which comes from the
gradients, against the loss itself. A loss in another unit than the gradients (a sum in
place of a mean, a value that a ``GradScaler`` has scaled, a large constant added) shifts it
out of the range that the policy was trained on, and the policy may then raise the learning
rate until training diverges. At the first decision with a step and a loss, this module
finds out whether the unit is plausible, and if not, how far to shift the feature.

The test is on the elasticity of the loss, the relative change of the loss by the relative
change of the parameters,

.. math:: \log \frac{|g \cdot d|\, \lVert\theta\rVert}{L\, \lVert d\rVert} ,

with the step :math:`d`, which depends neither on the learning rate nor on the scale of the
parameters.
"""

from __future__ import annotations

from torch import Tensor

from optenv.telemetry import FEATURES

__all__ = ["PLAUSIBLE", "TYPICAL", "correct"]

_NAMES = list(FEATURES)
_DECREASE, _STEP = _NAMES.index("predicted_decrease"), _NAMES.index("step_size")

#: Elasticities, in nats, at the first decision of 192 runs of the training tasks: all lie
#: in [-2.5, 4.5], with a median of 1.4.
PLAUSIBLE, TYPICAL = (-3.5, 5.5), 1.4

#: Range of the feature in those runs, rounded outward.
OBSERVED = (-3.3, 2.5)


def correct(features: Tensor, shift: float | None) -> tuple[Tensor, float | None]:
    """Bring the feature that depends on the unit of the loss into its usual range.

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
    if corrected != decrease:
        features = features.clone()
        features[0, _DECREASE] = corrected
    return features, shift
