"""Measures of single runs, relative to a reference optimizer."""

from __future__ import annotations

import math

import numpy as np
import pytest

from agents.evaluation.row import TUNED
from agents.evaluation.stats.normalise import MISSED_SPEEDUP, measure, per_task, updates_to
from agents.evaluation.stats.profiles import versus
from tests.helpers.benchmark_rows import row, runs_of

pytest.importorskip("scipy")


def measured(ours, theirs=(1.0,), gap_fraction=1.0, **changed):
    """Measures of our runs on one task, in order of seed."""
    rows = runs_of("a", "ours", ours, **changed) + runs_of("a", TUNED, theirs)
    return [run for run in measure(rows, gap_fraction=gap_fraction) if run.arm == "ours"]


@pytest.mark.parametrize(
    ("loss", "expected"),
    [(1.5, 0.5), (1.0, 1.0), (0.9, 1.1), (0.5, 1.2), (2.0, 0.0), (3.0, 0.0),
     (math.inf, 0.0), (math.nan, 0.0)],
)  # fmt: skip
def test_normalised_loss_is_relative_to_the_reference_mean_and_bounded(loss, expected):
    found = measured([loss, 1.0], theirs=[0.8, 1.2])
    assert found[0].normalised == pytest.approx(expected)
    assert found[0].diverged == (not loss <= 2.0)


@pytest.mark.parametrize(
    ("curve", "expected"),
    [
        ([(0, 2.0), (10, 1.0), (20, 0.0)], 15.0),
        ([(0, 2.0), (10, 0.5), (20, 3.0)], 10.0),
        ([(0, 2.0), (10, 1.0), (20, 0.6)], math.inf),
        ([(0, 2.0), (10, math.inf), (20, 0.4)], 20.0),
        ([(0, 2.0), (10, math.nan), (20, 0.4)], 20.0),
        ([(0, 2.0), (10, -1.0)], 5.0),
        ([(0, 0.5), (10, 0.1)], 0.0),
    ],
)
def test_target_is_reached_where_the_straight_line_first_meets_it(curve, expected):
    assert updates_to(curve, 0.5) == pytest.approx(expected)


def test_speedup_is_against_the_reference_run_of_the_same_seed():
    # The curves are (0, 2), (5, 1.5 loss), (10, loss); the targets 1 and 1.2.
    first, second = measured([0.5, 0.6], theirs=[1.0, 1.2], cpu_seconds=0.2)
    assert (first.updates, first.cpu) == pytest.approx((4.0, 8.0))
    assert (first.speedup, first.cpu_speedup) == pytest.approx((2.5, 1.25))
    assert second.updates == pytest.approx(5 * 0.8 / 1.1)
    half_way = measured([1.2], gap_fraction=0.5)[0]
    assert half_way.updates == pytest.approx(7.5)
    assert half_way.speedup == pytest.approx(5.0 / 7.5)


def test_missed_target_counts_as_the_slowest():
    missed = measured([1.01])[0]
    assert (missed.updates, missed.cpu) == (math.inf, math.inf)
    assert missed.speedup == missed.cpu_speedup == MISSED_SPEEDUP == 0.25
    fast = runs_of("a", TUNED, [1.0], curve=[(0, 2.0), (1, 1.0), (10, 1.0)])
    late = [run for run in measure(runs_of("a", "ours", [1.0]) + fast) if run.arm == "ours"]
    assert late[0].updates == 10.0 and late[0].speedup == MISSED_SPEEDUP


def test_area_is_the_mean_of_the_normalised_curve():
    assert measured([1.0])[0].area == pytest.approx(0.5)
    assert measured([math.inf])[0].area == 0.0
    late = [(0, 2.0), (9, 2.0), (10, 1.0)]
    assert measured([1.0], curve=late)[0].area == pytest.approx(0.05)


