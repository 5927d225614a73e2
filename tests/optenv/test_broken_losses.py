"""Losses and gradients that are not finite end their own run, in every environment."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from optenv.tasks import Task
from tests.helpers.broken_tasks import KINDS, RUNS, Broken, broken
from tests.helpers.small_runs import ENV_IDS, random_actions

#: The environments, and one of trials.
IDS = [*ENV_IDS, "optenv/LearningRateTrial-v0"]


def rollouts(env_id: str, task: Task, on_divergence: str) -> list[Any]:
    """Return observations, rewards, ends and infos of eight control steps."""
    env = gym.make_vec(
        env_id, RUNS, tasks=task, horizon=4, updates_per_step=2,
        on_divergence=on_divergence,
    )  # fmt: skip
    observation, _ = env.reset(seed=0)
    found = [(observation,)]
    for action in random_actions(env.action_space, 8):
        found.append(env.step(action))
    for observation, *rest in found:
        assert env.observation_space.contains(observation)
        assert np.isfinite(observation).all()
        if rest:
            assert np.isfinite(rest[0]).all()
            assert not np.isnan(rest[3].get("loss", 0.0)).any()  # a reset has none
    return found


@pytest.mark.parametrize("env_id", IDS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_breaks_ends_alone(env_id: str, kind: str) -> None:
    sound = rollouts(env_id, broken(kind, above=np.inf), "absorb")
    Broken.hit.zero_()
    found = rollouts(env_id, broken(kind), "absorb")
    hit = Broken.hit.numpy().copy()
    assert hit.any() and not hit.all()
    for theirs, ours in zip(sound, found, strict=True):
        np.testing.assert_array_equal(theirs[0][~hit], ours[0][~hit])
        if len(theirs) > 1:
            np.testing.assert_array_equal(theirs[1][~hit], ours[1][~hit])
    ends = [each[4]["diverged"] for each in found[1:] if "diverged" in each[4]]
    diverged = np.any(ends, axis=0)
    assert not diverged[~hit].any()
    # An agent that makes the updates by itself does not need the gradient
    assert diverged[hit].any() or (env_id, kind[:8]) == ("optenv/Update-v0", "gradient")


@pytest.mark.parametrize("env_id", IDS)
@pytest.mark.parametrize("kind", KINDS)
def test_broken_runs_are_followed_by_others(env_id: str, kind: str) -> None:
    found = rollouts(env_id, broken(kind), "end")
    assert any(each[2].any() for each in found[1:])


@pytest.mark.parametrize("env_id", IDS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_task_that_is_broken_from_the_start_gives_finite_observations(
    env_id: str, kind: str
) -> None:
    env = gym.make(env_id, tasks=broken(kind, above=-np.inf), horizon=4, updates_per_step=2)
    observation, _ = env.reset(seed=0)
    for action in random_actions(env.action_space, 4):
        assert np.isfinite(observation).all()
        observation, reward, ended, _, _ = env.step(action)
        assert np.isfinite(reward) and np.isfinite(observation).all()
        if ended:
            break
    assert ended
