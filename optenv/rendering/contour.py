"""Losses around the path of two parameters."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from .. import core
from ..group import Group
from ..tasks import Function

__all__ = ["Surface", "minimizers", "surface", "window"]

#: Points of the grid in each direction.
POINTS = 91

#: Least half-width of the window.
LEAST = 0.25

#: Half-width of the window, relative to the half-width of the points that it shows.
PADDING = 1.3

#: Largest half-width of the window, relative to its first one. Diverging runs leave it.
LARGEST = 6.0


class Surface(NamedTuple):
    """Losses of a run on a grid.

    Attributes:
        extent: smallest and largest value of the first and of the second parameter.
        losses: ``[POINTS, POINTS]``; rows are values of the second parameter.
        minimizers: known minima, ``[M, 2]``.
    """

    extent: tuple[float, float, float, float]
    losses: np.ndarray
    minimizers: np.ndarray


def minimizers(group: Group, run: int) -> np.ndarray:
    """Return the known minima of a run, ``[M, 2]``; only test functions have some."""
    if not isinstance(group.task, Function):
        return np.empty((0, 2))
    return group.task.minimizers(group.data)[run].cpu().double().numpy()


def window(
    points: np.ndarray, smallest: float = LEAST, largest: float | None = None
) -> tuple[float, float, float, float]:
    """Return a square window around points.

    Args:
        points: ``[n, 2]``; points that are not finite are ignored.
        smallest: least half-width.
        largest: largest half-width, around the first of the points.

    Returns:
        Smallest and largest value in both directions.
    """
    points = points[np.isfinite(points).all(1)]
    low, high = points.min(0), points.max(0)
    middle, half = (low + high) / 2, max(smallest, PADDING * float((high - low).max()) / 2)
    if largest is not None and half > largest:
        middle, half = points[0], largest
    (x, y) = middle.tolist()
    return x - half, x + half, y - half, y + half


def surface(group: Group, run: int, extent: tuple[float, float, float, float]) -> Surface:
    """Compute the loss that a run's reward uses, on a grid of parameters.

    Args:
        group: group of runs with two parameters.
        run: index of the run in the group.
        extent: smallest and largest value of the first and of the second parameter.
    """
    # One run for each point of the grid, all with this run's examples.
    first, second = torch.linspace(*extent[:2], POINTS), torch.linspace(*extent[2:], POINTS)
    grid = torch.cartesian_prod(second, first).flip(-1).to(group.device, group.dtype)
    rows = torch.full((len(grid),), run, device=group.device)
    source = group.sources[0]
    limit = group.task.reward_examples
    examples = (
        group.data.train(limit) if source == "train" else group.data.validation(limit)
    )
    inputs, targets = (part[run].expand(len(grid), *part.shape[1:]) for part in examples)
    losses = core.evaluate(
        group.task,
        grid,
        (inputs, targets),
        group.data.of_runs(rows),
        group.state.run.buffers[rows],
        source=source,
    )
    values = losses.view(POINTS, POINTS).cpu().double().numpy()
    return Surface(extent, values, minimizers(group, run))
