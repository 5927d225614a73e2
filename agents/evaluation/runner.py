"""Run optimizers on the held-out tasks, in this process or in others.

Every run of a task and seed sees the same initial parameters, batches and validation set.
Processes are spawned, so a script that uses ``workers`` needs the usual
``if __name__ == "__main__":``. Ctrl-C ends them quietly.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import closing
from typing import NamedTuple

from .baselines import (
    SHARED,
    TUNED,
    Arm,
    Choice,
    choose,
    choose_shared,
    default_arms,
    grid_arms,
    mean_losses,
    tuned_arms,
)
from .problem import HeldoutTask
from .results import Row
from .run import CURVE_POINTS, train
from .workers import Workers, progress_bar

#: Arms for all tasks, or those of each task by its name.
Arms = Sequence[Arm] | Mapping[str, Sequence[Arm]]


def evaluate(
    arms: Arms,
    tasks: Sequence[HeldoutTask],
    seeds: Sequence[int],
    *,
    workers: int = 0,
    curve_points: int = CURVE_POINTS,
    progress: bool = True,
) -> list[Row]:
    """Run every arm on every task with every seed.

    Args:
        arms: for all tasks, or by the name of the task.
        tasks: held-out tasks.
        seeds: of each task.
        workers: processes with one thread each; 0 runs here.
        curve_points: points of the validation curve between start and end.
        progress: show a bar, where tqdm is installed.

    Returns:
        Rows by task, then arm, then seed. Runs that diverged have a loss of inf.
    """
    jobs = list(_jobs(arms, tasks, seeds, curve_points))
    with progress_bar(len(jobs), "evaluation", progress) as advance:
        if workers > 0:
            with closing(Workers(workers)) as processes:
                return processes.map(_train, jobs, advance)
        rows = []
        for job in jobs:
            rows.append(_train(job))
            advance()
        return rows


class _Job(NamedTuple):
    arm: Arm
    task: HeldoutTask
    seed: int
    curve_points: int


def _train(job: _Job) -> Row:
    try:
        return train(*job)
    except Exception as error:
        error.add_note(f"{job.arm.name}, task {job.task.name}, seed {job.seed}")
        raise


def _jobs(
    arms: Arms, tasks: Sequence[HeldoutTask], seeds: Sequence[int], curve_points: int
) -> Iterable[_Job]:
    for task in tasks:
        for arm in arms[task.name] if isinstance(arms, Mapping) else arms:
            for seed in seeds:
                yield _Job(arm, task, seed, curve_points)


class BaselineRuns:
    """Baselines that run in processes of their own while this one goes on.

    Close it, as with ``contextlib.closing``, to end the processes.

    Attributes:
        total: number of runs.
        done: how many have ended.
    """

    def __init__(
        self,
        tasks: Sequence[HeldoutTask],
        tuning_seeds: Sequence[int],
        eval_seeds: Sequence[int],
        workers: int,
    ) -> None:
        both = sorted(set(tuning_seeds) & set(eval_seeds))
        if both:
            raise ValueError(f"tuning and evaluation seeds must differ, both have {both}")
        self._tasks, self._seeds = tasks, eval_seeds
        self._tuning = list(_jobs(grid_arms(), tasks, tuning_seeds, 0))
        arms = len(default_arms()) + len((SHARED, TUNED))
        self.total = len(self._tuning) + len(tasks) * arms * len(eval_seeds)
        self.done = 0
        self._outcome: Future[tuple[list[Row], dict[str, Choice]]] = Future()
        self._workers = Workers(workers)
        # A daemon, so that a caller who forgets close() can still exit.
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def _work(self) -> None:
        try:
            means = mean_losses(self._workers.map(_train, self._tuning, self._advance))
            choices, shared = choose(means), choose_shared(means)
            arms = {
                name: [*default_arms(), *tuned_arms({SHARED: shared, TUNED: own})]
                for name, own in choices.items()
            }
            jobs = list(_jobs(arms, self._tasks, self._seeds, CURVE_POINTS))
            rows = self._workers.map(_train, jobs, self._advance)
            self._outcome.set_result((rows, choices))
        except BaseException as error:
            self._outcome.set_exception(error)

    def _advance(self) -> None:
        self.done += 1

    def result(self, progress: bool = True) -> tuple[list[Row], dict[str, Choice]]:
        """Wait; rows of all baselines, and the chosen learning rates of each task.

        Raises:
            CancelledError: the runs were ended by :meth:`close`.
        """
        with progress_bar(self.total, "baselines", progress) as advance:
            shown = 0
            while not self._outcome.done():
                self._thread.join(0.2)
                while shown < self.done:
                    shown += 1
                    advance()
        return self._outcome.result()

    def close(self) -> None:
        """End the processes, finished or not."""
        self._workers.close()
        self._thread.join()


def start_baselines(
    tasks: Sequence[HeldoutTask],
    tuning_seeds: Sequence[int],
    eval_seeds: Sequence[int],
    workers: int = 1,
) -> BaselineRuns:
    """Tune and run the baselines in the background, which no policy is needed for.

    Raises:
        ValueError: a seed is for both tuning and evaluation, or ``workers`` is below 1.
    """
    return BaselineRuns(tasks, tuning_seeds, eval_seeds, workers)
