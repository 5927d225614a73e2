"""Trainings survive tasks that break, and processes of candidates that die."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from torch import Tensor

from agents import load_policy
from agents.evaluation.tasks.heldout import task_named
from agents.rl import factory, training
from agents.rl.checkpoints import MODEL, read
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
        folder: folder of two candidates, which have both written a checkpoint by then.
    """

    kind: str = "raise"
    folder: str = ""

    def loss(self, params: tuple[Tensor, ...], inputs: Tensor, targets: Tensor) -> Tensor:
        folder = Path(self.folder)
        if all((folder / f"candidate-{i}" / MODEL).exists() for i in range(2)):
            strike(self.kind, folder / "once")
        return super().loss(params, inputs, targets)


def train_two(folder, kind):
    """Train two candidates in two processes; return the weights of the better one."""
    preset, task = PRESETS["ppo"], Faulty(8, kind=kind, folder=str(folder), dim=4)
    config = {
        **preset, "num_envs": 8, "timesteps": 1920,
        "env_arguments": {**preset["env"], **RUNS, "tasks": task},
        "overrides": {"n_epochs": 1, "n_steps": 6},
    }  # fmt: skip
    train_candidates(
        "ppo", 0, config, folder, count=2, members=1, workers=2, save_every=48,
        tasks=[task_named("friedman").lasting(0.01)], progress=False,
    )  # fmt: skip
    return (folder / "policy.safetensors").read_bytes()


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sound")
    (folder / "once").touch()
    return train_two(folder, "raise")


@pytest.mark.slow
def test_a_candidate_whose_process_is_killed_goes_on(sound, tmp_path):
    with pytest.warns(RuntimeWarning, match="a worker process died; its job is begun anew"):
        found = train_two(tmp_path, "kill")
    assert (tmp_path / "once").exists() and found == sound


@pytest.mark.slow
def test_a_candidate_that_raises_is_named_and_the_other_is_trained(sound, tmp_path):
    with pytest.raises(
        RuntimeError, match="Exploded: the loss has exploded at 7"
    ) as caught:
        train_two(tmp_path, "raise")
    (broken,) = caught.value.__notes__
    (other,) = {"candidate-0", "candidate-1"} - {broken}
    assert not read(tmp_path / broken / MODEL).finished
    assert read(tmp_path / other / MODEL).finished
    assert train_two(tmp_path, "raise") == sound
