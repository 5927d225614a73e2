"""Draws of the changes of runs: their contents, their number and their times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from ..checks import quoted
from ..tasks import Data, GeneratedTask, Task
from ..tasks.base import check_finite
from ..tasks.stages import NEVER, Stages
from ..windows import Boundaries
from .kinds import Change
from .request import Changes, fitting, kinds_of

__all__ = ["draw", "draw_counts", "draw_steps", "start_at"]


def draw(
    changes: Changes,
    task: Task,
    data: Data,
    generators: Sequence[np.random.Generator],
    extended: bool = False,
) -> Data:
    """Draw the changes of runs, except the times at which they happen.

    Args:
        changes: changes of the runs.
        task: structure of the runs.
        data: examples of the runs, on their device.
        generators: one generator per run, for the draws that belong to its task.
        extended: whether the examples, shared by all runs, already include those of later
            stages.

    Returns:
        The data with stages that have no starts yet.

    Raises:
        ValueError: a kind does not fit the task, or new data are not finite.
    """
    names = fitting(changes, task)
    chosen = kinds_of(names)
    # 1. The values of each run, from its own generator.
    runs = [_draw_values(changes.most, chosen, task, rng) for rng in generators]
    values = tuple(
        torch.from_numpy(np.stack(of_kind)) for of_kind in zip(*runs, strict=True)
    )
    # 2. Examples of the later stages.
    if "distribution" in names and not extended:
        data = _extend(data, task, generators, changes.most)
    contexts = tuple(kind.prepare(task, data) for kind in chosen)
    count = len(generators)
    stages = Stages(
        kinds=tuple(chosen),
        values=values,
        contexts=contexts,
        starts=torch.full((count, changes.most), NEVER),
        stage=torch.zeros(count, dtype=torch.int64),
    )
    dtype = data.inputs.dtype if data.inputs.is_floating_point() else torch.float32
    return data._replace(stages=stages.to(data.rows.device, dtype))


def _draw_values(
    count: int, chosen: Sequence[Change], task: Task, rng: np.random.Generator
) -> list[np.ndarray]:
    """Draw the values ``[count + 1, ...]`` of each kind for one run."""
    of_change = rng.integers(len(chosen), size=count)
    found = []
    for number, kind in enumerate(chosen):
        value = kind.draw(task, rng, None, count)
        values = [value]
        for kind_of_change in of_change:
            if kind_of_change == number:
                value = kind.draw(task, rng, value, count)
            values.append(value)
        found.append(np.stack(values))
    return found


def _extend(
    data: Data, task: Task, generators: Sequence[np.random.Generator], count: int
) -> Data:
    """Append examples of ``count`` further stages to those of each run."""
    parts = [data]
    for number in range(1, count + 1):
        own = task
        if isinstance(task, GeneratedTask) and task.data_seed is not None:
            key = np.random.default_rng([int(task.data_seed), number])
            own = replace(task, data_seed=int(key.integers(2**31)))
        part = own.sample(generators)
        if part.shared != data.shared or part.rows.shape != data.rows.shape:
            raise ValueError(
                f"changes of kind 'distribution' need tasks that draw as many examples "
                f"each time, got {quoted(task)}"
            )
        for name in ("inputs", "targets"):
            check_finite(f"{name} after a change", getattr(part, name))
        dtype = data.inputs.dtype if data.inputs.is_floating_point() else torch.float32
        parts.append(part.to(data.rows.device, dtype))
    if data.shared:
        if task.__class__.sample is not GeneratedTask.sample:
            raise ValueError(
                "changes of kind 'distribution' do not fit a task whose runs share their "
                f"examples, got {quoted(task)}"
            )
        return data._replace(
            inputs=torch.cat([part.inputs for part in parts]),
            targets=torch.cat([part.targets for part in parts]),
        )
    # The examples of a run, of all of its stages, are one block.
    runs, size = data.rows.shape
    blocks = (runs, size)
    inputs = torch.stack([part.inputs.unflatten(0, blocks) for part in parts], 1)
    targets = torch.stack([part.targets.unflatten(0, blocks) for part in parts], 1)
    first = torch.arange(runs, device=data.rows.device) * (size * len(parts))
    return data._replace(
        inputs=inputs.flatten(0, 2),
        targets=targets.flatten(0, 2),
        rows=first.unsqueeze(1) + torch.arange(size, device=data.rows.device),
    )


def draw_counts(changes: Changes, generators: Sequence[np.random.Generator]) -> np.ndarray:
    """Draw the number of changes of each run, ``[B]`` int64.

    Args:
        changes: changes of the runs.
        generators: one generator per run, for the draws that belong to its task; only used
            if least and greatest number differ.
    """
    if changes.least == changes.most:
        return np.full(len(generators), changes.most)
    low, high = changes.least, changes.most
    return np.array([rng.integers(low, high + 1) for rng in generators])


def draw_steps(
    count: int | np.ndarray,
    num_steps: int,
    generators: Sequence[np.random.Generator],
    most: int | None = None,
) -> np.ndarray:
    """Draw the control steps before which the later stages of runs begin.

    A stage has at least half of the control steps that it would have if all stages were
    equally long.

    Args:
        count: number of changes, the same for all runs or of each run, ``[B]``.
        num_steps: control steps of a run. It limits the number of changes to
            ``num_steps - 1``.
        generators: one generator per run.
        most: largest number of changes ``K``; by default the largest of these runs.

    Returns:
        Control steps ``[B, K]`` int64; :data:`NEVER` for changes that a run does not have.
    """
    counts = np.broadcast_to(count, len(generators))
    width = int(counts.max(initial=0)) if most is None else most
    steps = np.full((len(generators), width), NEVER)
    for row, wanted, rng in zip(steps, counts.tolist(), generators, strict=True):
        had = min(wanted, num_steps - 1)
        least = max(1, num_steps // (2 * (had + 1)))
        slack = num_steps - least * (had + 1)
        delays = np.sort(rng.integers(slack + 1, size=had))
        row[:had] = least * np.arange(1, had + 1) + delays
    return steps


def start_at(data: Data, steps: np.ndarray, boundaries: np.ndarray | Boundaries) -> Data:
    """Return the data with stages that begin before given control steps.

    Args:
        data: data with stages.
        steps: control steps from :func:`draw_steps`, ``[B, K]``.
        boundaries: updates before which the control steps begin, and the length of the
            runs.
    """
    assert data.stages is not None
    within = np.minimum(steps, len(boundaries) - 1)
    starts = np.where(steps == NEVER, NEVER, boundaries[within])
    moved = torch.from_numpy(starts).to(data.rows.device)
    return data._replace(stages=data.stages._replace(starts=moved))
