"""Adam and NAdam."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .arithmetic import addcmul, debiased_root, ratio, update_mean, update_square
from .base import Hyperparameters, Rule, RuleState, fraction, nonnegative, positive

__all__ = ["RULES", "Adam", "NAdam", "adam", "adam_state", "nadam", "nadam_momentum"]


@dataclass(frozen=True)
class Adam(Hyperparameters):
    r"""Hyperparameters of Adam.

    Attributes:
        beta1: decay :math:`\beta_1` of the mean, in [0, 1).
        beta2: decay :math:`\beta_2` of the mean square, in [0, 1).
        eps: :math:`\epsilon`, positive.
    """

    beta1: float = fraction(0.9)
    beta2: float = fraction(0.999)
    eps: float = positive(1e-8)


@dataclass(frozen=True)
class NAdam(Adam):
    r"""Hyperparameters of NAdam.

    Attributes:
        momentum_decay: :math:`\psi`, at least 0; 0 for a momentum of :math:`\beta_1 / 2`.
    """

    momentum_decay: float = nonnegative(4e-3)


def adam(
    params: Tensor,
    grad: Tensor,
    state: RuleState,
    lr: Tensor,
    inplace: bool = False,
    h: Adam = Adam(),
) -> tuple[Tensor, RuleState]:
    r"""Adam with bias correction.

    :math:`m \leftarrow \beta_1 m + (1-\beta_1) g;\ v \leftarrow \beta_2 v +
    (1-\beta_2) g^2;\ \theta \leftarrow \theta - \frac{\eta}{1-\beta_1^t}
    \frac{m}{\sqrt{v}/\sqrt{1-\beta_2^t} + \epsilon}`

    References:
        Kingma & Ba, "Adam: A method for stochastic optimization", 2015.
    """
    mean, square, step = _moments(grad, state, inplace, h)
    root = debiased_root(square, h.beta2, step, inplace)
    direction = ratio(mean, root, h.eps, inplace)
    lr = lr / (1 - h.beta1**step)
    return addcmul(params, direction, lr, -1.0, inplace), (mean, square, step)


def nadam(
    params: Tensor,
    grad: Tensor,
    state: RuleState,
    lr: Tensor,
    inplace: bool = False,
    h: NAdam = NAdam(),
) -> tuple[Tensor, RuleState]:
    r"""Adam with Nesterov's momentum, which warms up.

    With the momentum :math:`\mu_t = \beta_1 (1 - 0.96^{t \psi} / 2)`, and :math:`m` and
    :math:`v` of :func:`adam`: :math:`\theta \leftarrow \theta - \eta \left(
    \frac{\mu_{t+1} m}{1 - \prod_{i \le t+1} \mu_i} +
    \frac{(1 - \mu_t) g}{1 - \prod_{i \le t} \mu_i}\right) /
    (\sqrt{v}/\sqrt{1-\beta_2^t} + \epsilon)`

    References:
        Dozat, "Incorporating Nesterov momentum into Adam", 2016.
    """
    *averages, product = state
    mean, square, step = _moments(grad, tuple(averages), inplace, h)
    now, following = (
        nadam_momentum(t, h.beta1, h.momentum_decay) for t in (step, step + 1)
    )
    product = product * now
    ahead = mean * (following / (1 - product * following))
    ahead = addcmul(ahead, grad, (1 - now) / (1 - product), 1.0, inplace)
    root = debiased_root(square, h.beta2, step, inplace)
    direction = ratio(ahead, root, h.eps, inplace)
    moved = addcmul(params, direction, lr, -1.0, inplace)
    return moved, (mean, square, step, product)


def nadam_momentum(
    step: Tensor | float, beta1: float, momentum_decay: float
) -> Tensor | float:
    r"""Compute NAdam's momentum :math:`\mu_t` at update ``step``."""
    return beta1 * (1 - 0.5 * 0.96 ** (step * momentum_decay))


def adam_state(params: Tensor) -> RuleState:
    """Make Adam's state: mean and mean square ``[B, P]``, number of updates ``[B, 1]``."""
    step = torch.zeros(params.shape[0], 1, dtype=params.dtype, device=params.device)
    return torch.zeros_like(params), torch.zeros_like(params), step


def _nadam_state(params: Tensor) -> RuleState:
    mean, square, step = adam_state(params)
    return mean, square, step, torch.ones_like(step)


def _moments(
    grad: Tensor, state: RuleState, inplace: bool, h: Adam
) -> tuple[Tensor, Tensor, Tensor]:
    """Update the mean, the mean square and the number of updates."""
    mean, square, step = state
    mean = update_mean(mean, grad, h.beta1, inplace)
    return mean, update_square(square, grad, h.beta2, inplace), step + 1


RULES = (
    Rule("adam", 1e-3, adam_state, adam, Adam()),
    Rule("nadam", 2e-3, _nadam_state, nadam, NAdam()),
)
