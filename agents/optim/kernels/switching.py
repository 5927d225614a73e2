"""Kernel of policies that choose update rules (:mod:`optenv.rules.switching`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor

from optenv.rules import switching
from optenv.rules.switching import Moments

from ..tensors import GradientBatch, grad_norm, real, wide
from .base import Kernel, Step
from .orthogonal_stacks import orthogonalized

__all__ = ["KERNELS", "MOMENTS", "update"]

#: Slots of a parameter's state, in the order of :class:`~optenv.rules.switching.Moments`.
MOMENTS = ("exp_avg", "slow_exp_avg", "exp_avg_sq", "short_exp_avg_sq")


def update(batch: GradientBatch, state: dict[str, Any], partitioned: bool) -> None:
    """Update parameters by the rule in force (:func:`optenv.rules.switching.update`).

    For parameters in half precision, moments and update are in single precision. Parameters
    whose learning rate is 0 and their moments are not changed.

    Args:
        batch: gradients; the learning rates in force are ``group["effective_lr"]``. All
            slots have been allocated in the states of the parameters.
        state: state of the controller, which has chosen a rule. If its entry ``"scale"``
            (from the learning rate to the rule's own) is None, as right after a choice, it
            is set.
        partitioned: whether other processes hold further parameters.
    """
    # 1. Update the moments of all rules.
    moving: list[tuple[Tensor, float, float]] = []
    grads: list[Tensor] = []
    flags: list[bool] = []
    parts = zip(batch.by_group(), batch.matrices_by_group(), strict=True)
    for (group, params, group_grads), matrices in parts:
        lr = group["effective_lr"]
        if lr:
            flags += [True] * len(params) if matrices is None else matrices
            moving += [(p, lr, group["weight_decay"]) for p in params]
            grads += [grad.to(wide(grad.dtype)) for grad in group_grads]
    params = [p for p, *_ in moving]
    states = [batch.states[p] for p in params]
    moments = [Moments(*(real(each[name]) for name in MOMENTS)) for each in states]
    for each, of_param, grad in zip(states, moments, grads, strict=True):
        each["step"] += 1
        switching.update_moments(of_param, real(grad), inplace=True)
    counts = [each["step"].item() for each in states]
    counted = list(zip(moments, counts, strict=True))
    # 2. The direction of the rule, and its scale right after a choice.
    chosen = switching.NAMES[state["chosen"]]
    directions = _directions(chosen, params, grads, counted, flags)
    if state["scale"] is None:
        reference = _directions(switching.REFERENCE, params, grads, counted, flags)
        length = grad_norm(directions, partitioned)
        if chosen in switching.LINEAR:
            recent = [switching.recent_rms(*each) for each in counted]
            floor = switching.MIN_LENGTH * grad_norm(recent, partitioned)
            length = max(length, floor)
        wanted = grad_norm(reference, partitioned)
        state["scale"] = wanted / length if length > 0 else 1.0
    # 3. The step.
    for (param, lr, decay), direction in zip(moving, directions, strict=True):
        moved = param.to(wide(param.dtype))  # itself, unless it is in half precision
        if decay:
            moved.mul_(1.0 - lr * decay)
        moved.add_(direction, alpha=-lr * state["scale"])
        if moved is not param:
            param.copy_(moved)


def _directions(
    name: str,
    params: list[Tensor],
    grads: list[Tensor],
    counted: list[tuple[Moments, float]],
    matrices: Sequence[bool],
) -> list[Tensor]:
    """Compute the direction of a rule for each parameter, in the parameter's shape.

    Args:
        name: name of the rule.
        params: parameters.
        grads: their gradients, in single or double precision.
        counted: moments of each parameter, and the number of gradients in them.
        matrices: whether each may be treated as a matrix.
    """
    directions = []
    for grad, (moments, count) in zip(grads, counted, strict=True):
        direction = switching.DIRECTIONS[name](real(grad), moments, count)
        complex_ = grad.is_complex()
        directions.append(torch.view_as_complex(direction) if complex_ else direction)
    if name in switching.ORTHOGONAL:
        return orthogonalized(directions, params, matrices)
    return directions


def _refuse(step: Step) -> NoReturn:
    """Refuse to update one group: the scale depends on the directions of all groups."""
    raise TypeError("the rule 'switching' updates all groups at once")


KERNELS: dict[str, Kernel] = {"switching": Kernel(_refuse, frozenset({"step", *MOMENTS}))}
