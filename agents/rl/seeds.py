"""Training with several seeds, selection of the best policies, and their average.

Results of a training differ by a few per cent between seeds. Policies are selected on the
selection tasks, which are used neither for training nor for reported results. The effect of
averaging is in docs/notes/policy-log.md.
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

from optenv.atomic import remove_unfinished

from ..evaluation import evaluate
from ..evaluation.arms.learned import learned_arm
from ..evaluation.report.tables import write_csv
from ..evaluation.row import Row
from ..evaluation.tasks.problem import HeldoutTask
from ..evaluation.tasks.selection import SELECTION
from ..policy.ensemble import average
from ..policy.files import load_policy, save_policy
from ..utils.interrupts import terminated_as_interrupted
from ..utils.job_engines import PROCESSES, Engine
from ..utils.progress import echo
from ..utils.workers import stopped
from . import factory, training
from .checkpoints import MODEL
from .resuming import checkpoint_in

__all__ = ["Candidate", "mean_gaps", "train_candidates"]

#: Seeds of the runs that candidates are selected by.
SELECTION_SEEDS = (0, 1)

#: Difference between the seeds of successive candidates.
STRIDE = 1000


class Candidate(NamedTuple):
    """One of several trainings.

    Attributes:
        agent: key of :data:`~agents.rl.presets.PRESETS`.
        seed: seed of the training.
        config: configuration, see :func:`agents.rl.factory.build`; with ``timesteps``.
        folder: folder of its results.
        save_every: see :func:`agents.rl.training.learn`.
    """

    agent: str
    seed: int
    config: Mapping[str, Any]
    folder: Path
    save_every: int | None = None


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
    save_every: int | None = None,
    engine: Engine = PROCESSES,
) -> None:
    """Train ``count`` policies, and write the average of the best ones.

    Unfinished trainings in ``folder`` continue exactly where they stopped, and finished
    ones are kept.

    Args:
        agent: key of :data:`~agents.rl.presets.PRESETS`.
        seed: seed of the first training; the others follow in steps of :data:`STRIDE`.
        config: configuration, see :func:`agents.rl.factory.build`; with ``timesteps``, and
            optionally ``base_lr``, the base learning rate of the evaluation (by default the
            usual one of the rule).
        folder: folder of ``policy.*``, ``selection.csv``, and a folder for each candidate,
            in which its training can be resumed on its own.
        count: number of trainings.
        members: number of policies that are averaged.
        workers: number of processes that train and evaluate.
        tasks: tasks on which policies are selected.
        progress: report trainings that have ended, and show a bar during the evaluation.
        save_every: see :func:`agents.rl.training.learn`.
        engine: kind of the processes. All processes of a Ray cluster must have access to
            ``folder``. If a process dies, its candidate continues from the last checkpoint.

    Raises:
        ProcessDied: the process of a candidate has died repeatedly.
        Exception: a candidate failed, which is named in a note; the other trainings that
            were running have been stopped.
    """
    folder = folder.absolute()  # processes of a cluster run elsewhere
    candidates = [
        Candidate(agent, seed + i * STRIDE, config, folder / f"candidate-{i}", save_every)
        for i in range(count)
    ]

    def ended(candidate: Candidate, minutes: float) -> None:
        if progress and minutes:
            echo(f"{candidate.folder.name}: trained in {minutes:.1f} minutes")

    with contextlib.closing(engine.start(workers)) as processes:
        processes.map(_train, candidates, ended, lambda candidate: candidate.folder.name)
    policies = {c.folder.name: load_policy(c.folder / "policy") for c in candidates}
    rate = config.get("base_lr")
    arms = [learned_arm(name, policy, lr=rate) for name, policy in policies.items()]
    rows = evaluate(
        arms, tasks, SELECTION_SEEDS, workers=workers, curve_points=0, progress=progress,
        engine=engine,
    )  # fmt: skip
    write_csv(rows, folder / "selection.csv")
    gaps = mean_gaps(rows)
    best = sorted(policies, key=gaps.__getitem__)[:members]
    for name in policies if progress else ():
        note = ", chosen" if name in best else ""
        echo(f"{name}: behind the best by {gaps[name]:.2%}{note}")
    save_policy(average([policies[name] for name in best]), folder / "policy")


def _train(candidate: Candidate) -> float:
    """Train in a worker process; return the minutes it took, 0 if it had already ended."""
    if stopped():  # it had not started when the user interrupted
        raise CancelledError
    begun = time.monotonic()
    config, folder = candidate.config, candidate.folder
    folder.mkdir(parents=True, exist_ok=True)
    remove_unfinished(folder)
    checkpoint = checkpoint_in(folder)
    if checkpoint is not None and checkpoint.finished:
        return 0.0
    if checkpoint is None:
        single = {"agent": candidate.agent, "seed": candidate.seed, **config}
        single |= {"candidates": 1, "members": 1}
        training.write_config(folder / "config.json", single)
    model = factory.build(
        candidate.agent, config, seed=candidate.seed,
        resume=None if checkpoint is None else folder / MODEL,
    )  # fmt: skip
    with terminated_as_interrupted():
        finished = training.learn(
            model, config["timesteps"], folder, progress=False,
            save_every=candidate.save_every, resume=checkpoint,
        )  # fmt: skip
    if not finished:
        raise CancelledError
    return (time.monotonic() - begun) / 60


def mean_gaps(rows: Sequence[Row]) -> dict[str, float]:
    """Return each arm's gap to the best arm of a task, averaged over tasks.

    The gap is the excess of the final loss over the best arm's, as a fraction of the best
    arm's decrease of the loss. It is 1 for an arm whose loss is not finite or is higher
    than the initial one.

    Args:
        rows: results of runs of all arms on all tasks.
    """
    by_task: dict[str, dict[str, list[Row]]] = {}
    for row in rows:
        by_task.setdefault(row["task"], {}).setdefault(row["arm"], []).append(row)
    gaps: dict[str, list[float]] = {}
    for arms in by_task.values():
        finals = {
            arm: fmean(row["validation_loss"] for row in runs) for arm, runs in arms.items()
        }
        best, runs = min(finals.values()), next(iter(arms.values()))
        decrease = fmean(row["initial_validation_loss"] for row in runs) - best
        for arm, final in finals.items():
            gap = (final - best) / decrease if decrease > 0 else math.inf
            gaps.setdefault(arm, []).append(min(gap, 1.0) if math.isfinite(gap) else 1.0)
    return {arm: fmean(values) for arm, values in gaps.items()}
