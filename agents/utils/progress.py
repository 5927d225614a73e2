"""Progress of long computations: a bar on a terminal, occasional lines elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, TextIO

try:
    from tqdm import tqdm  # type: ignore[import-untyped]
except ImportError:  # it comes with the extra "train"
    tqdm = None

__all__ = ["echo", "progress_bar", "progress_range"]

#: Shortest time between two lines, in seconds, where there is no terminal.
LINE_INTERVAL = 30.0
#: Smallest fraction of the work between two lines, so that a log has at most ten of them.
LINE_FRACTION = 0.1


class _Lines:
    """Progress as lines of text, for logs.

    Args:
        total: number of units of work.
        label: name of the work.
        unit: name of a unit.
        stream: text stream to write to.
    """

    def __init__(self, total: int, label: str, unit: str, stream: TextIO) -> None:
        self._total, self._label, self._unit, self._stream = total, label, unit, stream
        self._begun = self._last = time.monotonic()
        self._done = self._last_done = 0

    def update(self, count: int = 1) -> None:
        """Count finished units; write a line if one is due."""
        self._done += count
        if self._done - self._last_done < LINE_FRACTION * self._total:
            return
        now = time.monotonic()
        if now - self._last >= LINE_INTERVAL and self._done < self._total:
            self._last, self._last_done = now, self._done
            self._write(now)

    def close(self) -> None:
        """Write the last line, unless the work was too short for a line."""
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

    On a terminal it is a bar, if tqdm is installed. Elsewhere, where a bar would fill the
    log, it is a line for each further :data:`LINE_FRACTION` of the work, at most one in
    :data:`LINE_INTERVAL` seconds, and one at the end.

    Args:
        total: number of units of work.
        label: name of the work.
        shown: whether to show the progress.
        unit: name of a unit of work, in the singular.

    Yields:
        A function that counts one unit, or as many as it is given.
    """
    bar: Any = None
    if shown and tqdm is not None and sys.stderr.isatty():
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


def echo(text: str) -> None:
    """Print a line on standard output, above the bars that the terminal shows.

    It may be called from any thread.
    """
    if tqdm is None:
        print(text, flush=True)
        return
    with tqdm.external_write_mode(file=sys.stdout):
        print(text, flush=True)
