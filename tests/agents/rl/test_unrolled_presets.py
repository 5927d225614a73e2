"""Presets of learners that unroll: configuration, command line, saved policies."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import nn

from agents import load_policy
from agents.rl import factory, training
from agents.rl.presets import PRESETS
from agents.rl.unrolled import UnrolledLR
from agents.rl.unrolled_rule import UnrolledRule
from tests.helpers.cli import invoke

AGENTS = ["unrolled-lr", "unrolled-rule"]
SMALL = {"tasks": "quadratic", "updates_per_step": 2}


def config(agent, **changes):
    preset = PRESETS[agent]
    given = {"env_arguments": {**preset["env"], **SMALL}, "overrides": {}}
    return {**preset, **given, "num_envs": 8, "copies": 4, **changes}


def weights(learner):
    return nn.utils.parameters_to_vector(learner.policy.parameters()).detach().clone()


@pytest.mark.parametrize("agent", AGENTS)
def test_a_preset_builds_its_learner(agent):
    learner = factory.build(agent, config(agent, overrides={"segment": 7}), seed=3)
    assert type(learner).__name__ == PRESETS[agent]["class"]
    assert [group.size for group in learner.groups] == [4, 4]
    assert learner.segment == 7 and learner.seed == 3


@pytest.mark.parametrize("agent", AGENTS)
def test_the_command_line_writes_a_policy(agent, tmp_path):
    out = tmp_path / "run"
    arguments = [
        "--agent", agent, "--timesteps", "80", "--num-envs", "2", "--copies", "2",
        "--env-arg", "tasks=quadratic", "--env-arg", "updates_per_step=2",
        "--set", "segment=20", "--no-evaluate", "--no-progress", "--out", str(out),
    ]  # fmt: skip
    result = invoke(*arguments)
    assert result.exit_code == 0, result.output
    policy = load_policy(out / "policy")
    assert policy.description["algorithm"] == PRESETS[agent]["class"]
    assert policy.description["timesteps"] == 80
    assert json.loads((out / "config.json").read_text())["algorithm"]["segment"] == 20


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (
            {"overrides": {"n_steps": 4}},
            TypeError,
            "UnrolledRule has no argument 'n_steps'",
        ),
        ({"overrides": {"rule_rl": 1}}, TypeError, "did you mean 'rule_lr'"),
        ({"overrides": {"groups": 1}}, TypeError, r"'groups' follows from num_envs \(8\)"),
        ({"overrides": {"clip": "x"}}, TypeError, "clip must be a number, got 'x'"),
        ({"copies": 3}, ValueError, r"num_envs \(8\) must be a multiple of copies \(3\)"),
        ({"env_id": "optenv/UpdateRule-v0"}, ValueError, "cannot be unrolled"),
        ({"env_id": "optenv/X-v0"}, ValueError, "unknown environment 'optenv/X-v0'; valid"),
    ],
)
def test_a_configuration_that_is_not_valid_is_refused(changes, error, message):
    with pytest.raises(error, match=message):
        factory.build("unrolled-rule", config("unrolled-rule", **changes), seed=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--candidates", "2", "--members", "2"], "have no average; give --members 1"),
        (["--resume", __file__], "cannot go on with"),
    ],
)
def test_contradicting_options_are_refused(arguments, message):
    result = invoke("--agent", "unrolled-rule", *arguments)
    assert result.exit_code == 2 and message in " ".join(result.output.split())


def test_learning_keeps_the_average_of_the_late_rounds():
    made = {}
    learner = UnrolledLR(
        PRESETS["unrolled-lr"]["env"] | SMALL, groups=1, size=2, segment=20
    )

    def keep(learner, found):
        assert isinstance(found, float)
        made[learner.num_timesteps] = weights(learner)

    learner.learn(5 * 80, keep)
    assert list(made) == [80, 160, 240, 320, 400]
    mean = (made[320] + made[400]) / 2
    torch.testing.assert_close(weights(learner), mean)
    assert not torch.equal(made[320], made[400])


def test_a_callback_can_end_the_learning():
    learner = UnrolledRule(
        PRESETS["unrolled-rule"]["env"] | SMALL, groups=1, size=2, segment=20
    )
    learner.learn(800, lambda learner, found: np.bool_(learner.num_timesteps < 160))
    assert learner.num_timesteps == 160


def test_an_interrupt_writes_a_policy(tmp_path):
    learner = factory.build("unrolled-lr", config("unrolled-lr"), seed=0)

    def interrupt():
        raise KeyboardInterrupt

    learner._train_runs = interrupt
    assert not training.learn(learner, 800, tmp_path, progress=False)
    assert load_policy(tmp_path / "policy").description["timesteps"] == 0


@pytest.mark.slow
def test_the_policy_is_written_every_tenth_of_the_training(tmp_path):
    learner, seen = factory.build("unrolled-lr", config("unrolled-lr"), seed=0), []
    train = learner._train_runs

    def look():
        if (tmp_path / "policy.json").exists():
            seen.append(load_policy(tmp_path / "policy").description["timesteps"])
        return train()

    learner._train_runs = look
    assert training.learn(learner, 1600, tmp_path, progress=False)
    assert seen == [320, 640, 960, 1280]
