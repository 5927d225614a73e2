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
import math
from dataclasses import asdict, dataclass, is_dataclass, replace
from typing import Any, ClassVar, NamedTuple, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from gymnasium import spaces
from torch import Tensor

from .checks import check_new_name, is_number, positive_int
from .modifiers import MODIFIERS
from .roles import ROLES
from .rules import Rule, switching
from .schedules import SCHEDULES
from .tensors import TENSOR_FEATURES

__all__ = [
    "ACTIONS",
    "DECAY_RATES",
    "NAMES",
    "RANGES",
    "SCHEDULES",
    "Action",
    "Continuous",
    "Decision",
    "Discrete",
    "Hyperparameters",
    "LayerwiseMultipliers",
    "RoleMultipliers",
    "RuleChoice",
    "check_rule",
    "make",
    "register",
    "validate",
]


class Decision(NamedTuple):
    """Decoded actions of ``B`` runs, in force until the next control step.

    Attributes:
        log_multiplier: log-multiplier ``[B]`` after the action, within its bound.
        shift: requested change ``[B]`` of the log-multiplier, before it is clipped.
        rule: chosen update rule ``[B]``, an index into
            :data:`optenv.rules.switching.NAMES`; None if the action does not choose one.
        hyperparameters: values ``[B]`` by name of what the action sets: hyperparameters
            of the rule, and :data:`optenv.modifiers.MODIFIERS`.
        part_multipliers: log-multipliers ``[B, K]`` of parts of the parameters (roles, or
            single tensors), whose mean is ``log_multiplier``; None if the action does not
            tell parts apart.
        part_shifts: requested changes ``[B, K]`` of these, before they are clipped.
    """

    log_multiplier: Tensor
    shift: Tensor
    rule: Tensor | None
    hyperparameters: dict[str, Tensor]
    part_multipliers: Tensor | None = None
    part_shifts: Tensor | None = None

    def limited(self, highest: float | Tensor) -> Decision:
        """Return the decision with no log-multiplier above ``highest``.

        Args:
            highest: one limit, or those of the parts ``[K]``.
        """
        limit = torch.as_tensor(highest, dtype=self.log_multiplier.dtype, device="cpu")
        limit = limit.to(self.log_multiplier.device)
        parts = self.part_multipliers
        if parts is None:
            return self._replace(log_multiplier=self.log_multiplier.minimum(limit))
        parts = parts.minimum(limit)
        return self._replace(log_multiplier=parts.mean(1), part_multipliers=parts)


