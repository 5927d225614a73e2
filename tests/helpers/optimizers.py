"""Learned optimizers and two of torch's, for tests that hold for every optimizer."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from agents import LearnedOptimizer
from tests.helpers.loops import STEPS, batches, make_model
from tests.helpers.policies import random_policy, switching_policy

#: By name, functions that make the optimizer of given parameters.
MAKERS = {
    "learned": lambda p, **k: LearnedOptimizer(p, total_steps=STEPS, **k),
    "learned-adam": lambda p, **k: LearnedOptimizer(p, "adam", total_steps=STEPS, **k),
    "learned-anytime": lambda p, **k: LearnedOptimizer(p, "anytime", **k),
    "learned-nadam": lambda p, **k: LearnedOptimizer(
        p, random_policy("nadam"), total_steps=STEPS, **k
    ),
    "learned-rules": lambda p, **k: LearnedOptimizer(
        p, switching_policy(), total_steps=STEPS, **k
    ),
    "AdamW": lambda p, **k: torch.optim.AdamW(p, **k),
    "SGD": lambda p, **k: torch.optim.SGD(p, **{"lr": 1e-2, "momentum": 0.9, **k}),
}

#: Parametrizes a test with each of them as ``make(parameters, **arguments)``.
all_optimizers = pytest.mark.parametrize("make", MAKERS.values(), ids=list(MAKERS))


def loss_of(model, batch):
    """Return the cross-entropy of ``model`` on a pair of inputs and targets."""
    inputs, targets = batch
    return nn.functional.cross_entropy(model(inputs), targets)


def backward(model, batch):
    """Accumulate the gradients of the loss, and return the loss."""
    loss = loss_of(model, batch)
    loss.backward()
    return loss


def train(model, optimizer, data, **step):
    """Take an optimization step for each batch; pass ``step`` on to ``step()``."""
    for batch in data:
        optimizer.zero_grad()
        backward(model, batch)
        optimizer.step(**step)


def trained(make, count=30):
    """Train for ``count`` steps; return model, optimizer and the remaining batches."""
    model, data = make_model(), list(batches())
    optimizer = make(model.parameters())
    train(model, optimizer, data[:count])
    return model, optimizer, data[count:]
