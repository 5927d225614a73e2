"""Identity of runs: task and instance, and the examples and work used so far."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ..instances import Instance
from ..tasks import Data, Task
from .state import ControlState

__all__ = ["IDENTITY", "examples_seen", "identify"]

#: Type of each value of :meth:`optenv.group.Group.identify`.
IDENTITY: dict[str, type] = {
    "family": object,
    "split": object,
    "instance": object,
    "structure": object,
    "initial_loss": float,
    "examples": int,
    "work": int,
}


def examples_seen(task: Task, state: ControlState) -> torch.Tensor:
    """Return the number of training examples in all batches after the first, ``[B]``."""
    return state.run.drawn - task.batch_size


def identify(
    task: Task,
    data: Data,
    state: ControlState,
    family: tuple[str, str] | None,
    instances: Sequence[Instance | None],
    rows: torch.Tensor,
    sets_batch_size: bool,
) -> dict[str, list[Any]]:
    """Return task and instance of runs, and the examples and work used so far.

    Args:
        task: structure of the runs.
        data: examples of all runs of the group.
        state: state of all runs.
        family: family and split that the task was drawn from, or None.
        instances: instances of ``n`` runs; None for runs without one.
        rows: indices of these runs, ``[n]``.
        sets_batch_size: whether actions set the batch size.

    Returns:
        A list of ``n`` values for each key of :data:`IDENTITY`.
    """
    labels = [family if own is None else (own.family, own.split) for own in instances]
    own_size = task.batch_size
    examples = work = examples_seen(task, state)[rows]
    if data.stages is not None and not sets_batch_size:
        done = state.run.updates[rows]
        examples = data.stages.of_runs(rows).examples_seen(done, own_size)
    return {
        "family": [None if label is None else label[0] for label in labels],
        "split": [None if label is None else label[1] for label in labels],
        "instance": [None if own is None else own.name for own in instances],
        "structure": [repr(task)] * len(instances),
        "initial_loss": state.initial_loss[rows, 0].tolist(),
        "examples": examples.tolist(),
        "work": [each * task.work // own_size for each in work.tolist()],
    }
