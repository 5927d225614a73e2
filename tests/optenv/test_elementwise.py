"""Numbers of a single run follow the formulas of batches."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import optenv
from optenv import elementwise, rewards
from optenv.elementwise import as_floats, as_tensors, each, is_single
from optenv.telemetry import Control, History, Losses, Probe, observe

MLP = optenv.tasks.MLP(batch_size=8, num_train=20, inputs=4, width=6)

#: Numbers at which floats and tensors could part.
SPECIAL = [0.0, 1e-30, 0.3, 7.0, 1e300, math.inf, math.nan]


@pytest.mark.parametrize(
    "function",
    [
        lambda x: elementwise.log(elementwise.clamp(x, low=1e-30)),
        elementwise.sqrt,
        elementwise.asinh,
        lambda x: elementwise.clamp(x, high=1.0),
        lambda x: elementwise.clamp(x, -0.5, 0.5),
        lambda x: elementwise.bounded(x, 4.0),
        lambda x: elementwise.bounded(-x, 4.0),
        lambda x: elementwise.minimum(x, 0 * x + 0.5),
        lambda x: elementwise.minimum(0 * x + 0.5, x),
        lambda x: elementwise.lerp(x, 2 * x, 0.1),
        lambda x: elementwise.where(elementwise.isfinite(x), x, -1.0),
        lambda x: elementwise.where(elementwise.invert(x > 1), x, -1.0),
        lambda x: elementwise.number_of(x > 1, x),
        elementwise.zeros_like,
    ],
)
def test_a_float_follows_the_formula_of_a_tensor(function):
    expected = function(torch.tensor(SPECIAL, dtype=torch.float64)).numpy()
    found = [function(number) for number in SPECIAL]
    np.testing.assert_allclose(found, expected, rtol=1e-14)


def test_each_stacks_tensors_and_walks_through_floats():
    numbers, others = (1.0, 2.0, 3.0), (4.0, 5.0, 6.0)
    expected = each(torch.add, *([torch.tensor([x]) for x in s] for s in (numbers, others)))
    assert each(lambda a, b: a + b, numbers, others) == (5.0, 7.0, 9.0)
    assert [part.tolist() for part in expected] == [[5.0], [7.0], [9.0]]


def test_a_tree_of_tensors_becomes_floats_and_tensors_again():
    tree = (Losses(*(torch.tensor([x]) for x in (1.0, 2.0, 3.0))), None, 4)
    floats = as_floats(tree)
    assert floats == (Losses(1.0, 2.0, 3.0), None, 4) and isinstance(floats[0], Losses)
    back = as_tensors(floats[0], tree[0].mean)
    assert all(torch.equal(a, b) for a, b in zip(back, tree[0], strict=True))


def test_only_a_run_of_its_own_without_a_graph_is_single():
    one = torch.zeros(1)
    assert is_single(one)
    assert not is_single(torch.zeros(2))
    assert not is_single(one.clone().requires_grad_())
    assert not is_single(torch.zeros(1, device="meta"))


@pytest.mark.parametrize("scale", [1.0, 0.0, 1e-200, 1e200, math.inf, math.nan])
def test_the_observation_of_one_run_is_that_of_a_batch(scale):
    generator = torch.Generator().manual_seed(0)

    def draw(width):
        drawn = torch.rand(width, 1, generator=generator, dtype=torch.float64)
        return list(drawn * scale)

    single = batch = History.empty(torch.zeros(1, dtype=torch.float64))
    batch = History(*(part.repeat(2) for part in batch))
    for step in range(4):
        probe, losses = Probe(*draw(7)), Losses(torch.full((1,), float(step)), *draw(2))
        control = Control(torch.tensor([step / 4.0]).double(), 40, *(3 * [probe.grad_sq]))
        found, single = observe(probe, losses, single, control)
        twice = [
            type(part)(*(x.repeat(2) if isinstance(x, torch.Tensor) else x for x in part))
            for part in (probe, losses, control)
        ]
        expected, batch = observe(*twice[:2], batch, twice[2])
        torch.testing.assert_close(found[0], expected[0], rtol=1e-12, atol=1e-12)
        for one, two in zip(single, batch, strict=True):
            torch.testing.assert_close(
                one[0], two[0], rtol=1e-12, atol=1e-12, equal_nan=True
            )


@pytest.mark.parametrize("loss", [0.0, 0.5, 1.0, 50.0, -1.0, math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("initial", [1.0, 0.0, -2.0])
def test_the_potential_of_one_run_is_that_of_a_batch(loss, initial):
    losses = torch.tensor([[loss, 0.7]], dtype=torch.float64)
    first = torch.tensor([[initial, 1.0]], dtype=torch.float64)
    reward = rewards.get("log_loss")
    potential, diverged = reward.evaluate(losses, first)
    expected = reward.evaluate(losses.repeat(2, 1), first.repeat(2, 1))
    torch.testing.assert_close(potential[0], expected[0][0], rtol=1e-12, atol=1e-12)
    assert diverged[0] == expected[1][0]


@pytest.mark.parametrize("updates", [1, 3])
def test_a_single_environment_is_that_of_a_batch_to_twelve_digits(updates):
    arguments = {
        "tasks": MLP, "horizon": 12, "updates_per_step": updates, "dtype": "float64",
        "objective": "both",
    }  # fmt: skip
    single, batch = (optenv.LearningRateVectorEnv(n, **arguments) for n in (1, 3))
    alone, together = single.reset(seed=5)[0], batch.reset(seed=5)[0]
    rng = np.random.default_rng(0)
    for _ in range(12):
        np.testing.assert_allclose(alone[0], together[0], rtol=1e-12, atol=1e-12)
        action = rng.uniform(-1, 1, (3, 1))
        alone, reward, *_ = single.step(action[:1])
        together, rewards_of_all, *_ = batch.step(action)
        np.testing.assert_allclose(reward[0], rewards_of_all[0], rtol=1e-12, atol=1e-12)
