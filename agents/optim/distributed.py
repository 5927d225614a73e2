"""Distributed training of one model: reductions over processes, and sharded tensors."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

__all__ = [
    "all_reduce_sum",
    "full_tensor",
    "is_distributed",
    "is_sharded",
    "mean_loss",
    "row_shard",
    "shard_like",
]


def is_sharded(tensor: Tensor) -> bool:
    """Return whether a tensor is a ``DTensor``, like the parameters of FSDP2."""
    if type(tensor) in (Tensor, nn.Parameter):  # the attribute look-up is slow on these
        return False
    return hasattr(tensor, "full_tensor")  # avoids importing DTensor


def full_tensor(tensor: Any) -> Tensor:
    """Gather a ``DTensor`` as a plain tensor in each process; return others unchanged."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor


def shard_like(tensor: Tensor, like: Any) -> Any:
    """Distribute a tensor in the same way as ``like``.

    Args:
        tensor: plain tensor, with the same values in each process.
        like: ``DTensor`` whose mesh and placements to use. If it is a plain tensor,
            ``tensor`` is returned unchanged.
    """
    if not is_sharded(like):
        return tensor
    from torch.distributed.tensor import DTensor, Replicate

    mesh = like.device_mesh
    replicated = [Replicate() for _ in range(mesh.ndim)]
    spread = DTensor.from_local(tensor, mesh, replicated, run_check=False)
    return spread.redistribute(mesh, like.placements)


def row_shard(tensor: Any) -> tuple[int, Callable[[Tensor], Any]] | None:
    """Locate the local shard of a ``DTensor`` that is sharded along its first dimension.

    Returns:
        The flat index of the shard's first element in the full tensor, and a function that
        turns the sum over the local shard into the sum over the full tensor, a ``DTensor``
        that is reduced when it is read. None if the tensor is sharded in another way.
    """
    from torch.distributed.tensor import DTensor, Partial

    mesh, placements = tensor.device_mesh, tensor.placements
    if not all(place.is_replicate() or place.is_shard(0) for place in placements):
        return None
    rows = shard_like(torch.arange(len(tensor), device=tensor.device), tensor).to_local()
    begin = int(rows[0]) * (tensor.numel() // len(tensor)) if len(rows) else 0
    partial = [Partial() if place.is_shard() else place for place in placements]
    return begin, lambda part: DTensor.from_local(part, mesh, partial, run_check=False)


def is_distributed() -> bool:
    """Return whether ``torch.distributed`` runs with more than one process."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def all_reduce_sum(numbers: Sequence[float], params: Sequence[Tensor]) -> list[float]:
    """Sum numbers over all processes, on the device of the parameters."""
    device = params[0].device
    dtype = torch.float32 if device.type == "mps" else torch.float64
    exchanged = torch.tensor(numbers, dtype=dtype, device=device)
    dist.all_reduce(exchanged)
    return exchanged.tolist()


def mean_loss(
    loss: Tensor | float | None, params: Sequence[Tensor]
) -> Tensor | float | None:
    """Average the finite losses of all processes; None if there are none.

    In data-parallel training each process has its own loss, but all must choose the same
    learning rate. With a single process, ``loss`` is returned unchanged.
    """
    if not is_distributed():
        return loss
    value = math.nan if loss is None else float(loss)
    counted = [value, 1.0] if math.isfinite(value) else [0.0, 0.0]
    total, count = all_reduce_sum(counted, params)
    return total / count if count else None
