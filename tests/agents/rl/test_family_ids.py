"""Agents train on the environments of one family of tasks, and on instances."""

from __future__ import annotations

import pytest

from agents.rl import factory
from agents.rl.unrolled import UnrolledLR


def test_the_tasks_of_an_id_come_before_those_of_a_preset() -> None:
    env_id = "optenv/LearningRate-Quadratic-v0"
    arguments = factory.env_arguments("ppo", env_id)
    assert "tasks" not in arguments and "runs" not in arguments
    assert "tasks" in factory.env_arguments("ppo", "optenv/LearningRate-v0")
    env = factory.make_env(env_id, 2, {**arguments, "updates_per_step": 1, "horizon": 2})
    env.seed(0)
    env.reset()
    assert [info["family"] for info in env.unwrapped.reset_infos] == ["quadratic"] * 2


def test_a_learner_that_unrolls_refuses_instances() -> None:
    with pytest.raises(ValueError, match="give tasks instead of instances="):
        UnrolledLR({"instances": "quadratic/train"})