@dataclass(frozen=True)
class Action:
    """Base of the kinds of actions, which are frozen dataclasses.

    A subclass has a ``kind`` and implements :meth:`space`, :meth:`shift`, :attr:`outputs`
    and :meth:`encode`. Its fields are numbers, strings, or tuples of them, so that
    :meth:`to_dict` can be written as JSON.

    Attributes:
        bound: largest absolute log-multiplier, in nats.
        start: log-multiplier before the first action.
        schedule: name of the base schedule, a key of :data:`SCHEDULES`.
        kind: name of the kind, by which :func:`make` finds it.
        chooses_rule: whether the action chooses the update rule, see :meth:`choose`.
        sets: names of what the action sets, hyperparameters of the rule or
            :data:`optenv.modifiers.MODIFIERS`, see :meth:`hyperparameters`.
        roles: names of the roles of parameters that the action tells apart.
        per_tensor: whether it has a number for each parameter tensor of a run, see
            :class:`LayerwiseMultipliers`.
    """

    bound: float = 6.0
    start: float = 0.0
    schedule: str = "constant"
    kind: ClassVar[str]
    chooses_rule: ClassVar[bool] = False
    sets: ClassVar[tuple[str, ...]] = ()
    roles: ClassVar[tuple[str, ...]] = ()
    per_tensor: ClassVar[bool] = False

    def __post_init__(self) -> None:
        self._as_floats("bound", "start")
        if not self.bound > 0:
            raise ValueError(f"bound must be positive, got {self.bound!r}")
        if not abs(self.start) <= self.bound:
            raise ValueError(f"start must lie within ±{self.bound}, got {self.start!r}")
        if self.schedule not in SCHEDULES:
            raise ValueError(
                f"unknown schedule {self.schedule!r}; valid schedules: "
                f"{', '.join(SCHEDULES)}"
            )

    def _as_floats(self, *names: str) -> None:
        """Convert fields to plain floats, as policy files can hold no other numbers."""
        for name in names:
            value = getattr(self, name)
            if not is_number(value):
                raise TypeError(f"{name} must be a number, got {value!r}")
            object.__setattr__(self, name, float(value))

    @property
    def sets_one_rate(self) -> bool:
        """True if the action sets one learning rate, and nothing else."""
        return not (self.chooses_rule or self.sets or self.roles or self.per_tensor)

    def for_rule(self, rule: Rule) -> Action:
        """Return the action with the fields filled in that it leaves to the update rule.

        Environments do so before they use an action. By default it leaves none to the rule.
        """
        return self

    # Interface to agents

    def space(self, dtype: type[np.floating] = np.float32) -> spaces.Space[Any]:
        """Return the Gymnasium space of one action.

        Args:
            dtype: of a continuous space.
        """
        raise NotImplementedError

    def policy_space(self, dtype: type[np.floating] = np.float32) -> spaces.Space[Any]:
        """Return the space of what a policy decides at once.

        That is :meth:`space`, or an action on a single tensor.
        """
        return self.space(dtype)

    @property
    def outputs(self) -> int:
        """Number of a policy's outputs, and width of :meth:`encode`.

        A policy acts by its outputs, clipped to [-1, 1], or by the index of the largest one
        if the action is a :class:`Discrete`.
        """
        raise NotImplementedError

    def encode(self, action: Tensor) -> Tensor:
        """Encode actions ``[B, ...]`` as ``[B, outputs]``, which trials observe."""
        raise NotImplementedError

    @property
    def observed(self) -> int:
        """Width of :meth:`show`."""
        return 0

    @property
    def slots(self) -> int:
        """Number of times that this width stands in an environment's observation.

        It is 1, or for actions on single tensors the largest number of these.
        """
        return 1

    def show(self, action: Tensor) -> Tensor:
        """Return what every environment observes of the last action, ``[B, observed]``.

        It stands after the telemetry, of which the last :meth:`shift` is a feature.
        """
        return action.new_zeros(len(action), 0)

    def observe(self, action: Tensor, decision: Decision) -> Tensor:
        """Return the observed part of the last action and its decision, ``[B, observed]``.

        By default that is :meth:`show`.
        """
        return self.show(action)

    # Interface to environments and optimizers

    def decode(
        self, action: Tensor, log_multiplier: Tensor, part_multipliers: Tensor | None = None
    ) -> Decision:
        """Decode a batch of actions.

        Args:
            action: ``[B, ...]``.
            log_multiplier: ``[B]`` before the action.
            part_multipliers: ``[B, K]`` before the action, if it tells parts apart.
        """
        shift = self.shift(action).to(log_multiplier.dtype)
        hyperparameters = self.hyperparameters(action)
        self._check_decoded(shift, hyperparameters, log_multiplier)
        return Decision(
            log_multiplier=self._move(log_multiplier, shift),
            shift=shift,
            rule=self.choose(action) if self.chooses_rule else None,
            hyperparameters=hyperparameters,
        )

    def _check_decoded(
        self, shift: Tensor, hyperparameters: dict[str, Tensor], like: Tensor
    ) -> None:
        """Refuse parts of a decision that are not one number for each run.

        Raises:
            ValueError: a part has another shape, or the hyperparameters are not those that
                :attr:`sets` names.
        """
        if shift.shape != like.shape:
            raise ValueError(
                f"shift of action {self.kind!r} must return a tensor of shape "
                f"{tuple(like.shape)}, got shape {tuple(shift.shape)}"
            )
        if set(hyperparameters) != set(self.sets):
            raise ValueError(
                f"hyperparameters of action {self.kind!r} must be those in sets, "
                f"{list(self.sets)}, got {list(hyperparameters)}"
            )
        for name, values in hyperparameters.items():
            if not isinstance(values, Tensor) or values.shape != like.shape:
                given = tuple(values.shape) if isinstance(values, Tensor) else values
                raise ValueError(
                    f"hyperparameter {name!r} of action {self.kind!r} must be a tensor of "
                    f"shape {tuple(like.shape)}, got {given}"
                )

    def shift(self, action: Tensor) -> Tensor:
        """Return the requested change ``[B]`` of the log-multiplier, in nats."""
        raise NotImplementedError

    def apply(self, action: Tensor, log_multiplier: Tensor) -> Tensor:
        """Return the log-multiplier ``[B]`` after an action, given that before it."""
        return self._move(log_multiplier, self.shift(action).to(log_multiplier.dtype))

    def _move(self, log_multiplier: Tensor, shift: Tensor) -> Tensor:
        return (log_multiplier + shift).clamp(-self.bound, self.bound)

    def choose(self, action: Tensor) -> Tensor:
        """Return the chosen update rules, indices ``[B]`` of the names in
        :data:`optenv.rules.switching.NAMES`; -1 where there is no choice.
        """
        return torch.full((len(action),), -1, device=action.device)

    def hyperparameters(self, action: Tensor) -> dict[str, Tensor]:
        """Return the values ``[B]`` of the hyperparameters that :attr:`sets` names."""
        return {}

    def factor(self, progress: float) -> float:
        """Return the base schedule at a progress in [0, 1]."""
        return SCHEDULES[self.schedule](progress)

    def to_dict(self) -> dict[str, Any]:
        """Return a description that can be written as JSON; :func:`make` reads it."""
        return {"kind": self.kind, **asdict(self)}


