"""Networks with unusual layers: very deep, quantised, adapted, generated or routed ones."""

from __future__ import annotations

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from .data import digits, pretrained, waves
from .problem import Problem, Run, normal, perceptron, rows_of, supervised, uniform

__all__ = ["DEPTH"]


def _digits(generator: Generator, model: nn.Module, size: int = 64) -> Run:
    inputs, targets, held_out = digits()
    sample = rows_of(generator, inputs, targets)
    return supervised(model, F.cross_entropy, sample, size, held_out)


def deep_tanh(generator: Generator) -> Run:
    """Classify digits by 30 plain layers with tanh, orthogonal at first."""
    model = perceptron(64, *[24] * 29, 10)
    for layer in model:
        if isinstance(layer, nn.Linear):
            nn.init.orthogonal_(layer.weight)
            nn.init.zeros_(layer.bias)
    return _digits(generator, model)


class Residual(nn.Module):
    """Perceptron with a skip connection, and without normalisation."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.branch = perceptron(width, width, width, activation=nn.ReLU)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)


def deep_residual(generator: Generator) -> Run:
    """Classify digits by twelve residual blocks without normalisation."""
    blocks = [Residual(24) for _ in range(12)]
    return _digits(generator, nn.Sequential(nn.Linear(64, 24), *blocks, nn.Linear(24, 10)))


class LowRank(nn.Module):
    """Frozen linear layer with a trained product of two thin matrices (Hu et al., 2022)."""

    def __init__(self, layer: nn.Linear, rank: int = 4) -> None:
        super().__init__()
        self.layer = layer.requires_grad_(False)
        self.down = nn.Parameter(torch.randn(rank, layer.in_features) / rank)
        self.up = nn.Parameter(torch.zeros(layer.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) + x @ self.down.T @ self.up.T


def low_rank(generator: Generator) -> Run:
    """Adapt a network for digits to mirrored digits by low-rank changes."""
    model = nn.Sequential(*[
        LowRank(layer) if isinstance(layer, nn.Linear) else layer
        for layer in pretrained(generator)
    ])  # fmt: skip

    def mirrored(pictures: Tensor) -> Tensor:
        return pictures.view(-1, 8, 8).flip(-1).flatten(1)

    inputs, targets, (others, labels) = digits()
    sample = rows_of(generator, mirrored(inputs), targets)
    held_out = mirrored(others), labels
    run = supervised(model, F.cross_entropy, sample, 64, held_out)
    run.parameters = lambda: [p for p in model.parameters() if p.requires_grad]
    return run


class Hypernetwork(nn.Module):
    """Network that makes the weights of a network with 16 hidden units."""

    def __init__(self) -> None:
        super().__init__()
        self.maker = perceptron(2, 32, 3 * 16 + 1, activation=nn.ReLU)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return outputs ``[n, 1]`` at ``inputs[:, 2]`` for the tasks ``inputs[:, :2]``."""
        made = self.maker(inputs[:, :2])
        inner, shift, outer = made[:, :48].chunk(3, -1)
        hidden = torch.tanh(5 * inner * inputs[:, 2:] + 3 * shift)
        return (hidden * outer).sum(-1, keepdim=True) + made[:, 48:]


def hypernetwork(generator: Generator) -> Run:
    """Fit sines of any amplitude and phase by a network whose weights are generated."""

    def sample(n: int) -> tuple[Tensor, Tensor]:
        x = uniform(generator, n, 3, low=-1)
        amplitude, phase, at = x.split(1, -1)
        return x, (1 + 0.5 * amplitude) * torch.sin(3 * at + 1.5 * phase)

    return supervised(Hypernetwork(), F.mse_loss, sample, 64)


