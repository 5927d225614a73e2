"""Properties of all families on images: splits, seeds, batches, derivatives, progress."""

from __future__ import annotations

import dataclasses
import warnings

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

import optenv  # noqa: F401
from optenv import core, rules, tasks
from optenv.tasks import CNN, VAE, Autoencoder, Contrastive
from optenv.tasks.images import IMAGE_SPLITS, ImageTask
from tests.helpers.small_runs import assert_identical, sample_runs

FAMILIES = ("cnn", "autoencoder", "vae", "contrastive")
every_family = pytest.mark.parametrize("family", FAMILIES)

SIZES = {"batch_size": 4, "num_train": 24, "num_validation": 8, "activation": "silu"}
SMALL: list[ImageTask] = [
    CNN(width=4, norm="batch", **SIZES),
    CNN(width=4, norm="group", **SIZES),
    Autoencoder(width=6, **SIZES),
    VAE(width=4, network="convolutional", **SIZES),
    Contrastive(width=6, features=4, **SIZES),
]
every_task = pytest.mark.parametrize(
    "task", SMALL, ids=["batch-norm", "group-norm", "autoencoder", "vae", "contrastive"]
)


def structures(family: str, split: str, count: int = 200) -> list[ImageTask]:
    rng = np.random.default_rng(0)
    drawn = [tasks.MORE_FAMILIES[family](rng, split) for _ in range(count)]
    assert all(isinstance(task, ImageTask) for task in drawn)
    return drawn  # type: ignore[return-value]


@every_family
def test_structures_of_the_splits_differ_in_shapes_and_widths(family):
    drawn = [structures(family, split) for split in IMAGE_SPLITS]
    shapes = [{task.shapes for task in split} for split in drawn]
    widths = [{(getattr(t, "network", ""), t.width) for t in split} for split in drawn]
    for sets in (shapes, widths):
        assert min(map(len, sets)) >= 2
        assert sum(map(len, sets)) == len(set.union(*sets))


@every_family
def test_photographs_are_in_the_ood_split_alone(family):
    for split in IMAGE_SPLITS:
        sources = {task.source for task in structures(family, split)}
        generated = {"textures", "shapes", "digits"}
        assert sources == ({"photos"} if split == "ood" else generated)
        assert {task.split for task in structures(family, split)} == {split}


@every_family
def test_the_names_train_and_test_leave_the_family_out(family):
    assert tasks.make(family).sources == ((family, "train"),)
    assert tasks.make(f"{family}/test").sources == ((family, "test"),)
    for split in tasks.SPLITS:
        assert (family, split) not in tasks.make(split).sources


@every_family
@pytest.mark.parametrize("split", IMAGE_SPLITS)
def test_adam_makes_progress_on_drawn_structures(family, split):
    cheap = sorted(structures(family, split, 40), key=lambda task: task.work)[:2]
    better = []
    for task in cheap:
        size = {"num_train": 128, "data_seed": None, "num_validation": 32}
        task = dataclasses.replace(task, **size)
        data, params = sample_runs(task, 4, dtype=torch.float32)
        rule = rules.get("adam")
        state = core.start(task, rule, data, params)
        batch = data.train(128)
        before = core.evaluate(task, params, batch, data, state.buffers)
        state = core.advance(task, rule, data, state, torch.full((60, 4), 1e-2))
        after = core.evaluate(task, state.params, batch, data, state.buffers)
        assert before.isfinite().all() and after.isfinite().all()
        better.append((before - after) / before.abs())
    # Many photographs cannot be told apart by 60 updates.
    enough = 0.01 if (family, split) == ("cnn", "ood") else 0.15
    assert (torch.stack(better) > enough).float().mean() >= 0.75


@every_task
def test_runs_repeat_by_key_and_do_not_depend_on_the_batch(task):
    first, again = sample_runs(task, 3), sample_runs(task, 3)
    assert_identical((first[0][:4], first[1]), (again[0][:4], again[1]))
    data, params = first
    for part in (data.inputs[data.rows].flatten(1), params, data.order.unsqueeze(1)):
        assert len(part.unique(dim=0)) == 3
    rule = rules.get("adam")
    lr = torch.full((3, 3), 1e-2, dtype=torch.float64)
    together = core.advance(task, rule, data, core.start(task, rule, data, params), lr)
    data, params = sample_runs(task, 1, seed=2)
    start = core.start(task, rule, data, params)
    alone = core.advance(task, rule, data, start, lr[:, :1])
    for name in ("params", "grad", "latest", "buffers"):
        torch.testing.assert_close(
            getattr(together, name)[2:], getattr(alone, name), rtol=1e-7, atol=1e-9
        )


@every_task
def test_single_environments_equal_those_of_a_batch(task):
    arguments = {"tasks": task, "horizon": 3, "updates_per_step": 2, "dtype": "float64"}
    batch = gym.make_vec("optenv/LearningRate-v0", num_envs=2, **arguments)
    first, _ = batch.reset(seed=5)
    rewards = [batch.step(np.full((2, 1), 0.3))[1] for _ in range(3)]
    for i in range(2):
        env = gym.make("optenv/LearningRate-v0", **arguments)
        observation, _ = env.reset(seed=5 + i)
        np.testing.assert_allclose(observation, first[i], rtol=1e-7, atol=1e-9)
        alone = [env.step(np.array([0.3]))[1] for _ in range(3)]
        np.testing.assert_allclose(alone, np.array(rewards)[:, i], rtol=1e-6, atol=1e-9)


@every_family
def test_environments_of_the_family_pass_the_checker(family):
    env = gym.make("optenv/LearningRate-v0", tasks=family, horizon=2, updates_per_step=1)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*no render fps.*")
        check_env(env.unwrapped, skip_render_check=True)


@every_task
def test_gradients_through_updates_equal_finite_differences(task):
    data, params = sample_runs(task, 2)
    leaf = params.requires_grad_()
    rule = rules.get("sgd")

    def final(lr: torch.Tensor) -> torch.Tensor:
        state = core.start(task, rule, data, leaf, differentiable=True)
        rates = lr.expand(2, 2)
        state = core.advance(task, rule, data, state, rates, differentiable=True)
        # Running statistics are constants to the gradient: here, those of the start.
        loss = core.evaluate(task, state.params, data.train(8), data, differentiable=True)
        return (state.latest + loss).sum()

    lr = torch.tensor(0.01, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(final(lr), lr)
    step = 1e-5
    with torch.no_grad():
        difference = (final(lr + step) - final(lr - step)) / (2 * step)
    assert slope.abs() > 1e-4
    torch.testing.assert_close(slope, difference, rtol=1e-4, atol=1e-6)
