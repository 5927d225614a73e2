"""Fixed subsamples of large tensors, on which telemetry is measured.

Inner products over tens of thousands of elements estimate those over the whole tensor. The
cost of a decision and the size of its buffers are therefore bounded, however large a layer
is. The tensors of the environments' networks are below the limit and are measured in full.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

__all__ = ["MAX_NUMEL", "is_subsampled", "scale", "subsample", "subsample_numel"]

#: Tensors with more elements are subsampled to about this many. A complex element counts as
#: two.
MAX_NUMEL = 2**16

#: Number of neighbouring elements that are taken together: memory is read in cache lines.
BLOCK_NUMEL = 64


@lru_cache(maxsize=4096)
def _period(shape: torch.Size) -> int:
    """Return the distance between the beginnings of two blocks, in elements."""
    numel, row = math.prod(shape), math.prod(shape[1:])
    blocks_apart = -(-numel // MAX_NUMEL)
    # The blocks must not all fall into the same columns, such as the dark edge of images.
    while blocks_apart > 1 and math.gcd(BLOCK_NUMEL * blocks_apart, row) > BLOCK_NUMEL:
        blocks_apart += 1
    return BLOCK_NUMEL * blocks_apart


def is_subsampled(tensor: Tensor) -> bool:
    """Return whether a tensor is too large to be measured in full."""
    return tensor.numel() * (2 if tensor.is_complex() else 1) > MAX_NUMEL


def subsample_numel(shape: torch.Size) -> int:
    """Return the number of elements in the subsample of a large real tensor."""
    numel, period = math.prod(shape), _period(shape)
    return numel // period * BLOCK_NUMEL + min(numel % period, BLOCK_NUMEL)


def scale(tensor: Tensor) -> float:
    """Return the factor from sums over the subsample to sums over the (real) tensor."""
    if not is_subsampled(tensor):
        return 1.0
    return tensor.numel() / subsample_numel(tensor.shape)


def subsample(tensor: Tensor, shape: torch.Size | None = None, begin: int = 0) -> Tensor:
    """Take the subsample of a large real tensor, as a new tensor of one dimension.

    Args:
        tensor: any real tensor, or a shard of one.
        shape: shape of the full tensor, if ``tensor`` is a shard of it.
        begin: flat index of the shard's first element in the full tensor.
    """
    flat, period = tensor.reshape(-1), _period(tensor.shape if shape is None else shape)
    within = begin % period
    # The rest of a block that began before the shard, whole periods, and the last block.
    head = flat[: max(0, BLOCK_NUMEL - within)]
    rest = flat[period - within :] if within else flat
    periods = rest.numel() // period
    body = rest[: periods * period].view(periods, period)[:, :BLOCK_NUMEL].reshape(-1)
    tail = rest[periods * period :][:BLOCK_NUMEL]
    return torch.cat([head, body, tail] if within else [body, tail])
