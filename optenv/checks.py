"""Checks of arguments that several modules share."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
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


def positive(name: str, value: Any, below: float = math.inf) -> float:
    """Return ``value`` as a plain float.

    Raises:
        TypeError: it is no real number.
        ValueError: it is not positive, or not less than ``below``.
    """
    if not is_number(value):
        raise TypeError(f"{name} must be a number, got {value!r}")
    if not 0 < value < below:
        limit = "and finite" if below == math.inf else f"and less than {below}"
        raise ValueError(f"{name} must be positive {limit}, got {value!r}")
    return float(value)


def suggestion(name: str, valid: Sequence[str], near: Iterable[str] = ()) -> str:
    """What an unknown name may have meant, and all that would have been valid.

    Args:
        name: that was given.
        valid: names that there are.
        near: those of them to suggest the first of; else it is the closest, if one is
        close.
    """
    close = [*near] or get_close_matches(name, valid, 1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}valid: {', '.join(valid)}"
