"""Measures of single runs, relative to a reference optimizer on the same task.

A run is compared with the reference's run of the same task and seed, since the two share
initial parameters, batches and validation set. All measures stay the same when a task's
losses are multiplied by a constant, or one is added to them, so that they can be put
together over tasks.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..arms.defaults import TUNED
from .results import Row, behind, interval, losses

__all__ = [
    "BOUND",
    "MISS",
    "Measured",
    "check_runs",
    "cost",
    "diverged",
    "mean_loss",
    "measure",
    "per_task",
    "updates_to",
]

#: Normalised losses are at most this: one easy task must not make up for several others.
BOUND = 1.2
#: Speed-up of a run that never comes to the target, and the lowest there is: that of an
#: optimizer four times as slow, which is where performance profiles end too.
MISS = 0.25
#: How far initial losses of one seed may be apart: parallel sums are not exact.
SAME_START = 1e-3


class Measured(NamedTuple):
    """Measures of one run.

    Attributes:
        task: name of the task.
        arm: name of the optimizer.
        seed: of the run.
        normalised: final validation loss: 0 is the initial loss or worse, 1 the mean of
            the reference's seeds, :data:`BOUND` the upper bound; higher is better.
        area: mean of the normalised validation loss over the run; higher is better.
        updates: until the target is reached, inf if it never is.
        cpu: CPU time until then, in updates of AdamW.
        speedup: the reference's updates to the target over this run's, at least
            :data:`MISS`, which a missed target gets.
        cpu_speedup: the same in CPU time.
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
    rows: Sequence[Row], reference: str = TUNED, way: float = 1.0
) -> list[Measured]:
    """Measures of every run, sorted by task, arm and seed.

    Final losses and curves are normalised to ``(L0 - L) / (L0 - L*)``, with the run's
    initial loss ``L0`` and the reference's mean final validation loss ``L*`` on the task,
    clipped to 0 and :data:`BOUND`; what is not finite counts 0. The target of a run is the
    final validation loss of the reference's run of the same seed, so that the reference
    always reaches it.

    Args:
        rows: with curves; all arms with the same tasks and seeds.
        reference: arm that losses and speeds are relative to.
        way: in (0, 1]: the target is this part of the way from the initial loss to the
            reference's final one. With 1, an optimizer that is as good as the reference
            misses it about every other time; 0.98 forgives 2 % of the way.

    Raises:
        ValueError: there are no rows; an arm lacks a run that another has (the message
            names them) or has one twice; the reference ends no lower than it began, so
            that there is nothing to compare with; runs of one task and seed begin with
            different losses; a curve is missing, or begins at the target or below, or the
            reference's does not end at its final loss; no CPU time was measured; ``way``
            is out of range.
    """
    if not 0.0 < way <= 1.0:
        raise ValueError(f"way must be in (0, 1], got {way!r}")
    check_runs(rows, reference)
    rows = sorted(rows, key=lambda row: (row["task"], row["arm"], row["seed"]))
    best = {task: mean_loss(rows, task, reference) for task in {r["task"] for r in rows}}
    references = {(r["task"], r["seed"]): r for r in rows if r["arm"] == reference}
    found = []
    for row in rows:
        peer, final = references[row["task"], row["seed"]], best[row["task"]]
        _check_start(row, peer, final)
        start = peer["initial_validation_loss"]
        target = (1.0 - way) * start + way * peer["validation_loss"]
        updates, theirs = (updates_to(each["curve"], target) for each in (row, peer))
        cpu, their_cpu = updates * cost(row), theirs * cost(peer)
        if not (updates > 0.0 and cpu > 0.0 and math.isfinite(theirs)):
            raise ValueError(
                f"no speed of {row['arm']!r} on {_where(row)}: the target {target} took "
                f"{updates} updates, CPU time of {cpu}, and {theirs} updates of "
                f"{reference!r}"
            )
        found.append(
            Measured(
                row["task"],
                row["arm"],
                row["seed"],
                normalised=_normalised(row["validation_loss"], final, start),
                area=_area(row, final, start),
                updates=updates,
                cpu=cpu,
                speedup=max(theirs / updates, MISS),
                cpu_speedup=max(their_cpu / cpu, MISS),
                diverged=diverged(row),
            )
        )
    return found


