"""The suites: tasks to report on, and tasks to choose among policies by."""

from __future__ import annotations

from .benchmark import BENCHMARK
from .large import LARGE
from .problem import HeldoutTask
from .selection import SELECTION

__all__ = ["SUITES"]

#: Tasks by what they are for.
SUITES: dict[str, tuple[HeldoutTask, ...]] = {
    "benchmark": BENCHMARK,
    "large": LARGE,
    "selection": SELECTION,
}
