"""Losses and gradients that are not finite end their own run, in every environment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import Tensor

from optenv import tasks
from optenv.tasks import Task
from tests.helpers.small_runs import ENV_IDS, random_actions

RUNS = 8
#: What a batch does that has a rare example in it.
KINDS = ("nan", "inf", "-inf", "gradient nan", "gradient inf")
#: The environments, and one of trials.
IDS = [*ENV_IDS, "optenv/LearningRateTrial-v0"]


@dataclass(frozen=True)
class Broken(tasks.MLP):
    """A task whose loss or gradient is not finite on batches with a rare example.

    Attributes:
        kind: one of :data:`KINDS`.
        above: inputs above this are rare.
        hit: whether each run has had such a batch, since the last call of a test.
    """

    kind: str = "nan"
    above: float = 2.5
    hit: ClassVar[Tensor] = torch.zeros(RUNS, dtype=torch.bool)

    def loss(self, params: tuple[Tensor, ...], inputs: Tensor, targets: Tensor) -> Tensor:
        loss = super().loss(params, inputs, targets)
        bad = (inputs[..., 0] > self.above).any(1)
        if len(bad) == RUNS:
            Broken.hit |= bad
        if not self.kind.startswith("gradient"):
            return torch.where(bad, float(self.kind), loss)
        weight = params[0].flatten(1)[:, 0]
        nothing = torch.where(bad, weight - weight.detach(), 0.0)
        steep = nothing * 1e30 * 1e30  # 0, with an infinite derivative
        return loss + (
            steep if self.kind == "gradient inf" else steep - nothing * 1e30 * 1e30
        )


def broken(kind: str, above: float = Broken.above) -> Broken:
    return Broken(
        batch_size=8, num_train=60, num_validation=24, inputs=4, outputs=3, width=6,
        depth=1, activation="tanh", kind=kind, above=above,
    )  # fmt: skip


def rollouts(env_id: str, task: Task, on_divergence: str) -> list[Any]:
    """Return observations, rewards, ends and infos of eight control steps."""
    env = gym.make_vec(
        env_id, RUNS, tasks=task, horizon=4, updates_per_step=2,
        on_divergence=on_divergence,
    )  # fmt: skip
    observation, _ = env.reset(seed=0)
    found = [(observation,)]
    for action in random_actions(env.action_space, 8):
        found.append(env.step(action))
    for observation, *rest in found:
        assert env.observation_space.contains(observation)
        assert np.isfinite(observation).all()
        if rest:
            assert np.isfinite(rest[0]).all()
            assert not np.isnan(rest[3].get("loss", 0.0)).any()  # a reset has none
    return found


@pytest.mark.parametrize("env_id", IDS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_breaks_ends_alone(env_id: str, kind: str) -> None:
    sound = rollouts(env_id, broken(kind, above=np.inf), "absorb")
    Broken.hit.zero_()
    found = rollouts(env_id, broken(kind), "absorb")
    hit = Broken.hit.numpy().copy()
    assert hit.any() and not hit.all()
    for theirs, ours in zip(sound, found, strict=True):
        np.testing.assert_array_equal(theirs[0][~hit], ours[0][~hit])
        if len(theirs) > 1:
            np.testing.assert_array_equal(theirs[1][~hit], ours[1][~hit])
    ends = [each[4]["diverged"] for each in found[1:] if "diverged" in each[4]]
    diverged = np.any(ends, axis=0)
    assert not diverged[~hit].any()
    # An agent that makes the updates by itself does not need the gradient
    assert diverged[hit].any() or (env_id, kind[:8]) == ("optenv/Update-v0", "gradient")


@pytest.mark.parametrize("env_id", IDS)
@pytest.mark.parametrize("kind", KINDS)
def test_broken_runs_are_followed_by_others(env_id: str, kind: str) -> None:
    found = rollouts(env_id, broken(kind), "end")
    assert any(each[2].any() for each in found[1:])


@pytest.mark.parametrize("env_id", IDS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_task_that_is_broken_from_the_start_gives_finite_observations(
    env_id: str, kind: str
) -> None:
    env = gym.make(env_id, tasks=broken(kind, above=-np.inf), horizon=4, updates_per_step=2)
    observation, _ = env.reset(seed=0)
    for action in random_actions(env.action_space, 4):
        assert np.isfinite(observation).all()
        observation, reward, ended, _, _ = env.step(action)
        assert np.isfinite(reward) and np.isfinite(observation).all()
        if ended:
            break
    assert ended
