"""Which numbers of a large tensor are measured: a sample, the same one at every step.

Inner products of tens of thousands of numbers tell what those of all would. What is
measured then costs the same however large a layer is, and keeping it takes little memory.
The tensors of the environments' networks are smaller than a sample, and are taken in whole.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

__all__ = ["MOST", "factor", "is_sampled", "sample", "size"]

#: Tensors of more numbers than that are sampled: about as many are taken. A complex one
#: counts, and is sampled, as two.
MOST = 2**16

#: Numbers that are taken together, as memory is read in lines.
_BLOCK = 64


@lru_cache(maxsize=4096)
def _period(shape: torch.Size) -> int:
    """Numbers from the beginning of one block to that of the next."""
    count, row = math.prod(shape), math.prod(shape[1:])
    apart = -(-count // MOST)
    # Blocks of all rows must not lie in the same columns, such as the dark edge of images.
    while apart > 1 and math.gcd(_BLOCK * apart, row) > _BLOCK:
        apart += 1
    return _BLOCK * apart


def is_sampled(tensor: Tensor) -> bool:
    """Whether less than all of it is taken."""
    return tensor.numel() * (2 if tensor.is_complex() else 1) > MOST


def size(shape: torch.Size) -> int:
    """How many numbers are taken of a tensor of this shape that is sampled."""
    count, period = math.prod(shape), _period(shape)
    return count // period * _BLOCK + min(count % period, _BLOCK)


def factor(tensor: Tensor) -> float:
    """What sums over what is taken must be multiplied by, for those over the tensor."""
    return tensor.numel() / size(tensor.shape) if is_sampled(tensor) else 1.0


def sample(tensor: Tensor, shape: torch.Size | None = None, begin: int = 0) -> Tensor:
    """What is taken of a tensor that is sampled, in a new one of one dimension.

    ``tensor`` may be the part of a larger one of this ``shape`` whose first number is that
    one's number ``begin``, in the order of its rows.
    """
    flat, period = tensor.reshape(-1), _period(tensor.shape if shape is None else shape)
    within = begin % period
    head = flat[: max(0, _BLOCK - within)]
    rest = flat[period - within :] if within else flat
    periods = rest.numel() // period
    body = rest[: periods * period].view(periods, period)[:, :_BLOCK].reshape(-1)
    tail = rest[periods * period :][:_BLOCK]
    return torch.cat([head, body, tail] if within else [body, tail])
