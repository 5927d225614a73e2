"""Orthogonal Adam on lists of parameters, which torch has no kernel for."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from optenv.rules import Hyperparameters
from optenv.rules.orthogonal import as_matrix, orthogonalize

from ..distributed import scattered, whole
from ..tensors import real
from .base import Implementation

__all__ = ["orthogonal_adam", "orthogonalized"]

#: Numbers in the matrices that are orthogonalised together: with more, memory is what
#: takes the time.
AT_ONCE = 2**18


def orthogonal_adam(
    params: list[Tensor],
    grads: list[Tensor],
    states: list[dict[str, Any]],
    lr: float,
    how: Implementation,
    h: Hyperparameters,
) -> None:
    """Move parameters by one update of :func:`optenv.rules.orthogonal_adam`."""
    grads, means, squares, values = (
        [real(x) for x in part]
        for part in (
            grads,
            [s["exp_avg"] for s in states],
            [s["exp_avg_sq"] for s in states],
            params,
        )
    )
    for state in states:
        state["step"] += 1
    steps = [state["step"].item() for state in states]
    torch._foreach_lerp_(means, grads, 1 - h.beta1)
    decays = [h.decay(t) for t in steps]
    torch._foreach_mul_(squares, decays)
    torch._foreach_addcmul_(squares, grads, grads, [1 - decay for decay in decays])
    roots = torch._foreach_sqrt(squares)
    if h.power == 0:
        torch._foreach_mul_(roots, [(1 - h.beta2**t) ** -0.5 for t in steps])
    torch._foreach_add_(roots, h.eps)
    directions = torch._foreach_mul(
        means, [h.beta1 / (1 - h.beta1 ** (t + 1)) for t in steps]
    )
    now = torch._foreach_mul(grads, [(1 - h.beta1) / (1 - h.beta1**t) for t in steps])
    torch._foreach_add_(directions, now)
    torch._foreach_div_(directions, roots)
    torch._foreach_add_(values, orthogonalized(list(directions), params), alpha=-lr)


def orthogonalized(directions: list[Tensor], params: list[Tensor]) -> list[Tensor]:
    """The directions, those of real matrices orthogonalised; small ones alike together."""
    alike: dict[tuple[Any, ...], list[int]] = {}
    for i, param in enumerate(params):
        matrix = None if param.is_complex() else as_matrix(param.shape)
        if matrix is not None:
            alike.setdefault((matrix, param.device, param.dtype), []).append(i)
    for (matrix, *_), every in alike.items():
        count = max(1, AT_ONCE // math.prod(matrix))
        for begin in range(0, len(every), count):
            group = every[begin : begin + count]
            stacked = torch.stack([whole(directions[i]).reshape(matrix) for i in group])
            # Half precision, as of a caller's autocast, is too coarse for the squares of
            # squares in it; parameters of that kind come here in single precision.
            with torch.autocast(stacked.device.type, enabled=False):
                found = orthogonalize(stacked)
            for i, result in zip(group, found, strict=True):
                shaped = result.view(directions[i].shape)
                directions[i] = scattered(shaped, directions[i])
    return directions
