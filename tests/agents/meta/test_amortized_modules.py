"""Modules of learners without steps: their modes, statistics and random numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from agents import meta
from tests.agents.meta.test_amortized import Blobs, embedding

LEARNERS = [meta.Prototypical, meta.Matching]


def normalised(**arguments):
    return nn.Sequential(embedding(), nn.BatchNorm1d(8, **arguments))


def state(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def equal(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("learner", LEARNERS)
def test_the_module_that_is_given_stays_as_it_is(learner):
    module = normalised()
    before = state(module)
    made = learner(module, Blobs(), meta_batch=2).learn(2)
    made.evaluate(tasks=3)
    assert equal(before, state(module)) and not equal(before, state(made.module))


@pytest.mark.parametrize("learner", LEARNERS)
def test_evaluation_leaves_statistics_modes_and_generator_alone(learner):
    made = learner(normalised(), Blobs(), meta_batch=2).learn(1)
    before, drawn = state(made.module), torch.get_rng_state()
    made.module[0].eval()
    found = [made.evaluate(tasks=3) for _ in range(2)]
    np.testing.assert_array_equal(found[0].losses, found[1].losses)
    assert equal(before, state(made.module)) and torch.equal(drawn, torch.get_rng_state())
    assert made.module[1].training and not made.module[0].training


@pytest.mark.parametrize("tracked", [True, False])
@pytest.mark.parametrize("learner", LEARNERS)
def test_tasks_are_judged_as_if_each_were_the_only_one(learner, tracked):
    family = Blobs()
    made = learner(normalised(track_running_stats=tracked), family, meta_batch=2).learn(2)
    found = made.evaluate(tasks=4, seed=5)
    support, query = family.sample(4, np.random.default_rng(5))
    for i in range(4):
        outputs = made.predict(query.inputs[i], (support.inputs[i], support.targets[i]))
        loss = nn.functional.cross_entropy(outputs, query.targets[i])
        assert found.losses[0, i] == float(loss)


@pytest.mark.parametrize("learner", LEARNERS)
def test_dropout_is_refused(learner):
    drawn = torch.get_rng_state()
    with pytest.raises(ValueError, match="draws from the global random generator"):
        learner(nn.Sequential(embedding(), nn.Dropout(0.5)), Blobs())
    assert torch.equal(drawn, torch.get_rng_state())


def test_a_class_without_an_example_is_refused():
    made = meta.Prototypical(embedding(), Blobs())
    inputs = torch.rand(3, 3)
    with pytest.raises(ValueError, match="got none of 1"):
        made.predict(inputs, (inputs, torch.tensor([0, 2, 2])))
    support, query = Blobs(ways=3).sample(1, np.random.default_rng(0))
    few = meta.Examples(*(part[:, :4] for part in support))
    with pytest.raises(ValueError, match=r"the query has class 2, .* those up to 1"):
        made.losses(few, query)
