"""Update rules as pure functions on a batch of flat parameters.

A rule turns a gradient into new parameters. All tensors have one leading batch dimension
``B`` (runs); parameters are flat, ``[B, P]``. One file holds one family of rules, each with
its equation, its hyperparameters, its initial state and its update.

By default nothing is changed in place, so that gradients flow through an update and old
states stay valid. With ``inplace=True`` parameters and state are overwritten, which saves
allocations.

Every rule that is also in ``torch.optim`` makes the same updates as torch's (without weight
decay), up to rounding, and has the same default hyperparameters (Lion has its authors').
Other values can be given: ``{"name": "adam", "beta1": 0.8}``. :func:`register` makes your
own rule available to environments and optimizers.
"""

from __future__ import annotations

import torch

from .. import checks
from . import switching
from .adam import RULES as _ADAM
from .adam import adam, nadam
from .base import (
    Hyperparameters,
    Rule,
    RuleSpec,
    RuleState,
    fraction,
    hyperparameter,
    nonnegative,
    positive,
    whole,
)
from .costs import COSTS, relative_cost
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
    "COSTS",
    "RULES",
    "SWITCHING",
    "Hyperparameters",
    "Rule",
    "RuleSpec",
    "RuleState",
    "adam",
    "fraction",
    "get",
    "hyperparameter",
    "lion",
    "momentum",
    "nadam",
    "nesterov",
    "network",
    "nonnegative",
    "orthogonal_adam",
    "positive",
    "register",
    "relative_cost",
    "rmsprop",
    "sgd",
    "switching",
    "whole",
]

#: Rules of the package by name, with their default hyperparameters.
RULES: dict[str, Rule] = {
    rule.name: rule for rule in (*_SGD, *_RMSPROP, *_ADAM, *_LION, *_ORTHOGONAL_ADAM, *_MLP)
}

#: Rule of environments whose actions choose among rules; its state has the active rule.
SWITCHING = switching.RULE

#: Rules registered from outside the package, by name.
_REGISTERED: dict[str, Rule] = {}


def get(spec: RuleSpec) -> Rule:
    """Return the rule of a specification.

    Args:
        spec: name of a rule, or a dict of its ``name`` and hyperparameters. Hyperparameters
            that are left out have their defaults.

    Raises:
        ValueError: there is no such rule, or a hyperparameter is out of its range; the
            message lists what is valid.
        TypeError: the rule has no such hyperparameter, or its value is of the wrong type.

    Example::

        rules.get({"name": "adam", "beta1": 0.8}).hyperparameters.beta1  # 0.8
    """
    changed = dict(spec) if isinstance(spec, dict) else {"name": spec}
    name = changed.pop("name", None)
    if name not in list(_known()):
        valid = ", ".join([*RULES, *_REGISTERED])
        raise ValueError(f"unknown rule {name!r}; valid rules: {valid}")
    return _known()[name].with_hyperparameters(**changed)


def register(rule: Rule) -> Rule:
    """Make a rule available by its name, in environments and in optimizers.

    ``LearnedOptimizer`` applies it to one parameter at a time, unless the rule also has a
    kernel (:func:`agents.optim.kernels.register`). Every process that loads a policy that
    was trained with the rule has to register the rule first.

    Args:
        rule: the rule, with a name that no other rule has, and with the default
            hyperparameters of its hyperparameter class.

    Returns:
        The rule.

    Raises:
        TypeError: it is not a :class:`Rule`, or a part of it is of the wrong type.
        ValueError: the name is taken, parts of the rule contradict each other, or an update
            of two runs with three parameters fails or does not return new parameters and a
            state.
    """
    if not isinstance(rule, Rule):
        raise TypeError(f"rule must be an optenv.rules.Rule, got {rule!r}")
    if not isinstance(rule.name, str) or not rule.name:
        raise TypeError(f"name of a rule must be a non-empty string, got {rule.name!r}")
    if rule.name in _known():
        raise ValueError(
            f"there is a rule {rule.name!r} already; taken: {', '.join(_known())}"
        )
    checks.positive(f"default_lr of rule {rule.name!r}", rule.default_lr)
    for part in ("init", "update"):
        if not callable(getattr(rule, part)):
            raise TypeError(
                f"{part} of rule {rule.name!r} must be a function, got "
                f"{getattr(rule, part)!r}"
            )
    for flag in ("shaped", "shaped_state"):
        if not isinstance(getattr(rule, flag), bool):
            raise TypeError(
                f"{flag} of rule {rule.name!r} must be True or False, got "
                f"{getattr(rule, flag)!r}"
            )
    if rule.shaped_state and not rule.shaped:
        raise ValueError(
            f"shaped_state=True of rule {rule.name!r} needs shaped=True, got shaped=False"
        )
    is_tuple = isinstance(rule.slots, tuple)
    if not is_tuple or not all(isinstance(slot, str) and slot for slot in rule.slots):
        raise TypeError(
            f"slots of rule {rule.name!r} must be a tuple of names, got {rule.slots!r}"
        )
    _check_hyperparameters(rule)
    _check_update(rule, _check_state(rule))
    _REGISTERED[rule.name] = rule
    return rule


