"""Lion: the sign of a momentum."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from .arithmetic import addcmul, sign, update_mean
from .base import Hyperparameters, Rule, RuleState, fraction, zeros_state

__all__ = ["RULES", "Lion", "lion"]


@dataclass(frozen=True)
class Lion(Hyperparameters):
    r"""Hyperparameters of Lion, by default those of its authors.

    Attributes:
        beta1: share :math:`\beta_1` of the mean in the direction, in [0, 1).
        beta2: decay :math:`\beta_2` of the mean, in [0, 1).
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
    r"""Lion: :math:`\theta \leftarrow \theta - \eta\, \text{sign}(\beta_1 m +
    (1-\beta_1) g);\ m \leftarrow \beta_2 m + (1-\beta_2) g`.

    Gradients flow through parameters and learning rates; that of the sign is 0.

    References:
        Chen et al., "Symbolic discovery of optimization algorithms", 2023.
    """
    (mean,) = state
    direction = (mean * h.beta1).add_(grad, alpha=1 - h.beta1)
    mean = update_mean(mean, grad, h.beta2, inplace)
    return addcmul(params, sign(direction, inplace), lr, -1.0, inplace), (mean,)


RULES = (Rule("lion", 1e-4, zeros_state, lion, Lion()),)
