"""What keeps gradients that are no good from the parameters."""

from __future__ import annotations

import math
import warnings
from typing import Any

from torch import Tensor

from . import probe as measuring
from .clipping import clip

__all__ = ["GUARDS", "inspect"]

#: When gradients are looked at: at every step, or only where telemetry is taken.
GUARDS = ("step", "probe")

#: Steps skipped in a row that are warned of.
MANY = 20


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
        row = state["skipped_in_a_row"] + 1
        if row == MANY:
            warnings.warn(
                f"{MANY} steps in a row were skipped: their gradients were not finite, or "
                "so large that their squares were not",
                stacklevel=8,
            )
        return {**state, "skipped": state["skipped"] + 1, "skipped_in_a_row": row}, None
    state, share = clip({**state, "skipped_in_a_row": 0, "rolled_back": False}, norm)
    if share < 1.0:
        return state, [grad * share for grad in grads]
    return state, grads
