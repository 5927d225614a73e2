"""Jobs as tasks of a Ray cluster: the counterpart of :mod:`agents.utils.workers`."""

from __future__ import annotations

import contextlib
import pickle
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError
from functools import partial
from typing import Any, TypeVar

import torch

from .outcomes import Outcomes, ProcessDied
from .ray_cluster import check_ray, cluster

__all__ = ["RETRIES", "RayWorkers", "check_count"]

Job = TypeVar("Job")
Result = TypeVar("Result")

#: Number of times that a job is restarted after its process or machine has died.
RETRIES = 5
#: Seconds that running jobs have at :meth:`RayWorkers.close` to save their state.
GRACE = 60.0


def check_count(count: int, address: str | None) -> None:
    """Refuse numbers of processes that a cluster cannot have.

    Raises:
        ValueError: ``count`` is negative, or 0 without an address.
    """
    if count < 0 or (count == 0 and address is None):
        raise ValueError(
            "workers must be at least 1 on this machine (0, all CPUs, needs the address of "
            f"a cluster), got {count!r}"
        )


def _call(pickled: bytes) -> Any:
    """Run a pickled job in a worker process."""
    torch.set_num_threads(1)
    function, job = pickle.loads(pickled)
    return function(job)


class RayWorkers:
    """Processes of a Ray cluster that run jobs, each with one CPU and one torch thread.

    A job whose process or machine dies is restarted, up to :data:`RETRIES` times, and
    returns one result. Without an address, a cluster is started on this machine; it ends at
    :meth:`close`, at the exit of this process, and when this process is killed.

    Args:
        count: largest number of jobs at once. 0 uses all CPUs of the cluster, including
            those that join it later; it needs an address.
        address: see :func:`agents.utils.ray_cluster.cluster`.

    Raises:
        ImportError: Ray is not installed.
        ValueError: ``count`` is negative, or 0 without an address; or there is no cluster
            at ``address``.
    """

    def __init__(self, count: int, address: str | None = None) -> None:
        check_count(count, address)
        check_ray()
        import ray

        self._stack = contextlib.ExitStack()
        self._stack.enter_context(cluster(count, address))
        self._count, self._closed, self._lock = count, False, threading.Lock()
        self._running: set[Any] = set()
        self._task = ray.remote(num_cpus=1, max_retries=RETRIES)(_call)

    def map(
        self,
        function: Callable[[Job], Result],
        jobs: Sequence[Job],
        ended: Callable[[Job, Result], object],
        named: Callable[[Job], str] = repr,
    ) -> list[Result]:
        """Run a function on all jobs; see :meth:`agents.utils.workers.Workers.map`.

        Raises:
            CancelledError: :meth:`close` was called meanwhile.
            ProcessDied: the process of a job died at every attempt.
            Exception: a job failed.
        """
        import ray

        waiting = deque(enumerate(jobs))
        running: dict[Any, int] = {}
        outcomes = Outcomes(jobs, ended, named)
        while (waiting and not outcomes.failed) or running:
            # Submit few at a time, so that close() has few to cancel; one more than can
            # run, so that no process waits for the next
            while waiting and not outcomes.failed and len(running) <= self._capacity():
                i, job = waiting.popleft()
                running[self._submit(function, job)] = i
            for reference in ray.wait(list(running), timeout=0.5)[0]:
                i = running.pop(reference)
                outcomes.take(i, partial(self._result, reference))
            if self._closed:
                raise CancelledError
        return outcomes.results()

    def _capacity(self) -> int:
        """Return the number of jobs that can run at once."""
        import ray

        return self._count or max(1, int(ray.cluster_resources().get("CPU", 1)))

    def _submit(self, function: Callable[[Job], Result], job: Job) -> Any:
        from ray import cloudpickle  # which also takes functions of the main program

        pickled = cloudpickle.dumps((function, job))
        with self._lock:
            if self._closed:
                raise CancelledError
            reference = self._task.remote(pickled)
            self._running.add(reference)
        return reference

    def _result(self, reference: Any) -> Any:
        """Return the result of a job that has ended, or raise its own error."""
        import ray

        try:
            return ray.get(reference)
        except ray.exceptions.TaskCancelledError:
            raise CancelledError from None
        except ray.exceptions.RayTaskError as error:
            if self._closed:  # an interrupt that the job was sent
                raise CancelledError from None
            raise error.cause from error
        except (ray.exceptions.WorkerCrashedError, ray.exceptions.NodeDiedError) as error:
            raise ProcessDied(
                f"a job was begun {RETRIES + 1} times, and its process died each time: "
                f"{error}"
            ) from error
        finally:
            with self._lock:
                self._running.discard(reference)

    def close(self) -> None:
        """Interrupt running jobs, drop waiting ones, and leave the cluster."""
        import ray

        with self._lock:
            self._closed, running = True, list(self._running)
        if running and ray.is_initialized():
            for reference in running:
                ray.cancel(reference)  # KeyboardInterrupt, by which a training saves itself
            begun = time.monotonic()
            while running and time.monotonic() - begun < GRACE:
                running = ray.wait(running, num_returns=len(running), timeout=0.5)[1]
        self._stack.close()
