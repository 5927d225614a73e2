"""Noisy quadratics, the tasks of the family ``quadratic``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..checks import positive_int
from .generated import Examples, GeneratedTask

__all__ = ["PowerLawQuadratic", "Quadratic", "sample_structure"]


@dataclass(frozen=True)
class Quadratic(GeneratedTask):
    r"""Mean of quadratics with a common curvature and scattered minima.

    :math:`f_i(\theta) = \frac12 \|\sqrt{h} \odot Q(\theta - x_i)\|^2` with :math:`x_i
    \sim N(x^*, \sigma^2 I)`, log-uniform curvatures :math:`h` and a random reflection
    :math:`Q` (so that the eigenvectors are not the coordinate axes). The gradient noise
    comes from the choice of the batch. The condition number lies between 1 and 10,000,
    :math:`\sigma` between 0.01 and 1. Compare the noisy quadratic model of Zhang et al.
    (2019).

    Attributes:
        dim: number of parameters.
    """

    dim: int = 32

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "dim", positive_int("dim", self.dim))

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        return ((self.dim,),)

    @property
    def example_numbers(self) -> int:
        return 3 * self.dim

    def examples(self, rng: np.random.Generator) -> Examples:
        total = self.num_train + self.num_validation
        scale = np.exp(rng.uniform(-2.0, 2.0))
        sigma = np.exp(rng.uniform(np.log(0.01), 0.0))
        roots = scale * self._roots(rng)
        normal = rng.standard_normal(self.dim)
        normal /= np.linalg.norm(normal)
        center = rng.standard_normal(self.dim, dtype=np.float32)
        noise = self._noise(rng, total)
        curvature = np.stack([roots, normal]).astype(np.float32)
        inputs = center + np.float32(sigma) * noise
        return inputs, np.broadcast_to(curvature, (total, 2, self.dim))

    def _roots(self, rng: np.random.Generator) -> np.ndarray:
        """Draw square roots of the curvatures, up to a factor, ``[dim]``."""
        condition = rng.uniform(0.0, np.log(1e4))
        roots: np.ndarray = np.exp(-0.5 * condition * rng.random(self.dim))
        return roots

    def _noise(self, rng: np.random.Generator, total: int) -> np.ndarray:
        """Draw distances of the minima from the center, ``[total, dim]`` float32."""
        return rng.standard_normal((total, self.dim), dtype=np.float32)

    def init(self, generators: Sequence[np.random.Generator]) -> Tensor:
        draws = [g.standard_normal(self.dim, dtype=np.float32) for g in generators]
        return torch.from_numpy(np.stack(draws))

    def loss(self, params: tuple[Tensor, ...], inputs: Tensor, targets: Tensor) -> Tensor:
        roots, normal = targets.unbind(-2)
        offset = params[0].unsqueeze(1) - inputs
        offset = offset - 2 * (offset * normal).sum(-1, keepdim=True) * normal
        return 0.5 * (roots * offset).square().sum(-1).mean(-1)


@dataclass(frozen=True)
class PowerLawQuadratic(Quadratic):
    r"""Mean of quadratics whose curvatures fall by a power law, with outliers.

    The :math:`k`-th curvature is proportional to :math:`k^{-a}`, with :math:`a` between 0.5
    and 2. Minima are scattered by a multivariate :math:`t` distribution of three degrees
    of freedom, scaled to the variance :math:`\sigma^2`. The rest is as in
    :class:`Quadratic`.
    """

    def _roots(self, rng: np.random.Generator) -> np.ndarray:
        exponent = rng.uniform(0.5, 2.0)
        roots: np.ndarray = np.arange(1.0, self.dim + 1) ** (-0.5 * exponent)
        return roots

    def _noise(self, rng: np.random.Generator, total: int) -> np.ndarray:
        spread = 1.0 / np.sqrt(rng.chisquare(3, (total, 1)))
        return super()._noise(rng, total) * spread.astype(np.float32)


def sample_structure(rng: np.random.Generator, split: str) -> Quadratic:
    """Draw a quadratic; the splits have different dimensions.

    Structures of ``"ood"`` have another spectrum, other noise and other batch sizes.
    """
    dims = {"train": (16, 32, 64), "test": (24, 48, 96), "ood": (12, 40, 80)}[split]
    kind, sizes = Quadratic, (1, 4, 16)
    if split == "ood":
        kind, sizes = PowerLawQuadratic, (2, 8, 32)
    return kind(
        batch_size=int(rng.choice(sizes)),
        num_train=int(rng.choice((256, 1024))),
        dim=int(rng.choice(dims)),
    )
