"""The part of a learned optimizer that is not about tensors: clock, telemetry, policy.

The state is a flat dict of numbers and CPU tensors ``[1]``, so that it can live in
``param_groups`` and be saved, copied and restored by torch like everything else there.
Functions return a new dict and leave the old one alone.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from optenv import clock
from optenv.checks import positive_int
from optenv.probing import Losses, Probe
from optenv.telemetry import OBSERVATION_BOUND, Control, History, log_loss, observe

from . import explaining
from .policy import Policy

State = dict[str, Any]

# Losses are recorded at every step: as plain numbers, far cheaper than tensors of one.
_NO_LOSSES = Losses.empty(0.0)

#: How many times longer, or shorter, than all runs of its training a policy may run without
#: a warning.
FAR = 2

#: Share of the highest learning rate so far that steps past the horizon run at.
FLOOR = 0.01


def start(
    policy: Policy, total_steps: int | None, dtype: torch.dtype, schedule: str | None
) -> State:
    """State before the first step.

    Args:
        policy: which controller.
        total_steps: of the run; an anytime policy has no use for it.
        dtype: of the telemetry.
        schedule: see :class:`~agents.optimizer.LearnedOptimizer`.

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
        "told": zero,
        "memory": policy.blank(1).to(dtype),
        "losses": _NO_LOSSES._asdict(),
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
    if losses.seen and policy.sees_loss:  # of the last window
        mean = torch.full_like(told, losses.mean)
        told = state["history"]["loss_previous"] - log_loss(mean)
    return {**fresh, "said": state["said"], "memory": state["memory"], "told": told}


def restored(policy: Policy, saved: State | None) -> State:
    """A state that was saved, with its tensors on the CPU, wherever they were loaded to.

    Raises:
        ValueError: there is none, or it is of another policy.
    """
    if saved is None:
        raise ValueError("what is to be loaded has no 'controller': no policy was in use")
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


@lru_cache(maxsize=64)
def _starts(total_steps: int, horizon: int, spacing: float) -> frozenset[int]:
    """Steps at which a window starts; the end of the run is none."""
    return frozenset(clock.boundaries(total_steps, horizon, spacing)[:-1].tolist())


def is_decision(policy: Policy, state: State, ahead: int = 0) -> bool:
    """Whether the policy is asked at this step, or ``ahead`` steps later."""
    described = policy.description
    step, total = state["steps"] + ahead, state["total_steps"]
    if total is None:
        return clock.opens_window(step, described["spacing"])
    return step in _starts(total, described["horizon"], described["spacing"])


def is_watched(policy: Policy, state: State) -> bool:
    """Whether telemetry is taken at this step, or the last one was skipped."""
    return bool(
        state["skipped_in_a_row"]
        or is_decision(policy, state)
        or is_decision(policy, state, ahead=1)
    )


def check_loss(loss: Any) -> None:
    """Refuse what cannot be a loss, without waiting for a device.

    Raises:
        ValueError: the loss is a tensor of more than one element.
        TypeError: the loss is no number.
    """
    if isinstance(loss, Tensor):
        if loss.numel() != 1:
            raise ValueError(
                f"loss must be a scalar, got a tensor of shape {list(loss.shape)}"
            )
        if loss.is_complex():
            raise TypeError(f"loss must be real, got a tensor of {loss.dtype}")
        return
    try:
        if isinstance(loss, (str, bytes)):
            raise TypeError
        float(loss)
    except (TypeError, ValueError, OverflowError):
        raise TypeError(f"loss must be a scalar, got {loss!r}") from None


def record(state: State, loss: Tensor | float | None) -> State:
    """Take note of the loss of this step, if there is one and it is finite.

    Ratios of losses mean nothing where losses are negative: after the first such one, the
    policy goes on without any.
    """
    if loss is None or state["negative"]:
        return state
    value = loss.item() if isinstance(loss, Tensor) else float(loss)
    if not math.isfinite(value):
        return {**state, "ignored_losses": state["ignored_losses"] + 1}
    if value < 0:
        warnings.warn(
            f"a loss is {value}, below zero (or, maximised, above): the policy goes on as "
            "if none were given",
            stacklevel=8,
        )
        return {**state, "negative": True, "losses": _NO_LOSSES._asdict()}
    return {**state, "losses": Losses(**state["losses"]).record(value)._asdict()}


