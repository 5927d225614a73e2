"""Budget of a run in examples, for policies that choose the batch size.

Every control step has its share of the budget, as in the environment
(:class:`optenv.actions.BatchSize`): with smaller batches it has more updates, with larger
ones fewer. The functions read and return the entry ``"budget"`` of a controller's state
(:func:`agents.optim.controller.initial_state`), so that a resumed run continues where it
was.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from optenv import windows
from optenv.checks import positive_int

from ..policy.module import Policy
from ..utils.warning import warn_user

__all__ = [
    "Budget",
    "advanced",
    "advice",
    "begins_window",
    "check_batch_size",
    "opened",
    "position",
    "start",
    "warn_of_other_batch_size",
]


class Budget(NamedTuple):
    """Entry ``"budget"`` of a controller's state; all values are integers.

    Attributes:
        own: base batch size in examples, which the user gave and the policy multiplies.
        window: index of the current control step, from 0; -1 before the first one.
        first, last: position in the budget at which the control step begins and ends, in
            updates with batches of ``own`` examples.
        updates: number of updates in the control step.
        done: number of these that have been made.
        drawn: number of examples in the batches loaded during earlier control steps; the
            first batch of the run does not count.
        size: batch size in force, in examples.
    """

    own: int
    window: int
    first: int
    last: int
    updates: int
    done: int
    drawn: int
    size: int


def check_batch_size(policy: Policy, batch_size: Any) -> int | None:
    """Return the base batch size; None for a policy that does not choose the batch size.

    Raises:
        ValueError: it is no positive integer; or it is missing, or given to a policy that
            does not choose the batch size.
    """
    kind = policy.action.kind
    if not policy.action.sets_batch_size:
        if batch_size is None:
            return None
        raise ValueError(
            "batch_size is for policies that choose it (action 'batch-size'), got "
            f"batch_size={batch_size!r} for one whose action is {kind!r}"
        )
    if batch_size is None:
        raise ValueError(
            "batch_size is missing: this policy chooses multiples of the batch size that "
            f"is given here (action {kind!r})"
        )
    return positive_int("batch_size", batch_size)


def start(batch_size: int | None) -> dict[str, int] | None:
    """Return the budget before the first step; None without a base batch size."""
    if batch_size is None:
        return None
    return Budget(batch_size, -1, 0, 0, 0, 0, 0, batch_size)._asdict()


def begins_window(policy: Policy, state: Mapping[str, Any], ahead: int = 0) -> bool:
    """Return whether a control step begins at this step, or ``ahead`` steps later."""
    budget = Budget(**state["budget"])
    if budget.done + ahead < budget.updates:
        return False
    return _edges(policy, state["total_steps"], budget.window + 1) is not None


def opened(
    policy: Policy, state: Mapping[str, Any], factor: float | None
) -> dict[str, int]:
    """Return the budget at the beginning of the next control step.

    Args:
        policy: the policy.
        state: state of the controller at the end of a control step that is not the last.
        factor: batch size that the policy has chosen, as a multiple of the base batch size;
            None to keep the batch size.
    """
    budget = Budget(**state["budget"])
    edges = _edges(policy, state["total_steps"], budget.window + 1)
    assert edges is not None
    # This control step also gets the examples that were too few for one more batch.
    drawn = budget.drawn + budget.updates * budget.size
    left = max(edges[1] * budget.own - drawn, 1)
    wanted = budget.size if factor is None else math.floor(budget.own * factor + 0.5)
    size = min(max(wanted, min(budget.own, 2)), left)
    return budget._replace(
        window=budget.window + 1, first=edges[0], last=edges[1],
        updates=left // size, done=0, drawn=drawn, size=size,
    )._asdict()  # fmt: skip


def advanced(policy: Policy, state: Mapping[str, Any]) -> dict[str, int]:
    """Return the budget after one more update.

    A control step that begins without a decision, as after a roll-back, keeps the batch
    size.
    """
    entry = state["budget"]
    if begins_window(policy, state):
        entry = opened(policy, state, None)
    return {**entry, "done": entry["done"] + 1}


def position(state: Mapping[str, Any]) -> float:
    """Return the part of the budget that is used, in updates with the base batch size.

    Examples that a control step leaves to the next one count as used when that one begins.
    """
    budget = Budget(**state["budget"])
    span = budget.last - budget.first
    return budget.first + span * budget.done / max(budget.updates, 1)


def advice(state: Mapping[str, Any]) -> int | None:
    """Return the number of examples that the next batch should have, None for any."""
    return None if state["budget"] is None else int(state["budget"]["size"])


def warn_of_other_batch_size(loaded: Mapping[str, Any], before: Mapping[str, Any]) -> None:
    """Warn if the base batch size of a loaded run differs from the optimizer's."""
    if loaded["budget"] is None or before["budget"] is None:
        return
    restored, given = loaded["budget"]["own"], before["budget"]["own"]
    if restored != given:
        warn_user(
            f"the loaded batch_size={restored} overrides batch_size={given}, which was "
            "given here"
        )


def _edges(policy: Policy, total: int | None, window: int) -> tuple[int, int] | None:
    """Return the update counts at which a control step begins and ends.

    Args:
        policy: the policy.
        total: length of the run in updates; None if it is unknown.
        window: index of the control step, from 0.

    Returns:
        Both counts; None if the run has no such control step.
    """
    spacing = policy.description["spacing"]
    if total is None:
        return round(window**spacing), round((window + 1) ** spacing)
    edges = _boundaries(total, policy.description["horizon"], spacing)
    return edges[window : window + 2] if window + 1 < len(edges) else None  # type: ignore[return-value]


@lru_cache(maxsize=64)
def _boundaries(total: int, horizon: int, spacing: float) -> tuple[int, ...]:
    """Return the update counts at which control steps begin, and the run's length."""
    return tuple(windows.boundaries(total, horizon, spacing).tolist())
