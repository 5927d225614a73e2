"""Learning from streams: what streams are, and what learners of them do."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

from agents.meta.continual.la_maml import LaMAML
from agents.meta.continual.oml import OML, Streams
from agents.meta.continual.online import OnlineSGD, Replay, Retention
from agents.meta.continual.replay_memory import ReplayMemory
from agents.meta.continual.streams import DigitStream, SineStream, Stream
from agents.meta.families.episodes import Examples
from optenv.tasks.stacked import flat


def perceptron(inputs=64, outputs=10, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers = nn.Linear(inputs, 16), nn.ReLU(), nn.Linear(16, outputs)
        return nn.Sequential(*layers)


def drawn(stream, seed=0):
    return stream.sample(np.random.default_rng(seed))


def rows(pictures):
    return {tuple(row) for row in pictures.flatten(0, -2).tolist()}


def test_permuted_tasks_are_the_digits_with_pixels_in_other_places():
    stream = drawn(DigitStream("permuted", tasks=3, examples=100, tests=50))
    assert stream.inputs.shape == (3, 100, 64) and stream.test_targets.shape == (3, 50)
    again = drawn(DigitStream("permuted", tasks=1, examples=100, tests=50))
    ink = stream.inputs.sum(2).sort(1).values
    assert ink.std() > 1 and (stream.inputs.std(1) > 0).sum(1).min() > 50
    # A pixel that never has ink is another one in each task.
    blank = (stream.inputs.amax(1) == 0).long()
    assert not torch.equal(blank[0], blank[1])
    assert again.inputs.shape[0] == 1


def test_rotated_tasks_are_the_digits_turned():
    stream = drawn(DigitStream("rotated", tasks=2, examples=400, tests=100))
    whole = torch.cat([stream.inputs, stream.test_inputs], dim=1)
    # Of two tasks, one is not turned and the other is by 90 degrees.
    pictures = whole.unflatten(2, (8, 8))
    turned = torch.rot90(pictures, 1, (2, 3)).flatten(2)
    back = torch.rot90(pictures, -1, (2, 3)).flatten(2)
    known = [
        len(rows(whole[:1]) & rows(other.round(decimals=6)[1:])) for other in (turned, back)
    ]
    assert max(known) > 100


def test_other_labels_are_the_same_in_all_tasks_of_a_stream():
    bunch = load_digits()
    ink = np.sort(bunch.data / 16, axis=1).astype(np.float32)  # wherever the pixels are
    known = dict(zip(map(tuple, ink.tolist()), bunch.target.tolist(), strict=True))
    names = []
    for seed in (0, 1):
        stream = drawn(
            DigitStream("permuted", tasks=3, examples=150, relabelled=True), seed
        )
        ink = stream.inputs.flatten(0, 1).sort(1).values
        labels = stream.targets.flatten().tolist()
        pairs = {
            (known[tuple(row)], n) for row, n in zip(ink.tolist(), labels, strict=True)
        }
        assert len(pairs) == 10
        names.append(dict(pairs))
    assert names[0] != names[1]


def test_streams_to_learn_and_to_be_tested_on_share_no_digit():
    whole = {"examples": 800, "tests": 98, "tasks": 1}
    train, test = (drawn(DigitStream(split=split, **whole)) for split in ("train", "test"))
    seen, asked = (torch.cat([s.inputs, s.test_inputs], dim=1) for s in (train, test))
    assert len(rows(seen)) > 890 and not rows(seen) & rows(asked)


def test_waves_are_told_apart_by_their_number():
    stream = drawn(SineStream(tasks=4))
    assert stream.inputs.shape == (4, 40, 5) and stream.test_targets.shape == (4, 50, 1)
    for task in range(4):
        assert (stream.inputs[task, :, 1:] == torch.eye(4)[task]).all()
        x = stream.inputs[task, :, 0].double()
        basis = torch.stack([x.sin(), x.cos()], dim=1)
        found = torch.linalg.lstsq(basis, stream.targets[task].double()).solution
        torch.testing.assert_close(
            basis @ found, stream.targets[task].double(), atol=1e-5, rtol=0
        )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "mirrored"}, "unknown kind 'mirrored'; valid: rotated, permuted"),
        ({"split": "all"}, "unknown split 'all'; valid: train, test"),
        ({"tasks": 0}, "tasks must be a positive integer, got 0"),
        ({"examples": 800}, "must be at most 898 together"),
    ],
)
def test_bad_streams_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        DigitStream(**arguments)


def test_forgetting_is_what_was_known_and_is_not_any_more():
    scores = np.array([[0.9, 0.1, 0.1], [0.7, 0.8, 0.1], [0.5, 0.6, 1.0]])
    found = Retention(scores)
    assert found.average == pytest.approx(0.7)
    assert found.forgetting == pytest.approx((0.4 + 0.2) / 2)


def test_online_descent_is_sgd_and_tests_follow_each_task():
    stream = drawn(DigitStream(tasks=2, examples=40, tests=30))
    found = OnlineSGD(perceptron(), "cross_entropy", lr=0.1).follow(stream, batch=10)
    module = perceptron()
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


@pytest.mark.parametrize("learner", [OnlineSGD, Replay])
def test_a_glance_is_a_step_on_the_same_batch(learner):
    batch = torch.rand(4, 64), torch.arange(4)
    twice = learner(perceptron(), "cross_entropy", lr=0.1, glances=2)
    twice.observe(*batch)
    once = OnlineSGD(perceptron(), "cross_entropy", lr=0.1)
    for _ in range(2):
        once.observe(*batch)
    torch.testing.assert_close(twice.params, once.params)
    with pytest.raises(ValueError, match="glances must be a positive integer, got 0"):
        learner(perceptron(), "cross_entropy", lr=0.1, glances=0)


def test_every_example_of_the_stream_is_as_likely_to_be_kept():
    counts = np.zeros(20)
    for seed in range(600):
        memory = ReplayMemory(5, np.random.default_rng(seed))
        for i in range(0, 20, 4):
            memory.add(torch.arange(i, i + 4)[:, None], torch.arange(i, i + 4))
        kept = [int(target) for _, target in memory.examples]
        assert len(set(kept)) == 5
        counts[kept] += 1
    assert np.abs(counts - 150).max() < 4.5 * np.sqrt(600 * 0.25 * 0.75)


def test_what_is_replayed_was_seen():
    memory = ReplayMemory(5, np.random.default_rng(0))
    batch = torch.randn(3, 2), torch.arange(3)
    assert memory.sample(2) is None and memory.join(*batch, 2) == batch
    memory.add(*batch)
    inputs, targets = memory.join(*batch, 9)
    assert len(inputs) == 6 and sorted(targets[3:].tolist()) == [0, 1, 2]
    for row, target in zip(inputs[3:], targets[3:], strict=True):
        assert torch.equal(row, batch[0][target])


def test_looking_ahead_spares_what_the_memory_needs():
    """One example and one glance, against the gradient written out."""
    learner = LaMAML(
        perceptron(), "cross_entropy", lr=0.2, rate_lr=0.5, clip=1e9, glances=1
    )
    old = torch.rand(3, 64), torch.tensor([1, 2, 3])
    learner.memory.add(*old)
    new = torch.rand(1, 64), torch.tensor([4])
    start = learner.params.clone()
    learner.observe(*new)

    def gradient(params, inputs, targets):
        module = perceptron()
        nn.utils.vector_to_parameters(params[0], module.parameters())
        F.cross_entropy(module(inputs), targets).backward()
        return torch.cat([p.grad.flatten() for p in module.parameters()])[None]

    inner = gradient(start, *new)
    ahead = start - 0.2 * inner
    outer = gradient(ahead, torch.cat([new[0], old[0]]), torch.cat([new[1], old[1]]))
    rates = 0.2 - 0.5 * (-inner * outer)
    torch.testing.assert_close(learner.rates, rates)
    torch.testing.assert_close(learner.params, start - rates.relu() * outer)


def test_replay_and_looking_ahead_remember_more_than_descent():
    stream = drawn(DigitStream("permuted", tasks=5, examples=150, tests=150))
    made = {
        "descent": OnlineSGD(perceptron(), "cross_entropy", lr=0.1),
        "replay": Replay(perceptron(), "cross_entropy", lr=0.1, glances=3),
        "look-ahead": LaMAML(perceptron(), "cross_entropy", lr=0.15, glances=3),
    }
    found = {name: learner.follow(stream).average for name, learner in made.items()}
    assert min(found["replay"], found["look-ahead"]) > found["descent"] + 0.1


def oml(**arguments):
    family = Streams(SineStream(tasks=3, examples=8, tests=5))
    return OML(perceptron(4, 1), family, adapts=["2."], **arguments)


def test_streams_as_tasks_keep_their_order():
    family = Streams(SineStream(tasks=3, examples=8, tests=5))
    support, query = family.sample(2, np.random.default_rng(0))
    first = drawn(family.stream)
    assert support.inputs.shape == (2, 24, 4) and query.targets.shape == (2, 15, 1)
    assert torch.equal(support.inputs[0], first.inputs.flatten(0, 1))
    assert torch.equal(query.targets[0], first.test_targets.flatten(0, 1))


def test_the_inner_loop_is_what_learns_the_stream_afterwards():
    learner, stream = oml(inner_batch=4), drawn(SineStream(tasks=3, examples=8, tests=5))
    support = Examples(*(part.flatten(0, 1)[None] for part in stream[:2]))
    *_, last = learner._adapted(support, learner.inner_steps)
    online = learner.online()
    online.follow(stream, batch=4)
    torch.testing.assert_close(online.params, last.detach())
    learned = last != learner.initial
    assert learned[0, learner.mask].any() and not learned[0, ~learner.mask].any()


def test_learning_to_learn_from_streams_helps_to_learn_from_them():
    learner = oml(inner_batch=4, inner_lr=0.02, meta_lr=0.003)
    streams = [drawn(learner.family.stream, seed) for seed in range(30)]

    def score():
        return np.array([learner.online().follow(s, batch=4).average for s in streams])

    before = score()
    learner.learn(150)
    gain = score() - before
    assert gain.mean() > 4 * gain.std() / np.sqrt(30)
    assert not torch.equal(learner.initial, flat(perceptron(4, 1)))


def test_a_stream_can_be_ones_own():
    task = torch.rand(2, 20, 4), torch.rand(2, 20, 1)
    found = OnlineSGD(perceptron(4, 1), "mse", lr=0.01).follow(Stream(*task, *task))
    assert found.scores.shape == (2, 2) and (found.scores <= 0).all()
