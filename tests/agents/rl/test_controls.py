"""What agents learn on controls besides one learning rate acts in optimizers, too."""

from __future__ import annotations

import json
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.env_util import make_vec_env
from torch import nn

from agents import LearnedOptimizer, check_export, export_policy, load_policy
from agents.evaluation.arms.learned import learned_arm
from agents.recurrent import RL2, LstmPolicy
from agents.rl.cli import check_policy
from agents.rl.export import describe
from agents.rl.factory import _check_action, make_env
from optenv import PerTensor
from optenv.roles import ROLES
from optenv.sb3 import SB3VecEnv
from tests.helpers.loops import STEPS, batches, make_model, train
from tests.helpers.small_runs import MLP

SHORT: dict[str, Any] = {"tasks": MLP, "horizon": 4, "updates_per_step": STEPS // 4}
ENDS = ("lowest", "highest")
NAMES = ["learning_rate", "beta1", "beta2", "weight_decay", "clip", "average"]


def environment(env_id: str, **arguments: Any) -> SB3VecEnv:
    mode = AutoresetMode.DISABLED
    if "Layerwise" in env_id:  # one run of a model with four tensors
        action = {"kind": "layerwise", "tensors": 4}
        made = gym.make_vec(
            env_id, 1, autoreset_mode=mode, action=action, **SHORT, **arguments
        )
        return SB3VecEnv(PerTensor(made))
    made = gym.make_vec(env_id, 4, autoreset_mode=mode, **SHORT, **arguments)
    return SB3VecEnv(made)


def parameters_of(model: Any) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.policy.parameters()])


@torch.no_grad()
def mean_loss(model: nn.Module) -> float:
    inputs, targets = map(torch.cat, zip(*batches(), strict=True))
    return nn.functional.cross_entropy(model(inputs), targets).item()


def train_exported(path: Any) -> LearnedOptimizer:
    """Train a small model with an exported policy; return its optimizer."""
    model = make_model()
    policy = load_policy(path)
    if policy.action.per_tensor:  # groups as the user likes
        optimizer = LearnedOptimizer(model.parameters(), total_steps=STEPS, policy=policy)
    else:
        optimizer = LearnedOptimizer.for_model(model, total_steps=STEPS, policy=policy)
    before = mean_loss(model)
    train(model, optimizer, batches())
    assert mean_loss(model) < before
    return optimizer


def assert_explains_its_control(optimizer: LearnedOptimizer, env_id: str) -> None:
    rows = optimizer.explain()
    if "Hyperparameters" in env_id:
        for name in NAMES[1:]:
            assert len({row[name] for row in rows}) > 1, name
        assert all(0.5 <= row["beta1"] <= 0.99 for row in rows)
        assert all("average" in state for state in optimizer.state.values())
        return
    if "Layerwise" in env_id:
        # At the first decision, nothing tells tensors apart.
        lowest, highest = ([row[f"multiplier_{end}"] for row in rows] for end in ENDS)
        assert lowest[0] == highest[0] == pytest.approx(rows[0]["multiplier"])
        for row, low, high in zip(rows[1:], lowest[1:], highest[1:], strict=True):
            assert low < row["multiplier"] < high
        assert "lowest factor that the policy applies to the learning rate" in str(rows)
        return
    assert [group["name"] for group in optimizer.param_groups] == [
        "matrices", "output", "vectors",
    ]  # fmt: skip
    names = [f"multiplier_{role}" for role in ROLES]
    assert len({row[name] for row in rows for name in names}) > len(rows)
    for row in rows:
        mean = np.mean([np.log(row[name]) for name in names])
        assert np.log(row["multiplier"]) == pytest.approx(mean, abs=1e-5)
        assert row["schedule"] == pytest.approx(1.0)
    rates = {group["effective_lr"] for group in optimizer.param_groups}
    assert len(rates) == 3


