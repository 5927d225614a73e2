"""Update rules as pure functions on a batch of flat parameters.

A rule turns a gradient into new parameters. All tensors carry one leading batch
dimension ``B`` (runs); parameters are flat, ``[B, P]``. By default nothing is changed in
place, so that gradients flow through an update and a kept state stays valid; with
``inplace=True`` parameters and state are overwritten, which spares the time to allocate.

Every rule that has a namesake in ``torch.optim`` equals it (no weight decay) to float
tolerance. Hyperparameters are torch's defaults (Lion's: its authors') unless a
specification gives others, as in ``{"name": "adam", "beta1": 0.8}``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import switching
from .hyperparameters import HYPERPARAMETERS, LION, Hyperparameters
from .mlp import network
from .updates import (
    RuleState,
    adam,
    lion,
    momentum,
    nadam,
    nesterov,
    orthogonal_adam,
    rmsprop,
    sgd,
)

__all__ = [
    "HYPERPARAMETERS",
    "RULES",
    "SWITCHING",
    "Hyperparameters",
    "Rule",
    "RuleSpec",
    "RuleState",
    "adam",
    "get",
    "lion",
    "momentum",
    "nadam",
    "nesterov",
    "network",
    "orthogonal_adam",
    "rmsprop",
    "sgd",
]

#: Name of a rule, or its name and hyperparameters.
RuleSpec = str | dict[str, Any]


class Rule(NamedTuple):
    """An update rule.

    Attributes:
        name: the key in :data:`RULES`.
        default_lr: a usual base learning rate of the rule.
        fields: the hyperparameters that it has.
        init: ``params [B, P] -> state``, a tuple of ``[B, ...]`` tensors.
        update: ``(params [B, P], grad [B, P], state, lr [B, 1], inplace=False) -> (params,
            state)``.
        hyperparameters: what it holds fixed.
        shaped: whether an update depends on the shapes of the parameters; see :meth:`bind`.
    """

    name: str
    default_lr: float
    fields: tuple[str, ...]
    init: Callable[[Tensor], RuleState]
    update: Callable[..., tuple[Tensor, RuleState]]
    hyperparameters: Hyperparameters = HYPERPARAMETERS
    shaped: bool = False

    def bind(self, shapes: Sequence[Sequence[int]]) -> Rule:
        """The rule for parameters of these shapes; only then can a shaped rule update."""
        if not self.shaped:
            return self
        return self._replace(update=partial(self.update, shapes=shapes))

    def to_spec(self) -> RuleSpec:
        """Name, with hyperparameters that are not its defaults; :func:`get` reads it."""
        rule = RULES.get(self.name, SWITCHING)
        ours, default = self.hyperparameters, rule.hyperparameters
        values = {name: getattr(ours, name) for name in self.fields}
        changed = {k: v for k, v in values.items() if v != getattr(default, k)}
        if "weights" in changed:
            changed["weights"] = list(ours.weights)  # as JSON has it
        return {"name": self.name, **changed} if changed else self.name


def _no_state(params: Tensor) -> RuleState:
    return ()


def _one_buffer(params: Tensor) -> RuleState:
    return (torch.zeros_like(params),)


def _adam_state(params: Tensor) -> RuleState:
    step = torch.zeros(params.shape[0], 1, dtype=params.dtype, device=params.device)
    return torch.zeros_like(params), torch.zeros_like(params), step


def _network_state(params: Tensor) -> RuleState:
    return torch.zeros_like(params), *_adam_state(params)


def _nadam_state(params: Tensor) -> RuleState:
    mean, square, step = _adam_state(params)
    return mean, square, step, torch.ones_like(step)


_MOMENTUM, _ADAM = ("momentum",), ("beta1", "beta2", "eps")

#: The rules, with their default hyperparameters.
RULES: dict[str, Rule] = {
    rule.name: rule
    for rule in (
        Rule("sgd", 1e-1, (), _no_state, sgd),
        Rule("momentum", 1e-2, _MOMENTUM, _one_buffer, momentum),
        Rule("nesterov", 1e-2, _MOMENTUM, _one_buffer, nesterov),
        Rule("rmsprop", 1e-3, ("alpha", "eps"), _one_buffer, rmsprop),
        Rule("adam", 1e-3, _ADAM, _adam_state, adam),
        Rule("nadam", 2e-3, (*_ADAM, "momentum_decay"), _nadam_state, nadam),
        Rule("lion", 1e-4, ("beta1", "beta2"), _one_buffer, lion, LION),
        Rule(
            "orthogonal-adam",
            1e-3,
            (*_ADAM, "power"),
            _adam_state,
            orthogonal_adam,
            shaped=True,
        ),
        Rule("network", 1e-3, ("eps", "weights"), _network_state, network, shaped=True),
    )
}


#: Of environments whose actions choose among rules: which is chosen is in its state.
SWITCHING = Rule("switching", 1e-3, (), switching.init, switching.update, shaped=True)


def get(spec: RuleSpec) -> Rule:
    """Return the rule of a name, or of a dict of ``name`` and hyperparameters.

    Raises:
        ValueError: there is no such rule, or a hyperparameter is out of its range; the
            message lists what is valid.
        TypeError: the rule has no such hyperparameter, or it is no number.
    """
    fields = dict(spec) if isinstance(spec, dict) else {"name": spec}
    name = fields.pop("name", None)
    if name not in (*RULES, SWITCHING.name):
        raise ValueError(f"unknown rule {name!r}; valid rules: {', '.join(RULES)}")
    rule = RULES.get(name, SWITCHING)
    for field in fields:
        if field not in rule.fields:
            valid = ", ".join(rule.fields) or "none"
            raise TypeError(
                f"rule {name!r} has no hyperparameter {field!r}; valid: {valid}"
            )
    h = replace(rule.hyperparameters, **fields)
    return rule._replace(update=partial(rule.update, h=h), hyperparameters=h)
