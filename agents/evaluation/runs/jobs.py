"""Jobs (runs to make) of arms on tasks, of tuning and evaluation, and of controls.

A :data:`Runner` decides in which processes and in what order jobs are run. The phases are
the same for :func:`~agents.evaluation.start_baselines`, which runs them during a training,
and for ``python -m agents.evaluation``, which stores finished runs.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

from ...policy.module import Policy
from ..arms.arm import (
    Arm,
    Choice,
    Search,
    choose,
    choose_shared,
    grid_arms,
    mean_losses,
    tuned_arms,
)
from ..arms.controls import CONTROLS, noise, replay, untrained
from ..arms.learned import learned_arm
from ..arms.select import PolicyArms
from ..arms.short_list import ADAMW
from ..row import SHARED, TUNED, Row
from ..tasks.problem import HeldoutTask
from .run import CURVE_POINTS, train, train_schedules

__all__ = [
    "Arms",
    "Choices",
    "Job",
    "Phases",
    "Runner",
    "control_jobs",
    "job_key",
    "make_jobs",
    "named",
    "run_job",
    "run_together",
    "share_updates",
]

#: Arms for all tasks, or the arms of each task by its name.
Arms = Sequence[Arm] | Mapping[str, Sequence[Arm]]
#: Settings chosen by tuning, by the name of the task, then of the column.
Choices = dict[str, dict[str, Choice]]


class Job(NamedTuple):
    """One run; the fields are the arguments of :func:`~agents.evaluation.train`."""

    arm: Arm
    task: HeldoutTask
    seed: int
    curve_points: int = CURVE_POINTS


#: Function that runs jobs, in any order, and returns their rows in the jobs' order.
Runner = Callable[[Sequence[Job]], list[Row]]


def run_job(job: Job) -> Row:
    """Run a job and return its row; an error gets a note that names the run."""
    try:
        return train(*job)
    except Exception as error:
        error.add_note(named([job]))
        raise


def run_together(jobs: Sequence[Job]) -> list[Row]:
    """Run jobs that :func:`share_updates` has put together, and return their rows."""
    first = jobs[0]
    if len(jobs) == 1:
        return [train(*first)]
    arms = [job.arm for job in jobs]
    return train_schedules(arms, first.task, first.seed, first.curve_points)


def named(jobs: Sequence[Job]) -> str:
    """Name jobs of one task and seed, for the note of an error."""
    arms = ", ".join(job.arm.name for job in jobs)
    return f"{arms}, task {jobs[0].task.name}, seed {jobs[0].seed}"


def share_updates(jobs: Sequence[Job]) -> list[list[Job]]:
    """Group jobs that differ only in their schedules and names.

    Such runs make the same updates until their schedules differ
    (:func:`~agents.evaluation.runs.run.train_schedules`). If tuning chooses the same
    setting for a task as for all tasks together, both columns share one run. Every other
    job is a group of its own.
    """
    groups: dict[Any, list[Job]] = {}
    for i, job in enumerate(jobs):
        arm = job.arm
        is_plain = not (arm.takes_loss or arm.takes_module or arm.watch)
        key: Any = i
        if is_plain and isinstance(arm.factory, partial):
            made = (arm.factory.func, arm.factory.args, str(arm.factory.keywords))
            key = (id(job.task), job.seed, job.curve_points, made)
        groups.setdefault(key, []).append(job)
    return list(groups.values())


def make_jobs(
    arms: Arms,
    tasks: Sequence[HeldoutTask],
    seeds: Sequence[int],
    curve_points: int = CURVE_POINTS,
) -> Iterable[Job]:
    """Yield every arm on every task with every seed, by task, then arm, then seed."""
    for task in tasks:
        for arm in arms[task.name] if isinstance(arms, Mapping) else arms:
            for seed in seeds:
                yield Job(arm, task, seed, curve_points)


def job_key(job: Job) -> dict[str, Any]:
    """Return the key of a run as JSON values: runs with the same key have the same result.

    It consists of the task with its length, its announced length and the file of its data;
    of the arm with the arguments of its optimizer (for a policy, the fingerprint); and of
    the seed. Versions of this package or of others are not part of it.
    """
    arm, task = job.arm, job.task
    arguments = arm.factory.keywords if isinstance(arm.factory, partial) else {}
    return {
        "task": task.name,
        "arm": arm.name,
        "seed": job.seed,
        "updates": task.updates,
        "told": task.horizon_factor,
        "curve_points": job.curve_points,
        "factory": _function_name(arm.factory),
        "schedule": _function_name(arm.schedule),
        "watch": _function_name(arm.watch),
        **({"source": task.source} if task.source else {}),
        **{name: _to_json(value) for name, value in arguments.items()},
    }


def _function_name(function: Any) -> str | None:
    """Return the name of a function, a class or a partial of one; None for None."""
    if isinstance(function, partial):
        function = function.func
    return None if function is None else str(function.__qualname__)


def _to_json(value: Any) -> Any:
    if isinstance(value, Policy):
        return value.fingerprint()
    return value if isinstance(value, (bool, int, float, str)) else repr(value)


class Phases:
    """Tune the searches, then run the chosen settings with all other arms.

    Args:
        tasks: held-out tasks.
        tuning_seeds: seeds for choosing settings.
        seeds: seeds for comparing all arms.
        arms: arms that run with the same settings on all tasks.
        searches: searches that choose a setting for each task, by the name of the column.
        shared: whether to run the setting of AdamW that is best for all tasks together,
            too; :data:`~agents.evaluation.row.TUNED` must be among the searches.

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
        tried = [arm for search in searches.values() for arm in grid_arms(search)]
        self._tuning = list(make_jobs(tried, tasks, tuning_seeds, 0))
        columns = len(arms) + len(searches) + shared
        self.total = len(self._tuning) + len(tasks) * columns * len(seeds)

    def run(
        self, run: Runner, on_choices: Callable[[Choices], object] | None = None
    ) -> tuple[list[Row], Choices]:
        """Run both phases.

        Args:
            run: function that runs the jobs of a phase.
            on_choices: function that is called between the phases with the chosen settings.

        Returns:
            Rows of all arms by task, arm and seed, and the settings chosen for each task.
        """
        choices = self._choose(run(self._tuning))
        if on_choices is not None:
            on_choices(choices)
        arms = {task.name: self._arms_of(choices[task.name]) for task in self._tasks}
        return run(list(make_jobs(arms, self._tasks, self._seeds))), choices

    def arms_to_run(self, stored: Callable[[Job], Row | None]) -> list[Arm]:
        """Return the arms that have runs to make, each once.

        For a search whose tuning is not finished, these are the settings that are left to
        try, as its choice is unknown.

        Args:
            stored: function that returns the row of a job if it is stored, or None.
        """
        found = [(job, stored(job)) for job in self._tuning]
        left = {job.arm.name: job.arm for job, row in found if row is None}
        tuned = {
            column: search
            for column, search in self._searches.items()
            if not left.keys() & search.choice_by_arm.keys()
        }
        choices = self._choose([row for _, row in found if row is not None], tuned)
        arms = {task.name: self._arms_of(choices[task.name]) for task in self._tasks}
        for job in make_jobs(arms, self._tasks, self._seeds):
            if job.arm.name not in left and stored(job) is None:
                left[job.arm.name] = job.arm
        return list(left.values())

    def _choose(
        self, rows: Sequence[Row], searches: Mapping[str, Search] | None = None
    ) -> Choices:
        """Choose a setting for each task and column, given the rows of the tuning.

        Args:
            rows: rows of the tuning, of all arms of the searches.
            searches: searches for which to choose; by default, all.
        """
        choices: Choices = {task.name: {} for task in self._tasks}
        for column, search in (self._searches if searches is None else searches).items():
            means = mean_losses(rows, search)
            if self._shared and column == TUNED:
                shared = choose_shared(means, search)
                for task in choices:
                    choices[task][SHARED] = shared
            for task, choice in choose(means, search).items():
                choices[task][column] = choice
        return choices

    def _arms_of(self, choices: Mapping[str, Choice]) -> list[Arm]:
        """Return all arms of one task, given the settings that tuning chose for it."""
        tuned = [
            arm
            for column, choice in choices.items()
            # SHARED is no search of its own: its choices are settings of AdamW.
            for arm in tuned_arms({column: choice}, self._searches.get(column, ADAMW))
        ]
        return [*self._arms, *tuned]


