"""The part of a learned optimizer that is not about tensors: clock, telemetry, policy.

The state is that of :mod:`agents.optim.run_state`. Functions return a new dict and leave
the old
one alone.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from optenv import windows
from optenv.probing import Losses, Probe
from optenv.telemetry import OBSERVATION_BOUND, Control, History, observe

from ..policy.module import Policy
from . import trace as explaining
from .run_state import NO_LOSSES, State

#: Share of the highest learning rate so far that steps past the horizon run at.
FLOOR = 0.01


@lru_cache(maxsize=64)
def _starts(total_steps: int, horizon: int, spacing: float) -> frozenset[int]:
    """Steps at which a window starts; the end of the run is none."""
    return frozenset(windows.boundaries(total_steps, horizon, spacing)[:-1].tolist())


def is_decision(policy: Policy, state: State, ahead: int = 0) -> bool:
    """Whether the policy is asked at this step, or ``ahead`` steps later."""
    described = policy.description
    step, total = state["steps"] + ahead, state["total_steps"]
    if total is None:
        return windows.opens_window(step, described["spacing"])
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
        return {**state, "negative": True, "losses": NO_LOSSES._asdict()}
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
    observation = seen
    if policy.action.observed:
        observation = torch.cat([seen, state["shown"]], dim=1)
    if policy.memory:  # as of a trial
        told = state["told"]
        if not state["new_run"]:
            earlier = state["history"]["loss_windows"] > 0  # or the first losses are new
            told = state["history"]["loss_previous"] - history.loss_previous
            told = told * earlier
        told = told.nan_to_num().clamp(-OBSERVATION_BOUND, OBSERVATION_BOUND)
        extra = torch.stack([told, torch.full_like(told, state["new_run"])], dim=1)
        observation = torch.cat([observation, state["said"], extra], dim=1)
    action, memory = policy.act(observation, state["memory"])
    multiplier = policy.action.apply(action, old)
    moved = policy.action.shift(action).to(old.dtype)
    chosen = policy.action.choose(action)
    usable = bool(multiplier.isfinite())
    if not usable:  # of a policy that was made by hand: those in files are checked
        multiplier, moved = old, torch.zeros_like(old)
    return {
        **state,
        "log_multiplier": multiplier,
        "highest": torch.maximum(state["highest"], multiplier),
        "ignored_actions": state["ignored_actions"] + (not usable),
        "previous_action": moved,
        "chosen": chosen.item(),
        "scale": None,
        "shown": policy.action.show(action).to(old.dtype),
        "said": policy.action.encode(action).to(old.dtype),
        "new_run": 0.0,
        "memory": memory,
        "losses": NO_LOSSES._asdict(),
        "history": history._asdict(),
        "trace": explaining.record(
            state["trace"],
            state["steps"],
            seen,
            moved,
            multiplier,
            chosen,
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
                f"{FLOOR:.0%} of the highest learning rate so far"
                + ("; new_run() begins another run" if policy.memory else ""),
                stacklevel=9,
            )
    elif followed:
        multiplier *= policy.action.factor(progress)
    return {
        **state,
        "steps": steps + 1,
        "probing": is_decision(policy, state, ahead=1),
    }, multiplier
