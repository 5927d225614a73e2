"""Clock of a run: its length, its progress, and the schedules of the learning rate.

The functions read and return entries of a controller's state (see
:func:`agents.optim.controller.initial_state`), so that a resumed run continues where it
was.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from numbers import Integral
from typing import Any

import numpy as np

from optenv import windows
from optenv.checks import is_number, positive_int

from ..policy.module import Policy
from ..utils.warning import warn_user
from . import budget

__all__ = [
    "CLOCK",
    "LIMIT",
    "PEAK",
    "SCHEDULES",
    "check_total_steps",
    "check_warmup_steps",
    "describe_progress",
    "describe_schedule",
    "end_of_run",
    "extended",
    "finishing",
    "is_decision",
    "largest_multiplier",
    "limit_of",
    "multipliers",
    "observed_progress",
    "part_multipliers",
    "record_peaks",
    "role_factors",
    "schedule_factors",
    "steps_left",
    "torch_factor",
    "warn_of_other_length",
    "warn_of_unknown_length",
]

#: Entries of a controller's state that the clock needs, before the first step.
CLOCK: dict[str, Any] = {
    "warmup_steps": 0, "origin": (0, 0.0), "fall": None, "budget": None,
}  # fmt: skip

#: Descriptions of base schedules whose names do not say what they are.
DESCRIPTIONS = {
    "linear": "falls linearly to zero",
    "wsd": "constant, then falls to zero over the last 30 %",
}

#: Values of the ``schedule`` argument: when a policy's own base schedule applies.
SCHEDULES = ("auto", "always", None)

#: Runs this many times longer than the longest of the policy's training, or shorter than
#: the shortest, give a warning.
LENGTH_TOLERANCE = 2

#: Least progress that the policy observes once ``finish`` has been called: at this
#: progress, the learning rate began to fall in the policy's training.
FINISH_PROGRESS = 0.7

#: Learning rate past ``total_steps``, as a fraction of the highest so far.
FLOOR = 0.01

#: Key of the highest learning rate so far, in a group that a torch scheduler drives. It
#: must exist before a checkpoint is loaded: ``torch.distributed.checkpoint`` only restores
#: settings that a group has.
PEAK = "peak_lr"

#: Second key of a group's ``max_lr``, since torch's ``OneCycleLR`` overwrites ``"max_lr"``.
LIMIT = "lr_limit"


# The length of a run.


def check_total_steps(policy: Policy, total_steps: Any) -> int | None:
    """Return the number of steps of a run; None for an anytime policy that is given none.

    Warns if the policy was trained on much longer or shorter runs.

    Args:
        policy: the policy.
        total_steps: an integer, or a float without a fraction such as ``1e4``; None only
            for an anytime policy.

    Raises:
        ValueError: it is no positive integer, or missing where the policy needs it.
    """
    if total_steps is None:
        if policy.anytime:
            return None
        raise ValueError(
            "total_steps is missing: this policy must know how many steps the run will "
            "take; only an anytime policy does without"
        )
    total = _number_of_steps("total_steps", total_steps)
    shortest, longest = policy.description["total_updates"]
    if total > LENGTH_TOLERANCE * longest:
        warn_user(
            f"total_steps={total} is far beyond the runs that this policy was trained on, "
            f"of at most {longest} updates; performance may degrade"
        )
    if not policy.anytime and LENGTH_TOLERANCE * total < shortest:
        warn_user(
            f"total_steps={total} is far below the runs that this policy was trained on, "
            f"of at least {shortest} updates; performance may degrade"
        )
    return total


def warn_of_unknown_length(used: str, better: str) -> None:
    """Warn that ``total_steps`` is missing, and name the policy that is used instead.

    Args:
        used: name of the policy that is used.
        better: name of the default policy for runs of known length.
    """
    warn_user(
        f"total_steps is not given: using policy {used!r}, whose learning rate does not "
        f"fall at the end. Give total_steps=... for the better policy {better!r}, or "
        f"policy={used!r} to silence this warning."
    )


def warn_of_other_length(loaded: Mapping[str, Any], made_for: int | None) -> None:
    """Warn if the length of a loaded run differs from the optimizer's ``total_steps``."""
    total = loaded["total_steps"]
    if total == made_for:
        return
    text = (
        f"the loaded total_steps={total} overrides total_steps={made_for}, which was given "
        "here"
    )
    if total is not None and loaded["budget"] is None:  # else it cannot be extended
        is_ahead = made_for is not None and made_for > loaded["steps"]
        text += f"; extend({made_for if is_ahead else 'total_steps'}) changes it"
    warn_user(text)


