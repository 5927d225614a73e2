"""Several processes on one run: what they must agree on, and tensors spread over them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

__all__ = [
    "agreed_loss",
    "is_sharded",
    "own_rows",
    "scattered",
    "several",
    "summed",
    "whole",
]


def is_sharded(tensor: Tensor) -> bool:
    """Whether it is a ``DTensor``, as those of FSDP2 are."""
    if type(tensor) in (Tensor, nn.Parameter):  # asking them is slow
        return False
    return hasattr(tensor, "full_tensor")  # without importing what few have


def whole(tensor: Any) -> Tensor:
    """All of a tensor that may be spread over processes, as a plain one in each."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor


def scattered(tensor: Tensor, like: Any) -> Any:
    """A whole tensor, the same in each process, spread as ``like`` is."""
    if not is_sharded(like):
        return tensor
    from torch.distributed.tensor import DTensor, Replicate

    mesh = like.device_mesh
    everywhere = [Replicate() for _ in range(mesh.ndim)]
    spread = DTensor.from_local(tensor, mesh, everywhere, run_check=False)
    return spread.redistribute(mesh, like.placements)


def own_rows(tensor: Any) -> tuple[int, Callable[[Tensor], Any]] | None:
    """Where the part of a ``DTensor`` in this process begins, in numbers of the whole one.

    And what makes of a sum over each part one over the whole, once that is asked for. None
    if it is not by rows that the tensor is spread.
    """
    from torch.distributed.tensor import DTensor, Partial

    mesh, placements = tensor.device_mesh, tensor.placements
    if not all(place.is_replicate() or place.is_shard(0) for place in placements):
        return None
    rows = scattered(torch.arange(len(tensor), device=tensor.device), tensor).to_local()
    begin = int(rows[0]) * (tensor.numel() // len(tensor)) if len(rows) else 0
    kinds = [Partial() if place.is_shard() else place for place in placements]
    return begin, lambda part: DTensor.from_local(part, mesh, kinds, run_check=False)


def several() -> bool:
    """Whether there are several processes of ``torch.distributed``."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def summed(numbers: Sequence[float], params: Sequence[Tensor]) -> list[float]:
    """Sums over all processes, which exchange them on the device of the parameters."""
    device = params[0].device
    exact = torch.float32 if device.type == "mps" else torch.float64
    exchanged = torch.tensor(numbers, dtype=exact, device=device)
    dist.all_reduce(exchanged)
    return exchanged.tolist()


def agreed_loss(
    loss: Tensor | float | None, params: Sequence[Tensor]
) -> Tensor | float | None:
    """Mean over all processes of those losses that are given and finite; None without any.

    Each process of data-parallel training has a loss of its own, while all must choose
    the same learning rate. Without several processes, ``loss`` as it is.
    """
    if not several():
        return loss
    value = math.nan if loss is None else float(loss)
    told = [value, 1.0] if math.isfinite(value) else [0.0, 0.0]
    total, count = summed(told, params)
    return total / count if count else None
