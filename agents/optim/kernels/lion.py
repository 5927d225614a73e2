"""Lion on lists of parameters, which torch has no kernel for."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from optenv.rules import Hyperparameters

from ..distributed import is_sharded
from ..tensors import real
from .base import Implementation

__all__ = ["lion"]


def lion(
    params: list[Tensor],
    grads: list[Tensor],
    states: list[dict[str, Any]],
    lr: float,
    how: Implementation,
    h: Hyperparameters,
) -> None:
    """Move parameters by one update of :func:`optenv.rules.lion`."""
    params, grads = [real(p) for p in params], [real(grad) for grad in grads]
    means = [real(state["exp_avg"]) for state in states]
    directions = torch._foreach_mul(means, h.beta1)
    torch._foreach_add_(directions, grads, alpha=1 - h.beta1)
    torch._foreach_lerp_(means, grads, 1 - h.beta2)
    if is_sharded(params[0]):  # for a DTensor there is no such operation on lists
        signs = tuple(direction.sign() for direction in directions)
    else:
        signs = torch._foreach_sign(directions)
    torch._foreach_mul_(directions, 0.0)  # NaN where it is not finite: as in the rule
    torch._foreach_add_(signs, directions)
    torch._foreach_add_(params, signs, alpha=-lr)
