"""What the optimizer measures of parameters and gradients for its policy."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from optenv.probing import Probe, first_probe, probe

#: State of each parameter, as a torch optimizer has it.
States = Mapping[Tensor, dict[str, Any]]


def mean_log_lr(groups: Sequence[Mapping[str, Any]]) -> float:
    """Log of the learning rate of parameter groups, the mean over all that moves.

    Parameters without a gradient, and groups whose learning rate is 0, do not count;
    ``-inf`` if nothing does.
    """
    total, moving = 0.0, 0
    for group in groups:
        size = sum(p.numel() for p in group["params"] if p.grad is not None)
        if group["lr"] > 0 and size > 0:
            total += size * math.log(group["lr"])
            moving += size
    return total / moving if moving else -math.inf


def measure(params: Sequence[Tensor], states: States, dtype: torch.dtype) -> Probe:
    """Probe of the last update, from what :func:`remember` kept, in ``dtype``."""

    def dot(a: list[Tensor], b: list[Tensor]) -> Tensor:
        pairs = zip(a, b, strict=True)
        parts = [torch.dot(_flat(x, dtype), _flat(y, dtype)).cpu() for x, y in pairs]
        return torch.stack(parts).sum().reshape(1)

    kept = [p for p in params if "last_grad" in states[p]] or list(params)
    grads = [p.grad for p in kept if p.grad is not None]
    if "last_grad" not in states[kept[0]]:
        return first_probe(dot, grads, kept)
    steps = [p - states[p]["last_param"] for p in kept]
    return probe(dot, grads, kept, [states[p]["last_grad"] for p in kept], steps)


def remember(params: Sequence[Tensor], states: States) -> None:
    """Keep gradient and parameters of this step for the probe of the next."""
    for p in params:
        assert p.grad is not None
        states[p].update(last_grad=p.grad.clone(), last_param=p.clone())


def forget(states: States) -> None:
    """Drop what :func:`remember` kept."""
    for state in states.values():
        state.pop("last_grad", None)
        state.pop("last_param", None)


def all_finite(params: Sequence[Tensor]) -> bool:
    """Whether all gradients are finite, at one pass over them and one wait a device.

    Raises:
        RuntimeError: a gradient is sparse.
    """
    # A sum is the cheapest reduction that an infinity or a NaN cannot hide from.
    sums: dict[torch.device, list[Tensor]] = {}
    for p in params:
        assert p.grad is not None
        if p.grad.is_sparse:
            raise RuntimeError(
                "LearnedOptimizer does not support sparse gradients, got one of a "
                f"parameter of shape {list(p.shape)}"
            )
        sums.setdefault(p.device, []).append(p.grad.sum(dtype=_wide(p.dtype)))
    return all(bool(torch.stack(part).sum().isfinite()) for part in sums.values())


def _wide(dtype: torch.dtype) -> torch.dtype:
    """Type to sum in, so that half-precision sums do not overflow."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def _flat(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor)
    return tensor.reshape(-1).to(dtype)
