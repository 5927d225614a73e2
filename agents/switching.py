"""The rules that a policy switches between, on lists of parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from optenv import switching
from optenv.switching import Averages

from . import measuring
from .kernels import wide
from .orthogonal import orthogonalized
from .waiting import real

__all__ = ["move"]

#: What is kept for a parameter of each of the averages.
KEPT = ("exp_avg", "slow_exp_avg", "exp_avg_sq", "short_exp_avg_sq")


def move(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    states: Sequence[dict[str, Any]],
    rates: Sequence[float],
    decays: Sequence[float],
    chosen: str,
    scale: float | None = None,
    partitioned: bool = False,
) -> float:
    """Move parameters by one update of :func:`optenv.switching.update`.

    Averages and update are in single precision where parameters are in half.

    Args:
        params: all that have a gradient, of all groups.
        grads: theirs.
        states: a dict for each, with the averages (:data:`KEPT`, in the
            order of :class:`~optenv.switching.Averages`) and their ``step``.
        rates: learning rate of each; what has one of 0 stays, and so do its averages.
        decays: weight decay of each.
        chosen: the rule.
        scale: between a learning rate and the rule's own; None to find it.
        partitioned: whether other processes hold further parameters.

    Returns:
        The scale.
    """
    moving = [i for i, rate in enumerate(rates) if rate]
    own = [params[i] for i in moving]
    steepest = [grads[i].to(wide(grads[i].dtype)) for i in moving]
    kept = [states[i] for i in moving]
    for state, grad in zip(kept, steepest, strict=True):
        state["step"] += 1
        averages = Averages(*(real(state[name]) for name in KEPT))
        switching.averaged(averages, real(grad), inplace=True)
    directions = _directions(chosen, own, steepest, kept)
    if scale is None:
        reference = _directions(switching.REFERENCE, own, steepest, kept)
        lengths = [measuring.norm(d, partitioned) for d in (reference, directions)]
        scale = lengths[0] / lengths[1] if lengths[1] > 0 else 1.0
    for i, param, direction in zip(moving, own, directions, strict=True):
        moved = param.to(wide(param.dtype))  # itself, unless it is in half precision
        if decays[i]:
            moved.mul_(1.0 - rates[i] * decays[i])
        moved.add_(direction, alpha=-rates[i] * scale)
        if moved is not param:
            param.copy_(moved)
    return scale


def _directions(
    name: str, params: list[Tensor], grads: list[Tensor], states: list[dict[str, Any]]
) -> list[Tensor]:
    """Direction of a rule for each parameter, complex where that is."""
    found = []
    for grad, state in zip(grads, states, strict=True):
        averages = Averages(*(real(state[kept]) for kept in KEPT))
        direction = switching.DIRECTIONS[name](real(grad), averages, state["step"].item())
        found.append(torch.view_as_complex(direction) if grad.is_complex() else direction)
    return orthogonalized(found, params) if name in switching.ORTHOGONAL else found
