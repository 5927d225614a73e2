"""Networks of unusual structure: graphs, sets, fixed points, dynamics, functions."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from .data import picture
from .problem import Problem, Run, normal, perceptron, rows_of, supervised, uniform

__all__ = ["STRUCTURES"]


class Messages(nn.Module):
    """Three rounds of messages between the neighbours of a graph."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.embed = nn.Linear(1, width)
        self.own = nn.ModuleList([nn.Linear(width, width) for _ in range(3)])
        self.others = nn.ModuleList([nn.Linear(width, width, False) for _ in range(3)])
        self.readout = nn.Linear(width, 1)

    def forward(self, graphs: Tensor) -> Tensor:
        """Return logits ``[n, nodes]`` of graphs ``[n, nodes, nodes + 1]``.

        The last column marks nodes, the others are the edges.
        """
        edges, marks = graphs[..., :-1], graphs[..., -1:]
        state = self.embed(marks)
        for own, others in zip(self.own, self.others, strict=True):
            state = state + F.relu(own(state) + others(edges @ state))
        return self.readout(state)[..., 0]


def graph(generator: Generator) -> Run:
    """Find the nodes at most two edges away from at least two of four marked nodes."""
    nodes = 12

    def sample(n: int) -> tuple[Tensor, Tensor]:
        drawn = torch.rand(n, nodes, nodes, generator=generator) < 0.15
        upper = drawn.float().triu(1)
        edges = upper + upper.transpose(1, 2)
        ranks = torch.rand(n, nodes, 1, generator=generator).argsort(1)
        marks = (ranks < 4).float()
        steps = edges + torch.eye(nodes)
        near = ((steps @ steps) > 0).float() @ marks
        return torch.cat([edges, marks], -1), (near[..., 0] >= 2).float()

    return supervised(Messages(), F.binary_cross_entropy_with_logits, sample, 16)


class Equilibrium(nn.Module):
    """Fixed point of a layer, differentiated implicitly (Bai et al., 2019)."""

    def __init__(self, inputs: int, width: int, outputs: int, iterations: int = 15) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(width, width, False), nn.Linear(inputs, width)
        self.readout = nn.Linear(width, outputs)
        self.iterations = iterations

    def forward(self, x: Tensor) -> Tensor:
        drive, weight = self.outer(x), self.inner.weight
        # Of norm 0.9 at most, so that there is one fixed point and iterations reach it.
        norm = torch.linalg.matrix_norm(weight, 2)
        weight = weight * (0.9 / norm).clamp(max=1.0)
        with torch.no_grad():
            state = torch.zeros_like(drive)
            for _ in range(self.iterations):
                state = torch.tanh(state @ weight.T + drive)
        if not torch.is_grad_enabled():
            return self.readout(state)
        point = torch.tanh(state @ weight.T + drive)
        slope = 1 - point.detach() ** 2
        fixed = weight.detach()

        def implicit(gradient: Tensor) -> Tensor:
            total = gradient
            for _ in range(self.iterations):
                total = gradient + (total * slope) @ fixed
            return total

        point.register_hook(implicit)
        return self.readout(point)


def equilibrium(generator: Generator) -> Run:
    """Fit a function of five inputs by the fixed point of a layer."""

    def sample(n: int) -> tuple[Tensor, Tensor]:
        x = normal(generator, n, 5)
        return x, torch.sin(x[:, :1] + x[:, 1:2]) + 0.5 * x[:, 2:3] * x[:, 3:4].tanh()

    return supervised(Equilibrium(5, 32, 1), F.mse_loss, sample, 64)


class Dynamics(nn.Module):
    """Euler steps along a learned field; returns the whole trajectory."""

    def __init__(self, steps: int, length: float) -> None:
        super().__init__()
        self.field = perceptron(2, 32, 2)
        self.steps, self.length = steps, length

    def forward(self, start: Tensor) -> Tensor:
        states = [start]
        for _ in range(self.steps):
            states.append(states[-1] + self.length * self.field(states[-1]))
        return torch.stack(states[1:], 1)


def neural_ode(generator: Generator) -> Run:
    """Learn the field of a damped pendulum from trajectories of ten points."""
    steps, length, fine = 10, 0.2, 20

    def sample(n: int) -> tuple[Tensor, Tensor]:
        state = uniform(generator, n, 2, low=-2, high=2)
        start, states = state, []
        for i in range(steps * fine):
            angle, speed = state.unbind(-1)
            change = torch.stack([speed, -2 * torch.sin(angle) - 0.3 * speed], -1)
            state = state + length / fine * change
            if (i + 1) % fine == 0:
                states.append(state)
        return start, torch.stack(states, 1)

    rows = rows_of(generator, *sample(1000))
    return supervised(Dynamics(steps, length), F.mse_loss, rows, 32, sample(500))


