"""The outer loop: skipped steps, callbacks, and the steps of a rule."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from agents import meta
from optenv.tasks.stacked import flat
from tests.helpers.meta_tasks import (
    DoubleSinusoids,
    each_gradient_based,
    perceptron,
    sample_tasks,
)

SINES = meta.Sinusoids(5)


def test_step_with_a_non_finite_gradient_is_skipped_and_counted():
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


def test_callback_ends_learning():
    losses = []

    def callback(learner, loss):
        losses.append(loss)
        return len(losses) < 3

    assert meta.MAML(perceptron(), meta.Sinusoids()).learn(9, callback).iterations == 3
    assert len(losses) == 3 and all(loss > 0 for loss in losses)


@pytest.mark.parametrize(
    ("returned", "iterations"),
    [(np.bool_(False), 1), (0, 1), (None, 3), (np.bool_(True), 3)],
)
def test_learning_ends_at_any_false_value_but_none(returned, iterations):
    learner = meta.MAML(perceptron(), SINES, meta_batch=1)
    assert learner.learn(3, lambda *_: returned).iterations == iterations


def test_callback_gets_the_learner_and_the_loss_before_the_step():
    calls = []
    learner = meta.MAML(perceptron(), SINES, inner_steps=1, meta_batch=4)
    expected = float(
        learner._outer_loss(SINES.sample(4, np.random.default_rng(0))).detach()
    )
    learner.learn(2, lambda *given: calls.append(given))
    assert [given[0] for given in calls] == [learner, learner]
    assert calls[0][1] == pytest.approx(expected) and calls[1][1] != calls[0][1]


def test_adapted_parameters_are_copies():
    learner = meta.MAML(perceptron(), SINES)
    known = (part[0] for part in sample_tasks(SINES).support)
    for value in learner.adapt(*known, steps=0).values():
        value.add_(1)
    assert torch.equal(learner.initial, flat(perceptron()))


def test_parameters_outside_of_adapts_keep_their_initial_values():
    learner = meta.ANIL(perceptron(), meta.Sinusoids(), inner_lr=0.1)
    adapted = learner.adapt(*(p[0] for p in learner.family.sample(1, learner.rng).support))
    initial = dict(perceptron().named_parameters())
    for name, value in adapted.items():
        assert torch.equal(value, initial[name]) == name.startswith("0.")
    with pytest.raises(ValueError, match="no parameter is called 'head'"):
        meta.MAML(perceptron(), meta.Sinusoids(), adapts=["head"])


@each_gradient_based
def test_default_steps_of_evaluation_are_those_that_the_rule_supports(learner):
    found = learner(perceptron(), SINES).evaluate(tasks=2)
    max_steps = 5 if learner in (meta.LSLR, meta.MetaLSTM) else 10
    assert found.steps == tuple(s for s in (0, 1, 5, 10) if s <= max_steps)


@pytest.mark.parametrize("learner", [meta.LSLR, meta.MetaLSTM])
def test_more_steps_than_the_rule_learned_are_refused(learner):
    made = learner(perceptron(), meta.Sinusoids(), inner_steps=3)
    with pytest.raises(ValueError, match="at most 3, which the rule was learned for"):
        made.evaluate(steps=[4])
    with pytest.raises(ValueError, match="got 5"):
        made.adapt(torch.zeros(2, 1), torch.zeros(2, 1), steps=5)


@each_gradient_based
def test_double_precision_is_kept_and_not_mixed(learner):
    made = learner(perceptron().double(), DoubleSinusoids(5), meta_batch=2).learn(2)
    assert all(p.dtype == torch.float64 for p in made.parameters)
    assert not torch.equal(made.initial, flat(perceptron().double()))
    assert made.evaluate(tasks=2, steps=[1]).losses.dtype == np.float64
    with pytest.raises(ValueError, match=r"got torch.float64 and torch.float32"):
        learner(perceptron().double(), SINES)
