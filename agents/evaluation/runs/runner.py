"""Run arms on the held-out tasks, in this process or in worker processes.

Every run of a task and seed has the same initial parameters, batches and validation set.
Processes are spawned, so a script that uses ``workers`` needs the usual
``if __name__ == "__main__":``. Ctrl-C ends them quietly.
"""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from statistics import fmean

from ...utils.engines import PROCESSES, Engine, Pool
from ...utils.progress import progress_bar
from ..arms.arm import Arm, Choice
from ..arms.short_list import ADAMW, default_arms
from ..row import TUNED, Row
from ..tasks.problem import HeldoutTask
from .jobs import (
    Arms,
    Choices,
    Job,
    Phases,
    make_jobs,
    named,
    run_job,
    run_together,
    share_updates,
)
from .run import CURVE_POINTS

#: Called with a job and its row.
OnEnd = Callable[[Job, Row], object]
#: Called with a line of text.
Report = Callable[[str], object]

#: Niceness of the processes that run the baselines beside a training.
BASELINES_NICENESS = 10

__all__ = ["BaselineRuns", "evaluate", "run_jobs", "start_baselines"]


def run_jobs(
    jobs: Sequence[Job],
    workers: Pool | None,
    on_end: OnEnd,
) -> list[Row]:
    """Run jobs and return their rows, in the order of the jobs.

    Args:
        jobs: jobs; the first ones are run first.
        workers: processes to run them in; None runs them in this one.
        on_end: called with a job and its row as soon as the job has ended.

    Raises:
        ProcessDied: the process of a job died each time.
        Exception: a job failed; a note names the run. The results of those that have
            ended, and of those that were running in other processes, have been handed to
            ``on_end``.
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
    rows_of_groups = workers.map(run_together, groups, on_group_end, named)
    by_job = {
        id(job): row
        for group, group_rows in zip(groups, rows_of_groups, strict=True)
        for job, row in zip(group, group_rows, strict=True)
    }
    return [by_job[id(job)] for job in jobs]


def _run_by_seed(jobs: Sequence[Job], workers: Pool, on_ends: Sequence[OnEnd]) -> list[Row]:
    """Run jobs seed by seed, so that processes find the batches of the run before.

    Args:
        jobs: jobs by task.
        workers: processes.
        on_ends: called as in :func:`run_jobs`.

    Returns:
        Rows in the order of ``jobs``.
    """
    tasks = list(dict.fromkeys(job.task.name for job in jobs))
    order = sorted(
        range(len(jobs)), key=lambda i: (tasks.index(jobs[i].task.name), jobs[i].seed)
    )

    def on_end(job: Job, row: Row) -> None:
        for each in on_ends:
            each(job, row)

    rows = run_jobs([jobs[i] for i in order], workers, on_end)
    by_index = dict(zip(order, rows, strict=True))
    return [by_index[i] for i in range(len(jobs))]


def evaluate(
    arms: Arms,
    tasks: Sequence[HeldoutTask],
    seeds: Sequence[int],
    *,
    workers: int = 0,
    curve_points: int = CURVE_POINTS,
    progress: bool = True,
    engine: Engine = PROCESSES,
) -> list[Row]:
    """Run every arm on every task with every seed.

    Args:
        arms: arms for all tasks, or those of each task by its name.
        tasks: held-out tasks.
        seeds: seeds of each task.
        workers: number of processes, with one thread each; 0 runs in this one.
        curve_points: points of the validation curve between start and end.
        progress: show a progress bar, where tqdm is installed.
        engine: kind of the processes, if there are any.

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
            processes = stack.enter_context(contextlib.closing(engine.start(workers)))
        return run_jobs(jobs, processes, lambda job, row: advance())


