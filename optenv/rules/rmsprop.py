r"""RMSprop: gradients in units of their root mean square.

References:
    * Tieleman and Hinton, "Lecture 6.5 - RMSprop: Divide the gradient by a running average
      of its recent magnitude", COURSERA: Neural Networks for Machine Learning, 2012.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from .arithmetic import addcmul, ratio, safe_sqrt, update_square
from .base import Hyperparameters, Rule, RuleState, fraction, positive, zeros_state

__all__ = ["RULES", "RMSprop", "rmsprop"]


@dataclass(frozen=True)
class RMSprop(Hyperparameters):
    r"""Hyperparameters of RMSprop, with torch's defaults.

    Attributes:
        alpha: decay rate :math:`\alpha` of the mean square.
        eps: added to the root :math:`\sqrt v`.
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
    r"""Update as ``torch.optim.RMSprop`` (Tieleman & Hinton, 2012).

    .. math::
        v &\leftarrow \alpha v + (1-\alpha) g^2 \\
        \theta &\leftarrow \theta - \eta g / (\sqrt v + \epsilon)

    Args:
        params: parameters :math:`\theta`, ``[B, P]``.
        grad: gradients :math:`g`, ``[B, P]``.
        state: mean square :math:`v`, ``[B, P]``.
        lr: learning rates :math:`\eta`, ``[B, 1]``.
        inplace: whether to overwrite ``params`` and ``state``.
        h: hyperparameters.

    Returns:
        New parameters ``[B, P]``, and the state.
    """
    square = update_square(state[0], grad, h.alpha, inplace)
    direction = ratio(grad, safe_sqrt(square), h.eps, inplace)
    return addcmul(params, direction, lr, -1.0, inplace), (square,)


RULES = (Rule("rmsprop", 1e-3, zeros_state, rmsprop, RMSprop(), ("square_avg",)),)
