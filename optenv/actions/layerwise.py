"""A learning rate for each parameter tensor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from gymnasium import spaces
from torch import Tensor

from ..checks import positive_int
from ..tensor_telemetry import TENSOR_FEATURES
from .base import Action, Decision

__all__ = ["LayerwiseMultipliers"]


@dataclass(frozen=True)
class LayerwiseMultipliers(Action):
    """One number in [-1, 1] for each parameter tensor: ``s_t <- clip(s_t + step * a_t)``.

    The learning rate of tensor ``t`` is the base rate times the schedule times
    ``exp(s_t)``. The features of the run describe the mean of ``s_t`` over all tensors. A
    policy decides on one tensor at a time, from an observation of the run and of that
    tensor (:mod:`optenv.tensor_telemetry`), so that it can act on any number of tensors, in
    any order.

    Attributes:
        bound, start, schedule: see :class:`Action`.
        step: largest change of each ``s_t`` per control step, in nats.
        tensors: number of entries of an environment's action, and largest number of
            parameter tensors of a model. If a model has fewer, the last entries have no
            effect. Optimizers have no such limit.
    """

    step: float = 0.9
    tensors: int = 64
    kind: ClassVar[str] = "layerwise"
    per_tensor: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self._as_positive("step")
        object.__setattr__(self, "tensors", positive_int("tensors", self.tensors))

    def space(self, dtype: type[np.floating] = np.float32) -> spaces.Box:
        return spaces.Box(-1.0, 1.0, (self.tensors,), dtype)

    def policy_space(self, dtype: type[np.floating] = np.float32) -> spaces.Box:
        return spaces.Box(-1.0, 1.0, (1,), dtype)

    @property
    def outputs(self) -> int:
        return 1

    @property
    def observed(self) -> int:
        """Number of features of each tensor, which are observed instead of :meth:`show`."""
        return len(TENSOR_FEATURES)

    @property
    def slots(self) -> int:
        return self.tensors

    def encode(self, action: Tensor) -> Tensor:
        """Return actions ``[B, K]`` unchanged; actions on single tensors are ``[B, 1]``."""
        return action.reshape(len(action), -1)

    def shift(self, action: Tensor) -> Tensor:
        """Return the mean change ``[B]`` that actions ``[B, T]`` request, in nats."""
        return self._shifts(action).mean(1)

    def _shifts(self, action: Tensor) -> Tensor:
        return self.step * action.clamp(-1.0, 1.0)

    def decode(
        self, action: Tensor, log_multiplier: Tensor, part_multipliers: Tensor | None = None
    ) -> Decision:
        """Decode a batch of actions; see :meth:`Action.decode`.

        Args:
            action: actions, ``[B, K]``; only the first ``T`` entries are used.
            log_multiplier: log-multipliers before the action, ``[B]``.
            part_multipliers: log-multipliers of the ``T`` tensors before the action,
                ``[B, T]``; by default ``log_multiplier`` for ``K`` tensors.
        """
        if part_multipliers is None:
            part_multipliers = log_multiplier.unsqueeze(1).expand(-1, action.shape[1])
        shifts = self._shifts(action[:, : part_multipliers.shape[1]])
        shifts = shifts.to(log_multiplier.dtype)
        moved = self._move(part_multipliers, shifts)
        return Decision(moved.mean(1), shifts.mean(1), None, {}, moved, shifts)
