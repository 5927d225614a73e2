"""Trainings survive tasks that break, and processes of candidates that die."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pytest
from torch import Tensor

from agents import load_policy
from agents.evaluation.tasks.heldout import task_named
from agents.rl import factory, training
from agents.rl.checkpoints import MODEL
from agents.rl.presets import PRESETS
from agents.rl.seeds import train_candidates
from optenv import tasks
from tests.helpers.broken_tasks import broken, strike

RUNS = {"updates_per_step": 2, "horizon": 6}
DQN = {"learning_starts": 8, "gradient_steps": 1, "buffer_size": 1000, "train_freq": 6}
#: Arguments of the algorithms, and the number of copies.
AGENTS = {
    "ppo": ({"n_steps": 6, "n_epochs": 2}, 1),
    "dqn": (DQN, 1),
    "dqn-rules": (DQN, 1),
    "rl2": ({"n_epochs": 1}, 1),
    "unrolled-lr": ({}, 4),
    "unrolled-rule": ({}, 4),
}


@pytest.mark.parametrize("agent", AGENTS)
@pytest.mark.parametrize(
    ("kind", "above"), [("nan", 2.5), ("gradient inf", 2.5), ("nan", -float("inf"))]
)
def test_a_training_on_broken_runs_leaves_a_finite_policy(agent, kind, above, tmp_path):
    overrides, copies = AGENTS[agent]
    arguments = {**PRESETS[agent]["env"], **RUNS, "tasks": broken(kind, above)}
    config = factory.configuration(
        agent, env_arguments=arguments, num_envs=8, copies=copies, overrides=overrides
    )
    model = factory.build(agent, config, seed=0)
    assert training.learn(model, 240, tmp_path, progress=False)
    # Weights that are not finite are refused
    assert load_policy(tmp_path / "policy").description["timesteps"] >= 240


@dataclass(frozen=True)
class Faulty(tasks.Quadratic):
    """A task that raises an error or kills its process, once, in the middle of a training.

    Attributes:
        kind: see :func:`tests.helpers.broken_tasks.strike`.
        folder: folder of ``candidate-1``, in whose training it happens after a checkpoint.
    """

    kind: str = "raise"
    folder: str = ""

    def loss(self, params: tuple[Tensor, ...], inputs: Tensor, targets: Tensor) -> Tensor:
        ready = [Path(self.folder) / f"candidate-{i}" / MODEL for i in range(2)]
        if all(path.exists() for path in ready) and os.environ.get("CANDIDATE") == "1":
            strike(self.kind, Path(self.folder) / "once")
        return super().loss(params, inputs, targets)


def train_two(folder, kind):
    """Train two candidates in two processes."""
    preset = PRESETS["ppo"]
    config = {
        **preset,
        "env_arguments": {
            **preset["env"], **RUNS,
            "tasks": Faulty(kind=kind, folder=str(folder), batch_size=8, dim=4),
        },
        "num_envs": 8, "timesteps": 1920, "overrides": {"n_epochs": 1, "n_steps": 6},
    }  # fmt: skip
    train_candidates(
        "ppo", 0, config, folder, count=2, members=1, workers=2, save_every=48,
        tasks=[task_named("friedman").lasting(0.01)], progress=False,
    )  # fmt: skip
