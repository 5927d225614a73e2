"""A sample of a stream, to learn from again."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from optenv.checks import positive_int


class Memory:
    """A sample of the stream so far, each example as likely (reservoir sampling).

    Args:
        size: examples kept.
        rng: draws.
    """

    def __init__(self, size: int, rng: np.random.Generator) -> None:
        self.size, self.rng = positive_int("size", size), rng
        self.kept: list[tuple[Tensor, Tensor]] = []
        self.seen = 0

    def add(self, inputs: Tensor, targets: Tensor) -> None:
        """See a batch ``[n, ...]``."""
        for example in zip(inputs, targets, strict=True):
            self.seen += 1
            if len(self.kept) < self.size:
                self.kept.append(example)
            else:
                place = int(self.rng.integers(self.seen))
                if place < self.size:
                    self.kept[place] = example

    def draw(self, count: int) -> tuple[Tensor, Tensor] | None:
        """At most ``count`` of what is kept, each once; None if that is nothing."""
        count = min(count, len(self.kept))
        if count < 1:
            return None
        rows = self.rng.choice(len(self.kept), count, replace=False)
        inputs, targets = zip(*(self.kept[row] for row in rows), strict=True)
        return torch.stack(inputs), torch.stack(targets)

    def joined(self, inputs: Tensor, targets: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """A batch together with ``count`` of what is kept."""
        drawn = self.draw(count)
        if drawn is None:
            return inputs, targets
        return torch.cat([inputs, drawn[0]]), torch.cat([targets, drawn[1]])
