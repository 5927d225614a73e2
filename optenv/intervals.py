"""Confidence intervals of means."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

__all__ = ["Interval", "interval"]


class Interval(NamedTuple):
    """A mean over seeds and the half-width of its 95 % t interval (nan for one seed)."""

    mean: float
    half: float

    @property
    def decided(self) -> bool:
        """True if the interval excludes zero."""
        return abs(self.mean) > self.half

    def __str__(self) -> str:
        return f"{self.mean:+.3f} ±{self.half:.3f}"


def interval(values: Sequence[float]) -> Interval:
    """Return mean and 95 % t interval; with a non-finite value, the half-width is nan.

    Raises:
        ValueError: ``values`` is empty.
    """
    if len(values) == 0:
        raise ValueError("an interval needs at least one value, got none")
    if not np.isfinite(values).all():
        return Interval(float(sum(values)), math.nan)
    if len(values) == 1:
        return Interval(float(values[0]), math.nan)
    from scipy.stats import t

    error = np.std(values, ddof=1) / math.sqrt(len(values))
    return Interval(float(np.mean(values)), float(t.ppf(0.975, len(values) - 1) * error))
