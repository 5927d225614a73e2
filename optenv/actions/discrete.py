"""Action that chooses one of several multipliers of the learning rate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from gymnasium import spaces
from torch import Tensor

from ..checks import is_number, quoted
from .base import Action

__all__ = ["Discrete"]


@dataclass(frozen=True)
class Discrete(Action):
    """An index into a table of multipliers: ``s <- clip(s + log(multipliers[a]))``.

    Attributes:
        multipliers: positive, increasing, and 1.0 (no change) among them.
    """

    multipliers: tuple[float, ...] = tuple(2.0 ** (k / 2) for k in range(-3, 4))
    kind: ClassVar[str] = "discrete"
    is_index: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not all(map(is_number, self.multipliers)):
            raise TypeError(f"multipliers must be numbers, got {quoted(self.multipliers)}")
        object.__setattr__(self, "multipliers", tuple(map(float, self.multipliers)))
        if (
            any(not m > 0 for m in self.multipliers)
            or 1.0 not in self.multipliers
            or list(self.multipliers) != sorted(set(self.multipliers))
        ):
            raise ValueError(
                "multipliers must be positive, increasing and include 1.0, "
                f"got {self.multipliers!r}"
            )

    def space(self, dtype: type[np.floating] = np.float32) -> spaces.Discrete:
        return spaces.Discrete(self.outputs)

    @property
    def outputs(self) -> int:
        return len(self.multipliers)

    def encode(self, action: Tensor) -> Tensor:
        return F.one_hot(action.reshape(len(action)).long(), self.outputs)

    def shift(self, action: Tensor) -> Tensor:
        table = torch.tensor(self.multipliers, dtype=torch.float64, device="cpu").log()
        return table.to(action.device)[action.reshape(len(action)).long()]
