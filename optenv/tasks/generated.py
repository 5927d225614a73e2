"""Tasks whose examples are generated: by each run for itself, or once for all runs."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from .base import Data, Task, order_keys

#: Training examples that are more than most runs see.
MANY = 2**16

#: Examples of one run: inputs and targets, arrays of ``num_train + num_validation`` rows.
Examples = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class GeneratedTask(Task):
    """A task that generates its examples.

    Attributes:
        data_seed: by default (None) each run draws examples of its own. With a seed, all
            runs have the examples of that seed, in orders of their own; a set so large
            that a run sees nothing twice then costs no more than one of a run does.
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

    @abstractmethod
    def examples(self, rng: np.random.Generator) -> Examples:
        """Draw ``num_train`` training examples, then ``num_validation`` for validation."""

    @cached_property
    def _shared(self) -> Examples:
        """Those of all runs, drawn once for this object."""
        drawn = self.examples(np.random.default_rng(self.data_seed))
        return np.ascontiguousarray(drawn[0]), np.ascontiguousarray(drawn[1])

    def sample(self, generators: Sequence[np.random.Generator]) -> Data:
        runs = len(generators)
        if self.data_seed is None:
            drawn = [self.examples(g) for g in generators]
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


def data_size(rng: np.random.Generator, few: Sequence[int], many: int) -> dict[str, int]:
    """Draw how many training examples runs have: half of the time ``many``, of all runs.

    Real runs are of both kinds: those that learn a small set by heart, where to train long
    at a low rate pays, and those that hardly see an example twice.
    """
    if rng.random() < 0.5:
        return {"num_train": int(rng.choice(few))}
    return {"num_train": many, "data_seed": int(rng.integers(2**31))}
