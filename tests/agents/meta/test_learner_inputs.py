"""What learners are made of and asked for that does not fit; the modes of modules."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from agents import meta
from agents.meta.inner import FixedRule
from tests.agents.meta.test_amortized import Blobs, embedding, process
from tests.helpers.few_shot_learners import perceptron

S = meta.Sinusoids(5)
CALLS = (
    ("MAML", lambda: meta.MAML(perceptron(), S)),
    ("NeuralProcess", lambda: meta.NeuralProcess(process(), S)),
)
each = pytest.mark.parametrize("make", [call for _, call in CALLS], ids=dict(CALLS))


def drawn():
    return S.sample(3, np.random.default_rng(0))


@pytest.mark.parametrize("learner", [meta.Prototypical, meta.Matching])
def test_classifiers_do_not_regress(learner):
    with pytest.raises(ValueError, match=r"is a classifier.*float32 and the loss 'mse'"):
        learner(perceptron(), S)

    class Distance(Blobs):
        loss = "mse"

    with pytest.raises(ValueError, match=r"is a classifier.*int64 and the loss 'mse'"):
        learner(embedding(), Distance())


class Smoothed(Blobs):
    def loss(self, outputs, targets):
        return nn.functional.cross_entropy(outputs, targets, label_smoothing=0.1)


def test_classifiers_may_have_a_loss_of_ones_own():
    learner = meta.Prototypical(embedding(), Smoothed()).learn(1)
    assert learner.evaluate(Smoothed(ways=3), tasks=2).accuracies is None


def test_a_process_does_not_classify():
    with pytest.raises(ValueError, match=r"is for regression.*the loss 'cross_entropy'"):
        meta.NeuralProcess(meta.ProcessNetwork(3), Blobs())


class Mean(meta.ProcessNetwork):
    def forward(self, known, values, asked):
        return super().forward(known, values, asked)[0]


def test_a_process_needs_its_network():
    for module, why in (
        (perceptron(), "got Sequential, whose forward takes other arguments"),
        (nn.GRU(1, 1), "got GRU, whose forward takes other arguments"),
        (Mean(), "got Mean, which returns a Tensor"),
    ):
        with pytest.raises(TypeError, match=f"must be a ProcessNetwork.*{why}"):
            meta.NeuralProcess(module, S)
    with pytest.raises(TypeError, match=r"torch.nn.Module, got 'net'"):
        meta.NeuralProcess("net", S)


def test_rules_and_classes_of_other_types_are_named():
    for rule in ("sgd", FixedRule, torch.optim.SGD):
        with pytest.raises(
            TypeError, match=r"rule must be an .*InnerRule, such as .*FixedRule"
        ):
            meta.MetaLearner(perceptron(), S, rule)
    for classes in ("x.zip", np.zeros((5, 20, 2, 2)), lambda: "x.zip"):
        with pytest.raises(TypeError, match="classes must be Classes, as omniglot"):
            meta.FewShot(classes)
    flat = meta.Classes(np.zeros((5, 20, 4), np.float32), ("a",) * 5)
    with pytest.raises(ValueError, match=r"\[classes, n, side, side\], got \[5, 20, 4\]"):
        meta.FewShot(flat)


@each
def test_a_support_is_a_pair(make):
    learner, x = make(), torch.ones(2, 1)  # two rows, which could be unpacked
    for support, got in (
        (x, r"one tensor \[2, 1\]"),
        ((x,), "a tuple of Tensor"),
        (drawn(), "a Episodes of Examples, Examples"),
        ((x.numpy(), x.numpy()), "a tuple of ndarray, ndarray"),
        ("x", "'x'"),
    ):
        with pytest.raises(TypeError, match=rf"pair of tensors \(inputs, .*got {got}"):
            learner.predict(x, support)


@each
def test_a_support_is_of_one_task(make):
    learner, (support, query) = make(), drawn()
    one = meta.Examples(*(part[0] for part in support))
    message = r"of one task.*have 2 dimensions, got inputs \[3, 5, 1\] with 3"
    with pytest.raises(ValueError, match=message):
        learner.predict(query.inputs[0], support)
    with pytest.raises(ValueError, match=r"got inputs \[3, 10, 1\] with 3"):
        learner.predict(query.inputs, one)
    assert learner.predict(query.inputs[0], one).shape == (10, 1)
    with pytest.raises(TypeError, match="inputs must be a tensor"):
        learner.predict(query.inputs[0].numpy(), one)


def test_adapting_is_to_one_task():
    learner = meta.MAML(perceptron(), S)
    with pytest.raises(ValueError, match=r"got inputs \[3, 5, 1\] with 3"):
        learner.adapt(*drawn().support)
    with pytest.raises(ValueError, match=r"got inputs \[3, 10, 1\] with 3"):
        learner.predict(drawn().query.inputs)


def normalised():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = nn.Sequential(
            nn.Linear(1, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1)
        )
    module[1].running_mean.fill_(3.0)
    return module


X = torch.linspace(-2, 2, 6)[:, None]


def test_in_training_mode_examples_are_normalised_together():
    learner = meta.MAML(normalised(), S, meta_batch=2)
    whole = learner.predict(X)
    assert not torch.allclose(whole[:3], learner.predict(X[:3]), atol=1e-4)
    torch.testing.assert_close(whole, normalised()(X))  # whatever the running mean
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        learner.predict(X[:1])
    learner.learn(2).evaluate(tasks=2)
    assert (learner.network.buffers["1.running_mean"] == 3).all()


def test_in_evaluation_mode_stored_statistics_are_used():
    module = normalised().eval()
    learner = meta.MAML(module, S, meta_batch=2)
    module.train()
    whole = learner.predict(X)
    torch.testing.assert_close(whole[:1], learner.predict(X[:1]))
    torch.testing.assert_close(whole, module.eval()(X))


def test_an_ordinary_network_is_got_out_of_a_learner():
    module = normalised().eval()
    learner = meta.MAML(module, S, meta_batch=2).learn(2)
    task = tuple(part[0] for part in drawn().support)
    expected = learner.predict(X, task, 3)
    adapted = learner.adapt(*task, 3)
    torch.testing.assert_close(torch.func.functional_call(module, adapted, X), expected)
    assert not torch.allclose(module(X), expected)
    module.load_state_dict(adapted, strict=False)
    torch.testing.assert_close(module(X), expected)


def test_the_callback_gets_the_learner_and_the_loss_before_the_step():
    seen = []
    learner = meta.MAML(perceptron(), S, inner_steps=1, meta_batch=4)
    expected = float(learner._outer_loss(S.sample(4, np.random.default_rng(0))).detach())
    learner.learn(2, lambda *given: seen.append(given))
    assert [given[0] for given in seen] == [learner, learner]
    assert seen[0][1] == pytest.approx(expected) and seen[1][1] != seen[0][1]