@pytest.mark.parametrize(
    "env_id",
    [
        "optenv/Hyperparameters-v0",
        "optenv/RoleLearningRate-v0",
        "optenv/LayerwiseLearningRate-v0",
    ],
)
def test_ppo_trains_and_its_policy_trains_a_model(env_id: str, tmp_path: Any) -> None:
    model = PPO(
        "MlpPolicy", environment(env_id), n_steps=8, batch_size=16, n_epochs=2,
        policy_kwargs={"net_arch": [8]}, learning_rate=0.01, device="cpu", seed=0,
    )  # fmt: skip
    before = parameters_of(model)
    model.learn(2 * 8 * 4)
    assert model.num_timesteps == 64 and not torch.equal(parameters_of(model), before)
    export_policy(model, tmp_path / "policy")
    # The policy acts as the model does.
    policy, space = load_policy(tmp_path / "policy"), model.observation_space
    drawn = np.random.default_rng(1).uniform(-4, 4, (64, *space.shape)).astype(np.float32)
    expected = model.predict(drawn, deterministic=True)[0].clip(-1, 1)
    np.testing.assert_allclose(policy(torch.from_numpy(drawn)), expected, atol=1e-6)
    assert_explains_its_control(train_exported(tmp_path / "policy"), env_id)


@pytest.mark.parametrize(
    "env_id",
    [
        "optenv/HyperparametersTrial-v0",
        "optenv/RoleLearningRateTrial-v0",
        "optenv/LayerwiseLearningRateTrial-v0",
    ],
)
def test_rl2_trains_on_trials_and_its_policy_trains_a_model(
    env_id: str, tmp_path: Any
) -> None:
    env = environment(env_id, runs=2, previous_reward="told")
    model = RL2(
        LstmPolicy, env, n_steps=8, batch_size=16, n_epochs=1, device="cpu", seed=0,
        policy_kwargs={"lstm_hidden_size": 4, "net_arch": [8]}, learning_rate=0.01,
    )  # fmt: skip
    before = parameters_of(model)
    model.learn(2 * 8 * 4)
    assert not torch.equal(parameters_of(model), before)
    export_policy(model, tmp_path / "policy")
    assert_explains_its_control(train_exported(tmp_path / "policy"), env_id)


@pytest.mark.parametrize(
    ("rule", "names"),
    [
        ("adam", NAMES),
        ("momentum", ["learning_rate", "momentum", "weight_decay", "clip", "average"]),
        ("rmsprop", ["learning_rate", "weight_decay", "clip", "average"]),
    ],
)
def test_an_exported_policy_names_the_hyperparameters_of_its_rule(
    rule: str, names: list[str], tmp_path: Any
) -> None:
    env = environment("optenv/Hyperparameters-v0", rule=rule)
    model = PPO("MlpPolicy", env, n_steps=2, batch_size=2, device="cpu", seed=0)
    export_policy(model, tmp_path / "policy")
    path = tmp_path / "policy.json"
    description = json.loads(path.read_text())
    assert description["action"]["names"] == names
    # A file that leaves the names open is refused: a default may change.
    for open_names in ({"names": None}, {}):
        action = {k: v for k, v in description["action"].items() if k != "names"}
        path.write_text(json.dumps({**description, "action": {**action, **open_names}}))
        with pytest.raises(ValueError, match=r"action.* must leave nothing to its rule"):
            load_policy(tmp_path / "policy")


def test_a_policy_of_roles_needs_groups_that_are_named_by_roles(tmp_path: Any) -> None:
    env = environment("optenv/RoleLearningRate-v0")
    model = PPO("MlpPolicy", env, n_steps=2, batch_size=2, device="cpu", seed=0)
    export_policy(model, tmp_path / "policy")
    network = make_model()
    path = str(tmp_path / "policy")
    with pytest.raises(
        ValueError, match=r"matrices, output, embeddings, vectors, got None"
    ):
        LearnedOptimizer(network.parameters(), total_steps=STEPS, policy=path)


def test_a_model_of_all_tensors_at_once_is_not_exported(tmp_path: Any) -> None:
    action = {"kind": "layerwise", "tensors": 4}
    env = make_vec_env(
        "optenv/LayerwiseLearningRate-v0", env_kwargs={**SHORT, "action": action}
    )
    model = PPO("MlpPolicy", env, n_steps=2, batch_size=2, device="cpu", seed=0)
    with pytest.raises(ValueError, match=r"train on batches in an optenv\.PerTensor"):
        export_policy(model, tmp_path / "policy")


