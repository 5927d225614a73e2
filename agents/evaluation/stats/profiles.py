"""How arms stand over all tasks: speed-ups, performance profiles, wins and worst cases.

Performance profiles are those of Dolan & Moré (2002), scored as in AlgoPerf (Dahl et al.,
2023, "Benchmarking Neural Network Training Algorithms").
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..arms.defaults import TUNED
from .normalise import MISS, Measured, check_runs, mean_loss, per_task
from .results import Interval, Row, difference, interval, losses

__all__ = [
    "BAND",
    "SLOWEST",
    "Record",
    "ahead",
    "mean_speedup",
    "profile",
    "profile_score",
    "time_ratios",
    "versus",
    "worst_case",
]

#: Performance profiles end at this many times the fastest arm's time.
SLOWEST = 1.0 / MISS
#: Half-width of a tie, as a part of the way from the initial to the reference's loss.
BAND = 0.02


class Record(NamedTuple):
    """Tasks won and lost against a baseline.

    Attributes:
        wins: tasks with a lower mean validation loss than the baseline's.
        ties: tasks on which the two are as good as the same; some are wins or losses too.
        wins_or_ties: tasks that are at least one of the two.
        losses: tasks with a higher mean.
        tasks: all tasks.
    """

    wins: int
    ties: int
    wins_or_ties: int
    losses: int
    tasks: int


def mean_speedup(runs: Sequence[Measured], arm: str, by: str = "speedup") -> float:
    """Geometric mean over tasks of the geometric mean over seeds; misses count too.

    Args:
        runs: as :func:`~agents.evaluation.stats.normalise.measure` gives them.
        arm: whose.
        by: ``"speedup"`` or ``"cpu_speedup"``.
    """
    logs = [np.log(values).mean() for values in per_task(runs, arm, by).values()]
    return float(np.exp(np.mean(logs)))


def time_ratios(
    runs: Sequence[Measured], by: str = "updates"
) -> dict[str, npt.NDArray[np.float64]]:
    """Every arm's time to the target over that of the fastest arm, task by task.

    The time is the median over seeds, as in AlgoPerf; inf where that is a miss.

    Args:
        runs: of all arms that are compared: the fastest is one of them.
        by: ``"updates"`` or ``"cpu"``.

    Returns:
        ``[tasks]``, at least 1, by arm; tasks in alphabetical order.
    """
    arms = list(dict.fromkeys(run.arm for run in runs))
    times = np.array(
        [[np.median(values) for values in per_task(runs, arm, by).values()] for arm in arms]
    )
    fastest = times.min(axis=0, keepdims=True)
    # Not a division of inf by inf where no arm reaches the target.
    ratios = np.divide(
        times, fastest, out=np.full_like(times, math.inf), where=times < math.inf
    )
    return dict(zip(arms, ratios, strict=True))


def profile(
    ratios: npt.NDArray[np.float64], taus: npt.ArrayLike
) -> npt.NDArray[np.float64]:
    """Part of the tasks on which an arm takes at most ``tau`` times the fastest's time.

    Args:
        ratios: ``[tasks]``, of one arm, from :func:`time_ratios`.
        taus: ``[points]``.

    Returns:
        ``[points]``, in [0, 1].
    """
    within = np.asarray(ratios)[None, :] <= np.asarray(taus, dtype=np.float64)[:, None]
    return np.asarray(within.mean(axis=1))


def profile_score(ratios: npt.NDArray[np.float64], slowest: float = SLOWEST) -> float:
    """Mean height of the profile from 1 to ``slowest``: 1 is the fastest on every task.

    Raises:
        ValueError: ``slowest`` is not above 1.
    """
    if not slowest > 1.0:
        raise ValueError(f"slowest must be above 1, got {slowest!r}")
    # A task adds a step of height 1 / tasks from its ratio on: no need for a grid.
    return float(np.clip((slowest - np.asarray(ratios)) / (slowest - 1.0), 0.0, 1.0).mean())


def versus(
    rows: Sequence[Row], arm: str, baseline: str, reference: str = TUNED, band: float = BAND
) -> Record:
    """Wins, ties and losses of ``arm`` against ``baseline``.

    A tie is a task on which the 95 % t interval over seeds of the paired difference in
    final validation loss lies within plus and minus ``band`` of the way from the mean
    initial loss to the reference's mean final one. It takes two seeds to show one, and
    finite losses. Two arms that both have infinite means neither win nor lose.

    Raises:
        ValueError: the two, or the reference, lack tasks or seeds; ``band`` is negative.
    """
    if not band >= 0.0:
        raise ValueError(f"band must be at least 0, got {band!r}")
    rows = [row for row in rows if row["arm"] in (arm, baseline, reference)]
    for each in (arm, baseline, reference):
        check_runs(rows, each)
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    won, tied, lost = [], [], []
    for task in tasks:
        found = difference(rows, task, arm, baseline)
        starts = sorted(r["initial_validation_loss"] for r in rows if r["task"] == task)
        limit = band * (float(np.mean(starts)) - mean_loss(rows, task, reference))
        won.append(found.mean < 0.0)
        lost.append(found.mean > 0.0)
        tied.append(abs(found.mean) + found.half <= limit)
    either = sum(w or t for w, t in zip(won, tied, strict=True))
    return Record(sum(won), sum(tied), either, sum(lost), len(tasks))


def ahead(runs: Sequence[Measured], arm: str, baseline: str) -> Interval:
    """How far ``arm`` ends ahead of ``baseline``, in % of the way that the reference came.

    The paired difference of normalised final losses, mean over tasks, with its 95 % t
    interval over seeds: it speaks of other seeds of these tasks.

    Args:
        runs: as :func:`~agents.evaluation.stats.normalise.measure` gives them.
        arm, baseline: with runs of the same tasks and seeds.
    """
    ours, theirs = (per_task(runs, each, "normalised") for each in (arm, baseline))
    gains = [ours[task] - theirs[task] for task in ours]
    return interval([*(100.0 * np.mean(gains, axis=0))])


def worst_case(rows: Sequence[Row], arms: Sequence[str], name: str) -> list[Row]:
    """Runs of the worst of several arms on every task, as those of an arm ``name``.

    For one policy with several base learning rates: what one gets on a task with the one
    that fits it least. The worst has the highest mean validation loss over seeds (of those
    with runs that are not finite, the most such runs). Not the worst run of each seed: that
    would also pick what is only chance.

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
    """Larger is worse: mean loss, then how many of the losses are not finite."""
    ends = losses(rows, task, arm).values()
    return mean_loss(rows, task, arm), sum(not math.isfinite(loss) for loss in ends)
