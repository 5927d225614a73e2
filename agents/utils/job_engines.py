"""Engines that run jobs: processes of this machine, or those of a Ray cluster."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, TypeVar

from optenv.checks import known

from .workers import Workers

__all__ = ["ENGINES", "MAX_WORKERS", "PROCESSES", "Engine", "Pool"]

Job = TypeVar("Job")
Result = TypeVar("Result")

#: Names of the engines.
ENGINES = ("processes", "ray")

#: Largest number of processes that commands accept, as all are started at once.
MAX_WORKERS = 4096


class Pool(Protocol):
    """Processes that run a list of jobs, see :class:`~agents.utils.workers.Workers`."""

    def map(
        self,
        function: Callable[[Job], Result],
        jobs: Sequence[Job],
        ended: Callable[[Job, Result], object],
        named: Callable[[Job], str] = repr,
    ) -> list[Result]:
        """Run a function on all jobs."""

    def close(self) -> None:
        """Abandon running jobs, drop waiting ones, and end the processes."""


class Engine(NamedTuple):
    """A kind of processes, and where they are.

    Attributes:
        name: one of :data:`ENGINES`.
        address: address of a running Ray cluster; None starts one on this machine.

    Example::

        with contextlib.closing(Engine("ray").start(2)) as pool:
            results = pool.map(function, jobs, ended=print)
    """

    name: str = "processes"
    address: str | None = None

    def connected(
        self, count: int, *, option: str = "--engine"
    ) -> contextlib.AbstractContextManager[None]:
        """Check the engine, and return a context that holds the connection to its cluster.

        Processes that are started within it use this connection. For processes of this
        machine the context does nothing.

        Args:
            count: number of processes that will run at once.
            option: command-line option that names the engine, for messages.

        Raises:
            ImportError: the engine needs Ray, which is not installed.
            ValueError: the engine is unknown; an address is given, but the engine is not
                Ray; ``count`` is 0 for a cluster of this machine; or there is no cluster at
                the address.
        """
        known("engine", self.name, ENGINES)
        if self.name == "ray":
            from .ray_cluster import cluster
            from .ray_workers import check_count

            check_count(count, self.address)
            return cluster(count, self.address)
        if self.address is not None:
            raise ValueError(
                f"--address is that of a Ray cluster, got {self.address!r}; give {option} "
                "ray as well"
            )
        return contextlib.nullcontext()

    def start(self, count: int, niceness: int = 0) -> Pool:
        """Start processes with one thread each.

        Args:
            count: number of processes; with Ray, 0 means all CPUs of a running cluster.
            niceness: amount by which to lower the priority of processes of this machine;
                Ray ignores it.

        Raises:
            ImportError, ValueError: see :meth:`connected`.
        """
        known("engine", self.name, ENGINES)
        if self.name == "processes":
            return Workers(count, niceness)
        from .ray_workers import RayWorkers

        return RayWorkers(count, self.address)


#: Processes of this machine.
PROCESSES = Engine()
