"""Sine waves to regress, in the three variants of the literature."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from optenv.checks import positive_int

from .episodes import Episodes, Examples, Family

#: Inputs lie in [-REACH, REACH].
REACH = 5.0


class Variant(NamedTuple):
    """Ranges that a wave's constants are drawn from uniformly, and where it is judged.

    Attributes:
        phase: of the phase; the amplitude's is (0.1, 5) in all variants.
        frequency: of the frequency.
        support_grid: how many evenly spaced inputs there are to draw the support from,
            without repetition; None draws them uniformly.
        query_grid: how many evenly spaced inputs are judged on, all of them; None draws as
            many as are asked for, uniformly.
    """

    phase: tuple[float, float]
    frequency: tuple[float, float] = (1.0, 1.0)
    support_grid: int | None = None
    query_grid: int | None = None


#: ``maml``: Finn et al. (2017); ``meta-sgd``: Li et al. (2017); ``reptile``: Nichol et al.
#: (2018), whose inputs are 50 points. Numbers of one are not comparable with another's.
VARIANTS: dict[str, Variant] = {
    "maml": Variant((0.0, math.pi)),
    "meta-sgd": Variant((0.0, math.pi), (0.8, 1.2), query_grid=100),
    "reptile": Variant((0.0, 2 * math.pi), support_grid=50, query_grid=50),
}


@dataclass(frozen=True)
class Sinusoids(Family):
    """Waves ``a sin(f x + b)``, targets ``[n, 1]`` without noise, judged by squared error.

    Attributes:
        shots: examples of the support.
        queries: examples of the query, where the variant has no grid of them.
        variant: a key of :data:`VARIANTS`.
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
        most = VARIANTS[self.variant].support_grid
        if most is not None and self.shots > most:
            raise ValueError(
                f"shots must be at most {most} of variant {self.variant!r}, "
                f"got {self.shots!r}"
            )

    def sample(self, count: int, rng: np.random.Generator) -> Episodes:
        own = VARIANTS[self.variant]
        amplitude, phase, frequency = (
            rng.uniform(*ends, (count, 1))
            for ends in ((0.1, 5.0), own.phase, own.frequency)
        )

        def examples(inputs: np.ndarray) -> Examples:
            targets = amplitude * np.sin(frequency * inputs + phase)
            return Examples(_column(inputs), _column(targets))

        if own.support_grid is None:
            support = rng.uniform(-REACH, REACH, (count, self.shots))
        else:
            order = rng.random((count, own.support_grid)).argsort(1)
            support = np.linspace(-REACH, REACH, own.support_grid)[order[:, : self.shots]]
        if own.query_grid is None:
            query = rng.uniform(-REACH, REACH, (count, self.queries))
        else:
            grid = np.linspace(-REACH, REACH, own.query_grid)
            query = np.broadcast_to(grid, (count, own.query_grid))
        return Episodes(examples(support), examples(query))


def _column(values: np.ndarray) -> Tensor:
    return torch.from_numpy(values.astype(np.float32))[..., None]
