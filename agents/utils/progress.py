"""Progress of long computations: a bar on a terminal, and a line now and then elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, TextIO

__all__ = ["progress_bar", "progress_range"]

#: Seconds between two lines, where there is no terminal.
LINE_INTERVAL = 30.0


class _Lines:
    """Progress as lines of text, for logs.

    Args:
        total: number of units of work.
        label: name of the work.
        unit: name of a unit.
        stream: where the lines go.
    """

    def __init__(self, total: int, label: str, unit: str, stream: TextIO) -> None:
        self._total, self._label, self._unit, self._stream = total, label, unit, stream
        self._begun = self._last = time.monotonic()
        self._done = 0

    def update(self, count: int = 1) -> None:
        """Count units that are done; write a line if it is time for one."""
        self._done += count
        now = time.monotonic()
        if now - self._last >= LINE_INTERVAL and self._done < self._total:
            self._last = now
            self._write(now)

    def close(self) -> None:
        """Write the last line, unless the work was too short for any."""
        now = time.monotonic()
        if now - self._begun >= LINE_INTERVAL:
            self._write(now)

    def _write(self, now: float) -> None:
        minutes = (now - self._begun) / 60
        print(
            f"{self._label}: {self._done:,} of {self._total:,} {self._unit}s, "
            f"{minutes:.1f} minutes",
            file=self._stream,
            flush=True,
        )


@contextlib.contextmanager
def progress_bar(
    total: int, label: str, shown: bool = True, unit: str = "run"
) -> Iterator[Callable[..., object]]:
    """Show the progress of some work on standard error.

    On a terminal it is a bar, where tqdm is installed. Elsewhere it is a line every
    :data:`LINE_INTERVAL` seconds, so that logs stay short.

    Args:
        total: number of units of work.
        label: name of the work.
        shown: whether to show anything.
        unit: name of a unit of work, in the singular.

    Yields:
        A function that counts one unit, or as many as it is given.
    """
    bar: Any = None
    if shown and sys.stderr.isatty():
        with contextlib.suppress(ImportError):
            from tqdm import tqdm  # type: ignore[import-untyped]

            bar = tqdm(total=total, desc=label, unit=unit)
    elif shown:
        bar = _Lines(total, label, unit, sys.stderr)
    try:
        yield (lambda count=1: None) if bar is None else bar.update
    finally:
        if bar is not None:
            bar.close()


def progress_range(
    total: int, shown: bool, label: str = "learning", unit: str = "iteration"
) -> Iterator[int]:
    """Iterate over ``range(total)`` and show the progress; see :func:`progress_bar`."""
    with progress_bar(total, label, shown, unit) as advance:
        for i in range(total):
            yield i
            advance()
