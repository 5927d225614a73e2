"""Action that sets the batch size, relative to the task's own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from gymnasium import spaces
from torch import Tensor

from ..checks import is_number, quoted
from .base import Action, Decision

__all__ = ["BatchSize"]

#: Largest factor of the batch size: its observation ``log2(factor) / 3`` is 4, the bound.
MAX_FACTOR = 2.0**12


@dataclass(frozen=True)
class BatchSize(Action):
    """An index into a table of factors: the batch size is ``factors[a]`` times the task's.

    The learning rate follows the schedule alone. Each control step uses a fixed number of
    examples, whatever the action: as many as its updates would use with the task's own
    batch size. Smaller batches thus mean more updates, larger ones fewer. The reward of a
    control step is the progress made with that number of examples, and the return is the
    progress made with a fixed number of examples. Examples that are too few for another
    batch are carried over to the next control step.

    A batch has a whole number of examples (rounded): at least 2 unless the task's own batch
    size is 1, and at most all examples of the control step.

    The first update of a control step uses the gradient that was observed before it, of a
    batch of the previous size.

    The observation has the base-2 logarithm of the last batch size over the task's own,
    divided by 3; 0 before the first action.

    Attributes:
        bound, start, schedule: see :class:`Action`.
        factors: positive, increasing, and 1.0 (the task's own batch size) among them.
    """

    factors: tuple[float, ...] = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
    kind: ClassVar[str] = "batch-size"
    sets_batch_size: ClassVar[bool] = True
    is_index: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.factors, (tuple, list)) or not all(
            map(is_number, self.factors)
        ):
            raise TypeError(
                f"factors must be a tuple of numbers, got {quoted(self.factors)}"
            )
        object.__setattr__(self, "factors", tuple(map(float, self.factors)))
        if (
            any(not 1 / MAX_FACTOR <= factor <= MAX_FACTOR for factor in self.factors)
            or 1.0 not in self.factors
            or list(self.factors) != sorted(set(self.factors))
        ):
            raise ValueError(
                f"factors must be increasing and include 1.0, from 1/{MAX_FACTOR:g} to "
                f"{MAX_FACTOR:g}, got {self.factors!r}"
            )

    def space(self, dtype: type[np.floating[Any]] = np.float32) -> spaces.Discrete:
        return spaces.Discrete(self.outputs)

    @property
    def outputs(self) -> int:
        return len(self.factors)

    @property
    def observed(self) -> int:
        return 1

    def encode(self, action: Tensor) -> Tensor:
        return F.one_hot(action.reshape(len(action)).long(), self.outputs)

    def shift(self, action: Tensor) -> Tensor:
        return torch.zeros(len(action), device=action.device)

    def decode(
        self, action: Tensor, log_multiplier: Tensor, part_multipliers: Tensor | None = None
    ) -> Decision:
        decision = super().decode(action, log_multiplier, part_multipliers)
        table = torch.tensor(self.factors, dtype=torch.float64, device="cpu")
        chosen = table.to(action.device)[action.reshape(len(action)).long()]
        return decision._replace(batch_factor=chosen)

    def observe(self, action: Tensor, decision: Decision) -> Tensor:
        assert decision.batch_factor is not None
        return decision.batch_factor.log2().unsqueeze(1) / 3.0
