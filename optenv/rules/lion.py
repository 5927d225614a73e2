r"""Lion: the sign of an interpolation between the gradient and its mean.

References:
    * Chen et al., "Symbolic Discovery of Optimization Algorithms", NeurIPS 2023.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from .arithmetic import addcmul, interpolate, sign, update_mean
from .base import Hyperparameters, Rule, RuleState, fraction, zeros_state

__all__ = ["RULES", "Lion", "lion"]


@dataclass(frozen=True)
class Lion(Hyperparameters):
    r"""Hyperparameters of Lion, with its authors' defaults.

    Attributes:
        beta1: weight :math:`\beta_1` of the mean in the direction.
        beta2: decay rate :math:`\beta_2` of the mean.
    """

    beta1: float = fraction(0.9)
    beta2: float = fraction(0.99)


def lion(
    params: Tensor,
    grad: Tensor,
    state: RuleState,
    lr: Tensor,
    inplace: bool = False,
    h: Lion = Lion(),
) -> tuple[Tensor, RuleState]:
    r"""Update by Algorithm 2 of Chen et al., 2023.

    .. math::
        \theta &\leftarrow \theta - \eta\, \text{sign}(\beta_1 m + (1-\beta_1) g) \\
        m &\leftarrow \beta_2 m + (1-\beta_2) g

    The derivative of the sign is 0: gradients flow through parameters and learning rates
    alone.

    Args:
        params: parameters :math:`\theta`, ``[B, P]``.
        grad: gradients :math:`g`, ``[B, P]``.
        state: mean :math:`m`, ``[B, P]``.
        lr: learning rates :math:`\eta`, ``[B, 1]``.
        inplace: whether to overwrite ``params`` and ``state``.
        h: hyperparameters.

    Returns:
        New parameters ``[B, P]``, and the state.
    """
    (mean,) = state
    direction = interpolate(mean, grad, h.beta1)
    mean = update_mean(mean, grad, h.beta2, inplace)
    return addcmul(params, sign(direction, inplace), lr, -1.0, inplace), (mean,)


# Every update moves each parameter by the whole learning rate, so that its usual value is
# below Adam's.
RULES = (Rule("lion", 1e-4, zeros_state, lion, Lion(), ("exp_avg",)),)