@dataclass(frozen=True)
class Continuous(Action):
    """One number in [-1, 1]: ``s <- clip(s + step * a)``.

    Attributes:
        step: largest change of ``s`` per control step, in nats.
    """

    step: float = 0.9
    kind: ClassVar[str] = "continuous"

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_step(self)

    def space(self, dtype: type[np.floating] = np.float32) -> spaces.Box:
        return spaces.Box(-1.0, 1.0, (1,), dtype)

    @property
    def outputs(self) -> int:
        return 1

    def encode(self, action: Tensor) -> Tensor:
        return action.reshape(len(action), 1)

    def shift(self, action: Tensor) -> Tensor:
        return self.step * action.reshape(len(action)).clamp(-1.0, 1.0)


@dataclass(frozen=True)
class Discrete(Action):
    """An index into a table of multipliers: ``s <- clip(s + log(multipliers[a]))``.

    Attributes:
        multipliers: positive, increasing, and 1.0 (no change) among them.
    """

    multipliers: tuple[float, ...] = tuple(2.0 ** (k / 2) for k in range(-3, 4))
    kind: ClassVar[str] = "discrete"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not all(map(is_number, self.multipliers)):
            raise TypeError(f"multipliers must be numbers, got {self.multipliers!r}")
        object.__setattr__(self, "multipliers", tuple(map(float, self.multipliers)))
        if (
            any(not m > 0 for m in self.multipliers)
            or 1.0 not in self.multipliers
            or list(self.multipliers) != sorted(set(self.multipliers))
        ):
            raise ValueError(
                "multipliers must be positive, increasing and include 1.0, "
                f"got {self.multipliers!r}"
            )

    def space(self, dtype: type[np.floating] = np.float32) -> spaces.Discrete:
        return spaces.Discrete(self.outputs)

    @property
    def outputs(self) -> int:
        return len(self.multipliers)

    def encode(self, action: Tensor) -> Tensor:
        return F.one_hot(action.reshape(len(action)).long(), self.outputs)

    def shift(self, action: Tensor) -> Tensor:
        table = torch.tensor(self.multipliers, dtype=torch.float64, device="cpu").log()
        return table.to(action.device)[action.reshape(len(action)).long()]


@dataclass(frozen=True)
class RuleChoice(Discrete):
    """An index into a table of update rules and multipliers.

    With ``M`` multipliers, action ``a`` chooses ``rules[a // M]``, and
    ``s <- clip(s + log(multipliers[a % M]))``.

    Attributes:
        bound, start, schedule: see :class:`Action`.
        multipliers: see :class:`Discrete`.
        rules: different names out of :data:`optenv.rules.switching.NAMES`.
    """

    multipliers: tuple[float, ...] = (0.5, 1.0, 2.0)
    rules: tuple[str, ...] = switching.NAMES
    kind: ClassVar[str] = "rule"
    chooses_rule: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "rules", switching.check(self.rules))

    @property
    def outputs(self) -> int:
        return len(self.rules) * len(self.multipliers)

    @property
    def observed(self) -> int:
        return len(self.rules)

    def show(self, action: Tensor) -> Tensor:
        return F.one_hot(self._position(action), len(self.rules))

    def shift(self, action: Tensor) -> Tensor:
        return super().shift(action % len(self.multipliers))

    def choose(self, action: Tensor) -> Tensor:
        indices = [switching.NAMES.index(name) for name in self.rules]
        table = torch.tensor(indices, device="cpu")  # whatever torch's default device is
        return table.to(action.device)[self._position(action)]

    def _position(self, action: Tensor) -> Tensor:
        """Return the chosen places ``[B]`` in :attr:`rules`."""
        index = action.reshape(len(action)).long()
        return index.div(len(self.multipliers), rounding_mode="floor")


