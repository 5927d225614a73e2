r"""Adam and NAdam: means of gradients in units of their root mean square.

The functions for the two moments of the gradient (:func:`update_moments`) and for the
weights of Nesterov's momentum are shared with other rules.

References:
    * Kingma and Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015.
    * Dozat, "Incorporating Nesterov Momentum into Adam", ICLR workshop 2016.
    * Shazeer and Stern, "Adafactor: Adaptive Learning Rates with Sublinear Memory Cost",
      ICML 2018, for a memory that grows with the run.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .arithmetic import (
    Number,
    addcmul,
    debiased_root,
    plain_count,
    ratio,
    safe_sqrt,
    update_mean,
    update_square,
)
from .base import Hyperparameters, Rule, RuleState, fraction, nonnegative, positive

__all__ = [
    "RULES",
    "Adam",
    "NAdam",
    "adam",
    "adam_state",
    "nadam",
    "nadam_momentum",
    "nadam_weights",
    "square_decay",
    "update_moments",
]


@dataclass(frozen=True)
class Adam(Hyperparameters):
    r"""Hyperparameters of Adam, with torch's defaults.

    Attributes:
        beta1: decay rate :math:`\beta_1` of the mean.
        beta2: decay rate :math:`\beta_2` of the mean square.
        eps: :math:`\epsilon`, added to the root of the mean square.
    """

    beta1: float = fraction(0.9)
    beta2: float = fraction(0.999)
    eps: float = positive(1e-8)


@dataclass(frozen=True)
class NAdam(Adam):
    r"""Hyperparameters of NAdam, with torch's defaults.

    Attributes:
        momentum_decay: :math:`\psi`, the speed at which the momentum warms up.
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
    r"""Update as ``torch.optim.Adam``, with bias correction (Kingma & Ba, 2015).

    .. math::
        m &\leftarrow \beta_1 m + (1-\beta_1) g \\
        v &\leftarrow \beta_2 v + (1-\beta_2) g^2 \\
        \theta &\leftarrow \theta - \frac{\eta}{1-\beta_1^t}
        \frac{m}{\sqrt{v}/\sqrt{1-\beta_2^t} + \epsilon}

    Args:
        params: parameters :math:`\theta`, ``[B, P]``.
        grad: gradients :math:`g`, ``[B, P]``.
        state: mean :math:`m` and mean square :math:`v`, ``[B, P]``, and number of updates
            :math:`t`, ``[B, 1]``.
        lr: learning rates :math:`\eta`, ``[B, 1]``.
        inplace: whether to overwrite ``params`` and ``state``.
        h: hyperparameters.

    Returns:
        New parameters ``[B, P]``, and the state.
    """
    mean, root, state = update_moments(grad, state, h.beta1, h.beta2, inplace)
    direction = ratio(mean, root, h.eps, inplace)
    lr = lr / (1 - h.beta1 ** plain_count(state[2]))
    return addcmul(params, direction, lr, -1.0, inplace), state


def nadam(
    params: Tensor,
    grad: Tensor,
    state: RuleState,
    lr: Tensor,
    inplace: bool = False,
    h: NAdam = NAdam(),
) -> tuple[Tensor, RuleState]:
    r"""Update as ``torch.optim.NAdam``: Adam with Nesterov's momentum (Dozat, 2016).

    With the moments :math:`m` and :math:`v` of :func:`adam`, and a momentum
    :math:`\mu_t = \beta_1 (1 - 0.96^{t \psi} / 2)` that warms up,

    .. math::
        \theta \leftarrow \theta - \eta \left(
        \frac{\mu_{t+1} m}{1 - \prod_{i \le t+1} \mu_i} +
        \frac{(1 - \mu_t) g}{1 - \prod_{i \le t} \mu_i}\right) /
        (\sqrt{v}/\sqrt{1-\beta_2^t} + \epsilon)

    Args:
        params: parameters :math:`\theta`, ``[B, P]``.
        grad: gradients :math:`g`, ``[B, P]``.
        state: state of :func:`adam`, and the product of momenta so far, ``[B, 1]``.
        lr: learning rates :math:`\eta`, ``[B, 1]``.
        inplace: whether to overwrite ``params`` and ``state``.
        h: hyperparameters.

    Returns:
        New parameters ``[B, P]``, and the state.
    """
    mean, root, moments = update_moments(grad, state[:3], h.beta1, h.beta2, inplace)
    step, product = moments[2], state[3]
    now, ahead = (nadam_momentum(t, h.beta1, h.momentum_decay) for t in (step, step + 1))
    product = product * now
    of_mean, of_grad = nadam_weights(now, ahead, product)
    direction = addcmul(mean * of_mean, grad, of_grad, 1.0, inplace)
    direction = ratio(direction, root, h.eps, inplace)
    return addcmul(params, direction, lr, -1.0, inplace), (*moments, product)


