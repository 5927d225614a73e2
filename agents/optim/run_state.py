"""What a controller knows of its run: at its beginning, in the next one, and when loaded.

The state is a flat dict of numbers and CPU tensors ``[1]``, so that it can live in
``param_groups`` and be saved, copied and restored by torch like everything else there.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

from optenv.checks import positive_int
from optenv.probing import Losses, log_loss
from optenv.telemetry import History

from ..policy.module import Policy
from . import trace as explaining

__all__ = ["NO_LOSSES", "State", "again", "restored", "start"]

State = dict[str, Any]

# Losses are recorded at every step: as plain numbers, far cheaper than tensors of one.
NO_LOSSES = Losses.empty(0.0)

#: How many times longer, or shorter, than all runs of its training a policy may run without
#: a warning.
FAR = 2


def start(
    policy: Policy, total_steps: int | None, dtype: torch.dtype, schedule: str | None
) -> State:
    """State before the first step.

    Args:
        policy: which controller.
        total_steps: of the run; an anytime policy has no use for it.
        dtype: of the telemetry.
        schedule: see :class:`~agents.optim.optimizer.LearnedOptimizer`.

    Raises:
        ValueError: ``total_steps`` is no positive integer, or missing where the policy
            needs it.
    """
    if total_steps is not None:
        total_steps = positive_int("total_steps", total_steps)
    shortest, longest = policy.description["total_updates"]
    if total_steps is None and not policy.anytime:
        raise ValueError(
            "total_steps is missing: this policy must know how many steps the run will "
            "take; only an anytime policy does without"
        )
    if total_steps is not None and total_steps > FAR * longest:
        warnings.warn(
            f"total_steps={total_steps} is far beyond the runs that this policy was "
            f"trained on, of at most {longest} updates; it may do badly",
            stacklevel=3,
        )
    if total_steps is not None and not policy.anytime and FAR * total_steps < shortest:
        warnings.warn(
            f"total_steps={total_steps} is far below the runs that this policy was "
            f"trained on, of at least {shortest} updates; it may do badly",
            stacklevel=3,
        )
    decisions = None if policy.anytime else policy.description["horizon"]
    zero = torch.zeros(1, dtype=dtype, device="cpu")  # whatever torch's default device
    multiplier = torch.full_like(zero, policy.action.start)
    return {
        "policy": policy.fingerprint(),
        "total_steps": None if policy.anytime else total_steps,
        "schedule": schedule,
        "steps": 0,
        "skipped": 0,
        "skipped_in_a_row": 0,
        "rollbacks": 0,
        "rolled_back": False,
        "clipped": 0,
        "ignored_losses": 0,
        "ignored_actions": 0,
        "norms": 0,
        "mean_square": 0.0,
        "probing": False,
        "negative": False,
        "log_multiplier": multiplier,
        "highest": multiplier.clone(),  # checkpoints are loaded into these, in place
        "previous_action": zero,
        "shown": torch.zeros(1, policy.action.observed, dtype=dtype, device="cpu"),
        "chosen": -1,
        "scale": None,
        "said": torch.zeros(1, policy.action.outputs, dtype=dtype, device="cpu"),
        "new_run": 1.0,
        "told": zero.clone(),
        "memory": policy.blank(1).to(dtype),
        "losses": NO_LOSSES._asdict(),
        "history": History.empty(zero)._asdict(),
        "trace": explaining.empty(decisions, dtype),
    }


def again(
    policy: Policy, state: State, total_steps: int | None, dtype: torch.dtype
) -> State:
    """State before the first step of another run, with what was learned of the task.

    Args:
        policy: whose memory it is.
        state: at the end of the run before.
        total_steps: see :func:`start`; None if it is as long as that one.
        dtype: of the telemetry.

    Raises:
        ValueError: ``total_steps`` is no positive integer.
    """
    total = state["total_steps"] if total_steps is None else total_steps
    fresh = start(policy, total, dtype, state["schedule"])
    losses, told = Losses(**state["losses"]), fresh["told"]
    if state["new_run"]:  # the last one has not begun
        told = state["told"]
    elif losses.seen and state["history"]["loss_windows"] > 0:  # of the last window
        mean = torch.full_like(told, losses.mean)
        told = state["history"]["loss_previous"] - log_loss(mean)
    return {**fresh, "said": state["said"], "memory": state["memory"], "told": told}


def restored(policy: Policy, saved: State | None) -> State:
    """A state that was saved, with its tensors on the CPU, wherever they were loaded to.

    Raises:
        ValueError: there is none, or it is of another policy, or of an earlier version.
    """
    if saved is None:
        raise ValueError("what is to be loaded has no 'controller': no policy was in use")
    if "memory" not in saved:
        raise ValueError(
            "what is to be loaded was saved by an earlier version of optenv, which this "
            "one cannot go on from"
        )
    used, own = saved["policy"], policy.fingerprint()
    if used != own:
        raise ValueError(
            f"what is to be loaded is of policy {used[:12]}, but here is {own[:12]} "
            "(which, if none is named, depends on whether there is a total_steps)"
        )
    return _on_cpu(saved)


def _on_cpu(state: State) -> State:
    return {
        key: _on_cpu(value)
        if isinstance(value, dict)
        else (value.cpu() if isinstance(value, Tensor) else value)
        for key, value in state.items()
    }
