"""Random numbers that depend only on a key and a place, not on earlier draws.

So a run sees the same numbers in any batch of runs, and after a restart at any update.
"""

from __future__ import annotations

import math
from typing import TypeVar

import torch
from torch import Tensor

__all__ = [
    "GOLDEN",
    "Bits",
    "mix",
    "normal_numbers",
    "random_bits",
    "uniform_numbers",
    "wrapped",
]

#: Tensor of int64, or an int of Python within the same range.
Bits = TypeVar("Bits", Tensor, int)

GOLDEN = -7046029254386353131  # 2**64 / golden ratio, as a signed integer
_MASK = 2**24 - 1  # as many bits as float32 has digits


def mix(bits: Bits) -> Bits:
    """Scramble int64 keys (the finalizer of SplitMix64, Steele et al. 2014)."""
    for shift, factor in ((30, -4658895280553007687), (27, -7723592293110705685)):
        logical = (bits >> shift) & ((1 << (64 - shift)) - 1)
        bits = wrapped((bits ^ logical) * factor)
    return bits ^ ((bits >> 31) & ((1 << 33) - 1))


def wrapped(bits: Bits) -> Bits:
    """Wrap an integer into the range of int64, modulo 2^64; torch's are in it already."""
    return bits if isinstance(bits, Tensor) else (bits + 2**63) % 2**64 - 2**63


def random_bits(keys: Tensor, begin: int, count: int) -> Tensor:
    """Compute random bits ``[B, count]`` int64, a function of only the key and the place.

    Args:
        keys: key of each run, ``[B]`` int64, see :meth:`optenv.tasks.Data.keys`.
        begin: first place.
        count: number of places.
    """
    place = torch.arange(begin + 1, begin + count + 1, device=keys.device)
    return mix(keys.unsqueeze(1) + place * GOLDEN)


def uniform_numbers(bits: Tensor) -> Tensor:
    """Convert random bits to uniform numbers in [0, 1), float32 multiples of 2^-24."""
    return (bits & _MASK) * (1.0 / (_MASK + 1))


def normal_numbers(bits: Tensor) -> Tensor:
    """Convert random bits to standard normal numbers, float32."""
    # Box and Muller (1958), from the two lower thirds of the bits.
    low, high = bits & _MASK, (bits >> 24) & _MASK
    radius = ((low + 0.5) / (_MASK + 1)).log().mul(-2.0).sqrt()
    return radius * (high * (2.0 * math.pi / (_MASK + 1))).cos()
