"""Arithmetic that is written once for batches and for a single run.

The numbers of a batch of runs are tensors ``[B]``. For a single run on the CPU, Python
floats are faster: an operation of torch on one number takes as long as a hundred operations
of Python. Formulas of features and rewards therefore use these functions, which take a
tensor or a float. :func:`as_floats` and :func:`as_tensors` convert many numbers at once.

Floats have double precision, whatever the precision of the run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

__all__ = [
    "Number",
    "as_floats",
    "as_tensors",
    "asinh",
    "bounded",
    "clamp",
    "each",
    "invert",
    "is_single",
    "isfinite",
    "lerp",
    "log",
    "minimum",
    "number_of",
    "row",
    "sqrt",
    "where",
    "zeros_like",
]

#: Tensor ``[B]``, or a float for a single run; a mask is a bool tensor, or a bool.
Number = Any

T = TypeVar("T")


def log(x: Number) -> Number:
    """Compute the natural logarithm; a float must be positive or NaN."""
    return x.log() if isinstance(x, Tensor) else math.log(x)


def sqrt(x: Number) -> Number:
    """Compute the square root; a float must not be negative."""
    return x.sqrt() if isinstance(x, Tensor) else math.sqrt(x)


def asinh(x: Number) -> Number:
    """Compute the inverse hyperbolic sine."""
    return x.asinh() if isinstance(x, Tensor) else math.asinh(x)


def clamp(x: Number, low: float = -math.inf, high: float = math.inf) -> Number:
    """Limit a number to ``[low, high]``; NaN stays NaN."""
    if isinstance(x, Tensor):
        if high == math.inf:
            return x.clamp(min=low)
        return x.clamp(max=high) if low == -math.inf else x.clamp(low, high)
    return min(max(x, low), high)  # with NaN, both return their first argument


def bounded(x: Number, bound: float) -> Number:
    """Limit a number to ``[-bound, bound]``; NaN becomes the bound."""
    if isinstance(x, Tensor):
        return x.nan_to_num(nan=bound, posinf=bound, neginf=-bound).clamp(-bound, bound)
    return min(max(x, -bound), bound) if x == x else bound


def minimum(a: Number, b: Number) -> Number:
    """Return the smaller of two numbers, or NaN if one of them is."""
    if isinstance(a, Tensor):
        return torch.minimum(a, b)
    return a if a < b or a != a else b


def lerp(a: Number, b: Number, weight: float) -> Number:
    """Compute ``a + weight * (b - a)`` for a weight below 0.5."""
    return torch.lerp(a, b, weight) if isinstance(a, Tensor) else a + weight * (b - a)


def isfinite(x: Number) -> Number:
    """Return whether a number is neither infinite nor NaN."""
    return x.isfinite() if isinstance(x, Tensor) else math.isfinite(x)


def where(mask: Number, a: Number, b: Number) -> Number:
    """Return ``a`` where the mask is True, and ``b`` elsewhere."""
    return torch.where(mask, a, b) if isinstance(mask, Tensor) else (a if mask else b)


def invert(mask: Number) -> Number:
    """Return the negation of a mask."""
    return ~mask if isinstance(mask, Tensor) else not mask


def number_of(mask: Number, like: Number) -> Number:
    """Return 1 where the mask is True, and 0 elsewhere, of the type of ``like``."""
    return mask.to(like.dtype) if isinstance(mask, Tensor) else float(mask)


def zeros_like(x: Number) -> Number:
    """Return a zero of the type of a number."""
    return torch.zeros_like(x) if isinstance(x, Tensor) else 0.0


def each(
    function: Callable[..., Number], *operands: Sequence[Number]
) -> tuple[Number, ...]:
    """Apply a function to the first of all operands, then to the second, and so on.

    Tensors are stacked, and the function is called once on ``[n, B]``.

    Args:
        function: elementwise function.
        operands: sequences of ``n`` numbers.
    """
    if isinstance(operands[0][0], Tensor):
        return function(*(torch.stack([*values]) for values in operands)).unbind()
    return tuple(function(*values) for values in zip(*operands, strict=True))


def is_single(like: Tensor) -> bool:
    """Return whether arithmetic on numbers ``[B, ...]`` of runs is faster with floats.

    It is for one run on the CPU. Numbers through which gradients flow must stay tensors.
    """
    return like.shape[0] == 1 and like.is_cpu and not like.requires_grad


def as_floats(tree: T) -> T:
    """Return a tree in which tensors of one number are replaced by floats.

    Args:
        tree: nested tuples of tensors ``[1]``; entries may also be None or numbers.
    """
    tensors: list[Tensor] = []
    _collect(tree, tensors)
    return _fill(tree, iter(torch.cat(tensors).tolist()))


def _collect(tree: Any, tensors: list[Tensor]) -> None:
    """Append the tensors of a tree, in their order."""
    for part in tree:
        if isinstance(part, Tensor):
            tensors.append(part)
        elif isinstance(part, tuple):
            _collect(part, tensors)


def _fill(tree: Any, numbers: Any) -> Any:
    """Replace the tensors of a tree by numbers, in their order."""
    parts = [
        next(numbers)
        if isinstance(part, Tensor)
        else (_fill(part, numbers) if isinstance(part, tuple) else part)
        for part in tree
    ]
    return tree._make(parts) if hasattr(tree, "_make") else tuple(parts)


def row(numbers: Sequence[Number], like: Tensor) -> Tensor:
    """Return ``n`` numbers of each run as a tensor ``[B, n]`` of the type of ``like``."""
    if isinstance(numbers[0], Tensor):
        return torch.stack([*numbers], dim=-1)
    return _tensor([numbers], like)


def as_tensors(numbers: Sequence[Number], like: Tensor) -> tuple[Tensor, ...]:
    """Return numbers as tensors ``[1]`` of the type of ``like``."""
    return _tensor(numbers, like).chunk(len(numbers))


def _tensor(numbers: Any, like: Tensor) -> Tensor:
    """Make a tensor on the CPU through NumPy, which is faster than with torch."""
    return torch.from_numpy(np.array(numbers, np.float64)).to(like.dtype)
