"""Overshoot: how far above its lowest loss an arm ends."""

from __future__ import annotations

import pytest

from agents.evaluation.report.tables import format_overshoots
from agents.evaluation.row import TUNED
from agents.evaluation.stats.overshoot import overshoots


def row(task, losses, arm=TUNED, seed=0):
    return {"task": task, "arm": arm, "seed": seed, "curve": list(enumerate(losses))}


def test_the_end_is_compared_with_the_lowest_point_of_the_mean_curve():
    rows = [
        row("a", [4.0, 1.0, 1.5]), row("a", [4.0, 2.0, 1.5], seed=1),
        row("b", [4.0, 1.0, 1.5]), row("b", [9.0, 9.0, 1.0], "other"),
    ]  # fmt: skip
    assert overshoots(rows) == {"a": 0.0, "b": pytest.approx(0.5)}


def test_tasks_that_end_above_their_best_are_named():
    rows = [row("a", [4.0, 1.0, 1.005]), row("b", [4.0, 1.0, 1.5])]
    assert format_overshoots(rows).endswith("on 1 of 2 tasks; above it: b +50.0%")
    assert format_overshoots(rows[:1]).endswith("on 1 of 1 tasks")


def test_an_arm_that_has_not_run_is_named():
    with pytest.raises(ValueError, match="no rows of 'Lion'"):
        overshoots([row("a", [1.0])], "Lion")
