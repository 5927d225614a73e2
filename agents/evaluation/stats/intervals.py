"""Aggregates over tasks and seeds, with intervals from the stratified bootstrap.

The interquartile mean and the probability of improvement are those that Agarwal et al.
(2021, "Deep Reinforcement Learning at the Edge of the Statistical Precipice") advise for
a handful of runs on each of many tasks. Seeds are drawn anew within every task and tasks
stay as they are, so an interval speaks of other seeds of these tasks, not of other tasks.

Everywhere, scores are one array per task, ``[seeds]``, and higher is better; tasks may
have different numbers of seeds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = ["RESAMPLES", "Estimate", "iqm", "probability_of_improvement"]

RESAMPLES = 2000
LEVEL = 0.95

Scores: TypeAlias = Sequence[npt.ArrayLike]
Samples: TypeAlias = list[npt.NDArray[np.float64]]


class Estimate(NamedTuple):
    """A value and the ends of its 95 % interval (nan where a task has one seed only)."""

    value: float
    low: float
    high: float


def iqm(scores: Scores, resamples: int = RESAMPLES, seed: int = 0) -> Estimate:
    """Interquartile mean: of all runs, the mean without the best and the worst quarter.

    Args:
        scores: one array per task, ``[seeds]``. Every run counts alike, whatever its task.
        resamples: of the bootstrap.
        seed: of the bootstrap's own generator.

    Raises:
        ValueError: there are no scores, a score is not finite, or ``resamples`` is not
            positive.
    """
    from scipy.stats import trim_mean

    def statistic(samples: Samples) -> npt.NDArray[np.float64]:
        return np.asarray(trim_mean(np.concatenate(samples, axis=1), 0.25, axis=1))

    return _bootstrap(statistic, _samples(scores), resamples, seed)


def probability_of_improvement(
    ours: Scores, theirs: Scores, resamples: int = RESAMPLES, seed: int = 0
) -> Estimate:
    """How likely a run of ours beats a run of theirs, mean over tasks.

    On one task it is the share of all pairs of runs, one of each, in which ours has the
    higher score; an equal score counts half (the Mann-Whitney statistic). Both sides are
    drawn on their own, as if their seeds had nothing in common.

    Args:
        ours: one array per task, ``[seeds]``.
        theirs: the same tasks in the same order.
        resamples: of the bootstrap.
        seed: of the bootstrap's own generator.

    Raises:
        ValueError: as :func:`iqm`, or the numbers of tasks differ.
    """
    if len(ours) != len(theirs):
        raise ValueError(f"scores of {len(ours)} tasks against scores of {len(theirs)}")

    def statistic(samples: Samples) -> npt.NDArray[np.float64]:
        pairs = zip(samples[: len(ours)], samples[len(ours) :], strict=True)
        return np.mean([_beats(a[:, :, None], b[:, None, :]) for a, b in pairs], axis=0)

    return _bootstrap(statistic, [*_samples(ours), *_samples(theirs)], resamples, seed)


def _beats(
    a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    return ((a > b) + 0.5 * (a == b)).mean(axis=(1, 2))


def _samples(scores: Scores) -> Samples:
    samples = [np.atleast_1d(np.asarray(task, dtype=np.float64)) for task in scores]
    if not samples or not all(sample.size for sample in samples):
        raise ValueError(f"every task needs at least one score, got {scores!r}")
    if not all(np.isfinite(sample).all() for sample in samples):
        raise ValueError(f"scores must be finite, got {scores!r}")
    return samples


def _bootstrap(
    statistic: Callable[[Samples], npt.NDArray[np.float64]],
    samples: Samples,
    resamples: int,
    seed: int,
) -> Estimate:
    """Percentile interval; ``statistic`` takes samples ``[draws, seeds]`` to ``[draws]``.

    Not scipy's bootstrap: that refuses a sample of one value.
    """
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, got {resamples}")
    value = float(statistic([sample[None] for sample in samples])[0])
    if min(map(len, samples)) == 1:
        return Estimate(value, math.nan, math.nan)
    random = np.random.default_rng(seed)
    drawn = [
        sample[random.integers(len(sample), size=(resamples, len(sample)))]
        for sample in samples
    ]
    ends = (0.5 - LEVEL / 2, 0.5 + LEVEL / 2)
    low, high = np.quantile(statistic(drawn), ends)
    return Estimate(value, float(low), float(high))
