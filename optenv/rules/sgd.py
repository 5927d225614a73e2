r"""Gradient descent, with and without momentum.

Notation of all rules: parameters :math:`\theta`, gradient :math:`g`, learning rate
:math:`\eta`, number of the update :math:`t = 1, 2, \ldots`
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from .arithmetic import addcmul, mul
from .base import (
    NO_HYPERPARAMETERS,
    Hyperparameters,
    Rule,
    RuleState,
    fraction,
    zeros_state,
)

__all__ = ["RULES", "Momentum", "momentum", "nesterov", "sgd"]


@dataclass(frozen=True)
class Momentum(Hyperparameters):
    r"""Hyperparameters of the momentum rules.

    Attributes:
        momentum: :math:`\mu`, in [0, 1).
    """

    momentum: float = fraction(0.9)


def sgd(
    params: Tensor,
    grad: Tensor,
    state: RuleState,
    lr: Tensor,
    inplace: bool = False,
    h: Hyperparameters = NO_HYPERPARAMETERS,
) -> tuple[Tensor, RuleState]:
    r"""Gradient descent: :math:`\theta \leftarrow \theta - \eta g`."""
    return addcmul(params, grad, lr, -1.0, inplace), state


def momentum(
    params: Tensor,
    grad: Tensor,
    state: RuleState,
    lr: Tensor,
    inplace: bool = False,
    h: Momentum = Momentum(),
) -> tuple[Tensor, RuleState]:
    r"""Momentum: :math:`b \leftarrow \mu b + g;\ \theta \leftarrow \theta - \eta b`.

    References:
        Polyak, "Some methods of speeding up the convergence of iteration methods", 1964.
    """
    velocity = _velocity(grad, state, inplace, h)
    return addcmul(params, velocity, lr, -1.0, inplace), (velocity,)


def nesterov(
    params: Tensor,
    grad: Tensor,
    state: RuleState,
    lr: Tensor,
    inplace: bool = False,
    h: Momentum = Momentum(),
) -> tuple[Tensor, RuleState]:
    r"""Nesterov's momentum: :math:`b \leftarrow \mu b + g;\
    \theta \leftarrow \theta - \eta (g + \mu b)`.

    References:
        Sutskever et al., "On the importance of initialization and momentum in deep
        learning", 2013.
    """
    velocity = _velocity(grad, state, inplace, h)
    direction = grad.add(velocity, alpha=h.momentum)
    return addcmul(params, direction, lr, -1.0, inplace), (velocity,)


def _velocity(grad: Tensor, state: RuleState, inplace: bool, h: Momentum) -> Tensor:
    velocity = mul(state[0], h.momentum, inplace)
    return velocity.add_(grad) if inplace else velocity + grad


def _no_state(params: Tensor) -> RuleState:
    return ()


RULES = (
    Rule("sgd", 1e-1, _no_state, sgd),
    Rule("momentum", 1e-2, zeros_state, momentum, Momentum()),
    Rule("nesterov", 1e-2, zeros_state, nesterov, Momentum()),
)
