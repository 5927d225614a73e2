"""Actions that move the multiplier of a learning rate, and its base schedules."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from gymnasium import spaces
from torch import Tensor

from .checks import is_number


def _constant(progress: float) -> float:
    return 1.0


def _cosine(progress: float) -> float:
    """Half a cosine from 1 to 0 (Loshchilov & Hutter, 2017)."""
    return 0.5 * (1.0 + math.cos(math.pi * min(max(progress, 0.0), 1.0)))


def _wsd(progress: float) -> float:
    """Stable, then decayed linearly over the last 30 % (Hu et al., 2024)."""
    return min(1.0, max(1.0 - progress, 0.0) / 0.3)


SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": _constant,
    "cosine": _cosine,
    "wsd": _wsd,
}


@dataclass(frozen=True)
class Action:
    """Common part of the learning-rate actions.

    Attributes:
        bound: largest absolute log-multiplier, in nats.
        start: log-multiplier before the first action.
        schedule: name of the base schedule, a key of :data:`SCHEDULES`.
    """

    bound: float = 6.0
    start: float = 0.0
    schedule: str = "constant"
    kind: ClassVar[str]

    def __post_init__(self) -> None:
        self._as_floats("bound", "start")
        if not self.bound > 0:
            raise ValueError(f"bound must be positive, got {self.bound!r}")
        if not abs(self.start) <= self.bound:
            raise ValueError(f"start must lie within ±{self.bound}, got {self.start!r}")
        if self.schedule not in SCHEDULES:
            raise ValueError(
                f"unknown schedule {self.schedule!r}; valid schedules: "
                f"{', '.join(SCHEDULES)}"
            )

    def _as_floats(self, *names: str) -> None:
        """Make plain floats of fields, as a policy file can hold no other numbers."""
        for name in names:
            value = getattr(self, name)
            if not is_number(value):
                raise TypeError(f"{name} must be a number, got {value!r}")
            object.__setattr__(self, name, float(value))

    def space(self, dtype: type[np.floating] = np.float32) -> spaces.Space[Any]:
        """Gymnasium space of one action."""
        raise NotImplementedError

    def shift(self, action: Tensor) -> Tensor:
        """Change of the log-multiplier, ``[B]``, that a batch of actions asks for."""
        raise NotImplementedError

    def apply(self, action: Tensor, log_multiplier: Tensor) -> Tensor:
        """Log-multiplier after the action: both tensors ``[B]``, result ``[B]``."""
        moved = log_multiplier + self.shift(action).to(log_multiplier.dtype)
        return moved.clamp(-self.bound, self.bound)

    @property
    def outputs(self) -> int:
        """Numbers that a policy says an action in, and that :meth:`encode` has."""
        raise NotImplementedError

    def encode(self, action: Tensor) -> Tensor:
        """A batch of actions as an observation of them, ``[B, outputs]``."""
        raise NotImplementedError

    @property
    def observed(self) -> int:
        """Numbers that are observed, beside the telemetry, of the last action."""
        return 0

    def show(self, action: Tensor) -> Tensor:
        """Those numbers of a batch of actions, ``[B, observed]``."""
        return action.new_zeros(len(action), 0)

    def choose(self, action: Tensor) -> Tensor:
        """Update rules that a batch of actions chooses: indices ``[B]`` of
        :data:`optenv.rules.switching.NAMES`; -1 where there is no choice.
        """
        return torch.full((len(action),), -1, device=action.device)

    def factor(self, progress: float) -> float:
        """Base schedule at ``progress`` in [0, 1]."""
        return SCHEDULES[self.schedule](progress)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able description; :func:`make` reads it back."""
        return {"kind": self.kind, **asdict(self)}


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
        self._as_floats("step")
        if not 0 < self.step < math.inf:
            raise ValueError(f"step must be positive and finite, got {self.step!r}")

    def space(self, dtype: type[np.floating] = np.float32) -> spaces.Box:
        return spaces.Box(-1.0, 1.0, (1,), dtype)

    def shift(self, action: Tensor) -> Tensor:
        return self.step * action.reshape(len(action)).clamp(-1.0, 1.0)

    @property
    def outputs(self) -> int:
        return 1

    def encode(self, action: Tensor) -> Tensor:
        return action.reshape(len(action), 1)


@dataclass(frozen=True)
class Discrete(Action):
    """An index into a table of multipliers: ``s <- clip(s + log(multipliers[a]))``.

    Attributes:
        multipliers: positive, increasing, and 1.0 (leave it as it is) among them.
    """

    multipliers: tuple[float, ...] = tuple(2.0 ** (k / 2) for k in range(-3, 4))
    kind: ClassVar[str] = "discrete"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not all(map(is_number, self.multipliers)):
            raise TypeError(f"multipliers must be numbers, got {self.multipliers!r}")
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
        return spaces.Discrete(len(self.multipliers))

    def shift(self, action: Tensor) -> Tensor:
        table = torch.tensor(self.multipliers, dtype=torch.float64, device="cpu").log()
        return table.to(action.device)[action.reshape(len(action)).long()]

    @property
    def outputs(self) -> int:
        return len(self.multipliers)

    def encode(self, action: Tensor) -> Tensor:
        return F.one_hot(action.reshape(len(action)).long(), self.outputs)
