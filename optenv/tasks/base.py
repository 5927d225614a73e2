"""Tasks: data, initial parameters and a loss, for a batch of runs.

A :class:`Task` object is one *structure*: everything that runs must share to be stacked
(architecture, batch size, number of examples). Everything else (data, labels, scales,
initial parameters, batch order) is drawn from each run's own generator.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from ..checks import positive_int
from ..roles import roles_of_shapes
from .stages import Stages

__all__ = [
    "MAX_EXAMPLES",
    "Batch",
    "Data",
    "Task",
    "check_finite",
    "normal_numbers",
    "order_keys",
    "random_bits",
    "set_sizes",
    "unflatten",
    "uniform_numbers",
]

#: Largest number of training examples of a run, and of those for validation.
MAX_EXAMPLES = 2**20

#: Largest values of sizes that a task goes through one by one: layers, steps in time.
MAX_SIZES = {"depth": 1000, "stages": 30, "steps": 100_000}


def _primes(above: int, count: int) -> Tensor:
    """Compute the first ``count`` primes above ``above`` by a sieve (at most 1024)."""
    limit = above + 32 * count
    sieve = np.ones(limit, np.bool_)
    for factor in range(2, math.isqrt(limit) + 1):
        if sieve[factor]:
            sieve[factor * factor :: factor] = False
    return torch.from_numpy(above + 1 + np.flatnonzero(sieve[above + 1 :])[:count])


# Primes above the largest number of examples are coprime to all of them.
_STRIDES = _primes(MAX_EXAMPLES, 1024)


class Batch(NamedTuple):
    """Examples that a loss is taken on, of ``B`` runs.

    Attributes:
        inputs: ``[B, n, ...]``.
        targets: ``[B, n, ...]``.
        noise: independent standard normal numbers, ``[B, n, K]`` with ``K`` as the task's
            :attr:`Task.noise`.
        keys: key of each run for :func:`random_bits`, ``[B]`` int64, if the task
            :attr:`Task.draws` by it; None otherwise.
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
            examples: which examples, ``[B, n]``.
            updates: number of the update that the batch is for, ``[B]`` int64, which the
                task depends on if it changes; by default that of :meth:`at`.
        """
        if self.stages is None:
            if self.rows.shape == (1, self.inputs.shape[0]) and not self.shared:
                return self._take(examples)  # of the only run: row n is example n
            return self._take(self.rows.gather(1, examples))
        stages = self.stages
        stage = stages.stage if updates is None else stages.of_updates(updates)
        return self._take_in_stage(stages, examples, stage, training=True)

    def at(self, updates: Tensor) -> Data:
        """Return the data with the tasks that runs have at their updates ``[B]`` int64."""
        if self.stages is None:
            return self
        return self.in_stage(self.stages.of_updates(updates))

    def in_stage(self, stage: Tensor) -> Data:
        """Return the data with the tasks that runs have in a stage ``[B]`` int64."""
        if self.stages is None:
            return self
        return self._replace(stages=self.stages._replace(stage=stage))

    def batch_rows(self, first: Tensor, updates: int, batch_size: int) -> Tensor:
        """Compute the examples of consecutive batches, ``[B, updates * batch_size]``.

        Each epoch visits every training example once, in an order that depends on the run's
        key and the epoch alone: the position in the epoch times a stride coprime to the
        number of examples, plus an offset.

        Args:
            first: number of the first batch, ``[B]`` int64.
            updates: number of batches.
            batch_size: examples in each.
        """
        return self.rows_from(first * batch_size, updates * batch_size)

    def rows_from(self, drawn: Tensor, count: int) -> Tensor:
        """Compute the examples ``[B, count]`` that follow the first ones.

        The order is that of :meth:`batch_rows`, whatever the batch size.

        Args:
            drawn: number of examples that were drawn before, ``[B]`` int64.
            count: number of examples.
        """
        if drawn.shape[0] == 1 and drawn.is_cpu:
            return self._rows_of_single(int(drawn[0]), count)
        position = drawn.unsqueeze(1) + torch.arange(count, device=drawn.device)
        epoch = position.div(self.num_train, rounding_mode="floor")
        bits = _mix(self.order.unsqueeze(1) + epoch * _GOLDEN)
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
            updates: number of the update they are for, ``[B]`` int64; negative numbers are
                for evaluations.
        """
        return _mix(_mix(self.order) + updates * _GOLDEN)

    def noise(self, updates: Tensor, examples: int, width: int) -> Tensor:
        """Draw independent standard normal numbers ``[B, examples, width]``.

        They depend on the run's key, the update and their place alone, so that a run sees
        the same numbers in any batch of runs.

        Args:
            updates: as of :meth:`keys`.
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


#: Tensor of int64, or an int of Python within the same range.
Bits = TypeVar("Bits", Tensor, int)

_GOLDEN = -7046029254386353131  # 2**64 / golden ratio, as a signed integer
_MASK = 2**24 - 1  # as many bits as float32 has digits


def _mix(bits: Bits) -> Bits:
    """Scramble int64 keys (the finalizer of SplitMix64, Steele et al. 2014)."""
    for shift, factor in ((30, -4658895280553007687), (27, -7723592293110705685)):
        logical = (bits >> shift) & ((1 << (64 - shift)) - 1)
        bits = _wrapped((bits ^ logical) * factor)
    return bits ^ ((bits >> 31) & ((1 << 33) - 1))


def _wrapped(bits: Bits) -> Bits:
    """Return an integer modulo 2^64 in the range of int64, as torch's are already."""
    return bits if isinstance(bits, Tensor) else (bits + 2**63) % 2**64 - 2**63


