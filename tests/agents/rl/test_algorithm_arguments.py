"""Arguments of algorithms that mean nothing are refused before a training."""

from __future__ import annotations

import re
from typing import Any

import pytest

from agents.policy.spec import MAX_WEIGHTS
from agents.rl.algorithm_arguments import NETWORK, RANGES, check_ranges
from agents.rl.presets import PRESETS
from tests.helpers.cli import invoke

REFUSED: list[tuple[str, Any, str]] = [
    ("n_epochs", 0, "n_epochs must be a whole number of at least 1, got 0"),
    ("n_epochs", 1e9, "n_epochs must be a whole number .* got 1000000000.0"),
    ("n_steps", True, "n_steps must be a whole number .* got True"),
    ("gamma", 5, "gamma must be a number of at least 0, at most 1, got 5"),
    ("gae_lambda", -0.1, "gae_lambda"),
    ("clip_range", -1, "clip_range must be a number above 0, got -1"),
    ("target_kl", -3, "target_kl must be a number above 0, or None, got -3"),
    ("stats_window_size", 0, "stats_window_size"),
    ("learning_rate", float("nan"), "learning_rate must be .* got nan"),
    ("learning_rate", float("inf"), "learning_rate must be .* got inf"),
    ("tau", 0, "tau must be a number above 0, at most 1, got 0"),
    ("policy_kwargs", [64], "policy_kwargs must be a dict, got .64."),
    ("policy_kwargs", {"log_std_init": 1e9}, "log_std_init .* got 1000000000.0"),
    ("policy_kwargs", {"lstm_hidden_size": "a"}, "lstm_hidden_size"),
    ("policy_kwargs", {"net_arch": [64, 0]}, "sizes of net_arch .* got 0"),
    ("policy_kwargs", {"net_arch": [9000, 9000]}, "more than 81,018,000 weights"),
    ("policy_kwargs", {"net_arch": {"pi": [10**9]}}, f"at most {MAX_WEIGHTS:,}"),
    ("policy_kwargs", {"lstm_hidden_size": 6000}, "more than 144,000,000 weights"),
]


@pytest.mark.parametrize(("name", "value", "message"), REFUSED)
def test_arguments_that_mean_nothing_are_refused(
    name: str, value: Any, message: str
) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        check_ranges({name: value})


@pytest.mark.parametrize("agent", PRESETS)
def test_arguments_of_presets_are_taken(agent: str) -> None:
    check_ranges(PRESETS[agent]["algorithm"])


def test_functions_and_unknown_arguments_are_left_to_the_algorithm() -> None:
    check_ranges({"learning_rate": lambda left: -left, "own": -1, "target_kl": None})
    check_ranges({"policy_kwargs": {"net_arch": [], "activation_fn": object}})
    assert not {*RANGES} & {*NETWORK}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--set", "env=3"], "env=3 is no argument to change of the algorithm: give --env"),
        (["--set", "seed=4"], "seed=4 is no argument .*: give --seed"),
        (["--set", "device=cuda"], "device='cuda' is no argument .* on the CPU"),
        (["--env-arg", "num_envs=4"], "num_envs is not an argument .* use --num-envs"),
        (["--env-arg", "autoreset_mode=1"], "autoreset_mode is not an argument of the"),
    ],
)
def test_what_a_training_sets_itself_is_refused_in_words(
    arguments: list[str], says: str, tmp_path
) -> None:
    result = invoke(*arguments, "--no-evaluate", "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert re.search(says, " ".join(result.output.split())), result.output


def test_an_argument_is_refused_before_anything_is_made(tmp_path) -> None:
    out = tmp_path / "out"
    result = invoke("--set", "n_epochs=0", "--no-evaluate", "--out", out)
    assert result.exit_code == 2 and "n_epochs must be a whole number" in result.output
    assert not out.exists()
