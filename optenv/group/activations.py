"""Measurement of the memory of a task's losses and gradients, without allocating it.

The updates of a control step and the losses of the reward are computed on tensors of
torch's ``meta`` device, which have shapes and no values. The memory that they would take is
counted while they are made and dropped.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from .. import core
from ..tasks import Data, Task
from .setup import Setup

__all__ = ["graph_memory", "loss_memory"]

#: Largest number of operations of a measurement, which ends after them in any case.
_MOST_OPERATIONS = 20_000


class _Enough(Exception):
    """Raised to end a measurement."""


class _Peak(TorchDispatchMode):
    """Counter of the bytes of the tensors that are alive.

    Args:
        enough: number of bytes above which to raise :class:`_Enough`.

    Attributes:
        alive: number of bytes now.
        peak: largest number of bytes at a time.
    """

    def __init__(self, enough: float) -> None:
        super().__init__()
        self.peak = self.alive = self._operations = 0
        self._enough = enough
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        given = tree_leaves((args, kwargs))
        if any(isinstance(each, Tensor) and each.is_meta for each in given):
            # Constants in the task's loss are combined with tensors without values.
            args, kwargs = tree_map(_on_meta, (args, kwargs or {}))
        result = func(*args, **(kwargs or {}))
        for each in tree_leaves(result):
            if isinstance(each, Tensor):
                self._add(each)
        self._operations += 1
        if self.peak > self._enough or self._operations > _MOST_OPERATIONS:
            raise _Enough
        return result

    def leave_out(self, tensors: Sequence[Any]) -> None:
        """Exclude existing tensors, and views of them, from the count."""
        for each in tensors:
            if isinstance(each, Tensor):
                self._known.add(each.untyped_storage()._cdata)

    def _add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known:  # a view
            return
        size = storage.nbytes()
        self._known.add(key)
        self.alive += size
        self.peak = max(self.peak, self.alive)
        weakref.finalize(storage, self._drop, key, size).atexit = False

    def _drop(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.alive -= size


def _on_meta(value: Any) -> Any:
    """Return a tensor without its values, and any other value as it is."""
    return value.to("meta") if isinstance(value, Tensor) and not value.is_meta else value


def loss_memory(
    setup: Setup, task: Task, size: int, enough: float, scaled: bool = False
) -> int:
    """Measure the memory of losses and gradients, in bytes.

    The examples of one run are drawn to find their shapes.

    Args:
        setup: setup of the group.
        task: structure of the runs.
        size: number of runs, ``B``.
        enough: number of bytes above which to stop.
        scaled: whether parameter tensors have random factors.

    Returns:
        Peak number of bytes, including parameters and the state of the update rule; if it
        exceeds ``enough``, some number above ``enough``; 0 if the task cannot be computed
        without values.
    """
    example = task.sample([np.random.default_rng(0)])
    counter = _Peak(enough)
    try:
        data = _without_values(setup, task, size, example, scaled)
        counter.leave_out(data)
        with torch.device("meta"), counter:
            _make_losses(setup, task, data)
    except _Enough:
        pass
    except Exception:
        # The task reads values, or has its own tensors on the CPU. An error of the loss
        # itself is raised by the runs.
        return 0
    return counter.peak


def graph_memory(setup: Setup, task: Task, size: int, scaled: bool = False) -> int:
    """Measure the memory that the graph of one more update keeps, in bytes.

    Args:
        setup, task, size, scaled: see :func:`loss_memory`.

    Returns:
        Number of bytes that an update adds after an update with a graph; 0 if the task
        cannot be computed without values.
    """
    example = task.sample([np.random.default_rng(0)])
    counter = _Peak(math.inf)
    kept: list[int] = []
    try:
        data = _without_values(setup, task, size, example, scaled)
        counter.leave_out(data)
        with torch.device("meta"), counter:
            params = torch.empty(size, task.num_params, dtype=setup.dtype, device="meta")
            run = core.start(task, setup.rule, data, params, differentiable=True)
            for _ in range(3):  # the parameters before the first one have no graph
                rates = torch.empty(1, size, dtype=setup.dtype, device="meta")
                rates.requires_grad_()
                run = core.advance(task, setup.rule, data, run, rates, differentiable=True)
                kept.append(counter.alive)
    except Exception:
        return 0  # see loss_memory
    return max(0, kept[-1] - kept[-2])


def _without_values(
    setup: Setup, task: Task, size: int, example: Data, scaled: bool
) -> Data:
    """Return data of ``size`` runs without values, in the shapes of one run's data."""
    blocks = 1 if example.shared else size

    def of_runs(values: Tensor) -> Tensor:
        kind = setup.dtype if values.is_floating_point() else values.dtype
        shape = (len(values) * blocks, *values.shape[1:])
        return torch.empty(shape, dtype=kind, device="meta")

    scale = (size, task.num_params)
    return Data(
        of_runs(example.inputs),
        of_runs(example.targets),
        torch.empty(size, example.rows.shape[1], dtype=torch.int64, device="meta"),
        torch.empty(size, dtype=torch.int64, device="meta"),
        example.num_train,
        example.shared,
        scale=torch.empty(scale, dtype=setup.dtype, device="meta") if scaled else None,
    )


def _make_losses(setup: Setup, task: Task, data: Data) -> None:
    """Make two updates, and take the losses on all fixed examples."""
    size = len(data.order)
    params = torch.empty(size, task.num_params, dtype=setup.dtype, device="meta")
    run = core.start(task, setup.rule, data, params)
    rates = torch.empty(2, size, dtype=setup.dtype, device="meta")
    run = core.advance(task, setup.rule, data, run, rates)
    for examples in (data.train(task.reward_examples), data.validation()):
        core.evaluate(task, run.evaluated, examples, data, run.buffers)
