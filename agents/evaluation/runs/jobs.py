"""What is to be run: lists of runs, and the phases that tune baselines and judge them.

How the runs are run, in which processes and in what order, is left to a :data:`Runner`:
the phases are the same for :func:`~agents.evaluation.start_baselines`, which runs them
beside a training, and for ``python -m agents.evaluation``, which keeps what has been run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from ...policy.module import Policy
from ..arms.defaults import ADAMW, SHARED, TUNED, Arm, Choice, Search, choose, choose_shared, grid_arms, mean_losses, tuned_arms
from ..tasks.problem import HeldoutTask
from ..stats.results import Row
from .run import CURVE_POINTS, train

__all__ = ["Arms", "Choices", "Job", "Phases", "Runner", "job_key", "make_jobs", "run_job"]

#: Arms for all tasks, or those of each task by its name.
Arms = Sequence[Arm] | Mapping[str, Sequence[Arm]]
#: What tuning chose, by the name of the task and of the column.
Choices = dict[str, dict[str, Choice]]


class Job(NamedTuple):
    """One run; the fields are the arguments of :func:`~agents.evaluation.train`."""

    arm: Arm
    task: HeldoutTask
    seed: int
    curve_points: int = CURVE_POINTS


#: Runs jobs, in any order, and gives their rows in the order of the jobs.
Runner = Callable[[Sequence[Job]], list[Row]]


def run_job(job: Job) -> Row:
    """The row of a job; an error names the run."""
    try:
        return train(*job)
    except Exception as error:
        error.add_note(f"{job.arm.name}, task {job.task.name}, seed {job.seed}")
        raise


def make_jobs(
    arms: Arms,
    tasks: Sequence[HeldoutTask],
    seeds: Sequence[int],
    curve_points: int = CURVE_POINTS,
) -> Iterable[Job]:
    """Every arm on every task with every seed, by task, then arm, then seed."""
    for task in tasks:
        for arm in arms[task.name] if isinstance(arms, Mapping) else arms:
            for seed in seeds:
                yield Job(arm, task, seed, curve_points)


def job_key(job: Job) -> dict[str, Any]:
    """What a run was, for JSON: two runs with one key have the same result.

    That is the task with its length, the length that is told and the file that its data
    are from, the arm with what its optimizer is made with (of a policy, the fingerprint),
    and the seed. It does not tell versions of this package, or of others, apart.
    """
    arm, task = job.arm, job.task
    made = arm.factory.keywords if isinstance(arm.factory, partial) else {}
    return {
        "task": task.name,
        "arm": arm.name,
        "seed": job.seed,
        "updates": task.updates,
        "told": task.told,
        "curve_points": job.curve_points,
        "factory": _name(arm.factory),
        "schedule": _name(arm.schedule),
        "watch": _name(arm.watch),
        **({"source": task.source} if task.source else {}),
        **{name: _plain(value) for name, value in made.items()},
    }


def _name(function: Any) -> str | None:
    """Of a function, a class or a partial of one; None of None."""
    if isinstance(function, partial):
        function = function.func
    return None if function is None else str(function.__qualname__)


def _plain(value: Any) -> Any:
    if isinstance(value, Policy):
        return value.fingerprint()
    return value if isinstance(value, (bool, int, float, str)) else repr(value)


class Phases:
    """Tune the baselines, then run them with all others.

    Args:
        tasks: held-out tasks.
        tuning_seeds: that settings are chosen on.
        seeds: that all arms are judged on.
        arms: that run with the same settings on all tasks.
        searches: what is tuned for each task, by the name of the column.
        shared: also run the one setting of AdamW that is best for all tasks together;
            :data:`~agents.evaluation.arms.defaults.TUNED` must be among the searches.

    Attributes:
        total: number of runs.

    Raises:
        ValueError: a seed is for both tuning and evaluation.
    """

    def __init__(
        self,
        tasks: Sequence[HeldoutTask],
        tuning_seeds: Sequence[int],
        seeds: Sequence[int],
        arms: Sequence[Arm],
        searches: Mapping[str, Search],
        shared: bool = True,
    ) -> None:
        both = sorted(set(tuning_seeds) & set(seeds))
        if both:
            raise ValueError(f"tuning and evaluation seeds must differ, both have {both}")
        self._tasks, self._seeds, self._arms = tasks, seeds, arms
        self._searches, self._shared = searches, shared
        grids = [arm for search in searches.values() for arm in grid_arms(search)]
        self._tuning = list(make_jobs(grids, tasks, tuning_seeds, 0))
        columns = len(arms) + len(searches) + shared
        self.total = len(self._tuning) + len(tasks) * columns * len(seeds)

    def run(self, run: Runner) -> tuple[list[Row], Choices]:
        """Rows of all arms by task, arm and seed, and what tuning chose for each task."""
        choices = self._choose(run(self._tuning))
        arms = {task.name: self._arms_of(choices[task.name]) for task in self._tasks}
        return run(list(make_jobs(arms, self._tasks, self._seeds))), choices

    def _choose(self, rows: Sequence[Row]) -> Choices:
        chosen: Choices = {task.name: {} for task in self._tasks}
        for column, search in self._searches.items():
            means = mean_losses(rows, search)
            if self._shared and column == TUNED:
                shared = choose_shared(means, search)
                for task in chosen:
                    chosen[task][SHARED] = shared
            for task, choice in choose(means, search).items():
                chosen[task][column] = choice
        return chosen

    def _arms_of(self, choices: Mapping[str, Choice]) -> list[Arm]:
        tuned = [
            arm
            for column, choice in choices.items()
            for arm in tuned_arms({column: choice}, self._searches.get(column, ADAMW))
        ]
        return [*self._arms, *tuned]