#: Values that a hyperparameter takes at the actions -1, 0 and 1, between which the
#: logarithm is interpolated. Decay rates of averages are given as ``1 - rate``.
RANGES: dict[str, tuple[float, float, float]] = {
    "momentum": (0.5, 0.1, 0.01),
    "beta1": (0.5, 0.1, 0.01),
    "beta2": (5e-2, 1e-3, 1e-4),
    "weight_decay": (1e-4, 1e-2, 1.0),
    "clip": (0.3, 3.0, 30.0),
}

#: Names of :data:`RANGES` whose values are given as one minus the value.
DECAY_RATES = ("momentum", "beta1", "beta2")

#: Names of what a :class:`Hyperparameters` can set, in the order of its default.
NAMES = ("learning_rate", *RANGES, "average")


@dataclass(frozen=True)
class Hyperparameters(Action):
    """One number in [-1, 1] for each name: the learning rate and other hyperparameters.

    The learning rate moves as by :class:`Continuous`. The others are set anew by each
    action, from their values in :data:`RANGES`; ``"average"``, the exponent of the average
    of the parameters that is evaluated (:class:`optenv.modifiers.Modifiers`), is
    ``(a + 1) / 2``. Before the first action, they are those of the rule: no weight decay,
    no clipping, no average.

    Attributes:
        bound, start, schedule: see :class:`Action`.
        step: largest change of ``s`` per control step, in nats.
        names: what is set, ``"learning_rate"``, ``"average"`` or keys of :data:`RANGES`.
            None for all that the update rule has, in the order of :data:`NAMES`; an
            environment fills them in by :meth:`for_rule`, and policy files name them.

    Example:
        >>> from optenv import actions, rules
        >>> actions.Hyperparameters().for_rule(rules.get("momentum")).names
        ('learning_rate', 'momentum', 'weight_decay', 'clip', 'average')
    """

    step: float = 0.9
    names: tuple[str, ...] | None = None
    kind: ClassVar[str] = "hyperparameters"

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_step(self)
        if self.names is None:
            return
        if not isinstance(self.names, (tuple, list)) or not self.names:
            raise TypeError(f"names must be a tuple of names or None, got {self.names!r}")
        for name in self.names:
            if name not in NAMES:
                raise ValueError(
                    f"unknown hyperparameter {name!r}; valid: {', '.join(NAMES)}"
                )
        if len(set(self.names)) < len(self.names):
            raise ValueError(f"names must differ from each other, got {self.names!r}")
        object.__setattr__(self, "names", tuple(self.names))

    def for_rule(self, rule: Rule) -> Hyperparameters:
        if self.names is not None:
            return self
        present = ("learning_rate", *rule.fields, *MODIFIERS)
        return replace(self, names=tuple(name for name in NAMES if name in present))

    @property
    def named(self) -> tuple[str, ...]:
        """Names of what is set.

        Raises:
            ValueError: they are left to the update rule.
        """
        if self.names is None:
            raise ValueError(
                "the names of this action are left to an update rule; for_rule(rule) fills "
                "them in, and names=(...) sets them"
            )
        return self.names

    @property
    def sets(self) -> tuple[str, ...]:  # type: ignore[override]
        return tuple(name for name in self.named if name != "learning_rate")

    def space(self, dtype: type[np.floating] = np.float32) -> spaces.Box:
        return spaces.Box(-1.0, 1.0, (self.outputs,), dtype)

    @property
    def outputs(self) -> int:
        return len(self.named)

    @property
    def observed(self) -> int:
        return len(self.sets)

    def encode(self, action: Tensor) -> Tensor:
        return action.reshape(len(action), self.outputs)

    def show(self, action: Tensor) -> Tensor:
        columns = [self.named.index(name) for name in self.sets]
        return self._values(action)[:, columns]

    def shift(self, action: Tensor) -> Tensor:
        if "learning_rate" not in self.named:
            return action.new_zeros(len(action))
        return self.step * self._values(action)[:, self.named.index("learning_rate")]

    def hyperparameters(self, action: Tensor) -> dict[str, Tensor]:
        values = self._values(action).unbind(1)
        return {
            name: _hyperparameter(name, value)
            for name, value in zip(self.named, values, strict=True)
            if name != "learning_rate"
        }

    def _values(self, action: Tensor) -> Tensor:
        return self.encode(action).clamp(-1.0, 1.0)


