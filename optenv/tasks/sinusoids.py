"""Sine waves to learn from a few points, in three variants of the literature."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from ..checks import known

__all__ = ["AMPLITUDE", "MAX_INPUT", "VARIANTS", "Variant", "sample_waves"]

#: Inputs lie in [-MAX_INPUT, MAX_INPUT].
MAX_INPUT = 5.0

#: Range of the amplitude in all variants.
AMPLITUDE = (0.1, 5.0)


class Variant(NamedTuple):
    """Ranges of the uniformly sampled constants of a wave, and its grids of inputs.

    Attributes:
        phase: range of the phase.
        frequency: range of the frequency.
        support_grid: number of evenly spaced inputs from which the support is sampled
            without repetition; None samples inputs uniformly.
        query_grid: number of evenly spaced inputs that make up the query; None samples
            ``queries`` inputs uniformly.
    """

    phase: tuple[float, float]
    frequency: tuple[float, float] = (1.0, 1.0)
    support_grid: int | None = None
    query_grid: int | None = None


#: ``maml``: Finn et al. (2017); ``meta-sgd``: Li et al. (2017); ``reptile``: Nichol et al.
#: (2018), whose inputs are 50 points. Errors are not comparable between variants.
VARIANTS: dict[str, Variant] = {
    "maml": Variant((0.0, math.pi)),
    "meta-sgd": Variant((0.0, math.pi), (0.8, 1.2), query_grid=100),
    "reptile": Variant((0.0, 2 * math.pi), support_grid=50, query_grid=50),
}


#: Inputs and targets ``[B, n]`` of ``B`` waves.
Points = tuple[np.ndarray, np.ndarray]


def sample_waves(
    variant: str, count: int, shots: int, queries: int, rng: np.random.Generator
) -> tuple[Points, Points]:
    """Sample points of random waves: some to learn from, and others to be evaluated on.

    Args:
        variant: key of :data:`VARIANTS`.
        count: number of waves, ``B``.
        shots: points of each to learn from, at most as many as the grid of the variant.
        queries: points of each for evaluation, unless the variant has a grid of them.
        rng: generator.

    Returns:
        Support ``[B, shots]`` and query ``[B, queries]``, float64.

    Raises:
        ValueError: the variant is unknown.
    """
    known("variant", variant, VARIANTS)
    chosen = VARIANTS[variant]
    # 1. The constants of each wave, [B, 1].
    amplitude, phase, frequency = (
        rng.uniform(*ends, (count, 1))
        for ends in (AMPLITUDE, chosen.phase, chosen.frequency)
    )
    # 2. Inputs of the support, [B, shots].
    if chosen.support_grid is None:
        support = rng.uniform(-MAX_INPUT, MAX_INPUT, (count, shots))
    else:
        order = rng.random((count, chosen.support_grid)).argsort(1)
        grid = np.linspace(-MAX_INPUT, MAX_INPUT, chosen.support_grid)
        support = grid[order[:, :shots]]
    # 3. Inputs of the query, [B, queries].
    if chosen.query_grid is None:
        query = rng.uniform(-MAX_INPUT, MAX_INPUT, (count, queries))
    else:
        grid = np.linspace(-MAX_INPUT, MAX_INPUT, chosen.query_grid)
        query = np.broadcast_to(grid, (count, chosen.query_grid))

    def points(inputs: np.ndarray) -> Points:
        return inputs, amplitude * np.sin(frequency * inputs + phase)

    return points(support), points(query)
