"""Modifiers of updates that a policy can set: clipping and averaging.

These are the modifiers of :mod:`optenv.modifiers`, on lists of tensors. (Weight decay is
applied by :mod:`agents.optim.kernels`.)
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from optenv.actions import Action
from optenv.modifiers import CLIP_MEMORY, CLIP_WARMUP

from ..policy.module import Policy
from .state_keys import AVERAGE
from .tensors import GradientBatch, grad_norm, wide

__all__ = [
    "allocate_averages",
    "clip_gradients",
    "initial_settings",
    "settings_in_force",
    "update_average",
]


def initial_settings(policy: Policy) -> list[float]:
    """Return the settings before the first action, in the order of ``action.sets``.

    These are the hyperparameters of the rule, and 0 (off) for weight decay, clipping and
    averaging.
    """
    rule = policy.rule
    return [
        float(getattr(rule.hyperparameters, name)) if name in rule.fields else 0.0
        for name in policy.action.sets
    ]


def settings_in_force(action: Action, state: Mapping[str, Any]) -> dict[str, float]:
    """Return the settings of the last action, by name; empty if the action sets none."""
    if not action.sets or "settings" not in state:
        return {}
    return dict(zip(action.sets, state["settings"][0].tolist(), strict=True))


def clip_gradients(
    batch: GradientBatch, state: dict[str, Any], ratio: float, partitioned: bool
) -> GradientBatch:
    """Scale the gradients down to a largest norm, as :func:`optenv.modifiers.clip` does.

    Args:
        batch: gradients of the step.
        state: state of the controller, after it has counted the step; its entry
            ``grad_mean_square`` is updated.
        ratio: largest norm, in units of the root mean square of the norms so far; 0 for no
            limit.
        partitioned: whether other processes hold further gradients.
    """
    norm, mean_square = grad_norm(batch.grads, partitioned), state["grad_mean_square"]
    limit = ratio * math.sqrt(mean_square)
    is_outlier = norm > limit > 0 and state["steps"] > CLIP_WARMUP
    clipped = limit if is_outlier else norm
    mean_square += (clipped * clipped - mean_square) / min(state["steps"], CLIP_MEMORY)
    state["grad_mean_square"] = mean_square
    if not is_outlier:
        return batch
    return batch.with_grads([grad * (limit / norm) for grad in batch.grads])


def allocate_averages(batch: GradientBatch) -> None:
    """Allocate the averages of parameters that have none, equal to the parameters."""
    for p in batch.params:
        if AVERAGE not in batch.states[p]:
            batch.states[p][AVERAGE] = p.detach().to(wide(p.dtype), copy=True)


def update_average(
    batch: GradientBatch, state: Mapping[str, Any], exponent: float, is_last: bool
) -> None:
    """Update the averages of the parameters, as :func:`optenv.core.advance` does.

    Args:
        batch: parameters that have moved.
        state: state of the controller, after it has counted the step.
        exponent: exponent in [0, 1] of the average's weight ``step ** -exponent`` for the
            new parameters.
        is_last: whether the run ends with this step; the parameters are then replaced by
            their averages.
    """
    weight = max(state["steps"], 1) ** -exponent
    allocate_averages(batch)  # of parameters that move for the first time
    for p in batch.params:
        average = batch.states[p][AVERAGE]
        average.lerp_(p.detach().to(average.dtype), weight)
        if is_last:
            p.copy_(average)
