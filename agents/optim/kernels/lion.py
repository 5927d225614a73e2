"""Kernel of Lion (:func:`optenv.rules.lion.lion`)."""

from __future__ import annotations

import torch

from ..distributed import is_sharded
from ..tensors import real
from .base import Kernel, Step, descend_, update_means_

__all__ = ["KERNELS"]


def _lion(step: Step) -> None:
    """Update parameters by :func:`optenv.rules.lion.lion`."""
    params, grads = [real(p) for p in step.params], [real(grad) for grad in step.grads]
    means = [real(mean) for mean in step.slots("exp_avg")]
    # 1. The direction, before the mean is updated.
    directions = torch._foreach_mul(means, step.h.beta1)
    torch._foreach_add_(directions, grads, alpha=1 - step.h.beta1)
    update_means_(means, grads, step.h.beta2)
    # 2. Its sign.
    if is_sharded(params[0]):  # DTensor has no foreach operation for signs
        signs = tuple(direction.sign() for direction in directions)
    else:
        signs = torch._foreach_sign(directions)
    torch._foreach_mul_(directions, 0.0)  # NaN where it is not finite, as in the rule
    torch._foreach_add_(signs, directions)
    # 3. The step.
    descend_(params, signs, step.lr)


KERNELS: dict[str, Kernel] = {
    "lion": Kernel(_lion, frozenset({"exp_avg"}), capturable=True)
}
