"""Comparison of runs with the runs of a reference arm on the same task and seed.

The two share initial parameters, batches and validation set, so that they are compared
seed by seed. The *gap* of a task is the distance from the initial to the reference's final
validation loss. :func:`measure` gives final losses, curves and speeds of every run
relative to it; all of these stay the same when a task's losses are multiplied by a
constant, or one is added to them, so that they can be aggregated over tasks.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..row import TUNED, Row
from .intervals import Interval, interval

__all__ = [
    "MAX_NORMALISED",
    "MISSED_SPEEDUP",
    "Measured",
    "check_runs",
    "difference",
    "diverged",
    "final_losses",
    "mean_loss",
    "measure",
    "per_task",
    "relative_cost",
    "remaining_gap",
    "updates_to",
]

#: Upper bound of normalised losses: one easy task must not make up for several others.
MAX_NORMALISED = 1.2
#: Lowest speed-up, also of a run that never reaches the target: a quarter of the
#: reference's speed, where performance profiles end, too.
MISSED_SPEEDUP = 0.25
#: Relative tolerance between initial losses of one seed: parallel sums are not exact, and
#: the pretrained networks of two machines differ a little.
START_TOLERANCE = 5e-3


# Paired differences of final losses


def final_losses(rows: Sequence[Row], task: str, arm: str) -> dict[int, float]:
    """Return the final validation loss of each seed."""
    return {
        row["seed"]: row["validation_loss"]
        for row in rows
        if row["task"] == task and row["arm"] == arm
    }


def mean_loss(rows: Sequence[Row], task: str, arm: str) -> float:
    """Return the mean final validation loss over seeds; inf if one is non-finite."""
    losses = final_losses(rows, task, arm)
    mean = interval([losses[seed] for seed in sorted(losses)]).mean
    return mean if math.isfinite(mean) else math.inf


def difference(rows: Sequence[Row], task: str, arm: str, baseline: str) -> Interval:
    """Return the paired difference of final validation loss, ``arm`` minus ``baseline``.

    Raises:
        ValueError: the two were not run with the same seeds.
    """
    pairs = _pairs(rows, task, arm, baseline)
    return interval([ours - theirs for ours, theirs, _ in pairs])


def remaining_gap(
    rows: Sequence[Row], tasks: Sequence[str], arm: str, baseline: str
) -> Interval:
    """Return the part of the gap that ``arm`` leaves open, in %.

    The gap is from the initial loss to ``baseline``'s: 0 is a tie, negative is better, and
    100 means that nothing was learned. Over several tasks, it is the mean over tasks, with
    an interval over seeds.

    Raises:
        ValueError: the two were not run with the same seeds.
    """
    by_task = [
        [_remaining_percent(*pair) for pair in _pairs(rows, task, arm, baseline)]
        for task in tasks
    ]
    return interval([sum(values) / len(values) for values in zip(*by_task, strict=True)])


def _pairs(
    rows: Sequence[Row], task: str, arm: str, baseline: str
) -> list[tuple[float, float, float]]:
    """Return the losses of ``arm`` and ``baseline`` and the initial loss of every seed."""
    ours, theirs = final_losses(rows, task, arm), final_losses(rows, task, baseline)
    if ours.keys() != theirs.keys() or not ours:
        raise ValueError(
            f"{arm!r} and {baseline!r} cannot be paired on {task!r}: "
            f"seeds {sorted(ours)} and {sorted(theirs)}"
        )
    initial = {
        row["seed"]: row["initial_validation_loss"] for row in rows if row["task"] == task
    }
    return [(ours[seed], theirs[seed], initial[seed]) for seed in sorted(ours)]


def _remaining_percent(loss: float, final: float, start: float) -> float:
    """Return how much of the gap from ``start`` to ``final`` a loss leaves open, in %."""
    return 100.0 * (loss - final) / (start - final) if start != final else math.nan


# Measures of single runs


class Measured(NamedTuple):
    """Measures of one run.

    Attributes:
        task: name of the task.
        arm: name of the arm.
        seed: seed of the run.
        normalised: normalised final validation loss: 0 is the initial loss or worse, 1 the
            mean of the reference's seeds, :data:`MAX_NORMALISED` the upper bound; higher is
            better.
        area: mean of the normalised validation loss over the run; higher is better.
        updates: number of updates until the target is reached; inf if it never is.
        cpu: CPU time until then, in updates of AdamW.
        speedup: the reference's updates to the target divided by this run's, at least
            :data:`MISSED_SPEEDUP`, which is also the value for a missed target.
        cpu_speedup: the same for CPU time.
        diverged: see :func:`diverged`.
    """

    task: str
    arm: str
    seed: int
    normalised: float
    area: float
    updates: float
    cpu: float
    speedup: float
    cpu_speedup: float
    diverged: bool


def measure(
    rows: Sequence[Row], reference: str = TUNED, gap_fraction: float = 1.0
) -> list[Measured]:
    """Return the measures of every run, sorted by task, arm and seed.

    Final losses and curves are normalised to ``(L0 - L) / (L0 - L*)``, with the run's
    initial loss ``L0`` and the reference's mean final validation loss ``L*`` on the task,
    clipped to 0 and :data:`MAX_NORMALISED`; a non-finite loss counts 0. The target of a run
    is the final validation loss of the reference's run of the same seed, so that the
    reference always reaches it.

    Args:
        rows: rows with curves; all arms with the same tasks and seeds.
        reference: arm to which losses and speeds are relative.
        gap_fraction: fraction in (0, 1] of the gap from the initial to the reference's
            final loss that has to be closed to reach the target. With 1, an optimizer that
            is as good as the reference misses the target in about half of the runs; 0.98
            leaves a tolerance of 2 % of the gap.

    Raises:
        ValueError: there are no rows; an arm lacks a run that another has (the message
            names them) or has one twice; the reference ends no lower than it began, which
            leaves no gap to compare with; runs of one task and seed begin with
            different losses; a curve is missing, or begins at the target or below, or the
            reference's does not end at its final loss; no CPU time was measured;
            ``gap_fraction`` is out of range.
    """
    if not 0.0 < gap_fraction <= 1.0:
        raise ValueError(f"gap_fraction must be in (0, 1], got {gap_fraction!r}")
    # 1. Find the reference of every run: its own of the same seed, and the mean of all.
    check_runs(rows, reference)
    rows = sorted(rows, key=lambda row: (row["task"], row["arm"], row["seed"]))
    final_means = {
        task: mean_loss(rows, task, reference) for task in {r["task"] for r in rows}
    }
    references = {(r["task"], r["seed"]): r for r in rows if r["arm"] == reference}
    measured = []
    for row in rows:
        peer, final = references[row["task"], row["seed"]], final_means[row["task"]]
        _check_start(row, peer, final)
        # 2. The target, and the time that the run and the reference take to reach it.
        start = peer["initial_validation_loss"]
        target = (1.0 - gap_fraction) * start + gap_fraction * peer["validation_loss"]
        updates, theirs = (updates_to(each["curve"], target) for each in (row, peer))
        cpu, their_cpu = updates * relative_cost(row), theirs * relative_cost(peer)
        if not (updates > 0.0 and cpu > 0.0 and math.isfinite(theirs)):
            raise ValueError(
                f"no speed of {row['arm']!r} on {_where(row)}: the target {target} took "
                f"{updates} updates, CPU time of {cpu}, and {theirs} updates of "
                f"{reference!r}"
            )
        # 3. Everything relative to the reference.
        measured.append(
            Measured(
                row["task"],
                row["arm"],
                row["seed"],
                normalised=_normalised(row["validation_loss"], final, start),
                area=_area(row, final, start),
                updates=updates,
                cpu=cpu,
                speedup=max(theirs / updates, MISSED_SPEEDUP),
                cpu_speedup=max(their_cpu / cpu, MISSED_SPEEDUP),
                diverged=diverged(row),
            )
        )
    return measured


def diverged(row: Row) -> bool:
    """Return whether the final validation loss is non-finite or above the initial one."""
    return not row["validation_loss"] <= row["initial_validation_loss"]


def updates_to(curve: Sequence[tuple[int, float]], target: float) -> float:
    """Return the first update at which a curve is at or below ``target``, or inf.

    The curve is interpolated linearly in the loss, not in its logarithm. So the result is
    defined for losses of any sign, and does not depend on a constant that a loss contains.
    As losses fall fast at first and then slowly, the line lies above the true curve, so
    that the estimate is too high rather than too low.
    """
    last_update, last_loss = 0, math.inf
    for update, loss in curve:
        if loss <= target:
            if not math.isfinite(last_loss):
                return float(update)
            fraction = (last_loss - target) / (last_loss - loss)
            return last_update + fraction * (update - last_update)
        last_update, last_loss = update, loss
    return math.inf


def per_task(
    runs: Iterable[Measured], arm: str, name: str
) -> dict[str, npt.NDArray[np.float64]]:
    """Return one measure of an arm.

    Args:
        runs: results of :func:`measure`.
        arm: name of the arm.
        name: a field of :class:`Measured`, such as ``"normalised"``.

    Returns:
        Values ``[seeds]``, sorted by seed, by task in alphabetical order.

    Raises:
        ValueError: there is no such arm or measure; the message lists the valid ones.
    """
    if name not in Measured._fields[3:]:
        valid = ", ".join(Measured._fields[3:])
        raise ValueError(f"unknown measure {name!r}; valid measures: {valid}")
    runs = sorted(runs)
    by_task: dict[str, list[float]] = {}
    for run in runs:
        if run.arm == arm:
            by_task.setdefault(run.task, []).append(float(getattr(run, name)))
    if not by_task:
        raise ValueError(_unknown(arm, (run.arm for run in runs)))
    return {task: np.array(values) for task, values in by_task.items()}


def _normalised(loss: float, final: float, start: float) -> float:
    if not math.isfinite(loss):
        return 0.0
    closed = 1.0 - _remaining_percent(loss, final, start) / 100.0
    return min(max(closed, 0.0), MAX_NORMALISED)


def _area(row: Row, final: float, start: float) -> float:
    from scipy.integrate import trapezoid

    progress = [update / row["updates"] for update, _ in row["curve"]]
    scores = [_normalised(loss, final, start) for _, loss in row["curve"]]
    return float(trapezoid(scores, progress))


def relative_cost(row: Row) -> float:
    """Return the CPU time of an update, in updates of AdamW timed beside the run."""
    return row["cpu_seconds"] / row["adamw_seconds"]


def _unknown(arm: str, arms: Iterable[str]) -> str:
    valid = ", ".join(map(repr, dict.fromkeys(arms)))
    return f"no results of the arm {arm!r}; there are those of {valid or 'none'}"


def check_runs(rows: Sequence[Row], reference: str) -> None:
    """Check that all arms have the same tasks and seeds, each once.

    Raises:
        ValueError: tasks or seeds differ, or there is no arm ``reference``.
    """
    runs: dict[str, Counter[tuple[str, int]]] = {}
    for row in rows:
        runs.setdefault(row["arm"], Counter())[row["task"], row["seed"]] += 1
    if reference not in runs:
        raise ValueError(_unknown(reference, runs))
    for arm, ours in runs.items():
        # Compare both ways: the arm may lack runs, or have some that the reference lacks.
        for lacking, other in ((arm, reference), (reference, arm)):
            if missing := sorted(runs[other].keys() - runs[lacking].keys()):
                names = ", ".join(f"{task!r} seed {seed}" for task, seed in missing)
                raise ValueError(f"{lacking!r} lacks runs that {other!r} has: {names}")
        if twice := sorted(run for run, count in ours.items() if count > 1):
            raise ValueError(f"more than one run of {arm!r} with task and seed in {twice}")


def _where(row: Row) -> str:
    return f"{row['task']!r} seed {row['seed']}"


def _check_start(row: Row, peer: Row, final: float) -> None:
    start, theirs = row["initial_validation_loss"], peer["initial_validation_loss"]
    if not math.inf > theirs > max(peer["validation_loss"], final):
        raise ValueError(
            f"the reference {peer['arm']!r} has learned nothing on {_where(peer)}: from "
            f"{theirs} to {peer['validation_loss']}, in the mean over seeds to {final}"
        )
    if not math.isclose(start, theirs, rel_tol=START_TOLERANCE):
        raise ValueError(
            f"runs of one seed begin with one loss, but on {_where(row)} {row['arm']!r} "
            f"begins with {start}, {peer['arm']!r} with {theirs}"
        )
    if len(row["curve"]) < 2:
        raise ValueError(f"the run of {row['arm']!r} on {_where(row)} has no curve")
