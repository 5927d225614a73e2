"""Several trainings of one recipe, judged on the selection tasks, the best averaged.

Trainings differ by some per cent from seed to seed. The selection tasks are neither
trained on nor reported; what averaging brings is in docs/notes/policy-log.md.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import CancelledError
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import click

from ..evaluation import evaluate
from ..evaluation.arms.learned import learned_arm
from ..evaluation.report.tables import write_csv
from ..evaluation.row import Row
from ..evaluation.tasks.problem import HeldoutTask
from ..evaluation.tasks.selection import SELECTION
from ..policy.ensemble import average
from ..policy.files import load_policy, save_policy
from ..utils.workers import Workers, stopped
from . import factory, training

__all__ = ["Candidate", "mean_gaps", "train_candidates"]

#: Seeds of the runs that candidates are judged by.
SELECTION_SEEDS = (0, 1)

#: Between the seeds of two candidates.
STRIDE = 1000


class Candidate(NamedTuple):
    """A training: what :func:`agents.rl.factory.build` takes, and where its results go."""

    agent: str
    seed: int
    config: Mapping[str, Any]
    folder: Path


def train_candidates(
    agent: str,
    seed: int,
    config: Mapping[str, Any],
    folder: Path,
    *,
    count: int,
    members: int,
    workers: int,
    tasks: Sequence[HeldoutTask] = SELECTION,
    progress: bool = True,
) -> None:
    """Train ``count`` policies, and leave the average of the best in ``folder``.

    Args:
        agent: key of :data:`~agents.rl.presets.PRESETS`.
        seed: of the first; the others' follow in steps of :data:`STRIDE`.
        config: see :func:`agents.rl.factory.build`.
        folder: gets ``policy.*``, ``selection.csv``, and a folder for each candidate.
        count: how many to train.
        members: how many of them to average.
        workers: processes that train and judge.
        tasks: to judge by.
        progress: say what has ended, and show a bar while judging.
    """
    candidates = [
        Candidate(agent, seed + i * STRIDE, config, folder / f"candidate-{i}")
        for i in range(count)
    ]

    def ended(candidate: Candidate, minutes: float) -> None:
        if progress:
            click.echo(f"{candidate.folder.name}: trained in {minutes:.1f} minutes")

    with contextlib.closing(Workers(workers)) as processes:
        processes.map(_train, candidates, ended)
    policies = {c.folder.name: load_policy(c.folder / "policy") for c in candidates}
    arms = [learned_arm(name, policy) for name, policy in policies.items()]
    rows = evaluate(
        arms, tasks, SELECTION_SEEDS, workers=workers, curve_points=0, progress=progress
    )
    write_csv(rows, folder / "selection.csv")
    gaps = mean_gaps(rows)
    best = sorted(policies, key=gaps.__getitem__)[:members]
    for name in policies if progress else ():
        note = ", chosen" if name in best else ""
        click.echo(f"{name}: behind the best by {gaps[name]:.2%}{note}")
    save_policy(average([policies[name] for name in best]), folder / "policy")


def _train(candidate: Candidate) -> float:
    """Train in a worker process; minutes that it took."""
    if stopped():  # it was still waiting when the user interrupted
        raise CancelledError
    begun = time.monotonic()
    candidate.folder.mkdir(parents=True)
    model = factory.build(candidate.agent, candidate.config, seed=candidate.seed)
    timesteps = candidate.config["timesteps"]
    training.learn(model, timesteps, candidate.folder, progress=False)
    return (time.monotonic() - begun) / 60


def mean_gaps(rows: Sequence[Row]) -> dict[str, float]:
    """How far each arm stays behind the best one of each task, on average over tasks.

    In shares of the way from the initial loss to the best arm's; a run whose loss is not
    finite, or that ends above where it began, is behind by 1.
    """
    found: dict[str, dict[str, list[Row]]] = {}
    for row in rows:
        found.setdefault(row["task"], {}).setdefault(row["arm"], []).append(row)
    gaps: dict[str, list[float]] = {}
    for arms in found.values():
        ends = {arm: fmean(r["validation_loss"] for r in own) for arm, own in arms.items()}
        best, own = min(ends.values()), next(iter(arms.values()))
        way = fmean(r["initial_validation_loss"] for r in own) - best
        for arm, end in ends.items():
            gap = (end - best) / way if way > 0 else math.inf
            gaps.setdefault(arm, []).append(min(gap, 1.0) if math.isfinite(gap) else 1.0)
    return {arm: fmean(values) for arm, values in gaps.items()}
