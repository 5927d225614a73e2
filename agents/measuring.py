"""What the optimizer measures of parameters and gradients for its policy."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from optenv.probing import Probe, first_probe, probe

from .kernels import wide
from .sharding import is_sharded, several, summed, whole

#: State of each parameter, as a torch optimizer has it.
States = Mapping[Tensor, dict[str, Any]]


def mean_log_lr(groups: Sequence[Mapping[str, Any]], partitioned: bool = False) -> float:
    """Log of the learning rate of parameter groups, the mean over all that moves.

    Parameters without a gradient, and groups whose learning rate is 0, do not count;
    ``-inf`` if nothing does. ``partitioned``: other processes hold further parameters.
    """
    total, moving = 0.0, 0.0
    for group in groups:
        size = sum(p.numel() for p in group["params"] if p.grad is not None)
        if group["lr"] > 0 and size > 0:
            total += size * math.log(group["lr"])
            moving += size
    if partitioned and several():
        total, moving = summed([total, moving], [p for g in groups for p in g["params"]])
    return total / moving if moving else -math.inf


def measure(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    states: States,
    dtype: torch.dtype,
    partitioned: bool = False,
) -> Probe:
    """Probe of the last update, from what :func:`remember` kept, in ``dtype``.

    ``partitioned``: other processes hold further parameters.
    """

    def dot(a: list[Tensor], b: list[Tensor]) -> Tensor:
        spread, plain = [], []
        for x, y in zip(a, b, strict=True):
            if is_sharded(x):
                spread.append((x.to(dtype) * y.to(dtype)).sum())
            else:
                plain.append(torch.dot(_flat(x, dtype), _flat(y, dtype)).cpu())
        if spread:  # added up before the processes exchange anything
            plain.append(whole(functools.reduce(torch.add, spread)).cpu())
        return torch.stack(plain).sum().reshape(1)

    pairs = list(zip(params, grads, strict=True))
    pairs = [(p, grad) for p, grad in pairs if "last_grad" in states[p]] or pairs
    kept, now = [p for p, _ in pairs], [grad for _, grad in pairs]
    if "last_grad" not in states[kept[0]]:
        found = first_probe(dot, now, kept)
    else:
        steps = [p - states[p]["last_param"] for p in kept]
        found = probe(dot, now, kept, [states[p]["last_grad"] for p in kept], steps)
    if not (partitioned and several()):
        return found
    sums = summed(torch.cat(found).tolist(), params)
    return Probe(*torch.tensor(sums, dtype=dtype, device="cpu")[:, None])


def remember(params: Sequence[Tensor], grads: Sequence[Tensor], states: States) -> None:
    """Keep gradient and parameters of this step for the probe of the next."""
    for p, grad in zip(params, grads, strict=True):
        states[p].update(last_grad=grad.clone(), last_param=p.clone())


def forget(states: States) -> None:
    """Drop what :func:`remember` kept."""
    for state in states.values():
        state.pop("last_grad", None)
        state.pop("last_param", None)


def norm(grads: Sequence[Tensor], partitioned: bool = False) -> float:
    """Euclidean norm of all gradients; not finite if one of them is not.

    One pass over them, and one wait a device. ``partitioned``: other processes hold further
    gradients.

    Raises:
        RuntimeError: a gradient is sparse.
    """
    alike: dict[tuple[torch.device, torch.dtype, bool], list[Tensor]] = {}
    for grad in grads:
        if grad.is_sparse:
            raise RuntimeError(
                "a learned policy does not support sparse gradients, got one of a "
                f"parameter of shape {list(grad.shape)}"
            )
        alike.setdefault((grad.device, grad.dtype, is_sharded(grad)), []).append(grad)
    norms: dict[torch.device, list[Tensor]] = {}
    for (device, dtype, _), part in alike.items():
        # Squares of half precision's large numbers are beyond it.
        kind = None if dtype == wide(dtype) else wide(dtype)
        every = torch.stack(torch._foreach_norm(part, 2, kind))
        norms.setdefault(device, []).append(whole(torch.linalg.vector_norm(every)))
    found = math.hypot(*(float(torch.stack(part).norm()) for part in norms.values()))
    if partitioned and several():
        found = math.sqrt(*summed([found * found], grads))
    return found


def _flat(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor)
    return tensor.reshape(-1).to(dtype)
