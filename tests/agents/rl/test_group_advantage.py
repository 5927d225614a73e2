"""Leave-one-out rewards, and buffers that normalise returns per group."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium import spaces

from agents.rl import factory
from agents.rl.group_advantage import (
    LEAST_SPREAD,
    GroupNormalisedReplayBuffer,
    GroupNormalisedRolloutBuffer,
    LeaveOneOutReward,
)
from tests.helpers.small_runs import MLP

ARGUMENTS = {
    "tasks": MLP, "horizon": 4, "updates_per_step": 2, "base_lr": (1e-3, 1e-1),
    "on_divergence": "absorb",
}  # fmt: skip


def make_env(num_envs=8, copies=4, action=""):
    env_id = f"optenv/{action}LearningRate-v0"
    return factory.make_env(env_id, num_envs, ARGUMENTS, copies=copies)


def walk(env, actions):
    env.seed(3)
    observations, rewards = [env.reset()], []
    for action in actions:
        observation, reward, _, infos = env.step(action)
        observations.append(observation)
        rewards.append(reward)
    return np.array(observations), np.array(rewards), infos


def test_copies_with_equal_actions_observe_the_same_and_earn_zero():
    actions = np.random.default_rng(0).uniform(-1, 1, (6, 2, 1, 1)).astype(np.float32)
    alike = np.broadcast_to(actions, (6, 2, 4, 1)).reshape(6, 8, 1)
    observations, rewards, _ = walk(make_env(), alike)  # beyond the end of the runs
    blocks = observations.reshape(7, 2, 4, -1)
    np.testing.assert_array_equal(blocks, np.broadcast_to(blocks[:, :, :1], blocks.shape))
    assert not np.allclose(blocks[:, 0], blocks[:, 1])
    np.testing.assert_allclose(rewards, 0, atol=1e-6)


def test_rewards_are_relative_to_the_mean_of_the_other_copies():
    actions = np.random.default_rng(0).uniform(-1, 1, (4, 8, 1)).astype(np.float32)
    env = make_env()
    _, relative, infos = walk(env, actions)
    plain = env.venv
    plain.seed(3)
    env.seed(3)
    plain.reset()
    absolute = np.array([plain.step(action)[1] for action in actions])
    for i in range(8):
        block = range(i // 4 * 4, i // 4 * 4 + 4)
        others = [absolute[:, j] for j in block if j != i]
        expected = absolute[:, i] - np.mean(others, 0)
        np.testing.assert_allclose(relative[:, i], expected, rtol=1e-4, atol=1e-5)
    returns = [info["episode"]["r"] for info in infos]  # logged returns stay absolute
    np.testing.assert_allclose(returns, absolute.sum(0), atol=1e-5)


def test_without_a_seed_blocks_still_share_one():
    seeds = make_env().seed()
    assert seeds[:4] == [seeds[0]] * 4 and seeds[4:] == [seeds[0] + 1] * 4


@pytest.mark.parametrize("copies", [3, 0, -4, 1])
def test_copies_must_divide_the_number_of_runs(copies):
    with pytest.raises(ValueError, match=rf"divide num_envs \(8\), got {copies}"):
        LeaveOneOutReward(make_env(copies=1), copies)


def test_ppo_learns_from_group_normalised_rewards():
    env = make_env()
    model = factory.make_model("ppo", env, overrides={"n_steps": 4})
    assert isinstance(model.rollout_buffer, GroupNormalisedRolloutBuffer)
    assert model.rollout_buffer.group == 8
    model.learn(64)
    assert all(p.isfinite().all() for p in model.policy.parameters())
    plain = factory.make_model("ppo", make_env(copies=1), overrides={"n_steps": 4})
    assert not isinstance(plain.rollout_buffer, GroupNormalisedRolloutBuffer)


def test_dqn_learns_from_group_normalised_rewards():
    env = make_env(action="Discrete")
    model = factory.make_model("dqn", env, overrides={"learning_starts": 16, "n_steps": 3})
    buffer = model.replay_buffer
    assert isinstance(buffer, GroupNormalisedReplayBuffer)
    assert (buffer.group, buffer.n_steps, buffer.gamma) == (8, 3, 1.0)
    model.learn(64)  # two runs of each environment
    returns = buffer.rewards[:8].reshape(2, 4, 8).sum(1)
    assert (returns.std(1) > 0.5).all() and (returns.std(1) < 1).all()
    assert all(p.isfinite().all() for p in model.policy.parameters())
    plain = factory.make_model("dqn", make_env(copies=1, action="Discrete"))
    assert not isinstance(plain.replay_buffer, GroupNormalisedReplayBuffer)


def test_rollouts_must_hold_whole_runs_of_whole_groups():
    with pytest.raises(ValueError, match=r"n_steps must be 4, .* got 8"):
        factory.make_model("ppo", make_env(), overrides={"n_steps": 8})
    uneven = factory.make_env(
        "optenv/LearningRate-v0", 12, {**ARGUMENTS, "groups": 2}, copies=4
    )
    with pytest.raises(ValueError, match=r"copies \(4\) must divide .* sizes \[6\]"):
        factory.make_model("ppo", uneven, overrides={"n_steps": 4})


def filled(rewards, group):
    steps, envs = rewards.shape
    box = spaces.Box(-1, 1, (1,))
    buffer = GroupNormalisedRolloutBuffer(
        steps, box, box, n_envs=envs, gamma=1.0, group=group
    )
    zero = torch.zeros(envs, 1)
    starts = np.ones(envs)
    for reward in rewards:
        buffer.add(zero.numpy(), zero.numpy(), reward, starts, zero, zero[:, 0])
        starts = np.zeros(envs)
    buffer.compute_returns_and_advantage(torch.zeros(envs, 1), np.ones(envs))
    return buffer


def test_returns_of_every_group_get_the_same_standard_deviation():
    rng = np.random.default_rng(0)
    rewards = rng.standard_normal((5, 8)) * np.repeat([100.0, 10.0], 4)
    buffer = filled(rewards, group=4)
    spread = rewards.sum(0).reshape(2, 4).std(1)
    expected = rewards / np.repeat(spread + LEAST_SPREAD, 4)
    np.testing.assert_allclose(buffer.rewards, expected, rtol=1e-5)
    # With gamma 1 and no value function, returns are sums of future rewards
    np.testing.assert_allclose(buffer.returns[-1], expected[-1], rtol=1e-4)


def test_a_group_of_equal_returns_stays_finite():
    assert np.isfinite(filled(np.zeros((5, 8)), group=4).returns).all()


def replayed(rewards, group, size, length=5):
    """Return a buffer of ``size`` control steps with runs of ``length`` added to it."""
    envs = rewards.shape[1]
    box, index = spaces.Box(-1, 1, (1,)), spaces.Discrete(2)
    buffer = GroupNormalisedReplayBuffer(
        size * envs, box, index, n_envs=envs, n_steps=3, gamma=1.0, group=group
    )
    zero = np.zeros((envs, 1), np.float32)
    for i, reward in enumerate(rewards, 1):
        done = np.full(envs, i % length == 0)
        buffer.add(zero, zero, zero, reward, done, [{}] * envs)
    return buffer


def test_a_replay_buffer_scales_runs_at_their_end_also_where_it_wraps():
    rng = np.random.default_rng(0)
    rewards = rng.standard_normal((12, 8)) * np.repeat([100.0, 10.0], 4)
    expected = rewards.copy()
    for begin in (0, 5):  # two whole runs, and two control steps of a third
        run = rewards[begin : begin + 5]
        spread = run.sum(0).reshape(2, 4).std(1)
        expected[begin : begin + 5] = run / np.repeat(spread + LEAST_SPREAD, 4)
    np.testing.assert_allclose(replayed(rewards, 4, 20).rewards[:12], expected, rtol=1e-5)
    small = replayed(rewards, 4, 8).rewards  # holds the last eight steps
    np.testing.assert_allclose(np.roll(small, -4, 0), expected[4:], rtol=1e-5)


def test_a_replay_buffer_must_hold_whole_runs():
    with pytest.raises(ValueError, match="must hold whole runs, got 4 control steps"):
        replayed(np.zeros((5, 8)), group=4, size=4)
    with pytest.raises(ValueError, match=r"divide num_envs \(8\), got 3"):
        replayed(np.zeros((5, 8)), group=3, size=4)


@pytest.mark.parametrize("group", [3, 1, 0])
def test_groups_must_divide_the_number_of_runs(group):
    with pytest.raises(ValueError, match=rf"divide num_envs \(8\), got {group}"):
        filled(np.zeros((5, 8)), group)