def _epoch(order: int, epoch: int, num_train: int, begin: int, count: int) -> Tensor:
    """Compute the examples at some places of an epoch of a run, ``[count]``."""
    if num_train <= _KEPT_EPOCH:
        return _whole_epoch(order, epoch, num_train)[begin : begin + count]
    return _places(
        order, epoch, num_train, torch.arange(begin, begin + count, device="cpu")
    )


#: Number of examples up to which the order of an epoch is kept: a run needs it many times.
_KEPT_EPOCH = 2**13


@lru_cache(64)
def _whole_epoch(order: int, epoch: int, num_train: int) -> Tensor:
    """Compute all examples of an epoch of a run, in their order."""
    return _places(order, epoch, num_train, torch.arange(num_train, device="cpu"))


def _places(order: int, epoch: int, num_train: int, places: Tensor) -> Tensor:
    """Compute the examples at places of an epoch of a run."""
    bits = _mix(_wrapped(order + epoch * _GOLDEN))
    stride = int(_STRIDES[bits & (len(_STRIDES) - 1)])
    return (places * stride + _offset(bits)).remainder(num_train)


def _offset(bits: Bits) -> Bits:
    """Return the offset of the order of an epoch, of its bits."""
    return (bits >> 10) & (MAX_EXAMPLES - 1)


def random_bits(keys: Tensor, begin: int, count: int) -> Tensor:
    """Compute random bits ``[B, count]`` int64: a function of the key and the place alone.

    Args:
        keys: key of each run, ``[B]`` int64, see :meth:`Data.keys`.
        begin: place of the first.
        count: number of places.
    """
    place = torch.arange(begin + 1, begin + count + 1, device=keys.device)
    return _mix(keys.unsqueeze(1) + place * _GOLDEN)


def uniform_numbers(bits: Tensor) -> Tensor:
    """Return numbers uniform in [0, 1), of random bits; float32, and multiples of 2^-24."""
    return (bits & _MASK) * (1.0 / (_MASK + 1))


def normal_numbers(bits: Tensor) -> Tensor:
    """Return standard normal numbers, of random bits; float32."""
    # Box and Muller (1958), from the two lower thirds of the bits.
    low, high = bits & _MASK, (bits >> 24) & _MASK
    radius = ((low + 0.5) / (_MASK + 1)).log().mul(-2.0).sqrt()
    return radius * (high * (2.0 * math.pi / (_MASK + 1))).cos()


