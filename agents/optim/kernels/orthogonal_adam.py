"""Kernel of orthogonal Adam (:mod:`optenv.rules.orthogonal_adam`)."""

from __future__ import annotations

import torch
from torch import Tensor

from optenv.rules.adam import square_decay
from optenv.rules.orthogonal_adam import is_due, nesterov_weights

from ..tensors import real
from .base import (
    Kernel,
    Step,
    debiased_roots,
    descend_,
    for_each_count,
    takes_fused,
    update_means_,
    update_squares_,
)
from .fused_orthogonal_adam import update_fused
from .orthogonal_stacks import FACTORS, factors_shape, is_matrix, orthogonalized_by_factors

__all__ = ["KERNELS"]

#: Decay rate of the mean below which correcting it after a fused step would lose precision.
LEAST_BETA1 = 0.01


def _orthogonal_adam(step: Step) -> None:
    """Update parameters by :func:`optenv.rules.orthogonal_adam.orthogonal_adam`."""
    if takes_fused(step) and not 0 < step.h.beta1 < LEAST_BETA1:
        update_fused(step)
        return
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
    updates = list(directions)
    refresh = 1 if isinstance(counts, Tensor) else h.refresh
    matrices = [i for i, p in enumerate(step.params) if is_matrix(p, step.matrices, i)]
    of_matrices = step.select(matrices)
    due = [refresh == 1 or is_due(counts[i], refresh) for i in matrices]
    found = orthogonalized_by_factors(
        [updates[i] for i in matrices], of_matrices.params, of_matrices.states, due, refresh
    )
    for i, update in zip(matrices, found, strict=True):
        updates[i] = update
    descend_(params, updates, step.lr)


KERNELS: dict[str, Kernel] = {
    "orthogonal-adam": Kernel(
        _orthogonal_adam,
        frozenset({"step", "exp_avg", "exp_avg_sq"}),
        capturable=True,
        kept={FACTORS: factors_shape},
        keeps=lambda h: h.refresh > 1,
    )
}
