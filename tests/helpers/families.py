"""Checks that every family of tasks should pass."""

from __future__ import annotations

import dataclasses
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.utils.env_checker import check_env

from optenv import core, rules, tasks
from tests.helpers.small_runs import assert_same, random_actions, rollout, sample_runs

ID = "optenv/LearningRate-v0"


def axes_of(task: tasks.Task) -> dict[str, Any]:
    """Return the fields of a task, without those that differ whatever it trains on."""
    return {
        field.name: getattr(task, field.name)
        for field in dataclasses.fields(task)
        if field.init and field.name not in ("split", "data_seed")
    }


def check_environment(spec: tasks.TaskSpec) -> None:
    """Check Gymnasium's API with ``tasks=spec``, and that a seed repeats a run."""
    env = gym.make(ID, tasks=spec, horizon=4, updates_per_step=2)
    check_env(env.unwrapped, skip_render_check=True)
    trajectory = random_actions(env.action_space, 4)
    assert_same(rollout(env, trajectory, seed=3), rollout(env, trajectory, seed=3))


def check_single_equals_batch(task: tasks.Task) -> None:
    """Check that a run is the same alone and in a batch, in float64."""
    arguments = {"tasks": task, "horizon": 4, "updates_per_step": 3, "dtype": "float64"}
    single, batch = gym.make(ID, **arguments), gym.make_vec(ID, 3, **arguments)
    trajectory = random_actions(batch.action_space, 4)
    together = rollout(batch, trajectory, seed=5)
    alone = rollout(single, [action[1] for action in trajectory], seed=6)
    np.testing.assert_allclose(together[0][0][1], alone[0][0], rtol=1e-9, atol=1e-12)
    assert len(together) == len(alone) == 5
    for step, own in zip(together[1:], alone[1:], strict=True):
        np.testing.assert_allclose(step[0][1], own[0], rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(step[1][1], own[1], rtol=1e-9, atol=1e-12)


def progress(task: tasks.Task, lr: float, updates: int, runs: int = 16) -> torch.Tensor:
    """Return the loss of each run after training by Adam, relative to the loss before."""
    data, params = sample_runs(task, runs, dtype=torch.float32)
    rule = rules.get("adam")
    state = core.start(task, rule, data, params)
    state = core.advance(task, rule, data, state, torch.full((updates, runs), lr))
    batch = data.train(128)
    before, after = (
        core.evaluate(task, at, batch, data, state.buffers) for at in (params, state.params)
    )
    assert bool((before.isfinite() & after.isfinite()).all())
    return after / before