def decide(policy: Policy, state: State, probe: Probe, log_lr: float) -> State:
    """Observe, ask the policy, move the multiplier, and begin a new window.

    Args:
        policy, state: which controller, and where it stands.
        probe: of the last step.
        log_lr: log of the base learning rate.
    """
    old: Tensor = state["log_multiplier"]
    total = state["total_steps"]
    progress = None if total is None else torch.full_like(old, state["steps"]) / total
    control = Control(
        progress=progress,
        length=total,
        log_multiplier=old,
        log_lr=log_lr - math.log(policy.rule.default_lr) + old,
        previous_action=state["previous_action"],
    )
    # By way of double precision: a loss beyond the range of single precision becomes an
    # infinity here, where torch.full_like would raise.
    kept = torch.tensor([*state["losses"].values()], dtype=torch.float64, device="cpu")
    losses = Losses(*kept.to(old.dtype)[:, None])
    seen, history = observe(probe, losses, History(**state["history"]), control)
    observation = torch.cat([seen, state["shown"]], dim=1)
    if policy.memory:  # as of a trial
        told = state["told"]
        if not state["new_run"]:
            told = state["history"]["loss_previous"] - history.loss_previous
        told = told.nan_to_num().clamp(-OBSERVATION_BOUND, OBSERVATION_BOUND)
        extra = torch.stack([told, torch.full_like(told, state["new_run"])], dim=1)
        observation = torch.cat([observation, state["said"], extra], dim=1)
    action, memory = policy.act(observation, state["memory"])
    multiplier = policy.action.apply(action, old)
    moved = policy.action.shift(action).to(old.dtype)
    usable = bool(multiplier.isfinite())
    if not usable:  # of a policy that was made by hand: those in files are checked
        multiplier, moved = old, torch.zeros_like(old)
    return {
        **state,
        "log_multiplier": multiplier,
        "highest": torch.maximum(state["highest"], multiplier),
        "ignored_actions": state["ignored_actions"] + (not usable),
        "previous_action": moved,
        "chosen": policy.action.choose(action).item(),
        "scale": None,
        "shown": policy.action.show(action).to(old.dtype),
        "said": policy.action.encode(action).to(old.dtype),
        "new_run": 0.0,
        "memory": memory,
        "losses": _NO_LOSSES._asdict(),
        "history": history._asdict(),
        "trace": explaining.record(
            state["trace"],
            state["steps"],
            seen,
            moved,
            multiplier,
            policy.action.choose(action),
        ),
    }


def tick(
    policy: Policy, state: State, groups: Sequence[Mapping[str, Any]]
) -> tuple[State, float]:
    """Count this step, and return the multiplier of its learning rate.

    ``groups``, of parameters, tell whether a scheduler of torch's drives them. ``probing``
    then says whether the next step is a decision, which needs to know what this one did.
    """
    steps, total = state["steps"], state["total_steps"]
    progress = 0.0 if total is None else steps / total
    multiplier = math.exp(state["log_multiplier"])
    driven = any("initial_lr" in group for group in groups)  # as torch marks them
    followed = state["schedule"] == "always" or (state["schedule"] == "auto" and not driven)
    if total is not None and steps >= total:
        multiplier = min(multiplier, FLOOR * math.exp(state["highest"]))
        if steps == total:
            warnings.warn(
                f"total_steps={total} are done; further steps run at no more than "
                f"{FLOOR:.0%} of the highest learning rate so far",
                stacklevel=9,
            )
    elif followed:
        multiplier *= policy.action.factor(progress)
    return {
        **state,
        "steps": steps + 1,
        "probing": is_decision(policy, state, ahead=1),
    }, multiplier
