"""Windows: the updates between two control steps.

A run of known length is split into a number of windows that does not depend on its length.
In a run of unknown length, windows begin at fixed updates.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from .checks import is_number, quoted

__all__ = [
    "MAX_SPACING",
    "MAX_UPDATES",
    "Boundaries",
    "boundaries",
    "check_spacing",
    "lazy_boundaries",
    "opens_window",
]

#: Largest spacing: half of the control steps fall into the first thousandth of a run.
MAX_SPACING = 10.0

#: Largest number of updates of a run of an environment. With at most 2^20 examples in a
#: batch, 64 bits can count the examples of a run.
MAX_UPDATES = 2**40

#: Number of control steps up to which the boundaries of a run are kept in an array.
_KEPT = 2**16


def check_spacing(spacing: float) -> float:
    """Return ``spacing`` as a float.

    Raises:
        ValueError: it is not a number in ``[1, MAX_SPACING]``.
    """
    if not is_number(spacing) or not 1.0 <= spacing <= MAX_SPACING:
        raise ValueError(f"spacing must lie in [1, {MAX_SPACING:g}], got {quoted(spacing)}")
    return float(spacing)


def boundaries(total_updates: int, horizon: int, spacing: float = 1.0) -> np.ndarray:
    """Split a run into windows of updates, one per control step.

    Control step ``i`` starts before update ``b[i]`` and lasts up to update ``b[i + 1]``,
    with ``b[i]`` about ``total_updates * (i / horizon) ** spacing``. A spacing of 1.0 gives
    equal windows. Larger values give shorter windows early in the run, where a wrong
    learning rate must be corrected soon.

    Args:
        total_updates: length of the run in updates, at least 1.
        horizon: number of control steps. A run of fewer updates than that gets one
            control step per update.
        spacing: exponent of the boundaries, from 1.0 to :data:`MAX_SPACING`.

    Returns:
        Increasing int64 array of ``min(horizon, total_updates) + 1`` update counts; the
        first is 0, the last ``total_updates``.

    Raises:
        ValueError: an argument is out of its range.
    """
    steps = _number_of_steps(total_updates, horizon, spacing)
    found = _at(np.arange(steps + 1), total_updates, steps, spacing)
    return np.maximum.accumulate(found)


def lazy_boundaries(
    total_updates: int, horizon: int, spacing: float = 1.0
) -> np.ndarray | Boundaries:
    """Return the boundaries of :func:`boundaries`; for many control steps, on demand.

    This way, the memory that a run needs does not grow with its horizon.

    Args:
        total_updates, horizon, spacing: see :func:`boundaries`.

    Raises:
        ValueError: an argument is out of its range.
    """
    steps = _number_of_steps(total_updates, horizon, spacing)
    if steps <= _KEPT:
        return boundaries(total_updates, horizon, spacing)
    return Boundaries(total_updates, steps, spacing)


class Boundaries:
    """Sequence equal to the array of :func:`boundaries`, computed on demand.

    Args:
        total_updates: length of the run in updates.
        steps: number of control steps.
        spacing: see :func:`boundaries`.

    Example:
        >>> from optenv.windows import Boundaries
        >>> int(Boundaries(10**10, 10**9)[-1])
        10000000000
    """

    def __init__(self, total_updates: int, steps: int, spacing: float = 1.0) -> None:
        self._total, self._steps, self._spacing = total_updates, steps, spacing

    def __len__(self) -> int:
        return self._steps + 1

    def __getitem__(self, index: Any) -> Any:
        """Return the boundary at an index, or an int64 array for an array of indices.

        Raises:
            IndexError: an index is out of range.
        """
        places = np.atleast_1d(np.asarray(index))
        if ((places >= len(self)) | (places < -len(self))).any():
            raise IndexError(f"index must be below {len(self)}, got {index!r}")
        places = np.where(places < 0, places + len(self), places)
        found = _at(places, self._total, self._steps, self._spacing)
        return found if np.ndim(index) else found[0]

    def __iter__(self) -> Iterator[int]:
        """Yield all boundaries in order."""
        for begin in range(0, len(self), _KEPT):
            yield from self[np.arange(begin, min(begin + _KEPT, len(self)))].tolist()


def _number_of_steps(total_updates: int, horizon: int, spacing: float) -> int:
    """Return the number of control steps of a run.

    Raises:
        ValueError: an argument is out of its range.
    """
    if total_updates < 1:
        raise ValueError(f"total_updates must be at least 1, got {total_updates!r}")
    if horizon < 1:
        raise ValueError(f"horizon must be at least 1, got {horizon!r}")
    check_spacing(spacing)
    return min(horizon, total_updates)


def _at(index: np.ndarray, total_updates: int, steps: int, spacing: float) -> np.ndarray:
    """Compute the boundaries before control steps ``index [n]``."""
    ideal = np.rint(total_updates * (index / steps) ** spacing).astype(np.int64)
    # Each window gets at least one update; early ones of a short run would be empty.
    return np.maximum(ideal, index)


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
