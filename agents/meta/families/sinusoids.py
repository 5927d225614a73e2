"""Regression of sine waves, in three variants of the literature."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from optenv.checks import positive_int

from .episodes import Episodes, Examples, Family

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
        query_grid: number of evenly spaced inputs that make up the query; None samples as
            many as the family's ``queries``, uniformly.
    """

    phase: tuple[float, float]
    frequency: tuple[float, float] = (1.0, 1.0)
    support_grid: int | None = None
    query_grid: int | None = None


#: ``maml``: Finn et al. (2017); ``meta-sgd``: Li et al. (2017); ``reptile``: Nichol et al.
#: (2018), whose inputs are 50 points. Errors of one are not comparable with another's.
VARIANTS: dict[str, Variant] = {
    "maml": Variant((0.0, math.pi)),
    "meta-sgd": Variant((0.0, math.pi), (0.8, 1.2), query_grid=100),
    "reptile": Variant((0.0, 2 * math.pi), support_grid=50, query_grid=50),
}


@dataclass(frozen=True)
class Sinusoids(Family):
    r"""Noise-free sine waves :math:`y = a \sin(f x + b)`, with the mean squared error.

    Tasks have float32 inputs and targets ``[B, shots, 1]`` in the support and ``[B,
    queries, 1]`` in the query. Inputs are in [-5, 5] and amplitudes in [0.1, 5].

    ========== ============= ============= ================ ====================
    variant    phase         frequency     support          query
    ========== ============= ============= ================ ====================
    maml       [0, pi]       1             uniform          uniform
    meta-sgd   [0, pi]       [0.8, 1.2]    uniform          100 points of a grid
    reptile    [0, 2 pi]     1             of a grid of 50  50 points of a grid
    ========== ============= ============= ================ ====================

    The variants are those of Finn et al. (2017), Li et al. (2017) and Nichol et al. (2018);
    errors of one are not comparable with another's.

    Attributes:
        shots: examples in the support.
        queries: examples in the query, unless the variant has a grid of them.
        variant: ``"maml"``, ``"meta-sgd"`` or ``"reptile"``.

    Raises:
        ValueError: the variant is unknown, a number is not positive, or ``shots`` exceeds
            the grid of the support.

    Example:
        >>> import numpy as np
        >>> support, query = Sinusoids(shots=5).sample(3, np.random.default_rng(0))
        >>> support.inputs.shape, query.targets.shape
        (torch.Size([3, 5, 1]), torch.Size([3, 10, 1]))
    """

    shots: int = 10
    queries: int = 10
    variant: str = "maml"
    loss = "mse"

    def __post_init__(self) -> None:
        if self.variant not in VARIANTS:
            raise ValueError(
                f"unknown variant {self.variant!r}; valid: {', '.join(VARIANTS)}"
            )
        positive_int("shots", self.shots)
        positive_int("queries", self.queries)
        grid_size = VARIANTS[self.variant].support_grid
        if grid_size is not None and self.shots > grid_size:
            raise ValueError(
                f"shots must be at most {grid_size} of variant {self.variant!r}, "
                f"got {self.shots!r}"
            )

    def sample(self, count: int, rng: np.random.Generator) -> Episodes:
        # 1. The constants of each wave, [B, 1].
        variant = VARIANTS[self.variant]
        amplitude, phase, frequency = (
            rng.uniform(*ends, (count, 1))
            for ends in (AMPLITUDE, variant.phase, variant.frequency)
        )

        def examples(inputs: np.ndarray) -> Examples:
            targets = amplitude * np.sin(frequency * inputs + phase)
            return Examples(_column(inputs), _column(targets))

        # 2. Inputs of the support, [B, shots].
        if variant.support_grid is None:
            support = rng.uniform(-MAX_INPUT, MAX_INPUT, (count, self.shots))
        else:
            order = rng.random((count, variant.support_grid)).argsort(1)
            grid = np.linspace(-MAX_INPUT, MAX_INPUT, variant.support_grid)
            support = grid[order[:, : self.shots]]
        # 3. Inputs of the query, [B, queries].
        if variant.query_grid is None:
            query = rng.uniform(-MAX_INPUT, MAX_INPUT, (count, self.queries))
        else:
            grid = np.linspace(-MAX_INPUT, MAX_INPUT, variant.query_grid)
            query = np.broadcast_to(grid, (count, variant.query_grid))
        return Episodes(examples(support), examples(query))


def _column(values: np.ndarray) -> Tensor:
    """Return values ``[B, n]`` as a float32 tensor ``[B, n, 1]``."""
    return torch.from_numpy(values.astype(np.float32))[..., None]
