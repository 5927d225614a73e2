"""Action that sets several hyperparameters by name."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from ..modifiers import MODIFIERS
from ..rules import Rule
from .base import Action

__all__ = ["DECAY_RATES", "NAMES", "RANGES", "Hyperparameters"]


#: Values of a hyperparameter at the actions -1, 0 and 1; in between, their logarithm is
#: interpolated linearly. Decay rates of averages are given as ``1 - rate``.
RANGES: dict[str, tuple[float, float, float]] = {
    "momentum": (0.5, 0.1, 0.01),
    "beta1": (0.5, 0.1, 0.01),
    "beta2": (5e-2, 1e-3, 1e-4),
    "weight_decay": (1e-4, 1e-2, 1.0),
    "clip": (0.3, 3.0, 30.0),
}

#: Names in :data:`RANGES` whose values are given as one minus the value.
DECAY_RATES = ("momentum", "beta1", "beta2")

#: Names that :class:`Hyperparameters` can set, in their default order.
NAMES = ("learning_rate", *RANGES, "average")


@dataclass(frozen=True)
class Hyperparameters(Action):
    """One number in [-1, 1] for each name: the learning rate and other hyperparameters.

    The learning rate moves as with :class:`Continuous`. Each action sets the others to new
    values, see :data:`RANGES`; ``"average"``, the exponent of the average of the parameters
    that is evaluated (:class:`optenv.modifiers.Modifiers`), is ``(a + 1) / 2``. Before the
    first action, the rule's own hyperparameters apply, without weight decay, clipping or
    averaging.

    Attributes:
        bound, start, schedule: see :class:`Action`.
        step: largest change of ``s`` per control step, in nats.
        names: names to set: ``"learning_rate"``, ``"average"`` or keys of :data:`RANGES`.
            None for all that the update rule has, in the order of :data:`NAMES`; an
            environment fills them in by :meth:`for_rule`, and policy files list them.

    Example:
        >>> from optenv import actions, rules
        >>> actions.Hyperparameters().for_rule(rules.get("momentum")).names
        ('learning_rate', 'momentum', 'weight_decay', 'clip', 'average')
    """

    step: float = 0.9
    names: tuple[str, ...] | None = None
    kind: ClassVar[str] = "hyperparameters"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._as_positive("step")
        if self.names is None:
            return
        if not isinstance(self.names, (tuple, list)) or not self.names:
            raise TypeError(f"names must be a tuple of names or None, got {self.names!r}")
        for name in self.names:
            if name not in NAMES:
                raise ValueError(
                    f"unknown hyperparameter {name!r}; valid: {', '.join(NAMES)}"
                )
        if len(set(self.names)) < len(self.names):
            raise ValueError(f"names must differ from each other, got {self.names!r}")
        object.__setattr__(self, "names", tuple(self.names))

    def for_rule(self, rule: Rule) -> Hyperparameters:
        if self.names is not None:
            return self
        present = ("learning_rate", *rule.fields, *MODIFIERS)
        return replace(self, names=tuple(name for name in NAMES if name in present))

    @property
    def named(self) -> tuple[str, ...]:
        """Names that the action sets.

        Raises:
            ValueError: ``names`` is None, so that they depend on the update rule.
        """
        if self.names is None:
            raise ValueError(
                "the names of this action are left to an update rule; for_rule(rule) fills "
                "them in, and names=(...) sets them"
            )
        return self.names

    @property
    def sets(self) -> tuple[str, ...]:  # type: ignore[override]
        return tuple(name for name in self.named if name != "learning_rate")

    def space(self, dtype: type[np.floating] = np.float32) -> spaces.Box:
        return spaces.Box(-1.0, 1.0, (self.outputs,), dtype)

    @property
    def outputs(self) -> int:
        return len(self.named)

    @property
    def observed(self) -> int:
        return len(self.sets)

    def encode(self, action: Tensor) -> Tensor:
        return action.reshape(len(action), self.outputs)

    def show(self, action: Tensor) -> Tensor:
        columns = [self.named.index(name) for name in self.sets]
        return self._values(action)[:, columns]

    def shift(self, action: Tensor) -> Tensor:
        if "learning_rate" not in self.named:
            return action.new_zeros(len(action))
        return self.step * self._values(action)[:, self.named.index("learning_rate")]

    def hyperparameters(self, action: Tensor) -> dict[str, Tensor]:
        values = self._values(action).unbind(1)
        return {
            name: _hyperparameter(name, value)
            for name, value in zip(self.named, values, strict=True)
            if name != "learning_rate"
        }

    def _values(self, action: Tensor) -> Tensor:
        return self.encode(action).clamp(-1.0, 1.0)


def _hyperparameter(name: str, action: Tensor) -> Tensor:
    """Return the values ``[B]`` of a hyperparameter at actions ``[B]`` in [-1, 1]."""
    if name == "average":
        return 0.5 * (action + 1.0)
    low, middle, high = map(math.log, RANGES[name])
    slope = torch.where(action < 0, middle - low, high - middle)
    value = (middle + action * slope).exp()
    return 1.0 - value if name in DECAY_RATES else value
