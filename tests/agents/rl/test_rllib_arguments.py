"""Presets become arguments of RLlib; what it has not is refused in words, without Ray."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import pytest

from agents.rl import factory
from agents.rl.presets import PRESETS
from agents.rl.rllib.arguments import OWN, RENAMED, translate
from agents.rl.rllib.build import build_rllib
from agents.rl.rllib.model import AGENTS
from tests.helpers.cli import invoke

TRAINED = [name for name, preset in PRESETS.items() if preset["class"] in AGENTS]


@pytest.mark.parametrize("agent", TRAINED)
def test_every_preset_of_ppo_and_rl2_translates(agent: str) -> None:
    preset = PRESETS[agent]
    given, num_envs = preset["algorithm"], preset["num_envs"]
    found = translate(given, num_envs, recurrent=AGENTS[preset["class"]])
    assert (
        found.rollout == given["n_steps"] * num_envs == found.training["train_batch_size"]
    )
    for name in RENAMED.keys() & given.keys():
        assert found.training[RENAMED[name]] == given[name]
    assert found.network["net_arch"] == given["policy_kwargs"]["net_arch"]


def test_arguments_left_out_are_those_of_stable_baselines3() -> None:
    training = translate({}, 4, recurrent=False).training
    assert training["clip_param"] == 0.2 and training["grad_clip"] == 0.5
    assert training["vf_loss_coeff"] == 0.5 and training["lr"] == 3e-4
    assert not training["use_kl_loss"] and math.isinf(training["vf_clip_param"])


def test_minibatches_of_rl2_are_whole_trials() -> None:
    given = {"n_steps": 24, "batch_size": 48}
    size = translate(given, 32, recurrent=True).training["minibatch_size"]
    rows, trial = 32, 25  # with the row that RLlib adds
    assert int(rows * (size / (rows * trial))) == 2


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"use_sde": True}, TypeError, "PPO of RLlib has no argument 'use_sde'"),
        ({"learning_rat": 0.1}, TypeError, "did you mean 'learning_rate'"),
        ({"learning_rate": "high"}, TypeError, "learning_rate must be a number"),
        ({"gamma": None}, TypeError, "gamma must be a number, got None"),
        ({"use_kl_loss": 1}, TypeError, "use_kl_loss must be True or False, got 1"),
        ({"n_steps": 0}, ValueError, "n_steps must be a positive integer, got 0"),
        ({"policy_kwargs": {"net_arch": {"pi": [8]}}}, ValueError, "a list of widths"),
        ({"policy_kwargs": {"activation_fn": None}}, TypeError, "no 'activation_fn'"),
        ({"policy_kwargs": {"memory": 3}}, TypeError, "no 'memory'"),
    ],
)
def test_arguments_without_a_counterpart_are_refused(
    given: dict, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        translate(given, 4, recurrent=False)


def test_own_arguments_of_rllib_can_be_set() -> None:
    given = {"use_kl_loss": True, "kl_target": 0.02}
    training = translate(given, 4, recurrent=False).training
    assert {**OWN, **given} == {name: training[name] for name in OWN}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--num-workers", 2], "--num-workers are processes of RLlib"),
        (["--address", "auto"], "give --engine rllib or --workers-engine ray"),
        (["--engine", "rllib", "--copies", 4], "leave out --copies 4"),
        (["--engine", "rllib", "--candidates", 2], "leave out --candidates 2"),
        (["--engine", "rllib", "--members", 2], "leave out --members 2"),
        (["--engine", "rllib", "--policy", "adam"], "leave out --engine rllib"),
        (["--engine", "rllib", "--agent", "dqn"], "no counterpart of agent 'dqn'"),
        (["--engine", "rllib", "--agent", "unrolled-lr"], "give --engine sb3"),
        (["--engine", "rllib", "--set", "use_sde=True"], "no argument 'use_sde'"),
        (["--engine", "rllib", "--env", "optenv/UpdateRul-v0"], "unknown environment"),
        (["--engine", "rllib", "--num-workers", 3], "must be a multiple of num_workers"),
        (
            ["--engine", "rllib", "--env", "optenv/LearningRateTrial-v0"],
            "agent 'ppo' is not for trials",
        ),
    ],
)
def test_options_that_an_engine_does_not_have_are_refused(
    arguments: list, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agents.rl.rllib.model.check_ray", lambda: None)
    out = tmp_path / "out"
    result = invoke(*arguments, "--out", out)
    assert result.exit_code == 2, result.output
    assert message in " ".join(result.output.split())
    assert not out.exists()


def test_without_ray_the_message_says_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    for arguments in (["--engine", "rllib"], ["--workers-engine", "ray"]):
        result = invoke(*arguments, "--out", tmp_path / "out")
        assert result.exit_code == 2 and not (tmp_path / "out").exists()
        assert 'pip install ".[ray]"' in " ".join(result.output.split())


@pytest.mark.parametrize(("engine", "other"), [("sb3", "rllib"), ("rllib", "sb3")])
def test_a_training_is_resumed_by_its_own_engine(
    engine: str, other: str, tmp_path: Path
) -> None:
    model = tmp_path / "model.zip"
    model.write_bytes(b"")
    saved = {"agent": "ppo", "engine": other}
    (tmp_path / "config.json").write_text(json.dumps(saved))
    result = invoke("--engine", engine, "--resume", model)
    assert result.exit_code == 2
    assert f"give --engine {other}" in " ".join(result.output.split())


def test_rewards_relative_to_copies_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"got copies 4; give --copies 1"):
        build_rllib("ppo", factory.configuration("ppo"), num_workers=2)
