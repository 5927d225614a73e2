"""Worker processes that run a list of jobs, and stop cleanly on Ctrl-C."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    CancelledError,
    Future,
    ProcessPoolExecutor,
    wait,
)
from multiprocessing.synchronize import Event
from typing import Any, TypeVar

import torch

__all__ = ["Workers", "stopped"]

Job = TypeVar("Job")
Result = TypeVar("Result")

#: In a worker process: set when it has to abandon its job.
_stop: Event | None = None


def stopped() -> bool:
    """Return whether the calling job has to stop; always False outside a worker."""
    return _stop is not None and _stop.is_set()


def _enter(stop: Event, niceness: int) -> None:
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
    return function(job)


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

    They end at :meth:`close`, at the exit of the parent process, and when it is killed.

    Args:
        count: number of processes.
        niceness: how far to lower their priority, as in the command ``nice``.

    Raises:
        ValueError: ``count`` is below 1.
    """

    def __init__(self, count: int, niceness: int = 0) -> None:
        if count < 1:
            raise ValueError(f"workers must be at least 1, got {count!r}")
        context = multiprocessing.get_context("spawn")
        self._count, self._stop = count, context.Event()
        self._executor = ProcessPoolExecutor(
            count, context, initializer=_enter, initargs=(self._stop, niceness)
        )
        with _interrupts_ignored():
            for _ in range(count):
                self._executor.submit(os.getpid)  # each submission starts a process

    def map(
        self,
        function: Callable[[Job], Result],
        jobs: Sequence[Job],
        ended: Callable[[Job, Result], object],
    ) -> list[Result]:
        """Run a function on all jobs.

        Args:
            function: of one job; it is pickled.
            jobs: its arguments.
            ended: called in this process with each job and its result, as they end.

        Returns:
            The results in the order of ``jobs``.

        Raises:
            CancelledError: :meth:`close` was called meanwhile, or the interpreter exits.
            BrokenProcessPool: a worker died.
        """
        waiting = deque(enumerate(jobs))
        running: dict[Future[Any], int] = {}
        results: dict[int, Result] = {}
        while waiting or running:
            # Submit few at a time: at its exit the interpreter waits for all of them.
            while waiting and len(running) <= self._count:
                i, job = waiting.popleft()
                running[self._submit(function, job)] = i
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                i = running.pop(future)
                results[i] = future.result()
                ended(jobs[i], results[i])
        return [results[i] for i in range(len(jobs))]

    def _submit(self, function: Callable[[Job], Result], job: Job) -> Future[Any]:
        # Plain pickle sends tensors as bytes. Torch's own reduction would share each tensor
        # of a job's policy through a file of its own.
        try:
            return self._executor.submit(_call, pickle.dumps((function, job)))
        except BrokenExecutor:
            raise
        except RuntimeError:  # no more submissions: closed
            raise CancelledError from None

    def close(self) -> None:
        """Abandon running jobs, drop waiting ones, and end the processes."""
        self._stop.set()
        self._executor.shutdown(wait=True, cancel_futures=True)
