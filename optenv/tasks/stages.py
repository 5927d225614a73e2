"""Stages: the parts of a run between changes of its task.

The :class:`Data` of runs whose task changes have :class:`Stages`. These turn examples of
the first stage into examples of a later one; runs may be in different stages.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

__all__ = ["NEVER", "Stages", "Transformation"]

#: Start, in updates, of a stage that a run never reaches.
NEVER = 2**62


class Transformation(Protocol):
    """Protocol of a kind of change, which turns examples into those of a stage.

    ``values`` are the value of the change for each run in its stage, ``[B, ...]``;
    ``context`` are tensors ``[B, ...]`` computed from the examples of the runs. See
    :class:`optenv.changes.Change`.
    """

    def select(
        self,
        values: Tensor,
        examples: Tensor,
        context: Sequence[Tensor],
        training: bool,
    ) -> Tensor: ...

    def place(self, values: Tensor, rows: Tensor, context: Sequence[Tensor]) -> Tensor: ...

    def transform(
        self,
        values: Tensor,
        inputs: Tensor,
        targets: Tensor,
        rows: Tensor,
        context: Sequence[Tensor],
    ) -> tuple[Tensor, Tensor]: ...

    def batch_sizes(self, values: Tensor, whole: int) -> Tensor: ...


class Stages(NamedTuple):
    """Changes of the tasks of ``B`` runs, each with ``K`` changes and ``K + 1`` stages.

    Attributes:
        kinds: kinds of change, in the order in which they are applied.
        values: values of each kind in each stage, ``[B, K + 1, ...]``.
        contexts: tensors ``[B, ...]`` of each kind, computed from the examples.
        starts: update before which each later stage begins, ``[B, K]`` int64, increasing;
            :data:`NEVER` if the run does not reach it.
        stage: stage to use where no update is given, ``[B]`` int64.
    """

    kinds: tuple[Transformation, ...]
    values: tuple[Tensor, ...]
    contexts: tuple[tuple[Tensor, ...], ...]
    starts: Tensor
    stage: Tensor

    def of_updates(self, updates: Tensor) -> Tensor:
        """Return the stage ``[B]`` of each run at its update ``[B]``."""
        return (updates.unsqueeze(1) >= self.starts).sum(1)

    def select(self, examples: Tensor, stage: Tensor, training: bool) -> Tensor:
        """Replace indices of examples ``[B, n]`` by those of the examples of a stage."""
        for kind, values, context in self._now(stage):
            examples = kind.select(values, examples, context, training)
        return examples

    def place(self, rows: Tensor, stage: Tensor) -> Tensor:
        """Map rows of the data ``[B, n]`` in the first stage to the rows in a stage."""
        for kind, values, context in self._now(stage):
            rows = kind.place(values, rows, context)
        return rows

    def apply(
        self, inputs: Tensor, targets: Tensor, rows: Tensor, stage: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return inputs and targets ``[B, n, ...]`` of rows as they are in a stage."""
        for kind, values, context in self._now(stage):
            inputs, targets = kind.transform(values, inputs, targets, rows, context)
        return inputs, targets

    def _now(
        self, stage: Tensor
    ) -> list[tuple[Transformation, Tensor, tuple[Tensor, ...]]]:
        runs = torch.arange(len(stage), device=stage.device)
        now = [values[runs, stage] for values in self.values]
        return [*zip(self.kinds, now, self.contexts, strict=True)]

    def examples_seen(self, updates: Tensor, batch_size: int) -> Tensor:
        """Compute how many training examples ``[B]`` the runs' first updates have used.

        Args:
            updates: number of updates of each run, ``[B]`` int64.
            batch_size: the task's batch size, before changes make it smaller.
        """
        edges = torch.cat([torch.zeros_like(self.starts[:, :1]), self.starts], dim=1)
        ends = torch.cat([self.starts, torch.full_like(edges[:, :1], NEVER)], dim=1)
        now = updates.unsqueeze(1)
        lengths = torch.minimum(ends, now) - torch.minimum(edges, now)
        sizes = torch.full_like(lengths, batch_size)
        for kind, values in zip(self.kinds, self.values, strict=True):
            sizes = torch.minimum(sizes, kind.batch_sizes(values, batch_size))
        return (lengths * sizes).sum(1)

    def to(self, device: torch.device, dtype: torch.dtype) -> Stages:
        """Move to ``device``; floating-point values become ``dtype``."""

        def move(x: Tensor) -> Tensor:
            return x.to(device, dtype if x.is_floating_point() else x.dtype)

        return self._replace(
            values=tuple(map(move, self.values)),
            contexts=tuple(tuple(map(move, context)) for context in self.contexts),
            starts=move(self.starts),
            stage=move(self.stage),
        )

    def of_runs(self, runs: Tensor) -> Stages:
        """Return the stages of some runs."""
        return self._replace(
            values=tuple(x[runs] for x in self.values),
            contexts=tuple(tuple(x[runs] for x in context) for context in self.contexts),
            starts=self.starts[runs],
            stage=self.stage[runs],
        )

    def put(self, index: Tensor, new: Stages) -> Stages:
        """Replace the stages of runs ``index [n]`` by ``new``, in a copy."""

        def replace(old: Tensor, replacement: Tensor) -> Tensor:
            if old.stride(0) == 0:  # one row that all runs share
                return old
            return old.index_copy(0, index, replacement)

        return self._replace(
            values=tuple(map(replace, self.values, new.values)),
            contexts=tuple(
                tuple(map(replace, old, replacement))
                for old, replacement in zip(self.contexts, new.contexts, strict=True)
            ),
            starts=replace(self.starts, new.starts),
            stage=replace(self.stage, new.stage),
        )
