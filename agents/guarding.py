"""What keeps gradients that are no good from the parameters, and mends those they spoil."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import measuring
from .clipping import clip

__all__ = ["GUARDS", "inspect", "keep_good", "roll_back"]

#: When gradients are looked at: at every step, or only where telemetry is taken.
GUARDS = ("step", "probe")

#: Steps in a row without a finite gradient after which the parameters are to blame.
PATIENCE = 5

#: How far a roll-back lowers the learning rate, which may be to blame.
BACK_OFF = math.log(4.0)

#: Key of the copy that is rolled back to, among the state of a parameter.
GOOD = "good_param"


def inspect(
    state: dict[str, Any], grads: list[Tensor], partitioned: bool = False
) -> tuple[dict[str, Any], list[Tensor] | None]:
    """State after a look at the gradients of a step, and those to use.

    Returns:
        Gradients that are far too large are scaled down, in copies: a gradient is its
        owner's. None if one is not finite: the step is to be skipped.

    Raises:
        RuntimeError: a gradient is sparse.
    """
    norm = measuring.norm(grads, partitioned)
    if not math.isfinite(norm):
        return {
            **state,
            "skipped": state["skipped"] + 1,
            "skipped_in_a_row": state["skipped_in_a_row"] + 1,
        }, None
    state, share = clip({**state, "skipped_in_a_row": 0}, norm)
    if share < 1.0:
        return state, [grad * share for grad in grads]
    return state, grads


def keep_good(states: measuring.States, params: Sequence[Tensor]) -> None:
    """Keep copies of parameters whose gradients are finite."""
    for p in params:
        if GOOD in states[p]:
            states[p][GOOD].copy_(p)
        else:
            states[p][GOOD] = p.detach().clone()


def roll_back(
    state: dict[str, Any], states: measuring.States, lowest: float
) -> dict[str, Any]:
    """Give parameters back what they were when last kept, once skipping is of no use.

    The update rule begins anew, at a learning rate lowered by a factor of 4, though no
    further than ``e ** lowest`` times the base learning rate.
    """
    kept = {p: own[GOOD] for p, own in states.items() if GOOD in own}
    if state["skipped_in_a_row"] < PATIENCE or not kept:
        return state
    for p, good in kept.items():
        p.copy_(good)
        states[p].clear()
        states[p][GOOD] = good
    lowered = (state["log_multiplier"] - BACK_OFF).clamp(min=lowest)
    return {
        **state,
        "rollbacks": state["rollbacks"] + 1,
        "skipped_in_a_row": 0,
        "probing": False,
        "log_multiplier": torch.minimum(lowered, state["log_multiplier"]),
    }
