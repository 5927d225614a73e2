"""Paired differences, and the table, file and curves of a comparison."""

from __future__ import annotations

import csv
import math

import numpy as np
import pytest

from agents.evaluation import format_table, write_csv
from agents.evaluation.arms.controls import CONTROLS
from agents.evaluation.report.plots import plot_curves
from agents.evaluation.report.tables import CONTROLS_LEGEND, WORST, format_standings
from agents.evaluation.row import DEFAULT, SHARED, TUNED
from agents.evaluation.stats.intervals import interval
from agents.evaluation.stats.normalise import difference, remaining_gap
from tests.helpers.benchmark_rows import row

pytest.importorskip("scipy")


def test_intervals_agree_with_scipy():
    from scipy import stats

    values = [0.3, 0.5, 0.1, 0.9, 0.4]
    mean, half = interval(values)
    low, high = stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values))
    assert (mean - half, mean + half) == pytest.approx((low, high))
    assert math.isnan(interval([1.0]).half) and not interval([1.0]).decided
    assert interval([1.0, math.inf]).mean == math.inf
    with pytest.raises(ValueError, match="got none"):
        interval([])


def test_differences_are_paired_by_seed():
    from scipy import stats

    ours, theirs = [0.5, 0.7, 0.9], [0.6, 0.85, 1.0]
    rows = [row("a", "ours", s, x, learned=True) for s, x in enumerate(ours)]
    rows += [row("a", TUNED, s, x) for s, x in reversed(list(enumerate(theirs)))]
    found = difference(rows, "a", "ours", TUNED)
    bounds = stats.ttest_rel(ours, theirs).confidence_interval(0.95)
    assert (found.mean - found.half, found.mean + found.half) == pytest.approx(
        tuple(bounds)
    )
    expected = [100 * (o - t) / (2 - t) for o, t in zip(ours, theirs, strict=True)]
    assert remaining_gap(rows, ["a"], "ours", TUNED) == pytest.approx(interval(expected))
    with pytest.raises(ValueError, match=r"seeds \[0, 1\] and \[0, 1, 2\]"):
        difference(
            [r for r in rows if r["seed"] < 2 or not r["learned"]], "a", "ours", TUNED
        )


@pytest.fixture
def results():
    losses = {
        "AdamW default": 1.2,
        "Schedule-Free AdamW": 1.1,
        TUNED: 1.0,
        "PPO (ours)": 0.9,
        "DQN (ours)": math.inf,
    }
    return [
        row(task, arm, seed, loss + 0.01 * seed, learned="ours" in arm)
        for task in ("a", "b", "c", "d")
        for arm, loss in losses.items()
        for seed in range(3)
    ]


def test_table_fits_a_terminal_and_counts_wins(results):
    table = format_table(results)
    assert max(map(len, table.splitlines())) <= 120
    assert "0.9100 ±0.0248" in table and "inf" in table
    ppo, dqn = table.split("minus the baseline")[1:]
    assert ppo.count("4 of 4 better (4*)") == 3 and dqn.count("0 of 4 better (0*)") == 3
    narrow = format_table(results, width=60)
    assert max(len(line) for line in narrow.splitlines() if "±" in line[1:]) <= 90
    assert narrow.split() != table.split()
    assert "0.9100" in format_table([r for r in results if r["learned"]])


def test_csv_has_a_line_per_run(results, tmp_path):
    write_csv(results, tmp_path / "rows.csv")
    with open(tmp_path / "rows.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == len(results)
    assert [float(line["validation_loss"]) for line in lines] == [
        r["validation_loss"] for r in results
    ]
    assert "curve" not in lines[0] and lines[0]["task"] == "a"
    with pytest.raises(ValueError, match="no results"):
        write_csv([], tmp_path / "none.csv")


@pytest.mark.parametrize("ours", [True, False])
def test_pictures_are_drawn(results, ours, tmp_path):
    pytest.importorskip("matplotlib")
    rows = [r for r in results if ours or not r["learned"]]
    plot_curves(rows, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 10_000
    with pytest.raises(ValueError, match="no results"):
        plot_curves([], tmp_path / "none.png")


def test_legends_tell_what_arms_are_and_how_far_a_run_counts():
    arms = {DEFAULT: 1.2, SHARED: 1.1, TUNED: 1.0, "mine lr 1": 0.9, "mine noise lr 1": 1.1}
    rows = [
        row(task, arm, seed, loss, learned=arm == "mine lr 1")
        for task in ("a", "b")
        for arm, loss in {**arms, f"mine{WORST}": 1.0}.items()
        for seed in range(2)
    ]
    losses, gaps = format_table(rows).split("minus the baseline")
    assert f"{SHARED}: AdamW at one setting tuned for all tasks\n" in losses
    assert "\nnoise: random moves" in losses and "\nreplay:" not in losses
    assert "without a limit" in gaps and "20 % ahead" in gaps
    standings = format_standings(rows)
    assert standings.count("no run counts as more than 20 %") == 2
    assert "\ndiverged: " in standings and "\nworst lr: " in standings


def test_every_control_has_a_legend():
    assert tuple(CONTROLS_LEGEND) == CONTROLS
