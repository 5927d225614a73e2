"""Arithmetic of the update rules on batched tensors, in place where wanted.

Each function overwrites its first argument if ``inplace`` and allocates otherwise, so that
gradients can flow through an update.
"""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import Tensor

__all__ = [
    "Number",
    "add_scaled",
    "addcmul",
    "debiased_root",
    "debiasing",
    "interpolate",
    "mul",
    "plain_count",
    "ratio",
    "safe_sqrt",
    "sign",
    "update_mean",
    "update_square",
]

#: A number of updates, or a value computed from one: a number, or a tensor ``[B, 1]``.
Number = TypeVar("Number", float, Tensor, float | Tensor)


def mul(a: Tensor, b: Tensor | float, inplace: bool) -> Tensor:
    """Compute ``a * b``."""
    return a.mul_(b) if inplace else a * b


def addcmul(a: Tensor, b: Tensor, c: Tensor, value: float, inplace: bool) -> Tensor:
    """Compute ``a + value * b * c``."""
    return a.addcmul_(b, c, value=value) if inplace else a.addcmul(b, c, value=value)


def add_scaled(a: Tensor, b: Tensor, factor: Number) -> Tensor:
    """Compute ``a + factor * b``; the factor is a number, or of each run, ``[B, 1]``."""
    if isinstance(factor, Tensor):
        return a.addcmul(b, factor)
    return a.add(b, alpha=factor)


def interpolate(a: Tensor, b: Tensor, rate: Number) -> Tensor:
    """Compute ``rate * a + (1 - rate) * b``."""
    if isinstance(rate, Tensor):  # of each run
        return (a * rate).addcmul_(b, 1 - rate)
    return (a * rate).add_(b, alpha=1 - rate)


def ratio(a: Tensor, root: Tensor, eps: float, inplace: bool) -> Tensor:
    """Compute ``a / (root + eps)``; in place, ``root`` is overwritten and not ``a``."""
    if inplace:
        return torch.div(a, root.add_(eps), out=root)
    return a / (root + eps)


def safe_sqrt(square: Tensor) -> Tensor:
    """Compute a square root, with derivative 0 at 0.

    The derivative of ``sqrt`` at 0 is infinite, which would make the gradients of unrolled
    runs non-finite wherever a parameter has had no gradient.
    """
    if not square.requires_grad:
        return square.sqrt()
    positive = square > 0
    return torch.where(positive, torch.where(positive, square, 1.0).sqrt(), 0.0)


def sign(a: Tensor, inplace: bool) -> Tensor:
    """Compute the sign: -1, 0 or 1, and NaN (torch: 0) where ``a`` is not finite.

    With 0, the parameters of a diverged run would just stop changing.
    """
    signs = a.sign()
    return signs.add_(a.mul_(0.0)) if inplace else signs + 0.0 * a


def update_mean(mean: Tensor, grad: Tensor, decay: float, inplace: bool) -> Tensor:
    r"""Update an exponential moving average: :math:`m \leftarrow \beta m + (1-\beta) g`.

    Args:
        mean: the average :math:`m` so far, ``[B, P]``.
        grad: gradients :math:`g`, ``[B, P]``.
        decay: decay rate :math:`\beta`.
        inplace: whether to overwrite ``mean``.
    """
    return mean.lerp_(grad, 1 - decay) if inplace else mean.lerp(grad, 1 - decay)


def update_square(
    square: Tensor, grad: Tensor, decay: Tensor | float, inplace: bool
) -> Tensor:
    r"""Update an average of squares: :math:`v \leftarrow \beta v + (1-\beta) g^2`.

    Args:
        square: the average :math:`v` so far, ``[B, P]``.
        grad: gradients :math:`g`, ``[B, P]``.
        decay: decay rate :math:`\beta`, a number, or ``[B, 1]`` if it depends on the
            update.
        inplace: whether to overwrite ``square``.
    """
    square = mul(square, decay, inplace)
    if isinstance(decay, Tensor):
        return addcmul(square, grad * grad, 1 - decay, 1.0, inplace)
    return addcmul(square, grad, grad, 1 - decay, inplace)


def debiased_root(
    square: Tensor, decay: float, step: Tensor | float, inplace: bool
) -> Tensor:
    r"""Compute Adam's unbiased root mean square :math:`\sqrt{v} / \sqrt{1 - \beta^t}`.

    Args:
        square: average of squares :math:`v` that started at zero. It is not overwritten.
        decay: its decay rate :math:`\beta`.
        step: number of gradients :math:`t` in the average, a number or ``[B, 1]``.
        inplace: whether to compute in place on the root, which is a new tensor.
    """
    return mul(safe_sqrt(square), debiasing(plain_count(step), decay), inplace)


def plain_count(step: Any) -> Any:
    """Return the number of updates of a single run on the CPU as a scalar of NumPy.

    Its arithmetic has the precision of the tensor's, and is many times faster. Other
    values are returned unchanged.

    Args:
        step: number of updates, a number or ``[B, 1]``.
    """
    if isinstance(step, Tensor) and step.is_cpu and step.shape == (1, 1):
        return step.detach().numpy()[0, 0]
    return step


def debiasing(step: Number, decay: float) -> Number:
    r"""Compute :math:`1/\sqrt{1-\beta^t}`, which removes the bias of a root mean square.

    Args:
        step: number of gradients :math:`t` in the average, from 1 on; a number or a tensor.
        decay: decay rate :math:`\beta` of the average.
    """
    return (1 - decay**step) ** -0.5
