"""Arguments on the command line become values, and presets a configuration."""

from __future__ import annotations

import json
import math
import runpy
import sys
from typing import Any

import pytest
import torch

from agents import LearnedOptimizer, load_policy
from agents.policy.files import save_policy
from agents.rl import training
from agents.rl.cli import configure, parse_assignments
from agents.rl.config_file import read_config
from agents.rl.engines import check_engine
from agents.rl.presets import PRESETS
from optenv.settings import Settings
from tests.helpers.cli import script
from tests.helpers.paths import ROOT
from tests.helpers.policies import random_policy


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True), ("false", False), ("True", True), ("None", None), ("3", 3),
        ("1,4", (1, 4)), ("0.5", 0.5), ("digits", "digits"), ("True story", "True story"),
    ],
)  # fmt: skip
def test_values_are_python_literals_or_strings(text: str, value: Any) -> None:
    (parsed,) = parse_assignments(None, None, (f"name={text}",)).values()
    assert parsed == value and type(parsed) is type(value)


def test_validation_losses_are_asked_for_on_the_command_line() -> None:
    given = ("observe_validation=true", "validation_every=1,4", "validation_dropout=0.2")
    settings = Settings(**parse_assignments(None, None, given))
    assert settings.observe_validation and settings.validation_every == (1, 4)


#: Options of ``train_agent.py`` that are not given.
NOTHING = {
    **dict.fromkeys(
        (
            "agent", "base_lr", "candidates", "config", "copies", "env_id", "members",
            "num_envs", "resume", "timesteps",
        )
    ),
    "env_arg": {},
    "overrides": {},
}  # fmt: skip


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, 0.01),
        ({"base_lr": 0.1}, 0.1),
        ({"env_arg": {"rule": {"name": "orthogonal-adam", "beta1": 0.8}}}, 0.01),
        ({"env_arg": {"rule": "adam"}}, None),
        ({"env_arg": {"rule": "adam"}, "base_lr": 0.1}, 0.1),
    ],
)
def test_the_base_rate_of_a_preset_is_for_its_rule(
    given: dict[str, Any], expected: float | None, monkeypatch
) -> None:
    monkeypatch.setitem(PRESETS["ppo"], "base_lr", 0.01)
    assert configure({**NOTHING, "agent": "ppo", **given})["base_lr"] == expected


@pytest.mark.parametrize("rate", [math.inf, math.nan, 1e9])
def test_a_base_rate_that_no_policy_can_have_is_refused_before_the_training(
    rate: float,
) -> None:
    with pytest.raises(ValueError, match=f"base_lr must be in .*got {rate}"):
        configure({**NOTHING, "agent": "ppo", "base_lr": rate})


def test_a_training_that_is_resumed_keeps_its_base_rate(tmp_path) -> None:
    saved = {"agent": "default", "base_lr": 0.003}
    (tmp_path / "config.json").write_text(json.dumps(saved))
    resumed = {**NOTHING, "agent": "default", "resume": tmp_path / "model.zip"}
    assert configure(resumed)["base_lr"] == 0.003


@pytest.mark.parametrize("text", ["", "[1]", "{", "[" * 100_000, '{"agent": "default"'])
def test_a_damaged_configuration_beside_a_model_is_named(text, tmp_path) -> None:
    (tmp_path / "config.json").write_text(text)
    resumed = {**NOTHING, "agent": "default", "resume": tmp_path / "model.zip"}
    resumed |= dict.fromkeys(("workers_engine", "num_workers", "policy", "address"))
    resumed["engine"] = "sb3"
    for read in (configure, check_engine):
        with pytest.raises(ValueError, match=r"config\.json' (is no JSON|must hold)"):
            read(resumed)


@pytest.mark.parametrize("number", ["1e400", "-Infinity"])
def test_a_number_of_a_configuration_that_is_not_finite_is_named(number, tmp_path) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"timesteps": ' + number + "}")
    with pytest.raises(ValueError, match=r"timesteps of .*config\.json' must be finite"):
        read_config(path, ["timesteps"])


def test_an_optimizer_begins_at_the_base_rate_of_its_policy(tmp_path) -> None:
    plain = random_policy("orthogonal-adam")
    save_policy(plain, tmp_path / "policy")
    training.sign(tmp_path / "policy", "python train_agent.py", 0.02)
    signed = load_policy(tmp_path / "policy")
    assert signed.description["command"] == "python train_agent.py"
    params = [torch.nn.Parameter(torch.zeros(2))]
    rates = [
        LearnedOptimizer(params, policy, total_steps=9).param_groups[0]["lr"]
        for policy in (plain, signed)
    ]
    assert rates == [1e-3, 0.02]
    assert signed.fingerprint() == plain.fingerprint()  # so that saved states load


@pytest.mark.parametrize("program", ["train_agent.py", "agents/evaluation/__main__.py"])
def test_a_program_without_its_extra_says_how_to_install_it(
    program: str, monkeypatch
) -> None:
    monkeypatch.setitem(sys.modules, "click", None)
    with pytest.raises(SystemExit, match=r'click.*: .*pip install "\.\[train\]"'):
        if program == "train_agent.py":
            script()
        else:
            runpy.run_path(str(ROOT / program), run_name="__main__")
