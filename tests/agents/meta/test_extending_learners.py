"""Learners, rules and families from outside the package, and the recipe for them."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from agents import meta
from tests.helpers.meta_tasks import (
    Blobs,
    embedding,
    perceptron,
    sample_stream,
    sample_tasks,
    stream_network,
)
from tests.helpers.paths import ROOT

RECIPE = ROOT / "docs" / "extending_learner.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```", RECIPE.read_text(), re.MULTILINE | re.DOTALL)


class SignRule(meta.InnerRule):
    """Steps along the sign of the gradient, with a learned rate for each of two steps."""

    max_steps = 2

    def __init__(self, lr):
        super().__init__()
        self.rates = nn.Parameter(torch.full((self.max_steps,), lr))

    def forward(self, params, grad, loss, state, step):
        return params - self.rates[step] * grad.sign(), state


class MetaSign(meta.MetaLearner):
    def __init__(self, module, family, *, inner_lr=0.01, **outer):
        super().__init__(module, family, SignRule(inner_lr), inner_steps=2, **outer)


def test_recipe_runs_as_it_stands(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (block,) = BLOCKS
    names = {}
    exec(compile(block, str(RECIPE), "exec"), names)
    assert "[" in capsys.readouterr().out
    learner, again = names["learner"], names["again"]
    assert again.iterations == learner.iterations == 100 and learner.dropped == 0
    losses = learner.evaluate(tasks=100, steps=(0, 1, 5)).losses.mean(1)
    assert losses[2] < 0.7 * losses[0], "adaptation helps"
    assert all(map(torch.equal, learner.parameters, again.parameters))
    assert not torch.equal(names["HeavyBall"](0.05).momentum, learner.rule.momentum)
    expected = learner.predict(names["query"].inputs[0], names["task"], steps=5)
    torch.testing.assert_close(names["outputs"], expected)
    for name, value in names["module"].named_parameters():
        assert names["adapted"][name].shape == value.shape


def test_family_of_the_recipe_serves_other_learners(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(compile(BLOCKS[0], str(RECIPE), "exec"), names)
    learner = meta.MAML(perceptron(), names["Parabolas"](), inner_lr=0.05).learn(30)
    losses = learner.evaluate(tasks=50, steps=(0, 1)).losses.mean(1)
    assert losses[1] < losses[0]


def test_custom_rule_makes_its_own_steps():
    learner = MetaSign(perceptron(), meta.Sinusoids(), inner_lr=0.03)
    support = sample_tasks(learner.family, 1).support
    adapted = learner.adapt(support.inputs[0], support.targets[0])
    module = perceptron()
    for _ in range(2):
        module.zero_grad()
        F.mse_loss(module(support.inputs[0]), support.targets[0]).backward()
        with torch.no_grad():
            for p in module.parameters():
                p -= 0.03 * p.grad.sign()
    for name, value in module.named_parameters():
        torch.testing.assert_close(adapted[name], value.detach())
    with pytest.raises(ValueError, match="at most 2, which the rule was learned for"):
        learner.adapt(support.inputs[0], support.targets[0], steps=3)


def test_custom_learner_learns_evaluates_and_is_saved(tmp_path):
    family = meta.Sinusoids()
    learner = MetaSign(perceptron(), family, meta_batch=4, seed=1).learn(3)
    assert not torch.equal(learner.rule.rates, SignRule(0.01).rates)
    found = learner.evaluate(tasks=5)
    assert found.steps == (0, 1) and found.losses.shape == (2, 5)
    learner.save(tmp_path / "learner.pt")
    again = MetaSign.load(tmp_path / "learner.pt", perceptron(seed=1), family)
    np.testing.assert_array_equal(found.losses, again.evaluate(tasks=5).losses)
    for each in (learner, again):
        each.learn(2)
    assert all(map(torch.equal, learner.parameters, again.parameters))
    with pytest.raises(ValueError, match="holds a MetaSign, not a MAML"):
        meta.MAML.load(tmp_path / "learner.pt", perceptron(), family)


def test_custom_learner_refuses_unknown_arguments_with_a_suggestion():
    message = "MetaSign has no argument 'iner_lr'; did you mean 'inner_lr'"
    with pytest.raises(TypeError, match=message):
        MetaSign(perceptron(), meta.Sinusoids(), iner_lr=0.1)


class RidgeRegression(meta.AmortizedLearner):
    """Ridge regression from embeddings to one-hot classes (Bertinetto et al., 2019)."""

    def outputs(self, support, inputs):
        x, query = (
            torch.stack([self.module(task) for task in part])
            for part in (support.inputs, inputs)
        )
        y = F.one_hot(support.targets).to(x.dtype)
        weights = torch.linalg.solve(x.mT @ x + torch.eye(x.shape[-1]), x.mT @ y)
        return query @ weights


def test_custom_amortized_learner_learns_and_is_saved(tmp_path):
    learner = RidgeRegression(embedding(), Blobs(), meta_lr=0.01)
    before = learner.evaluate(tasks=100).losses.mean()
    assert learner.learn(30).evaluate(tasks=100).losses.mean() < before
    learner.save(tmp_path / "learner.pt")
    again = RidgeRegression.load(tmp_path / "learner.pt", embedding(seed=1), Blobs())
    support, query = sample_tasks(Blobs(), 1)
    task = support.inputs[0], support.targets[0]
    expected = learner.predict(query.inputs[0], task)
    assert torch.equal(again.predict(query.inputs[0], task), expected)


class SignSGD(meta.OnlineLearner):
    """Online learner that steps along the sign of the gradient."""

    def observe(self, inputs, targets):
        grad = self.gradient(self.params, inputs, targets)
        self.params = self.params - self.lr * grad.sign()


def test_custom_online_learner_follows_a_stream():
    stream = sample_stream(meta.DigitStream(tasks=2, examples=60, tests=50))
    learner = SignSGD(stream_network(), "cross_entropy", lr=0.005)
    untrained = learner.score(stream.test_inputs[0], stream.test_targets[0])
    scores = learner.follow(stream).scores
    assert scores.shape == (2, 2) and scores[0, 0] > untrained + 0.2
    with pytest.raises(TypeError, match="SignSGD has no argument 'rl'; valid: lr, seed"):
        SignSGD(stream_network(), "cross_entropy", lr=0.1, rl=0.1)
