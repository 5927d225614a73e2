"""Copies of good parameters, and the way back to them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .snapshots import States

__all__ = ["ROLLED_BACK", "keep_good", "roll_back"]

#: Steps in a row without a finite gradient after which the parameters are to blame.
PATIENCE = 5

#: How far a roll-back lowers the learning rate, which may be to blame.
BACK_OFF = math.log(4.0)

#: Key of the copy that is rolled back to, among the state of a parameter.
GOOD = "good_param"

#: What to warn of afterwards.
ROLLED_BACK = (
    f"the gradients of {PATIENCE} steps in a row were not finite: the parameters are again "
    "what they were at the last decision, and the learning rate is a quarter of that; "
    "buffers, as BatchNorm's, are not the optimizer's: see to them"
)

Groups = Sequence[Mapping[str, Any]]


def keep_good(states: States, groups: Groups, every: bool) -> None:
    """Keep copies of the parameters: of ``every`` one, or of those that have none yet."""
    for p in _parameters(groups):
        good = states[p].get(GOOD)
        if good is None or good.shape != p.shape:
            states[p][GOOD] = p.detach().clone()
        elif every:
            good.copy_(p)


def roll_back(
    state: dict[str, Any], states: States, groups: Groups, lowest: float
) -> dict[str, Any]:
    """Give parameters back what they were when last kept, once skipping is of no use.

    Frozen ones, and those whose learning rate is 0, stay as they are. The update rule
    begins anew, at a learning rate lowered by a factor of 4, though no further than
    ``e ** lowest`` times the base learning rate. What did not help is not done again.
    """
    params = _parameters(groups)
    helpless = state["rolled_back"] or not any(GOOD in states[p] for p in params)
    if helpless or state["skipped_in_a_row"] < PATIENCE:
        return state
    moving = _parameters([group for group in groups if group["lr"]])
    for p in moving:
        if p.requires_grad and GOOD in states[p]:
            p.copy_(states[p][GOOD])
    for p in params:
        good = states[p].get(GOOD)
        states[p].clear()
        if good is not None:
            states[p][GOOD] = good
    lowered = (state["log_multiplier"] - BACK_OFF).clamp(min=lowest)
    return {
        **state,
        "rollbacks": state["rollbacks"] + 1,
        "rolled_back": True,
        "skipped_in_a_row": 0,
        "probing": False,
        "log_multiplier": torch.minimum(lowered, state["log_multiplier"]),
    }


def _parameters(groups: Groups) -> list[Tensor]:
    return [p for group in groups for p in group["params"]]
