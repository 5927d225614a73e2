"""Types of an update rule: rule, state, and hyperparameters with their ranges.

A rule's update is a function of a batch of runs, with flat parameters and gradients
``[B, P]``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .. import checks

__all__ = [
    "NO_HYPERPARAMETERS",
    "Hyperparameters",
    "Rule",
    "RuleSpec",
    "RuleState",
    "empty_state",
    "fraction",
    "hyperparameter",
    "nonnegative",
    "positive",
    "whole",
    "zeros_state",
]

#: State of a rule: tensors ``[B, ...]``, one row per run.
RuleState = tuple[Tensor, ...]

#: Name of a rule, or a dict of its ``name`` and hyperparameters.
RuleSpec = str | dict[str, Any]


def hyperparameter(default: Any, check: Callable[[str, Any], Any]) -> Any:
    """Declare a field of :class:`Hyperparameters` with its own check.

    Args:
        default: default value, which is not checked until it is used.
        check: called with the name of the field and its value; returns the value to keep,
            or raises a ``ValueError`` or ``TypeError`` that quotes both.
    """
    return field(default=default, metadata={"check": check})


def fraction(default: float) -> Any:
    """Declare a hyperparameter in [0, 1), such as a decay rate."""
    check = partial(_number, is_valid=lambda x: 0 <= x < 1, valid="lie in [0, 1)")
    return hyperparameter(default, check)


def positive(default: float) -> Any:
    """Declare a positive, finite hyperparameter."""
    return hyperparameter(default, checks.positive)


def nonnegative(default: float) -> Any:
    """Declare a finite hyperparameter of at least 0."""
    check = partial(
        _number, is_valid=lambda x: 0 <= x < math.inf, valid="be at least 0 and finite"
    )
    return hyperparameter(default, check)


def whole(default: int) -> Any:
    """Declare a hyperparameter that is a positive integer."""
    return hyperparameter(default, checks.positive_int)


def _number(name: str, value: Any, is_valid: Callable[[float], bool], valid: str) -> float:
    """Return a valid number as a float, and refuse any other value."""
    if not checks.is_number(value):
        raise TypeError(f"{name} must be a number, got {checks.quoted(value)}")
    if not is_valid(value):
        raise ValueError(f"{name} must {valid}, got {checks.quoted(value)}")
    return float(value)


@dataclass(frozen=True)
class Hyperparameters:
    """Base class of the hyperparameters of a rule, and those of a rule without any.

    Subclasses are frozen dataclasses. Each of their fields has a default and a range:
    :func:`fraction`, :func:`positive`, :func:`nonnegative`, :func:`whole`, or a check of
    its own (:func:`hyperparameter`).

    Raises:
        ValueError: a value is out of its range.
        TypeError: a value is of the wrong type.

    Example::

        @dataclass(frozen=True)
        class RMSprop(Hyperparameters):
            alpha: float = fraction(0.99)
            eps: float = positive(1e-8)
    """

    def __post_init__(self) -> None:
        for item in fields(self):
            check = item.metadata.get("check")
            if check is not None:
                value = check(item.name, getattr(self, item.name))
                object.__setattr__(self, item.name, value)


NO_HYPERPARAMETERS = Hyperparameters()


@dataclass(frozen=True)
class Rule:
    """An update rule: a function from parameters, gradient and state to new parameters.

    Attributes:
        name: name of the rule, by which :func:`optenv.rules.get` finds it.
        default_lr: usual base learning rate.
        init: ``init(params) -> state``: a tuple of tensors ``[B, P]`` or ``[B, k]``, of the
            dtype and on the device of ``params [B, P]``. With :attr:`shaped_state` it also
            takes ``h`` and ``shapes``.
        update: ``update(params, grad, state, lr, inplace=False) -> (params, state)``, with
            ``params`` and ``grad`` of shape ``[B, P]`` and ``lr`` of shape ``[B, 1]``. By
            default nothing is changed in place, so that gradients flow through an update
            and old states stay valid. With ``inplace=True`` it may overwrite parameters and
            state, which saves allocations, but neither gradient nor learning rate. A rule
            with hyperparameters also takes ``h``, and a shaped rule ``shapes``.
        hyperparameters: present hyperparameters, which ``update`` gets as ``h``.
        slots: a name for each part of the state, under which an exported optimizer keeps
            that part for each parameter.
        shaped: whether an update depends on the shapes of the parameters; see
            :meth:`bind`.
        shaped_state: whether the state depends on hyperparameters and shapes as well.
    """

    name: str
    default_lr: float
    init: Callable[[Tensor], RuleState]
    update: Callable[..., tuple[Tensor, RuleState]]
    hyperparameters: Hyperparameters = NO_HYPERPARAMETERS
    slots: tuple[str, ...] = ()
    shaped: bool = False
    shaped_state: bool = False

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of the rule's hyperparameters."""
        return tuple(item.name for item in fields(self.hyperparameters))

    def bind(
        self, shapes: Sequence[Sequence[int]], roles: Sequence[str] | None = None
    ) -> Rule:
        """Return the rule for parameters of these shapes.

        A shaped rule can only update once it is bound; other rules are returned unchanged.

        Args:
            shapes: shapes of the parameters of one run, in the order in which they are
                flattened into ``P`` numbers.
            roles: role of each parameter, out of :data:`optenv.roles.ROLES`. The rule
                treats all but ``"matrices"`` as vectors, whatever their shapes. By default
                it does so only with parameters of fewer than two dimensions.
        """
        if not self.shaped:
            return self
        if roles is not None:
            shapes = [
                shape if role == "matrices" else (math.prod(shape),)
                for shape, role in zip(shapes, roles, strict=True)
            ]
        return self._with(shapes=shapes)

    def _with(self, **given: Any) -> Rule:
        """Return the rule with some arguments of its functions fixed."""
        init = partial(self.init, **given) if self.shaped_state else self.init
        return replace(self, init=init, update=partial(self.update, **given))

    def with_hyperparameters(self, **changed: Any) -> Rule:
        """Return the rule with other hyperparameters.

        Raises:
            ValueError: a value is out of its range.
            TypeError: the rule has no such hyperparameter, or a value is of a wrong type.
        """
        for name in changed:
            if name not in self.fields:
                valid = ", ".join(self.fields) or "none"
                raise TypeError(
                    f"rule {self.name!r} has no hyperparameter {name!r}; valid: {valid}"
                )
        if not self.fields:
            return self
        h = replace(self.hyperparameters, **changed)
        return replace(self._with(h=h), hyperparameters=h)

    def to_spec(self) -> RuleSpec:
        """Return the rule's name, with the hyperparameters that differ from the defaults.

        :func:`optenv.rules.get` reads the result, which can be written as JSON.
        """
        default = type(self.hyperparameters)()
        values = {name: getattr(self.hyperparameters, name) for name in self.fields}
        changed = {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in values.items()
            if value != getattr(default, name)
        }
        return {"name": self.name, **changed} if changed else self.name


def empty_state(params: Tensor) -> RuleState:
    """Make the state of a rule without memory: ``()``."""
    return ()


def zeros_state(params: Tensor) -> RuleState:
    """Make the state of a rule with one average: ``(zeros [B, P],)``."""
    return (torch.zeros_like(params),)
