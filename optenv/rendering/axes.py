"""Limits, ticks and numbers of the axes of a picture."""

from __future__ import annotations

import math

import numpy as np

__all__ = ["few", "grown", "number", "power", "ticks_between"]


def grown(
    values: np.ndarray,
    is_log: bool,
    least: float,
    old: tuple[float, float] | None,
    headroom: float = 0.0,
) -> tuple[float, float]:
    """Return limits of an axis that contain all values.

    Limits that contain them stay unchanged, others grow by half, so that an axis changes
    only a few times in an episode.

    Args:
        values: finite numbers; positive ones for a logarithmic axis.
        is_log: whether the axis is logarithmic.
        least: least span, in powers of ten or relative to the largest value.
        old: present limits; None if there are none yet.
        headroom: fraction of the axis that stays free above the values.
    """
    low, high = float(values.min()), float(values.max())
    if is_log:
        low, high = math.log10(low), math.log10(high)
        if old is not None:
            old = math.log10(old[0]), math.log10(old[1])
    span = max(high - low, least * (1.0 if is_log else max(abs(low), abs(high), 1e-12)))
    if old is None:
        middle, half = (low + high) / 2, 0.6 * span
        limits = middle - half, middle + half * (1 + 2 * headroom)
    else:
        ceiling = old[1] - headroom * (old[1] - old[0])
        pad = 0.5 * span
        limits = (
            low - pad if low < old[0] else old[0],
            (high + pad) + headroom * span if high > ceiling else old[1],
        )
    if is_log:
        limits = 10.0 ** limits[0], 10.0 ** limits[1]
    return limits


def ticks_between(low: float, high: float, is_log: bool) -> list[float]:
    """Return two to five round numbers within the limits of an axis."""
    if is_log:
        first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
        for digits in ((1,), (1, 3), (1, 2, 5)):
            ticks = [d * 10.0**k for k in range(first, last + 1) for d in digits]
            ticks = [tick for tick in ticks if low <= tick <= high]
            if len(ticks) >= 3:
                return ticks[:: math.ceil(len(ticks) / 5)]
    # The smallest step of 1, 2 or 5 times a power of ten that gives at most five ticks.
    step = 10.0 ** math.floor(math.log10(max(high - low, 1e-300)) - 1)
    for factor in (1, 2, 5, 10, 20, 50):
        size = factor * step
        first, last = math.ceil(low / size), math.floor(high / size)
        if last - first < 5:
            break
    return [k * size for k in range(first, last + 1)]


def few(count: int) -> list[int]:
    """Return evenly spaced indices of at most eight out of ``count`` rows."""
    return list(range(0, count, math.ceil(count / 8)))


def number(value: float) -> str:
    """Format a number with three digits, or with five if it is close to 1."""
    if not math.isfinite(value):
        return ""
    if 0.99 < value < 1.02:  # of a decay rate, the difference to 1 matters
        return f"{value:.5g}"
    if value != 0 and not 1e-3 <= abs(value) < 1e4:
        digits, exponent = f"{value:.2e}".split("e")
        return f"{float(digits):g}e{int(exponent)}"
    return f"{value:.3g}"


def power(exponent: float) -> str:
    """Format a power of two as a factor, ``×4`` or ``÷4``."""
    return f"×{2**exponent:g}" if exponent >= 0 else f"÷{2**-exponent:g}"
