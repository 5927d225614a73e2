"""Whether runs are long enough, and not too long, for a fair comparison.

Where tuned AdamW has been better before the end than it is at the end, the network
overfits, and an optimizer wins by doing less. Lengths are meant to let it end within
:data:`TOLERANCE` of its best.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..arms.defaults import TUNED
from .results import Row

__all__ = ["TOLERANCE", "format_overshoots", "overshoots"]

#: Relative distance between the last validation loss and the lowest, at most.
TOLERANCE = 0.01


def overshoots(rows: Sequence[Row], arm: str = TUNED) -> dict[str, float]:
    """Validation loss at the end over the lowest of the run, less 1, by task.

    Both are of the mean curve over the seeds of ``arm``, in which the noise of one
    validation set does not make a minimum; a lowest loss of 0 counts as 1e-12.

    Raises:
        ValueError: there are no rows of ``arm``.
    """
    curves: dict[str, list[list[float]]] = {}
    for row in rows:
        if row["arm"] == arm:
            found = curves.setdefault(row["task"], [])
            found.append([loss for _, loss in row["curve"]])
    if not curves:
        raise ValueError(f"there are no rows of {arm!r}")
    means = {task: np.mean(found, axis=0) for task, found in curves.items()}
    return {
        task: float(mean[-1] / max(mean.min(), 1e-12) - 1.0) for task, mean in means.items()
    }


def format_overshoots(rows: Sequence[Row], arm: str = TUNED) -> str:
    """A line about the tasks whose runs end above their best, by more than is meant."""
    found = overshoots(rows, arm)
    late = {task: over for task, over in found.items() if over > TOLERANCE}
    text = (
        f"{arm} ends within {TOLERANCE:.0%} of its lowest validation loss on "
        f"{len(found) - len(late)} of {len(found)} tasks"
    )
    parts = ", ".join(f"{task} +{over:.1%}" for task, over in late.items())
    return f"{text}; above it: {parts}" if late else text
