"""Comparison of arms over all tasks: profiles, speed-ups, wins and worst cases."""

from __future__ import annotations

import math

import numpy as np
import pytest

from agents.evaluation.row import TUNED
from agents.evaluation.stats.normalise import MISSED_SPEEDUP, Measured, measure
from agents.evaluation.stats.profiles import (
    Record,
    lead,
    mean_speedup,
    profile,
    profile_score,
    time_ratios,
    versus,
    worst_case,
)
from tests.helpers.benchmark_rows import runs_of

pytest.importorskip("scipy")


def times(**arms):
    """Runs with times to the target, ``[tasks][seeds]`` by arm."""
    fixed = {"normalised": 1.0, "area": 1.0, "cpu_speedup": 1.0, "diverged": False}
    return [
        Measured(
            task, arm, seed, updates=time, cpu=time,
            speedup=max(10 / time, MISSED_SPEEDUP), **fixed,
        )
        for arm, tasks in arms.items()
        for task, seeds in zip("abc", tasks, strict=False)
        for seed, time in enumerate(seeds)
    ]  # fmt: skip


def test_profile_is_the_part_of_tasks_within_tau_times_the_fastest():
    inf = math.inf
    runs = times(x=[[10], [30], [inf]], y=[[20], [10], [inf]], z=[[inf], [41], [inf]])
    ratios = time_ratios(runs)
    assert [list(ratios[arm]) for arm in "xyz"] == [
        [1, 3, inf],
        [2, 1, inf],
        [inf, 4.1, inf],
    ]
    assert profile(ratios["x"], [1, 2, 3, 4]) == pytest.approx([1 / 3, 1 / 3, 2 / 3, 2 / 3])
    scores = [profile_score(ratios[arm]) for arm in "xyz"]
    assert scores == pytest.approx([(1 + 1 / 3) / 3, (1 + 2 / 3) / 3, 0.0])
    taus = np.linspace(1, 4, 3001)
    assert profile(ratios["y"], taus).mean() == pytest.approx(scores[1], abs=1e-3)
    with pytest.raises(ValueError, match=r"above 1, got 1\.0"):
        profile_score(ratios["x"], max_ratio=1.0)


def test_time_of_a_task_is_the_median_over_seeds():
    runs = times(x=[[5, 40, 10]], y=[[math.inf, 20, math.inf]])
    assert time_ratios(runs)["x"] == [1.0] and time_ratios(runs)["y"] == [math.inf]


def test_mean_speedup_weights_tasks_equally_and_includes_misses():
    runs = times(x=[[2.5, 10.0, 5.0], [math.inf]])
    assert mean_speedup(runs, "x") == pytest.approx((2.0 * 0.25) ** 0.5)


def test_a_task_can_be_won_and_tied():
    spread = np.array([-0.001, 0.0, 0.001])
    # The way is 1, so that a tie is an interval within 0.02; the half-width is 0.0025.
    pairs = {"won": -0.1, "both": -0.01, "tied and lost": 0.01, "edge": 0.018, "lost": 0.1}
    rows = []
    for task, behind in pairs.items():
        rows += runs_of(task, TUNED, [0.9, 1.0, 1.1])
        rows += runs_of(task, "ours", np.array([0.9, 1.0, 1.1]) + behind + spread)
    assert versus(rows, "ours", TUNED) == Record(2, 2, 3, 3, 5)
    assert versus(rows, TUNED, "ours") == Record(3, 2, 4, 2, 5)
    assert versus(rows, TUNED, TUNED) == Record(0, 5, 5, 0, 5)
    assert versus(rows, "ours", TUNED, tolerance=0.0).ties == 0
    with pytest.raises(ValueError, match=r"at least 0, got -0\.1"):
        versus(rows, "ours", TUNED, tolerance=-0.1)
    with pytest.raises(ValueError, match="no results of the arm 'lost'"):
        versus(rows, "ours", "lost")


def test_a_lead_is_the_mean_paired_difference_of_normalised_losses():
    # On "a" the way is 1, on "b" it is 0.5; the initial loss of both is 2.
    rows = runs_of("a", TUNED, [0.9, 1.1]) + runs_of("b", TUNED, [1.5, 1.5])
    rows += runs_of("a", "ours", [0.85, 1.05]) + runs_of("b", "ours", [1.5, 1.48])
    found = lead(measure(rows), "ours", TUNED)
    # Seed 0: 5 and 0 %; seed 1: 5 and 4 %. What the seeds share is no uncertainty.
    assert found.mean == pytest.approx((2.5 + 4.5) / 2)
    assert found.half == pytest.approx(
        12.706 * np.std([2.5, 4.5], ddof=1) / 2**0.5, rel=1e-3
    )
    other = lead(measure(rows), TUNED, "ours")
    assert (other.mean, other.half) == pytest.approx((-found.mean, found.half))


def test_one_seed_or_a_divergence_is_no_tie():
    rows = runs_of("a", TUNED, [1.0]) + runs_of("a", "ours", [0.999])
    assert versus(rows, "ours", TUNED) == Record(1, 0, 1, 0, 1)
    rows = [
        each
        for arm, losses in {
            "ours": [math.inf, 1.0], "theirs": [1.0, math.inf], TUNED: [1.0, 1.1],
        }.items()
        for each in runs_of("a", arm, losses)
    ]  # fmt: skip
    assert versus(rows, "ours", TUNED) == Record(0, 0, 0, 1, 1)
    assert versus(rows, TUNED, "ours") == Record(1, 0, 1, 0, 1)
    assert versus(rows, "ours", "theirs") == Record(0, 0, 0, 0, 1)


def test_worst_case_is_the_worst_arm_of_every_task():
    low, high = (
        {"a": [1.0, 1.3], "b": [0.5, math.inf]},
        {"a": [1.1, 1.1], "b": [math.inf] * 2},
    )
    rows = [
        each
        for arm, tasks in (("low", low), ("high", high))
        for task, losses in tasks.items()
        for each in runs_of(task, arm, losses)
    ]
    worst = worst_case(rows, ["low", "high"], "worst")
    found = [(r["task"], r["seed"], r["arm"], r["validation_loss"]) for r in worst]
    assert found == [
        ("a", 0, "worst", 1.0), ("a", 1, "worst", 1.3),
        ("b", 0, "worst", math.inf), ("b", 1, "worst", math.inf),
    ]  # fmt: skip
    assert {r["arm"] for r in rows} == {"low", "high"}
    with pytest.raises(ValueError, match="got none"):
        worst_case(rows, [], "worst")
    with pytest.raises(ValueError, match="no results of the arm 'lost'"):
        worst_case(rows, ["low", "lost"], "worst")
    with pytest.raises(ValueError, match=r"'high' lacks .* 'b' seed 1"):
        worst_case(rows[:-1], ["low", "high"], "worst")
