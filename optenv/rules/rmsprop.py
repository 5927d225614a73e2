"""RMSprop: gradients in units of their recent root mean square."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from .arithmetic import addcmul, ratio, safe_sqrt, update_square
from .base import Hyperparameters, Rule, RuleState, fraction, positive, zeros_state

__all__ = ["RULES", "RMSprop", "rmsprop"]


@dataclass(frozen=True)
class RMSprop(Hyperparameters):
    r"""Hyperparameters of RMSprop.

    Attributes:
        alpha: decay :math:`\alpha` of the mean square, in [0, 1).
        eps: :math:`\epsilon`, positive.
    """

    alpha: float = fraction(0.99)
    eps: float = positive(1e-8)


def rmsprop(
    params: Tensor,
    grad: Tensor,
    state: RuleState,
    lr: Tensor,
    inplace: bool = False,
    h: RMSprop = RMSprop(),
) -> tuple[Tensor, RuleState]:
    r"""RMSprop: :math:`v \leftarrow \alpha v + (1-\alpha) g^2;\
    \theta \leftarrow \theta - \eta g / (\sqrt v + \epsilon)`.

    References:
        Tieleman & Hinton, "Lecture 6.5 - RMSprop", 2012.
    """
    square = update_square(state[0], grad, h.alpha, inplace)
    direction = ratio(grad, safe_sqrt(square), h.eps, inplace)
    return addcmul(params, direction, lr, -1.0, inplace), (square,)


RULES = (Rule("rmsprop", 1e-3, zeros_state, rmsprop, RMSprop()),)
