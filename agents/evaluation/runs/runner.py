"""Run optimizers on the held-out tasks, in this process or in others.

Every run of a task and seed sees the same initial parameters, batches and validation set.
Processes are spawned, so a script that uses ``workers`` needs the usual
``if __name__ == "__main__":``. Ctrl-C ends them quietly.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future

from ..arms.defaults import ADAMW, TUNED, Choice, default_arms
from .jobs import Arms, Choices, Job, Phases, make_jobs, run_job
from ..tasks.problem import HeldoutTask
from ..stats.results import Row
from .run import CURVE_POINTS
from ...utils.progress import progress_bar
from ...utils.workers import Workers


def run_jobs(
    jobs: Sequence[Job],
    workers: Workers | None,
    ended: Callable[[Job, Row], object],
) -> list[Row]:
    """Rows of jobs, in their order.

    Args:
        jobs: to run, the first ones first.
        workers: processes to run them in; None runs them here.
        ended: called with every job that has ended and its row, at once.
    """
    if workers is not None:
        return workers.map(run_job, jobs, ended)
    rows = []
    for job in jobs:
        rows.append(run_job(job))
        ended(job, rows[-1])
    return rows


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
    jobs = list(make_jobs(arms, tasks, seeds, curve_points))
    with contextlib.ExitStack() as stack:
        advance = stack.enter_context(progress_bar(len(jobs), "evaluation", progress))
        processes = None
        if workers > 0:
            processes = stack.enter_context(contextlib.closing(Workers(workers)))
        return run_jobs(jobs, processes, lambda job, row: advance())


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
    """Tune and run the baselines in the background, which no policy is needed for.

    Raises:
        ValueError: a seed is for both tuning and evaluation, or ``workers`` is below 1.
    """
    return BaselineRuns(tasks, tuning_seeds, eval_seeds, workers)
