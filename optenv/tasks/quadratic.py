"""Noisy quadratics, the tasks of the family ``quadratic``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..checks import positive_int
from .generated import Examples, GeneratedTask

__all__ = ["Quadratic", "sample_structure"]


@dataclass(frozen=True)
class Quadratic(GeneratedTask):
    r"""Mean of quadratics with a common curvature and scattered minima.

    :math:`f_i(\theta) = \frac12 \|\sqrt{h} \odot Q(\theta - x_i)\|^2` with :math:`x_i
    \sim N(x^*, \sigma^2 I)`, log-uniform curvatures :math:`h` and a random reflection
    :math:`Q` (so that coordinates are not the eigenvectors). The gradient noise is that of
    the batch. The condition number lies between 1 and 10,000, :math:`\sigma` between 0.01
    and 1. Compare the noisy quadratic model of Zhang et al. (2019).

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

    def examples(self, rng: np.random.Generator) -> Examples:
        total = self.num_train + self.num_validation
        scale = np.exp(rng.uniform(-2.0, 2.0))
        sigma = np.exp(rng.uniform(np.log(0.01), 0.0))
        condition = rng.uniform(0.0, np.log(1e4))
        roots = scale * np.exp(-0.5 * condition * rng.random(self.dim))
        normal = rng.standard_normal(self.dim)
        normal /= np.linalg.norm(normal)
        center = rng.standard_normal(self.dim, dtype=np.float32)
        noise = rng.standard_normal((total, self.dim), dtype=np.float32)
        curvature = np.stack([roots, normal]).astype(np.float32)
        inputs = center + np.float32(sigma) * noise
        return inputs, np.broadcast_to(curvature, (total, 2, self.dim))

    def init(self, generators: Sequence[np.random.Generator]) -> Tensor:
        draws = [g.standard_normal(self.dim, dtype=np.float32) for g in generators]
        return torch.from_numpy(np.stack(draws))

    def loss(self, params: tuple[Tensor, ...], inputs: Tensor, targets: Tensor) -> Tensor:
        roots, normal = targets.unbind(-2)
        offset = params[0].unsqueeze(1) - inputs
        offset = offset - 2 * (offset * normal).sum(-1, keepdim=True) * normal
        return 0.5 * (roots * offset).square().sum(-1).mean(-1)


def sample_structure(rng: np.random.Generator, split: str) -> Quadratic:
    """Draw a quadratic; the splits have different dimensions."""
    dims = {"train": (16, 32, 64), "test": (24, 48, 96)}[split]
    return Quadratic(
        batch_size=int(rng.choice((1, 4, 16))),
        num_train=int(rng.choice((256, 1024))),
        dim=int(rng.choice(dims)),
    )
