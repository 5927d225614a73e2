"""Action that sets a learning rate for each role of parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from gymnasium import spaces
from torch import Tensor

from ..roles import ROLES
from .base import Action, Decision

__all__ = ["RoleMultipliers"]


@dataclass(frozen=True)
class RoleMultipliers(Action):
    """One number in [-1, 1] for each role of parameter: ``s_r <- clip(s_r + step * a_r)``.

    The learning rate of a parameter of role ``r`` is the base rate times the schedule times
    ``exp(s_r)``, with roles from :attr:`optenv.tasks.Task.roles`. The number of a role that
    the model does not have is ignored. The features describe the mean of ``s_r`` over all
    roles; the difference of each ``s_r`` from the mean, divided by 3, is observed as well.

    Attributes:
        bound, start, schedule: see :class:`Action`.
        step: largest change of each ``s_r`` per control step, in nats.
    """

    step: float = 0.9
    kind: ClassVar[str] = "roles"
    roles: ClassVar[tuple[str, ...]] = ROLES

    def __post_init__(self) -> None:
        super().__post_init__()
        self._as_positive("step")

    def space(self, dtype: type[np.floating] = np.float32) -> spaces.Box:
        return spaces.Box(-1.0, 1.0, (self.outputs,), dtype)

    @property
    def outputs(self) -> int:
        return len(self.roles)

    @property
    def observed(self) -> int:
        return len(self.roles)

    def encode(self, action: Tensor) -> Tensor:
        return action.reshape(len(action), self.outputs)

    def observe(self, action: Tensor, decision: Decision) -> Tensor:
        assert decision.part_multipliers is not None
        return (decision.part_multipliers - decision.log_multiplier.unsqueeze(1)) / 3.0

    def shift(self, action: Tensor) -> Tensor:
        return self._shifts(action).mean(1)

    def _shifts(self, action: Tensor) -> Tensor:
        return self.step * self.encode(action).clamp(-1.0, 1.0)

    def decode(
        self, action: Tensor, log_multiplier: Tensor, part_multipliers: Tensor | None = None
    ) -> Decision:
        if part_multipliers is None:
            part_multipliers = log_multiplier.unsqueeze(1).expand(-1, self.outputs)
        shifts = self._shifts(action).to(log_multiplier.dtype)
        moved = self._move(part_multipliers, shifts)
        return Decision(moved.mean(1), shifts.mean(1), None, {}, moved, shifts)
