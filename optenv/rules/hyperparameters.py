"""Hyperparameters of the update rules: their defaults and ranges."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from ..checks import is_number

#: Inputs of the network of :func:`optenv.rules.mlp.network`.
NETWORK_INPUTS = 7


@dataclass(frozen=True)
class Hyperparameters:
    r"""What a rule holds fixed; the defaults are torch's, of most rules.

    With a ``power`` :math:`p > 0`, the mean square decays by :math:`\min(\beta_2,
    1 - t^{-p})` at update ``t``, without bias correction, as Adafactor's does (Shazeer &
    Stern, 2018, with 0.8): it is of about the last :math:`t^p` gradients, few early in
    the run and many late.

    ``weights`` are those of a network with one hidden layer,
    :func:`optenv.rules.mlp.correct`
    says in which order: ``10 n + 2`` of them for ``n`` units, or none.

    Raises:
        ValueError: ``eps`` is not positive, ``momentum_decay`` is negative, another is not
            in [0, 1), or there are no networks of so many weights.
        TypeError: one is no number.
    """

    momentum: float = 0.9
    alpha: float = 0.99
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    power: float = 0.0
    momentum_decay: float = 4e-3
    weights: Sequence[float] = ()

    def __post_init__(self) -> None:
        values = asdict(self)
        object.__setattr__(self, "weights", _checked(values.pop("weights")))
        for name, value in values.items():
            if not is_number(value):
                raise TypeError(f"{name} must be a number, got {value!r}")
            if name == "eps":
                valid, wanted = 0 < value < math.inf, "be positive and finite"
            elif name == "momentum_decay":
                valid, wanted = 0 <= value < math.inf, "be at least 0 and finite"
            else:
                valid, wanted = 0 <= value < 1, "lie in [0, 1)"
            if not valid:
                raise ValueError(f"{name} must {wanted}, got {value!r}")
            object.__setattr__(self, name, float(value))

    def decay(self, step: Any) -> Any:
        """Decay of the mean square at update ``step``, a number or a tensor from 1 on."""
        if self.power == 0:
            return self.beta2
        grown = 1 - step**-self.power
        return (
            grown.clamp(max=self.beta2)
            if isinstance(grown, Tensor)
            else min(grown, self.beta2)
        )


def _checked(weights: Any) -> tuple[float, ...]:
    """The weights of a network."""
    units = NETWORK_INPUTS + 3
    if not isinstance(weights, Sequence) or not all(map(is_number, weights)):
        raise TypeError(f"weights must be a list of numbers, got {weights!r}")
    if (len(weights) and (len(weights) - 2) % units) or 0 < len(weights) < units:
        raise ValueError(
            f"there must be {units} n + 2 weights of n hidden units, or none, "
            f"got {len(weights)}"
        )
    if not all(map(math.isfinite, weights)):
        raise ValueError(f"weights must be finite, got {list(weights)}")
    return tuple(map(float, weights))


#: Those of torch, which most rules start from.
HYPERPARAMETERS = Hyperparameters()

#: Those of Lion's authors, whose mean forgets faster than a mean square.
LION = Hyperparameters(beta2=0.99)
