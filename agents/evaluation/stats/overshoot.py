"""Overshoot: how far tuned AdamW ends above its lowest validation loss.

Where it has been better before the end than it is at the end, the network overfits, and an
optimizer wins by doing less. Lengths of runs are meant to let tuned AdamW end within
:data:`TOLERANCE` of its lowest loss.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ..row import TUNED, Row

__all__ = ["TOLERANCE", "overshoots"]

#: Greatest relative distance between the last validation loss and the lowest.
TOLERANCE = 0.01


def overshoots(rows: Sequence[Row], arm: str = TUNED) -> dict[str, float]:
    """Return the final validation loss over the lowest of the run, less 1, by task.

    Both are of the mean curve over the seeds of ``arm``, in which the noise of one
    validation set does not make a minimum. A lowest loss of 0 counts as 1e-12, and a final
    loss that is not finite as an infinite overshoot.

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