def _hyperparameter(name: str, action: Tensor) -> Tensor:
    """Return the values ``[B]`` of a hyperparameter at actions ``[B]`` in [-1, 1]."""
    if name == "average":
        return 0.5 * (action + 1.0)
    low, middle, high = map(math.log, RANGES[name])
    slope = torch.where(action < 0, middle - low, high - middle)
    value = (middle + action * slope).exp()
    return 1.0 - value if name in DECAY_RATES else value


@dataclass(frozen=True)
class RoleMultipliers(Action):
    """One number in [-1, 1] for each role of parameter: ``s_r <- clip(s_r + step * a_r)``.

    The learning rate of a parameter of role ``r`` is the base rate times the schedule times
    ``exp(s_r)``. Roles are those of :attr:`optenv.tasks.Task.roles`. A run without
    parameters of a role ignores its number. The mean over all roles is the
    log-multiplier that the features describe; the difference of each to the mean is
    observed, divided by 3.

    Attributes:
        bound, start, schedule: see :class:`Action`.
        step: largest change of each ``s_r`` per control step, in nats.
    """

    step: float = 0.9
    kind: ClassVar[str] = "roles"
    roles: ClassVar[tuple[str, ...]] = ROLES

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_step(self)

    def space(self, dtype: type[np.floating] = np.float32) -> spaces.Box:
        return spaces.Box(-1.0, 1.0, (self.outputs,), dtype)

    @property
    def outputs(self) -> int:
        return len(self.roles)

    @property
    def observed(self) -> int:
        return len(self.roles)

    def encode(self, action: Tensor) -> Tensor:
        return action.reshape(len(action), self.outputs)

    def observe(self, action: Tensor, decision: Decision) -> Tensor:
        assert decision.part_multipliers is not None
        return (decision.part_multipliers - decision.log_multiplier.unsqueeze(1)) / 3.0

    def shift(self, action: Tensor) -> Tensor:
        return self._shifts(action).mean(1)

    def _shifts(self, action: Tensor) -> Tensor:
        return self.step * self.encode(action).clamp(-1.0, 1.0)

    def decode(
        self, action: Tensor, log_multiplier: Tensor, part_multipliers: Tensor | None = None
    ) -> Decision:
        if part_multipliers is None:
            part_multipliers = log_multiplier.unsqueeze(1).expand(-1, self.outputs)
        shifts = self._shifts(action).to(log_multiplier.dtype)
        moved = self._move(part_multipliers, shifts)
        return Decision(moved.mean(1), shifts.mean(1), None, {}, moved, shifts)


