"""Training with several seeds: selection, average, and files."""

from __future__ import annotations

import csv
import json

import pytest
import torch

from agents import load_policy
from agents.evaluation.tasks.heldout import task_named
from agents.rl import factory, training
from agents.rl.presets import PRESETS
from agents.rl.seeds import STRIDE, mean_gaps, train_candidates
from optenv.telemetry import FEATURES


def row(task, arm, loss, seed=0, initial=2.0):
    return {
        "task": task, "arm": arm, "seed": seed, "validation_loss": loss,
        "initial_validation_loss": initial,
    }  # fmt: skip


def test_gaps_are_fractions_of_the_best_decrease_averaged_over_tasks():
    rows = [
        row("a", "one", 1.0), row("a", "two", 1.5), row("b", "one", 0.5),
        row("b", "two", 0.3, seed=0), row("b", "two", 0.1, seed=1),
    ]  # fmt: skip
    gaps = mean_gaps(rows)
    assert gaps["one"] == pytest.approx((0.0 + 0.3 / 1.8) / 2)
    assert gaps["two"] == pytest.approx((0.5 + 0.0) / 2)


def test_runs_that_diverge_or_end_above_their_start_have_gap_1():
    rows = [row("a", "one", 1.0), row("a", "two", float("inf")), row("a", "bad", 9.0)]
    assert mean_gaps(rows) == {"one": 0.0, "two": 1.0, "bad": 1.0}
    assert mean_gaps([row("a", "one", 3.0), row("a", "two", 4.0)])["two"] == 1.0


@pytest.mark.slow
@pytest.mark.training
def test_the_best_candidates_are_averaged_and_all_keep_their_folder(tmp_path):
    preset = PRESETS["ppo"]
    config = {
        **preset,
        "env_arguments": {**preset["env"], "tasks": "quadratic", "updates_per_step": 2},
        "num_envs": 8,
        "timesteps": 960,
        "overrides": {"n_epochs": 1},
    }
    task = task_named("friedman").lasting(0.02)
    train_candidates(
        "ppo", 5, config, tmp_path, count=3, members=2, workers=2, tasks=[task],
        progress=False,
    )  # fmt: skip
    merged = load_policy(tmp_path / "policy")
    with (tmp_path / "selection.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 * 2
    losses = {name: 0.0 for name in ("candidate-0", "candidate-1", "candidate-2")}
    for found in rows:
        losses[found["arm"]] += float(found["validation_loss"])
    worst = int(max(losses, key=losses.__getitem__)[-1])
    seeds = [5 + i * STRIDE for i in range(3)]
    for i, seed in enumerate(seeds):
        folder = tmp_path / f"candidate-{i}"
        assert json.loads((folder / "policy.json").read_text())["seed"] == seed
        assert (folder / "model.zip").exists()
    assert len(merged.members) == 2 and len(set(losses.values())) == 3
    assert set(merged.description["seeds"]) == set(seeds) - {seeds[worst]}
    seen = torch.randn(6, len(FEATURES), generator=torch.Generator().manual_seed(0))
    own = [
        load_policy(tmp_path / f"candidate-{seeds.index(s)}")
        for s in merged.description["seeds"]
    ]
    mean = torch.stack([policy.members[0](seen) for policy in own]).mean(0)
    torch.testing.assert_close(merged(seen), mean.clamp(-1, 1))


@pytest.mark.slow
@pytest.mark.training
def test_candidates_go_on_after_a_kill_and_with_any_number_of_processes(tmp_path):
    preset = PRESETS["ppo"]
    config = {
        **preset,
        "env_arguments": {
            **preset["env"], "tasks": "quadratic", "updates_per_step": 2, "horizon": 6
        },
        "num_envs": 8,
        "timesteps": 192,
        "overrides": {"n_epochs": 1, "n_steps": 6},
    }  # fmt: skip

    def train(folder, workers):
        train_candidates(
            "ppo", 5, config, folder, count=2, members=2, workers=workers,
            tasks=[task_named("friedman").lasting(0.02)], progress=False, save_every=48,
        )  # fmt: skip
        files = [*folder.rglob("policy.*")]
        return {path.relative_to(folder): path.read_bytes() for path in files}

    one, two = tmp_path / "one", tmp_path / "two"
    expected = train(one, workers=1)
    assert len(expected) == 6
    assert train(two, workers=2) == expected
    # A kill in the training of the second candidate leaves the first
    kept = (two / "candidate-0" / "model.zip").stat().st_mtime_ns
    for path in [*two.glob("*.*"), *(two / "candidate-1").glob("policy.*")]:
        path.unlink()
    checkpoint = _first_checkpoint(config, tmp_path / "part")
    (two / "candidate-1" / "model.zip").write_bytes(checkpoint)
    assert train(two, workers=1) == expected
    assert (two / "candidate-0" / "model.zip").stat().st_mtime_ns == kept


def _first_checkpoint(config, folder):
    """Return the file that the second candidate has after its first rollout."""
    folder.mkdir()
    model, files = factory.build("ppo", config, seed=5 + STRIDE), []

    class Stopped(Exception):
        pass

    def stop(path, data):
        files.append(data)
        raise Stopped

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(training, "write_bytes", stop)
        training.learn(model, config["timesteps"], folder, progress=False, save_every=48)
    return files[0]
