"""Presets build their models, and training keeps the average of the late policies."""

from __future__ import annotations

import pytest
import torch

from agents.rl import factory, training
from agents.rl.presets import PRESETS
from agents.utils.averaging import TAIL_SHARE

SMALL = {"tasks": "quadratic", "updates_per_step": 2}


def small_model(agent):
    preset = PRESETS[agent]
    env = factory.make_env(preset["env_id"], 4, {**preset["env"], **SMALL})
    return factory.make_model(agent, env, seed=0)


#: Agents that learn by an algorithm of Stable-Baselines3.
AGENTS = [name for name in PRESETS if factory.algorithm_of_preset(name).buffer]


@pytest.mark.parametrize("agent", AGENTS)
def test_a_preset_builds_its_model_on_its_environment(agent):
    model = small_model(agent)
    described = model.get_env().env_method("describe")[0]
    assert described["action"]["start"] == PRESETS[agent]["env"]["action"]["start"]
    assert described["horizon"] == PRESETS[agent]["env"]["horizon"]


def test_learning_makes_no_folder_for_logs_that_nobody_asked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("SB3_LOGDIR", str(tmp_path / "logs"))
    small_model("ppo").learn(4)
    assert not (tmp_path / "logs").exists()


def test_training_keeps_the_average_of_the_late_policies(tmp_path):
    model = small_model("ppo")
    recorder = training._Recorder(tmp_path, 100, 1000)
    recorder.init_callback(model)
    recorder.on_training_start({}, {})
    parameter = model.policy.action_net.bias
    seen = []
    for timesteps in range(0, 101, 20):
        recorder.num_timesteps = timesteps
        with torch.no_grad():
            parameter.fill_(float(timesteps))
        seen.append(timesteps)
        recorder.on_rollout_start()
    recorder.load_average()
    late = [t for t in seen if t >= (1 - TAIL_SHARE) * 100]
    assert 1 < len(late) < len(seen)
    torch.testing.assert_close(parameter.detach(), torch.tensor([sum(late) / len(late)]))


def test_an_early_interrupt_keeps_the_policy_unchanged(tmp_path):
    model = small_model("ppo")
    before = {k: v.clone() for k, v in model.policy.state_dict().items()}
    recorder = training._Recorder(tmp_path, 100, 1000)
    recorder.init_callback(model)
    recorder.on_training_start({}, {})
    recorder.on_rollout_start()
    recorder.load_average()
    for name, value in model.policy.state_dict().items():
        assert torch.equal(value, before[name])


def test_unknown_agents_are_named_with_the_valid_ones():
    with pytest.raises(ValueError, match="unknown agent 'sac'; valid: ppo, default"):
        factory.preset("sac")
