"""Update rules as pure functions on a batch of flat parameters.

A rule turns a gradient into new parameters. All tensors have one leading batch dimension
``B`` (runs); parameters are flat, ``[B, P]``. One file holds one family of rules, each
with its equation, its hyperparameters, its initial state and its update.

Every rule that ``torch.optim`` has, too, equals torch's (without weight decay) to float
tolerance, and has its default hyperparameters (Lion those of its authors). Others can be
given: ``{"name": "adam", "beta1": 0.8}``. A rule of your own becomes available to
environments and optimizers by :func:`register`.
"""

from __future__ import annotations

from . import switching
from .adam import RULES as _ADAM
from .adam import adam, nadam
from .base import Hyperparameters, Rule, RuleSpec, RuleState
from .lion import RULES as _LION
from .lion import lion
from .mlp import RULES as _MLP
from .mlp import network
from .orthogonal_adam import RULES as _ORTHOGONAL_ADAM
from .orthogonal_adam import orthogonal_adam
from .rmsprop import RULES as _RMSPROP
from .rmsprop import rmsprop
from .sgd import RULES as _SGD
from .sgd import momentum, nesterov, sgd

__all__ = [
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
    "register",
    "rmsprop",
    "sgd",
    "switching",
]

#: The rules of the package by name, with their default hyperparameters.
RULES: dict[str, Rule] = {
    rule.name: rule for rule in (*_SGD, *_RMSPROP, *_ADAM, *_LION, *_ORTHOGONAL_ADAM, *_MLP)
}

#: Rule of environments whose actions choose among rules; its state says which is in force.
SWITCHING = switching.RULE

#: Rules registered from outside the package.
_REGISTERED: dict[str, Rule] = {}


def register(rule: Rule) -> Rule:
    """Make a rule available by its name, in environments and in optimizers.

    ``LearnedOptimizer`` applies it to one parameter at a time, unless the rule also has a
    kernel (:func:`agents.optim.kernels.register`). A policy that was trained with it can
    be used wherever it is registered.

    Args:
        rule: with a name that no other rule has.

    Returns:
        The rule.

    Raises:
        TypeError: it is no :class:`Rule`.
        ValueError: the name is taken.
    """
    if not isinstance(rule, Rule):
        raise TypeError(f"rule must be an optenv.rules.Rule, got {rule!r}")
    if rule.name in _known():
        raise ValueError(
            f"there is a rule {rule.name!r} already; taken: {', '.join(_known())}"
        )
    _REGISTERED[rule.name] = rule
    return rule


def get(spec: RuleSpec) -> Rule:
    """Return the rule of a name, or of a dict of ``name`` and hyperparameters.

    Raises:
        ValueError: there is no such rule, or a hyperparameter is out of its range.
        TypeError: the rule has no such hyperparameter, or it is no number.
    """
    changed = dict(spec) if isinstance(spec, dict) else {"name": spec}
    name = changed.pop("name", None)
    if name not in list(_known()):
        valid = ", ".join([*RULES, *_REGISTERED])
        raise ValueError(f"unknown rule {name!r}; valid rules: {valid}")
    return _known()[name].with_hyperparameters(**changed)


def _known() -> dict[str, Rule]:
    return {**RULES, SWITCHING.name: SWITCHING, **_REGISTERED}