def control_jobs(
    policy_arms: PolicyArms,
    rows: Sequence[Row],
    tasks: Sequence[HeldoutTask],
    seeds: Sequence[int],
) -> Iterator[Job]:
    """Yield the runs of all controls of a policy, at each of its base learning rates.

    Noise and replay are made from the policy's runs with the same base learning rate, on
    all tasks. So they are fitted to this rate, which makes them fair controls. Noise and
    the untrained network are drawn separately for every task and seed.

    Args:
        policy_arms: the policy and its base learning rates.
        rows: rows with the policy's own runs among them.
        tasks: held-out tasks.
        seeds: seeds of each task.

    Raises:
        ValueError: the policy has no runs.
    """
    policy = policy_arms.policy
    for lr in policy_arms.rates:
        runs = [row["shifts"] for row in rows if row["arm"] == policy_arms.name(lr)]
        replayed = replay(policy, runs)
        for task, seed in itertools.product(tasks, seeds):
            key = zlib.crc32(task.name.encode()) + seed
            made = (untrained(policy, key), noise(policy, runs, key), replayed)
            for name, control in zip(CONTROLS, made, strict=True):
                arm = learned_arm(policy_arms.name(lr, name), control, lr=lr)
                yield Job(replace(arm, baseline=True), task, seed)