@dataclass(frozen=True)
class LayerwiseMultipliers(Action):
    """One number in [-1, 1] for each parameter tensor: ``s_t <- clip(s_t + step * a_t)``.

    The learning rate of tensor ``t`` is the base rate times the schedule times
    ``exp(s_t)``. The mean over all tensors is the log-multiplier that the features of the
    run describe. A policy decides on one tensor at a time, from an observation of the run
    and of that tensor (:mod:`optenv.tensors`): so it acts on any number of tensors, in any
    order.

    Attributes:
        bound, start, schedule: see :class:`Action`.
        step: largest change of each ``s_t`` per control step, in nats.
        tensors: entries of an environment's action, the largest number of parameter
            tensors of a model. If a model has fewer, the last entries have no effect.
            Optimizers have no such limit.
    """

    step: float = 0.9
    tensors: int = 64
    kind: ClassVar[str] = "layerwise"
    per_tensor: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_step(self)
        object.__setattr__(self, "tensors", positive_int("tensors", self.tensors))

    def space(self, dtype: type[np.floating] = np.float32) -> spaces.Box:
        return spaces.Box(-1.0, 1.0, (self.tensors,), dtype)

    def policy_space(self, dtype: type[np.floating] = np.float32) -> spaces.Box:
        return spaces.Box(-1.0, 1.0, (1,), dtype)

    @property
    def outputs(self) -> int:
        return 1

    @property
    def observed(self) -> int:
        """Number of features of each tensor, which stand in the place of :meth:`show`."""
        return len(TENSOR_FEATURES)

    @property
    def slots(self) -> int:
        return self.tensors

    def encode(self, action: Tensor) -> Tensor:
        """Return the actions on single tensors ``[B]`` as ``[B, 1]``."""
        return action.reshape(len(action), 1)

    def shift(self, action: Tensor) -> Tensor:
        """Return the mean change ``[B]`` that actions ``[B, T]`` request, in nats."""
        return self._shifts(action).mean(1)

    def _shifts(self, action: Tensor) -> Tensor:
        return self.step * action.clamp(-1.0, 1.0)

    def decode(
        self, action: Tensor, log_multiplier: Tensor, part_multipliers: Tensor | None = None
    ) -> Decision:
        """Decode a batch of actions; see :meth:`Action.decode`.

        Args:
            action: ``[B, K]``, of which the first ``T`` count.
            log_multiplier: ``[B]`` before the action.
            part_multipliers: ``[B, T]`` before the action; by default ``T`` is ``K``, and
                all are ``log_multiplier``.
        """
        if part_multipliers is None:
            part_multipliers = log_multiplier.unsqueeze(1).expand(-1, action.shape[1])
        shifts = self._shifts(action[:, : part_multipliers.shape[1]])
        shifts = shifts.to(log_multiplier.dtype)
        moved = self._move(part_multipliers, shifts)
        return Decision(moved.mean(1), shifts.mean(1), None, {}, moved, shifts)


def _check_step(
    action: Continuous | Hyperparameters | RoleMultipliers | LayerwiseMultipliers,
) -> None:
    """Convert ``step`` to a float, and refuse one that is not positive and finite."""
    action._as_floats("step")
    if not 0 < action.step < math.inf:
        raise ValueError(f"step must be positive and finite, got {action.step!r}")


#: Kinds of actions of the package, by name.
ACTIONS: dict[str, type[Action]] = {
    cls.kind: cls
    for cls in (
        Continuous, Discrete, RuleChoice, Hyperparameters, RoleMultipliers,
        LayerwiseMultipliers,
    )
}  # fmt: skip

#: Kinds of actions registered from outside the package.
_REGISTERED: dict[str, type[Action]] = {}

#: Methods and properties that :class:`Action` leaves open.
_OPEN = {name: getattr(Action, name) for name in ("space", "outputs", "encode", "shift")}

ActionClass = TypeVar("ActionClass", bound=type[Action])


def register(cls: ActionClass) -> ActionClass:
    """Make a kind of action available by its name. Use it as a class decorator.

    Args:
        cls: subclass of :class:`Action`, a frozen dataclass with a ``kind`` of its own.

    Returns:
        The class.

    Raises:
        TypeError: it is no such class, lacks a method or property that the base leaves
            open, or gives a field another default without being decorated.
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
        TypeError: ``spec`` is of another type, or names an unknown field.
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


def check_rule(action: Action, rule: Rule) -> None:
    """Refuse an action and an update rule that do not go together.

    Args:
        action: the action.
        rule: the rule of an environment or of an optimizer.

    Raises:
        ValueError: the action chooses update rules and the rule is not ``"switching"``, or
            the other way round; or it sets a hyperparameter that the rule does not have.
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
    if not set(action.sets) <= {*rule.fields, *MODIFIERS}:
        raise ValueError(
            f"action {action.kind!r} sets {', '.join(action.sets)}; the hyperparameters of "
            f"rule {name!r} are: {', '.join(rule.fields) or 'none'}, and any rule has "
            f"{', '.join(MODIFIERS)}"
        )


#: Wrapper that clips actions to their space.
_CLIP = "gymnasium.wrappers.ClipAction (in wrappers.vector for a batch)"


def validate(space: spaces.Space[Any], actions: Any) -> np.ndarray:
    """Return ``actions``, of one environment or of a batch, as a new array of ``space``.

    Raises:
        ValueError: wrong shape, non-finite, or out of the space's range.
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
