r"""Stochastic gradient descent: plain, with momentum, and with Nesterov's momentum.

Steps are proportional to the gradient. With momentum, they are along a decaying sum of
gradients; Nesterov's variant looks one step of this sum ahead.

References:
    * Robbins and Monro, "A Stochastic Approximation Method", Annals of Mathematical
      Statistics, 1951.
    * Polyak, "Some methods of speeding up the convergence of iteration methods", USSR
      Computational Mathematics and Mathematical Physics, 1964.
    * Sutskever et al., "On the importance of initialization and momentum in deep
      learning", ICML 2013, for Nesterov's momentum in the form used here and by torch.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from .arithmetic import add_scaled, addcmul, mul
from .base import (
    NO_HYPERPARAMETERS,
    Hyperparameters,
    Rule,
    RuleState,
    empty_state,
    fraction,
    zeros_state,
)

__all__ = ["RULES", "Momentum", "momentum", "nesterov", "sgd"]


@dataclass(frozen=True)
class Momentum(Hyperparameters):
    r"""Hyperparameters of momentum, with torch's usual value.

    Attributes:
        momentum: decay rate :math:`\mu` of the buffer.
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
    r"""Update by gradient descent, as ``torch.optim.SGD``.

    .. math:: \theta \leftarrow \theta - \eta g

    Args:
        params: parameters :math:`\theta`, ``[B, P]``.
        grad: gradients :math:`g`, ``[B, P]``.
        state: empty.
        lr: learning rates :math:`\eta`, ``[B, 1]``.
        inplace: whether to overwrite ``params``.
        h: hyperparameters, of which it has none.

    Returns:
        New parameters ``[B, P]``, and the state.
    """
    return addcmul(params, grad, lr, -1.0, inplace), state


def momentum(
    params: Tensor,
    grad: Tensor,
    state: RuleState,
    lr: Tensor,
    inplace: bool = False,
    h: Momentum = Momentum(),
) -> tuple[Tensor, RuleState]:
    r"""Update with momentum, as ``torch.optim.SGD(momentum=0.9)`` (Polyak, 1964).

    .. math::
        b &\leftarrow \mu b + g \\
        \theta &\leftarrow \theta - \eta b

    Args:
        params: parameters :math:`\theta`, ``[B, P]``.
        grad: gradients :math:`g`, ``[B, P]``.
        state: buffer :math:`b`, ``[B, P]``.
        lr: learning rates :math:`\eta`, ``[B, 1]``.
        inplace: whether to overwrite ``params`` and ``state``.
        h: hyperparameters.

    Returns:
        New parameters ``[B, P]``, and the state.
    """
    buffer = _accumulate(grad, state, inplace, h)
    return addcmul(params, buffer, lr, -1.0, inplace), (buffer,)


def nesterov(
    params: Tensor,
    grad: Tensor,
    state: RuleState,
    lr: Tensor,
    inplace: bool = False,
    h: Momentum = Momentum(),
) -> tuple[Tensor, RuleState]:
    r"""Update with Nesterov's momentum, as ``torch.optim.SGD(nesterov=True)``.

    .. math::
        b &\leftarrow \mu b + g \\
        \theta &\leftarrow \theta - \eta (g + \mu b)

    After Sutskever et al., 2013.

    Args:
        params: parameters :math:`\theta`, ``[B, P]``.
        grad: gradients :math:`g`, ``[B, P]``.
        state: buffer :math:`b`, ``[B, P]``.
        lr: learning rates :math:`\eta`, ``[B, 1]``.
        inplace: whether to overwrite ``params`` and ``state``.
        h: hyperparameters.

    Returns:
        New parameters ``[B, P]``, and the state.
    """
    buffer = _accumulate(grad, state, inplace, h)
    direction = add_scaled(grad, buffer, h.momentum)
    return addcmul(params, direction, lr, -1.0, inplace), (buffer,)


def _accumulate(grad: Tensor, state: RuleState, inplace: bool, h: Momentum) -> Tensor:
    """Return the momentum buffer after another gradient."""
    buffer = mul(state[0], h.momentum, inplace)
    return buffer.add_(grad) if inplace else buffer + grad


_SLOTS = ("momentum_buffer",)

RULES = (
    Rule("sgd", 1e-1, empty_state, sgd),
    Rule("momentum", 1e-2, zeros_state, momentum, Momentum(), _SLOTS),
    Rule("nesterov", 1e-2, zeros_state, nesterov, Momentum(), _SLOTS),
)
