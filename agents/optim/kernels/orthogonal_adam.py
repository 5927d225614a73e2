"""Kernel of orthogonal Adam (:mod:`optenv.rules.orthogonal_adam`)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from optenv.rules.adam import square_decay
from optenv.rules.orthogonal_adam import as_matrix, nesterov_weights, orthogonalize

from ..distributed import full_tensor, shard_like
from ..tensors import real
from .base import (
    Kernel,
    Step,
    debiased_roots,
    descend_,
    for_each_count,
    update_means_,
    update_squares_,
)

__all__ = ["KERNELS", "orthogonalized"]

#: Numbers in the matrices that are stacked to be orthogonalised together. With more of
#: them, memory traffic takes the time.
STACK_NUMEL = 2**18


def _orthogonal_adam(step: Step) -> None:
    """Update parameters by :func:`optenv.rules.orthogonal_adam.orthogonal_adam`."""
    h, params = step.h, [real(p) for p in step.params]
    grads = [real(grad) for grad in step.grads]
    means, squares = (
        [real(slot) for slot in step.slots(name)] for name in ("exp_avg", "exp_avg_sq")
    )
    # 1. Adam's moments, whose memory can grow.
    counts = step.count()
    update_means_(means, grads, h.beta1)
    decays = for_each_count(lambda t: square_decay(t, h.beta2, h.power), counts)
    update_squares_(squares, grads, decays)
    roots = debiased_roots(squares, h.beta2 if h.power == 0 else None, counts, h.eps)
    # 2. The direction of Adam with Nesterov's momentum.
    of_mean = for_each_count(lambda t: nesterov_weights(t, h.beta1)[0], counts)
    of_grad = for_each_count(lambda t: nesterov_weights(t, h.beta1)[1], counts)
    directions = torch._foreach_mul(means, of_mean)
    ahead = torch._foreach_mul(grads, of_grad)
    torch._foreach_add_(directions, ahead)
    torch._foreach_div_(directions, roots)
    # 3. Its matrices orthogonalised.
    updates = orthogonalized(list(directions), step.params)
    descend_(params, updates, step.lr)


def orthogonalized(directions: list[Tensor], params: list[Tensor]) -> list[Tensor]:
    """Orthogonalise the directions of real matrices; return all directions.

    Matrices of one shape are stacked, several small ones at once.

    Args:
        directions: of each parameter, in single or double precision; ``DTensor`` if the
            parameter is one.
        params: the parameters, for their shapes.
    """
    by_kind: dict[tuple[Any, ...], list[int]] = {}
    for i, param in enumerate(params):
        matrix = None if param.is_complex() else as_matrix(param.shape)
        if matrix is not None:
            by_kind.setdefault((matrix, param.device, param.dtype), []).append(i)
    for (matrix, *_), indices in by_kind.items():
        count = max(1, STACK_NUMEL // math.prod(matrix))
        for begin in range(0, len(indices), count):
            chunk = indices[begin : begin + count]
            stacked = torch.stack(
                [full_tensor(directions[i]).reshape(matrix) for i in chunk]
            )
            # The half precision of a caller's autocast is too coarse for the iteration.
            with torch.autocast(stacked.device.type, enabled=False):
                results = orthogonalize(stacked)
            for i, result in zip(chunk, results, strict=True):
                shaped = result.view(directions[i].shape)
                directions[i] = shard_like(shaped, directions[i])
    return directions


KERNELS: dict[str, Kernel] = {
    "orthogonal-adam": Kernel(
        _orthogonal_adam, frozenset({"step", "exp_avg", "exp_avg_sq"}), capturable=True
    )
}