def test_an_agent_s_batch_sizes_become_advice_to_a_loop(tmp_path: Any) -> None:
    env = environment("optenv/BatchSize-v0")
    agent = PPO("MlpPolicy", env, n_steps=8, batch_size=16, device="cpu", seed=0)
    check_export(agent)
    agent.learn(2 * 8 * 4)
    policy = load_policy(export_policy(agent, tmp_path / "policy"))
    space = agent.observation_space
    drawn = np.random.default_rng(1).uniform(-4, 4, (64, *space.shape)).astype(np.float32)
    expected = agent.predict(drawn, deterministic=True)[0]
    assert len({*expected.tolist()}) > 2
    np.testing.assert_array_equal(policy(torch.from_numpy(drawn)), expected)
    model = make_model()
    optimizer = LearnedOptimizer(model.parameters(), policy, total_steps=9, batch_size=8)
    for inputs, targets in batches():
        rows = torch.arange(optimizer.batch_size) % len(inputs)
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(inputs[rows]), targets[rows])
        loss.backward()
        optimizer.step(loss=loss)
        if optimizer.progress == 1:
            break
    assert optimizer.progress == 1
    sizes = {row["batch_size"] for row in optimizer.explain()}
    assert sizes <= {2, 4, 8, 16, 32, 64}
    # Tasks of the evaluation have batches of one size, which is said before a training.
    with pytest.raises(ValueError, match="'batch-size' can be evaluated on them"):
        learned_arm("ours", policy)
    with pytest.raises(ValueError, match="chooses it; give --no-evaluate"):
        check_policy(agent, {"do_evaluate": True})
    check_policy(agent, {"do_evaluate": False})


def test_values_of_batch_sizes_are_exported_as_their_largest(tmp_path: Any) -> None:
    env = environment("optenv/BatchSize-v0")
    agent = DQN("MlpPolicy", env, buffer_size=100, device="cpu", seed=0)
    policy = load_policy(export_policy(agent, tmp_path / "policy"))
    space = agent.observation_space
    drawn = np.random.default_rng(1).uniform(-4, 4, (64, *space.shape)).astype(np.float32)
    expected = agent.predict(drawn, deterministic=True)[0]
    assert len({*expected.tolist()}) > 1
    np.testing.assert_array_equal(policy(torch.from_numpy(drawn)), expected)
    described = describe(env)
    _check_action("dqn", env, described)


def test_rl2_s_batch_sizes_become_advice_too(tmp_path: Any) -> None:
    env = environment("optenv/BatchSizeTrial-v0", runs=2, previous_reward="told")
    agent = RL2(
        LstmPolicy, env, n_steps=8, batch_size=16, n_epochs=1, device="cpu", seed=0,
        policy_kwargs={"lstm_hidden_size": 4, "net_arch": [8]},
    )  # fmt: skip
    path = export_policy(agent, tmp_path / "policy")
    params = make_model().parameters()
    optimizer = LearnedOptimizer(params, path, total_steps=9, batch_size=8)
    assert optimizer.policy.on_trials and optimizer.batch_size == 8


def test_presets_train_one_policy_for_the_tensors_of_every_model() -> None:
    arguments = {**SHORT, "on_divergence": "absorb", "action": {"tensors": 6}}
    env = make_env("optenv/LayerwiseLearningRate-v0", 4, arguments, copies=2)
    assert env.num_envs == 24
    env.seed(3)
    first = env.reset().reshape(6, 2, 2, -1)
    np.testing.assert_array_equal(first[:, :, 0], first[:, :, 1])  # copies of one run
    seen, rewards, _, _ = env.step(np.random.default_rng(0).uniform(-1, 1, (24, 1)))
    assert not np.array_equal(seen[0], seen[4])  # another tensor
    assert not np.array_equal(seen[0], seen[2])  # another run
    np.testing.assert_allclose(rewards.reshape(12, 2).sum(1), 0.0, atol=1e-6)
    np.testing.assert_array_equal(rewards.reshape(6, 4), np.tile(rewards[:4], (6, 1)))


@pytest.mark.parametrize(
    ("env_id", "reason"),
    [
        ("optenv/Update-v0", "of any size; no policy file can hold it .action 'update'."),
        ("optenv/UpdateTrial-v0", "of any size"),
    ],
)
def test_what_no_optimizer_carries_out_is_refused_before_the_training(
    env_id: str, reason: str, tmp_path: Any
) -> None:
    env = environment(env_id)
    model = PPO("MlpPolicy", env, n_steps=2, batch_size=2, device="cpu", seed=0)
    with pytest.raises(ValueError, match=rf"PPO model could not be exported: .*{reason}"):
        check_export(model)
    with pytest.raises(ValueError, match=rf"cannot export this PPO model: .*{reason}"):
        export_policy(model, tmp_path / "policy")
    assert not list(tmp_path.iterdir())
