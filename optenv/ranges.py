"""Ranges of positive numbers, from which values are drawn uniformly in the logarithm."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .checks import is_real, positive_int, quoted

__all__ = ["as_range", "int_range", "log_uniform", "log_uniform_int"]


def as_range(name: str, value: Any, dtype: str = "float64") -> tuple[float, float]:
    """Return a number, or a pair of them, as ``(low, high)``.

    Args:
        name: name of the argument, for the message.
        value: a positive number, or a pair of them in ascending order.
        dtype: type of the runs; numbers beyond its range would become 0 or infinite.

    Raises:
        TypeError: the value is neither a number nor a pair of numbers.
        ValueError: a number is not positive or out of the range of ``dtype``, or the first
            of a pair is larger than the second.
    """
    pair = value if isinstance(value, (tuple, list)) else (value, value)
    if len(pair) != 2 or not all(map(is_real, pair)):
        raise TypeError(
            f"{name} must be a number or a pair of numbers, got {quoted(value)}"
        )
    if not 0 < pair[0] <= pair[1] < math.inf:
        raise ValueError(
            f"{name} must be positive and finite (low <= high), got {quoted(value)}"
        )
    least, largest = (float(x) for x in (np.finfo(dtype).tiny, np.finfo(dtype).max))
    if not least <= pair[0] <= pair[1] <= largest:
        raise ValueError(
            f"{name} must be within the range of {dtype}, {least:.3g} to {largest:.3g}, "
            f"got {quoted(value)}"
        )
    return float(pair[0]), float(pair[1])


def int_range(name: str, value: Any) -> tuple[int, int]:
    """Return a positive integer, or a pair of them, as ``(low, high)``.

    Args:
        name: name of the argument, for the message.
        value: a positive integer, or a pair of them in ascending order.

    Raises:
        ValueError: the value is neither.
    """
    if not isinstance(value, (tuple, list)):
        return (positive_int(name, value),) * 2
    if len(value) != 2:
        raise ValueError(
            f"{name} must be a positive integer or a pair of them, got {quoted(value)}"
        )
    low, high = (positive_int(f"each of {name}", each) for each in value)
    if low > high:
        raise ValueError(f"{name} must be (low, high) with low <= high, got {value!r}")
    return low, high


def log_uniform(bounds: Any, rng: np.random.Generator) -> float:
    """Draw from ``(low, high)``, uniformly in the logarithm."""
    low, high = bounds
    return math.exp(rng.uniform(math.log(low), math.log(high)))


def log_uniform_int(bounds: tuple[int, int], rng: np.random.Generator) -> int:
    """Draw an integer from ``(low, high)``, both included, uniformly in the logarithm."""
    low, high = bounds
    drawn = math.floor(log_uniform((low, high + 1), rng))
    return min(max(drawn, low), high)  # rounding may lead out of the range