def benchmark(losses):
    """Three seeds of each arm on tasks a and b, around its loss."""
    return [
        row(task, arm, seed, loss + shift + 0.01 * seed)
        for task, shift in (("a", 0.0), ("b", 0.1))
        for arm, loss in losses.items()
        for seed in range(3)
    ]


def test_measures_do_not_depend_on_the_order_of_rows():
    rows = benchmark({"ours": 0.97, TUNED: 1.0, "theirs": math.inf})
    shuffled = [rows[i] for i in np.random.default_rng(0).permutation(len(rows))]
    assert measure(shuffled) == measure(rows)
    assert versus(shuffled, "ours", TUNED) == versus(rows, "ours", TUNED)


@pytest.mark.parametrize(("scale", "shift"), [(7.0, 0.0), (1e-3, 0.0), (2.0, 5.0)])
def test_measures_do_not_depend_on_the_scale_of_losses(scale, shift):
    def changed(each):
        ends = {
            key: each[key] * scale + shift
            for key in ("validation_loss", "initial_validation_loss")
        }
        curve = [(update, loss * scale + shift) for update, loss in each["curve"]]
        return {**each, **ends, "curve": curve}

    rows = benchmark({"ours": 0.97, TUNED: 1.0, "theirs": 1.3})
    other = [changed(each) for each in rows]
    for a, b in zip(
        measure(rows, gap_fraction=0.99), measure(other, gap_fraction=0.99), strict=True
    ):
        assert a[:3] == b[:3] and a[3:] == pytest.approx(b[3:])
    assert versus(rows, "ours", TUNED) == versus(other, "ours", TUNED)


ROWS = runs_of("a", TUNED, [1.0, 1.1]) + runs_of("b", TUNED, [1.0, 1.1])
OURS = runs_of("a", "ours", [1.0, 1.1]) + runs_of("b", "ours", [1.0, 1.1])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "no results of the arm 'AdamW tuned'; there are those of none"),
        (OURS, "'AdamW tuned'; there are those of 'ours'"),
        (
            ROWS + OURS[:2],
            "'ours' lacks runs that 'AdamW tuned' has: 'b' seed 0, 'b' seed 1",
        ),
        (ROWS[:3] + OURS, "'AdamW tuned' lacks runs that 'ours' has: 'b' seed 1"),
        (ROWS + OURS + OURS[1:2], r"more than one run of 'ours' .* \[\('a', 1\)\]"),
        (
            ROWS + runs_of("c", TUNED, [2.5]),
            "learned nothing on 'c' seed 0: from 2.0 to 2.5",
        ),
        (ROWS + runs_of("c", TUNED, [math.inf]), "learned nothing on 'c' seed 0"),
        (ROWS + runs_of("c", TUNED, [1.0, math.inf]), "in the mean over seeds to inf"),
        ([{**each, "initial_validation_loss": math.inf} for each in ROWS], "from inf to"),
        (ROWS + [{**each, "initial_validation_loss": 2.1} for each in OURS], "with 2.1"),
        (ROWS + [{**each, "curve": []} for each in OURS], "of 'ours' on 'a' seed 0 has no"),
        (
            ROWS + [{**each, "cpu_seconds": 0.0} for each in OURS],
            "no speed of 'ours' on 'a'",
        ),
    ],
)
def test_results_that_cannot_be_compared_are_refused(rows, message):
    with pytest.raises(ValueError, match=message):
        measure(rows)


def test_unknown_names_and_targets_are_refused():
    with pytest.raises(ValueError, match=r"gap_fraction must be in \(0, 1\], got 1.5"):
        measure(ROWS, gap_fraction=1.5)
    with pytest.raises(ValueError, match="arm 'mine'; there are those of 'AdamW tuned'"):
        per_task(measure(ROWS), "mine", "area")
    with pytest.raises(
        ValueError, match="unknown measure 'loss'; valid measures: normalised"
    ):
        per_task(measure(ROWS), TUNED, "loss")