def check_warmup_steps(warmup_steps: Any, total_steps: int | None) -> int:
    """Return the number of steps over which the learning rate rises from zero.

    Raises:
        ValueError: it is no integer of at least 0, or not less than ``total_steps``.
    """
    value = _without_fraction(warmup_steps)
    is_integer = isinstance(value, Integral) and not isinstance(value, bool)
    if not is_integer or value < 0:
        raise ValueError(
            f"warmup_steps must be an integer of at least 0, got {warmup_steps!r}"
        )
    if total_steps is not None and warmup_steps >= total_steps:
        raise ValueError(
            f"warmup_steps must be less than total_steps={total_steps}, got {warmup_steps}"
        )
    return int(warmup_steps)


def extended(policy: Policy, state: Mapping[str, Any], total_steps: Any) -> dict[str, Any]:
    """Return the entries of ``state`` that change when a run gets another length.

    Raises:
        ValueError: the length is not valid, or not more than the steps so far; or the
            policy is an anytime policy and :func:`finishing` has started no fall that could
            be cancelled; or the run has a budget of examples.
    """
    _refuse_budget("extend", state)
    if total_steps is None:
        raise ValueError("extend needs a number of steps, got None")
    if policy.anytime and state["fall"] is None:
        raise ValueError(
            "an anytime policy has no total_steps to extend; finish(steps) ends its run"
        )
    if is_number(total_steps) and total_steps <= state["steps"] and total_steps > 0:
        raise ValueError(
            f"total_steps must be more than the {state['steps']} steps so far, got "
            f"{total_steps}"
        )
    total = check_total_steps(policy, total_steps)
    check_warmup_steps(state["warmup_steps"], total)
    return {
        "total_steps": None if policy.anytime else total, "origin": (0, 0.0), "fall": None,
    }  # fmt: skip


def finishing(policy: Policy, state: Mapping[str, Any], steps: Any) -> dict[str, Any]:
    """Return the entries of ``state`` that change when the run ends ``steps`` from now.

    Raises:
        ValueError: the number of steps is not valid, or the run has ended, or has a
            budget of examples.
    """
    _refuse_budget("finish", state)
    steps = _number_of_steps("steps", steps)
    begin = state["steps"]
    if steps_left(state) <= 0:
        raise ValueError(
            f"the run has ended after {begin} steps: extend(total_steps) comes before "
            "finish(steps)"
        )
    held = _held_factor(policy, state) * _falling_factor(state) * _warmup_factor(state)
    entries: dict[str, Any] = {
        "fall": (begin, begin + steps, held),
    }
    progress = observed_progress(state)
    if progress is not None:
        entries["total_steps"] = begin + steps
        entries["origin"] = (begin, min(max(progress, FINISH_PROGRESS), 1.0))
    return entries


def _refuse_budget(name: str, state: Mapping[str, Any]) -> None:
    """Refuse to change the length of a run that has a budget of examples.

    Args:
        name: name of the method that would change it, for the message.
        state: state of the controller.

    Raises:
        ValueError: the run has a budget.
    """
    if state["budget"] is not None:
        raise ValueError(
            f"{name} is not for a policy that chooses the batch size, whose budget of "
            "examples is that of the beginning; new_run(total_steps=...) begins another run"
        )


def _number_of_steps(name: str, value: Any) -> int:
    """Return a positive number of steps as an integer; ``1e4`` is accepted, too."""
    return positive_int(name, _without_fraction(value))


def _without_fraction(value: Any) -> Any:
    """Return a float without a fraction as an integer, and anything else unchanged."""
    is_float = isinstance(value, (float, np.floating))
    return int(value) if is_float and float(value).is_integer() else value


# Progress and decisions.


def observed_progress(state: Mapping[str, Any]) -> float | None:
    """Return the share of the run that is done, above 1 past its end; None if unknown."""
    total = state["total_steps"]
    if total is None:
        return None
    if state["budget"] is not None:
        return min(budget.position(state) / total, 1.0)
    begin, done = state["origin"]
    return float(done + (1.0 - done) * ((state["steps"] - begin) / (total - begin)))


def is_decision(policy: Policy, state: Mapping[str, Any], ahead: int = 0) -> bool:
    """Return whether the policy is asked at this step, or ``ahead`` steps later."""
    if state["budget"] is not None:
        return budget.begins_window(policy, state, ahead)
    described = policy.description
    step, total = state["steps"] + ahead, state["total_steps"]
    if total is None:
        return windows.opens_window(step, described["spacing"])
    horizon, spacing = described["horizon"], described["spacing"]
    return step in _decisions(total, horizon, spacing, *state["origin"])


