"""Actions, and how they become a learning rate, an update rule or hyperparameters.

The learning rate of an update is ``base * schedule(progress) * exp(s)``. An action moves
the log-multiplier ``s``, which stays within ``[-bound, bound]``. It may also choose the
update rule, or set hyperparameters of the rule. :meth:`Action.decode` turns a batch of
actions into a :class:`Decision`, which environments carry out without knowing the kind of
the action. The exported optimizer decodes actions with the same methods.

The kinds of actions are listed in :data:`ACTIONS`; :func:`register` adds one from outside
the package.
"""

from __future__ import annotations

import dataclasses
from dataclasses import is_dataclass
from typing import Any, TypeVar

import numpy as np
from gymnasium import spaces

from ..checks import check_new_name
from ..modifiers import MODIFIERS
from ..rules import Rule, switching
from ..schedules import SCHEDULES
from .base import FROM_OUTSIDE, Action, Decision
from .batch_size import BatchSize
from .continuous import Continuous
from .discrete import Discrete
from .hyperparameters import DECAY_RATES, NAMES, RANGES, Hyperparameters
from .layerwise import LayerwiseMultipliers
from .roles import RoleMultipliers
from .rule_choice import RuleChoice
from .update import Update

__all__ = [
    "ACTIONS",
    "DECAY_RATES",
    "NAMES",
    "RANGES",
    "SCHEDULES",
    "Action",
    "BatchSize",
    "Continuous",
    "Decision",
    "Discrete",
    "Hyperparameters",
    "LayerwiseMultipliers",
    "RoleMultipliers",
    "RuleChoice",
    "Update",
    "check_rule",
    "completed",
    "make",
    "register",
    "validate",
]

#: Kinds of actions of the package, by name.
ACTIONS: dict[str, type[Action]] = {
    cls.kind: cls
    for cls in (
        Continuous, Discrete, RuleChoice, Hyperparameters, RoleMultipliers,
        LayerwiseMultipliers, Update, BatchSize,
    )
}  # fmt: skip

#: Kinds of actions registered from outside the package.
_REGISTERED: dict[str, type[Action]] = {}

#: Methods and properties of :class:`Action` that subclasses must define.
_OPEN = {name: getattr(Action, name) for name in ("space", "outputs", "encode", "shift")}

ActionClass = TypeVar("ActionClass", bound=type[Action])


def register(cls: ActionClass) -> ActionClass:
    """Make a kind of action available by its name. Use it as a class decorator.

    Args:
        cls: subclass of :class:`Action`, a frozen dataclass with a ``kind`` of its own.

    Returns:
        The class.

    Raises:
        TypeError: it is not such a class, lacks a method or property that subclasses must
            define, or gives a field another default without being decorated.
        ValueError: the name is taken.

    Example::

        @register
        @dataclass(frozen=True)
        class Halving(Discrete):
            multipliers: tuple[float, ...] = (0.5, 1.0)
            kind: ClassVar[str] = "halving"

        env = gym.make("optenv/LearningRate-v0", action="halving")
    """
    if not isinstance(cls, type) or not issubclass(cls, Action) or not is_dataclass(cls):
        raise TypeError(f"an action must be a dataclass and an Action, got {cls!r}")
    check_new_name("kind of action", getattr(cls, "kind", None), list(_known()))
    if missing := [name for name, base in _OPEN.items() if getattr(cls, name) is base]:
        raise TypeError(f"action {cls.kind!r} needs definitions of {', '.join(missing)}")
    if "__dataclass_fields__" not in vars(cls):  # the fields are those of a base class
        if changed := [name for name in _field_names(cls) if name in vars(cls)]:
            raise TypeError(
                f"action {cls.kind!r} changes {', '.join(changed)} without being decorated "
                "by @dataclass(frozen=True), so that it would have no effect"
            )
    is_tuple = isinstance(cls.sets, tuple)
    if not is_tuple or not all(isinstance(name, str) for name in cls.sets):
        raise TypeError(
            f"sets of action {cls.kind!r} must be a tuple of names, got {cls.sets!r}"
        )
    _REGISTERED[cls.kind] = cls
    FROM_OUTSIDE.add(cls.kind)
    return cls


def _field_names(cls: type[Action]) -> list[str]:
    """Return the names of the fields of a kind of action."""
    return [field.name for field in dataclasses.fields(cls)]


