"""Losses of runs whose task changes, in each of their stages."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

__all__ = ["MAX_JUMP", "StageLosses"]

#: Largest ratio of a loss right after a change to the initial loss of the stage.
MAX_JUMP = 10.0

#: Function from stages ``[B]`` to losses ``[B, S]`` of the runs in them, one per source.
Evaluate = Callable[[Tensor], Tensor]


class StageLosses(NamedTuple):
    """Losses of ``B`` runs with ``K`` changes; tensors ``[B, 0, S]`` if no task changes.

    Attributes:
        initial: losses of the initial parameters in each stage, ``[B, K + 1, S]``.
        final: loss on the first source at the end of each past stage, and now in the
            present stage, ``[B, K + 1]``.
        mean: mean of the present losses on the tasks so far, ``[B]``.
        forgetting: mean, over the past stages, of the loss now minus the loss at the end of
            the stage, ``[B]``; 0 in the first stage.
        changes: number of changes so far, ``[B]`` int64.
    """

    initial: Tensor
    final: Tensor
    mean: Tensor
    forgetting: Tensor
    changes: Tensor

    @classmethod
    def start(cls, loss: Tensor, stages: int, evaluate: Evaluate) -> StageLosses:
        """Make the losses of runs before their first update.

        Args:
            loss: losses in the first stage, ``[B, S]``.
            stages: number of stages.
            evaluate: computes the losses of the runs in given stages.
        """
        first = torch.zeros(len(loss), dtype=torch.int64, device=loss.device)
        initial = [loss, *(evaluate(first + number) for number in range(1, stages))]
        stacked = torch.stack(initial, 1) if stages else loss.unsqueeze(1)[:, :0]
        return cls(
            initial=stacked.detach(),
            final=stacked[..., 0].detach(),
            mean=loss[:, 0].detach(),
            forgetting=torch.zeros_like(loss[:, 0]),
            changes=first,
        )

    def reference(self, changes: Tensor, loss: Tensor) -> Tensor:
        """Return the losses ``[B, S]`` from which a stage measures progress.

        They are the losses of the initial parameters; or, where the loss right after the
        change is more than :data:`MAX_JUMP` times as large, that loss divided by
        :data:`MAX_JUMP`.

        Args:
            changes: number of changes before the stage, ``[B]`` int64.
            loss: losses right after the change, ``[B, S]``.
        """
        runs = torch.arange(len(loss), device=loss.device)
        initial = self.initial[runs, changes]
        jumped = (loss > 0) & loss.isfinite()
        return torch.where(jumped, torch.maximum(initial, loss / MAX_JUMP), initial)

    def update(self, changes: np.ndarray, loss: Tensor, evaluate: Evaluate) -> StageLosses:
        """Return the losses after a control step.

        Args:
            changes: number of changes before the step, ``[B]``.
            loss: losses of the runs in their present stages, ``[B, S]``.
            evaluate: computes the losses of the runs in given stages.
        """
        count = torch.from_numpy(changes).to(self.changes.device)
        first, place = torch.zeros_like(count), count.unsqueeze(1)
        present = loss[:, :1].detach()
        before = [evaluate(first + number)[:, :1] for number in range(int(changes.max()))]
        earlier = torch.cat([*before, torch.zeros_like(present)], 1)
        number = torch.arange(earlier.shape[1], device=count.device)
        is_earlier = number < place
        rise = torch.where(is_earlier, earlier - self.final[:, : len(number)], 0.0)
        total = torch.where(is_earlier, earlier, 0.0).sum(1) + present[:, 0]
        return self._replace(
            final=self.final.scatter(1, place, present),
            mean=total / (count + 1),
            forgetting=rise.sum(1) / count.clamp(min=1),
            changes=count,
        )
