"""Run arms on the held-out tasks, in this process or in worker processes.

Every run of a task and seed has the same initial parameters, batches and validation set.
Processes are spawned, so a script that uses ``workers`` needs the usual
``if __name__ == "__main__":``. Ctrl-C ends them quietly.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

from ...utils.job_engines import PROCESSES, Engine, Pool
from ...utils.progress import progress_bar
from ..row import Row
from ..tasks.problem import HeldoutTask
from .jobs import (
    Arms,
    Job,
    make_jobs,
    named,
    run_job,
    run_together,
    share_updates,
)
from .run import CURVE_POINTS

#: Function that is called with a job and its row.
OnEnd = Callable[[Job, Row], object]

__all__ = ["OnEnd", "evaluate", "run_jobs"]


def run_jobs(
    jobs: Sequence[Job],
    workers: Pool | None,
    on_end: OnEnd,
) -> list[Row]:
    """Run jobs and return their rows, in the order of the jobs.

    Args:
        jobs: jobs; the first ones are run first.
        workers: processes in which to run them; None runs them in this process.
        on_end: function that is called with a job and its row as soon as the job has ended.

    Raises:
        ProcessDied: the process of a job died at every attempt.
        Exception: a job failed; a note names the run. ``on_end`` has been called for jobs
            that had ended, and for those that were running in other processes.
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
        arms: arms for all tasks, or the arms of each task by its name.
        tasks: held-out tasks.
        seeds: seeds of each task.
        workers: number of processes, with one thread each; 0 runs in this process.
        curve_points: number of points of the validation curve between start and end.
        progress: whether to show the progress.
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
