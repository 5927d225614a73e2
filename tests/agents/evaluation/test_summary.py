"""Bootstrap intervals, summaries of arms with their table, and pictures of profiles."""

from __future__ import annotations

import math

import numpy as np
import pytest

from agents.evaluation.report.plots import plot_final_losses, plot_profiles
from agents.evaluation.report.tables import format_summary
from agents.evaluation.row import DEFAULT, TUNED
from agents.evaluation.stats.intervals import iqm, probability_of_improvement
from agents.evaluation.stats.summary import summarize
from tests.helpers.benchmark_rows import row

pytest.importorskip("scipy")


def test_iqm_leaves_out_the_best_and_the_worst_quarter():
    assert iqm([[1.0, 2.0], [3.0, 100.0]]).value == 2.5
    assert iqm([[-50.0, 1.0, 2.0], [3.0, 4.0, 5.0, 9.0, 90.0]]).value == 3.5
    # 5 values: a quarter is 1.25, of which the whole part is cut.
    assert iqm([[0.0, 1.0, 2.0, 6.0, 7.0]]).value == 3.0


def test_interval_is_that_of_resampling_seeds():
    # Draws of [0, 1] have the means 0, 0.5, 0.5 and 1, the outer two with odds of 1 in 4.
    assert iqm([[0.0, 1.0]]) == (0.5, 0.0, 1.0)
    values = np.random.default_rng(0).normal(size=(10, 20))
    value, low, high = iqm([values.ravel()])
    middle = np.sort(values.ravel())[50:150]
    assert value == pytest.approx(middle.mean())
    assert low < value < high and 0.2 < high - low < 0.5


def test_seeds_are_resampled_within_tasks():
    assert iqm([[0.0] * 3, [1.0] * 3, [2.0] * 3, [5.0] * 3]) == (1.5, 1.5, 1.5)


def test_probability_of_improvement_is_the_part_of_pairs_that_are_won():
    ours, theirs = [[1.0, 2.0], [5.0, 5.0]], [[0.0, 1.5], [5.0, 6.0]]
    found = probability_of_improvement(ours, theirs)
    assert found.value == pytest.approx((3 / 4 + 1 / 4) / 2)
    assert 0.0 <= found.low < found.value < found.high <= 1.0
    back = probability_of_improvement(theirs, ours)
    assert found.value + back.value == pytest.approx(1.0)
    assert probability_of_improvement([[1, 2]], [[0, -1, 0.5]]) == (1.0, 1.0, 1.0)


def test_intervals_are_reproducible_and_leave_the_global_generator_alone():
    scores = [[0.1, 0.5, 0.7], [0.2, 0.9]]
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    assert iqm(scores) == iqm(scores) != iqm(scores, seed=1)
    assert (np.random.get_state()[1] == before).all()  # noqa: NPY002


def test_one_seed_has_no_interval():
    for found in (
        iqm([[1.0], [3.0]]),
        iqm([[1.0, 1.0], [3.0]]),
        probability_of_improvement([[1.0, 2.0]], [[0.0]]),
    ):
        assert math.isfinite(found.value)
        assert math.isnan(found.low) and math.isnan(found.high)


@pytest.mark.parametrize("scores", [[], [[]], [[1.0, math.nan]], [[1.0], [math.inf]]])
def test_scores_that_have_no_mean_are_refused(scores):
    with pytest.raises(ValueError, match=r"got \["):
        iqm(scores)


def test_bad_arguments_of_the_bootstrap_are_refused():
    with pytest.raises(ValueError, match="2 tasks against scores of 1"):
        probability_of_improvement([[1.0], [2.0]], [[1.0]])
    with pytest.raises(ValueError, match="at least 1, got 0"):
        iqm([[1.0, 2.0]], resamples=0)


def benchmark(losses, tasks=4, seeds=2):
    return [
        row(
            f"a-long-task-name-{i}", arm, seed, loss + 0.01 * i + 0.02 * seed, "ours" in arm
        )
        for arm, loss in losses.items()
        for i in range(tasks)
        for seed in range(seeds)
    ]


LOSSES = {DEFAULT: 1.3, "Prodigy": math.inf, TUNED: 1.0, "PPO (ours)": 0.9}


def test_summary_has_the_expected_measures():
    found = {each.arm: each for each in summarize(benchmark(LOSSES))}
    assert list(found) == list(LOSSES)
    tuned, ours, bad = found[TUNED], found["PPO (ours)"], found["Prodigy"]
    assert (tuned.speedup, tuned.reached, tuned.better.value) == (1.0, 1.0, 0.5)
    assert tuned.iqm.value == pytest.approx(1.0) and ours.iqm.value > 1.05
    assert ours.speedup > 1.0 == ours.profile > tuned.profile > bad.profile == 0.0
    assert ours.better.value == 1.0 and ours.records[TUNED].wins == 4
    assert ours.records[DEFAULT] == (4, 0, 4, 0, 4)
    assert (bad.diverged, bad.runs, bad.reached, bad.speedup) == (8, 8, 0.0, 0.25)
    assert (bad.iqm, bad.area, bad.better.value) == ((0.0, 0.0, 0.0), 0.0, 0.0)


def test_summary_does_not_depend_on_the_order_of_runs():
    rows = benchmark(LOSSES)
    backwards = sorted(summarize(rows[::-1]), key=lambda each: each.arm)
    assert backwards == sorted(summarize(rows), key=lambda each: each.arm)


def test_summary_table_has_a_line_an_arm_and_fits():
    names = [f"An optimizer of ours, no. {i:02d}" for i in range(12)]
    text = format_summary(benchmark({**LOSSES, **dict.fromkeys(names, 1.1)}))
    lines = text.splitlines()
    assert max(map(len, lines)) <= 140
    assert [sum(line.startswith(name) for line in lines) for name in names] == [1] * 12
    line = next(line for line in lines if line.startswith("PPO (ours)"))
    assert line.split()[-3:] == ["4/4/0", "4/4/0", "0"]


def test_summary_table_works_without_intervals_and_baselines():
    text = format_summary(benchmark({TUNED: 1.0}, seeds=1), baselines=[], gap_fraction=0.98)
    assert text.splitlines()[-1].split() == (
        [*TUNED.split(), "1.000", "0.492", "0.50", "100%", "1.00", "1.00", "1.00", "0"]
    )
    assert "98 % of its gap" in text and "won" not in text


@pytest.mark.parametrize("draw", [plot_profiles, plot_final_losses])
def test_pictures_of_a_benchmark_are_drawn(draw, tmp_path):
    pytest.importorskip("matplotlib")
    many = {f"arm {i}": 1.0 + 0.01 * i for i in range(9)}
    draw(benchmark({**LOSSES, **many}), tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 10_000
    draw(benchmark({TUNED: 1.0}, tasks=1, seeds=1), tmp_path / "one.png")
    with pytest.raises(ValueError, match="no results of the arm 'AdamW tuned'"):
        draw([], tmp_path / "none.png")


def test_more_resamples_than_there_is_memory_for_are_refused():
    with pytest.raises(ValueError, match=r"resamples=1000000000000 would need .* of mem"):
        iqm([[1.0, 2.0], [3.0, 4.0]], resamples=10**12)
