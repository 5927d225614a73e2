"""Update rules as pure functions on a batch of flat parameters.

A rule turns a gradient into new parameters. All tensors carry one leading batch
dimension ``B`` (runs); parameters are flat, ``[B, P]``. By default nothing is changed in
place, so that gradients flow through an update and a kept state stays valid; with
``inplace=True`` parameters and state are overwritten, which spares the time to allocate.

Every rule equals its ``torch.optim`` namesake (no weight decay) to float tolerance.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

RuleState = tuple[Tensor, ...]


class Rule(NamedTuple):
    """An update rule.

    Attributes:
        name: the key in :data:`RULES`.
        default_lr: a usual base learning rate of the rule.
        init: ``params [B, P] -> state``, a tuple of ``[B, ...]`` tensors.
        update: ``(params [B, P], grad [B, P], state, lr [B, 1], inplace=False) -> (params,
            state)``.
    """

    name: str
    default_lr: float
    init: Callable[[Tensor], RuleState]
    update: Callable[..., tuple[Tensor, RuleState]]


@dataclass(frozen=True)
class Hyperparameters:
    """What the rules hold fixed; the values are torch's defaults."""

    momentum: float = 0.9
    alpha: float = 0.99
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8


HYPERPARAMETERS = Hyperparameters()


def _no_state(params: Tensor) -> RuleState:
    return ()


def _one_buffer(params: Tensor) -> RuleState:
    return (torch.zeros_like(params),)


def _adam_state(params: Tensor) -> RuleState:
    step = torch.zeros(params.shape[0], 1, dtype=params.dtype, device=params.device)
    return torch.zeros_like(params), torch.zeros_like(params), step


def sgd(
    params: Tensor, grad: Tensor, state: RuleState, lr: Tensor, inplace: bool = False
) -> tuple[Tensor, RuleState]:
    r""":math:`\theta \leftarrow \theta - \eta g`."""
    return _addcmul(params, grad, lr, -1.0, inplace), state


def momentum(
    params: Tensor, grad: Tensor, state: RuleState, lr: Tensor, inplace: bool = False
) -> tuple[Tensor, RuleState]:
    r""":math:`b \leftarrow \mu b + g;\ \theta \leftarrow \theta - \eta b` (Polyak)."""
    buffer = _mul(state[0], HYPERPARAMETERS.momentum, inplace)
    buffer = buffer.add_(grad) if inplace else buffer + grad
    return _addcmul(params, buffer, lr, -1.0, inplace), (buffer,)


def rmsprop(
    params: Tensor, grad: Tensor, state: RuleState, lr: Tensor, inplace: bool = False
) -> tuple[Tensor, RuleState]:
    r""":math:`v \leftarrow \alpha v + (1-\alpha) g^2;\
    \theta \leftarrow \theta - \eta g / (\sqrt v + \epsilon)` (Tieleman & Hinton).
    """
    h = HYPERPARAMETERS
    square = _mul(state[0], h.alpha, inplace)
    square = _addcmul(square, grad, grad, 1 - h.alpha, inplace)
    root = _sqrt(square)
    direction = _ratio(grad, root, inplace)
    return _addcmul(params, direction, lr, -1.0, inplace), (square,)


def adam(
    params: Tensor, grad: Tensor, state: RuleState, lr: Tensor, inplace: bool = False
) -> tuple[Tensor, RuleState]:
    r"""Adam with bias correction (Kingma & Ba, 2015).

    :math:`m \leftarrow \beta_1 m + (1-\beta_1) g;\ v \leftarrow \beta_2 v +
    (1-\beta_2) g^2;\ \theta \leftarrow \theta - \frac{\eta}{1-\beta_1^t}
    \frac{m}{\sqrt{v}/\sqrt{1-\beta_2^t} + \epsilon}`
    """
    h = HYPERPARAMETERS
    mean, square, step = state
    step = step + 1
    mean = mean.lerp_(grad, 1 - h.beta1) if inplace else mean.lerp(grad, 1 - h.beta1)
    square = _mul(square, h.beta2, inplace)
    square = _addcmul(square, grad, grad, 1 - h.beta2, inplace)
    root = _mul(_sqrt(square), (1 - h.beta2**step).rsqrt(), inplace)
    direction = _ratio(mean, root, inplace)
    lr = lr / (1 - h.beta1**step)
    return _addcmul(params, direction, lr, -1.0, inplace), (mean, square, step)


def _mul(a: Tensor, b: Tensor | float, inplace: bool) -> Tensor:
    return a.mul_(b) if inplace else a * b


def _addcmul(a: Tensor, b: Tensor, c: Tensor, value: float, inplace: bool) -> Tensor:
    """``a + value * b * c``."""
    return a.addcmul_(b, c, value=value) if inplace else a.addcmul(b, c, value=value)


def _ratio(a: Tensor, root: Tensor, inplace: bool) -> Tensor:
    """``a / (root + eps)``; ``root`` is overwritten if ``inplace``."""
    if inplace:
        return torch.div(a, root.add_(HYPERPARAMETERS.eps), out=root)
    return a / (root + HYPERPARAMETERS.eps)


def _sqrt(square: Tensor) -> Tensor:
    """Square root whose derivative at 0 is 0, so that unrolled gradients stay finite."""
    if not square.requires_grad:
        return square.sqrt()
    positive = square > 0
    return torch.where(positive, torch.where(positive, square, 1.0).sqrt(), 0.0)


RULES: dict[str, Rule] = {
    rule.name: rule
    for rule in (
        Rule("sgd", 1e-1, _no_state, sgd),
        Rule("momentum", 1e-2, _one_buffer, momentum),
        Rule("rmsprop", 1e-3, _one_buffer, rmsprop),
        Rule("adam", 1e-3, _adam_state, adam),
    )
}


def get(name: str) -> Rule:
    """Return the rule called ``name``.

    Raises:
        ValueError: there is no such rule; the message lists the valid names.
    """
    if name not in list(RULES):
        raise ValueError(f"unknown rule {name!r}; valid rules: {', '.join(RULES)}")
    return RULES[name]
