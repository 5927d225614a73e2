"""The report of recordings: its numbers, its picture and its command line."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest

from optenv import instances, recording
from optenv.intervals import interval
from optenv.recording import VectorRecorder
from optenv.report.__main__ import main
from optenv.report.figure import draw
from optenv.report.runs import QUANTILES, load, over_progress, shares
from optenv.report.tables import markdown
from tests.helpers.example_process import output
from tests.helpers.paths import ROOT

SMALL = {"tasks": ["logistic", "quadratic"], "horizon": 4, "updates_per_step": 2}


def record(path, env_id="optenv/LearningRate-v0", steps=10, label=None, **arguments):
    """Record 6 runs at once with random actions; return the columns as arrays."""
    batch = gym.make_vec(env_id, 6, groups=2, **{**SMALL, **arguments})
    env = VectorRecorder(batch, path, label=label)
    env.reset(seed=0)
    env.action_space.seed(0)
    for _ in range(steps):
        env.step(env.action_space.sample())
    env.close()
    table = recording.read(path)
    names = (name for name in table.column_names if name != "final_observation")
    return {name: np.array(table[name].to_pylist()) for name in names}


def test_returns_are_those_of_whole_runs_by_instance(tmp_path):
    chosen = instances.InstanceSet.sample("logistic/test", 2, seed=1)
    rows = record(tmp_path / "r.parquet", tasks="mlp-classification", instances=chosen)
    found = load(tmp_path / "r.parquet")
    # Four steps, a reset, four steps, a reset: two whole runs of each of six.
    assert found.incomplete == 0 and len(found.returns) == 12
    names = [each.name for each in chosen]
    assert set(found.group) == set(names)
    for name in names:
        mine = rows["instance"] == name
        sums = [
            rows["reward"][mine & (rows["episode"] == episode)].sum()
            for episode in np.unique(rows["episode"][mine])
        ]
        np.testing.assert_allclose(found.returns[found.group == name], sums)
        text = f"{interval(sums).mean:.3f} ± {interval(sums).half:.3f}"
        assert text in markdown([found])


def test_runs_without_an_instance_are_grouped_by_family_and_cut_ones_left_out(tmp_path):
    record(tmp_path / "r.parquet", steps=6)
    found = load(tmp_path / "r.parquet")
    assert found.incomplete == 6 and len(found.returns) == 6
    assert set(found.group) == {"logistic", "quadratic"}
    record(tmp_path / "cut.parquet", steps=2)
    with pytest.raises(ValueError, match="has no whole run: 6 were cut"):
        load(tmp_path / "cut.parquet")
    with pytest.raises(ValueError, match="unknown grouping 'task'; valid: instance"):
        load(tmp_path / "r.parquet", "task")


def test_curves_are_quantiles_over_runs_at_each_step(tmp_path):
    rows = record(tmp_path / "r.parquet", "optenv/Hyperparameters-v0")
    found = load(tmp_path / "r.parquet")
    assert list(found.components)[:2] == ["learning_rate", "beta1"]
    curve = over_progress(found, found.components["beta1"])
    np.testing.assert_allclose(curve.progress, [0, 0.25, 0.5, 0.75])
    for step in range(4):
        values = np.sort(rows["action.beta1"][rows["step"] == step])
        ranks = [int(np.ceil(q * len(values))) - 1 for q in QUANTILES]
        np.testing.assert_array_equal(curve.quantiles[:, step], values[ranks])


def test_discrete_actions_are_decoded_to_rules_and_changes(tmp_path):
    rows = record(tmp_path / "r.parquet", "optenv/UpdateRule-v0")
    found = load(tmp_path / "r.parquet")
    index = rows["action.index"]
    np.testing.assert_allclose(
        found.components["change of log learning rate"],
        np.log(np.array([0.5, 1.0, 2.0])[index % 3]),
    )
    progress, parts = shares(found)
    assert found.rule_names[0] == "sgd" and len(progress) == 4
    np.testing.assert_allclose(parts.sum(0), 1)
    at_first = index[rows["step"] == 0] // 3
    np.testing.assert_allclose(parts[:, 0], np.bincount(at_first, minlength=8) / 12)


def test_the_command_writes_a_picture_and_a_table(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    record("a.parquet", "optenv/UpdateRule-v0", label="same")
    record("b.parquet", "optenv/LearningRate-v0", label="same", steps=6)
    assert main(["a.parquet", "b.parquet", "--by", "family", "--out", "both"]) == 0
    printed = capsys.readouterr().out
    assert "| logistic  | same (a.parquet) |" in printed
    assert "6 runs were cut" in printed and "wrote both.png and both.md" in printed
    assert (tmp_path / "both.md").read_text() in printed
    picture = (tmp_path / "both.png").read_bytes()
    assert picture.startswith(b"\x89PNG") and len(picture) > 20_000
    assert main(["missing.parquet"]) == 2
    assert "missing.parquet" in capsys.readouterr().err
    with pytest.raises(ValueError, match="no recordings to draw"):
        draw([], tmp_path / "none.png")


@pytest.mark.slow
def test_the_example_shows_that_the_policy_beats_its_base_rate(tmp_path):
    printed = output(ROOT / "examples" / "record_policy.py", tmp_path)
    found = [load(tmp_path / f"{name}.parquet") for name in ("policy", "base")]
    assert [len(each.returns) for each in found] == [32, 32]
    policy, base = (np.mean(each.group_means()) for each in found)
    assert policy > base + 0.5
    assert "wrote report.png and report.md" in printed
    assert (tmp_path / "report.png").stat().st_size > 20_000
