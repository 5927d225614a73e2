"""Every algorithm of Stable-Baselines3 exports what it predicts, and learns."""

from __future__ import annotations

import copy
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from sb3_contrib import ARS, QRDQN, TQC, TRPO, CrossQ, MaskablePPO, RecurrentPPO
from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.vec_env import VecNormalize
from torch import nn

from agents import LearnedOptimizer, check_export, export_policy, load_policy
from optenv.sb3 import SB3VecEnv
from tests.helpers.small_runs import MLP, QUADRATIC

CONTINUOUS, DISCRETE = "optenv/LearningRate-v0", "optenv/DiscreteLearningRate-v0"
TRIAL = "optenv/LearningRateTrial-v0"

SMALL = {"net_arch": [8]}
REPLAY = {"buffer_size": 10, "policy_kwargs": SMALL}
ROLLOUT = {"n_steps": 4, "policy_kwargs": SMALL}
LSTM = {"lstm_hidden_size": 4, "net_arch": [8]}

#: Class, id, arguments, and entries of the description beside those of plain PPO.
CASES: dict[str, tuple[Any, str, dict[str, Any], dict[str, Any]]] = {
    "PPO": (PPO, "optenv/RoleLearningRate-v0", {**ROLLOUT, "batch_size": 4}, {}),
    "PPO-squashed": (
        PPO, CONTINUOUS,
        {"n_steps": 4, "batch_size": 4, "use_sde": True,
         "policy_kwargs": {**SMALL, "squash_output": True}},
        {"output": "tanh"},
    ),
    "A2C": (A2C, DISCRETE, ROLLOUT, {}),
    "TRPO": (TRPO, CONTINUOUS, {**ROLLOUT, "batch_size": 4}, {}),
    "MaskablePPO": (MaskablePPO, DISCRETE, {**ROLLOUT, "batch_size": 4}, {}),
    "DQN": (DQN, DISCRETE, REPLAY, {"activation": "relu"}),
    "QRDQN": (QRDQN, DISCRETE, REPLAY, {"activation": "relu"}),
    "SAC": (SAC, CONTINUOUS, REPLAY, {"output": "tanh"}),
    "SAC-sde": (
        SAC, "optenv/Hyperparameters-v0", {**REPLAY, "use_sde": True},
        {"output": "tanh", "output_bound": 2.0},
    ),
    "TD3": (TD3, CONTINUOUS, REPLAY, {"output": "tanh"}),
    "DDPG": (DDPG, CONTINUOUS, REPLAY, {"output": "tanh"}),
    "TQC": (TQC, CONTINUOUS, REPLAY, {"output": "tanh"}),
    "CrossQ": (CrossQ, CONTINUOUS, REPLAY, {"output": "tanh"}),
    "ARS": (ARS, CONTINUOUS, {}, {"output": "tanh"}),
    "ARS-linear": (ARS, CONTINUOUS, {"policy": "LinearPolicy"}, {"layers": [25, 1]}),
    "ARS-discrete": (ARS, DISCRETE, {"policy_kwargs": SMALL}, {}),
    "PPO-silu": (
        PPO, CONTINUOUS,
        {"n_steps": 4, "batch_size": 4,
         "policy_kwargs": {**SMALL, "activation_fn": nn.SiLU}},
        {"activation": "silu"},
    ),
    "PPO-trial": (PPO, TRIAL, {**ROLLOUT, "batch_size": 4}, {"trials": True, "runs": 2}),
    "RecurrentPPO-trial": (
        RecurrentPPO, TRIAL, {"policy_kwargs": LSTM}, {"memory": 4, "runs": 2}
    ),
    "RecurrentPPO": (
        RecurrentPPO, CONTINUOUS,
        {"policy_kwargs": {**LSTM, "shared_lstm": True, "enable_critic_lstm": False}},
        {"memory": 4, "trials": False},
    ),
    "RecurrentPPO-layers": (
        RecurrentPPO, DISCRETE, {"policy_kwargs": {**LSTM, "n_lstm_layers": 3}},
        {"memory": 4, "memory_layers": 3},
    ),
}  # fmt: skip


