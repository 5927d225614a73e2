"""PPO and DQN learn to beat the best constant action, on runs not trained on."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode

from agents import load_policy
from agents.rl import factory, training
from agents.rl.presets import PRESETS

RUNS = 256
SETTINGS = {"horizon": 20, "updates_per_step": 4, "on_divergence": "absorb"}
TRAIN = ["quadratic", "logistic"]
TEST = ["quadratic/test", "logistic/test"]

BUDGET = {
    "ppo": {"timesteps": 30_720, "overrides": {"n_steps": 20, "batch_size": 512}},
    "dqn": {"timesteps": 40_960, "overrides": {"learning_starts": 5_120}},
}


def returns(env_id, base_lr, act):
    """Return of each of the 256 test runs, whose observations ``act`` maps to actions."""
    env = gym.make_vec(
        env_id, RUNS, tasks=TEST, groups=16, base_lr=base_lr,
        autoreset_mode=AutoresetMode.DISABLED, **SETTINGS,
    )  # fmt: skip
    observation, _ = env.reset(seed=10_000)
    total = np.zeros(RUNS)
    for _ in range(SETTINGS["horizon"]):
        observation, reward, terminated, _, _ = env.step(act(observation))
        total += reward
    assert terminated.all()
    return total


def constant(action, discrete):
    batch = np.full(RUNS, action) if discrete else np.full((RUNS, 1), action, np.float32)
    return lambda observation: batch


def best_constant(env_id, base_lr):
    """Return the returns of the constant action with the highest mean return."""
    discrete = "Discrete" in env_id
    actions = range(7) if discrete else np.linspace(-1, 1, 21)
    found = [returns(env_id, base_lr, constant(a, discrete)) for a in actions]
    return max(found, key=np.mean)


@pytest.mark.slow
@pytest.mark.training
@pytest.mark.parametrize("base_lr", [1e-2, (1e-4, 1e-1)], ids=["fixed", "random"])
@pytest.mark.parametrize("agent", ["ppo", "dqn"])
def test_an_agent_beats_the_best_constant_action(agent, base_lr, tmp_path):
    env_id = PRESETS[agent]["env_id"]
    env = factory.make_env(
        env_id, 128, {"tasks": TRAIN, "groups": 8, "base_lr": base_lr, **SETTINGS}
    )
    budget = BUDGET[agent]
    model = factory.make_model(agent, env, seed=0, overrides=budget["overrides"])
    training.learn(model, budget["timesteps"], tmp_path, progress=False)
    policy = load_policy(tmp_path / "policy")
    learned = returns(env_id, base_lr, lambda o: policy(torch.from_numpy(o)).numpy())
    constant_returns = best_constant(env_id, base_lr)
    gain = learned - constant_returns
    error = gain.std(ddof=1) / np.sqrt(RUNS)
    print(f"{agent} {base_lr}: {learned.mean():.3f} against {constant_returns.mean():.3f}")
    assert gain.mean() - 1.96 * error > 0
