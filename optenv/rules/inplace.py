"""Arithmetic that overwrites its first argument where wanted, and else allocates."""

from __future__ import annotations

import torch
from torch import Tensor


def mul(a: Tensor, b: Tensor | float, inplace: bool) -> Tensor:
    """``a * b``."""
    return a.mul_(b) if inplace else a * b


def addcmul(a: Tensor, b: Tensor, c: Tensor, value: float, inplace: bool) -> Tensor:
    """``a + value * b * c``."""
    return a.addcmul_(b, c, value=value) if inplace else a.addcmul(b, c, value=value)


def ratio(a: Tensor, root: Tensor, eps: float, inplace: bool) -> Tensor:
    """``a / (root + eps)``; ``root`` is overwritten if ``inplace``."""
    if inplace:
        return torch.div(a, root.add_(eps), out=root)
    return a / (root + eps)


def root_of(square: Tensor) -> Tensor:
    """Square root whose derivative at 0 is 0, so that unrolled gradients stay finite."""
    if not square.requires_grad:
        return square.sqrt()
    positive = square > 0
    return torch.where(positive, torch.where(positive, square, 1.0).sqrt(), 0.0)


def sign(a: Tensor, inplace: bool) -> Tensor:
    """-1, 0 or 1; NaN, which torch has 0 for, where ``a`` is not finite.

    A run that has diverged must not look like one that stands still. ``a`` is overwritten
    if ``inplace``.
    """
    signs = a.sign()
    return signs.add_(a.mul_(0.0)) if inplace else signs + 0.0 * a
