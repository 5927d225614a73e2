"""The types of an update rule: rule, state, and hyperparameters with their ranges."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..checks import is_number

__all__ = [
    "NO_HYPERPARAMETERS",
    "Hyperparameters",
    "Rule",
    "RuleSpec",
    "RuleState",
    "fraction",
    "nonnegative",
    "positive",
    "zeros_state",
]

#: State of a rule: tensors ``[B, ...]``, one row a run.
RuleState = tuple[Tensor, ...]

#: Name of a rule, or a dict of its ``name`` and hyperparameters.
RuleSpec = str | dict[str, Any]


def fraction(default: float) -> Any:
    """Declare a hyperparameter in [0, 1), such as a decay."""
    return field(default=default, metadata={"valid": (0.0, 1.0), "range": "lie in [0, 1)"})


def positive(default: float) -> Any:
    """Declare a positive hyperparameter."""
    valid = (math.nextafter(0.0, 1.0), math.inf)
    return field(
        default=default, metadata={"valid": valid, "range": "be positive and finite"}
    )


def nonnegative(default: float) -> Any:
    """Declare a hyperparameter that is at least 0."""
    return field(
        default=default,
        metadata={"valid": (0.0, math.inf), "range": "be at least 0 and finite"},
    )


@dataclass(frozen=True)
class Hyperparameters:
    """Base of the hyperparameters of a rule, and those of a rule without any.

    Subclasses are frozen dataclasses whose fields are made by :func:`fraction`,
    :func:`positive` or :func:`nonnegative`::

        @dataclass(frozen=True)
        class Momentum(Hyperparameters):
            momentum: float = fraction(0.9)

    Raises:
        ValueError: a value is out of its range.
        TypeError: a value is no number.
    """

    def __post_init__(self) -> None:
        for each in fields(self):
            if "valid" not in each.metadata:
                continue
            value, (low, high) = getattr(self, each.name), each.metadata["valid"]
            if not is_number(value):
                raise TypeError(f"{each.name} must be a number, got {value!r}")
            if not low <= value < high:
                wanted = each.metadata["range"]
                raise ValueError(f"{each.name} must {wanted}, got {value!r}")
            object.__setattr__(self, each.name, float(value))


NO_HYPERPARAMETERS = Hyperparameters()


@dataclass(frozen=True)
class Rule:
    """An update rule for a batch of flat parameters.

    Attributes:
        name: by which :func:`optenv.rules.get` finds it.
        default_lr: a usual base learning rate of the rule.
        init: ``params [B, P] -> state``, a tuple of ``[B, ...]`` tensors: zeros, or what
            does not depend on the parameters' values.
        update: ``(params [B, P], grad [B, P], state, lr [B, 1], inplace=False, h=...) ->
            (params, state)``. By default nothing is changed in place, so that gradients
            flow through an update. With ``inplace=True`` parameters and state may be
            overwritten, which spares the time to allocate.
        hyperparameters: passed to ``update`` as ``h``.
        shaped: whether ``update`` also takes ``shapes``, those of the parameters of one
            run; see :meth:`bind`.
    """

    name: str
    default_lr: float
    init: Callable[[Tensor], RuleState]
    update: Callable[..., tuple[Tensor, RuleState]]
    hyperparameters: Hyperparameters = NO_HYPERPARAMETERS
    shaped: bool = False

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of the rule's hyperparameters."""
        return tuple(each.name for each in fields(self.hyperparameters))

    def bind(self, shapes: Sequence[Sequence[int]]) -> Rule:
        """Return the rule for parameters of these shapes.

        A shaped rule can only update once it is bound; other rules are returned unchanged.
        """
        if not self.shaped:
            return self
        return replace(self, update=partial(self.update, shapes=shapes))

    def with_hyperparameters(self, **changed: Any) -> Rule:
        """Return the rule with other hyperparameters.

        Raises:
            ValueError: a value is out of its range.
            TypeError: the rule has no such hyperparameter, or a value is no number.
        """
        for name in changed:
            if name not in self.fields:
                valid = ", ".join(self.fields) or "none"
                raise TypeError(
                    f"rule {self.name!r} has no hyperparameter {name!r}; valid: {valid}"
                )
        h = replace(self.hyperparameters, **changed)
        return replace(self, update=partial(self.update, h=h), hyperparameters=h)

    def to_spec(self) -> RuleSpec:
        """Return the name, with the hyperparameters that are not the defaults.

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


def zeros_state(params: Tensor) -> RuleState:
    """Make the state of a rule that keeps one average: ``(zeros [B, P],)``."""
    return (torch.zeros_like(params),)
