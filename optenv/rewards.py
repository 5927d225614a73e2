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

#: Which examples a loss is taken on, by the name of the reward: ``reward=`` of the
#: environments. With ``"both"``, the potential is the mean of the two.
SOURCES: dict[str, tuple[str, ...]] = {
    "train": ("train",),
    "validation": ("validation",),
    "both": ("train", "validation"),
}


def sources(reward: str) -> tuple[str, ...]:
    """Sources of the losses of ``reward``.

    Raises:
        ValueError: it is not one of :data:`SOURCES`.
    """
    if reward not in list(SOURCES):
        raise ValueError(f"unknown reward {reward!r}; valid: {', '.join(SOURCES)}")
    return SOURCES[reward]


def potential(loss: Tensor, initial_loss: Tensor) -> Tensor:
    """Mean potential of the losses of each run, ``[B, S], [B, S] -> [B]``.

    :data:`WORST` where one of them is diverged.
    """
    phi = ((loss / initial_loss + EPSILON) / (1 + EPSILON)).log()
    sound = (phi <= BOUND).all(-1)
    return torch.where(sound, phi.mean(-1), torch.full_like(phi[:, 0], WORST))


def is_diverged(phi: Tensor) -> Tensor:
    """Which potentials are those of diverged runs, ``[B]`` bool."""
    return phi > BOUND
