"""Losses that are likelihoods or scores of a distribution, and noise with heavy tails."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from .data import waves
from .problem import Problem, Run, normal, perceptron, supervised, uniform

__all__ = ["LIKELIHOODS"]


def gaussian_variance(generator: Generator) -> Run:
    """Learn mean and variance; the mean log-likelihood ends above zero."""

    def sample(n: int) -> tuple[Tensor, Tensor]:
        x = uniform(generator, n, 1, low=-2, high=2)
        deviation = 0.05 + 0.3 * torch.sigmoid(3 * x)
        return x, torch.sin(3 * x) + deviation * normal(generator, n, 1)

    def criterion(outputs: Tensor, y: Tensor) -> Tensor:
        mean, log_variance = outputs.chunk(2, -1)
        return 0.5 * (log_variance + (y - mean) ** 2 * torch.exp(-log_variance)).mean()

    return supervised(perceptron(1, 64, 64, 2), criterion, sample, 64)


def mixture_density(generator: Generator) -> Run:
    """Learn an inverse function of several branches as a mixture of five Gaussians."""

    def sample(n: int) -> tuple[Tensor, Tensor]:
        y = uniform(generator, n, 1)
        x = y + 0.3 * torch.sin(2 * math.pi * y) + 0.05 * normal(generator, n, 1)
        return 4 * x - 2, y

    def criterion(outputs: Tensor, y: Tensor) -> Tensor:
        weights, means, log_deviations = outputs.chunk(3, -1)
        z = (y - means) * torch.exp(-log_deviations)
        log_densities = -0.5 * z**2 - log_deviations - 0.5 * math.log(2 * math.pi)
        joint = torch.log_softmax(weights, -1) + log_densities
        return -torch.logsumexp(joint, -1).mean()

    return supervised(perceptron(1, 64, 15), criterion, sample, 64)


def quantile(generator: Generator) -> Run:
    """Learn three quantiles of skewed noise by the pinball loss."""
    levels = torch.tensor([0.1, 0.5, 0.9])

    def sample(n: int) -> tuple[Tensor, Tensor]:
        x = uniform(generator, n, 3, low=-1)
        noise = -torch.log(1 - uniform(generator, n, 1))
        return x, waves(x) + 0.5 * x[:, 1:2] ** 2 * noise

    def criterion(outputs: Tensor, y: Tensor) -> Tensor:
        error = y - outputs
        return torch.maximum(levels * error, (levels - 1) * error).mean()

    return supervised(perceptron(3, 64, 3), criterion, sample, 64)


def cox(generator: Generator) -> Run:
    """Learn the hazards of 800 patients, some of them censored (Cox, 1972)."""

    def patients(n: int) -> tuple[Tensor, Tensor]:
        """Return covariates and observed deaths, the longest time first."""
        x = normal(generator, n, 8)
        risk = 2 * torch.sin(x[:, 0]) + x[:, 1] * x[:, 2] + x[:, 3]
        times = -torch.log(1 - uniform(generator, n)) * torch.exp(-risk)
        ends = -3 * torch.log(1 - uniform(generator, n))
        order = torch.minimum(times, ends).argsort(descending=True)
        return x[order], (times < ends)[order]

    def criterion(outputs: Tensor, deaths: Tensor) -> Tensor:
        risk = outputs[:, 0]
        at_risk = torch.logcumsumexp(risk, 0)  # of all who live at least as long
        return -(risk - at_risk)[deaths].mean()

    study, others = patients(800), patients(800)
    return supervised(perceptron(8, 32, 1), criterion, lambda n: study, 800, others)


def poisson(generator: Generator) -> Run:
    """Learn the logarithm of the rate of counts."""

    def sample(n: int) -> tuple[Tensor, Tensor]:
        x = uniform(generator, n, 3, low=-1)
        return x, torch.poisson(torch.exp(1 + waves(x)), generator=generator)

    return supervised(perceptron(3, 32, 32, 1), nn.PoissonNLLLoss(), sample, 64)


def _heavy(
    generator: Generator,
    criterion: Callable[[Tensor, Tensor], Tensor],
    noise: Callable[[int], Tensor],
) -> Run:
    def sample(n: int) -> tuple[Tensor, Tensor]:
        x = uniform(generator, n, 3, low=-1)
        return x, waves(x) + 0.3 * noise(n)

    x = uniform(generator, 1000, 3, low=-1)
    return supervised(perceptron(3, 64, 1), criterion, sample, 64, (x, waves(x)))


def cauchy(generator: Generator) -> Run:
    """Learn a median under Cauchy noise by the absolute error; judged without noise."""

    def noise(n: int) -> Tensor:
        return torch.tan(math.pi * (uniform(generator, n, 1) - 0.5))

    return _heavy(generator, F.l1_loss, noise)


def infinite_variance(generator: Generator) -> Run:
    """Learn a mean by squares under Student noise, 2 degrees; judged without noise."""

    def noise(n: int) -> Tensor:
        chi = -torch.log(1 - uniform(generator, n, 1))  # half of a chi-square
        return normal(generator, n, 1) / chi.sqrt()

    return _heavy(generator, F.mse_loss, noise)


def ctc(generator: Generator) -> Run:
    """Read four symbols off 20 noisy frames that are not aligned with them."""
    symbols, length, frames = 6, 4, 20
    codes = torch.cat([torch.zeros(1, 8), normal(generator, symbols, 8)])
    model = nn.Sequential(
        nn.Conv1d(8, 32, 5, padding=2), nn.ReLU(), nn.Conv1d(32, symbols + 1, 3, padding=1)
    )

    def sample(n: int) -> tuple[Tensor, Tensor]:
        labels = torch.randint(1, symbols + 1, (n, length), generator=generator)
        ends = torch.randint(3, 6, (n, length), generator=generator).cumsum(1)
        times = torch.arange(frames).expand(n, frames).contiguous()
        segment = torch.searchsorted(ends, times, right=True)
        # The last frame of each symbol is silent, so that equal symbols stay apart.
        silent = (times[:, :, None] == ends[:, None] - 1).any(-1)
        padded = F.pad(labels, (0, 1))
        played = padded.gather(1, segment).masked_fill(silent, 0)
        noise = 0.5 * normal(generator, n, frames, 8)
        return (codes[played] + noise).transpose(1, 2), labels

    def criterion(outputs: Tensor, labels: Tensor) -> Tensor:
        n = len(labels)
        log_probabilities = outputs.permute(2, 0, 1).log_softmax(-1)
        return F.ctc_loss(
            log_probabilities, labels, torch.full((n,), frames), torch.full((n,), length)
        )

    return supervised(model, criterion, sample, 32, sample(300))


def learned_weights(generator: Generator) -> Run:
    """Learn two regressions weighted by learned variances (Kendall et al., 2018)."""
    model = perceptron(3, 64, 2)
    log_variances = nn.Parameter(torch.zeros(2))
    deviations = torch.tensor([0.02, 0.5])

    def sample(n: int) -> tuple[Tensor, Tensor]:
        x = uniform(generator, n, 3, low=-1)
        y = torch.cat([waves(x), waves(x.flip(-1))], -1)
        return x, y + deviations * normal(generator, n, 2)

    def criterion(outputs: Tensor, y: Tensor) -> Tensor:
        squares = ((outputs - y) ** 2).mean(0)
        return 0.5 * (squares * torch.exp(-log_variances) + log_variances).sum()

    run = supervised(model, criterion, sample, 64)
    run.parameters = lambda: [*model.parameters(), log_variances]
    return run


def gaussian_process(generator: Generator) -> Run:
    """Learn seven hyperparameters of a Gaussian process by its marginal likelihood."""
    n, inputs = 60, 5
    x = uniform(generator, n, inputs, low=-1)
    noise = 0.1 * normal(generator, n)
    y = torch.sin(2 * x[:, 0]) + x[:, 1] ** 2 + noise
    y = (y - y.mean()) / y.std()
    log_lengths = nn.Parameter(torch.zeros(inputs))
    log_amplitude = nn.Parameter(torch.zeros(()))
    log_noise = nn.Parameter(torch.zeros(()))

    def loss(step: int) -> Tensor:
        scaled = x * torch.exp(-log_lengths)
        squares = ((scaled[:, None] - scaled) ** 2).sum(-1)
        kernel = torch.exp(2 * log_amplitude - 0.5 * squares)
        jitter = (torch.exp(2 * log_noise) + 1e-4) * torch.eye(n)
        factor = torch.linalg.cholesky(kernel + jitter)
        z = torch.linalg.solve_triangular(factor, y[:, None], upper=False)
        return (0.5 * z.square().sum() + factor.diagonal().log().sum()) / n

    return Run(
        lambda: [log_lengths, log_amplitude, log_noise],
        loss,
        torch.no_grad()(lambda: loss(0).item()),
    )


LIKELIHOODS: tuple[Problem, ...] = (
    Problem("gaussian-variance", "Gaussian likelihood with a learned variance, below zero",
            500, gaussian_variance),
    Problem("mixture-density", "inverse function by a mixture of five Gaussians",
            500, mixture_density),
    Problem("quantile", "three quantiles by the pinball loss", 400, quantile),
    Problem("cox", "hazards of 800 patients by Cox's partial likelihood, full batch",
            300, cox),
    Problem("poisson", "counts by the Poisson likelihood", 400, poisson),
    Problem("cauchy", "absolute error under Cauchy noise", 500, cauchy),
    Problem("infinite-variance", "squared error under noise of infinite variance",
            500, infinite_variance),
    Problem("ctc", "unaligned symbols in noisy frames by CTC", 300, ctc),
    Problem("learned-weights", "two regressions, weighted by learned variances",
            500, learned_weights),
    Problem("gaussian-process", "hyperparameters of a Gaussian process, no batches",
            400, gaussian_process),
)  # fmt: skip
