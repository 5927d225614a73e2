"""Checks of arguments that several modules share."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any


def is_number(value: Any) -> bool:
    """Whether ``value`` is a real number; a bool, which Python counts as one, is not."""
    return isinstance(value, Real) and not isinstance(value, bool)


def positive_int(name: str, value: Any) -> int:
    """Return ``value`` as a plain int.

    Raises:
        ValueError: it is no integer (NumPy's are) or less than 1.
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        raise ValueError(f"{name} must be a positive integer, got {value!r}")
    return int(value)


def positive(name: str, value: Any) -> float:
    """Return ``value`` as a plain float.

    Raises:
        ValueError: it is no number that is finite and above 0.
    """
    if not is_number(value) or not 0 < value < math.inf:
        raise ValueError(f"{name} must be a positive number, got {value!r}")
    return float(value)