def _known() -> dict[str, Rule]:
    """Return all rules by name."""
    return {**RULES, SWITCHING.name: SWITCHING, **_REGISTERED}


def _check_hyperparameters(rule: Rule) -> None:
    """Refuse hyperparameters that :meth:`Rule.to_spec` cannot describe."""
    h = rule.hyperparameters
    if not isinstance(h, Hyperparameters):
        raise TypeError(
            f"hyperparameters of rule {rule.name!r} must be an "
            f"optenv.rules.Hyperparameters, got {h!r}"
        )
    if "name" in rule.fields:
        raise ValueError(f"rule {rule.name!r} cannot have a hyperparameter 'name'")
    default = type(h)()
    if h != default:
        raise ValueError(
            f"hyperparameters of rule {rule.name!r} must be the defaults of their class, "
            f"{default!r}, got {h!r}"
        )


#: Shape ``[B, P]`` of the parameters on which a new rule is tested.
_TRIED = (2, 3)


def _check_state(rule: Rule) -> RuleState:
    """Return an initial state, after checks of its shapes and of the names of its parts.

    Raises:
        TypeError: the state is not a tuple of tensors.
        ValueError: shapes or slots are wrong.
    """
    bound = rule.with_hyperparameters().bind([_TRIED[1:]])
    state = bound.init(torch.zeros(_TRIED, device="cpu"))
    if not isinstance(state, tuple) or not all(isinstance(x, torch.Tensor) for x in state):
        raise TypeError(
            f"init of rule {rule.name!r} must return a tuple of tensors, got {state!r}"
        )
    shapes = [tuple(part.shape) for part in state]
    if not all(len(shape) == 2 and shape[0] == 2 for shape in shapes):
        raise ValueError(
            f"state of rule {rule.name!r} must be tensors [B, P] or [B, k], got shapes "
            f"{shapes} for params of shape (2, 3)"
        )
    if len(set(rule.slots)) != len(rule.slots) or len(rule.slots) != len(state):
        raise ValueError(
            f"slots of rule {rule.name!r} must be {len(state)} different names, one for "
            f"each part of its state, got {rule.slots!r}"
        )
    return state


def _check_update(rule: Rule, state: RuleState) -> None:
    """Refuse an update that fails, or that does not return parameters and state.

    Raises:
        ValueError: the update fails, or its result is wrong.
    """
    params = torch.ones(_TRIED, device="cpu")
    lr = torch.full((len(params), 1), 0.01, device="cpu")
    bound = rule.with_hyperparameters().bind([_TRIED[1:]])
    try:
        result = bound.update(params, torch.ones_like(params), state, lr)
    except Exception as error:
        raise ValueError(
            f"update of rule {rule.name!r} fails on params of shape {_TRIED}: "
            f"{type(error).__name__}: {error}"
        ) from error
    expected = [_TRIED, *(tuple(part.shape) for part in state)]
    found = None
    if isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], tuple):
        parts = (result[0], *result[1])
        if all(isinstance(part, torch.Tensor) for part in parts):
            found = [tuple(part.shape) for part in parts]
    if found != expected:
        shown = checks.quoted(result) if found is None else f"tensors of shapes {found}"
        raise ValueError(
            f"update of rule {rule.name!r} must return (params, state), tensors of shapes "
            f"{expected}, got {shown}"
        )
