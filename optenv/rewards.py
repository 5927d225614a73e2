"""Progress on the loss, as a bounded potential whose differences are the rewards.

With ``L`` the loss on a run's fixed probe examples and ``L0`` its value before the first
update, the potential is ``phi(L) = log((L + EPSILON * L0) / ((1 + EPSILON) * L0))``: 0 at
the start and never below ``log(EPSILON / (1 + EPSILON))``. The reward of a control step
is the decrease of ``phi``, so that the return is ``-phi`` at the end, whatever the path.

A run whose potential passes :data:`BOUND` *is* diverged: its potential becomes
:data:`WORST`, above the bound, and stays there. It thus returns less than every run
that has not diverged, and no clipping breaks the sum.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

EPSILON = 0.003
BOUND = math.log(20.0)
WORST = BOUND + 1.0

#: Which examples the reward's loss is taken on: ``reward=`` of the environments.
SOURCES = ("train", "validation")


def validate(source: str) -> str:
    """Return ``source``.

    Raises:
        ValueError: it is not one of :data:`SOURCES`.
    """
    if source not in SOURCES:
        raise ValueError(f"unknown reward {source!r}; valid: {', '.join(SOURCES)}")
    return source


def potential(loss: Tensor, initial_loss: Tensor) -> Tensor:
    """Potential of a loss: ``[B], [B] -> [B]``, :data:`WORST` where it is diverged."""
    phi = ((loss / initial_loss + EPSILON) / (1 + EPSILON)).log()
    return torch.where(phi <= BOUND, phi, torch.full_like(phi, WORST))


def is_diverged(phi: Tensor) -> Tensor:
    """Which potentials are those of diverged runs, ``[B]`` bool."""
    return phi > BOUND
