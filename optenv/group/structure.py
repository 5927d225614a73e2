"""Structure of the runs of a group: the task drawn for all of them, and its checks."""

from __future__ import annotations

import numpy as np

from ..actions import Action
from ..tasks import Task
from .setup import Setup

__all__ = ["MAX_DRAWS", "check_size", "draw_task"]

#: Largest number of tasks drawn in search of one with few enough parameters.
MAX_DRAWS = 1000


def draw_task(
    setup: Setup, structure: np.random.Generator
) -> tuple[tuple[str, str] | None, Task]:
    """Draw a task with no more parameters than the action allows.

    Args:
        setup: setup of the group.
        structure: generator of structures.

    Returns:
        Family and split that the task was drawn from, or None; and the task.

    Raises:
        ValueError: all of :data:`MAX_DRAWS` drawn tasks have more parameters.
    """
    most, sampler = setup.action.max_params, setup.sampler
    for _ in range(MAX_DRAWS):
        family, task = sampler.draw_named(structure)
        if most is None or task.num_params <= most or sampler.fixed:
            return family, task
    raise ValueError(
        f"none of {MAX_DRAWS} tasks drawn from tasks={setup.settings.tasks!r} has at most "
        f"{most} parameters; give other tasks, or action={{'kind': "
        f"{setup.action.kind!r}, 'dim': ...}} with more entries"
    )


def check_size(action: Action, task: Task) -> None:
    """Refuse a task with more parameters or tensors than an action has entries.

    Raises:
        ValueError: the task has more.
    """
    most, size = action.max_params, task.num_params
    if most is not None and size > most:
        raise ValueError(
            f"the {type(task).__name__} task has {size} parameters, and an action only "
            f"{most} entries; give action={{'kind': {action.kind!r}, 'dim': {size}}}, or "
            "more"
        )
    count, slots = len(task.shapes), action.slots
    if action.per_tensor and count > slots:
        raise ValueError(
            f"the {type(task).__name__} task has {count} parameter tensors, and an action "
            f"only {slots} entries; give action={{'kind': {action.kind!r}, 'tensors': "
            f"{count}}}, or more"
        )