class _TaskReports:
    """Report the mean loss of every arm on a task, as soon as its last run has ended.

    Args:
        label: name of the stage, which lines begin with.
        jobs: all jobs of the stage.
        report: called with each line.
    """

    def __init__(self, label: str, jobs: Iterable[Job], report: Report) -> None:
        self._label, self._report = label, report
        self._missing = Counter(job.task.name for job in jobs)
        self._losses: dict[str, dict[str, list[float]]] = {}

    def on_end(self, job: Job, row: Row) -> None:
        """Take in a row; write a line if it is the last one of its task."""
        task = row["task"]
        losses = self._losses.setdefault(task, {})
        losses.setdefault(row["arm"], []).append(row["validation_loss"])
        self._missing[task] -= 1
        if not self._missing[task]:
            means = ", ".join(f"{arm} {fmean(each):.4g}" for arm, each in losses.items())
            self._report(f"{self._label}: {task}, mean validation loss {means}")


class BaselineRuns:
    """Runs of the short list of arms, in worker processes while this one goes on.

    The processes have a lower priority than this one, which trains a policy meanwhile: the
    training is the longest chain of work, and must not wait for them.

    Close it, as with ``contextlib.closing``, to end the processes.

    Args:
        tasks: held-out tasks.
        tuning_seeds: seeds that AdamW is tuned on.
        eval_seeds: seeds that all arms are compared on.
        workers: number of processes.
        report: called, from another thread, with a line of text on what tuning chose and
            on the results of each task, as soon as they are known.
        engine: kind of the processes.

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
        report: Report | None = None,
        engine: Engine = PROCESSES,
    ) -> None:
        self._phases = Phases(
            tasks, tuning_seeds, eval_seeds, default_arms(), {TUNED: ADAMW}
        )
        self.total = self._phases.total
        self.done = 0
        self._tasks, self._seeds, self._report = tasks, eval_seeds, report
        self._outcome: Future[tuple[list[Row], Choices]] = Future()
        self._workers = engine.start(workers, BASELINES_NICENESS)
        # A daemon, so that a caller who forgets close() can still exit.
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def _work(self) -> None:
        try:
            self._outcome.set_result(self._phases.run(self._run, self._report_choices))
        except BaseException as error:
            self._outcome.set_exception(error)

    def _run(self, jobs: Sequence[Job]) -> list[Row]:
        on_ends: list[OnEnd] = [self._advance]
        if self._report is not None and any(job.curve_points for job in jobs):
            on_ends.append(_TaskReports("baselines", jobs, self._report).on_end)
        return _run_by_seed(jobs, self._workers, on_ends)

    def _advance(self, job: Job, row: Row) -> None:
        self.done += 1

    def _report_choices(self, choices: Choices) -> None:
        if self._report is not None:
            settings = "; ".join(
                f"{task} {chosen[TUNED].lr:g} {chosen[TUNED].schedule}"
                for task, chosen in choices.items()
            )
            self._report(f"baselines: AdamW is tuned: {settings}")

    def evaluate(self, arms: Sequence[Arm], progress: bool = True) -> list[Row]:
        """Run further arms on the same tasks and seeds, in the same processes.

        Args:
            arms: arms, such as a policy.
            progress: show a progress bar, where tqdm is installed.

        Returns:
            Rows by task, then arm, then seed.

        Raises:
            CancelledError: the runs were ended by :meth:`close`.
        """
        jobs = list(make_jobs(arms, self._tasks, self._seeds))
        with progress_bar(len(jobs), "evaluation", progress) as advance:
            on_ends: list[OnEnd] = [lambda job, row: advance()]
            if self._report is not None:
                on_ends.append(_TaskReports("evaluation", jobs, self._report).on_end)
            return _run_by_seed(jobs, self._workers, on_ends)

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
    report: Report | None = None,
    engine: Engine = PROCESSES,
) -> BaselineRuns:
    """Tune and run the short list of arms in the background.

    No policy is needed for it, so that it can run beside the training of one.

    Args:
        tasks: held-out tasks.
        tuning_seeds: seeds that AdamW is tuned on.
        eval_seeds: seeds that all arms are compared on.
        workers: number of processes.
        report: see :class:`BaselineRuns`.
        engine: kind of the processes.

    Raises:
        ValueError: a seed is for both tuning and evaluation, or ``workers`` is below 1.
    """
    return BaselineRuns(tasks, tuning_seeds, eval_seeds, workers, report, engine)
