"""Action that chooses an update rule and a multiplier of the learning rate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ..rules import switching
from .discrete import Discrete

__all__ = ["RuleChoice"]


@dataclass(frozen=True)
class RuleChoice(Discrete):
    """An index into a table of update rules and multipliers.

    With ``M`` multipliers, action ``a`` chooses ``rules[a // M]``, and
    ``s <- clip(s + log(multipliers[a % M]))``.

    Attributes:
        bound, start, schedule: see :class:`Action`.
        multipliers: see :class:`Discrete`.
        rules: different names out of :data:`optenv.rules.switching.NAMES`.
    """

    multipliers: tuple[float, ...] = (0.5, 1.0, 2.0)
    rules: tuple[str, ...] = switching.NAMES
    kind: ClassVar[str] = "rule"
    chooses_rule: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "rules", switching.check(self.rules))

    @property
    def outputs(self) -> int:
        return len(self.rules) * len(self.multipliers)

    @property
    def observed(self) -> int:
        return len(self.rules)

    def show(self, action: Tensor) -> Tensor:
        return F.one_hot(self._position(action), len(self.rules))

    def shift(self, action: Tensor) -> Tensor:
        return super().shift(action % len(self.multipliers))

    def choose(self, action: Tensor) -> Tensor:
        indices = [switching.NAMES.index(name) for name in self.rules]
        table = torch.tensor(indices, device="cpu")  # whatever torch's default device is
        return table.to(action.device)[self._position(action)]

    def _position(self, action: Tensor) -> Tensor:
        """Return the chosen indices ``[B]`` into :attr:`rules`."""
        index = action.reshape(len(action)).long()
        return index.div(len(self.multipliers), rounding_mode="floor")
