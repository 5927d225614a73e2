"""A file of finished runs, so that an interrupted benchmark continues where it stopped.

Each line of the file is a run: a JSON object with the fields of
:class:`~agents.evaluation.Row`, and ``"key"``, which identifies the run (see
:func:`~agents.evaluation.runs.jobs.job_key`). JSON has no non-finite numbers: they are the
strings ``"inf"``, ``"-inf"`` and ``"nan"``. Lines are only appended; of lines with the same
key, the last counts.
"""

from __future__ import annotations

import json
import math
import operator
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from optenv.atomic import append_bytes
from optenv.checks import parsed_json, quoted

from ...utils.job_engines import Pool
from ..row import Row
from .jobs import Job, job_key
from .runner import OnEnd, run_jobs

__all__ = ["FILE", "Store", "StoredRuns"]

#: Name of the file in the folder of results.
FILE = "rows.jsonl"

#: Types of the entries of a line that hold no floats.
_TYPES: dict[str, type] = {
    "key": dict, "task": str, "arm": str, "seed": int, "updates": int, "learned": bool
}  # fmt: skip


class Store:
    """Rows by the keys of their runs, stored in a file that only grows.

    Args:
        path: path of the file. An incomplete last line, left by a killed process, is
            removed with a warning.

    Raises:
        ValueError: a line is not a run; the message says which one, and why.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._rows: dict[str, Row] = {}
        self._lock = threading.Lock()  # threads of a training and of its baselines add
        if not self.path.exists():
            return
        # 1. Drop an incomplete last line, left by a killed process.
        content = self.path.read_bytes()
        complete = content[: content.rfind(b"\n") + 1]
        if complete != content:
            warnings.warn(
                f"the last line of {self.path} is only half written; its run is dropped",
                stacklevel=2,
            )
            with self.path.open("r+b") as file:
                file.truncate(len(complete))
        # 2. Read the runs; of two with the same key, the last counts.
        for i, line in enumerate(complete.splitlines(), 1):
            try:
                key, row = _decode(line)
            except (KeyError, OverflowError, TypeError, ValueError) as error:
                raise ValueError(
                    f"line {i} of {self.path} is not a run ({error!r}); remove it"
                ) from error
            self._rows[_canonical(key)] = row

    def __len__(self) -> int:
        """Return the number of runs, each counted once."""
        return len(self._rows)

    def get(self, key: Mapping[str, Any]) -> Row | None:
        """Return the row of the run with exactly this key; None if there is none."""
        return self._rows.get(_canonical(key))

    def add(self, key: Mapping[str, Any], row: Row) -> None:
        """Append a run; it is on the disk when this returns.

        Raises:
            OSError: the run cannot be written; the file is unchanged.
        """
        line = json.dumps({**_encode(row), "key": key}, allow_nan=False)
        with self._lock:
            append_bytes(self.path, f"{line}\n".encode())
            self._rows[_canonical(key)] = row


def _canonical(key: Mapping[str, Any]) -> str:
    return json.dumps(key, sort_keys=True)


def _encode(value: Any) -> Any:
    """Replace non-finite numbers by strings, at any depth."""
    if isinstance(value, Mapping):
        return {name: _encode(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_encode(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def _decode(line: bytes) -> tuple[dict[str, Any], Row]:
    """Return the key and the row of a line."""
    fields = parsed_json(line)
    if not isinstance(fields, dict):
        raise TypeError(f"{quoted(fields)} is no object of JSON")
    for name, kind in _TYPES.items():
        if type(fields[name]) is not kind:
            raise TypeError(f"{name} is {quoted(fields[name])}, no {kind.__name__}")
    curve = _points(fields["curve"])
    if not curve:
        raise ValueError("its curve has no points")
    return fields.pop("key"), Row(
        task=fields["task"],
        arm=fields["arm"],
        seed=fields["seed"],
        updates=fields["updates"],
        learned=fields["learned"],
        train_loss=float(fields["train_loss"]),
        validation_loss=float(fields["validation_loss"]),
        initial_validation_loss=float(fields["initial_validation_loss"]),
        lr=float(fields["lr"]),
        cpu_seconds=float(fields["cpu_seconds"]),
        adamw_seconds=float(fields["adamw_seconds"]),
        curve=curve,
        lr_trace=_points(fields["lr_trace"]),
        shifts=[float(shift) for shift in fields["shifts"]],
    )


def _points(values: Any) -> list[tuple[int, float]]:
    """Return pairs of an update and a number."""
    return [(operator.index(update), float(value)) for update, value in values]


class StoredRuns:
    """A :data:`~agents.evaluation.runs.jobs.Runner` that reuses the runs of a store.

    Args:
        store: store of finished runs; None for no store.
        workers: processes in which to run jobs; None runs them in this process.
        on_end: function that is called with every job and its row, even if it was stored.
        order: key by which to sort the jobs to run; by default, the longest are first, so
            that no worker ends long after the others.

    Attributes:
        reused: number of jobs that were found in the store.
        ran: number of jobs that were run.
    """

    def __init__(
        self,
        store: Store | None,
        workers: Pool | None,
        on_end: OnEnd,
        order: Callable[[Job], Any] = lambda job: -job.task.updates,
    ) -> None:
        self._store, self._workers = store, workers
        self._on_end, self._order = on_end, order
        self.reused = self.ran = 0

    def __call__(self, jobs: Sequence[Job]) -> list[Row]:
        """Return rows in the order of the jobs."""
        # 1. Look up what has been run.
        stored: list[Row | None] = [None] * len(jobs)
        if self._store is not None:
            stored = [self._store.get(job_key(job)) for job in jobs]
        for job, row in zip(jobs, stored, strict=True):
            if row is not None:
                self.reused += 1
                self._on_end(job, row)
        # 2. Run the others.
        missing = [i for i, row in enumerate(stored) if row is None]
        missing.sort(key=lambda i: self._order(jobs[i]))
        rows = run_jobs([jobs[i] for i in missing], self._workers, self._keep)
        # 3. Put both together, in the order of the jobs.
        new = dict(zip(missing, rows, strict=True))
        return [new[i] if row is None else row for i, row in enumerate(stored)]

    def _keep(self, job: Job, row: Row) -> None:
        if self._store is not None:
            self._store.add(job_key(job), row)
        self.ran += 1
        self._on_end(job, row)
