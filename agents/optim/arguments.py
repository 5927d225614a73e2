"""Checks of the arguments and parameter groups that a user gives to an optimizer."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral
from pathlib import Path
from typing import Any

from optenv.actions import Action
from optenv.checks import is_number, quoted

from ..policy.files import load_policy
from ..policy.module import Policy
from .clock import LIMIT, PEAK, SCHEDULES
from .guard import GUARDS
from .state_checks import check_ranges

__all__ = [
    "check_arguments",
    "check_policy",
    "check_rates",
    "given_policy",
    "own_group",
]

#: Keys that an optimizer writes into its groups; groups of other optimizers may have them.
WRITTEN = ("controller", "effective_lr", PEAK)


#: A number that is given in place of the policy is taken for a learning rate if it is a
#: float below this, and else for a number of steps.
LARGEST_RATE = 10


def given_policy(policy: str | Path | Policy, rate: str) -> Policy:
    """Return the policy that a user gives as an object, a name or a path.

    Args:
        policy: the policy.
        rate: advice on where a learning rate belongs, with ``{}`` for the number, for the
            error on a learning rate in place of the policy.

    Raises:
        TypeError: it is something else; if it is a number, the message says where it
            belongs.
        FileNotFoundError, ValueError, OSError: see :func:`~agents.load_policy`.
    """
    if isinstance(policy, Policy):
        return policy
    if is_number(policy):
        number: Any = policy
        place = rate.format(quoted(number))
        if isinstance(number, Integral) or number >= LARGEST_RATE:
            place = f"a number of steps is given by name: total_steps={quoted(number)}"
        raise TypeError(
            f"policy must be a name, a path or a Policy, got {quoted(number)}; {place}"
        )
    return load_policy(policy)


def own_group(group: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of a group, without the keys that another optimizer has written.

    ``max_lr`` is also stored under :data:`~agents.optim.clock.LIMIT`, unless there is a
    ``min_lr``: both are then from torch's ``OneCycleLR``.

    Raises:
        ValueError: the group has a key that only the optimizer writes, with a value that it
            cannot have written.
    """
    for key in WRITTEN:
        value = group.get(key, 0.0)
        if key in group and not _is_written(key, value):
            raise ValueError(
                f"{key!r} of a parameter group is written by the optimizer itself, got "
                f"{quoted(value)}: leave it out"
            )
    own = {key: value for key, value in group.items() if key not in WRITTEN}
    if "max_lr" in own and "min_lr" not in own:
        own[LIMIT] = own["max_lr"]
    return own


def _is_written(key: str, value: Any) -> bool:
    """Return whether an optimizer can have written a value under a key."""
    if key == "controller":
        return isinstance(value, Mapping)
    try:
        check_ranges({key: value})
    except ValueError:
        return False
    return True


def check_rates(groups: list[dict[str, Any]]) -> None:
    """Refuse base learning rates that a scheduler or the user has made negative or NaN.

    Raises:
        ValueError: there is one.
    """
    for i, group in enumerate(groups):
        lr = float(group["lr"])
        if not lr >= 0.0:
            raise ValueError(
                f"the lr of parameter group {i} must be at least 0, but has been set to "
                f"{lr:g} since, as by a torch scheduler: a step would go uphill"
            )


def check_arguments(schedule: Any, guard: Any, flags: Mapping[str, Any]) -> None:
    """Refuse arguments of :class:`LearnedOptimizer` that are not valid.

    Raises:
        ValueError: ``schedule`` or ``guard`` is unknown, or arguments exclude each other.
        TypeError: a flag is neither True nor False.
    """
    if not (schedule is None or isinstance(schedule, str)) or (schedule not in SCHEDULES):
        raise ValueError(f"schedule must be 'auto', 'always' or None, got {schedule!r}")
    if not isinstance(guard, str) or guard not in GUARDS:
        raise ValueError(f"guard must be one of {GUARDS}, got {guard!r}")
    for name, flag in flags.items():
        if not isinstance(flag, bool):
            raise TypeError(f"{name} must be True or False, got {flag!r}")
    if flags["capturable"] and guard != "probe":
        raise ValueError(
            f"capturable=True needs guard='probe', got guard={guard!r}: a guard of each "
            "step reads the gradients on the host, which a CUDA graph cannot"
        )
    if flags["capturable"] and flags["rollback"]:
        raise ValueError(
            "capturable=True and rollback=True exclude each other: a roll-back replaces "
            "the state that a CUDA graph changes"
        )


def check_policy(action: Action, capturable: bool, partitioned: bool) -> None:
    """Refuse flags that policies with such an action do not support.

    Raises:
        ValueError: a flag is set that the action does not support.
    """
    if capturable and not (action.sets_one_rate or action.chooses_rule):
        raise ValueError(
            "capturable=True is for policies that set learning rates alone, got one "
            f"whose action is {action.kind!r}"
        )
    if partitioned and action.per_tensor:
        raise ValueError(
            "partitioned=True is for policies of one learning rate, or one for each "
            f"role, got one whose action is {action.kind!r}"
        )
