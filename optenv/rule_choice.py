"""Actions that choose which update rule moves the parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from gymnasium import spaces
from torch import Tensor

from .multipliers import Discrete
from .rules import switching


@dataclass(frozen=True)
class RuleChoice(Discrete):
    """An index into a table of update rules and multipliers.

    With ``M`` multipliers, action ``a`` chooses ``rules[a // M]``, and
    ``s <- clip(s + log(multipliers[a % M]))``.

    Attributes:
        bound, start, schedule: as of :class:`Discrete`.
        multipliers: as of :class:`Discrete`.
        rules: names out of :data:`optenv.rules.switching.NAMES`, each once.
    """

    multipliers: tuple[float, ...] = (0.5, 1.0, 2.0)
    rules: tuple[str, ...] = switching.NAMES
    kind: ClassVar[str] = "rule"

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "rules", switching.check(self.rules))

    def space(self, dtype: type[np.floating] = np.float32) -> spaces.Discrete:
        return spaces.Discrete(self.outputs)

    def shift(self, action: Tensor) -> Tensor:
        return super().shift(action % len(self.multipliers))

    @property
    def outputs(self) -> int:
        return len(self.rules) * len(self.multipliers)

    @property
    def observed(self) -> int:
        return len(self.rules)

    def show(self, action: Tensor) -> Tensor:
        return F.one_hot(self._position(action), len(self.rules))

    def choose(self, action: Tensor) -> Tensor:
        names = [switching.NAMES.index(name) for name in self.rules]
        table = torch.tensor(names, device="cpu")  # whatever torch's default device
        return table.to(action.device)[self._position(action)]

    def _position(self, action: Tensor) -> Tensor:
        whole = action.reshape(len(action)).long()
        return whole.div(len(self.multipliers), rounding_mode="floor")
