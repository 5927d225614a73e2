"""Learners that look at the support without a step: prototypes, attention, processes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from agents import meta
from agents.meta.families.episodes import Episodes, Examples, Family
from tests.agents.meta.test_few_shot import numbered


class Blobs(Family):
    """Classes around random middles: ``ways`` of them, ``[n, 3]``."""

    loss = "cross_entropy"

    def __init__(self, ways=4, shots=2):
        self.ways, self.shots = ways, shots

    def sample(self, count, rng):
        middles = rng.normal(size=(count, self.ways, 1, 3))

        def examples(each):
            points = middles + 0.3 * rng.normal(size=(count, self.ways, each, 3))
            labels = np.broadcast_to(np.arange(self.ways)[:, None], points.shape[:-1])
            parts = points.astype(np.float32), labels
            return Examples(*(torch.from_numpy(p.copy()).flatten(1, 2) for p in parts))

        return Episodes(examples(self.shots), examples(5))


def embedding(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(3, 16), nn.ReLU(), nn.Linear(16, 8))


def process(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return meta.ProcessNetwork(width=16)


LEARNERS = {
    "Prototypical": (meta.Prototypical, embedding, Blobs()),
    "Matching": (meta.Matching, embedding, Blobs()),
    "NeuralProcess": (meta.NeuralProcess, process, meta.Sinusoids()),
}
each = pytest.mark.parametrize(
    ("learner", "make", "family"), LEARNERS.values(), ids=LEARNERS
)


def drawn(family, count=3):
    return family.sample(count, np.random.default_rng(0))


def test_prototypes_are_means_of_classes():
    support, query = drawn(Blobs())
    outputs = meta.Prototypical(embedding(), Blobs()).outputs(support, query.inputs)
    module = embedding()
    for i in range(3):
        for label in range(4):
            mean = module(support.inputs[i, support.targets[i] == label]).mean(0)
            distance = (module(query.inputs[i]) - mean).square().sum(1)
            torch.testing.assert_close(outputs[i, :, label], -distance)


def test_matching_sums_the_attention_to_a_class():
    support, query = drawn(Blobs())
    outputs = meta.Matching(embedding(), Blobs(), scale=3.0).outputs(support, query.inputs)
    torch.testing.assert_close(outputs.exp().sum(-1), torch.ones(3, 20))
    module = embedding()
    for i in range(3):
        known, asked = module(support.inputs[i]), module(query.inputs[i, 0])
        cosines = F.cosine_similarity(known, asked[None])
        attention = (3 * cosines).softmax(0)
        for label in range(4):
            expected = attention[support.targets[i] == label].sum()
            torch.testing.assert_close(outputs[i, 0, label].exp(), expected)


def test_a_process_does_not_mind_the_order_of_its_support():
    support, query = drawn(meta.Sinusoids())
    module = process()
    mean, deviation = module(*support, query.inputs)
    assert mean.shape == deviation.shape == (3, 10, 1) and (deviation > 0).all()
    again, _ = module(*(part.flip(1) for part in support), query.inputs)
    torch.testing.assert_close(again, mean)
    other, _ = module(support.inputs, support.targets + 1, query.inputs)
    assert not torch.allclose(other, mean)


@each
def test_a_learner_gets_better(learner, make, family):
    made = learner(make(), family, meta_lr=0.01)
    before = made.evaluate(tasks=300).losses[0]
    gain = before - made.learn(200).evaluate(tasks=300).losses[0]
    assert gain.mean() > 4 * gain.std() / np.sqrt(300)


@each
def test_a_saved_learner_goes_on_as_if_never_saved(learner, make, family, tmp_path):
    made = learner(make(), family, meta_batch=2, seed=3).learn(3)
    made.save(tmp_path / "learner.pt")
    loaded = learner.load(tmp_path / "learner.pt", make(seed=1), family)
    for one in (made, loaded):
        one.learn(3)
    pairs = zip(made.parameters, loaded.parameters, strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


@each
def test_evaluation_is_that_of_predictions(learner, make, family):
    made = learner(make(), family)
    found = made.evaluate(tasks=4, seed=5)
    support, query = family.sample(4, np.random.default_rng(5))
    for i in range(4):
        outputs = made.predict(query.inputs[i], (support.inputs[i], support.targets[i]))
        if family.loss == "mse":
            loss = F.mse_loss(outputs, query.targets[i])
            assert found.accuracies is None
        else:
            loss = F.cross_entropy(outputs, query.targets[i])
            right = (outputs.argmax(1) == query.targets[i]).float().mean()
            assert found.accuracies[0, i] == pytest.approx(float(right))
        assert found.losses[0, i] == pytest.approx(float(loss), rel=1e-4)


def test_running_statistics_are_learned_of_each_task_by_itself():
    module = nn.Sequential(
        nn.Conv2d(1, 4, 2), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4, 8)
    )
    family = meta.FewShot(numbered(), ways=3, queries=2)
    made = meta.Prototypical(module, family, meta_batch=4).learn(2)
    # Two steps of four tasks, of which support and query are embedded.
    assert made.dropped == 0 and made.module[1].num_batches_tracked == 16
    assert module[1].num_batches_tracked == 0
