"""What an agent may do, and how it becomes a learning rate, or also an update rule.

The learning rate of an update is ``base * schedule(progress) * exp(s)``. An action moves
the log-multiplier ``s``; ``s`` stays within ``[-bound, bound]``. The environment and the
exported optimizer decode actions with the same functions.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces

from .multipliers import SCHEDULES, Action, Continuous, Discrete
from .rule_choice import RuleChoice

__all__ = [
    "ACTIONS",
    "SCHEDULES",
    "Action",
    "Continuous",
    "Discrete",
    "RuleChoice",
    "check_rule",
    "make",
    "validate",
]

ACTIONS: dict[str, type[Action]] = {
    cls.kind: cls for cls in (Continuous, Discrete, RuleChoice)
}


def make(spec: str | dict[str, Any] | Action) -> Action:
    """Build an action from its name, its ``to_dict()`` or itself.

    Raises:
        ValueError: the kind is unknown, or a field is out of its range.
        TypeError: ``spec`` is of another type, or names an unknown field.
    """
    if isinstance(spec, Action):
        return spec
    if isinstance(spec, str):
        spec = {"kind": spec}
    if not isinstance(spec, dict):
        raise TypeError(f"action must be a name, a dict or an Action, got {spec!r}")
    fields = dict(spec)
    if "kind" not in fields:
        raise ValueError(f"action {spec!r} has no 'kind'; valid: {', '.join(ACTIONS)}")
    kind = fields.pop("kind")
    if kind not in list(ACTIONS):
        raise ValueError(f"unknown action {kind!r}; valid actions: {', '.join(ACTIONS)}")
    try:
        return ACTIONS[kind](**fields)
    except TypeError as error:
        valid = ", ".join(ACTIONS[kind].__dataclass_fields__)
        raise TypeError(f"action {spec!r}: {error}; valid fields: {valid}") from None


def check_rule(action: Action, rule: str) -> None:
    """Refuse an action and an update rule that do not go together.

    Raises:
        ValueError: the action chooses update rules and the rule is not ``"switching"``,
            or the other way round.
    """
    if isinstance(action, RuleChoice) != (rule == "switching"):
        raise ValueError(
            "an action that chooses update rules, and no other, needs rule 'switching', "
            f"got rule {rule!r} with action {action.kind!r}; both are those of "
            "optenv/UpdateRule-v0, and neither of other environments"
        )


def validate(space: spaces.Space[Any], actions: Any) -> np.ndarray:
    """Return ``actions`` as a new array of ``space``, of one environment or of a batch.

    Raises:
        ValueError: wrong shape, non-finite, or out of the space's range.
    """
    array = np.asarray(actions)
    if array.shape != space.shape:
        raise ValueError(f"actions must have shape {space.shape}, got {array.shape}")
    if isinstance(space, spaces.Box):
        array = array.astype(space.dtype)
        if not np.all((array >= space.low) & (array <= space.high)):
            raise ValueError(f"actions must lie in [-1, 1], got {actions!r}")
        return array
    if not np.issubdtype(array.dtype, np.integer) or not space.contains(
        array.astype(space.dtype)
    ):
        raise ValueError(f"actions must be of {space}, got {actions!r}")
    return array.astype(space.dtype)
