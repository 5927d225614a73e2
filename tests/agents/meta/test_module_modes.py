"""Modes of modules in gradient-based learners, and ordinary networks from learners."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from agents import meta
from tests.helpers.meta_tasks import sample_tasks

SINES = meta.Sinusoids(5)
X = torch.linspace(-2, 2, 6)[:, None]


def normalised():
    """Return a module with batch norm, whose running mean is far off."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = nn.Sequential(
            nn.Linear(1, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1)
        )
    module[1].running_mean.fill_(3.0)
    return module


def test_training_mode_normalises_examples_together():
    learner = meta.MAML(normalised(), SINES, meta_batch=2)
    whole = learner.predict(X)
    assert not torch.allclose(whole[:3], learner.predict(X[:3]), atol=1e-4)
    torch.testing.assert_close(whole, normalised()(X))  # not by the running mean
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        learner.predict(X[:1])
    learner.learn(2).evaluate(tasks=2)
    assert (learner.network.buffers["1.running_mean"] == 3).all()


def test_evaluation_mode_uses_stored_statistics():
    module = normalised().eval()
    learner = meta.MAML(module, SINES, meta_batch=2)
    module.train()
    whole = learner.predict(X)
    torch.testing.assert_close(whole[:1], learner.predict(X[:1]))
    torch.testing.assert_close(whole, module.eval()(X))


def test_adapted_parameters_load_into_an_ordinary_module():
    module = normalised().eval()
    learner = meta.MAML(module, SINES, meta_batch=2).learn(2)
    task = tuple(part[0] for part in sample_tasks(SINES).support)
    expected = learner.predict(X, task, 3)
    adapted = learner.adapt(*task, 3)
    torch.testing.assert_close(torch.func.functional_call(module, adapted, X), expected)
    assert not torch.allclose(module(X), expected)
    module.load_state_dict(adapted, strict=False)
    torch.testing.assert_close(module(X), expected)