def environment(env_id: str, count: int = 2, **arguments: Any) -> SB3VecEnv:
    mode = AutoresetMode.DISABLED
    short = {"tasks": MLP, "horizon": 4, "updates_per_step": 2}
    if "Trial" in env_id:
        short["runs"] = 2
    return SB3VecEnv(
        gym.make_vec(env_id, count, autoreset_mode=mode, **{**short, **arguments})
    )


def made(kind: Any, env: Any, **arguments: Any) -> Any:
    name = "MlpLstmPolicy" if kind is RecurrentPPO else "MlpPolicy"
    given = {"policy": name, "seed": 0, "device": "cpu", **copy.deepcopy(arguments)}
    return kind(env=env, **given)


@torch.no_grad()
def randomise(model: Any) -> None:
    """Give a model weights whose actions differ, within their bounds."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.policy.parameters():
        drawn = torch.randn(parameter.shape, generator=generator)
        scale = 1.5 / parameter.shape[-1] ** 0.5 if parameter.dim() > 1 else 0.1
        parameter.copy_(scale * drawn)
    for name, buffer in model.policy.named_buffers():
        if name.endswith(("ra_mean", "ra_var")):  # of batch normalisation
            buffer.copy_(torch.rand(buffer.shape, generator=generator) + 0.1)


def assert_acts_alike(model: Any, path: Any, see: Any = lambda observation: observation):
    """Assert that the policy acts as the model over a few steps."""
    policy, space = load_policy(path), model.observation_space
    rng, memory, state, acted = np.random.default_rng(1), policy.blank(64), None, []
    for step in range(3):
        drawn = rng.uniform(-1, 1, (64, *space.shape)).astype(np.float32)
        expected, state = model.predict(
            see(drawn), state, np.full(64, step == 0), deterministic=True
        )
        found, memory = policy.act(torch.from_numpy(drawn), memory)
        np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=2e-6)
        acted.append(expected)
    assert np.std(acted) > 0.02, "nothing was tested"


@pytest.mark.parametrize("name", list(CASES))
def test_an_algorithm_exports_what_it_predicts(name: str, tmp_path: Any) -> None:
    kind, env_id, arguments, entries = CASES[name]
    model = made(kind, environment(env_id), **arguments)
    randomise(model)
    path = export_policy(model, tmp_path / "policy")
    assert_acts_alike(model, path)
    written = load_policy(path).description
    assert {key: written.get(key) for key in entries} == entries
    assert written["algorithm"] == kind.__name__


@pytest.mark.parametrize("kind", [PPO, RecurrentPPO])
def test_statistics_of_observations_are_exported(kind: Any, tmp_path: Any) -> None:
    arguments = {} if kind is PPO else {"policy_kwargs": LSTM}
    # Hidden losses: some features are always 0
    env = VecNormalize(environment(CONTINUOUS, loss_dropout=1.0), clip_obs=2.0)
    model = made(kind, env, **arguments)
    randomise(model)
    env.reset()
    for _ in range(20):
        env.step(np.stack([env.action_space.sample() for _ in range(2)]))
    env.obs_rms.mean += 0.3 * (env.obs_rms.mean != 0)
    path = export_policy(model, tmp_path / "policy")
    hidden = [i for i in range(25) if i not in load_policy(path).columns]

    def see(observation: np.ndarray) -> Any:
        observation[:, hidden] = 0.0
        return env.normalize_obs(observation)

    assert hidden and load_policy(path).description["normalisation"]["clip"] == 2.0
    assert_acts_alike(model, path, see)


def test_a_memory_of_single_runs_ends_with_the_run(tmp_path: Any) -> None:
    kind, env_id, arguments, _ = CASES["RecurrentPPO"]
    model = made(kind, environment(env_id), **arguments)
    randomise(model)
    path = export_policy(model, tmp_path / "policy")
    module = nn.Linear(3, 1)
    start = {name: value.clone() for name, value in module.state_dict().items()}
    optimizer = LearnedOptimizer(module.parameters(), path, total_steps=8)
    rates: list[list[float]] = [[], []]
    for run in rates:
        for _ in range(8):
            optimizer.zero_grad()
            loss = module(torch.ones(4, 3)).square().mean()
            loss.backward()
            optimizer.step(loss=loss)
            run.append(optimizer.param_groups[0]["effective_lr"])
        module.load_state_dict(start)
        optimizer.new_run()
    assert rates[0] == rates[1] and len(set(rates[0])) > 2


def test_what_cannot_be_exported_says_so_before_training() -> None:
    check_export(made(SAC, environment(CONTINUOUS), **REPLAY))
    shown = environment(TRIAL, previous_reward="given")
    with pytest.raises(ValueError, match=r"this PPO model could not be exported: .*'told'"):
        check_export(made(PPO, shown))
    mixed = {"policy_kwargs": {"activation_fn": nn.Softplus}}
    with pytest.raises(ValueError, match=r"activations Softplus.*holds one of Tanh, ReLU"):
        check_export(made(PPO, environment(CONTINUOUS), **mixed))


#: The base learning rate is far too low: raising it always pays.
LOW = {"tasks": QUADRATIC, "base_lr": 1e-3, "horizon": 6, "updates_per_step": 3}
FAST = {"learning_rate": 1e-2, "gamma": 1.0}
ROLL = {**FAST, "n_steps": 12, "batch_size": 96}
OFF = {
    "learning_rate": 3e-3, "gamma": 0.95, "learning_starts": 100, "batch_size": 64,
    "gradient_steps": -1, "policy_kwargs": {"net_arch": [32]},
}  # fmt: skip
ENTROPY = {**OFF, "ent_coef": 0.01}
NOISE = NormalActionNoise(np.zeros(1), np.full(1, 0.4))
VALUES = {
    **OFF, "exploration_fraction": 0.6, "target_update_interval": 50, "train_freq": 1,
    "gradient_steps": 4,
}  # fmt: skip
QUANTILES = {**VALUES, "policy_kwargs": {"net_arch": [32], "n_quantiles": 10}}
PERTURBED = {"n_delta": 4, "learning_rate": 0.2, "delta_std": 0.2, "policy": "LinearPolicy"}
LEARNERS: dict[Any, tuple[dict[str, Any], int]] = {
    PPO: (ROLL, 960),
    A2C: ({**FAST, "n_steps": 6, "learning_rate": 3e-3}, 1500),
    TRPO: ({**ROLL, "target_kl": 0.05}, 960),
    RecurrentPPO: ({**ROLL, "policy_kwargs": LSTM}, 960),
    DQN: (VALUES, 960),
    QRDQN: (QUANTILES, 960),
    SAC: (ENTROPY, 480),
    TQC: (ENTROPY, 480),
    TD3: ({**OFF, "action_noise": NOISE}, 480),
    ARS: (PERTURBED, 3000),
}


def mean_return(env: SB3VecEnv, act: Any) -> float:
    env.seed(123)
    observation, total = env.reset(), 0.0
    for _ in range(6):
        observation, reward, _, _ = env.step(act(observation))
        total += float(reward.mean())
    return total


@pytest.mark.slow
@pytest.mark.training
@pytest.mark.parametrize("kind", list(LEARNERS), ids=lambda kind: kind.__name__)
def test_an_algorithm_learns_and_its_policy_beats_random_actions(
    kind: Any, tmp_path: Any
) -> None:
    env_id = DISCRETE if kind in (DQN, QRDQN) else CONTINUOUS
    arguments, timesteps = LEARNERS[kind]
    model = made(kind, environment(env_id, 8, **LOW), **arguments)
    check_export(model)
    model.learn(timesteps)
    policy = load_policy(export_policy(model, tmp_path / "policy"))
    test = environment(env_id, 64, **LOW)
    memory = policy.blank(64)

    def act(observation: np.ndarray) -> np.ndarray:
        nonlocal memory
        action, memory = policy.act(torch.from_numpy(observation), memory)
        return action.numpy()

    test.action_space.seed(0)
    learned = mean_return(test, act)
    chance = mean_return(
        test, lambda _: np.stack([test.action_space.sample() for _ in range(64)])
    )
    print(f"{kind.__name__}: {learned:.3f}, random actions {chance:.3f}")
    assert learned > 2 * chance > 0
