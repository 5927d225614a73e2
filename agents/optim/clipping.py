"""Gradients far larger than those of the run so far are scaled down."""

from __future__ import annotations

import math
from typing import Any

__all__ = ["clip"]

#: Norms of gradients are clipped at this many times the root mean square of those so far:
#: the highest ratio seen in runs of the selection tasks is 7 (docs/policy-log.md).
SPIKE = 10.0

#: Steps before there is anything to compare with, and those that the mean is over.
SPIKE_FROM, SPIKE_MEMORY = 3, 100


def clip(state: dict[str, Any], norm: float) -> tuple[dict[str, Any], float]:
    """Take note of the norm of the gradients; the share of them to use, mostly 1.

    One far too large gradient would otherwise stay in the second moments of Adam's kind
    of rules for the rest of the run. A norm that is larger for good is no longer clipped
    after a few steps, since clipped norms count. Zeros do not.
    """
    if norm == 0.0:
        return state, 1.0
    seen, mean_square = state["norms"] + 1, state["mean_square"]
    limit = SPIKE * math.sqrt(mean_square) if seen > SPIKE_FROM else math.inf
    spike = 0.0 < limit < norm
    kept = limit if spike else norm
    mean_square += (kept * kept - mean_square) / min(seen, SPIKE_MEMORY)
    return {
        **state,
        "clipped": state["clipped"] + spike,
        "norms": seen,
        "mean_square": mean_square,
    }, kept / norm
