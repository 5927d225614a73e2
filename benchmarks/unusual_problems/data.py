"""Data that several problems share: handwritten digits, a picture, points in the plane."""

from __future__ import annotations

import math
from functools import cache
from typing import NamedTuple

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from .problem import Run, normal, perceptron, rows_of, supervised, uniform

__all__ = ["Split", "digits", "moons", "picture", "pretrained", "ring", "waves"]

#: Rows of the digits that are for training; the others are held out.
TRAINING_ROWS = 1200


class Split(NamedTuple):
    """Inputs and targets for training, and held-out ones."""

    inputs: Tensor
    targets: Tensor
    held_out: tuple[Tensor, Tensor]


@cache
def digits() -> Split:
    """Return scikit-learn's digits, ``[n, 64]`` between 0 and 1, in a random order."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    order = torch.randperm(len(labels), generator=Generator().manual_seed(0))
    inputs = torch.from_numpy(images).float()[order] / 16
    targets = torch.from_numpy(labels)[order]
    cut = TRAINING_ROWS
    return Split(inputs[:cut], targets[:cut], (inputs[cut:], targets[cut:]))


@cache
def picture(size: int) -> Tensor:
    """Return a picture of rings, stripes and a disc, ``[size, size]``, of deviation 1."""
    axis = torch.linspace(-1, 1, size)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    rings = torch.cos(12 * torch.hypot(x + 0.3, y - 0.2))
    stripes = torch.sin(8 * x + 5 * y)
    inside = torch.hypot(x - 0.4, y + 0.4) < 0.4
    grey = torch.where(inside, stripes + 1, rings)
    return (grey - grey.mean()) / grey.std()


def moons(generator: Generator, n: int) -> Tensor:
    """Draw points ``[n, 2]`` of two interleaved half circles, with noise."""
    angles = uniform(generator, n, high=math.pi)
    lower = torch.rand(n, generator=generator) < 0.5
    sign = torch.where(lower, -1.0, 1.0)
    x = sign * torch.cos(angles) + torch.where(lower, 0.5, -0.5)
    y = sign * torch.sin(angles) + torch.where(lower, 0.25, -0.25)
    return torch.stack([x, y], -1) + 0.08 * normal(generator, n, 2)


def ring(generator: Generator, n: int) -> Tensor:
    """Draw points ``[n, 2]`` of eight Gaussians on a circle of radius 2."""
    angles = torch.randint(8, (n,), generator=generator) * (math.pi / 4)
    centres = 2 * torch.stack([torch.cos(angles), torch.sin(angles)], -1)
    return centres + 0.15 * normal(generator, n, 2)


def waves(inputs: Tensor) -> Tensor:
    """Return a smooth function ``[n, 1]`` of three inputs ``[n, 3]``."""
    a, b, c = inputs.unbind(-1)
    return (torch.sin(3 * a) + b * c)[:, None]


@cache
def _pretrained_state(seed: int, width: int, updates: int) -> dict[str, Tensor]:
    generator = Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = perceptron(64, width, width, 10, activation=nn.ReLU)
    inputs, targets, held_out = digits()
    sample = rows_of(generator, inputs, targets)
    run: Run = supervised(model, F.cross_entropy, sample, 64, held_out)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for step in range(updates):
        optimizer.zero_grad()
        run.loss(step).backward()
        optimizer.step()
    return model.state_dict()


def pretrained(generator: Generator, width: int = 64, updates: int = 250) -> nn.Sequential:
    """Make a perceptron that has been trained on the digits, for the generator's seed."""
    model = perceptron(64, width, width, 10, activation=nn.ReLU)
    state = _pretrained_state(generator.initial_seed(), width, updates)
    model.load_state_dict(state)
    return model
