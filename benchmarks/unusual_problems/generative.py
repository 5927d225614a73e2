"""Models of a distribution: autoencoders, flows, generators, scores and energies."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from .data import digits, moons, ring
from .problem import Problem, Run, normal, perceptron, rows_of, supervised, uniform

__all__ = ["GENERATIVE"]


def vae(generator: Generator) -> Run:
    """Train a variational autoencoder of the digits by its evidence bound."""
    inputs, targets, (others, _) = digits()
    encoder = perceptron(64, 64, 16, activation=nn.ReLU)
    decoder = perceptron(8, 64, 64, activation=nn.ReLU)
    sample = rows_of(generator, inputs, targets)

    def criterion(pictures: Tensor, noise: Tensor) -> Tensor:
        mean, log_variance = encoder(pictures).chunk(2, -1)
        code = mean + torch.exp(0.5 * log_variance) * noise
        entropy = F.binary_cross_entropy_with_logits(
            decoder(code), pictures, reduction="sum"
        )
        divergence = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum()
        return (entropy + divergence) / len(pictures)

    fixed = normal(generator, len(others), 8)
    return Run(
        lambda: [*encoder.parameters(), *decoder.parameters()],
        lambda step: criterion(sample(64)[0], normal(generator, 64, 8)),
        torch.no_grad()(lambda: criterion(others, fixed).item()),
    )


class Tied(nn.Module):
    """Autoencoder whose decoder is the transposed encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(64, 48), nn.Linear(48, 24)
        self.biases = nn.ParameterList([torch.zeros(48), torch.zeros(64)])

    def forward(self, pictures: Tensor) -> Tensor:
        code = torch.tanh(self.second(torch.tanh(self.first(pictures))))
        hidden = torch.tanh(F.linear(code, self.second.weight.T, self.biases[0]))
        return F.linear(hidden, self.first.weight.T, self.biases[1])


def tied(generator: Generator) -> Run:
    """Remove noise from digits by an autoencoder with tied weights."""
    inputs, targets, (others, _) = digits()
    rows = rows_of(generator, inputs, targets)

    def noisy(pictures: Tensor) -> tuple[Tensor, Tensor]:
        return pictures + 0.3 * torch.randn(pictures.shape, generator=generator), pictures

    return supervised(
        Tied(), F.mse_loss, lambda n: noisy(rows(n)[0]), 64, held_out=noisy(others)
    )