def diverged(row: Row) -> bool:
    """Whether the final validation loss is not finite or above the initial one."""
    return not row["validation_loss"] <= row["initial_validation_loss"]


def updates_to(curve: Sequence[tuple[int, float]], target: float) -> float:
    """First update at which a curve is at or below ``target``; inf if there is none.

    Between its points, the curve is a straight line in the loss, not in its logarithm: so
    it is defined for losses of any sign, and the same whatever constant a loss contains.
    As losses fall fast and then slowly, the line lies above the true curve: a run is
    rather said to be too slow than too fast.
    """
    before = (0, math.inf)
    for update, loss in curve:
        if loss <= target:
            if not math.isfinite(before[1]):
                return float(update)
            share = (before[1] - target) / (before[1] - loss)
            return before[0] + share * (update - before[0])
        before = (update, loss)
    return math.inf


def per_task(
    runs: Iterable[Measured], arm: str, name: str
) -> dict[str, npt.NDArray[np.float64]]:
    """One measure of an arm: ``[seeds]``, in their order, by task, in alphabetical order.

    Raises:
        ValueError: there is no such arm or measure; the message lists those there are.
    """
    if name not in Measured._fields[3:]:
        valid = ", ".join(Measured._fields[3:])
        raise ValueError(f"unknown measure {name!r}; valid measures: {valid}")
    runs = sorted(runs)
    found: dict[str, list[float]] = {}
    for run in runs:
        if run.arm == arm:
            found.setdefault(run.task, []).append(float(getattr(run, name)))
    if not found:
        raise ValueError(_unknown(arm, (run.arm for run in runs)))
    return {task: np.array(values) for task, values in found.items()}


def mean_loss(rows: Sequence[Row], task: str, arm: str) -> float:
    """Mean final validation loss over seeds; inf if a run's is not finite."""
    of = losses(rows, task, arm)
    mean = interval([of[seed] for seed in sorted(of)]).mean
    return mean if math.isfinite(mean) else math.inf


def _normalised(loss: float, final: float, start: float) -> float:
    if not math.isfinite(loss):
        return 0.0
    return min(max(1.0 - behind(loss, final, start) / 100.0, 0.0), BOUND)


def _area(row: Row, final: float, start: float) -> float:
    from scipy.integrate import trapezoid

    progress = [update / row["updates"] for update, _ in row["curve"]]
    scores = [_normalised(loss, final, start) for _, loss in row["curve"]]
    return float(trapezoid(scores, progress))


def cost(row: Row) -> float:
    """CPU time of an update, in updates of AdamW that were timed beside the run."""
    return row["cpu_seconds"] / row["adamw_seconds"]


def _unknown(arm: str, arms: Iterable[str]) -> str:
    valid = ", ".join(map(repr, dict.fromkeys(arms)))
    return f"no results of the arm {arm!r}; there are those of {valid or 'none'}"


def check_runs(rows: Sequence[Row], reference: str) -> None:
    """Make sure that all arms have the same tasks and seeds, each once.

    Raises:
        ValueError: they have not, or there is no arm ``reference``.
    """
    runs: dict[str, Counter[tuple[str, int]]] = {}
    for row in rows:
        runs.setdefault(row["arm"], Counter())[row["task"], row["seed"]] += 1
    if reference not in runs:
        raise ValueError(_unknown(reference, runs))
    for arm, ours in runs.items():
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
    if not math.isclose(start, theirs, rel_tol=SAME_START):
        raise ValueError(
            f"runs of one seed begin with one loss, but on {_where(row)} {row['arm']!r} "
            f"begins with {start}, {peer['arm']!r} with {theirs}"
        )
    if len(row["curve"]) < 2:
        raise ValueError(f"the run of {row['arm']!r} on {_where(row)} has no curve")
