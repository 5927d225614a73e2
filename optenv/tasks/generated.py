"""Tasks whose examples are generated: by each run for itself, or once for all runs."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from .base import Task
from .examples import Data, order_keys

__all__ = ["LARGE_DATA_SIZE", "Examples", "GeneratedTask", "data_size"]

#: Number of training examples that is larger than most runs see.
LARGE_DATA_SIZE = 2**16

#: Inputs and targets of one run, arrays of ``num_train + num_validation`` rows.
Examples = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class GeneratedTask(Task):
    """Base of tasks that generate their examples.

    Subclasses implement :meth:`examples` instead of :meth:`sample`.

    Attributes:
        data_seed: seed of examples that all runs share, each in its own order; by default
            (None), each run draws its own examples. Shared examples are stored once, so
            that the set can be so large that no run sees an example twice.
    """

    data_seed: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        seed = self.data_seed
        if seed is None:
            return
        if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)):
            raise TypeError(f"data_seed must be an integer or None, got {seed!r}")
        if seed < 0:
            raise ValueError(f"data_seed must be at least 0, got {seed!r}")

    @property
    def shares_examples(self) -> bool:
        return self.data_seed is not None

    @abstractmethod
    def examples(self, rng: np.random.Generator) -> Examples:
        """Draw ``num_train`` training examples, then ``num_validation`` for validation.

        Returns:
            Inputs and targets, arrays of ``num_train + num_validation`` rows.
        """

    @cached_property
    def _shared(self) -> Examples:
        """Examples that all runs share, drawn once for this object."""
        drawn = self._drawn(np.random.default_rng(self.data_seed))
        return np.ascontiguousarray(drawn[0]), np.ascontiguousarray(drawn[1])

    def _drawn(self, rng: np.random.Generator) -> Examples:
        """Draw examples, and check their number.

        Raises:
            ValueError: it is not ``num_train + num_validation``.
        """
        inputs, targets = self.examples(rng)
        wanted = self.num_train + self.num_validation
        if not len(inputs) == len(targets) == wanted:
            raise ValueError(
                f"examples of {type(self).__name__} must return {wanted} inputs and "
                f"targets (num_train + num_validation), got {len(inputs)} and "
                f"{len(targets)}"
            )
        return inputs, targets

    def sample(self, generators: Sequence[np.random.Generator]) -> Data:
        runs = len(generators)
        if self.data_seed is None:
            drawn = [self._drawn(g) for g in generators]
            inputs, targets = (np.concatenate(part) for part in zip(*drawn, strict=True))
            rows = torch.arange(len(inputs)).view(runs, -1)
        else:
            inputs, targets = self._shared
            rows = torch.arange(len(inputs)).expand(runs, -1)
        return Data(
            torch.from_numpy(inputs),
            torch.from_numpy(targets),
            rows,
            order_keys(generators),
            self.num_train,
            shared=self.data_seed is not None,
        )


def data_size(rng: np.random.Generator, small: Sequence[int], large: int) -> dict[str, int]:
    """Draw the number of training examples of a structure.

    Real runs are of two kinds: those that memorise a small training set, where it pays to
    train long at a low learning rate, and those that hardly see an example twice.

    Args:
        rng: generator.
        small: sizes of small sets, one of which is drawn half of the time. Each run draws
            its own examples.
        large: size of the large set that is chosen otherwise and that all runs share.

    Returns:
        Arguments of :class:`GeneratedTask`.
    """
    if rng.random() < 0.5:
        return {"num_train": int(rng.choice(small))}
    return {"num_train": large, "data_seed": int(rng.integers(2**31))}
