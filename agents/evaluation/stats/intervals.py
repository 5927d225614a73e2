"""Intervals: of a mean over seeds (t), and of aggregates over tasks and seeds (bootstrap).

Agarwal et al. (2021, "Deep Reinforcement Learning at the Edge of the Statistical
Precipice") recommend the interquartile mean and the probability of improvement for a few
runs on each of many tasks. The bootstrap resamples seeds within every task and keeps the
tasks, so an interval is about other seeds of these tasks, not about other tasks.

For the aggregates, scores are one array per task, ``[seeds]``, and higher is better; tasks
may have different numbers of seeds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from optenv.intervals import Interval, interval
from optenv.memory_limit import refuse_count

__all__ = [
    "RESAMPLES",
    "Estimate",
    "Interval",
    "interval",
    "iqm",
    "probability_of_improvement",
]

RESAMPLES = 2000
CONFIDENCE = 0.95

Scores: TypeAlias = Sequence[npt.ArrayLike]
Samples: TypeAlias = list[npt.NDArray[np.float64]]


class Estimate(NamedTuple):
    """A value and the ends of its 95 % bootstrap interval (nan if a task has one seed)."""

    value: float
    low: float
    high: float


def iqm(scores: Scores, resamples: int = RESAMPLES, seed: int = 0) -> Estimate:
    """Return the interquartile mean: without the best and the worst quarter of all runs.

    Args:
        scores: one array per task, ``[seeds]``. All runs have the same weight.
        resamples: number of bootstrap samples.
        seed: seed of the bootstrap's own generator.

    Raises:
        ValueError: there are no scores, a score is not finite, or ``resamples`` is not
            positive or needs more memory than the limit.
    """
    from scipy.stats import trim_mean

    def statistic(samples: Samples) -> npt.NDArray[np.float64]:
        return np.asarray(trim_mean(np.concatenate(samples, axis=1), 0.25, axis=1))

    return _bootstrap(statistic, _samples(scores), resamples, seed)


def probability_of_improvement(
    ours: Scores, theirs: Scores, resamples: int = RESAMPLES, seed: int = 0
) -> Estimate:
    """Return the probability that a run of ours beats a run of theirs, mean over tasks.

    On one task it is the fraction of all pairs of runs in which ours has the higher score;
    an equal score counts half (the Mann-Whitney statistic). The two sides are resampled
    independently, as if their seeds had nothing in common.

    Args:
        ours: one array per task, ``[seeds]``.
        theirs: scores of the same tasks in the same order.
        resamples: number of bootstrap samples.
        seed: seed of the bootstrap's own generator.

    Raises:
        ValueError: see :func:`iqm`; or the numbers of tasks differ.
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
    """Return the estimate with its percentile interval.

    Scipy's bootstrap would refuse a sample of one value.

    Args:
        statistic: function from samples, an array ``[draws, seeds]`` per task, to
            ``[draws]``.
        samples: one array ``[seeds]`` per task.
        resamples: number of draws.
        seed: seed of the generator.
    """
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, got {resamples}")
    # Indices, the samples that they draw, and the pooled ones
    each = 3 * 8 * sum(map(len, samples))
    refuse_count("resamples", resamples, "the bootstrap samples", each)
    # A leading axis of one draw: the sample itself.
    value = float(statistic([sample[None] for sample in samples])[0])
    if min(map(len, samples)) == 1:
        return Estimate(value, math.nan, math.nan)
    # Resample seeds within each task, and keep the tasks.
    rng = np.random.default_rng(seed)
    drawn = [
        sample[rng.integers(len(sample), size=(resamples, len(sample)))]
        for sample in samples
    ]
    ends = (0.5 - CONFIDENCE / 2, 0.5 + CONFIDENCE / 2)
    low, high = np.quantile(statistic(drawn), ends)
    return Estimate(value, float(low), float(high))
