"""Windows: the updates between two control steps.

A run of known length is split into a fixed number of windows, whatever its length. In a run
of unknown length, windows begin at fixed updates.
"""

from __future__ import annotations

import numpy as np

from .checks import is_number

__all__ = ["MAX_SPACING", "boundaries", "check_spacing", "opens_window"]

#: Largest spacing: half of the control steps fall into the first thousandth of a run.
MAX_SPACING = 10.0


def check_spacing(spacing: float) -> float:
    """Return ``spacing`` as a float.

    Raises:
        ValueError: it is no number in ``[1, MAX_SPACING]``.
    """
    if not is_number(spacing) or not 1.0 <= spacing <= MAX_SPACING:
        raise ValueError(f"spacing must lie in [1, {MAX_SPACING:g}], got {spacing!r}")
    return float(spacing)


def boundaries(total_updates: int, horizon: int, spacing: float = 1.0) -> np.ndarray:
    """Split a run into windows of updates, one per control step.

    Control step ``i`` starts before update ``b[i]`` and holds up to ``b[i + 1]``, with
    ``b[i]`` about ``total_updates * (i / horizon) ** spacing``. A spacing of 1.0 gives
    equal windows. Larger values give shorter windows early in the run, where a wrong
    learning rate must be corrected soon.

    Args:
        total_updates: length of the run in updates, at least 1.
        horizon: number of control steps. A run of fewer updates than that gets one
            control step per update.
        spacing: at least 1.0, at most :data:`MAX_SPACING`.

    Returns:
        Increasing int64 array of ``min(horizon, total_updates) + 1`` update counts; the
        first is 0, the last ``total_updates``.

    Raises:
        ValueError: an argument is out of its range.
    """
    if total_updates < 1:
        raise ValueError(f"total_updates must be at least 1, got {total_updates!r}")
    if horizon < 1:
        raise ValueError(f"horizon must be at least 1, got {horizon!r}")
    check_spacing(spacing)
    steps = min(horizon, total_updates)
    index = np.arange(steps + 1)
    ideal = np.rint(total_updates * (index / steps) ** spacing).astype(np.int64)
    # Early windows would be empty in a short run: each gets at least one update.
    return np.maximum.accumulate(np.maximum(ideal, index))


def opens_window(update: int, spacing: float = 1.0) -> bool:
    """Return whether a control step starts now, in a run of unknown length.

    Control step ``i`` starts before update ``i ** spacing``, rounded. These are the windows
    of :func:`boundaries` for a run of ``horizon ** spacing`` updates, continued beyond it.

    Args:
        update: number of updates done, at least 0.
        spacing: see :func:`boundaries`.

    Raises:
        ValueError: an argument is out of its range.
    """
    if update < 0:
        raise ValueError(f"update must be at least 0, got {update!r}")
    nearest = round(update ** (1 / check_spacing(spacing)))
    candidates = range(max(0, nearest - 1), nearest + 2)
    return any(round(i**spacing) == update for i in candidates)
