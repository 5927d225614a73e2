"""Kernel of the MLP rule ``network`` (:mod:`optenv.rules.mlp`)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from optenv.rules.mlp import (
    INPUT_BOUND,
    MEAN_DECAYS,
    MLP,
    SQUARE_DECAY,
    corrected_direction,
    unbiased_means,
)

from ..distributed import full_tensor, is_sharded
from ..tensors import real
from .base import Kernel, Step, debiased_roots, update_means_, update_squares_

__all__ = ["KERNELS"]

#: Number of elements that the MLP is applied to at once: the hidden units of more would not
#: fit into a processor's cache.
CHUNK_NUMEL = 2**14


def _network(step: Step) -> None:
    """Update parameters by :func:`optenv.rules.mlp.network`."""
    # Parameters with equal numbers of updates, data types and devices are updated together.
    by_kind: dict[tuple[Any, ...], list[int]] = {}
    kinds = zip(step.count(), step.params, strict=True)
    for i, (count, param) in enumerate(kinds):
        by_kind.setdefault((count, param.dtype, param.device), []).append(i)
    for (count, *_), indices in by_kind.items():
        tensors = ([real(each[i]) for i in indices] for each in (step.params, step.grads))
        moments = (
            [real(step.states[i][name]) for i in indices]
            for name in ("exp_avg", "slow_exp_avg", "exp_avg_sq")
        )
        _update(*tensors, *moments, count=count, lr=float(step.lr), h=step.h)


def _update(
    params: list[Tensor],
    grads: list[Tensor],
    fast: list[Tensor],
    slow: list[Tensor],
    squares: list[Tensor],
    *,
    count: float,
    lr: float,
    h: MLP,
) -> None:
    """Update parameters of one kind; of a ``DTensor``, the local shard.

    Args:
        params: parameters, real.
        grads: their gradients, real.
        fast: mean of each gradient with the shorter memory.
        slow: mean of each gradient with the longer memory.
        squares: mean square of each gradient.
        count: number of updates of each, including this one.
        lr: learning rate.
        h: hyperparameters.
    """
    # 1. The moments, on whole tensors.
    update_means_(fast, grads, MEAN_DECAYS[0])
    update_means_(slow, grads, MEAN_DECAYS[1])
    update_squares_(squares, grads, [SQUARE_DECAY] * len(squares))
    roots = debiased_roots(squares, SQUARE_DECAY, [count] * len(squares), h.eps)
    # 2. The MLP, on flat chunks of all tensors.
    local = [_local(param) for param in params]
    sizes = torch.tensor([param.numel() for param in local], device=local[0].device)
    rms = [_rms(tensors, sizes) for tensors in (roots, params)]
    rows = [
        torch.cat([_local(tensor).flatten() for tensor in tensors])
        for tensors in (grads, fast, slow, roots, params)
    ]
    weights = torch.tensor(h.weights, dtype=local[0].dtype, device=local[0].device)
    chunks = zip(*(row[None].split(CHUNK_NUMEL, 1) for row in (*rows, *rms)), strict=True)
    directions = [
        _direction(*chunk, count=count, eps=h.eps, weights=weights) for chunk in chunks
    ]
    # 3. The step.
    flat = torch.cat(directions, 1)[0].split(sizes.tolist())
    shaped = [d.view(p.shape) for d, p in zip(flat, local, strict=True)]
    torch._foreach_add_(local, shaped, alpha=-lr)


def _direction(
    grad: Tensor,
    fast: Tensor,
    slow: Tensor,
    root: Tensor,
    param: Tensor,
    root_rms: Tensor,
    param_rms: Tensor,
    *,
    count: float,
    eps: float,
    weights: Tensor,
) -> Tensor:
    """Compute the directions of a chunk; all tensors are ``[1, n]``."""
    means = unbiased_means(fast, slow, root, count)
    if not weights.numel():
        return means[0]
    rms = (root_rms, param_rms)
    age = torch.full_like(root, math.log1p(count) / INPUT_BOUND)
    # Half precision, under a caller's autocast, would be too coarse.
    with torch.autocast(root.device.type, enabled=False):
        return corrected_direction(grad, means, root, param, rms, age, eps, weights)


def _rms(tensors: Sequence[Tensor], sizes: Tensor) -> Tensor:
    """Compute the root mean square of each full tensor, for each of its local elements.

    It is :func:`optenv.rules.mlp.tensor_rms` for lists of tensors that may be sharded.

    Args:
        tensors: tensors of any shapes.
        sizes: number of local elements of each.

    Returns:
        Root mean squares ``[n]``, for the ``n`` local elements of all tensors.
    """
    norms = torch.stack([full_tensor(n) for n in torch._foreach_norm(list(tensors))])
    counts = torch.tensor([t.numel() for t in tensors], device=norms.device)
    return (norms / counts.to(norms.dtype).sqrt()).repeat_interleave(sizes)


def _local(tensor: Any) -> Tensor:
    """Return the local shard of a ``DTensor``, and any other tensor unchanged."""
    return tensor.to_local() if is_sharded(tensor) else tensor


KERNELS: dict[str, Kernel] = {
    "network": Kernel(
        _network, frozenset({"step", "exp_avg", "slow_exp_avg", "exp_avg_sq"})
    )
}
