"""Action that is the update of the parameters itself, for functions of few parameters."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from gymnasium import spaces
from torch import Tensor

from ..checks import positive_int
from .base import Action, Decision

__all__ = ["Update"]

#: Observed value of a gradient entry that equals the norm of the run's first gradient.
UNIT = 3.0


@dataclass(frozen=True)
class Update(Action):
    r"""One number in [-1, 1] for each parameter: its update (Li & Malik, 2017).

    The action replaces the update rule. Each update of the control step adds

    .. math:: \Delta_i = \eta \frac{\sinh(k a_i)}{\sinh k}

    to parameter :math:`i`, with the base learning rate :math:`\eta` and :math:`k` from
    :attr:`fineness`: :math:`\eta` is the largest change, small changes have a fine
    resolution, and the sign is that of the action.

    The features of the run are followed by the parameters, the gradient, the gradients at
    the :attr:`history` previous control steps, and the differences between the present loss
    and the losses at those control steps:

    - parameters unchanged;
    - gradients relative to the norm of the run's first one, as
      :math:`3 \operatorname{arsinh}(x \sinh k) / k`. An action that is :math:`-1/3` times
      the observed gradient is thus a step of gradient descent, at first of length
      :math:`\eta`;
    - differences of the training loss relative to the range of the losses so far, as
      :math:`\operatorname{arsinh}(100 x) / 2`.

    For control steps before the first, gradients and differences are 0.

    Attributes:
        bound, start, schedule: see :class:`Action`.
        dim: number of entries of an action, and largest number of parameters. If a task has
            fewer, the last entries have no effect and are observed as 0. None to derive it
            from the tasks; an environment fills it in by :meth:`for_sizes`.
        fineness: :math:`k`.
        history: number of past gradients and losses that are observed.
    """

    dim: int | None = None
    fineness: float = 6.0
    history: int = 3
    kind: ClassVar[str] = "update"
    is_update: ClassVar[bool] = True
    not_exported: ClassVar[str] = (
        "its action is the update of the few parameters of a test function, and an "
        "optimizer has models of any size; no policy file can hold it"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self._as_positive("fineness")
        if self.fineness > 50:
            raise ValueError(f"fineness must be at most 50, got {self.fineness!r}")
        if self.dim is not None:
            object.__setattr__(self, "dim", positive_int("dim", self.dim))
        object.__setattr__(self, "history", positive_int("history", self.history))

    def for_sizes(self, most: int) -> Update:
        return self if self.dim is not None else replace(self, dim=most)

    @property
    def max_params(self) -> int:
        return self._size

    @property
    def _size(self) -> int:
        if self.dim is None:
            raise ValueError(
                "the dim of this action is left to the tasks of an environment; dim=2, "
                "say, sets it"
            )
        return self.dim

    def space(self, dtype: type[np.floating[Any]] = np.float32) -> spaces.Box:
        return spaces.Box(-1.0, 1.0, (self.outputs,), dtype)

    @property
    def outputs(self) -> int:
        return self._size

    @property
    def observed(self) -> int:
        return self._size * (2 + self.history) + self.history

    @property
    def memory(self) -> int:
        # Past gradients and losses; first norm, lowest and highest loss.
        return (self._size + 1) * self.history + 3

    def encode(self, action: Tensor) -> Tensor:
        return action.reshape(len(action), self.outputs)

    def shift(self, action: Tensor) -> Tensor:
        return action.new_zeros(len(action))

    def decode(
        self, action: Tensor, log_multiplier: Tensor, part_multipliers: Tensor | None = None
    ) -> Decision:
        decision = super().decode(action, log_multiplier, part_multipliers)
        given = self.encode(action).to(log_multiplier.dtype).clamp(-1.0, 1.0)
        update = (self.fineness * given).sinh() / math.sinh(self.fineness)
        return decision._replace(update=update)

    def observe_run(
        self, memory: Tensor, params: Tensor, grad: Tensor, loss: Tensor, is_first: Tensor
    ) -> tuple[Tensor, Tensor]:
        size, past = self._size, self.history
        missing = size - params.shape[1]
        params, grad = (F.pad(part, (0, missing)) for part in (params, grad))
        # 1. The memory; at the first control step, the loss has not changed so far.
        grads, losses, norm, low, high = memory.split([size * past, past, 1, 1, 1], dim=1)
        loss, first = loss.unsqueeze(1), is_first.unsqueeze(1)
        norm = torch.where(first, torch.linalg.vector_norm(grad, dim=1, keepdim=True), norm)
        losses = torch.where(first, loss, losses)
        low = torch.where(first, loss, low.minimum(loss))
        high = torch.where(first, loss, high.maximum(loss))
        # 2. The observation, in which 0 / 0 counts as 0.
        relative = torch.where(norm > 0, grad / norm, 0.0)
        grads_seen = (relative * math.sinh(self.fineness)).asinh() * (UNIT / self.fineness)
        change = torch.where(high > low, (loss - losses) / (high - low), 0.0)
        seen = [params, grads_seen, grads, (100.0 * change).asinh() / 2.0]
        # 3. The new memory, latest values first.
        grads = torch.cat([grads_seen, grads], dim=1)[:, : size * past]
        losses = torch.cat([loss, losses], dim=1)[:, :past]
        kept = torch.cat([grads, losses, norm, low, high], dim=1)
        return torch.cat(seen, dim=1), kept