@lru_cache(maxsize=64)
def _decisions(
    total: int, horizon: int, spacing: float, begin: int, done: float
) -> frozenset[int]:
    """Return the steps at which a window begins.

    Args:
        total: number of steps of the run.
        horizon, spacing: see :func:`optenv.windows.boundaries`.
        begin, done: entry ``"origin"`` of the state: a step, and the progress at it.
    """
    if not done:
        return frozenset(windows.boundaries(total, horizon, spacing)[:-1].tolist())
    # The last windows of a run so long that its part after progress ``done`` has
    # ``total - begin`` steps.
    length = max(round((total - begin) / (1.0 - done)), 1) if done < 1.0 else 1
    shifted = windows.boundaries(length, horizon, spacing)[:-1] - length + total
    return frozenset(np.unique(shifted[shifted >= begin]).tolist())


def steps_left(state: Mapping[str, Any]) -> float:
    """Return the number of steps until the end of the run; infinity if it is unknown.

    With a budget of examples, steps with batches of the base size are counted.
    """
    end = end_of_run(state)
    done = state["steps"] if state["budget"] is None else budget.position(state)
    return math.inf if end is None else end - done


def end_of_run(state: Mapping[str, Any]) -> int | None:
    """Return the number of steps of the run; None if it is unknown."""
    end: int | None = state["total_steps"] if state["fall"] is None else state["fall"][1]
    return end


# The learning rate.


def record_peaks(groups: Sequence[dict[str, Any]]) -> None:
    """Record the highest learning rate so far of groups that a torch scheduler drives.

    torch's schedulers mark a group by ``"initial_lr"`` (``ReduceLROnPlateau`` does not).
    """
    for group in groups:
        if "initial_lr" in group:
            lr = float(group["lr"])
            group[PEAK] = max(lr, float(group.get(PEAK, group["initial_lr"])))


def limit_of(group: Mapping[str, Any]) -> Any:
    """Return the largest learning rate that the user allows a group; None for no limit.

    It is ``group["max_lr"]``, which may be changed during a run. But torch's
    ``OneCycleLR`` overwrites ``"max_lr"``, and adds ``"min_lr"``: the user's limit is then
    under :data:`LIMIT`.
    """
    own = "max_lr" in group and "min_lr" not in group
    return group["max_lr"] if own else group.get(LIMIT)


def largest_multiplier(group: Mapping[str, Any]) -> float:
    """Return the largest multiplier of a group's learning rate that ``max_lr`` allows.

    The limit holds for the learning rate without schedules, which lower it further.
    """
    limit, highest = limit_of(group), float(group["lr"])
    if "initial_lr" in group and group.get(PEAK):
        highest = float(group[PEAK])
    return math.inf if limit is None or highest <= 0.0 else float(limit) / highest


def multipliers(
    policy: Policy, state: Mapping[str, Any], groups: Sequence[Mapping[str, Any]]
) -> list[float]:
    """Return the multiplier of each group's learning rate at this step.

    Args:
        policy: the policy.
        state: state of the controller.
        groups: parameter groups, see :func:`record_peaks`.
    """
    factors = [[factor] for factor in role_factors(policy, state, groups)]
    return [each for (each,) in part_multipliers(policy, state, groups, factors)]


def part_multipliers(
    policy: Policy,
    state: Mapping[str, Any],
    groups: Sequence[Mapping[str, Any]],
    factors: Sequence[Sequence[float]],
) -> list[list[float]]:
    """Return the multiplier of the learning rate for each part of each group.

    A part is a parameter tensor, or the whole group.

    Args:
        policy, state, groups: see :func:`multipliers`.
        factors: multiplier of each part, by group, relative to the one in the state.
    """
    multiplier, highest = math.exp(state["log_multiplier"]), math.exp(state["highest"])
    parts = list(zip(factors, map(largest_multiplier, groups), strict=True))
    if steps_left(state) > 0:
        scheduled = schedule_factors(policy, state, groups)
        return [
            [min(multiplier * factor, limit) * schedule for factor in of_group]
            for (of_group, limit), schedule in zip(parts, scheduled, strict=True)
        ]
    return [
        [min(multiplier * f, FLOOR * min(highest * f, limit)) for f in of_group]
        for of_group, limit in parts
    ]


def role_factors(
    policy: Policy, state: Mapping[str, Any], groups: Sequence[Mapping[str, Any]]
) -> list[float]:
    """Return the multiplier of each group's role, relative to the geometric mean.

    Args:
        policy: the policy; if it has no roles, all factors are 1.
        state: state of the controller.
        groups: parameter groups, named by their roles.
    """
    roles = policy.action.roles
    if not roles:
        return [1.0] * len(groups)
    relative = (state["role_multipliers"] - state["log_multiplier"]).exp()[0]
    factors = dict(zip(roles, relative.tolist(), strict=True))
    return [factors[group["name"]] for group in groups]


