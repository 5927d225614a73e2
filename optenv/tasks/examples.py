"""Examples of a batch of runs, and the order in which runs draw them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .random_bits import GOLDEN, Bits, mix, normal_numbers, random_bits, wrapped
from .stages import Stages

__all__ = ["MAX_EXAMPLES", "Batch", "Data", "order_keys"]

#: Largest number of training examples of a run, and of validation examples.
MAX_EXAMPLES = 2**20


def _primes(above: int, count: int) -> Tensor:
    """Compute the first ``count`` primes above ``above`` by a sieve (at most 1024)."""
    limit = above + 32 * count
    sieve = np.ones(limit, np.bool_)
    for factor in range(2, math.isqrt(limit) + 1):
        if sieve[factor]:
            sieve[factor * factor :: factor] = False
    return torch.from_numpy(above + 1 + np.flatnonzero(sieve[above + 1 :])[:count])


# Primes above the largest number of examples are coprime to every number of examples.
_STRIDES = _primes(MAX_EXAMPLES, 1024)


class Batch(NamedTuple):
    """Examples of ``B`` runs on which a loss is computed.

    Attributes:
        inputs: ``[B, n, ...]``.
        targets: ``[B, n, ...]``.
        noise: independent standard normal numbers, ``[B, n, K]`` with ``K`` the task's
            :attr:`Task.noise`.
        keys: key of each run for :func:`random_bits`, ``[B]`` int64, if
            :attr:`Task.draws` is True; None otherwise.
    """

    inputs: Tensor
    targets: Tensor
    noise: Tensor
    keys: Tensor | None = None


class Data(NamedTuple):
    """Examples of ``B`` runs.

    Attributes:
        inputs: inputs of all runs, ``[R, ...]``.
        targets: targets of all runs, ``[R, ...]``.
        rows: row of example ``n`` of run ``b``, ``[B, N]`` int64; training examples first,
            then validation examples.
        order: key of the batch order, ``[B]`` int64.
        num_train: number of training examples among the ``N``.
        shared: whether all runs have the same ``inputs`` and ``targets``. If not, each has
            a block of rows of its own, all blocks of the same length.
        scale: factors of the parameters within the loss, ``[B, P]``, or None.
        stages: changes of the task during a run, or None.
    """

    inputs: Tensor
    targets: Tensor
    rows: Tensor
    order: Tensor
    num_train: int
    shared: bool = False
    scale: Tensor | None = None
    stages: Stages | None = None

    def batch(
        self, examples: Tensor, updates: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return inputs and targets ``[B, n, ...]`` of a training batch.

        Args:
            examples: indices of training examples, ``[B, n]``.
            updates: number of the update that uses the batch, ``[B]`` int64. It determines
                the stage of a task that changes; by default, the stage set by :meth:`at`
                or :meth:`in_stage` is used.
        """
        if self.stages is None:
            if self.rows.shape == (1, self.inputs.shape[0]) and not self.shared:
                return self._take(examples)  # of the only run: row n is example n
            return self._take(self.rows.gather(1, examples))
        stages = self.stages
        stage = stages.stage if updates is None else stages.of_updates(updates)
        return self._take_in_stage(stages, examples, stage, training=True)

    def at(self, updates: Tensor) -> Data:
        """Return the data in the stages that runs are in at updates ``[B]`` int64."""
        if self.stages is None:
            return self
        return self.in_stage(self.stages.of_updates(updates))

    def in_stage(self, stage: Tensor) -> Data:
        """Return the data in the given stage ``[B]`` int64 of each run."""
        if self.stages is None:
            return self
        return self._replace(stages=self.stages._replace(stage=stage))

    def batch_rows(self, first: Tensor, updates: int, batch_size: int) -> Tensor:
        """Compute indices of examples in batches in a row, ``[B, updates * batch_size]``.

        Each epoch visits every training example once, in an order that depends only on the
        run's key and the epoch: the position in the epoch times a stride coprime to the
        number of examples, plus an offset.

        Args:
            first: number of the first batch, ``[B]`` int64.
            updates: number of batches.
            batch_size: examples in each.
        """
        return self.rows_from(first * batch_size, updates * batch_size)

    def rows_from(self, drawn: Tensor, count: int) -> Tensor:
        """Compute the indices ``[B, count]`` of the next training examples.

        The order is that of :meth:`batch_rows`, for any batch size.

        Args:
            drawn: number of examples drawn before, ``[B]`` int64.
            count: number of examples.
        """
        if drawn.shape[0] == 1 and drawn.is_cpu:
            return self._rows_of_single(int(drawn[0]), count)
        position = drawn.unsqueeze(1) + torch.arange(count, device=drawn.device)
        epoch = position.div(self.num_train, rounding_mode="floor")
        bits = mix(self.order.unsqueeze(1) + epoch * GOLDEN)
        stride = _STRIDES.to(drawn.device)[bits & (len(_STRIDES) - 1)]
        within = position - epoch * self.num_train
        return (within * stride + _offset(bits)).remainder(self.num_train)

    def _rows_of_single(self, drawn: int, count: int) -> Tensor:
        """Compute what :meth:`rows_from` does for a single run, epoch by epoch."""
        order, end, parts = int(self.order), drawn + count, []
        while drawn < end:
            epoch, within = divmod(drawn, self.num_train)
            taken = min(self.num_train - within, end - drawn)
            parts.append(_epoch(order, epoch, self.num_train, within, taken))
            drawn += taken
        return (parts[0] if len(parts) == 1 else torch.cat(parts)).unsqueeze(0)

    def keys(self, updates: Tensor) -> Tensor:
        """Compute keys for random numbers, ``[B]`` int64, from the run and the update.

        Args:
            updates: number of the update that uses them, ``[B]`` int64; negative numbers
                stand for evaluations.
        """
        return mix(mix(self.order) + updates * GOLDEN)

    def noise(self, updates: Tensor, examples: int, width: int) -> Tensor:
        """Draw independent standard normal numbers ``[B, examples, width]``.

        They depend only on the run's key, the update and their place, so that a run sees
        the same numbers in any batch of runs.

        Args:
            updates: see :meth:`keys`.
            examples: number of examples.
            width: numbers for each example.
        """
        if not width:
            return torch.empty(len(self.order), examples, 0, device=self.order.device)
        bits = random_bits(self.keys(updates), 0, examples * width)
        return normal_numbers(bits).unflatten(1, (examples, width))

    def train(self, limit: int) -> tuple[Tensor, Tensor]:
        """Return inputs and targets of the first training examples, ``[B, n, ...]``.

        Args:
            limit: largest number of examples.
        """
        return self._between(0, min(limit, self.num_train))

    def validation(
        self, limit: int | None = None, runs: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return inputs and targets of the first validation examples, ``[B, n, ...]``.

        Args:
            limit: largest number of examples; None for all.
            runs: indices of the runs; None for all.
        """
        end = self.rows.shape[1]
        if limit is not None:
            end = min(end, self.num_train + limit)
        return self._between(self.num_train, end, runs)

    def _between(
        self, begin: int, end: int, runs: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        if self.stages is not None:
            stages = self.stages if runs is None else self.stages.of_runs(runs)
            data = self if runs is None else self._replace(rows=self.rows[runs])
            span = torch.arange(begin, end, device=self.rows.device)
            examples = span.expand(len(data.rows), -1)
            return data._take_in_stage(stages, examples, stages.stage, training=False)
        if runs is not None:
            return self._take(self.rows[runs, begin:end])
        if self.shared:
            return self._take(self.rows[:, begin:end])
        # Each run's examples are one block, which needs no copy.
        blocks = len(self.rows), len(self.inputs) // len(self.rows)
        inputs = self.inputs.view(*blocks, *self.inputs.shape[1:])
        targets = self.targets.view(*blocks, *self.targets.shape[1:])
        count = end - begin
        return inputs.narrow(1, begin, count), targets.narrow(1, begin, count)

    def _take_in_stage(
        self, stages: Stages, examples: Tensor, stage: Tensor, *, training: bool
    ) -> tuple[Tensor, Tensor]:
        examples = stages.select(examples, stage, training)
        rows = stages.place(self.rows.gather(1, examples), stage)
        return stages.apply(*self._take(rows), rows, stage)

    def _take(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        flat, inputs, targets = rows.flatten(), self.inputs, self.targets
        # index_select is several times faster than advanced indexing here.
        return (
            inputs.index_select(0, flat).view(*rows.shape, *inputs.shape[1:]),
            targets.index_select(0, flat).view(*rows.shape, *targets.shape[1:]),
        )

    def to(self, device: torch.device, dtype: torch.dtype) -> Data:
        """Move to ``device``; floating-point examples become ``dtype``."""

        def move(x: Tensor) -> Tensor:
            stored = x[:1] if x.stride(0) == 0 else x  # a row that all runs share
            stored = stored.to(device, dtype if x.is_floating_point() else x.dtype)
            return stored.expand(x.shape)

        return self._replace(
            inputs=move(self.inputs),
            targets=move(self.targets),
            rows=move(self.rows),
            order=move(self.order),
            scale=None if self.scale is None else move(self.scale),
            stages=None if self.stages is None else self.stages.to(device, dtype),
        )

    def of_runs(self, runs: Tensor) -> Data:
        """Return the keys, scales and rows of some runs, over the same examples."""
        return self._replace(
            rows=self.rows[runs],
            order=self.order[runs],
            scale=None if self.scale is None else self.scale[runs],
            stages=None if self.stages is None else self.stages.of_runs(runs),
        )

    def put(self, index: Tensor, new: Data) -> Data:
        """Replace the data of runs ``index [n]`` by ``new``, in a copy."""
        order = self.order.index_copy(0, index, new.order)
        scale = self.scale
        if scale is not None and new.scale is not None:
            scale = scale.index_copy(0, index, new.scale)
        stages = self.stages
        if stages is not None and new.stages is not None:
            stages = stages.put(index, new.stages)
        if self.shared:
            rows = self.rows
            if rows.stride(0) != 0:  # 0: one row that all runs share
                rows = rows.index_copy(0, index, new.rows)
            return self._replace(rows=rows, order=order, scale=scale, stages=stages)
        runs = len(self.rows)

        def replace(old: Tensor, replacement: Tensor) -> Tensor:
            blocks = old.unflatten(0, (runs, -1))
            replacement = replacement.unflatten(0, (len(index), -1))
            return blocks.index_copy(0, index, replacement).flatten(0, 1)

        return self._replace(
            inputs=replace(self.inputs, new.inputs),
            targets=replace(self.targets, new.targets),
            order=order,
            scale=scale,
            stages=stages,
        )


def order_keys(generators: Sequence[np.random.Generator]) -> Tensor:
    """Draw the batch-order key of each run, ``[B]`` int64."""
    return torch.tensor([int(g.integers(2**62)) for g in generators])


def _epoch(order: int, epoch: int, num_train: int, begin: int, count: int) -> Tensor:
    """Compute the indices ``[count]`` of the examples from place ``begin`` of an epoch."""
    if num_train <= _KEPT_EPOCH:
        return _whole_epoch(order, epoch, num_train)[begin : begin + count]
    return _places(
        order, epoch, num_train, torch.arange(begin, begin + count, device="cpu")
    )


#: Largest number of examples for which the order of an epoch is cached.
_KEPT_EPOCH = 2**13


@lru_cache(64)
def _whole_epoch(order: int, epoch: int, num_train: int) -> Tensor:
    """Compute the indices ``[num_train]`` of all examples of an epoch, in their order."""
    return _places(order, epoch, num_train, torch.arange(num_train, device="cpu"))


def _places(order: int, epoch: int, num_train: int, places: Tensor) -> Tensor:
    """Compute the indices of the examples at places of an epoch of a run."""
    bits = mix(wrapped(order + epoch * GOLDEN))
    stride = int(_STRIDES[bits & (len(_STRIDES) - 1)])
    return (places * stride + _offset(bits)).remainder(num_train)


def _offset(bits: Bits) -> Bits:
    """Compute the offset of an epoch's order from the epoch's random bits."""
    return (bits >> 10) & (MAX_EXAMPLES - 1)
