"""Results and errors of jobs that run in other processes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError
from typing import Generic, TypeVar

__all__ = ["Outcomes", "ProcessDied"]

Job = TypeVar("Job")
Result = TypeVar("Result")


class ProcessDied(RuntimeError):
    """Error of a job whose process died at every attempt."""


class Outcomes(Generic[Job, Result]):
    """Results of jobs, and the first error of a job.

    After an error no more jobs should be started, but running ones should be finished, so
    that their results are not lost.

    Args:
        jobs: all jobs.
        ended: function that is called with each job and its result.
        named: function that names a job, for a note on its error.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        ended: Callable[[Job, Result], object],
        named: Callable[[Job], str],
    ) -> None:
        self._jobs, self._ended, self._named = jobs, ended, named
        self._results: dict[int, Result] = {}
        self._error: Exception | None = None

    @property
    def failed(self) -> bool:
        """True if a job has ended with an error."""
        return self._error is not None

    def take(self, i: int, result: Callable[[], Result]) -> None:
        """Record the result that ``result`` returns for job ``i``, or the error it raises.

        Raises:
            CancelledError: the job was abandoned.
        """
        try:
            found = result()
        except CancelledError:
            raise
        except Exception as error:
            name = self._named(self._jobs[i])
            if self._error is None:
                self._error = error
                error.add_note(name)
            else:
                self._error.add_note(f"{name} failed as well: {error!r}")
            return
        self._results[i] = found
        self._ended(self._jobs[i], found)

    def results(self) -> list[Result]:
        """Return the results in the order of the jobs, or raise the first error."""
        if self._error is not None:
            raise self._error
        return [self._results[i] for i in range(len(self._jobs))]