@dataclass(frozen=True)
class Task(ABC):
    """Base of tasks; an object is one structure of training runs.

    Subclasses are frozen dataclasses and implement :attr:`shapes`, :meth:`sample`,
    :meth:`init` and :meth:`loss`. All randomness comes from the given generators, so that a
    run depends on its seed alone.

    A loss that draws random numbers (dropout, a variational autoencoder, a policy gradient)
    says how many in :attr:`noise`; one with running statistics (BatchNorm) how many in
    :attr:`buffers`. Such tasks implement :meth:`training_loss` and :meth:`evaluation_loss`
    too, and need not implement :meth:`loss`.

    Attributes:
        batch_size: examples in a batch, at most ``num_train``.
        num_train: training examples of each run.
        num_validation: validation examples of each run.
    """

    batch_size: int = 32
    num_train: int = 1024
    num_validation: int = 256

    def __post_init__(self) -> None:
        set_sizes(self, "batch_size", "num_train", "num_validation")
        if self.batch_size > self.num_train:
            raise ValueError(
                f"batch_size must be at most num_train ({self.num_train}), "
                f"got {self.batch_size}"
            )
        for name in ("num_train", "num_validation"):
            if getattr(self, name) > MAX_EXAMPLES:
                raise ValueError(
                    f"{name} must be at most {MAX_EXAMPLES}, got {getattr(self, name)}"
                )

    @property
    @abstractmethod
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shape of each parameter of one run."""

    @abstractmethod
    def sample(self, generators: Sequence[np.random.Generator]) -> Data:
        """Draw the data of one run per generator, float32 on the CPU."""

    @abstractmethod
    def init(self, generators: Sequence[np.random.Generator]) -> Tensor:
        """Draw initial parameters ``[B, P]`` of a run per generator, float32 on the CPU."""

    def loss(self, params: tuple[Tensor, ...], inputs: Tensor, targets: Tensor) -> Tensor:
        """Compute the mean loss ``[B]`` over a batch.

        The features of ``loss_features="positive"`` see negative values as 0, those of
        ``"invariant"`` see them as they are; for rewards see
        :mod:`optenv.rewards`.

        Args:
            params: one tensor ``[B, *shape]`` per shape.
            inputs: ``[B, n, ...]``.
            targets: ``[B, n, ...]``.
        """
        raise NotImplementedError(f"{type(self).__name__} has no loss without state")

    @property
    def noise(self) -> int:
        """Number of random numbers that the loss draws for each example, ``K``."""
        return 0

    @property
    def draws(self) -> bool:
        """True if the loss draws random numbers by :attr:`Batch.keys`.

        That is for losses that don't know how many they need for each example.
        """
        return False

    @property
    def buffers(self) -> int:
        """Number of running statistics of a run, ``S``."""
        return 0

    def init_buffers(self, runs: int) -> Tensor:
        """Return the running statistics ``[runs, S]`` before the first update."""
        return torch.zeros(runs, self.buffers)

    def training_loss(
        self, params: tuple[Tensor, ...], batch: Batch, buffers: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Compute the loss ``[B]`` whose gradient an update uses, and the new statistics.

        Args:
            params: one tensor ``[B, *shape]`` per shape.
            batch: examples and random numbers.
            buffers: running statistics ``[B, S]``, which are not changed in place.

        Returns:
            The loss, and the running statistics after the batch.
        """
        return self.loss(params, batch.inputs, batch.targets), buffers

    def evaluation_loss(
        self, params: tuple[Tensor, ...], batch: Batch, buffers: Tensor
    ) -> Tensor:
        """Compute the loss ``[B]`` that rewards and validation use.

        Args:
            params, batch, buffers: as of :meth:`training_loss`.
        """
        return self.loss(params, batch.inputs, batch.targets)

    @property
    def num_params(self) -> int:
        """Number of parameters of one run, ``P``."""
        return sum(math.prod(shape) for shape in self.shapes)

    @property
    def roles(self) -> tuple[str, ...]:
        """Role of each parameter, out of :data:`optenv.roles.ROLES`.

        By default those with fewer than two dimensions are ``"vectors"``, the last of
        several others is ``"output"``, and the rest are ``"matrices"``.
        """
        return roles_of_shapes(self.shapes)

    @property
    def work(self) -> int:
        """Multiplications of a forward pass on one batch of one run, about.

        That is the number of parameters times that of the places where they are used.
        """
        return self.num_params * self.batch_size

    @property
    def num_classes(self) -> int | None:
        """Number of classes, if the target of an example is its class; None otherwise."""
        return None

    @property
    def num_features(self) -> int | None:
        """Number of features of an input, if they may come in any order; None otherwise.

        Inputs ``[B, n, ...]`` then have that many numbers for each example.
        """
        return None

    @property
    def reward_examples(self) -> int:
        """Largest number of examples on which the loss of the reward is taken.

        Tasks with costly examples that say much, such as sequences, choose fewer.
        """
        return 128

    @property
    def example_numbers(self) -> int:
        """Numbers of an example, its inputs and targets, about.

        The memory of an environment is estimated by it, before examples are drawn.
        """
        return (self.num_features or 1) + 1

    @property
    def drawing_numbers(self) -> int:
        """Numbers that drawing the examples of one run needs besides these, about."""
        return 0

    @property
    def shares_examples(self) -> bool:
        """True if all runs share their examples, as :attr:`Data.shared` tells."""
        return False

    def unflatten(self, params: Tensor) -> tuple[Tensor, ...]:
        """Split flat parameters ``[B, P]`` into views ``[B, *shape]``."""
        return unflatten(params, self._shapes)

    @cached_property
    def _shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shapes of the parameters, computed once: every update needs them."""
        return self.shapes


def set_sizes(task: Task, *names: str) -> None:
    """Set fields of a new task to plain integers.

    Args:
        task: the task.
        names: fields.

    Raises:
        ValueError: one is no positive integer, or more than its :data:`MAX_SIZES`.
    """
    for name in names:
        value, most = positive_int(name, getattr(task, name)), MAX_SIZES.get(name)
        if most is not None and value > most:
            raise ValueError(f"{name} must be at most {most}, got {value}")
        object.__setattr__(task, name, value)


def check_finite(name: str, values: Tensor, dtype: torch.dtype | None = None) -> None:
    """Refuse a tensor with values that are not finite.

    Args:
        name: of the tensor, for the message.
        values: tensor ``[N, ...]``; integers are always finite.
        dtype: type that they are to be converted to; their own by default.

    Raises:
        ValueError: a value is NaN or infinite, or too large for ``dtype``. The message says
            which.
    """
    if not values.is_floating_point() or not values.numel():
        return
    limit = torch.finfo(values.dtype if dtype is None else dtype).max
    low, high = values.aminmax()
    if bool((low >= -limit) & (high <= limit)):  # False for NaN
        return
    bad = ~(values.abs() <= limit)
    first = values[bad][0].item()
    row = bad.nonzero()[0, 0].item() if values.dim() else 0
    reason = f" (beyond {values.dtype if dtype is None else dtype})"
    raise ValueError(
        f"{name} must be finite, got {int(bad.sum())} values that are not, the first "
        f"{first}{reason if math.isfinite(first) else ''} at index {row} of the first "
        "dimension; remove or replace these examples"
    )


def unflatten(params: Tensor, shapes: Sequence[Sequence[int]]) -> tuple[Tensor, ...]:
    """Split flat parameters ``[B, P]`` into views ``[B, *shape]`` in the shapes' order."""
    runs, sizes = params.shape[0], [math.prod(shape) for shape in shapes]
    parts = torch.split_with_sizes(params, sizes, 1)
    return tuple(
        part if len(shape) == 1 else part.view(runs, *shape)  # vectors are as they are
        for part, shape in zip(parts, shapes, strict=True)
    )


def order_keys(generators: Sequence[np.random.Generator]) -> Tensor:
    """Draw the batch-order key of each run, ``[B]`` int64."""
    return torch.tensor([int(g.integers(2**62)) for g in generators])
