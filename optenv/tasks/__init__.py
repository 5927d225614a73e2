"""Tasks: what a training run trains on.

A *family* draws structures. Families have two disjoint splits, ``train`` and ``test``:
their structures differ in size, and tasks on digits use different images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from . import language, mlp, quadratic
from .base import Data, Task
from .language import LanguageModel
from .mlp import MLP
from .module import ModuleTask, from_module
from .quadratic import Quadratic

__all__ = [
    "FAMILIES", "MLP", "SPLITS", "Data", "LanguageModel", "ModuleTask", "Quadratic", "Task",
    "TaskSampler", "from_module", "make",
]  # fmt: skip

FAMILIES: dict[str, Callable[[np.random.Generator, str], Task]] = {
    "quadratic": quadratic.sample_structure,
    "logistic": mlp.sample_logistic,
    "mlp-classification": mlp.sample_classification,
    "mlp-regression": mlp.sample_regression,
    "digits": mlp.sample_digits,
    "language": language.sample_language,
}

SPLITS = ("train", "test")

TaskSpec = str | Task | Sequence["str | Task"]


@dataclass(frozen=True)
class TaskSampler:
    """Draws structures, uniformly from ``sources``."""

    sources: tuple[Task | tuple[str, str], ...]

    @property
    def fixed(self) -> bool:
        """Whether there is one structure only."""
        return len(self.sources) == 1 and isinstance(self.sources[0], Task)

    def draw(self, rng: np.random.Generator) -> Task:
        """Draw one structure."""
        source = self.sources[int(rng.integers(len(self.sources)))]
        if isinstance(source, Task):
            return source
        family, split = source
        return FAMILIES[family](rng, split)


def make(spec: TaskSpec) -> TaskSampler:
    """Read the ``tasks=`` argument of the environments.

    Args:
        spec: a split (``"train"``, ``"test"``: all families of it), a family
            (``"digits"``, its train split), a family and a split (``"digits/test"``), a
            :class:`Task`, or a sequence of those.

    Raises:
        ValueError: an unknown name, or nothing at all.
        TypeError: something that is neither a name nor a task.
    """
    parts: Sequence[str | Task] = [spec] if isinstance(spec, (str, Task)) else spec
    if not isinstance(parts, (list, tuple)):
        raise TypeError(f"tasks must be names or Task objects, got {spec!r}")
    if not parts:
        raise ValueError("tasks is empty; give at least one name or Task")
    sources: list[Task | tuple[str, str]] = []
    for part in parts:
        if isinstance(part, Task):
            sources.append(part)
        elif not isinstance(part, str):
            raise TypeError(f"tasks must be names or Task objects, got {part!r}")
        elif part in SPLITS:
            sources += [(family, part) for family in FAMILIES]
        else:
            family, _, split = part.partition("/")
            split = split or "train"
            if family not in FAMILIES or split not in SPLITS:
                valid = [*SPLITS, *FAMILIES, *(f"{name}/test" for name in FAMILIES)]
                raise ValueError(f"unknown task {part!r}; valid: {', '.join(valid)}")
            sources.append((family, split))
    return TaskSampler(tuple(sources))
