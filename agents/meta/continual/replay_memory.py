"""Replay memory: a uniform random sample of the stream so far."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from optenv.checks import positive_int


class ReplayMemory:
    """Reservoir that holds each example of the stream so far with equal probability.

    Args:
        size: maximal number of stored examples.
        rng: generator of the sampling.

    Attributes:
        examples: stored pairs of input and target.
        count: number of examples of the stream so far.
    """

    def __init__(self, size: int, rng: np.random.Generator) -> None:
        self.size, self.rng = positive_int("size", size), rng
        self.examples: list[tuple[Tensor, Tensor]] = []
        self.count = 0

    def add(self, inputs: Tensor, targets: Tensor) -> None:
        """Add a batch ``[n, ...]`` by reservoir sampling."""
        for example in zip(inputs, targets, strict=True):
            self.count += 1
            if len(self.examples) < self.size:
                self.examples.append(example)
            else:
                slot = int(self.rng.integers(self.count))
                if slot < self.size:
                    self.examples[slot] = example

    def sample(self, count: int) -> tuple[Tensor, Tensor] | None:
        """Return at most ``count`` different stored examples, or None if there are none."""
        count = min(count, len(self.examples))
        if count < 1:
            return None
        rows = self.rng.choice(len(self.examples), count, replace=False)
        inputs, targets = zip(*(self.examples[row] for row in rows), strict=True)
        return torch.stack(inputs), torch.stack(targets)

    def join(self, inputs: Tensor, targets: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Return a batch ``[n, ...]`` followed by at most ``count`` stored examples."""
        replayed = self.sample(count)
        if replayed is None:
            return inputs, targets
        return torch.cat([inputs, replayed[0]]), torch.cat([targets, replayed[1]])
