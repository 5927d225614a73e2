"""The rules that a policy switches between, on lists of parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from optenv.rules import SWITCHING, switching
from optenv.rules.switching import Averages

from ..tensors import grad_norm, real
from . import fill
from .base import DEFAULT, wide
from .orthogonal_adam import orthogonalized

__all__ = ["move"]

#: What is kept for a parameter of each of the averages.
KEPT = ("exp_avg", "slow_exp_avg", "exp_avg_sq", "short_exp_avg_sq")


def move(
    state: dict[str, Any],
    groups: Sequence[dict[str, Any]],
    parts: Sequence[Sequence[Tensor]],
    grads: Sequence[Tensor],
    kept: Mapping[Tensor, dict[str, Any]],
    multiplier: float,
    partitioned: bool = False,
) -> dict[str, Any]:
    """Move parameters by one update of :func:`optenv.rules.switching.update`.

    Averages and update are in single precision where parameters are in half. Parameters
    whose learning rate is 0 stay, and so do their averages.

    Args:
        state: of the controller, which has chosen the rule; without a ``"scale"`` between
            a learning rate and the rule's own right after a choice.
        groups: of parameters, whose learning rates in force are noted.
        parts: the parameters of each group that have a gradient.
        grads: theirs, of all parts.
        kept: a dict for each parameter, for the averages (:data:`KEPT`, in the order of
            :class:`~optenv.rules.switching.Averages`) and their ``step``.
        multiplier: of the learning rates.
        partitioned: whether other processes hold further parameters.

    Returns:
        The state, with the scale.
    """
    moving: list[tuple[Tensor, float, float]] = []
    steepest: list[Tensor] = []
    done = 0
    for group, params in zip(groups, parts, strict=True):
        lr = group["effective_lr"] = float(group["lr"]) * multiplier
        fill(SWITCHING, params, [kept[p] for p in params], DEFAULT)
        own, done = grads[done : done + len(params)], done + len(params)
        if lr:
            moving += [(p, lr, group["weight_decay"]) for p in params]
            steepest += [grad.to(wide(grad.dtype)) for grad in own]
    params = [p for p, *_ in moving]
    averages = [Averages(*(real(kept[p][name]) for name in KEPT)) for p in params]
    for p, every, grad in zip(params, averages, steepest, strict=True):
        kept[p]["step"] += 1
        switching.averaged(every, real(grad), inplace=True)
    steps = [kept[p]["step"].item() for p in params]
    known = list(zip(averages, steps, strict=True))
    chosen, scale = switching.NAMES[state["chosen"]], state["scale"]
    directions = _directions(chosen, params, steepest, known)
    if scale is None:
        reference = _directions(switching.REFERENCE, params, steepest, known)
        length = grad_norm(directions, partitioned)
        if chosen in switching.LINEAR:
            usual = grad_norm([switching.usual(*own) for own in known], partitioned)
            length = max(length, switching.LEAST * usual)
        scale = grad_norm(reference, partitioned) / length if length > 0 else 1.0
    for (param, lr, decay), direction in zip(moving, directions, strict=True):
        moved = param.to(wide(param.dtype))  # itself, unless it is in half precision
        if decay:
            moved.mul_(1.0 - lr * decay)
        moved.add_(direction, alpha=-lr * scale)
        if moved is not param:
            param.copy_(moved)
    return {**state, "scale": scale}


def _directions(
    name: str,
    params: list[Tensor],
    grads: list[Tensor],
    known: list[tuple[Averages, float]],
) -> list[Tensor]:
    """Direction of a rule for each parameter, complex where that is."""
    found = []
    for grad, (averages, step) in zip(grads, known, strict=True):
        direction = switching.DIRECTIONS[name](real(grad), averages, step)
        found.append(torch.view_as_complex(direction) if grad.is_complex() else direction)
    return orthogonalized(found, params) if name in switching.ORTHOGONAL else found
