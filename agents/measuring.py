"""What the optimizer measures of parameters and gradients for its policy."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from optenv.probing import Probe, first_probe, probe

from .kernels import wide

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


def measure(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    states: States,
    dtype: torch.dtype,
) -> Probe:
    """Probe of the last update, from what :func:`remember` kept, in ``dtype``."""

    def dot(a: list[Tensor], b: list[Tensor]) -> Tensor:
        pairs = zip(a, b, strict=True)
        parts = [torch.dot(_flat(x, dtype), _flat(y, dtype)).cpu() for x, y in pairs]
        return torch.stack(parts).sum().reshape(1)

    pairs = list(zip(params, grads, strict=True))
    pairs = [(p, grad) for p, grad in pairs if "last_grad" in states[p]] or pairs
    kept, now = [p for p, _ in pairs], [grad for _, grad in pairs]
    if "last_grad" not in states[kept[0]]:
        return first_probe(dot, now, kept)
    steps = [p - states[p]["last_param"] for p in kept]
    return probe(dot, now, kept, [states[p]["last_grad"] for p in kept], steps)


def remember(params: Sequence[Tensor], grads: Sequence[Tensor], states: States) -> None:
    """Keep gradient and parameters of this step for the probe of the next."""
    for p, grad in zip(params, grads, strict=True):
        states[p].update(last_grad=grad.clone(), last_param=p.clone())


def forget(states: States) -> None:
    """Drop what :func:`remember` kept."""
    for state in states.values():
        state.pop("last_grad", None)
        state.pop("last_param", None)


def norm(grads: Sequence[Tensor]) -> float:
    """Euclidean norm of all gradients; not finite if one of them is not.

    One pass over them, and one wait a device.

    Raises:
        RuntimeError: a gradient is sparse.
    """
    alike: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    for grad in grads:
        if grad.is_sparse:
            raise RuntimeError(
                "LearnedOptimizer does not support sparse gradients, got one of a "
                f"parameter of shape {list(grad.shape)}"
            )
        alike.setdefault((grad.device, grad.dtype), []).append(grad)
    norms: dict[torch.device, list[Tensor]] = {}
    for (device, dtype), part in alike.items():
        # Squares of half precision's large numbers are beyond it.
        kind = None if dtype == wide(dtype) else wide(dtype)
        norms.setdefault(device, []).extend(torch._foreach_norm(part, 2, kind))
    return math.hypot(
        *(float(torch.stack([n.double() for n in part]).norm()) for part in norms.values())
    )


def _flat(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor)
    return tensor.reshape(-1).to(dtype)
