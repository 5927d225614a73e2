"""Learned optimizers and some of torch's, for tests that hold for every optimizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache, partial

import pytest
import torch
from torch import nn

from agents import SHIPPED, LearnedLR, LearnedOptimizer
from agents.policy.files import load_policy
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


shipped = lru_cache(load_policy)  # reading a file for each test would take longer than it


def _learned(name, params, **arguments):
    """Make a learned optimizer with a shipped policy."""
    policy = shipped(name)
    total = None if policy.anytime else STEPS
    return LearnedOptimizer(params, policy, **{"total_steps": total, **arguments})


def _driven(params, **arguments):
    """Make an AdamW whose learning rate a :class:`LearnedLR` sets at each step."""
    optimizer = torch.optim.AdamW(params, **arguments)
    scheduler = LearnedLR(optimizer, total_steps=STEPS, policy=shipped("adam"))
    optimizer.register_step_post_hook(lambda *_: scheduler.step())
    return optimizer


#: By name: LearnedOptimizer with every shipped policy, and torch's own as controls.
OPTIMIZERS = {
    **{name: partial(_learned, name) for name in SHIPPED},
    "AdamW": torch.optim.AdamW,
    "NAdam": torch.optim.NAdam,
}

#: The same, and an optimizer that a LearnedLR drives.
WITH_SCHEDULER = {**OPTIMIZERS, "LearnedLR": _driven}


def parametrized(makers):
    """Parametrize a test with each of these as ``make(parameters, **arguments)``."""
    return pytest.mark.parametrize("make", makers.values(), ids=list(makers))


def scheduler_of(optimizer):
    """Return the LearnedLR that drives an optimizer, None if none does."""
    owners = (
        getattr(hook, "__self__", None)
        for hook in optimizer._optimizer_step_pre_hooks.values()
    )
    return next((owner for owner in owners if isinstance(owner, LearnedLR)), None)


def save(optimizer):
    """Return the states of an optimizer and of its LearnedLR, if it has one."""
    scheduler = scheduler_of(optimizer)
    return optimizer.state_dict(), scheduler and scheduler.state_dict()


def restore(optimizer, saved):
    """Load what :func:`save` returned."""
    optimizer.load_state_dict(saved[0])
    if saved[1] is not None:
        scheduler_of(optimizer).load_state_dict(saved[1])


def assert_same(found, wanted, where="state"):
    """Assert that two nested states are equal bit for bit, and of equal types."""
    assert type(found) is type(wanted), where
    if isinstance(found, torch.Tensor):
        assert found.dtype == wanted.dtype and torch.equal(found, wanted), where
    elif isinstance(found, Mapping):
        assert found.keys() == wanted.keys(), where
        for key in found:
            assert_same(found[key], wanted[key], f"{where}: {key}")
    elif isinstance(found, Sequence) and not isinstance(found, str):
        assert len(found) == len(wanted), where
        for i, (a, b) in enumerate(zip(found, wanted, strict=True)):
            assert_same(a, b, f"{where}[{i}]")
    else:
        assert found == wanted, where


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
