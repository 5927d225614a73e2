"""Comparison of arms over all tasks: speed-ups, performance profiles, wins, worst cases.

Performance profiles (Dolan & Moré, 2002) are scored as in AlgoPerf (Dahl et al., 2023,
"Benchmarking Neural Network Training Algorithms").
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..row import TUNED, Row
from .intervals import Interval, interval
from .normalise import (
    MISSED_SPEEDUP,
    Measured,
    check_runs,
    difference,
    final_losses,
    mean_loss,
    per_task,
)

__all__ = [
    "MAX_TIME_RATIO",
    "TIE_TOLERANCE",
    "Record",
    "lead",
    "mean_speedup",
    "profile",
    "profile_score",
    "time_ratios",
    "versus",
    "worst_case",
]

#: Performance profiles end at this multiple of the fastest arm's time.
MAX_TIME_RATIO = 1.0 / MISSED_SPEEDUP
#: Half-width of a tie, as a fraction of the gap from the initial to the reference's loss.
TIE_TOLERANCE = 0.02


class Record(NamedTuple):
    """Tasks won and lost against a baseline.

    Attributes:
        wins: tasks with a lower mean validation loss than the baseline's.
        ties: tasks on which the two differ by very little; some are wins or losses too.
        wins_or_ties: tasks that are a win, a tie or both.
        losses: tasks with a higher mean.
        tasks: number of all tasks.
    """

    wins: int
    ties: int
    wins_or_ties: int
    losses: int
    tasks: int


def mean_speedup(runs: Sequence[Measured], arm: str, by: str = "speedup") -> float:
    """Return the geometric mean of the speed-up over seeds, then tasks.

    Missed targets count as
    :data:`~agents.evaluation.stats.normalise.MISSED_SPEEDUP`.

    Args:
        runs: results of :func:`~agents.evaluation.stats.normalise.measure`.
        arm: name of the arm.
        by: ``"speedup"`` or ``"cpu_speedup"``.
    """
    logs = [np.log(values).mean() for values in per_task(runs, arm, by).values()]
    return float(np.exp(np.mean(logs)))


def time_ratios(
    runs: Sequence[Measured], by: str = "updates"
) -> dict[str, npt.NDArray[np.float64]]:
    """Return every arm's time to the target relative to the fastest arm's, by task.

    The time is the median over seeds, as in AlgoPerf; inf if the median misses the target.

    Args:
        runs: measures of all arms that are compared, the fastest among them.
        by: ``"updates"`` or ``"cpu"``.

    Returns:
        Ratios ``[tasks]``, at least 1, by arm; tasks in alphabetical order.
    """
    arms = list(dict.fromkeys(run.arm for run in runs))
    times = np.array(
        [[np.median(values) for values in per_task(runs, arm, by).values()] for arm in arms]
    )
    fastest = times.min(axis=0, keepdims=True)
    # Avoids a division of inf by inf where no arm reaches the target.
    ratios = np.divide(
        times, fastest, out=np.full_like(times, math.inf), where=times < math.inf
    )
    return dict(zip(arms, ratios, strict=True))


def profile(
    ratios: npt.NDArray[np.float64], taus: npt.ArrayLike
) -> npt.NDArray[np.float64]:
    """Return the fraction of tasks on which an arm is at most ``tau`` times slower.

    Args:
        ratios: times of one arm over the fastest's ``[tasks]``, from :func:`time_ratios`.
        taus: multiples of the fastest arm's time ``[points]``.

    Returns:
        Fractions ``[points]``, in [0, 1].
    """
    within = np.asarray(ratios)[None, :] <= np.asarray(taus, dtype=np.float64)[:, None]
    return np.asarray(within.mean(axis=1))


def profile_score(
    ratios: npt.NDArray[np.float64], max_ratio: float = MAX_TIME_RATIO
) -> float:
    """Return the mean height of the profile; 1 means the fastest arm on every task.

    Args:
        ratios: times of one arm over the fastest's ``[tasks]``, from :func:`time_ratios`.
        max_ratio: the mean is over multiples from 1 to this one.

    Raises:
        ValueError: ``max_ratio`` is not above 1.
    """
    if not max_ratio > 1.0:
        raise ValueError(f"max_ratio must be above 1, got {max_ratio!r}")
    # A task adds a step of height 1 / tasks from its ratio on: no grid is needed.
    heights = np.clip((max_ratio - np.asarray(ratios)) / (max_ratio - 1.0), 0.0, 1.0)
    return float(heights.mean())


def versus(
    rows: Sequence[Row],
    arm: str,
    baseline: str,
    reference: str = TUNED,
    tolerance: float = TIE_TOLERANCE,
) -> Record:
    """Count wins, ties and losses of ``arm`` against ``baseline``.

    A tie is a task on which the 95 % t interval over seeds of the paired difference in
    final validation loss lies within plus and minus ``tolerance`` times the gap from the
    mean initial loss to the reference's mean final one. A tie needs two seeds and finite
    losses. Two arms that both have infinite means neither win nor lose.

    Raises:
        ValueError: the two, or the reference, lack tasks or seeds; ``tolerance`` is
            negative.
    """
    if not tolerance >= 0.0:
        raise ValueError(f"tolerance must be at least 0, got {tolerance!r}")
    rows = [row for row in rows if row["arm"] in (arm, baseline, reference)]
    for name in (arm, baseline, reference):
        check_runs(rows, name)
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    won, tied, lost = [], [], []
    for task in tasks:
        paired = difference(rows, task, arm, baseline)
        # Starts are sorted, since the rounding of a mean depends on the order.
        starts = sorted(r["initial_validation_loss"] for r in rows if r["task"] == task)
        limit = tolerance * (float(np.mean(starts)) - mean_loss(rows, task, reference))
        won.append(paired.mean < 0.0)
        lost.append(paired.mean > 0.0)
        tied.append(abs(paired.mean) + paired.half <= limit)
    either = sum(w or t for w, t in zip(won, tied, strict=True))
    return Record(sum(won), sum(tied), either, sum(lost), len(tasks))


def lead(runs: Sequence[Measured], arm: str, baseline: str) -> Interval:
    """Return how far ``arm`` ends ahead of ``baseline``, in % of the reference's gap.

    It is the paired difference of normalised final losses, averaged over tasks, with a 95 %
    t interval over seeds, which is about other seeds of these tasks.

    Args:
        runs: results of :func:`~agents.evaluation.stats.normalise.measure`.
        arm, baseline: names of two arms with the same tasks and seeds.
    """
    ours, theirs = (per_task(runs, name, "normalised") for name in (arm, baseline))
    gains = [ours[task] - theirs[task] for task in ours]
    return interval([*(100.0 * np.mean(gains, axis=0))])


def worst_case(rows: Sequence[Row], arms: Sequence[str], name: str) -> list[Row]:
    """Return the runs of the worst of several arms on every task, as runs of one arm.

    For a policy with several base learning rates, it is the result with the worst rate for
    each task. The worst arm has the highest mean validation loss over seeds (among arms
    with non-finite runs, the most such runs). It is not the worst run of each seed, which
    would also select by chance.

    Args:
        rows: rows, including those of all ``arms``.
        arms: names of the arms.
        name: name of the arm in the returned rows.

    Raises:
        ValueError: ``arms`` is empty, or one of them lacks a run that the first has.
    """
    chosen = [row for row in rows if row["arm"] in arms]
    if not arms:
        raise ValueError(f"the worst case {name!r} is one of at least one arm, got none")
    for arm in arms:
        check_runs(chosen, arm)
    worst: list[Row] = []
    for task in dict.fromkeys(row["task"] for row in chosen):
        arm = max(arms, key=partial(_badness, chosen, task))
        runs = [row for row in chosen if row["task"] == task and row["arm"] == arm]
        worst += [{**row, "arm": name} for row in runs]
    return worst


def _badness(rows: Sequence[Row], task: str, arm: str) -> tuple[float, int]:
    """Return a sort key, larger if worse: mean loss, number of non-finite losses."""
    ends = final_losses(rows, task, arm).values()
    return mean_loss(rows, task, arm), sum(not math.isfinite(loss) for loss in ends)
