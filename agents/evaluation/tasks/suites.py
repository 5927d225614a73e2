"""The suites: tasks to report on, and tasks by which to choose among policies."""

from __future__ import annotations

from .benchmark import BENCHMARK
from .large import LARGE
from .problem import HeldoutTask
from .selection import SELECTION

__all__ = ["SUITES"]

#: Tasks by the name of the suite.
SUITES: dict[str, tuple[HeldoutTask, ...]] = {
    "benchmark": BENCHMARK,
    "large": LARGE,
    "selection": SELECTION,
}