class Mixture(nn.Module):
    """Four experts, of which each example uses the two that its gate prefers."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(2, 4)
        self.experts = nn.ModuleList([perceptron(2, 16, 1) for _ in range(4)])

    def forward(self, x: Tensor) -> Tensor:
        logits = self.gate(x)
        chosen = logits >= logits.topk(2).values[:, 1:]
        weights = logits.masked_fill(~chosen, -torch.inf).softmax(-1)
        outputs = torch.cat([expert(x) for expert in self.experts], -1)
        return (weights * outputs).sum(-1, keepdim=True)


def mixture_of_experts(generator: Generator) -> Run:
    """Fit another function in each quadrant by a sparse mixture of experts."""

    def sample(n: int) -> tuple[Tensor, Tensor]:
        x = uniform(generator, n, 2, low=-2, high=2)
        a, b = x.split(1, -1)
        right = torch.where(b > 0, torch.sin(3 * a), a - 2 * b - 1)
        left = torch.where(b > 0, a + b, torch.cos(2 * b) * a)
        return x, torch.where(a > 0, right, left)

    return supervised(Mixture(), F.mse_loss, sample, 64)


class Ternary(nn.Linear):
    """Linear layer with weights of three values; the gradient passes straight through."""

    def forward(self, x: Tensor) -> Tensor:
        size = self.weight.detach().abs()
        kept = size > 0.7 * size.mean()
        scale = size[kept].mean()
        rounded = self.weight.sign() * kept * scale
        weight = self.weight + (rounded - self.weight).detach()
        return F.linear(x, weight, self.bias)


def straight_through(generator: Generator) -> Run:
    """Classify digits with weights of three values."""
    return _digits(generator, nn.Sequential(Ternary(64, 64), nn.ReLU(), Ternary(64, 10)))


class _Spike(torch.autograd.Function):
    """Step function with the derivative of a fast sigmoid."""

    @staticmethod
    def forward(context, potential: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        context.save_for_backward(potential)
        return (potential > 0).float()

    @staticmethod
    def backward(context, gradient: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        (potential,) = context.saved_tensors
        return gradient / (1 + 5 * potential.abs()) ** 2


class Spiking(nn.Module):
    """Leaky neurons that fire within ten steps, and a readout of their rates."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.readout = nn.Linear(64, 64), nn.Linear(64, 10)

    def forward(self, pictures: Tensor) -> Tensor:
        current = self.hidden(pictures)
        potential, rate = torch.zeros_like(current), torch.zeros_like(current)
        for _ in range(10):
            potential = 0.8 * potential + current
            spikes = _Spike.apply(potential - 1)
            potential = potential - spikes.detach()
            rate = rate + spikes / 10
        return self.readout(rate)


def spiking(generator: Generator) -> Run:
    """Classify digits by spiking neurons with a surrogate derivative."""
    return _digits(generator, Spiking())


def batchnorm_table(generator: Generator) -> Run:
    """Predict from a table of 120 rows with BatchNorm, in batches of 16."""
    layers: list[nn.Module] = []
    for inputs in (10, 32):
        layers += [nn.Linear(inputs, 32), nn.BatchNorm1d(32), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Linear(32, 1))

    def table(n: int) -> tuple[Tensor, Tensor]:
        x = normal(generator, n, 10)
        y = x[:, :1] + 0.5 * waves(x[:, 1:4] / 2) + 0.1 * normal(generator, n, 1)
        return x, y

    rows, held_out = rows_of(generator, *table(120)), table(1000)
    run = supervised(model, F.mse_loss, rows, 16, held_out)

    def evaluate() -> float:
        model.eval()
        with torch.no_grad():
            value = F.mse_loss(model(held_out[0]), held_out[1]).item()
        model.train()
        return value

    run.evaluate = evaluate
    return run


DEPTH: tuple[Problem, ...] = (
    Problem("deep-tanh", "30 plain layers with tanh, no normalisation", 200, deep_tanh),
    Problem("deep-residual", "twelve residual blocks, no normalisation", 200,
            deep_residual),
    Problem("low-rank", "low-rank changes of a frozen network", 300, low_rank),
    Problem("hypernetwork", "network that makes the weights of another", 500,
            hypernetwork),
    Problem("mixture-of-experts", "four experts, two of them for each example", 400,
            mixture_of_experts),
    Problem("straight-through", "weights of three values, straight-through", 300,
            straight_through),
    Problem("spiking", "spiking neurons, surrogate derivative", 200, spiking),
    Problem("batchnorm-table", "BatchNorm on a table of 120 rows", 300, batchnorm_table),
)  # fmt: skip
