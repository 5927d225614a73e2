"""One line an arm: all measures of a benchmark put together over its tasks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..arms.defaults import DEFAULT, TUNED
from .intervals import Estimate, iqm, probability_of_improvement
from .normalise import MISS, measure, per_task
from .profiles import BAND, Record, mean_speedup, profile_score, time_ratios, versus
from .results import Row, grid, shown_arms

__all__ = ["Summary", "format_record", "format_summary", "summarize"]

WIDTH = 140


class Summary(NamedTuple):
    """An arm over all tasks and seeds; higher is better but for ``diverged``.

    Attributes:
        arm: name of the optimizer.
        iqm: interquartile mean of the normalised final losses.
        area: mean over tasks of the area under the normalised curve.
        better: probability of improvement over the reference.
        reached: part of the runs that come to the target.
        speedup: geometric mean over tasks, in updates.
        cpu_speedup: the same in CPU time.
        profile: score of the performance profile, in updates.
        records: against each baseline.
        diverged: number of runs.
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
    way: float = 1.0,
) -> list[Summary]:
    """Summary of every arm, learned arms last.

    Args:
        rows: with curves; all arms with the same tasks and seeds.
        reference: arm that losses and speeds are relative to.
        baselines: whose wins, ties and losses are counted; those without rows are left
            out.
        way: see :func:`~agents.evaluation.stats.normalise.measure`.

    Raises:
        ValueError: as :func:`~agents.evaluation.stats.normalise.measure`.
    """
    runs = measure(rows, reference, way)
    arms = shown_arms(rows)
    ratios = time_ratios(runs)
    theirs = list(per_task(runs, reference, "normalised").values())
    found = []
    for arm in arms:
        ours = list(per_task(runs, arm, "normalised").values())
        mine = [run for run in runs if run.arm == arm]
        areas = per_task(runs, arm, "area").values()
        found.append(
            Summary(
                arm,
                iqm=iqm(ours),
                area=float(np.mean([values.mean() for values in areas])),
                better=probability_of_improvement(ours, theirs),
                reached=float(np.mean([math.isfinite(run.updates) for run in mine])),
                speedup=mean_speedup(runs, arm),
                cpu_speedup=mean_speedup(runs, arm, "cpu_speedup"),
                profile=profile_score(ratios[arm]),
                records={
                    baseline: versus(rows, arm, baseline, reference)
                    for baseline in baselines
                    if baseline in arms
                },
                diverged=sum(run.diverged for run in mine),
                runs=len(mine),
            )
        )
    return found


def format_summary(
    rows: Sequence[Row],
    reference: str = TUNED,
    baselines: Sequence[str] = (DEFAULT, TUNED),
    way: float = 1.0,
    width: int = WIDTH,
) -> str:
    """The summary as text, a line an arm; the arguments are those of :func:`summarize`.

    Args:
        width: columns that do not fit are continued below.
    """
    found = summarize(rows, reference, baselines, way)
    tasks = len({row["task"] for row in rows})
    target = "its final loss" if way == 1.0 else f"{100 * way:g} % of its way there"
    title = [
        f"{tasks} tasks, {found[0].runs} runs an arm; "
        "[95 % interval of the stratified bootstrap over seeds]",
        "IQM: interquartile mean of final losses, 0 as at the start, 1 as "
        f"{reference}; area: the same over the whole run, mean",
        f"P(better): how likely a run beats one of {reference}; "
        f"reached: runs that come to the target, {target}",
        f"speed-up, CPU: {reference}'s updates and CPU time to it over the arm's, "
        f"a miss counts {MISS:g}; profile: score of the performance profile",
    ]
    if names := " and ".join(found[0].records):
        band = f"{100 * BAND:g} % of the way"
        title.append(f"{names}: tasks won / won or tied within {band} / lost")
    columns = {
        "IQM": [_estimate(each.iqm) for each in found],
        "area": [f"{each.area:.3f}" for each in found],
        "P(better)": [f"{each.better.value:.2f}" for each in found],
        "reached": [f"{each.reached:.0%}" for each in found],
        "speed-up": [f"{each.speedup:.2f}" for each in found],
        "CPU": [f"{each.cpu_speedup:.2f}" for each in found],
        "profile": [f"{each.profile:.2f}" for each in found],
        **{
            baseline: [format_record(each.records[baseline]) for each in found]
            for baseline in found[0].records
        },
        "diverged": [str(each.diverged) for each in found],
    }
    return grid("\n".join(title), [each.arm for each in found], columns, width)


def _estimate(value: Estimate) -> str:
    if math.isnan(value.low):
        return f"{value.value:.3f}"
    return f"{value.value:.3f} [{value.low:.3f}, {value.high:.3f}]"


def format_record(record: Record) -> str:
    """Tasks won, won or tied, and lost, as ``3/4/1``."""
    return f"{record.wins}/{record.wins_or_ties}/{record.losses}"
