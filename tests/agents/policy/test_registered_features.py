"""Policies on registered features, which their files name and optimizers compute."""

from __future__ import annotations

import copy
import json
import pickle
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from torch import nn

from agents import (
    LearnedLR,
    LearnedOptimizer,
    check_export,
    export_network,
    export_policy,
    load_policy,
)
from agents.policy.files import save_policy
from agents.policy.spec import PolicySpec
from agents.rl.rl2 import RL2, LstmPolicy
from agents.rl.unrolled import UnrolledLR
from optenv import actions, rewards, tasks, telemetry
from optenv.sb3 import SB3VecEnv
from optenv.telemetry import FEATURES, LOSS_FEATURES
from tests.helpers.policies import random_policy
from tests.helpers.small_runs import MLP

ID, TRIAL = "optenv/LearningRate-v0", "optenv/LearningRateTrial-v0"
SHORT = {"tasks": MLP, "horizon": 4, "updates_per_step": 3}
UNKNOWN = r"unknown features \['mine'\].* optenv\.telemetry\.register_feature before"


def of_rate(probe, losses, history, control):
    """Log of the learning rate, halved.

    It is the feature ``learning_rate`` of the package.
    """
    return control.log_lr / 2


@pytest.fixture(autouse=True)
def registries(monkeypatch):
    """Undo what a test registers, and register a feature."""
    for module in (tasks, rewards, telemetry.registered, actions):
        monkeypatch.setattr(module, "_REGISTERED", dict(module._REGISTERED))
    telemetry.register_feature("mine", of_rate)


def forget(monkeypatch):
    """Go on as in a process that has registered nothing."""
    monkeypatch.setattr(telemetry.registered, "_REGISTERED", {})


def batch(env_id=ID, count=4, **arguments):
    mode = AutoresetMode.DISABLED
    env = gym.make_vec(env_id, count, autoreset_mode=mode, **SHORT | arguments)
    return SB3VecEnv(env)


def policy_on(*names, **described):
    return random_policy(features=[*FEATURES, *names], **described)


def train(optimizer, module, steps=12, scheduler=None):
    """Train on a fixed batch; return the losses."""
    inputs = torch.randn(16, 3, generator=torch.Generator().manual_seed(0))
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = module(inputs).square().mean()
        loss.backward()
        if scheduler is None:
            optimizer.step(loss=loss)
        else:
            optimizer.step()
            scheduler.step(loss)
        losses.append(loss.item())
    return losses


def small_module():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))


# Export


def test_a_trained_policy_is_exported_and_trains_a_network(tmp_path):
    env = batch(features=("mine",))
    model = PPO("MlpPolicy", env, n_steps=8, batch_size=8, n_epochs=1, seed=0)
    check_export(model)
    model.learn(64)
    path = export_policy(model, tmp_path / "policy")
    described = json.loads(path.with_suffix(".json").read_text())
    assert described["features"] == [*FEATURES, "mine"]
    policy = load_policy(path)
    observation = env.reset()
    expected, _ = model.predict(observation, deterministic=True)
    found = policy(torch.from_numpy(observation)).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-6)
    module = small_module()
    optimizer = LearnedOptimizer(module.parameters(), policy, total_steps=12)
    losses = train(optimizer, module)
    assert losses[-1] < losses[0]
    for row in optimizer.explain():
        assert row["mine"] == pytest.approx(row["learning_rate"], abs=1e-6)


@dataclass(frozen=True)
class WithMomentum(actions.Continuous):
    """Two numbers: one moves the learning rate, one sets the momentum."""

    kind: ClassVar[str] = "mine-with-momentum"
    sets: ClassVar[tuple[str, ...]] = ("momentum",)

    def space(self, dtype=np.float32):
        return gym.spaces.Box(-1.0, 1.0, (2,), dtype)

    @property
    def outputs(self):
        return 2

    @property
    def observed(self):
        return 1

    def encode(self, action):
        return action

    def show(self, action):
        return action[:, 1:]

    def shift(self, action):
        return super().shift(action[:, 0])

    def hyperparameters(self, action):
        return {"momentum": 0.45 * (action[:, 1] + 1)}