def schedule_factors(
    policy: Policy, state: Mapping[str, Any], groups: Sequence[Mapping[str, Any]]
) -> list[float]:
    """Return the factor that the schedules apply to each group's learning rate.

    It is the product of the warm-up and the policy's base schedule. If a torch scheduler
    drives a group, the group's learning rate already contains the scheduler's factor. The
    policy's schedule then only applies as far as it is below that factor, so that the lower
    of the two is in force.

    Args:
        policy: the policy.
        state: state of the controller, at a step before the end of the run.
        groups: parameter groups, see :func:`record_peaks`.
    """
    held, falling = _held_factor(policy, state), _falling_factor(state)
    common = falling * _warmup_factor(state)
    if state["schedule"] == "always" or held == 1.0:
        return [held * common] * len(groups)
    reached = (_scheduled_factor(group) for group in groups)
    return [min(1.0, held / each) * common if each > 0.0 else common for each in reached]


def _warmup_factor(state: Mapping[str, Any]) -> float:
    """Return the factor of the warm-up; 1 after the warm-up, or after a fall has begun."""
    warmup = state["warmup_steps"]
    if not warmup or state["fall"] is not None:
        return 1.0
    return min(1.0, (state["steps"] + 1) / warmup)


def _held_factor(policy: Policy, state: Mapping[str, Any]) -> float:
    """Return the factor of the policy's schedule; in a fall, the one at its beginning."""
    if state["fall"] is None:
        return _policy_factor(policy, state)
    held: float = state["fall"][2]
    return held


def _falling_factor(state: Mapping[str, Any]) -> float:
    """Return the factor of the fall that :func:`finishing` has started; 1 without one.

    It multiplies all other factors, so that the rate falls to zero in any case.
    """
    if state["fall"] is None:
        return 1.0
    begin, end, _ = state["fall"]
    return float((end - state["steps"]) / (end - begin))


def _policy_factor(policy: Policy, state: Mapping[str, Any]) -> float:
    """Return the factor of the policy's base schedule; 1 if it does not apply."""
    progress = observed_progress(state)
    if state["schedule"] is None or progress is None:
        return 1.0
    return policy.action.factor(progress)


def _scheduled_factor(group: Mapping[str, Any]) -> float:
    """Return the factor of torch's schedulers: the rate divided by its highest so far."""
    if "initial_lr" not in group or not group.get(PEAK):
        return 1.0
    return float(group["lr"]) / float(group[PEAK])


def torch_factor(group: Mapping[str, Any]) -> float:
    """Return the factor of torch's schedulers: the rate divided by the initial one.

    It is above 1 if a scheduler raises the rate, and 1 without a scheduler.
    """
    initial = float(group.get("initial_lr", 0.0))
    return float(group["lr"]) / initial if initial > 0.0 else 1.0


def describe_schedule(
    policy: Policy, state: Mapping[str, Any], groups: Sequence[Mapping[str, Any]]
) -> str:
    """Describe the schedules of the learning rate, for ``print``."""
    parts = []
    if state["warmup_steps"]:
        parts.append(f"warm-up over {state['warmup_steps']} steps")
    if state["fall"] is not None:
        begin, end, _ = state["fall"]
        parts.append(f"falls to zero from step {begin} to {end}")
    elif state["schedule"] is None:
        parts.append("none")
    else:
        parts.append(DESCRIPTIONS.get(policy.action.schedule, policy.action.schedule))
    if any("initial_lr" in group for group in groups) and parts[-1:] == ["none"]:
        parts[-1] = "a torch scheduler's factor"
    elif any("initial_lr" in group for group in groups):
        parts.append(
            "times the scheduler's factor" if state["schedule"] == "always"
            else "or a torch scheduler's factor, whichever is lower"
        )  # fmt: skip
    return ", ".join(parts)


def describe_progress(policy: Policy, state: Mapping[str, Any]) -> str:
    """Describe how far the run is, and whether it has ended, for ``print``."""
    done, left = state["steps"], steps_left(state)
    if state["budget"] is not None:
        text = f"{done} steps, the next with a batch of {budget.advice(state)} examples"
        if (progress := observed_progress(state)) is not None:
            text += f"; {progress:.0%} of the budget is used"
        return text
    if math.isinf(left):
        return f"{done} steps, of a run of unknown length"
    end = done + int(left)
    text = f"{done} of {end} steps ({done / end:.0%})"
    if left <= 0:
        return f"{text}: the run has ended"
    falls = policy.action.schedule != "constant" and state["schedule"] is not None
    if falls and state["fall"] is None and _policy_factor(policy, state) == 1.0:
        text += (
            ": the fall of the learning rate at the end of the run is still to come; "
            "finish(steps) brings it forward"
        )
    return text