class Coupling(nn.Module):
    """Affine coupling of a plane (Dinh et al., 2017): one coordinate moves the other."""

    def __init__(self, first: int) -> None:
        super().__init__()
        self.first = first
        self.network = perceptron(1, 32, 2)

    def forward(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Return the moved points and the log-determinant of each."""
        kept, moved = points[:, [self.first]], points[:, [1 - self.first]]
        scale, shift = self.network(kept).chunk(2, -1)
        scale = 2 * torch.tanh(scale / 2)
        moved = moved * torch.exp(scale) + shift
        pair = [kept, moved] if self.first == 0 else [moved, kept]
        return torch.cat(pair, -1), scale[:, 0]


def flow(generator: Generator) -> Run:
    """Learn the density of two moons by six couplings, by the exact likelihood."""
    couplings = nn.ModuleList([Coupling(i % 2) for i in range(6)])

    def criterion(points: Tensor) -> Tensor:
        total = torch.zeros(len(points))
        for coupling in couplings:
            points, log_determinant = coupling(points)
            total = total + log_determinant
        log_normal = -0.5 * points.square().sum(-1) - math.log(2 * math.pi)
        return -(log_normal + total).mean()

    fixed = moons(generator, 1000)
    return Run(
        couplings.parameters,
        lambda step: criterion(moons(generator, 64)),
        torch.no_grad()(lambda: criterion(fixed).item()),
    )


def _mmd(a: Tensor, b: Tensor) -> Tensor:
    """Return the squared maximum mean discrepancy of two samples of the same size."""
    points = torch.cat([a, b])
    squares = (points[:, None] - points).square().sum(-1)
    kernel = sum(torch.exp(-squares / (2 * width**2)) for width in (0.2, 0.5, 1.0, 2.0))
    assert isinstance(kernel, Tensor)
    n = len(a)
    within = kernel[:n, :n].sum() + kernel[n:, n:].sum() - 8 * n  # without the diagonals
    return within / (n * (n - 1)) - 2 * kernel[:n, n:].mean()


def _generator_of_ring(generator: Generator, size: int, sliced: bool) -> Run:
    network = perceptron(4, 64, 64, 2, activation=nn.ReLU)

    def projected(points: Tensor, directions: Tensor) -> Tensor:
        return (points @ directions).sort(0).values

    def directions() -> Tensor:
        angles = uniform(generator, 32, high=math.pi)
        return torch.stack([torch.cos(angles), torch.sin(angles)])

    def criterion(noise: Tensor, points: Tensor, along: Tensor) -> Tensor:
        made = network(noise)
        if not sliced:
            return _mmd(made, points)
        return F.mse_loss(projected(made, along), projected(points, along))

    def drawn(n: int) -> tuple[Tensor, Tensor, Tensor]:
        return normal(generator, n, 4), ring(generator, n), directions()

    fixed = drawn(500)
    return Run(
        network.parameters,
        lambda step: criterion(*drawn(size)),
        torch.no_grad()(lambda: criterion(*fixed).item()),
    )


def mmd(generator: Generator) -> Run:
    """Move noise to eight Gaussians by the maximum mean discrepancy."""
    return _generator_of_ring(generator, 100, sliced=False)


def sliced_wasserstein(generator: Generator) -> Run:
    """Move noise to eight Gaussians by the Wasserstein distance of projections."""
    return _generator_of_ring(generator, 200, sliced=True)


def score(generator: Generator) -> Run:
    """Learn the noise on two moons at levels from 0.05 to 1 (denoising score matching)."""
    network = perceptron(3, 64, 64, 2, activation=nn.SiLU)

    def sample(n: int) -> tuple[Tensor, Tensor]:
        noise = normal(generator, n, 2)
        log_level = uniform(generator, n, 1, low=math.log(0.05), high=0.0)
        points = moons(generator, n) + torch.exp(log_level) * noise
        return torch.cat([points, log_level + 1.5], -1), noise

    return supervised(network, F.mse_loss, sample, 128, sample(4000))


def energy(generator: Generator) -> Run:
    """Learn an energy and its normaliser against Gaussian noise (Gutmann & Hyvärinen)."""
    network = perceptron(2, 64, 64, 1)
    log_normaliser = nn.Parameter(torch.zeros(()))

    def sample(n: int) -> tuple[Tensor, Tensor]:
        points = torch.cat([ring(generator, n // 2), 2 * normal(generator, n // 2, 2)])
        return points, torch.arange(n)[:, None] < n // 2

    def criterion(points: Tensor, real: Tensor) -> Tensor:
        log_noise = -points.square().sum(-1, keepdim=True) / 8 - math.log(8 * math.pi)
        logits = -network(points) - log_normaliser - log_noise
        return F.binary_cross_entropy_with_logits(logits, real.float())

    fixed = sample(2000)
    return Run(
        lambda: [*network.parameters(), log_normaliser],
        lambda step: criterion(*sample(128)),
        torch.no_grad()(lambda: criterion(*fixed).item()),
    )


GENERATIVE: tuple[Problem, ...] = (
    Problem("vae", "variational autoencoder of digits", 400, vae),
    Problem("tied", "denoising autoencoder with tied weights", 300, tied),
    Problem("flow", "RealNVP of two moons, exact likelihood", 300, flow),
    Problem("mmd", "generator by the maximum mean discrepancy", 300, mmd),
    Problem("sliced-wasserstein", "generator by sliced Wasserstein distances", 300,
            sliced_wasserstein),
    Problem("score", "denoising score matching of two moons", 400, score),
    Problem("energy", "energy-based model by noise contrast", 400, energy),
)  # fmt: skip
