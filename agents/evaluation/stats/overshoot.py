"""Overshoot: how far tuned AdamW ends above its lowest validation loss.

If its loss was lower before the end, the network overfits, and an optimizer wins by
training less. The lengths of runs are chosen so that tuned AdamW ends within
:data:`TOLERANCE` of its lowest loss.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ..row import TUNED, Row

__all__ = ["TOLERANCE", "overshoots"]

#: Largest relative difference between the last and the lowest validation loss.
TOLERANCE = 0.01


def overshoots(rows: Sequence[Row], arm: str = TUNED) -> dict[str, float]:
    """Return the final validation loss divided by the lowest, minus 1, by task.

    Both are from the mean curve over the seeds of ``arm``, so that the noise of a single
    validation set makes no minimum. A lowest loss of 0 counts as 1e-12; a final loss that
    is not finite gives an infinite overshoot.

    Raises:
        ValueError: there are no rows of ``arm``.
    """
    curves: dict[str, list[list[float]]] = {}
    for row in rows:
        if row["arm"] == arm:
            losses = [loss for _, loss in row["curve"]]
            curves.setdefault(row["task"], []).append(losses)
    if not curves:
        raise ValueError(f"there are no rows of {arm!r}")
    means = {task: np.mean(losses, axis=0) for task, losses in curves.items()}
    return {
        task: float(mean[-1] / max(mean.min(), 1e-12) - 1.0)
        if math.isfinite(mean[-1])
        else math.inf
        for task, mean in means.items()
    }
