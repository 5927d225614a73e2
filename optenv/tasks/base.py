"""Tasks: data, initial parameters and a loss, for a batch of runs.

A :class:`Task` object is one *structure*: everything that runs must have in common to be
stacked (architecture, batch size, number of examples). Everything else (data, labels,
scales, initial parameters, batch order) is drawn from each run's own generator.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from ..checks import positive_int
from ..roles import roles_of_shapes
from .examples import MAX_EXAMPLES, Batch, Data

__all__ = ["Task", "check_finite", "set_sizes", "unflatten"]

#: Upper limits of sizes over which a task loops: layers, stages, time steps.
MAX_SIZES = {"depth": 1000, "stages": 30, "steps": 100_000}


@dataclass(frozen=True)
class Task(ABC):
    """Base of tasks; an object is one structure of training runs.

    Subclasses are frozen dataclasses and implement :attr:`shapes`, :meth:`sample`,
    :meth:`init` and :meth:`loss`. All randomness comes from the given generators, so that a
    run depends only on its seed.

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

        It may be negative. The features of ``loss_features="positive"`` treat negative
        losses as 0, those of ``"invariant"`` use them unchanged; for rewards see
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
        """True if the loss draws random numbers with :attr:`Batch.keys`.

        This is for losses that do not know how many numbers they need for each example.
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
            params, batch, buffers: see :meth:`training_loss`.
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
        """Approximate number of multiplications in a forward pass on a batch of one run.

        By default, every parameter is used once for each example.
        """
        return self.num_params * self.batch_size

    @property
    def num_classes(self) -> int | None:
        """Number of classes, if the target of an example is its class; None otherwise."""
        return None

    @property
    def num_features(self) -> int | None:
        """Number of features of an input, if their order is arbitrary; None otherwise.

        Inputs ``[B, n, ...]`` then have that many numbers for each example.
        """
        return None

    @property
    def reward_examples(self) -> int:
        """Largest number of examples on which the loss of the reward is computed.

        Tasks whose examples are costly and informative, such as sequences, use fewer.
        """
        return 128

    @property
    def example_numbers(self) -> int:
        """Approximate count of numbers in the inputs and targets of an example.

        It serves to estimate the memory of an environment before examples are drawn.
        """
        return (self.num_features or 1) + 1

    @property
    def drawing_numbers(self) -> int:
        """Approximate count of further numbers in memory while examples are drawn."""
        return 0

    @property
    def shares_examples(self) -> bool:
        """True if all runs share their examples, see :attr:`Data.shared`."""
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
        ValueError: one is no positive integer, or exceeds its limit in :data:`MAX_SIZES`.
    """
    for name in names:
        value, most = positive_int(name, getattr(task, name)), MAX_SIZES.get(name)
        if most is not None and value > most:
            raise ValueError(f"{name} must be at most {most}, got {value}")
        object.__setattr__(task, name, value)


def check_finite(name: str, values: Tensor, dtype: torch.dtype | None = None) -> None:
    """Refuse a tensor with values that are not finite.

    Args:
        name: name of the tensor, for the message.
        values: tensor ``[N, ...]``; integers are always finite.
        dtype: type to which the values will be converted; by default their own.

    Raises:
        ValueError: a value is NaN or infinite, or too large for ``dtype``. The message
            gives the first such value.
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
        part if len(shape) == 1 else part.view(runs, *shape)  # vectors need no view
        for part, shape in zip(parts, shapes, strict=True)
    )
