"""Draws of single runs, each from the generators of its run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from .. import changes, tasks
from ..instances import Instance
from ..ranges import log_uniform_int
from .setup import Setup

__all__ = [
    "draw_change_steps",
    "draw_changes",
    "draw_params",
    "draw_scale",
    "draw_sees_loss",
    "draw_validation_every",
    "reorder",
]


def draw_params(
    setup: Setup, task: tasks.Task, keys: Sequence[np.random.Generator]
) -> Tensor:
    """Draw the initial parameters ``[n, P]`` of a run for each key.

    Raises:
        ValueError: the drawn parameters are not a tensor, have another shape, or are not
            finite.
    """
    params, kind = task.init(keys), type(task).__name__
    expected = (len(keys), task.num_params)
    if not isinstance(params, Tensor) or tuple(params.shape) != expected:
        given = tuple(params.shape) if isinstance(params, Tensor) else type(params).__name__
        raise ValueError(
            f"init of the {kind} task must return a tensor of parameters of shape "
            f"{expected}, one row for each generator, got {given}"
        )
    tasks.base.check_finite(f"initial parameters of the {kind} task", params)
    return params.to(setup.device, setup.dtype)


def draw_scale(
    setup: Setup,
    task: tasks.Task,
    keys: Sequence[np.random.Generator],
    instances: Sequence[Instance | None],
) -> Tensor:
    """Draw a factor for each parameter tensor of each run, ``[n, P]``."""
    sizes = [int(np.prod(shape)) for shape in task.shapes]
    spreads = [
        setup.settings.reparametrize
        if own is None or own.reparametrize is None
        else own.reparametrize
        for own in instances
    ]
    logs = [
        key.standard_normal(len(sizes)) * spread
        for key, spread in zip(keys, spreads, strict=True)
    ]
    scale = np.exp(np.stack([np.repeat(log, sizes) for log in logs]))
    return torch.from_numpy(scale).to(setup.device, setup.dtype)


def draw_sees_loss(setup: Setup, keys: Sequence[np.random.Generator]) -> Tensor:
    """Draw which runs observe their losses, ``[n]`` bool."""
    share = setup.settings.loss_dropout
    # Nothing is drawn without dropout, so that older seeds give the same runs.
    return torch.tensor([share == 0 or bool(key.random() >= share) for key in keys])


def draw_validation_every(setup: Setup, keys: Sequence[np.random.Generator]) -> np.ndarray:
    """Draw the number of control steps between validation losses of each run.

    Returns:
        Numbers ``[n]`` int64; 0 for runs without validation losses.
    """
    settings = setup.settings
    every = np.zeros(len(keys), np.int64)
    if settings.observe_validation:
        # Children of the generators, so that all other draws stay as they are.
        for i, child in enumerate(key.spawn(1)[0] for key in keys):
            drawn = log_uniform_int(cast(Any, settings.validation_every), child)
            every[i] = drawn if child.random() >= settings.validation_dropout else 0
    return every


def reorder(
    data: tasks.Data, pairs: Sequence[tuple[np.random.Generator, Instance | None]]
) -> tasks.Data:
    """Draw the batch order of runs on an instance from their own keys.

    Args:
        data: examples of the runs.
        pairs: key and instance of each run; runs without an instance keep their order.
    """
    given = [i for i, (_, own) in enumerate(pairs) if own is not None]
    device = data.order.device
    rows = torch.tensor(given, device=device)
    order = tasks.examples.order_keys([pairs[i][0] for i in given]).to(device)
    return data._replace(order=data.order.index_copy(0, rows, order))


def draw_changes(
    wanted: changes.Changes,
    task: tasks.Task,
    data: tasks.Data,
    task_keys: Sequence[np.random.Generator],
    is_on_device: bool,
) -> tuple[tasks.Data, np.ndarray]:
    """Draw the changes of the tasks of runs, except the times at which they happen.

    Args:
        wanted: kinds and number of the changes.
        task: structure of the runs.
        data: examples of the runs.
        task_keys: one generator per run, for the draws that belong to its task.
        is_on_device: whether the examples are reused from an earlier reset.

    Returns:
        The data with their changes, and the number of changes of each run, ``[n]``.
    """
    # Children of the generators, so that all other draws stay as they are.
    children = [key.spawn(1)[0] for key in task_keys]
    data = changes.draw(wanted, task, data, children, is_on_device)
    return data, changes.draw_counts(wanted, children)


def draw_change_steps(
    wanted: changes.Changes | None,
    counts: np.ndarray,
    num_steps: int,
    keys: Sequence[np.random.Generator],
) -> np.ndarray:
    """Draw the control steps before which the tasks of runs change, ``[n, K]``.

    Args:
        wanted: kinds and number of the changes; None for no changes.
        counts: number of changes of each run, ``[n]``.
        num_steps: control steps of a run.
        keys: one generator per run, for the draws that belong to the run itself.
    """
    if wanted is None:
        return np.empty((len(keys), 0), np.int64)
    children = [key.spawn(1)[0] for key in keys]
    return changes.draw_steps(counts, num_steps, children, wanted.most)
