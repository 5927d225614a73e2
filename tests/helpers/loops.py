"""A small model trained in an ordinary torch loop, for tests of the optimizer."""

from __future__ import annotations

import torch
from torch import nn

from agents import LearnedOptimizer
from tests.helpers.policies import random_policy

#: Steps of a whole run, and batches of :func:`batches`.
STEPS = 60


def make_model(dtype=torch.float32):
    """Return a perceptron with 6 inputs and 3 outputs, always with equal weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3)).to(dtype)


def batches(dtype=torch.float32):
    """Yield the random inputs ``[8, 6]`` and targets ``[8]`` of :data:`STEPS` steps."""
    generator = torch.Generator().manual_seed(1)
    for _ in range(STEPS):
        inputs = torch.randn(8, 6, generator=generator).to(dtype)
        yield inputs, torch.randint(3, (8,), generator=generator)


def train(model, optimizer, steps, use_loss=True):
    """Train on the batches ``steps``; return the last loss.

    ``use_loss`` says whether the optimizer is given the losses.
    """
    for inputs, targets in steps:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(inputs), targets)
        loss.backward()
        optimizer.step(loss=loss if use_loss else None)
    return loss.item()


def learned(model, **arguments):
    """Return the learned optimizer of ``model`` with a random policy."""
    arguments = {"total_steps": STEPS, **arguments}
    return LearnedOptimizer(model.parameters(), random_policy(), **arguments)


def weights(model):
    """Return all parameters of ``model`` as one vector."""
    return torch.cat([p.detach().flatten() for p in model.parameters()])
