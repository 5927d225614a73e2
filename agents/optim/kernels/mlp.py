"""The learned update rule on lists of parameters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from optenv.rules import Hyperparameters
from optenv.rules.mlp import DECAYS, LIMIT, SQUARE_DECAY, correct, relative

from ..distributed import is_sharded, whole
from ..tensors import real
from .base import Implementation

__all__ = ["network"]

#: Numbers that the network is applied to together: what it makes of more fits no cache.
AT_ONCE = 2**14


def network(
    params: list[Tensor],
    grads: list[Tensor],
    states: list[dict[str, Any]],
    lr: float,
    how: Implementation,
    h: Hyperparameters,
) -> None:
    """Move parameters by one update of :func:`optenv.rules.network`."""
    alike: dict[tuple[Any, ...], list[int]] = {}
    for i, (param, state) in enumerate(zip(params, states, strict=True)):
        state["step"] += 1
        alike.setdefault((state["step"].item(), param.dtype, param.device), []).append(i)
    for (step, *_), every in alike.items():
        kept = (
            [real(states[i][name]) for i in every]
            for name in ("exp_avg", "slow_exp_avg", "exp_avg_sq")
        )
        own = [real(params[i]) for i in every], [real(grads[i]) for i in every]
        _move(*own, *kept, step=step, lr=lr, h=h)


def _move(
    params: list[Tensor],
    grads: list[Tensor],
    fast: list[Tensor],
    slow: list[Tensor],
    squares: list[Tensor],
    *,
    step: float,
    lr: float,
    h: Hyperparameters,
) -> None:
    """Move parameters of one kind; a ``DTensor`` in the part of it that is here."""
    torch._foreach_lerp_(fast, grads, 1 - DECAYS[0])
    torch._foreach_lerp_(slow, grads, 1 - DECAYS[1])
    torch._foreach_mul_(squares, SQUARE_DECAY)
    torch._foreach_addcmul_(squares, grads, grads, 1 - SQUARE_DECAY)
    roots = torch._foreach_sqrt(squares)
    torch._foreach_mul_(roots, (1 - SQUARE_DECAY**step) ** -0.5)
    torch._foreach_add_(roots, h.eps)
    local = [_local(param) for param in params]
    counts = torch.tensor([param.numel() for param in local], device=local[0].device)
    scales = [_scales(part, counts) for part in (roots, params)]
    rows = [torch.cat([_local(p).flatten() for p in part]) for part in (
        grads, fast, slow, roots, params
    )]  # fmt: skip
    weights = torch.tensor(h.weights, dtype=local[0].dtype, device=local[0].device)
    pieces = zip(*(row[None].split(AT_ONCE, 1) for row in (*rows, *scales)), strict=True)
    found = [_direction(*piece, step=step, eps=h.eps, weights=weights) for piece in pieces]
    directions = torch.cat(found, 1)[0].split(counts.tolist())
    shaped = [d.view(p.shape) for d, p in zip(directions, local, strict=True)]
    torch._foreach_add_(local, shaped, alpha=-lr)


def _direction(
    grad: Tensor,
    fast: Tensor,
    slow: Tensor,
    root: Tensor,
    param: Tensor,
    *scales: Tensor,
    step: float,
    eps: float,
    weights: Tensor,
) -> Tensor:
    """Directions ``[1, n]`` of some numbers."""
    means = [
        mean / ((1 - decay**step) * root)
        for mean, decay in zip((fast, slow), DECAYS, strict=True)
    ]
    if not weights.numel():
        return means[0]
    age = torch.full_like(root, math.log1p(step) / LIMIT)
    seen = [grad / root, *means, *relative(root, param, *scales), age]
    # Half precision, as of a caller's autocast, is too coarse for it.
    with torch.autocast(root.device.type, enabled=False):
        return correct(means[0], 1 - eps / root, torch.stack(seen, dim=1), weights)


def _scales(tensors: Sequence[Tensor], counts: Tensor) -> Tensor:
    """Root mean square of each of the tensors, for each number that is here."""
    norms = torch.stack([whole(norm) for norm in torch._foreach_norm(list(tensors))])
    sizes = torch.tensor([t.numel() for t in tensors], device=norms.device)
    return (norms / sizes.to(norms.dtype).sqrt()).repeat_interleave(counts)


def _local(tensor: Any) -> Tensor:
    return tensor.to_local() if is_sharded(tensor) else tensor