def factorisation(generator: Generator) -> Run:
    """Complete a matrix of rank three, of which 40 % is known, by embeddings."""
    users, items, rank = 150, 80, 6
    truth = 0.6 * normal(generator, users, 3) @ normal(generator, 3, items)
    truth = truth + 0.1 * normal(generator, users, items)
    left, right = nn.Embedding(users, rank), nn.Embedding(items, rank)
    for table in (left, right):
        nn.init.normal_(table.weight, std=0.5)
    pairs = torch.cartesian_prod(torch.arange(users), torch.arange(items))
    pairs = pairs[torch.randperm(len(pairs), generator=generator)]
    values = truth[pairs[:, 0], pairs[:, 1]]
    cut = 2 * len(pairs) // 5
    sample = rows_of(generator, pairs[:cut], values[:cut])

    def criterion(pair: Tensor, value: Tensor) -> Tensor:
        return F.mse_loss((left(pair[:, 0]) * right(pair[:, 1])).sum(-1), value)

    return Run(
        lambda: [left.weight, right.weight],
        lambda step: criterion(*sample(512)),
        torch.no_grad()(lambda: criterion(pairs[cut:], values[cut:]).item()),
    )


class Pooling(nn.Module):
    """Attention of one learned query over the elements of a set."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.embed = perceptron(2, width, width, activation=nn.ReLU)
        self.query = nn.Parameter(torch.randn(width) / width)
        self.readout = perceptron(width, width, 1, activation=nn.ReLU)

    def forward(self, sets: Tensor) -> Tensor:
        elements = self.embed(sets)
        weights = torch.softmax(elements @ self.query, -1)
        return self.readout((weights[..., None] * elements).sum(1))


def set_attention(generator: Generator) -> Run:
    """Return the value of the element with the largest key, out of eight."""

    def sample(n: int) -> tuple[Tensor, Tensor]:
        sets = normal(generator, n, 8, 2)
        largest = sets[..., 1].argmax(-1)
        return sets, sets[torch.arange(n), largest, :1]

    return supervised(Pooling(), F.mse_loss, sample, 64)


class Sine(nn.Module):
    """Linear layer with a sine, and its initialisation (Sitzmann et al., 2020)."""

    def __init__(self, inputs: int, outputs: int, frequency: float, first: bool) -> None:
        super().__init__()
        self.linear, self.frequency = nn.Linear(inputs, outputs), frequency
        bound = 1 / inputs if first else math.sqrt(6 / inputs) / frequency
        nn.init.uniform_(self.linear.weight, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(self.frequency * self.linear(x))


def siren(generator: Generator) -> Run:
    """Fit a picture by a network with sines; judged at other pixels."""
    pixels = picture(48)
    axis = torch.linspace(-1, 1, len(pixels))
    places, values = torch.cartesian_prod(axis, axis), pixels.flatten()[:, None]
    order = torch.randperm(len(values), generator=generator)
    known, others = order.tensor_split([3 * len(order) // 4])
    model = nn.Sequential(
        Sine(2, 64, 15.0, True), Sine(64, 64, 15.0, False), nn.Linear(64, 1)
    )
    sample = rows_of(generator, places[known], values[known])
    return supervised(model, F.mse_loss, sample, 256, (places[others], values[others]))


class Bumps(nn.Module):
    """Layer of sums of learned functions, each of one input, in eight Gaussian bumps."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.register_buffer("centres", torch.linspace(-1, 1, 8))
        self.heights = nn.Parameter(0.2 * torch.randn(outputs, inputs, 8))

    def forward(self, x: Tensor) -> Tensor:
        bumps = torch.exp(-((3.5 * (x[..., None] - self.centres)) ** 2))
        return torch.einsum("nik,oik->no", bumps, self.heights)


def sums_of_functions(generator: Generator) -> Run:
    """Fit a function of two inputs by layers of functions of one input (KAN)."""

    def sample(n: int) -> tuple[Tensor, Tensor]:
        x = uniform(generator, n, 2, low=-1)
        y = torch.exp(torch.sin(math.pi * x[:, :1]) + x[:, 1:] ** 2)
        return x, y / 2 - 1

    model = nn.Sequential(Bumps(2, 5), nn.Tanh(), Bumps(5, 1))
    return supervised(model, F.mse_loss, sample, 64)


