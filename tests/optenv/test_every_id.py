"""Every id that is registered fulfils Gymnasium's contract, on the tasks of its own."""

from __future__ import annotations

import pickle
import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as sb3_check_env

from optenv import registration
from tests.helpers.small_runs import assert_same, random_actions, rollout

pytestmark = pytest.mark.slow
SHORT = {"horizon": 3, "updates_per_step": 2}


@pytest.mark.parametrize("env_id", registration.ALL)
def test_an_id_passes_the_checkers_and_repeats_its_runs(env_id: str) -> None:
    # 1. Both checkers, without a warning.
    env = gym.make(env_id, **SHORT)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env.unwrapped, skip_render_check=True)
        sb3_check_env(env.unwrapped)
    # 2. One seed, one trajectory: in the same environment, one made of its spec, a copy of
    # one that has begun, and a batch of one.
    actions = random_actions(env.action_space, 3)
    expected = rollout(env, actions, seed=5)
    again = gym.make(EnvSpec.from_json(env.spec.to_json()))
    for other in (env, again):
        assert_same(rollout(other, actions, seed=5), expected)
    again.reset(seed=5)
    copied = pickle.loads(pickle.dumps(again))
    for action, result in zip(actions, expected[1:], strict=True):
        assert_same(copied.step(action), result)
    # 3. A batch has the same spaces, and its first run the same start.
    batch = gym.make_vec(env_id, 3, **SHORT)
    assert batch.single_observation_space == env.observation_space
    assert batch.single_action_space == env.action_space
    observations, _ = batch.reset(seed=5)
    np.testing.assert_allclose(observations[0], expected[0][0], rtol=1e-3, atol=1e-3)
    # 4. It can be shown.
    shown = gym.make(env_id, render_mode="rgb_array", **SHORT)
    shown.reset(seed=5)
    shown.step(actions[0])
    frame = shown.render()
    assert frame.dtype == np.uint8 and frame.ndim == 3 and frame.std() > 0
    for each in (env, again, copied, batch, shown):
        each.close()
