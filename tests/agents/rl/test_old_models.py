"""Models that version 0.1 saved load, export the same policy, and go on learning.

The files in data/ are of trainings of 32 control steps with networks of 4 units, by the
presets ``ppo``, ``dqn`` and ``rl2`` with 4 copies of a task; only the file with the
machine's description was removed from them.
"""

from __future__ import annotations

import base64
import json
import shutil
import zipfile
from pathlib import Path

import pytest

import agents.recurrent
import agents.relative
from agents import export_policy, load_policy
from agents.rl import cli, factory, group_advantage, rl2
from agents.rl.presets import PRESETS

DATA = Path(__file__).parent / "data"

#: Environment, and fingerprint of the policy that version 0.1 exported.
MODELS = {
    "ppo": (
        {"horizon": 4},
        "22e2115d712be7702cfce82dab464a41c1c553268b2e4339543e6defd7e3a746",
    ),
    "dqn": (
        {"horizon": 4},
        "8a091a757a3f659527872dbd32f9ac96df523fa5c86cd8d6beb12359979ef93d",
    ),
    "rl2": (
        {"horizon": 2, "runs": 2},
        "b2b4acd8268099812b4c4ab1f0fe2373d1f241301fe248867ce9c1f0f0b0de79",
    ),
}


@pytest.mark.parametrize("agent", list(MODELS))
def test_a_model_of_version_0_1_is_exported_and_resumed(agent, tmp_path):
    given, fingerprint = MODELS[agent]
    small = {"tasks": "quadratic", "updates_per_step": 2, **given}
    preset = PRESETS[agent]
    old = {**preset["env"], "loss_features": "positive", **small}
    env = factory.make_env(preset["env_id"], 4, old, copies=4)
    model = factory.make_model(agent, env, seed=0, resume=DATA / f"{agent}-0.1.zip")
    assert model.num_timesteps == 32
    buffer = model.replay_buffer if agent == "dqn" else model.rollout_buffer
    assert buffer.group == 4
    policy = load_policy(export_policy(model, tmp_path / "policy"))
    assert policy.fingerprint() == fingerprint
    before = policy.weights()
    model.learn(64, reset_num_timesteps=False)
    assert model.num_timesteps == 96
    after = load_policy(export_policy(model, tmp_path / "policy"))
    assert after.weights() != before


@pytest.mark.parametrize(
    ("env_arguments", "expected"),
    [({"horizon": 4}, "positive"), ({"loss_features": "invariant"}, "invariant")],
)
def test_a_training_goes_on_with_the_features_that_it_had(
    env_arguments, expected, tmp_path
):
    """Configurations of version 0.1 do not name them."""
    shutil.copy(DATA / "ppo-0.1.zip", tmp_path / "model.zip")
    saved = {"agent": "ppo", "env_id": "optenv/LearningRate-v0"}
    saved |= {"env_arguments": env_arguments, "num_envs": 4, "copies": 4}
    (tmp_path / "config.json").write_text(json.dumps(saved))
    names = ("env_id", "timesteps", "num_envs", "copies", "candidates", "members", "config")
    options = dict.fromkeys((*names, "base_lr")) | {
        "agent": "ppo",
        "env_arg": {},
        "overrides": {},
    }
    config = cli.configure({**options, "resume": tmp_path / "model.zip"})
    assert config["env_arguments"] == {**env_arguments, "loss_features": expected}


def test_old_paths_lead_to_the_new_classes():
    old, new = agents.relative, group_advantage
    assert old.GroupScaledBuffer is new.GroupNormalisedRolloutBuffer
    assert old.GroupScaledReplay is new.GroupNormalisedReplayBuffer
    assert old.RelativeReward is new.LeaveOneOutReward
    assert agents.recurrent.LstmPolicy is rl2.LstmPolicy
    assert agents.recurrent.RL2 is rl2.RL2


@pytest.mark.parametrize("name", ["GroupScaledBuffer", "LstmPolicy"])
def test_the_saved_models_name_classes_by_their_old_paths(name):
    """Otherwise this file would hold nothing."""
    files = {"GroupScaledBuffer": "ppo", "LstmPolicy": "rl2"}
    text = saved_references(DATA / f"{files[name]}-0.1.zip")
    assert name in text and "agents.rl." not in text


def saved_references(path):
    """Return the pickled attributes of a saved model as text."""
    with zipfile.ZipFile(path) as archive:
        attributes = json.loads(archive.read("data"))
    pickled = [
        base64.b64decode(value[":serialized:"])
        for value in attributes.values()
        if isinstance(value, dict) and ":serialized:" in value
    ]
    return b"".join(pickled).decode("latin-1")
