"""Continual learners: their updates against references, and what they retain."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from agents import meta
from agents.meta.continual.replay_memory import ReplayMemory
from optenv.tasks.stacked import flat
from tests.helpers.meta_tasks import STREAMS, embedding, sample_stream, stream_network


def test_forgetting_is_the_mean_decrease_of_scores():
    scores = np.array([[0.9, 0.1, 0.1], [0.7, 0.8, 0.1], [0.5, 0.6, 1.0]])
    found = meta.Retention(scores)
    assert found.average == pytest.approx(0.7)
    assert found.forgetting == pytest.approx((0.4 + 0.2) / 2)


def test_online_sgd_equals_sgd_and_tests_after_each_task():
    stream = sample_stream(meta.DigitStream(tasks=2, examples=40, tests=30))
    learner = meta.OnlineSGD(stream_network(), "cross_entropy", lr=0.1)
    found = learner.follow(stream, batch=10)
    module = stream_network()
    sgd = torch.optim.SGD(module.parameters(), lr=0.1)
    for task in range(2):
        for part in range(4):
            here = slice(10 * part, 10 * part + 10)
            sgd.zero_grad()
            outputs = module(stream.inputs[task, here])
            F.cross_entropy(outputs, stream.targets[task, here]).backward()
            sgd.step()
        for other in range(2):
            answers = module(stream.test_inputs[other]).argmax(1)
            right = (answers == stream.test_targets[other]).float().mean()
            assert found.scores[task, other] == pytest.approx(float(right))


@pytest.mark.parametrize("learner", [meta.OnlineSGD, meta.Replay])
def test_glance_is_a_step_on_the_same_batch(learner):
    batch = torch.rand(4, 64), torch.arange(4)
    twice = learner(stream_network(), "cross_entropy", lr=0.1, glances=2)
    twice.observe(*batch)
    once = meta.OnlineSGD(stream_network(), "cross_entropy", lr=0.1)
    for _ in range(2):
        once.observe(*batch)
    torch.testing.assert_close(twice.params, once.params)
    with pytest.raises(ValueError, match="glances must be a positive integer, got 0"):
        learner(stream_network(), "cross_entropy", lr=0.1, glances=0)


def test_custom_stream_can_be_followed():
    task = torch.rand(2, 20, 4), torch.rand(2, 20, 1)
    learner = meta.OnlineSGD(stream_network(inputs=4, outputs=1), "mse", lr=0.01)
    found = learner.follow(meta.Stream(*task, *task))
    assert found.scores.shape == (2, 2) and (found.scores <= 0).all()


# Replay.


def test_reservoir_keeps_each_example_equally_often():
    counts = np.zeros(20)
    for seed in range(600):
        memory = ReplayMemory(5, np.random.default_rng(seed))
        for i in range(0, 20, 4):
            memory.add(torch.arange(i, i + 4)[:, None], torch.arange(i, i + 4))
        stored = [int(target) for _, target in memory.examples]
        assert len(set(stored)) == 5
        counts[stored] += 1
    assert np.abs(counts - 150).max() < 4.5 * np.sqrt(600 * 0.25 * 0.75)


def test_replayed_examples_are_of_the_stream():
    memory = ReplayMemory(5, np.random.default_rng(0))
    batch = torch.randn(3, 2), torch.arange(3)
    assert memory.sample(2) is None and memory.join(*batch, 2) == batch
    memory.add(*batch)
    inputs, targets = memory.join(*batch, 9)
    assert len(inputs) == 6 and sorted(targets[3:].tolist()) == [0, 1, 2]
    for row, target in zip(inputs[3:], targets[3:], strict=True):
        assert torch.equal(row, batch[0][target])


def test_replay_of_no_examples_equals_online_sgd():
    batch = torch.rand(4, 3), torch.arange(4) % 3
    module = embedding()
    plain, replay = (
        learner(module, "cross_entropy", lr=0.1, **arguments)
        for learner, arguments in ((meta.OnlineSGD, {}), (meta.Replay, {"replayed": 0}))
    )
    for learner in (plain, replay, plain, replay):
        learner.observe(*batch)
    assert torch.equal(plain.params, replay.params)
    with pytest.raises(ValueError, match="replayed must be an integer from 0 on, got -1"):
        meta.Replay(module, "cross_entropy", lr=0.1, replayed=-1)


# La-MAML.


def test_la_maml_equals_its_gradient_written_out():
    """One example and one glance."""
    learner = meta.LaMAML(
        stream_network(), "cross_entropy", lr=0.2, rate_lr=0.5, clip=1e9, glances=1
    )
    old = torch.rand(3, 64), torch.tensor([1, 2, 3])
    learner.memory.add(*old)
    new = torch.rand(1, 64), torch.tensor([4])
    start = learner.params.clone()
    learner.observe(*new)

    def gradient(params, inputs, targets):
        module = stream_network()
        nn.utils.vector_to_parameters(params[0], module.parameters())
        F.cross_entropy(module(inputs), targets).backward()
        return torch.cat([p.grad.flatten() for p in module.parameters()])[None]

    inner = gradient(start, *new)
    ahead = start - 0.2 * inner
    outer = gradient(ahead, torch.cat([new[0], old[0]]), torch.cat([new[1], old[1]]))
    rates = 0.2 - 0.5 * (-inner * outer)
    torch.testing.assert_close(learner.rates, rates)
    torch.testing.assert_close(learner.params, start - rates.relu() * outer)


@pytest.mark.slow
@pytest.mark.training
def test_replay_and_la_maml_retain_more_than_online_sgd():
    stream = sample_stream(meta.DigitStream("permuted", tasks=5, examples=150, tests=150))
    made = {
        "SGD": meta.OnlineSGD(stream_network(), "cross_entropy", lr=0.1),
        "replay": meta.Replay(stream_network(), "cross_entropy", lr=0.1, glances=3),
        "La-MAML": meta.LaMAML(stream_network(), "cross_entropy", lr=0.15, glances=3),
    }
    found = {name: learner.follow(stream).average for name, learner in made.items()}
    assert min(found["replay"], found["La-MAML"]) > found["SGD"] + 0.1


# OML.


def oml(**arguments):
    module = stream_network(inputs=4, outputs=1)
    return meta.OML(module, STREAMS, adapts=["2."], **arguments)


def test_online_learner_of_oml_equals_its_inner_loop():
    learner, stream = oml(inner_batch=4), sample_stream(STREAMS.stream)
    support = meta.Examples(*(part.flatten(0, 1)[None] for part in stream[:2]))
    *_, last = learner._adapted(support, learner.inner_steps)
    online = learner.online()
    online.follow(stream, batch=4)
    torch.testing.assert_close(online.params, last.detach())
    learned = last != learner.initial
    assert learned[0, learner.mask].any() and not learned[0, ~learner.mask].any()


@pytest.mark.slow
@pytest.mark.training
def test_oml_raises_the_average_score_on_fresh_streams():
    learner = oml(inner_batch=4, inner_lr=0.02, meta_lr=0.003)
    streams = [sample_stream(learner.family.stream, seed) for seed in range(30)]

    def score():
        return np.array([learner.online().follow(s, batch=4).average for s in streams])

    before = score()
    learner.learn(150)
    gain = score() - before
    assert gain.mean() > 4 * gain.std() / np.sqrt(30)
    assert not torch.equal(learner.initial, flat(stream_network(inputs=4, outputs=1)))
