"""Buffers that need more memory than there may be are refused before they are made."""

from __future__ import annotations

from typing import Any

import pytest

from agents.rl import cli, factory
from agents.rl.experience import check_experience
from agents.rl.unrolled import UnrolledLR
from optenv import memory_limit
from tests.helpers.cli import invoke

RUNS = {"tasks": "quadratic", "updates_per_step": 2, "horizon": 6}


@pytest.fixture(autouse=True)
def _small_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(memory_limit.VARIABLE, "1")


def model(agent: str, **overrides: Any) -> Any:
    arguments = {**factory.env_arguments(agent, factory.preset(agent)["env_id"]), **RUNS}
    config = factory.configuration(
        agent, env_arguments=arguments, num_envs=8, copies=1, overrides=overrides
    )
    return factory.build(agent, config, seed=0)


@pytest.mark.parametrize(
    ("agent", "overrides"),
    [
        ("ppo", {"n_steps": 10**9}),
        ("rl2", {"n_steps": 10**9}),
        ("dqn", {"buffer_size": 10**12}),
        ("dqn", {"batch_size": 10**12}),
    ],
)
def test_too_much_experience_is_refused(agent: str, overrides: dict[str, int]) -> None:
    ((name, value),) = overrides.items()
    with pytest.raises(ValueError, match=rf"of memory .*lower {name}={value}.*GiB"):
        model(agent, **overrides)


def test_the_limit_is_that_of_the_environment() -> None:
    env = factory.make_env("optenv/LearningRate-v0", 8, RUNS)
    check_experience({"n_steps": 10**5}, env)
    with pytest.raises(ValueError, match=r"max_memory=0\.1"):
        check_experience({"n_steps": 10**6}, env, max_memory=0.1)
    check_experience({"n_steps": 10**6}, env, max_memory=100)
    check_experience({"n_steps": None, "batch_size": "many"}, env)  # the class refuses them


def test_too_many_candidates_are_refused() -> None:
    options = {"agent": "ppo", "resume": None}
    with pytest.raises(ValueError, match="lower candidates=1000000000"):
        cli.check_candidates(options, {"candidates": 10**9, "members": 1})


@pytest.mark.parametrize("name", ["groups", "size", "segment"])
def test_a_learner_that_unrolls_too_much_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=rf"of memory .*lower .*{name}"):
        UnrolledLR({**RUNS, "horizon": 10**9}, **{name: 10**9})


@pytest.mark.parametrize(
    "arguments",
    [
        ("--num-envs", 10**9),
        ("--num-envs", 10**9, "--copies", 10**9),
        ("--candidates", 10**9),
        ("--copies", 1, "--set", "n_steps=1000000000"),
        ("--workers", 10**9),
    ],
)
def test_the_command_refuses_huge_numbers_in_words(arguments: Any, tmp_path: Any) -> None:
    out = tmp_path / "out"
    done = invoke("--no-evaluate", "--no-progress", "--out", out, *arguments)
    assert done.exit_code == 2 and not out.exists()
    assert "1000000000" in done.output and "Error: " in done.output
