"""Worker processes that run a list of jobs, and stop cleanly on Ctrl-C.

A process may die at any moment, for instance when memory runs out. Only its job may be
affected: so each process has its own queues, and there is no shared lock that a dead
process could hold forever.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import (
    BrokenExecutor,
    CancelledError,
    Future,
    ProcessPoolExecutor,
)
from functools import partial
from typing import Any, TypeVar

import torch

from .outcomes import Outcomes, ProcessDied

__all__ = ["RETRIES", "Workers", "stopped"]

#: Number of times that a job is restarted after its process has died.
RETRIES = 2

Job = TypeVar("Job")
Result = TypeVar("Result")

#: In a worker process: a number in shared memory that becomes 1 to stop its job.
_stop: Any = None


def stopped() -> bool:
    """Return whether the calling job has to stop; always False outside a worker."""
    return _stop is not None and bool(_stop.value)


def _enter(stop: Any, niceness: int) -> None:
    """Initialise a worker process."""
    global _stop
    _stop = stop
    if niceness and hasattr(os, "nice"):  # Windows has none
        os.nice(niceness)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    torch.set_num_threads(1)
    threading.Thread(target=_die_with_parent, daemon=True).start()


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _call(pickled: bytes) -> Any:
    function, job = pickle.loads(pickled)
    try:
        return function(job)
    except Exception as error:
        if _can_be_sent(error):
            raise
        # The parent would mistake an error that it cannot unpickle for the process's death.
        sent = RuntimeError(f"{type(error).__qualname__}: {error}")
        for note in getattr(error, "__notes__", ()):
            sent.add_note(note)
        raise sent from error


def _can_be_sent(error: Exception) -> bool:
    """Return whether an error can be pickled and read again."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return False
    return True


@contextlib.contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """Make children that are started within ignore Ctrl-C from their first instruction."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


class Workers:
    """Spawned worker processes with one torch thread each.

    A process that dies is replaced, and its job is restarted, up to :data:`RETRIES` times,
    with a warning. The processes end at :meth:`close`, at the exit of the parent process,
    and when the parent process is killed.

    Args:
        count: number of processes.
        niceness: amount by which to lower their priority, as in the command ``nice``.

    Raises:
        ValueError: ``count`` is below 1.
    """

    def __init__(self, count: int, niceness: int = 0) -> None:
        if count < 1:
            raise ValueError(f"workers must be at least 1, got {count!r}")
        self._context = multiprocessing.get_context("spawn")
        # Memory without a lock, since a process could die while it holds one
        self._stop, self._niceness = self._context.RawValue("b", 0), niceness
        # Guards the attributes below; notified when a process is idle, and at the end.
        self._changed = threading.Condition()
        self._closed, self._has_started = False, False
        self._executors: set[ProcessPoolExecutor] = set()
        # Idle processes; None stands for a dead one that has to be replaced.
        self._idle: list[ProcessPoolExecutor | None] = []
        with _interrupts_ignored():
            for _ in range(count):
                self._idle.append(self._start())

    def _start(self) -> ProcessPoolExecutor:
        """Start a process."""
        executor = ProcessPoolExecutor(
            1, self._context, initializer=_enter, initargs=(self._stop, self._niceness)
        )
        self._executors.add(executor)
        executor.submit(os.getpid).add_done_callback(self._note_start)
        return executor

    def _note_start(self, first: Future[int]) -> None:
        if not first.cancelled() and first.exception() is None:
            self._has_started = True

    def map(
        self,
        function: Callable[[Job], Result],
        jobs: Sequence[Job],
        ended: Callable[[Job, Result], object],
        named: Callable[[Job], str] = repr,
    ) -> list[Result]:
        """Run a function on all jobs.

        After the first error no more jobs are started. It is raised after the running ones
        have ended.

        Args:
            function: function of one job, which is pickled.
            jobs: its arguments.
            ended: function that is called in this process with each job and its result, as
                jobs end.
            named: function that names a job, for a note on its error.

        Returns:
            The results in the order of ``jobs``.

        Raises:
            CancelledError: :meth:`close` was called meanwhile, or the interpreter exits.
            ProcessDied: the process of a job died at every attempt, or no process could be
                started.
            Exception: a job failed; if its error cannot be pickled, a RuntimeError.
        """
        waiting, deaths = deque(range(len(jobs))), [0] * len(jobs)
        running: dict[Future[Any], int] = {}
        outcomes = Outcomes(jobs, ended, named)

        def can_start() -> bool:
            return bool(waiting and self._idle and not outcomes.failed)

        def can_go_on() -> bool:
            return self._closed or can_start() or any(each.done() for each in running)

        while (waiting and not outcomes.failed) or running:
            # 1. Wait, and start as many jobs as there are idle processes.
            with self._changed:
                self._changed.wait_for(can_go_on)
                if self._closed:
                    raise CancelledError
                while can_start():
                    i = waiting.popleft()
                    # Plain pickle sends tensors as bytes. Torch's own reduction would
                    # share each tensor of a job's policy through a file of its own.
                    running[self._submit(pickle.dumps((function, jobs[i])))] = i
            # 2. Record the results of those that have ended.
            for future in [each for each in running if each.done()]:
                i = running.pop(future)
                if isinstance(future.exception(), BrokenExecutor):
                    deaths[i] += 1
                    if self._has_started and deaths[i] <= RETRIES:
                        warnings.warn(
                            f"a worker process died; its job is begun anew, {deaths[i]} of "
                            f"{RETRIES} times",
                            RuntimeWarning,
                            stacklevel=2,
                        )
                        waiting.appendleft(i)
                        continue
                    outcomes.take(i, partial(self._died, deaths[i]))
                else:
                    outcomes.take(i, future.result)
        return outcomes.results()

    def _submit(self, pickled: bytes) -> Future[Any]:
        """Have an idle process run a job.

        Raises:
            CancelledError: the interpreter exits.
        """
        try:
            executor = self._idle.pop() or self._start()
            try:
                future = executor.submit(_call, pickled)
            except BrokenExecutor:  # it died while it was idle
                self._executors.discard(executor)
                executor = self._start()
                future = executor.submit(_call, pickled)
        except BrokenExecutor:
            raise
        except RuntimeError:  # no more submissions
            raise CancelledError from None

        def free(ended: Future[Any]) -> None:
            died = not ended.cancelled() and isinstance(ended.exception(), BrokenExecutor)
            with self._changed:
                if died:
                    self._executors.discard(executor)
                self._idle.append(None if died else executor)
                self._changed.notify_all()

        future.add_done_callback(free)
        return future

    def _died(self, times: int) -> Any:
        """Raise the error of a job whose process died."""
        if not self._has_started:
            raise ProcessDied(
                "the worker processes died before they could begin; a program that uses "
                'them must do its work under `if __name__ == "__main__":`'
            )
        raise ProcessDied(
            f"a job was begun {times} times, and its process died each time, as it does "
            "where memory runs out"
        )

    def close(self) -> None:
        """Abandon running jobs, drop waiting ones, and end the processes."""
        self._stop.value = 1
        with self._changed:
            self._closed = True
            executors = [*self._executors]
            self._changed.notify_all()
        # Without the lock, which jobs that end need
        for executor in executors:
            executor.shutdown(wait=True, cancel_futures=True)
