"""The summary of an arm: all measures of a benchmark aggregated over tasks and seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..row import DEFAULT, TUNED, Row, ordered_arms
from .intervals import Estimate, iqm, probability_of_improvement
from .normalise import check_runs, measure, per_task, relative_cost
from .profiles import Record, mean_speedup, profile_score, time_ratios, versus

__all__ = ["Summary", "cpu_ratios", "summarize"]


class Summary(NamedTuple):
    """Measures of an arm over all tasks and seeds; higher is better except ``diverged``.

    Attributes:
        arm: name of the arm.
        iqm: interquartile mean of the normalised final losses.
        area: mean over tasks of the area under the normalised curve.
        better: probability of improvement over the reference.
        reached: fraction of the runs that reach the target.
        speedup: geometric mean over tasks of the speed-up in updates.
        cpu_speedup: the same in CPU time.
        profile: score of the performance profile, in updates.
        records: wins, ties and losses against each baseline.
        diverged: number of runs that diverged.
        runs: number of all runs.
    """

    arm: str
    iqm: Estimate
    area: float
    better: Estimate
    reached: float
    speedup: float
    cpu_speedup: float
    profile: float
    records: dict[str, Record]
    diverged: int
    runs: int


def summarize(
    rows: Sequence[Row],
    reference: str = TUNED,
    baselines: Sequence[str] = (DEFAULT, TUNED),
    gap_fraction: float = 1.0,
) -> list[Summary]:
    """Summarise every arm, learned arms last.

    Args:
        rows: rows with curves; all arms with the same tasks and seeds.
        reference: arm to which losses and speeds are relative.
        baselines: arms against which wins, ties and losses are counted; arms without rows
            are left out.
        gap_fraction: fraction of the gap from the initial to the reference's final loss
            that has to be closed to reach the target; see
            :func:`~agents.evaluation.stats.normalise.measure`.

    Raises:
        ValueError: see :func:`~agents.evaluation.stats.normalise.measure`.
    """
    runs = measure(rows, reference, gap_fraction)
    arms = ordered_arms(rows)
    ratios = time_ratios(runs)
    reference_scores = list(per_task(runs, reference, "normalised").values())
    summaries = []
    for arm in arms:
        scores = list(per_task(runs, arm, "normalised").values())
        runs_of_arm = [run for run in runs if run.arm == arm]
        areas = per_task(runs, arm, "area").values()
        summaries.append(
            Summary(
                arm,
                iqm=iqm(scores),
                area=float(np.mean([values.mean() for values in areas])),
                better=probability_of_improvement(scores, reference_scores),
                reached=float(np.mean([math.isfinite(run.updates) for run in runs_of_arm])),
                speedup=mean_speedup(runs, arm),
                cpu_speedup=mean_speedup(runs, arm, "cpu_speedup"),
                profile=profile_score(ratios[arm]),
                records={
                    baseline: versus(rows, arm, baseline, reference)
                    for baseline in baselines
                    if baseline in arms
                },
                diverged=sum(run.diverged for run in runs_of_arm),
                runs=len(runs_of_arm),
            )
        )
    return summaries


def cpu_ratios(rows: Sequence[Row]) -> dict[str, float]:
    """Return the CPU time of an update relative to an update of AdamW, by arm.

    An update is forward, backward and step; the ratio is a geometric mean over tasks and
    seeds. Each run was timed in updates of AdamW made during it
    (:func:`~agents.evaluation.stats.normalise.relative_cost`). As these are made in pairs,
    they are somewhat faster than the updates of a run of AdamW. Therefore the ratios are
    relative to the arm :data:`~agents.evaluation.row.DEFAULT`.

    Raises:
        ValueError: an arm lacks runs that another has, or no CPU time was measured.
    """
    check_runs(rows, DEFAULT)
    logs: dict[str, list[float]] = {}
    for row in rows:
        if not relative_cost(row) > 0.0:
            raise ValueError("the CPU time of some runs is not positive")
        logs.setdefault(row["arm"], []).append(math.log(relative_cost(row)))
    means = {arm: sum(values) / len(values) for arm, values in logs.items()}
    return {arm: math.exp(mean - means[DEFAULT]) for arm, mean in means.items()}
