"""One step of a policy that drives parameters: measure, decide, count, remember."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from . import controller, measuring
from .policy import Policy

__all__ = ["drive"]


def drive(
    policy: Policy,
    state: controller.State,
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    kept: measuring.States,
    groups: Sequence[Mapping[str, Any]],
) -> tuple[controller.State, float]:
    """State after this step, and the multiplier of its learning rate.

    Args:
        policy: which one.
        state: see :func:`agents.controller.start`.
        params: all that have a gradient, before they are moved.
        grads: theirs.
        kept: a dict for each parameter, where what the next step must know is kept.
        groups: of parameters, whose ``"lr"`` is the base learning rate.
    """
    if controller.is_decision(policy, state):
        probe = measuring.measure(params, grads, kept, state["log_multiplier"].dtype)
        log_lr = measuring.mean_log_lr(groups)
        state = controller.decide(policy, state, probe, log_lr)
    if state["probing"]:
        measuring.forget(kept)
    state, multiplier = controller.tick(policy, state, groups)
    if state["probing"]:
        measuring.remember(params, grads, kept)
    return state, multiplier
