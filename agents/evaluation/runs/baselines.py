"""Runs of the short list of arms, made while a policy is trained."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from statistics import fmean
from typing import Any

from ...utils.job_engines import PROCESSES, Engine
from ...utils.progress import progress_bar
from ..arms.arm import Arm, Choice
from ..arms.short_list import ADAMW, default_arms
from ..row import TUNED, Row
from ..tasks.problem import HeldoutTask
from .jobs import Choices, Job, Phases, make_jobs
from .runner import OnEnd
from .store import Store, StoredRuns

__all__ = ["BaselineRuns", "start_baselines"]

#: Called with a line of text.
Report = Callable[[str], object]

#: Niceness of the processes that run the baselines.
NICENESS = 10


class _TaskReports:
    """Report the mean loss of every arm on a task, as soon as its last run has ended.

    Args:
        label: name of the stage, with which lines begin.
        jobs: all jobs of the stage.
        report: function that is called with each line.
    """

    def __init__(self, label: str, jobs: Iterable[Job], report: Report) -> None:
        self._label, self._report = label, report
        self._missing = Counter(job.task.name for job in jobs)
        self._losses: dict[str, dict[str, list[float]]] = {}

    def on_end(self, job: Job, row: Row) -> None:
        """Record a row; report a line if it is the last one of its task."""
        task = row["task"]
        losses = self._losses.setdefault(task, {})
        losses.setdefault(row["arm"], []).append(row["validation_loss"])
        self._missing[task] -= 1
        if not self._missing[task]:
            means = ", ".join(f"{arm} {fmean(each):.4g}" for arm, each in losses.items())
            self._report(f"{self._label}: {task}, mean validation loss {means}")


class BaselineRuns:
    """Runs of the short list of arms, in worker processes while this one continues.

    The processes have a lower priority than this one, which trains a policy meanwhile and
    should not wait for them.

    Close it, for instance with ``contextlib.closing``, to end the processes.

    Args:
        tasks: held-out tasks.
        tuning_seeds: seeds for tuning AdamW.
        eval_seeds: seeds for comparing all arms.
        workers: number of processes.
        report: function that is called, from another thread, with lines of text: the
            settings chosen by tuning, and the results of each task as soon as they are
            known.
        engine: kind of the processes.
        store: store of finished runs; None for no store.

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
        store: Store | None = None,
    ) -> None:
        self._phases = Phases(
            tasks, tuning_seeds, eval_seeds, default_arms(), {TUNED: ADAMW}
        )
        self.total = self._phases.total
        self.done = 0
        self._tasks, self._seeds, self._report = tasks, eval_seeds, report
        self._store = store
        self._outcome: Future[tuple[list[Row], Choices]] = Future()
        self._workers = engine.start(workers, NICENESS)
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
        return self._run_by_seed(jobs, on_ends)

    def _run_by_seed(self, jobs: Sequence[Job], on_ends: Sequence[OnEnd]) -> list[Row]:
        """Run the jobs that are not in the store, and return the rows of all.

        They run seed by seed, so that processes can reuse the batches of the previous run.

        Args:
            jobs: jobs by task.
            on_ends: functions that are called as ``on_end`` of
                :func:`~agents.evaluation.runs.runner.run_jobs`.
        """
        tasks = list(dict.fromkeys(job.task.name for job in jobs))

        def order(job: Job) -> Any:
            return tasks.index(job.task.name), job.seed

        def on_end(job: Job, row: Row) -> None:
            for each in on_ends:
                each(job, row)

        return StoredRuns(self._store, self._workers, on_end, order)(jobs)

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
            progress: whether to show the progress.

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
            return self._run_by_seed(jobs, on_ends)

    def result(self, progress: bool = True) -> tuple[list[Row], dict[str, Choice]]:
        """Wait for the runs to end.

        Args:
            progress: whether to show the progress.

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
    store: Store | None = None,
) -> BaselineRuns:
    """Tune and run the short list of arms in the background.

    This needs no policy, so that it can run while one is trained.

    Args:
        tasks: held-out tasks.
        tuning_seeds: seeds for tuning AdamW.
        eval_seeds: seeds for comparing all arms.
        workers: number of processes.
        report: see :class:`BaselineRuns`.
        engine: kind of the processes.
        store: see :class:`BaselineRuns`.

    Raises:
        ValueError: a seed is for both tuning and evaluation, or ``workers`` is below 1.
    """
    return BaselineRuns(tasks, tuning_seeds, eval_seeds, workers, report, engine, store)
