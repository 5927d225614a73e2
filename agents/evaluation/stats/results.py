"""Rows of results, their statistics, and how they are shown.

A row is one run. Runs of one task and seed share initial parameters, batches and
validation set whatever their optimizer, so optimizers are compared seed by seed; every
interval is a 95 % t interval over seeds.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypedDict

import numpy as np

from ..arms.defaults import TUNED

__all__ = ["Interval", "Row", "difference", "format_table", "gap", "interval", "write_csv"]

WIDTH = 120


class Row(TypedDict):
    """Result of one run.

    Attributes:
        task: name of the held-out task.
        arm: name of the optimizer.
        seed: of initial parameters, batches and validation set.
        updates: length of the run.
        learned: whether the optimizer is one of ours.
        train_loss: mean over the last tenth of the updates; inf if not finite.
        validation_loss: at the end; inf if not finite.
        initial_validation_loss: before the first update.
        lr: learning rate that the optimizer was made with.
        cpu_seconds: of the updates, without validation.
        adamw_seconds: CPU time of as many updates with AdamW, measured beside them.
        curve: ``(update, validation loss)`` from 0 to the last update.
        lr_trace: ``(update, learning rate in force)``.
        shifts: change of the log-multiplier, in nats, that each decision of a policy
            asked for; empty for all other optimizers.
    """

    task: str
    arm: str
    seed: int
    updates: int
    learned: bool
    train_loss: float
    validation_loss: float
    initial_validation_loss: float
    lr: float
    cpu_seconds: float
    adamw_seconds: float
    curve: list[tuple[int, float]]
    lr_trace: list[tuple[int, float]]
    shifts: list[float]


class Interval(NamedTuple):
    """A mean over seeds and the half-width of its 95 % interval (nan for one seed)."""

    mean: float
    half: float

    @property
    def decided(self) -> bool:
        """Whether the interval excludes zero."""
        return abs(self.mean) > self.half

    def __str__(self) -> str:
        return f"{self.mean:+.3f} ±{self.half:.3f}"


def interval(values: Sequence[float]) -> Interval:
    """Mean and t interval; a value that is not finite leaves nothing to bound.

    Raises:
        ValueError: there are no values.
    """
    if len(values) == 0:
        raise ValueError("an interval needs at least one value, got none")
    if not np.isfinite(values).all():
        return Interval(float(sum(values)), math.nan)
    if len(values) == 1:
        return Interval(float(values[0]), math.nan)
    from scipy.stats import t

    error = np.std(values, ddof=1) / math.sqrt(len(values))
    return Interval(float(np.mean(values)), float(t.ppf(0.975, len(values) - 1) * error))


def losses(rows: Sequence[Row], task: str, arm: str) -> dict[int, float]:
    """Final validation loss of each seed."""
    return {
        row["seed"]: row["validation_loss"]
        for row in rows
        if row["task"] == task and row["arm"] == arm
    }


def _pairs(
    rows: Sequence[Row], task: str, arm: str, baseline: str
) -> list[tuple[float, float, float]]:
    """Loss of ``arm``, of ``baseline`` and initial loss for every seed."""
    ours, theirs = losses(rows, task, arm), losses(rows, task, baseline)
    if ours.keys() != theirs.keys() or not ours:
        raise ValueError(
            f"{arm!r} and {baseline!r} cannot be paired on {task!r}: "
            f"seeds {sorted(ours)} and {sorted(theirs)}"
        )
    initial = {
        row["seed"]: row["initial_validation_loss"] for row in rows if row["task"] == task
    }
    return [(ours[seed], theirs[seed], initial[seed]) for seed in sorted(ours)]


def difference(rows: Sequence[Row], task: str, arm: str, baseline: str) -> Interval:
    """Paired difference of validation loss, ``arm`` minus ``baseline``.

    Raises:
        ValueError: the two were not run with the same seeds.
    """
    pairs = _pairs(rows, task, arm, baseline)
    return interval([ours - theirs for ours, theirs, _ in pairs])


def gap(rows: Sequence[Row], tasks: Sequence[str], arm: str, baseline: str) -> Interval:
    """How far ``arm`` stays behind ``baseline``, in % of the way that ``baseline`` came.

    The way is from initial to final validation loss: 0 is a tie, negative is better, 100
    has learned nothing. Over several tasks, the interval is one over seeds of their mean.
    """
    per_task = [
        [behind(*pair) for pair in _pairs(rows, task, arm, baseline)] for task in tasks
    ]
    return interval([sum(values) / len(values) for values in zip(*per_task, strict=True)])


def behind(ours: float, theirs: float, start: float) -> float:
    """How far ``ours`` stays behind ``theirs``, in % of the way from ``start``."""
    return 100.0 * (ours - theirs) / (start - theirs) if start != theirs else math.nan


def format_table(rows: Sequence[Row], width: int = WIDTH) -> str:
    """The results as text: mean losses, then each learned arm against every baseline.

    Args:
        rows: as :func:`~agents.evaluation.evaluate` gives them.
        width: columns that do not fit are continued below.
    """
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    arms = shown_arms(rows)
    seeds = len({row["seed"] for row in rows})
    cells = {
        arm: [_loss(interval(list(losses(rows, task, arm).values()))) for task in tasks]
        for arm in arms
    }
    title = f"Validation loss, mean ± 95 % interval over {seeds} seeds"
    parts = [grid(title, tasks, cells, width)]
    learned = {row["arm"] for row in rows if row["learned"]}
    baselines = [arm for arm in arms if arm not in learned]
    for arm in (arm for arm in arms if arm in learned and baselines):
        title = (
            f"{arm} minus the baseline, seed by seed: below 0 is better, * excludes 0\n"
            "(gap: of the way from initial to tuned AdamW's loss, how much is missing)"
        )
        parts.append(
            grid(title, [*tasks, "all tasks"], _versus(rows, arm, baselines), width)
        )
    return "\n\n".join(parts)


def _versus(
    rows: Sequence[Row], arm: str, baselines: Sequence[str]
) -> dict[str, list[str]]:
    """Columns of paired differences, their count of wins, and the gap to tuned AdamW."""
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    columns = {}
    for baseline in baselines:
        found = [difference(rows, task, arm, baseline) for task in tasks]
        wins = [each for each in found if each.mean < 0]
        count = f"{len(wins)} of {len(tasks)} better ({sum(w.decided for w in wins)}*)"
        columns[baseline] = [*(_signed(each) for each in found), count]
    if TUNED in baselines:
        gaps = [gap(rows, [task], arm, TUNED) for task in tasks]
        gaps.append(gap(rows, tasks, arm, TUNED))
        columns["gap to tuned, %"] = [percent(each) for each in gaps]
    return columns


def shown_arms(rows: Sequence[Row]) -> list[str]:
    """Arms in order of appearance, learned ones last."""
    learned = {row["arm"]: row["learned"] for row in rows}
    return sorted(learned, key=lambda arm: learned[arm])


def _loss(value: Interval) -> str:
    return f"{value.mean:.4f}" + _half(value.half, ".4f")


def _signed(value: Interval) -> str:
    star = "*" if value.decided else " "
    return f"{value.mean:+.4f}" + _half(value.half, ".4f") + star


def percent(value: Interval) -> str:
    """A percentage with its interval, as ``+1.5 ±0.7``."""
    return f"{value.mean:+.1f}" + _half(value.half, ".1f")


def _half(half: float, spec: str) -> str:
    return "" if math.isnan(half) else f" ±{half:{spec}}"


def grid(
    title: str, names: Sequence[str], columns: Mapping[str, Sequence[str]], width: int
) -> str:
    """Lines of a table, broken into blocks of columns that are at most ``width`` wide."""
    first = max(len(name) for name in names)
    blocks: list[list[list[str]]] = []
    used = width + 1
    for head, cells in columns.items():
        size = max(len(cell) for cell in [head, *cells])
        if used + size + 2 > width:
            blocks.append([[" " * first], *([name.ljust(first)] for name in names)])
            used = first
        for line, cell in zip(blocks[-1], [head, *cells], strict=True):
            line.append(cell.rjust(size))
        used += size + 2
    return "\n".join(
        [title, *("  ".join(line).rstrip() for block in blocks for line in block)]
    )


def write_csv(rows: Sequence[Row], path: str | Path) -> None:
    """One line a run; what is a series of numbers is left out.

    Raises:
        ValueError: there are no rows.
    """
    if not rows:
        raise ValueError("there are no results to write")
    series = ("curve", "lr_trace", "shifts")
    names = [name for name in Row.__annotations__ if name not in series]
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, names, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
