"""Modifiers of updates: weight decay, clipping, averaging, learning rates of parts.

They work the same in environments and in exported optimizers. An action sets them by name,
like hyperparameters of the update rule (:class:`optenv.actions.Hyperparameters`).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = [
    "CLIP_MEMORY",
    "CLIP_WARMUP",
    "MODIFIERS",
    "UNMODIFIED",
    "Modifiers",
    "average_weight",
    "clip",
]

#: Names of the modifiers that are one number for each run.
MODIFIERS = ("weight_decay", "clip", "average")

#: Number of gradients before one can be clipped.
CLIP_WARMUP = 1

#: Number of gradients over which their squared norms are averaged.
CLIP_MEMORY = 100


class Modifiers(NamedTuple):
    """Modifiers of the updates of ``B`` runs; None for no change.

    Attributes:
        lr_factors: factors of the learning rate of each parameter, ``[B, P]``.
        weight_decay: decoupled weight decay (Loshchilov & Hutter, 2019), ``[B]``.
        clip: largest norm of a gradient ``[B]``, in units of the root mean square of the
            norms so far. The first :data:`CLIP_WARMUP` gradients are not clipped.
        average: exponent :math:`q` in [0, 1] of the average of the parameters, ``[B]``:
            after :math:`t` updates, it averages over about the last :math:`t^q`. With 0 it
            is the last parameters, with 1 the mean of all since the first update.
        update: updates ``[B, P]`` in units of the learning rate, in place of the rule's.
    """

    lr_factors: Tensor | None = None
    weight_decay: Tensor | None = None
    clip: Tensor | None = None
    average: Tensor | None = None
    update: Tensor | None = None


#: Updates as the rule makes them.
UNMODIFIED = Modifiers()


def clip(
    grad: Tensor, ratio: Tensor, mean_square: Tensor, updates: Tensor
) -> tuple[Tensor, Tensor]:
    """Clip the gradients of runs, and update the mean square of their norms.

    Args:
        grad: gradients, ``[B, P]``.
        ratio: see ``clip`` of :class:`Modifiers`, ``[B]``.
        mean_square: mean square of the norms before, ``[B]``.
        updates: number of updates before, ``[B]``.

    Returns:
        Clipped gradients ``[B, P]``, and mean squares ``[B]`` in which clipped norms count
        as clipped.
    """
    norm = torch.linalg.vector_norm(grad, dim=1)
    limit = ratio * mean_square.sqrt()
    is_outlier = (norm > limit) & (updates >= CLIP_WARMUP) & (limit > 0)
    clipped = torch.where(is_outlier, limit, norm)
    count = (updates + 1).clamp(max=CLIP_MEMORY)
    mean_square = mean_square + (clipped.square() - mean_square) / count
    factor = torch.where(is_outlier, limit / norm, 1.0)
    return grad * factor.unsqueeze(1), mean_square


def average_weight(updates: Tensor, exponent: Tensor) -> Tensor:
    """Return the weight ``[B]`` of the newest parameters in their average.

    Args:
        updates: number of updates, this one included, ``[B]``.
        exponent: see ``average`` of :class:`Modifiers`, ``[B]``.
    """
    return updates.to(exponent.dtype).pow(-exponent)
