"""Regression of sine waves, in three variants of the literature."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from optenv.checks import known, positive_int
from optenv.tasks.sinusoids import VARIANTS, sample_waves

from .episodes import Episodes, Examples, Family


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

    The variants are from Finn et al. (2017), Li et al. (2017) and Nichol et al. (2018);
    errors are not comparable between variants.

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
        known("variant", self.variant, VARIANTS)
        positive_int("shots", self.shots)
        positive_int("queries", self.queries)
        grid_size = VARIANTS[self.variant].support_grid
        if grid_size is not None and self.shots > grid_size:
            raise ValueError(
                f"shots must be at most {grid_size} of variant {self.variant!r}, "
                f"got {self.shots!r}"
            )

    def sample(self, count: int, rng: np.random.Generator) -> Episodes:
        support, query = sample_waves(self.variant, count, self.shots, self.queries, rng)
        return Episodes(*(Examples(*map(_column, points)) for points in (support, query)))


def _column(values: np.ndarray) -> Tensor:
    """Return values ``[B, n]`` as a float32 tensor ``[B, n, 1]``."""
    return torch.from_numpy(values.astype(np.float32))[..., None]