def modular(generator: Generator) -> Run:
    """Learn sums modulo 31 by heart, from embeddings."""
    modulus, width = 31, 48
    model = nn.Sequential(
        nn.Embedding(modulus, width), nn.Flatten(), nn.Linear(2 * width, 128), nn.ReLU(),
        nn.Linear(128, modulus),
    )  # fmt: skip
    numbers = torch.arange(modulus)
    pairs = torch.cartesian_prod(numbers, numbers)
    sums = pairs.sum(-1) % modulus
    sample = rows_of(generator, pairs, sums)
    return supervised(model, F.cross_entropy, sample, 128, (pairs, sums))


class LinearRecurrence(nn.Module):
    """Diagonal linear recurrence of 32 complex modes, as a convolution."""

    def __init__(self, modes: int = 32) -> None:
        super().__init__()
        self.log_decay = nn.Parameter(torch.full((modes,), math.log(0.03)))
        self.angle = nn.Parameter(math.pi * torch.rand(modes))
        self.output = nn.Parameter(0.02 * torch.randn(2, modes))

    def forward(self, sequences: Tensor) -> Tensor:
        length = sequences.shape[-1]
        times = torch.arange(length)[:, None]
        decay = torch.exp(-torch.exp(self.log_decay) * times)
        waves = torch.cos(self.angle * times), torch.sin(self.angle * times)
        kernel = (decay * (self.output[0] * waves[0] - self.output[1] * waves[1])).sum(-1)
        spectrum = torch.fft.rfft(sequences, 2 * length)
        spectrum = spectrum * torch.fft.rfft(kernel, 2 * length)
        return torch.fft.irfft(spectrum, 2 * length)[..., :length]


def delay(generator: Generator) -> Run:
    """Repeat each number 40 steps later by a linear recurrence."""
    steps = 40

    def sample(n: int) -> tuple[Tensor, Tensor]:
        sequences = normal(generator, n, 64)
        return sequences, sequences[:, :-steps]

    def criterion(outputs: Tensor, earlier: Tensor) -> Tensor:
        return F.mse_loss(outputs[:, steps:], earlier)

    return supervised(LinearRecurrence(), criterion, sample, 32)


def differential_equation(generator: Generator) -> Run:
    """Solve a boundary value problem by its residual; judged by the exact solution."""
    network = perceptron(1, 32, 32, 1)
    grid = torch.linspace(0, 1, 201)[:, None]
    exact = torch.sin(math.pi * grid) + 0.5 * torch.sin(2 * math.pi * grid)

    def solution(x: Tensor) -> Tensor:
        return x * (1 - x) * network(x)

    def loss(step: int) -> Tensor:
        x = uniform(generator, 64, 1).requires_grad_()
        (slope,) = torch.autograd.grad(solution(x).sum(), x, create_graph=True)
        (bend,) = torch.autograd.grad(slope.sum(), x, create_graph=True)
        source = torch.sin(math.pi * x) + 2 * torch.sin(2 * math.pi * x)
        return (bend + math.pi**2 * source).square().mean()

    @torch.no_grad()
    def evaluate() -> float:
        return F.mse_loss(solution(grid), exact).item()

    return Run(network.parameters, loss, evaluate)


def valley(generator: Generator) -> Run:
    """Descend Rosenbrock's function of ten numbers, without data."""
    x = nn.Parameter(0.5 * normal(generator, 10))

    def loss(step: int) -> Tensor:
        return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()

    return Run(lambda: [x], loss, torch.no_grad()(lambda: loss(0).item()))


STRUCTURES: tuple[Problem, ...] = (
    Problem("graph", "messages on random graphs", 300, graph),
    Problem("equilibrium", "fixed point of a layer, implicit derivative", 400,
            equilibrium),
    Problem("neural-ode", "trajectories of a pendulum, unrolled Euler steps", 300,
            neural_ode),
    Problem("factorisation", "matrix completion by embeddings", 800, factorisation),
    Problem("set-attention", "attention over the elements of a set", 400, set_attention),
    Problem("siren", "picture by a network with sines", 400, siren),
    Problem("sums-of-functions", "layers of functions of one input (KAN)", 500,
            sums_of_functions),
    Problem("modular", "addition modulo 31, learned by heart", 400, modular),
    Problem("delay", "linear recurrence that repeats numbers 40 steps later", 400, delay),
    Problem("differential-equation", "boundary value problem by its residual (PINN)", 200,
            differential_equation),
    Problem("valley", "Rosenbrock's function of ten numbers, without data", 500, valley),
)  # fmt: skip