# Moments.


def adam_state(params: Tensor) -> RuleState:
    """Return mean and mean square, ``[B, P]``, and number of updates, ``[B, 1]``: zeros."""
    step = torch.zeros(params.shape[0], 1, dtype=params.dtype, device=params.device)
    return torch.zeros_like(params), torch.zeros_like(params), step


def update_moments(
    grad: Tensor,
    state: RuleState,
    beta1: float,
    beta2: float,
    inplace: bool,
    power: float = 0.0,
) -> tuple[Tensor, Tensor, RuleState]:
    """Update Adam's two moments by a gradient.

    Args:
        grad: gradients, ``[B, P]``.
        state: mean and mean square, ``[B, P]``, and number of updates, ``[B, 1]``.
        beta1: decay rate of the mean.
        beta2: decay rate of the mean square.
        inplace: whether to overwrite mean and mean square.
        power: see :func:`square_decay`.

    Returns:
        The biased mean ``[B, P]``; the unbiased root of the mean square ``[B, P]``, which
        may be overwritten; and the state.
    """
    mean, square, step = state
    step = step + 1
    mean = update_mean(mean, grad, beta1, inplace)
    square = update_square(square, grad, square_decay(step, beta2, power), inplace)
    if power == 0:
        root = debiased_root(square, beta2, step, inplace)
    else:
        root = safe_sqrt(square)
    return mean, root, (mean, square, step)


def square_decay(step: Number, beta2: float, power: float) -> Number | float:
    r"""Return the decay rate of the mean square at an update.

    It is :math:`\beta_2`, or, with a power :math:`p > 0`, :math:`\min(\beta_2, 1 -
    t^{-p})`. The mean square then covers about the last :math:`t^p` gradients: few early in
    the run, and many late. It has no bias to correct, since the first decay rate is 0.
    Adafactor has :math:`p = 0.8` (Shazeer & Stern, 2018).

    Args:
        step: update :math:`t`, from 1 on; a number or a tensor.
        beta2: highest decay rate :math:`\beta_2`.
        power: :math:`p`; 0 for a constant decay rate.
    """
    if power == 0:
        return beta2
    if isinstance(step, Tensor):
        return (1 - step**-power).clamp(max=beta2)
    return min(1 - step**-power, beta2)


# Nesterov's momentum.


def nadam_momentum(step: Number, beta1: float, momentum_decay: float) -> Number:
    r"""Return NAdam's momentum :math:`\mu_t = \beta_1 (1 - 0.96^{t \psi} / 2)`.

    Args:
        step: update :math:`t`, from 1 on; a number or a tensor.
        beta1: momentum :math:`\beta_1` in the long run.
        momentum_decay: :math:`\psi`.
    """
    return beta1 * (1 - 0.5 * 0.96 ** (step * momentum_decay))


def nadam_weights(now: Number, ahead: Number, product: Number) -> tuple[Number, Number]:
    """Return the weights of mean and gradient in NAdam's direction.

    Args:
        now: momentum of this update.
        ahead: momentum of the next update.
        product: product of the momenta up to ``now``.
    """
    return ahead / (1 - product * ahead), (1 - now) / (1 - product)


def _init_nadam(params: Tensor) -> RuleState:
    """Return the state of Adam, and ones ``[B, 1]`` as the product of no momenta."""
    mean, square, step = adam_state(params)
    return mean, square, step, torch.ones_like(step)


_SLOTS = ("exp_avg", "exp_avg_sq", "step")

RULES = (
    Rule("adam", 1e-3, adam_state, adam, Adam(), _SLOTS),
    Rule("nadam", 2e-3, _init_nadam, nadam, NAdam(), (*_SLOTS, "mu_product")),
)