def relative_loss(loss, initial_loss):
    """Fraction of the initial loss that is left, minus 1."""
    return (loss / initial_loss - 1).mean(-1)


@pytest.mark.parametrize("form", ["single", "vector", "trial"])
def test_everything_that_is_registered_goes_together(form, tmp_path):
    actions.register(WithMomentum)
    tasks.register("mine", lambda rng, split: MLP)
    rewards.register("mine", rewards.Reward(None, relative_loss, diverged_potential=20.0))
    telemetry.register_feature("windows", lambda probe, losses, h, control: h.windows / 4)
    arguments = {
        "tasks": "mine", "reward": "mine", "action": "mine-with-momentum",
        "rule": "momentum", "features": ("windows", "mine"),
    }  # fmt: skip
    if form == "single":
        env = make_vec_env(ID, env_kwargs=SHORT | arguments)
    elif form == "vector":
        env = batch(**arguments)
    else:
        env = batch(TRIAL, runs=2, previous_reward="told", **arguments)
    kind, network = (RL2, LstmPolicy) if form == "trial" else (PPO, "MlpPolicy")
    model = kind(network, env, n_steps=8, batch_size=8, n_epochs=1, seed=0)
    check_export(model)
    model.learn(32)
    policy = load_policy(export_policy(model, tmp_path / "policy"))
    assert policy.registered == ("windows", "mine")
    assert policy.on_trials == (form == "trial")
    module = small_module()
    optimizer = LearnedOptimizer(module.parameters(), policy, total_steps=12)
    losses = train(optimizer, module)
    assert losses[-1] < losses[0]
    rows = optimizer.explain()
    assert [row["windows"] for row in rows] == pytest.approx([0, 0.25, 0.5, 0.75])
    assert all(0 <= row["momentum"] <= 0.9 for row in rows)
    env_id = TRIAL if form == "trial" else ID
    again = gym.make_vec(env_id, 2, **policy.environment)
    assert again.single_observation_space == env.observation_space


def test_a_network_of_any_program_and_an_unrolled_policy_are_exported(tmp_path):
    actor = nn.Sequential(nn.Linear(26, 4), nn.Tanh(), nn.Linear(4, 1))
    env = gym.make(ID, **SHORT, features=("mine",))
    export_network(
        actor, env, tmp_path / "network", predict=lambda seen: actor(torch.from_numpy(seen))
    )
    learner = UnrolledLR({**SHORT, "features": ("mine",)}, groups=1, size=2, segment=2)
    learner.learn(8).save(tmp_path / "unrolled")
    for name in ("network", "unrolled"):
        policy = load_policy(tmp_path / name)
        assert policy.registered == ("mine",) and policy.columns == list(range(26))
        module = small_module()
        train(LearnedOptimizer(module.parameters(), policy, total_steps=12), module)


def test_an_environment_of_other_processes_is_exported_where_the_name_is_known(
    tmp_path, monkeypatch
):
    described = gym.make(ID, **SHORT, features=("mine",)).unwrapped.describe()
    actor = nn.Linear(26, 1)
    arguments = {"predict": lambda seen: actor(torch.from_numpy(seen))}
    export_network(actor, described, tmp_path / "policy", **arguments)
    forget(monkeypatch)
    with pytest.raises(ValueError, match="cannot export this network: " + UNKNOWN):
        export_network(actor, described, tmp_path / "policy", **arguments)


# Names that are not registered


