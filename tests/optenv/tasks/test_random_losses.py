"""Losses that draw random numbers, or keep running statistics, in the run's own state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import Tensor

from optenv import core, rules
from optenv.tasks import Data, PolicyGradient
from optenv.tasks.examples import Batch
from optenv.tasks.generated import Examples, GeneratedTask


@dataclass(frozen=True)
class Dropout(GeneratedTask):
    """Linear regression whose inputs are dropped, and centred by their running mean."""

    inputs: int = 6
    rate: float = 0.5

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        return ((self.inputs,),)

    @property
    def noise(self) -> int:
        return self.inputs

    @property
    def buffers(self) -> int:
        return self.inputs

    def examples(self, rng: np.random.Generator) -> Examples:
        total = self.num_train + self.num_validation
        inputs = 1.0 + rng.standard_normal((total, self.inputs), dtype=np.float32)
        return inputs, inputs.sum(1)

    def init(self, generators: Sequence[np.random.Generator]) -> Tensor:
        drawn = [g.standard_normal(self.inputs, dtype=np.float32) for g in generators]
        return torch.from_numpy(np.stack(drawn))

    def training_loss(
        self, params: tuple[Tensor, ...], batch: Batch, buffers: Tensor
    ) -> tuple[Tensor, Tensor]:
        kept = batch.inputs * (batch.noise > 0)
        mean = batch.inputs.mean(1)
        loss = ((kept * params[0].unsqueeze(1)).sum(-1) - batch.targets).square().mean(-1)
        return loss, 0.9 * buffers + 0.1 * mean

    def evaluation_loss(
        self, params: tuple[Tensor, ...], batch: Batch, buffers: Tensor
    ) -> Tensor:
        centred = batch.inputs - buffers.unsqueeze(1)
        outputs = (centred * params[0].unsqueeze(1)).sum(-1)
        return (outputs - batch.targets).square().mean(-1)


TASK = Dropout(num_train=64, num_validation=32, batch_size=8)


def generators(runs, seed=0):
    return [np.random.default_rng(seed + i) for i in range(runs)]


def data_of(runs: int) -> Data:
    return TASK.sample(generators(runs))


def test_noise_is_standard_normal_and_independent():
    data = data_of(3)
    first = data.noise(torch.tensor([0, 0, 0]), 200, 50)
    second = data.noise(torch.tensor([1, 1, 1]), 200, 50)
    assert first.shape == (3, 200, 50)
    for numbers in (first, second):
        assert abs(numbers.mean()) < 0.02 and abs(numbers.std() - 1.0) < 0.02
        assert abs((numbers.abs() > 1.96).float().mean() - 0.05) < 0.005
    together = torch.cat([first, second]).flatten(1)
    correlations = torch.corrcoef(together) - torch.eye(6)
    assert correlations.abs().max() < 0.05
    neighbours = torch.corrcoef(torch.stack([first[..., :-1], first[..., 1:]]).flatten(1))
    assert abs(neighbours[0, 1]) < 0.02


def test_noise_of_a_run_does_not_depend_on_the_batch():
    alone, together = data_of(1), data_of(5)
    updates = torch.arange(5) + 7
    expected = together.noise(updates, 8, 6)
    torch.testing.assert_close(alone.noise(updates[:1], 8, 6), expected[:1], rtol=0, atol=0)
    some = torch.tensor([3, 1])
    assert torch.equal(together.of_runs(some).noise(updates[some], 8, 6), expected[some])


def test_each_update_draws_its_own_numbers_and_evaluations_the_same():
    data, params = data_of(4), TASK.init(generators(4, 10))
    rule = rules.get("sgd")
    state = core.start(TASK, rule, data, params)
    after = core.advance(TASK, rule, data, state, torch.zeros(3, 4))
    again = core.advance(TASK, rule, data, state, torch.zeros(3, 4))
    assert torch.equal(after.grad, again.grad) and torch.equal(after.buffers, again.buffers)
    # The parameters have not moved: only batches and dropped inputs differ.
    first = data.noise(torch.zeros(4, dtype=torch.int64), 8, 6) > 0
    second = data.noise(torch.ones(4, dtype=torch.int64), 8, 6) > 0
    assert not torch.equal(first, second)
    batch = data.validation()
    losses = [core.evaluate(TASK, params, batch, data, state.buffers) for _ in range(2)]
    assert torch.equal(*losses)


def test_training_and_validation_are_evaluated_on_other_numbers():
    task = PolicyGradient(batch_size=4, num_train=4, num_validation=4, system="reaching")
    data, params = task.sample(generators(3)), task.init(generators(3, 10))
    examples = data.train(4)
    train, validation = (
        core.evaluate(task, params, examples, data, source=source)
        for source in ("train", "validation")
    )
    assert not torch.isclose(train, validation).any()


def test_running_statistics_are_part_of_the_state():
    data, params = data_of(4), TASK.init(generators(4, 10))
    rule = rules.get("sgd")
    state = core.start(TASK, rule, data, params)
    rows = data.batch_rows(torch.zeros(4, dtype=torch.int64), 1, 8)
    torch.testing.assert_close(state.buffers, 0.1 * data.batch(rows)[0].mean(1))
    end = core.advance(TASK, rule, data, state, torch.full((200, 4), 1e-3))
    assert not end.buffers.requires_grad
    torch.testing.assert_close(end.buffers, data.train(64)[0].mean(1), rtol=0.3, atol=0.3)
    batch = data.validation()
    with_statistics = core.evaluate(TASK, end.params, batch, data, end.buffers)
    assert not torch.allclose(with_statistics, core.evaluate(TASK, end.params, batch, data))


@pytest.mark.parametrize("rule", ["sgd", "adam"])
def test_single_and_batched_runs_are_the_same(rule):
    arguments = {"tasks": TASK, "rule": rule, "horizon": 4, "dtype": "float64"}
    batch = gym.make_vec("optenv/LearningRate-v0", num_envs=3, **arguments)
    first, _ = batch.reset(seed=5)
    rewards = [batch.step(np.full((3, 1), 0.3))[1] for _ in range(4)]
    for i in range(3):
        env = gym.make("optenv/LearningRate-v0", **arguments)
        observation, _ = env.reset(seed=5 + i)
        np.testing.assert_allclose(observation, first[i], rtol=1e-9)
        alone = [env.step(np.array([0.3]))[1] for _ in range(4)]
        np.testing.assert_allclose(alone, np.array(rewards)[:, i], rtol=1e-6)


def test_a_new_run_of_a_trial_begins_with_fresh_statistics():
    batch = gym.make_vec("optenv/LearningRateTrial-v0", num_envs=2, tasks=TASK, horizon=3)
    batch.reset(seed=0)
    group = batch.groups[0][1]
    start = group.state.run.buffers.clone()
    for _ in range(2):
        batch.step(np.zeros((2, 1), np.float32))
    assert not torch.allclose(group.state.run.buffers, start)
    batch.step(np.zeros((2, 1), np.float32))  # ends the first run, and begins another
    mean = group.data.train(64)[0].mean(1)
    assert (group.state.run.buffers.abs() < 0.5 * mean.abs()).all()
