"""Average of the parameters over the last part of a training."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

__all__ = ["TAIL_SHARE", "TailAverage"]

#: Fraction of a training, at its end, over which parameters are averaged.
TAIL_SHARE = 0.4


class TailAverage:
    """Mean of the parameters over the last :data:`TAIL_SHARE` of a training.

    It averages out the noise of single updates (Izmailov et al., 2018).

    Args:
        total: length of the training, in any unit.
        start: position at which the training begins, in that unit.
        running: whether to keep only a running mean, for trainings with many snapshots;
            otherwise all snapshots are kept, and averaged at the end. Both give the same
            mean up to rounding. Each agent always uses the same way, so that its results
            can be reproduced bit for bit.

    Attributes:
        begin: position from which snapshots are averaged.
        count: number of snapshots so far.

    Example:
        >>> average = TailAverage(10, running=True)
        >>> for step in range(10):
        ...     average.update(step, [torch.tensor(float(step))])
        >>> average.mean()
        [tensor(7.5000)]
    """

    def __init__(self, total: float, start: float = 0, *, running: bool) -> None:
        self.begin = start + (1 - TAIL_SHARE) * total
        self.count = 0
        self._running = running
        self._means: list[Tensor] = []
        self._snapshots: list[list[Tensor]] = []

    def update(self, position: float, tensors: Iterable[Tensor]) -> None:
        """Add a snapshot of the parameters to the average, if the training is far enough.

        Args:
            position: position in the training, in the unit of ``total``.
            tensors: parameters, always the same ones in the same order.
        """
        if position < self.begin:
            return
        self.count += 1
        if not self._running:
            self._snapshots.append([tensor.detach().clone() for tensor in tensors])
            return
        values = [tensor.detach() for tensor in tensors]
        means = self._means or [torch.zeros_like(value) for value in values]
        self._means = [
            torch.lerp(mean, value, 1 / self.count)
            for mean, value in zip(means, values, strict=True)
        ]

    def content(self) -> list[list[Tensor]]:
        """Return the state for :meth:`restore`: the running mean, or all snapshots."""
        return [self._means] if self._running and self._means else self._snapshots

    def restore(self, count: int, content: list[list[Tensor]]) -> None:
        """Restore the state after ``count`` snapshots from their :meth:`content`."""
        self.count = count
        if not self._running:
            self._snapshots = content
        elif content:
            (self._means,) = content

    def mean(self) -> Sequence[Tensor]:
        """Return the means of the parameters; empty if there are no snapshots."""
        if self._running:
            return self._means
        return [
            torch.stack(values).mean(0) for values in zip(*self._snapshots, strict=True)
        ]
