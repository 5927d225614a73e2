"""Amortized learners: prototypes, attention, neural processes, and their modules."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from agents import meta
from tests.helpers.meta_tasks import (
    Blobs,
    embedding,
    numbered_classes,
    process,
    sample_tasks,
)

CLASSIFIERS = [meta.Prototypical, meta.Matching]


# Outputs.


def test_prototypes_are_class_means():
    support, query = sample_tasks(Blobs())
    outputs = meta.Prototypical(embedding(), Blobs()).outputs(support, query.inputs)
    module = embedding()
    for i in range(3):
        for label in range(4):
            mean = module(support.inputs[i, support.targets[i] == label]).mean(0)
            distance = (module(query.inputs[i]) - mean).square().sum(1)
            torch.testing.assert_close(outputs[i, :, label], -distance)


def test_matching_sums_attention_over_a_class():
    support, query = sample_tasks(Blobs())
    outputs = meta.Matching(embedding(), Blobs(), scale=3.0).outputs(support, query.inputs)
    torch.testing.assert_close(outputs.exp().sum(-1), torch.ones(3, 20))
    module = embedding()
    for i in range(3):
        embedded, query_code = module(support.inputs[i]), module(query.inputs[i, 0])
        cosines = F.cosine_similarity(embedded, query_code[None])
        attention = (3 * cosines).softmax(0)
        for label in range(4):
            expected = attention[support.targets[i] == label].sum()
            torch.testing.assert_close(outputs[i, 0, label].exp(), expected)


def test_neural_process_ignores_the_order_of_the_support():
    support, query = sample_tasks(meta.Sinusoids())
    module = process()
    mean, deviation = module(*support, query.inputs)
    assert mean.shape == deviation.shape == (3, 10, 1) and (deviation > 0).all()
    reversed_mean, _ = module(*(part.flip(1) for part in support), query.inputs)
    torch.testing.assert_close(reversed_mean, mean)
    other, _ = module(support.inputs, support.targets + 1, query.inputs)
    assert not torch.allclose(other, mean)


def test_support_without_an_example_of_a_class_is_refused():
    made = meta.Prototypical(embedding(), Blobs())
    inputs = torch.rand(3, 3)
    with pytest.raises(ValueError, match="got none of 1"):
        made.predict(inputs, (inputs, torch.tensor([0, 2, 2])))
    support, query = Blobs(ways=3).sample(1, np.random.default_rng(0))
    few = meta.Examples(*(part[:, :4] for part in support))
    with pytest.raises(ValueError, match=r"the query has class 2, .* those up to 1"):
        made.losses(few, query)


# Modules: modes, statistics and random numbers.


def normalised(**arguments):
    return nn.Sequential(embedding(), nn.BatchNorm1d(8, **arguments))


def copy_of_state(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def states_equal(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("learner", CLASSIFIERS)
def test_statistics_change_in_the_copy_only(learner):
    module = normalised()
    before = copy_of_state(module)
    made = learner(module, Blobs(), meta_batch=2).learn(2)
    made.evaluate(tasks=3)
    assert states_equal(before, module.state_dict())
    assert not states_equal(before, made.module.state_dict())


@pytest.mark.parametrize("learner", CLASSIFIERS)
def test_evaluation_changes_no_statistics_modes_or_generator(learner):
    made = learner(normalised(), Blobs(), meta_batch=2).learn(1)
    before, generator = copy_of_state(made.module), torch.get_rng_state()
    made.module[0].eval()
    found = [made.evaluate(tasks=3) for _ in range(2)]
    np.testing.assert_array_equal(found[0].losses, found[1].losses)
    assert states_equal(before, made.module.state_dict())
    assert torch.equal(generator, torch.get_rng_state())
    assert made.module[1].training and not made.module[0].training


@pytest.mark.parametrize("tracked", [True, False])
@pytest.mark.parametrize("learner", CLASSIFIERS)
def test_tasks_are_evaluated_independently(learner, tracked):
    family = Blobs()
    made = learner(normalised(track_running_stats=tracked), family, meta_batch=2).learn(2)
    found = made.evaluate(tasks=4, seed=5)
    support, query = family.sample(4, np.random.default_rng(5))
    for i in range(4):
        outputs = made.predict(query.inputs[i], (support.inputs[i], support.targets[i]))
        loss = nn.functional.cross_entropy(outputs, query.targets[i])
        assert found.losses[0, i] == float(loss)


def test_running_statistics_are_updated_task_by_task():
    module = nn.Sequential(
        nn.Conv2d(1, 4, 2), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4, 8)
    )
    family = meta.FewShot(numbered_classes(), ways=3, queries=2)
    made = meta.Prototypical(module, family, meta_batch=4).learn(2)
    # Two steps of four tasks, each with one batch of support and one of query.
    assert made.dropped == 0 and made.module[1].num_batches_tracked == 16
    assert module[1].num_batches_tracked == 0


@pytest.mark.parametrize("learner", CLASSIFIERS)
def test_module_with_dropout_is_refused(learner):
    generator = torch.get_rng_state()
    with pytest.raises(ValueError, match="draws from the global random generator"):
        learner(nn.Sequential(embedding(), nn.Dropout(0.5)), Blobs())
    assert torch.equal(generator, torch.get_rng_state())
