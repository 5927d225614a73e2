"""An algorithm from outside the package: registered, trained, exported, resumed."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
from stable_baselines3 import A2C, PPO
from torch import nn

from agents import LearnedOptimizer, export_policy, load_policy
from agents.rl import algorithms, factory
from agents.rl.algorithms import (
    ALGORITHMS,
    Algorithm,
    actor_network,
    extractor_of,
    register,
)
from agents.rl.group_advantage import ROLLOUT, GroupNormalisedRolloutBuffer
from agents.rl.presets import PPO as PPO_PRESET
from agents.rl.presets import PRESETS
from optenv import actions
from tests.helpers.paths import ROOT

RECIPE = ROOT / "docs" / "extending_algorithm.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```", RECIPE.read_text(), re.MULTILINE | re.DOTALL)

SMALL = {
    "tasks": "quadratic", "horizon": 4, "updates_per_step": 2,
    "on_divergence": "absorb", "rule": "adam", "action": {},
}  # fmt: skip
ENTRY = Algorithm(name="A2C", cls=A2C, buffer=ROLLOUT, extract=actor_network)


@pytest.fixture
def tables():
    """Restore both tables after a test that adds to them."""
    saved = dict(ALGORITHMS), dict(PRESETS)
    yield
    for table, entries in zip((ALGORITHMS, PRESETS), saved, strict=True):
        table.clear()
        table.update(entries)


@pytest.fixture
def agent(tables):
    """Name of an agent that learns by A2C."""
    register(ENTRY)
    algorithm = {"n_steps": 4, "gamma": 1.0, "policy_kwargs": {"net_arch": [5]}}
    PRESETS["a2c"] = {**PPO_PRESET, "class": "A2C", "env": SMALL, "algorithm": algorithm}
    return "a2c"


def test_the_recipe_of_the_documentation_runs(tables, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert len(BLOCKS) == 1
    exec(compile(BLOCKS[0], str(RECIPE), "exec"), {})
    policy = load_policy(tmp_path / "runs" / "a2c")
    assert policy.description["algorithm"] == "A2C"
    assert policy.description["timesteps"] == 640


def test_a_registered_algorithm_trains_exports_and_is_resumed(agent, tmp_path):
    config = factory.configuration(agent, num_envs=8, copies=4)
    model = factory.build(agent, config, seed=0)
    assert type(model) is A2C
    assert isinstance(model.rollout_buffer, GroupNormalisedRolloutBuffer)
    model.learn(64)
    model.save(tmp_path / "model.zip")
    policy = load_policy(export_policy(model, tmp_path / "policy"))
    observation = torch.randn(16, model.observation_space.shape[0])
    expected, _ = model.predict(observation.numpy(), deterministic=True)
    torch.testing.assert_close(policy(observation), torch.from_numpy(expected))
    resumed = factory.build(agent, config, seed=0, resume=tmp_path / "model.zip")
    assert resumed.num_timesteps == 64
    again = load_policy(export_policy(resumed, tmp_path / "again"))
    assert again.fingerprint() == policy.fingerprint()


def test_a_policy_of_a_registered_algorithm_is_an_optimizer(agent, tmp_path):
    config = factory.configuration(agent, num_envs=4, copies=1)
    export_policy(factory.build(agent, config, seed=0), tmp_path / "policy")
    module = nn.Linear(3, 1)
    optimizer = LearnedOptimizer(module.parameters(), tmp_path / "policy", total_steps=8)
    before = module.weight.detach().clone()
    for _ in range(8):
        optimizer.zero_grad()
        loss = module(torch.ones(4, 3)).square().mean()
        loss.backward()
        optimizer.step(loss=loss)
    assert not torch.equal(module.weight, before)


def test_a_registered_algorithm_checks_its_arguments_and_its_actions(agent):
    config = factory.configuration(agent, num_envs=4, copies=1)
    with pytest.raises(TypeError, match=r"A2C has no argument 'n_stps'; did .*'n_steps'"):
        factory.build(agent, {**config, "overrides": {"n_stps": 4}})
    ALGORITHMS["A2C"] = replace(ENTRY, actions=(actions.Discrete,))
    valid = "'optenv/DiscreteLearningRate-v0' or 'optenv/UpdateRule-v0'"
    with pytest.raises(ValueError, match=rf"'a2c' needs a discrete action, .* {valid}"):
        factory.build(agent, config)
    ALGORITHMS["A2C"] = replace(ENTRY, resumable=False)
    with pytest.raises(ValueError, match="'a2c' cannot go on from a model"):
        factory.build(agent, config, resume="model.zip")


def test_a_name_is_registered_once(tables):
    register(ALGORITHMS["PPO"])  # the same entry once more
    with pytest.raises(ValueError, match="'PPO' is already registered, with class PPO"):
        register(replace(ENTRY, name="PPO"))
    with pytest.raises(ValueError, match=r"unknown algorithm 'SAC'; valid: PPO, DQN"):
        algorithms.get("SAC")


def test_a_model_is_exported_by_the_entry_nearest_to_its_class(tables):
    class Tuned(PPO):
        pass

    env = factory.make_env("optenv/LearningRate-v0", 2, SMALL)
    given = {"policy": "MlpPolicy", "env": env, "n_steps": 4, "device": "cpu"}
    by_ppo = ALGORITHMS["PPO"].extract
    assert extractor_of(A2C(**given)) is by_ppo  # same policy class
    assert extractor_of(Tuned(batch_size=8, **given)) is by_ppo

    def own(model):
        return by_ppo(model)

    register(replace(ENTRY, extract=own))
    assert extractor_of(A2C(**given)) is own


def test_a_network_of_the_wrong_size_is_refused(agent, tmp_path):
    def cut(model):
        return algorithms.Network(actor_network(model).layers[:1])

    ALGORITHMS["A2C"] = replace(ENTRY, extract=cut)
    config = factory.configuration(agent, num_envs=4, copies=1)
    model = factory.build(agent, config, seed=0)
    with pytest.raises(ValueError, match=r"25 inputs to 5 outputs; expected: .* 1 outputs"):
        export_policy(model, tmp_path / "policy")
    assert not any(tmp_path.iterdir())