def test_a_name_that_is_not_registered_is_refused_where_a_policy_is_loaded(
    tmp_path, monkeypatch
):
    path = save_policy(policy_on("mine"), tmp_path / "policy")
    known = load_policy(path)
    forget(monkeypatch)
    with pytest.raises(ValueError, match=f"cannot load policy .*{UNKNOWN}"):
        load_policy(path)
    with pytest.raises(ValueError, match=UNKNOWN):
        LearnedOptimizer(nn.Linear(3, 1).parameters(), path, total_steps=10)
    # One that was loaded before, as a copy from another process would be
    model = nn.Linear(3, 1)
    with pytest.raises(ValueError, match=UNKNOWN):
        LearnedOptimizer(model.parameters(), known, total_steps=10)
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match=UNKNOWN):
        LearnedLR(sgd, 10, known)
    telemetry.register_feature("mine", of_rate)
    assert load_policy(path).fingerprint() == known.fingerprint()


def test_a_name_that_is_not_registered_is_refused_at_a_decision(monkeypatch):
    model = nn.Linear(3, 1)
    optimizer = LearnedOptimizer(model.parameters(), policy_on("mine"), total_steps=10)
    env = gym.make(ID, **SHORT, features=("mine",))
    copied, before = pickle.loads(pickle.dumps(optimizer)), model.weight.clone()
    forget(monkeypatch)
    for used in (optimizer, copied):
        for param in used.param_groups[0]["params"]:
            param.grad = torch.ones_like(param)
        with pytest.raises(ValueError, match=UNKNOWN):
            used.step(loss=1.0)
    assert torch.equal(model.weight, before)
    with pytest.raises(ValueError, match=UNKNOWN):
        env.reset(seed=0)


def test_a_registered_feature_is_named_once():
    with pytest.raises(ValueError, match=r"must differ from each other, got \['mine', 'm"):
        policy_on("mine", "mine")


# What a policy says of them


def test_a_policy_tells_the_environment_that_shows_them(tmp_path):
    seeing, none = policy_on("mine"), [n for n in FEATURES if n not in LOSS_FEATURES]
    assert seeing.environment["features"] == ("mine",)
    assert "loss_dropout" not in seeing.environment
    blind = random_policy(features=[*none, "mine"])
    assert blind.environment["loss_dropout"] == 1.0 and not blind.sees_loss
    assert "features" not in random_policy().environment
    env = gym.make(ID, **SHORT | blind.environment).unwrapped
    assert env.describe()["features"] == blind.description["features"]


def test_policies_on_other_registered_features_act_differently():
    telemetry.register_feature("other", of_rate)
    mine, other = policy_on("mine"), policy_on("other")
    assert mine.fingerprint() != other.fingerprint()
    with pytest.raises(ValueError, match="policies of different features"):
        PolicySpec.merge([mine.spec, other.spec])
    merged = PolicySpec.merge([mine.spec, mine.spec])
    assert merged.registered == ("mine",) and merged.members == 2


def test_losses_that_were_hidden_in_training_are_hidden_from_registered_features():
    seen = []

    def of_loss(probe, losses, history, control):
        seen.append([float(part) for part in losses])
        return losses.mean.clamp(-1, 1)

    telemetry.register_feature("loss_seen", of_loss)
    none = [name for name in FEATURES if name not in LOSS_FEATURES]
    for names, shown in ((none, False), (list(FEATURES), True)):
        seen.clear()
        module, policy = small_module(), random_policy(features=[*names, "loss_seen"])
        train(LearnedOptimizer(module.parameters(), policy, total_steps=40), module)
        assert len(seen) > 3 and all(any(losses) == shown for losses in seen)


def test_nan_is_refused_at_first_and_bounded_later():
    telemetry.register_feature("log_loss", lambda probe, losses, *_: losses.mean.log())
    module = small_module()
    optimizer = LearnedOptimizer(module.parameters(), policy_on("log_loss"), total_steps=12)
    for loss in (-1.0, *[1.0] * 3, -1.0, -1.0):
        module(torch.ones(4, 3)).square().mean().backward()
        if loss < 0 and not optimizer.explain():
            with pytest.raises(ValueError, match="'log_loss' must return numbers, got NaN"):
                optimizer.step(loss=loss)
        else:
            optimizer.step(loss=loss)
    shown = [row["log_loss"] for row in optimizer.explain()]
    assert shown[0] == 0.0 and all(abs(value) <= 4 for value in shown)


