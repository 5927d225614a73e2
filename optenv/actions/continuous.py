"""Action that moves the learning rate by one number."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from gymnasium import spaces
from torch import Tensor

from .base import Action

__all__ = ["Continuous"]


@dataclass(frozen=True)
class Continuous(Action):
    """One number in [-1, 1]: ``s <- clip(s + step * a)``.

    Attributes:
        step: largest change of ``s`` per control step, in nats.
    """

    step: float = 0.9
    kind: ClassVar[str] = "continuous"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._as_positive("step")

    def space(self, dtype: type[np.floating] = np.float32) -> spaces.Box:
        return spaces.Box(-1.0, 1.0, (1,), dtype)

    @property
    def outputs(self) -> int:
        return 1

    def encode(self, action: Tensor) -> Tensor:
        return action.reshape(len(action), 1)

    def shift(self, action: Tensor) -> Tensor:
        return self.step * action.reshape(action.shape[0]).clamp(-1.0, 1.0)