def _known() -> dict[str, type[Action]]:
    return {**ACTIONS, **_REGISTERED}


def make(spec: str | dict[str, Any] | Action) -> Action:
    """Build an action from its name, its ``to_dict()``, or an action.

    Raises:
        ValueError: the kind is unknown, or a field is out of its range.
        TypeError: ``spec`` is of another type, or has an unknown field.
    """
    if isinstance(spec, Action):
        return spec
    if isinstance(spec, str):
        spec = {"kind": spec}
    if not isinstance(spec, dict):
        raise TypeError(f"action must be a name, a dict or an Action, got {spec!r}")
    fields, known = dict(spec), _known()
    if "kind" not in fields:
        raise ValueError(f"action {spec!r} has no 'kind'; valid: {', '.join(known)}")
    kind = fields.pop("kind")
    if kind not in list(known):
        raise ValueError(f"unknown action {kind!r}; valid actions: {', '.join(known)}")
    try:
        return known[kind](**fields)
    except TypeError as error:
        valid = ", ".join(_field_names(known[kind]))
        raise TypeError(f"action {spec!r}: {error}; valid fields: {valid}") from None


def completed(spec: Any, own: str | dict[str, Any] | Action) -> Any:
    """Complete a dict without ``"kind"`` by the fields of another action.

    Args:
        spec: see :func:`make`; or a dict without ``"kind"``.
        own: the action whose fields such a dict changes, for example that of an
            environment's id. If it is a dict without a kind, its kind is ``"continuous"``.

    Returns:
        A completed dict for :func:`make`; any other ``spec`` unchanged.
    """
    if not isinstance(spec, dict) or "kind" in spec:
        return spec
    if isinstance(own, Action):
        own = own.to_dict()
    base = {"kind": own} if isinstance(own, str) else own
    return {"kind": Continuous.kind, **base, **spec}


def check_rule(action: Action, rule: Rule) -> None:
    """Refuse an action and an update rule that do not go together.

    Args:
        action: the action.
        rule: the rule of an environment or of an optimizer.

    Raises:
        ValueError: the action chooses update rules and the rule is not ``"switching"``, or
            vice versa; or the action is the update itself and the rule is not ``"sgd"``;
            or it sets a hyperparameter that the rule does not have.
    """
    name, action = rule.name, action.for_rule(rule)
    if action.chooses_rule != (name == switching.RULE.name):
        needed = (
            "an action that chooses update rules needs rule 'switching'"
            if action.chooses_rule
            else "rule 'switching' needs an action that chooses update rules"
        )
        raise ValueError(
            f"{needed}, got rule {name!r} with action {action.kind!r}; "
            "optenv/UpdateRule-v0 has both, and other environments have neither"
        )
    if action.is_update and name != "sgd":
        raise ValueError(
            f"action {action.kind!r} is the update itself and uses no rule: leave rule at "
            f"'sgd', which has no state, got {name!r}; optenv/Update-v0 has both"
        )
    if not set(action.sets) <= {*rule.fields, *MODIFIERS}:
        raise ValueError(
            f"action {action.kind!r} sets {', '.join(action.sets)}; the hyperparameters of "
            f"rule {name!r} are: {', '.join(rule.fields) or 'none'}, and any rule has "
            f"{', '.join(MODIFIERS)}"
        )


#: Wrapper that clips actions to their space.
_CLIP = "gymnasium.wrappers.ClipAction (in wrappers.vector for a batch)"


def validate(space: spaces.Space[Any], actions: Any) -> np.ndarray:
    """Return actions of one environment or of a batch as a new array of a space.

    Raises:
        ValueError: the actions have a wrong shape, are not finite, or are out of range.
    """
    array = np.asarray(actions)
    if array.shape != space.shape:
        raise ValueError(f"actions must have shape {space.shape}, got {array.shape}")
    if isinstance(space, spaces.Box):
        array = array.astype(space.dtype)
        if not np.all((array >= space.low) & (array <= space.high)):
            low, high = space.low.min(), space.high.max()
            hint = "" if np.isnan(array).any() else f"; {_CLIP} clips them"
            raise ValueError(
                f"actions must lie in [{low:g}, {high:g}], got {actions!r}{hint}"
            )
        return array
    if not np.issubdtype(array.dtype, np.integer) or not space.contains(
        array.astype(space.dtype)
    ):
        raise ValueError(f"actions must be of {space}, got {actions!r}")
    return array.astype(space.dtype)
