"""Base class of the kinds of actions, and the decisions that actions decode to."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from ..checks import is_number, known, quoted
from ..rules import Rule
from ..schedules import SCHEDULES

__all__ = ["Action", "Decision"]


#: Kinds of actions from outside the package, whose numbers are checked.
FROM_OUTSIDE: set[str] = set()


class Decision(NamedTuple):
    """Decoded actions of ``B`` runs, which apply until the next control step.

    Attributes:
        log_multiplier: log-multiplier ``[B]`` after the action, within its bound.
        shift: requested change ``[B]`` of the log-multiplier, before it is clipped.
        rule: chosen update rule ``[B]``, an index into
            :data:`optenv.rules.switching.NAMES`; None if the action does not choose one.
        hyperparameters: values ``[B]`` that the action sets, by name: hyperparameters of
            the rule, and :data:`optenv.modifiers.MODIFIERS`.
        part_multipliers: log-multipliers ``[B, K]`` of parts of the parameters (roles, or
            single tensors), whose mean is ``log_multiplier``; None if the action does not
            distinguish parts.
        part_shifts: requested changes ``[B, K]`` of these, before they are clipped.
        update: update of each parameter ``[B, K]`` in units of the learning rate, if the
            action is the update itself; None otherwise.
        batch_factor: batch size ``[B]`` relative to the task's own, if the action sets it;
            None otherwise.
    """

    log_multiplier: Tensor
    shift: Tensor
    rule: Tensor | None
    hyperparameters: dict[str, Tensor]
    part_multipliers: Tensor | None = None
    part_shifts: Tensor | None = None
    update: Tensor | None = None
    batch_factor: Tensor | None = None

    def limited(self, highest: float | Tensor) -> Decision:
        """Return the decision with no log-multiplier above ``highest``.

        Args:
            highest: one limit, or limits of the parts, ``[K]``.
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
        sets: names of the hyperparameters of the rule, and of
            :data:`optenv.modifiers.MODIFIERS`, that the action sets, see
            :meth:`hyperparameters`.
        roles: names of the roles of parameters that the action distinguishes.
        per_tensor: whether it has a number for each parameter tensor of a run, see
            :class:`LayerwiseMultipliers`.
        is_update: whether it replaces the update rule, see :class:`Update`.
        sets_batch_size: whether it sets the batch size, see :class:`BatchSize`.
        is_index: whether it is an integer, the index of a policy's largest output.
        not_exported: reason why no optimizer can carry it out; empty if one can.
    """

    bound: float = 6.0
    start: float = 0.0
    schedule: str = "constant"
    kind: ClassVar[str]
    chooses_rule: ClassVar[bool] = False
    sets: ClassVar[tuple[str, ...]] = ()
    roles: ClassVar[tuple[str, ...]] = ()
    per_tensor: ClassVar[bool] = False
    is_update: ClassVar[bool] = False
    sets_batch_size: ClassVar[bool] = False
    is_index: ClassVar[bool] = False
    not_exported: ClassVar[str] = ""

    def __post_init__(self) -> None:
        self._as_floats("bound", "start")
        if not self.bound > 0:
            raise ValueError(f"bound must be positive, got {self.bound!r}")
        if not abs(self.start) <= self.bound:
            raise ValueError(f"start must lie within ±{self.bound}, got {self.start!r}")
        known("schedule", self.schedule, SCHEDULES)

    def _as_floats(self, *names: str) -> None:
        """Convert fields to plain floats, the only numbers that policy files can hold."""
        for name in names:
            value = getattr(self, name)
            if not is_number(value):
                raise TypeError(f"{name} must be a number, got {quoted(value)}")
            object.__setattr__(self, name, float(value))

    def _as_positive(self, *names: str) -> None:
        """Convert fields to floats, and refuse one that is not positive and finite."""
        self._as_floats(*names)
        for name in names:
            if not 0 < getattr(self, name) < math.inf:
                value = getattr(self, name)
                raise ValueError(f"{name} must be positive and finite, got {value!r}")

    @property
    def sets_one_rate(self) -> bool:
        """True if the action sets one learning rate, and nothing else."""
        parts = self.roles or self.per_tensor or self.is_update
        return not (self.chooses_rule or self.sets or self.sets_batch_size or parts)

    def for_rule(self, rule: Rule) -> Action:
        """Return the action with its fields completed that depend on the update rule.

        Environments do this before they use an action. By default no field depends on it.
        """
        return self

    def for_sizes(self, most: int) -> Action:
        """Return the action with its fields completed that depend on the tasks.

        Args:
            most: largest number of parameters of the tasks.
        """
        return self

    @property
    def max_params(self) -> int | None:
        """Largest number of parameters of a task; None if there is no limit."""
        return None

    # Interface to agents

    def space(self, dtype: type[np.floating] = np.float32) -> spaces.Space[Any]:
        """Return the Gymnasium space of one action.

        Args:
            dtype: type of a continuous space.
        """
        raise NotImplementedError

    def policy_space(self, dtype: type[np.floating] = np.float32) -> spaces.Space[Any]:
        """Return the space of a single decision of a policy.

        It is :meth:`space`, or, for actions on single tensors, the space for one tensor.
        """
        return self.space(dtype)

    @property
    def outputs(self) -> int:
        """Number of a policy's outputs, and width of :meth:`encode` for each slot.

        The action is the outputs, clipped to [-1, 1], or, if the action :attr:`is_index`,
        the index of the largest output.
        """
        raise NotImplementedError

    def encode(self, action: Tensor) -> Tensor:
        """Encode actions ``[B, ...]`` as ``[B, slots * outputs]``, which trials observe."""
        raise NotImplementedError

    @property
    def observed(self) -> int:
        """Width of :meth:`show`."""
        return 0

    @property
    def slots(self) -> int:
        """Number of parts of an action that a policy decides on one by one.

        It is 1, or, for actions on single tensors, the largest number of tensors. An
        environment's observation has :attr:`observed` entries for each of them.
        """
        return 1

    def show(self, action: Tensor) -> Tensor:
        """Return the entries of the observation about the last action, ``[B, observed]``.

        They follow the telemetry, which has the last :meth:`shift` as a feature.
        """
        return action.new_zeros(len(action), 0)

    def observe(self, action: Tensor, decision: Decision) -> Tensor:
        """Return the observed entries about action and decision, ``[B, observed]``.

        By default these are the entries of :meth:`show`.
        """
        return self.show(action)

    @property
    def memory(self) -> int:
        """Width of the memory of :meth:`observe_run`; 0 if there is none."""
        return 0

    def observe_run(
        self, memory: Tensor, params: Tensor, grad: Tensor, loss: Tensor, is_first: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Observe the runs themselves, in place of :meth:`observe`, if there is a memory.

        Args:
            memory: memory that the last call returned, ``[B, memory]``.
            params: parameters, ``[B, P]``.
            grad: gradients, ``[B, P]``.
            loss: losses of the last batches, ``[B]``; 0 where they are not observed.
            is_first: whether the run begins, ``[B]`` bool.

        Returns:
            Entries of the observation after the telemetry, ``[B, observed]``, not clipped
            yet; and the memory for the next call.
        """
        raise NotImplementedError

    # Interface to environments and optimizers

    def decode(
        self, action: Tensor, log_multiplier: Tensor, part_multipliers: Tensor | None = None
    ) -> Decision:
        """Decode a batch of actions.

        Args:
            action: actions, ``[B, ...]``.
            log_multiplier: log-multipliers before the action, ``[B]``.
            part_multipliers: log-multipliers of the parts before the action, ``[B, K]``, if
                the action distinguishes parts.
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
            ValueError: a part has another shape, the hyperparameters are not those that
                :attr:`sets` names, or a number of an action from outside the package is not
                finite.
        """
        if shift.shape != like.shape:
            raise ValueError(
                f"shift of action {self.kind!r} must return a tensor of shape "
                f"{tuple(like.shape)}, got shape {tuple(shift.shape)}"
            )
        if hyperparameters.keys() != set(self.sets):
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
        if self.kind in FROM_OUTSIDE:
            for name, values in {"shift": shift, **hyperparameters}.items():
                if not values.isfinite().all():
                    raise ValueError(
                        f"{name} of action {self.kind!r} must be finite, got "
                        f"{values.tolist()}"
                    )

    def shift(self, action: Tensor) -> Tensor:
        """Return the requested change ``[B]`` of the log-multiplier, in nats."""
        raise NotImplementedError

    def apply(self, action: Tensor, log_multiplier: Tensor) -> Tensor:
        """Return the log-multiplier ``[B]`` after an action, given the one before."""
        return self._move(log_multiplier, self.shift(action).to(log_multiplier.dtype))

    def _move(self, log_multiplier: Tensor, shift: Tensor) -> Tensor:
        return (log_multiplier + shift).clamp(-self.bound, self.bound)

    def choose(self, action: Tensor) -> Tensor:
        """Return the chosen update rules.

        Returns:
            Indices ``[B]`` into :data:`optenv.rules.switching.NAMES`; -1 for no choice.
        """
        return torch.full((len(action),), -1, device=action.device)

    def hyperparameters(self, action: Tensor) -> dict[str, Tensor]:
        """Return the values ``[B]`` of the hyperparameters that :attr:`sets` names."""
        return {}

    @property
    def is_constant(self) -> bool:
        """True if the base schedule is known to be 1 throughout a run."""
        return self.schedule == "constant" and type(self).factor is Action.factor

    def factor(self, progress: float) -> float:
        """Return the base schedule at a progress in [0, 1]."""
        return SCHEDULES[self.schedule](progress)

    def to_dict(self) -> dict[str, Any]:
        """Return a description that can be written as JSON; :func:`make` reads it."""
        return {"kind": self.kind, **asdict(self)}
