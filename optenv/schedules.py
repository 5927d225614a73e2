"""Base schedules of the learning rate: functions of the progress of a run in [0, 1]."""

from __future__ import annotations

import math
from collections.abc import Callable

__all__ = ["SCHEDULES"]


def _constant(progress: float) -> float:
    """Return 1."""
    return 1.0


def _cosine(progress: float) -> float:
    """Compute half a period of a cosine, from 1 to 0 (Loshchilov & Hutter, 2017)."""
    return 0.5 * (1.0 + math.cos(math.pi * min(max(progress, 0.0), 1.0)))


def _linear(progress: float) -> float:
    """Compute a straight line from 1 to 0."""
    return min(max(1.0 - progress, 0.0), 1.0)


def _wsd(progress: float) -> float:
    """Compute "warmup-stable-decay" without the warmup (Hu et al., 2024).

    It is 1, then decays linearly to 0 over the last 30 % of the run.
    """
    return min(1.0, max(1.0 - progress, 0.0) / 0.3)


#: Factor of the learning rate at a progress in [0, 1], by the name of the schedule.
SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": _constant,
    "cosine": _cosine,
    "wsd": _wsd,
    "linear": _linear,
}
