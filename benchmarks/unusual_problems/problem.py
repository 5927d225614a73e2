"""Base of the problems: a problem, its run, and helpers that shorten most definitions."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Generator, Tensor, nn
from torch.optim import Optimizer

__all__ = [
    "Problem",
    "Run",
    "Sample",
    "normal",
    "perceptron",
    "rows_of",
    "supervised",
    "uniform",
]

#: Function of a number of examples: draws that many inputs and targets.
Sample: TypeAlias = Callable[[int], tuple[Tensor, Tensor]]

#: Examples on which a run is evaluated, where they are drawn and not given.
HELD_OUT = 1000


def _nothing(step: int, optimizer: Optimizer) -> None:
    """Do nothing before an update."""


@dataclass
class Run:
    """Training run of a problem, all but its optimizer.

    Attributes:
        parameters: returns the parameters, or parameter groups.
        loss: returns the training loss of an update, by the number of the update. It may
            draw from the run's own generator.
        evaluate: returns the value that is compared, lower is better. It leaves no trace
            on training.
        before_step: called before the loss of each update, with the number of the update
            and the optimizer.
    """

    parameters: Callable[[], Iterable[Any]]
    loss: Callable[[int], Tensor]
    evaluate: Callable[[], float]
    before_step: Callable[[int, Optimizer], None] = _nothing


@dataclass(frozen=True)
class Problem:
    """Small training problem.

    Attributes:
        name: name on the command line.
        description: one line.
        updates: length of a run.
        build: makes a run that draws from the given generator.
    """

    name: str
    description: str
    updates: int
    build: Callable[[Generator], Run]

    def make(self, seed: int) -> Run:
        """Make a run; its initial parameters and batches depend on the seed alone."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            # Another seed, so that data are not the numbers that parameters begin with.
            return self.build(Generator().manual_seed(10_000 + seed))


def normal(generator: Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator)


def uniform(
    generator: Generator, *shape: int, low: float = 0.0, high: float = 1.0
) -> Tensor:
    return low + (high - low) * torch.rand(*shape, generator=generator)


def perceptron(*sizes: int, activation: type[nn.Module] = nn.Tanh) -> nn.Sequential:
    """Make fully connected layers of these sizes."""
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(sizes[:-1]):
        layers += [nn.Linear(inputs, outputs), activation()]
    return nn.Sequential(*layers, nn.Linear(sizes[-2], sizes[-1]))


def rows_of(generator: Generator, inputs: Tensor, targets: Tensor) -> Sample:
    """Return a function that draws rows of a table, with replacement."""

    def sample(n: int) -> tuple[Tensor, Tensor]:
        rows = torch.randint(len(inputs), (n,), generator=generator)
        return inputs[rows], targets[rows]

    return sample


def supervised(
    model: nn.Module,
    criterion: Callable[[Tensor, Tensor], Tensor],
    sample: Sample,
    size: int,
    held_out: tuple[Tensor, Tensor] | None = None,
) -> Run:
    """Make a run on batches of inputs and targets.

    Args:
        model: the network.
        criterion: loss of outputs and targets, in training and in evaluation.
        sample: draws a batch.
        size: examples in a batch.
        held_out: inputs and targets of the evaluation; by default drawn before training.
    """
    examples = sample(HELD_OUT) if held_out is None else held_out

    def loss(step: int) -> Tensor:
        inputs, targets = sample(size)
        return criterion(model(inputs), targets)

    @torch.no_grad()
    def evaluate() -> float:
        return criterion(model(examples[0]), examples[1]).item()

    return Run(model.parameters, loss, evaluate)
