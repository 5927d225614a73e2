"""Markdown tables of all arms and tasks, for ``--list`` and the documentation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..arms.arm import ArmEntry
from ..arms.table import ARMS
from ..tasks.problem import HeldoutTask
from ..tasks.suites import SUITES

__all__ = ["arm_table", "catalog", "task_table"]


def arm_table(arms: Mapping[str, ArmEntry] = ARMS) -> str:
    """Return a Markdown table of arms.

    Args:
        arms: entries by the name of the column.
    """
    lines = [
        (name, entry.description, entry.tuning, entry.package or "")
        for name, entry in arms.items()
    ]
    return _markdown(("arm", "optimizer", "tuned for", "package"), lines)


def task_table(tasks: Sequence[HeldoutTask]) -> str:
    """Return a Markdown table of tasks: data, model, updates and batch size."""
    lines = [
        (task.name, task.data, task.model, f"{task.updates:,} × {task.batch_size}{note}")
        for task in tasks
        for note in [_horizon_note(task)]
    ]
    return _markdown(("task", "data", "model", "updates × batch"), lines)


def catalog() -> str:
    """Return the tables of all arms and of the tasks of all suites, as Markdown."""
    parts = ["## Arms", arm_table()]
    for name, tasks in SUITES.items():
        parts += [f"## Tasks of the suite `{name}`", task_table(tasks)]
    return "\n\n".join(parts)


def _horizon_note(task: HeldoutTask) -> str:
    if task.horizon_factor == 1.0:
        return ""
    return f", announced as {task.announced_updates:,}"


def _markdown(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)
