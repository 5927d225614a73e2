"""Run arms on the held-out tasks, in this process or in worker processes.

Every run of a task and seed has the same initial parameters, batches and validation set.
Processes are spawned, so a script that uses ``workers`` needs the usual
``if __name__ == "__main__":``. Ctrl-C ends them quietly.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future

from ...utils.progress import progress_bar
from ...utils.workers import Workers
from ..arms.arm import Choice
from ..arms.short_list import ADAMW, default_arms
from ..row import TUNED, Row
from ..tasks.problem import HeldoutTask
from .jobs import (
    Arms,
    Choices,
    Job,
    Phases,
    make_jobs,
    run_job,
    run_together,
    share_updates,
)
from .run import CURVE_POINTS

__all__ = ["BaselineRuns", "evaluate", "run_jobs", "start_baselines"]


def run_jobs(
    jobs: Sequence[Job],
    workers: Workers | None,
    on_end: Callable[[Job, Row], object],
) -> list[Row]:
    """Run jobs and return their rows, in the order of the jobs.

    Args:
        jobs: jobs; the first ones are run first.
        workers: processes to run them in; None runs them in this one.
        on_end: called with a job and its row as soon as the job has ended.
    """
    if workers is None:
        rows = []
        for job in jobs:
            rows.append(run_job(job))
            on_end(job, rows[-1])
        return rows

    def on_group_end(group: list[Job], rows: list[Row]) -> None:
        for job, row in zip(group, rows, strict=True):
            on_end(job, row)

    groups = share_updates(jobs)
    by_job = {
        id(job): row
        for group, group_rows in zip(
            groups, workers.map(run_together, groups, on_group_end), strict=True
        )
        for job, row in zip(group, group_rows, strict=True)
    }
    return [by_job[id(job)] for job in jobs]


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
        arms: arms for all tasks, or those of each task by its name.
        tasks: held-out tasks.
        seeds: seeds of each task.
        workers: number of processes, with one thread each; 0 runs in this one.
        curve_points: points of the validation curve between start and end.
        progress: show a progress bar, where tqdm is installed.

    Returns:
        Rows by task, then arm, then seed. Runs that diverged have a loss of inf.

    Example::

        arm = Arm("SGD", lambda params, total_updates: torch.optim.SGD(params, lr=0.1))
        rows = evaluate([arm], [task_named("friedman")], seeds=range(3))
        print(format_table(rows))
    """
    jobs = list(make_jobs(arms, tasks, seeds, curve_points))
    with contextlib.ExitStack() as stack:
        advance = stack.enter_context(progress_bar(len(jobs), "evaluation", progress))
        processes = None
        if workers > 0:
            processes = stack.enter_context(contextlib.closing(Workers(workers)))
        return run_jobs(jobs, processes, lambda job, row: advance())


class BaselineRuns:
    """Runs of the short list of arms, in worker processes while this one goes on.

    Close it, as with ``contextlib.closing``, to end the processes.

    Args:
        tasks: held-out tasks.
        tuning_seeds: seeds that AdamW is tuned on.
        eval_seeds: seeds that all arms are compared on.
        workers: number of processes.

    Attributes:
        total: number of runs.
        done: number of runs that have ended.

    Raises:
        ValueError: a seed is for both tuning and evaluation, or ``workers`` is below 1.
    """

    def __init__(
        self,
        tasks: Sequence[HeldoutTask],
        tuning_seeds: Sequence[int],
        eval_seeds: Sequence[int],
        workers: int,
    ) -> None:
        self._phases = Phases(
            tasks, tuning_seeds, eval_seeds, default_arms(), {TUNED: ADAMW}
        )
        self.total = self._phases.total
        self.done = 0
        self._outcome: Future[tuple[list[Row], Choices]] = Future()
        self._workers = Workers(workers)
        # A daemon, so that a caller who forgets close() can still exit.
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def _work(self) -> None:
        try:
            self._outcome.set_result(self._phases.run(self._run))
        except BaseException as error:
            self._outcome.set_exception(error)

    def _run(self, jobs: Sequence[Job]) -> list[Row]:
        return run_jobs(jobs, self._workers, self._advance)

    def _advance(self, job: Job, row: Row) -> None:
        self.done += 1

    def result(self, progress: bool = True) -> tuple[list[Row], dict[str, Choice]]:
        """Wait for the runs to end.

        Args:
            progress: show a progress bar, where tqdm is installed.

        Returns:
            Rows of all arms, and the setting of AdamW that tuning chose for each task.

        Raises:
            CancelledError: the runs were ended by :meth:`close`.
        """
        with progress_bar(self.total, "baselines", progress) as advance:
            # Poll, so that Ctrl-C is noticed and the bar moves.
            shown = 0
            while not self._outcome.done():
                self._thread.join(0.2)
                while shown < self.done:
                    shown += 1
                    advance()
        rows, choices = self._outcome.result()
        return rows, {task: chosen[TUNED] for task, chosen in choices.items()}

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
    """Tune and run the short list of arms in the background.

    No policy is needed for it, so that it can run beside the training of one.

    Args:
        tasks: held-out tasks.
        tuning_seeds: seeds that AdamW is tuned on.
        eval_seeds: seeds that all arms are compared on.
        workers: number of processes.

    Raises:
        ValueError: a seed is for both tuning and evaluation, or ``workers`` is below 1.
    """
    return BaselineRuns(tasks, tuning_seeds, eval_seeds, workers)
