"""Budget of a run in examples, for policies that choose the batch size.

Every control step has its share of the budget, as in the environment
(:class:`optenv.actions.BatchSize`): with smaller batches it has more updates, with larger
ones fewer. The functions read and return entries of a controller's state (see
:func:`agents.optim.controller.initial_state`), so that a resumed run goes on where it was.
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
    """Entries of a controller's state on the budget, all of them integers.

    Attributes:
        own: batch size that the user gave, of which the policy chooses multiples.
        window: index of the control step, -1 before the first one.
        first, last: updates with batches of ``own`` examples that stand before the control
            step, and at its end, by its share of the budget.
        updates: updates of the control step.
        done: those that have been made.
        drawn: examples of the batches after the first one, before the control step.
        size: batch size in force.
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
    """Return the batch size of a policy that chooses multiples of it, None for others.

    Raises:
        ValueError: it is no positive integer; or it is missing where the policy needs it,
            or given where it has no use for it.
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
    """Return the entry of a state before the first step; None without a batch size."""
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
    """Return the entry of a state in which the next control step has begun.

    Args:
        policy: the policy.
        state: at the end of a control step that is not the last one.
        factor: batch size that the policy has chosen, relative to the user's; None to
            leave it as it is.
    """
    budget = Budget(**state["budget"])
    edges = _edges(policy, state["total_steps"], budget.window + 1)
    assert edges is not None
    # Examples that were too few for one more batch are left to this control step.
    drawn = budget.drawn + budget.updates * budget.size
    left = max(edges[1] * budget.own - drawn, 1)
    wanted = budget.size if factor is None else math.floor(budget.own * factor + 0.5)
    size = min(max(wanted, min(budget.own, 2)), left)
    return budget._replace(
        window=budget.window + 1, first=edges[0], last=edges[1],
        updates=left // size, done=0, drawn=drawn, size=size,
    )._asdict()  # fmt: skip


def advanced(policy: Policy, state: Mapping[str, Any]) -> dict[str, int]:
    """Return the entry of a state after one more step.

    A control step that no decision has begun, as after a roll-back, keeps the batch size.
    """
    entry = state["budget"]
    if begins_window(policy, state):
        entry = opened(policy, state, None)
    return {**entry, "done": entry["done"] + 1}


def position(state: Mapping[str, Any]) -> float:
    """Return the part of the budget that is used, in updates of the user's batch size.

    Examples that are left to the next control step count as used at its beginning.
    """
    budget = Budget(**state["budget"])
    span = budget.last - budget.first
    return budget.first + span * budget.done / max(budget.updates, 1)


def advice(state: Mapping[str, Any]) -> int | None:
    """Return the number of examples that the next batch should have, None for any."""
    return None if state["budget"] is None else int(state["budget"]["size"])


def warn_of_other_batch_size(loaded: Mapping[str, Any], before: Mapping[str, Any]) -> None:
    """Warn if a loaded run has another batch size than the optimizer was made for."""
    if loaded["budget"] is None or before["budget"] is None:
        return
    restored, given = loaded["budget"]["own"], before["budget"]["own"]
    if restored != given:
        warn_user(
            f"the loaded batch_size={restored} overrides batch_size={given}, which was "
            "given here"
        )


def _edges(policy: Policy, total: int | None, window: int) -> tuple[int, int] | None:
    """Return the updates before a control step and at its end, None after the last one.

    Args:
        policy: the policy.
        total: length of the run in updates; None if it is unknown.
        window: index of the control step.
    """
    spacing = policy.description["spacing"]
    if total is None:
        return round(window**spacing), round((window + 1) ** spacing)
    edges = _boundaries(total, policy.description["horizon"], spacing)
    return edges[window : window + 2] if window + 1 < len(edges) else None  # type: ignore[return-value]


@lru_cache(maxsize=64)
def _boundaries(total: int, horizon: int, spacing: float) -> tuple[int, ...]:
    """Return the updates at which the control steps of a run begin, and its length."""
    return tuple(windows.boundaries(total, horizon, spacing).tolist())