def test_nan_is_bounded_where_the_first_gradient_was_an_outlier():
    windows = []

    def of_loss(probe, losses, history, control):
        windows.append(history.windows.item())
        return losses.mean.log()

    telemetry.register_feature("log_loss", of_loss)
    weight = nn.Parameter(torch.ones(3))
    optimizer = LearnedOptimizer([weight], policy_on("log_loss"), total_steps=20)
    for gradient, loss in ((1e6, 1.0), *[(1.0, -1.0)] * 8):
        weight.grad = torch.full_like(weight, gradient)
        optimizer.step(loss=loss)
    assert windows.count(0) == 2, "nothing was tested"


# Explanations


def test_explanations_show_them_with_their_meanings(tmp_path):
    telemetry.register_feature("plain", partial(of_rate))
    module, policy = small_module(), policy_on("mine", "plain")
    optimizer = LearnedOptimizer(module.parameters(), policy, total_steps=40)
    train(optimizer, module)
    rows = optimizer.explain()
    text = str(rows)
    assert "mine: Log of the learning rate, halved.\n" in text
    assert "plain: plain\n" in text and "  plain" in text.splitlines()[0]
    figure = rows.plot(tmp_path / "plot.png")
    labels = [label.get_text() for label in figure.axes[3].get_yticklabels()]
    assert labels == [*FEATURES, "mine", "plain"]


def test_a_feature_with_the_name_of_another_column_keeps_its_own():
    for name in ("loss", "step", "rule", "momentum"):
        telemetry.register_feature(name, of_rate)
    names, action = ("step", "loss", "rule", "momentum"), {"kind": "hyperparameters"}
    policy = policy_on(*names, rule="momentum", action={**action, "names": ["momentum"]})
    module = small_module()
    optimizer = LearnedOptimizer(module.parameters(), policy, total_steps=40)
    train(optimizer, module)
    row = optimizer.explain()[0]
    assert row["step"] == 0 and row["loss"] > 0 and 0 <= row["momentum"] < 1
    for name in names:
        rate = row["learning_rate"]
        assert row[f"observation.{name}"] == pytest.approx(rate, abs=1e-6)
    assert "observation.loss: Log of the learning rate" in str(optimizer.explain())


# Schedulers and states


def test_a_scheduler_computes_them_as_the_optimizer_does():
    rows, policy = [], policy_on("mine")
    for scheduled in (False, True):
        module = small_module()
        if scheduled:
            adam = torch.optim.Adam(module.parameters(), lr=1e-3)
            scheduler = LearnedLR(adam, 40, policy)
            train(adam, module, 12, scheduler)
            rows.append(scheduler.explain())
        else:
            optimizer = LearnedOptimizer(module.parameters(), policy, total_steps=40)
            train(optimizer, module)
            rows.append(optimizer.explain())
    for row in [row for explained in rows for row in explained]:
        assert row["mine"] == pytest.approx(row["learning_rate"], abs=1e-6)
    assert len(rows[0]) == len(rows[1]) > 3


def test_a_run_is_resumed_with_the_history_that_they_see():
    telemetry.register_feature("windows", lambda probe, losses, h, control: h.windows / 9)
    module = small_module()
    optimizer = LearnedOptimizer(module.parameters(), policy_on("windows"), total_steps=40)
    train(optimizer, module, 6)
    other, saved = copy.deepcopy(module), copy.deepcopy(optimizer.state_dict())
    resumed = LearnedOptimizer(other.parameters(), policy_on("windows"), total_steps=40)
    resumed.load_state_dict(saved)
    assert train(resumed, other) == train(optimizer, module)
    shown = [row["windows"] for row in resumed.explain()]
    assert shown == pytest.approx([min(i / 9, 4) for i in range(len(shown))])
