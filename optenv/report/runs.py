"""Runs of a recording: their returns, and actions and learning rates over progress."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from .. import actions
from ..checks import known
from ..recording import describe, read
from ..recording.columns import ACTION

__all__ = [
    "GROUPINGS",
    "QUANTILES",
    "Curve",
    "Recording",
    "groups_of",
    "load",
    "over_progress",
    "shares",
]

#: Columns by which runs can be grouped.
GROUPINGS = ("instance", "family", "split", "structure")

#: Quantiles over runs that are drawn: outer band, inner band, median.
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)

#: Largest number of points of a curve over progress.
BINS = 40

#: Columns that a report needs.
NEEDED = (
    "episode", "run", "step", "steps", "reward", "run_ended", "lr", "loss", "diverged",
    "agent_seconds", "env_seconds",
)  # fmt: skip


@dataclass(frozen=True)
class Curve:
    """Quantiles over runs of a value, as a function of progress.

    Attributes:
        progress: fraction of a run's control steps, ``[P]`` in [0, 1].
        quantiles: quantiles :data:`QUANTILES` of the value, ``[len(QUANTILES), P]``.
    """

    progress: np.ndarray
    quantiles: np.ndarray


@dataclass(frozen=True)
class Recording:
    """Runs of a file: ``R`` complete ones with a return, and ``N`` rows of all runs.

    Attributes:
        label: name of the policy.
        group: group of each complete run, ``[R]``.
        returns: return of each complete run, ``[R]``.
        final_loss: loss after the last step of each complete run, ``[R]``.
        diverged: whether each complete run has diverged, ``[R]`` bool.
        incomplete: number of runs that were cut off.
        progress: progress of each row, the step divided by the number of steps, ``[N]``.
        steps: number of control steps of each row's run, ``[N]``.
        lr: learning rate of each row, ``[N]``.
        components: action of each row, ``[N]``, by name of the component.
        rules: update rule that each row chose, ``[N]``, an index into ``rule_names``; None
            if the action does not choose one.
        rule_names: names of these rules.
        seconds: time of each row's control step in seconds, ``[N]``, by part: agent and
            environment.
    """

    label: str
    group: np.ndarray
    returns: np.ndarray
    final_loss: np.ndarray
    diverged: np.ndarray
    incomplete: int
    progress: np.ndarray
    steps: np.ndarray
    lr: np.ndarray
    components: dict[str, np.ndarray]
    rules: np.ndarray | None
    rule_names: tuple[str, ...]
    seconds: dict[str, np.ndarray]

    def group_means(self) -> list[float]:
        """Return the mean return of each group."""
        names = groups_of([self])
        return [float(self.returns[self.group == name].mean()) for name in names]


def load(path: str | os.PathLike[str], by: str = "instance") -> Recording:
    """Load the runs of a recording.

    Args:
        path: path of a recorder's file.
        by: one of :data:`GROUPINGS`. Runs without an instance are grouped by family, and
            runs without a family by structure.

    Raises:
        ValueError: the file is no recording or has no complete run, or ``by`` is unknown.
        OSError: the file cannot be read.
    """
    known("grouping", by, GROUPINGS)
    described = describe(path)
    table = read(path)
    names = table.column_names
    if "episode" not in names:
        raise ValueError(f"{str(path)!r} has no control step")
    column = {name: table[name].to_numpy() for name in NEEDED}
    # 1. Divide the rows into runs, each sorted by its steps.
    order = np.lexsort((column["step"], column["run"], column["episode"]))
    keys = np.stack([column["episode"], column["run"]])[:, order]
    starts = np.flatnonzero((np.diff(keys, prepend=-1) != 0).any(0))
    last = order[np.append(starts[1:], len(order))[: len(starts)] - 1]
    whole = column["run_ended"][last].astype(np.bool_)
    if not whole.any():
        raise ValueError(
            f"{str(path)!r} has no whole run: {len(starts)} were cut before their ends"
        )
    labels = _groups(table, by, last)
    # 2. Name the components of the actions.
    action = actions.make(described["description"]["action"])
    acted = {
        name.removeprefix(ACTION): table[name].to_numpy()
        for name in names
        if name.startswith(ACTION)
    }
    rules = None
    if isinstance(action, actions.Discrete):
        index = acted["index"].astype(np.int64)
        if action.chooses_rule:
            rules = index // len(action.multipliers)
        shifts = action.shift(torch.arange(action.outputs)).numpy()
        if shifts.any():
            acted = {"change of log learning rate": shifts[index]}
    return Recording(
        label=described["label"],
        group=labels[whole],
        returns=np.add.reduceat(column["reward"][order], starts)[whole],
        final_loss=column["loss"][last][whole],
        diverged=column["diverged"][last][whole].astype(np.bool_),
        incomplete=int((~whole).sum()),
        progress=column["step"] / column["steps"],
        steps=column["steps"],
        lr=column["lr"],
        components=acted,
        rules=rules,
        rule_names=tuple(getattr(action, "rules", ())) if rules is not None else (),
        seconds={
            "agent": column["agent_seconds"],
            "environment": column["env_seconds"],
        },
    )


def _groups(table: Any, by: str, rows: np.ndarray) -> np.ndarray:
    """Return the group of each run, given the index of one of its rows."""
    columns = {name: table[name].take(rows).to_pylist() for name in GROUPINGS}
    groups = columns[by]
    for name in ("family", "structure"):  # a name for runs that have none
        groups = [
            other if own is None else own
            for own, other in zip(groups, columns[name], strict=True)
        ]
    return np.array([str(group) for group in groups], dtype=object)


def _points(recording: Recording) -> tuple[int, np.ndarray]:
    """Return the number of points of a curve, and the index of each row's point."""
    points = min(BINS, int(recording.steps.min()))
    place = (recording.progress * points + 1e-9).astype(int)
    return points, np.minimum(place, points - 1)


def over_progress(recording: Recording, values: np.ndarray) -> Curve:
    """Compute quantiles over runs of a column, as a function of progress.

    Args:
        recording: the recording.
        values: value of each row, ``[N]``.
    """
    points, place = _points(recording)
    parts = [values[place == i] for i in range(points)]
    filled = [i for i, part in enumerate(parts) if len(part)]
    # By rank, without interpolation, as values may be infinite.
    quantiles = [np.quantile(parts[i], QUANTILES, method="inverted_cdf") for i in filled]
    return Curve(np.array(filled) / points, np.array(quantiles).T)


def shares(recording: Recording) -> tuple[np.ndarray, np.ndarray]:
    """Compute the shares of the update rules, as a function of progress.

    Args:
        recording: recording whose actions choose a rule.

    Returns:
        Progress ``[P]`` and shares ``[rules, P]``.
    """
    assert recording.rules is not None
    points, place = _points(recording)
    counts = np.zeros((len(recording.rule_names), points))
    np.add.at(counts, (recording.rules, place), 1.0)
    filled = counts.sum(0) > 0
    counts = counts[:, filled]
    return np.flatnonzero(filled) / points, counts / counts.sum(0)


def groups_of(recordings: Sequence[Recording]) -> list[str]:
    """Return the groups of all recordings, sorted by names and numbers."""
    names = {str(name) for each in recordings for name in each.group}
    return sorted(names, key=_natural)


def _natural(name: str) -> list[tuple[int, str]]:
    """Return a key that sorts ``cnn/2`` before ``cnn/10``."""
    parts = name.replace("/", " / ").split()
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]
