"""Gradient-based meta-learners: what they learn, save and leave alone."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from agents import meta
from optenv.tasks.stacked import flat
from tests.helpers.few_shot_learners import each, perceptron


def test_what_does_not_adapt_stays():
    learner = meta.ANIL(perceptron(), meta.Sinusoids(), inner_lr=0.1)
    adapted = learner.adapt(*(p[0] for p in learner.family.sample(1, learner.rng).support))
    initial = dict(perceptron().named_parameters())
    for name, value in adapted.items():
        assert torch.equal(value, initial[name]) == name.startswith("0.")
    with pytest.raises(ValueError, match="no parameter is called 'head'"):
        meta.MAML(perceptron(), meta.Sinusoids(), adapts=["head"])


@each
def test_a_learner_gets_better(learner):
    family = (
        meta.Sinusoids(variant="reptile", shots=20) if learner is meta.Reptile else None
    )
    slow = {meta.MetaLSTM: 30}
    arguments = {"meta_batch": 10} if learner is meta.Reptile else {"meta_lr": 0.01}
    made = learner(perceptron(width=20), family or meta.Sinusoids(), **arguments)
    before = made.evaluate(tasks=300, steps=[1]).losses
    gain = before - made.learn(slow.get(learner, 50)).evaluate(tasks=300, steps=[1]).losses
    assert gain.mean() > 4 * gain.std() / np.sqrt(300)


@each
def test_a_saved_learner_goes_on_as_if_never_saved(learner, tmp_path):
    family = meta.Sinusoids()
    made = learner(perceptron(), family, meta_batch=2, inner_lr=0.02, seed=3).learn(3)
    made.save(tmp_path / "learner.pt")
    loaded = learner.load(tmp_path / "learner.pt", perceptron(seed=1), family)
    assert loaded.iterations == 3
    for one in (made, loaded):
        one.learn(3)
    pairs = zip(made.parameters, loaded.parameters, strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    with pytest.raises(ValueError, match="got one with"):
        learner.load(tmp_path / "learner.pt", perceptron(width=9), family)
    other = meta.MAML if learner is not meta.MAML else meta.ANIL
    with pytest.raises(ValueError, match=f"holds a {learner.__name__}, not"):
        other.load(tmp_path / "learner.pt", perceptron(), family)


@each
def test_adapting_leaves_the_learner_as_it_is(learner):
    made = learner(perceptron(), meta.Sinusoids(), inner_lr=0.02)
    support, query = made.family.sample(1, np.random.default_rng(0))
    before = [p.detach().clone() for p in made.parameters]
    adapted = made.adapt(support.inputs[0], support.targets[0])
    for name, value in perceptron().named_parameters():
        assert adapted[name].shape == value.shape and not adapted[name].requires_grad
    module = perceptron()
    module.load_state_dict(adapted)
    known = (support.inputs[0], support.targets[0])
    outputs = made.predict(query.inputs[0], known)
    torch.testing.assert_close(outputs, module(query.inputs[0]).detach())
    plain = made.predict(query.inputs[0])
    torch.testing.assert_close(plain, perceptron()(query.inputs[0]).detach())
    assert all(torch.equal(a, b) for a, b in zip(before, made.parameters, strict=True))
    assert all(p.grad is None for p in made.parameters)


@each
def test_evaluation_is_that_of_adapting_each_task(learner):
    made = learner(perceptron(), meta.Sinusoids(), inner_lr=0.02)
    found = made.evaluate(tasks=4, steps=(2, 0), seed=5)
    assert found.steps == (0, 2) and found.losses.shape == (2, 4)
    support, query = made.family.sample(4, np.random.default_rng(5))
    for i in range(4):
        known = support.inputs[i], support.targets[i]
        for row, steps in enumerate((None, 2)):
            outputs = made.predict(query.inputs[i], known if steps else None, steps)
            loss = nn.functional.mse_loss(outputs, query.targets[i])
            assert found.losses[row, i] == pytest.approx(float(loss), rel=1e-4)


@pytest.mark.parametrize("learner", [meta.LSLR, meta.MetaLSTM])
def test_a_rule_is_not_asked_for_more_steps_than_it_learned(learner):
    made = learner(perceptron(), meta.Sinusoids(), inner_steps=3)
    with pytest.raises(ValueError, match="at most 3, which the rule was learned for"):
        made.evaluate(steps=[4])
    with pytest.raises(ValueError, match="got 5"):
        made.adapt(torch.zeros(2, 1), torch.zeros(2, 1), steps=5)


def test_a_gradient_that_is_not_finite_is_dropped_and_counted():
    class Broken(meta.Sinusoids):
        def sample(self, count, rng):
            episodes = super().sample(count, rng)
            return episodes._replace(
                query=episodes.query._replace(targets=episodes.query.targets * math.inf)
            )

    made = meta.MAML(perceptron(), Broken())
    with pytest.warns(RuntimeWarning, match="2 of 2 outer steps were dropped"):
        made.learn(2)
    assert made.dropped == made.iterations == 2
    assert torch.equal(made.initial, flat(perceptron()))


def test_learning_ends_when_the_callback_says_so():
    losses = []

    def callback(learner, loss):
        losses.append(loss)
        return len(losses) < 3

    assert meta.MAML(perceptron(), meta.Sinusoids()).learn(9, callback).iterations == 3
    assert len(losses) == 3 and all(loss > 0 for loss in losses)


def test_the_module_that_is_given_stays_as_it_is():
    module = perceptron()
    meta.MAML(module, meta.Sinusoids()).learn(2)
    assert torch.equal(flat(module), flat(perceptron()))


def test_dropout_is_refused():
    module = nn.Sequential(nn.Linear(1, 4), nn.Dropout(0.5), nn.Linear(4, 1))
    with pytest.raises(ValueError, match="draws from the global random generator"):
        meta.MAML(module, meta.Sinusoids())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"inner_steps": 0}, "inner_steps must be a positive integer, got 0"),
        ({"meta_batch": 1.5}, "meta_batch must be a positive integer, got 1.5"),
        ({"vectorize": "yes"}, "vectorize must be 'auto' or a bool, got 'yes'"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        meta.MAML(perceptron(), meta.Sinusoids(), **arguments)
