"""One step of a policy that drives parameters: measure, decide, count, remember."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from ..policy.module import Policy
from . import controller, snapshots
from . import probe as measuring
from .run_state import State

__all__ = ["downhill", "drive"]


def downhill(
    groups: Sequence[Mapping[str, Any]], parts: Sequence[Sequence[Any]], grads: list[Tensor]
) -> list[Tensor]:
    """The gradients, those of groups that are maximised with the other sign.

    ``parts`` are the parameters of each group that the gradients are of.
    """
    upward = [bool(group.get("maximize")) for group in groups]
    if not any(upward):
        return grads
    signs = [up for up, part in zip(upward, parts, strict=True) for _ in part]
    return [-grad if up else grad for grad, up in zip(grads, signs, strict=True)]


def drive(
    policy: Policy,
    state: State,
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    kept: snapshots.States,
    groups: Sequence[Mapping[str, Any]],
    partitioned: bool = False,
) -> tuple[State, float]:
    """State after this step, and the multiplier of its learning rate.

    Args:
        policy: which one.
        state: see :func:`agents.optim.run_state.start`.
        params: all that have a gradient, not moved yet.
        grads: theirs.
        kept: a dict for each parameter, where what the next step must know is kept; once
            the parameters are moved, :func:`agents.optim.snapshots.settle` completes it.
        groups: of parameters, whose ``"lr"`` is the base learning rate.
        partitioned: whether other processes hold further parameters.
    """
    if controller.is_decision(policy, state):
        dtype = state["log_multiplier"].dtype
        probe = measuring.measure(params, grads, kept, dtype, partitioned)
        log_lr = measuring.mean_log_lr(groups, partitioned)
        state = controller.decide(policy, state, probe, log_lr)
    if state["probing"]:
        snapshots.forget(kept)
    state, multiplier = controller.tick(policy, state, groups)
    if state["probing"]:
        snapshots.remember(params, grads, kept)
    return state, multiplier
